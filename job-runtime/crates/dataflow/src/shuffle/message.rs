//! The message that carries rows of one pod to one shard of another, and what it says about the sender's event time.
//!
//! Owns the layout. It decides nothing about when to send (see `outgoing`) or what the times mean (see `slots`).
//!
//! # Record value, version 1 (all integers little-endian)
//! `version u8 = 1 | job u64 | assignment u64 | slot u16 | exchange uid u32 | shard u16 | commit u64 | idle u8 | watermark i64 | blocks u32 |
//! per block: kind u8, length u32, block | crc32 u32 of all before`
//!
//! The job is the hash of its uid, the slot the ordinal of the sending pod. The event time holds after the message's rows; a watermark of
//! `i64::MIN` says nothing, of `i64::MAX` the end of the sender's input. A message without blocks is a heartbeat. Kinds of blocks: 1 rows of the
//! exchange, 2 partial aggregates of the window behind it.

use crate::graph::OperatorUid;
use crate::key::ShardId;
use crate::watermark::EventTime;

const VERSION: u8 = 1;
const HEADER: usize = 1 + 8 + 8 + 2 + 4 + 2 + 8 + 1 + 8 + 4;
/// Bytes of a message besides its blocks' own.
pub(super) const FIXED: usize = HEADER + 4;
/// Bytes of a block besides its own.
pub(super) const PER_BLOCK: usize = 5;
/// A message is not given a further block beyond this size: below the broker's limit of a megabyte.
pub const MESSAGE_BYTES: usize = 800 << 10;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockKind {
    /// Rows of the exchange.
    Rows = 1,
    /// Partial aggregates of the window behind it.
    Partial = 2,
}

/// Which stream of messages one is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Hash of the job's uid.
    pub job: u64,
    /// The exchange.
    pub exchange: OperatorUid,
    /// The shard that the rows belong to.
    pub shard: ShardId,
}

/// A message without its route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Number of the assignment that the sender worked under.
    pub assignment: u64,
    /// The sender's ordinal.
    pub slot: u16,
    /// The sender's commit that it is of; for people.
    pub commit: u64,
    /// The sender's event time behind these rows.
    pub time: EventTime,
    /// Rows.
    pub blocks: Vec<(BlockKind, &'a [u8])>,
}

/// A message cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// Written by a newer release.
    #[error("the message has version {0}, this release reads up to {VERSION}; run the newer release")]
    Version(u8),
    /// Cut short, or the checksum differs.
    #[error("the message is damaged")]
    Damaged,
    /// Of another job, exchange or shard.
    #[error("the message is of another job, exchange or shard")]
    Foreign,
}

impl Message<'_> {
    /// Encodes for a route.
    pub fn encode(&self, route: Route) -> Vec<u8> {
        let blocks: usize = self.blocks.iter().map(|(_, block)| PER_BLOCK + block.len()).sum();
        let mut out = Vec::with_capacity(FIXED + blocks);
        out.push(VERSION);
        out.extend_from_slice(&route.job.to_le_bytes());
        out.extend_from_slice(&self.assignment.to_le_bytes());
        out.extend_from_slice(&self.slot.to_le_bytes());
        out.extend_from_slice(&route.exchange.0.to_le_bytes());
        out.extend_from_slice(&route.shard.0.to_le_bytes());
        out.extend_from_slice(&self.commit.to_le_bytes());
        out.push(u8::from(self.time.idle));
        out.extend_from_slice(&self.time.watermark_ms.to_le_bytes());
        out.extend_from_slice(&(self.blocks.len() as u32).to_le_bytes());
        for (kind, block) in &self.blocks {
            out.push(*kind as u8);
            out.extend_from_slice(&(block.len() as u32).to_le_bytes());
            out.extend_from_slice(block);
        }
        out.extend_from_slice(&crc32fast::hash(&out).to_le_bytes());
        out
    }
}

/// Decodes a message that was read from the place of `route`.
///
/// # Errors
/// See [`MessageError`]; nothing of a damaged message is returned.
pub fn decode(route: Route, value: &[u8]) -> Result<Message<'_>, MessageError> {
    match value.first() {
        Some(&VERSION) => {}
        Some(&version) => return Err(MessageError::Version(version)),
        None => return Err(MessageError::Damaged),
    }
    let (body, crc) = value.split_last_chunk::<4>().ok_or(MessageError::Damaged)?;
    if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
        return Err(MessageError::Damaged);
    }
    let rest = &mut &body[1..];
    let job = u64::from_le_bytes(take(rest)?);
    let (assignment, slot) = (u64::from_le_bytes(take(rest)?), u16::from_le_bytes(take(rest)?));
    let exchange = OperatorUid(u32::from_le_bytes(take(rest)?));
    let shard = ShardId(u16::from_le_bytes(take(rest)?));
    if route != (Route { job, exchange, shard }) {
        return Err(MessageError::Foreign);
    }
    let commit = u64::from_le_bytes(take(rest)?);
    let [idle] = take::<1>(rest)?;
    let watermark_ms = i64::from_le_bytes(take(rest)?);
    let count = u32::from_le_bytes(take(rest)?);
    let mut blocks = Vec::new();
    for _ in 0..count {
        let kind = match take(rest)? {
            [1] => BlockKind::Rows,
            [2] => BlockKind::Partial,
            [_] => return Err(MessageError::Damaged),
        };
        let length = u32::from_le_bytes(take(rest)?) as usize;
        let (block, tail) = rest.split_at_checked(length).ok_or(MessageError::Damaged)?;
        blocks.push((kind, block));
        *rest = tail;
    }
    if idle > 1 || !rest.is_empty() {
        return Err(MessageError::Damaged);
    }
    Ok(Message { assignment, slot, commit, time: EventTime { watermark_ms, idle: idle == 1 }, blocks })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], MessageError> {
    let (chunk, tail) = rest.split_first_chunk::<N>().ok_or(MessageError::Damaged)?;
    *rest = tail;
    Ok(*chunk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ROUTE: Route = Route { job: 0x0102_0304_0506_0708, exchange: OperatorUid(77), shard: ShardId(5) };

    proptest! {
        #[test]
        fn any_message_comes_back(
            (assignment, slot, commit) in any::<(u64, u16, u64)>(),
            (watermark_ms, idle) in any::<(i64, bool)>(),
            blocks in any::<Vec<(bool, Vec<u8>)>>(),
        ) {
            let kind = |partial| if partial { BlockKind::Partial } else { BlockKind::Rows };
            let blocks = blocks.iter().map(|(partial, bytes)| (kind(*partial), bytes.as_slice())).collect();
            let message = Message { assignment, slot, commit, time: EventTime { watermark_ms, idle }, blocks };
            let bytes = message.encode(ROUTE);
            prop_assert_eq!(decode(ROUTE, &bytes), Ok(message));
        }
    }

    #[test]
    fn the_layout_is_pinned() {
        let time = EventTime { watermark_ms: 1_000, idle: true };
        let message = Message { assignment: 3, slot: 2, commit: 9, time, blocks: vec![(BlockKind::Partial, &[7, 8])] };
        let bytes = message.encode(ROUTE);
        let expected = [
            1, 8, 7, 6, 5, 4, 3, 2, 1, 3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 77, 0, 0, 0, 5, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 232,
            3, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 2, 0, 0, 0, 7, 8,
        ];
        assert_eq!(bytes[..bytes.len() - 4], expected);
        assert_eq!(bytes.len(), FIXED + PER_BLOCK + 2);
    }

    #[test]
    fn foreign_newer_and_damaged_messages_are_told_apart() {
        let message = Message {
            assignment: 1,
            slot: 0,
            commit: 1,
            time: EventTime::START,
            blocks: vec![(BlockKind::Rows, b"rows")],
        };
        let bytes = message.encode(ROUTE);
        for other in [
            Route { job: 1, ..ROUTE },
            Route { exchange: OperatorUid(78), ..ROUTE },
            Route { shard: ShardId(6), ..ROUTE },
        ] {
            assert_eq!(decode(other, &bytes), Err(MessageError::Foreign));
        }
        assert_eq!(decode(ROUTE, &[&[2], &bytes[1..]].concat()), Err(MessageError::Version(2)));
        for at in 1..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert_eq!(decode(ROUTE, &damaged), Err(MessageError::Damaged), "byte {at}");
            assert!(decode(ROUTE, &bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
