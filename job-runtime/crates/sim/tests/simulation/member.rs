//! A process's place in the job: the control topic, the shares of the pods, releases and fences.
//!
//! Owns the calls, as `commit/kafka/control.rs` does in the program. What must be done next is `checkpoint::ownership`'s, and both do what it says.

use std::rc::Rc;

use checkpoint::assignment::Assignment;
use checkpoint::names;
use checkpoint::ownership::record::ControlRecord;
use checkpoint::ownership::{Process, Step, View};
use dataflow::key::ShardId;
use dataflow::worker::CommitId;
use sim::message::{Answer, Isolation, Place, Record, Request};
use sim::world::{CallError, Connection, World};

use super::commit::{CALL_TIMEOUT_MS, Commit, Ended, JOB, Log, UID, fence};
use super::mutant::Mutant;
use super::pod::Job;

/// Earlier owners have this long to release what they lost; then they are fenced.
const SETTLE_MS: u64 = 2_000;
const LOOK_US: u64 = 100_000;
/// An append is asked for so many times; a record that is there twice counts once.
const APPENDS: usize = 3;

pub(crate) fn control_place() -> Place {
    (names::control_topic(UID), 0)
}

/// The control topic as one process has read it.
#[derive(Clone, Default)]
pub(crate) struct Control {
    pub(crate) view: View,
    next: i64,
}

impl Control {
    /// Reads on to the end that the topic has now.
    pub(crate) async fn read(&mut self, world: &World, connection: Connection) -> Result<(), Ended> {
        loop {
            let (from, isolation) = (control_place(), Isolation::ReadUncommitted);
            let request = Request::Fetch { from, offset: self.next, most: 100, isolation };
            let Answer::Fetched(fetched) = world.call(connection, CALL_TIMEOUT_MS, request).await? else {
                unreachable!("a fetch fetches")
            };
            for (_, record) in &fetched.records {
                let value = record.value.as_deref().unwrap_or_default();
                self.view.append(&ControlRecord::decode(JOB, value).expect("the control topic is ours"));
            }
            self.next = fetched.next_offset;
            if self.next >= fetched.high_watermark {
                return Ok(());
            }
        }
    }

    /// The share that a pod has by the assignment in force.
    fn has_share(&self, pod: u16) -> bool {
        let share = self.view.in_force().and_then(|assignment| assignment.share(pod));
        share.is_some_and(|share| !share.shards.is_empty())
    }
}

async fn append(world: &World, record: &ControlRecord) -> Result<(), Ended> {
    let records = vec![Record { value: Some(record.encode(JOB)), ..Record::default() }];
    for _ in 0..APPENDS {
        let request = Request::Produce { by: None, to: control_place(), sequence: 0, records: records.clone() };
        match world.call(world.connect(), CALL_TIMEOUT_MS, request).await {
            Ok(_) => return Ok(()),
            Err(CallError::Disconnected) => {}
            Err(refused) => return Err(refused.into()),
        }
    }
    Err(Ended::Failed)
}

/// What a process knows of its place.
pub(crate) struct Member {
    pub(crate) pod: u16,
    pub(crate) process: Process,
    pub(crate) control: Control,
    pub(crate) assignment: Assignment,
}

impl Member {
    /// Finds the pod's share, behind the fence, releases what earlier processes of the pod lost, and settles all who owned its share before.
    /// Only a mutant has no log yet.
    pub(crate) async fn join(
        job: &Rc<Job>,
        pod: u16,
        early: Option<Control>,
        log: Option<&mut Log>,
    ) -> Result<Self, Ended> {
        let (world, connection) = (&job.world, job.world.connect());
        let mut process = Process::new(pod);
        process.initialised();
        let mut control = Control::default();
        match early {
            Some(early) => control = early,
            None => {
                if job.mutant == Some(Mutant::ReleaseUnproved) {
                    // The window in which it hurts, made wide: the next process of the pod takes the epoch and works.
                    world.sleep(world.below(3_000_000) as u64).await;
                }
                control.read(world, connection).await?;
            }
        }
        process.caught_up();
        if pod == 0 && control.view.in_force().is_none() {
            let first = Assignment::first(job.shards.count(), job.pods.get());
            append(world, &ControlRecord::Assignment(first)).await?;
            control.read(world, connection).await?;
        }
        settle(job, pod, &mut process, &mut control, log).await?;
        let assignment = control.view.in_force().cloned().ok_or(Ended::Failed)?;
        Ok(Self { pod, process, control, assignment })
    }

    /// The pod's shards.
    pub(crate) fn shards(&self) -> Vec<ShardId> {
        let own = self.assignment.share(self.pod).into_iter().flat_map(|share| share.shards.iter().cloned().flatten());
        own.map(ShardId).collect()
    }

    /// True if the pod reads a partition of the input.
    pub(crate) fn reads(&self, input: &str, partition: i32) -> bool {
        self.assignment.owns_source(self.pod, input, &format!("{input}-{partition}"), partition as usize)
    }

    /// Leaves the assignment that the process worked under: everything is committed, and all memory of it dropped.
    pub(crate) async fn leave(&mut self, job: &Rc<Job>, log: &mut Log) -> Result<(), Ended> {
        let (world, connection) = (&job.world, job.world.connect());
        self.control.read(world, connection).await?;
        self.process.in_transaction(false);
        release_lost(job, &mut self.process, &mut self.control, Some(log)).await
    }
}

/// Waits for a share, then for the releases of all who may still act on it, and past the deadline fences them.
async fn settle(
    job: &Rc<Job>,
    pod: u16,
    process: &mut Process,
    control: &mut Control,
    mut log: Option<&mut Log>,
) -> Result<(), Ended> {
    let (world, connection) = (&job.world, job.world.connect());
    let mut begin = None;
    loop {
        // First, for others may be waiting for it; and again, when an assignment that was made meanwhile takes something away.
        release_lost(job, process, control, log.as_deref_mut()).await?;
        if !control.has_share(pod) {
            world.sleep(LOOK_US).await;
            control.read(world, connection).await?;
            continue;
        }
        let owners = unsettled(process, &control.view);
        if owners.is_empty() || job.mutant == Some(Mutant::NotSettled) {
            return Ok(());
        }
        if world.now_ms() < *begin.get_or_insert(world.now_ms()) + SETTLE_MS {
            world.sleep(LOOK_US).await;
            control.read(world, connection).await?;
            continue;
        }
        for owner in owners {
            let number = control.view.number();
            fence(world, owner).await?;
            process.fenced(owner, number);
            job.counts.borrow_mut().fences += 1;
        }
    }
}

fn unsettled(process: &Process, view: &View) -> Vec<u16> {
    let mut owners = Vec::new();
    for step in process.steps(view) {
        match step {
            Step::Settle { owners: more, .. } => owners.extend(more),
            Step::InitTransactions
            | Step::ReadControlLog
            | Step::Restore { .. }
            | Step::Prove
            | Step::EndTransaction
            | Step::Release(_) => {}
        }
    }
    owners.sort_unstable();
    owners.dedup();
    owners
}

/// Proves and releases what is lost: by this process, or by one before it that was killed.
async fn release_lost(
    job: &Rc<Job>,
    process: &mut Process,
    control: &mut Control,
    log: Option<&mut Log>,
) -> Result<(), Ended> {
    let Some(log) = log else { return Ok(()) };
    loop {
        let steps = process.steps(&control.view);
        match steps.into_iter().find(|step| matches!(step, Step::Prove | Step::Release(_))) {
            Some(Step::Prove) => {
                let number = control.view.number();
                if job.mutant != Some(Mutant::ReleaseUnproved) {
                    let offsets = vec![(control_place(), number as i64)];
                    let proof = Commit { id: CommitId(0), outputs: Vec::new(), changes: Vec::new(), offsets };
                    log.commit(proof).await?;
                }
                process.proven(number);
            }
            Some(Step::Release(release)) => {
                process.let_go(&release.shards);
                append(&job.world, &ControlRecord::Release(release)).await?;
                job.counts.borrow_mut().releases += 1;
                control.read(&job.world, job.world.connect()).await?;
            }
            Some(_) | None => return Ok(()),
        }
    }
}

/// Looks at the control topic beside the work of a process, until another assignment is in force than its own. What cannot be read now is read later.
pub(crate) async fn watch(job: Rc<Job>, pod: u16, mut control: Control, own: u64) {
    let world = &job.world;
    while control.view.number() <= own {
        world.sleep(1 + world.below(job.look_us) as u64).await;
        if control.read(world, world.connect()).await.is_err() {
            continue;
        }
        let wanted = job.pods.get();
        if let Some(current) = control.view.in_force()
            && pod == 0
            && current.pods.len() != usize::from(wanted)
        {
            // One that is lost is made again.
            let _later = append(world, &ControlRecord::Assignment(current.rescaled(wanted))).await;
        }
    }
}
