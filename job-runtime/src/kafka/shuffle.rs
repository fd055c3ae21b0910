//! The reading side of the shuffle: one consumer client per pod, one queue per exchange and shard; and removing what is read.
//!
//! Owns the calls. What a message means is `dataflow::shuffle`'s; nothing is committed here (the position goes with the pod's transaction).
//! Only what is committed is read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataflow::key::ShardId;
use dataflow::shuffle::ShuffleReader;
use dataflow::source::SourceError;
use dataflow::worker::Wake;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;
use rdkafka::topic_partition_list::Offset;

use super::client::{CONNECT_DEADLINE, ConnectError, ConsumerClient, Watch};
use super::ffi::{ClientError, Fetched, PartitionReader, known_end};
use super::properties::KafkaProperties;

/// What all partitions may hold in memory before workers take it, in KiB.
const PREFETCH_KIB: usize = 64 << 10;
/// Messages taken from the client in one call; each is below a megabyte.
const TAKE: usize = 16;
/// Every message has a transaction's marker behind it, which has an offset too.
const OFFSETS_PER_MESSAGE: u64 = 2;

/// How long the brokers may take to remove records.
const DELETE_DEADLINE: Duration = Duration::from_secs(5);

/// Removes the records before these offsets, by topic and partition.
///
/// # Errors
/// What Kafka said, with what to do.
pub fn delete_before(properties: &KafkaProperties, offsets: &BTreeMap<(String, i32), i64>) -> Result<(), String> {
    let failed = |reason: String| {
        let servers = properties.bootstrap_servers();
        format!(
            "Kafka at {servers}: cannot remove records that were read: {reason}; grant this user Delete on the topics"
        )
    };
    let mut list = TopicPartitionList::with_capacity(offsets.len());
    for ((topic, partition), offset) in offsets {
        let added = list.add_partition_offset(topic, *partition, Offset::Offset(*offset));
        added.map_err(|e| failed(e.to_string()))?;
    }
    let mut config = ClientConfig::new();
    for (key, value) in properties.consumer() {
        config.set(key, value);
    }
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(|e| failed(e.to_string()))?;
    let options = AdminOptions::new().operation_timeout(Some(DELETE_DEADLINE)).request_timeout(Some(DELETE_DEADLINE));
    let answer = futures::executor::block_on(admin.delete_records(&list, &options));
    for element in answer.map_err(|e| failed(e.to_string()))?.elements() {
        element.error().map_err(|e| failed(format!("{}, partition {}: {e}", element.topic(), element.partition())))?;
    }
    Ok(())
}

/// Opens the partitions of a pod's shuffle topics.
pub struct ShuffleClient {
    client: Arc<ConsumerClient>,
    /// First offset and end of each, as of before the first was read: an answer to a question would wait behind a fetch.
    edges: HashMap<(String, i32), (i64, i64)>,
    read: Mutex<Vec<ReadUpTo>>,
}

/// How far a partition is read, for whoever waits until something is.
#[derive(Clone, Debug)]
pub struct ReadUpTo {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    offset: Arc<AtomicI64>,
}

impl ReadUpTo {
    /// Everything before this offset was given out, or is nothing that is given out: markers, and what was aborted.
    pub fn offset(&self) -> i64 {
        self.offset.load(Ordering::Acquire)
    }
}

impl ShuffleClient {
    /// A client that will read these shards' partitions of these topics. Nothing is read yet.
    ///
    /// # Errors
    /// When the client does not take a property, or a topic's ends are not told.
    pub fn new<'a>(
        properties: &KafkaProperties,
        topics: impl ExactSizeIterator<Item = &'a String>,
        shards: &[ShardId],
    ) -> Result<Self, ConnectError> {
        let partitions = topics.len() * shards.len();
        // The client's bound is per partition when each has its own queue; a message must fit.
        let prefetch = (PREFETCH_KIB / partitions.max(1)).clamp(1 << 10, 8 << 10).to_string();
        let own = [
            ("isolation.level", "read_committed"),
            ("queued.max.messages.kbytes", prefetch.as_str()),
            ("fetch.queue.backoff.ms", "5"),
            // Short: a partition that could not join a fetch, because its queue was full, joins the next one soon.
            ("fetch.wait.max.ms", "20"),
            ("auto.offset.reset", "error"),
            ("enable.partition.eof", "true"),
            ("enable.auto.offset.store", "false"),
        ];
        let client = ConsumerClient::new(properties, &own, CONNECT_DEADLINE)?.serve()?;
        let (shards, mut edges) = (shards.iter().map(|shard| i32::from(shard.0)).collect::<Vec<_>>(), HashMap::new());
        for topic in topics {
            let found = shards.iter().zip(client.all_watermarks(topic, &shards)?);
            edges.extend(found.map(|(partition, edges)| ((topic.clone(), *partition), edges)));
        }
        Ok(Self { client: Arc::new(client), edges, read: Mutex::default() })
    }

    /// Reads a shard's partition of a topic from `next_offset` on. `wake` wakes the shard's worker; `moved` is told of every message taken.
    ///
    /// # Errors
    /// When what is to be read next is not there, or the client refuses.
    pub fn open(
        &self,
        topic: &str,
        shard: ShardId,
        next_offset: i64,
        wake: Wake,
        moved: Wake,
    ) -> Result<KafkaShuffleReader, ConnectError> {
        let partition = i32::from(shard.0);
        let other = |reason: String| ConnectError::Other {
            what: format!("topic {topic}, partition {partition}"),
            servers: self.client.servers().to_owned(),
            reason,
        };
        let edges = self.edges.get(&(topic.to_owned(), partition)).copied();
        let (low, high) = edges.ok_or_else(|| other("it was not asked for (a bug of Millstream)".to_owned()))?;
        if !(low..=high).contains(&next_offset) {
            return Err(other(format!(
                "the shard is to read on at offset {next_offset}, and the partition holds offsets {low} to {high}; \
                 the topic was made anew or trimmed by another: rows of other pods are lost, start the job anew"
            )));
        }
        let consumer = self.client.consumer().clone();
        let reader = PartitionReader::start(consumer, topic, partition, next_offset, wake);
        let reader = reader.map_err(|e| other(e.text))?;
        let taken = Taken { topic: topic.to_owned(), shard, waiting: VecDeque::new(), failed: None, seen: next_offset };
        let read = ReadUpTo { topic: topic.to_owned(), partition, offset: Arc::new(AtomicI64::new(next_offset)) };
        self.read.lock().unwrap_or_else(PoisonError::into_inner).push(read.clone());
        let _client = Arc::clone(&self.client);
        Ok(KafkaShuffleReader { reader, _client, taken, next_offset, there: high, moved, read: read.offset })
    }

    /// How far each partition that was opened is read.
    pub fn read(&self) -> Vec<ReadUpTo> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Reads one partition of a shuffle topic.
pub struct KafkaShuffleReader {
    /// Before the client: it is stopped first.
    reader: PartitionReader<Watch>,
    _client: Arc<ConsumerClient>,
    taken: Taken,
    next_offset: i64,
    /// The partition's end when it was opened.
    there: i64,
    moved: Wake,
    /// See [`ReadUpTo`].
    read: Arc<AtomicI64>,
}

/// What was taken from the client and not given out.
struct Taken {
    topic: String,
    shard: ShardId,
    waiting: VecDeque<(i64, Vec<u8>)>,
    failed: Option<SourceError>,
    /// The client has seen all before this offset: markers and what was aborted have offsets, and are never given out.
    seen: i64,
}

impl Taken {
    fn see(&mut self, fetched: Fetched<'_>, next_offset: i64) {
        match fetched {
            Fetched::Record { offset, value, .. } => {
                self.waiting.push_back((offset, value.unwrap_or_default().to_vec()));
                self.seen = offset + 1;
            }
            Fetched::End { offset } => self.seen = self.seen.max(offset),
            Fetched::Failed(error) => self.failed = Some(self.unreadable(&error, next_offset)),
        }
    }

    /// About how many messages are there before `end` and behind `next_offset`. What was aborted behind the last message is never given out: it
    /// must not count, or a pod that waits for it would pause its sources for ever.
    fn lag(&self, next_offset: i64, end: u64) -> u64 {
        let next = if self.waiting.is_empty() { next_offset.max(self.seen) } else { next_offset };
        end.saturating_sub(next.max(0) as u64) / OFFSETS_PER_MESSAGE
    }

    fn unreadable(&self, error: &ClientError, next_offset: i64) -> SourceError {
        let message = match error.code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                "rows of other pods that were not read yet are not there any more: the internal topic was changed from outside".to_owned()
            }
            Code::TopicAuthorizationFailed => "this user may not read the topic; grant it (docs: operations, Kafka rights)".to_owned(),
            _ => error.text.clone(),
        };
        let place = format!("partition {}, offset {next_offset}", self.shard.0);
        SourceError { table: self.topic.clone(), place, message }
    }
}

impl ShuffleReader for KafkaShuffleReader {
    fn shard(&self) -> ShardId {
        self.taken.shard
    }

    fn topic(&self) -> &str {
        &self.taken.topic
    }

    fn poll(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        if self.taken.waiting.is_empty() {
            let (taken, next) = (&mut self.taken, self.next_offset);
            self.reader.take(TAKE, |fetched| taken.see(fetched, next));
        }
        if let Some((offset, message)) = self.taken.waiting.pop_front() {
            self.next_offset = offset + 1;
            (self.moved)();
            return Ok(Some(message));
        }
        self.read.store(self.taken.seen, Ordering::Release);
        match self.taken.failed.take() {
            Some(failed) => Err(failed),
            None => Ok(None),
        }
    }

    fn next_offset(&self) -> i64 {
        self.next_offset
    }

    fn caught_up(&self) -> bool {
        self.taken.waiting.is_empty() && self.taken.seen >= self.there
    }

    fn lag(&self) -> u64 {
        let partition = i32::from(self.taken.shard.0);
        let end = known_end(self.reader.consumer(), &self.taken.topic, partition).unwrap_or(0);
        self.taken.lag(self.next_offset, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_aborted_behind_the_last_message_is_no_lag() {
        let mut taken =
            Taken { topic: "t".into(), shard: ShardId(0), waiting: VecDeque::new(), failed: None, seen: 10 };
        assert_eq!(taken.lag(10, 2_010), 1_000, "there may be messages");
        taken.waiting.push_back((2_005, vec![1]));
        taken.seen = 2_010;
        assert_eq!(taken.lag(10, 2_010), 1_000, "one is there that was not given out");
        taken.waiting.clear();
        assert_eq!(taken.lag(10, 2_010), 0, "the client has seen all of it");
    }
}
