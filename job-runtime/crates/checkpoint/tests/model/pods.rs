//! What a process may do next. What it must do about ownership is asked of `checkpoint::ownership` (`told`); a mutant twists what that code is
//! told, or does not do what it says.
//!
//! Owns the steps of processes: start, settle, restore, transaction, release. It knows nothing of faults that others make.
//!
//! A process that sleeps is one whose steps do not come for a while: that happens before every step, because every order is explored.

use checkpoint::ownership::record::Release;
use checkpoint::ownership::{self, View};

use super::explorer::Step;
use super::job::{Action, Job, Mutant, Views};
use super::world::{Holding, Phase, Process, Record, SHARDS, Stage, Transaction, World};

impl Process {
    /// Drops all memory and begins anew.
    fn recover(&mut self, keeps_view: bool) {
        let read = if keeps_view { self.read } else { 0 };
        *self = Process { stage: Stage::Started, read, ..Process::DOWN };
    }
}

/// One process in one world, and where its steps go.
struct Turn<'a> {
    job: &'a Job,
    world: &'a World,
    index: usize,
    pod: u8,
    fair: u8,
    out: &'a mut Vec<Step<Job>>,
}

impl Job {
    /// Everything that one process may do next.
    pub(crate) fn process_steps(
        &self,
        world: &World,
        index: usize,
        owners: &[Option<u8>; SHARDS],
        views: &mut Views,
        out: &mut Vec<Step<Job>>,
    ) {
        let (pod, fair) = (self.pod(index), self.fair(index, owners));
        let process = &world.processes[index];
        let mut turn = Turn { job: self, world, index, pod, fair, out };
        if process.stage == Stage::Down {
            let owner = owners.contains(&Some(pod));
            turn.fair = if owner && fair != 0 { fair } else { 0 };
            turn.step(Action::Start(index), |_, process| process.stage = Stage::Started);
            return;
        }
        if world.budget.crashes > 0 {
            turn.fault(Action::Crash(index), |world, process| {
                world.budget.crashes -= 1;
                *process = Process::DOWN;
            });
        }
        let told = self.told(process, pod);
        let view = self.view(world.control.read(process.read), views);
        if process.stage == Stage::Running && process.read < world.control.len() {
            turn.step(Action::ReadRecord(index), |_, process| process.read += 1);
        }
        if self.is(Mutant::OldFence) && process.stage == Stage::Running {
            turn.fence_early();
        }
        for step in self.must_do(&told, pod, view) {
            turn.ownership(step, &told, view);
        }
        turn.transaction(&told, view);
    }
}

impl Turn<'_> {
    fn process(&self) -> &Process {
        &self.world.processes[self.index]
    }

    fn push(&mut self, action: Action, fair: u8, act: impl FnOnce(&mut World, &mut Process)) -> &mut Step<Job> {
        let mut next = *self.world;
        let mut process = next.processes[self.index];
        // Written first: what is done to the world may reach this process too.
        act(&mut next, &mut process);
        next.processes[self.index] = process;
        self.out.push(Step { action, next, fair, violation: None });
        self.out.last_mut().expect("just pushed")
    }

    fn step(&mut self, action: Action, act: impl FnOnce(&mut World, &mut Process)) {
        self.push(action, self.fair, act);
    }

    fn fault(&mut self, action: Action, act: impl FnOnce(&mut World, &mut Process)) {
        self.push(action, 0, act);
    }

    fn recover(&mut self, action: Action, fair: u8) {
        let keeps_view = self.job.is(Mutant::ControlLogNotReadAgain);
        self.push(action, fair, |_, process| process.recover(keeps_view));
    }

    /// Gives a pod a new epoch. This process may be of that pod.
    fn new_epoch(job: &Job, world: &mut World, index: usize, process: &mut Process, pod: u8) {
        world.new_epoch(job.pods, pod);
        process.live &= job.pod(index) != pod;
    }

    fn ownership(&mut self, step: ownership::Step, told: &ownership::Process, view: &View) {
        let (job, index, number) = (self.job, self.index, view.number());
        let mut told = told.clone();
        match step {
            ownership::Step::InitTransactions => self.init(told),
            ownership::Step::ReadControlLog => self.step(Action::ReadControlLog(index), |world, process| {
                told.caught_up();
                process.take(&told);
                process.read = world.control.len();
            }),
            ownership::Step::Settle { shard, owners } if job.is(Mutant::NoFence) => {
                drop(owners);
                self.restore(usize::from(shard), told);
            }
            ownership::Step::Settle { shard, owners } => self.settle(usize::from(shard), &owners, &told, view),
            ownership::Step::Restore { shard } => self.restore(usize::from(shard), told),
            ownership::Step::Prove if self.process().live => self.step(Action::Prove(index), |_, process| {
                told.proven(number);
                process.take(&told);
            }),
            ownership::Step::Prove => self.recover(Action::FoundFenced(index), self.fair),
            // The steps of the transaction do it.
            ownership::Step::EndTransaction => {}
            ownership::Step::Release(release) => self.release(&release, told),
        }
    }

    fn release(&mut self, release: &Release, mut told: ownership::Process) {
        let shards = release.shards.iter().fold(0, |bits, shard| bits | 1 << shard);
        let record = Record::Release { number: release.number as u8, pod: release.pod as u8, shards };
        // What is on its way or there already needs only to be waited for and read: to send it again would change nothing.
        let sent =
            self.world.releases.iter().any(|other| other == record) || self.world.control.all().contains(&record);
        let remembers = release.shards.iter().any(|s| self.process().holding[usize::from(*s)] != Holding::Nothing);
        if sent && !remembers {
            return;
        }
        self.step(Action::Release(self.index, shards), |world, process| {
            told.let_go(&release.shards);
            process.take(&told);
            release.shards.iter().for_each(|shard| process.forget(usize::from(*shard)));
            world.send_release(record);
        });
    }

    fn init(&mut self, mut told: ownership::Process) {
        let (job, index, pod) = (self.job, self.index, self.pod);
        let read = self.process().read;
        if job.is(Mutant::ControlLogReadFirst) && read == 0 {
            self.step(Action::ReadControlLog(index), |world, process| process.read = world.control.len());
        } else if self.world.coordinators[usize::from(pod)].answers() {
            self.step(Action::Init(index), |world, process| {
                Turn::new_epoch(job, world, index, process, pod);
                told.initialised();
                if read > 0 {
                    told.caught_up(); // only a mutant has read before
                }
                process.take(&told);
                process.live = true;
            });
        }
    }

    /// The release may come by itself; the deadline may pass at any moment.
    fn settle(&mut self, shard: usize, owners: &[u16], told: &ownership::Process, view: &View) {
        let (job, index) = (self.job, self.index);
        let mut owners: Vec<u8> = owners.iter().map(|pod| *pod as u8).collect();
        if job.is(Mutant::LastOwnerOnly) {
            let lost =
                |pod: &u8| view.unreleased(shard as u16).find(|(p, _)| *p == u16::from(*pod)).map(|(_, lost)| lost);
            let all = view
                .unreleased(shard as u16)
                .filter(|(pod, _)| *pod != u16::from(self.pod))
                .map(|(_, lost)| lost)
                .max();
            // The last owner is the one of the last loss of all, released or fenced or not.
            let newest = self.last_loss(shard);
            owners.retain(|pod| lost(pod) == all && all == Some(newest));
            if owners.is_empty() {
                return self.restore(shard, told.clone());
            }
        }
        for pod in owners {
            if !self.world.coordinators[usize::from(pod)].answers() || job.is(Mutant::WaitsForEver) {
                continue;
            }
            let mut told = told.clone();
            told.fenced(u16::from(pod), view.number());
            self.step(Action::Fence(index, pod), |world, process| {
                if job.is(Mutant::FenceByAbort) {
                    world.partitions.iter_mut().for_each(|partition| partition.abort(pod));
                } else {
                    Turn::new_epoch(job, world, index, process, pod);
                }
                process.take(&told);
            });
        }
        if job.is(Mutant::OffsetsReadEarly) && self.process().holding[shard] == Holding::Nothing {
            self.restore(shard, told.clone());
        }
    }

    /// Number of the assignment in this process's view by which the shard last changed its owner.
    fn last_loss(&self, shard: usize) -> u64 {
        let mut before = None;
        let mut last = 0;
        for record in self.world.control.read(self.process().read) {
            if let Record::Assignment { number, owners } = record
                && before.replace(owners[shard]).is_some_and(|owner| owner != owners[shard])
            {
                last = u64::from(*number);
            }
        }
        last
    }

    /// A mutant: fences whom it has nothing to settle with yet, and counts it for ever.
    fn fence_early(&mut self) {
        let (job, index, own) = (self.job, self.index, self.pod);
        for pod in (0..job.pods).filter(|pod| *pod != own) {
            if self.process().fenced[usize::from(pod)] == 0 && self.world.coordinators[usize::from(pod)].answers() {
                self.fault(Action::Fence(index, pod), |world, process| {
                    Turn::new_epoch(job, world, index, process, pod);
                    process.fenced[usize::from(pod)] = u8::MAX;
                });
            }
        }
    }

    /// Offsets first, then the changelog into the local state.
    fn restore(&mut self, shard: usize, mut told: ownership::Process) {
        let (job, index, partition) = (self.job, self.index, self.world.partitions[shard]);
        match self.process().holding[shard] {
            Holding::Nothing if job.is(Mutant::UnstableOffsets) || partition.pending.is_empty() => {
                self.step(Action::ReadOffset(index, shard), |_, process| {
                    process.holding[shard] = Holding::OffsetRead;
                    process.next[shard] = partition.offset;
                });
            }
            Holding::OffsetRead if job.is(Mutant::ChangelogReadShort) || partition.is_stable() => {
                let disk = self.world.disks[index][shard];
                let tail = (disk.applied..partition.visible).fold(0, |bits, input| bits | 1 << input);
                let (inputs, offset) = (disk.inputs | tail, self.process().next[shard]);
                let step = self.push(Action::Restore(index, shard), self.fair, |world, process| {
                    told.restored(shard as u16);
                    process.take(&told);
                    world.disks[index][shard].inputs = inputs;
                    world.disks[index][shard].applied = disk.applied.max(partition.visible);
                });
                let committed = partition.committed();
                // What a fenced process reads does not matter: it will commit nothing.
                if step.next.processes[index].live && (inputs + 1 != 1 << committed || offset != committed) {
                    step.violation = Some(format!(
                        "I3: shard {shard} is restored with the inputs {inputs:b} and offset {offset}, committed are {committed}"
                    ));
                }
            }
            Holding::Nothing | Holding::OffsetRead | Holding::Held => {}
        }
    }

    fn transaction(&mut self, told: &ownership::Process, view: &View) {
        let process = *self.process();
        let (index, pod, job) = (self.index, self.pod, self.job);
        let more = |shard: &usize| told.may_write(view, *shard as u16) && process.next[*shard] < job.inputs;
        let answers = self.world.coordinators[usize::from(pod)].answers();
        match process.phase {
            Phase::Idle if !(0..job.shards).any(|shard| more(&shard)) => {}
            Phase::Idle | Phase::Produced | Phase::OffsetsSent | Phase::EndSent if !process.live => {
                self.recover(Action::FoundFenced(index), self.fair);
                if process.phase == Phase::EndSent {
                    self.unknown();
                }
            }
            Phase::Idle if answers => self.produce((0..job.shards).filter(more).collect()),
            Phase::Produced if answers => self.step(Action::SendOffsets(index), |world, process| {
                world.coordinators[usize::from(pod)].transaction = Transaction::Open;
                process.phase = Phase::OffsetsSent;
                for shard in 0..SHARDS {
                    if let Some(input) = process.open[shard].filter(|_| !job.is(Mutant::OffsetsFirst)) {
                        world.partitions[shard].send_offset(pod, input + 1);
                    }
                }
            }),
            Phase::OffsetsSent => self.step(Action::SendEnd(index), |world, process| {
                world.coordinators[usize::from(pod)].end_on_the_way = true;
                process.phase = Phase::EndSent;
            }),
            Phase::EndSent => self.unknown(),
            Phase::Replied => {
                self.returned();
                self.unknown();
            }
            Phase::Idle | Phase::Produced => {}
        }
    }

    fn produce(&mut self, shards: Vec<usize>) {
        let (job, index, pod) = (self.job, self.index, self.pod);
        self.step(Action::Produce(index), |world, process| {
            world.coordinators[usize::from(pod)].transaction = Transaction::Open;
            process.phase = Phase::Produced;
            for shard in shards {
                let input = process.next[shard];
                world.partitions[shard].produce(pod, input);
                process.open[shard] = Some(input);
                process.next[shard] = input + 1;
                if job.is(Mutant::OffsetsFirst) {
                    world.partitions[shard].offset = input + 1;
                }
                if job.is(Mutant::StateBeforeCommit) {
                    world.disks[index][shard].apply(input);
                }
            }
        });
    }

    /// The commit returned: the local state takes the changes together with their place.
    fn returned(&mut self) {
        let index = self.index;
        self.step(Action::Returned(index), |world, process| {
            for shard in 0..SHARDS {
                if let Some(input) = process.open[shard].take() {
                    world.disks[index][shard].apply(input);
                }
            }
            process.phase = Phase::Idle;
        });
        if self.job.is(Mutant::PlaceBesideState) && self.world.budget.crashes > 0 {
            self.fault(Action::CrashBetweenWrites(index), |world, process| {
                for shard in 0..SHARDS {
                    if let Some(input) = process.open[shard] {
                        world.disks[index][shard].applied = input + 1;
                    }
                }
                world.budget.crashes -= 1;
                *process = Process::DOWN;
            });
        }
    }

    /// Nothing is heard of the commit: it may have happened, may still happen, or never will. The client asked more than once, so that a
    /// copy of the request may still arrive.
    fn unknown(&mut self) {
        if self.world.budget.unknown > 0 {
            self.unknown_with(false);
            if self.process().live && !self.world.coordinators[usize::from(self.pod)].end_on_the_way {
                self.unknown_with(true);
            }
        }
    }

    fn unknown_with(&mut self, copy: bool) {
        let action = Action::Unknown(self.index, copy);
        let from = self.out.len();
        match self.job.mutant {
            Some(Mutant::ProducerReused) => self.fault(action, |world, process| {
                world.budget.unknown -= 1;
                (process.phase, process.open) = (Phase::Idle, [None; SHARDS]);
                (process.holding, process.next) = ([Holding::Nothing; SHARDS], [0; SHARDS]);
            }),
            Some(Mutant::RetryFromMemory) => self.fault(action, |world, process| {
                world.budget.unknown -= 1;
                for shard in 0..SHARDS {
                    if let Some(input) = process.open[shard].take() {
                        process.next[shard] = input;
                    }
                }
                (process.phase, process.stage, process.live, process.read) = (Phase::Idle, Stage::Started, false, 0);
            }),
            _ => self.fault(action, |world, process| {
                world.budget.unknown -= 1;
                process.recover(self.job.is(Mutant::ControlLogNotReadAgain));
            }),
        }
        for step in &mut self.out[from..] {
            step.next.coordinators[usize::from(self.pod)].end_on_the_way |= copy;
        }
    }
}

impl World {
    /// Sends a release; one that is on its way already, or there, says the same.
    fn send_release(&mut self, release: Record) {
        if !self.releases.iter().any(|other| other == release) && !self.control.all().contains(&release) {
            self.releases.push(release);
            self.releases.sort();
        }
    }
}
