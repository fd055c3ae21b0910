//! The commit log in Kafka: one transaction holds the outputs, the state changes (changelog) and the source offsets of an interval.
//!
//! Owns the order of the calls and what an error means. Recovery is in `recover`, the proof that this process is not fenced in `proof`; it does
//! not decide when to commit (crate `checkpoint`).
//!
//! # Start
//! 1. [`KafkaCommitLog::fence`]: `init_transactions`, before anything slow. It makes sure that the process before us can commit nothing any
//!    more. What that process left open holds back every reader of its topics, and is ended even before (see `kafka::fence`).
//! 2. [`Fenced::assigned`]: internal topics, the control topic to its end: is the pod an owner, and of what?
//!    [`Assigned::recover`]: the changelog's tail into the stores of its shards.
//! 3. [`KafkaCommitLog::committed_offsets`]: where the sources go on.
//!
//! # A commit
//! begin → records → changelog → `flush` → offsets → commit. The flush comes before the offsets, or each commit costs 100 ms. After any error
//! the log is closed: the process drops its memory and recovers.
//!
//! | the client says | the error is |
//! |---|---|
//! | fenced, or the producer's epoch is old | `Fenced` |
//! | no right, no such topic, record too large | `Fatal` |
//! | anything else before the commit call; or at it: must be aborted | `Aborted` |
//! | anything else at the commit call; or it does not come back | `Unknown` |

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use checkpoint::{changelog, local_log, names};
use dataflow::graph::OperatorUid;
use dataflow::key::{ShardId, Shards};
use dataflow::sink::{SinkChunk, SinkPayload};
use dataflow::state::ChangeBatch;
use dataflow::worker::{AppliedOffsets, CommitId};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{CommitError, CommitLog, CommitRequest, KafkaOffset};
use crate::crash::{self, Step};
use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::ffi::ClientError;
use crate::kafka::producer::TransactionalProducer;
use crate::kafka::properties::KafkaProperties;
use crate::planted::{self, Bug};
use member::Membership;
use offsets::Offsets;
use placed::Placed;

mod control;
mod control_topic;
mod member;
mod offsets;
mod placed;
mod proof;
mod recover;
mod tail;
mod topics;
mod trim;
mod watch;

pub use control::Prepare;
pub(crate) use control::SETTLE;
pub use control_topic::ControlTopic;
pub use member::Member;
pub use recover::{Assigned, Fenced, RecoverError};
pub use trim::ChangelogTrim;
pub use watch::{Sayings, Watching};

/// Largest changelog record, below the broker's default limit of a megabyte.
const CHANGELOG_RECORD: usize = 800 << 10;
/// Each step of a commit must be done in this time.
const STEP_DEADLINE: Duration = Duration::from_secs(10);
const ABORT_DEADLINE: Duration = Duration::from_secs(2);

/// What the log needs to know of the job.
#[derive(Clone, Debug)]
pub struct KafkaLogConfig {
    /// Properties of the sink whose cluster holds the job's log.
    pub properties: KafkaProperties,
    /// The job's uid.
    pub job_uid: String,
    /// The pod's ordinal.
    pub ordinal: u16,
    /// Number of pods.
    pub pods: u16,
    /// The assignment under which the process before this one has waited for releases: who has not released by now is fenced.
    pub waited: Option<u64>,
    /// Number of shards.
    pub shards: Shards,
    /// Exchanges of the job: each has a topic when there are several pods.
    pub exchanges: Vec<OperatorUid>,
    /// Consumer group of the committed offsets; `None` for the job's own.
    pub group: Option<String>,
    /// Replication factor of internal topics; `None` for the brokers' default.
    pub replication: Option<i16>,
    /// A source whose position is kept as state of one pod, and so cannot pass to another: then the number of pods stays as it was.
    pub bound_source: Option<String>,
    /// The savepoint that the job is to begin from, if it has no state yet.
    pub origin: Option<String>,
    /// A job whose work has ended with a savepoint does not begin anew by itself: a pod that is started again. A person who starts it means it.
    pub stays_ended: bool,
    /// How long a start waits for Kafka.
    pub deadline: Duration,
    /// Set when the process is asked to stop: a start that waits for other pods ends.
    pub stop: Arc<AtomicBool>,
}

impl KafkaLogConfig {
    fn group(&self) -> String {
        self.group.clone().unwrap_or_else(|| names::consumer_group(&self.job_uid))
    }
}

/// See the module's documentation.
pub struct KafkaCommitLog {
    config: KafkaLogConfig,
    job: u64,
    changelog: String,
    producer: TransactionalProducer,
    in_transaction: bool,
    last: CommitId,
    offsets: Offsets,
    placed: Placed,
    broken: Option<String>,
    /// For a start. It stays: to end a client takes a tenth of a second.
    group_reader: ConsumerClient,
    member: Member,
}

impl KafkaCommitLog {
    /// Step 1 of a start: fences the process before us.
    ///
    /// # Errors
    /// When Kafka cannot be used; the message says why.
    pub fn fence(config: KafkaLogConfig) -> Result<Fenced, ConnectError> {
        let id = planted::own_id(names::transactional_id(&config.job_uid, config.ordinal));
        let mut producer = TransactionalProducer::new(&config.properties, &id)?;
        let group_reader = offsets::group_reader(&config)?;
        let start = Instant::now();
        crash::asked(Step::Fence, || producer.init(config.deadline)).ok_or_else(|| no_answer(&config))??;
        tracing::info!(
            transactional_id = id,
            ms = start.elapsed().as_millis() as u64,
            "fenced earlier processes of this pod"
        );
        Ok(Fenced::new(config, producer, group_reader))
    }

    fn new(
        config: KafkaLogConfig,
        producer: TransactionalProducer,
        group_reader: ConsumerClient,
        membership: Membership,
    ) -> Self {
        let (job, changelog) = (local_log::job_hash(&config.job_uid), names::changelog_topic(&config.job_uid));
        let (offsets, placed) = (Offsets::new(&config), Placed::default());
        let member = Member::new(membership, config.ordinal, &config.job_uid);
        Self {
            config,
            job,
            changelog,
            producer,
            in_transaction: false,
            last: CommitId(0),
            offsets,
            placed,
            broken: None,
            group_reader,
            member,
        }
    }

    /// The consumer group of the job's offsets.
    pub fn group(&self) -> &str {
        self.offsets.group()
    }

    /// The properties of the log's cluster: sources of the same cluster commit their offsets here.
    pub fn properties(&self) -> &KafkaProperties {
        &self.config.properties
    }

    /// What removes old records of this job's changelog.
    pub fn trim(&self) -> ChangelogTrim {
        ChangelogTrim::new(&self.config)
    }

    fn open(&mut self) -> Result<(), CommitError> {
        if let Some(message) = &self.broken {
            return Err(CommitError::Fatal { message: format!("an earlier commit failed: {message}") });
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), CommitError> {
        if !self.in_transaction {
            self.producer.raw().begin().map_err(|e| self.refused("beginning a transaction", &e))?;
            self.in_transaction = true;
        }
        Ok(())
    }

    /// An error before the commit call: nothing of the interval is durable.
    fn refused(&self, what: &str, error: &ClientError) -> CommitError {
        let id = CommitId(self.last.0 + 1);
        // Records that were dropped because the transaction is lost do not say why it is: the transaction does, when asked for a new one.
        let lost = self.in_transaction
            && matches!(error.code, Code::PurgeQueue | Code::PurgeInflight | Code::State | Code::Fatal);
        match lost.then(|| self.producer.raw().begin()) {
            Some(Err(reason)) => classify(id, self.producer.servers(), what, &reason, false),
            Some(Ok(())) | None => classify(id, self.producer.servers(), what, error, false),
        }
    }

    fn write_rows(&mut self, topic: &str, chunk: &SinkChunk) -> Result<(), CommitError> {
        let SinkPayload::Rows(rows) = &chunk.payload else {
            return Err(CommitError::Fatal {
                message: format!("unencoded rows for Kafka topic {topic} (a bug of Millstream)"),
            });
        };
        if rows.ends.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let deadline = Instant::now() + STEP_DEADLINE;
        self.producer.raw().produce_rows(topic, rows, deadline).map_err(|e| self.refused(&format!("topic {topic}"), &e))
    }

    fn write_changes(&mut self, id: CommitId, changes: &[(ShardId, ChangeBatch)]) -> Result<(), CommitError> {
        let deadline = Instant::now() + STEP_DEADLINE;
        for (shard, batch) in changes.iter().filter(|(_, batch)| !batch.is_empty()) {
            for record in changelog::encode(self.job, *shard, id.0, batch, CHANGELOG_RECORD) {
                let tag = Placed::changelog(*shard);
                let produced = self.producer.raw().produce(&self.changelog, i32::from(shard.0), &record, tag, deadline);
                produced.map_err(|e| self.refused(&format!("topic {}", self.changelog), &e))?;
            }
        }
        Ok(())
    }

    /// Waits until all records are at the brokers; returns where the changelog's are.
    fn delivered(&mut self) -> Result<AppliedOffsets, CommitError> {
        let flushed = crash::asked(Step::Flush, || self.producer.raw().flush(STEP_DEADLINE));
        let deliveries = self.producer.raw().take_deliveries();
        if let Some((topic, error)) = deliveries.failed {
            return Err(self.refused(&format!("topic {topic}"), &error));
        }
        match flushed {
            Some(Ok(())) => {}
            Some(Err(e)) => return Err(self.refused("waiting for the brokers to take the records", &e)),
            None => return Err(self.unanswered()),
        }
        Ok(self.placed.take(deliveries.placed))
    }

    /// Returns those that were sent.
    fn send_offsets(&mut self, offsets: Vec<KafkaOffset>) -> Result<Vec<KafkaOffset>, CommitError> {
        let moved = self.offsets.moved(offsets);
        if moved.is_empty() {
            return Ok(moved);
        }
        let (group, list) = (self.offsets.group().to_owned(), self.offsets.noted(&moved));
        let producer = &mut self.producer;
        let send = || producer.watched(STEP_DEADLINE, move |raw| raw.send_offsets(&group, &list, STEP_DEADLINE));
        match crash::asked(Step::Offsets, send).flatten() {
            Some(Ok(())) => Ok(moved),
            Some(Err(error)) => Err(self.refused(&format!("consumer group {}", self.offsets.group()), &error)),
            None => Err(self.unanswered()),
        }
    }

    fn prove(&mut self, number: u64) -> Result<(), CommitError> {
        proof::prove(&mut self.producer, &self.config, number)
    }

    /// A call before the commit did not come back: nothing of the interval is durable.
    fn unanswered(&self) -> CommitError {
        CommitError::Aborted { id: CommitId(self.last.0 + 1), message: "the Kafka client did not answer".into() }
    }

    fn try_commit(&mut self, request: CommitRequest) -> Result<AppliedOffsets, CommitError> {
        let CommitRequest { id, changes, kafka_offsets } = request;
        let anything =
            self.in_transaction || !kafka_offsets.is_empty() || changes.iter().any(|(_, batch)| !batch.is_empty());
        if !anything {
            return Ok(AppliedOffsets::new());
        }
        self.begin()?;
        crash::around(Step::Changelog, || self.write_changes(id, &changes))?;
        let applied = self.delivered()?;
        let left_out = planted::is(Bug::OffsetsLeftOut);
        let moved = self.send_offsets(if left_out { Vec::new() } else { kafka_offsets })?;
        let end = || self.producer.watched(STEP_DEADLINE, |raw| raw.commit(STEP_DEADLINE));
        let first = || crash::asked_first(Step::FirstCommit, end).flatten();
        match crash::asked(Step::End, first).flatten() {
            Some(Ok(())) => {}
            Some(Err(error)) => return Err(classify(id, self.producer.servers(), "the commit", &error, true)),
            None if planted::is(Bug::TimeoutIsDone) => {}
            None => return Err(CommitError::Unknown { id, message: "the Kafka client did not answer".into() }),
        }
        self.in_transaction = false;
        self.offsets.committed(moved);
        Ok(applied)
    }

    fn closing<T>(&mut self, result: Result<T, CommitError>) -> Result<T, CommitError> {
        let Err(error) = result else { return result };
        let error = match error {
            // Readers need not wait for our next start to end the transaction; if it does not work now, the next start does it.
            CommitError::Aborted { .. } | CommitError::Fatal { .. } if self.broken.is_none() => {
                self.abort().err().unwrap_or(error)
            }
            other => other,
        };
        self.broken.get_or_insert_with(|| error.to_string());
        Err(error)
    }

    /// Ends the open transaction, if there is one. An error only if this process turns out to be fenced.
    fn abort(&mut self) -> Result<(), CommitError> {
        if !std::mem::take(&mut self.in_transaction) {
            return Ok(());
        }
        match self.producer.watched(ABORT_DEADLINE, |raw| raw.abort(ABORT_DEADLINE)) {
            Some(Err(error)) => {
                match classify(self.last, self.producer.servers(), "ending the transaction", &error, false) {
                    fenced @ CommitError::Fenced { .. } => Err(fenced),
                    other => {
                        tracing::debug!(error = %other, "the open transaction was not ended; the next start does it");
                        Ok(())
                    }
                }
            }
            Some(Ok(())) | None => Ok(()),
        }
    }
}

impl CommitLog for KafkaCommitLog {
    fn write(&mut self, topic: &str, chunk: &SinkChunk) -> Result<(), CommitError> {
        self.open()?;
        let result = self.write_rows(topic, chunk);
        self.closing(result)
    }

    fn send(&mut self, topic: &str, partition: i32, record: &[u8]) -> Result<(), CommitError> {
        self.open()?;
        let tag = self.placed.sent(topic, partition);
        let result = self.begin().and_then(|()| {
            let produced = self.producer.raw().produce(topic, partition, record, tag, Instant::now() + STEP_DEADLINE);
            produced.map_err(|e| self.refused(&format!("topic {topic}"), &e))
        });
        self.closing(result)
    }

    fn take_sent(&mut self) -> Vec<(String, i32, i64)> {
        self.placed.take_sent()
    }

    fn leave(&mut self) -> Result<(), CommitError> {
        self.open()?;
        self.release()
    }

    fn commit(&mut self, request: CommitRequest) -> Result<AppliedOffsets, CommitError> {
        self.open()?;
        self.last = CommitId(request.id.0.saturating_sub(1));
        let id = request.id;
        let result = self.try_commit(request);
        self.last = id;
        self.closing(result)
    }
}

impl Drop for KafkaCommitLog {
    fn drop(&mut self) {
        // A clean stop leaves nothing open; this is for a stop in the middle of an interval.
        if self.broken.is_none()
            && let Err(error) = self.abort()
        {
            tracing::warn!(%error, "at the end");
        }
    }
}

fn no_answer(config: &KafkaLogConfig) -> ConnectError {
    ConnectError::Unreachable {
        servers: config.properties.bootstrap_servers().to_owned(),
        seconds: config.deadline.as_secs(),
        reason: String::new(),
    }
}

/// What an error of the client means for the commit. `at_commit`: the decision may have reached the broker.
fn classify(id: CommitId, servers: &str, what: &str, error: &ClientError, at_commit: bool) -> CommitError {
    let message = format!("Kafka at {servers}, {what}: {}", error.text);
    match error.code {
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => CommitError::Fenced { message },
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed => CommitError::Fatal {
            message: format!("{message}; grant this user the right (docs: operations, Kafka rights)"),
        },
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            CommitError::Fatal { message: format!("{message}; create the topic, or correct 'topic'") }
        }
        Code::MessageSizeTooLarge | Code::InvalidMessageSize => {
            let advice =
                "raise 'properties.message.max.bytes' and the topic's max.message.bytes, or make the record smaller";
            CommitError::Fatal { message: format!("{message}; {advice}") }
        }
        _ if at_commit && !error.abort => CommitError::Unknown { id, message },
        _ => CommitError::Aborted { id, message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code, abort: bool, fatal: bool) -> ClientError {
        ClientError { code, text: "said".into(), fatal, retriable: false, abort }
    }

    fn kind(code: Code, abort: bool, at_commit: bool) -> &'static str {
        match classify(CommitId(1), "b:9092", "topic out", &error(code, abort, false), at_commit) {
            CommitError::Aborted { .. } => "aborted",
            CommitError::Unknown { .. } => "unknown",
            CommitError::Fenced { .. } => "fenced",
            CommitError::Fatal { .. } => "fatal",
        }
    }

    #[test]
    fn every_error_has_one_way_to_go() {
        for (code, abort, at_commit, expected) in [
            (Code::OperationTimedOut, false, true, "unknown"),
            (Code::OperationTimedOut, false, false, "aborted"),
            (Code::MessageTimedOut, true, true, "aborted"),
            (Code::BrokerTransportFailure, false, true, "unknown"),
            (Code::Fenced, false, true, "fenced"),
            (Code::InvalidProducerEpoch, false, false, "fenced"),
            (Code::ProducerFenced, true, false, "fenced"),
            (Code::TopicAuthorizationFailed, true, false, "fatal"),
            (Code::TransactionalIdAuthorizationFailed, false, true, "fatal"),
            (Code::UnknownTopicOrPartition, true, false, "fatal"),
            (Code::MessageSizeTooLarge, true, false, "fatal"),
            (Code::InvalidTransactionalState, false, true, "unknown"),
            (Code::InvalidTransactionalState, false, false, "aborted"),
        ] {
            assert_eq!(kind(code, abort, at_commit), expected, "{code:?} abort={abort} at_commit={at_commit}");
        }
    }

    #[test]
    fn messages_name_the_brokers_the_topic_and_what_to_do() {
        let text =
            classify(CommitId(1), "b:9092", "topic out", &error(Code::UnknownTopic, true, false), false).to_string();
        assert!(text.contains("b:9092") && text.contains("topic out") && text.contains("create the topic"), "{text}");
    }
}
