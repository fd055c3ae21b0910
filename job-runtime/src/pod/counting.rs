//! A source partition that counts what passes: rows for the commit's trigger, the metrics and the progress display. It also remembers what
//! its rows had said about event time when it was opened, which no connector needs to know.
//!
//! Owns the counters; it changes nothing of what it passes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::Thread;

use crate::crash::{self, Step};
use dataflow::key::{KeyGroup, ShardId};
use dataflow::sink::EncodedRows;
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};

use crate::connector::stats::SourceStats;

/// What one worker has read, as its driver sees it.
#[derive(Debug, Default)]
pub(super) struct Activity {
    rows: AtomicU64,
    moved: AtomicBool,
    stirred: AtomicBool,
}

impl Activity {
    /// Rows read since the start of the process.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// True once after anything was read since the last call, be it only rows that were skipped.
    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// A message of another pod was taken; `driver` is unparked after a pause.
    pub(super) fn moved(&self, driver: &Thread) {
        if !self.moved.swap(true, Ordering::AcqRel) {
            driver.unpark();
        }
    }

    /// True once after rows went through any stream operator since the last call: windows also fire when a partition falls idle, without
    /// anything being read, and what they emit waits in the sink's encoder for a barrier.
    pub(super) fn take_stirred(&self) -> bool {
        self.stirred.swap(false, Ordering::AcqRel)
    }

    /// Rows went through a stream operator.
    pub(super) fn stir(&self) {
        self.stirred.store(true, Ordering::Release);
    }
}

/// See the module's documentation.
pub(super) struct Counting {
    inner: Box<dyn SourcePartition>,
    activity: Arc<Activity>,
    driver: Thread,
    stats: Arc<SourceStats>,
    /// With which the partition passes to another pod.
    shard: ShardId,
    group: Option<KeyGroup>,
    known_ms: Option<i64>,
}

impl Counting {
    /// Counts into `activity` and `stats`; `driver` is unparked when something is read after a pause. `group` stands for the partition, if the plan
    /// relies on it. `known_ms`: see [`SourcePartition::known_ms`].
    pub(super) fn new(
        inner: Box<dyn SourcePartition>,
        activity: Arc<Activity>,
        driver: Thread,
        stats: Arc<SourceStats>,
        shard: ShardId,
        group: Option<KeyGroup>,
        known_ms: Option<i64>,
    ) -> Self {
        Self { inner, activity, driver, stats, shard, group, known_ms }
    }
}

impl SourcePartition for Counting {
    fn id(&self) -> &PartitionId {
        self.inner.id()
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        // Only a poll that finds rows is a step: the others happen at any time.
        let found = self.inner.poll(max_rows)?;
        if let SourcePoll::End = found {
            self.stats.close();
        }
        if let SourcePoll::Batch(batch) = &found {
            crash::around(Step::Poll, || ());
            let rows = batch.num_rows() as u64;
            self.activity.rows.fetch_add(rows, Ordering::Relaxed);
            self.stats.add_records(rows);
            self.activity.moved(&self.driver);
        }
        Ok(found)
    }

    fn take_letters(&mut self) -> Option<EncodedRows> {
        self.inner.take_letters()
    }

    fn key_group(&self) -> Option<KeyGroup> {
        self.group
    }

    fn position(&self) -> SourcePosition {
        self.inner.position()
    }

    fn shard(&self) -> Option<ShardId> {
        Some(self.shard)
    }

    fn known_ms(&self) -> Option<i64> {
        self.known_ms
    }
}
