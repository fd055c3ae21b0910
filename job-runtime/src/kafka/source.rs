//! The source `kafka`: one consumer client per table and pod, one queue per partition, records taken in batches and decoded on the worker.
//!
//! Owns start positions, the end of bounded reading, and what happens at a position that is not there. It does not commit offsets (they go
//! with the transaction, or are state) and does not know formats.
//!
//! A partition is named `<topic>-<number>`. A record without a value (a tombstone) stands for no row and is passed over. Only what is
//! committed is read, unless the table says `properties.isolation.level`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use dataflow::sink::EncodedRows;
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::client::{CONNECT_DEADLINE, ConnectError, ConsumerClient, Watch};
use super::ffi::{ClientError, Details, Fetched, PartitionReader};
use super::properties::KafkaProperties;
use super::table_properties;
use crate::connector::dead_letter::{self, Misfits, Origin, Rules};
use crate::connector::format_options;
use crate::connector::options::{self, TableOptions};
use crate::connector::registry::ConnectorContext;
use crate::connector::stats::{SourceStats, Unit};
use crate::connector::{ConnectorError, Opening, SourceFactory, Start};
use crate::format::{BadRecord, Format, RecordDecoder};

/// What all partitions of a table may hold in memory before they are decoded, in KiB.
const PREFETCH_KIB: i32 = 128 << 10;
/// Records taken from the client in one call.
const TAKE: usize = 1024;

/// Where a partition without a committed position starts.
#[derive(Clone, Debug, PartialEq, Eq)]
enum StartupMode {
    Earliest,
    Latest,
    Group,
    Timestamp(i64),
    Offsets(Vec<(i32, i64)>),
}

/// Opens the partitions of a table.
pub struct KafkaSourceFactory {
    table: String,
    topic: String,
    properties: KafkaProperties,
    startup: StartupMode,
    bounded: bool,
    /// How often to look for new partitions.
    discovery: Option<Duration>,
    format: Format,
    physical: SchemaRef,
    decoded: SchemaRef,
    misfits: Rules,
    /// Made at the first use, then shared by all partitions.
    client: Mutex<Option<Shared>>,
}

#[derive(Clone)]
struct Shared {
    client: Arc<ConsumerClient>,
    /// Asks where partitions begin and end: on the connection of the other, each answer would wait behind a fetch.
    lookups: Arc<ConsumerClient>,
    partitions: i32,
}

/// Checks what only sources need, without I/O.
pub(crate) fn validate(options: &TableOptions<'_>) -> Result<(), ConnectorError> {
    dead_letter::validate(options)?;
    let mode = startup(options)?;
    if mode == StartupMode::Group
        && options.raw("properties.group.id").is_none()
        && options.raw("properties.auto.offset.reset").is_none()
    {
        let message = "a table without 'properties.group.id' has no group offsets to start from: write 'scan.startup.mode' = 'earliest-offset' or 'latest-offset'";
        return Err(options.error(options::SCAN_STARTUP_MODE.key, message));
    }
    Ok(())
}

fn startup(options: &TableOptions<'_>) -> Result<StartupMode, ConnectorError> {
    let needs = |option: &options::OptionDoc, mode: &str| {
        let message = format!("'scan.startup.mode' = '{mode}' needs '{}'", option.key);
        options.error(option.key, message)
    };
    match options.text(&options::SCAN_STARTUP_MODE) {
        Some("earliest-offset") => Ok(StartupMode::Earliest),
        Some("latest-offset") => Ok(StartupMode::Latest),
        Some("timestamp") => {
            let at = options.integer(&options::SCAN_STARTUP_TIMESTAMP_MILLIS);
            at.map(StartupMode::Timestamp).ok_or_else(|| needs(&options::SCAN_STARTUP_TIMESTAMP_MILLIS, "timestamp"))
        }
        Some("specific-offsets") => {
            let option = &options::SCAN_STARTUP_SPECIFIC_OFFSETS;
            let text = options.raw(option.key).ok_or_else(|| needs(option, "specific-offsets"))?;
            let offsets = specific_offsets(text);
            offsets.map(StartupMode::Offsets).ok_or_else(|| {
                let message = format!(
                    "'{}' = '{text}': write it like 'partition:0,offset:42;partition:1,offset:300'",
                    option.key
                );
                options.error(option.key, message)
            })
        }
        _ => Ok(StartupMode::Group),
    }
}

/// `partition:0,offset:42;partition:1,offset:300`
fn specific_offsets(text: &str) -> Option<Vec<(i32, i64)>> {
    let entry = |entry: &str| {
        let (partition, offset) = entry.trim().split_once(',')?;
        let partition = partition.trim().strip_prefix("partition:")?.trim().parse().ok()?;
        let offset = offset.trim().strip_prefix("offset:")?.trim().parse().ok()?;
        Some((partition, offset))
    };
    text.split(';').filter(|part| !part.trim().is_empty()).map(entry).collect()
}

impl KafkaSourceFactory {
    /// Reads the options; connects to nothing.
    ///
    /// # Errors
    /// When an option is wrong.
    pub(crate) fn new(
        options: &TableOptions<'_>,
        decoded: &SchemaRef,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        validate(options)?;
        let format = format_options::format(options)?;
        let bounded = options.text(&options::SCAN_BOUNDED_MODE) == Some("latest-offset");
        let discovery = options.duration(&options::SCAN_DISCOVERY_INTERVAL);
        Ok(Self {
            table: options.table().name.clone(),
            topic: options.required(&options::TOPIC)?.to_owned(),
            properties: table_properties(options, context)?,
            startup: startup(options)?,
            bounded,
            discovery: discovery.filter(|interval| !bounded && !interval.is_zero()),
            format,
            physical: options.table().physical.clone(),
            decoded: decoded.clone(),
            misfits: Rules::new(options)?,
            client: Mutex::new(None),
        })
    }

    /// The table's cluster and group: whether its offsets go with the transaction.
    pub fn properties(&self) -> &KafkaProperties {
        &self.properties
    }

    fn error(&self, option: &str, message: impl Into<String>) -> ConnectorError {
        ConnectorError { table: self.table.clone(), option: Some(option.to_owned()), message: message.into() }
    }

    fn connect(&self, error: &ConnectError) -> ConnectorError {
        let option = match error {
            ConnectError::NoTopic { .. } => "topic",
            _ => "properties.bootstrap.servers",
        };
        self.error(option, error.to_string())
    }

    fn shared(&self) -> Result<Shared, ConnectorError> {
        let mut shared: MutexGuard<'_, Option<Shared>> = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = &*shared {
            return Ok(shared.clone());
        }
        let made = self.make_client().map_err(|e| self.connect(&e))?;
        *shared = Some(made.clone());
        Ok(made)
    }

    fn make_client(&self) -> Result<Shared, ConnectError> {
        let lookups = ConsumerClient::new(&self.properties, &[], CONNECT_DEADLINE)?;
        let partitions = lookups.partitions(&self.topic)?;
        // The client's bound is per partition when each has its own queue.
        let prefetch = (PREFETCH_KIB / partitions.max(1)).clamp(1 << 10, 32 << 10).to_string();
        let own = [
            ("queued.max.messages.kbytes", prefetch.as_str()),
            // When a queue is full the client looks again after this time, not after a second.
            ("fetch.queue.backoff.ms", "5"),
            ("auto.offset.reset", "error"),
            ("enable.auto.offset.store", "false"),
            // Behind the last record there may be markers of transactions, which only the end of the partition shows: without it a
            // source that has read everything would seem to lag, and a bounded one would never end.
            ("enable.partition.eof", "true"),
        ];
        let client = ConsumerClient::new(&self.properties, &own, CONNECT_DEADLINE)?.serve()?;
        Ok(Shared { client: Arc::new(client), lookups: Arc::new(lookups), partitions })
    }

    fn number(&self, id: &PartitionId) -> Result<i32, ConnectorError> {
        let number =
            id.0.strip_prefix(&self.topic).and_then(|rest| rest.strip_prefix('-')).and_then(|n| n.parse().ok());
        number.ok_or_else(|| {
            self.error("topic", format!("the stored partition {} is not one of topic {}", id.0, self.topic))
        })
    }

    /// The offset to start at, and the partition's first and end offsets now.
    fn start(&self, client: &ConsumerClient, partition: i32, start: Start) -> Result<(i64, i64), ConnectorError> {
        let (low, high) = client.watermarks(&self.topic, partition).map_err(|e| self.connect(&e))?;
        let start = match start {
            Start::At(SourcePosition::Kafka { next_offset, .. }) => next_offset,
            Start::At(SourcePosition::Opaque(_)) => {
                return Err(
                    self.error("connector", "the stored position is not one of connector 'kafka'; start with --fresh")
                );
            }
            Start::First => self.first_start(client, partition, low, high)?,
            Start::Added => low,
        };
        if (low..=high).contains(&start) {
            return Ok((start, high));
        }
        let why = if start < low {
            "they were deleted (the topic's retention)"
        } else {
            "the topic was made anew or is another one"
        };
        let message = format!(
            "topic {}, partition {partition}: the job is to read on at offset {start}, and the partition holds offsets {low} to {high}: {why}. \
             Nothing is skipped silently: start with --fresh (or a new StreamJob) and a 'scan.startup.mode' of your choice",
            self.topic
        );
        Err(self.error("topic", message))
    }

    fn first_start(&self, client: &ConsumerClient, partition: i32, low: i64, high: i64) -> Result<i64, ConnectorError> {
        match &self.startup {
            StartupMode::Earliest => Ok(low),
            StartupMode::Latest => Ok(high),
            StartupMode::Timestamp(at) => client.offset_at(&self.topic, partition, *at).map_err(|e| self.connect(&e)),
            StartupMode::Offsets(offsets) => {
                let found = offsets.iter().find(|(number, _)| *number == partition).map(|(_, offset)| *offset);
                found.ok_or_else(|| {
                    let key = options::SCAN_STARTUP_SPECIFIC_OFFSETS.key;
                    self.error(
                        key,
                        format!("'{key}' names no offset for partition {partition} of topic {}", self.topic),
                    )
                })
            }
            StartupMode::Group => self.group_start(partition, low, high),
        }
    }

    fn group_start(&self, partition: i32, low: i64, high: i64) -> Result<i64, ConnectorError> {
        if let Some(group) = self.properties.group_id() {
            let client = ConsumerClient::new(&self.properties, &[("group.id", group)], CONNECT_DEADLINE);
            let key = (self.topic.clone(), partition);
            let found =
                client.and_then(|client| client.committed(std::slice::from_ref(&key))).map_err(|e| self.connect(&e))?;
            if let Some((offset, _)) = found.get(&key) {
                return Ok(*offset);
            }
        }
        match self.properties.get("auto.offset.reset") {
            Some("earliest") => Ok(low),
            Some("latest") => Ok(high),
            _ => {
                let message = format!(
                    "the group has no offset for topic {}, partition {partition}: write 'scan.startup.mode' = 'earliest-offset' or 'latest-offset', \
                     or 'properties.auto.offset.reset' = 'earliest' or 'latest'",
                    self.topic
                );
                Err(self.error(options::SCAN_STARTUP_MODE.key, message))
            }
        }
    }
}

impl SourceFactory for KafkaSourceFactory {
    fn partitions(&self) -> Result<Vec<PartitionId>, ConnectorError> {
        let shared = self.shared()?;
        let count = match self.discovery {
            Some(_) => shared.lookups.partitions(&self.topic).map_err(|e| self.connect(&e))?,
            None => shared.partitions,
        };
        Ok((0..count).map(|number| PartitionId(format!("{}-{number}", self.topic))).collect())
    }

    fn open(
        &self,
        id: &PartitionId,
        Opening { start, wake, stats }: Opening,
    ) -> Result<Box<dyn SourcePartition>, ConnectorError> {
        let (partition, shared) = (self.number(id)?, self.shared()?);
        let (start, high) = self.start(&shared.lookups, partition, start)?;
        stats.measure(Unit::Records, start.cast_unsigned(), Some(high.cast_unsigned()));
        shared.client.follow(&self.topic, partition, &stats);
        let decoder = self.format.decoder(&self.physical, &self.decoded);
        let decoder = decoder.map_err(|e| self.error(options::FORMAT.key, e.message))?;
        let reader = PartitionReader::start(shared.client.consumer().clone(), &self.topic, partition, start, wake);
        let reader =
            reader.map_err(|e| self.error("topic", format!("topic {}, partition {partition}: {e}", self.topic)))?;
        Ok(Box::new(KafkaPartition {
            reader,
            _client: shared.client,
            state: PartitionState {
                id: id.clone(),
                table: self.table.clone(),
                topic: self.topic.clone(),
                partition,
                next: start,
                end: self.bounded.then_some(high),
                decoder,
                misfits: Misfits::new(&self.misfits, &self.table, Arc::clone(&stats)),
                seen: 0,
                failed: None,
                bytes: 0,
                stats,
            },
        }))
    }

    fn bounded(&self) -> bool {
        self.bounded
    }

    fn watched(&self) -> Option<Duration> {
        self.discovery
    }
}

struct KafkaPartition {
    /// Before the client: it is stopped first.
    reader: PartitionReader<Watch>,
    _client: Arc<ConsumerClient>,
    state: PartitionState,
}

/// Everything of a partition but the reader, which is borrowed while records are shown.
struct PartitionState {
    id: PartitionId,
    table: String,
    topic: String,
    partition: i32,
    next: i64,
    end: Option<i64>,
    decoder: RecordDecoder,
    misfits: Misfits,
    failed: Option<SourceError>,
    /// Records of the running poll, those without a row included.
    seen: usize,
    /// Of the records of the running poll.
    bytes: u64,
    stats: Arc<SourceStats>,
}

impl PartitionState {
    fn see(&mut self, fetched: Fetched<'_>) {
        if self.failed.is_some() || self.at_end() {
            return;
        }
        match fetched {
            Fetched::Record { offset, value, details } => {
                if self.end.is_some_and(|end| offset >= end) {
                    self.next = self.end.unwrap_or(offset);
                    return;
                }
                self.next = offset + 1;
                self.seen += 1;
                let Some(value) = value else { return };
                self.bytes += value.len() as u64;
                if let Err(bad) = self.decoder.push(value) {
                    self.bad(offset, &bad, value, &details);
                }
            }
            // Behind the last record there may be markers of transactions: they count as read.
            Fetched::End { offset } => self.next = self.next.max(offset),
            Fetched::Failed(error) => self.failed = Some(self.unreadable(&error)),
        }
    }

    fn at_end(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// True if what was read must be handed on before more is.
    fn full(&self) -> bool {
        self.decoder.full() || self.misfits.enough()
    }

    fn place(&self, offset: i64) -> String {
        format!("topic {}, partition {}, offset {offset}", self.topic, self.partition)
    }

    #[cold]
    fn bad(&mut self, offset: i64, bad: &BadRecord, value: &[u8], details: &Details<'_>) {
        let (timestamp_ms, key) = (details.timestamp_ms(), details.key());
        let origin = Origin::Kafka { topic: &self.topic, partition: self.partition, offset, timestamp_ms, key };
        self.failed = self.misfits.add(&origin, bad, value).err();
    }

    fn unreadable(&self, error: &ClientError) -> SourceError {
        let message = match error.code {
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                "the records from here on are not there any more (the topic's retention, or it was made anew); nothing is skipped silently: start with --fresh and a 'scan.startup.mode' of your choice".to_owned()
            }
            Code::BadCompression => format!(
                "{}: the batch cannot be unpacked, because it is damaged or holds more than 100 MB; to go on behind it, start with --fresh and 'scan.startup.mode' = 'specific-offsets'",
                error.text
            ),
            Code::TopicAuthorizationFailed => "this user may not read the topic; grant it (docs: operations, Kafka rights)".to_owned(),
            Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => "the topic or partition does not exist any more".to_owned(),
            _ => error.text.clone(),
        };
        SourceError { table: self.table.clone(), place: self.place(self.next), message }
    }
}

impl SourcePartition for KafkaPartition {
    fn id(&self) -> &PartitionId {
        &self.state.id
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        let Self { reader, state, .. } = self;
        let before = state.next;
        state.seen = 0;
        while state.seen < max_rows && !state.full() && !state.at_end() && state.failed.is_none() {
            if reader.take(TAKE.min(max_rows - state.seen), |fetched| state.see(fetched)) == 0 {
                break;
            }
        }
        if let Some(failed) = state.failed.take() {
            return Err(failed);
        }
        if state.decoder.rows() > 0 || state.next != before {
            state.stats.add_bytes(std::mem::take(&mut state.bytes));
            state.stats.at(state.next.cast_unsigned());
            let place = state.place(state.next);
            let batch = state.decoder.finish();
            let failed = |bad: BadRecord| SourceError { table: state.table.clone(), place, message: bad.to_string() };
            return batch.map(SourcePoll::Batch).map_err(failed);
        }
        // Nothing moved: the queue was found empty, so the next thing in it wakes the worker.
        Ok(if state.at_end() { SourcePoll::End } else { SourcePoll::Pending })
    }

    fn take_letters(&mut self) -> Option<EncodedRows> {
        self.state.misfits.take()
    }

    fn position(&self) -> SourcePosition {
        let PartitionState { topic, partition, next, .. } = &self.state;
        SourcePosition::Kafka { topic: topic.clone(), partition: *partition, next_offset: *next }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specific_offsets_are_flinks() {
        assert_eq!(specific_offsets("partition:0,offset:42;partition:1,offset:300"), Some(vec![(0, 42), (1, 300)]));
        assert_eq!(specific_offsets(" partition: 0 , offset: 42 ; "), Some(vec![(0, 42)]));
        for wrong in ["0:42", "partition:a,offset:1", "partition:0", "offset:1,partition:0"] {
            assert_eq!(specific_offsets(wrong), None, "{wrong}");
        }
    }
}
