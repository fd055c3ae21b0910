//! Keys, key groups and shards: how a row's key decides, for ever, where its state lives.
//!
//! Owns the key encoding and the hash. No library's hash or row format ever reaches anything stored.
//!
//! # Key encoding, for ever
//! The key columns one after the other; no key column at all is the empty key. Each column starts with a marker: `0` is null and nothing
//! follows, `1` is a value and this follows:
//!
//! | type | bytes |
//! | --- | --- |
//! | Boolean | one byte, 0 or 1 |
//! | Int8, Int16, Int32, Int64, Date32, Time32, Time64, Timestamp, Decimal128 | big endian, sign bit flipped, as wide as the type |
//! | Float32, Float64 | big endian bits; of a negative number all bits are flipped, else the sign bit; `-0.0` is `0.0`, every NaN is one NaN |
//! | Utf8, Binary | length as u32 big endian, then the bytes |
//!
//! The encoding is self-delimiting, so equal encodings are equal keys (SQL's grouping: null equals null, NaN equals NaN). Comparing
//! encodings orders keys with nulls first and fixed-width values ascending; strings go by length first.
//!
//! The hash of a key is `xxh3_64` (seed 0) of its encoding; its key group is the hash modulo 4096.

mod decode;
mod encode;
mod set;

pub use decode::{KeyDecodeError, KeyDecoder};
pub(crate) use encode::write_fixed as write_fixed_key;
pub use encode::{EncodedKeys, KeyEncoder, UnsupportedKey, hash_bytes};
pub use set::KeyGroupSet;

/// Number of key groups, for ever.
pub const KEY_GROUPS: u16 = 4096;

/// A key group: `xxh3_64(encoded key) % 4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyGroup(pub u16);

/// The key group of a key's hash.
pub fn group_of(hash: u64) -> KeyGroup {
    KeyGroup((hash % u64::from(KEY_GROUPS)) as u16)
}

/// A hash that leads to `group`, and else is `hash`: of a key whose state lies elsewhere than its own hash says.
pub fn in_group(hash: u64, group: KeyGroup) -> u64 {
    hash - hash % u64::from(KEY_GROUPS) + u64::from(group.0)
}

/// A contiguous range of key groups: the unit of ownership, one changelog partition, one state database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// How many shards a job has (1 to 4096; changed only through a savepoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards(u16);

impl Shards {
    /// `None` unless `1 <= count <= 4096`.
    pub fn new(count: u16) -> Option<Self> {
        (1..=KEY_GROUPS).contains(&count).then_some(Self(count))
    }

    /// The count.
    pub fn count(self) -> u16 {
        self.0
    }

    /// All shards.
    pub fn all(self) -> impl Iterator<Item = ShardId> {
        (0..self.0).map(ShardId)
    }

    /// The shard that holds a key group.
    pub fn shard_of(self, group: KeyGroup) -> ShardId {
        ShardId((u32::from(group.0) * u32::from(self.0) / u32::from(KEY_GROUPS)) as u16)
    }

    /// The key groups of a shard, as `first..end`.
    pub fn groups(self, shard: ShardId) -> std::ops::Range<u16> {
        let edge = |s: u32| (s * u32::from(KEY_GROUPS)).div_ceil(u32::from(self.0)) as u16;
        edge(u32::from(shard.0))..edge(u32::from(shard.0) + 1)
    }
}

#[cfg(test)]
mod tests;
