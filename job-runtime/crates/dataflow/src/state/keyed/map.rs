//! A map per key: each of its entries is an entry of its own in the store.
//!
//! Owns finding entries by key and map key, and going through all of one key's. Map keys are bytes of the operator's making.

use hashbrown::HashTable;

use super::table::{EntryKey, Table, Touches, place};
use super::{KeyedError, Kind, Lifetime, Scope, Slot, stored_value};
use crate::key::{EncodedKeys, KeyGroup, group_of, hash_bytes};
use crate::state::{Changes, Stores, state_key_prefix};

/// End of a chain.
const END: u32 = u32::MAX;

/// A map per key.
pub struct MapState {
    table: Table,
    kind: u8,
    slots: Vec<Slot>,
    /// The newest entry in memory of each user key.
    heads: HashTable<Head>,
    /// By slot: the next entry in memory of the same user key.
    next: Vec<u32>,
    key: Vec<u8>,
    scratch: Vec<u8>,
}

struct Head {
    hash: u64,
    slot: u32,
}

impl MapState {
    /// The operator's maps number `number` (0 to 15), of a restored scope.
    pub fn new(scope: &Scope, number: u8) -> Self {
        let kind = Kind::Map.byte(number);
        Self {
            table: Table::new(kind, scope.found.clone()),
            kind,
            slots: Vec::new(),
            heads: HashTable::new(),
            next: Vec::new(),
            key: Vec::new(),
            scratch: Vec::new(),
        }
    }

    /// Finds the entry of each row's key and map key, as [`ValueState::find`](super::ValueState::find) does values. `hashes` are those of `keys`.
    ///
    /// # Errors
    /// When a store cannot be read, or has something else.
    pub fn find(
        &mut self,
        scope: &Scope,
        stores: &Stores,
        (keys, hashes): (&EncodedKeys, &[u64]),
        map_keys: &EncodedKeys,
    ) -> Result<(), KeyedError> {
        self.slots.clear();
        for (row, &hash) in hashes.iter().enumerate() {
            self.key.clear();
            self.key.extend_from_slice(keys.bytes_of(row, &mut self.scratch));
            let user_len = self.key.len();
            self.key.extend_from_slice(map_keys.bytes_of(row, &mut self.scratch));
            let bytes = self.key.as_slice();
            let key = EntryKey { hash: hash_bytes(bytes), group: group_of(hash), bytes, user_len };
            let slot = self.table.touch(key, scope);
            self.slots.push(slot);
        }
        self.chain();
        self.table.fetch(scope, stores)
    }

    /// Puts new entries into the chains of their user keys.
    fn chain(&mut self) {
        for at in self.next.len() as u32..self.table.len() as u32 {
            let table = &self.table;
            let user = table.user_key(Slot(at));
            let hash = hash_bytes(user);
            let same = |head: &Head| head.hash == hash && table.user_key(Slot(head.slot)) == user;
            match self.heads.find_mut(place(hash), same) {
                Some(head) => self.next.push(std::mem::replace(&mut head.slot, at)),
                None => {
                    self.heads.insert_unique(place(hash), Head { hash, slot: at }, |head| place(head.hash));
                    self.next.push(END);
                }
            }
        }
    }

    /// The place of a row's entry.
    pub fn slot(&self, row: usize) -> Slot {
        self.slots[row]
    }

    /// The value of an entry, if there is one.
    pub fn get(&self, scope: &Scope, slot: Slot) -> Option<&[u8]> {
        self.table.get(scope, slot)
    }

    /// Sets the value of an entry.
    pub fn set(&mut self, scope: &Scope, slot: Slot, lifetime: Lifetime, value: &[u8]) {
        self.table.put(slot, scope.expires(lifetime), value);
    }

    /// Removes an entry.
    pub fn remove(&mut self, slot: Slot) {
        self.table.remove(slot);
    }

    /// Calls `visit` with every map key and value of one user key, in no order.
    ///
    /// # Errors
    /// When a store cannot be read, or has something else.
    pub fn entries_of(
        &self,
        scope: &Scope,
        stores: &Stores,
        (user, group): (&[u8], KeyGroup),
        mut visit: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), KeyedError> {
        let hash = hash_bytes(user);
        let same = |head: &Head| head.hash == hash && self.table.user_key(Slot(head.slot)) == user;
        let mut at = self.heads.find(place(hash), same).map_or(END, |head| head.slot);
        while at != END {
            if let Some(value) = self.table.get(scope, Slot(at)) {
                visit(&self.table.key(Slot(at))[user.len()..], value);
            }
            at = self.next[at as usize];
        }
        if !self.table.spilled.contains(group) {
            return Ok(());
        }
        let mut prefix = Vec::new();
        state_key_prefix(group, scope.uid, &mut prefix);
        let start = prefix.len() + 1;
        prefix.push(self.kind);
        prefix.extend_from_slice(user);
        let mut failed = None;
        stores.of(group)?.scan(&prefix, &mut |key, value| {
            let bytes = &key[start..];
            let key = EntryKey { hash: hash_bytes(bytes), group, bytes, user_len: user.len() };
            // What is in memory is at least as new.
            if self.table.find(key).is_some() {
                return;
            }
            match stored_value(value) {
                Ok((expires, value)) if !scope.has_passed(expires) => visit(&bytes[user.len()..], value),
                Ok(_) => {}
                Err(error) => failed = failed.take().or(Some(error)),
            }
        })?;
        failed.map_or(Ok(()), Err)
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
        self.table.bytes() + (self.heads.allocation_size() + self.next.len() * size_of::<u32>()) as u64
    }

    /// What was read and what has left.
    pub fn touches(&self) -> Touches {
        self.table.touches
    }

    /// As [`ValueState::evict`](super::ValueState::evict).
    pub fn evict(&mut self, scope: &Scope, bytes: u64) {
        super::value::evict(scope, &mut self.table, bytes);
        self.heads.clear();
        self.next.clear();
        self.chain();
    }
}
