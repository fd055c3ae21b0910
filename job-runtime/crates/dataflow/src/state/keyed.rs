//! Keyed state of stream operators: a value, a list or a map per key, and timers in event time, above a write-back table.
//!
//! Owns the layouts, what is in memory of them, what a commit writes, and when an entry expires. It owns no store and no clock: misses are read
//! from the stores that it is given, one `multi_get` per shard and call; changes go out with the commit; time is the operator's watermark.
//!
//! An operator makes one [`Scope`] and any number of [`ValueState`], [`ListState`], [`MapState`] and [`Timers`] in it. With every batch it
//! calls `find` once, which touches each distinct key once, and works with the [`Slot`]s of its rows from then on. Slots hold until the next
//! call of `find` or `evict`. At a barrier it collects the changes of all parts and then calls [`Scope::write_notes`].
//!
//! # Memory
//! An entry may leave memory once the commit that holds its last change is in the store; the least recently used go first, timers from the
//! latest. A state knows the key groups that something was taken out of, or that a store had when it was opened: only a new key in one of
//! these is looked up. All entries of a state lie in one arena: nothing is allocated for a row.
//!
//! # Stored layout
//! State key: `key group u16 BE | uid u32 BE | kind u8 | rest`. The kind's upper half says what it is, its lower half numbers the states of
//! that kind that one operator has.
//!
//! | kind | rest |
//! | --- | --- |
//! | `00` note | nothing; at the first key group of a shard (see `note`) |
//! | `1n` value | user key |
//! | `2n` list | user key, index u64 BE; the index of all ones holds the list's bounds: `first u64 LE, next u64 LE` |
//! | `3n` map | user key, map key |
//! | `4n` timer | time i64 BE with the sign bit flipped, user key |
//!
//! User keys are encoded as in [`crate::key`]: none is the beginning of another. Map keys are the operator's bytes.
//!
//! Value, version 1: `version u8 = 1 | flags u8 | if bit 0 of the flags: expires at i64 LE | the operator's bytes`. Timers have none.
//!
//! # Time to live
//! An entry is written with the time at which it expires: the operator's watermark plus its time to live. It is gone for a reader whose watermark has
//! reached that. Nothing is written about it: stores may drop it by themselves, at a time that is in the log already ([`ShardStore::expire`]),
//! and a copy that is made again from the log has the entry, with the same time. So all copies say the same. An entry that is written before the
//! operator has any watermark has no such time: it expires only after it is written again.
//!
//! [`ShardStore::expire`]: super::ShardStore::expire

mod list;
mod map;
mod note;
mod scope;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod value;

pub use list::ListState;
pub use map::MapState;
pub use note::{Columns, Description, NoteError, StoredNote};
pub use scope::{Lifetime, Scope, ScopeConfig};
pub use table::Touches;
pub use timers::{Due, Timers};
pub use value::ValueState;

use super::{STATE_KEY_PREFIX, StateError};
use table::{FLAG_EXPIRES, VERSION};

/// Place of a key's entry; see the module's text for how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub(crate) u32);

/// "Never expires".
pub const NEVER: i64 = i64::MAX;

/// What an entry of keyed state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What a shard must know of an operator at a start.
    Note,
    /// One value per key.
    Value,
    /// An element of a list, or a list's bounds.
    List,
    /// An entry of a map.
    Map,
    /// A timer.
    Timer,
}

impl Kind {
    /// The byte of the state key.
    pub fn byte(self, number: u8) -> u8 {
        let upper = match self {
            Self::Note => 0,
            Self::Value => 1,
            Self::List => 2,
            Self::Map => 3,
            Self::Timer => 4,
        };
        upper << 4 | (number & 0x0f)
    }

    /// What a byte of a state key says, with the number.
    pub fn of(byte: u8) -> Option<(Self, u8)> {
        let kind = match byte >> 4 {
            0 if byte == 0 => Self::Note,
            1 => Self::Value,
            2 => Self::List,
            3 => Self::Map,
            4 => Self::Timer,
            _ => return None,
        };
        Some((kind, byte & 0x0f))
    }
}

/// Keyed state cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyedError {
    /// A store cannot be read.
    #[error(transparent)]
    State(#[from] StateError),
    /// Written by a newer release.
    #[error("stored state has version {0}, this release reads {VERSION}: start the release that wrote it")]
    Version(u8),
    /// Not what an operator like this writes.
    #[error("stored state is damaged: {message}")]
    Damaged {
        /// What is wrong.
        message: String,
    },
}

impl KeyedError {
    pub(crate) fn damaged(message: impl Into<String>) -> Self {
        Self::Damaged { message: message.into() }
    }
}

impl From<NoteError> for KeyedError {
    fn from(error: NoteError) -> Self {
        match error {
            NoteError::Version(version) => Self::Version(version),
            NoteError::Damaged => Self::damaged("the note of a shard cannot be read"),
        }
    }
}

/// When a stored value expires, and the operator's bytes.
///
/// # Errors
/// When the value is of a newer release or cut short.
pub fn stored_value(value: &[u8]) -> Result<(i64, &[u8]), KeyedError> {
    match value {
        [VERSION, 0, payload @ ..] => Ok((NEVER, payload)),
        [VERSION, FLAG_EXPIRES, rest @ ..] => match rest.split_first_chunk::<8>() {
            Some((at, payload)) => Ok((i64::from_le_bytes(*at), payload)),
            None => Err(KeyedError::damaged("a value is cut short")),
        },
        [VERSION, flags, ..] => Err(KeyedError::damaged(format!("a value has the unknown flags {flags:02x}"))),
        [VERSION] | [] => Err(KeyedError::damaged("a value is cut short")),
        [version, ..] => Err(KeyedError::Version(*version)),
    }
}

/// True if an entry of the keyed state of an operator expired at `through_ms` or before. What cannot be read has not.
pub fn is_expired(key: &[u8], value: &[u8], through_ms: i64) -> bool {
    let kind = key.get(STATE_KEY_PREFIX).and_then(|byte| Kind::of(*byte));
    match kind {
        Some((Kind::Value | Kind::List | Kind::Map, _)) => {
            matches!(stored_value(value), Ok((expires, _)) if expires <= through_ms)
        }
        Some((Kind::Note | Kind::Timer, _)) | None => false,
    }
}

/// A time as bytes that order as times do.
pub(crate) fn ordered_time(time_ms: i64) -> [u8; 8] {
    (time_ms as u64 ^ (1 << 63)).to_be_bytes()
}

/// Undoes [`ordered_time`].
pub(crate) fn time_of(bytes: [u8; 8]) -> i64 {
    (u64::from_be_bytes(bytes) ^ (1 << 63)) as i64
}
