//! The exchange between workers: one bounded queue per (exchange node, sending worker, receiving worker).
//!
//! Owns the queues, the wake-ups across them and the splitting of a batch by the worker that owns each row's key. A sender never loses an
//! element: what does not fit is held, and the sending root stays still until it fits. It does not decide what to send or when to align.
//!
//! With one worker there is no queue and no split: the exchange only computes the hashes. Rows of shards that belong to other pods are only
//! picked out here; they go through `shuffle`, and a job of several pods has queues also with one worker.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};

use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;

use crate::batch::{Batch, Element};
use crate::graph::{JobGraph, NodeId, NodeKind};
use crate::key::{KEY_GROUPS, KeyGroup, ShardId, Shards, group_of};
use crate::operators::window::WindowError;
use crate::shuffle::OTHER_POD;
use crate::worker::Wake;

/// The other end of a queue is gone: that worker has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerGone {
    /// The worker that stopped.
    pub worker: usize,
}

/// One worker's ends of all queues of all exchanges.
#[derive(Default)]
pub struct ExchangePorts {
    /// One per exchange node, in the order of the graph; empty with one worker.
    pub(crate) exchanges: Vec<ExchangeEnds>,
}

/// One worker's ends of one exchange.
pub(crate) struct ExchangeEnds {
    pub(crate) node: NodeId,
    /// By receiving worker.
    pub(crate) senders: Vec<QueueSender>,
    /// By sending worker.
    pub(crate) receivers: Vec<QueueReceiver>,
}

/// How full one queue is, for metrics.
#[derive(Clone, Debug)]
pub struct QueueGauge {
    /// The exchange.
    pub node: NodeId,
    /// The receiving worker.
    pub to: usize,
    waiting: Arc<AtomicUsize>,
}

impl QueueGauge {
    /// Elements that wait in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A gauge for every queue.
pub fn gauges(ports: &[ExchangePorts]) -> Vec<QueueGauge> {
    let ends = ports.iter().flat_map(|port| &port.exchanges);
    let gauge = |node, sender: &QueueSender| QueueGauge { node, to: sender.to, waiting: Arc::clone(&sender.waiting) };
    ends.flat_map(|ends| ends.senders.iter().map(|sender| gauge(ends.node, sender))).collect()
}

/// Makes the queues of a job, `capacity` elements each; element `i` of the result belongs to worker `i`. `wakes[i]` wakes worker `i`.
///
/// # Panics
/// If `wakes` has not one entry per worker or `capacity` is 0.
pub fn ports(graph: &JobGraph, workers: usize, capacity: usize, wakes: &[Wake]) -> Vec<ExchangePorts> {
    if workers < 2 {
        assert_eq!(wakes.len(), workers, "one wake per worker");
        return wakes.iter().map(|_| ExchangePorts::default()).collect();
    }
    ports_of_pod(graph, workers, capacity, wakes)
}

/// As [`ports`], for a pod of several: there are queues also with one worker, because what other pods send joins behind them.
///
/// # Panics
/// As [`ports`].
pub fn ports_of_pod(graph: &JobGraph, workers: usize, capacity: usize, wakes: &[Wake]) -> Vec<ExchangePorts> {
    assert_eq!(wakes.len(), workers, "one wake per worker");
    assert!(capacity > 0, "a queue holds at least one element");
    let mut ports: Vec<ExchangePorts> = (0..workers).map(|_| ExchangePorts::default()).collect();
    for node in graph.nodes.iter().filter(|n| matches!(n.kind, NodeKind::Exchange(_))) {
        let mut senders: Vec<Vec<QueueSender>> = (0..workers).map(|_| Vec::with_capacity(workers)).collect();
        let mut receivers: Vec<Vec<QueueReceiver>> = (0..workers).map(|_| Vec::with_capacity(workers)).collect();
        for (from, senders) in senders.iter_mut().enumerate() {
            for (to, receivers) in receivers.iter_mut().enumerate() {
                let (sender, receiver) = queue(capacity, from, to, wakes);
                senders.push(sender);
                receivers.push(receiver);
            }
        }
        for (port, (senders, receivers)) in ports.iter_mut().zip(senders.into_iter().zip(receivers)) {
            port.exchanges.push(ExchangeEnds { node: node.id, senders, receivers });
        }
    }
    ports
}

fn queue(capacity: usize, from: usize, to: usize, wakes: &[Wake]) -> (QueueSender, QueueReceiver) {
    let (sender, receiver) = sync_channel(capacity);
    let (full, waiting) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let sender = QueueSender {
        queue: sender,
        held: VecDeque::new(),
        full: Arc::clone(&full),
        waiting: Arc::clone(&waiting),
        wake: Arc::clone(&wakes[to]),
        to,
    };
    (sender, QueueReceiver { queue: receiver, full, waiting, wake: Arc::clone(&wakes[from]), from })
}

/// The sending end: elements that do not fit are held here, in order.
pub(crate) struct QueueSender {
    queue: SyncSender<Element>,
    held: VecDeque<Element>,
    /// Set while something is held: the receiver wakes us when it has taken something.
    full: Arc<AtomicBool>,
    /// Elements in the queue, for metrics only.
    waiting: Arc<AtomicUsize>,
    wake: Wake,
    to: usize,
}

impl QueueSender {
    /// Sends, or holds what does not fit.
    pub(crate) fn send(&mut self, element: Element) -> Result<(), PeerGone> {
        self.held.push_back(element);
        if self.held.len() == 1 {
            self.flush()?;
        }
        Ok(())
    }

    /// Tries to send what is held; true if something went.
    pub(crate) fn flush(&mut self) -> Result<bool, PeerGone> {
        let mut sent = false;
        while let Some(element) = self.held.pop_front() {
            if let Some(element) = self.try_send(element)? {
                // Say that we wait, then look again: the receiver may have emptied the queue in between and not seen that we wait.
                self.full.store(true, Ordering::SeqCst);
                if let Some(element) = self.try_send(element)? {
                    self.held.push_front(element);
                    break;
                }
                self.full.store(false, Ordering::SeqCst);
            }
            sent = true;
        }
        if sent {
            (self.wake)();
        }
        Ok(sent)
    }

    /// True while something is held.
    pub(crate) fn is_blocked(&self) -> bool {
        !self.held.is_empty()
    }

    fn try_send(&self, element: Element) -> Result<Option<Element>, PeerGone> {
        // Counted before it is there, so that the receiver never counts below zero.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        match self.queue.try_send(element) {
            Ok(()) => Ok(None),
            Err(TrySendError::Full(element)) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                Ok(Some(element))
            }
            Err(TrySendError::Disconnected(_)) => Err(PeerGone { worker: self.to }),
        }
    }
}

/// The receiving end.
pub(crate) struct QueueReceiver {
    queue: Receiver<Element>,
    full: Arc<AtomicBool>,
    waiting: Arc<AtomicUsize>,
    wake: Wake,
    from: usize,
}

impl QueueReceiver {
    /// The next element, if there is one.
    pub(crate) fn receive(&mut self) -> Result<Option<Element>, PeerGone> {
        match self.queue.try_recv() {
            Ok(element) => {
                self.waiting.fetch_sub(1, Ordering::Relaxed);
                if self.full.swap(false, Ordering::SeqCst) {
                    (self.wake)();
                }
                Ok(Some(element))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(PeerGone { worker: self.from }),
        }
    }
}

/// Splits batches by the worker that owns each row's key group, or by the shard if that is another pod's.
pub(crate) struct Splitter {
    workers: usize,
    /// Place in `rows` of each key group.
    place_of_group: Box<[u16]>,
    /// Row numbers of the last batch by worker, then by shard; kept to reuse the memory.
    rows: Vec<Vec<u32>>,
}

impl Splitter {
    pub(crate) fn new(shards: Shards, owner: &[usize], workers: usize) -> Self {
        let place = |group: u16| {
            let shard = usize::from(shards.shard_of(KeyGroup(group)).0);
            if owner[shard] == OTHER_POD { workers + shard } else { owner[shard] }
        };
        let place_of_group: Box<[u16]> = (0..KEY_GROUPS).map(|group| place(group) as u16).collect();
        let places = place_of_group.iter().map(|place| usize::from(*place) + 1).max().unwrap_or(0).max(workers);
        Self { workers, place_of_group, rows: vec![Vec::new(); places] }
    }

    /// Calls `give` with the part of each worker of this pod; the order of rows is kept within a part.
    pub(crate) fn split(
        &mut self,
        batch: &Batch,
        hashes: &Arc<[u64]>,
        mut give: impl FnMut(usize, Batch) -> Result<(), PeerGone>,
    ) -> Result<(), SplitError> {
        for rows in &mut self.rows {
            rows.clear();
        }
        for (row, &hash) in hashes.iter().enumerate() {
            let place = self.place_of_group[usize::from(group_of(hash).0)];
            self.rows[usize::from(place)].push(row as u32);
        }
        let own = &self.rows[..self.workers];
        if let Some(worker) = own.iter().position(|rows| rows.len() == hashes.len()) {
            return Ok(give(
                worker,
                Batch { rows: batch.rows.clone(), hashes: Some(Arc::clone(hashes)), partial: false },
            )?);
        }
        for (worker, rows) in own.iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            let part_hashes = rows.iter().map(|&row| hashes[row as usize]).collect();
            let part = take_record_batch(&batch.rows, &UInt32Array::from(rows.clone()))?;
            give(worker, Batch { rows: part, hashes: Some(part_hashes), partial: false })?;
        }
        Ok(())
    }

    /// Rows of the last batch that belong to other pods, by shard.
    pub(crate) fn elsewhere(&self) -> impl Iterator<Item = (ShardId, &[u32])> {
        let shards = self.rows[self.workers..].iter().enumerate().filter(|(_, rows)| !rows.is_empty());
        shards.map(|(shard, rows)| (ShardId(shard as u16), rows.as_slice()))
    }
}

/// A batch could not be split or sent.
#[derive(Debug)]
pub(crate) enum SplitError {
    Peer(PeerGone),
    Arrow(ArrowError),
    Window(WindowError),
}

impl From<WindowError> for SplitError {
    fn from(error: WindowError) -> Self {
        Self::Window(error)
    }
}

impl From<PeerGone> for SplitError {
    fn from(peer: PeerGone) -> Self {
        Self::Peer(peer)
    }
}

impl From<ArrowError> for SplitError {
    fn from(error: ArrowError) -> Self {
        Self::Arrow(error)
    }
}
