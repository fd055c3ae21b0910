//! The commit protocol of one pod as a state machine: when a barrier starts, when a commit may go to the log, when it is applied.
//!
//! Owns the decision only: inputs come in (time, activity, worker commits, outcomes), commands go out, and whoever drives it does them.
//!
//! ```text
//!           due                all workers in,          outcome known
//!   Idle ────────▶ Barrier(n) ─────────────────▶ Committing(n) ────────▶ Idle
//!     ▲               │ nothing happened            │ due: the next interval's barrier n+1 collects meanwhile;
//!     └───────────────┘                             └ it may not commit before the outcome of n is known
//! ```
//! At most one outcome is unknown at any time. A failed or unknown outcome ends the machine: the process drops its memory and recovers from
//! the log.

use dataflow::worker::CommitId;

/// When a barrier is due, besides a stop or the end of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Triggers {
    /// Milliseconds after the last barrier, if anything happened.
    pub interval_ms: u64,
    /// Bytes of output and state changes waiting in memory: earlier than the interval, so that memory is bounded.
    pub max_bytes: u64,
    /// Rows read since the last barrier.
    pub max_rows: u64,
}

/// What the machine is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Time passed.
    Tick,
    /// Rows were read, and bytes of output or changes made, since the last report.
    Activity {
        /// Rows.
        rows: u64,
        /// Bytes.
        bytes: u64,
    },
    /// A worker has come to the end of its input: a barrier is due although no row was read.
    Ended,
    /// The barrier `id` has passed through a worker.
    WorkerCommit {
        /// The worker.
        worker: usize,
        /// The commit.
        id: CommitId,
        /// True if the worker has anything to commit: rows read, output or changes.
        something: bool,
        /// True if nothing will follow from this worker.
        finished: bool,
    },
    /// The log has the commit.
    Committed(CommitId),
    /// The log refused the commit, or its outcome is unknown.
    Failed(CommitId),
    /// Commit what there is, then end.
    Stop,
}

/// What the machine wants done, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Inject the barrier into all workers.
    Barrier(CommitId),
    /// All worker commits are there: hand the commit to the log. `last` if nothing will follow it.
    Commit {
        /// The commit.
        id: CommitId,
        /// Bounded input is at its end.
        last: bool,
    },
    /// Nothing happened in the interval: forget its (empty) worker commits.
    Skip(CommitId),
    /// The commit is in the log: let the workers apply it.
    Apply(CommitId),
    /// Everything is committed and nothing will follow. `at_end` is false after a stop.
    Finish {
        /// True if bounded input is at its end.
        at_end: bool,
    },
}

/// A barrier on its way through the workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collecting {
    /// The commit.
    pub id: CommitId,
    arrived: Vec<bool>,
    missing: usize,
    something: bool,
    finished: bool,
}

/// Where the machine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No barrier is on its way and every outcome is known.
    Idle,
    /// A barrier is on its way.
    Barrier(Collecting),
    /// The log was given a commit and has not answered.
    Committing {
        /// The commit whose outcome is unknown.
        id: CommitId,
        /// Nothing will follow it.
        last: bool,
        /// The next interval's barrier, on its way or all there and waiting.
        next: Option<Collecting>,
    },
    /// Everything is committed.
    Done,
    /// An outcome was bad or unknown.
    Failed,
}

/// The driver and the machine disagree: a bug of ours.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("commit protocol: {input:?} does not fit {state:?}")]
pub struct ProtocolError {
    /// What was told.
    pub input: Input,
    /// Where the machine was.
    pub state: State,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct CommitProtocol {
    workers: usize,
    triggers: Triggers,
    state: State,
    next_id: u64,
    last_barrier_ms: u64,
    rows: u64,
    bytes: u64,
    active: bool,
    /// `Some(None)`: a stop was asked for; `Some(Some(id))`: that barrier is the last one.
    stopping: Option<Option<CommitId>>,
}

impl CommitProtocol {
    /// A machine for so many workers; the first commit is number 1.
    pub fn new(workers: usize, triggers: Triggers, now_ms: u64) -> Self {
        let (state, last_barrier_ms) = (State::Idle, now_ms);
        Self { workers, triggers, state, next_id: 1, last_barrier_ms, rows: 0, bytes: 0, active: false, stopping: None }
    }

    /// Where the machine is.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When to send a [`Input::Tick`] next, if waiting for time is all there is to do.
    pub fn due_ms(&self) -> Option<u64> {
        (self.active && self.may_start()).then_some(self.last_barrier_ms + self.triggers.interval_ms)
    }

    /// Takes one input and appends what is to be done.
    ///
    /// # Errors
    /// When the input does not fit the state; nothing has changed then.
    pub fn on(&mut self, input: Input, now_ms: u64, out: &mut Vec<Command>) -> Result<(), ProtocolError> {
        if matches!(self.state, State::Done | State::Failed) {
            return Ok(());
        }
        match input {
            Input::Tick => {}
            Input::Activity { rows, bytes } => {
                self.rows += rows;
                self.bytes += bytes;
                self.active |= rows > 0 || bytes > 0;
            }
            Input::Ended => self.active = true,
            Input::WorkerCommit { worker, id, something, finished } => {
                let collecting = self.collecting(id).filter(|c| c.arrived.get(worker) == Some(&false));
                let Some(collecting) = collecting else { return Err(self.unfit(input)) };
                collecting.arrived[worker] = true;
                collecting.missing -= 1;
                collecting.something |= something;
                collecting.finished &= finished;
                self.collected(out);
            }
            Input::Committed(id) => self.committed(id, out).ok_or_else(|| self.unfit(input))?,
            Input::Failed(_) => self.state = State::Failed,
            Input::Stop => self.stopping = self.stopping.or(Some(None)),
        }
        self.maybe_start(now_ms, out);
        Ok(())
    }

    fn unfit(&self, input: Input) -> ProtocolError {
        ProtocolError { input, state: self.state.clone() }
    }

    fn collecting(&mut self, id: CommitId) -> Option<&mut Collecting> {
        let collecting = match &mut self.state {
            State::Barrier(collecting) => Some(collecting),
            State::Committing { next, .. } => next.as_mut(),
            State::Idle | State::Done | State::Failed => None,
        };
        collecting.filter(|collecting| collecting.id == id)
    }

    /// A worker commit came in: if it was the last one, go on.
    fn collected(&mut self, out: &mut Vec<Command>) {
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Barrier(collecting) if collecting.missing == 0 => self.all_there(&collecting, out),
            State::Committing { id, last, next: Some(next) }
                if next.missing == 0 && !next.something && !next.finished =>
            {
                out.push(Command::Skip(next.id));
                self.state = State::Committing { id, last, next: None };
            }
            other => self.state = other,
        }
    }

    fn all_there(&mut self, collecting: &Collecting, out: &mut Vec<Command>) {
        // When all workers are at their end there is a last commit, be it of nothing. One without input is at its end from the beginning.
        if collecting.something || collecting.finished {
            let (id, last) = (collecting.id, collecting.finished);
            out.push(Command::Commit { id, last });
            self.state = State::Committing { id, last, next: None };
        } else {
            out.push(Command::Skip(collecting.id));
            self.state = State::Idle;
        }
    }

    fn committed(&mut self, committed: CommitId, out: &mut Vec<Command>) -> Option<()> {
        let State::Committing { id, .. } = self.state else { return None };
        if id != committed {
            return None;
        }
        out.push(Command::Apply(id));
        match std::mem::replace(&mut self.state, State::Idle) {
            State::Committing { last: true, .. } => {
                out.push(Command::Finish { at_end: true });
                self.state = State::Done;
            }
            State::Committing { next: Some(next), .. } if next.missing == 0 => self.all_there(&next, out),
            State::Committing { next: Some(next), .. } => self.state = State::Barrier(next),
            _ => {}
        }
        Some(())
    }

    /// True if a barrier may be injected now: none is on its way, and none waits.
    fn may_start(&self) -> bool {
        match &self.state {
            State::Idle => true,
            State::Committing { last, next, .. } => !last && next.is_none(),
            State::Barrier(_) | State::Done | State::Failed => false,
        }
    }

    fn maybe_start(&mut self, now_ms: u64, out: &mut Vec<Command>) {
        if !self.may_start() {
            return;
        }
        match self.stopping {
            // The last barrier is through and nothing is unknown; or there never was anything to commit.
            Some(last) if self.state == State::Idle && (last.is_some() || !self.active) => {
                out.push(Command::Finish { at_end: false });
                self.state = State::Done;
            }
            Some(Some(_)) => {}
            Some(None) if self.active => self.stopping = Some(Some(self.start(now_ms, out))),
            Some(None) => {}
            None if self.active && self.due(now_ms) => drop(self.start(now_ms, out)),
            None => {}
        }
    }

    fn due(&self, now_ms: u64) -> bool {
        now_ms >= self.last_barrier_ms + self.triggers.interval_ms
            || self.bytes >= self.triggers.max_bytes
            || self.rows >= self.triggers.max_rows
    }

    fn start(&mut self, now_ms: u64, out: &mut Vec<Command>) -> CommitId {
        let id = CommitId(self.next_id);
        self.next_id += 1;
        (self.last_barrier_ms, self.rows, self.bytes, self.active) = (now_ms, 0, 0, false);
        let barrier = Collecting {
            id,
            arrived: vec![false; self.workers],
            missing: self.workers,
            something: false,
            finished: true,
        };
        match &mut self.state {
            State::Committing { next, .. } => *next = Some(barrier),
            state => *state = State::Barrier(barrier),
        }
        out.push(Command::Barrier(id));
        id
    }
}

#[cfg(test)]
mod tests;
