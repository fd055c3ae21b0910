//! Timers in event time: a key wants to be called when the watermark reaches a time.
//!
//! Owns which timers are in memory and the order in which they are due. They lie in buckets of [`BUCKET_MS`]; a shard's note names the buckets
//! that have some, so that a start reads none. A bucket is read as the watermark comes to it, and no further ahead than an eighth of it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use super::table::{EntryKey, Table, Touches};
use super::{KeyedError, Kind, NEVER, Scope, Slot, ordered_time, time_of};
use crate::key::{KeyGroup, KeyGroupSet, ShardId, group_of, hash_bytes, in_group};
use crate::state::{Changes, Stores, state_key_prefix};

/// Width of a bucket. Its timers share the first six bytes behind the kind: this must not change.
pub(super) const BUCKET_MS: i64 = 1 << 16;
/// Bytes of a time that a bucket's timers share.
const BUCKET_BYTES: usize = 6;
/// How far ahead of the watermark timers are read.
const AHEAD_MS: i64 = BUCKET_MS / 8;

/// Timers that are over below this number are not worth a pass over the others.
const LEAST_PURGE: usize = if cfg!(test) { 4 } else { 4096 };

fn earlier(known: Option<i64>, time_ms: i64) -> Option<i64> {
    Some(known.map_or(time_ms, |known| known.min(time_ms)))
}

/// Start of the bucket that holds a time.
pub(super) fn bucket_of(time_ms: i64) -> i64 {
    time_ms & !(BUCKET_MS - 1)
}

/// The time of a timer, of the part of its state key behind the operator's id; `None` for another kind.
pub(super) fn time_in(rest: &[u8]) -> Option<i64> {
    let (kind, rest) = rest.split_first()?;
    let time = rest.first_chunk::<8>()?;
    matches!(Kind::of(*kind), Some((Kind::Timer, _))).then(|| time_of(*time))
}

/// Timers that are due, with their keys' encodings one after the other.
#[derive(Debug, Default)]
pub struct Due {
    bytes: Vec<u8>,
    /// Time, end of the key in `bytes`, and hash of the key in the key group that it was set in.
    timers: Vec<(i64, usize, u64)>,
}

impl Due {
    /// Number of timers.
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// Time of timer number `at`.
    pub fn time_ms(&self, at: usize) -> i64 {
        self.timers[at].0
    }

    /// Key of timer number `at`.
    pub fn key(&self, at: usize) -> &[u8] {
        let start = if at == 0 { 0 } else { self.timers[at - 1].1 };
        &self.bytes[start..self.timers[at].1]
    }

    /// Hash of that key, in the key group that the timer was set in.
    pub fn hash(&self, at: usize) -> u64 {
        self.timers[at].2
    }

    /// All keys with their hashes, in order; each leads to the key group that the timer was set in.
    pub fn keys(&self) -> impl Iterator<Item = (&[u8], u64)> {
        self.timers.iter().enumerate().map(|(at, timer)| (self.key(at), timer.2))
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.timers.clear();
    }
}

/// The timers of one stretch of time.
struct Bucket {
    table: Table,
    /// The next timers in memory; some may be gone or be others' by now.
    heap: BinaryHeap<Reverse<(i64, u32)>>,
    /// Timers that only the stores have are at this time or later; `None` if there are none.
    unread_from: Option<i64>,
    /// Key groups of which the stores have, or are about to get, entries.
    stored: KeyGroupSet,
}

impl Bucket {
    fn new(kind: u8, spilled: KeyGroupSet, start: i64) -> Self {
        let unread_from = (!spilled.is_empty()).then_some(start);
        let stored = spilled.clone();
        Self { table: Table::new(kind, spilled), heap: BinaryHeap::new(), unread_from, stored }
    }

    /// Reads the timers through `until_ms` that only the stores have.
    fn read(&mut self, scope: &Scope, stores: &Stores, kind: u8, start: i64, until_ms: i64) -> Result<(), KeyedError> {
        let groups: Vec<KeyGroup> = self.table.spilled.iter().collect();
        let (mut left, mut unread_from) = (KeyGroupSet::default(), None);
        let mut prefix = Vec::new();
        for group in groups {
            prefix.clear();
            state_key_prefix(group, scope.uid, &mut prefix);
            let own = prefix.len() + 1;
            prefix.push(kind);
            prefix.extend_from_slice(&ordered_time(start)[..BUCKET_BYTES]);
            let mut failed = None;
            stores.of(group)?.scan(&prefix, &mut |key, value| {
                let bytes = &key[own..];
                let Some(time) = bytes.first_chunk::<8>() else {
                    failed = Some(KeyedError::damaged("the key of a timer is cut short"));
                    return;
                };
                let time_ms = time_of(*time);
                let key = entry_key(bytes, group);
                if self.table.find(key).is_some() {
                    return;
                }
                if time_ms > until_ms {
                    left.insert(group);
                    unread_from = earlier(unread_from, time_ms);
                    return;
                }
                let slot = self.table.touch_unread(key, scope);
                self.table.touches.misses += 1;
                match self.table.load(slot, value) {
                    Ok(()) => self.heap.push(Reverse((time_ms, slot.0))),
                    Err(error) => failed = Some(error),
                }
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        (self.table.spilled, self.unread_from) = (left, unread_from);
        Ok(())
    }

    fn time_of(&self, slot: Slot) -> i64 {
        self.table.key(slot).first_chunk::<8>().map_or(NEVER, |time| time_of(*time))
    }

    /// Forgets timers that the stores have, the latest first, until `bytes` are free; returns how many are.
    fn evict(&mut self, scope: &Scope, bytes: u64) -> u64 {
        let before = self.bytes();
        let each = (before / self.table.len().max(1) as u64).max(1);
        let mut clean: Vec<(i64, Slot)> = self.table.clean(scope).map(|(slot, _)| (self.time_of(slot), slot)).collect();
        clean.sort_unstable_by(|a, b| b.cmp(a));
        clean.truncate(usize::try_from(bytes / each + 1).unwrap_or(usize::MAX));
        for &(time_ms, slot) in &clean {
            if self.table.is_present(slot) {
                self.unread_from = earlier(self.unread_from, time_ms);
            }
        }
        let mut gone: Vec<Slot> = clean.into_iter().map(|(_, slot)| slot).collect();
        gone.sort_unstable();
        self.forget(&gone);
        before.saturating_sub(self.bytes())
    }

    /// Forgets timers that are over, if they are most of all.
    fn purge(&mut self, scope: &Scope) {
        let over: Vec<Slot> =
            self.table.clean(scope).map(|(slot, _)| slot).filter(|slot| !self.table.is_present(*slot)).collect();
        if over.len() > LEAST_PURGE && over.len() > self.table.len() / 2 {
            self.forget(&over);
        }
    }

    fn forget(&mut self, gone: &[Slot]) {
        self.table.forget(gone);
        self.heap = self.table.present().map(|slot| Reverse((self.time_of(slot), slot.0))).collect();
    }

    /// Forgets the timers of these shards, of which nothing is dirty.
    fn leave(&mut self, scope: &Scope, shards: &[ShardId]) {
        self.table.leave(scope, shards);
        self.forget(&[]);
        shards.iter().for_each(|shard| self.stored.remove(&scope.shards.groups(*shard)));
        self.unread_from = self.unread_from.filter(|_| !self.table.spilled.is_empty());
    }

    fn bytes(&self) -> u64 {
        self.table.bytes() + (self.heap.len() * size_of::<Reverse<(i64, u32)>>()) as u64
    }

    /// True if there is no timer, and nothing to be written about one.
    fn is_done(&self) -> bool {
        self.unread_from.is_none() && !self.table.is_dirty() && self.table.present().next().is_none()
    }
}

/// Timers of an operator's keys.
pub struct Timers {
    kind: u8,
    buckets: BTreeMap<i64, Bucket>,
    key: Vec<u8>,
    /// Of buckets that are gone.
    touches: Touches,
}

impl Timers {
    /// The operator's timers number `number` (0 to 15), of a restored scope.
    pub fn new(scope: &Scope, number: u8) -> Self {
        let kind = Kind::Timer.byte(number);
        let bucket = |(&start, groups): (&i64, &KeyGroupSet)| (start, Bucket::new(kind, groups.clone(), start));
        Self { kind, buckets: scope.buckets.iter().map(bucket).collect(), key: Vec::new(), touches: Touches::default() }
    }

    /// Sets a timer; one that is set already stays as it is.
    pub fn set(&mut self, scope: &Scope, time_ms: i64, user: &[u8], hash: u64) {
        let (slot, bucket) = self.entry(scope, time_ms, user, hash);
        if !bucket.table.is_present(slot) {
            bucket.table.put(slot, NEVER, &[]);
            bucket.heap.push(Reverse((time_ms, slot.0)));
        }
    }

    /// Removes a timer, if it is set.
    pub fn remove(&mut self, scope: &Scope, time_ms: i64, user: &[u8], hash: u64) {
        let (slot, bucket) = self.entry(scope, time_ms, user, hash);
        bucket.table.remove_unread(slot);
    }

    fn entry(&mut self, scope: &Scope, time_ms: i64, user: &[u8], hash: u64) -> (Slot, &mut Bucket) {
        self.key.clear();
        self.key.extend_from_slice(&ordered_time(time_ms));
        self.key.extend_from_slice(user);
        let (kind, start) = (self.kind, bucket_of(time_ms));
        let bucket = self.buckets.entry(start).or_insert_with(|| Bucket::new(kind, KeyGroupSet::default(), start));
        (bucket.table.touch_unread(entry_key(&self.key, group_of(hash)), scope), bucket)
    }

    /// Takes up to `most` timers that are due at `watermark_ms`, in the order of their times; `out` is empty if there is none left.
    ///
    /// # Errors
    /// When a store cannot be read, or has something else.
    pub fn pop_due(
        &mut self,
        scope: &Scope,
        stores: &Stores,
        watermark_ms: i64,
        most: usize,
        out: &mut Due,
    ) -> Result<(), KeyedError> {
        out.clear();
        for (&start, bucket) in self.buckets.range_mut(..=watermark_ms) {
            loop {
                let next = bucket.heap.peek().map(|Reverse((time, _))| *time);
                // What only the stores have may be due before what is here.
                if let Some(from) = bucket.unread_from.filter(|from| *from <= watermark_ms)
                    && next.is_none_or(|next| from <= next)
                {
                    bucket.read(scope, stores, self.kind, start, from.saturating_add(AHEAD_MS))?;
                    continue;
                }
                if next.is_none_or(|next| next > watermark_ms) {
                    break;
                }
                if out.len() == most {
                    return Ok(());
                }
                let Some(Reverse((time_ms, at))) = bucket.heap.pop() else { break };
                let slot = Slot(at);
                if bucket.table.is_present(slot) {
                    let (user, group) = (&bucket.table.key(slot)[8..], bucket.table.group(slot));
                    out.bytes.extend_from_slice(user);
                    out.timers.push((time_ms, out.bytes.len(), in_group(hash_bytes(user), group)));
                    bucket.table.remove(slot);
                }
            }
        }
        Ok(())
    }

    /// Adds the changes since the last barrier. Buckets that have nothing left are dropped.
    pub fn take_changes(&mut self, scope: &Scope, changes: &mut Changes) {
        for bucket in self.buckets.values_mut() {
            let Bucket { table, stored, .. } = bucket;
            table.take_changes(scope, changes, |group| stored.insert(group));
            bucket.purge(scope);
        }
        let touches = &mut self.touches;
        self.buckets.retain(|_, bucket| {
            let done = bucket.is_done();
            if done {
                touches.misses += bucket.table.touches.misses;
                touches.evictions += bucket.table.touches.evictions;
            }
            !done
        });
    }

    /// The buckets with the key groups that have, or had, entries of them in a store: for the notes.
    pub fn buckets(&self) -> impl Iterator<Item = (i64, &KeyGroupSet)> {
        self.buckets.iter().map(|(start, bucket)| (*start, &bucket.stored))
    }

    /// True if there are changes that no barrier has taken.
    pub fn is_dirty(&self) -> bool {
        self.buckets.values().any(|bucket| bucket.table.is_dirty())
    }

    /// Entries in memory.
    pub fn entries(&self) -> u64 {
        self.buckets.values().map(|bucket| bucket.table.len() as u64).sum()
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> u64 {
        self.buckets.values().map(Bucket::bytes).sum()
    }

    /// What was read and what has left.
    pub fn touches(&self) -> Touches {
        self.buckets
            .values()
            .map(|bucket| bucket.table.touches)
            .fold(self.touches, |a, b| Touches { misses: a.misses + b.misses, evictions: a.evictions + b.evictions })
    }

    /// These shards are another pod's: forgets their timers. No change waits for a barrier.
    pub fn leave(&mut self, scope: &Scope, shards: &[ShardId]) {
        self.buckets.values_mut().for_each(|bucket| bucket.leave(scope, shards));
    }

    /// Takes timers out of memory, the latest first, until about `bytes` are free or none is left that the stores have.
    pub fn evict(&mut self, scope: &Scope, bytes: u64) {
        let mut left = bytes;
        for bucket in self.buckets.values_mut().rev() {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(bucket.evict(scope, left));
        }
    }
}

/// Of a timer's time and user key; the time stands first, so there is no user key to be found by.
fn entry_key(bytes: &[u8], group: KeyGroup) -> EntryKey<'_> {
    EntryKey { hash: hash_bytes(bytes), group, bytes, user_len: 0 }
}
