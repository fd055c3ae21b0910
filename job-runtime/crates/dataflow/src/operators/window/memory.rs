//! What of the open windows is in memory: fetching what is not, and making room.
//!
//! Owns which groups leave. How much must leave is the worker's decision.

use std::ops::Range;

use super::{Open, VERSION, WindowAggregate, WindowError, write_state_key};
use crate::graph::OperatorUid;
use crate::key::{ShardId, group_of};
use crate::operators::{StateSize, Stateful};
use crate::state::Stores;
use crate::state::age::{AGES, class, cut};
use crate::worker::CommitId;

impl Open {
    /// Looks up those groups of `new` that a store may have; returns how many were looked up.
    pub(super) fn fetch(
        &mut self,
        new: Range<u32>,
        uid: OperatorUid,
        end: i64,
        stores: &Stores,
    ) -> Result<u64, WindowError> {
        let (mut keys, mut ends) = (Vec::new(), Vec::new());
        let mut key = Vec::new();
        for group in new {
            let key_group = group_of(self.groups.hash(group));
            if self.spilled.contains(key_group) {
                write_state_key(&mut key, key_group, uid, end);
                self.groups.write_key(group, &mut key);
                keys.extend_from_slice(&key);
                ends.push((keys.len(), group));
            }
        }
        let starts = std::iter::once(0).chain(ends.iter().map(|(end, _)| *end));
        let mut wanted: Vec<(&[u8], u32)> =
            starts.zip(&ends).map(|(at, &(end, group))| (&keys[at..end], group)).collect();
        wanted.sort_unstable();
        let keys: Vec<&[u8]> = wanted.iter().map(|(key, _)| *key).collect();
        stores.multi_get(&keys, |place, value| self.groups.load(wanted[place].1, checked(value)?))?;
        Ok(keys.len() as u64)
    }
}

/// A stored value without its version.
pub(super) fn checked(value: &[u8]) -> Result<&[u8], WindowError> {
    match value.split_first() {
        Some((&VERSION, value)) => Ok(value),
        Some((&version, _)) => Err(WindowError::Version(version)),
        None => Err(WindowError::damaged("an entry is cut short")),
    }
}

impl WindowAggregate {
    /// The changes of all commits through `commit` are in the stores.
    pub fn applied(&mut self, commit: CommitId) {
        self.applied = commit.0 as u32;
    }

    /// True if the stores do not have all changes yet.
    pub fn is_behind(&self) -> bool {
        self.taken != self.applied || self.open.values().any(|open| open.groups.is_dirty())
    }

    /// Takes groups out of memory, the least recently written first, until about `bytes` are free or none is left that the stores have.
    pub fn evict(&mut self, bytes: u64) {
        let mut sizes = [0u64; AGES];
        for open in self.open.values() {
            let each = size_of_each(open);
            open.groups.clean(self.taken, self.applied, |_, age| sizes[class(age)] += each);
        }
        let Some((last, mut part)) = cut(&sizes, bytes) else { return };
        for open in self.open.values_mut() {
            let each = size_of_each(open);
            let mut gone = Vec::new();
            open.groups.clean(self.taken, self.applied, |group, age| {
                let class = class(age);
                if class > last || (class == last && part > 0) {
                    part -= if class == last { part.min(each) } else { 0 };
                    gone.push(group);
                }
            });
            if gone.is_empty() {
                continue;
            }
            let before = open.groups.bytes();
            gone.iter().for_each(|&group| open.spilled.insert(group_of(open.groups.hash(group))));
            open.groups.forget(&gone);
            self.bytes = self.bytes + open.groups.bytes() - before;
            self.evictions += gone.len() as u64;
        }
    }
}

impl WindowAggregate {
    /// These shards are another pod's: forgets their groups and notes. No window is being emitted, and no change waits for a barrier.
    pub fn leave(&mut self, shards: &[ShardId]) {
        self.notes.retain(|shard, _| !shards.contains(shard));
        let of = self.shards;
        for open in self.open.values_mut() {
            let is_gone = |group: &u32| shards.contains(&of.shard_of(group_of(open.groups.hash(*group))));
            let gone: Vec<u32> = (0..open.groups.len() as u32).filter(is_gone).collect();
            let before = open.groups.bytes();
            open.groups.forget(&gone);
            self.bytes = self.bytes + open.groups.bytes() - before;
            for groups in shards.iter().map(|shard| of.groups(*shard)) {
                open.stored.remove(&groups);
                open.spilled.remove(&groups);
            }
        }
    }
}

impl Stateful for WindowAggregate {
    fn size(&self) -> StateSize {
        Self::size(self)
    }

    fn is_behind(&self) -> bool {
        Self::is_behind(self)
    }

    fn on_applied(&mut self, commit: CommitId, _: &Stores) {
        self.applied(commit);
    }

    fn leave(&mut self, shards: &[ShardId]) {
        Self::leave(self, shards);
    }

    fn evict(&mut self, bytes: u64) {
        Self::evict(self, bytes);
    }
}

fn size_of_each(open: &Open) -> u64 {
    (open.groups.bytes() / open.groups.len().max(1)).max(1) as u64
}
