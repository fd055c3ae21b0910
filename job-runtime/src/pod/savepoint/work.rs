//! What the thread that makes savepoints works with: where the pods agree, and where files go.
//!
//! Owns what of it changes when the pod takes another assignment up. It makes no savepoint.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use checkpoint::assignment::Assignment;
use checkpoint::savepoint::Board;
use dataflow::key::ShardId;
use dataflow::shuffle::Gate;

use super::Book;
use crate::commit::kafka::ControlTopic;
use crate::pod::hold::Desk;
use crate::snapshot::store::ObjectStore;
use crate::snapshot::take::Whole;
use crate::snapshot::thread::SnapshotAsk;

/// Where the pods agree.
pub(in crate::pod) enum Agreement {
    /// The pod is alone.
    Alone(Assignment),
    /// In the control topic; the board as it was when the pod joined, and the assignment that it works under.
    Topic(Box<ControlTopic>, Board, u64),
}

/// What the thread works with.
pub(in crate::pod) struct SavepointWork {
    /// Where the pods agree.
    pub(in crate::pod) agreement: Agreement,
    /// This pod.
    pub(in crate::pod) pod: u16,
    /// Where a pod that is alone notes that the job's work has ended; `None` if its log is local.
    pub(in crate::pod) note: Option<ControlTopic>,
    /// Rounds of draining.
    pub(in crate::pod) rounds: u16,
    /// Internal topics that this pod reads, with its partitions.
    pub(in crate::pod) reads: Vec<(String, Vec<i32>)>,
    /// Snapshots, if the job has a place for them.
    pub(in crate::pod) snapshots: Option<SavepointStore>,
    /// Where the driver is told what to do.
    pub(in crate::pod) desk: Arc<Desk>,
    /// The sources.
    pub(in crate::pod) gate: Arc<Gate>,
    /// Set while the control topic must be watched closely.
    pub(in crate::pod) urgent: Arc<AtomicBool>,
    /// What becomes of savepoints.
    pub(in crate::pod) book: Arc<Book>,
}

impl Agreement {
    /// The assignment that the pod works under.
    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Alone(assignment) => assignment.number,
            Self::Topic(_, _, number) => *number,
        }
    }
}

impl SavepointWork {
    pub(super) fn take_up(&mut self, assignment: u64, lost: &[ShardId]) {
        match &mut self.agreement {
            Agreement::Alone(_) => {}
            Agreement::Topic(_, _, number) => *number = assignment,
        }
        for (_, partitions) in &mut self.reads {
            partitions.retain(|partition| !lost.iter().any(|shard| i32::from(shard.0) == *partition));
        }
    }
}

/// What makes and keeps a savepoint's files.
pub(in crate::pod) struct SavepointStore {
    /// The snapshot thread.
    pub(in crate::pod) ask: SnapshotAsk,
    /// Where they go.
    pub(in crate::pod) store: Arc<dyn ObjectStore>,
    /// What they are of.
    pub(in crate::pod) whole: Whole,
    /// What a savepoint's location begins with: all but its name.
    pub(in crate::pod) location: Box<dyn Fn(&str) -> String + Send>,
}
