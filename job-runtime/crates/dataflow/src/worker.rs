//! The worker: runs every stream operator of a job for the shards and source partitions that it owns, one `step()` at a time.
//!
//! Owns the contract with the runtime and the order of work in a step: what is held for a full queue goes first, then the stages from the last to the
//! first, so that a full queue always empties. It never blocks, never waits and knows no clock.
//!
//! # Barriers
//! `begin_commit` puts a barrier behind everything already taken from this worker's sources. It travels with the rows. A stream operator
//! with several inputs, and the receiving side of an exchange, waits until all inputs have delivered it; what stands behind it on an
//! input that already has stays where it is (in the queue, or unread in the source). When the last operator has passed it, the commit's
//! share of this worker goes out as [`WorkerEvent::Commit`].
//!
//! # Switches
//! With a barrier the pod may lose shards ([`Worker::begin_switch`]). Each stream operator forgets them as the barrier passes it, and each exchange
//! sends their rows to other pods behind it. As the barrier is aligned, no row of theirs comes behind it from any worker.

mod busy;
mod commits;
mod error;
mod flow;
mod root;
mod setup;
mod shuffled;
mod switch;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::exchange::ExchangePorts;
use crate::graph::{JobGraph, NodeId};
use crate::key::{ShardId, Shards};
use crate::shuffle::{Gate, OTHER_POD, ShuffleBlock, ShuffleConfig, ShuffleShare, Switch};
use crate::sink::{SinkChunk, SinkEncoder};
use crate::source::{PartitionId, Reached, SourcePartition};
use crate::state::{ChangeBatch, LogOffset, ShardStore};
use crate::watermark::END_OF_TIME;

pub use busy::Stopwatch;
pub use error::WorkerError;

/// Number of a commit, rising by one for the life of a process, from [`CommitId::FIRST`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommitId(pub u64);

impl CommitId {
    /// The first commit of a process: output belongs to it before it is begun.
    pub const FIRST: CommitId = CommitId(1);

    /// The commit after this one.
    #[must_use]
    pub fn next(self) -> CommitId {
        CommitId(self.0 + 1)
    }
}

/// What a worker hands to the committer, in order: all chunks of a commit, its [`WorkerCommit`], then chunks of the next.
#[derive(Debug)]
pub enum WorkerEvent {
    /// Output of the interval that `commit` will end.
    Chunk {
        /// The commit that this output belongs to.
        commit: CommitId,
        /// The output.
        chunk: SinkChunk,
    },
    /// Rows for another pod that are too many to wait for the barrier.
    Block {
        /// The commit that they belong to.
        commit: CommitId,
        /// The rows.
        block: ShuffleBlock,
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
    /// Where those of this worker's source partitions stand that have moved since the last commit; at first all.
    pub positions: Vec<(NodeId, PartitionId, Reached)>,
    /// Source partitions that are another pod's behind this commit.
    pub left: Vec<(NodeId, PartitionId)>,
    /// For other pods: one per exchange, if there are any.
    pub shuffles: Vec<ShuffleShare>,
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

/// Everything a worker is made of.
pub struct WorkerConfig {
    /// This worker, `0..workers`.
    pub index: usize,
    /// How many workers the process has.
    pub workers: usize,
    /// The job.
    pub graph: Arc<JobGraph>,
    /// The job's shards.
    pub shards: Shards,
    /// The worker that owns each shard, or [`crate::shuffle::OTHER_POD`].
    pub owner: Arc<[usize]>,
    /// This worker's partitions of each source node.
    pub sources: Vec<(NodeId, Box<dyn SourcePartition>)>,
    /// Source nodes that may be given more partitions later: they have no end.
    pub growing: Vec<NodeId>,
    /// One encoder per sink node.
    pub encoders: Vec<(NodeId, Box<dyn SinkEncoder>)>,
    /// The stores of this worker's shards.
    pub stores: Vec<Box<dyn ShardStore>>,
    /// This worker's element of [`crate::exchange::ports`].
    pub exchange: ExchangePorts,
    /// How many rows a source partition is asked for at once.
    pub max_rows_per_poll: usize,
    /// The other pods; `None` for a job of one pod.
    pub shuffle: Option<ShuffleConfig>,
    /// Whether sources may be read; shared by the pod's workers.
    pub gate: Arc<Gate>,
    /// How many bytes of keyed state this worker keeps in memory, about. More is possible until the next commit is applied.
    pub state_budget: u64,
}

/// What a worker has done since it was made. Counters only rise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerProgress {
    /// The least watermark of the worker's last stream operators; `None` before the first, `i64::MAX` at the end of the input.
    pub watermark_ms: Option<i64>,
    /// Changes of event time that other pods must be told of.
    pub markers: u64,
    /// One per node of the graph.
    pub nodes: Vec<NodeProgress>,
}

/// What one stream operator has done on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeProgress {
    /// The node.
    pub node: NodeId,
    /// Rows taken (a source: decoded rows).
    pub rows_in: u64,
    /// Rows given on (a sink: rows encoded).
    pub rows_out: u64,
    /// Rows dropped because their window had closed.
    pub late_dropped: u64,
    /// How long it was at work itself, in nanoseconds of the [`Stopwatch`]; 0 without one.
    pub busy_ns: u64,
    /// Its watermark; `None` before the first, `i64::MAX` at the end of the input.
    pub watermark_ms: Option<i64>,
    /// Entries of keyed state in memory.
    pub state_entries: u64,
    /// About how much memory they take in bytes.
    pub state_bytes: u64,
    /// Rows whose entry was in memory, or new.
    pub state_hits: u64,
    /// Entries that were looked up in a store.
    pub state_misses: u64,
    /// Entries that have left memory.
    pub state_evictions: u64,
}

/// True if a shard belongs to another pod.
fn is_elsewhere(owner: &[usize], shard: ShardId) -> bool {
    owner.get(usize::from(shard.0)) == Some(&OTHER_POD)
}

/// One worker. Made and stepped on one thread; nothing in it blocks.
pub struct Worker {
    flow: flow::Flow,
    /// In the order of the graph.
    roots: Vec<root::Root>,
    max_rows: usize,
    /// An error of a call that cannot return it.
    failed: Option<WorkerError>,
}

impl Worker {
    /// Builds the stream operators and finds their state in the stores; it stays there until it is needed.
    ///
    /// # Errors
    /// When what is given does not fit the graph, or stored state cannot be read.
    pub fn new(config: WorkerConfig) -> Result<Self, WorkerError> {
        setup::build(config)
    }

    /// Measures from now on how long each stream operator is at work ([`NodeProgress::busy_ns`]).
    pub fn measure(&mut self, stopwatch: Stopwatch) {
        self.flow.busy.measure(stopwatch);
    }

    /// Does a bounded piece of work; `now_ms` is the caller's clock (for idle timeouts only). Events are appended to `out`.
    ///
    /// # Errors
    /// The worker is then of no further use: all its memory must be dropped.
    pub fn step(&mut self, now_ms: u64, out: &mut Vec<WorkerEvent>) -> Result<StepStatus, WorkerError> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut moved = self.flow.flush_held()?;
        for root in self.roots.iter_mut().rev() {
            moved |= root.run(&mut self.flow, self.max_rows, now_ms)?;
        }
        out.append(&mut self.flow.commits.events);
        if moved {
            return Ok(StepStatus::Progress);
        }
        if self.flow.is_finished() && self.roots.iter().all(root::Root::is_finished) {
            return Ok(StepStatus::Finished);
        }
        // While the sources are held no time passes for them.
        let due = self.roots.iter().filter_map(root::Root::idle_due_ms).min().filter(|_| !self.flow.gate.is_closed());
        Ok(StepStatus::Idle { wake_at_ms: due })
    }

    /// Puts the barrier of commit `id` behind everything already taken from the sources. Commits may be begun before the last one is out
    /// or applied; they keep their order. Works at any moment, also after [`StepStatus::Finished`]. A wrong `id` fails the next step.
    pub fn begin_commit(&mut self, id: CommitId) {
        self.begin(id, None);
    }

    /// As [`Worker::begin_commit`]. Commit `id` is the last that holds anything of what `switch` takes from this pod: its rows go to other pods
    /// from there on, and its stores are given up when the commit is applied. The next one may come only then.
    pub fn begin_switch(&mut self, id: CommitId, switch: Arc<Switch>) {
        self.begin(id, Some(switch));
    }

    fn begin(&mut self, id: CommitId, switch: Option<Arc<Switch>>) {
        let expected = self.flow.commits.next_id();
        if id != expected {
            self.failed.get_or_insert(WorkerError::CommitOrder { found: id, expected });
            return;
        }
        let positions = self.roots.iter_mut().flat_map(root::Root::take_moved).collect();
        let mut left = Vec::new();
        if let Some(switch) = switch {
            match self.flow.switch(id, switch) {
                Ok(()) => left.extend(self.roots.iter_mut().flat_map(|root| root.leave(&self.flow.owner))),
                Err(error) => {
                    self.failed.get_or_insert(error);
                }
            }
        }
        self.flow.commits.begin(id, positions, left, self.flow.nodes.len());
        for root in &mut self.roots {
            root.inject(id);
        }
    }

    /// Gives the worker one more partition of a source that is growing. One that has become another pod's meanwhile is dropped unread.
    ///
    /// # Errors
    /// When `node` is no growing source of the graph.
    pub fn add_source(&mut self, node: NodeId, partition: Box<dyn SourcePartition>) -> Result<(), WorkerError> {
        if partition.shard().is_some_and(|shard| is_elsewhere(&self.flow.owner, shard)) {
            return Ok(());
        }
        let root = self.roots.iter_mut().find(|root| root.node == node.0 as usize);
        if root.is_some_and(|root| root.add(partition)) {
            return Ok(());
        }
        let message = format!("a partition was added to node {}, which is no growing source", node.0);
        Err(WorkerError::config(self.flow.worker, message))
    }

    /// Commit `id` is in the log at `offsets`: applies this worker's changes of it to its stores.
    ///
    /// # Errors
    /// When a store cannot be written, or the commit is not the oldest that waits for this.
    pub fn commit_applied(&mut self, id: CommitId, offsets: &AppliedOffsets) -> Result<(), WorkerError> {
        self.commit_applied_with(id, offsets, &[])
    }

    /// As [`Worker::commit_applied`], with changes that the committer added to the commit itself (positions, tickets). Those of shards
    /// that this worker does not own are left out.
    ///
    /// # Errors
    /// As [`Worker::commit_applied`].
    pub fn commit_applied_with(
        &mut self,
        id: CommitId,
        offsets: &AppliedOffsets,
        added: &[(ShardId, ChangeBatch)],
    ) -> Result<(), WorkerError> {
        let mut changes = self.flow.commits.take_pending(id)?;
        if let Some((shard, _)) = changes.iter().find(|(shard, _)| offsets.iter().all(|(s, _)| s != shard)) {
            return Err(WorkerError::OffsetMissing { id, shard: *shard });
        }
        for store in self.flow.stores.iter_mut() {
            let shard = store.shard();
            let Some(&(_, offset)) = offsets.iter().find(|(s, _)| *s == shard) else { continue };
            let own = changes.iter_mut().find(|(s, _)| *s == shard);
            let mut batch = own.map(|(_, batch)| std::mem::take(batch)).unwrap_or_default();
            for (_, more) in added.iter().filter(|(s, _)| *s == shard) {
                batch.append(more);
            }
            store.apply(&batch, offset)?;
        }
        self.flow.applied(id);
        self.flow.end_switch(id);
        Ok(())
    }

    /// What has been done so far. Cheap.
    pub fn progress(&self) -> WorkerProgress {
        let nodes = self.flow.progress();
        let ends = nodes.iter().zip(&self.flow.nodes).filter(|(_, state)| state.consumers.is_empty());
        let watermark = ends.map(|(node, _)| node.watermark_ms).min().unwrap_or(Some(END_OF_TIME));
        WorkerProgress { watermark_ms: watermark, markers: self.flow.markers(), nodes }
    }
}
