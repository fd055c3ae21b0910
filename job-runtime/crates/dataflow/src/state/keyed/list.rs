//! A list per key: elements are added at its end and taken from its front.
//!
//! Owns the numbering of elements: each has an index for ever, and an entry of its own holds the list's bounds (layout: see `keyed`). An
//! element is written without being looked for, because nothing can stand at a new index.

use super::table::{EntryKey, Table, Touches};
use super::{KeyedError, Kind, Lifetime, NEVER, Scope, Slot};
use crate::key::{EncodedKeys, KeyGroup, group_of, hash_bytes};
use crate::state::{Changes, Stores};

/// The index at which the bounds stand.
const BOUNDS: u64 = u64::MAX;

/// A list per key.
pub struct ListState {
    table: Table,
    slots: Vec<Slot>,
    /// Key of the entry at hand.
    key: Vec<u8>,
    scratch: Vec<u8>,
}

impl ListState {
    /// The operator's lists number `number` (0 to 15), of a restored scope.
    pub fn new(scope: &Scope, number: u8) -> Self {
        let table = Table::new(Kind::List.byte(number), scope.found.clone());
        Self { table, slots: Vec::new(), key: Vec::new(), scratch: Vec::new() }
    }

    /// Finds the bounds of the lists of all rows, as [`ValueState::find`](super::ValueState::find) does values.
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
        self.slots.clear();
        for (row, &hash) in hashes.iter().enumerate() {
            self.key.clear();
            self.key.extend_from_slice(keys.bytes_of(row, &mut self.scratch));
            let slot = self.table.touch(with_index(&mut self.key, group_of(hash), BOUNDS), scope);
            self.slots.push(slot);
        }
        self.table.fetch(scope, stores)
    }

    /// The place of a row's list.
    pub fn slot(&self, row: usize) -> Slot {
        self.slots[row]
    }

    /// Number of elements, expired ones in the middle too.
    ///
    /// # Errors
    /// When what is stored has another layout.
    pub fn len(&self, scope: &Scope, list: Slot) -> Result<u64, KeyedError> {
        self.bounds(scope, list).map(|(first, next)| next - first)
    }

    fn bounds(&self, scope: &Scope, list: Slot) -> Result<(u64, u64), KeyedError> {
        let Some(value) = self.table.get(scope, list) else { return Ok((0, 0)) };
        let number = |at: usize| value.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        match (number(0), number(8), value.len()) {
            (Some(first), Some(next), 16) if first <= next => Ok((first, next)),
            _ => Err(KeyedError::damaged("the bounds of a list cannot be read")),
        }
    }

    fn set_bounds(&mut self, list: Slot, expires: i64, first: u64, next: u64) {
        let mut value = [0; 16];
        value[..8].copy_from_slice(&first.to_le_bytes());
        value[8..].copy_from_slice(&next.to_le_bytes());
        self.table.put(list, expires, &value);
    }

    /// The entry of an element, which need not be known.
    fn element(&mut self, scope: &Scope, list: Slot, index: u64) -> Slot {
        self.key.clear();
        self.key.extend_from_slice(self.table.user_key(list));
        let group = self.table.group(list);
        self.table.touch_unread(with_index(&mut self.key, group, index), scope)
    }

    /// Adds an element at the end. The list lives at least as long as it.
    ///
    /// # Errors
    /// When what is stored has another layout.
    pub fn append(&mut self, scope: &Scope, list: Slot, lifetime: Lifetime, value: &[u8]) -> Result<(), KeyedError> {
        let (first, next) = self.bounds(scope, list)?;
        let element = self.element(scope, list, next);
        let expires = scope.expires(lifetime);
        self.table.put(element, expires, value);
        let lives = if first == next { expires } else { self.table.expiry(list).unwrap_or(NEVER).max(expires) };
        self.set_bounds(list, lives, first, next + 1);
        Ok(())
    }

    /// Calls `visit` with each element of some lists, in order, as the place of its list in `lists` and its value. What is not in memory is read with
    /// one `multi_get` per shard.
    ///
    /// # Errors
    /// When a store cannot be read, or has something else.
    pub fn read(
        &mut self,
        scope: &Scope,
        stores: &Stores,
        lists: &[Slot],
        mut visit: impl FnMut(usize, &[u8]),
    ) -> Result<(), KeyedError> {
        let mut elements = Vec::new();
        for (place, &list) in lists.iter().enumerate() {
            let (first, next) = self.bounds(scope, list)?;
            for index in first..next {
                self.key.clear();
                self.key.extend_from_slice(self.table.user_key(list));
                let group = self.table.group(list);
                elements.push((place, self.table.touch(with_index(&mut self.key, group, index), scope)));
            }
        }
        self.table.fetch(scope, stores)?;
        for (place, element) in elements {
            if let Some(value) = self.table.get(scope, element) {
                visit(place, value);
            }
        }
        Ok(())
    }

    /// Removes the first `count` elements, or all.
    ///
    /// # Errors
    /// When what is stored has another layout.
    pub fn drop_front(&mut self, scope: &Scope, list: Slot, count: u64) -> Result<(), KeyedError> {
        let (first, next) = self.bounds(scope, list)?;
        let until = first.saturating_add(count).min(next);
        for index in first..until {
            let element = self.element(scope, list, index);
            self.table.remove_unread(element);
        }
        match until == next {
            true => self.table.remove(list),
            false => self.set_bounds(list, self.table.expiry(list).unwrap_or(NEVER), until, next),
        }
        Ok(())
    }

    /// Removes all elements.
    ///
    /// # Errors
    /// When what is stored has another layout.
    pub fn clear(&mut self, scope: &Scope, list: Slot) -> Result<(), KeyedError> {
        self.drop_front(scope, list, u64::MAX)
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

    /// As [`ValueState::evict`](super::ValueState::evict).
    pub fn evict(&mut self, scope: &Scope, bytes: u64) {
        super::value::evict(scope, &mut self.table, bytes);
    }
}

/// Adds an index to a user key.
fn with_index(key: &mut Vec<u8>, group: KeyGroup, index: u64) -> EntryKey<'_> {
    let user_len = key.len();
    key.extend_from_slice(&index.to_be_bytes());
    EntryKey { hash: hash_bytes(key), group, bytes: key, user_len }
}
