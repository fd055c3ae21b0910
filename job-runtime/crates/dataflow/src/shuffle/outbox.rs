//! One worker's side of an exchange for the shards of other pods: rows gathered per shard until the barrier, and the event time behind them.
//!
//! Owns the gathering. What becomes of the blocks is decided for the whole pod (see `outgoing`).

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

use super::block::{BlockBuilder, Source};
use super::{ShuffleBlock, ShuffleShare};
use crate::graph::NodeId;
use crate::key::ShardId;
use crate::watermark::EventTime;
use crate::worker::CommitId;

pub(crate) struct Outbox {
    exchange: NodeId,
    schema: SchemaRef,
    open: BTreeMap<ShardId, BlockBuilder>,
    time: EventTime,
    /// The commit that the rows gathered now belong to.
    interval: CommitId,
    /// How often event time has changed: each change may be due to be sent.
    changes: u64,
}

impl Outbox {
    pub(crate) fn new(exchange: NodeId, schema: SchemaRef) -> Self {
        let (open, time) = (BTreeMap::new(), EventTime::START);
        Self { exchange, schema, open, time, interval: CommitId::FIRST, changes: 0 }
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

    /// Takes rows of a batch by shard; pushes blocks that are full to `full`.
    pub(crate) fn take<'a>(
        &mut self,
        batch: &RecordBatch,
        parts: impl Iterator<Item = (ShardId, &'a [u32])>,
        full: &mut Vec<ShuffleBlock>,
    ) {
        let mut source = None;
        for (shard, mut rows) in parts {
            let source = source.get_or_insert_with(|| Source::new(batch));
            let open = self.open.entry(shard).or_insert_with(|| BlockBuilder::new(&self.schema));
            loop {
                rows = &rows[open.take(source, rows)..];
                if rows.is_empty() {
                    break;
                }
                full.push(ShuffleBlock { exchange: self.exchange, shard, bytes: open.finish() });
            }
        }
    }

    /// The barrier of the interval: everything gathered.
    pub(crate) fn close(&mut self, id: CommitId) -> ShuffleShare {
        self.interval = id.next();
        let exchange = self.exchange;
        let filled = self.open.iter_mut().filter(|(_, open)| !open.is_empty());
        let blocks = filled.map(|(shard, open)| ShuffleBlock { exchange, shard: *shard, bytes: open.finish() });
        ShuffleShare { exchange, time: self.time, blocks: blocks.collect() }
    }
}
