//! Aggregating before the shuffle: rows for other pods become one row per key and window and commit.
//!
//! Owns the groups of one interval and their form as a batch. There is no state: a barrier takes everything. The pod that owns the keys takes the
//! batch in as if its rows had come there (see `WindowAggregate::update`).
//!
//! # The batch
//! The key columns, then the time column with the last moment of the window, then each aggregate's columns (see `accumulator::partial`).

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, Int64Array, RecordBatch};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::accumulator::{Argument, Call};
use super::assign::split_by_window;
use super::groups::Groups;
use super::{WindowAggregate, WindowError, retyped};
use crate::batch::Batch;
use crate::columns::native_values;
use crate::graph::{Node, WindowAggregateNode, WindowKind};
use crate::key::{EncodedKeys, KeyDecoder, KeyEncoder, UnsupportedKey};

/// Rows of a batch that is given out.
const BATCH_ROWS: usize = 8192;

/// Aggregates that go before a shuffle, of one worker.
pub(crate) struct Preaggregate {
    window: WindowKind,
    rowtime: usize,
    encoder: KeyEncoder,
    decoder: KeyDecoder,
    calls: Vec<Call>,
    schema: SchemaRef,
    open: BTreeMap<i64, Groups>,
    rows: usize,
}

/// What a window takes of a batch.
pub(super) struct Input {
    pub(super) times: ScalarBuffer<i64>,
    pub(super) keys: EncodedKeys,
    pub(super) arguments: Vec<Argument>,
}

impl WindowAggregate {
    /// Of rows, or of partial aggregates of another pod.
    pub(super) fn input(&self, batch: &Batch) -> Result<Input, WindowError> {
        let rows = &batch.rows;
        let keys = self.decoder.width();
        let rowtime = rows.column(if batch.partial { keys } else { self.rowtime });
        if rowtime.null_count() > 0 {
            return Err(WindowError::NullRowtime { column: self.rowtime_name.clone() });
        }
        let times = native_values::<i64>(rowtime.as_ref());
        if !batch.partial {
            let arguments = self.calls.iter().map(|call| call.argument(rows)).collect();
            return Ok(Input { times, keys: self.encoder.encode(rows), arguments });
        }
        let mut column = keys + 1;
        let argument = |call: &Call| {
            let argument = call.partial_argument(rows, column);
            column += call.partial_types().len();
            argument
        };
        let arguments = self.calls.iter().map(argument).collect();
        Ok(Input { times, keys: self.partial_encoder.encode(rows), arguments })
    }
}

/// The keys of partial aggregates.
pub(super) fn key_encoder(spec: &WindowAggregateNode, input: &Schema) -> Result<KeyEncoder, UnsupportedKey> {
    let fields: Vec<Field> = spec.keys.iter().map(|&key| input.field(key).clone()).collect();
    KeyEncoder::new(&Schema::new(fields), &(0..spec.keys.len()).collect::<Vec<_>>())
}

/// The schema of partial aggregates of a window over rows of `input`.
pub(crate) fn schema(node: &Node, spec: &WindowAggregateNode, input: &Schema) -> Result<SchemaRef, WindowError> {
    Ok(schema_of(spec, input, &calls(node, spec)?))
}

fn calls(node: &Node, spec: &WindowAggregateNode) -> Result<Vec<Call>, WindowError> {
    let first = spec.keys.len() + 2;
    let call = |(i, call)| Call::new(call, node.schema.field(first + i).name());
    spec.aggregates.iter().enumerate().map(call).collect()
}

fn schema_of(spec: &WindowAggregateNode, input: &Schema, calls: &[Call]) -> SchemaRef {
    let mut fields: Vec<Field> = spec.keys.iter().map(|&key| input.field(key).clone()).collect();
    fields.push(input.field(spec.rowtime).clone());
    let types = calls.iter().flat_map(Call::partial_types).enumerate();
    fields.extend(types.map(|(i, data_type)| Field::new(format!("partial {i}"), data_type, true)));
    Arc::new(Schema::new(fields))
}

impl Preaggregate {
    /// For a window aggregate over rows of `input`.
    pub(crate) fn new(node: &Node, spec: &WindowAggregateNode, input: &Schema) -> Result<Self, WindowError> {
        let calls = calls(node, spec)?;
        Ok(Self {
            window: spec.window,
            rowtime: spec.rowtime,
            encoder: KeyEncoder::new(input, &spec.keys)?,
            decoder: KeyDecoder::new(input, &spec.keys)?,
            schema: schema_of(spec, input, &calls),
            calls,
            open: BTreeMap::new(),
            rows: 0,
        })
    }

    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Rows taken and groups made of them since the last [`Preaggregate::take`].
    pub(crate) fn reduction(&self) -> (usize, usize) {
        (self.rows, self.open.values().map(Groups::len).sum())
    }

    /// Takes in rows that have event time, with the hash of each row's key.
    pub(crate) fn update(&mut self, batch: &RecordBatch, hashes: &[u64]) -> Result<(), WindowError> {
        let times = batch.column(self.rowtime);
        if times.null_count() > 0 {
            let column = batch.schema().field(self.rowtime).name().clone();
            return Err(WindowError::NullRowtime { column });
        }
        let times = native_values::<i64>(times.as_ref());
        let keys = self.encoder.encode(batch);
        let arguments = self.calls.iter().map(|call| call.argument(batch)).collect::<Vec<_>>();
        for (end, rows) in split_by_window(self.window, &times) {
            let groups = self.open.entry(end).or_insert_with(|| Groups::new(&self.encoder, &self.calls));
            groups.find(&keys, hashes, &rows.rows());
            groups.accumulate(&rows.rows(), &arguments, &self.calls)?;
        }
        self.rows += batch.num_rows();
        Ok(())
    }

    /// All groups, as batches with the hashes of their keys; nothing is left.
    pub(crate) fn take(&mut self) -> Result<Vec<(RecordBatch, Vec<u64>)>, WindowError> {
        self.rows = 0;
        let mut out = Vec::new();
        for (end, groups) in std::mem::take(&mut self.open) {
            let all: Vec<u32> = (0..groups.len() as u32).collect();
            for order in all.chunks(BATCH_ROWS) {
                out.push((self.batch(end, &groups, order)?, order.iter().map(|&group| groups.hash(group)).collect()));
            }
        }
        Ok(out)
    }

    fn batch(&self, end: i64, groups: &Groups, order: &[u32]) -> Result<RecordBatch, WindowError> {
        let (mut encoded, mut ends) = (Vec::new(), Vec::with_capacity(order.len()));
        for &group in order {
            groups.write_key(group, &mut encoded);
            ends.push(encoded.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let keys: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &encoded[start..end]).collect();
        let mut columns = self.decoder.decode(&keys)?;
        let last = Int64Array::from(vec![end - 1; order.len()]);
        columns.push(retyped(&last, self.schema.field(columns.len()).data_type())?);
        for (accumulator, call) in groups.accumulators().iter().zip(&self.calls) {
            columns.extend(accumulator.partial(order, call)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), columns)?)
    }
}

#[cfg(test)]
mod tests;
