//! The thread of one worker: calls `step()`, hands events to the driver, takes the driver's orders, and parks when there is nothing to do.
//!
//! Owns the thread; it decides nothing about commits and knows no connector.

use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use dataflow::key::ShardId;
use dataflow::shuffle::Switch;
use dataflow::state::ChangeBatch;
use dataflow::worker::{AppliedOffsets, CommitId, StepStatus, Worker, WorkerConfig, WorkerEvent, WorkerProgress};

use super::counting::Activity;
use super::discovery::Mailbox;
use super::error::PodError;
use crate::crash::{self, Step};

/// Events that may wait for the driver. A worker that has filled it waits: the back-pressure of sinks and commits.
pub(super) const EVENTS: usize = 16;
/// Orders that may wait for a worker: at most two barriers and two outcomes are ever under way.
const ORDERS: usize = 8;
/// A parked worker looks around this often even if nobody wakes it.
const LONGEST_PARK: Duration = Duration::from_millis(500);
/// How often a busy worker publishes its progress.
const PUBLISH: Duration = Duration::from_millis(100);

/// What the driver tells a worker.
pub(super) enum Order {
    /// Inject the barrier; shards may be given up with it.
    Barrier(CommitId, Option<Arc<Switch>>),
    /// The commit is in the log, or was skipped because there was nothing in it.
    Applied(CommitId, Arc<Applied>),
}

/// A commit as the log has it.
pub(super) struct Applied {
    /// Where each shard's changes stand.
    pub(super) offsets: AppliedOffsets,
    /// Changes that no worker made: positions and tickets.
    pub(super) added: Vec<(ShardId, ChangeBatch)>,
}

/// What a worker is doing, for metrics and the progress display.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Counters of the stream operators.
    pub progress: WorkerProgress,
    /// Time spent in `step()` since the start.
    pub busy: Duration,
    /// All input is read and emitted.
    pub finished: bool,
}

/// A running worker.
pub(super) struct WorkerHandle {
    /// Events, in order. Closed when the worker has ended.
    pub(super) events: Receiver<WorkerEvent>,
    /// What it is doing.
    pub(super) view: Arc<Mutex<WorkerView>>,
    orders: Option<SyncSender<Order>>,
    join: Option<JoinHandle<Result<(), PodError>>>,
}

impl WorkerHandle {
    /// Starts a worker. Its state is restored on its own thread. `driver` is unparked at every event.
    pub(super) fn start(
        config: WorkerConfig,
        activity: Arc<Activity>,
        mailbox: Arc<Mailbox>,
        driver: Thread,
        started: Instant,
    ) -> Result<Self, PodError> {
        let (events_in, events) = sync_channel(EVENTS);
        let (orders, orders_out) = sync_channel(ORDERS);
        let view = Arc::new(Mutex::new(WorkerView {
            progress: WorkerProgress { watermark_ms: None, markers: 0, nodes: Vec::new() },
            busy: Duration::ZERO,
            finished: false,
        }));
        let shared = Shared { view: Arc::clone(&view), activity, mailbox };
        let join = std::thread::Builder::new()
            .name(format!("worker-{}", config.index))
            .spawn(move || {
                // Whatever happens, the driver must notice that this thread is gone.
                let _wake = Unpark(driver.clone());
                run(config, &events_in, &orders_out, &driver, &shared, started)
            })
            .map_err(PodError::Thread)?;
        Ok(Self { events, view, orders: Some(orders), join: Some(join) })
    }

    /// The thread, to wake it.
    pub(super) fn thread(&self) -> Option<&Thread> {
        self.join.as_ref().map(JoinHandle::thread)
    }

    /// Gives an order; a worker that has ended does not hear it, which the driver finds out from its events.
    pub(super) fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The channel holds more than the protocol can have under way, so this never blocks.
            let _ = orders.send(order);
        }
        if let Some(thread) = self.thread() {
            thread.unpark();
        }
    }

    /// Ends the worker and returns how it went. Events still waiting are dropped.
    pub(super) fn end(self) -> Result<(), PodError> {
        let Self { events, orders, join, .. } = self;
        drop((events, orders));
        let Some(join) = join else { return Ok(()) };
        join.thread().unpark();
        let thread = join.thread().name().unwrap_or("worker").to_owned();
        match join.join() {
            Ok(result) => result,
            Err(panic) => Err(PodError::Panic { thread, message: panic_message(panic.as_ref()) }),
        }
    }
}

struct Unpark(Thread);

impl Drop for Unpark {
    fn drop(&mut self) {
        self.0.unpark();
    }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".into())
}

fn run(
    config: WorkerConfig,
    events: &SyncSender<WorkerEvent>,
    orders: &Receiver<Order>,
    driver: &Thread,
    shared: &Shared,
    started: Instant,
) -> Result<(), PodError> {
    let mut worker = Worker::new(config)?;
    worker.measure(Box::new(move || started.elapsed().as_nanos() as u64));
    let mut out = Vec::new();
    let (mut busy, mut published, mut rows) = (Duration::ZERO, started, 0);
    loop {
        if !take_orders(&mut worker, orders)? {
            return Ok(());
        }
        for arrival in shared.mailbox.take() {
            let (node, partition) = arrival?;
            worker.add_source(node, partition)?;
            // Its position is committed even if it has nothing yet.
            shared.activity.stir();
            driver.unpark();
        }
        let begin = Instant::now();
        let status = worker.step((begin - started).as_millis() as u64, &mut out)?;
        busy += begin.elapsed();
        for event in out.drain(..) {
            // A closed channel means that the driver ends us.
            if events.send(event).is_err() {
                return Ok(());
            }
            driver.unpark();
        }
        let idle = status != StepStatus::Progress;
        if idle || published.elapsed() >= PUBLISH {
            published = Instant::now();
            let progress = worker.progress();
            let rows_now: u64 = progress.nodes.iter().map(|node| node.rows_in + node.rows_out).sum();
            let now = rows_now + progress.markers;
            if std::mem::replace(&mut rows, now) != now {
                shared.activity.stir();
                driver.unpark();
            }
            if shared.publish(WorkerView { progress, busy, finished: status == StepStatus::Finished }) {
                driver.unpark();
            }
        }
        park(status, started);
    }
}

/// What a worker's thread shares with the driver.
struct Shared {
    view: Arc<Mutex<WorkerView>>,
    activity: Arc<Activity>,
    mailbox: Arc<Mailbox>,
}

impl Shared {
    /// True if this view is the first that says that the worker has finished.
    fn publish(&self, new: WorkerView) -> bool {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let newly = new.finished && !view.finished;
        *view = new;
        newly
    }
}

/// Does what the driver asked for; false when the driver is gone.
fn take_orders(worker: &mut Worker, orders: &Receiver<Order>) -> Result<bool, PodError> {
    loop {
        match orders.try_recv() {
            Ok(Order::Barrier(id, None)) => worker.begin_commit(id),
            Ok(Order::Barrier(id, Some(switch))) => worker.begin_switch(id, switch),
            Ok(Order::Applied(id, applied)) => {
                crash::around(Step::Apply, || worker.commit_applied_with(id, &applied.offsets, &applied.added))?;
            }
            Err(TryRecvError::Empty) => return Ok(true),
            Err(TryRecvError::Disconnected) => return Ok(false),
        }
    }
}

fn park(status: StepStatus, started: Instant) {
    let longest = match status {
        StepStatus::Progress => return,
        StepStatus::Idle { wake_at_ms: Some(at) } => {
            Duration::from_millis(at).saturating_sub(started.elapsed()).min(LONGEST_PARK)
        }
        StepStatus::Idle { wake_at_ms: None } | StepStatus::Finished => LONGEST_PARK,
    };
    std::thread::park_timeout(longest);
}
