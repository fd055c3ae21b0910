//! The model of a job: bounds, mutants, and what must hold.
//!
//! Owns the properties and the list of mutants. The steps are in `pods` (what the processes do) and `faults` (what is done to them).

use std::collections::HashMap;
use std::fmt;

use checkpoint::assignment::{Assignment, PodShare};
use checkpoint::ownership::View;
use checkpoint::ownership::record::{ControlRecord, Release};

use super::broker::pod_of;
use super::explorer::{Model, Step};
use super::world::{
    Budget, Control, Coordinator, Disk, Holding, List, PODS, Partition, Phase, Process, Record, SHARDS, Stage, World,
    encode_records,
};

/// Steps that happen though only the present owners of shards still live.
pub(crate) const OWNERS: u8 = 1;
/// Steps that happen though nothing fails any more.
pub(crate) const ALL: u8 = 2;

/// One rule less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// Offsets are committed beside the transaction, before it.
    OffsetsFirst,
    /// The local state takes the changes of a commit before its outcome is known.
    StateBeforeCommit,
    /// The local state and its place in the changelog are written one after the other.
    PlaceBesideState,
    /// After an unknown outcome the producer is used again, on offsets read again.
    ProducerReused,
    /// After an unknown outcome a new producer goes on from memory.
    RetryFromMemory,
    /// A gainer does not wait for earlier owners.
    NoFence,
    /// A gainer waits for releases and has no deadline.
    WaitsForEver,
    /// The control topic is read before `init_transactions` and not after.
    ControlLogReadFirst,
    /// A process that gets a new epoch keeps its old view.
    ControlLogNotReadAgain,
    /// An assignment that lost the race for its number replaces the one that won.
    StaleAssignment,
    /// Only the last owner is settled.
    LastOwnerOnly,
    /// A fence counts for losses that were read after it.
    OldFence,
    /// A release of what is held, without proof that the process is not fenced.
    ReleaseWithoutProof,
    /// A release of what an earlier process of the pod lost, without that proof.
    PredecessorUnproved,
    /// What an earlier process of the pod lost is not released.
    PredecessorNotReleased,
    /// A process fences others while its own release is still on its way.
    FencesBeforeRelease,
    /// A release while a transaction is open.
    ReleaseInTransaction,
    /// The open transaction is aborted at the partitions, without a new epoch.
    FenceByAbort,
    /// Offsets are read before earlier owners are settled.
    OffsetsReadEarly,
    /// Offsets are read without `require_stable`.
    UnstableOffsets,
    /// The changelog is read to its last stable offset although that is not its end.
    ChangelogReadShort,
}

/// What is explored: bounds, and at most one mutant.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) pods: u8,
    pub(crate) shards: usize,
    pub(crate) inputs: u8,
    /// The first assignment.
    pub(crate) first: [u8; SHARDS],
    /// If given, the further assignments are these; if not, any.
    pub(crate) path: &'static [[u8; SHARDS]],
    pub(crate) budget: Budget,
    /// A second process of pod 0 exists.
    pub(crate) second_process: bool,
    pub(crate) mutant: Option<Mutant>,
}

/// Views by what was read, so that each is folded once.
#[derive(Default)]
pub(crate) struct Views {
    known: HashMap<Vec<u8>, View>,
    key: Vec<u8>,
}

impl Job {
    /// One shard, two pods, one input, one further assignment, no fault that has a bound.
    pub(crate) fn small() -> Self {
        Self {
            pods: 2,
            shards: 1,
            inputs: 1,
            first: [0; SHARDS],
            path: &[],
            budget: Budget { assignments: 1, crashes: 0, unknown: 0, stale: 0 },
            second_process: false,
            mutant: None,
        }
    }

    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// Processes that exist.
    pub(crate) fn processes(&self) -> usize {
        usize::from(self.pods) + usize::from(self.second_process)
    }

    pub(crate) fn pod(&self, process: usize) -> u8 {
        pod_of(self.pods, process)
    }

    /// The view of a process that has read these records, as `checkpoint::ownership` folds it.
    pub(crate) fn view<'v>(&self, read: &[Record], views: &'v mut Views) -> &'v View {
        views.key.clear();
        encode_records(read, &mut views.key);
        if !views.known.contains_key(&views.key) {
            let mut view = View::default();
            for (place, record) in read.iter().enumerate() {
                if !(self.is(Mutant::StaleAssignment) && is_replaced(record, &read[place + 1..])) {
                    view.append(&self.control_record(record));
                }
            }
            views.known.insert(views.key.clone(), view);
        }
        &views.known[&views.key]
    }

    fn control_record(&self, record: &Record) -> ControlRecord {
        match *record {
            Record::Assignment { number, owners } => {
                let shards = self.shards as u16;
                let mine =
                    |pod: u8| (0..shards).filter(move |s| owners[usize::from(*s)] == pod).map(|s| s..s + 1).collect();
                let share = |pod| PodShare { ordinal: u16::from(pod), shards: mine(pod), sources: Vec::new() };
                let pods = (0..self.pods).map(share).collect();
                ControlRecord::Assignment(Assignment { number: u64::from(number), shards, pods })
            }
            Record::Release { number, pod, shards } => {
                let shards = (0..SHARDS as u16).filter(|shard| shards >> shard & 1 == 1).collect();
                ControlRecord::Release(Release { number: u64::from(number), pod: u16::from(pod), shards })
            }
        }
    }

    /// The owners that the whole control topic names.
    pub(crate) fn owners(&self, world: &World, views: &mut Views) -> [Option<u8>; SHARDS] {
        let view = self.view(world.control.all(), views);
        std::array::from_fn(|shard| view.owner(shard as u16).map(|pod| pod as u8))
    }

    /// The fair schedules in which this process moves.
    pub(crate) fn fair(&self, process: usize, owners: &[Option<u8>; SHARDS]) -> u8 {
        let pod = self.pod(process);
        if process >= usize::from(self.pods) {
            // Two processes of one pod may fence each other for ever; Kubernetes must end one of them.
            return 0;
        }
        let all = if self.second_process { 0 } else { ALL };
        if owners.contains(&Some(pod)) { all | OWNERS } else { all }
    }

    fn is_live_owner(&self, world: &World, process: usize, shard: usize) -> bool {
        let process = &world.processes[process];
        process.live && process.holding[shard] == Holding::Held
    }
}

/// True if a later assignment has the same number.
fn is_replaced(record: &Record, later: &[Record]) -> bool {
    let number = |record: &Record| match record {
        Record::Assignment { number, .. } => Some(*number),
        Record::Release { .. } => None,
    };
    number(record).is_some() && later.iter().any(|other| number(other) == number(record))
}

impl Model for Job {
    type State = World;
    type Action = Action;
    type Scratch = Views;

    fn initial(&self) -> World {
        let partition = Partition { visible: 0, waiting: List::EMPTY, offset: 0, pending: List::EMPTY };
        World {
            control: Control::starting_with(Record::Assignment { number: 1, owners: self.first }),
            releases: List::EMPTY,
            coordinators: [Coordinator::NEW; PODS],
            partitions: [partition; SHARDS],
            processes: [Process::DOWN; PODS],
            disks: [[Disk::default(); SHARDS]; PODS],
            budget: self.budget,
        }
    }

    fn encode(&self, state: &World, out: &mut Vec<u8>) {
        state.encode(out);
    }

    fn steps(&self, world: &World, views: &mut Views, out: &mut Vec<Step<Self>>) {
        out.clear();
        let owners = self.owners(world, views);
        for process in 0..self.processes() {
            self.process_steps(world, process, &owners, views, out);
        }
        self.broker_steps(world, &owners, out);
        self.control_steps(world, out);
    }

    fn violation(&self, world: &World) -> Option<String> {
        (0..self.shards).find_map(|shard| {
            let mut live = (0..self.processes()).filter(|process| self.is_live_owner(world, *process, shard));
            let (first, second) = (live.next()?, live.next()?);
            Some(format!("I5: processes {first} and {second} both hold shard {shard} and can commit"))
        })
    }

    fn is_goal(&self, world: &World) -> bool {
        let done = |partition: &Partition| {
            partition.visible == self.inputs && partition.offset == self.inputs && partition.is_stable()
        };
        if !world.partitions[..self.shards].iter().all(done) {
            return false;
        }
        let owners = self.owners(world, &mut Views::default());
        let ready = |process: &Process, shard: usize| {
            process.stage == Stage::Running
                && process.holding[shard] == Holding::Held
                && process.phase == Phase::Idle
                && process.read == world.control.len()
        };
        (0..self.shards).all(|shard| {
            let mut processes = (0..self.processes()).filter(|index| Some(self.pod(*index)) == owners[shard]);
            processes.any(|index| ready(&world.processes[index], shard))
        })
    }

    fn schedules(&self) -> &[(&'static str, u8)] {
        match self.second_process {
            true => &[("only owners live on", OWNERS)],
            false => &[("only owners live on", OWNERS), ("nothing fails any more", ALL)],
        }
    }
}

/// The name of a step.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Action {
    Start(usize),
    Crash(usize),
    Init(usize),
    ReadControlLog(usize),
    ReadRecord(usize),
    Fence(usize, u8),
    ReadOffset(usize, usize),
    Restore(usize, usize),
    Prove(usize),
    Release(usize, u8),
    FoundFenced(usize),
    Produce(usize),
    SendOffsets(usize),
    SendEnd(usize),
    Unknown(usize, bool),
    Returned(usize),
    CrashBetweenWrites(usize),
    EndArrives(u8),
    DataMarker(u8),
    OffsetMarker(u8),
    Timeout(u8),
    StrayFence(u8),
    ReleaseArrives(Record),
    ReleaseLost(Record),
    Assign(Record),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start(p) => write!(f, "process {p} starts"),
            Self::Crash(p) => write!(f, "process {p} crashes"),
            Self::Init(p) => write!(f, "process {p}: init_transactions"),
            Self::ReadControlLog(p) => write!(f, "process {p} reads the control topic to its end"),
            Self::ReadRecord(p) => write!(f, "process {p} reads one record of the control topic"),
            Self::Fence(p, pod) => write!(f, "process {p} fences pod {pod}"),
            Self::ReadOffset(p, s) => write!(f, "process {p} reads the offset of shard {s}"),
            Self::Restore(p, s) => write!(f, "process {p} reads the changelog of shard {s} and holds it"),
            Self::Prove(p) => write!(f, "process {p} proves its epoch"),
            Self::Release(p, shards) => write!(f, "process {p} lets go of shards {shards:b} and sends the release"),
            Self::FoundFenced(p) => write!(f, "process {p} finds itself fenced and drops everything"),
            Self::Produce(p) => write!(f, "process {p} produces"),
            Self::SendOffsets(p) => write!(f, "process {p} sends offsets"),
            Self::SendEnd(p) => write!(f, "process {p} asks for the commit"),
            Self::Unknown(p, false) => write!(f, "process {p} hears nothing of its commit"),
            Self::Unknown(p, true) => {
                write!(f, "process {p} hears nothing of its commit, a copy of the request stays behind")
            }
            Self::Returned(p) => write!(f, "process {p}: the commit returns and is applied"),
            Self::CrashBetweenWrites(p) => write!(f, "process {p}: the commit returns, crash between two writes"),
            Self::EndArrives(pod) => write!(f, "the commit of pod {pod} arrives at the broker"),
            Self::DataMarker(pod) => write!(f, "marker for the records of pod {pod}"),
            Self::OffsetMarker(pod) => write!(f, "marker for the offsets of pod {pod}"),
            Self::Timeout(pod) => write!(f, "the transaction of pod {pod} times out"),
            Self::StrayFence(pod) => write!(f, "a late call gives pod {pod} a new epoch"),
            Self::ReleaseArrives(record) => write!(f, "{record} is in the control topic"),
            Self::ReleaseLost(record) => write!(f, "{record} is lost"),
            Self::Assign(record) => write!(f, "{record} is in the control topic"),
        }
    }
}
