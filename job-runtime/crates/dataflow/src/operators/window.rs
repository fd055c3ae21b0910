//! `GROUP BY keys, window`: aggregates per key and tumbling window, emitted when the watermark passes the window's end.
//!
//! Owns the open windows: what of them is in memory, what changed since the last barrier, and what is only in the stores. It does not own
//! a store: changes go out with the commit, and entries that memory has no room for are read from the stores when they are needed.
//!
//! A window is emitted once; windows are emitted in the order of their ends. Its rows come in the order of their encoded keys if it was in memory
//! as a whole, else in the order of key groups and then of keys. A row whose window has closed is late: dropped and counted.
//!
//! # Memory
//! A group (one key of one window) may leave memory once the commit that holds its last change is in the store: the least recently written
//! ones go first. Each window knows the key groups that something was taken out of; only a new key in one of these is looked up, with one
//! `multi_get` per shard, window and batch. A window that has lost nothing never asks a store.
//!
//! # Stored layout
//! State key: `key group u16 BE | uid u32 BE | window end i64 BE with the sign bit flipped | encoded key` (see [`crate::key`]).
//! Value, version 1: `version u8 = 1 | per aggregate, in order, the accumulator` (see `accumulator`).
//!
//! One more entry per shard says which windows have been emitted, so that a late row cannot open one again after a restart, and which windows
//! have entries in the shard, so that a start need not read them. Key: the shard's first key group, the uid, and eight zero bytes (the least
//! window end, which no row has). Value, version 2:
//! `version u8 = 2 | end of the shard's key groups u16 LE | greatest emitted window end i64 LE | window ends i64 LE each`.
//! Version 1 had only the greatest emitted end; a shard that has only that is searched for its windows at the start.

mod accumulator;
mod assign;
mod emit;
mod groups;
mod memory;
pub(crate) mod partial;
#[cfg(test)]
mod resharded;
mod restore;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, make_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;

use super::StateSize;
use super::placing::Placing;
use crate::batch::Batch;
use crate::graph::{Node, OperatorUid, WindowAggregateNode, WindowKind};
use crate::key::{KeyDecoder, KeyEncoder, KeyGroup, KeyGroupSet, ShardId, Shards, UnsupportedKey, group_of};
use crate::state::{ChangeBatch, Changes, StateError, Stores, state_key_prefix};
use crate::watermark::NO_WATERMARK;
use crate::worker::CommitId;
use accumulator::Call;
use assign::{WindowRows, split_by_window};
use emit::Firing;
use groups::Groups;
use partial::Input;

/// Version of a group's value.
const VERSION: u8 = 1;
/// Version of a shard's note of its windows.
const NOTE_VERSION: u8 = 2;
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
    /// A store cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Columns do not make a batch.
    #[error("the results do not fit the output")]
    Arrow(#[from] ArrowError),
}

impl WindowError {
    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::Damaged { message: message.into() }
    }
}

/// One open window.
struct Open {
    groups: Groups,
    /// Key groups of which the store has, or is about to get, an entry.
    stored: KeyGroupSet,
    /// Key groups of which the store may have entries that memory has not.
    spilled: KeyGroupSet,
}

/// One `GROUP BY keys, window` on one worker.
pub struct WindowAggregate {
    uid: OperatorUid,
    window: WindowKind,
    rowtime: usize,
    rowtime_name: String,
    encoder: KeyEncoder,
    /// Of the keys of partial aggregates, which come first there.
    partial_encoder: KeyEncoder,
    decoder: KeyDecoder,
    placing: Placing,
    calls: Vec<Call>,
    schema: SchemaRef,
    shards: Shards,
    /// Open windows by end.
    open: BTreeMap<i64, Open>,
    /// The window that is being emitted.
    firing: Option<Firing>,
    watermark_ms: i64,
    /// Greatest window end that was emitted since the start.
    closed_through: i64,
    /// Greatest window end that was emitted before the start, of any shard.
    restored_closed: i64,
    /// What is stored of both and of the windows, per owned shard. Shards come from workers and pods that had come to different ends.
    notes: BTreeMap<ShardId, Note>,
    /// Where there are notes of smaller shards that are one now: they go when the whole has its own.
    parts: BTreeMap<ShardId, Vec<KeyGroup>>,
    /// Changes since the last barrier that are not in `open`: deletes of emitted windows.
    deletes: Changes,
    /// The last commit whose changes were taken, and the last that is in the stores; the numbers wrap around.
    taken: u32,
    applied: u32,
    /// Size of the groups of `open`.
    bytes: usize,
    late_dropped: u64,
    rows: u64,
    misses: u64,
    evictions: u64,
}

/// What a shard's note says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Note {
    /// End of the shard's key groups, so that a shard that is cut differently later knows what the note is of.
    groups_end: u16,
    closed_through: i64,
    /// Ends of windows with entries in the shard, ascending.
    windows: Vec<i64>,
}

impl WindowAggregate {
    /// For a node of the graph that reads rows of `input`, whose keys are placed as `placing` says.
    ///
    /// # Errors
    /// When a key or an aggregate is of a type that the engine does not know.
    pub fn new(
        node: &Node,
        spec: &WindowAggregateNode,
        input: &Schema,
        shards: Shards,
        owned: &[ShardId],
        placing: Placing,
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
            partial_encoder: partial::key_encoder(spec, input)?,
            decoder: KeyDecoder::new(input, &spec.keys)?,
            placing,
            calls: spec.aggregates.iter().enumerate().map(call).collect::<Result<_, _>>()?,
            schema: Arc::clone(&node.schema),
            shards,
            open: BTreeMap::new(),
            firing: None,
            watermark_ms: NO_WATERMARK,
            closed_through: NO_WATERMARK,
            restored_closed: NO_WATERMARK,
            notes: owned.iter().map(|&shard| (shard, Note::nothing(shards.groups(shard).end))).collect(),
            parts: BTreeMap::new(),
            deletes: Changes::default(),
            taken: 0,
            applied: 0,
            bytes: 0,
            late_dropped: 0,
            rows: 0,
            misses: 0,
            evictions: 0,
        })
    }

    /// How much is held, and what was done.
    pub fn size(&self) -> StateSize {
        StateSize {
            entries: self.open.values().map(|open| open.groups.len() as u64).sum(),
            bytes: self.bytes as u64,
            late_dropped: self.late_dropped,
            hits: self.rows - self.misses.min(self.rows),
            misses: self.misses,
            evictions: self.evictions,
        }
    }

    /// Takes the rows of a batch into their windows.
    ///
    /// # Errors
    /// See [`WindowError`]; the operator is then of no further use.
    pub fn update(&mut self, batch: &Batch, stores: &Stores) -> Result<(), WindowError> {
        let rows = &batch.rows;
        if rows.num_rows() == 0 {
            return Ok(());
        }
        let Input { times, keys, arguments } = self.input(batch)?;
        let hashes = self.placing.hashes(batch, &keys);
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
            self.rows += rows.len() as u64;
            let open = self.open.entry(end).or_insert_with(|| Open::new(Groups::new(&self.encoder, &self.calls)));
            let before = open.groups.bytes();
            let new = open.groups.find(&keys, &hashes, &rows.rows());
            if !new.is_empty() && !open.spilled.is_empty() {
                self.misses += open.fetch(new, self.uid, end, stores)?;
            }
            open.groups.accumulate(&rows.rows(), &arguments, &self.calls)?;
            self.bytes = self.bytes + open.groups.bytes() - before;
        }
        Ok(())
    }

    /// The rows of a window whose shards had not emitted it before the start; the others are late.
    fn not_emitted(&mut self, end: i64, rows: &WindowRows, hashes: &[u64]) -> WindowRows {
        let mut open = Vec::with_capacity(rows.len());
        rows.rows().each(|row| {
            let shard = self.shards.shard_of(group_of(hashes[row]));
            if self.notes.get(&shard).is_none_or(|note| note.closed_through < end) {
                open.push(row as u32);
            }
        });
        self.late_dropped += (rows.len() - open.len()) as u64;
        WindowRows::Some(open)
    }

    /// The changes since the last barrier, which go into commit `commit`.
    pub fn take_changes(&mut self, commit: CommitId) -> Vec<(ShardId, ChangeBatch)> {
        self.taken = commit.0 as u32;
        let mut changes = std::mem::take(&mut self.deletes);
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (&end, open) in &mut self.open {
            let groups = &mut open.groups;
            for group in groups.take_dirty(self.taken) {
                let key_group = group_of(groups.hash(group));
                write_state_key(&mut key, key_group, self.uid, end);
                groups.write_key(group, &mut key);
                value.clear();
                value.push(VERSION);
                groups.accumulators().iter().for_each(|a| a.write(group, &mut value));
                changes.of(self.shards, key_group).put(&key, &value);
                open.stored.insert(key_group);
            }
        }
        self.write_notes(&mut changes);
        changes.into_shards()
    }

    /// Writes the note of each shard for which it is not what is stored.
    fn write_notes(&mut self, changes: &mut Changes) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (&shard, stored) in &mut self.notes {
            let groups = self.shards.groups(shard);
            let has_entries = |(end, open): (&i64, &Open)| open.stored.any_in(&groups).then_some(*end);
            let firing = self.firing.as_ref().filter(|firing| firing.has_entries(&groups)).map(Firing::end);
            let windows = firing.into_iter().chain(self.open.iter().filter_map(has_entries)).collect();
            let closed_through = stored.closed_through.max(self.closed_through);
            let note = Note { groups_end: groups.end, closed_through, windows };
            if note == *stored {
                continue;
            }
            let key_group = KeyGroup(groups.start);
            write_state_key(&mut key, key_group, self.uid, NO_WATERMARK);
            note.write(&mut value);
            let batch = changes.of(self.shards, key_group);
            batch.put(&key, &value);
            for part in self.parts.remove(&shard).unwrap_or_default() {
                write_state_key(&mut key, part, self.uid, NO_WATERMARK);
                batch.delete(&key);
            }
            *stored = note;
        }
    }
}

impl Note {
    fn nothing(groups_end: u16) -> Self {
        Self { groups_end, closed_through: NO_WATERMARK, windows: Vec::new() }
    }
}

impl Open {
    fn new(groups: Groups) -> Self {
        Self { groups, stored: KeyGroupSet::default(), spilled: KeyGroupSet::default() }
    }
}

fn write_state_key(out: &mut Vec<u8>, group: KeyGroup, uid: OperatorUid, end: i64) {
    out.clear();
    state_key_prefix(group, uid, out);
    out.extend_from_slice(&(end as u64 ^ (1 << 63)).to_be_bytes());
}

/// The same values under another type of the same width.
fn retyped(array: &dyn Array, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
    Ok(make_array(array.to_data().into_builder().data_type(data_type.clone()).build()?))
}
