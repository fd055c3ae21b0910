//! The first row of each key: `ROW_NUMBER() OVER (PARTITION BY keys ORDER BY time) … = 1`, and `SELECT DISTINCT`.
//!
//! Owns which row is the first and when it goes on. It never takes one back. It does not own memory or stores (see [`crate::state::keyed`]).
//!
//! By arrival, a key's first row goes on at once. In event time, the least row of a key is held until the watermark has reached its time: no row
//! that is expected any more can come before it. Of two rows at the same time the one with the lesser encoding is the first, so
//! that the answer does not depend on who came first. A row whose time the watermark has reached is late if its key has not gone on: dropped and counted.
//!
//! # State
//! One value per key. Of no length: the key's row has gone on, and the key is remembered for the operator's time to live. Else it is the row that is held:
//! the time column and then all columns that are not keys, in the order of the schema, in the row encoding. A timer at the row's time stands
//! beside it. Neither expires.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;

use super::placing::Placing;
use super::{StateSize, Stateful, calc};
use crate::batch::Batch;
use crate::columns::native_values;
use crate::graph::{DeduplicateNode, FirstBy, Node};
use crate::key::{EncodedKeys, KeyDecodeError, KeyDecoder, KeyEncoder, ShardId, Shards, UnsupportedKey};
use crate::state::keyed::{
    Columns, Description, Due, KeyedError, Lifetime, Scope, ScopeConfig, Timers, ValueState, time_of,
};
use crate::state::{ChangeBatch, Changes, Stores};
use crate::watermark::NO_WATERMARK;
use crate::worker::CommitId;

/// Rows of an emitted batch.
const EMIT_ROWS: usize = 8192;

/// Deduplication cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DeduplicateError {
    /// A row without event time.
    #[error(
        "column {column} is null: event time must not be null; leave such rows out with WHERE {column} IS NOT NULL"
    )]
    NullRowtime {
        /// The rowtime column.
        column: String,
    },
    /// A column's type has no encoding.
    #[error(transparent)]
    Key(#[from] UnsupportedKey),
    /// State cannot be read.
    #[error(transparent)]
    Keyed(#[from] KeyedError),
    /// A stored row cannot be read.
    #[error("a stored row cannot be read")]
    Row(#[from] KeyDecodeError),
    /// Columns do not make a batch.
    #[error("the rows do not fit the output")]
    Arrow(#[from] ArrowError),
}

/// The first row of each key on one worker.
pub struct Deduplicate {
    keys: Vec<usize>,
    encoder: KeyEncoder,
    schema: SchemaRef,
    placing: Placing,
    scope: Scope,
    seen: ValueState,
    /// In event time only.
    held: Option<Held>,
    rows: u64,
    late_dropped: u64,
}

/// What holding rows needs.
struct Held {
    /// The time column, then all that are no keys.
    columns: Vec<usize>,
    rowtime_name: String,
    encoder: KeyEncoder,
    decoder: KeyDecoder,
    keys: KeyDecoder,
    timers: Timers,
    due: Due,
    watermark_ms: i64,
}

impl Deduplicate {
    /// For a node of the graph, whose keys are placed as `placing` says.
    ///
    /// # Errors
    /// When a column is of a type that the engine does not know.
    pub fn new(
        node: &Node,
        spec: &DeduplicateNode,
        shards: Shards,
        owned: &[ShardId],
        placing: Placing,
    ) -> Result<Self, DeduplicateError> {
        let schema = &node.schema;
        let columns = match spec.first {
            FirstBy::Arrival => Vec::new(),
            FirstBy::EventTime { rowtime } => {
                let rest = (0..schema.fields().len()).filter(|i| *i != rowtime && !spec.keys.contains(i));
                std::iter::once(rowtime).chain(rest).collect()
            }
        };
        let described = |list: &[usize]| -> Columns {
            list.iter().map(|&i| (schema.field(i).name().clone(), schema.field(i).data_type().clone())).collect()
        };
        let description = Description {
            name: node.name.clone(),
            keys: described(&spec.keys),
            map_keys: Vec::new(),
            values: described(&columns),
        };
        let scope = Scope::new(ScopeConfig {
            uid: node.uid,
            shards,
            owned,
            ttl: spec.ttl,
            apart: placing.carries(),
            description,
        });
        let held = match spec.first {
            FirstBy::Arrival => None,
            FirstBy::EventTime { rowtime } => Some(Held::new(schema, spec, columns, rowtime, &scope)?),
        };
        Ok(Self {
            keys: spec.keys.clone(),
            encoder: KeyEncoder::new(schema, &spec.keys)?,
            schema: Arc::clone(schema),
            placing,
            seen: ValueState::new(&scope, 0),
            scope,
            held,
            rows: 0,
            late_dropped: 0,
        })
    }

    /// Finds out what the stores have. Called before any row.
    ///
    /// # Errors
    /// When a store cannot be read, or what is in it was not written by an operator like this.
    pub fn restore(&mut self, stores: &Stores) -> Result<(), DeduplicateError> {
        self.scope.restore(stores)?;
        self.seen = ValueState::new(&self.scope, 0);
        if let Some(held) = &mut self.held {
            held.timers = Timers::new(&self.scope, 0);
        }
        Ok(())
    }

    /// Takes a batch; returns the rows of it that go on at once.
    ///
    /// # Errors
    /// See [`DeduplicateError`]; the operator is then of no further use.
    pub fn update(&mut self, batch: &Batch, stores: &Stores) -> Result<Option<Batch>, DeduplicateError> {
        let rows = &batch.rows;
        let keys = self.encoder.encode(rows);
        let hashes = self.placing.hashes(batch, &keys);
        self.rows += rows.num_rows() as u64;
        self.seen.find(&self.scope, stores, &keys, &hashes)?;
        match &mut self.held {
            None => {
                let first = first_by_arrival(&mut self.seen, &self.scope, rows.num_rows());
                let Some(rows) = calc::select(&first, rows)? else { return Ok(None) };
                let hashes = self.placing.carries().then(|| calc::select_hashes(&first, &hashes));
                Ok(Some(Batch { rows, hashes, partial: false }))
            }
            Some(held) => {
                self.late_dropped += held.take(&mut self.seen, &self.scope, rows, (&keys, &hashes))?;
                Ok(None)
            }
        }
    }

    /// The watermark has reached `watermark_ms`: the next batch of rows that go on now; `None` if there is no more. Called again until then,
    /// before anything else.
    ///
    /// # Errors
    /// See [`DeduplicateError`].
    pub fn fire_next(&mut self, watermark_ms: i64, stores: &Stores) -> Result<Option<Batch>, DeduplicateError> {
        self.scope.advance(watermark_ms);
        let Some(held) = &mut self.held else { return Ok(None) };
        held.watermark_ms = held.watermark_ms.max(watermark_ms);
        loop {
            held.timers.pop_due(&self.scope, stores, held.watermark_ms, EMIT_ROWS, &mut held.due)?;
            if held.due.is_empty() {
                return Ok(None);
            }
            self.seen.find_keys(&self.scope, stores, held.due.keys())?;
            let mut hashes = Vec::new();
            if let Some(columns) = held.release(&mut self.seen, &self.scope, &mut hashes)? {
                let mut all: Vec<Option<ArrayRef>> = vec![None; self.schema.fields().len()];
                let places = held.columns.iter().chain(&self.keys);
                places.zip(columns).for_each(|(&place, column)| all[place] = Some(column));
                let all = all.into_iter().collect::<Option<Vec<_>>>();
                let all = all.expect("every column is the time, a key or one of the rest");
                let rows = RecordBatch::try_new(Arc::clone(&self.schema), all)?;
                let hashes = self.placing.carries().then(|| hashes.into());
                return Ok(Some(Batch { rows, hashes, partial: false }));
            }
        }
    }

    /// The changes since the last barrier, which go into commit `commit`.
    pub fn take_changes(&mut self, commit: CommitId) -> Vec<(ShardId, ChangeBatch)> {
        let mut changes = Changes::default();
        self.scope.begin(commit);
        self.seen.take_changes(&self.scope, &mut changes);
        match &mut self.held {
            None => self.scope.write_notes(std::iter::empty(), &mut changes),
            Some(held) => {
                held.timers.take_changes(&self.scope, &mut changes);
                self.scope.write_notes(held.timers.buckets(), &mut changes);
            }
        }
        changes.into_shards()
    }
}

/// Which rows are the first of their keys.
fn first_by_arrival(seen: &mut ValueState, scope: &Scope, rows: usize) -> BooleanArray {
    let first = |row| {
        let slot = seen.slot(row);
        let first = seen.get(scope, slot).is_none();
        if first {
            seen.set(scope, slot, Lifetime::Ttl, &[]);
        }
        first
    };
    BooleanArray::new((0..rows).map(first).collect(), None)
}

/// Time of a row in the row encoding, whose first column it is: a marker, then eight bytes.
fn time_in(row: &[u8]) -> Result<i64, KeyedError> {
    match row {
        [1, rest @ ..] => rest.first_chunk::<8>().map(|time| time_of(*time)),
        _ => None,
    }
    .ok_or_else(|| KeyedError::damaged("a row that is held has no time"))
}

impl Held {
    fn new(
        schema: &Schema,
        spec: &DeduplicateNode,
        columns: Vec<usize>,
        rowtime: usize,
        scope: &Scope,
    ) -> Result<Self, UnsupportedKey> {
        Ok(Self {
            rowtime_name: schema.field(rowtime).name().clone(),
            encoder: KeyEncoder::exact(schema, &columns)?,
            decoder: KeyDecoder::new(schema, &columns)?,
            keys: KeyDecoder::new(schema, &spec.keys)?,
            columns,
            timers: Timers::new(scope, 0),
            due: Due::default(),
            watermark_ms: NO_WATERMARK,
        })
    }

    /// Holds each row that is before what is held of its key; returns how many were late.
    fn take(
        &mut self,
        seen: &mut ValueState,
        scope: &Scope,
        rows: &RecordBatch,
        (keys, hashes): (&EncodedKeys, &[u64]),
    ) -> Result<u64, DeduplicateError> {
        let rowtime = rows.column(self.columns[0]);
        if rowtime.null_count() > 0 {
            return Err(DeduplicateError::NullRowtime { column: self.rowtime_name.clone() });
        }
        let times = native_values::<i64>(rowtime.as_ref());
        let encoded = self.encoder.encode(rows);
        let (mut late, mut row_bytes, mut key_bytes) = (0, Vec::new(), Vec::new());
        for (row, &time_ms) in times.iter().enumerate() {
            let slot = seen.slot(row);
            let bytes = encoded.bytes_of(row, &mut row_bytes);
            let before = match seen.get(scope, slot) {
                // One of the key has gone on.
                Some([]) => continue,
                Some(_) | None if time_ms <= self.watermark_ms => {
                    late += 1;
                    continue;
                }
                Some(held) if held <= bytes => continue,
                Some(held) => Some(time_in(held)?),
                None => None,
            };
            seen.set(scope, slot, Lifetime::Kept, bytes);
            if before == Some(time_ms) {
                continue;
            }
            let (key, hash) = (keys.bytes_of(row, &mut key_bytes), hashes[row]);
            if let Some(before) = before {
                self.timers.remove(scope, before, key, hash);
            }
            self.timers.set(scope, time_ms, key, hash);
        }
        Ok(late)
    }

    /// The rows of the timers that are due, whose keys were found: the held columns, then the keys; `hashes` gets those of the keys. The keys are
    /// remembered from now on.
    fn release(
        &self,
        seen: &mut ValueState,
        scope: &Scope,
        hashes: &mut Vec<u64>,
    ) -> Result<Option<Vec<ArrayRef>>, DeduplicateError> {
        let (mut rows, mut ends, mut keys) = (Vec::new(), Vec::new(), Vec::new());
        for at in 0..self.due.len() {
            let slot = seen.slot(at);
            match seen.get(scope, slot) {
                Some(held) if !held.is_empty() && time_in(held)? == self.due.time_ms(at) => {
                    rows.extend_from_slice(held);
                    ends.push(rows.len());
                    keys.push(self.due.key(at));
                    hashes.push(self.due.hash(at));
                }
                Some(_) | None => continue,
            }
            seen.set(scope, slot, Lifetime::Ttl, &[]);
        }
        if keys.is_empty() {
            return Ok(None);
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let rows: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &rows[start..end]).collect();
        let mut columns = self.decoder.decode(&rows)?;
        columns.extend(self.keys.decode(&keys)?);
        Ok(Some(columns))
    }
}

impl Stateful for Deduplicate {
    fn size(&self) -> StateSize {
        let timers = self.held.as_ref().map(|held| &held.timers);
        let (seen, set) = (self.seen.touches(), timers.map(Timers::touches).unwrap_or_default());
        StateSize {
            entries: self.seen.entries() + timers.map_or(0, Timers::entries),
            bytes: self.seen.bytes() + timers.map_or(0, Timers::bytes),
            late_dropped: self.late_dropped,
            hits: self.rows - seen.misses.min(self.rows),
            misses: seen.misses + set.misses,
            evictions: seen.evictions + set.evictions,
        }
    }

    fn is_behind(&self) -> bool {
        let timers = self.held.as_ref().is_some_and(|held| held.timers.is_dirty());
        self.scope.is_pending() || self.seen.is_dirty() || timers
    }

    fn on_applied(&mut self, commit: CommitId, stores: &Stores) {
        self.scope.on_applied(commit, stores);
    }

    fn leave(&mut self, shards: &[ShardId]) {
        self.scope.leave(shards);
        self.seen.leave(&self.scope, shards);
        if let Some(held) = &mut self.held {
            held.timers.leave(&self.scope, shards);
        }
    }

    fn evict(&mut self, bytes: u64) {
        let all = self.size().bytes.max(1);
        let timers = self.held.as_ref().map_or(0, |held| held.timers.bytes());
        let share = (u128::from(bytes) * u128::from(timers) / u128::from(all)) as u64;
        if let Some(held) = &mut self.held {
            held.timers.evict(&self.scope, share);
        }
        self.seen.evict(&self.scope, bytes - share);
    }
}

#[cfg(test)]
mod tests;
