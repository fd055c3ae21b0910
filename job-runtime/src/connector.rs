//! Contracts between connectors and the pod: how a table's source partitions are opened and how a sink outside Kafka's transaction commits.
//!
//! Owns the traits; each connector has a file of its own below.

mod blackhole;
mod datagen;
pub(crate) mod dead_letter;
mod encoder;
mod filesystem;
pub mod format_options;
mod generated;
mod nexmark;
pub mod options;
mod print;
pub mod registry;
pub mod stats;
pub mod testing;

use std::sync::Arc;
use std::time::Duration;

use dataflow::sink::{SinkChunk, SinkEncoder};
use dataflow::source::{PartitionId, SourcePartition, SourcePosition};
use dataflow::worker::{CommitId, Wake};

use self::stats::SourceStats;

/// Where a partition is to be read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// From a committed position.
    At(SourcePosition),
    /// From where the table says: the job has not read this source before.
    First,
    /// From its beginning: the job has read the source before, and this partition is new in it.
    Added,
}

/// What a partition is opened with.
pub struct Opening {
    /// Where to begin.
    pub start: Start,
    /// Called when a `Pending` partition has something again.
    pub wake: Wake,
    /// Where the partition counts.
    pub stats: Arc<SourceStats>,
}

/// Opens the partitions of one table for one source node.
pub trait SourceFactory: Send {
    /// The partitions that exist now, in a stable order.
    ///
    /// # Errors
    /// When the source cannot be reached or read; the message says what to do.
    fn partitions(&self) -> Result<Vec<PartitionId>, ConnectorError>;
    /// Opens a partition.
    ///
    /// # Errors
    /// When it cannot be opened, or the position does not fit what is there now.
    fn open(&self, id: &PartitionId, opening: Opening) -> Result<Box<dyn SourcePartition>, ConnectorError>;
    /// True if the source ends by itself.
    fn bounded(&self) -> bool;
    /// How often to look for partitions that have come since the start; `None` if none can come.
    fn watched(&self) -> Option<Duration> {
        None
    }
    /// How many partitions may be open at a time: for partitions that end, so that others may wait for them.
    fn most_open(&self) -> usize {
        usize::MAX
    }
    /// True if a partition at this position need not be opened: nothing of it will ever be read again.
    ///
    /// # Errors
    /// When what is not read yet is gone.
    fn is_done(&self, _id: &PartitionId, _position: &SourcePosition) -> Result<bool, ConnectorError> {
        Ok(false)
    }
    /// Total size for the progress display, if known: rows or bytes as the source counts them.
    fn size_hint(&self) -> Option<SizeHint> {
        None
    }
}

/// How much there is to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SizeHint {
    /// Rows.
    Rows(u64),
    /// Bytes as stored.
    Bytes(u64),
}

/// The durable note of a two-phase sink: what it will finish when the commit is known to have happened. Kept as state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Which part of the sink, e.g. the worker's index.
    pub key: Vec<u8>,
    /// The sink's own versioned encoding; empty removes the key.
    pub value: Vec<u8>,
}

/// A sink that is not part of the Kafka transaction: files (two-phase), print, blackhole. Called from the committer's thread only, in this
/// order: `recover` once, then per commit `write` any number of times, `prepare`, and after the commit log has it, `committed`.
pub trait ExternalSink: Send {
    /// Brings the outside world to what the tickets say: nothing more, nothing less.
    ///
    /// # Errors
    /// When what was committed is not there any more.
    fn recover(&mut self, tickets: &[Ticket]) -> Result<(), ConnectorError>;
    /// Output of the running interval.
    ///
    /// # Errors
    /// When it cannot be written; the job stops.
    fn write(&mut self, chunk: &SinkChunk) -> Result<(), ConnectorError>;
    /// Makes the interval's output durable and returns what changed in the tickets.
    ///
    /// # Errors
    /// When it cannot be made durable; the job stops.
    fn prepare(&mut self, commit: CommitId) -> Result<Vec<Ticket>, ConnectorError>;
    /// The commit is in the log: make it visible. `last` is the end of a bounded job.
    ///
    /// # Errors
    /// When it cannot be finished; the next start does it.
    fn committed(&mut self, commit: CommitId, last: bool) -> Result<(), ConnectorError>;
}

/// Where a sink's chunks go.
pub enum SinkTarget {
    /// Into the Kafka transaction.
    Kafka(KafkaSinkTarget),
    /// To an external sink.
    External(Box<dyn ExternalSink>),
}

/// A Kafka sink's part in the transaction.
#[derive(Clone, Debug)]
pub struct KafkaSinkTarget {
    /// Topic.
    pub topic: String,
    /// Client properties of the table, already checked against the allow-list.
    pub properties: Vec<(String, String)>,
}

/// Makes the encoders (one per worker) and the target of one table.
pub trait SinkFactory: Send {
    /// An encoder for one worker.
    ///
    /// # Errors
    /// When the table's schema cannot be written in its format.
    fn encoder(&self, worker: usize) -> Result<Box<dyn SinkEncoder>, ConnectorError>;
    /// The target; called once.
    ///
    /// # Errors
    /// When the target is not there or not writable.
    fn target(&self) -> Result<SinkTarget, ConnectorError>;
    /// What the sink can promise.
    fn guarantee(&self) -> plan::Guarantee;
}

/// A connector cannot start or go on. `option` names the `WITH` option to look at, if there is one.
#[derive(Debug, thiserror::Error)]
#[error("table {table}: {message}")]
pub struct ConnectorError {
    /// The table.
    pub table: String,
    /// The option that is wrong or missing.
    pub option: Option<String>,
    /// What is wrong and what to write instead.
    pub message: String,
}
