//! New partitions of sources while the job runs: files that come into a watched directory, partitions that are added to a topic.
//!
//! Owns a thread that asks each such source for its partitions at its interval, opens the new ones and lays them into a worker's mailbox. So
//! nothing of it is on the data path. It decides neither what is new in a source (its factory lists it) nor where it is read from.
//!
//! Of a watched directory only so many files are open at a time; the others wait here, in their order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use dataflow::graph::NodeId;
use dataflow::key::{KeyGroup, ShardId, Shards};
use dataflow::source::{PartitionId, Reached, SourcePartition};
use dataflow::worker::Wake;

use super::assembly::Seat;
use super::counting::{Activity, Counting};
use super::declared::Declared;
use super::error::PodError;
use super::monitor::{Monitor, SourceView};
use crate::connector::stats::SourceStats;
use crate::connector::{ConnectorError, Opening, SourceFactory, Start};

/// How often a place that has become free is filled, at most.
const LOOK: Duration = Duration::from_millis(50);
/// How often a source that cannot be asked is spoken of.
const COMPLAIN: Duration = Duration::from_secs(30);

/// A new partition, or why it cannot be read.
type Arrival = Result<(NodeId, Box<dyn SourcePartition>), ConnectorError>;

/// New partitions for one worker.
#[derive(Default)]
pub(super) struct Mailbox {
    /// Something is there: spares a worker the lock.
    filled: AtomicBool,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Mailbox {
    /// What has come since the last call.
    pub(super) fn take(&self) -> Vec<Arrival> {
        if !self.filled.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        self.filled.store(false, Ordering::Release);
        std::mem::take(&mut arrivals)
    }

    fn put(&self, arrival: Arrival) {
        let mut arrivals = self.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
        arrivals.push(arrival);
        self.filled.store(true, Ordering::Release);
    }
}

/// A worker as partitions are given to it.
pub(super) struct Place {
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) activity: Arc<Activity>,
    pub(super) wake: Wake,
}

/// Opens partitions for the workers, in turn or with the owner of their key group, and announces each to the monitor.
pub(super) struct Opener {
    pub(super) places: Vec<Place>,
    pub(super) driver: Thread,
    pub(super) monitor: Arc<Monitor>,
    pub(super) next: usize,
    /// The worker of each shard.
    pub(super) shards: Shards,
    pub(super) owner: Arc<[usize]>,
}

impl Opener {
    /// Opens a partition for its worker, and returns that.
    pub(super) fn open(
        &mut self,
        source: &Growing,
        Due { id, shard, start, group, known_ms }: Due,
    ) -> Result<(usize, Box<dyn SourcePartition>), ConnectorError> {
        let worker = match group {
            Some(group) => self.owner[usize::from(self.shards.shard_of(group).0)],
            None => self.next % self.places.len(),
        };
        let place = &self.places[worker];
        let stats = Arc::<SourceStats>::default();
        let opening = Opening { start, wake: Arc::clone(&place.wake), stats: Arc::clone(&stats) };
        let partition = source.factory.open(&id, opening)?;
        self.next += usize::from(group.is_none());
        let (node, table) = (source.node, source.table.clone());
        self.monitor.add_source(SourceView { node, table, partition: id, stats: Arc::clone(&stats) });
        let (activity, driver) = (Arc::clone(&place.activity), self.driver.clone());
        let counting = Counting::new(partition, activity, driver, stats, shard, group, known_ms);
        Ok((worker, Box::new(counting)))
    }
}

/// A partition to open.
pub(super) struct Due {
    id: PartitionId,
    /// The shard that it passes with.
    shard: ShardId,
    start: Start,
    /// Stands for it, if the plan relies on it.
    group: Option<KeyGroup>,
    /// See [`Reached::watermark_ms`].
    known_ms: Option<i64>,
}

/// Partitions cannot be listed.
#[derive(Debug)]
pub(super) enum Unlisted {
    /// The source cannot be asked now.
    Unreachable(ConnectorError),
    /// There are more or fewer than the table says: the job must end.
    Miscounted(ConnectorError),
}

impl From<Unlisted> for ConnectorError {
    fn from(unlisted: Unlisted) -> Self {
        match unlisted {
            Unlisted::Unreachable(error) | Unlisted::Miscounted(error) => error,
        }
    }
}

impl From<ConnectorError> for Unlisted {
    fn from(error: ConnectorError) -> Self {
        Self::Unreachable(error)
    }
}

/// A source whose partitions are opened, now and, if it is watched, later.
pub(super) struct Growing {
    pub(super) node: NodeId,
    table: String,
    pub(super) factory: Box<dyn SourceFactory>,
    /// How far the partitions that are not open were read at the last commit.
    positions: BTreeMap<PartitionId, Reached>,
    /// Which partitions are this pod's.
    seat: Arc<Seat>,
    /// What its table says of them.
    declared: Option<Declared>,
    /// The pod has read this source before.
    read_before: bool,
    /// Opened, or at their end for ever.
    known: BTreeSet<PartitionId>,
    /// Some partitions wait for others to end.
    waiting: bool,
}

impl Growing {
    pub(super) fn new(
        node: NodeId,
        table: String,
        factory: Box<dyn SourceFactory>,
        positions: BTreeMap<PartitionId, Reached>,
        seat: Arc<Seat>,
        declared: Option<Declared>,
    ) -> Result<Self, ConnectorError> {
        let (read_before, known) = (false, BTreeSet::new());
        let mut source = Self { node, table, factory, positions, seat, declared, read_before, known, waiting: false };
        // Of the pod's own: another pod may have committed before this one has ever run. What is gone was its own too.
        let others: BTreeSet<PartitionId> = source.listed(false)?.into_iter().map(|(_, id)| id).collect();
        source.read_before = source.positions.keys().any(|id| !others.contains(id));
        Ok(source)
    }

    /// The partitions that there are now and that are, or are not, this pod's, in the source's order, with their places in it.
    fn listed(&self, own: bool) -> Result<Vec<(usize, PartitionId)>, Unlisted> {
        let all = self.factory.partitions()?;
        self.declared.iter().try_for_each(|declared| declared.check(all.len())).map_err(Unlisted::Miscounted)?;
        let owns = |(index, id): &(usize, PartitionId)| match self.group(*index) {
            Some(group) => self.seat.owns(self.seat.shards().shard_of(group)),
            None => self.seat.owns_source(&self.table, &id.0, *index),
        };
        Ok(all.into_iter().enumerate().filter(|partition| owns(partition) == own).collect())
    }

    fn group(&self, index: usize) -> Option<KeyGroup> {
        self.declared.as_ref()?.group(index)
    }

    /// The partitions to open now, in the source's order, as many as may be open.
    pub(super) fn due(&mut self, monitor: &Monitor) -> Result<Vec<Due>, Unlisted> {
        let listed = self.listed(true)?;
        let room = self.factory.most_open().saturating_sub(monitor.retire(self.node));
        self.waiting = false;
        let mut due = Vec::new();
        for (index, id) in listed {
            if self.known.contains(&id) {
                continue;
            }
            if due.len() >= room {
                self.waiting = true;
                break;
            }
            self.known.insert(id.clone());
            let (start, known_ms) = match self.positions.remove(&id) {
                Some(reached) if self.factory.is_done(&id, &reached.position)? => continue,
                Some(Reached { position, watermark_ms }) => (Start::At(position), watermark_ms),
                None if self.read_before => (Start::Added, None),
                None => (Start::First, None),
            };
            due.push(Due { group: self.group(index), shard: self.seat.shard_of_source(index), id, start, known_ms });
        }
        Ok(due)
    }

    /// What was read in part must still be there.
    pub(super) fn check_gone(&self) -> Result<(), ConnectorError> {
        let listed: BTreeSet<PartitionId> = self.factory.partitions()?.into_iter().collect();
        let gone = self.positions.iter().filter(|(id, _)| !listed.contains(*id));
        gone.map(|(id, reached)| self.factory.is_done(id, &reached.position)).try_for_each(|done| done.map(drop))
    }
}

/// The thread; ended and joined when dropped.
pub(super) struct Discovery {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Discovery {
    /// Watches the sources that can be watched; `None` if there is none.
    pub(super) fn start(sources: Vec<Growing>, opener: Opener) -> Result<Option<Self>, PodError> {
        let watch = |source: Growing| {
            let interval = source.factory.watched()?;
            let due = Instant::now() + pause(&source, interval);
            Some(Watched { source, interval, due, complained: None })
        };
        let watched: Vec<Watched> = sources.into_iter().filter_map(watch).collect();
        if watched.is_empty() {
            return Ok(None);
        }
        let (stop, stopped) = channel::<()>();
        let mut run = Run { watched, opener };
        let thread = std::thread::Builder::new().name("discovery".into()).spawn(move || {
            while stopped.recv_timeout(run.pause()) == Err(RecvTimeoutError::Timeout) {
                run.look();
            }
        });
        Ok(Some(Self { stop: Some(stop), thread: Some(thread.map_err(PodError::Thread)?) }))
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that looks for new partitions panicked");
        }
    }
}

struct Watched {
    source: Growing,
    interval: Duration,
    due: Instant,
    complained: Option<Instant>,
}

struct Run {
    watched: Vec<Watched>,
    opener: Opener,
}

impl Run {
    fn pause(&self) -> Duration {
        let due = self.watched.iter().map(|watched| watched.due).min();
        due.map_or(COMPLAIN, |due| due.saturating_duration_since(Instant::now()))
    }

    fn look(&mut self) {
        let Self { watched, opener } = self;
        for Watched { source, interval, due, complained } in watched {
            if Instant::now() < *due {
                continue;
            }
            match source.due(&opener.monitor) {
                Ok(new) => {
                    *due = Instant::now() + pause(source, *interval);
                    new.into_iter().for_each(|due| give(opener, source, due));
                }
                Err(Unlisted::Miscounted(error)) => {
                    *due = Instant::now() + *interval;
                    put(&opener.places[0], Err(error));
                }
                Err(Unlisted::Unreachable(error)) => {
                    *due = Instant::now() + *interval;
                    if complained.is_none_or(|at| at.elapsed() >= COMPLAIN) {
                        *complained = Some(Instant::now());
                        tracing::warn!(%error, "cannot look for new partitions; the next look is at the next interval");
                    }
                }
            }
        }
    }
}

/// How long to wait for the next look. Where some partitions wait, a place may become free at any time.
fn pause(source: &Growing, interval: Duration) -> Duration {
    if source.waiting { LOOK.min(interval) } else { interval }
}

/// Opens a partition for a worker. One that cannot be opened ends the job there: it must not be passed over.
fn give(opener: &mut Opener, source: &Growing, due: Due) {
    tracing::info!(table = source.table, partition = due.id.0, "a new partition is read");
    let (worker, arrival) = match opener.open(source, due) {
        Ok((worker, partition)) => (worker, Ok((source.node, partition))),
        Err(error) => (0, Err(error)),
    };
    put(&opener.places[worker], arrival);
}

fn put(place: &Place, arrival: Arrival) {
    place.mailbox.put(arrival);
    (place.wake)();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_gives_each_arrival_once() {
        let mailbox = Mailbox::default();
        assert!(mailbox.take().is_empty());
        let refused = || ConnectorError { table: "t".into(), option: None, message: "no".into() };
        mailbox.put(Err(refused()));
        mailbox.put(Err(refused()));
        assert_eq!(mailbox.take().len(), 2);
        assert!(mailbox.take().is_empty());
    }
}
