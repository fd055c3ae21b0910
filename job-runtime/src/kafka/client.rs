//! Consumer clients: metadata, watermarks, committed offsets, and saying what is wrong with a connection.
//!
//! Owns connecting. It does not read records (`source`) and writes nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::{Offset, TopicPartitionList};

use super::ffi;
use super::properties::KafkaProperties;
use crate::connector::stats::SourceStats;

/// How long a start waits for the brokers, unless told otherwise.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// One try within the deadline: short, so that a refused login is seen early.
const SLICE: Duration = Duration::from_secs(2);

/// Per topic and partition: the offset, and the note beside it.
pub type CommittedOffsets = BTreeMap<(String, i32), (i64, String)>;

/// Kafka cannot be used. Each message names the brokers or the topic, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No broker answered in time.
    #[error(
        "no answer from Kafka at {servers} within {seconds} s{}; check 'properties.bootstrap.servers', the network and 'properties.security.protocol'",
        detail(reason)
    )]
    Unreachable {
        /// Bootstrap servers.
        servers: String,
        /// How long was waited.
        seconds: u64,
        /// What the client saw last.
        reason: String,
    },
    /// Login or TLS was refused.
    #[error(
        "Kafka at {servers} refused the login{}; check user name and password, 'properties.security.protocol' and 'properties.sasl.mechanism'",
        detail(reason)
    )]
    Login {
        /// Bootstrap servers.
        servers: String,
        /// The client's words.
        reason: String,
    },
    /// The TLS handshake failed.
    #[error(
        "no TLS connection to Kafka at {servers}{}; check 'properties.ssl.ca.pem' and 'properties.security.protocol'",
        detail(reason)
    )]
    Tls {
        /// Bootstrap servers.
        servers: String,
        /// The client's words.
        reason: String,
    },
    /// The topic does not exist.
    #[error("topic {topic} does not exist on Kafka at {servers}; create it, or correct 'topic'")]
    NoTopic {
        /// The topic.
        topic: String,
        /// Bootstrap servers.
        servers: String,
    },
    /// The user may not do this.
    #[error(
        "Kafka at {servers} does not allow this user to use {what}: {reason}; grant it (docs: operations, Kafka rights)"
    )]
    Denied {
        /// Topic, group or transactional id.
        what: String,
        /// Bootstrap servers.
        servers: String,
        /// The client's words.
        reason: String,
    },
    /// Anything else.
    #[error("Kafka at {servers}: {what}: {reason}")]
    Other {
        /// What was tried.
        what: String,
        /// Bootstrap servers.
        servers: String,
        /// The client's words.
        reason: String,
    },
}

fn detail(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

impl ConnectError {
    /// Says an error in the user's words. `last` is what the client reported about its connections.
    pub fn new(
        servers: &str,
        what: &str,
        code: Code,
        reason: &str,
        waited: Duration,
        last: Option<(Code, String)>,
    ) -> Self {
        let servers = servers.to_owned();
        let (last_code, last_reason) = last.unwrap_or((Code::NoError, String::new()));
        let either = |wanted: Code| code == wanted || last_code == wanted;
        let seen = if last_reason.is_empty() { reason.to_owned() } else { last_reason };
        match code {
            Code::UnknownTopicOrPartition | Code::UnknownTopic => Self::NoTopic { topic: what.to_owned(), servers },
            code if denied(code) => Self::Denied { what: what.to_owned(), servers, reason: reason.to_owned() },
            _ if denied(last_code) => Self::Denied { what: what.to_owned(), servers, reason: seen },
            _ if either(Code::Authentication) || either(Code::SaslAuthenticationFailed) => {
                Self::Login { servers, reason: seen }
            }
            _ if either(Code::SSL) => Self::Tls { servers, reason: seen },
            Code::OperationTimedOut
            | Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::MessageTimedOut => Self::Unreachable { servers, seconds: waited.as_secs(), reason: seen },
            _ => Self::Other { what: what.to_owned(), servers, reason: reason.to_owned() },
        }
    }

    /// True if waiting longer may help.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

/// Keeps the last error of a consumer's connections.
#[derive(Default)]
pub struct Watch {
    last_error: Mutex<Option<(Code, String)>>,
}

impl Watch {
    fn last_error(&self) -> Option<(Code, String)> {
        self.last_error.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for Watch {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::warn!(target: "kafka", facility, "{line}");
            }
            RDKafkaLogLevel::Warning | RDKafkaLogLevel::Notice => tracing::info!(target: "kafka", facility, "{line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", facility, "{line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(target: "kafka", %error, reason, "consumer");
        let code = error.rdkafka_error_code().unwrap_or(Code::Fail);
        let mut last = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        // "All brokers are down" follows the reason for it and explains nothing.
        if code != Code::AllBrokersDown || last.is_none() {
            *last = Some((code, reason.to_owned()));
        }
    }
}

impl ConsumerContext for Watch {}

/// A consumer for metadata, offsets and reading partitions.
pub struct ConsumerClient {
    consumer: Arc<BaseConsumer<Watch>>,
    servers: String,
    deadline: Duration,
    serving: Option<Serving>,
    followed: Followed,
}

/// Partitions whose end is looked up again and again, and who is told. Bounded by the partitions that are read.
type Followed = Arc<Mutex<Vec<(String, i32, Weak<SourceStats>)>>>;

/// A thread that takes a client's errors off its queue while partitions are read for a long time; ended and joined when dropped.
struct Serving {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl ConsumerClient {
    /// Makes a consumer; nothing is sent yet. `own` overrides the table's properties.
    ///
    /// # Errors
    /// When the client does not take a property, or no thread can be started.
    pub fn new(properties: &KafkaProperties, own: &[(&str, &str)], deadline: Duration) -> Result<Self, ConnectError> {
        let servers = properties.bootstrap_servers().to_owned();
        let other =
            |what: &str, reason: String| ConnectError::Other { what: what.into(), servers: servers.clone(), reason };
        let mut config = ClientConfig::new();
        config
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("socket.nagle.disable", "true");
        // A partition that is opened while a fetch of others is waiting joins the next one: so none waits long.
        config.set("fetch.wait.max.ms", "100").set("fetch.error.backoff.ms", "20");
        for (key, value) in properties.consumer().iter().chain(own) {
            config.set(*key, *value);
        }
        let made: Result<BaseConsumer<Watch>, KafkaError> = config.create_with_context(Watch::default());
        let consumer = Arc::new(made.map_err(|e| other("making a client", refused_property(&e)))?);
        Ok(Self { consumer, servers, deadline, serving: None, followed: Followed::default() })
    }

    /// Starts a thread that serves the client's errors and tells followed partitions their ends, for a client that lives as long as the job.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn serve(mut self) -> Result<Self, ConnectError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (polled, stopped, followed) = (Arc::clone(&self.consumer), Arc::clone(&stop), Arc::clone(&self.followed));
        let serve = move || {
            while !stopped.load(Ordering::Acquire) {
                // Blocks in the client until there is an event: no records come this way.
                drop(polled.poll(Duration::from_millis(200)));
                tell_ends(&polled, &followed);
            }
        };
        let thread = std::thread::Builder::new().name("millstream-kafka".into()).spawn(serve);
        let failed = |e: std::io::Error| ConnectError::Other {
            what: "starting a thread".into(),
            servers: self.servers.clone(),
            reason: e.to_string(),
        };
        self.serving = Some(Serving { stop, thread: Some(thread.map_err(failed)?) });
        Ok(self)
    }

    /// From now on `stats` is told where the partition ends, as far as the client knows from its fetches.
    pub fn follow(&self, topic: &str, partition: i32, stats: &Arc<SourceStats>) {
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.push((topic.to_owned(), partition, Arc::downgrade(stats)));
    }

    /// What the client reported last about its connections.
    fn last_error(&self) -> Option<(Code, String)> {
        if self.serving.is_none() {
            // A few at most: each broker connection reports once.
            (0..16).for_each(|_| drop(self.consumer.poll(Duration::ZERO)));
        }
        self.consumer.context().last_error()
    }

    /// The brokers.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// The consumer.
    pub fn consumer(&self) -> &Arc<BaseConsumer<Watch>> {
        &self.consumer
    }

    /// Calls until it works, an error cannot pass, or the deadline is over.
    fn until_deadline<T>(
        &self,
        what: &str,
        mut call: impl FnMut(Duration) -> Result<T, KafkaError>,
    ) -> Result<T, ConnectError> {
        let start = Instant::now();
        loop {
            let left = self.deadline.saturating_sub(start.elapsed());
            match call(left.clamp(Duration::from_millis(100), SLICE)) {
                Ok(value) => return Ok(value),
                Err(error) => {
                    let (code, last) = (error.rdkafka_error_code().unwrap_or(Code::Fail), self.last_error());
                    let reason = if error_is_local_timeout(code) { String::new() } else { code.to_string() };
                    let said = ConnectError::new(&self.servers, what, code, &reason, self.deadline, last);
                    let over = start.elapsed() >= self.deadline;
                    if over || !(said.may_pass() || passes(code)) {
                        return Err(said);
                    }
                    // Only a call that failed at once comes here early; it must not spin.
                    if code != Code::OperationTimedOut {
                        std::thread::park_timeout(Duration::from_millis(100));
                    }
                }
            }
        }
    }

    /// Number of partitions of a topic.
    ///
    /// # Errors
    /// When no broker answers in time, the topic is not there, or the user may not see it.
    pub fn partitions(&self, topic: &str) -> Result<i32, ConnectError> {
        let count = self.until_deadline(topic, |timeout| {
            let metadata = self.consumer.fetch_metadata(Some(topic), timeout)?;
            let found = metadata
                .topics()
                .iter()
                .find(|t| t.name() == topic)
                .ok_or(KafkaError::MetadataFetch(Code::UnknownTopic))?;
            match found.error() {
                Some(error) => Err(KafkaError::MetadataFetch(error.into())),
                None => Ok(found.partitions().len()),
            }
        })?;
        Ok(count as i32)
    }

    /// First offset and end of a partition (the last stable offset for a read_committed consumer).
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), ConnectError> {
        self.until_deadline(topic, |timeout| self.consumer.fetch_watermarks(topic, partition, timeout))
    }

    /// First offset and end of several partitions of a topic, in their order, as [`Self::watermarks`] but in two requests.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub fn all_watermarks(&self, topic: &str, partitions: &[i32]) -> Result<Vec<(i64, i64)>, ConnectError> {
        let low = self.edges(topic, partitions, Offset::Beginning)?;
        let high = self.edges(topic, partitions, Offset::End)?;
        Ok(low.into_iter().zip(high).collect())
    }

    /// The ends of several partitions of a topic, in their order (the last stable offsets for a read_committed consumer).
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub fn ends(&self, topic: &str, partitions: &[i32]) -> Result<Vec<i64>, ConnectError> {
        self.edges(topic, partitions, Offset::End)
    }

    /// The request that looks offsets up by time knows the two edges as special times; the client passes them through.
    fn edges(&self, topic: &str, partitions: &[i32], edge: Offset) -> Result<Vec<i64>, ConnectError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        self.until_deadline(topic, |timeout| {
            let mut wanted = TopicPartitionList::with_capacity(partitions.len());
            for partition in partitions {
                wanted.add_partition_offset(topic, *partition, edge)?;
            }
            let found = self.consumer.offsets_for_times(wanted, timeout)?;
            let offset = |partition: &i32| {
                let missing = KafkaError::OffsetFetch(Code::UnknownPartition);
                let element = found.find_partition(topic, *partition).ok_or(missing.clone())?;
                element.error()?;
                match element.offset() {
                    Offset::Offset(offset) => Ok(offset),
                    _ => Err(missing),
                }
            };
            partitions.iter().map(offset).collect()
        })
    }

    /// The first offset at or after a time, or the partition's end.
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub fn offset_at(&self, topic: &str, partition: i32, timestamp_ms: i64) -> Result<i64, ConnectError> {
        let found = self.until_deadline(topic, |timeout| {
            let mut wanted = TopicPartitionList::new();
            wanted.add_partition_offset(topic, partition, Offset::Offset(timestamp_ms))?;
            let found = self.consumer.offsets_for_times(wanted, timeout)?;
            let element =
                found.find_partition(topic, partition).ok_or(KafkaError::OffsetFetch(Code::UnknownPartition))?;
            element.error()?;
            Ok(element.offset())
        })?;
        match found {
            Offset::Offset(offset) => Ok(offset),
            _ => Ok(self.watermarks(topic, partition)?.1),
        }
    }

    /// Committed offsets of the client's group with the note beside each. Stable: pending transactions are waited for (the consumer's
    /// isolation level is read_committed, which makes the client require it).
    ///
    /// # Errors
    /// As [`Self::partitions`].
    pub fn committed(&self, partitions: &[(String, i32)]) -> Result<CommittedOffsets, ConnectError> {
        let mut out = BTreeMap::new();
        if partitions.is_empty() {
            return Ok(out);
        }
        let found = self.until_deadline("the consumer group's offsets", |timeout| {
            let mut wanted = TopicPartitionList::new();
            for (topic, partition) in partitions {
                wanted.add_partition(topic, *partition);
            }
            let found = self.consumer.committed_offsets(wanted, timeout)?;
            found.elements().iter().try_for_each(|element| element.error())?;
            Ok(found)
        })?;
        for element in found.elements() {
            if let Offset::Offset(offset) = element.offset() {
                out.insert((element.topic().to_owned(), element.partition()), (offset, element.metadata().to_owned()));
            }
        }
        Ok(out)
    }
}

fn tell_ends(consumer: &BaseConsumer<Watch>, followed: &Followed) {
    let mut followed = followed.lock().unwrap_or_else(PoisonError::into_inner);
    followed.retain(|(topic, partition, stats)| {
        let Some(stats) = stats.upgrade() else { return false };
        if let Some(end) = ffi::known_end(consumer, topic, *partition) {
            stats.end_at(end);
        }
        true
    });
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("a Kafka thread panicked");
        }
    }
}

fn denied(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

fn error_is_local_timeout(code: Code) -> bool {
    matches!(code, Code::OperationTimedOut | Code::BrokerTransportFailure | Code::AllBrokersDown)
}

/// Errors of a cluster that is still settling.
fn passes(code: Code) -> bool {
    matches!(
        code,
        Code::LeaderNotAvailable
            | Code::NotLeaderForPartition
            | Code::CoordinatorNotAvailable
            | Code::CoordinatorLoadInProgress
            | Code::NotCoordinator
            | Code::UnstableOffsetCommit
            | Code::WaitingForCoordinator
    )
}

/// The name of a property that the client did not take, never its value.
fn refused_property(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, key, _) => {
            format!("the Kafka client does not take the value of 'properties.{key}'")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code, last: Option<(Code, &str)>) -> ConnectError {
        let last = last.map(|(code, text)| (code, text.to_owned()));
        ConnectError::new("b:9092", "flights", code, "why", Duration::from_secs(10), last)
    }

    #[test]
    fn messages_name_brokers_and_topics_and_what_to_do() {
        let text = error(Code::OperationTimedOut, Some((Code::BrokerTransportFailure, "Connect to b:9092 refused")))
            .to_string();
        assert!(text.contains("b:9092 within 10 s (Connect to b:9092 refused)"), "{text}");
        assert!(error(Code::UnknownTopicOrPartition, None).to_string().contains("topic flights does not exist"));
        let login =
            error(Code::OperationTimedOut, Some((Code::Authentication, "SASL authentication error"))).to_string();
        assert!(login.contains("refused the login (SASL"), "{login}");
        assert!(error(Code::OperationTimedOut, Some((Code::SSL, "handshake"))).to_string().contains("ssl.ca.pem"));
        assert!(
            error(Code::TopicAuthorizationFailed, None).to_string().contains("does not allow this user to use flights")
        );
    }
}
