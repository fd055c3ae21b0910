//! Where the records of a commit came to stand in their partitions.
//!
//! Owns the tags by which the producer tells records apart. It is asked for nothing but the last offset of each partition.

use std::collections::BTreeMap;

use dataflow::key::ShardId;
use dataflow::state::LogOffset;
use dataflow::worker::AppliedOffsets;

/// A tag is the number of the topic and the partition; no tag is 0.
const PARTITION_BITS: u32 = 16;
/// The changelog's number; other topics follow.
const CHANGELOG: usize = 1;

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Placed {
    /// Internal topics that records were sent to.
    topics: Vec<String>,
    /// By topic and partition, the last offset of the running commit, then of the last.
    sent: BTreeMap<(usize, i32), i64>,
}

impl Placed {
    /// The tag of a record of the changelog.
    pub(super) fn changelog(shard: ShardId) -> usize {
        tag(CHANGELOG, i32::from(shard.0))
    }

    /// The tag of a record of another internal topic.
    pub(super) fn sent(&mut self, topic: &str, partition: i32) -> usize {
        let place = self.topics.iter().position(|known| known == topic).unwrap_or_else(|| {
            self.topics.push(topic.to_owned());
            self.topics.len() - 1
        });
        tag(CHANGELOG + 1 + place, partition)
    }

    /// Takes what was delivered; returns the places of the changelog's records.
    pub(super) fn take(&mut self, delivered: Vec<(usize, i64)>) -> AppliedOffsets {
        self.sent.clear();
        let mut changelog = BTreeMap::new();
        for (tag, offset) in delivered {
            let (topic, partition) = (tag >> PARTITION_BITS, (tag & ((1 << PARTITION_BITS) - 1)) as u16);
            if topic == CHANGELOG {
                let last = changelog.entry(ShardId(partition)).or_insert(LogOffset(offset));
                *last = (*last).max(LogOffset(offset));
            } else {
                let last = self.sent.entry((topic - CHANGELOG - 1, i32::from(partition))).or_insert(offset);
                *last = (*last).max(offset);
            }
        }
        changelog.into_iter().collect()
    }

    /// The last offset in each partition of other internal topics.
    pub(super) fn take_sent(&mut self) -> Vec<(String, i32, i64)> {
        let name = |((topic, partition), offset): ((usize, i32), i64)| (self.topics[topic].clone(), partition, offset);
        std::mem::take(&mut self.sent).into_iter().map(name).collect()
    }
}

/// Partitions of internal topics are shards: far fewer than fit.
fn tag(topic: usize, partition: i32) -> usize {
    (topic << PARTITION_BITS) | partition as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_partition_has_its_last_offset_and_the_changelog_stands_alone() {
        let mut placed = Placed::default();
        let (a, b) = (placed.sent("a", 4095), placed.sent("b", 0));
        assert_eq!(placed.sent("a", 4095), a);
        let shard = Placed::changelog(ShardId(4095));
        let applied = placed.take(vec![(shard, 7), (a, 20), (b, 3), (shard, 9), (a, 22), (a, 21)]);
        assert_eq!(applied, [(ShardId(4095), LogOffset(9))]);
        assert_eq!(placed.take_sent(), [("a".to_owned(), 4095, 22), ("b".to_owned(), 0, 3)]);
        assert_eq!(placed.take_sent(), []);
    }
}
