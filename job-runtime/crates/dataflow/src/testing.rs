//! A test kit: a store, a source and a sink in memory, expressions, and a harness that runs a whole job in a seeded order with crashes.
//!
//! Owns nothing that a running job uses. Nothing here touches a file, a clock or a thread.

mod harness;
mod log;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use arrow::array::{ArrayRef, RecordBatch};

pub use harness::{Harness, Outcome, Random, SourceData};
pub use log::{MemoryReader, ShuffleLog};

use crate::graph::{Expression, ExpressionError, OperatorUid};
use crate::key::{KeyGroup, ShardId};
use crate::sink::{EncodedRows, SinkEncoder, SinkError, SinkPayload};
use crate::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};
use crate::state::keyed::is_expired;
use crate::state::{Change, ChangeBatch, LogOffset, ShardStore, StateError};

/// What a [`MemoryStore`] holds; outlives the store, as a disk outlives a process.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<DiskContent>>);

#[derive(Debug, Default)]
struct DiskContent {
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
    applied: Option<LogOffset>,
}

impl Disk {
    fn content(&self) -> MutexGuard<'_, DiskContent> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Another disk with the same on it.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        let content = self.content();
        let content = DiskContent { entries: content.entries.clone(), applied: content.applied };
        Self(Arc::new(Mutex::new(content)))
    }

    /// A disk with these entries, which stand at a place of the log.
    pub fn with(entries: BTreeMap<Vec<u8>, Vec<u8>>, applied: Option<LogOffset>) -> Self {
        Self(Arc::new(Mutex::new(DiskContent { entries, applied })))
    }

    /// All entries.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        self.content().entries.clone()
    }

    /// The place of the last applied commit.
    pub fn applied(&self) -> Option<LogOffset> {
        self.content().applied
    }

    /// Another disk with the same content, which later writes do not reach.
    #[must_use]
    pub fn copy(&self) -> Self {
        let content = self.content();
        Self::with(content.entries.clone(), content.applied)
    }

    /// Puts the content of `other` in the place of this one's.
    pub fn replace(&self, other: &Self) {
        let copy = other.copy();
        let mut new = copy.content();
        *self.content() = std::mem::take(&mut *new);
    }
}

/// A shard's store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore {
    shard: ShardId,
    disk: Disk,
}

impl MemoryStore {
    /// The store of `shard` on `disk`.
    pub fn new(shard: ShardId, disk: Disk) -> Self {
        Self { shard, disk }
    }
}

impl ShardStore for MemoryStore {
    fn shard(&self) -> ShardId {
        self.shard
    }

    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        let content = self.disk.content();
        let from = content.entries.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        from.for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let content = self.disk.content();
        Ok(keys.iter().map(|key| content.entries.get(*key).cloned()).collect())
    }

    fn apply(&mut self, changes: &ChangeBatch, offset: LogOffset) -> Result<(), StateError> {
        let mut content = self.disk.content();
        for change in changes.iter() {
            match change {
                Change::Put { key, value } => drop(content.entries.insert(key.to_vec(), value.to_vec())),
                Change::Delete { key } => drop(content.entries.remove(key)),
                Change::DeletePrefix { prefix } => remove_prefix(&mut content.entries, prefix),
            }
        }
        content.applied = Some(offset);
        Ok(())
    }

    fn applied(&self) -> Option<LogOffset> {
        self.disk.content().applied
    }

    /// At once, as no database does: what depends on it is found out.
    fn expire(&self, operator: OperatorUid, through_ms: i64) {
        let of = operator.0.to_be_bytes();
        let gone = |key: &[u8], value: &[u8]| key.get(2..6) == Some(&of[..]) && is_expired(key, value, through_ms);
        self.disk.content().entries.retain(|key, value| !gone(key, value));
    }
}

/// Looks only at what is removed: simulations remove often, and have many entries.
fn remove_prefix(entries: &mut BTreeMap<Vec<u8>, Vec<u8>>, prefix: &[u8]) {
    let gone = entries.range(prefix.to_vec()..).map(|(key, _)| key).take_while(|key| key.starts_with(prefix));
    let gone: Vec<Vec<u8>> = gone.cloned().collect();
    gone.iter().for_each(|key| drop(entries.remove(key)));
}

/// A source partition that gives out batches; bounded.
pub struct VecPartition {
    id: PartitionId,
    batches: Arc<[RecordBatch]>,
    batch: usize,
    row: usize,
    /// Every so many polls find nothing, to try the waiting paths.
    pending_every: usize,
    polls: usize,
    shard: Option<ShardId>,
    /// See [`VecPartition::in_group`].
    group: Option<KeyGroup>,
    /// Of the last poll: `id batch row` of every row, as if each had a dead letter; `None` if they have none.
    letters: Option<EncodedRows>,
    known_ms: Option<i64>,
}

impl VecPartition {
    /// Starts at `position`, or at the beginning. `pending_every` polls, one finds nothing (0 for never).
    ///
    /// # Panics
    /// If `position` is not one of this kind of partition.
    pub fn new(id: &str, batches: Arc<[RecordBatch]>, position: Option<&SourcePosition>, pending_every: usize) -> Self {
        let (batch, row) = match position {
            None => (0, 0),
            Some(SourcePosition::Opaque(bytes)) => {
                let number = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).map_or(0, |n| n as usize);
                (number(0), number(8))
            }
            Some(SourcePosition::Kafka { .. }) => panic!("a test partition has no Kafka offsets"),
        };
        let id = PartitionId(id.to_owned());
        let (polls, shard, group, letters, known_ms) = (0, None, None, None, None);
        Self { id, batches, batch, row, pending_every, polls, shard, group, letters, known_ms }
    }

    /// Passes to another pod with this shard.
    #[must_use]
    pub fn with_shard(self, shard: ShardId) -> Self {
        Self { shard: Some(shard), ..self }
    }

    /// Stands for a key group: there lies the state of its rows' keys.
    #[must_use]
    pub fn in_group(self, group: Option<KeyGroup>) -> Self {
        Self { group, ..self }
    }

    /// Gives a dead letter for every row.
    #[must_use]
    pub fn with_letters(self) -> Self {
        Self { letters: Some(EncodedRows::default()), ..self }
    }

    /// What the rows before its position stand for.
    #[must_use]
    pub fn after(self, known_ms: Option<i64>) -> Self {
        Self { known_ms, ..self }
    }
}

impl SourcePartition for VecPartition {
    fn id(&self) -> &PartitionId {
        &self.id
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        self.polls += 1;
        if self.pending_every > 0 && self.polls.is_multiple_of(self.pending_every) {
            return Ok(SourcePoll::Pending);
        }
        let Some(batch) = self.batches.get(self.batch) else { return Ok(SourcePoll::End) };
        let rows = max_rows.min(batch.num_rows() - self.row);
        let slice = batch.slice(self.row, rows);
        if let Some(letters) = &mut self.letters {
            for row in self.row..self.row + rows {
                letters.bytes.extend_from_slice(format!("{} {} {row}\n", self.id.0, self.batch).as_bytes());
                letters.ends.push(letters.bytes.len() as u32);
            }
        }
        self.row += rows;
        if self.row == batch.num_rows() {
            (self.batch, self.row) = (self.batch + 1, 0);
        }
        Ok(SourcePoll::Batch(slice))
    }

    fn shard(&self) -> Option<ShardId> {
        self.shard
    }

    fn key_group(&self) -> Option<KeyGroup> {
        self.group
    }

    fn take_letters(&mut self) -> Option<EncodedRows> {
        self.letters.as_mut().filter(|letters| !letters.ends.is_empty()).map(std::mem::take)
    }

    fn position(&self) -> SourcePosition {
        let mut bytes = (self.batch as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(&(self.row as u64).to_le_bytes());
        SourcePosition::Opaque(bytes)
    }

    fn known_ms(&self) -> Option<i64> {
        self.known_ms
    }
}

/// A sink encoder that hands batches on, the last one only at the barrier.
#[derive(Default)]
pub struct BatchEncoder {
    kept: Option<RecordBatch>,
}

impl SinkEncoder for BatchEncoder {
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        out.extend(self.kept.replace(batch.clone()).map(SinkPayload::Batch));
        Ok(())
    }

    fn flush(&mut self, out: &mut Vec<SinkPayload>) -> Result<(), SinkError> {
        out.extend(self.kept.take().map(SinkPayload::Batch));
        Ok(())
    }
}

/// The expression that is one column.
#[derive(Clone, Copy, Debug)]
pub struct Column(pub usize);

impl Expression for Column {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        Ok(Arc::clone(batch.column(self.0)))
    }

    fn as_column(&self) -> Option<usize> {
        Some(self.0)
    }
}

/// An expression given as a function.
#[derive(Clone)]
pub struct Function(pub fn(&RecordBatch) -> ArrayRef);

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("function")
    }
}

impl Expression for Function {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ArrayRef, ExpressionError> {
        Ok((self.0)(batch))
    }
}
