//! One value per key.
//!
//! Owns finding the values of a batch's keys. The table below does the rest.

use super::table::{EntryKey, Table, Touches};
use super::{KeyedError, Kind, Lifetime, Scope, Slot};
use crate::key::{EncodedKeys, ShardId, group_of};
use crate::state::age::{AGES, cut};
use crate::state::{Changes, Stores};

/// One value per key: bytes of the operator's making, also of no length.
pub struct ValueState {
    table: Table,
    /// Of each row of the last batch.
    slots: Vec<Slot>,
    scratch: Vec<u8>,
}

impl ValueState {
    /// The operator's values number `number` (0 to 15), of a restored scope.
    pub fn new(scope: &Scope, number: u8) -> Self {
        let table = Table::new(Kind::Value.byte(number), scope.found.clone());
        Self { table, slots: Vec::new(), scratch: Vec::new() }
    }

    /// Finds the values of all rows: each distinct key is touched once, and what is not in memory is read with one `multi_get` per shard.
    /// `hashes` are those of `keys`.
    ///
    /// # Errors
    /// When a store cannot be read, or has something else.
    pub fn find(
        &mut self,
        scope: &Scope,
        stores: &Stores,
        keys: &EncodedKeys,
        hashes: &[u64],
    ) -> Result<(), KeyedError> {
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        for (row, &hash) in hashes.iter().enumerate() {
            let bytes = keys.bytes_of(row, &mut self.scratch);
            let key = EntryKey { hash, group: group_of(hash), bytes, user_len: bytes.len() };
            slots.push(self.table.touch(key, scope));
        }
        self.slots = slots;
        self.table.fetch(scope, stores)
    }

    /// As [`ValueState::find`], for encoded keys with their hashes.
    ///
    /// # Errors
    /// As there.
    pub fn find_keys<'a>(
        &mut self,
        scope: &Scope,
        stores: &Stores,
        keys: impl Iterator<Item = (&'a [u8], u64)>,
    ) -> Result<(), KeyedError> {
        let mut slots = std::mem::take(&mut self.slots);
        slots.clear();
        for (bytes, hash) in keys {
            let key = EntryKey { hash, group: group_of(hash), bytes, user_len: bytes.len() };
            slots.push(self.table.touch(key, scope));
        }
        self.slots = slots;
        self.table.fetch(scope, stores)
    }

    /// The place of a row's key.
    #[inline]
    pub fn slot(&self, row: usize) -> Slot {
        self.slots[row]
    }

    /// The value of a key, if there is one.
    #[inline]
    pub fn get(&self, scope: &Scope, slot: Slot) -> Option<&[u8]> {
        self.table.get(scope, slot)
    }

    /// Sets the value of a key.
    #[inline]
    pub fn set(&mut self, scope: &Scope, slot: Slot, lifetime: Lifetime, value: &[u8]) {
        self.table.put(slot, scope.expires(lifetime), value);
    }

    /// Removes the value of a key.
    pub fn remove(&mut self, slot: Slot) {
        self.table.remove(slot);
    }

    /// Adds the changes since the last barrier.
    pub fn take_changes(&mut self, scope: &Scope, changes: &mut Changes) {
        self.table.take_changes(scope, changes, |_| {});
    }

    /// True if there are changes that no barrier has taken.
    pub fn is_dirty(&self) -> bool {
        self.table.is_dirty()
    }

    /// Entries in memory.
    pub fn entries(&self) -> u64 {
        self.table.len() as u64
    }

    /// About how much memory they take.
    pub fn bytes(&self) -> u64 {
        self.table.bytes()
    }

    /// What was read and what has left.
    pub fn touches(&self) -> Touches {
        self.table.touches
    }

    /// These shards are another pod's: forgets their values. No change waits for a barrier.
    pub fn leave(&mut self, scope: &Scope, shards: &[ShardId]) {
        self.table.leave(scope, shards);
    }

    /// Takes entries out of memory, the least recently used first, until about `bytes` are free or none is left that the stores have.
    pub fn evict(&mut self, scope: &Scope, bytes: u64) {
        evict(scope, &mut self.table, bytes);
    }
}

/// See [`ValueState::evict`]; for tables without an order of their own.
pub(super) fn evict(scope: &Scope, table: &mut Table, bytes: u64) {
    let mut sizes = [0; AGES];
    table.add_ages(scope, &mut sizes);
    if let Some((last, mut part)) = cut(&sizes, bytes) {
        table.evict(scope, last, &mut part);
    }
}
