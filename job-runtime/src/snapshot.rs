//! Snapshots of a pod's state in an object store: taken while the job runs, restored when local state is lost, removed when old.
//!
//! A savepoint is a snapshot of the whole job at one moment, which somebody asked for (`take`, `origin`).
//!
//! Owns the I/O; keys, layouts and decisions are in `checkpoint::snapshot`. It knows neither workers nor commits: a snapshot is made from
//! the databases' own files while workers go on, and is right at whatever commit it happens to catch, because the log brings it up to date.
//!
//! # A snapshot, step by step
//! 1. Per shard that has changed since the last one: flush, then a copy by hard links (`state::rocks`). No worker waits for it.
//! 2. With the local commit log: the log's end, from the first commit that one of the copies lacks.
//! 3. Upload of what the last checkpoint does not have, several files at a time, then the shards' manifests.
//! 4. The checkpoint's manifest, with a conditional put: now the snapshot exists.
//! 5. Retention, then the trim of the changelog.
//!
//! A crash anywhere before 4 leaves objects that nothing refers to, which a later step 5 removes.

pub mod directory;
pub mod origin;
pub mod place;
pub mod remove;
pub mod restore;
pub mod retain;
pub mod s3;
pub mod start;
pub mod store;
pub mod take;
pub mod thread;
mod transfer;

#[cfg(test)]
mod tests;

use checkpoint::snapshot::{KeyError, ManifestError};
use dataflow::key::ShardId;
use dataflow::state::StateError;

use crate::commit::local::LocalLogError;
use store::StoreError;

/// A snapshot cannot be taken, read or removed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The object store said no, or nothing.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A name cannot be part of a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A shard's database cannot be copied or read.
    #[error(transparent)]
    State(#[from] StateError),
    /// The local commit log cannot be read or written.
    #[error(transparent)]
    Log(#[from] LocalLogError),
    /// A local file cannot be read or written.
    #[error("snapshots: cannot {action} {}: {source}; check the disk and its free space", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An object is not what its name or its manifest says.
    #[error("snapshot object {key}: {what}")]
    Damaged {
        /// The object's key.
        key: String,
        /// What is wrong.
        what: Damage,
    },
    /// A savepoint of this name is there already.
    #[error("savepoint {key} is there already; take another name")]
    SavepointExists {
        /// Its key.
        key: String,
    },
    /// What a job is to be restored from is no savepoint.
    #[error("{location:?} is no savepoint: {why}")]
    NoSavepoint {
        /// As the user wrote it.
        location: String,
        /// What is wrong and what to write.
        why: String,
    },
    /// What there is of a savepoint may be one that is being made.
    #[error(
        "{location}: the savepoint is not complete, and may be under way; it can be removed an hour after it was begun"
    )]
    SavepointUnderWay {
        /// As the user wrote it.
        location: String,
    },
    /// The plan of the job lacks stream operators whose state the savepoint has.
    #[error(
        "the savepoint {location} has state of {operators}, which the job's SQL does not have: it would be lost; write the query as it was, or allow it with --allow-lost-state"
    )]
    StateWouldBeLost {
        /// The savepoint.
        location: String,
        /// Names of the stream operators.
        operators: String,
    },
    /// The state of an operator lies elsewhere than the job's plan would look for it.
    #[error(
        "the savepoint {location} has the state of {operator} by {was}, and the job would look for it by {now}: its results would be wrong; write `DISTRIBUTED BY` and the query before {operator} as they were, or start anew without the savepoint"
    )]
    StateElsewhere {
        /// The savepoint.
        location: String,
        /// Name of the stream operator.
        operator: String,
        /// What places its state in the savepoint.
        was: String,
        /// What would place it in the job.
        now: String,
    },
    /// State by source partitions cannot be divided into other shards.
    #[error(
        "the savepoint {location} has the state of {operator} by source partitions, which cannot be divided into another number of shards: write spec.shards: {shards}"
    )]
    StateByPartition {
        /// The savepoint.
        location: String,
        /// Name of the stream operator.
        operator: String,
        /// Shards of the savepoint's job.
        shards: u16,
    },
    /// Another process of the job has written the checkpoint of this number.
    #[error("checkpoint {number} was written by another process of this job; this one goes on from there")]
    Overtaken {
        /// The number.
        number: u64,
    },
    /// The local state is an older copy than the newest snapshot.
    #[error(
        "the state directory stands before commit {local}, and the newest snapshot in {place} before commit {stored}: it is an older copy, and going on from it would repeat output; remove the directory to restore the snapshot, or name another --checkpoint-dir"
    )]
    OlderDirectory {
        /// Next commit of the local log.
        local: u64,
        /// Next commit of the snapshot.
        stored: u64,
        /// Where the snapshot is.
        place: String,
    },
    /// The state is gone from local disk, and no snapshot can replace it.
    #[error(
        "shard {}: there is no local state, the changelog begins at offset {low}, and none of the {tried} snapshots in {place} can be used ({last}); the state is lost: restore the objects, or start anew with another job uid", shard.0
    )]
    Lost {
        /// The shard.
        shard: ShardId,
        /// First offset of its changelog.
        low: i64,
        /// Where snapshots are.
        place: String,
        /// How many were tried.
        tried: usize,
        /// What was wrong with the last one.
        last: String,
    },
    /// There are snapshots, and none of them can be read.
    #[error(
        "none of the {tried} snapshots in {place} can be read ({last}); restore the objects, or start anew with --fresh"
    )]
    NoneReadable {
        /// Where they are.
        place: String,
        /// How many there are.
        tried: usize,
        /// What is wrong with the last one.
        last: String,
    },
    /// The snapshots are of a job with another number of shards.
    #[error("the snapshots in {place} were made with spec.shards {found}, the job says {wanted}; write {found} back")]
    Shards {
        /// Where they are.
        place: String,
        /// In the snapshot.
        found: u16,
        /// In the job.
        wanted: u16,
    },
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// A manifest names it, and it is not there.
    #[error("it is missing")]
    Missing,
    /// Too short or too long.
    #[error("it has {found} bytes instead of {expected}")]
    Length {
        /// By the manifest.
        expected: u64,
        /// As read.
        found: u64,
    },
    /// Other bytes.
    #[error("its checksum differs: it was changed, or is another object's")]
    Checksum,
    /// A manifest that cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

impl SnapshotError {
    /// True if another snapshot may do: this one is damaged or not whole. An object store that does not answer is not damage, and neither
    /// is a snapshot of a newer release: an older one in its place would throw away what that release has done.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { what: Damage::Manifest(ManifestError::Version(_)), .. } => false,
            Self::Damaged { .. } => true,
            Self::Store(_)
            | Self::Key(_)
            | Self::State(_)
            | Self::Log(_)
            | Self::Io { .. }
            | Self::Overtaken { .. }
            | Self::SavepointExists { .. }
            | Self::NoSavepoint { .. }
            | Self::SavepointUnderWay { .. }
            | Self::StateWouldBeLost { .. }
            | Self::StateElsewhere { .. }
            | Self::StateByPartition { .. }
            | Self::OlderDirectory { .. }
            | Self::Lost { .. }
            | Self::NoneReadable { .. }
            | Self::Shards { .. } => false,
        }
    }
}

/// Milliseconds since 1970-01-01T00:00:00Z.
fn now_ms() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64)
}
