//! Reading snapshots: manifests with every check, and a shard's files onto local disk.
//!
//! Owns what counts as damage. Which snapshot to read is decided in `checkpoint::snapshot::choice` and done in `start`.

use std::fs::{self, File};
use std::path::Path;

use checkpoint::snapshot::{
    CheckpointManifest, FileEntry, LogPart, ManifestError, ObjectId, Place, SavepointManifest, SavepointPart,
    ShardEntry, ShardManifest,
};

use super::store::{Listing, ObjectStore};
use super::take::{io, remove_dir};
use super::{Damage, SnapshotError, transfer};

/// Numbers of the checkpoints of a pod, rising.
///
/// # Errors
/// When the store cannot be read.
pub fn numbers(store: &dyn ObjectStore, pod: u16) -> Result<Vec<u64>, SnapshotError> {
    let number = |id| match id {
        ObjectId::Checkpoint { pod: of, number } if of == pod => Some(number),
        _ => None,
    };
    let mut out: Vec<u64> =
        store.list(Listing::Checkpoints)?.into_iter().filter_map(|object| number(object.id)).collect();
    out.sort_unstable();
    Ok(out)
}

/// A checkpoint's manifest, checked to be this job's and to stand in its place.
///
/// # Errors
/// [`SnapshotError::Damaged`] if it is not what it should be; else what the store said.
pub fn checkpoint(store: &dyn ObjectStore, job_uid: &str, id: &ObjectId) -> Result<CheckpointManifest, SnapshotError> {
    let bytes = transfer::read(store, id)?;
    let checked = CheckpointManifest::decode(&bytes).and_then(|manifest| {
        manifest.check(job_uid, id)?;
        Ok(manifest)
    });
    checked.map_err(|error| damaged(store, id, error))
}

/// The job that a shard's manifest must be of.
#[derive(Clone, Copy, Debug)]
pub struct Of<'a> {
    job_uid: &'a str,
    shards: u16,
}

impl<'a> From<&'a CheckpointManifest> for Of<'a> {
    fn from(manifest: &'a CheckpointManifest) -> Self {
        Self { job_uid: &manifest.job_uid, shards: manifest.shards }
    }
}

impl<'a> From<&'a SavepointPart> for Of<'a> {
    fn from(part: &'a SavepointPart) -> Self {
        Self { job_uid: &part.job_uid, shards: part.shards }
    }
}

/// A shard's manifest, checked to be the one that the checkpoint or savepoint means.
///
/// # Errors
/// See [`checkpoint`].
pub fn shard<'a>(
    store: &dyn ObjectStore,
    of: impl Into<Of<'a>>,
    entry: &ShardEntry,
) -> Result<ShardManifest, SnapshotError> {
    let Of { job_uid, shards } = of.into();
    let bytes = transfer::read_checked(store, &entry.manifest, entry.length, entry.checksum)?;
    let checked = ShardManifest::decode(&bytes).and_then(|manifest| {
        manifest.check(job_uid, shards, entry)?;
        Ok(manifest)
    });
    checked.map_err(|error| damaged(store, &entry.manifest, error))
}

pub(super) fn damaged(store: &dyn ObjectStore, id: &ObjectId, error: ManifestError) -> SnapshotError {
    SnapshotError::Damaged { key: store.key(id), what: Damage::Manifest(error) }
}

/// One pod's part of a savepoint, checked to be this job's and to stand in its place.
///
/// # Errors
/// See [`checkpoint`].
pub fn part(store: &dyn ObjectStore, job_uid: &str, id: &ObjectId) -> Result<SavepointPart, SnapshotError> {
    let bytes = transfer::read(store, id)?;
    decode_part(store, job_uid, id, &bytes)
}

fn decode_part(
    store: &dyn ObjectStore,
    job_uid: &str,
    id: &ObjectId,
    bytes: &[u8],
) -> Result<SavepointPart, SnapshotError> {
    let part = SavepointPart::decode(bytes).map_err(|error| damaged(store, id, error))?;
    if part.job_uid == job_uid && part.id() == *id {
        return Ok(part);
    }
    let what = format!("part {} of savepoint {} of job {}", part.pod, part.name, part.job_uid);
    Err(damaged(store, id, ManifestError::Foreign(what)))
}

/// A whole savepoint: its manifest and all its parts, checked to belong together. `None` if there is none of this name.
///
/// # Errors
/// See [`checkpoint`].
pub fn savepoint(
    store: &dyn ObjectStore,
    job_uid: &str,
    name: &str,
) -> Result<Option<(SavepointManifest, Vec<SavepointPart>)>, SnapshotError> {
    let id = ObjectId::SavepointRoot { name: name.to_owned() };
    let bytes = match transfer::read(store, &id) {
        Err(SnapshotError::Damaged { what: Damage::Missing, .. }) => return Ok(None),
        other => other?,
    };
    let root = SavepointManifest::decode(&bytes).and_then(|root| {
        root.check(job_uid, name)?;
        Ok(root)
    });
    let root = root.map_err(|error| damaged(store, &id, error))?;
    let parts = transfer::each(&root.parts, |entry| {
        let id = root.part(entry);
        let bytes = transfer::read_checked(store, &id, entry.length, entry.checksum)?;
        decode_part(store, job_uid, &id, &bytes)
    })?;
    root.check_parts(&parts).map_err(|error| damaged(store, &id, error))?;
    Ok(Some((root, parts)))
}

/// All checkpoints of a job that can be read, the newest first, and what is wrong with those that cannot.
///
/// # Errors
/// When the store cannot be read.
pub fn checkpoints(
    store: &dyn ObjectStore,
    job_uid: &str,
) -> Result<(Vec<CheckpointManifest>, Vec<SnapshotError>), SnapshotError> {
    let ids: Vec<ObjectId> = store.list(Listing::Checkpoints)?.into_iter().map(|object| object.id).collect();
    let read = transfer::each(&ids, |id| match checkpoint(store, job_uid, id) {
        Err(error) if !error.is_damage() => Err(error),
        other => Ok(other),
    })?;
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for result in read {
        match result {
            Ok(manifest) => good.push(manifest),
            // Removed by retention since the list was read.
            Err(SnapshotError::Damaged { what: Damage::Missing, .. }) => {}
            Err(error) => bad.push(error),
        }
    }
    good.sort_by_key(|manifest| std::cmp::Reverse((manifest.number, manifest.pod)));
    Ok((good, bad))
}

/// Puts the files of a shard into a new directory, several at a time, each checked and durable.
///
/// # Errors
/// See [`checkpoint`]; the directory is to be thrown away then.
pub fn files(store: &dyn ObjectStore, manifest: &ShardManifest, into: &Path) -> Result<(), SnapshotError> {
    remove_dir(into)?;
    fs::create_dir_all(into).map_err(io("create", into))?;
    transfer::each(&manifest.files, |file| place(store, file, &into.join(&file.name)))?;
    File::open(into).and_then(|dir| dir.sync_all()).map_err(io("sync", into))
}

fn place(store: &dyn ObjectStore, file: &FileEntry, path: &Path) -> Result<(), SnapshotError> {
    match &file.place {
        Place::Inline(bytes) => {
            fs::write(path, bytes).map_err(io("write", path))?;
            File::open(path).and_then(|file| file.sync_all()).map_err(io("sync", path))
        }
        Place::Object(id) => transfer::download(store, id, path, file.length, file.checksum),
    }
}

/// The end of the local log that a checkpoint brings, with the commit that comes next; `None` if its log is in Kafka.
///
/// # Errors
/// See [`checkpoint`].
pub fn log(store: &dyn ObjectStore, manifest: &CheckpointManifest) -> Result<Option<(u64, Vec<u8>)>, SnapshotError> {
    match &manifest.log {
        LogPart::Kafka => Ok(None),
        LogPart::Local { next, length, checksum, object } => {
            Ok(Some((*next, transfer::read_checked(store, object, *length, *checksum)?)))
        }
    }
}
