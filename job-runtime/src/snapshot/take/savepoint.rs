//! A pod's part of a savepoint: the copy, while nothing moves; the upload, while the job goes on; and the savepoint's manifest, by one of the pods.
//!
//! Owns these calls. When they are made is `pod::savepoint`'s. A savepoint is a checkpoint too, so that the next one uploads only what is new.

use std::time::Duration;

use checkpoint::snapshot::{
    ObjectId, PartEntry, SavedOperator, SavepointManifest, SavepointPart, StoredPosition, checksum,
};

use super::{Base, Copies, Taker, remove_dir};
use crate::crash::Step;
use crate::snapshot::store::{Body, ObjectStore, Put};
use crate::snapshot::{SnapshotError, now_ms, restore, transfer};

/// What a savepoint is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavepointOf {
    /// Its name.
    pub name: String,
    /// The attempt.
    pub cut: u128,
    /// Where the pod's source partitions stand.
    pub positions: Vec<StoredPosition>,
}

/// A copy that is not stored yet.
pub struct CopiedSavepoint {
    of: SavepointOf,
    base: Base,
    /// `None` if the last checkpoint holds all of it already.
    copies: Option<Copies>,
    /// How long the copies by hard links took.
    pub copying: Duration,
}

/// A pod's part that is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSavepoint {
    /// Size of what it holds.
    pub bytes: u64,
    /// Bytes uploaded for it.
    pub uploaded: u64,
}

impl Taker {
    /// Copies the pod's shards as they are now.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn copy_for_savepoint(&mut self, of: SavepointOf) -> Result<CopiedSavepoint, SnapshotError> {
        self.forget_left();
        let base = match self.base.take() {
            Some(base) => base,
            None => self.last()?,
        };
        let copies = if self.unchanged(&base) { None } else { Some(self.copies(&base)?) };
        let copying = copies.as_ref().map_or(Duration::ZERO, |copies| copies.copying);
        Ok(CopiedSavepoint { of, base, copies, copying })
    }

    /// Reads the pod's last checkpoint, if that was not done, so that a copy need not wait for it.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn prepare_savepoint(&mut self) -> Result<(), SnapshotError> {
        if self.base.is_none() {
            self.base = Some(self.last()?);
        }
        Ok(())
    }

    /// Uploads a copy and writes the pod's part of the savepoint.
    ///
    /// # Errors
    /// See [`SnapshotError`].
    pub fn store_savepoint(&mut self, copied: CopiedSavepoint) -> Result<StoredSavepoint, SnapshotError> {
        let CopiedSavepoint { of, base, copies, .. } = copied;
        let (base, mut uploaded) = match copies {
            None => (base, 0),
            Some(copies) => {
                let stored = self.store_copies(&base, &copies);
                let removed = remove_dir(&copies.dir);
                let (taken, files) = stored?;
                removed?;
                (Base::of(&taken.manifest, files), taken.uploaded)
            }
        };
        let part = SavepointPart {
            job_uid: self.job.uid.clone(),
            job_name: self.job.name.clone(),
            name: of.name,
            cut: of.cut,
            pod: self.job.pod,
            created_ms: now_ms(),
            shards: self.job.shards,
            entries: base.entries.values().cloned().collect(),
            positions: of.positions,
        };
        self.base = Some(base);
        let bytes = part.encode();
        replace(self.store.as_ref(), &part.id(), &bytes)?;
        uploaded += bytes.len() as u64;
        Ok(StoredSavepoint { bytes: part.bytes(), uploaded })
    }
}

/// Writes a part, in the place of one of an attempt that failed.
fn replace(store: &dyn ObjectStore, id: &ObjectId, bytes: &[u8]) -> Result<(), SnapshotError> {
    match transfer::put(store, Step::SavepointPart, id, Body::Bytes(bytes))? {
        Put::Written => return Ok(()),
        Put::Exists if transfer::read(store, id)? == bytes => return Ok(()),
        Put::Exists => {}
    }
    store.delete(id)?;
    transfer::put(store, Step::SavepointPart, id, Body::Bytes(bytes))?;
    Ok(())
}

/// What the savepoint's manifest says beside its parts.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Uid of the job.
    pub job_uid: String,
    /// Its name.
    pub job_name: String,
    /// Number of shards.
    pub shards: u16,
    /// Stream operators with state.
    pub operators: Vec<SavedOperator>,
}

/// Makes a savepoint of the parts of these pods: it exists when this returns.
///
/// # Errors
/// When a part is not there, is of another attempt, or the parts do not have every shard once; when the savepoint exists already; or when the
/// store fails.
pub fn complete(
    store: &dyn ObjectStore,
    whole: &Whole,
    name: &str,
    cut: u128,
    pods: &[u16],
) -> Result<(), SnapshotError> {
    let mut parts = Vec::with_capacity(pods.len());
    for pod in pods {
        parts.push(restore::part(store, &whole.job_uid, &ObjectId::Savepoint { name: name.to_owned(), pod: *pod })?);
    }
    let entry = |part: &SavepointPart| {
        let bytes = part.encode();
        PartEntry { pod: part.pod, length: bytes.len() as u64, checksum: checksum(&bytes) }
    };
    let Whole { job_uid, job_name, shards, operators } = whole.clone();
    let root = SavepointManifest {
        job_uid,
        job_name,
        name: name.to_owned(),
        cut,
        created_ms: now_ms(),
        shards,
        parts: parts.iter().map(entry).collect(),
        operators,
    };
    let id = root.id();
    root.check_parts(&parts).map_err(|error| restore::damaged(store, &id, error))?;
    let put = transfer::put(store, Step::Savepoint, &id, Body::Bytes(&root.encode()));
    match put {
        Ok(Put::Written) => Ok(()),
        // Perhaps it is ours, and a reply was lost.
        Ok(Put::Exists) | Err(_) => match restore::savepoint(store, &whole.job_uid, name)? {
            Some((found, _)) if found.cut == cut => Ok(()),
            Some(_) => Err(SnapshotError::SavepointExists { key: store.key(&id) }),
            None => put.map(|_| ()).map_err(SnapshotError::from),
        },
    }
}
