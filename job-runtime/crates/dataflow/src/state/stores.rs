//! The stores of one worker, found by shard.
//!
//! Owns the stores and the way from a key group to its store. What is in them, and when it is written, is decided elsewhere.

use super::{ShardStore, StateError};
use crate::key::{KeyGroup, ShardId, Shards};

/// The stores of the shards that a worker owns.
pub struct Stores {
    shards: Shards,
    stores: Vec<Box<dyn ShardStore>>,
    /// Place in `stores`, by shard.
    place: Vec<Option<usize>>,
}

impl Stores {
    /// Of a job with `shards` shards.
    pub fn new(shards: Shards, stores: Vec<Box<dyn ShardStore>>) -> Self {
        let mut stores = Self { shards, stores, place: vec![None; usize::from(shards.count())] };
        stores.leave(&[]);
        stores
    }

    /// The job's shards.
    pub fn shards(&self) -> Shards {
        self.shards
    }

    /// The store that holds a key group.
    ///
    /// # Errors
    /// When the worker does not own the shard.
    pub fn of(&self, group: KeyGroup) -> Result<&dyn ShardStore, StateError> {
        let shard = self.shards.shard_of(group);
        match self.place.get(usize::from(shard.0)) {
            Some(Some(place)) => Ok(self.stores[*place].as_ref()),
            Some(None) | None => Err(not_owned(shard)),
        }
    }

    /// Gives up the stores of these shards.
    pub fn leave(&mut self, shards: &[ShardId]) {
        for mut store in self.stores.extract_if(.., |store| shards.contains(&store.shard())) {
            store.leave();
        }
        self.place.fill(None);
        for (index, store) in self.stores.iter().enumerate() {
            if let Some(place) = self.place.get_mut(usize::from(store.shard().0)) {
                *place = Some(index);
            }
        }
    }

    /// All stores.
    pub fn iter(&self) -> impl Iterator<Item = &dyn ShardStore> {
        self.stores.iter().map(|store| store.as_ref() as &dyn ShardStore)
    }

    /// All stores, to apply changes.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Box<dyn ShardStore>> {
        self.stores.iter_mut()
    }

    /// Reads full state keys with one `multi_get` per shard and calls `found` with the place in `keys` and the value of each that there is.
    /// `keys` are sorted.
    ///
    /// # Errors
    /// When a store cannot be read, or a key is of a shard that the worker does not own.
    pub fn multi_get<E: From<StateError>>(
        &self,
        keys: &[&[u8]],
        mut found: impl FnMut(usize, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let group = |key: &[u8]| KeyGroup(u16::from_be_bytes([key[0], key[1]]));
        let mut at = 0;
        while at < keys.len() {
            let first = group(keys[at]);
            let end = self.shards.groups(self.shards.shard_of(first)).end;
            let same = keys[at..].iter().take_while(|key| group(key).0 < end).count();
            let values = self.of(first)?.multi_get(&keys[at..at + same])?;
            for (place, value) in values.iter().enumerate() {
                if let Some(value) = value {
                    found(at + place, value)?;
                }
            }
            at += same;
        }
        Ok(())
    }
}

fn not_owned(shard: ShardId) -> StateError {
    StateError { shard, message: "this worker does not own the shard".to_owned() }
}
