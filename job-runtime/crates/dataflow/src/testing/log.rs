//! The log between simulated pods: messages per exchange and shard, there once they are committed.
//!
//! Owns the messages and the wake-ups of those who read them; it outlives every process.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::graph::NodeId;
use crate::key::ShardId;
use crate::shuffle::{ShuffleMessage, ShuffleReader};
use crate::source::SourceError;
use crate::worker::Wake;

/// See the module's documentation. Clones share the messages.
#[derive(Clone, Default)]
pub struct ShuffleLog(Arc<Mutex<BTreeMap<(NodeId, ShardId), Partition>>>);

#[derive(Default)]
struct Partition {
    messages: Vec<Vec<u8>>,
    wake: Option<Wake>,
}

impl ShuffleLog {
    fn partitions(&self) -> MutexGuard<'_, BTreeMap<(NodeId, ShardId), Partition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A commit is in the log: its messages are there.
    pub fn append(&self, messages: Vec<ShuffleMessage>) {
        let mut partitions = self.partitions();
        for message in messages {
            let partition = partitions.entry((message.exchange, message.shard)).or_default();
            partition.messages.push(message.bytes);
            if let Some(wake) = &partition.wake {
                wake();
            }
        }
    }

    /// How many messages there are, of all exchanges and shards.
    pub fn len(&self) -> usize {
        self.partitions().values().map(|partition| partition.messages.len()).sum()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads from `next_offset` on; `wake` is called when something is appended.
    pub fn reader(&self, exchange: NodeId, shard: ShardId, next_offset: i64, wake: Wake) -> MemoryReader {
        let mut partitions = self.partitions();
        let partition = partitions.entry((exchange, shard)).or_default();
        partition.wake = Some(wake);
        let there = partition.messages.len();
        drop(partitions);
        MemoryReader { log: self.clone(), place: (exchange, shard), next: next_offset as usize, there }
    }
}

/// Reads one partition of a [`ShuffleLog`].
pub struct MemoryReader {
    log: ShuffleLog,
    place: (NodeId, ShardId),
    next: usize,
    /// How many messages there were when it was opened.
    there: usize,
}

impl ShuffleReader for MemoryReader {
    fn shard(&self) -> ShardId {
        self.place.1
    }

    fn topic(&self) -> &str {
        "shuffle"
    }

    fn poll(&mut self) -> Result<Option<Vec<u8>>, SourceError> {
        let found = self.log.partitions().get(&self.place).and_then(|p| p.messages.get(self.next).cloned());
        self.next += usize::from(found.is_some());
        Ok(found)
    }

    fn next_offset(&self) -> i64 {
        self.next as i64
    }

    fn caught_up(&self) -> bool {
        self.next >= self.there
    }

    fn lag(&self) -> u64 {
        self.log.partitions().get(&self.place).map_or(0, |p| (p.messages.len() - self.next) as u64)
    }
}
