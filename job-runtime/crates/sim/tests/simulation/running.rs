//! A process at work: what has arrived goes to the workers, the workers step, and their commits go through the protocol into the log.
//!
//! Owns the loop that the runtime's driver has in the program. Workers, shuffle and protocol are the program's own.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use checkpoint::commit::{Command, CommitProtocol, Input, State, Triggers};
use dataflow::exchange::{ports, ports_of_pod};
use dataflow::key::ShardId;
use dataflow::shuffle::outgoing::Outgoing;
use dataflow::shuffle::{self, Gate, OTHER_POD, PodView, ShuffleConfig, ShuffleMessage, ShuffleReader};
use dataflow::sink::SinkPayload;
use dataflow::source::SourcePosition;
use dataflow::state::{LogOffset, ShardStore};
use dataflow::worker::{AppliedOffsets, CommitId, StepStatus, Wake, Worker, WorkerCommit, WorkerConfig, WorkerEvent};
use sim::message::{Place, Record, Request};

use super::commit::{Commit, Ended, JOB, Log};
use super::feed::{Feed, Pending, Target, poll};
use super::job::{self, Buffer, FieldEncoder, INPUT, Inbox, InboxReader, InputPartition, ROWS, SOURCE, WINDOWS};
use super::machine::Disks;
use super::member::{Member, watch};
use super::mutant::Mutant;
use super::oracle::PER_PARTITION;
use super::pod::{Job, Machine, output_topic};
use super::restore::{Restored, shuffle_place};
use super::snapshots::Taker;

/// Messages for a shard that a pod may be behind before it pauses its sources.
const LAG: u64 = 8;
const STEPS: usize = 6;
const TRIGGERS: Triggers = Triggers { interval_ms: 50, max_bytes: 1 << 20, max_rows: 200 };
/// What was read of other pods' messages is removed this often.
const TRIM_MS: u64 = 5_000;

/// What became of a turn.
pub(crate) enum Turn {
    GoesOn,
    /// Another assignment is in force, and everything is committed.
    Left(Log),
}

/// See the module's documentation.
pub(crate) struct Running {
    workers: Vec<Worker>,
    protocol: CommitProtocol,
    outgoing: Option<Outgoing>,
    /// There while no commit is under way.
    log: Option<Log>,
    committing: Option<Pending<(Log, Result<AppliedOffsets, Ended>)>>,
    /// Per worker: events that wait because its share of the commit before them does.
    events: Vec<VecDeque<WorkerEvent>>,
    shares: Vec<Option<WorkerCommit>>,
    outputs: BTreeMap<CommitId, BTreeMap<Place, Vec<Record>>>,
    applied: AppliedOffsets,
    /// Skipped while a commit before them was unknown.
    skipped: VecDeque<CommitId>,
    unknown: bool,
    /// What all workers have moved, when it was looked at last.
    stirred: u64,
    feeds: Vec<Feed>,
    disks: Disks,
    watching: Option<Pending<()>>,
    leaving: bool,
    taking: Option<Pending<Taker>>,
    taker: Option<Taker>,
    next_snapshot_ms: u64,
    next_trim_ms: u64,
    /// What was read of other pods' messages and committed.
    read: BTreeMap<Place, i64>,
}

/// How a pod sees the others; `None` if there never were any.
fn view(member: &Member, mutant: Option<Mutant>) -> Option<PodView> {
    let assignment = &member.assignment;
    let mut others: Vec<u16> = assignment.pods.iter().map(|pod| pod.ordinal).filter(|pod| *pod != member.pod).collect();
    if mutant == Some(Mutant::SlotIgnored) {
        others.pop();
    }
    let several = assignment.number > 1 || assignment.pods.len() > 1;
    several.then_some(PodView { job: JOB, assignment: assignment.number, slot: member.pod, others })
}

impl Running {
    pub(crate) fn new(
        job: &Rc<Job>,
        machine: &Machine,
        member: &Member,
        restored: Restored,
        log: Log,
        process: u64,
    ) -> Self {
        let count = 1 + job.world.below(2);
        let view = view(member, job.mutant);
        let own = member.shards();
        let elsewhere: Vec<ShardId> = job.shards.all().filter(|shard| !own.contains(shard)).collect();
        let exchanges = || shuffle::exchanges(&job.graph);
        let outgoing = view.clone().map(|view| Outgoing::new(view, exchanges(), &elsewhere, count));
        let now = job.world.now_ms();
        let taker = Taker {
            job: Rc::clone(job),
            pod: member.pod,
            shards: own,
            disks: machine.disks.clone(),
            process,
            skew_ms: Rc::clone(&machine.skew_ms),
            count: 0,
            base: None,
        };
        let (workers, feeds) = workers(job, member, restored, view, count);
        let control = member.control.clone();
        Self {
            protocol: CommitProtocol::new(count, TRIGGERS, now),
            workers,
            outgoing,
            log: Some(log),
            committing: None,
            events: (0..count).map(|_| VecDeque::new()).collect(),
            shares: (0..count).map(|_| None).collect(),
            outputs: BTreeMap::new(),
            applied: Vec::new(),
            skipped: VecDeque::new(),
            unknown: false,
            stirred: 0,
            feeds,
            disks: machine.disks.clone(),
            watching: Some(Box::pin(watch(Rc::clone(job), member.pod, control, member.assignment.number))),
            leaving: false,
            taking: None,
            taker: Some(taker),
            next_snapshot_ms: now + 1_000 + job.world.below(4_000) as u64,
            next_trim_ms: now + TRIM_MS,
            read: BTreeMap::new(),
        }
    }

    /// Takes what has arrived, lets the workers work, and does what the protocol says.
    pub(crate) fn turn(&mut self, job: &Rc<Job>) -> Result<Turn, Ended> {
        let now = job.world.now_ms();
        self.fetch(job)?;
        self.watch();
        self.snapshot(job, now);
        let mut commands = Vec::new();
        if let Some((log, outcome)) = poll(&mut self.committing) {
            self.log = Some(log);
            self.applied = outcome?;
            self.unknown = false;
            let id = self.unknown_id();
            self.tell(Input::Committed(id), now, &mut commands);
        }
        let mut moved = false;
        for index in 0..self.workers.len() {
            for _ in 0..job.world.below(STEPS) {
                let status = self.step(index, now, &mut commands)?;
                moved |= status == StepStatus::Progress;
                if status != StepStatus::Progress {
                    break;
                }
            }
        }
        self.look_around(moved, now, &mut commands);
        let mut left = false;
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                left |= self.execute(job, command)?;
            }
            self.hand_over(now, &mut commands);
        }
        match self.log.take() {
            Some(log) if left => Ok(Turn::Left(log)),
            log => {
                self.log = log;
                Ok(Turn::GoesOn)
            }
        }
    }

    fn look_around(&mut self, moved: bool, now: u64, commands: &mut Vec<Command>) {
        let taken: u64 = self.feeds.iter().map(Feed::taken).sum();
        let due = self.outgoing.as_ref().is_some_and(|outgoing| outgoing.is_due(now));
        let mut rows = taken;
        if moved {
            let moved = |worker: &Worker| {
                let progress = worker.progress();
                progress.markers + progress.nodes.iter().map(|node| node.rows_in + node.rows_out).sum::<u64>()
            };
            let stirred = self.workers.iter().map(moved).sum();
            rows += u64::from(std::mem::replace(&mut self.stirred, stirred) != stirred);
        }
        let quiet = matches!(self.protocol.state(), State::Idle);
        rows += u64::from(due && quiet);
        if rows > 0 {
            self.tell(Input::Activity { rows, bytes: 0 }, now, commands);
        }
        if self.leaving {
            self.tell(Input::Stop, now, commands);
        }
        self.tell(Input::Tick, now, commands);
    }

    /// Notices when another assignment is in force.
    fn watch(&mut self) {
        self.leaving |= poll(&mut self.watching).is_some();
    }

    fn snapshot(&mut self, job: &Rc<Job>, now: u64) {
        if let Some(taker) = poll(&mut self.taking) {
            self.taker = Some(taker);
            self.next_snapshot_ms = now + 1_000 + job.world.below(5_000) as u64;
        }
        if now >= self.next_snapshot_ms
            && let Some(taker) = self.taker.take()
        {
            self.taking = Some(Box::pin(taker.round()));
            poll(&mut self.taking).into_iter().for_each(|taker| self.taker = Some(taker));
        }
    }

    fn unknown_id(&self) -> CommitId {
        match self.protocol.state() {
            State::Committing { id, .. } => *id,
            other => unreachable!("a commit has returned in {other:?}"),
        }
    }

    fn tell(&mut self, input: Input, now: u64, commands: &mut Vec<Command>) {
        self.protocol.on(input, now, commands).expect("the pod and the protocol agree");
    }

    fn fetch(&mut self, job: &Rc<Job>) -> Result<(), Ended> {
        self.feeds.iter_mut().try_for_each(|feed| feed.go_on(job))
    }

    fn step(&mut self, index: usize, now: u64, commands: &mut Vec<Command>) -> Result<StepStatus, Ended> {
        let mut events = Vec::new();
        // A disk that takes nothing, or anything else that a worker cannot do: the process ends.
        let status = self.workers[index].step(now, &mut events).map_err(|_| Ended::Failed)?;
        self.events[index].extend(events);
        self.hand_over(now, commands);
        Ok(status)
    }

    /// Takes the workers' events, as far as they do not stand behind a share that waits.
    fn hand_over(&mut self, now: u64, commands: &mut Vec<Command>) {
        for index in 0..self.workers.len() {
            while self.shares[index].is_none()
                && let Some(event) = self.events[index].pop_front()
            {
                self.take(index, event, now, commands);
            }
        }
    }

    fn take(&mut self, index: usize, event: WorkerEvent, now: u64, commands: &mut Vec<Command>) {
        match event {
            WorkerEvent::Chunk { commit, chunk } => {
                let SinkPayload::Rows(rows) = chunk.payload else { unreachable!("the encoder makes rows") };
                let mut start = 0;
                for end in rows.ends {
                    let value = rows.bytes[start as usize..end as usize].to_vec();
                    start = end;
                    let place = output_place(chunk.sink == WINDOWS, &job::decode(&value));
                    self.put(commit, place, value);
                }
            }
            WorkerEvent::Block { commit, block } => {
                let message = self.outgoing.as_ref().and_then(|outgoing| outgoing.full_block(block, commit));
                message.into_iter().for_each(|message| self.send(commit, message));
            }
            WorkerEvent::Commit(mut share) => {
                let id = share.id;
                let sources = share.positions.iter().any(|(node, ..)| *node == SOURCE);
                let mut something = share.rows_in > 0 || !share.changes.is_empty() || sources;
                if let Some(outgoing) = &mut self.outgoing {
                    outgoing.take(index, std::mem::take(&mut share.shuffles));
                    something |= outgoing.is_due(now);
                }
                something |= self.outputs.contains_key(&id);
                self.shares[index] = Some(share);
                self.tell(Input::WorkerCommit { worker: index, id, something, finished: false }, now, commands);
            }
        }
    }

    fn put(&mut self, commit: CommitId, place: Place, value: Vec<u8>) {
        let record = Record { value: Some(value), ..Record::default() };
        self.outputs.entry(commit).or_default().entry(place).or_default().push(record);
    }

    fn send(&mut self, commit: CommitId, message: ShuffleMessage) {
        self.put(commit, shuffle_place(message.shard), message.bytes);
    }

    /// Does what the protocol says; true if everything is committed and nothing will follow.
    fn execute(&mut self, job: &Rc<Job>, command: Command) -> Result<bool, Ended> {
        match command {
            Command::Barrier(id) => self.workers.iter_mut().for_each(|worker| worker.begin_commit(id)),
            Command::Commit { id, .. } => self.commit(job, id),
            Command::Skip(id) => {
                self.shares.fill_with(|| None);
                self.skipped.push_back(id);
                self.apply_skipped()?;
            }
            Command::Apply(id) => {
                job.counts.borrow_mut().commits += 1;
                let offsets = std::mem::take(&mut self.applied);
                self.apply(id, &offsets)?;
                self.apply_skipped()?;
                self.trim(job);
            }
            Command::Finish { .. } => return Ok(true),
        }
        Ok(false)
    }

    fn apply(&mut self, id: CommitId, offsets: &AppliedOffsets) -> Result<(), Ended> {
        let apply = |worker: &mut Worker| worker.commit_applied(id, offsets).map_err(|_| Ended::Failed);
        self.workers.iter_mut().try_for_each(apply)
    }

    fn apply_skipped(&mut self) -> Result<(), Ended> {
        while !self.unknown
            && let Some(id) = self.skipped.pop_front()
        {
            self.apply(id, &AppliedOffsets::new())?;
        }
        Ok(())
    }

    fn commit(&mut self, job: &Rc<Job>, id: CommitId) {
        self.unknown = true;
        let now = job.world.now_ms();
        let messages = self.outgoing.as_mut().map_or_else(Vec::new, |outgoing| outgoing.messages(id, now));
        job.counts.borrow_mut().messages += messages.len() as u64;
        messages.into_iter().for_each(|message| self.send(id, message));
        let (mut changes, mut offsets) = (Vec::new(), Vec::new());
        for share in self.shares.iter_mut().filter_map(Option::take) {
            changes.extend(share.changes);
            for (_, _, reached) in share.positions {
                let SourcePosition::Kafka { topic, partition, next_offset } = reached.position else {
                    unreachable!("the source has Kafka's offsets")
                };
                offsets.push(((topic, partition), next_offset));
            }
        }
        self.read.extend(offsets.iter().filter(|((topic, _), _)| topic != INPUT).cloned());
        if job.mutant == Some(Mutant::StateBeforeCommit) {
            self.apply_early(&changes);
        }
        if job.mutant == Some(Mutant::PositionLeftOut) {
            offsets.retain(|((topic, partition), _)| topic != INPUT || *partition > 0);
        }
        let outputs = self.outputs.remove(&id).unwrap_or_default().into_iter().collect();
        let commit = Commit { id, outputs, changes, offsets };
        let mut log = self.log.take().expect("one commit at a time");
        self.committing = Some(Box::pin(async move {
            let outcome = log.commit(commit).await;
            (log, outcome)
        }));
        // Its first request goes out now.
        assert!(poll(&mut self.committing).is_none(), "a commit takes time");
    }

    /// A mutant: the local state takes what is not committed yet.
    fn apply_early(&self, changes: &[(ShardId, dataflow::state::ChangeBatch)]) {
        for (shard, batch) in changes {
            let mut store = self.disks.store(*shard);
            let place = store.applied().unwrap_or(LogOffset(-1));
            store.apply(batch, place).expect("memory takes everything");
        }
    }

    /// Removes what was read of other pods' messages: nobody reads it again.
    fn trim(&mut self, job: &Rc<Job>) {
        let now = job.world.now_ms();
        if now < self.next_trim_ms {
            return;
        }
        self.next_trim_ms = now + TRIM_MS;
        for (from, before) in std::mem::take(&mut self.read) {
            // The program has a thread for it; that the call is at once makes the check of the readers' places harder.
            let _behind = job.world.ask(&Request::DeleteRecords { from, before });
        }
    }
}

/// The workers of a process, and what feeds them.
fn workers(
    job: &Rc<Job>,
    member: &Member,
    restored: Restored,
    view: Option<PodView>,
    count: usize,
) -> (Vec<Worker>, Vec<Feed>) {
    let wakes: Vec<Wake> = (0..count).map(|_| Arc::new(|| {}) as Wake).collect();
    let own = member.shards();
    let owner: Arc<[usize]> = job
        .shards
        .all()
        .map(|shard| own.iter().position(|own| *own == shard).map_or(OTHER_POD, |place| place * count / own.len()))
        .collect();
    let gate = Arc::new(Gate::new(LAG, wakes.clone()));
    let mut feeds = Vec::new();
    let mut sources: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    for (place, (partition, next)) in restored.sources.into_iter().enumerate() {
        let buffer = Buffer::default();
        let part = InputPartition::new(partition, next, buffer.clone());
        sources[place % count].push((SOURCE, Box::new(part) as Box<dyn dataflow::source::SourcePartition>));
        let from = (INPUT.to_owned(), partition);
        feeds.push(Feed::new(from, next, Target::Rows(buffer)));
    }
    let mut stores: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    let mut readers: Vec<Vec<_>> = (0..count).map(|_| Vec::new()).collect();
    let (exchange, _) = shuffle::exchanges(&job.graph).next().expect("the job has one exchange");
    for (store, (next, there)) in restored.stores.into_iter().zip(restored.inboxes) {
        let (shard, worker) = (store.shard(), owner[usize::from(store.shard().0)]);
        if view.is_some() {
            let (inbox, from) = (Inbox::default(), shuffle_place(shard));
            let reader = InboxReader::new(shard, &from.0, inbox.clone(), next, there);
            readers[worker].push((exchange, Box::new(reader) as Box<dyn ShuffleReader>));
            feeds.push(Feed::new(from, next, Target::Messages(inbox)));
        }
        stores[worker].push(Box::new(store) as Box<dyn ShardStore>);
    }
    let make = if view.is_some() { ports_of_pod } else { ports };
    let own = sources.into_iter().zip(stores).zip(readers);
    let made = make(&job.graph, count, 4, &wakes).into_iter().zip(own).enumerate();
    let worker = |(index, (exchange, ((sources, stores), readers)))| {
        let config = WorkerConfig {
            index,
            workers: count,
            graph: Arc::clone(&job.graph),
            shards: job.shards,
            owner: Arc::clone(&owner),
            sources,
            encoders: vec![(ROWS, Box::new(FieldEncoder) as _), (WINDOWS, Box::new(FieldEncoder) as _)],
            stores,
            exchange,
            growing: Vec::new(),
            max_rows_per_poll: 10,
            state_budget: u64::MAX,
            shuffle: view.clone().map(|view| ShuffleConfig { view, readers }),
            gate: Arc::clone(&gate),
        };
        Worker::new(config).expect("what was restored can be read")
    };
    (made.map(worker).collect(), feeds)
}

/// Rows go by their input partition, windows by their key: so that each output partition has an order to keep.
fn output_place(windows: bool, row: &[i64]) -> Place {
    let number = if windows { row[0] } else { row[2] / PER_PARTITION };
    (output_topic(windows), number.rem_euclid(2) as i32)
}
