//! The thread that takes snapshots of a running pod: every interval, and at a clean end of a job whose log is local.
//!
//! Owns the rhythm and the numbers that it publishes. A snapshot that fails costs nothing but its time: the job goes on, the next one is
//! tried an interval later, and metrics and status say so.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataflow::key::ShardId;
use dataflow::state::LogOffset;
use job_api::SnapshotStatus;
use tokio_util::sync::CancellationToken;

use super::now_ms;
use super::retain::{Keeper, Kept};
use super::start::Restored;
use super::take::{SavepointOf, StoredSavepoint, Taken, Taker};
use crate::crash::{self, Step};
use crate::priority;

/// Asks that may wait.
const ASKS: usize = 8;
/// A savepoint that was prepared for and does not come is given up, so that periodic snapshots go on.
const HELD: Duration = Duration::from_secs(120);

/// What becomes of this pod's part of a savepoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SavepointNews {
    /// No other snapshot is under way, and none will be begun.
    Prepared,
    /// The pod's shards are copied.
    Copied {
        /// How long the copies by hard links took.
        copying: Duration,
    },
    /// The copy is in the store.
    Stored(StoredSavepoint),
    /// It could not be done.
    Failed(String),
}

/// Hears what becomes of savepoints.
pub type Tell = Box<dyn Fn(SavepointNews) + Send>;

enum Ask {
    /// Take a last snapshot and end.
    Last,
    /// End.
    End,
    Prepare,
    Copy(SavepointOf),
    Release,
}

/// Asks the thread for a part of a savepoint. The answers go to [`SnapshotWork::tell`].
#[derive(Clone, Debug)]
pub struct SnapshotAsk(SyncSender<Ask>);

impl SnapshotAsk {
    /// Lets a snapshot under way end, and none begin.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn prepare(&self) -> Result<(), String> {
        self.ask(Ask::Prepare)
    }

    /// Copies the shards as they are, then stores the copy.
    ///
    /// # Errors
    /// When the thread is gone.
    pub fn copy(&self, of: SavepointOf) -> Result<(), String> {
        self.ask(Ask::Copy(of))
    }

    /// Periodic snapshots go on.
    pub fn release(&self) {
        // If it is gone there is nothing to release.
        let _ = self.ask(Ask::Release);
    }

    fn ask(&self, ask: Ask) -> Result<(), String> {
        self.0.try_send(ask).map_err(|_| "the thread for snapshots does not answer".to_owned())
    }
}

/// Removes the part of a changelog that no snapshot needs: up to and including these offsets.
pub type Trim = Box<dyn Fn(&BTreeMap<ShardId, LogOffset>) -> Result<(), String> + Send>;

/// What snapshots have done so far in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SnapshotView {
    /// Snapshots taken.
    pub taken: u64,
    /// Snapshots that failed.
    pub failed: u64,
    /// The last one's number; a restored one's before the first.
    pub number: Option<u64>,
    /// When the last one was complete, in milliseconds since 1970-01-01T00:00:00Z.
    pub last_ms: Option<u64>,
    /// Duration of the last one.
    pub took: Duration,
    /// Duration of its copies by hard links, flushes included.
    pub copying: Duration,
    /// Size of what it holds.
    pub bytes: u64,
    /// Bytes uploaded by all of them.
    pub uploaded: u64,
    /// Files uploaded by all of them.
    pub new_files: u64,
    /// Files that an earlier one had already.
    pub kept_files: u64,
    /// Size of all objects of the job in the store.
    pub stored: u64,
    /// Checkpoints in the store.
    pub checkpoints: u64,
    /// Objects removed.
    pub removed: u64,
    /// Why the last try failed; `None` when the last one succeeded.
    pub error: Option<String>,
    /// What the start took from snapshots.
    pub restored: Restored,
}

impl SnapshotView {
    /// As the control port tells it.
    pub fn status(&self) -> SnapshotStatus {
        SnapshotStatus {
            number: self.number,
            last_ms: self.last_ms,
            bytes: self.bytes,
            took_ms: self.took.as_millis() as u64,
            taken: self.taken,
            failed: self.failed,
            error: self.error.clone(),
        }
    }
}

/// The numbers, shared with metrics and status.
#[derive(Debug, Default)]
pub struct SnapshotStats(Mutex<SnapshotView>);

impl SnapshotStats {
    /// For a pod that has started from `restored`.
    pub fn new(restored: Restored) -> Self {
        Self(Mutex::new(SnapshotView { number: restored.newest(), restored, ..SnapshotView::default() }))
    }

    /// As they are now.
    pub fn view(&self) -> SnapshotView {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn change(&self, change: impl FnOnce(&mut SnapshotView)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn taken(&self, taken: &Taken, took: Duration) {
        self.change(|view| {
            view.taken += 1;
            view.number = Some(taken.manifest.number);
            view.last_ms = Some(now_ms());
            (view.took, view.copying, view.bytes) = (took, taken.copying, taken.manifest.bytes());
            view.uploaded += taken.uploaded;
            view.new_files += taken.new_files;
            view.kept_files += taken.kept_files;
            view.error = None;
        });
    }

    fn kept(&self, kept: &Kept) {
        self.change(|view| {
            (view.stored, view.checkpoints) = (kept.bytes, kept.checkpoints);
            view.removed += kept.removed;
        });
    }

    fn failed(&self, error: String) {
        self.change(|view| {
            view.failed += 1;
            view.error = Some(error);
        });
    }
}

/// What the thread works with.
pub struct SnapshotWork {
    /// Takes them.
    pub taker: Taker,
    /// Removes them.
    pub keeper: Keeper,
    /// Trims the changelog, if there is one.
    pub trim: Option<Trim>,
    /// Time between two.
    pub interval: Duration,
    /// Where to say what was done.
    pub stats: Arc<SnapshotStats>,
    /// And what becomes of savepoints.
    pub tell: Tell,
}

/// The running thread. Dropping it gives up a snapshot under way and waits for the thread.
#[derive(Debug)]
pub struct Snapshots {
    asks: SyncSender<Ask>,
    /// The snapshot is all that outlives the directory: with the local log.
    at_end: bool,
    cancel: CancellationToken,
    join: Option<JoinHandle<()>>,
}

impl Snapshots {
    /// Starts the thread. `cancel` is the token that the object store gives up on.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(work: SnapshotWork, cancel: CancellationToken) -> std::io::Result<Self> {
        let ((asks, asked), at_end) = (sync_channel(ASKS), work.taker.log.is_some());
        let thread = std::thread::Builder::new().name("snapshots".into());
        let stop = cancel.clone();
        let join = thread.spawn(move || {
            // Rows go first.
            priority::stand_back();
            run(work, &asked, &stop);
        })?;
        Ok(Self { asks, at_end, cancel, join: Some(join) })
    }

    /// Asks for savepoints.
    pub fn ask(&self) -> SnapshotAsk {
        SnapshotAsk(self.asks.clone())
    }

    /// Ends the thread of a job that has ended well, with a last snapshot if its log is local: what Kafka holds needs none.
    pub fn finish(mut self) {
        if self.at_end {
            // An ended thread has nothing to take.
            let _ = self.asks.send(Ask::Last);
            self.join();
        }
    }

    fn join(&mut self) {
        // Of no use to a thread that has ended, or that ends with what waits before this.
        let _ = self.asks.send(Ask::End);
        if let Some(join) = self.join.take() {
            // A panic there has been printed, and no commit depends on it.
            let _ = join.join();
        }
    }
}

impl Drop for Snapshots {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.join();
    }
}

fn run(mut work: SnapshotWork, asked: &Receiver<Ask>, stop: &CancellationToken) {
    let mut due = Instant::now() + work.interval;
    loop {
        match asked.recv_timeout(due.saturating_duration_since(Instant::now())) {
            Err(RecvTimeoutError::Timeout) => {
                due = Instant::now() + work.interval;
                work.once(stop);
            }
            Ok(Ask::Release) => due = Instant::now() + work.interval,
            Ok(Ask::Prepare) => {
                due = Instant::now() + HELD;
                let prepared = work.taker.prepare_savepoint().map(|()| SavepointNews::Prepared);
                work.answer(prepared);
            }
            Ok(Ask::Copy(of)) => work.savepoint(of),
            Ok(Ask::Last) => return work.once(stop),
            Ok(Ask::End) | Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl SnapshotWork {
    fn answer(&self, result: Result<SavepointNews, super::SnapshotError>) {
        (self.tell)(result.unwrap_or_else(|error| SavepointNews::Failed(error.to_string())));
    }

    fn savepoint(&mut self, of: SavepointOf) {
        let copied = match crash::around(Step::SavepointCopy, || self.taker.copy_for_savepoint(of)) {
            Ok(copied) => copied,
            Err(error) => return self.answer(Err(error)),
        };
        self.answer(Ok(SavepointNews::Copied { copying: copied.copying }));
        let stored = self.taker.store_savepoint(copied).map(SavepointNews::Stored);
        self.answer(stored);
    }

    fn once(&mut self, stop: &CancellationToken) {
        let begin = Instant::now();
        match self.taker.take() {
            Ok(None) => return,
            Ok(Some(taken)) => {
                let took = begin.elapsed();
                tracing::info!(
                    checkpoint = taken.manifest.number,
                    bytes = taken.manifest.bytes(),
                    uploaded = taken.uploaded,
                    ms = took.as_millis() as u64,
                    "snapshot taken"
                );
                self.stats.taken(&taken, took);
            }
            Err(_) if stop.is_cancelled() => return,
            Err(error) => {
                tracing::warn!(%error, "no snapshot was taken; the job goes on");
                return self.stats.failed(error.to_string());
            }
        }
        if let Err(error) = self.clean()
            && !stop.is_cancelled()
        {
            tracing::warn!(%error, "old snapshots were not removed");
            self.stats.failed(error);
        }
    }

    fn clean(&mut self) -> Result<(), String> {
        let kept = self.keeper.run(self.taker.store.as_ref(), &self.taker.job.uid).map_err(|e| e.to_string())?;
        self.stats.kept(&kept);
        match &self.trim {
            Some(trim) if !kept.trimmable.is_empty() => crash::asked(Step::Trim, || trim(&kept.trimmable))
                .unwrap_or_else(|| Err("no answer to the trim of the changelog".to_owned())),
            Some(_) | None => Ok(()),
        }
    }
}
