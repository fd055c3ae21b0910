//! What all states of one operator share: identity, time, time to live, which commits are taken and applied, and the notes of its shards.
//!
//! Owns when a note is written and when a store may forget what expired. The entries are the states'.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::time::Duration;

use super::note::{Description, StoredNote};
use super::{KeyedError, Kind, NEVER};
use crate::graph::OperatorUid;
use crate::key::{KeyGroup, KeyGroupSet, ShardId, Shards};
use crate::state::{Changes, ShardStore, Stores, state_key_prefix};
use crate::watermark::{END_OF_TIME, NO_WATERMARK};
use crate::worker::CommitId;

/// How long an entry lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// The operator's time to live, from now on.
    Ttl,
    /// Until it is changed or removed.
    Kept,
}

/// What a scope is made of.
#[derive(Clone, Debug)]
pub struct ScopeConfig<'a> {
    /// The operator.
    pub uid: OperatorUid,
    /// The job's shards.
    pub shards: Shards,
    /// Those of this worker.
    pub owned: &'a [ShardId],
    /// How long entries live; `None` for ever.
    pub ttl: Option<Duration>,
    /// Shards have event times of their own, which may be far apart: of those that a worker restores, the least is its time.
    pub apart: bool,
    /// What entries mean.
    pub description: Description,
}

/// What all states of one operator on one worker share.
#[derive(Debug)]
pub struct Scope {
    pub(super) uid: OperatorUid,
    pub(super) shards: Shards,
    ttl_ms: Option<i64>,
    apart: bool,
    /// Time goes into the notes when it has moved so far.
    step_ms: i64,
    pub(super) time_ms: i64,
    /// The last commit whose changes were taken, and the last that is in the stores; the numbers wrap around.
    pub(super) taken: u32,
    pub(super) applied: u32,
    description: Description,
    /// As stored; `None` where nothing is.
    notes: BTreeMap<ShardId, Option<StoredNote>>,
    /// Where there are notes of smaller shards that are one now: they go when the whole has its own.
    parts: BTreeMap<ShardId, Vec<KeyGroup>>,
    /// Times in notes that are not applied yet.
    noting: VecDeque<(u32, ShardId, i64)>,
    /// Key groups of which a store may have had entries when it was opened.
    pub(super) found: KeyGroupSet,
    /// Buckets of timers that the notes named.
    pub(super) buckets: BTreeMap<i64, KeyGroupSet>,
}

impl Scope {
    /// For an operator of which nothing is known yet; see [`Scope::restore`].
    pub fn new(config: ScopeConfig<'_>) -> Self {
        let ttl_ms = config.ttl.map(|ttl| i64::try_from(ttl.as_millis()).unwrap_or(NEVER));
        Self {
            uid: config.uid,
            shards: config.shards,
            ttl_ms,
            apart: config.apart,
            // Copies of the state agree on what is expired as of the last note; a sixteenth more is kept at the most.
            step_ms: ttl_ms.map_or(NEVER, |ttl| (ttl / 16).max(1)),
            time_ms: NO_WATERMARK,
            taken: 0,
            applied: 0,
            description: config.description,
            notes: config.owned.iter().map(|&shard| (shard, None)).collect(),
            parts: BTreeMap::new(),
            noting: VecDeque::new(),
            found: KeyGroupSet::default(),
            buckets: BTreeMap::new(),
        }
    }

    /// Finds out what the stores have. Called before the states are made; reads notes only.
    ///
    /// # Errors
    /// When a store cannot be read, or has what no operator like this wrote.
    pub fn restore(&mut self, stores: &Stores) -> Result<(), KeyedError> {
        let mut times = Vec::new();
        for store in stores.iter().filter(|store| store.applied().is_some()) {
            let own = self.restore_shard(store)?;
            if let Some(note) = &own {
                times.push(note.time_ms);
                store.expire(self.uid, note.time_ms);
            }
            self.notes.insert(store.shard(), own);
        }
        let time_ms = if self.apart { times.into_iter().min() } else { times.into_iter().max() };
        self.time_ms = self.time_ms.max(time_ms.unwrap_or(NO_WATERMARK));
        Ok(())
    }

    /// Reads the note at the shard's start, and those behind it if the shard was put together from smaller ones. Gives it if it is of
    /// this shard and no other.
    fn restore_shard(&mut self, store: &dyn ShardStore) -> Result<Option<StoredNote>, KeyedError> {
        let groups = self.shards.groups(store.shard());
        let (mut at, mut key) = (groups.start, Vec::new());
        while at < groups.end {
            key.clear();
            state_key_prefix(KeyGroup(at), self.uid, &mut key);
            key.push(Kind::Note.byte(0));
            let value = store.multi_get(&[&key])?.pop().flatten();
            let note = value.map(|value| StoredNote::read(&value)).transpose()?;
            // A shard whose first note is missing has nothing of this operator, unless it was cut out of a larger one.
            let Some(note) = note.filter(|note| note.groups_end > at) else {
                self.search(store, at..groups.end)?;
                return Ok(None);
            };
            let here = at..note.groups_end.min(groups.end);
            here.clone().for_each(|group| self.found.insert(KeyGroup(group)));
            for &start in &note.buckets {
                let bucket = self.buckets.entry(start).or_default();
                here.clone().for_each(|group| bucket.insert(KeyGroup(group)));
            }
            if here == groups && note.groups_end == groups.end {
                return Ok(Some(note));
            }
            self.time_ms = self.time_ms.max(note.time_ms);
            if at != groups.start {
                self.parts.entry(store.shard()).or_default().push(KeyGroup(at));
            }
            at = here.end;
        }
        Ok(None)
    }

    /// Reads all keys of key groups to find out what is there.
    fn search(&mut self, store: &dyn ShardStore, groups: Range<u16>) -> Result<(), KeyedError> {
        let mut prefix = Vec::new();
        for group in groups.map(KeyGroup) {
            prefix.clear();
            state_key_prefix(group, self.uid, &mut prefix);
            let (found, buckets) = (&mut self.found, &mut self.buckets);
            store.scan(&prefix, &mut |key, _| {
                found.insert(group);
                if let Some(time_ms) = super::timers::time_in(&key[prefix.len()..]) {
                    buckets.entry(super::timers::bucket_of(time_ms)).or_default().insert(group);
                }
            })?;
        }
        Ok(())
    }

    /// The operator's watermark has reached `watermark_ms`. The end of time is none: what has not expired then may be needed when there is more.
    pub fn advance(&mut self, watermark_ms: i64) {
        if watermark_ms != END_OF_TIME {
            self.time_ms = self.time_ms.max(watermark_ms);
        }
    }

    /// The commit after the last one that was taken is `commit`: called before the states' changes are taken.
    pub fn begin(&mut self, commit: CommitId) {
        self.taken = commit.0 as u32;
    }

    /// Called when the changes of all states are taken: adds the note of each shard for which it is not what is stored. `buckets` are the
    /// timers' ([`Timers::buckets`](super::Timers::buckets)).
    pub fn write_notes<'a>(&mut self, buckets: impl Iterator<Item = (i64, &'a KeyGroupSet)>, changes: &mut Changes) {
        let buckets: Vec<(i64, &KeyGroupSet)> = buckets.collect();
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for (&shard, stored) in &mut self.notes {
            let groups = self.shards.groups(shard);
            let here = buckets.iter().filter(|(_, of)| of.any_in(&groups)).map(|(start, _)| *start);
            let here: Vec<i64> = here.collect();
            let (before, known) = match stored {
                Some(note) => (note.clone(), true),
                None => (StoredNote::nothing(), false),
            };
            let moved = self.ttl_ms.is_some() && self.time_ms >= before.time_ms.saturating_add(self.step_ms);
            let described = known && before.description == self.description;
            // A shard that was put together has one note from its first barrier on: a savepoint takes only the one at its beginning along.
            let parts = self.parts.remove(&shard).unwrap_or_default();
            if (!known && !changes.has(shard) && parts.is_empty()) || (described && !moved && before.buckets == here) {
                continue;
            }
            let time_ms = if moved { self.time_ms } else { before.time_ms };
            let note =
                StoredNote { groups_end: groups.end, time_ms, description: self.description.clone(), buckets: here };
            key.clear();
            state_key_prefix(KeyGroup(groups.start), self.uid, &mut key);
            key.push(Kind::Note.byte(0));
            note.write(&mut value);
            let batch = changes.of(self.shards, KeyGroup(groups.start));
            batch.put(&key, &value);
            for part in parts {
                key[..2].copy_from_slice(&part.0.to_be_bytes());
                batch.delete(&key);
            }
            if moved {
                self.noting.push_back((self.taken, shard, time_ms));
            }
            *stored = Some(note);
        }
    }

    /// The changes of all commits through `commit` are in the stores: they may forget what had expired by then.
    pub fn on_applied(&mut self, commit: CommitId, stores: &Stores) {
        self.applied = commit.0 as u32;
        // Differences, because the numbers wrap around.
        let pending = self.taken.wrapping_sub(self.applied);
        while let Some(&(of, shard, time_ms)) = self.noting.front() {
            if self.taken.wrapping_sub(of) < pending {
                break;
            }
            self.noting.pop_front();
            if let Some(store) = stores.iter().find(|store| store.shard() == shard) {
                store.expire(self.uid, time_ms);
            }
        }
    }

    /// These shards are another pod's: forgets their notes. What the states have of them they forget themselves.
    pub fn leave(&mut self, shards: &[ShardId]) {
        self.notes.retain(|shard, _| !shards.contains(shard));
        self.parts.retain(|shard, _| !shards.contains(shard));
        self.noting.retain(|(_, shard, _)| !shards.contains(shard));
    }

    /// True if changes were taken that are not in the stores.
    pub fn is_pending(&self) -> bool {
        self.taken != self.applied
    }

    /// When what is written now expires.
    pub(super) fn expires(&self, lifetime: Lifetime) -> i64 {
        match (lifetime, self.ttl_ms) {
            (Lifetime::Ttl, Some(ttl)) if self.time_ms != NO_WATERMARK => self.time_ms.saturating_add(ttl),
            (Lifetime::Ttl, Some(_) | None) | (Lifetime::Kept, _) => NEVER,
        }
    }

    /// True if the operator's time has come to `expires`.
    #[inline]
    pub(super) fn has_passed(&self, expires: i64) -> bool {
        expires <= self.time_ms && expires != NEVER
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::LogOffset;
    use crate::testing::{Disk, MemoryStore};

    #[test]
    fn of_times_that_are_apart_the_least_counts() {
        let shards = Shards::new(2).unwrap();
        let disks = [Disk::default(), Disk::default()];
        let store = |shard: ShardId| MemoryStore::new(shard, disks[usize::from(shard.0)].clone());
        let scope = |owned: &[ShardId], apart| {
            let (ttl, description) = (Some(Duration::from_millis(160)), Description::default());
            Scope::new(ScopeConfig { uid: OperatorUid(20), shards, owned, ttl, apart, description })
        };
        for (shard, time_ms) in [(ShardId(0), 1000), (ShardId(1), 100)] {
            let mut scope = scope(&[shard], true);
            scope.advance(time_ms);
            let mut changes = Changes::default();
            changes.of(shards, KeyGroup(shards.groups(shard).start)).put(b"an entry", b"");
            scope.write_notes(std::iter::empty(), &mut changes);
            for (_, batch) in changes.into_shards() {
                store(shard).apply(&batch, LogOffset(0)).unwrap();
            }
        }
        let restored = |apart| {
            let owned = [ShardId(0), ShardId(1)];
            let stores = owned.iter().map(|shard| Box::new(store(*shard)) as Box<dyn ShardStore>).collect();
            let mut scope = scope(&owned, apart);
            scope.restore(&Stores::new(shards, stores)).unwrap();
            scope.time_ms
        };
        assert_eq!((restored(true), restored(false)), (100, 1000));
    }
}
