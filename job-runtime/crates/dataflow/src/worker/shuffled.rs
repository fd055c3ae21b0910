//! What other pods send to this worker's shards: one more input of an exchange, with its barriers put in here as at a source.
//!
//! Owns reading in bounded pieces and the place of each shard. Layouts and event time are `shuffle`'s; what happens to rows is `flow`'s.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::batch::{Batch, Element};
use crate::graph::{NodeId, OperatorUid};
use crate::key::{KeyEncoder, ShardId, Shards};
use crate::shuffle::message::{self, Route};
use crate::shuffle::{BlockError, BlockKind, Gate, Place, ShuffleReader, SlotTimes, block};
use crate::source::{PartitionId, Reached, SourcePosition};
use crate::state::ChangeBatch;
use crate::watermark::EventTime;
use crate::worker::flow::{Flow, Reach};
use crate::worker::{CommitId, WorkerError, is_elsewhere};

/// How many messages one reader gives per step.
const MESSAGES_PER_STEP: usize = 4;

/// The receiving side of one exchange for other pods.
pub(super) struct ShuffleInput {
    pub(super) job: u64,
    pub(super) uid: OperatorUid,
    pub(super) shards: Shards,
    pub(super) schema: SchemaRef,
    /// Of partial aggregates, if a window is behind the exchange.
    pub(super) partial: Option<SchemaRef>,
    pub(super) keys: KeyEncoder,
    /// Number of the exchange's queues: this is the next input for barriers.
    pub(super) queues: usize,
    pub(super) inbound: Vec<Inbound>,
    pub(super) gate: Arc<Gate>,
    /// Barriers that could not be sent yet. While there is one, nothing is read.
    pub(super) barriers: VecDeque<CommitId>,
}

/// One shard.
pub(super) struct Inbound {
    /// Its input for event time.
    pub(super) input: usize,
    reader: Box<dyn ShuffleReader>,
    times: SlotTimes,
    /// Where the last barrier found it.
    noted: i64,
    lagging: bool,
    /// Not all is taken that was there at the start.
    catching_up: bool,
    /// The pod does not read all of its sources: nobody can say how far time is.
    standing: bool,
    /// It is another pod's behind the barrier that was injected last.
    leaving: bool,
}

impl Inbound {
    pub(super) fn new(input: usize, reader: Box<dyn ShuffleReader>, times: SlotTimes) -> Self {
        let noted = reader.next_offset();
        let catching_up = !reader.caught_up();
        Self { input, reader, times, noted, lagging: false, catching_up, standing: false, leaving: false }
    }

    /// Event time of the shard's senders.
    pub(super) fn time(&self) -> EventTime {
        if self.catching_up || self.standing { EventTime::START } else { self.times.combined() }
    }
}

impl ShuffleInput {
    pub(super) fn inject(&mut self, id: CommitId) {
        self.barriers.push_back(id);
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.barriers.is_empty()
    }

    /// Shards of other pods are given up at the barrier that is being injected; their places are told for the last time.
    pub(super) fn leave(&mut self, owner: &[usize]) {
        for inbound in &mut self.inbound {
            inbound.leaving |= is_elsewhere(owner, inbound.reader.shard());
        }
    }

    /// Where the readers stand.
    pub(super) fn positions(&self, node: NodeId) -> impl Iterator<Item = (NodeId, PartitionId, Reached)> {
        self.inbound.iter().filter(|inbound| !inbound.leaving).map(move |inbound| {
            let (partition, reader) = (inbound.reader.shard().0, &inbound.reader);
            let (topic, next_offset) = (reader.topic().to_owned(), reader.next_offset());
            let position = SourcePosition::Kafka { topic, partition: i32::from(partition), next_offset };
            // What senders said of event time is state of the shard.
            (node, PartitionId(partition.to_string()), Reached { position, watermark_ms: None })
        })
    }

    /// The barrier is there from all sides. Nothing is read between its injection and this: what is taken now is the place at the barrier.
    pub(super) fn pass(&mut self, node: usize, id: CommitId, flow: &mut Flow) -> Result<(), WorkerError> {
        let changes = self.changes();
        flow.pass_with(node, id, changes)?;
        let Some(switch) = flow.switch_at(id).map(|switching| Arc::clone(&switching.switch)) else { return Ok(()) };
        let gate = &self.gate;
        let gone = self.inbound.extract_if(.., |inbound| inbound.leaving).map(|mut inbound| {
            gate.report(&mut inbound.lagging, 0);
            (inbound.input, EventTime::END)
        });
        let mut times: Vec<(usize, EventTime)> = gone.collect();
        for inbound in &mut self.inbound {
            inbound.standing = switch.view.is_none();
            if let Some(view) = &switch.view {
                inbound.times.take_up(view.assignment, view.others.clone());
            }
            times.push((inbound.input, inbound.time()));
        }
        // At once: what comes behind the barrier must not move time by what was said before it.
        match flow.nodes[node].time.replace(times.into_iter()) {
            Some(time) => flow.advance(node, time),
            None => Ok(()),
        }
    }

    /// The places that have changed since the last barrier, as state of their shards.
    fn changes(&mut self) -> Vec<(ShardId, ChangeBatch)> {
        let moved = self.inbound.iter_mut().filter(|inbound| inbound.noted != inbound.reader.next_offset());
        let change = |inbound: &mut Inbound| {
            let (shard, next_offset) = (inbound.reader.shard(), inbound.reader.next_offset());
            inbound.noted = next_offset;
            let mut batch = ChangeBatch::new();
            batch.put(&Place::key(self.shards, shard, self.uid), &inbound.times.place(next_offset).encode());
            (shard, batch)
        };
        moved.map(change).collect()
    }

    /// Sends barriers on, then moves a bounded number of messages; true if something moved.
    pub(super) fn run(&mut self, node: usize, reach: &Reach, flow: &mut Flow) -> Result<bool, WorkerError> {
        let mut moved = false;
        while !self.barriers.is_empty() && !flow.is_aligning(reach) && !self.is_closed(node, flow) {
            let Some(id) = self.barriers.pop_front() else { break };
            moved = true;
            if flow.nodes[node].alignment.arrive(self.queues) {
                self.pass(node, id, flow)?;
            }
        }
        if !self.barriers.is_empty() {
            return Ok(moved);
        }
        for place in 0..self.inbound.len() {
            let mut took = false;
            for _ in 0..MESSAGES_PER_STEP {
                if flow.is_blocked(reach) || self.is_closed(node, flow) {
                    return Ok(moved | took);
                }
                if !self.take(place, node, flow)? {
                    break;
                }
                took = true;
            }
            moved |= took;
            let inbound = &mut self.inbound[place];
            // Asking costs a little: a reader that keeps up and found nothing has no news.
            if took || inbound.lagging {
                self.gate.report(&mut inbound.lagging, inbound.reader.lag());
            }
        }
        Ok(moved)
    }

    /// True while this input has delivered the barrier and a queue has not.
    fn is_closed(&self, node: usize, flow: &Flow) -> bool {
        flow.nodes[node].alignment.is_closed(self.queues)
    }

    /// Takes one message of one shard; false if there is none.
    fn take(&mut self, place: usize, node: usize, flow: &mut Flow) -> Result<bool, WorkerError> {
        let inbound = &mut self.inbound[place];
        let Some(bytes) = inbound.reader.poll()? else { return self.catch_up(place, node, flow) };
        let shard = inbound.reader.shard();
        let route = Route { job: self.job, exchange: self.uid, shard };
        let message = message::decode(route, &bytes).map_err(|source| WorkerError::Message {
            operator: flow.nodes[node].name.clone(),
            topic: inbound.reader.topic().to_owned(),
            shard,
            next_offset: inbound.reader.next_offset(),
            source,
        })?;
        for &(kind, bytes) in &message.blocks {
            let batch = match (kind, &self.partial) {
                (BlockKind::Rows, _) => block::decode(&self.schema, bytes).map(|rows| Batch {
                    hashes: Some(self.keys.encode(&rows).hashes()),
                    rows,
                    partial: false,
                }),
                (BlockKind::Partial, Some(schema)) => {
                    block::decode(schema, bytes).map(|rows| Batch { rows, hashes: None, partial: true })
                }
                (BlockKind::Partial, None) => Err(BlockError("partial aggregates, and no window behind".to_owned())),
            };
            let operator = || flow.nodes[node].name.clone();
            let batch = batch.map_err(|source| WorkerError::Block { operator: operator(), shard, source })?;
            flow.emit(node, Element::Batch(batch))?;
        }
        if let Some(time) = inbound.times.update(message.assignment, message.slot, message.time)
            && !(inbound.catching_up || inbound.standing)
            && let Some(time) = flow.nodes[node].time.update(inbound.input, time)
        {
            flow.advance(node, time)?;
        }
        Ok(true)
    }

    /// Nothing is there now: if that is the end of what was there at the start, the shard's time goes on. True if it did.
    fn catch_up(&mut self, place: usize, node: usize, flow: &mut Flow) -> Result<bool, WorkerError> {
        let inbound = &mut self.inbound[place];
        if !inbound.catching_up || !inbound.reader.caught_up() {
            return Ok(false);
        }
        inbound.catching_up = false;
        if let Some(time) = flow.nodes[node].time.update(inbound.input, inbound.time()) {
            flow.advance(node, time)?;
        }
        Ok(true)
    }
}
