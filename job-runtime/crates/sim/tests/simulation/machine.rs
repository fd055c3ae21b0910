//! Local disks: what a killed process leaves, and disks that are lost, are an older copy or another machine's, are slow, lose what they said was
//! durable, or take no more writes.
//!
//! Owns the stores of one process. As with RocksDB without a log of its own, a kill leaves what was flushed last.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use dataflow::key::ShardId;
use dataflow::state::{ChangeBatch, LogOffset, ShardStore, StateError};
use dataflow::testing::{Disk, MemoryStore};

/// The shards' databases of one machine. Clones are the same.
#[derive(Clone)]
pub(crate) struct Disks {
    /// As the process sees them.
    pub(crate) now: Vec<Disk>,
    /// What a kill leaves.
    flushed: Vec<Disk>,
    /// A copy that somebody made a while ago.
    backup: Vec<Disk>,
    /// The next write fails, as when the disk is full.
    broken: Arc<AtomicBool>,
    /// The next flush says that it is done, and is not.
    lies: Arc<AtomicBool>,
    /// So many milliseconds that each write takes, and those that were not waited for yet.
    slow: Arc<Slow>,
}

#[derive(Default)]
struct Slow {
    each_ms: AtomicU64,
    owed_ms: AtomicU64,
}

/// What becomes of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// All of it is there: the machine only rebooted slowly.
    Kept,
    /// What was not flushed is gone.
    Killed,
    /// Everything is gone.
    Lost,
    /// An older copy stands in its place.
    Older,
    /// The disk of another machine of the job is there instead.
    Other,
}

impl Disks {
    pub(crate) fn new(shards: u16) -> Self {
        let new = || (0..shards).map(|_| Disk::default()).collect();
        let (broken, lies, slow) = Default::default();
        Self { now: new(), flushed: new(), backup: new(), broken, lies, slow }
    }

    /// Makes a shard durable; returns what it has.
    pub(crate) fn flush(&self, shard: ShardId) -> Disk {
        let place = usize::from(shard.0);
        if !self.lies.swap(false, Ordering::SeqCst) {
            self.flushed[place].replace(&self.now[place]);
        }
        self.now[place].copy()
    }

    /// As a database does that is closed.
    pub(crate) fn close(&self) {
        self.flushed.iter().zip(&self.now).for_each(|(flushed, now)| flushed.replace(now));
    }

    /// Makes a copy to be put back later.
    pub(crate) fn back_up(&self) {
        self.backup.iter().zip(&self.flushed).for_each(|(backup, flushed)| backup.replace(flushed));
    }

    /// `other` is the machine whose disk comes instead, if that is the fate.
    pub(crate) fn meets(&self, fate: Fate, other: &Self) {
        let empty = Disk::default();
        self.slow_down(0);
        for (place, now) in self.now.iter().enumerate() {
            match fate {
                Fate::Kept => {}
                Fate::Killed => now.replace(&self.flushed[place]),
                Fate::Lost => now.replace(&empty),
                Fate::Older => now.replace(&self.backup[place]),
                Fate::Other => now.replace(&other.flushed[place]),
            }
        }
        self.close();
    }

    /// The next flush is lost, and says that it is not.
    pub(crate) fn lie(&self) {
        self.lies.store(true, Ordering::SeqCst);
    }

    /// From now on each write takes so long.
    pub(crate) fn slow_down(&self, ms: u64) {
        self.slow.each_ms.store(ms, Ordering::SeqCst);
    }

    /// How long the writes since the last question take: two seconds at most, or a start on a slow disk would take longer than a run.
    pub(crate) fn owed_ms(&self) -> u64 {
        self.slow.owed_ms.swap(0, Ordering::SeqCst).min(2_000)
    }

    /// The next write fails.
    pub(crate) fn fill_up(&self) {
        self.broken.store(true, Ordering::SeqCst);
    }

    pub(crate) fn store(&self, shard: ShardId) -> Store {
        let memory = MemoryStore::new(shard, self.now[usize::from(shard.0)].clone());
        Store { memory, broken: Arc::clone(&self.broken), slow: Arc::clone(&self.slow) }
    }
}

/// One shard's database.
pub(crate) struct Store {
    memory: MemoryStore,
    broken: Arc<AtomicBool>,
    slow: Arc<Slow>,
}

impl ShardStore for Store {
    fn shard(&self) -> ShardId {
        self.memory.shard()
    }

    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        self.memory.scan(prefix, visit)
    }

    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        self.memory.multi_get(keys)
    }

    fn apply(&mut self, changes: &ChangeBatch, offset: LogOffset) -> Result<(), StateError> {
        if self.broken.swap(false, Ordering::SeqCst) {
            return Err(StateError { shard: self.shard(), message: "no space left on device".to_owned() });
        }
        self.slow.owed_ms.fetch_add(self.slow.each_ms.load(Ordering::SeqCst), Ordering::SeqCst);
        self.memory.apply(changes, offset)
    }

    fn applied(&self) -> Option<LogOffset> {
        self.memory.applied()
    }
}
