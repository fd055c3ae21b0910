//! What a run tells the world while it works: counters, the heartbeat, commit times; and the one thing the world may ask of it: to stop.
//!
//! Owns the shared numbers. It renders nothing (see `metrics`, the progress display and `/status`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use dataflow::exchange::QueueGauge;
use dataflow::graph::NodeId;
use dataflow::sink::SinkPayload;
use dataflow::source::PartitionId;
use hdrhistogram::Histogram;
use job_api::orders::{SavepointRequest, SavepointStatus, StopMode};

use super::counting::Activity;
use super::order_book::{Assigning, OrderBook};
use super::orders::{OrderError, Orders};
use super::shuffle::Waits;
use super::worker_thread::WorkerView;
use crate::commit::CommitError;
use crate::connector::SizeHint;
use crate::connector::stats::SourceStats;
use crate::snapshot::thread::{SnapshotStats, SnapshotView};
use crate::state::rocks::{StoreFigures, StoreGauge};

/// A commit that takes longer is counted as this.
const LONGEST_COMMIT_MICROS: u64 = 600_000_000;

/// How a commit ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CommitOutcome {
    /// It is in the log.
    Committed,
    /// The log refused it.
    Aborted,
    /// Nobody knows yet.
    Unknown,
    /// Another process has taken over.
    Fenced,
    /// It can never succeed.
    Fatal,
}

impl CommitOutcome {
    /// All of them, for metrics.
    pub const ALL: [Self; 5] = [Self::Committed, Self::Aborted, Self::Unknown, Self::Fenced, Self::Fatal];

    /// The outcome that an error stands for.
    pub fn of(error: &CommitError) -> Self {
        match error {
            CommitError::Aborted { .. } => Self::Aborted,
            CommitError::Unknown { .. } => Self::Unknown,
            CommitError::Fenced { .. } => Self::Fenced,
            CommitError::Fatal { .. } => Self::Fatal,
        }
    }

    /// As a label value.
    pub fn label(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
            Self::Unknown => "unknown",
            Self::Fenced => "fenced",
            Self::Fatal => "fatal",
        }
    }
}

/// Rows and bytes that a sink was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SinkCount {
    /// Rows.
    pub rows: u64,
    /// Encoded bytes; 0 for sinks that are given batches.
    pub bytes: u64,
}

/// Commits so far.
#[derive(Clone, Debug)]
pub struct CommitStats {
    /// By outcome.
    pub outcomes: BTreeMap<CommitOutcome, u64>,
    /// Durations of the successful ones in microseconds.
    pub micros: Histogram<u64>,
    /// Sum of those durations.
    pub total: Duration,
    /// When the last one succeeded, in milliseconds since 1970-01-01T00:00:00Z.
    pub last_ms: Option<u64>,
    /// From the start of the process to the end of the first.
    pub first_after: Option<Duration>,
}

/// A source partition and its counters.
#[derive(Clone, Debug)]
pub struct SourceView {
    /// The source node.
    pub node: NodeId,
    /// Its table.
    pub table: String,
    /// The partition.
    pub partition: PartitionId,
    /// Its counters.
    pub stats: Arc<SourceStats>,
}

/// What the worker threads share with the monitor.
struct WorkerLink {
    view: Arc<Mutex<WorkerView>>,
    activity: Arc<Activity>,
}

/// See the module's documentation.
pub struct Monitor {
    process_start: Instant,
    driver: OnceLock<Thread>,
    stop: Arc<AtomicBool>,
    reassigned: AtomicBool,
    beat_ms: AtomicU64,
    running: AtomicBool,
    workers: OnceLock<Vec<WorkerLink>>,
    sources: Mutex<Vec<SourceView>>,
    queues: OnceLock<Vec<QueueGauge>>,
    stores: OnceLock<Vec<StoreGauge>>,
    sinks: Mutex<BTreeMap<u32, SinkCount>>,
    commits: Mutex<CommitStats>,
    snapshots: OnceLock<Arc<SnapshotStats>>,
    waits: OnceLock<Arc<Waits>>,
    orders: OnceLock<OrderBook>,
}

impl Monitor {
    /// A monitor for a process that started at `process_start`.
    pub fn new(process_start: Instant) -> Self {
        let micros = Histogram::new_with_bounds(1, LONGEST_COMMIT_MICROS, 3).expect("the bounds are constants");
        let stats =
            CommitStats { outcomes: BTreeMap::new(), micros, total: Duration::ZERO, last_ms: None, first_after: None };
        Self {
            process_start,
            driver: OnceLock::new(),
            stop: Arc::default(),
            reassigned: AtomicBool::new(false),
            beat_ms: AtomicU64::new(0),
            running: AtomicBool::new(false),
            workers: OnceLock::new(),
            sources: Mutex::default(),
            queues: OnceLock::new(),
            stores: OnceLock::new(),
            sinks: Mutex::default(),
            commits: Mutex::new(stats),
            snapshots: OnceLock::new(),
            waits: OnceLock::new(),
            orders: OnceLock::new(),
        }
    }

    /// Asks the run to commit and end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// Another assignment is in force that this process cannot take up: asks the run to commit and begin anew.
    pub(super) fn reassign(&self) {
        self.reassigned.store(true, Ordering::Release);
        if let Some(driver) = self.driver.get() {
            driver.unpark();
        }
    }

    /// True after [`Monitor::reassign`].
    pub(super) fn reassigned(&self) -> bool {
        self.reassigned.load(Ordering::Acquire)
    }

    /// Set by [`Monitor::stop`].
    pub(super) fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// True after [`Monitor::stop`].
    pub fn stop_asked(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// True from the moment that state is recovered and rows may flow.
    pub fn running(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// Time since the driver last went round its loop.
    pub fn since_beat(&self) -> Duration {
        let beat = Duration::from_millis(self.beat_ms.load(Ordering::Relaxed));
        self.process_start.elapsed().saturating_sub(beat)
    }

    /// Rows read by all workers.
    pub fn rows_in(&self) -> u64 {
        self.workers.get().map_or(0, |workers| workers.iter().map(|worker| worker.activity.rows()).sum())
    }

    /// All source partitions of the pod.
    pub fn sources(&self) -> Vec<SourceView> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records that are there and not read yet, over the partitions that know; `None` if none does.
    pub fn lag_records(&self) -> Option<u64> {
        let lag = |source: &SourceView| match source.stats.lag()? {
            SizeHint::Rows(rows) => Some(rows),
            SizeHint::Bytes(_) => None,
        };
        let sources = self.sources();
        // A pod that has no partition lags behind nothing.
        let none = (sources.is_empty() && self.running()).then_some(0);
        sources.iter().filter_map(lag).reduce(|a, b| a + b).or(none)
    }

    /// How far all partitions are together, in the unit of `total`.
    pub fn done(&self, total: SizeHint) -> u64 {
        let done = |source: &SourceView| match (source.stats.done()?, total) {
            (SizeHint::Rows(done), SizeHint::Rows(_)) | (SizeHint::Bytes(done), SizeHint::Bytes(_)) => Some(done),
            (SizeHint::Rows(_), SizeHint::Bytes(_)) | (SizeHint::Bytes(_), SizeHint::Rows(_)) => None,
        };
        self.sources().iter().filter_map(done).sum()
    }

    /// Records that did not fit and were left out.
    pub fn skipped(&self) -> u64 {
        self.sources().iter().map(|source| source.stats.skipped()).sum()
    }

    /// Records that did not fit and became dead letters.
    pub fn dead_letters(&self) -> u64 {
        self.sources().iter().map(|source| source.stats.dead_letters()).sum()
    }

    /// The queues between the workers.
    pub fn queues(&self) -> &[QueueGauge] {
        self.queues.get().map_or(&[], Vec::as_slice)
    }

    /// Per sink node, what it was given; per source node, its dead letters.
    pub fn sinks(&self) -> BTreeMap<u32, SinkCount> {
        self.sinks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Rows written to all sinks; dead letters, which go under their source's id, are none.
    pub fn rows_out(&self) -> u64 {
        let sources: BTreeSet<u32> = self.sources().iter().map(|source| source.node.0).collect();
        self.sinks().iter().filter(|(node, _)| !sources.contains(node)).map(|(_, count)| count.rows).sum()
    }

    /// What each worker last published.
    pub fn workers(&self) -> Vec<WorkerView> {
        let links = self.workers.get().map_or(&[][..], Vec::as_slice);
        links.iter().map(|link| link.view.lock().unwrap_or_else(PoisonError::into_inner).clone()).collect()
    }

    /// The least watermark of all workers in milliseconds; `None` before all have one.
    pub fn watermark_ms(&self) -> Option<i64> {
        let marks: Vec<Option<i64>> = self.workers().iter().map(|view| view.progress.watermark_ms).collect();
        if marks.is_empty() || marks.contains(&None) { None } else { marks.into_iter().flatten().min() }
    }

    /// Rows that came behind the watermark and were dropped.
    pub fn late_dropped(&self) -> u64 {
        self.workers().iter().flat_map(|view| &view.progress.nodes).map(|node| node.late_dropped).sum()
    }

    /// Commits so far.
    pub fn commits(&self) -> CommitStats {
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Snapshots so far; `None` if the job takes none.
    pub fn snapshots(&self) -> Option<SnapshotView> {
        self.snapshots.get().map(|stats| stats.view())
    }

    /// What the sources wait for: another pod that has not read what this one sent.
    pub fn waits_for(&self) -> Option<String> {
        self.waits.get()?.why()
    }

    /// How long they have waited for other pods; `None` if the job has one.
    pub fn waited(&self) -> Option<Duration> {
        Some(self.waits.get()?.total())
    }

    pub(super) fn watch_waits(&self, waits: Option<Arc<Waits>>) {
        if let Some(waits) = waits {
            let _ = self.waits.set(waits);
        }
    }

    /// Takes orders, once the job is recovered.
    pub(super) fn attach_orders(&self, orders: OrderBook) {
        let _ = self.orders.set(orders);
    }

    fn orders(&self) -> Result<&OrderBook, OrderError> {
        let message = "the job is starting; ask again".to_owned();
        self.orders.get().ok_or(OrderError::NotReady { message })
    }

    pub(super) fn attach_snapshots(&self, stats: Arc<SnapshotStats>) {
        let _ = self.snapshots.set(stats);
    }

    pub(super) fn attach(&self, driver: Thread) {
        // Only the first driver of a process attaches.
        let _ = self.driver.set(driver);
    }

    pub(super) fn add_source(&self, source: SourceView) {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// Puts the counts of a source's partitions that are at their end together, so that thousands of files are not thousands of entries;
    /// returns how many partitions are still open.
    pub(super) fn retire(&self, node: NodeId) -> usize {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, mut kept): (Vec<_>, Vec<_>) =
            sources.drain(..).partition(|source| source.node == node && source.stats.is_closed());
        let mut ended = ended.into_iter();
        if let Some(first) = ended.next() {
            let sum = SourceStats::default();
            std::iter::once(&first).chain(ended.as_slice()).for_each(|source| sum.absorb(&source.stats));
            sum.close();
            kept.push(SourceView { partition: PartitionId("ended".to_owned()), stats: Arc::new(sum), ..first });
        }
        *sources = kept;
        sources.iter().filter(|source| source.node == node && !source.stats.is_closed()).count()
    }

    /// A partition is another pod's: what was counted of it stays.
    pub(super) fn left(&self, node: NodeId, partition: &PartitionId) {
        let found = |source: &&SourceView| source.node == node && source.partition == *partition;
        if let Some(source) = self.sources().iter().find(found) {
            source.stats.close();
        }
        self.retire(node);
    }

    pub(super) fn watch_stores(&self, stores: Vec<StoreGauge>) {
        let _ = self.stores.set(stores);
    }

    /// Figures of the databases that are open.
    pub fn stores(&self) -> Vec<StoreFigures> {
        self.stores.get().into_iter().flatten().filter_map(StoreGauge::read).collect()
    }

    pub(super) fn watch_queues(&self, queues: Vec<QueueGauge>) {
        let _ = self.queues.set(queues);
    }

    pub(super) fn start(&self, workers: impl Iterator<Item = (Arc<Mutex<WorkerView>>, Arc<Activity>)>) {
        let links = workers.map(|(view, activity)| WorkerLink { view, activity }).collect();
        let _ = self.workers.set(links);
        self.running.store(true, Ordering::Release);
    }

    pub(super) fn beat(&self) {
        self.beat_ms.store(self.process_start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    pub(super) fn all_finished(&self) -> bool {
        let workers = self.workers();
        !workers.is_empty() && workers.iter().all(|view| view.finished)
    }

    pub(super) fn wrote(&self, sink: NodeId, payload: &SinkPayload) {
        let (rows, bytes) = match payload {
            SinkPayload::Rows(rows) => (rows.ends.len() as u64, (rows.bytes.len() + rows.key_bytes.len()) as u64),
            SinkPayload::Batch(batch) => (batch.num_rows() as u64, 0),
        };
        let mut sinks = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let count = sinks.entry(sink.0).or_default();
        count.rows += rows;
        count.bytes += bytes;
    }

    pub(super) fn committed(&self, took: Duration, outcome: CommitOutcome) {
        let mut commits = self.commits.lock().unwrap_or_else(PoisonError::into_inner);
        *commits.outcomes.entry(outcome).or_default() += 1;
        if outcome == CommitOutcome::Committed {
            commits.micros.saturating_record(took.as_micros() as u64);
            commits.total += took;
            commits.last_ms = SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|now| now.as_millis() as u64);
            commits.first_after.get_or_insert(self.process_start.elapsed());
        }
    }
}

impl Orders for Monitor {
    fn savepoint(&self, request: SavepointRequest) -> Result<SavepointStatus, OrderError> {
        self.orders()?.savepoint(request)
    }

    fn savepoint_status(&self, name: &str) -> Option<SavepointStatus> {
        self.orders.get()?.savepoint_status(name)
    }

    fn stop(&self, mode: StopMode) -> Result<(), OrderError> {
        self.orders()?.stop(mode)
    }

    fn assign(&self, replicas: u16) -> Result<bool, OrderError> {
        Ok(match self.orders()?.assign(replicas)? {
            Assigning::InForce => true,
            Assigning::UnderWay => false,
            Assigning::Anew => {
                self.reassign();
                false
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ended_partitions_are_counted_together_and_their_places_are_free() {
        let monitor = Monitor::new(Instant::now());
        let add = |name: &str, records: u64| {
            let stats = Arc::new(SourceStats::default());
            stats.add_records(records);
            let partition = PartitionId(name.to_owned());
            monitor.add_source(SourceView { node: NodeId(0), table: "t".into(), partition, stats: Arc::clone(&stats) });
            stats
        };
        let (a, b, c) = (add("a", 1), add("b", 20), add("c", 300));
        assert_eq!(monitor.retire(NodeId(0)), 3);
        a.close();
        c.close();
        assert_eq!((monitor.retire(NodeId(0)), monitor.sources().len()), (1, 2));
        b.close();
        assert_eq!((monitor.retire(NodeId(0)), monitor.sources().len()), (0, 1));
        assert_eq!(monitor.sources()[0].stats.records(), 321);
        assert_eq!(monitor.retire(NodeId(1)), 0);
    }

    #[test]
    fn the_time_of_a_commit_is_kept_to_three_digits() {
        let monitor = Monitor::new(Instant::now());
        monitor.committed(Duration::from_millis(37), CommitOutcome::Committed);
        let micros = monitor.commits().micros.value_at_quantile(0.5);
        assert!((36_900..=37_100).contains(&micros), "{micros}");
    }
}
