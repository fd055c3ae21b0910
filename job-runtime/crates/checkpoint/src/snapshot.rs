//! Snapshots: where their objects lie, what is in them, which may go, and which one a start uses. All of it decided without I/O.
//!
//! Owns the keys (`key`), the manifests' layout (`manifest`), retention and trimming (`retention`), the choice at a start (`choice`), and savepoints (`savepoint`).
//! It does not read or write objects: `job-runtime::snapshot` does.
//!
//! # What a snapshot is
//! A shard's database at one place of its log: some files that never change, and a *shard manifest* that lists them with length and
//! checksum and says at which offset of the log they stand. A *checkpoint* is a manifest of shard manifests, written last and only if
//! there is none of its number yet: it exists as a whole or not at all. Whatever no checkpoint refers to is not there for a reader.
//!
//! Objects are never changed and never written twice: every name holds the process that wrote it and a counter. So a checkpoint that exists
//! cannot be damaged by a process that comes later or does not know that it has been replaced.

pub mod choice;
mod codec;
pub mod key;
pub mod manifest;
pub mod retention;
pub mod savepoint;

pub use key::{JobPrefix, KeyError, ObjectId, PartId};
pub use manifest::{CheckpointManifest, FileEntry, LogPart, ManifestError, Place, ShardEntry, ShardManifest};
pub use savepoint::{PartEntry, SavedOperator, SavepointManifest, SavepointPart, StoredPosition};

/// Checksum of a file or manifest: xxh3_128 (seed 0) of its bytes.
pub fn checksum(bytes: &[u8]) -> u128 {
    xxhash_rust::xxh3::xxh3_128(bytes)
}
