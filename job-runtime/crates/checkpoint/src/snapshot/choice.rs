//! Which state a shard starts from when its changelog is in Kafka: the local database, a snapshot, or nothing. Decided without I/O.
//!
//! The rule: whatever the changelog can bring up to date is right, because every record behind it is there; local files come first, because
//! they cost no download; then the newest snapshot; then an empty database, if the changelog still has its beginning. It does not know
//! whether a snapshot can be read: the caller goes on with the next one if not.

use dataflow::state::LogOffset;

/// What a shard's partition of the changelog holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogBounds {
    /// Offset of the first record that is still there.
    pub low: i64,
    /// Offset behind the last one.
    pub high: i64,
}

/// A shard's files on local disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalShard {
    /// There is no database.
    Missing,
    /// There is one, and this was applied last.
    At(Option<LogOffset>),
}

/// What to start from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The local database is right: use it, download nothing.
    pub local: bool,
    /// Else these snapshots (places in the list that was given), one after the other until one can be read.
    pub snapshots: Vec<usize>,
    /// Else an empty database and the whole changelog; without it the shard's state is lost.
    pub empty: bool,
}

/// Decides for one shard. `snapshots`: offsets of the shard's snapshots, newest first.
pub fn start(local: LocalShard, log: LogBounds, snapshots: &[Option<LogOffset>]) -> Start {
    let local = match local {
        LocalShard::Missing => false,
        // A database that is ahead of the log is not for us to replace: the log is another one, and the message about it says what to do.
        LocalShard::At(Some(applied)) if applied.0 >= log.high => true,
        LocalShard::At(applied) => reaches(applied, log),
    };
    let fits = |offset: &Option<LogOffset>| offset.is_none_or(|offset| offset.0 < log.high) && reaches(*offset, log);
    let snapshots = snapshots.iter().enumerate().filter(|(_, offset)| fits(offset)).map(|(index, _)| index).collect();
    Start { local, snapshots, empty: log.low == 0 }
}

/// True if the log still has everything behind an offset.
fn reaches(offset: Option<LogOffset>, log: LogBounds) -> bool {
    offset.map_or(0, |offset| offset.0 + 1) >= log.low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: i64) -> LocalShard {
        LocalShard::At(Some(LogOffset(offset)))
    }

    #[test]
    fn local_files_that_the_log_reaches_are_used() {
        let log = LogBounds { low: 10, high: 20 };
        let local = |local| start(local, log, &[Some(LogOffset(15))]).local;
        assert!(local(at(9)) && local(at(19)), "nothing lies between");
        assert!(!local(at(8)), "record 9 is gone");
        assert!(!local(LocalShard::Missing) && !local(LocalShard::At(None)));
        assert!(local(at(20)), "ahead of the log: not replaced, but named");
    }

    #[test]
    fn snapshots_are_tried_from_the_newest_to_the_oldest_that_the_log_reaches() {
        let log = LogBounds { low: 10, high: 20 };
        let offsets = [Some(25), Some(15), Some(9), Some(8), None].map(|offset| offset.map(LogOffset));
        assert_eq!(
            start(LocalShard::Missing, log, &offsets),
            Start { local: false, snapshots: vec![1, 2], empty: false }
        );
        let whole = LogBounds { low: 0, high: 20 };
        assert_eq!(
            start(LocalShard::Missing, whole, &offsets),
            Start { local: false, snapshots: vec![1, 2, 3, 4], empty: true }
        );
    }

    #[test]
    fn a_new_job_starts_from_nothing() {
        let log = LogBounds { low: 0, high: 0 };
        assert_eq!(start(LocalShard::Missing, log, &[]), Start { local: false, snapshots: vec![], empty: true });
        assert!(start(LocalShard::At(None), log, &[]).local);
    }
}
