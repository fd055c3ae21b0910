//! What snapshots need of an object store: a handful of calls, each with a deadline.
//!
//! Owns the contract. The forms are `directory` and `s3`. A store serves one job: it is given object ids and builds keys below that job's
//! prefix only, so no caller can name anything outside.

use std::path::{Path, PathBuf};

use checkpoint::snapshot::ObjectId;
use checkpoint::snapshot::retention::Listed;

/// Where the bytes of a new object come from.
#[derive(Clone, Copy, Debug)]
pub enum Body<'a> {
    /// Memory.
    Bytes(&'a [u8]),
    /// A local file that does not change.
    File(&'a Path),
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, and was not before.
    Written,
    /// There was an object of this name; it is unchanged. It may be ours: a reply can be lost, and the put be tried again.
    Exists,
}

/// Which objects to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Manifests of checkpoints.
    Checkpoints,
    /// Savepoints and their parts.
    Savepoints,
    /// Everything of the job.
    All,
}

impl Listing {
    /// What the keys begin with, below the job's prefix.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Checkpoints => "checkpoints/",
            Self::Savepoints => "savepoints/",
            Self::All => "",
        }
    }
}

/// The objects of one job. Every call ends within a deadline of the implementation's, its retries included; calls may come from several
/// threads.
pub trait ObjectStore: Send + Sync {
    /// Where it is, for messages.
    fn place(&self) -> String;
    /// The key of an object, for messages.
    fn key(&self, id: &ObjectId) -> String;
    /// Writes an object if there is none of this name. It is there as a whole or not at all.
    ///
    /// # Errors
    /// After an error the object may be there or not.
    fn put(&self, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError>;
    /// Reads an object from its beginning to its end, in parts.
    ///
    /// # Errors
    /// [`StoreError::Missing`] if there is none; also when `part` fails.
    fn get(&self, id: &ObjectId, part: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), StoreError>;
    /// The job's objects; keys that are none of ours are left out.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError>;
    /// Removes an object; one that is not there is no error.
    ///
    /// # Errors
    /// When the store cannot be written.
    fn delete(&self, id: &ObjectId) -> Result<(), StoreError>;
}

/// The object store failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is no such object.
    #[error("{place}: there is no object {key}")]
    Missing {
        /// The store.
        place: String,
        /// The key.
        key: String,
    },
    /// The store refuses: no right, no bucket, wrong key. Nothing but a change from outside helps.
    #[error("{place}: cannot {action}: {message}")]
    Refused {
        /// The store.
        place: String,
        /// What was tried.
        action: String,
        /// What it said and what to do.
        message: String,
    },
    /// The store does not answer, or not in time, or with an error of its own.
    #[error("{place}: cannot {action}: {message}")]
    Unavailable {
        /// The store.
        place: String,
        /// What was tried.
        action: String,
        /// What was seen.
        message: String,
    },
    /// This process is ending.
    #[error("stopped")]
    Stopped,
    /// A local file failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Local {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}
