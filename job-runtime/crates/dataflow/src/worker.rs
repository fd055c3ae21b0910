//! The worker's contract with the runtime: what goes in, what comes out, in one `step()` at a time.

use crate::graph::NodeId;
use crate::key::ShardId;
use crate::sink::SinkChunk;
use crate::source::{PartitionId, SourcePosition};
use crate::state::{ChangeBatch, LogOffset};

/// Number of a commit, rising by one for the life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(pub u64);

/// What a worker hands to the committer, in order.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Output of the interval that `commit` will end.
    Chunk {
        /// The commit that this output belongs to.
        commit: CommitId,
        /// The output.
        chunk: SinkChunk,
    },
    /// The barrier has passed through this worker.
    Commit(WorkerCommit),
}

/// One worker's share of a commit.
#[derive(Debug)]
pub struct WorkerCommit {
    /// The commit.
    pub id: CommitId,
    /// The worker.
    pub worker: usize,
    /// State changes of the interval, one batch per shard that changed.
    pub changes: Vec<(ShardId, ChangeBatch)>,
    /// Where each of this worker's source partitions stands.
    pub positions: Vec<(NodeId, PartitionId, SourcePosition)>,
    /// Rows read in the interval.
    pub rows_in: u64,
    /// True if every source partition is at its end and all windows have closed: nothing will follow this commit.
    pub finished: bool,
}

/// What a call of `step` achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepStatus {
    /// Something moved: call again.
    Progress,
    /// Nothing to do before a wake-up, or before this time (milliseconds of the caller's clock) if given.
    Idle {
        /// When an idle timeout is due.
        wake_at_ms: Option<u64>,
    },
    /// Everything is read and emitted; only barriers are still to come.
    Finished,
}

/// Wakes a worker that went idle.
pub type Wake = std::sync::Arc<dyn Fn() + Send + Sync>;

/// Where committed changes stand in the log, per shard that changed.
pub type AppliedOffsets = Vec<(ShardId, LogOffset)>;
