//! One process of the pod: recovers, then runs workers and commits until something ends it.
//!
//! Owns the loop that the runtime's driver has in the program, here over the simulated broker. Dropped at any await, it is a killed process.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use checkpoint::commit::{Command, CommitProtocol, Input, Triggers};
use checkpoint::{changelog, names};
use dataflow::exchange::ports;
use dataflow::graph::JobGraph;
use dataflow::key::Shards;
use dataflow::shuffle::Gate;
use dataflow::sink::SinkPayload;
use dataflow::source::SourcePosition;
use dataflow::state::{LogOffset, ShardStore};
use dataflow::testing::{Disk, MemoryStore};
use dataflow::worker::{AppliedOffsets, CommitId, StepStatus, Wake, Worker, WorkerCommit, WorkerConfig, WorkerEvent};
use sim::message::{Answer, ErrorCode, Fetched, Isolation, Place, Record, Request};
use sim::world::{CallError, World};

use super::commit::{Commit, Ended, JOB, Log, Mutant, UID, changelog_place};
use super::job::{self, Buffer, FieldEncoder, INPUT, InputPartition, ROWS, SOURCE, WINDOWS};
use super::oracle::replayed;

const CALL_TIMEOUT_MS: u64 = 1_000;
const AGAIN_US: u64 = 5_000;
/// Rows of an input partition that wait at most.
const BUFFERED: usize = 60;
const TRIGGERS: Triggers = Triggers { interval_ms: 50, max_bytes: 1 << 20, max_rows: 200 };

/// What all processes of the pod have in common.
pub(crate) struct Pod {
    pub(crate) world: World,
    pub(crate) graph: Arc<JobGraph>,
    pub(crate) partitions: i32,
    pub(crate) shards: Shards,
    pub(crate) mutant: Option<Mutant>,
    pub(crate) wrong: RefCell<Option<String>>,
    pub(crate) commits: RefCell<u64>,
}

/// The output topics: two partitions each.
pub(crate) fn output_topic(windows: bool) -> String {
    if windows { "windows".to_owned() } else { "rows".to_owned() }
}

type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

fn poll<T>(pending: &mut Option<Pending<T>>) -> Option<T> {
    let Poll::Ready(done) = pending.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        return None;
    };
    *pending = None;
    Some(done)
}

/// Runs processes one after the other on one disk, until one is fenced: then another process has the pod.
pub(crate) async fn run(pod: Rc<Pod>, disks: Vec<Disk>) {
    let mut used: Option<Log> = None;
    loop {
        let ended = match process(&pod, &disks, used.take()).await {
            Ok(never) => match never {},
            Err((ended, log)) => {
                used = log.filter(|_| ended == Ended::Unknown && pod.mutant == Some(Mutant::ProducerReused));
                ended
            }
        };
        if ended == Ended::Fenced {
            return;
        }
        pod.world.sleep(20_000).await;
    }
}

enum Never {}

async fn process(pod: &Rc<Pod>, disks: &[Disk], used: Option<Log>) -> Result<Never, (Ended, Option<Log>)> {
    let log = match used {
        Some(mut log) => {
            log.reconnect();
            log
        }
        None if pod.mutant == Some(Mutant::FencedLate) => {
            let (stores, offsets) = recover(pod, disks).await.map_err(|ended| (ended, None))?;
            let log = Log::open(&pod.world, pod.mutant).await.map_err(|ended| (ended, None))?;
            return work(pod, Running::new(pod, disks, stores, &offsets, log)).await;
        }
        None => Log::open(&pod.world, pod.mutant).await.map_err(|ended| (ended, None))?,
    };
    let (stores, offsets) = recover(pod, disks).await.map_err(|ended| (ended, None))?;
    work(pod, Running::new(pod, disks, stores, &offsets, log)).await
}

async fn work(pod: &Rc<Pod>, mut running: Running) -> Result<Never, (Ended, Option<Log>)> {
    loop {
        running.turn(pod).map_err(|ended| (ended, running.log.take()))?;
        pod.world.wait(1_000 + pod.world.below(5_000) as u64).await;
    }
}

/// Changelog to its end into the stores, then stable offsets.
async fn recover(pod: &Rc<Pod>, disks: &[Disk]) -> Result<(Vec<MemoryStore>, Vec<i64>), Ended> {
    let world = &pod.world;
    let connection = world.connect();
    let mut stores = Vec::new();
    for (shard, disk) in pod.shards.all().zip(disks) {
        let mut store = MemoryStore::new(shard, disk.clone());
        loop {
            let offset = store.applied().map_or(0, |applied| applied.0 + 1);
            let fetched = catch_up(world, connection, &mut store, offset).await?;
            if fetched.last_stable_offset < fetched.high_watermark {
                // Somebody's transaction is open here: not ours, for we have fenced our former selves.
                return Err(Ended::Failed);
            }
            if fetched.next_offset == fetched.high_watermark {
                break;
            }
        }
        stores.push(store);
    }
    let partitions: Vec<Place> = (0..pod.partitions).map(|partition| (INPUT.to_owned(), partition)).collect();
    loop {
        let request = Request::OffsetFetch {
            group: names::consumer_group(UID),
            partitions: partitions.clone(),
            require_stable: true,
        };
        match world.call(connection, CALL_TIMEOUT_MS, request).await {
            Ok(Answer::Offsets(offsets)) => {
                check_restored(pod, &stores);
                return Ok((stores, offsets.into_iter().map(|offset| offset.max(0)).collect()));
            }
            Err(CallError::Refused(ErrorCode::UnstableOffsetCommit)) => world.sleep(AGAIN_US).await,
            Ok(_) | Err(_) => return Err(Ended::Failed),
        }
    }
}

/// Reads the changelog of a shard from `offset` on, as far as it is stable.
async fn catch_up(
    world: &World,
    connection: sim::world::Connection,
    store: &mut MemoryStore,
    mut offset: i64,
) -> Result<Fetched, Ended> {
    loop {
        let from = changelog_place(store.shard());
        let request = Request::Fetch { from, offset, most: 50, isolation: Isolation::ReadCommitted };
        let Answer::Fetched(fetched) = world.call(connection, CALL_TIMEOUT_MS, request).await? else {
            unreachable!("a fetch fetches")
        };
        for (at, record) in &fetched.records {
            let value = record.value.as_deref().expect("a changelog record has a value");
            let changes = changelog::decode(JOB, store.shard(), value).expect("the changelog is ours");
            store.apply(&changes, LogOffset(*at)).expect("memory takes everything");
        }
        offset = fetched.next_offset;
        if offset == fetched.high_watermark || offset == fetched.last_stable_offset {
            return Ok(fetched);
        }
    }
}

/// I3: what is restored is the changelog from its beginning, and nothing else.
fn check_restored(pod: &Pod, stores: &[MemoryStore]) {
    for store in stores {
        let mut entries = BTreeMap::new();
        let note = |key: &[u8], value: &[u8]| drop(entries.insert(key.to_vec(), value.to_vec()));
        let mut note = note;
        store.scan(&[], &mut note).expect("memory can be read");
        let expected = replayed(&pod.world, store.shard());
        if entries != expected {
            let text = format!(
                "I3: shard {} has {} entries, its changelog {}",
                store.shard().0,
                entries.len(),
                expected.len()
            );
            pod.wrong.borrow_mut().get_or_insert(text);
        }
    }
}

type CommitDone = (Log, Result<AppliedOffsets, Ended>);

struct Running {
    workers: Vec<Worker>,
    protocol: CommitProtocol,
    /// There while no commit is under way.
    log: Option<Log>,
    committing: Option<Pending<CommitDone>>,
    shares: BTreeMap<CommitId, Vec<WorkerCommit>>,
    outputs: BTreeMap<CommitId, BTreeMap<Place, Vec<Record>>>,
    applied: AppliedOffsets,
    /// Skipped while a commit before them was unknown.
    skipped: VecDeque<CommitId>,
    unknown: bool,
    buffers: Vec<Buffer>,
    fetch_from: Vec<i64>,
    fetches: Vec<Option<Pending<Option<Fetched>>>>,
    disks: Vec<Disk>,
}

impl Running {
    fn new(pod: &Pod, disks: &[Disk], stores: Vec<MemoryStore>, offsets: &[i64], log: Log) -> Self {
        let workers = 1 + pod.world.below(3);
        let wakes: Vec<Wake> = (0..workers).map(|_| Arc::new(|| {}) as Wake).collect();
        let owner: Arc<[usize]> = pod.shards.all().map(|_| pod.world.below(workers)).collect();
        let buffers: Vec<Buffer> = offsets.iter().map(|_| Buffer::default()).collect();
        let source = |partition: usize| {
            let part = InputPartition::new(partition as i32, offsets[partition], buffers[partition].clone());
            (SOURCE, Box::new(part) as Box<dyn dataflow::source::SourcePartition>)
        };
        let made = ports(&pod.graph, workers, 4, &wakes).into_iter().enumerate().map(|(index, exchange)| {
            let own = |store: &&MemoryStore| owner[usize::from(store.shard().0)] == index;
            let config = WorkerConfig {
                index,
                workers,
                graph: Arc::clone(&pod.graph),
                shards: pod.shards,
                owner: Arc::clone(&owner),
                sources: (0..offsets.len()).filter(|partition| partition % workers == index).map(source).collect(),
                encoders: vec![(ROWS, Box::new(FieldEncoder) as _), (WINDOWS, Box::new(FieldEncoder) as _)],
                stores: stores.iter().filter(own).map(|store| Box::new(store.clone()) as _).collect(),
                exchange,
                growing: Vec::new(),
                max_rows_per_poll: 10,
                state_budget: u64::MAX,
                shuffle: None,
                gate: Arc::new(Gate::open()),
            };
            Worker::new(config).expect("what was restored can be read")
        });
        let workers: Vec<Worker> = made.collect();
        Self {
            protocol: CommitProtocol::new(workers.len(), TRIGGERS, pod.world.now_ms()),
            workers,
            log: Some(log),
            committing: None,
            shares: BTreeMap::new(),
            outputs: BTreeMap::new(),
            applied: Vec::new(),
            skipped: VecDeque::new(),
            unknown: false,
            fetch_from: offsets.to_vec(),
            fetches: buffers.iter().map(|_| None).collect(),
            buffers,
            disks: disks.to_vec(),
        }
    }

    /// Takes what has arrived, lets the workers work, and does what the protocol says.
    fn turn(&mut self, pod: &Rc<Pod>) -> Result<(), Ended> {
        let now = pod.world.now_ms();
        self.fetch(pod);
        let mut commands = Vec::new();
        if let Some((log, outcome)) = poll(&mut self.committing) {
            self.log = Some(log);
            self.applied = outcome?;
            self.unknown = false;
            let id = self.unknown_id();
            self.tell(Input::Committed(id), now, &mut commands);
        }
        for index in 0..self.workers.len() {
            for _ in 0..pod.world.below(6) {
                if self.step(index, now, &mut commands) != StepStatus::Progress {
                    break;
                }
            }
        }
        self.tell(Input::Tick, now, &mut commands);
        while !commands.is_empty() {
            for command in std::mem::take(&mut commands) {
                self.execute(pod, command);
            }
        }
        Ok(())
    }

    fn unknown_id(&self) -> CommitId {
        match self.protocol.state() {
            checkpoint::commit::State::Committing { id, .. } => *id,
            other => unreachable!("a commit has returned in {other:?}"),
        }
    }

    fn tell(&mut self, input: Input, now: u64, commands: &mut Vec<Command>) {
        self.protocol.on(input, now, commands).expect("the pod and the protocol agree");
    }

    fn fetch(&mut self, pod: &Rc<Pod>) {
        for (partition, pending) in self.fetches.iter_mut().enumerate() {
            if let Some(fetched) = poll(pending).flatten() {
                for (offset, record) in &fetched.records {
                    let row = job::decode(record.value.as_deref().expect("a row")).try_into().expect("three fields");
                    self.buffers[partition].push(offset + 1, row);
                }
                self.fetch_from[partition] = fetched.next_offset;
            }
            if pending.is_none() && self.buffers[partition].len() < BUFFERED {
                let (world, offset) = (pod.world.clone(), self.fetch_from[partition]);
                let from = (INPUT.to_owned(), partition as i32);
                let request = Request::Fetch { from, offset, most: 30, isolation: Isolation::ReadCommitted };
                *pending = Some(Box::pin(async move {
                    // Empty answers are not asked for without a pause.
                    world.sleep(10_000).await;
                    match world.call(world.connect(), CALL_TIMEOUT_MS, request).await {
                        Ok(Answer::Fetched(fetched)) => Some(fetched),
                        Ok(_) | Err(_) => None,
                    }
                }));
            }
        }
    }

    fn step(&mut self, index: usize, now: u64, commands: &mut Vec<Command>) -> StepStatus {
        let mut events = Vec::new();
        let status = self.workers[index].step(now, &mut events).expect("the job works");
        let rows = self.buffers.iter().map(Buffer::taken).sum();
        self.tell(Input::Activity { rows, bytes: 0 }, now, commands);
        for event in events {
            match event {
                WorkerEvent::Chunk { commit, chunk } => {
                    let SinkPayload::Rows(rows) = chunk.payload else { unreachable!("the encoder makes rows") };
                    let mut start = 0;
                    for end in rows.ends {
                        let value = rows.bytes[start as usize..end as usize].to_vec();
                        start = end;
                        let place = output_place(chunk.sink == WINDOWS, &job::decode(&value));
                        let record = Record { value: Some(value), ..Record::default() };
                        self.outputs.entry(commit).or_default().entry(place).or_default().push(record);
                    }
                }
                WorkerEvent::Block { .. } => unreachable!("there is no other pod"),
                WorkerEvent::Commit(share) => {
                    let id = share.id;
                    let something = share.rows_in > 0
                        || !share.changes.is_empty()
                        || !share.positions.is_empty()
                        || self.outputs.contains_key(&id);
                    self.shares.entry(id).or_default().push(share);
                    self.tell(Input::WorkerCommit { worker: index, id, something, finished: false }, now, commands);
                }
            }
        }
        status
    }

    fn execute(&mut self, pod: &Rc<Pod>, command: Command) {
        match command {
            Command::Barrier(id) => self.workers.iter_mut().for_each(|worker| worker.begin_commit(id)),
            Command::Commit { id, .. } => self.commit(pod, id),
            Command::Skip(id) => {
                self.shares.remove(&id);
                self.skipped.push_back(id);
                self.apply_skipped();
            }
            Command::Apply(id) => {
                *pod.commits.borrow_mut() += 1;
                let offsets = std::mem::take(&mut self.applied);
                self.apply(id, &offsets);
                self.apply_skipped();
            }
            Command::Finish { .. } => unreachable!("the input has no end and nobody stops the job"),
        }
    }

    fn apply(&mut self, id: CommitId, offsets: &AppliedOffsets) {
        for worker in &mut self.workers {
            worker.commit_applied(id, offsets).expect("memory takes everything");
        }
    }

    fn apply_skipped(&mut self) {
        while !self.unknown
            && let Some(id) = self.skipped.pop_front()
        {
            self.apply(id, &AppliedOffsets::new());
        }
    }

    fn commit(&mut self, pod: &Rc<Pod>, id: CommitId) {
        self.unknown = true;
        let mut changes = Vec::new();
        let mut offsets = Vec::new();
        for share in self.shares.remove(&id).unwrap_or_default() {
            changes.extend(share.changes);
            for (_, _, position) in share.positions {
                let SourcePosition::Kafka { topic, partition, next_offset } = position else {
                    unreachable!("the source has Kafka's offsets")
                };
                offsets.push(((topic, partition), next_offset));
            }
        }
        if pod.mutant == Some(Mutant::StateBeforeCommit) {
            for (shard, batch) in &changes {
                let mut store = MemoryStore::new(*shard, self.disks[usize::from(shard.0)].clone());
                let place = store.applied().unwrap_or(LogOffset(-1));
                store.apply(batch, place).expect("memory takes everything");
            }
        }
        let outputs = self.outputs.remove(&id).unwrap_or_default().into_iter().collect();
        let commit = Commit { id, outputs, changes, offsets };
        let mut log = self.log.take().expect("one commit at a time");
        self.committing = Some(Box::pin(async move {
            let outcome = log.commit(commit).await;
            (log, outcome)
        }));
    }
}

/// Rows go by their input partition, windows by their key: so that each output partition has an order to keep.
fn output_place(windows: bool, row: &[i64]) -> Place {
    let number = if windows { row[0] } else { row[2] / super::oracle::PER_PARTITION };
    (output_topic(windows), number.rem_euclid(2) as i32)
}
