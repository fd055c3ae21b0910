//! Keyed state as the engine sees it: a store per shard, and the batch of changes that one commit makes to it.
//!
//! Owns the key layout, the change batch's layout and the store contract. It does not own a database: RocksDB is the runtime's.
//!
//! # State key
//! `key group u16 BE | operator uid u32 BE | user bytes` (the operator documents its user bytes).
//!
//! # Change batch, version 1
//! `version u8 = 1 | repeated: tag u8 (1 put, 2 delete) | key length u32 LE | key | put only: value length u32 LE | value | crc32 u32 LE of all before`.
//!
//! Version 2 has one tag more, 3: delete every key that starts with `key`. A batch without it is written as version 1.

pub(crate) mod age;
pub mod keyed;
mod reshard;
mod stores;

use std::collections::BTreeMap;

pub use reshard::reshard;
pub use stores::Stores;

use crate::graph::OperatorUid;
use crate::key::{KeyGroup, ShardId, Shards};

/// Length of the fixed part of a state key in bytes.
pub const STATE_KEY_PREFIX: usize = 6;

/// Writes the fixed part of a state key.
pub fn state_key_prefix(group: KeyGroup, uid: OperatorUid, out: &mut Vec<u8>) {
    out.extend_from_slice(&group.0.to_be_bytes());
    out.extend_from_slice(&uid.0.to_be_bytes());
}

/// All changes of one commit to one shard, in the layout of the module's documentation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeBatch {
    bytes: Vec<u8>,
    entries: u32,
}

/// Changes of one interval by shard.
#[derive(Debug, Default)]
pub struct Changes {
    by_shard: BTreeMap<ShardId, ChangeBatch>,
}

impl Changes {
    /// The batch of the shard that holds a key group.
    pub fn of(&mut self, shards: Shards, group: KeyGroup) -> &mut ChangeBatch {
        self.by_shard.entry(shards.shard_of(group)).or_default()
    }

    /// True if there are changes of a shard.
    pub fn has(&self, shard: ShardId) -> bool {
        self.by_shard.contains_key(&shard)
    }

    /// One batch per shard that changed.
    pub fn into_shards(self) -> Vec<(ShardId, ChangeBatch)> {
        self.by_shard.into_iter().collect()
    }
}

/// One change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change<'a> {
    /// Set `key` to `value`.
    Put {
        /// Full state key.
        key: &'a [u8],
        /// Value.
        value: &'a [u8],
    },
    /// Remove `key`.
    Delete {
        /// Full state key.
        key: &'a [u8],
    },
    /// Remove every key that starts with `prefix`.
    DeletePrefix {
        /// Start of state keys; never empty.
        prefix: &'a [u8],
    },
}

/// A change batch cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeBatchError {
    /// Written by a newer release.
    #[error("change batch version {0} is newer than this release can read (2)")]
    Version(u8),
    /// The bytes end early or a length runs past the end.
    #[error("change batch is cut short")]
    Truncated,
    /// The checksum differs.
    #[error("change batch checksum is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Stored.
        expected: u32,
        /// Computed.
        found: u32,
    },
    /// A tag that is neither put nor delete.
    #[error("change batch has an unknown tag {0}")]
    Tag(u8),
}

impl Default for ChangeBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ChangeBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self { bytes: vec![1], entries: 0 }
    }

    /// Adds a put.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.bytes.push(1);
        self.field(key);
        self.field(value);
        self.entries += 1;
    }

    /// Adds a delete.
    pub fn delete(&mut self, key: &[u8]) {
        self.bytes.push(2);
        self.field(key);
        self.entries += 1;
    }

    /// Adds the delete of every key that starts with `prefix`.
    pub fn delete_prefix(&mut self, prefix: &[u8]) {
        self.bytes[0] = 2;
        self.bytes.push(3);
        self.field(prefix);
        self.entries += 1;
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.entries as usize
    }

    /// True if there is no change.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Size in bytes of the encoded form, without the checksum.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the changes of `other` after ours.
    pub fn append(&mut self, other: &ChangeBatch) {
        self.bytes[0] = self.bytes[0].max(other.bytes[0]);
        self.bytes.extend_from_slice(&other.bytes[1..]);
        self.entries += other.entries;
    }

    /// The encoded form, with the checksum.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes.len() + 4);
        out.extend_from_slice(&self.bytes);
        out.extend_from_slice(&crc32fast::hash(&self.bytes).to_le_bytes());
        out
    }

    /// Reads the encoded form.
    ///
    /// # Errors
    /// See [`ChangeBatchError`]; nothing of a damaged batch is returned.
    pub fn decode(encoded: &[u8]) -> Result<Self, ChangeBatchError> {
        let (body, tail) = encoded.split_last_chunk::<4>().ok_or(ChangeBatchError::Truncated)?;
        let (expected, found) = (u32::from_le_bytes(*tail), crc32fast::hash(body));
        match body.first() {
            None => return Err(ChangeBatchError::Truncated),
            Some(1 | 2) => {}
            Some(&version) => return Err(ChangeBatchError::Version(version)),
        }
        if expected != found {
            return Err(ChangeBatchError::Checksum { expected, found });
        }
        let mut batch = Self { bytes: body.to_vec(), entries: 0 };
        let mut rest = &body[1..];
        while !rest.is_empty() {
            next_change(&mut rest)?;
            batch.entries += 1;
        }
        Ok(batch)
    }

    /// The changes in order.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        let mut rest = &self.bytes[1..];
        std::iter::from_fn(move || {
            (!rest.is_empty()).then(|| next_change(&mut rest).expect("a batch is checked when it is made or decoded"))
        })
    }

    fn field(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(bytes);
    }
}

fn next_change<'a>(rest: &mut &'a [u8]) -> Result<Change<'a>, ChangeBatchError> {
    let (&tag, tail) = rest.split_first().ok_or(ChangeBatchError::Truncated)?;
    *rest = tail;
    match tag {
        1 => Ok(Change::Put { key: take_field(rest)?, value: take_field(rest)? }),
        2 => Ok(Change::Delete { key: take_field(rest)? }),
        3 => Ok(Change::DeletePrefix { prefix: take_field(rest)? }),
        tag => Err(ChangeBatchError::Tag(tag)),
    }
}

fn take_field<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], ChangeBatchError> {
    let (len, tail) = rest.split_first_chunk::<4>().ok_or(ChangeBatchError::Truncated)?;
    let len = u32::from_le_bytes(*len) as usize;
    if tail.len() < len {
        return Err(ChangeBatchError::Truncated);
    }
    let (field, tail) = tail.split_at(len);
    *rest = tail;
    Ok(field)
}

/// Place of a commit in the log that made it durable: the changelog partition's offset, or the local log's commit number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogOffset(pub i64);

/// The durable state of one shard, owned by one worker. Never ahead of the commit log: `apply` is called only with committed changes.
pub trait ShardStore: Send {
    /// Which shard.
    fn shard(&self) -> ShardId;
    /// Calls `visit` for every entry whose key starts with `prefix`, in key order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StateError>;
    /// Values of `keys`, in their order.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError>;
    /// Applies committed changes and their place in the log in one atomic write.
    ///
    /// # Errors
    /// When the store cannot be written; the job must stop.
    fn apply(&mut self, changes: &ChangeBatch, offset: LogOffset) -> Result<(), StateError>;
    /// The place of the last applied commit; `None` if none was.
    fn applied(&self) -> Option<LogOffset>;
    /// From now on the store may forget entries of an operator's keyed state that expired at `through_ms` or before (see
    /// [`keyed::is_expired`]), whenever it likes and without a record in the log: nobody will see them again. It need not.
    fn expire(&self, operator: OperatorUid, through_ms: i64) {
        let _ = (operator, through_ms);
    }
    /// The shard has become another pod's: its owner applied the last commit that it made of it and gives the store up.
    fn leave(&mut self) {}
}

/// A store failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("state of shard {}: {message}", shard.0)]
pub struct StateError {
    /// The shard.
    pub shard: ShardId,
    /// What is wrong.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_layout_of_version_1_is_for_ever() {
        let mut batch = ChangeBatch::new();
        batch.put(b"k", b"vv");
        batch.delete(b"old");
        let body = [1, 1, 1, 0, 0, 0, b'k', 2, 0, 0, 0, b'v', b'v', 2, 3, 0, 0, 0, b'o', b'l', b'd'];
        let encoded = batch.encode();
        assert_eq!(encoded[..body.len()], body);
        assert_eq!(encoded[body.len()..], crc32fast::hash(&body).to_le_bytes());
    }

    #[test]
    fn a_newer_version_says_so() {
        let mut encoded = ChangeBatch::new().encode();
        encoded[0] = 3;
        assert_eq!(ChangeBatch::decode(&encoded), Err(ChangeBatchError::Version(3)));
        assert_eq!(ChangeBatch::decode(&[1, 2]), Err(ChangeBatchError::Truncated));
    }

    #[test]
    fn the_delete_of_a_prefix_makes_it_version_2() {
        let mut batch = ChangeBatch::new();
        batch.put(b"k", b"v");
        let mut more = ChangeBatch::new();
        more.delete_prefix(b"p");
        batch.append(&more);
        let encoded = batch.encode();
        assert_eq!(encoded[..17], [2, 1, 1, 0, 0, 0, b'k', 1, 0, 0, 0, b'v', 3, 1, 0, 0, 0]);
        let decoded = ChangeBatch::decode(&encoded).unwrap();
        assert_eq!(decoded.iter().nth(1), Some(Change::DeletePrefix { prefix: b"p" }));
        assert_eq!(decoded, batch);
    }

    proptest! {
        #[test]
        fn batches_come_back_and_damage_is_found(
            changes in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..9), prop::option::of(prop::collection::vec(any::<u8>(), 0..9))), 0..9),
            place in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let mut batch = ChangeBatch::new();
            for (key, value) in &changes {
                match value {
                    Some(value) => batch.put(key, value),
                    None => batch.delete(key),
                }
            }
            let mut encoded = batch.encode();
            let decoded = ChangeBatch::decode(&encoded).unwrap();
            prop_assert_eq!(&decoded, &batch);
            prop_assert_eq!(decoded.iter().count(), changes.len());
            let place = place.index(encoded.len());
            encoded[place] ^= flip;
            prop_assert!(ChangeBatch::decode(&encoded).is_err());
        }
    }
}
