//! The consumer group's offsets: how far the job's sources and shuffle topics are read, in the transaction of each commit.
//!
//! Owns what is sent (only what has moved) and how it is read again, with the note beside each (`checkpoint::offset_note`). The call is the
//! producer's; when it is made, and what its failure means, is the log's.

use std::collections::{BTreeMap, HashMap};

use checkpoint::offset_note::{self, OffsetNote};

use super::{KafkaCommitLog, KafkaLogConfig};
use crate::commit::KafkaOffset;
use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::ffi::NotedOffset;

/// An offset and the event time that goes with it.
type Standing = (i64, Option<i64>);

/// See the module's documentation.
pub(super) struct Offsets {
    group: String,
    job_uid: String,
    /// What the group has from this process.
    sent: HashMap<(String, i32), Standing>,
}

impl Offsets {
    pub(super) fn new(config: &KafkaLogConfig) -> Self {
        Self { group: config.group(), job_uid: config.job_uid.clone(), sent: HashMap::new() }
    }

    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Those of `offsets` that the group does not have yet.
    pub(super) fn moved(&self, mut offsets: Vec<KafkaOffset>) -> Vec<KafkaOffset> {
        let standing = |offset: &KafkaOffset| (offset.next_offset, offset.watermark_ms);
        offsets.retain(|offset| {
            self.sent.get(&(offset.topic.clone(), offset.partition)).copied() != Some(standing(offset))
        });
        offsets
    }

    /// As the producer sends them.
    pub(super) fn noted(&self, offsets: &[KafkaOffset]) -> Vec<NotedOffset> {
        let noted = |offset: &KafkaOffset| NotedOffset {
            topic: offset.topic.clone(),
            partition: offset.partition,
            offset: offset.next_offset,
            note: offset_note::encode(&self.job_uid, offset.watermark_ms),
        };
        offsets.iter().map(noted).collect()
    }

    /// The commit with these is in the log.
    pub(super) fn committed(&mut self, offsets: Vec<KafkaOffset>) {
        let entry = |offset: KafkaOffset| ((offset.topic, offset.partition), (offset.next_offset, offset.watermark_ms));
        self.sent.extend(offsets.into_iter().map(entry));
    }
}

/// Reads the group's offsets. It looks for the group's broker at once, and again only half a second later if it has no connection yet: so a start makes it first.
pub(super) fn group_reader(config: &KafkaLogConfig) -> Result<ConsumerClient, ConnectError> {
    let group = config.group();
    let own = [("group.id", group.as_str()), ("isolation.level", "read_committed")];
    ConsumerClient::new(&config.properties, &own, config.deadline)
}

impl KafkaCommitLog {
    /// Where this job's earlier commits left the sources: only offsets with the job's own note, because a group that a user names may hold
    /// offsets of something else.
    ///
    /// # Errors
    /// When the group cannot be read in time, or a note of the job's own was written by a newer release.
    pub fn committed_offsets(
        &self,
        partitions: &[(String, i32)],
    ) -> Result<BTreeMap<(String, i32), KafkaOffset>, ConnectError> {
        let client = &self.group_reader;
        let mut out = BTreeMap::new();
        for ((topic, partition), (next_offset, note)) in client.committed(partitions)? {
            let note = offset_note::decode(&self.config.job_uid, &note).map_err(|error| ConnectError::Other {
                what: format!("the consumer group {}, topic {topic}, partition {partition}", self.offsets.group()),
                servers: client.servers().to_owned(),
                reason: error.to_string(),
            })?;
            match note {
                OffsetNote::Foreign => {}
                OffsetNote::Own { watermark_ms } => {
                    let place = (topic.clone(), partition);
                    out.insert(place, KafkaOffset { topic, partition, next_offset, watermark_ms });
                }
            }
        }
        Ok(out)
    }
}
