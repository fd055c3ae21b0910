//! What a worker asks of a source: one partition at a time, decoded batches and a position, never blocking.
//!
//! Owns the contract only; connectors live in the runtime. A partition's fetching runs on I/O threads behind the implementation's own
//! bounded queue; `poll` only takes what is there and decodes it.

use arrow::array::RecordBatch;

use crate::key::{KeyGroup, ShardId};
use crate::sink::EncodedRows;

/// Name of a source partition, stable over restarts: `0`, `flights-3`, `part-0007.csv`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId(pub String);

/// Where to go on reading: the place after the last row given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePosition {
    /// A Kafka offset: committed with the transaction where the commit log can, else kept as state.
    Kafka {
        /// Topic.
        topic: String,
        /// Partition of the topic.
        partition: i32,
        /// The next offset to read.
        next_offset: i64,
    },
    /// The connector's own encoding (versioned by the connector), kept as state.
    Opaque(Vec<u8>),
}

/// How far a partition is read, and what its rows have said about event time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The place after the last row given out.
    pub position: SourcePosition,
    /// The watermark behind the rows before that place; `None` if they stand for none. Never the end of time: more may be added behind the place.
    pub watermark_ms: Option<i64>,
}

/// What `poll` found.
#[derive(Debug)]
pub enum SourcePoll {
    /// Rows, with the columns of `SourceNode::decoded`. May be empty if only malformed rows were skipped (the position still moved).
    Batch(RecordBatch),
    /// Nothing now; the partition will wake the worker when there is.
    Pending,
    /// The partition is at its end for ever (bounded input).
    End,
}

/// One partition of a source, owned by one worker.
pub trait SourcePartition: Send {
    /// The partition's stable name.
    fn id(&self) -> &PartitionId;
    /// Takes what is there: at most about `max_rows` rows. Never blocks.
    ///
    /// # Errors
    /// When the job must stop: the message names the place (file and line, or topic, partition and offset) and what is wrong.
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError>;
    /// Records of the last poll that did not fit, encoded for where the table's dead letters go. They join the commit that the position
    /// behind them joins. Called after every poll.
    fn take_letters(&mut self) -> Option<EncodedRows> {
        None
    }
    /// The key group that stands for the partition, if the plan relies on how the source is distributed: there lies the state of its rows' keys.
    fn key_group(&self) -> Option<KeyGroup> {
        None
    }
    /// The place after the last row given out. Cheap: called at every barrier.
    fn position(&self) -> SourcePosition;
    /// The shard with which the partition passes to another pod; `None` if it never does.
    fn shard(&self) -> Option<ShardId> {
        None
    }
    /// [`Reached::watermark_ms`] of the place that the partition was opened at, if it was read before: its event time goes on from there.
    fn known_ms(&self) -> Option<i64> {
        None
    }
}

/// A source cannot go on.
#[derive(Debug, thiserror::Error)]
#[error("source {table}, {place}: {message}")]
pub struct SourceError {
    /// The table.
    pub table: String,
    /// File and line, or topic, partition and offset.
    pub place: String,
    /// What is wrong and what to do.
    pub message: String,
}
