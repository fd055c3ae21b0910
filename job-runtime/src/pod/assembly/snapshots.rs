//! Snapshots in the start of a pod: which store, what is restored before the databases are opened, and the thread that takes new ones.
//!
//! Owns that order. What a snapshot is, is in `crate::snapshot`.

use std::sync::Arc;

use checkpoint::snapshot::SavedOperator;
use dataflow::graph::Node;
use dataflow::placement::Spreads;
use tokio_util::sync::CancellationToken;

use super::kafka::FencedLog;
use super::{Log, Recovered, Seat};
use crate::commit::local::LocalCommitLog;
use crate::crash;
use crate::pod::monitor::Monitor;
use crate::pod::savepoint::SavepointStore;
use crate::pod::{PodConfig, PodError};
use crate::snapshot::origin::{self, Origin};
use crate::snapshot::place::{self, SnapshotConfig};
use crate::snapshot::retain::{GRACE, Keeper};
use crate::snapshot::start::{self, Restored, Sources};
use crate::snapshot::store::ObjectStore;
use crate::snapshot::take::{JobOf, Taker, Whole, remove_dir};
use crate::snapshot::thread::{SnapshotAsk, SnapshotStats, SnapshotWork, Snapshots, Tell, Trim};
use crate::state::directory::StateDirectory;
use crate::state::place::PlaceOfState;
use crate::state::rocks::{RocksDatabases, RocksShardStore};

/// The store of this job's snapshots.
pub(super) struct SnapshotStore {
    config: SnapshotConfig,
    store: Arc<dyn ObjectStore>,
    cancel: CancellationToken,
}

/// The uid of a job that has none of its own and has lost its state directory, from its snapshots.
pub(super) fn find_uid(config: &PodConfig) -> Result<Option<String>, PodError> {
    match &config.snapshots {
        Some(snapshots) if config.uid.is_none() && !config.fresh && !StateDirectory::is_taken(&config.state_dir) => {
            Ok(snapshots.place.find_uid(&config.name, &CancellationToken::new())?)
        }
        Some(_) | None => Ok(None),
    }
}

/// The savepoint that the job began from, or is to begin from.
pub(super) fn origin(config: &PodConfig, fenced: Option<&FencedLog>) -> Result<Option<Origin>, PodError> {
    let location = match fenced {
        Some(fenced) => fenced.origin(),
        None => config.restore_from.as_deref(),
    };
    let Some(location) = location else { return Ok(None) };
    let like = config.snapshots.as_ref().map(|snapshots| &snapshots.place);
    let origin = Origin::open(location, like, &CancellationToken::new())?;
    let has = |uid| config.planned.graph.nodes.iter().any(|node| node.kind.has_state() && node.uid == uid);
    if !config.allow_lost_state {
        origin.check_plan(has)?;
    }
    let spreads = Spreads::of(&config.planned.graph);
    for node in config.planned.graph.nodes.iter().filter(|node| node.kind.has_state()) {
        origin.check_place(node.uid, &PlaceOfState::of(&config.planned.graph, &spreads, node), config.shards)?;
    }
    Ok(Some(origin))
}

/// Makes the databases' directories right before they are opened.
pub(super) fn restore(
    snapshots: Option<&SnapshotStore>,
    origin: Option<&Origin>,
    seat: &Seat,
    directory: &StateDirectory,
    databases: &RocksDatabases,
    fenced: Option<&FencedLog>,
) -> Result<Restored, PodError> {
    let store = snapshots.map(|snapshots| snapshots.store.as_ref());
    if store.is_none() && origin.is_none() {
        return Ok(Restored::default());
    }
    let sources = Sources { store, origin, shards: seat.shards() };
    Ok(match fenced {
        Some(fenced) => {
            start::with_kafka(sources, directory.job_uid(), databases, &fenced.bounds(&seat.own_shards())?)?
        }
        None => start::with_local_log(sources, directory, databases)?,
    })
}

impl SnapshotStore {
    /// Opens the store, if the job has one. A job that starts anew forgets its snapshots.
    pub(super) fn open(config: &PodConfig, directory: &StateDirectory) -> Result<Option<Self>, PodError> {
        let Some(snapshots) = &config.snapshots else { return Ok(None) };
        let cancel = CancellationToken::new();
        let store = snapshots.place.open(&config.name, directory.job_uid(), &cancel)?;
        if config.fresh {
            place::forget(store.as_ref())?;
        }
        // What a process left there that ended in the middle of a snapshot.
        remove_dir(&directory.snapshots_dir())?;
        Ok(Some(Self { config: snapshots.clone(), store, cancel }))
    }

    /// Refuses an older copy of the state directory.
    pub(super) fn check_not_older(&self, directory: &StateDirectory, log: &LocalCommitLog) -> Result<(), PodError> {
        Ok(start::check_not_older(self.store.as_ref(), directory.job_uid(), log.handle().next_commit())?)
    }

    /// What a savepoint's coordinator works with, of the running thread.
    pub(super) fn for_savepoints(&self, config: &PodConfig, job_uid: &str, ask: SnapshotAsk) -> SavepointStore {
        let graph = &config.planned.graph;
        let spreads = Spreads::of(graph);
        let saved = |node: &Node| SavedOperator {
            uid: node.uid,
            name: node.name.clone(),
            place: PlaceOfState::of(graph, &spreads, node).words(),
        };
        let stateful = graph.nodes.iter().filter(|node| node.kind.has_state());
        let whole = Whole {
            job_uid: job_uid.to_owned(),
            job_name: config.name.clone(),
            shards: config.shards.count(),
            operators: stateful.map(saved).collect(),
        };
        let (place, name, uid) = (self.config.place.clone(), config.name.clone(), job_uid.to_owned());
        let location = Box::new(move |savepoint: &str| origin::location(&place, &name, &uid, savepoint));
        SavepointStore { ask, store: Arc::clone(&self.store), whole, location }
    }

    /// Starts the thread that takes snapshots.
    pub(super) fn start(
        &self,
        config: &PodConfig,
        directory: &StateDirectory,
        recovered: &Recovered,
        monitor: &Monitor,
        tell: Tell,
    ) -> Result<Snapshots, PodError> {
        let job = JobOf {
            uid: directory.job_uid().to_owned(),
            name: config.name.clone(),
            shards: config.shards.count(),
            pod: config.ordinal,
        };
        let (log, trim) = match &recovered.log {
            Log::Local(log) => (Some(log.handle()), None),
            Log::Kafka(kafka) => {
                let changelog = kafka.log.trim();
                let trim: Trim = Box::new(move |offsets| changelog.trim(offsets));
                (None, Some(trim))
            }
        };
        let shards = recovered.stores.iter().map(RocksShardStore::flush_handle).collect();
        let databases = Arc::clone(&recovered.databases);
        let taker = Taker::new(Arc::clone(&self.store), job, shards, databases, log, directory.snapshots_dir());
        let stats = Arc::new(SnapshotStats::new(recovered.restored.clone()));
        monitor.attach_snapshots(Arc::clone(&stats));
        let keeper = Keeper::new(self.config.retention, crash::grace(GRACE));
        let work = SnapshotWork { taker, keeper, trim, interval: self.config.interval, stats, tell };
        Snapshots::start(work, self.cancel.clone()).map_err(PodError::Thread)
    }
}
