//! Snapshots at the start of a pod: local state if it is the right one, else the newest snapshot that can be read.
//!
//! Owns how a shard's directory is replaced, so that a crash in the middle leaves either the old state, none, or the new one. What fits is
//! decided in `checkpoint::snapshot::choice`.
//!
//! With the log in Kafka each shard is looked at by itself: any snapshot that the changelog can bring up to date is right. With the local
//! log a lost state directory is restored as a whole, shards and end of the log, from one checkpoint.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;

use checkpoint::snapshot::choice::{self, LocalShard, LogBounds};
use checkpoint::snapshot::{CheckpointManifest, LogPart, ObjectId};
use dataflow::key::{ShardId, Shards};
use dataflow::state::LogOffset;

use super::origin::Origin;
use super::store::{Listing, ObjectStore};
use super::take::{io, remove_dir};
use super::{SnapshotError, restore, transfer};
use crate::commit::local;
use crate::crash::{self, Step};
use crate::planted::{self, Bug};
use crate::state::directory::StateDirectory;
use crate::state::rocks::RocksDatabases;

/// Before the first commit of a local log, and before the first record of a partition of the changelog.
const BEFORE_LOCAL: LogOffset = LogOffset(0);
const BEFORE_KAFKA: LogOffset = LogOffset(-1);

/// What a start took from snapshots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Shards restored, with the checkpoint that each came from.
    pub shards: BTreeMap<ShardId, u64>,
    /// Shards that have begun from a savepoint.
    pub from_savepoint: BTreeSet<ShardId>,
    /// Bytes of the files of both.
    pub bytes: u64,
    /// Snapshots that were passed over because they are damaged.
    pub damaged: u64,
}

impl Restored {
    /// The newest checkpoint that was used.
    pub fn newest(&self) -> Option<u64> {
        self.shards.values().copied().max()
    }
}

/// What a start may take state from.
#[derive(Clone, Copy)]
pub struct Sources<'a> {
    /// The job's own snapshots, if it takes any.
    pub store: Option<&'a dyn ObjectStore>,
    /// The savepoint that the job began from: what its log's beginning is behind.
    pub origin: Option<&'a Origin>,
    /// The job's shards.
    pub shards: Shards,
}

/// Makes the shards' directories right for a job whose changelog is in Kafka and holds these records. Nobody has the databases open.
///
/// # Errors
/// When a shard's state is lost, or the store or the disk fails.
pub fn with_kafka(
    sources: Sources<'_>,
    job_uid: &str,
    databases: &RocksDatabases,
    bounds: &[(ShardId, LogBounds)],
) -> Result<Restored, SnapshotError> {
    let mut local = BTreeMap::new();
    for (shard, _) in bounds {
        local.insert(*shard, local_shard(databases, *shard));
    }
    let any = |shard: &ShardId| planted::is(Bug::LocalUnchecked) && local[shard] != LocalShard::Missing;
    let wants = |(shard, log): &&(ShardId, LogBounds)| !any(shard) && !choice::start(local[shard], *log, &[]).local;
    let wanting: Vec<&(ShardId, LogBounds)> = bounds.iter().filter(wants).collect();
    if wanting.is_empty() {
        return Ok(Restored::default());
    }
    let (checkpoints, bad) = match sources.store {
        Some(store) => restore::checkpoints(store, job_uid)?,
        None => (Vec::new(), Vec::new()),
    };
    bad.iter().for_each(|error| tracing::warn!(%error, "a snapshot is passed over"));
    let mut out = Restored { damaged: bad.len() as u64, ..Restored::default() };
    for (shard, log) in wanting {
        one_shard(sources, databases, (*shard, local[shard], *log), &checkpoints, &mut out)?;
    }
    Ok(out)
}

/// A database that cannot be read is as good as none.
fn local_shard(databases: &RocksDatabases, shard: ShardId) -> LocalShard {
    match databases.copied(shard, &databases.path(shard)) {
        Ok(None) => LocalShard::Missing,
        Ok(Some(applied)) => LocalShard::At(applied),
        Err(error) => {
            tracing::warn!(%error, "the local database cannot be used; looking for a snapshot");
            LocalShard::Missing
        }
    }
}

fn one_shard(
    sources: Sources<'_>,
    databases: &RocksDatabases,
    (shard, local, log): (ShardId, LocalShard, LogBounds),
    checkpoints: &[CheckpointManifest],
    out: &mut Restored,
) -> Result<(), SnapshotError> {
    let mut of_shard: Vec<_> =
        checkpoints.iter().filter_map(|manifest| Some((manifest, manifest.entry(shard)?))).collect();
    of_shard.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.offset));
    let offsets: Vec<Option<LogOffset>> = of_shard.iter().map(|(_, entry)| entry.offset).collect();
    let choice = choice::start(local, log, &offsets);
    let mut last = "none of them reaches the changelog".to_owned();
    for index in &choice.snapshots {
        let (manifest, entry) = of_shard[*index];
        let store = sources.store.expect("where there are checkpoints there is a store");
        let read = restore::shard(store, manifest, entry).and_then(|files| {
            replace(store, &files, &databases.path(shard))?;
            Ok(files.bytes())
        });
        match read {
            Ok(bytes) => {
                tracing::info!(shard = shard.0, checkpoint = manifest.number, bytes, "restored from a snapshot");
                out.shards.insert(shard, manifest.number);
                out.bytes += bytes;
                return Ok(());
            }
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, shard = shard.0, checkpoint = manifest.number, "a snapshot is passed over");
                out.damaged += 1;
                last = error.to_string();
            }
            Err(error) => return Err(error),
        }
    }
    match (choice.empty, sources.origin) {
        // The whole changelog is there: begin with what was there before it.
        (true, Some(origin)) => {
            out.bytes += origin.import(databases, sources.shards, shard, BEFORE_KAFKA)?;
            out.from_savepoint.insert(shard);
            Ok(())
        }
        (true, None) => remove_dir(&databases.path(shard)),
        (false, _) => {
            let place = sources.store.map_or_else(|| "no place for snapshots".to_owned(), ObjectStore::place);
            Err(SnapshotError::Lost { shard, low: log.low, place, tried: of_shard.len(), last })
        }
    }
}

/// Downloads beside the old directory and changes places at the end.
fn replace(
    store: &dyn ObjectStore,
    files: &checkpoint::snapshot::ShardManifest,
    path: &Path,
) -> Result<(), SnapshotError> {
    let new = path.with_extension("restore");
    crash::around(Step::Download, || restore::files(store, files, &new))?;
    remove_dir(path)?;
    crash::around(Step::Place, || fs::rename(&new, path)).map_err(io("rename", &new))?;
    let parent = path.parent().expect("a shard's directory lies in the state directory");
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io("sync", parent))
}

/// Restores a lost state directory of a job with a local log, or makes that of a job that begins from a savepoint. Does nothing if the directory
/// has state.
///
/// # Errors
/// When there are snapshots and none can be used, or the store or the disk fails.
pub fn with_local_log(
    sources: Sources<'_>,
    directory: &StateDirectory,
    databases: &RocksDatabases,
) -> Result<Restored, SnapshotError> {
    let marker = directory.restoring_file();
    if marker.exists() {
        // An earlier start ended in the middle of this: what lies there is a part.
        empty(directory)?;
    } else if has_files(&directory.log_dir())? {
        return Ok(Restored::default());
    }
    let (checkpoints, bad) = match sources.store {
        Some(store) => restore::checkpoints(store, directory.job_uid())?,
        None => (Vec::new(), Vec::new()),
    };
    fs::write(&marker, "").map_err(io("write", &marker))?;
    let restored = match (sources.store, sources.origin) {
        (Some(store), _) if !checkpoints.is_empty() || !bad.is_empty() => {
            newest_whole(store, directory, databases, sources.shards, checkpoints, bad)?
        }
        (_, Some(origin)) => begin_from(origin, databases, sources.shards)?,
        (_, None) => Restored::default(),
    };
    fs::remove_file(&marker).map_err(io("remove", &marker))?;
    Ok(restored)
}

fn begin_from(origin: &Origin, databases: &RocksDatabases, shards: Shards) -> Result<Restored, SnapshotError> {
    let mut out = Restored::default();
    for shard in shards.all() {
        out.bytes += origin.import(databases, shards, shard, BEFORE_LOCAL)?;
        out.from_savepoint.insert(shard);
    }
    Ok(out)
}

/// Restores the newest checkpoint that can be read.
fn newest_whole(
    store: &dyn ObjectStore,
    directory: &StateDirectory,
    databases: &RocksDatabases,
    shards: Shards,
    checkpoints: Vec<CheckpointManifest>,
    bad: Vec<SnapshotError>,
) -> Result<Restored, SnapshotError> {
    let mut out = Restored { damaged: bad.len() as u64, ..Restored::default() };
    let mut last = bad.last().map_or_else(String::new, ToString::to_string);
    bad.iter().for_each(|error| tracing::warn!(%error, "a snapshot is passed over"));
    let tried = checkpoints.len() + bad.len();
    for manifest in checkpoints {
        check_shards(store, &manifest, shards)?;
        match whole(store, directory, databases, &manifest) {
            Ok(bytes) => {
                let entries = manifest.entries.iter().map(|entry| (entry.shard, manifest.number));
                (out.shards, out.bytes) = (entries.collect(), bytes);
                abandon(store, &manifest)?;
                return Ok(out);
            }
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, checkpoint = manifest.number, "a snapshot is passed over");
                out.damaged += 1;
                last = error.to_string();
                empty(directory)?;
            }
            Err(error) => return Err(error),
        }
    }
    Err(SnapshotError::NoneReadable { place: store.place(), tried, last })
}

/// Forgets the damaged checkpoints behind the one that was restored: the job makes those commits again, differently perhaps, and they would
/// make its directory look like an older copy.
fn abandon(store: &dyn ObjectStore, restored: &CheckpointManifest) -> Result<(), SnapshotError> {
    for object in store.list(Listing::Checkpoints)? {
        match object.id {
            ObjectId::Checkpoint { pod, number } if pod == restored.pod && number > restored.number => {
                store.delete(&object.id)?;
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_shards(store: &dyn ObjectStore, manifest: &CheckpointManifest, shards: Shards) -> Result<(), SnapshotError> {
    if manifest.shards == shards.count() {
        return Ok(());
    }
    Err(SnapshotError::Shards { place: store.place(), found: manifest.shards, wanted: shards.count() })
}

/// All shards and the log of one checkpoint.
fn whole(
    store: &dyn ObjectStore,
    directory: &StateDirectory,
    databases: &RocksDatabases,
    manifest: &CheckpointManifest,
) -> Result<u64, SnapshotError> {
    let log = restore::log(store, manifest)?;
    let shards = transfer::each(&manifest.entries, |entry| restore::shard(store, manifest, entry))?;
    let mut bytes = 0;
    for shard in &shards {
        replace(store, shard, &databases.path(shard.shard))?;
        bytes += shard.bytes();
    }
    if let Some((next, log)) = log {
        local::restore(&directory.log_dir(), directory.job_uid(), &log)?;
        tracing::info!(checkpoint = manifest.number, commit = next - 1, bytes, "restored from a snapshot");
    }
    Ok(bytes)
}

fn empty(directory: &StateDirectory) -> Result<(), SnapshotError> {
    for path in [directory.log_dir(), directory.shards_dir()] {
        remove_dir(&path)?;
        fs::create_dir_all(&path).map_err(io("create", &path))?;
    }
    Ok(())
}

fn has_files(path: &Path) -> Result<bool, SnapshotError> {
    Ok(fs::read_dir(path).map_err(io("list", path))?.next().is_some())
}

/// Refuses local state that stands before the newest snapshot: an older copy of the directory, from which the job would repeat output. A
/// store that does not answer does not keep a job with local state from starting; its first snapshot looks again.
///
/// # Errors
/// [`SnapshotError::OlderDirectory`], or a snapshot of a newer release.
pub fn check_not_older(store: &dyn ObjectStore, job_uid: &str, next: u64) -> Result<(), SnapshotError> {
    let checkpoints = match restore::checkpoints(store, job_uid) {
        Ok((checkpoints, _)) => checkpoints,
        Err(SnapshotError::Store(error)) => {
            tracing::warn!(%error, "the snapshots cannot be seen; going on from the local state");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let stored = |manifest: &CheckpointManifest| match manifest.log {
        LogPart::Kafka => None,
        LogPart::Local { next, .. } => Some(next),
    };
    match checkpoints.iter().filter_map(stored).max() {
        Some(stored) if stored > next => {
            Err(SnapshotError::OlderDirectory { local: next, stored, place: store.place() })
        }
        Some(_) | None => Ok(()),
    }
}
