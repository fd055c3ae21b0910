//! The start of a pod, step by step: state directory, sinks, commit log, stores, recovery, sources, workers.
//!
//! Owns the order and the reasons for it. With Kafka the earlier process of this pod is fenced before anything slow, because its open
//! transaction holds back every reader until then.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Instant;

use checkpoint::commit::Triggers;
use dataflow::exchange;
use dataflow::graph::{Node, NodeId, NodeKind};
use dataflow::key::ShardId;
use dataflow::shuffle::{Gate, LAG_BOUND, ShuffleConfig};
use dataflow::source::{PartitionId, Reached, SourcePartition};
use dataflow::state::{ChangeBatch, ShardStore, StateError};
use dataflow::worker::{Wake, WorkerConfig};

use super::PodConfig;
use super::counting::Activity;
use super::declared::Declared;
use super::discovery::{Discovery, Growing, Mailbox, Opener, Place};
use super::driver::{Destination, Driver, Ended, Parts};
use super::error::PodError;
use super::hold::{Desk, Hold, Positions as Standing};
use super::monitor::Monitor;
use super::reassign::Reassign;
use super::savepoint::Savepoints;
use super::shuffle::Outward;
use super::worker_thread::WorkerHandle;
use crate::commit::CommitLog;
use crate::commit::bookkeeping::{self, Home};
use crate::commit::kafka::Watching;
use crate::commit::local::{LocalCommitLog, LocalLogConfig};
use crate::connector::{ConnectorError, SinkFactory, SinkTarget, SizeHint, SourceFactory, registry};
use crate::kafka::shuffle::ReadUpTo;
use crate::snapshot::origin::Origin;
use crate::snapshot::start::Restored;
use crate::snapshot::thread::Snapshots;
use crate::state::directory::{DirectoryError, JobIdentity, Patience, StateDirectory};
use crate::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};

mod dead_letters;
mod kafka;
mod operators;
mod reassign;
mod savepoints;
mod seat;
mod snapshots;

use kafka::KafkaLog;
pub(super) use seat::Seat;
use snapshots::SnapshotStore;

/// Rows that a worker takes from one partition at a time.
const ROWS_PER_POLL: usize = 4096;
/// Databases that are opened at the same time.
const OPENERS: usize = 16;
/// Batches that may wait in one exchange queue.
pub(crate) const EXCHANGE_BATCHES: usize = 16;
/// A commit is due at this much output, or so many rows, even before its interval is over: memory stays bounded.
const COMMIT_BYTES: u64 = 64 << 20;
const COMMIT_ROWS: u64 = 4_000_000;

/// What can be said of a pod before it runs.
#[derive(Clone, Debug, Default)]
pub struct PodReport {
    /// True if there was state to resume from.
    pub resumes: bool,
    /// Size of all bounded sources together, if all know it.
    pub size: Option<SizeHint>,
}

/// A pod that has recovered and is ready to run.
pub struct Pod {
    driver: Driver,
    /// What can be said before it runs.
    pub report: PodReport,
    /// Looks for new partitions while the pod lives.
    _discovery: Option<Discovery>,
    /// Notices what comes in the control topic.
    _watching: Option<Watching>,
    /// Makes savepoints while the pod runs.
    savepoints: Savepoints,
    /// Takes snapshots while the pod runs.
    snapshots: Option<Snapshots>,
    /// Keeps the state directory locked while the pod lives.
    _directory: StateDirectory,
}

struct OpenSink<'a> {
    node: &'a Node,
    table: &'a str,
    /// Makes the encoders; dead letters are encoded by their source.
    factory: Option<Box<dyn SinkFactory>>,
    target: SinkTarget,
}

struct OpenSource<'a> {
    node: &'a Node,
    table: &'a str,
    factory: Box<dyn SourceFactory>,
}

/// The log, and the stores brought up to its end.
struct Recovered {
    seat: Seat,
    log: Log,
    stores: Vec<RocksShardStore>,
    databases: Arc<RocksDatabases>,
    /// What came from snapshots.
    restored: Restored,
    /// The savepoint that the job began from.
    origin: Option<Origin>,
    /// There was state, here or in a snapshot.
    resumes: bool,
}

/// The two forms of the commit log.
enum Log {
    Local(Box<LocalCommitLog>),
    Kafka(Box<KafkaLog>),
}

impl Pod {
    /// Starts everything up to the point where rows may flow.
    ///
    /// # Errors
    /// When any part cannot start; nothing of the outside world was changed then that a next start would not find in order.
    pub fn start(mut config: PodConfig, monitor: &Arc<Monitor>, started: Instant) -> Result<Self, PodError> {
        monitor.attach(std::thread::current());
        let found = snapshots::find_uid(&config)?;
        let uid = config.uid.as_deref().or(found.as_deref());
        let identity = JobIdentity { uid, name: &config.name, shards: config.shards.count() };
        let directory = take_directory(&config, identity, monitor)?;
        config.connectors.job_uid = directory.job_uid().to_owned();
        config.connectors.bounded = bounded(&config)?;
        seat::check(&config)?;
        let graph = Arc::new(config.planned.graph.clone());
        let mut sinks = open_sinks(&config, &graph.nodes)?;
        let store = SnapshotStore::open(&config, &directory)?;
        let recovered = recover(&config, &directory, &sinks, store.as_ref(), monitor.stop_flag())?;
        let sources = open_sources(&config, &graph.nodes)?;
        for sink in &mut sinks {
            if let SinkTarget::External(external) = &mut sink.target {
                let home = Home::new(config.shards, recovered.stores[0].shard());
                external.recover(&bookkeeping::tickets(&recovered.stores[0], home, sink.node.uid)?)?;
            }
        }
        let report = PodReport { resumes: recovered.resumes, size: size(&sources) };
        let mut orders = savepoints::Orders::new(&config, &recovered)?;
        let (shards, watch) = (reassign::Shards::of(&config, &recovered), orders.watch.take());
        let start = |store: &SnapshotStore| store.start(&config, &directory, &recovered, monitor, orders.tell());
        let snapshots = store.as_ref().map(start).transpose()?;
        let ask = store.as_ref().zip(snapshots.as_ref());
        let kept = ask.map(|(store, running)| store.for_savepoints(&config, directory.job_uid(), running.ask()));
        let watching = orders.watching.take();
        let mut cast = Cast::place(&config, &sinks, sources, recovered, monitor)?;
        let discovery = cast.discovery.take();
        let savepoints = orders.start(&config, &cast, kept, monitor)?;
        let reassign = shards.reassign(&cast, watch);
        let beside = Beside { savepoints: &savepoints, reassign };
        let parts = cast.start(&config, Arc::clone(&graph), sinks, monitor, started, beside)?;
        let driver = Driver::new(parts, Arc::clone(monitor), started);
        let savepoints = savepoints.thread;
        Ok(Self {
            driver,
            report,
            _discovery: discovery,
            _watching: watching,
            savepoints,
            snapshots,
            _directory: directory,
        })
    }

    /// Runs to the end of the input, a stop, or a failure, on the caller's thread: the one that called [`Pod::start`].
    ///
    /// # Errors
    /// When the job cannot go on. The next start goes on from the last commit.
    pub fn run(self) -> Result<Ended, PodError> {
        let ended = self.driver.run()?;
        drop(self.savepoints);
        if let Some(snapshots) = self.snapshots {
            snapshots.finish();
        }
        Ok(ended)
    }
}

/// The state directory, once an earlier process of this pod has left it.
fn take_directory(
    config: &PodConfig,
    identity: JobIdentity<'_>,
    monitor: &Monitor,
) -> Result<StateDirectory, PodError> {
    let patience = Patience { longest: config.state_dir_wait, given_up: &|| monitor.stop_asked() };
    match StateDirectory::open(&config.state_dir, identity, config.fresh, patience) {
        Err(DirectoryError::InUse { .. }) if monitor.stop_asked() => Err(PodError::Stopped),
        taken => Ok(taken?),
    }
}

fn nodes_of(nodes: &[Node]) -> impl Iterator<Item = (&Node, &str)> {
    nodes.iter().filter_map(|node| match &node.kind {
        NodeKind::Source(source) => Some((node, source.table.as_str())),
        NodeKind::Sink(sink) => Some((node, sink.table.as_str())),
        NodeKind::Calc(_)
        | NodeKind::Exchange(_)
        | NodeKind::WindowAggregate(_)
        | NodeKind::Deduplicate(_)
        | NodeKind::Union => None,
    })
}

/// True if every source ends by itself.
fn bounded(config: &PodConfig) -> Result<bool, ConnectorError> {
    for (node, name) in nodes_of(&config.planned.graph.nodes) {
        if matches!(node.kind, NodeKind::Source(_)) && !registry::bounded(table(config, name))? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn table<'a>(config: &'a PodConfig, name: &str) -> &'a plan::Table {
    let found = config.planned.tables.iter().find(|table| table.name == name);
    found.expect("the planner lists every table that its graph names")
}

fn open_sinks<'a>(config: &PodConfig, nodes: &'a [Node]) -> Result<Vec<OpenSink<'a>>, PodError> {
    let mut out = Vec::new();
    for (node, name) in nodes_of(nodes) {
        if let NodeKind::Sink(sink) = &node.kind {
            let factory = registry::sink(table(config, name), sink, &config.connectors)?;
            let target = factory.target()?;
            out.push(OpenSink { node, table: name, factory: Some(factory), target });
        }
    }
    // Behind the sinks: the transaction's client has the properties of the first.
    out.extend(dead_letters::open(config, nodes)?);
    Ok(out)
}

fn open_sources<'a>(config: &PodConfig, nodes: &'a [Node]) -> Result<Vec<OpenSource<'a>>, PodError> {
    let mut out = Vec::new();
    for (node, name) in nodes_of(nodes) {
        if let NodeKind::Source(source) = &node.kind {
            let factory = registry::source(table(config, name), source, &config.connectors)?;
            out.push(OpenSource { node, table: name, factory });
        }
    }
    Ok(out)
}

/// Opens the commit log and brings every shard's store up to its end; shards that are not there come from a snapshot first.
fn recover(
    config: &PodConfig,
    directory: &StateDirectory,
    sinks: &[OpenSink<'_>],
    snapshots: Option<&SnapshotStore>,
    stop: Arc<AtomicBool>,
) -> Result<Recovered, PodError> {
    let fenced = kafka::fence(config, directory.job_uid(), sinks, stop)?;
    let databases = RocksConfig::within(config.state_memory.databases());
    let databases = Arc::new(RocksDatabases::new(&directory.shards_dir(), databases)?);
    let seat = match &fenced {
        Some(fenced) => fenced.seat(config, directory.job_uid()),
        None => Seat::alone(directory.job_uid(), config.shards),
    };
    let origin = snapshots::origin(config, fenced.as_ref())?;
    let restored = snapshots::restore(snapshots, origin.as_ref(), &seat, directory, &databases, fenced.as_ref())?;
    let mut stores = open_stores(&databases, &seat.own_shards())?;
    let log = match fenced {
        Some(fenced) => Log::Kafka(Box::new(fenced.recover(&mut stores)?)),
        None => {
            let dir = directory.log_dir();
            Log::Local(Box::new(LocalCommitLog::open(
                &dir,
                directory.job_uid(),
                LocalLogConfig::default(),
                &mut stores,
            )?))
        }
    };
    if let (Some(snapshots), Log::Local(log)) = (snapshots, &log) {
        snapshots.check_not_older(directory, log)?;
    }
    let resumes = directory.resumes() || !restored.shards.is_empty() || !restored.from_savepoint.is_empty();
    Ok(Recovered { seat, log, stores, databases, restored, origin, resumes })
}

/// Opens the shards' databases, several at a time: opening waits for the disk, not for the processor.
fn open_stores(databases: &RocksDatabases, all: &[ShardId]) -> Result<Vec<RocksShardStore>, StateError> {
    let open = |shards: &[ShardId]| shards.iter().map(|shard| databases.open(*shard)).collect::<Result<Vec<_>, _>>();
    let each = all.len().div_ceil(OPENERS);
    std::thread::scope(|scope| {
        let openers: Vec<_> = all.chunks(each).map(|shards| scope.spawn(move || open(shards))).collect();
        let join = |opener: std::thread::ScopedJoinHandle<'_, Result<Vec<_>, _>>| {
            opener.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        Ok(openers.into_iter().map(join).collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    })
}

/// The total size of all sources, if each of them knows its own in the same unit.
fn size(sources: &[OpenSource<'_>]) -> Option<SizeHint> {
    sources.iter().map(|source| source.factory.size_hint()).reduce(|sum, next| match (sum?, next?) {
        (SizeHint::Rows(a), SizeHint::Rows(b)) => Some(SizeHint::Rows(a + b)),
        (SizeHint::Bytes(a), SizeHint::Bytes(b)) => Some(SizeHint::Bytes(a + b)),
        (SizeHint::Rows(_), SizeHint::Bytes(_)) | (SizeHint::Bytes(_), SizeHint::Rows(_)) => None,
    })?
}

/// What the driver does beside its work.
struct Beside<'a> {
    savepoints: &'a savepoints::Started,
    reassign: Reassign,
}

/// Who does what: partitions and shards placed on workers, everything opened, no thread started yet.
struct Cast {
    home: Home,
    /// Of operators that are new, for the first commit.
    operators: ChangeBatch,
    log: Box<dyn CommitLog>,
    log_offsets: Vec<NodeId>,
    owner: Arc<[usize]>,
    seat: Arc<Seat>,
    stores: Vec<Vec<Box<dyn ShardStore>>>,
    partitions: Vec<Vec<(NodeId, Box<dyn SourcePartition>)>>,
    encoders: Vec<Vec<(NodeId, Box<dyn dataflow::sink::SinkEncoder>)>>,
    activity: Vec<Arc<Activity>>,
    mailboxes: Vec<Arc<Mailbox>>,
    /// Sources that may get more partitions.
    growing: Vec<NodeId>,
    discovery: Option<Discovery>,
    threads: Vec<Arc<OnceLock<Thread>>>,
    sources: Vec<(NodeId, dataflow::graph::OperatorUid)>,
    /// From other pods, by worker, and to other pods.
    inward: Vec<Option<ShuffleConfig>>,
    outward: Option<Outward>,
    /// How far what comes from other pods is read.
    read: Vec<ReadUpTo>,
    /// Whether sources may be read.
    gate: Arc<Gate>,
    /// Where source partitions stand whose positions are kept as state.
    standing: Standing,
}

impl Cast {
    fn place(
        config: &PodConfig,
        sinks: &[OpenSink<'_>],
        sources: Vec<OpenSource<'_>>,
        recovered: Recovered,
        monitor: &Arc<Monitor>,
    ) -> Result<Self, PodError> {
        let Recovered { seat, log, stores, origin, .. } = recovered;
        let (workers, seat) = (config.workers, Arc::new(seat));
        let home = Home::new(config.shards, stores[0].shard());
        let positions = Positions::find(&log, &stores, home, &sources, origin.as_ref())?;
        let standing = positions.standing(&log, &sources);
        let (log, log_offsets, cluster): (Box<dyn CommitLog>, _, _) = match log {
            Log::Local(log) => (log, Vec::new(), None),
            Log::Kafka(log) => {
                let cluster = log.cluster();
                (Box::new(log.log), log.sources, Some(cluster))
            }
        };
        let graph = &config.planned.graph;
        let mut cast = Self {
            home,
            operators: operators::check(graph, &stores, config.shards, seat.shuffles())?,
            log,
            log_offsets,
            stores: (0..workers).map(|_| Vec::new()).collect(),
            partitions: (0..workers).map(|_| Vec::new()).collect(),
            encoders: (0..workers).map(|_| Vec::new()).collect(),
            activity: (0..workers).map(|_| Arc::default()).collect(),
            mailboxes: (0..workers).map(|_| Arc::default()).collect(),
            growing: Vec::new(),
            discovery: None,
            threads: (0..workers).map(|_| Arc::default()).collect(),
            sources: sources.iter().map(|source| (source.node.id, source.node.uid)).collect(),
            owner: seat.owner(workers),
            inward: Vec::new(),
            outward: None,
            seat: Arc::clone(&seat),
            read: Vec::new(),
            gate: Arc::new(Gate::open()),
            standing,
        };
        cast.gate = Arc::new(Gate::new(LAG_BOUND, (0..workers).map(|worker| cast.wake(worker)).collect()));
        cast.outward = seat.outward(graph, cluster.as_ref(), workers, &cast.gate)?;
        monitor.watch_waits(cast.outward.as_ref().map(|outward| outward.pressure.waits()));
        monitor.watch_stores(stores.iter().map(RocksShardStore::gauge).collect());
        for store in stores {
            let worker = cast.owner[usize::from(store.shard().0)];
            cast.stores[worker].push(Box::new(store));
        }
        cast.discovery = cast.open_partitions(config, sources, positions, monitor)?;
        (cast.inward, cast.read) = seat.inward(graph, cluster.as_ref().map(|cluster| &cluster.properties), &cast)?;
        // How far other pods' rows are read is committed with the offsets of sources.
        cast.log_offsets.extend(cast.outward.iter().flat_map(|outward| outward.topics.keys()));
        for (worker, encoders) in cast.encoders.iter_mut().enumerate() {
            for sink in sinks {
                if let Some(factory) = &sink.factory {
                    encoders.push((sink.node.id, factory.encoder(worker)?));
                }
            }
        }
        Ok(cast)
    }

    /// The pod's partitions go round the workers, each source starting where the last one ended. Those that the plan relies on go to the workers
    /// that own their key groups.
    fn open_partitions(
        &mut self,
        config: &PodConfig,
        sources: Vec<OpenSource<'_>>,
        mut positions: Positions,
        monitor: &Arc<Monitor>,
    ) -> Result<Option<Discovery>, PodError> {
        let place = |worker: usize| Place {
            mailbox: Arc::clone(&self.mailboxes[worker]),
            activity: Arc::clone(&self.activity[worker]),
            wake: self.wake(worker),
        };
        let places = (0..self.partitions.len()).map(place).collect();
        let mut opener = Opener {
            places,
            driver: std::thread::current(),
            monitor: Arc::clone(monitor),
            next: 0,
            shards: config.shards,
            owner: Arc::clone(&self.owner),
        };
        let mut opened = Vec::new();
        for OpenSource { node, table, factory } in sources {
            let positions = positions.0.remove(&node.id).unwrap_or_default();
            let (table, seat) = (table.to_owned(), Arc::clone(&self.seat));
            let declared = Declared::of(node, &config.planned.graph, config.shards)?;
            let mut source = Growing::new(node.id, table, factory, positions, seat, declared)?;
            for due in source.due(monitor).map_err(ConnectorError::from)? {
                let (worker, partition) = opener.open(&source, due)?;
                self.partitions[worker].push((source.node, partition));
            }
            source.check_gone()?;
            if source.factory.watched().is_some() {
                self.growing.push(source.node);
            }
            opened.push(source);
        }
        Discovery::start(opened, opener)
    }

    /// Wakes a worker's thread, once there is one.
    fn wake(&self, worker: usize) -> Wake {
        let thread = Arc::clone(&self.threads[worker]);
        Arc::new(move || {
            if let Some(thread) = thread.get() {
                thread.unpark();
            }
        })
    }

    fn start(
        self,
        config: &PodConfig,
        graph: Arc<dataflow::graph::JobGraph>,
        sinks: Vec<OpenSink<'_>>,
        monitor: &Monitor,
        started: Instant,
        beside: Beside<'_>,
    ) -> Result<Parts, PodError> {
        let wakes: Vec<Wake> = (0..config.workers).map(|worker| self.wake(worker)).collect();
        let make = if self.outward.is_some() { exchange::ports_of_pod } else { exchange::ports };
        let ports = make(&graph, config.workers, EXCHANGE_BATCHES, &wakes);
        monitor.watch_queues(exchange::gauges(&ports));
        let own = self.partitions.into_iter().zip(self.encoders).zip(self.stores).zip(self.inward);
        let each = ports.into_iter().zip(own).zip(&self.threads).enumerate();
        let mut workers = Vec::new();
        for (index, ((exchange, (((sources, encoders), stores), shuffle)), thread)) in each {
            let worker = WorkerConfig {
                index,
                workers: config.workers,
                graph: Arc::clone(&graph),
                shards: config.shards,
                owner: Arc::clone(&self.owner),
                sources,
                growing: self.growing.clone(),
                encoders,
                stores,
                exchange,
                max_rows_per_poll: ROWS_PER_POLL,
                shuffle,
                gate: Arc::clone(&self.gate),
                state_budget: config.state_memory.table_per_worker(config.workers),
            };
            let (activity, mailbox) = (Arc::clone(&self.activity[index]), Arc::clone(&self.mailboxes[index]));
            let handle = WorkerHandle::start(worker, activity, mailbox, std::thread::current(), started)?;
            if let Some(own) = handle.thread() {
                let _ = thread.set(own.clone());
            }
            workers.push(handle);
        }
        let views = workers.iter().map(|worker| Arc::clone(&worker.view));
        monitor.start(views.zip(self.activity.iter().cloned()));
        let interval_ms = config.commit_interval.as_millis() as u64;
        let sinks = sinks.into_iter().map(|sink| (sink.node.id, destination(sink))).collect();
        Ok(Parts {
            workers,
            activity: self.activity,
            sinks,
            sources: self.sources,
            log_offsets: self.log_offsets,
            home: self.home,
            operators: self.operators,
            log: self.log,
            shuffle: self.outward,
            hold: beside.savepoints.hold(self.gate, self.read),
            positions: self.standing,
            reassign: beside.reassign,
            triggers: Triggers { interval_ms, max_bytes: COMMIT_BYTES, max_rows: COMMIT_ROWS },
        })
    }
}

fn destination(sink: OpenSink<'_>) -> Destination {
    match sink.target {
        SinkTarget::Kafka(target) => Destination::Log { topic: target.topic },
        SinkTarget::External(external) => Destination::External(sink.node.uid, external),
    }
}

/// How far every source partition was read at the last commit.
struct Positions(BTreeMap<NodeId, BTreeMap<PartitionId, Reached>>);

impl Positions {
    fn find(
        log: &Log,
        stores: &[RocksShardStore],
        home: Home,
        sources: &[OpenSource<'_>],
        origin: Option<&Origin>,
    ) -> Result<Self, PodError> {
        let mut found: BTreeMap<NodeId, BTreeMap<PartitionId, Reached>> = BTreeMap::new();
        // First where the savepoint has them: whatever the job itself says comes later.
        for stored in origin.iter().flat_map(|origin| origin.positions()) {
            if let Some(source) = sources.iter().find(|source| source.node.uid == stored.operator) {
                let reached = bookkeeping::decode_position(&stored.bytes)?;
                found.entry(source.node.id).or_default().insert(PartitionId(stored.partition.clone()), reached);
            }
        }
        for source in sources {
            for (id, reached) in bookkeeping::positions(&stores[0], home, source.node.uid)? {
                found.entry(source.node.id).or_default().insert(id, reached);
            }
        }
        if let Log::Kafka(log) = log {
            for ((node, id), reached) in log.positions(sources)? {
                found.entry(node).or_default().insert(id, reached);
            }
        }
        Ok(Self(found))
    }

    /// Those that are kept as state of this pod: a partition that is at its end may not be opened again, and a savepoint must have it.
    fn standing(&self, log: &Log, sources: &[OpenSource<'_>]) -> Standing {
        let riding = match log {
            Log::Kafka(log) => log.sources.as_slice(),
            Log::Local(_) => &[],
        };
        let mut out = Standing::new();
        for source in sources.iter().filter(|source| !riding.contains(&source.node.id)) {
            let of_source = self.0.get(&source.node.id).into_iter().flatten();
            out.extend(of_source.map(|(id, reached)| ((source.node.uid, id.clone()), reached.clone())));
        }
        out
    }
}
