//! Who may act on which shard, decided from the control topic: what a process of a pod must do next when it starts, gains or loses.
//!
//! Owns the fold of control records into a [`View`], and the decisions of a [`Process`] over it. It reads no topic, fences nobody and knows
//! no clock: whoever drives it does the steps and tells what came of them. `tests/model.rs` explores these very functions together with a
//! broker, crashes and pauses.
//!
//! # The rules
//! - A starting process calls `init_transactions`, then reads the control topic to the end that it has now, then acts. So a process that
//!   slept before it got its epoch reads that its shards are gone.
//! - A pod that gains a shard settles **every** earlier owner of it that is not settled, not only the last one (A → B → C: B may never have
//!   fenced A): by the owner's release in the control topic or, past a deadline, by fencing the owner's transactional id. A fence settles a
//!   loss only if whoever fenced had read that loss: the owner reads it too when it starts again.
//! - Only then the shard is restored: stable offsets, and the changelog to its end.
//! - A release is appended only by a process that has no transaction open and has made a transactional call succeed *after it read the loss*:
//!   the proof that it is not itself fenced, or the release would vouch for a process that it is not. It need not have held the shard: whoever
//!   was killed before it could release is released by the next process of its pod. With the proof every earlier process of the pod is fenced, and
//!   every later one reads the loss behind its own fence, so none of them can write the shard as that loss found it.
//! - A process releases before it fences anybody, and fences only when it has read its release in the control topic. So of two pods that have
//!   lost shards to each other, the one that fences first is never fenced for its own losses again.
//!
//! ```text
//!   Started ──init_transactions──▶ Initialised ──control topic read──▶ Running: for each shard
//!
//!      not ours ──gained──▶ settle every earlier owner ──▶ restore ──▶ held: transactions may hold it
//!          ▲                                                              │ lost, or lost by an earlier process of the pod
//!          └──────────── release ◀── transaction ended ◀── proof ◀────────┘
//! ```
//! Every abort, every unknown outcome and every sign of being fenced ends the process: a new [`Process`] begins at `Started`.

pub mod record;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::assignment::Assignment;
use record::{ControlRecord, Release};

/// What the control topic says, as far as it was read: always from its start, never with a gap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    in_force: Option<Assignment>,
    shards: Vec<Shard>,
}

/// A shard's present owner, and who owned it before and may still act on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shard {
    owner: Option<u16>,
    /// Pod → number of the assignment under which it last lost the shard; gone when it has released it.
    lost: BTreeMap<u16, u64>,
}

/// What became of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The view has changed.
    InForce,
    /// It changes nothing: a number that is not the next one, another number of shards, or a release of what is settled or never was lost.
    Void,
}

impl View {
    /// Takes the next record of the control topic.
    pub fn append(&mut self, record: &ControlRecord) -> Effect {
        match record {
            ControlRecord::Assignment(assignment) => self.assign(assignment),
            ControlRecord::Release(release) => self.release(release),
            ControlRecord::Proposal(_)
            | ControlRecord::Ready(_)
            | ControlRecord::Savepoint(_)
            | ControlRecord::Origin(_)
            | ControlRecord::Drain => Effect::Void,
        }
    }

    /// The assignment in force.
    pub fn in_force(&self) -> Option<&Assignment> {
        self.in_force.as_ref()
    }

    /// Number of the assignment in force, 0 before the first.
    pub fn number(&self) -> u64 {
        self.in_force.as_ref().map_or(0, |assignment| assignment.number)
    }

    /// The owner of a shard.
    pub fn owner(&self, shard: u16) -> Option<u16> {
        self.shards.get(usize::from(shard))?.owner
    }

    /// Earlier owners of a shard that have not released it, with the number of the assignment under which each last lost it.
    pub fn unreleased(&self, shard: u16) -> impl Iterator<Item = (u16, u64)> + '_ {
        self.shards
            .get(usize::from(shard))
            .into_iter()
            .flat_map(|shard| shard.lost.iter().map(|(pod, number)| (*pod, *number)))
    }

    fn assign(&mut self, next: &Assignment) -> Effect {
        if !next.follows(self.in_force.as_ref()) {
            return Effect::Void;
        }
        self.shards.resize_with(usize::from(next.shards), Shard::default);
        for share in &next.pods {
            for shard in share.shards.iter().cloned().flatten() {
                self.shards[usize::from(shard)].pass_to(share.ordinal, next.number);
            }
        }
        self.in_force = Some(next.clone());
        Effect::InForce
    }

    fn release(&mut self, release: &Release) -> Effect {
        let mut effect = Effect::Void;
        for shard in &release.shards {
            let Some(shard) = self.shards.get_mut(usize::from(*shard)) else { continue };
            // A release vouches for losses that its writer had read. One that comes late says nothing of a later loss.
            if shard.lost.get(&release.pod).is_some_and(|lost| *lost <= release.number) {
                shard.lost.remove(&release.pod);
                effect = Effect::InForce;
            }
        }
        effect
    }
}

impl Shard {
    fn pass_to(&mut self, pod: u16, number: u64) {
        if let Some(before) = self.owner.replace(pod).filter(|before| *before != pod) {
            self.lost.insert(before, number);
        }
    }
}

/// How far a process has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It has no epoch yet.
    Started,
    /// It has an epoch and does not know yet what it owns.
    Initialised,
    /// It has read the control topic to the end that it had when the epoch was there.
    Running,
}

/// What a process must do next. Steps of different shards are independent and may be done in any order. Nothing is settled as long as a step has
/// to do with what is lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Get an epoch, and fence every earlier process of this pod: then [`Process::initialised`].
    InitTransactions,
    /// Read the control topic to the end that it has now: then [`Process::caught_up`].
    ReadControlLog,
    /// These pods may still act on the shard. Read on in the control topic, for their releases; past the deadline fence each, then
    /// [`Process::fenced`].
    Settle {
        /// The shard.
        shard: u16,
        /// The pods.
        owners: Vec<u16>,
    },
    /// Read stable offsets (`require_stable`) and the changelog to its end, which must equal its last stable offset: then
    /// [`Process::restored`].
    Restore {
        /// The shard.
        shard: u16,
    },
    /// A shard is lost, by this process or by one before it: make any transactional call: then [`Process::proven`], or end when it is refused.
    Prove,
    /// A shard is lost, and a transaction that may hold it is open: end it.
    EndTransaction,
    /// Drop these shards' memory, also what is only half restored, [`Process::let_go`], and append the record. It stays a step until the record is
    /// read in the control topic. A process that ends before it is there leaves that to the next one, and until then the gainer may fence.
    Release(Release),
}

/// What one process of a pod knows of itself. It ends with the first abort, unknown outcome or refusal, and nothing of it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    ordinal: u16,
    stage: Stage,
    /// Pod → number of the assignment in force here when this process fenced it.
    fenced: BTreeMap<u16, u64>,
    held: BTreeSet<u16>,
    /// Number of the assignment in force here when the last call was begun that proved the epoch.
    proven: u64,
    in_transaction: bool,
}

impl Process {
    /// A process of the pod `ordinal` that has done nothing yet.
    pub fn new(ordinal: u16) -> Self {
        let (fenced, held) = (BTreeMap::new(), BTreeSet::new());
        Self { ordinal, stage: Stage::Started, fenced, held, proven: 0, in_transaction: false }
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// True if the shard is restored and not let go.
    pub fn holds(&self, shard: u16) -> bool {
        self.held.contains(&shard)
    }

    /// Number of the assignment under which this process fenced a pod; 0 if it never did.
    pub fn fenced_under(&self, pod: u16) -> u64 {
        self.fenced.get(&pod).copied().unwrap_or(0)
    }

    /// Number of the assignment under which the epoch was last proved; 0 if it never was.
    pub fn proven_under(&self) -> u64 {
        self.proven
    }

    /// `init_transactions` has returned.
    pub fn initialised(&mut self) {
        self.stage = Stage::Initialised;
    }

    /// The control topic is read to the end that it had after `init_transactions` returned.
    pub fn caught_up(&mut self) {
        self.stage = Stage::Running;
    }

    /// A pod's transactional id is fenced by a call that was begun while assignment `number` was in force here.
    pub fn fenced(&mut self, pod: u16, number: u64) {
        self.fenced.insert(pod, number);
    }

    /// A shard's state and offsets are read.
    pub fn restored(&mut self, shard: u16) {
        self.held.insert(shard);
    }

    /// A transactional call has succeeded that was begun while assignment `number` was in force here. A commit is such a call.
    pub fn proven(&mut self, number: u64) {
        self.proven = self.proven.max(number);
    }

    /// A transaction is open from its first record until its outcome is known.
    pub fn in_transaction(&mut self, open: bool) {
        self.in_transaction = open;
    }

    /// The memory of these shards is dropped.
    pub fn let_go(&mut self, shards: &[u16]) {
        self.held.retain(|shard| !shards.contains(shard));
    }

    /// True if the next transaction may hold records, changes and offsets of the shard.
    pub fn may_write(&self, view: &View, shard: u16) -> bool {
        self.stage == Stage::Running && self.holds(shard) && view.owner(shard) == Some(self.ordinal)
    }

    /// What is to be done, over what was read of the control topic.
    pub fn steps(&self, view: &View) -> Vec<Step> {
        match self.stage {
            Stage::Started => vec![Step::InitTransactions],
            Stage::Initialised => vec![Step::ReadControlLog],
            Stage::Running => self.running(view),
        }
    }

    fn running(&self, view: &View) -> Vec<Step> {
        let mut steps = Vec::new();
        let mut lost = Vec::new();
        for shard in (0u16..).take(view.shards.len()) {
            match (view.owner(shard) == Some(self.ordinal), self.holds(shard)) {
                (true, false) => steps.push(self.gain(view, shard)),
                (false, true) => lost.push(shard),
                (false, false) if self.loss(view, shard).is_some() => lost.push(shard),
                (true, true) | (false, false) => {}
            }
        }
        if !lost.is_empty() {
            // Two pods that have lost shards to each other would each fence the other before its release is there, again and again.
            steps.retain(|step| !matches!(step, Step::Settle { .. }));
            steps.push(self.lose(view, lost));
        }
        steps
    }

    /// Number of the assignment under which this pod lost the shard, if it has not released it.
    fn loss(&self, view: &View, shard: u16) -> Option<u64> {
        view.unreleased(shard).find(|(pod, _)| *pod == self.ordinal).map(|(_, lost)| lost)
    }

    fn gain(&self, view: &View, shard: u16) -> Step {
        let others = view.unreleased(shard).filter(|(pod, _)| *pod != self.ordinal);
        let owners: Vec<u16> =
            others.filter(|(pod, lost)| self.fenced_under(*pod) < *lost).map(|(pod, _)| pod).collect();
        if owners.is_empty() { Step::Restore { shard } } else { Step::Settle { shard, owners } }
    }

    fn lose(&self, view: &View, shards: Vec<u16>) -> Step {
        let lost_under = shards.iter().filter_map(|shard| self.loss(view, *shard)).max().unwrap_or(0);
        if self.proven < lost_under {
            Step::Prove
        } else if self.in_transaction {
            Step::EndTransaction
        } else {
            Step::Release(Release { number: lost_under, pod: self.ordinal, shards })
        }
    }
}
