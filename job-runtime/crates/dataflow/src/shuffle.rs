//! The shuffle: rows whose key belongs to a shard of another pod go there through a topic, in the transaction of the commit.
//!
//! Owns the layouts of what is sent and stored, the senders' event time, and when to send what. It reads and writes no topic: the runtime has a
//! [`ShuffleReader`] for each of a pod's shards and produces the [`ShuffleMessage`]s of [`outgoing::Outgoing`].
//!
//! # The way of a row
//! 1. An exchange hashes the keys. Rows of the pod's own shards go to their worker in memory, as with one pod.
//! 2. Rows of other shards are gathered per shard ([`block`]); before a window they are aggregated first, one row per key and window, if that
//!    makes them fewer. At the barrier each worker hands its blocks over with its commit, together with
//!    its event time.
//! 3. The pod makes one message of all workers' blocks per exchange and shard ([`message`]), with the least event time of its workers. Only
//!    what grows beyond [`block::BLOCK_BYTES`] within an interval goes earlier.
//! 4. The messages are in the pod's transaction: they are there once, or never. So order per (sender, shard) is kept, and nothing comes twice.
//! 5. The owner of the shard reads them, and commits how far it has read together with what the rows did ([`slots`]).
//!
//! Barriers do not travel: each pod commits alone. On the receiving side a barrier stands behind the messages that were taken, as it does at
//! a source.
//!
//! # Event time
//! Each message says the sender's event time behind it. A reader takes the minimum over all other pods of the assignment and its own workers.
//! After a new assignment all senders speak anew. A pod that gains a source partition or shard speaks only after every loser has sent its last
//! row (see `checkpoint::ownership`), so whoever reads in order and waits for the word of all has read what the losers sent. The gainer itself
//! waits until it has taken what was there when it started: of what came from its own new partitions no other pod speaks.
//! A pod that only loses takes the new assignment up at a barrier ([`Switch`]). What others said under the old one holds no time back any more,
//! and moves none: event time stands still, and does not go back, until all have spoken. What was said under a number that the reader has not
//! taken up yet is kept, and stored with its place.
//! A sender without rows for a shard sends a heartbeat when its event time has changed, at most [`outgoing::MARKERS_PER_SECOND`] of them;
//! the end of the input goes at once. Nothing is sent when nothing changes.
//!
//! # Back-pressure
//! The log takes what readers cannot: on disk. A pod whose readers lag by more than [`LAG_BOUND`] messages on one
//! shard reads nothing from its own sources until it has caught up by half ([`Gate`]). Its event time stands still meanwhile, so that nobody's
//! windows close over rows that wait. And a pod whose messages another one does not read, because that is slow or away, reads nothing from its own
//! sources beyond a bound ([`backlog`]). Neither stops a pod from reading what others have sent: so pods that wait for each other go on.

pub mod backlog;
pub mod block;
pub mod message;
mod outbox;
pub mod outgoing;
mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::graph::{JobGraph, NodeId, NodeKind, OperatorUid};
use crate::key::ShardId;
use crate::source::SourceError;
use crate::watermark::EventTime;
use crate::worker::Wake;

pub use block::{BlockError, UnsupportedColumn};
pub use message::{BlockKind, MessageError};
pub(crate) use outbox::Outbox;
pub(crate) use slots::SlotTimes;
pub use slots::{Place, PlaceError};

/// In [`crate::worker::WorkerConfig::owner`]: the shard belongs to another pod.
pub const OTHER_POD: usize = usize::MAX;
/// Messages on one shard that a reader may lag behind before its pod pauses its own sources.
pub const LAG_BOUND: u64 = 512;

/// How a pod sees the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodView {
    /// Hash of the job's uid.
    pub job: u64,
    /// Number of the assignment in force.
    pub assignment: u64,
    /// The pod's own ordinal.
    pub slot: u16,
    /// All other pods of the assignment.
    pub others: Vec<u16>,
}

/// Another assignment, taken up at a barrier: what the pod has lost is not its own any more from there on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// The worker of each shard: as it was, or [`OTHER_POD`].
    pub owner: Arc<[usize]>,
    /// How the pod sees the others; `None` while it lacks what the assignment gives it. Until it has that it can neither say nor know how far
    /// event time is: nobody reads some of its sources.
    pub view: Option<PodView>,
}

/// What a worker of a job of several pods is given.
pub struct ShuffleConfig {
    /// The pods.
    pub view: PodView,
    /// One for each exchange and each shard of this worker.
    pub readers: Vec<(NodeId, Box<dyn ShuffleReader>)>,
}

/// Reads one exchange's messages for one shard, in order.
pub trait ShuffleReader: Send {
    /// The shard.
    fn shard(&self) -> ShardId;
    /// The topic, for the committed position.
    fn topic(&self) -> &str;
    /// The next message, if one is there. Never blocks; if none is there the reader wakes the worker when there is.
    ///
    /// # Errors
    /// When the topic cannot be read any further.
    fn poll(&mut self) -> Result<Option<Vec<u8>>, SourceError>;
    /// The offset after the last message given out.
    fn next_offset(&self) -> i64;
    /// True when all that was there when the reader was opened has been given out. What of it a pod sent before it lost what it sent from is
    /// not covered by any sender's event time, so until then the shard's time stands still.
    fn caught_up(&self) -> bool;
    /// About how many messages are there that were not given out.
    fn lag(&self) -> u64;
}

/// A full block, or one worker's rest of an interval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShuffleBlock {
    /// The exchange.
    pub exchange: NodeId,
    /// Where it goes.
    pub shard: ShardId,
    /// What it holds.
    pub kind: BlockKind,
    /// The rows, in the layout of [`block`].
    pub bytes: Vec<u8>,
}

/// What one worker's side of an exchange has for other pods at a barrier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShuffleShare {
    /// The exchange.
    pub exchange: NodeId,
    /// The worker's event time at the barrier.
    pub time: EventTime,
    /// Its rows.
    pub blocks: Vec<ShuffleBlock>,
}

/// A message to produce: to the exchange's topic, to the partition of the shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShuffleMessage {
    /// The exchange.
    pub exchange: NodeId,
    /// The shard.
    pub shard: ShardId,
    /// The record's value.
    pub bytes: Vec<u8>,
    /// It has rows; a heartbeat has none.
    pub rows: bool,
}

/// The exchanges of a job: each has a topic when the job has several pods.
pub fn exchanges(graph: &JobGraph) -> impl Iterator<Item = (NodeId, OperatorUid)> {
    graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Exchange(_))).map(|node| (node.id, node.uid))
}

/// Whether the pod's sources may be read: closed while any reader lags too far behind, here or in another pod, and while they are held.
pub struct Gate {
    lagging: AtomicUsize,
    waiting: AtomicBool,
    held: AtomicBool,
    ended: AtomicBool,
    bound: u64,
    wakes: Vec<Wake>,
}

impl Gate {
    /// Closed by a reader that lags by more than `bound`; `wakes` wake all workers of the pod.
    pub fn new(bound: u64, wakes: Vec<Wake>) -> Self {
        let (lagging, [waiting, held, ended]) = (AtomicUsize::new(0), [const { AtomicBool::new(false) }; 3]);
        Self { lagging, waiting, held, ended, bound, wakes }
    }

    /// Of a job of one pod: nothing lags, and nobody waits.
    pub fn open() -> Self {
        Self::new(LAG_BOUND, Vec::new())
    }

    /// True while sources must not be read.
    pub fn is_closed(&self) -> bool {
        self.held.load(Ordering::Acquire)
            || self.waiting.load(Ordering::Acquire)
            || self.lagging.load(Ordering::Acquire) > 0
    }

    /// Lets the sources wait for readers of other pods (see [`backlog`]), or go on.
    pub fn wait(&self, wait: bool) {
        if self.waiting.swap(wait, Ordering::AcqRel) && !wait {
            self.wakes.iter().for_each(|wake| wake());
        }
    }

    /// Holds the sources, or lets them go on. A barrier that a worker is told of after this stands behind the last that it read.
    pub fn hold(&self, hold: bool) {
        if self.held.swap(hold, Ordering::AcqRel) && !hold {
            self.wakes.iter().for_each(|wake| wake());
        }
    }

    /// Says that what is read is all there is: for ever, and for all sources.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wakes.iter().for_each(|wake| wake());
    }

    /// True after [`Gate::end`].
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Takes news of a reader; `lagging` is what was said of it before, and what is to be said next time.
    pub(crate) fn report(&self, lagging: &mut bool, lag: u64) {
        if !*lagging && lag > self.bound {
            *lagging = true;
            self.lagging.fetch_add(1, Ordering::AcqRel);
        } else if *lagging && lag <= self.bound / 2 {
            *lagging = false;
            if self.lagging.fetch_sub(1, Ordering::AcqRel) == 1 {
                self.wakes.iter().for_each(|wake| wake());
            }
        }
    }
}
