//! Savepoints of a whole job: what the pods tell each other in the control topic, and what each must do next.
//!
//! Owns the fold of savepoint records into a [`Board`], and the order of the steps. It drains, copies and stores nothing: the runtime does each
//! step and says so. A job of one pod uses the same board without a topic.
//!
//! # The steps
//! 0. *Prepare*: no other snapshot is under way, so that the pause will be short.
//! 1. *Drain*, once per round: sources stand still; what other pods had sent when the round began is read; everything is committed. There is one
//!    round more than there are exchanges: what a row leads to crosses one exchange per round.
//! 2. *Copy*: nothing is in flight any more. Each pod copies its shards (hard links), and where its source partitions stand.
//! 3. *Store*: once all pods have copied, sources go on, unless the job is to stop. The copies go to the object store.
//! 4. When all have stored, the least pod writes the savepoint's own manifest, and ends it.
//!
//! No pod begins a step before all have done the one before. Whatever goes wrong ends it without a result, and the job goes on: a pod that
//! fails says so, a pod that begins anew ends what was open, and another assignment ends it for all.

pub mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use crate::assignment::Assignment;
use record::{Begin, SavepointRecord};

/// Savepoints that ended and are still known.
const REMEMBERED: usize = 16;

/// What the control topic says of savepoints, as far as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    open: Option<Open>,
    ended: VecDeque<Ended>,
    stopped: Option<String>,
}

/// A savepoint under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// What was asked for.
    pub begin: Begin,
    /// Per pod of the assignment, how many steps it has done.
    done: BTreeMap<u16, u16>,
}

/// A savepoint that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// What was asked for.
    pub begin: Begin,
    /// Why it has no result; `None` if it is complete.
    pub failure: Option<String>,
}

/// What a pod must do next for a savepoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Let a periodic snapshot end, and begin none.
    Prepare,
    /// Hold the sources, read what other pods had sent when this begins, commit until there is nothing to commit.
    Drain,
    /// Copy the shards and note the positions.
    Copy,
    /// Let the sources go on, unless the job is to stop; store the copies.
    Store,
    /// Write the savepoint's manifest, then say that it is complete.
    Complete,
    /// Others are not so far yet.
    Wait,
}

impl Open {
    fn least(&self) -> u16 {
        self.done.values().copied().min().unwrap_or(0)
    }

    /// What the pod must do next.
    pub fn todo(&self, pod: u16) -> Todo {
        let Some(mine) = self.done.get(&pod).copied() else { return Todo::Wait };
        if mine > self.least() {
            return Todo::Wait;
        }
        let rounds = self.begin.rounds;
        match mine {
            0 => Todo::Prepare,
            step if step <= rounds => Todo::Drain,
            step if step == rounds + 1 => Todo::Copy,
            step if step == rounds + 2 => Todo::Store,
            _ if self.done.keys().next() == Some(&pod) => Todo::Complete,
            _ => Todo::Wait,
        }
    }

    /// Number of steps that the pod has done.
    pub fn done(&self, pod: u16) -> u16 {
        self.done.get(&pod).copied().unwrap_or(0)
    }

    /// All pods, ascending.
    pub fn pods(&self) -> impl Iterator<Item = u16> + '_ {
        self.done.keys().copied()
    }

    /// True once every pod has copied: sources may go on.
    pub fn is_copied(&self) -> bool {
        self.least() >= self.begin.rounds + 2
    }
}

impl Board {
    /// The savepoint under way.
    pub fn open(&self) -> Option<&Open> {
        self.open.as_ref()
    }

    /// The savepoint with which the job's work ended, if nothing was said since that begins it anew: another assignment, or another savepoint.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// A savepoint that has ended, the last one of this cut.
    pub fn ended(&self, cut: u128) -> Option<&Ended> {
        self.ended.iter().rev().find(|ended| ended.begin.cut == cut)
    }

    /// Takes the next record. A record that does not fit what is open counts for nothing.
    pub fn append(&mut self, record: &SavepointRecord, in_force: Option<&Assignment>) {
        match record {
            SavepointRecord::Begin(begin) => self.begin(begin, in_force),
            SavepointRecord::Done { cut, pod, steps } => {
                let open = self.open.as_mut().filter(|open| open.begin.cut == *cut);
                if let Some(done) = open.and_then(|open| open.done.get_mut(pod)) {
                    *done = (*done).max(*steps);
                }
            }
            SavepointRecord::End { cut, failure } => {
                if self.open.as_ref().is_some_and(|open| open.begin.cut == *cut) {
                    self.end(failure.clone());
                }
            }
        }
    }

    /// Another assignment is in force: who copies what has changed.
    pub fn reassigned(&mut self) {
        self.stopped = None;
        self.end(Some("the job was distributed anew meanwhile".to_owned()));
    }

    fn begin(&mut self, begin: &Begin, in_force: Option<&Assignment>) {
        let Some(assignment) = in_force.filter(|assignment| assignment.number == begin.assignment) else { return };
        if self.open.is_none() {
            let done = assignment.pods.iter().map(|pod| (pod.ordinal, 0)).collect();
            self.open = Some(Open { begin: begin.clone(), done });
            self.stopped = None;
        }
    }

    fn end(&mut self, failure: Option<String>) {
        let Some(open) = self.open.take() else { return };
        if failure.is_none() && open.begin.stop {
            self.stopped = Some(open.begin.name.clone());
        }
        if self.ended.len() == REMEMBERED {
            self.ended.pop_front();
        }
        self.ended.push_back(Ended { begin: open.begin, failure });
    }
}
