//! Runs a bounded job to its end: workers stepped one at a time in an order that a seed decides, commits at any moment, crashes anywhere.
//!
//! Owns the order of things and a commit log in memory. A job has one pod or several; each commits alone, and a crash drops all workers of one.
//! Stores may be behind the log, and are brought up from it as the runtime does. What comes out is only what was committed.
//! Shards pass from pod to pod meanwhile (`rescale`).

mod rescale;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::RecordBatch;

use super::{BatchEncoder, Disk, MemoryStore, ShuffleLog, VecPartition};
use crate::exchange::{ports, ports_of_pod};
use crate::graph::{JobGraph, NodeId, NodeKind};
use crate::key::{KeyGroup, ShardId, Shards};
use crate::shuffle::outgoing::Outgoing;
use crate::shuffle::{self, Gate, OTHER_POD, Place, ShuffleBlock, ShuffleConfig, ShuffleReader, Switch};
use crate::sink::SinkPayload;
use crate::source::{PartitionId, Reached, SourcePartition, SourcePosition};
use crate::state::{ChangeBatch, LogOffset, ShardStore};
use crate::worker::{
    AppliedOffsets, CommitId, StepStatus, Wake, Worker, WorkerCommit, WorkerConfig, WorkerError, WorkerEvent,
};

/// SplitMix64: enough chance for a test, the same for a seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next_u64() % bound as u64) as usize
    }

    /// True once in `n` on average; never if `n` is 0.
    pub fn once_in(&mut self, n: usize) -> bool {
        n > 0 && self.below(n) == 0
    }
}

/// The partitions of one source node: their batches.
#[derive(Clone, Debug)]
pub struct SourceData {
    /// The source node.
    pub node: NodeId,
    /// Batches of each partition.
    pub partitions: Vec<Arc<[RecordBatch]>>,
    /// Where the plan relies on the partitions: the key group of each, whose owner reads it. Else empty.
    pub groups: Vec<KeyGroup>,
}

/// A job to run and how.
#[derive(Clone, Debug)]
pub struct Harness {
    /// The job.
    pub graph: Arc<JobGraph>,
    /// Its input.
    pub sources: Vec<SourceData>,
    /// Its shards.
    pub shards: Shards,
    /// Its pods.
    pub pods: u16,
    /// Numbers of workers to choose from at each start: `1..=max_workers`.
    pub max_workers: usize,
    /// Capacity of the exchange's queues.
    pub queue_capacity: usize,
    /// Rows per poll.
    pub max_rows: usize,
    /// A commit is begun once in so many turns.
    pub commit_once_in: usize,
    /// A pod crashes once in so many turns (0: never).
    pub crash_once_in: usize,
    /// Shards pass between pods once in so many turns (0: never), a few times in a run.
    pub rescale_once_in: usize,
    /// How many bytes of state a worker keeps in memory; 0 for nothing but what has just changed.
    pub state_budget: u64,
}

/// What a run has left.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Committed output per sink, in order of commits.
    pub output: BTreeMap<NodeId, Vec<RecordBatch>>,
    /// State of each shard at the end.
    pub disks: Vec<Disk>,
    /// How many commits were made.
    pub commits: usize,
    /// How many crashes there were.
    pub crashes: usize,
    /// How often shards were distributed anew, and how many processes took that up without a start.
    pub rescales: usize,
    /// See `rescales`.
    pub taken_up: usize,
    /// How many messages went between pods.
    pub messages: usize,
    /// Committed dead letters.
    pub letters: Vec<String>,
    /// Late rows dropped by the last set of workers.
    pub late_dropped: u64,
    /// Entries that the last set of workers has looked up in stores, and that have left its memory.
    pub misses: u64,
    /// See `misses`.
    pub evictions: u64,
}

/// One commit in the log.
type LogRecord = Vec<(ShardId, ChangeBatch)>;

/// All that survives a crash.
struct Durable {
    log: Vec<LogRecord>,
    disks: Vec<Disk>,
    positions: BTreeMap<(NodeId, PartitionId), Reached>,
    output: BTreeMap<NodeId, Vec<RecordBatch>>,
    letters: Vec<String>,
    /// The pod of each shard, under the assignment in force.
    pod_of: Vec<u16>,
    assignment: u64,
    taken_up: usize,
    shuffle: ShuffleLog,
    /// Which pods have made their last commit.
    finished: Vec<bool>,
}

/// All that does not.
struct Process {
    pod: u16,
    workers: Vec<Worker>,
    outgoing: Outgoing,
    /// The worker of each shard.
    owner: Arc<[usize]>,
    /// The assignment that it works under.
    assignment: u64,
    /// To be taken up with the next commit; with this one.
    due: Option<Arc<Switch>>,
    switching: Option<(CommitId, Arc<Switch>)>,
    /// Rows that did not wait for their commit's barrier.
    early: BTreeMap<CommitId, Vec<ShuffleBlock>>,
    begun: CommitId,
    /// Shares and output of commits that are not in the log yet.
    shares: BTreeMap<CommitId, Vec<WorkerCommit>>,
    chunks: BTreeMap<CommitId, Vec<(NodeId, SinkPayload)>>,
    committed: CommitId,
    /// Per worker: commits in the log that it has not been told of.
    untold: Vec<VecDeque<(CommitId, AppliedOffsets)>>,
    idle: Vec<bool>,
    /// Set by each worker's wake.
    woken: Vec<Arc<AtomicBool>>,
    /// Sources always have something, so that an idle worker that nobody woke has nothing to do.
    strict: bool,
    /// Closed and opened at random, as by readers of other pods that are too far behind.
    gate: Arc<Gate>,
}

impl Harness {
    /// Runs to the end.
    ///
    /// # Errors
    /// When a worker fails.
    ///
    /// # Panics
    /// When the job does not end: a deadlock.
    pub fn run(&self, seed: u64) -> Result<Outcome, WorkerError> {
        let mut random = Random(seed);
        let mut durable = Durable {
            log: Vec::new(),
            disks: self.shards.all().map(|_| Disk::default()).collect(),
            positions: BTreeMap::new(),
            output: BTreeMap::new(),
            letters: Vec::new(),
            pod_of: self.shards.all().map(|_| random.below(usize::from(self.pods)) as u16).collect(),
            assignment: 1,
            taken_up: 0,
            shuffle: ShuffleLog::default(),
            finished: vec![false; usize::from(self.pods)],
        };
        let start = |pod| self.start(pod, &durable, &mut random);
        let mut pods = (0..self.pods).map(start).collect::<Result<Vec<_>, _>>()?;
        let mut outcome = Outcome::default();
        for _turn in 0..400_000 * usize::from(self.pods) {
            let told = pods.iter().flat_map(|process| &process.untold).all(VecDeque::is_empty);
            let settled = pods.iter().all(|process| process.has_all(&durable));
            if told && settled && durable.finished.iter().all(|&finished| finished) {
                let workers = pods.iter().flat_map(|process| &process.workers);
                for node in workers.flat_map(|w| w.progress().nodes) {
                    outcome.late_dropped += node.late_dropped;
                    outcome.misses += node.state_misses;
                    outcome.evictions += node.state_evictions;
                }
                outcome.commits = durable.log.len();
                outcome.messages = durable.shuffle.len();
                outcome.taken_up = durable.taken_up;
                outcome.output = durable.output;
                outcome.letters = durable.letters;
                outcome.disks = durable.disks;
                return Ok(outcome);
            }
            let pod = random.below(pods.len());
            if random.once_in(self.crash_once_in) {
                outcome.crashes += 1;
                self.restart(pod, &mut pods, &mut durable, &mut random)?;
                continue;
            }
            if settled && outcome.rescales < rescale::MOST && random.once_in(self.rescale_once_in) {
                outcome.rescales += 1;
                durable.rescale(self.pods, &mut random);
            }
            match self.next(pod, &pods, &durable) {
                rescale::Next::GoOn => {}
                rescale::Next::Switch(switch) => pods[pod].due = Some(switch),
                rescale::Next::Start => {
                    self.restart(pod, &mut pods, &mut durable, &mut random)?;
                    continue;
                }
            }
            pods[pod].turn(self, &mut durable, &mut random)?;
        }
        panic!("seed {seed}: the job does not end");
    }

    /// Starts a process of a pod.
    fn start(&self, pod: u16, durable: &Durable, random: &mut Random) -> Result<Process, WorkerError> {
        let workers = 1 + random.below(self.max_workers);
        let woken: Vec<Arc<AtomicBool>> = (0..workers).map(|_| Arc::default()).collect();
        let wake = |flag: &Arc<AtomicBool>| -> Wake {
            let flag = Arc::clone(flag);
            Arc::new(move || flag.store(true, Ordering::SeqCst))
        };
        let wakes: Vec<Wake> = woken.iter().map(wake).collect();
        let make = if self.pods > 1 { ports_of_pod } else { ports };
        let ports = make(&self.graph, workers, self.queue_capacity, &wakes);
        let strict = random.once_in(2);
        let seat = |&of: &u16| if of == pod { random.below(workers) } else { OTHER_POD };
        let owner: Arc<[usize]> = durable.pod_of.iter().map(seat).collect();
        let gate = Arc::new(Gate::new(random.below(5) as u64, wakes.clone()));
        let view = self.view(pod, durable);
        let mut made = Vec::with_capacity(workers);
        for (index, exchange) in ports.into_iter().enumerate() {
            let sinks = self.graph.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Sink(_)));
            let owned: Vec<ShardId> = self.shards.all().filter(|s| owner[usize::from(s.0)] == index).collect();
            let stores = owned.iter().map(|s| durable.open(*s)).collect::<Result<Vec<_>, _>>()?;
            let shuffle = (self.pods > 1)
                .then(|| ShuffleConfig { view: view.clone(), readers: self.readers(durable, &stores, &wakes[index]) });
            made.push(Worker::new(WorkerConfig {
                index,
                workers,
                graph: Arc::clone(&self.graph),
                shards: self.shards,
                owner: Arc::clone(&owner),
                sources: self.partitions(usize::from(pod), (index, &owner), workers, durable, strict, random),
                encoders: sinks.map(|n| (n.id, Box::new(BatchEncoder::default()) as _)).collect(),
                stores: stores.into_iter().map(|store| Box::new(store) as _).collect(),
                exchange,
                growing: Vec::new(),
                max_rows_per_poll: self.max_rows,
                shuffle,
                gate: Arc::clone(&gate),
                state_budget: self.state_budget,
            })?);
        }
        let before = CommitId(CommitId::FIRST.0 - 1);
        let elsewhere = |shard: &ShardId| durable.pod_of[usize::from(shard.0)] != pod;
        let elsewhere: Vec<ShardId> = self.shards.all().filter(elsewhere).collect();
        Ok(Process {
            pod,
            owner,
            assignment: durable.assignment,
            due: None,
            switching: None,
            outgoing: Outgoing::new(view, shuffle::exchanges(&self.graph), &elsewhere, workers),
            early: BTreeMap::new(),
            untold: made.iter().map(|_| VecDeque::new()).collect(),
            idle: vec![false; made.len()],
            woken,
            strict,
            gate,
            workers: made,
            begun: before,
            committed: before,
            shares: BTreeMap::new(),
            chunks: BTreeMap::new(),
        })
    }

    /// A worker's source partitions: each is its shard's pod's. They go to the owners of their key groups, or else round a pod's workers.
    fn partitions(
        &self,
        pod: usize,
        (index, owner): (usize, &[usize]),
        workers: usize,
        durable: &Durable,
        strict: bool,
        random: &mut Random,
    ) -> Vec<(NodeId, Box<dyn SourcePartition>)> {
        let pod_of = |number| usize::from(durable.pod_of[usize::from(self.shard_of_source(number).0)]);
        let mut sources: Vec<(NodeId, Box<dyn SourcePartition>)> = Vec::new();
        for source in &self.sources {
            let shard_of = |number: usize| match source.groups.get(number) {
                Some(group) => self.shards.shard_of(*group),
                None => self.shard_of_source(number),
            };
            let is_own = |number: usize| match source.groups.get(number) {
                Some(_) => owner[usize::from(shard_of(number).0)] == index,
                None => pod_of(number) == pod && number % workers == index,
            };
            for (number, batches) in source.partitions.iter().enumerate().filter(|(number, _)| is_own(*number)) {
                let id = PartitionId(number.to_string());
                let reached = durable.positions.get(&(source.node, id.clone()));
                let pending_every = if strict { 0 } else { [0, 2, 3, 4, 7][random.below(5)] };
                let position = reached.map(|reached| &reached.position);
                let partition = VecPartition::new(&id.0, Arc::clone(batches), position, pending_every);
                let partition = partition.after(reached.and_then(|reached| reached.watermark_ms));
                let partition = partition.with_shard(shard_of(number)).in_group(source.groups.get(number).copied());
                sources.push((source.node, Box::new(partition.with_letters())));
            }
        }
        sources
    }

    /// The readers of a worker's shards, each where its shard's state says.
    fn readers(&self, durable: &Durable, stores: &[MemoryStore], wake: &Wake) -> Vec<(NodeId, Box<dyn ShuffleReader>)> {
        let mut readers: Vec<(NodeId, Box<dyn ShuffleReader>)> = Vec::new();
        for (node, uid) in shuffle::exchanges(&self.graph) {
            for store in stores {
                let place = Place::stored(store, self.shards, uid).expect("the harness damages nothing");
                let next = place.map_or(0, |place| place.next_offset);
                let committed = durable.positions.get(&(node, PartitionId(store.shard().0.to_string())));
                let said = match committed.map(|reached| &reached.position) {
                    Some(SourcePosition::Kafka { next_offset, .. }) => *next_offset,
                    Some(SourcePosition::Opaque(_)) | None => 0,
                };
                assert_eq!(next, said, "the stored place and the committed position are of one commit");
                let reader = durable.shuffle.reader(node, store.shard(), next, Arc::clone(wake));
                readers.push((node, Box::new(reader)));
            }
        }
        readers
    }
}

impl Durable {
    /// A shard's store, brought up to the log's end.
    fn open(&self, shard: ShardId) -> Result<MemoryStore, WorkerError> {
        let mut store = MemoryStore::new(shard, self.disks[usize::from(shard.0)].clone());
        let next = store.applied().map_or(0, |offset| offset.0 as usize + 1);
        for (place, record) in self.log.iter().enumerate().skip(next) {
            for (_, changes) in record.iter().filter(|(s, _)| *s == shard) {
                let encoded = changes.encode();
                let changes = ChangeBatch::decode(&encoded)
                    .map_err(|e| crate::state::StateError { shard, message: e.to_string() })?;
                store.apply(&changes, LogOffset(place as i64))?;
            }
        }
        Ok(store)
    }
}

impl Process {
    fn turn(&mut self, harness: &Harness, durable: &mut Durable, random: &mut Random) -> Result<(), WorkerError> {
        if random.once_in(40) {
            self.gate.wait(random.once_in(3));
        }
        let all_idle = self.idle.iter().all(|&idle| idle);
        // At most two commits are under way, as in a pod: one whose outcome is awaited, one that is being computed.
        if self.begun.0 < self.committed.0 + 2 && (all_idle || random.once_in(harness.commit_once_in)) {
            self.begun = self.begun.next();
            let begun = self.begun;
            match self.due.take_if(|_| self.switching.is_none()) {
                Some(switch) => {
                    self.workers.iter_mut().for_each(|worker| worker.begin_switch(begun, Arc::clone(&switch)));
                    self.switching = Some((begun, switch));
                }
                None => self.workers.iter_mut().for_each(|worker| worker.begin_commit(begun)),
            }
            self.idle.fill(false);
        }
        let index = random.below(self.workers.len());
        let mut events = Vec::new();
        let unprompted = self.idle[index] && !self.woken[index].swap(false, Ordering::SeqCst);
        let status = self.workers[index].step(0, &mut events)?;
        self.idle[index] = !matches!(status, StepStatus::Progress);
        assert!(!(self.strict && unprompted && status == StepStatus::Progress), "worker {index} was not woken");
        for event in events {
            match event {
                WorkerEvent::Chunk { commit, chunk } => {
                    assert!(commit > self.committed, "output of a commit that is in the log already");
                    self.chunks.entry(commit).or_default().push((chunk.sink, chunk.payload));
                }
                WorkerEvent::Block { commit, block } => {
                    assert!(commit > self.committed, "rows of a commit that is in the log already");
                    self.early.entry(commit).or_default().push(block);
                }
                WorkerEvent::Commit(share) => self.shares.entry(share.id).or_default().push(share),
            }
        }
        let next = self.committed.next();
        if self.shares.get(&next).is_some_and(|shares| shares.len() == self.workers.len()) && random.once_in(3) {
            self.commit(next, durable);
        }
        let told = random.below(self.workers.len());
        if let Some((id, offsets)) = self.untold[told].pop_front() {
            self.workers[told].commit_applied(id, &offsets)?;
            // As in a pod: whoever tells a worker something wakes it.
            self.woken[told].store(true, Ordering::SeqCst);
        }
        self.end_switch();
        Ok(())
    }

    /// Puts a commit into the log: from here on it has happened.
    fn commit(&mut self, id: CommitId, durable: &mut Durable) {
        let shares = self.shares.remove(&id).unwrap_or_default();
        durable.finished[usize::from(self.pod)] = shares.iter().all(|share| share.finished);
        let offset = LogOffset(durable.log.len() as i64);
        let mut record = LogRecord::new();
        let early = self.early.remove(&id).unwrap_or_default().into_iter();
        let early = early.map(|block| self.outgoing.full_block(block, id).expect("it goes to a shard of another pod"));
        durable.shuffle.append(early.collect());
        for mut share in shares {
            self.outgoing.take(share.worker, std::mem::take(&mut share.shuffles));
            durable.positions.extend(share.positions.into_iter().map(|(node, id, reached)| ((node, id), reached)));
            record.extend(share.changes);
        }
        let offsets: Vec<_> = record.iter().map(|(shard, _)| (*shard, offset)).collect();
        durable.log.push(record);
        for (node, payload) in self.chunks.remove(&id).unwrap_or_default() {
            match payload {
                SinkPayload::Batch(rows) => durable.output.entry(node).or_default().push(rows),
                SinkPayload::Rows(rows) => {
                    let text = String::from_utf8_lossy(&rows.bytes);
                    durable.letters.extend(text.lines().map(str::to_owned));
                }
            }
        }
        durable.shuffle.append(self.outgoing.messages(id, 0));
        self.switched(id, durable);
        self.committed = id;
        self.untold.iter_mut().for_each(|untold| untold.push_back((id, offsets.clone())));
    }
}
