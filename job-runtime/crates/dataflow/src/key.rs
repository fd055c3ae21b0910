//! Keys, key groups and shards: how a row's key decides, for ever, where its state lives.
//!
//! Owns the key encoding and the hash. No library's hash or row format ever reaches anything stored.

/// Number of key groups, for ever.
pub const KEY_GROUPS: u16 = 4096;

/// A key group: `xxh3_64(encoded key) % 4096`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyGroup(pub u16);

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
