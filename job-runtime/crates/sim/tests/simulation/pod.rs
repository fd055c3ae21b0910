//! The processes of a job's pods: each joins, restores, works until something ends it, and begins anew.
//!
//! Owns what all processes share, and the life of one. Dropped at any await, it is a killed process. What it does while it works is `running`'s.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use dataflow::graph::JobGraph;
use dataflow::key::Shards;
use sim::store::ObjectStore;
use sim::world::World;

use super::archive::Archive;
use super::commit::{Ended, Log};
use super::machine::Disks;
use super::member::{Control, Member};
use super::mutant::Mutant;
use super::restore::restore;
use super::running::{Running, Turn};

/// How often things happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) commits: u64,
    pub(crate) messages: u64,
    pub(crate) fences: u64,
    pub(crate) releases: u64,
    pub(crate) snapshots: u64,
    pub(crate) restored: u64,
    pub(crate) damage_found: u64,
    /// Processes that ended because records of the input are not there any more.
    pub(crate) gone: u64,
}

impl Counts {
    pub(crate) fn add(&mut self, other: &Self) {
        self.commits += other.commits;
        self.messages += other.messages;
        self.fences += other.fences;
        self.releases += other.releases;
        self.snapshots += other.snapshots;
        self.restored += other.restored;
        self.damage_found += other.damage_found;
        self.gone += other.gone;
    }
}

/// What all processes of the job have in common.
pub(crate) struct Job {
    pub(crate) world: World,
    pub(crate) store: ObjectStore,
    pub(crate) graph: Arc<JobGraph>,
    pub(crate) partitions: i32,
    pub(crate) shards: Shards,
    /// How many pods it should have.
    pub(crate) pods: Cell<u16>,
    /// How long a process at work may be before it looks at the control topic again.
    pub(crate) look_us: usize,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) archive: RefCell<Archive>,
    pub(crate) counts: RefCell<Counts>,
    /// What an invariant has found wrong first.
    pub(crate) found: RefCell<Option<String>>,
    /// Processes so far.
    pub(crate) processes: Cell<u64>,
}

impl Job {
    pub(crate) fn wrong(&self, what: String) {
        self.found.borrow_mut().get_or_insert(what);
    }

    /// Lets the checks see all of the changelog that is committed now.
    pub(crate) fn look_at_changelog(&self) {
        let read = self.archive.borrow_mut().read(&self.world, self.shards.all());
        read.unwrap_or_else(|wrong| self.wrong(wrong));
    }
}

/// The output topics: two partitions each.
pub(crate) fn output_topic(windows: bool) -> String {
    if windows { "windows".to_owned() } else { "rows".to_owned() }
}

/// Where a process runs.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) pod: u16,
    pub(crate) disks: Disks,
    /// The machine's clock is wrong by so much, now.
    pub(crate) skew_ms: Rc<Cell<i64>>,
}

/// Runs processes of a pod one after the other on one machine, until one is fenced: then another process has the pod.
pub(crate) async fn run(job: Rc<Job>, machine: Machine) {
    loop {
        let ended = match process(&job, &machine).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        };
        machine.disks.close();
        match ended {
            Ended::Fenced => return,
            Ended::Gone => {
                // It says why it cannot go on, and Kubernetes starts it again after a while.
                job.counts.borrow_mut().gone += 1;
                job.world.sleep(1_000_000).await;
            }
            Ended::Unknown | Ended::Reassigned | Ended::Failed => job.world.sleep(20_000).await,
        }
    }
}

enum Never {}

async fn process(job: &Rc<Job>, machine: &Machine) -> Result<Never, Ended> {
    let number = job.processes.replace(job.processes.get() + 1);
    let open = || Log::open(&job.world, machine.pod, number, job.mutant);
    let mut early = None;
    if job.mutant == Some(Mutant::ControlReadFirst) {
        let mut control = Control::default();
        control.read(&job.world, job.world.connect()).await?;
        early = control.view.in_force().is_some().then_some(control);
        // The window in which it hurts, made wide.
        job.world.sleep(job.world.below(3_000_000) as u64).await;
    }
    let mut log = if job.mutant == Some(Mutant::FencedLate) { None } else { Some(open().await?) };
    let mut member = Member::join(job, machine.pod, early, log.as_mut()).await?;
    let restored = restore(job, &machine.disks, &mut member).await?;
    let log = match log {
        Some(log) => log,
        None => open().await?,
    };
    let mut running = Running::new(job, machine, &member, restored, log, number);
    loop {
        match running.turn(job)? {
            Turn::Left(mut log) => {
                drop(running);
                member.leave(job, &mut log).await?;
                return Err(Ended::Reassigned);
            }
            Turn::GoesOn => match machine.disks.owed_ms() {
                0 => job.world.wait(4_000 + job.world.below(20_000) as u64).await,
                slow => job.world.sleep(slow * 1_000).await,
            },
        }
    }
}
