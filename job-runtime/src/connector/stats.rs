//! What a source partition tells of itself while it is read: counters, and how far it is.
//!
//! Owns the shared numbers; each is written by one thread and read by metrics, status and the progress display. It decides nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::SizeHint;

/// "Not known."
const UNKNOWN: u64 = u64::MAX;

/// In what a source counts how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Records.
    Records,
    /// Bytes as stored.
    Bytes,
}

impl Unit {
    fn of(self, count: u64) -> SizeHint {
        match self {
            Self::Records => SizeHint::Rows(count),
            Self::Bytes => SizeHint::Bytes(count),
        }
    }
}

/// The numbers of one source partition since the start of the process.
#[derive(Debug)]
pub struct SourceStats {
    records: AtomicU64,
    bytes: AtomicU64,
    skipped: AtomicU64,
    dead_letters: AtomicU64,
    unit: OnceLock<Unit>,
    place: AtomicU64,
    end: AtomicU64,
    ended: AtomicBool,
}

impl Default for SourceStats {
    fn default() -> Self {
        Self {
            records: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            skipped: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            unit: OnceLock::new(),
            place: AtomicU64::new(0),
            end: AtomicU64::new(UNKNOWN),
            ended: AtomicBool::new(false),
        }
    }
}

impl SourceStats {
    /// Rows decoded.
    pub fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    /// Bytes of records, uncompressed.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Records that did not fit and were left out.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }

    /// Records that did not fit and became dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    /// How far the partition is, in its unit; `None` if it does not know.
    pub fn done(&self) -> Option<SizeHint> {
        Some(self.unit.get()?.of(self.place.load(Ordering::Relaxed)))
    }

    /// What is there and not read yet, in the partition's unit; `None` if it does not know.
    pub fn lag(&self) -> Option<SizeHint> {
        let (unit, end) = (self.unit.get()?, self.end.load(Ordering::Relaxed));
        (end != UNKNOWN).then(|| unit.of(end.saturating_sub(self.place.load(Ordering::Relaxed))))
    }

    /// Rows were decoded.
    pub fn add_records(&self, records: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
    }

    /// Records of so many bytes were taken.
    pub fn add_bytes(&self, bytes: u64) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A record was left out.
    pub fn skip(&self) {
        self.skipped.fetch_add(1, Ordering::Relaxed);
    }

    /// A record became a dead letter.
    pub fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    /// Where the partition begins and, if known, ends, in its unit. Called once, at its opening.
    pub fn measure(&self, unit: Unit, place: u64, end: Option<u64>) {
        let _ = self.unit.set(unit);
        self.at(place);
        if let Some(end) = end {
            self.end_at(end);
        }
    }

    /// The partition is read up to here.
    pub fn at(&self, place: u64) {
        self.place.store(place, Ordering::Relaxed);
    }

    /// The partition reaches to here now.
    pub fn end_at(&self, end: u64) {
        self.end.store(end, Ordering::Relaxed);
    }

    /// The partition is at its end for ever: nothing is counted any more.
    pub fn close(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// True after [`Self::close`].
    pub fn is_closed(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Takes over what another partition has counted.
    pub fn absorb(&self, other: &Self) {
        self.add_records(other.records());
        self.add_bytes(other.bytes());
        self.skipped.fetch_add(other.skipped(), Ordering::Relaxed);
        self.dead_letters.fetch_add(other.dead_letters(), Ordering::Relaxed);
    }

    /// Everything there is has been read.
    pub fn at_end(&self) {
        let end = self.end.load(Ordering::Relaxed);
        if end != UNKNOWN {
            self.at(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lag_is_what_lies_between_the_place_and_the_end_and_unknown_without_an_end() {
        let stats = SourceStats::default();
        assert_eq!((stats.lag(), stats.done()), (None, None));
        stats.measure(Unit::Records, 10, None);
        assert_eq!((stats.lag(), stats.done()), (None, Some(SizeHint::Rows(10))));
        stats.end_at(25);
        assert_eq!(stats.lag(), Some(SizeHint::Rows(15)));
        stats.at(30);
        assert_eq!(stats.lag(), Some(SizeHint::Rows(0)), "the end is looked up now and then only");
        stats.end_at(40);
        stats.at_end();
        assert_eq!((stats.lag(), stats.done()), (Some(SizeHint::Rows(0)), Some(SizeHint::Rows(40))));
    }
}
