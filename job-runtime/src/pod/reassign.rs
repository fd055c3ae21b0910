//! Another assignment while the pod works: what of it is taken up with a commit, and when the process begins anew.
//!
//! Owns the driver's side of it: fetching what is only proposed, the barrier that takes shards away, the release behind its commit, the wait for
//! shards that are gained. What is to be done is decided in `checkpoint::rescale` and `checkpoint::proposal`; how a worker gives a shard up is
//! `dataflow`'s.

mod moving;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::Instant;

use checkpoint::assignment::Assignment;
use checkpoint::control::ControlLog;
use checkpoint::ownership::View;
use checkpoint::proposal::{Next, Proposed, Ready};
use checkpoint::rescale::{Change, Turn, Waiting};
use dataflow::graph::NodeId;
use dataflow::key::ShardId;
use dataflow::shuffle::{OTHER_POD, Switch};
use dataflow::source::PartitionId;
use dataflow::worker::CommitId;

use super::assembly::Seat;
use super::driver::Parts;
use super::hold::Now;
use super::monitor::Monitor;
use super::savepoint::Event;
use crate::commit::KafkaOffset;
use crate::commit::kafka::{Member, Prepare as _, SETTLE, Sayings};
use crate::state::rocks::StoreGauge;

pub(super) use moving::{Fetch, Moving};

/// What was read last of the control topic, for the driver.
pub(super) struct News {
    log: Mutex<Option<(View, Option<Proposed>)>>,
    there: AtomicBool,
    driver: Thread,
}

impl News {
    /// For the driver of this thread.
    pub(super) fn new(driver: Thread) -> Self {
        Self { log: Mutex::default(), there: AtomicBool::new(false), driver }
    }

    /// Tells the driver.
    pub(super) fn tell(&self, log: &ControlLog) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Some((log.view.clone(), log.proposed.clone()));
        self.there.store(true, Ordering::Release);
        self.driver.unpark();
    }

    fn take(&self) -> Option<(View, Option<Proposed>)> {
        if !self.there.swap(false, Ordering::AcqRel) {
            return None;
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What a pod needs that may not be alone for ever.
pub(super) struct Watched {
    /// What it holds.
    pub(super) member: Member,
    /// Where it releases what it gives up, and says that it is ready.
    pub(super) sayings: Sayings,
    /// What others say.
    pub(super) news: Arc<News>,
    /// To the thread of savepoints.
    pub(super) events: SyncSender<Event>,
    /// Its place.
    pub(super) seat: Arc<Seat>,
    /// The worker of each shard.
    pub(super) owner: Arc<[usize]>,
    /// Its databases.
    pub(super) stores: Vec<(ShardId, StoreGauge)>,
    /// Closes and fetches shards.
    pub(super) moving: Moving,
    /// The job did not begin from a savepoint.
    pub(super) begins_empty: bool,
}

impl Watched {
    /// Fetches what there is of these shards, but for those that are still open here.
    fn fetch(&mut self, shards: &[u16]) {
        let stores = self.stores.iter();
        let open = |shard: &u16| stores.clone().any(|(own, store)| own.0 == *shard && store.is_open());
        let shards = shards.iter().filter(|shard| !open(shard)).copied().map(ShardId).collect();
        self.moving.fetch(shards, self.begins_empty);
    }
}

/// See the module's documentation.
pub(super) struct Reassign {
    /// `None` for a pod that is and stays alone.
    watched: Option<Watched>,
    /// The assignment that is worked under.
    under: Assignment,
    view: Option<View>,
    proposed: Option<Proposed>,
    /// What is fetched because it is proposed, and whether that was said.
    preparing: Option<(Next, bool)>,
    /// What was decided may not hold any more.
    stale: bool,
    /// To be taken up with the next barrier.
    due: Option<Change>,
    taking: Option<Taking>,
    /// Since when gained shards are waited for, by the number of the assignment that gives them.
    waiting: Option<(u64, Instant)>,
    waited: Option<u64>,
    /// The process begins anew, whatever is read from now on.
    ending: bool,
}

/// An assignment that is taken up with a barrier that is on its way.
struct Taking {
    id: CommitId,
    change: Change,
    view: View,
    switch: Arc<Switch>,
}

/// What was taken up, for everything else.
struct TakenUp {
    lost: Vec<ShardId>,
    switch: Arc<Switch>,
    /// The pod of each shard.
    owners: Vec<u16>,
}

impl Reassign {
    /// Under the assignment that the pod has joined.
    pub(super) fn new(watched: Option<Watched>, under: Assignment) -> Self {
        Self {
            watched,
            under,
            view: None,
            proposed: None,
            preparing: None,
            stale: false,
            due: None,
            taking: None,
            waiting: None,
            waited: None,
            ending: false,
        }
    }

    /// Takes what is new, and says what that means now. At its end, the process begins anew.
    pub(super) fn look(&mut self) -> Now {
        let Some(watched) = &mut self.watched else { return Now::Go };
        if let Some((view, proposed)) = watched.news.take() {
            (self.view, self.proposed, self.stale) = (Some(view), proposed, true);
            // If it is not in there, it is said again: the proposal may have been taken back and made again.
            if let Some((_, said)) = &mut self.preparing {
                *said = false;
            }
        }
        if self.ending {
            return Now::End;
        }
        self.prepare();
        let Some(watched) = &mut self.watched else { return Now::Go };
        let (Some(view), None) = (&self.view, &self.taking) else { return Now::Go };
        if !self.stale && self.waiting.is_none() {
            return if self.due.is_some() { Now::Barrier } else { Now::Go };
        }
        self.stale = false;
        let since = self.waiting.filter(|(number, _)| *number == view.number()).map(|(_, since)| since);
        let long_enough = since.is_some_and(|since| since.elapsed() >= SETTLE);
        let waiting = Waiting { long_enough, fetching: watched.moving.is_fetching() };
        (self.due, self.waiting) = (None, None);
        match watched.member.turn(&self.under, view, waiting) {
            Turn::GoOn => Now::Go,
            Turn::TakeUp(change) => {
                self.due = Some(change);
                Now::Barrier
            }
            Turn::Await(shards) => {
                if since.is_none() {
                    tracing::info!(assignment = view.number(), ?shards, "waiting for gained shards");
                    watched.fetch(&shards);
                }
                self.waiting = Some((view.number(), since.unwrap_or_else(Instant::now)));
                Now::Go
            }
            Turn::Anew => {
                (self.waited, self.ending) = (long_enough.then(|| view.number()), true);
                Now::End
            }
        }
    }

    /// Fetches what a proposal gives the pod, and says when it is there. What is in force comes first.
    fn prepare(&mut self) {
        let (Some(watched), Some(proposed), Some(view)) = (&mut self.watched, &self.proposed, &self.view) else {
            return;
        };
        let Some(current) = view.in_force().filter(|current| current.number == self.under.number) else { return };
        if watched.moving.is_fetching() {
            return;
        }
        let (next, wanted) = (proposed.next(), proposed.wanted(current, watched.member.ordinal()));
        match &mut self.preparing {
            Some((known, said)) if *known == next => {
                if !std::mem::replace(said, true) && !wanted.is_empty() {
                    watched.sayings.ready(Ready { next, pod: watched.member.ordinal() });
                }
            }
            Some(_) | None if !wanted.is_empty() => {
                tracing::info!(assignment = next.number, pods = next.pods, shards = ?wanted, "fetching what is proposed");
                watched.fetch(&wanted);
                self.preparing = Some((next, false));
            }
            Some(_) | None => {}
        }
    }

    /// The assignment under which gained shards were waited for as long as those who had them may take.
    pub(super) fn waited(&self) -> Option<u64> {
        self.waited
    }

    /// A barrier is put in: what it takes away.
    pub(super) fn begun(&mut self, id: CommitId) -> Option<Arc<Switch>> {
        let (watched, view, change) = (self.watched.as_mut()?, self.view.as_ref()?, self.due.take()?);
        let is_lost = |shard: usize| change.lost.iter().any(|lost| usize::from(*lost) == shard);
        let owner = watched.owner.iter().enumerate();
        let owner = owner.map(|(shard, worker)| if is_lost(shard) { OTHER_POD } else { *worker }).collect();
        // From here on no new partition of a lost shard is opened; what is open already the workers drop.
        let next = view.in_force().filter(|_| !change.gains);
        let switch = Arc::new(Switch { owner, view: watched.seat.take_up(next, &shards(&change)) });
        self.taking = Some(Taking { id, change, view: view.clone(), switch: Arc::clone(&switch) });
        Some(switch)
    }

    /// True if an assignment is taken up with this commit: it must be made, whatever is in it.
    pub(super) fn is_taken_up_with(&self, id: CommitId) -> bool {
        self.taking.as_ref().is_some_and(|taking| taking.id == id)
    }

    /// What makes a commit that takes an assignment up prove that the process is not fenced.
    pub(super) fn proof(&self, id: CommitId) -> Option<KafkaOffset> {
        let taking = self.taking.as_ref().filter(|taking| taking.id == id)?;
        Some(self.watched.as_ref()?.member.proof(taking.view.number()))
    }

    /// A commit is in the log, and the workers have been told.
    fn committed(&mut self, id: CommitId) -> Option<TakenUp> {
        let watched = self.watched.as_mut()?;
        let Taking { change, view, switch, .. } = self.taking.take_if(|taking| taking.id == id)?;
        let Change { number, gains, .. } = change;
        let lost = shards(&change);
        if let (Some(next), false) = (view.in_force(), gains) {
            self.under.clone_from(next);
        }
        self.stale = true;
        watched.owner = Arc::clone(&switch.owner);
        if let Some(release) = watched.member.taken_up(&view) {
            watched.sayings.release(release);
        }
        let told = watched.events.try_send(Event::Assigned { number: self.under.number, lost: lost.clone() });
        if told.is_err() {
            tracing::warn!("the savepoint's thread does not listen");
        }
        watched.moving.close(watched.stores.iter().filter(|(shard, _)| lost.contains(shard)).map(|(_, store)| store));
        if gains {
            tracing::info!(assignment = number, lost = ?change.lost, "lost shards are given up");
        } else {
            tracing::info!(assignment = number, lost = ?change.lost, "another assignment is taken up");
        }
        let owner = |shard| view.owner(shard).unwrap_or_default();
        let owners = (0..view.in_force().map_or(0, |next| next.shards)).map(owner).collect();
        Some(TakenUp { lost, switch, owners })
    }
}

fn shards(change: &Change) -> Vec<ShardId> {
    change.lost.iter().copied().map(ShardId).collect()
}

impl Parts {
    /// A commit is in the log, and the workers have been told. If it takes an assignment up: so does everything else. `left` are the source
    /// partitions that the workers have dropped with it.
    pub(super) fn take_up(&mut self, id: CommitId, left: Vec<(NodeId, PartitionId)>, monitor: &Monitor) {
        let Some(TakenUp { lost, switch, owners }) = self.reassign.committed(id) else { return };
        if let Some(shuffle) = &mut self.shuffle {
            shuffle.pressure.passed(owners);
            shuffle.outgoing.take_up(switch.view.clone(), &lost);
        }
        self.hold.leave(&lost);
        for (node, partition) in left {
            monitor.left(node, &partition);
            if let Some((_, uid)) = self.sources.iter().find(|(source, _)| *source == node) {
                self.positions.remove(&(*uid, partition));
            }
        }
    }
}
