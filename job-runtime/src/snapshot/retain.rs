//! Removing what is old: checkpoints by the job's retention, then objects that nothing refers to; and how far the changelog may be trimmed.
//!
//! Owns the order: the manifest first, then what it referred to, so that a crash leaves garbage and never a checkpoint with holes. The
//! decisions are `checkpoint::snapshot::retention`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use checkpoint::snapshot::retention::Listed;
use checkpoint::snapshot::retention::{self, Retention};
use checkpoint::snapshot::{CheckpointManifest, ObjectId, Place, SavepointPart, ShardEntry};
use dataflow::key::ShardId;
use dataflow::state::LogOffset;

use super::restore::Of;
use super::store::{Listing, ObjectStore};
use super::{SnapshotError, now_ms, restore, transfer};
use crate::crash::Step;
use crate::planted::{self, Bug};

/// An object that nothing refers to is left alone for this long: longer than a snapshot may take.
pub const GRACE: Duration = Duration::from_secs(3600);

/// Removes what is old of one job.
pub struct Keeper {
    /// How much to keep.
    pub retention: Retention,
    /// See [`GRACE`].
    pub grace: Duration,
    /// Manifests that were read: they never change.
    checkpoints: BTreeMap<ObjectId, CheckpointManifest>,
    savepoints: BTreeMap<ObjectId, SavepointPart>,
    /// Per shard manifest, the files that it names.
    files: BTreeMap<ObjectId, Vec<ObjectId>>,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Checkpoints that are there.
    pub checkpoints: u64,
    /// Objects that were removed, manifests of checkpoints included.
    pub removed: u64,
    /// Size of all objects of the job that are left.
    pub bytes: u64,
    /// Per shard, the last offset of the changelog that no snapshot needs.
    pub trimmable: BTreeMap<ShardId, LogOffset>,
}

impl Keeper {
    /// A keeper that has read nothing yet.
    pub fn new(retention: Retention, grace: Duration) -> Self {
        Self { retention, grace, checkpoints: BTreeMap::new(), savepoints: BTreeMap::new(), files: BTreeMap::new() }
    }

    /// Removes what may go.
    ///
    /// # Errors
    /// When the store fails, or when there is a checkpoint of a newer release: what it refers to is not known, so nothing is removed.
    pub fn run(&mut self, store: &dyn ObjectStore, job_uid: &str) -> Result<Kept, SnapshotError> {
        let (now, listed) = (now_ms(), store.list(Listing::All)?);
        let damaged = self.read(store, job_uid, listed.iter().map(|object| &object.id))?;
        let (unfinished, savepoints_clear) = self.read_savepoints(store, job_uid, &listed, now)?;
        let all: Vec<CheckpointManifest> = self.checkpoints.values().cloned().collect();
        let mut gone = retention::expired(&all, self.retention, now);
        let stays = |(id, one): (&ObjectId, &CheckpointManifest)| (!gone.contains(id)).then(|| one.clone());
        let kept: Vec<CheckpointManifest> = self.checkpoints.iter().filter_map(stays).collect();
        let (behind, unclear): (Vec<_>, Vec<_>) = damaged.into_iter().partition(|id| is_behind(id, &kept));
        gone.extend(behind);
        gone.extend(unfinished);
        let referenced = self.referenced(store, &kept)?;
        // What a manifest refers to that stays and cannot be read is not known: then no object is garbage.
        let garbage = match referenced {
            Some(referenced) if unclear.is_empty() && savepoints_clear => {
                retention::garbage(&listed, &referenced, self.grace.as_millis() as u64)
            }
            Some(_) | None => Vec::new(),
        };
        let remove_garbage = || transfer::each(&garbage, |id| Ok(transfer::delete(store, Step::Garbage, id)?));
        if planted::is(Bug::GarbageFirst) {
            remove_garbage()?;
        }
        for id in &gone {
            transfer::delete(store, Step::Retire, id)?;
            self.checkpoints.remove(id);
        }
        remove_garbage()?;
        let removed: BTreeSet<&ObjectId> = gone.iter().chain(&garbage).collect();
        let left = listed.iter().filter(|object| !removed.contains(&object.id));
        Ok(Kept {
            checkpoints: kept.len() as u64,
            removed: removed.len() as u64,
            bytes: left.map(|object| object.length).sum(),
            trimmable: planted::further(retention::trimmable(&kept)),
        })
    }

    /// Reads the manifests that are new, forgets those that are gone, and returns those that cannot be read.
    fn read<'a>(
        &mut self,
        store: &dyn ObjectStore,
        job_uid: &str,
        listed: impl Iterator<Item = &'a ObjectId>,
    ) -> Result<Vec<ObjectId>, SnapshotError> {
        let manifest = |id: &&ObjectId| matches!(id, ObjectId::Checkpoint { .. });
        let there: BTreeSet<&ObjectId> = listed.filter(manifest).collect();
        self.checkpoints.retain(|id, _| there.contains(id));
        let new: Vec<&ObjectId> = there.into_iter().filter(|id| !self.checkpoints.contains_key(id)).collect();
        let mut damaged = Vec::new();
        let read = transfer::each(&new, |id| match restore::checkpoint(store, job_uid, id) {
            // Also one of a newer release.
            Err(error) if !error.is_damage() => Err(error),
            other => Ok(other),
        })?;
        for (id, result) in new.into_iter().zip(read) {
            match result {
                Ok(manifest) => {
                    self.checkpoints.insert(id.clone(), manifest);
                }
                Err(error) => {
                    tracing::warn!(%error, "a snapshot cannot be read");
                    damaged.push(id.clone());
                }
            }
        }
        Ok(damaged)
    }

    /// Reads the parts of savepoints that are new. Returns parts that never became a savepoint and may go, and whether all others could be read.
    fn read_savepoints(
        &mut self,
        store: &dyn ObjectStore,
        job_uid: &str,
        listed: &[Listed],
        now: u64,
    ) -> Result<(Vec<ObjectId>, bool), SnapshotError> {
        let there: BTreeSet<&ObjectId> = listed.iter().map(|object| &object.id).collect();
        let is_whole = |id: &ObjectId| match id {
            ObjectId::Savepoint { name, .. } => there.contains(&ObjectId::SavepointRoot { name: name.clone() }),
            _ => false,
        };
        // A part changes until its savepoint is whole: another attempt replaces it.
        self.savepoints.retain(|id, _| there.contains(id) && is_whole(id));
        let (mut unfinished, mut clear) = (Vec::new(), true);
        for object in listed.iter().filter(|object| matches!(object.id, ObjectId::Savepoint { .. })) {
            if !is_whole(&object.id) && now.saturating_sub(object.modified_ms) > self.grace.as_millis() as u64 {
                unfinished.push(object.id.clone());
                self.savepoints.remove(&object.id);
            } else if !self.savepoints.contains_key(&object.id) {
                match restore::part(store, job_uid, &object.id) {
                    Ok(part) => {
                        self.savepoints.insert(object.id.clone(), part);
                    }
                    Err(error) if error.is_damage() => {
                        tracing::warn!(%error, "a savepoint cannot be read");
                        clear = false;
                    }
                    // Also one of a newer release.
                    Err(error) => return Err(error),
                }
            }
        }
        Ok((unfinished, clear))
    }

    /// Everything that what is kept refers to, savepoints included; `None` if a manifest among it cannot be read.
    fn referenced(
        &mut self,
        store: &dyn ObjectStore,
        kept: &[CheckpointManifest],
    ) -> Result<Option<BTreeSet<ObjectId>>, SnapshotError> {
        let mut out: BTreeSet<ObjectId> = kept.iter().flat_map(retention::references).cloned().collect();
        out.extend(self.savepoints.values().flat_map(|part| &part.entries).map(|entry| entry.manifest.clone()));
        self.files.retain(|id, _| out.contains(id));
        let mut wanted = BTreeMap::new();
        let of_kept = kept.iter().flat_map(|one| one.entries.iter().map(move |entry| (Of::from(one), entry)));
        let of_savepoints =
            self.savepoints.values().flat_map(|part| part.entries.iter().map(move |entry| (Of::from(part), entry)));
        for (of, entry) in of_kept.chain(of_savepoints) {
            if !self.files.contains_key(&entry.manifest) {
                wanted.insert(&entry.manifest, (of, entry));
            }
        }
        let wanted: Vec<(Of<'_>, &ShardEntry)> = wanted.into_values().collect();
        let read = transfer::each(&wanted, |(of, entry)| match restore::shard(store, *of, entry) {
            Ok(shard) => Ok(Some(files_of(&shard))),
            Err(error) if error.is_damage() => {
                tracing::warn!(%error, "a snapshot cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        })?;
        let all = read.iter().all(Option::is_some);
        for ((_, entry), files) in wanted.into_iter().zip(read) {
            if let Some(files) = files {
                self.files.insert(entry.manifest.clone(), files);
            }
        }
        out.extend(self.files.values().flatten().cloned());
        Ok(all.then_some(out))
    }
}

fn files_of(shard: &checkpoint::snapshot::ShardManifest) -> Vec<ObjectId> {
    let object = |place: &Place| match place {
        Place::Inline(_) => None,
        Place::Object(id) => Some(id.clone()),
    };
    shard.files.iter().filter_map(|file| object(&file.place)).collect()
}

/// A checkpoint that cannot be read goes when everything that is kept of its pod is newer.
fn is_behind(id: &ObjectId, kept: &[CheckpointManifest]) -> bool {
    let ObjectId::Checkpoint { pod, number } = id else { return false };
    let mut of_pod = kept.iter().filter(|one| one.pod == *pod).peekable();
    of_pod.peek().is_some() && of_pod.all(|one| one.number > *number)
}
