//! The stream operators of one worker and the way of an element through them, depth first, from a root to the sinks or an exchange's queues.
//!
//! Owns delivery and alignment. Where elements come from (sources, exchange queues) is `root`'s.

use std::sync::Arc;

use crate::batch::{Batch, Element};
use crate::exchange::{QueueSender, SplitError, Splitter};
use crate::graph::{Calc, NodeId};
use crate::key::{KeyEncoder, ShardId};
use crate::operators::deduplicate::Deduplicate;
use crate::operators::window::WindowAggregate;
use crate::operators::{Stateful, calc};
use crate::shuffle::{Gate, Outbox};
use crate::sink::{EncodedRows, SinkChunk, SinkEncoder, SinkPayload};
use crate::state::{ChangeBatch, Stores};
use crate::watermark::{EventTime, MinOfInputs};
use crate::worker::busy::Busy;
use crate::worker::commits::Commits;
use crate::worker::switch::Switching;
use crate::worker::{CommitId, NodeProgress, WorkerError};

/// Changes of this many bytes always have room, however small the budget.
const LEAST_STATE: u64 = 8 << 10;

/// An input of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub(super) node: usize,
    pub(super) input: usize,
}

/// What a root leads to on this worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Reach {
    /// Inputs of nodes with several inputs.
    pub(super) gates: Vec<Port>,
    /// Exchanges with queues.
    pub(super) exchanges: Vec<usize>,
}

/// Which inputs have delivered the barrier that a node waits for.
pub(super) struct Alignment {
    arrived: Vec<bool>,
    count: usize,
}

impl Alignment {
    pub(super) fn new(inputs: usize) -> Self {
        Self { arrived: vec![false; inputs], count: 0 }
    }

    /// Takes the barrier from `input`; true if it was the last.
    pub(super) fn arrive(&mut self, input: usize) -> bool {
        debug_assert!(!self.arrived[input], "an input that has delivered its barrier stays still");
        self.arrived[input] = true;
        self.count += 1;
        let complete = self.count == self.arrived.len();
        if complete {
            self.arrived.fill(false);
            self.count = 0;
        }
        complete
    }

    /// True if `input` has delivered the barrier and others have not.
    pub(super) fn is_closed(&self, input: usize) -> bool {
        self.arrived[input]
    }
}

/// What a node does on this worker.
pub(super) enum Role {
    Source,
    Calc(Calc),
    /// One worker: only hashes.
    LocalExchange(KeyEncoder),
    /// Several workers or pods: splits into queues, and what is for other pods. Its output side is a root.
    Exchange(Box<Exchange>),
    Window(Box<WindowAggregate>),
    Deduplicate(Box<Deduplicate>),
    Union,
    Sink(Box<dyn SinkEncoder>),
}

impl Role {
    /// The operator, if it has state.
    fn stateful(&self) -> Option<&dyn Stateful> {
        match self {
            Self::Window(window) => Some(window.as_ref()),
            Self::Deduplicate(deduplicate) => Some(deduplicate.as_ref()),
            Self::Source | Self::Calc(_) | Self::LocalExchange(_) | Self::Exchange(_) | Self::Union | Self::Sink(_) => {
                None
            }
        }
    }

    pub(super) fn stateful_mut(&mut self) -> Option<&mut dyn Stateful> {
        match self {
            Self::Window(window) => Some(window.as_mut()),
            Self::Deduplicate(deduplicate) => Some(deduplicate.as_mut()),
            Self::Source | Self::Calc(_) | Self::LocalExchange(_) | Self::Exchange(_) | Self::Union | Self::Sink(_) => {
                None
            }
        }
    }

    fn exchange(&self) -> Option<&Exchange> {
        match self {
            Self::Exchange(exchange) => Some(exchange),
            Self::Source
            | Self::Calc(_)
            | Self::LocalExchange(_)
            | Self::Window(_)
            | Self::Deduplicate(_)
            | Self::Union
            | Self::Sink(_) => None,
        }
    }
}

/// The sending side of an exchange.
pub(super) struct Exchange {
    pub(super) keys: KeyEncoder,
    pub(super) splitter: Splitter,
    pub(super) senders: Vec<QueueSender>,
    /// For shards of other pods.
    pub(super) outbox: Option<Outbox>,
}

/// One node on this worker.
pub(super) struct NodeState {
    pub(super) id: NodeId,
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) consumers: Vec<Port>,
    /// Event time over its inputs (over the queues, for an exchange that has them).
    pub(super) time: MinOfInputs,
    /// Barriers over its inputs (likewise).
    pub(super) alignment: Alignment,
    /// The commit that will end the interval which this node is in.
    pub(super) interval: CommitId,
    pub(super) rows_in: u64,
    pub(super) rows_out: u64,
}

pub(super) struct Flow {
    pub(super) worker: usize,
    pub(super) nodes: Vec<NodeState>,
    pub(super) commits: Commits,
    /// Closed while sources must not be read.
    pub(super) gate: Arc<Gate>,
    pub(super) stores: Stores,
    /// The worker of each shard.
    pub(super) owner: Arc<[usize]>,
    /// Shards that are being given up.
    pub(super) switching: Option<Switching>,
    /// How many bytes of state should be in memory at most.
    pub(super) state_budget: u64,
    pub(super) busy: Busy,
}

impl Exchange {
    /// Sends each row to the worker that owns its key, or gathers it for the pod that does.
    fn send(&mut self, batch: &Batch, commits: &mut Commits) -> Result<(), SplitError> {
        let hashes = self.keys.encode(&batch.rows).hashes();
        self.splitter.split(batch, &hashes, |to, part| self.senders[to].send(Element::Batch(part)))?;
        if let Some(outbox) = &mut self.outbox {
            let mut full = Vec::new();
            outbox.take(&batch.rows, &hashes, self.splitter.elsewhere(), &mut full)?;
            full.into_iter().for_each(|block| commits.block(outbox.interval(), block));
        }
        Ok(())
    }
}

impl Flow {
    /// Gives an element that `node` made to all that read it.
    pub(super) fn emit(&mut self, node: usize, element: Element) -> Result<(), WorkerError> {
        if let Element::Batch(batch) = &element {
            self.nodes[node].rows_out += batch.rows.num_rows() as u64;
        }
        let Some(last) = self.nodes[node].consumers.len().checked_sub(1) else { return Ok(()) };
        for i in 0..last {
            let port = self.nodes[node].consumers[i];
            self.deliver(port, element.clone())?;
        }
        let port = self.nodes[node].consumers[last];
        self.deliver(port, element)
    }

    fn deliver(&mut self, port: Port, element: Element) -> Result<(), WorkerError> {
        let caller = self.busy.enter(port.node);
        let done = self.take(port, element);
        self.busy.leave(caller);
        done
    }

    fn take(&mut self, port: Port, element: Element) -> Result<(), WorkerError> {
        let node = &mut self.nodes[port.node];
        if let Role::Exchange(exchange) = &mut node.role
            && !matches!(element, Element::Batch(_))
        {
            match (&mut exchange.outbox, &element) {
                (Some(outbox), Element::EventTime(time)) => outbox.on_time(*time),
                (Some(outbox), Element::Barrier(id)) => {
                    let share = outbox.close(*id).map_err(|e| WorkerError::window(&node.name, e))?;
                    self.commits.shuffled(*id, share);
                }
                (Some(_), Element::Batch(_)) | (None, _) => {}
            }
            let sent = exchange.senders.iter_mut().try_for_each(|sender| sender.send(element.clone()));
            sent.map_err(|peer| WorkerError::peer(&node.name, peer))?;
            if let Element::Barrier(id) = element {
                self.redirect(port.node, id);
            }
            return Ok(());
        }
        match element {
            Element::Batch(batch) => self.on_batch(port.node, batch),
            Element::EventTime(time) => self.on_time(port, time),
            Element::Barrier(id) => self.on_barrier(port, id),
        }
    }

    fn on_batch(&mut self, index: usize, batch: Batch) -> Result<(), WorkerError> {
        let node = &mut self.nodes[index];
        node.rows_in += batch.rows.num_rows() as u64;
        let output = match &mut node.role {
            Role::Source => None,
            Role::Calc(calc) => calc::apply(calc, &batch).map_err(|e| WorkerError::calc(&node.name, e))?,
            Role::LocalExchange(keys) => {
                let hashes = keys.encode(&batch.rows).hashes();
                Some(Batch { rows: batch.rows, hashes: Some(hashes), partial: false })
            }
            Role::Exchange(exchange) => {
                exchange.send(&batch, &mut self.commits).map_err(|error| match error {
                    SplitError::Peer(peer) => WorkerError::peer(&node.name, peer),
                    SplitError::Arrow(error) => WorkerError::arrow(&node.name, &error),
                    SplitError::Window(error) => WorkerError::window(&node.name, error),
                })?;
                None
            }
            Role::Window(window) => {
                window.update(&batch, &self.stores).map_err(|e| WorkerError::window(&node.name, e))?;
                None
            }
            Role::Deduplicate(deduplicate) => {
                let first = deduplicate.update(&batch, &self.stores);
                first.map_err(|e| WorkerError::deduplicate(&node.name, e))?
            }
            // Behind a union the hashes of an exchange say nothing of keys: each input may have come through another one. Where they are
            // relied upon, all inputs are of one source.
            Role::Union => Some(Batch { rows: batch.rows, hashes: batch.hashes, partial: false }),
            Role::Sink(_) => return self.encode(index, &batch),
        };
        match output {
            Some(batch) => self.emit(index, Element::Batch(batch)),
            None => Ok(()),
        }
    }

    fn encode(&mut self, index: usize, batch: &Batch) -> Result<(), WorkerError> {
        let node = &mut self.nodes[index];
        let Role::Sink(encoder) = &mut node.role else { return Ok(()) };
        let mut payloads = Vec::new();
        encoder.encode(&batch.rows, &mut payloads)?;
        node.rows_out += batch.rows.num_rows() as u64;
        self.give_out(index, payloads);
        Ok(())
    }

    fn give_out(&mut self, index: usize, payloads: Vec<SinkPayload>) {
        let (sink, interval) = (self.nodes[index].id, self.nodes[index].interval);
        for payload in payloads {
            self.commits.chunk(interval, SinkChunk { sink, worker: self.worker, payload });
        }
    }

    /// Dead letters of a source go to the committer under the source's own id.
    pub(super) fn give_letters(&mut self, source: usize, letters: EncodedRows) {
        self.give_out(source, vec![SinkPayload::Rows(letters)]);
    }

    fn on_time(&mut self, port: Port, time: EventTime) -> Result<(), WorkerError> {
        match self.nodes[port.node].time.update(port.input, time) {
            Some(time) => self.advance(port.node, time),
            None => Ok(()),
        }
    }

    /// The event time of a node has changed to `time`.
    pub(super) fn advance(&mut self, index: usize, time: EventTime) -> Result<(), WorkerError> {
        loop {
            let node = &mut self.nodes[index];
            let batch = match &mut node.role {
                Role::Window(window) => {
                    let rows = window.fire_next(time.watermark_ms, &self.stores);
                    rows.map_err(|error| WorkerError::window(&node.name, error))?
                }
                Role::Deduplicate(deduplicate) => {
                    let rows = deduplicate.fire_next(time.watermark_ms, &self.stores);
                    rows.map_err(|error| WorkerError::deduplicate(&node.name, error))?
                }
                Role::Source
                | Role::Calc(_)
                | Role::LocalExchange(_)
                | Role::Exchange(_)
                | Role::Union
                | Role::Sink(_) => None,
            };
            match batch {
                Some(batch) => self.emit(index, Element::Batch(batch))?,
                None => break,
            }
        }
        self.emit(index, Element::EventTime(time))
    }

    fn on_barrier(&mut self, port: Port, id: CommitId) -> Result<(), WorkerError> {
        match self.nodes[port.node].alignment.arrive(port.input) {
            true => self.pass(port.node, id),
            false => Ok(()),
        }
    }

    /// All inputs of a node have delivered the barrier: ends its interval and sends the barrier on.
    pub(super) fn pass(&mut self, index: usize, id: CommitId) -> Result<(), WorkerError> {
        self.pass_with(index, id, Vec::new())
    }

    /// As [`Flow::pass`], with state changes of the node's root.
    pub(super) fn pass_with(
        &mut self,
        index: usize,
        id: CommitId,
        mut changes: Vec<(ShardId, ChangeBatch)>,
    ) -> Result<(), WorkerError> {
        let node = &mut self.nodes[index];
        let mut payloads = Vec::new();
        match &mut node.role {
            Role::Window(window) => changes.append(&mut window.take_changes(id)),
            Role::Deduplicate(deduplicate) => changes.append(&mut deduplicate.take_changes(id)),
            Role::Sink(encoder) => encoder.flush(&mut payloads)?,
            Role::Source | Role::Calc(_) | Role::LocalExchange(_) | Role::Exchange(_) | Role::Union => {}
        }
        self.give_out(index, payloads);
        self.leave(index, id);
        let node = &mut self.nodes[index];
        node.interval = id.next();
        let at_end = node.time.combined().is_end();
        // The barrier goes on first, so that the last operator to pass it is the last to count.
        self.emit(index, Element::Barrier(id))?;
        self.commits.passed(id, at_end, changes);
        Ok(())
    }

    /// Sends what was held for full queues; true if something went.
    pub(super) fn flush_held(&mut self) -> Result<bool, WorkerError> {
        let mut moved = false;
        for node in &mut self.nodes {
            if let Role::Exchange(exchange) = &mut node.role {
                for sender in exchange.senders.iter_mut().filter(|s| s.is_blocked()) {
                    moved |= sender.flush().map_err(|peer| WorkerError::peer(&node.name, peer))?;
                }
            }
        }
        Ok(moved)
    }

    /// True if a node that the root leads to waits for a barrier from elsewhere: nothing more may come from this root until it has it.
    pub(super) fn is_aligning(&self, reach: &Reach) -> bool {
        reach.gates.iter().any(|gate| self.nodes[gate.node].alignment.is_closed(gate.input))
    }

    /// True if nothing more may come from the root now: alignment, or a full queue.
    pub(super) fn is_blocked(&self, reach: &Reach) -> bool {
        self.is_aligning(reach) || reach.exchanges.iter().any(|&node| self.has_held(node))
    }

    fn has_held(&self, node: usize) -> bool {
        let exchange = self.nodes[node].role.exchange();
        exchange.is_some_and(|exchange| exchange.senders.iter().any(QueueSender::is_blocked))
    }

    /// True if every operator is at the end of its input, nothing is held and no barrier is on its way.
    pub(super) fn is_finished(&self) -> bool {
        self.commits.is_quiet()
            && (0..self.nodes.len()).all(|i| self.nodes[i].time.combined().is_end() && !self.has_held(i))
    }

    /// Changes of event time that other pods must be told of.
    pub(super) fn markers(&self) -> u64 {
        let exchanges = self.nodes.iter().filter_map(|node| node.role.exchange());
        exchanges.filter_map(|exchange| exchange.outbox.as_ref()).map(Outbox::changes).sum()
    }

    fn stateful(&self) -> impl Iterator<Item = &dyn Stateful> {
        self.nodes.iter().filter_map(|node| node.role.stateful())
    }

    /// The changes of all commits through `id` are in the stores: makes room if there is more in memory than the budget.
    pub(super) fn applied(&mut self, id: CommitId) {
        for node in &mut self.nodes {
            if let Some(operator) = node.role.stateful_mut() {
                operator.on_applied(id, &self.stores);
            }
        }
        let held = self.state_bytes();
        if held <= self.state_budget {
            return;
        }
        // Making room looks at every entry: so there must be enough of it for a while.
        let too_much = held - self.state_budget / 4 * 3;
        for operator in self.nodes.iter_mut().filter_map(|node| node.role.stateful_mut()) {
            let share = u128::from(too_much) * u128::from(operator.size().bytes) / u128::from(held.max(1));
            operator.evict(share as u64);
        }
    }

    /// True if there is so much in memory that cannot leave before a commit is in the stores that nothing more should be read.
    pub(super) fn is_full(&self) -> bool {
        self.state_bytes() > self.state_budget.saturating_add(self.state_budget / 4).saturating_add(LEAST_STATE)
            && self.stateful().any(Stateful::is_behind)
    }

    fn state_bytes(&self) -> u64 {
        self.stateful().map(|operator| operator.size().bytes).sum()
    }

    pub(super) fn progress(&self) -> Vec<NodeProgress> {
        let node = |(index, node): (usize, &NodeState)| {
            let state = node.role.stateful().map(Stateful::size).unwrap_or_default();
            NodeProgress {
                node: node.id,
                rows_in: node.rows_in,
                rows_out: node.rows_out,
                late_dropped: state.late_dropped,
                busy_ns: self.busy.spent_ns(index),
                watermark_ms: node.time.combined().known(),
                state_entries: state.entries,
                state_bytes: state.bytes,
                state_hits: state.hits,
                state_misses: state.misses,
                state_evictions: state.evictions,
            }
        };
        self.nodes.iter().enumerate().map(node).collect()
    }
}
