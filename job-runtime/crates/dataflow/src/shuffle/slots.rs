//! What a shard knows of the pods that send to it: how far it has read, and each sender's event time.
//!
//! Owns the stored layout and the minimum over the senders. Kept as state of the shard itself, in the same commit as what the rows did: so it
//! moves with the shard, a sender that is at its end need not say so again, and a restart does not turn event time back.
//!
//! # State
//! Key: state key prefix (the shard's first key group, [`OperatorUid::SHUFFLES`]), then the exchange's uid `u32 BE`.
//! Value, version 1 (little-endian): `1 | assignment u64 | next offset i64 | senders u16 | per sender: slot u16, idle u8, watermark i64`.
//! Version 2, if senders have spoken under assignments that the reader has not taken up: `2`, the same, then
//! `words u16 | per word: slot u16, assignment u64, idle u8, watermark i64`.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use crate::graph::OperatorUid;
use crate::key::{ShardId, Shards};
use crate::state::{ShardStore, StateError, state_key_prefix};
use crate::watermark::{EventTime, MinOfInputs};

const PLAIN: u8 = 1;
const VERSION: u8 = 2;

/// How far a shard has read an exchange's messages, and what its senders said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The assignment that the reader worked under.
    pub assignment: u64,
    /// The next offset to read.
    pub next_offset: i64,
    /// Last event time of each sender, by slot.
    pub times: BTreeMap<u16, EventTime>,
    /// By slot: the newest assignment beyond the reader's under which it spoke, and what it said.
    pub later: BTreeMap<u16, (u64, EventTime)>,
}

/// A stored place cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Written by a newer release.
    #[error("the place in a shuffle topic has layout {0}, this release reads up to {VERSION}; run the newer release")]
    Version(u8),
    /// The bytes do not fit the layout.
    #[error("the place in a shuffle topic is damaged; start with --fresh")]
    Damaged,
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StateError),
}

impl Place {
    /// The state key of a shard's place in an exchange.
    pub fn key(shards: Shards, shard: ShardId, exchange: OperatorUid) -> Vec<u8> {
        let mut key = Vec::with_capacity(10);
        state_key_prefix(crate::key::KeyGroup(shards.groups(shard).start), OperatorUid::SHUFFLES, &mut key);
        key.extend_from_slice(&exchange.0.to_be_bytes());
        key
    }

    /// The place that a store has, if anything was ever read.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn stored(store: &dyn ShardStore, shards: Shards, exchange: OperatorUid) -> Result<Option<Self>, PlaceError> {
        let key = Self::key(shards, store.shard(), exchange);
        let found = store.multi_get(&[&key])?.pop().flatten();
        found.map(|value| Self::decode(&value)).transpose()
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![if self.later.is_empty() { PLAIN } else { VERSION }];
        out.extend_from_slice(&self.assignment.to_le_bytes());
        out.extend_from_slice(&self.next_offset.to_le_bytes());
        out.extend_from_slice(&(self.times.len() as u16).to_le_bytes());
        for (slot, time) in &self.times {
            out.extend_from_slice(&slot.to_le_bytes());
            put_time(*time, &mut out);
        }
        if !self.later.is_empty() {
            out.extend_from_slice(&(self.later.len() as u16).to_le_bytes());
        }
        for (slot, (assignment, time)) in &self.later {
            out.extend_from_slice(&slot.to_le_bytes());
            out.extend_from_slice(&assignment.to_le_bytes());
            put_time(*time, &mut out);
        }
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// See [`PlaceError`].
    pub fn decode(value: &[u8]) -> Result<Self, PlaceError> {
        let has_later = match value.first() {
            Some(&PLAIN) => false,
            Some(&VERSION) => true,
            Some(&version) => return Err(PlaceError::Version(version)),
            None => return Err(PlaceError::Damaged),
        };
        let rest = &mut &value[1..];
        let (assignment, next_offset) = (u64::from_le_bytes(take(rest)?), i64::from_le_bytes(take(rest)?));
        let count = u16::from_le_bytes(take(rest)?);
        let (mut times, mut later) = (BTreeMap::new(), BTreeMap::new());
        for _ in 0..count {
            let slot = u16::from_le_bytes(take(rest)?);
            times.insert(slot, take_time(rest)?);
        }
        let words = if has_later { u16::from_le_bytes(take(rest)?) } else { 0 };
        for _ in 0..words {
            let (slot, assignment) = (u16::from_le_bytes(take(rest)?), u64::from_le_bytes(take(rest)?));
            later.insert(slot, (assignment, take_time(rest)?));
        }
        if rest.is_empty() { Ok(Self { assignment, next_offset, times, later }) } else { Err(PlaceError::Damaged) }
    }
}

fn put_time(time: EventTime, out: &mut Vec<u8>) {
    out.push(u8::from(time.idle));
    out.extend_from_slice(&time.watermark_ms.to_le_bytes());
}

fn take_time(rest: &mut &[u8]) -> Result<EventTime, PlaceError> {
    let [idle] = take::<1>(rest)?;
    Ok(EventTime { watermark_ms: i64::from_le_bytes(take(rest)?), idle: idle != 0 })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], PlaceError> {
    let (chunk, tail) = rest.split_first_chunk::<N>().ok_or(PlaceError::Damaged)?;
    *rest = tail;
    Ok(*chunk)
}

/// The event time of one shard's senders: the minimum over all other pods of the assignment. Rows always count; what is said about time counts
/// only under the reader's own assignment: earlier, a sender may have spoken for other source partitions than now, and later ones speak for
/// partitions that this reader does not know to have moved. They are kept until it does: a sender does not repeat what has not changed.
#[derive(Debug)]
pub(crate) struct SlotTimes {
    assignment: u64,
    slots: Vec<u16>,
    min: MinOfInputs,
    times: BTreeMap<u16, EventTime>,
    /// As in [`Place::later`].
    later: BTreeMap<u16, (u64, EventTime)>,
}

impl SlotTimes {
    /// For the given senders, going on from what was stored.
    pub(crate) fn new(assignment: u64, slots: Vec<u16>, stored: Option<&Place>) -> Self {
        let min = MinOfInputs::new(slots.len());
        let mut times = Self { assignment, min, slots, times: BTreeMap::new(), later: BTreeMap::new() };
        if let Some(place) = stored {
            for (&slot, &time) in &place.times {
                times.update(place.assignment, slot, time);
            }
            for (&slot, &(number, time)) in &place.later {
                times.update(number, slot, time);
            }
        }
        times
    }

    /// The reader takes another assignment up: all senders speak anew, and some may have spoken.
    pub(crate) fn take_up(&mut self, assignment: u64, slots: Vec<u16>) {
        let place = self.place(0);
        *self = Self::new(assignment, slots, Some(&place));
    }

    pub(crate) fn combined(&self) -> EventTime {
        if self.slots.is_empty() { EventTime::END } else { self.min.combined() }
    }

    /// Takes what a message says; returns the combined event time if that is another one now.
    pub(crate) fn update(&mut self, assignment: u64, slot: u16, time: EventTime) -> Option<EventTime> {
        if assignment > self.assignment {
            let known = self.later.entry(slot).or_insert((assignment, time));
            match assignment.cmp(&known.0) {
                Ordering::Greater => *known = (assignment, time),
                Ordering::Equal => {
                    known.1 = EventTime { watermark_ms: time.watermark_ms.max(known.1.watermark_ms), ..time }
                }
                Ordering::Less => {}
            }
        }
        if assignment != self.assignment {
            return None;
        }
        let input = self.slots.iter().position(|s| *s == slot)?;
        let known = self.times.entry(slot).or_insert(EventTime::START);
        let next = EventTime { watermark_ms: time.watermark_ms.max(known.watermark_ms), ..time };
        *known = next;
        self.min.update(input, next)
    }

    pub(crate) fn place(&self, next_offset: i64) -> Place {
        Place { assignment: self.assignment, next_offset, times: self.times.clone(), later: self.later.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(watermark_ms: i64) -> EventTime {
        EventTime { watermark_ms, idle: false }
    }

    proptest! {
        #[test]
        fn any_place_comes_back_and_no_damage_panics(
            (assignment, next_offset) in any::<(u64, i64)>(),
            times in any::<BTreeMap<u16, (i64, bool)>>(),
            later in any::<BTreeMap<u16, (u64, (i64, bool))>>(),
            cut in 0usize..60,
        ) {
            let time = |(watermark_ms, idle)| EventTime { watermark_ms, idle };
            let times = times.into_iter().map(|(slot, said)| (slot, time(said))).collect();
            let later = later.into_iter().map(|(slot, (number, said))| (slot, (number, time(said)))).collect();
            let place = Place { assignment, next_offset, times, later };
            let bytes = place.encode();
            prop_assert_eq!(Place::decode(&bytes), Ok(place));
            prop_assert!(cut >= bytes.len() || Place::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn the_layout_is_pinned_and_a_newer_one_is_refused() {
        let mut place =
            Place { assignment: 1, next_offset: 258, times: BTreeMap::from([(3, at(5))]), later: BTreeMap::new() };
        let expected = [1, 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(place.encode(), expected);
        place.later.insert(4, (2, at(6)));
        let mut with_a_word = expected.to_vec();
        with_a_word[0] = 2;
        with_a_word.extend([1, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(place.encode(), with_a_word);
        assert_eq!(Place::decode(&[3]), Err(PlaceError::Version(3)));
        let key = Place::key(Shards::new(2).unwrap(), ShardId(1), OperatorUid(0x0a0b_0c0d));
        assert_eq!(key, [8, 0, 0, 0, 0, 2, 10, 11, 12, 13]);
    }

    #[test]
    fn the_slowest_sender_decides_and_only_senders_of_the_assignment_count() {
        let mut times = SlotTimes::new(1, vec![1, 2], None);
        assert_eq!(times.update(1, 1, at(50)), None, "the other one has not spoken");
        assert_eq!(times.update(1, 7, at(10)), None, "not a sender");
        assert_eq!(times.update(1, 2, at(20)), Some(at(20)));
        assert_eq!(times.update(1, 2, at(10)), None, "a sender that started again does not turn time back");
        assert_eq!(times.update(1, 2, EventTime::END), Some(at(50)));
        let place = times.place(12);
        let mut again = SlotTimes::new(1, vec![1, 2], Some(&place));
        assert_eq!(again.combined(), at(50));
        assert_eq!(again.update(1, 1, EventTime::END), Some(EventTime::END), "the end of the other one is still known");
        assert_eq!(again.place(12).times[&2], EventTime::END);
    }

    #[test]
    fn under_a_new_assignment_every_sender_speaks_anew() {
        let mut times = SlotTimes::new(1, vec![1, 2], None);
        times.update(1, 1, at(50));
        times.update(1, 2, at(20));
        assert_eq!(
            times.update(2, 2, at(90)),
            None,
            "it speaks for other partitions, which this reader does not know yet"
        );
        let place = times.place(12);
        let mut next = SlotTimes::new(2, vec![1, 3], Some(&place));
        assert_eq!(next.combined(), EventTime::START);
        assert_eq!(next.update(1, 1, at(60)), None, "said under the old one");
        assert_eq!(next.update(2, 1, at(60)), None);
        assert_eq!(next.update(2, 3, at(30)), Some(at(30)));
    }

    #[test]
    fn what_is_said_under_a_later_assignment_is_kept_until_that_is_taken_up() {
        let mut times = SlotTimes::new(1, vec![1, 2], None);
        times.update(1, 1, at(50));
        times.update(1, 2, at(20));
        times.update(2, 2, at(70));
        times.update(2, 2, at(60));
        times.update(3, 3, at(40));
        times.update(2, 3, at(90));
        // A process that ends now has read these words, and they are not said again.
        let place = times.place(12);
        let again = SlotTimes::new(2, vec![1, 2], Some(&Place::decode(&place.encode()).unwrap()));
        assert_eq!((again.combined(), again.place(12).times), (EventTime::START, BTreeMap::from([(2, at(70))])));
        times.take_up(2, vec![1, 2]);
        assert_eq!(times.combined(), EventTime::START, "what was said under the old one moves nothing");
        assert_eq!(times.update(2, 1, at(80)), Some(at(70)));
        times.take_up(3, vec![3]);
        assert_eq!(times.combined(), at(40));
    }

    #[test]
    fn who_is_alone_waits_for_nobody() {
        let mut times = SlotTimes::new(1, vec![1, 2], None);
        times.update(1, 1, at(50));
        let place = times.place(12);
        assert_eq!(SlotTimes::new(3, vec![], Some(&place)).combined(), EventTime::END, "nobody is left to wait for");
    }
}
