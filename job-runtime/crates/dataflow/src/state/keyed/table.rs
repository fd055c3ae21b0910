//! The write-back table: entries of one state in memory, which changed, and which are only in the stores.
//!
//! Owns the arena, the hash table and the way of an entry between memory, change batch and store. What an entry's key is made of, the states know.

use hashbrown::HashTable;

use super::{KeyedError, NEVER, Scope, Slot, stored_value};
use crate::key::{KeyGroup, KeyGroupSet, ShardId};
use crate::state::age::{AGES, class};
use crate::state::{Changes, Stores, state_key_prefix};

/// Version of a value.
pub(super) const VERSION: u8 = 1;
/// Bit 0 of a value's flags: the time at which it expires follows.
pub(super) const FLAG_EXPIRES: u8 = 1;

/// The next barrier must write it.
const DIRTY: u8 = 1;
/// The stores have it, or will have it with the commits that are taken.
const STORED: u8 = 2;
/// There is a value; else it is known that there is none.
const PRESENT: u8 = 4;

/// Garbage in the arena below this is not worth a pass over the entries.
const LEAST_GARBAGE: usize = if cfg!(test) { 64 } else { 64 << 10 };

/// An entry. Places are in the arena.
#[derive(Clone, Copy)]
struct Entry {
    hash: u64,
    key: u64,
    value: u64,
    expires: i64,
    key_len: u32,
    /// Of these, bytes of the user key.
    user_len: u32,
    value_len: u32,
    /// The commit that last wrote it; that in which it was last looked at.
    written: u32,
    used: u32,
    group: KeyGroup,
    flags: u8,
}

/// What an entry is found by.
#[derive(Clone, Copy)]
pub(super) struct EntryKey<'a> {
    /// Of all bytes.
    pub(super) hash: u64,
    pub(super) group: KeyGroup,
    pub(super) bytes: &'a [u8],
    /// Bytes of the user key.
    pub(super) user_len: usize,
}

struct Place {
    hash: u64,
    entry: u32,
}

/// What a table did. Counters only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Touches {
    /// Keys that were looked up in a store.
    pub misses: u64,
    /// Entries that have left memory.
    pub evictions: u64,
}

pub(super) struct Table {
    kind: u8,
    index: HashTable<Place>,
    entries: Vec<Entry>,
    arena: Vec<u8>,
    garbage: usize,
    dirty: Vec<u32>,
    /// Key groups of which the stores may have entries that memory has not.
    pub(super) spilled: KeyGroupSet,
    /// Entries that the stores are to be asked for.
    wanted: Vec<u32>,
    pub(super) touches: Touches,
}

/// Where the hash table looks: the low bits of a hash choose the key group and with it the worker, so they are not used first.
#[inline]
pub(super) fn place(hash: u64) -> u64 {
    hash.rotate_left(32)
}

impl Table {
    /// A table of which `spilled` may be in the stores.
    pub(super) fn new(kind: u8, spilled: KeyGroupSet) -> Self {
        Self {
            kind,
            index: HashTable::new(),
            entries: Vec::new(),
            arena: Vec::new(),
            garbage: 0,
            dirty: Vec::new(),
            spilled,
            wanted: Vec::new(),
            touches: Touches::default(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// About how much memory the entries take.
    pub(super) fn bytes(&self) -> u64 {
        let lists = (self.dirty.len() + self.wanted.len()) * size_of::<u32>();
        (self.entries.len() * size_of::<Entry>() + self.arena.len() + self.index.allocation_size() + lists) as u64
    }

    #[inline]
    fn bytes_at(&self, at: u64, len: u32) -> &[u8] {
        &self.arena[at as usize..at as usize + len as usize]
    }

    #[inline]
    pub(super) fn key(&self, slot: Slot) -> &[u8] {
        let entry = &self.entries[slot.0 as usize];
        self.bytes_at(entry.key, entry.key_len)
    }

    pub(super) fn user_key(&self, slot: Slot) -> &[u8] {
        let entry = &self.entries[slot.0 as usize];
        self.bytes_at(entry.key, entry.user_len)
    }

    pub(super) fn group(&self, slot: Slot) -> KeyGroup {
        self.entries[slot.0 as usize].group
    }

    /// Finds an entry.
    #[inline]
    pub(super) fn find(&self, key: EntryKey<'_>) -> Option<Slot> {
        let same = |place: &Place| place.hash == key.hash && self.key(Slot(place.entry)) == key.bytes;
        self.index.find(place(key.hash), same).map(|place| Slot(place.entry))
    }

    /// Finds an entry or makes one. One that is made is looked up by the next [`Table::fetch`] if a store may have it.
    #[inline]
    pub(super) fn touch(&mut self, key: EntryKey<'_>, scope: &Scope) -> Slot {
        if let Some(slot) = self.find(key) {
            self.entries[slot.0 as usize].used = scope.taken;
            return slot;
        }
        let slot = self.add(key, scope);
        if self.spilled.contains(key.group) {
            self.wanted.push(slot.0);
        }
        slot
    }

    /// As [`Table::touch`], for an entry that will be written whatever a store has. If a store may have one, its removal is written too.
    pub(super) fn touch_unread(&mut self, key: EntryKey<'_>, scope: &Scope) -> Slot {
        if let Some(slot) = self.find(key) {
            return slot;
        }
        let slot = self.add(key, scope);
        if self.spilled.contains(key.group) {
            self.entries[slot.0 as usize].flags = STORED;
        }
        slot
    }

    fn add(&mut self, key: EntryKey<'_>, scope: &Scope) -> Slot {
        let entry = self.entries.len() as u32;
        self.entries.push(Entry {
            hash: key.hash,
            key: self.arena.len() as u64,
            value: 0,
            expires: NEVER,
            key_len: key.bytes.len() as u32,
            user_len: key.user_len as u32,
            value_len: 0,
            written: scope.applied,
            used: scope.taken,
            group: key.group,
            flags: 0,
        });
        self.arena.extend_from_slice(key.bytes);
        self.index.insert_unique(place(key.hash), Place { hash: key.hash, entry }, |at| place(at.hash));
        Slot(entry)
    }

    /// Reads what was wanted: one `multi_get` per shard, in key order.
    pub(super) fn fetch(&mut self, scope: &Scope, stores: &Stores) -> Result<(), KeyedError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let wanted = std::mem::take(&mut self.wanted);
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(wanted.len()));
        for &entry in &wanted {
            self.write_state_key(scope, Slot(entry), &mut bytes);
            ends.push(bytes.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let mut order: Vec<(&[u8], u32)> =
            starts.zip(&ends).zip(&wanted).map(|((start, &end), &entry)| (&bytes[start..end], entry)).collect();
        order.sort_unstable();
        let keys: Vec<&[u8]> = order.iter().map(|(key, _)| *key).collect();
        self.touches.misses += keys.len() as u64;
        stores.multi_get(&keys, |at, value| self.load(Slot(order[at].1), value))
    }

    /// Sets an entry that nothing has been done with to what is stored of it.
    pub(super) fn load(&mut self, slot: Slot, value: &[u8]) -> Result<(), KeyedError> {
        let (expires, payload) = stored_value(value)?;
        let at = self.arena.len() as u64;
        self.arena.extend_from_slice(payload);
        let entry = &mut self.entries[slot.0 as usize];
        (entry.value, entry.value_len, entry.expires) = (at, payload.len() as u32, expires);
        entry.flags = STORED | PRESENT;
        Ok(())
    }

    /// The value, if there is one that has not expired.
    #[inline]
    pub(super) fn get(&self, scope: &Scope, slot: Slot) -> Option<&[u8]> {
        let entry = &self.entries[slot.0 as usize];
        let there = entry.flags & PRESENT != 0 && !scope.has_passed(entry.expires);
        there.then(|| self.bytes_at(entry.value, entry.value_len))
    }

    /// When an entry with a value expires.
    pub(super) fn expiry(&self, slot: Slot) -> Option<i64> {
        let entry = &self.entries[slot.0 as usize];
        (entry.flags & PRESENT != 0).then_some(entry.expires)
    }

    /// Sets the value.
    pub(super) fn put(&mut self, slot: Slot, expires: i64, value: &[u8]) {
        let entry = &mut self.entries[slot.0 as usize];
        let fits = value.len() <= entry.value_len as usize;
        self.garbage += if fits { entry.value_len as usize - value.len() } else { entry.value_len as usize };
        if !fits {
            entry.value = self.arena.len() as u64;
            self.arena.extend_from_slice(value);
        } else {
            let at = entry.value as usize;
            self.arena[at..at + value.len()].copy_from_slice(value);
        }
        (entry.value_len, entry.expires) = (value.len() as u32, expires);
        entry.flags |= PRESENT;
        self.mark(slot);
        if self.garbage > LEAST_GARBAGE && self.garbage * 2 > self.arena.len() {
            self.compact();
        }
    }

    /// Removes the value. Nothing is written if no store has it.
    pub(super) fn remove(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot.0 as usize];
        if entry.flags & PRESENT != 0 {
            entry.flags &= !PRESENT;
            self.garbage += entry.value_len as usize;
            entry.value_len = 0;
            self.mark(slot);
        }
    }

    /// As [`Table::remove`], of an entry that came by [`Table::touch_unread`]: only the stores may have a value.
    pub(super) fn remove_unread(&mut self, slot: Slot) {
        let entry = &mut self.entries[slot.0 as usize];
        if entry.flags & STORED != 0 {
            entry.flags |= PRESENT;
        }
        self.remove(slot);
    }

    fn mark(&mut self, slot: Slot) {
        let flags = &mut self.entries[slot.0 as usize].flags;
        if *flags & DIRTY == 0 {
            *flags |= DIRTY;
            self.dirty.push(slot.0);
        }
    }

    fn write_state_key(&self, scope: &Scope, slot: Slot, out: &mut Vec<u8>) {
        state_key_prefix(self.group(slot), scope.uid, out);
        out.push(self.kind);
        out.extend_from_slice(self.key(slot));
    }

    /// The changes since the last barrier. `stored` is told the key group of every entry that the stores get.
    pub(super) fn take_changes(&mut self, scope: &Scope, changes: &mut Changes, mut stored: impl FnMut(KeyGroup)) {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        for at in std::mem::take(&mut self.dirty) {
            let slot = Slot(at);
            key.clear();
            self.write_state_key(scope, slot, &mut key);
            let entry = self.entries[at as usize];
            let batch = changes.of(scope.shards, entry.group);
            let flags = if entry.flags & PRESENT != 0 {
                value.clear();
                match entry.expires {
                    NEVER => value.extend_from_slice(&[VERSION, 0]),
                    expires => {
                        value.extend_from_slice(&[VERSION, FLAG_EXPIRES]);
                        value.extend_from_slice(&expires.to_le_bytes());
                    }
                }
                value.extend_from_slice(self.bytes_at(entry.value, entry.value_len));
                batch.put(&key, &value);
                stored(entry.group);
                PRESENT | STORED
            } else {
                if entry.flags & STORED != 0 {
                    batch.delete(&key);
                }
                0
            };
            let entry = &mut self.entries[at as usize];
            (entry.flags, entry.written) = (flags, scope.taken);
        }
    }

    /// True if there are changes that no barrier has taken.
    pub(super) fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// All entries with a value, expired ones too.
    pub(super) fn present(&self) -> impl Iterator<Item = Slot> {
        let entries = self.entries.iter().enumerate();
        entries.filter(|(_, entry)| entry.flags & PRESENT != 0).map(|(at, _)| Slot(at as u32))
    }

    pub(super) fn is_present(&self, slot: Slot) -> bool {
        self.entries[slot.0 as usize].flags & PRESENT != 0
    }

    /// Entries that memory can do without, with the number of commits since they were used.
    pub(super) fn clean(&self, scope: &Scope) -> impl Iterator<Item = (Slot, u32)> {
        let (now, pending) = (scope.taken, scope.taken.wrapping_sub(scope.applied));
        let clean = move |entry: &Entry| entry.flags & DIRTY == 0 && now.wrapping_sub(entry.written) >= pending;
        let entries = self.entries.iter().enumerate().filter(move |(_, entry)| clean(entry));
        entries.map(move |(at, entry)| (Slot(at as u32), now.wrapping_sub(entry.used)))
    }

    fn size_of_each(&self) -> u64 {
        self.bytes() / self.entries.len().max(1) as u64 + 1
    }

    /// Adds what could leave to the sizes by class of age.
    pub(super) fn add_ages(&self, scope: &Scope, sizes: &mut [u64; AGES]) {
        let each = self.size_of_each();
        self.clean(scope).for_each(|(_, age)| sizes[class(age)] += each);
    }

    /// Forgets what could leave of the classes above `last`, and of `last` itself until `part` bytes are free.
    pub(super) fn evict(&mut self, scope: &Scope, last: usize, part: &mut u64) {
        let each = self.size_of_each();
        let mut gone = Vec::new();
        for (slot, age) in self.clean(scope) {
            let class = class(age);
            if class > last || (class == last && *part > 0) {
                *part -= if class == last { (*part).min(each) } else { 0 };
                gone.push(slot);
            }
        }
        self.forget(&gone);
    }

    /// Forgets everything of these shards, of which nothing is dirty.
    pub(super) fn leave(&mut self, scope: &Scope, shards: &[ShardId]) {
        let is_gone = |entry: &Entry| shards.contains(&scope.shards.shard_of(entry.group));
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| is_gone(entry));
        let gone: Vec<Slot> = entries.map(|(at, _)| Slot(at as u32)).collect();
        // They have not made room for others.
        let touches = self.touches;
        self.forget(&gone);
        self.touches = touches;
        shards.iter().for_each(|shard| self.spilled.remove(&scope.shards.groups(*shard)));
    }

    /// Forgets entries, given in ascending order, of which none is dirty or pending. All slots are others then.
    pub(super) fn forget(&mut self, gone: &[Slot]) {
        if gone.is_empty() {
            return;
        }
        for &slot in gone {
            let entry = &self.entries[slot.0 as usize];
            if entry.flags & PRESENT != 0 {
                self.spilled.insert(entry.group);
                self.touches.evictions += 1;
            }
        }
        let mut next = gone.iter().copied().peekable();
        let mut at = 0;
        self.entries.retain(|_| {
            let slot = Slot(at);
            at += 1;
            next.next_if_eq(&slot).is_none()
        });
        if self.entries.len() < self.entries.capacity() / 2 {
            self.entries.shrink_to_fit();
        }
        self.wanted = Vec::new();
        self.dirty.clear();
        let dirty = self.entries.iter().enumerate().filter(|(_, entry)| entry.flags & DIRTY != 0);
        self.dirty.extend(dirty.map(|(at, _)| at as u32));
        self.compact();
        let entries = &self.entries;
        self.index.clear();
        self.index.shrink_to(entries.len(), |_| unreachable!("the table was cleared"));
        for (at, entry) in entries.iter().enumerate() {
            let new = Place { hash: entry.hash, entry: at as u32 };
            self.index.insert_unique(place(entry.hash), new, |at| place(at.hash));
        }
    }

    /// Leaves the garbage behind.
    fn compact(&mut self) {
        let live: usize = self.entries.iter().map(|entry| (entry.key_len + entry.value_len) as usize).sum();
        let mut arena = Vec::with_capacity(live + live / 8);
        for entry in &mut self.entries {
            let (key, value) = (entry.key as usize, entry.value as usize);
            entry.key = arena.len() as u64;
            arena.extend_from_slice(&self.arena[key..key + entry.key_len as usize]);
            entry.value = arena.len() as u64;
            arena.extend_from_slice(&self.arena[value..value + entry.value_len as usize]);
        }
        (self.arena, self.garbage) = (arena, 0);
    }
}
