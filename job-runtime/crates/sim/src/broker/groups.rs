//! The committed offsets of one consumer group.
//!
//! Owns pending offsets of transactions and which of two stands. It has no members and no generations: a job commits offsets, nothing more.

use std::collections::BTreeMap;

use crate::message::{ErrorCode, Place};

/// An offset, and when it was sent: the later one stands.
#[derive(Clone, Copy, Debug)]
struct Sent {
    offset: i64,
    number: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Group {
    committed: BTreeMap<Place, Sent>,
    /// Producer id → offsets of its open transaction.
    pending: BTreeMap<i64, BTreeMap<Place, Sent>>,
    next_number: u64,
}

impl Group {
    fn sent(&mut self, offset: i64) -> Sent {
        self.next_number += 1;
        Sent { offset, number: self.next_number }
    }

    pub(super) fn send(&mut self, producer: i64, offsets: &[(Place, i64)]) {
        for (place, offset) in offsets {
            let sent = self.sent(*offset);
            self.pending.entry(producer).or_default().insert(place.clone(), sent);
        }
    }

    pub(super) fn commit(&mut self, offsets: &[(Place, i64)]) {
        for (place, offset) in offsets {
            let sent = self.sent(*offset);
            self.committed.insert(place.clone(), sent);
        }
    }

    pub(super) fn mark(&mut self, producer: i64, commit: bool) {
        let offsets = self.pending.remove(&producer).unwrap_or_default();
        for (place, sent) in offsets.into_iter().filter(|_| commit) {
            let stands = self.committed.get(&place).is_none_or(|other| other.number < sent.number);
            if stands {
                self.committed.insert(place, sent);
            }
        }
    }

    pub(super) fn fetch(&self, partitions: &[Place], require_stable: bool) -> Result<Vec<i64>, ErrorCode> {
        let is_pending = |place: &Place| self.pending.values().any(|offsets| offsets.contains_key(place));
        if require_stable && partitions.iter().any(is_pending) {
            return Err(ErrorCode::UnstableOffsetCommit);
        }
        Ok(partitions.iter().map(|place| self.committed.get(place).map_or(-1, |sent| sent.offset)).collect())
    }
}
