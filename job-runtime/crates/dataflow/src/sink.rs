//! What a worker asks of a sink: turn batches into what the commit carries. Encoding runs on the worker; all I/O is the committer's.
//!
//! Owns the contract and the container of encoded rows; it does not know Kafka or files.

use arrow::array::RecordBatch;

use crate::graph::NodeId;

/// Rows encoded one after the other in one buffer, with the end of each; keys likewise, if the sink has keys.
///
/// Row `i` is `bytes[ends[i-1]..ends[i]]` (0 for the first). For files the separator is part of the row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodedRows {
    /// All rows.
    pub bytes: Vec<u8>,
    /// End of each row in `bytes`.
    pub ends: Vec<u32>,
    /// All keys, if the sink writes keys.
    pub key_bytes: Vec<u8>,
    /// End of each key in `key_bytes`; empty if the sink writes no keys, else as long as `ends`.
    pub key_ends: Vec<u32>,
    /// Event time of each row in milliseconds since 1970-01-01T00:00:00Z (the record's timestamp); empty if there is none.
    pub timestamps: Vec<i64>,
}

/// What a sink hands to the committer.
#[derive(Clone, Debug)]
pub enum SinkPayload {
    /// Encoded rows: Kafka, files.
    Rows(EncodedRows),
    /// The batch itself: print, blackhole.
    Batch(RecordBatch),
}

/// One piece of output of one commit interval.
#[derive(Clone, Debug)]
pub struct SinkChunk {
    /// The sink, or the source whose dead letters these are.
    pub sink: NodeId,
    /// Index of the worker that made it (two-phase sinks keep one part per worker).
    pub worker: usize,
    /// What to write.
    pub payload: SinkPayload,
}

/// Turns batches into payloads. One per sink node and worker.
pub trait SinkEncoder: Send {
    /// Encodes a batch with the sink node's schema; pushes finished pieces (about a megabyte each) to `out`.
    ///
    /// # Errors
    /// When a value cannot be written in the format.
    fn encode(&mut self, batch: &RecordBatch, out: &mut Vec<SinkPayload>) -> Result<(), SinkError>;
    /// The barrier: pushes what is left.
    ///
    /// # Errors
    /// As `encode`.
    fn flush(&mut self, out: &mut Vec<SinkPayload>) -> Result<(), SinkError>;
}

/// A sink cannot take a row.
#[derive(Debug, thiserror::Error)]
#[error("sink {table}: {message}")]
pub struct SinkError {
    /// The table.
    pub table: String,
    /// What is wrong and what to do.
    pub message: String,
}
