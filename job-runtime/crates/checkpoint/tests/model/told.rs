//! What `checkpoint::ownership` is told of a process, and what it says must be done next; mutants twist both.
//!
//! Owns the way between the model's processes and that code. The steps themselves are in `pods`.

use checkpoint::ownership::record::{ControlRecord, Release};
use checkpoint::ownership::{self, View};

use super::job::{Job, Mutant};
use super::world::{Holding, Phase, Process, SHARDS, Stage};

/// The process as `checkpoint::ownership` knows it, told through the calls that the runtime makes.
fn honest(process: &Process, ordinal: u8) -> ownership::Process {
    let mut told = ownership::Process::new(u16::from(ordinal));
    if matches!(process.stage, Stage::Initialised | Stage::Running) {
        told.initialised();
    }
    if process.stage == Stage::Running {
        told.caught_up();
    }
    let fenced = process.fenced.iter().enumerate().filter(|(_, number)| **number > 0);
    fenced.for_each(|(pod, number)| told.fenced(pod as u16, u64::from(*number)));
    let held = (0..SHARDS).filter(|shard| process.holding[*shard] == Holding::Held);
    held.for_each(|shard| told.restored(shard as u16));
    told.proven(u64::from(process.proven));
    told.in_transaction(process.phase != Phase::Idle);
    told
}

impl Job {
    /// The process as `checkpoint::ownership` is told of it.
    pub(crate) fn told(&self, process: &Process, ordinal: u8) -> ownership::Process {
        let mut told = honest(process, ordinal);
        let holds = process.holding.contains(&Holding::Held);
        if (self.is(Mutant::ReleaseWithoutProof) && holds) || (self.is(Mutant::PredecessorUnproved) && !holds) {
            told.proven(u64::MAX);
        }
        if self.is(Mutant::ReleaseInTransaction) {
            told.in_transaction(false);
        }
        told
    }

    /// What must be done next.
    pub(crate) fn must_do(&self, told: &ownership::Process, ordinal: u8, view: &View) -> Vec<ownership::Step> {
        let (silent, early) = (self.is(Mutant::PredecessorNotReleased), self.is(Mutant::FencesBeforeRelease));
        if !silent && !early {
            return told.steps(view);
        }
        // As if what the pod has lost, and this process does not hold, were released already.
        let shards = (0..SHARDS as u16).filter(|shard| !told.holds(*shard)).collect();
        let mut blind = view.clone();
        blind.append(&ControlRecord::Release(Release { number: u64::MAX, pod: u16::from(ordinal), shards }));
        let mut steps = told.steps(&blind);
        if early {
            steps.retain(|step| matches!(step, ownership::Step::Settle { .. }));
            steps.extend(told.steps(view));
        }
        steps
    }
}

impl Process {
    /// Takes over what `checkpoint::ownership` made of an input.
    pub(crate) fn take(&mut self, told: &ownership::Process) {
        self.stage = match told.stage() {
            ownership::Stage::Started => Stage::Started,
            ownership::Stage::Initialised => Stage::Initialised,
            ownership::Stage::Running => Stage::Running,
        };
        self.fenced = std::array::from_fn(|pod| told.fenced_under(pod as u16) as u8);
        self.proven = told.proven_under() as u8;
        for shard in 0..SHARDS {
            match (self.holding[shard], told.holds(shard as u16)) {
                (Holding::Held, false) => self.forget(shard),
                (Holding::Nothing | Holding::OffsetRead, true) => self.holding[shard] = Holding::Held,
                (Holding::Held, true) | (Holding::Nothing | Holding::OffsetRead, false) => {}
            }
        }
    }

    /// Drops the memory of a shard, also what is only half restored.
    pub(crate) fn forget(&mut self, shard: usize) {
        (self.holding[shard], self.next[shard]) = (Holding::Nothing, 0);
    }
}
