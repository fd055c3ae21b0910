//! The stream operators: what happens to rows inside one worker.
//!
//! Owns calculation, windows and deduplication, and what operators with state have in common. An operator knows neither queues nor barriers'
//! alignment (`worker`), nor any connector.

pub mod calc;
pub mod deduplicate;
pub mod placing;
pub mod window;

use crate::key::ShardId;
use crate::state::Stores;
use crate::worker::CommitId;

/// How much an operator with state holds, and what it has done. Counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateSize {
    /// Entries in memory.
    pub entries: u64,
    /// About how many bytes they take.
    pub bytes: u64,
    /// Late rows dropped.
    pub late_dropped: u64,
    /// Rows whose entry was in memory, or new and known to be nowhere else.
    pub hits: u64,
    /// Entries that were looked up in a store.
    pub misses: u64,
    /// Entries that have left memory.
    pub evictions: u64,
}

/// An operator with state, as the worker sees it that divides memory among all.
pub(crate) trait Stateful {
    /// How much is held, and what was done.
    fn size(&self) -> StateSize;
    /// True if the stores do not have all changes yet.
    fn is_behind(&self) -> bool;
    /// The changes of all commits through `commit` are in the stores.
    fn on_applied(&mut self, commit: CommitId, stores: &Stores);
    /// These shards are another pod's: forgets what is in memory of them. Called at a barrier, when all changes are taken.
    fn leave(&mut self, shards: &[ShardId]);
    /// Takes entries out of memory until about `bytes` are free or none is left that the stores have.
    fn evict(&mut self, bytes: u64);
}
