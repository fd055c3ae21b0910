//! The commit log: the one place that says what has happened. Two forms: a Kafka transaction, or a local append-only log.
//!
//! Owns the contract; `commit/local.rs` and `commit/kafka.rs` are the forms. It decides nothing about when to commit (crate `checkpoint`).

pub mod bookkeeping;
pub mod kafka;
pub mod local;

use dataflow::key::ShardId;
use dataflow::sink::SinkChunk;
use dataflow::state::ChangeBatch;
use dataflow::worker::{AppliedOffsets, CommitId};

/// Everything of one commit that the log itself must carry.
#[derive(Debug)]
pub struct CommitRequest {
    /// The commit.
    pub id: CommitId,
    /// State changes per shard, positions and tickets included.
    pub changes: Vec<(ShardId, ChangeBatch)>,
    /// Positions of Kafka sources, and how far shuffle topics are read. The Kafka form sends them with the transaction; the local form has
    /// already been given them as state and finds this empty.
    pub kafka_offsets: Vec<KafkaOffset>,
}

/// How far a partition of a topic is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaOffset {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The next offset to read.
    pub next_offset: i64,
    /// The watermark behind what was read, if it is a source's and has one.
    pub watermark_ms: Option<i64>,
}

/// Makes commits durable. Used by the committer's thread only; every call may block up to its deadline.
pub trait CommitLog: Send {
    /// Output that goes into the log's own transaction (Kafka sinks). The local form has none and refuses.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn write(&mut self, topic: &str, chunk: &SinkChunk) -> Result<(), CommitError>;
    /// A record for another pod of the job, to a partition of an internal topic, in the log's own transaction. The local form refuses.
    ///
    /// # Errors
    /// See [`CommitError`].
    fn send(&mut self, topic: &str, partition: i32, record: &[u8]) -> Result<(), CommitError>;
    /// Once after a commit: the offset of its last record in each partition that [`CommitLog::send`] was called for.
    fn take_sent(&mut self) -> Vec<(String, i32, i64)> {
        Vec::new()
    }
    /// Makes the interval durable; returns where each changed shard's changes stand.
    ///
    /// # Errors
    /// Every error ends this process's work on the job: drop all memory and recover from the log (rule 2).
    fn commit(&mut self, request: CommitRequest) -> Result<AppliedOffsets, CommitError>;
    /// The process gives its work up because another assignment is in force; everything is committed and all memory of it is dropped. The
    /// local form has one owner for ever.
    ///
    /// # Errors
    /// See [`CommitError`]; whoever goes on finds out from the log.
    fn leave(&mut self) -> Result<(), CommitError> {
        Ok(())
    }
}

/// Why a commit did not succeed, by what must happen next.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The log refused; nothing of the interval is durable.
    #[error("commit {} was refused: {message}", id.0)]
    Aborted {
        /// The commit.
        id: CommitId,
        /// What the log said.
        message: String,
    },
    /// It may or may not have happened: only the log knows.
    #[error("the outcome of commit {} is unknown: {message}", id.0)]
    Unknown {
        /// The commit.
        id: CommitId,
        /// What was seen.
        message: String,
    },
    /// Another process owns the job now; this one must end.
    #[error("fenced by another process of this job: {message}")]
    Fenced {
        /// What the log said.
        message: String,
    },
    /// It can never succeed without a change from outside: no right, disk full, no such topic.
    #[error("cannot commit: {message}")]
    Fatal {
        /// What is wrong and what to do.
        message: String,
    },
}
