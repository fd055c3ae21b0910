//! Source positions, sink tickets and the names of stream operators with state, all as state: changes of one shard, so that they are durable
//! with everything else of a commit.
//!
//! Owns their layout and their place. They belong to no key: each pod keeps its own in its [`Home`], the first key group of the first shard
//! that it owns. Of a job of one pod that is key group 0 of shard 0.
//!
//! # Keys
//! State key prefix (the home's key group, `OperatorUid::POSITIONS`, `TICKETS` or `OPERATORS`), then `node uid u32 BE`, then the partition's name in
//! UTF-8 (positions), the ticket's key (tickets) or nothing (operators). The node is named by its stable uid, not its place in the graph: it survives an upgrade.
//!
//! # Values
//! - position: `2 | watermark i64 LE | kind u8 | rest`; kind 1 (Kafka): `partition i32 LE | next offset i64 LE | topic UTF-8`; kind 2: the
//!   connector's own bytes. The watermark is that of the rows before the position, `i64::MIN` if they stand for none. Version 1, which is read
//!   too, has no watermark: `1 | kind u8 | rest`
//! - ticket: `1 | the sink's own bytes`
//! - operator: `1 | its name in UTF-8`
//!
//! An operator's value has version 2 if it lies elsewhere than by its own keys, or reads no exchange of its own:
//! `2 | flags u8: bit 0, without an exchange | length of the name u16 LE | name | where it lies, in UTF-8`

use dataflow::graph::OperatorUid;
use dataflow::key::{KeyGroup, ShardId, Shards};
use dataflow::source::{PartitionId, Reached, SourcePosition};
use dataflow::state::{ChangeBatch, STATE_KEY_PREFIX, ShardStore, StateError, state_key_prefix};
use dataflow::watermark::NO_WATERMARK;

use crate::connector::Ticket;

/// Where a pod keeps its positions and tickets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The shard.
    pub shard: ShardId,
    group: KeyGroup,
}

impl Home {
    /// In the first of the shards that a pod owns.
    pub fn new(shards: Shards, first: ShardId) -> Self {
        Self { shard: first, group: KeyGroup(shards.groups(first).start) }
    }
}

const VERSION: u8 = 1;
const POSITION_VERSION: u8 = 2;
/// Of an operator's value with more than its name.
const PLACED: u8 = 2;
const KAFKA: u8 = 1;
const OPAQUE: u8 = 2;
const USER_KEY: usize = STATE_KEY_PREFIX + 4;

/// A stored position or ticket cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookkeepingError {
    /// Written by a newer release.
    #[error(
        "a stored {what} has layout {version}, this release reads up to {known}; run the newer release, or start with --fresh"
    )]
    Version {
        /// Position or ticket.
        what: &'static str,
        /// Its version.
        version: u8,
        /// The newest that is known.
        known: u8,
    },
    /// The bytes do not fit the layout.
    #[error("a stored {what} is damaged; start with --fresh")]
    Damaged {
        /// Position or ticket.
        what: &'static str,
    },
    /// The store cannot be read.
    #[error("{0}")]
    Store(String),
}

impl From<StateError> for BookkeepingError {
    fn from(error: StateError) -> Self {
        Self::Store(error.to_string())
    }
}

/// Adds how far a source partition is read to the changes of the home's shard.
pub fn put_position(
    changes: &mut ChangeBatch,
    home: Home,
    node: OperatorUid,
    partition: &PartitionId,
    reached: &Reached,
) {
    changes.put(&key(home, OperatorUid::POSITIONS, node, partition.0.as_bytes()), &encode_position(reached));
}

/// Adds a ticket to the changes of the home's shard; a ticket without a value removes its key.
pub fn put_ticket(changes: &mut ChangeBatch, home: Home, node: OperatorUid, ticket: &Ticket) {
    let key = key(home, OperatorUid::TICKETS, node, &ticket.key);
    if ticket.value.is_empty() {
        changes.delete(&key);
    } else {
        changes.put(&key, &[&[VERSION], ticket.value.as_slice()].concat());
    }
}

/// All stored positions of a source node, by partition name.
///
/// # Errors
/// When the home's store cannot be read, or an entry is damaged or newer.
pub fn positions(
    store: &dyn ShardStore,
    home: Home,
    node: OperatorUid,
) -> Result<Vec<(PartitionId, Reached)>, BookkeepingError> {
    let entry = |name: &[u8], value: &[u8]| {
        let name = std::str::from_utf8(name).map_err(|_| BookkeepingError::Damaged { what: "position" })?;
        Ok((PartitionId(name.to_owned()), decode_position(value)?))
    };
    entries(store, home, OperatorUid::POSITIONS, node, entry)
}

/// All tickets of a sink node, by key.
///
/// # Errors
/// When the home's store cannot be read, or an entry is damaged or newer.
pub fn tickets(store: &dyn ShardStore, home: Home, node: OperatorUid) -> Result<Vec<Ticket>, BookkeepingError> {
    let entry = |key: &[u8], value: &[u8]| {
        Ok(Ticket { key: key.to_vec(), value: versioned("ticket", value, VERSION)?.to_vec() })
    };
    entries(store, home, OperatorUid::TICKETS, node, entry)
}

/// A stream operator with state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOperator {
    /// Its stable identity.
    pub uid: OperatorUid,
    /// Its name.
    pub name: String,
    /// Where its state lies, in words that are compared and shown; empty where its own keys say.
    pub place: String,
    /// It reads an exchange of its own.
    pub exchanged: bool,
}

/// Adds a stream operator to the changes of the home's shard.
pub fn put_operator(changes: &mut ChangeBatch, home: Home, operator: &StoredOperator) {
    changes.put(&key(home, OperatorUid::OPERATORS, operator.uid, b""), &encode_operator(operator));
}

/// All stream operators that are stored.
///
/// # Errors
/// When the home's store cannot be read, or an entry is damaged or newer.
pub fn operators(store: &dyn ShardStore, home: Home) -> Result<Vec<StoredOperator>, BookkeepingError> {
    let damaged = || BookkeepingError::Damaged { what: "operator" };
    let mut prefix = Vec::with_capacity(STATE_KEY_PREFIX);
    state_key_prefix(home.group, OperatorUid::OPERATORS, &mut prefix);
    let mut out = Vec::new();
    store.scan(&prefix, &mut |key, value| {
        let uid = key[STATE_KEY_PREFIX..].try_into().map(u32::from_be_bytes).map_err(|_| damaged());
        out.push(uid.and_then(|uid| decode_operator(OperatorUid(uid), value)));
    })?;
    out.into_iter().collect()
}

fn encode_operator(operator: &StoredOperator) -> Vec<u8> {
    let StoredOperator { name, place, exchanged, .. } = operator;
    if place.is_empty() && *exchanged {
        return [&[VERSION], name.as_bytes()].concat();
    }
    let length = u16::try_from(name.len()).expect("an operator's name is short");
    let mut out = vec![PLACED, u8::from(!exchanged)];
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(place.as_bytes());
    out
}

fn decode_operator(uid: OperatorUid, value: &[u8]) -> Result<StoredOperator, BookkeepingError> {
    let damaged = || BookkeepingError::Damaged { what: "operator" };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| damaged());
    let Some(body) = value.strip_prefix(&[PLACED]) else {
        let name = text(versioned("operator", value, PLACED)?)?;
        return Ok(StoredOperator { uid, name, place: String::new(), exchanged: true });
    };
    let (&[flags, low, high], rest) = body.split_first_chunk::<3>().ok_or_else(damaged)?;
    let (name, place) = rest.split_at_checked(usize::from(u16::from_le_bytes([low, high]))).ok_or_else(damaged)?;
    match flags {
        0 | 1 => Ok(StoredOperator { uid, name: text(name)?, place: text(place)?, exchanged: flags == 0 }),
        _ => Err(damaged()),
    }
}

fn key(home: Home, kind: OperatorUid, node: OperatorUid, user: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(USER_KEY + user.len());
    state_key_prefix(home.group, kind, &mut key);
    key.extend_from_slice(&node.0.to_be_bytes());
    key.extend_from_slice(user);
    key
}

fn entries<T>(
    store: &dyn ShardStore,
    home: Home,
    kind: OperatorUid,
    node: OperatorUid,
    mut read: impl FnMut(&[u8], &[u8]) -> Result<T, BookkeepingError>,
) -> Result<Vec<T>, BookkeepingError> {
    let mut out = Vec::new();
    store.scan(&key(home, kind, node, b""), &mut |key, value| out.push(read(&key[USER_KEY..], value)))?;
    out.into_iter().collect()
}

pub(crate) fn encode_position(reached: &Reached) -> Vec<u8> {
    let mut out = vec![POSITION_VERSION];
    out.extend_from_slice(&reached.watermark_ms.unwrap_or(NO_WATERMARK).to_le_bytes());
    match &reached.position {
        SourcePosition::Kafka { topic, partition, next_offset } => {
            out.push(KAFKA);
            out.extend_from_slice(&partition.to_le_bytes());
            out.extend_from_slice(&next_offset.to_le_bytes());
            out.extend_from_slice(topic.as_bytes());
        }
        SourcePosition::Opaque(bytes) => {
            out.push(OPAQUE);
            out.extend_from_slice(bytes);
        }
    }
    out
}

pub(crate) fn decode_position(value: &[u8]) -> Result<Reached, BookkeepingError> {
    let damaged = || BookkeepingError::Damaged { what: "position" };
    let (watermark_ms, rest) = match value.split_first() {
        Some((&POSITION_VERSION, rest)) => {
            let (watermark, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            (Some(i64::from_le_bytes(*watermark)).filter(|&ms| ms != NO_WATERMARK), rest)
        }
        Some((&1, rest)) => (None, rest),
        Some((&version, _)) if version > POSITION_VERSION => {
            return Err(BookkeepingError::Version { what: "position", version, known: POSITION_VERSION });
        }
        Some(_) | None => return Err(damaged()),
    };
    let (&kind, rest) = rest.split_first().ok_or_else(damaged)?;
    let position = match kind {
        KAFKA => {
            let (partition, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
            let (next_offset, topic) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
            let topic = std::str::from_utf8(topic).map_err(|_| damaged())?.to_owned();
            let (partition, next_offset) = (i32::from_le_bytes(*partition), i64::from_le_bytes(*next_offset));
            SourcePosition::Kafka { topic, partition, next_offset }
        }
        OPAQUE => SourcePosition::Opaque(rest.to_vec()),
        _ => return Err(damaged()),
    };
    Ok(Reached { position, watermark_ms })
}

fn versioned<'a>(what: &'static str, value: &'a [u8], known: u8) -> Result<&'a [u8], BookkeepingError> {
    match value.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((&version, _)) if version > VERSION => Err(BookkeepingError::Version { what, version, known }),
        Some(_) | None => Err(BookkeepingError::Damaged { what }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::rocks::{RocksConfig, RocksDatabases};
    use dataflow::state::LogOffset;
    use proptest::prelude::*;

    fn any_position() -> impl Strategy<Value = SourcePosition> {
        prop_oneof![
            (any::<String>(), any::<i32>(), any::<i64>())
                .prop_map(|(topic, partition, next_offset)| SourcePosition::Kafka { topic, partition, next_offset }),
            any::<Vec<u8>>().prop_map(SourcePosition::Opaque),
        ]
    }

    proptest! {
        #[test]
        fn any_position_comes_back_and_no_damage_panics(
            position in any_position(),
            watermark_ms in proptest::option::of(-5..i64::MAX),
            cut in 0usize..40,
        ) {
            let reached = Reached { position, watermark_ms };
            let bytes = encode_position(&reached);
            prop_assert_eq!(decode_position(&bytes), Ok(reached));
            let _ = decode_position(&bytes[..cut.min(bytes.len())]);
        }
    }

    #[test]
    fn positions_and_tickets_of_one_node_are_found_and_others_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(Shards::new(4).unwrap(), ShardId(2));
        let mut store = RocksDatabases::new(dir.path(), RocksConfig::default()).unwrap().open(home.shard).unwrap();
        let (a, b) = (OperatorUid(20), OperatorUid(21));
        let name = |n: &str| PartitionId(n.to_owned());
        let at = |position, watermark_ms| Reached { position, watermark_ms };
        let kafka = at(SourcePosition::Kafka { topic: "flights".into(), partition: 3, next_offset: 77 }, Some(-5));
        let file = at(SourcePosition::Opaque(vec![1, 2]), None);
        let mut changes = ChangeBatch::new();
        put_position(&mut changes, home, a, &name("flights-3"), &kafka);
        put_position(&mut changes, home, a, &name("flights-1"), &file);
        put_position(&mut changes, home, b, &name("flights-9"), &kafka);
        let ticket = |key: &[u8], value: &[u8]| Ticket { key: key.to_vec(), value: value.to_vec() };
        put_ticket(&mut changes, home, a, &ticket(b"w0", b"part-1:17"));
        put_ticket(&mut changes, home, a, &ticket(b"w1", b"gone"));
        put_ticket(&mut changes, home, a, &ticket(b"w1", b""));
        store.apply(&changes, LogOffset(1)).unwrap();
        let found = positions(&store, home, a).unwrap();
        assert_eq!(found, [(name("flights-1"), file), (name("flights-3"), kafka)]);
        assert_eq!(tickets(&store, home, a).unwrap(), [ticket(b"w0", b"part-1:17")]);
        assert_eq!(tickets(&store, home, b).unwrap(), []);
    }

    #[test]
    fn operators_are_found_with_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(Shards::new(4).unwrap(), ShardId(2));
        let mut store = RocksDatabases::new(dir.path(), RocksConfig::default()).unwrap().open(home.shard).unwrap();
        let mut changes = ChangeBatch::new();
        let operator = |uid, name: &str, place: &str, exchanged| StoredOperator {
            uid: OperatorUid(uid),
            name: name.to_owned(),
            place: place.to_owned(),
            exchanged,
        };
        let expected = [
            operator(20, "other", "", true),
            operator(21, "distinct(origin, dest)", "the columns (origin)", false),
            operator(77, "window_aggregate(origin)", "", false),
        ];
        expected.iter().for_each(|operator| put_operator(&mut changes, home, operator));
        put_ticket(&mut changes, home, OperatorUid(20), &Ticket { key: vec![], value: vec![1] });
        store.apply(&changes, LogOffset(1)).unwrap();
        assert_eq!(operators(&store, home).unwrap(), expected);
        assert_eq!(operators(&store, Home::new(Shards::new(2).unwrap(), ShardId(0))).unwrap(), []);
    }

    #[test]
    fn the_home_of_a_single_pod_is_key_group_0_of_shard_0() {
        let home = Home::new(Shards::new(16).unwrap(), ShardId(0));
        assert_eq!((home.shard, home.group), (ShardId(0), KeyGroup(0)));
        assert_eq!(key(home, OperatorUid::POSITIONS, OperatorUid(1), b"p"), [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'p']);
    }

    #[test]
    fn the_layout_of_a_position_is_pinned_and_that_before_it_is_read() {
        let position = SourcePosition::Kafka { topic: "t".into(), partition: 3, next_offset: 258 };
        let rest = [1, 3, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, b't'];
        let reached = Reached { position: position.clone(), watermark_ms: Some(7) };
        assert_eq!(encode_position(&reached), [&[2, 7, 0, 0, 0, 0, 0, 0, 0], rest.as_slice()].concat());
        let before = [&[1], rest.as_slice()].concat();
        assert_eq!(decode_position(&before), Ok(Reached { position, watermark_ms: None }));
    }

    #[test]
    fn the_layouts_of_an_operator_are_for_ever() {
        let operator = |place: &str, exchanged| StoredOperator {
            uid: OperatorUid(20),
            name: "ab".to_owned(),
            place: place.to_owned(),
            exchanged,
        };
        let layouts: [(_, &[u8]); 3] = [
            (operator("", true), &[1, b'a', b'b']),
            (operator("x", true), &[2, 0, 2, 0, b'a', b'b', b'x']),
            (operator("", false), &[2, 1, 2, 0, b'a', b'b']),
        ];
        for (operator, bytes) in layouts {
            assert_eq!(encode_operator(&operator), bytes);
            assert_eq!(decode_operator(OperatorUid(20), bytes), Ok(operator));
        }
        let error = decode_operator(OperatorUid(20), &[3]).unwrap_err();
        assert_eq!(error, BookkeepingError::Version { what: "operator", version: 3, known: PLACED });
        for damaged in [&[2u8, 1, 3, 0, b'a'][..], &[2, 2, 0, 0], &[2, 0], &[2, 0, 1, 0, 0xff]] {
            assert_eq!(decode_operator(OperatorUid(20), damaged), Err(BookkeepingError::Damaged { what: "operator" }));
        }
    }

    #[test]
    fn a_newer_layout_is_refused_by_name() {
        let error = decode_position(&[3, 1]).unwrap_err();
        assert_eq!(error, BookkeepingError::Version { what: "position", version: 3, known: 2 });
    }
}
