//! One worker's side of an exchange for the shards of other pods: rows gathered per shard until the barrier, and the event time behind them.
//!
//! Owns the gathering, and whether rows are aggregated first. What becomes of the blocks is decided for the whole pod (see `outgoing`).
//!
//! Aggregating first pays only if keys repeat within an interval. If it made fewer than half as many rows of them, the next
//! [`PLAIN_INTERVALS`] intervals send rows as they are.

use std::collections::BTreeMap;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;

use super::block::{BlockBuilder, Source};
use super::{BlockKind, ShuffleBlock, ShuffleShare};
use crate::exchange::SplitError;
use crate::graph::NodeId;
use crate::key::{ShardId, Shards, group_of};
use crate::operators::window::WindowError;
use crate::operators::window::partial::Preaggregate;
use crate::watermark::EventTime;
use crate::worker::CommitId;

/// How many intervals go by before aggregating first is tried again.
const PLAIN_INTERVALS: u32 = 20;
/// Groups that may wait for the barrier.
const MOST_GROUPS: usize = 1 << 16;

pub(crate) struct Outbox {
    exchange: NodeId,
    shards: Shards,
    schema: SchemaRef,
    open: BTreeMap<ShardId, BlockBuilder>,
    aggregate: Option<Box<Preaggregate>>,
    /// So many intervals send rows as they are.
    plain: u32,
    time: EventTime,
    /// The commit that the rows gathered now belong to.
    interval: CommitId,
    /// How often event time has changed: each change may be due to be sent.
    changes: u64,
}

impl Outbox {
    /// `aggregate` is that of the window behind the exchange.
    pub(crate) fn new(
        exchange: NodeId,
        shards: Shards,
        schema: SchemaRef,
        aggregate: Option<Box<Preaggregate>>,
    ) -> Self {
        let (open, time, interval) = (BTreeMap::new(), EventTime::START, CommitId::FIRST);
        Self { exchange, shards, schema, open, aggregate, plain: 0, time, interval, changes: 0 }
    }

    pub(crate) fn interval(&self) -> CommitId {
        self.interval
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) fn on_time(&mut self, time: EventTime) {
        self.changes += u64::from(time != self.time);
        self.time = time;
    }

    /// Takes rows of a batch by shard, with the hashes of all its rows' keys; pushes blocks that are full to `full`.
    pub(crate) fn take<'a>(
        &mut self,
        batch: &RecordBatch,
        hashes: &[u64],
        parts: impl Iterator<Item = (ShardId, &'a [u32])>,
        full: &mut Vec<ShuffleBlock>,
    ) -> Result<(), SplitError> {
        let Some(aggregate) = self.aggregate.as_mut().filter(|_| self.plain == 0) else {
            let mut source = None;
            for (shard, rows) in parts {
                let source = source.get_or_insert_with(|| Source::new(batch));
                let open = self.open.entry(shard).or_insert_with(|| BlockBuilder::new(&self.schema));
                let filled = fill(open, source, rows).into_iter();
                full.extend(filled.map(|bytes| self::block(self.exchange, shard, BlockKind::Rows, bytes)));
            }
            return Ok(());
        };
        let rows: Vec<u32> = parts.flat_map(|(_, rows)| rows).copied().collect();
        if rows.is_empty() {
            return Ok(());
        }
        let hashes: Vec<u64> = rows.iter().map(|&row| hashes[row as usize]).collect();
        aggregate.update(&take_record_batch(batch, &UInt32Array::from(rows))?, &hashes)?;
        if aggregate.reduction().1 > MOST_GROUPS {
            self.take_aggregates(full)?;
        }
        Ok(())
    }

    /// The barrier of the interval: everything gathered.
    pub(crate) fn close(&mut self, id: CommitId) -> Result<ShuffleShare, WindowError> {
        self.interval = id.next();
        self.plain = self.plain.saturating_sub(1);
        let exchange = self.exchange;
        let filled = self.open.iter_mut().filter(|(_, open)| !open.is_empty());
        let rows = filled.map(|(shard, open)| block(exchange, *shard, BlockKind::Rows, open.finish()));
        let mut blocks: Vec<ShuffleBlock> = rows.collect();
        self.take_aggregates(&mut blocks)?;
        Ok(ShuffleShare { exchange, time: self.time, blocks })
    }

    /// What was aggregated, as blocks.
    fn take_aggregates(&mut self, out: &mut Vec<ShuffleBlock>) -> Result<(), WindowError> {
        let Some(aggregate) = &mut self.aggregate else { return Ok(()) };
        let (rows, groups) = aggregate.reduction();
        if groups * 2 > rows {
            self.plain = PLAIN_INTERVALS;
        }
        let mut open: BTreeMap<ShardId, BlockBuilder> = BTreeMap::new();
        for (batch, hashes) in aggregate.take()? {
            let mut parts: BTreeMap<ShardId, Vec<u32>> = BTreeMap::new();
            for (row, &hash) in hashes.iter().enumerate() {
                parts.entry(self.shards.shard_of(group_of(hash))).or_default().push(row as u32);
            }
            let source = Source::new(&batch);
            for (shard, rows) in parts {
                let open = open.entry(shard).or_insert_with(|| BlockBuilder::new(aggregate.schema()));
                let filled = fill(open, &source, &rows).into_iter();
                out.extend(filled.map(|bytes| block(self.exchange, shard, BlockKind::Partial, bytes)));
            }
        }
        let rest = open.iter_mut().filter(|(_, open)| !open.is_empty());
        out.extend(rest.map(|(shard, open)| block(self.exchange, *shard, BlockKind::Partial, open.finish())));
        Ok(())
    }
}

/// Puts rows into a block; returns those that were filled.
fn fill(open: &mut BlockBuilder, source: &Source, mut rows: &[u32]) -> Vec<Vec<u8>> {
    let mut full = Vec::new();
    loop {
        rows = &rows[open.take(source, rows)..];
        if rows.is_empty() {
            return full;
        }
        full.push(open.finish());
    }
}

fn block(exchange: NodeId, shard: ShardId, kind: BlockKind, bytes: Vec<u8>) -> ShuffleBlock {
    ShuffleBlock { exchange, shard, kind, bytes }
}
