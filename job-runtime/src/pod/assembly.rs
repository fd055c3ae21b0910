//! The start of a pod, step by step: state directory, sinks, commit log, stores, recovery, sources, workers.
//!
//! Owns the order and the reasons for it. With Kafka the earlier process of this pod is fenced before anything slow, because its open
//! transaction holds back every reader until then.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use dataflow::graph::{Node, NodeKind};
use dataflow::key::ShardId;
use dataflow::state::{ShardStore as _, StateError};

use super::PodConfig;
use super::discovery::Discovery;
use super::driver::{Driver, Ended};
use super::error::PodError;
use super::monitor::Monitor;
use super::savepoint::Savepoints;
use crate::commit::bookkeeping::{self, Home};
use crate::commit::kafka::Watching;
use crate::commit::local::{LocalCommitLog, LocalLogConfig};
use crate::connector::{ConnectorError, SinkFactory, SinkTarget, SizeHint, SourceFactory, registry};
use crate::snapshot::origin::Origin;
use crate::snapshot::start::Restored;
use crate::snapshot::thread::Snapshots;
use crate::state::directory::{DirectoryError, JobIdentity, Patience, StateDirectory};
use crate::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};

mod cast;
mod dead_letters;
mod kafka;
mod operators;
mod positions;
mod reassign;
mod savepoints;
mod seat;
mod snapshots;

pub(crate) use cast::EXCHANGE_BATCHES;
use cast::{Beside, Cast};
use kafka::KafkaLog;
pub(super) use seat::Seat;
use snapshots::SnapshotStore;

/// Databases that are opened at the same time.
const OPENERS: usize = 16;

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
        let reached = |step| tracing::debug!(ms = started.elapsed().as_millis() as u64, "{step}");
        let mut sinks = open_sinks(&config, &graph.nodes)?;
        let store = SnapshotStore::open(&config, &directory)?;
        reached("the sinks are there");
        let recovered = recover(&config, &directory, &sinks, store.as_ref(), monitor.stop_flag())?;
        reached("the state is there");
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
        reached("the sources are there");
        let mut cast = Cast::place(&config, &sinks, sources, recovered, monitor)?;
        reached("every partition is open");
        let discovery = cast.discovery.take();
        let savepoints = orders.start(&config, &cast, kept, monitor)?;
        let reassign = shards.reassign(&cast, watch);
        let beside = Beside { savepoints: &savepoints, reassign };
        let parts = cast.start(&config, Arc::clone(&graph), sinks, monitor, started, beside)?;
        reached("the workers run");
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
    let databases = RocksConfig::within(config.state_memory.databases());
    let databases = Arc::new(RocksDatabases::new(&directory.shards_dir(), databases)?);
    let fenced = kafka::fence(config, directory.job_uid(), sinks, &databases, stop)?;
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
