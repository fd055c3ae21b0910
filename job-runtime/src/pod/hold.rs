//! The driver's side of a savepoint: holds the sources, waits until what was sent to this pod is read and everything is committed, lets them go.
//!
//! Owns what "nothing is in flight" means for one pod. What is to be done when is decided in `checkpoint::savepoint`; `savepoint` passes it on.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Instant;

use dataflow::graph::OperatorUid;
use dataflow::key::ShardId;
use dataflow::shuffle::Gate;
use dataflow::source::{PartitionId, Reached};
use dataflow::worker::CommitId;

use super::savepoint::Event;
use crate::kafka::shuffle::ReadUpTo;

/// Where all source partitions of the pod stand, as of the last commit.
pub(super) type Standing = BTreeMap<(OperatorUid, PartitionId), Reached>;

/// What the driver is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Let the sources go on.
    Run,
    /// Hold them, read internal topics up to these offsets, commit until there is nothing to commit, and say so: once for each number.
    Drain {
        /// Rises with each order.
        number: u64,
        /// By topic and partition.
        ends: BTreeMap<(String, i32), i64>,
    },
    /// End the run: everything is committed and stored.
    End,
}

/// Where the driver is told what to do.
pub(super) struct Desk {
    want: Mutex<Want>,
    changed: AtomicBool,
    driver: Thread,
}

impl Desk {
    /// For the driver of this thread.
    pub(super) fn new(driver: Thread) -> Self {
        Self { want: Mutex::new(Want::Run), changed: AtomicBool::new(false), driver }
    }

    /// Tells the driver.
    pub(super) fn want(&self, want: Want) {
        let mut current = self.want.lock().unwrap_or_else(PoisonError::into_inner);
        if *current != want {
            *current = want;
            self.changed.store(true, Ordering::Release);
            self.driver.unpark();
        }
    }

    fn news(&self) -> Option<Want> {
        self.changed
            .swap(false, Ordering::AcqRel)
            .then(|| self.want.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// What the driver must do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Now {
    /// Nothing beside its work.
    Go,
    /// Put a barrier through the workers.
    Barrier,
    /// End the run.
    End,
}

/// See the module's documentation.
pub(super) struct Hold {
    desk: Arc<Desk>,
    gate: Arc<Gate>,
    /// How far internal topics are read.
    read: Vec<ReadUpTo>,
    told: SyncSender<Event>,
    state: State,
    since: Option<Instant>,
}

enum State {
    Running,
    Draining {
        number: u64,
        ends: BTreeMap<(String, i32), i64>,
        /// A barrier that was put in when everything was read: nothing may be behind it.
        barrier: Option<CommitId>,
    },
    /// Nothing is in flight; the sources are held.
    Still,
    Ended,
}

impl Hold {
    pub(super) fn new(desk: Arc<Desk>, gate: Arc<Gate>, read: Vec<ReadUpTo>, told: SyncSender<Event>) -> Self {
        Self { desk, gate, read, told, state: State::Running, since: None }
    }

    /// Takes what is wanted, and says what that means now.
    pub(super) fn look(&mut self) -> Now {
        match self.desk.news() {
            Some(Want::Drain { number, ends }) => {
                self.gate.hold(true);
                self.since.get_or_insert_with(Instant::now);
                self.state = State::Draining { number, ends, barrier: None };
            }
            Some(Want::Run) => self.go_on(),
            Some(Want::End) => self.state = State::Ended,
            None => {}
        }
        match &self.state {
            State::Running | State::Still => Now::Go,
            State::Draining { barrier: None, ends, .. } if self.is_read(ends) => Now::Barrier,
            State::Draining { .. } => Now::Go,
            State::Ended => Now::End,
        }
    }

    /// True while the sources are held: the driver looks around more often.
    pub(super) fn is_draining(&self) -> bool {
        matches!(self.state, State::Draining { .. })
    }

    /// Shards are another pod's: what is sent to them is not read here.
    pub(super) fn leave(&mut self, shards: &[ShardId]) {
        self.read.retain(|read| !shards.iter().any(|shard| i32::from(shard.0) == read.partition));
    }

    fn is_read(&self, ends: &BTreeMap<(String, i32), i64>) -> bool {
        let end = |read: &ReadUpTo| ends.get(&(read.topic.clone(), read.partition)).copied().unwrap_or(0);
        self.read.iter().all(|read| read.offset() >= end(read))
    }

    fn go_on(&mut self) {
        self.state = State::Running;
        self.gate.hold(false);
        if let Some(since) = self.since.take() {
            self.tell(Event::WentOn { pause: since.elapsed() });
        }
    }

    /// A barrier is put in.
    pub(super) fn begun(&mut self, id: CommitId) {
        let ready = match &self.state {
            State::Draining { ends, barrier: None, .. } => self.is_read(ends),
            State::Draining { .. } | State::Running | State::Still | State::Ended => false,
        };
        if let State::Draining { barrier, .. } = &mut self.state
            && ready
        {
            *barrier = Some(id);
        }
    }

    /// A barrier has come through, and there was nothing to commit. `settled`: nothing is to be said to other pods either.
    pub(super) fn skipped(&mut self, id: CommitId, settled: bool, positions: &Standing) {
        let State::Draining { number, barrier, .. } = &mut self.state else { return };
        if *barrier != Some(id) {
            return;
        }
        if settled {
            let number = *number;
            self.state = State::Still;
            self.tell(Event::Drained { number, positions: positions.clone() });
        } else {
            *barrier = None;
        }
    }

    /// A commit was made: what was in flight led to something, so look again.
    pub(super) fn committed(&mut self) {
        if let State::Draining { barrier, .. } = &mut self.state {
            *barrier = None;
        }
    }

    fn tell(&self, event: Event) {
        // The channel holds more than can be under way; if its thread is gone, the savepoint fails at its deadline.
        if self.told.try_send(event).is_err() {
            tracing::warn!("the savepoint's thread does not listen");
        }
    }
}
