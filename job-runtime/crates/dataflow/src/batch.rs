//! What travels along the edges of the dataflow: batches, event time and barriers.
//!
//! Owns the vocabulary of edges; queues are in `exchange`, decisions in `worker`.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::watermark::EventTime;
use crate::worker::CommitId;

/// A batch and, behind an exchange, the hash of each row's key (computed once, used by the exchange and by the state behind it). Of a source whose
/// partitions an operator relies on (see [`crate::placement`]), hashes say where each row's state lies, and go on with the rows.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The rows.
    pub rows: RecordBatch,
    /// `xxh3_64` of each row's encoded key, by the keys of the exchange that the batch came through last. Of rows that lie with their source
    /// partition: any hash in the key group of that.
    pub hashes: Option<Arc<[u64]>>,
    /// True if these are partial aggregates for the window behind an exchange, made on another pod.
    pub partial: bool,
}

impl Batch {
    /// A batch without hashes.
    pub fn new(rows: RecordBatch) -> Self {
        Self { rows, hashes: None, partial: false }
    }
}

/// One element of an edge, in order.
#[derive(Clone, Debug)]
pub enum Element {
    /// Rows.
    Batch(Batch),
    /// Event time moved, or the edge went idle or came back. [`EventTime::END`] is the end of the input.
    EventTime(EventTime),
    /// The barrier of a commit: what stood before it belongs to the commit, what follows does not.
    Barrier(CommitId),
}
