//! Who does what in a pod: source partitions and shards on workers, what goes to and comes from other pods, and the workers' threads.
//!
//! Owns the placing. What is opened in which order, and why, is the parent's.

use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Instant;

use checkpoint::commit::Triggers;
use dataflow::exchange;
use dataflow::graph::{JobGraph, NodeId, OperatorUid};
use dataflow::shuffle::{Gate, LAG_BOUND, ShuffleConfig};
use dataflow::sink::SinkEncoder;
use dataflow::source::SourcePartition;
use dataflow::state::{ChangeBatch, ShardStore};
use dataflow::worker::{Wake, WorkerConfig};

use super::positions::Positions;
use super::{Log, OpenSink, OpenSource, Recovered, Seat, operators, savepoints};
use crate::commit::CommitLog;
use crate::commit::bookkeeping::Home;
use crate::connector::{ConnectorError, SinkTarget};
use crate::kafka::shuffle::ReadUpTo;
use crate::pod::counting::Activity;
use crate::pod::declared::Declared;
use crate::pod::discovery::{Discovery, Growing, Mailbox, Opener, Place};
use crate::pod::driver::{Destination, Parts};
use crate::pod::hold::Standing;
use crate::pod::monitor::Monitor;
use crate::pod::reassign::Reassign;
use crate::pod::shuffle::Outward;
use crate::pod::worker_thread::WorkerHandle;
use crate::pod::{PodConfig, PodError};
use crate::state::rocks::RocksShardStore;

/// Rows that a worker takes from one partition at a time.
const ROWS_PER_POLL: usize = 4096;
/// Batches that may wait in one exchange queue.
pub(crate) const EXCHANGE_BATCHES: usize = 16;
/// A commit is due at this much output, or so many rows, even before its interval is over: memory stays bounded.
const COMMIT_BYTES: u64 = 64 << 20;
const COMMIT_ROWS: u64 = 4_000_000;

/// What the driver does beside its work.
pub(super) struct Beside<'a> {
    pub(super) savepoints: &'a savepoints::Started,
    pub(super) reassign: Reassign,
}

/// Who does what: partitions and shards placed on workers, everything opened, no thread started yet.
pub(super) struct Cast {
    pub(super) home: Home,
    /// Of operators that are new, for the first commit.
    pub(super) operators: ChangeBatch,
    pub(super) log: Box<dyn CommitLog>,
    pub(super) log_offsets: Vec<NodeId>,
    pub(super) owner: Arc<[usize]>,
    pub(super) seat: Arc<Seat>,
    pub(super) stores: Vec<Vec<Box<dyn ShardStore>>>,
    pub(super) partitions: Vec<Vec<(NodeId, Box<dyn SourcePartition>)>>,
    pub(super) encoders: Vec<Vec<(NodeId, Box<dyn SinkEncoder>)>>,
    pub(super) activity: Vec<Arc<Activity>>,
    pub(super) mailboxes: Vec<Arc<Mailbox>>,
    /// Sources that may get more partitions.
    pub(super) growing: Vec<NodeId>,
    pub(super) discovery: Option<Discovery>,
    pub(super) threads: Vec<Arc<OnceLock<Thread>>>,
    pub(super) sources: Vec<(NodeId, OperatorUid)>,
    /// From other pods, by worker, and to other pods.
    pub(super) inward: Vec<Option<ShuffleConfig>>,
    pub(super) outward: Option<Outward>,
    /// How far what comes from other pods is read.
    pub(super) read: Vec<ReadUpTo>,
    /// Whether sources may be read.
    pub(super) gate: Arc<Gate>,
    /// Where source partitions stand whose positions are kept as state.
    pub(super) standing: Standing,
}

impl Cast {
    pub(super) fn place(
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
    pub(super) fn wake(&self, worker: usize) -> Wake {
        let thread = Arc::clone(&self.threads[worker]);
        Arc::new(move || {
            if let Some(thread) = thread.get() {
                thread.unpark();
            }
        })
    }

    pub(super) fn start(
        self,
        config: &PodConfig,
        graph: Arc<JobGraph>,
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
