//! `GROUP BY keys, window`: aggregates per key and tumbling window, emitted when the watermark passes the window's end.
//!
//! Owns the state of open windows in memory and what of it changed since the last barrier. It does not own a store: changes go out with
//! the commit, and stored entries come back through `restore`.
//!
//! A window is emitted once, ordered by key encoding; windows are emitted in the order of their ends. A row whose window has closed is
//! late: dropped and counted.
//!
//! # Stored layout
//! State key: `key group u16 BE | uid u32 BE | window end i64 BE with the sign bit flipped | encoded key` (see [`crate::key`]).
//! Value, version 1: `version u8 = 1 | per aggregate, in order, the accumulator` (see `accumulator`).
//!
//! One more entry per shard says which windows have been emitted, so that a late row cannot open one again after a restart. Key: the
//! shard's first key group, the uid, and eight zero bytes (the least window end, which no row has). Value, version 1:
//! `version u8 = 1 | greatest emitted window end i64 LE`.

mod accumulator;
mod groups;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch, make_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;

use crate::batch::Batch;
use crate::columns::native_values;
use crate::graph::{Node, OperatorUid, WindowAggregateNode, WindowKind};
use crate::key::{KeyDecoder, KeyEncoder, KeyGroup, ShardId, Shards, UnsupportedKey, group_of, hash_bytes};
use crate::state::{ChangeBatch, STATE_KEY_PREFIX, state_key_prefix};
use crate::watermark::NO_WATERMARK;
use accumulator::{Argument, Call};
use groups::{Groups, Rows};

/// Version of both value layouts.
const VERSION: u8 = 1;
/// Rows of an emitted batch.
const EMIT_ROWS: usize = 8192;

/// A window aggregate cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WindowError {
    /// A row without event time.
    #[error(
        "column {column} is null: event time must not be null; leave such rows out with WHERE {column} IS NOT NULL"
    )]
    NullRowtime {
        /// The rowtime column.
        column: String,
    },
    /// A sum does not fit its type.
    #[error(
        "aggregate {aggregate}: the sum does not fit {data_type}; CAST the argument to a wider type, e.g. DECIMAL(38, 0)"
    )]
    Overflow {
        /// The aggregate's column.
        aggregate: String,
        /// The type of the sum.
        data_type: DataType,
    },
    /// Arguments, results and function do not go together: a bug of the plan.
    #[error("aggregate {aggregate}: {message}")]
    Unsupported {
        /// The aggregate's column.
        aggregate: String,
        /// What does not go together.
        message: String,
    },
    /// A key column's type has no key encoding.
    #[error(transparent)]
    Key(#[from] UnsupportedKey),
    /// Stored state was written by a newer release.
    #[error("stored window state has version {0}, this release reads {VERSION}: start the release that wrote it")]
    Version(u8),
    /// Stored state cannot be read.
    #[error("stored window state is damaged: {message}")]
    Damaged {
        /// What is wrong.
        message: String,
    },
    /// Columns do not make a batch.
    #[error("the results do not fit the output")]
    Arrow(#[from] ArrowError),
}

impl WindowError {
    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::Damaged { message: message.into() }
    }
}

/// How much a window aggregate holds and has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WindowSize {
    /// Groups of open windows.
    pub entries: u64,
    /// About how many bytes they take.
    pub bytes: u64,
    /// Late rows dropped.
    pub late_dropped: u64,
}

/// One `GROUP BY keys, window` on one worker.
pub struct WindowAggregate {
    uid: OperatorUid,
    window: WindowKind,
    rowtime: usize,
    rowtime_name: String,
    encoder: KeyEncoder,
    decoder: KeyDecoder,
    /// True if batches come with the hashes of our keys.
    hashed: bool,
    calls: Vec<Call>,
    schema: SchemaRef,
    shards: Shards,
    /// Open windows by end.
    open: BTreeMap<i64, Groups>,
    watermark_ms: i64,
    /// Greatest window end that was emitted since the start.
    closed_through: i64,
    /// Greatest window end that was emitted before the start, of any shard.
    restored_closed: i64,
    /// What is stored of both, per owned shard. Shards come from workers and pods that had come to different ends.
    stored_closed: BTreeMap<ShardId, i64>,
    /// Changes since the last barrier that are not in `open`: deletes of emitted windows.
    deletes: Changes,
    late_dropped: u64,
}

/// Changes by shard.
#[derive(Default)]
struct Changes {
    by_shard: BTreeMap<ShardId, ChangeBatch>,
}

impl Changes {
    fn of(&mut self, shards: Shards, group: KeyGroup) -> &mut ChangeBatch {
        self.by_shard.entry(shards.shard_of(group)).or_default()
    }
}

impl WindowAggregate {
    /// For a node of the graph that reads rows of `input`. `hashed` says that batches come with the hashes of this node's keys.
    ///
    /// # Errors
    /// When a key or an aggregate is of a type that the engine does not know.
    pub fn new(
        node: &Node,
        spec: &WindowAggregateNode,
        input: &Schema,
        shards: Shards,
        owned: &[ShardId],
        hashed: bool,
    ) -> Result<Self, WindowError> {
        let first = spec.keys.len() + 2;
        if node.schema.fields().len() != first + spec.aggregates.len() {
            let message = format!("the node has {} columns", node.schema.fields().len());
            return Err(WindowError::Unsupported { aggregate: node.name.clone(), message });
        }
        let call = |(i, call)| Call::new(call, node.schema.field(first + i).name());
        Ok(Self {
            uid: node.uid,
            window: spec.window,
            rowtime: spec.rowtime,
            rowtime_name: input.field(spec.rowtime).name().clone(),
            encoder: KeyEncoder::new(input, &spec.keys)?,
            decoder: KeyDecoder::new(input, &spec.keys)?,
            hashed,
            calls: spec.aggregates.iter().enumerate().map(call).collect::<Result<_, _>>()?,
            schema: Arc::clone(&node.schema),
            shards,
            open: BTreeMap::new(),
            watermark_ms: NO_WATERMARK,
            closed_through: NO_WATERMARK,
            restored_closed: NO_WATERMARK,
            stored_closed: owned.iter().map(|&shard| (shard, NO_WATERMARK)).collect(),
            deletes: Changes::default(),
            late_dropped: 0,
        })
    }

    /// How much is held and has been dropped.
    pub fn size(&self) -> WindowSize {
        let entries = self.open.values().map(|groups| groups.len() as u64).sum();
        let bytes = self.open.values().map(|groups| groups.bytes() as u64).sum();
        WindowSize { entries, bytes, late_dropped: self.late_dropped }
    }

    /// Takes the rows of a batch into their windows.
    ///
    /// # Errors
    /// See [`WindowError`]; the operator is then of no further use.
    pub fn update(&mut self, batch: &Batch) -> Result<(), WindowError> {
        let rows = &batch.rows;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let times = rows.column(self.rowtime);
        if times.null_count() > 0 {
            return Err(WindowError::NullRowtime { column: self.rowtime_name.clone() });
        }
        let times = native_values::<i64>(times.as_ref());
        let keys = self.encoder.encode(rows);
        let hashes = match &batch.hashes {
            Some(hashes) if self.hashed => Arc::clone(hashes),
            _ => keys.hashes(),
        };
        let arguments = self.calls.iter().map(|call| call.argument(rows)).collect::<Vec<Argument>>();
        for (end, rows) in split_by_window(self.window, &times) {
            // A row is late if its window's last moment is not after the watermark, or its shard emitted the window before a restart.
            if end <= self.watermark_ms.saturating_add(1) {
                self.late_dropped += rows.len() as u64;
                continue;
            }
            let rows = if end <= self.restored_closed { self.not_emitted(end, &rows, &hashes) } else { rows };
            if rows.len() == 0 {
                continue;
            }
            let groups = self.open.entry(end).or_insert_with(|| Groups::new(&self.encoder, &self.calls));
            groups.update(&keys, &hashes, &rows.rows(), &arguments, &self.calls)?;
        }
        Ok(())
    }

    /// The rows of a window whose shards had not emitted it before the start; the others are late.
    fn not_emitted(&mut self, end: i64, rows: &WindowRows, hashes: &[u64]) -> WindowRows {
        let mut open = Vec::with_capacity(rows.len());
        rows.rows().each(|row| {
            let shard = self.shards.shard_of(group_of(hashes[row]));
            if self.stored_closed.get(&shard).is_none_or(|closed| *closed < end) {
                open.push(row as u32);
            }
        });
        self.late_dropped += (rows.len() - open.len()) as u64;
        WindowRows::Some(open)
    }

    /// The watermark has reached `watermark_ms`: emits the windows that it has passed.
    ///
    /// # Errors
    /// See [`WindowError`].
    pub fn fire(&mut self, watermark_ms: i64) -> Result<Vec<RecordBatch>, WindowError> {
        self.watermark_ms = self.watermark_ms.max(watermark_ms);
        let mut out = Vec::new();
        while let Some(entry) = self.open.first_entry()
            && entry.key() - 1 <= self.watermark_ms
        {
            let (end, groups) = entry.remove_entry();
            self.closed_through = self.closed_through.max(end);
            self.emit(end, &groups, &mut out)?;
            self.delete(end, &groups);
        }
        Ok(out)
    }

    fn emit(&self, end: i64, groups: &Groups, out: &mut Vec<RecordBatch>) -> Result<(), WindowError> {
        let WindowKind::Tumble { size_ms, .. } = self.window;
        let mut encoded = Vec::new();
        for order in groups.ordered().chunks(EMIT_ROWS) {
            encoded.clear();
            let mut ends = Vec::with_capacity(order.len());
            for &group in order {
                groups.write_key(group, &mut encoded);
                ends.push(encoded.len());
            }
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let keys: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &encoded[start..end]).collect();
            let mut columns = self.decoder.decode(&keys)?;
            for time in [end - size_ms, end] {
                let data_type = self.schema.field(columns.len()).data_type();
                columns.push(retyped(&Int64Array::from(vec![time; order.len()]), data_type)?);
            }
            for (accumulator, call) in groups.accumulators().iter().zip(&self.calls) {
                columns.push(accumulator.finish(order, call)?);
            }
            out.push(RecordBatch::try_new(Arc::clone(&self.schema), columns)?);
        }
        Ok(())
    }

    /// Notes the deletes of an emitted window: only of groups that an earlier barrier has written.
    fn delete(&mut self, end: i64, groups: &Groups) {
        let mut key = Vec::new();
        for group in groups.stored() {
            let key_group = group_of(groups.hash(group));
            write_state_key(&mut key, key_group, self.uid, end);
            groups.write_key(group, &mut key);
            self.deletes.of(self.shards, key_group).delete(&key);
        }
    }

    /// The changes since the last barrier.
    pub fn take_changes(&mut self) -> Vec<(ShardId, ChangeBatch)> {
        let mut changes = std::mem::take(&mut self.deletes);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (&end, groups) in &mut self.open {
            for group in groups.take_dirty() {
                let key_group = group_of(groups.hash(group));
                write_state_key(&mut key, key_group, self.uid, end);
                groups.write_key(group, &mut key);
                value.clear();
                value.push(VERSION);
                groups.accumulators().iter().for_each(|a| a.write(group, &mut value));
                changes.of(self.shards, key_group).put(&key, &value);
            }
        }
        for (&shard, stored) in self.stored_closed.iter_mut().filter(|(_, stored)| **stored < self.closed_through) {
            *stored = self.closed_through;
            let key_group = KeyGroup(self.shards.groups(shard).start);
            write_state_key(&mut key, key_group, self.uid, NO_WATERMARK);
            value.clear();
            value.push(VERSION);
            value.extend_from_slice(&self.closed_through.to_le_bytes());
            changes.of(self.shards, key_group).put(&key, &value);
        }
        changes.by_shard.into_iter().collect()
    }

    /// Takes one stored entry back. Called before any row.
    ///
    /// # Errors
    /// When the entry was not written by an operator like this.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), WindowError> {
        let short = || WindowError::damaged("an entry is cut short");
        let (prefix, user) = key.split_at_checked(STATE_KEY_PREFIX).ok_or_else(short)?;
        let (end, encoded) = user.split_first_chunk::<8>().ok_or_else(short)?;
        let end = (u64::from_be_bytes(*end) ^ (1 << 63)) as i64;
        let value = match value.split_first() {
            Some((&VERSION, value)) => value,
            Some((&version, _)) => return Err(WindowError::Version(version)),
            None => return Err(short()),
        };
        let key_group = KeyGroup(u16::from_be_bytes([prefix[0], prefix[1]]));
        if end == NO_WATERMARK {
            let closed = i64::from_le_bytes(value.try_into().map_err(|_| short())?);
            self.restored_closed = self.restored_closed.max(closed);
            self.stored_closed.insert(self.shards.shard_of(key_group), closed);
            return Ok(());
        }
        let hash = hash_bytes(encoded);
        if group_of(hash) != key_group {
            return Err(WindowError::damaged(format!(
                "a key of group {} stands in group {}",
                group_of(hash).0,
                key_group.0
            )));
        }
        let groups = self.open.entry(end).or_insert_with(|| Groups::new(&self.encoder, &self.calls));
        groups.restore(encoded, hash, value)
    }
}

fn write_state_key(out: &mut Vec<u8>, group: KeyGroup, uid: OperatorUid, end: i64) {
    out.clear();
    state_key_prefix(group, uid, out);
    out.extend_from_slice(&(end as u64 ^ (1 << 63)).to_be_bytes());
}

/// The rows of a batch that lie in one window.
enum WindowRows {
    All(usize),
    Some(Vec<u32>),
}

impl WindowRows {
    fn len(&self) -> usize {
        match self {
            Self::All(rows) => *rows,
            Self::Some(rows) => rows.len(),
        }
    }

    fn rows(&self) -> Rows<'_> {
        match self {
            Self::All(rows) => Rows::All(*rows),
            Self::Some(rows) => Rows::Some(rows),
        }
    }
}

/// End of the window that holds `time`.
fn window_end(window: WindowKind, time: i64) -> i64 {
    let WindowKind::Tumble { size_ms, offset_ms } = window;
    let into = time.wrapping_sub(offset_ms).rem_euclid(size_ms);
    time.saturating_sub(into).saturating_add(size_ms)
}

/// Window ends, ascending, with their rows. Most batches lie in one window, and neighbours in the same.
fn split_by_window(window: WindowKind, times: &[i64]) -> Vec<(i64, WindowRows)> {
    let WindowKind::Tumble { size_ms, .. } = window;
    let (least, greatest) = times.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &t| (lo.min(t), hi.max(t)));
    let last = window_end(window, greatest);
    if window_end(window, least) == last {
        return vec![(last, WindowRows::All(times.len()))];
    }
    let mut slots: BTreeMap<i64, usize> = BTreeMap::new();
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let (mut start, mut end, mut slot) = (1, 0, 0);
    for (row, &time) in times.iter().enumerate() {
        if !(start..end).contains(&time) {
            end = window_end(window, time);
            start = end.saturating_sub(size_ms);
            slot = *slots.entry(end).or_insert(rows.len());
            if slot == rows.len() {
                rows.push(Vec::new());
            }
        }
        rows[slot].push(row as u32);
    }
    slots.into_iter().map(|(end, slot)| (end, WindowRows::Some(std::mem::take(&mut rows[slot])))).collect()
}

/// The same values under another type of the same width.
fn retyped(array: &dyn Array, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    Ok(make_array(array.to_data().into_builder().data_type(data_type.clone()).build()?))
}
