//! The commits that a worker has under way: begun but not out, and out but not applied.
//!
//! Owns their book-keeping and the order of events; the barriers themselves travel in `flow`.

use std::collections::{BTreeMap, VecDeque};

use crate::graph::NodeId;
use crate::key::ShardId;
use crate::shuffle::{ShuffleBlock, ShuffleShare};
use crate::sink::SinkChunk;
use crate::source::{PartitionId, Reached};
use crate::state::ChangeBatch;
use crate::worker::{CommitId, WorkerCommit, WorkerError, WorkerEvent};

/// A commit whose barrier is on its way.
struct Running {
    id: CommitId,
    positions: Vec<(NodeId, PartitionId, Reached)>,
    left: Vec<(NodeId, PartitionId)>,
    shuffles: Vec<ShuffleShare>,
    rows_in: u64,
    /// Stream operators that the barrier has not passed.
    remaining: usize,
    /// True while every operator that the barrier passed was at the end of its input.
    finished: bool,
    changes: BTreeMap<ShardId, ChangeBatch>,
}

/// Output of an interval.
enum Output {
    Chunk(SinkChunk),
    Block(ShuffleBlock),
}

impl Output {
    fn event(self, commit: CommitId) -> WorkerEvent {
        match self {
            Self::Chunk(chunk) => WorkerEvent::Chunk { commit, chunk },
            Self::Block(block) => WorkerEvent::Block { commit, block },
        }
    }
}

pub(super) struct Commits {
    worker: usize,
    next: CommitId,
    rows_in: u64,
    running: VecDeque<Running>,
    pending: VecDeque<(CommitId, Vec<(ShardId, ChangeBatch)>)>,
    /// Output of a later commit than the oldest that is running: given out when its turn comes.
    early: Vec<(CommitId, Output)>,
    /// For the caller of `step`.
    pub(super) events: Vec<WorkerEvent>,
}

impl Commits {
    pub(super) fn new(worker: usize) -> Self {
        Self {
            worker,
            next: CommitId::FIRST,
            rows_in: 0,
            running: VecDeque::new(),
            pending: VecDeque::new(),
            early: Vec::new(),
            events: Vec::new(),
        }
    }

    /// The commit that must be begun next.
    pub(super) fn next_id(&self) -> CommitId {
        self.next
    }

    /// True if no barrier is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.running.is_empty()
    }

    /// Rows were read from a source; sources pause between `begin` and the barrier, so they belong to the next commit.
    pub(super) fn add_rows_in(&mut self, rows: u64) {
        self.rows_in += rows;
    }

    pub(super) fn begin(
        &mut self,
        id: CommitId,
        positions: Vec<(NodeId, PartitionId, Reached)>,
        left: Vec<(NodeId, PartitionId)>,
        nodes: usize,
    ) {
        let rows_in = std::mem::take(&mut self.rows_in);
        let (shuffles, changes) = (Vec::new(), BTreeMap::new());
        let (remaining, finished) = (nodes, true);
        self.running.push_back(Running { id, positions, left, shuffles, rows_in, remaining, finished, changes });
        self.next = id.next();
    }

    /// Output of the interval that commit `id` ends.
    pub(super) fn chunk(&mut self, id: CommitId, chunk: SinkChunk) {
        self.give_out(id, Output::Chunk(chunk));
    }

    /// Rows for another pod of the interval that commit `id` ends.
    pub(super) fn block(&mut self, id: CommitId, block: ShuffleBlock) {
        self.give_out(id, Output::Block(block));
    }

    fn give_out(&mut self, id: CommitId, output: Output) {
        if self.running.front().is_some_and(|front| front.id < id) {
            self.early.push((id, output));
        } else {
            self.events.push(output.event(id));
        }
    }

    /// The barrier of commit `id` has come to an exchange whose rows go to other pods too.
    pub(super) fn shuffled(&mut self, id: CommitId, share: ShuffleShare) {
        self.running_commit(id).shuffles.push(share);
    }

    fn running_commit(&mut self, id: CommitId) -> &mut Running {
        let running = self.running.iter_mut().find(|r| r.id == id);
        running.expect("a barrier travels only after its commit was begun on this worker")
    }

    /// The barrier of commit `id` has passed one more stream operator, with its changes.
    pub(super) fn passed(&mut self, id: CommitId, at_end: bool, changes: Vec<(ShardId, ChangeBatch)>) {
        let running = self.running_commit(id);
        running.remaining -= 1;
        running.finished &= at_end;
        for (shard, batch) in changes {
            running.changes.entry(shard).or_default().append(&batch);
        }
        while self.running.front().is_some_and(|front| front.remaining == 0) {
            self.finish_front();
        }
    }

    fn finish_front(&mut self) {
        let Some(done) = self.running.pop_front() else { return };
        let changes: Vec<_> = done.changes.into_iter().filter(|(_, batch)| !batch.is_empty()).collect();
        self.pending.push_back((done.id, changes.clone()));
        self.events.push(WorkerEvent::Commit(WorkerCommit {
            id: done.id,
            worker: self.worker,
            changes,
            positions: done.positions,
            left: done.left,
            shuffles: done.shuffles,
            rows_in: done.rows_in,
            finished: done.finished,
        }));
        for (id, output) in std::mem::take(&mut self.early) {
            self.give_out(id, output);
        }
    }

    /// The changes of commit `id`, which must be the oldest that is out and not applied.
    pub(super) fn take_pending(&mut self, id: CommitId) -> Result<Vec<(ShardId, ChangeBatch)>, WorkerError> {
        match self.pending.pop_front() {
            Some((oldest, changes)) if oldest == id => Ok(changes),
            Some(other) => {
                self.pending.push_front(other);
                Err(WorkerError::NotPending { id })
            }
            None => Err(WorkerError::NotPending { id }),
        }
    }
}
