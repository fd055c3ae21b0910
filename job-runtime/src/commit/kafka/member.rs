//! A process's place in the job, shared by its commit log and the driver: what it holds, and what the control topic says.
//!
//! Owns the lock around it. What must be done is decided in `checkpoint::ownership` and `checkpoint::rescale`; it calls no broker.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use checkpoint::assignment::Assignment;
use checkpoint::names;
use checkpoint::ownership::record::Release;
use checkpoint::ownership::{Process, Step, View};
use checkpoint::rescale::{self, Running, Turn, Waiting};
use checkpoint::savepoint::Board;

use crate::commit::KafkaOffset;

/// What a process knows of its place in the job.
pub(super) struct Membership {
    pub(super) process: Process,
    pub(super) view: View,
    /// Another assignment was proposed then.
    pub(super) is_proposed: bool,
    /// Savepoints as they were when the process joined.
    pub(super) board: Board,
    /// The savepoint that the job began from.
    pub(super) origin: Option<String>,
    /// The job's input has ended.
    pub(super) drained: bool,
}

/// See the module's documentation.
#[derive(Clone)]
pub struct Member {
    membership: Arc<Mutex<Membership>>,
    ordinal: u16,
    control: String,
}

impl Member {
    pub(super) fn new(membership: Membership, ordinal: u16, job_uid: &str) -> Self {
        let control = names::control_topic(job_uid);
        Self { membership: Arc::new(Mutex::new(membership)), ordinal, control }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Membership> {
        self.membership.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pod.
    pub fn ordinal(&self) -> u16 {
        self.ordinal
    }

    /// What the process must do, which works under an assignment and has read this.
    pub fn turn(&self, under: &Assignment, view: &View, waiting: Waiting) -> Turn {
        let membership = self.lock();
        rescale::decide(Running { ordinal: self.ordinal, under, process: &membership.process, view }, waiting)
    }

    /// What makes a commit prove that the process is not fenced, also if there is nothing else in it: how far the control topic is read.
    pub fn proof(&self, number: u64) -> KafkaOffset {
        let next_offset = i64::try_from(number).unwrap_or(i64::MAX);
        KafkaOffset { topic: self.control.clone(), partition: 0, next_offset, watermark_ms: None }
    }

    /// A commit with that proof is in the log, which was begun after this view was read, and the memory of what is lost in it is dropped:
    /// what is to be released.
    pub fn taken_up(&self, view: &View) -> Option<Release> {
        let membership = &mut *self.lock();
        membership.view = view.clone();
        membership.process.proven(view.number());
        let steps = membership.process.steps(view);
        let release = steps.into_iter().find_map(|step| match step {
            Step::Release(release) => Some(release),
            Step::InitTransactions
            | Step::ReadControlLog
            | Step::Settle { .. }
            | Step::Restore { .. }
            | Step::Prove
            | Step::EndTransaction => None,
        })?;
        membership.process.let_go(&release.shards);
        Some(release)
    }
}
