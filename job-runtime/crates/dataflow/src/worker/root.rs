//! Where elements come from on one worker: its partitions of a source, or the queues of an exchange (and other pods: `shuffled`).
//!
//! Owns reading in bounded pieces, and staying still when what is behind cannot take more. What happens to an element is `flow`'s.

use std::collections::VecDeque;

use arrow::array::{Array, RecordBatch};

use crate::batch::{Batch, Element};
use crate::columns::native_values;
use crate::exchange::QueueReceiver;
use crate::graph::{NodeId, SourceNode};
use crate::key::KeyGroup;
use crate::operators::calc;
use crate::source::{PartitionId, Reached, SourcePartition, SourcePoll};
use crate::watermark::{END_OF_TIME, SourceWatermarks};
use crate::worker::flow::{Flow, Reach};
use crate::worker::shuffled::ShuffleInput;
use crate::worker::{CommitId, WorkerError, is_elsewhere};

/// How many elements one queue gives per step, so that no other root waits long.
const ELEMENTS_PER_STEP: usize = 8;

pub(super) struct Root {
    /// The node whose output this is.
    pub(super) node: usize,
    pub(super) reach: Reach,
    pub(super) input: Input,
}

pub(super) enum Input {
    Source(Box<SourceInput>),
    /// By sending worker, then what other pods send.
    Exchange(Vec<QueueReceiver>, Option<Box<ShuffleInput>>),
}

/// This worker's partitions of one source node.
pub(super) struct SourceInput {
    pub(super) spec: SourceNode,
    pub(super) partitions: Vec<Partition>,
    /// More partitions may be added.
    pub(super) growing: bool,
    /// The plan relies on its partitions: none may be added to those that were counted.
    pub(super) counted: bool,
    pub(super) times: SourceWatermarks,
    /// Barriers that could not be sent yet. While there is one, nothing is read: it stands behind what was read before it came.
    pub(super) barriers: VecDeque<CommitId>,
}

pub(super) struct Partition {
    /// Where the state of its rows' keys lies, if the plan relies on the partitions.
    group: Option<KeyGroup>,
    /// `None` if the commit with its last position is begun: the source is growing and the partition at its end, or it is another pod's now.
    source: Option<Box<dyn SourcePartition>>,
    ended: bool,
    /// It may stand elsewhere than at the last commit.
    moved: bool,
}

impl Partition {
    pub(super) fn new(source: Box<dyn SourcePartition>) -> Self {
        Self { group: source.key_group(), source: Some(source), ended: false, moved: true }
    }
}

impl Root {
    /// Moves a bounded number of elements; true if something moved.
    pub(super) fn run(&mut self, flow: &mut Flow, max_rows: usize, now_ms: u64) -> Result<bool, WorkerError> {
        let outside = flow.busy.enter(self.node);
        let moved = self.take(flow, max_rows, now_ms);
        flow.busy.leave(outside);
        moved
    }

    fn take(&mut self, flow: &mut Flow, max_rows: usize, now_ms: u64) -> Result<bool, WorkerError> {
        match &mut self.input {
            Input::Source(source) => source.run(self.node, &self.reach, flow, max_rows, now_ms),
            Input::Exchange(queues, None) => drain(queues, self.node, &self.reach, flow, None),
            Input::Exchange(queues, Some(shuffle)) => {
                let moved = drain(queues, self.node, &self.reach, flow, Some(shuffle.as_mut()))?;
                Ok(shuffle.run(self.node, &self.reach, flow)? | moved)
            }
        }
    }

    /// A commit is begun: its barrier stands behind everything read so far.
    pub(super) fn inject(&mut self, id: CommitId) {
        match &mut self.input {
            Input::Source(source) => source.barriers.push_back(id),
            Input::Exchange(_, Some(shuffle)) => shuffle.inject(id),
            Input::Exchange(_, None) => {}
        }
    }

    /// Where the partitions stand that have moved since the last call.
    pub(super) fn take_moved(&mut self) -> Vec<(NodeId, PartitionId, Reached)> {
        let node = NodeId(self.node as u32);
        match &mut self.input {
            Input::Source(source) => source.take_moved(node),
            Input::Exchange(_, shuffle) => shuffle.iter().flat_map(|shuffle| shuffle.positions(node)).collect(),
        }
    }

    /// Gives up what belongs to other pods from the commit on that is being begun; returns the source partitions among it.
    pub(super) fn leave(&mut self, owner: &[usize]) -> Vec<(NodeId, PartitionId)> {
        match &mut self.input {
            Input::Source(source) => source.leave(NodeId(self.node as u32), owner),
            Input::Exchange(_, shuffle) => {
                shuffle.iter_mut().for_each(|shuffle| shuffle.leave(owner));
                Vec::new()
            }
        }
    }

    /// Adds a partition; false if there is no place for one here.
    pub(super) fn add(&mut self, partition: Box<dyn SourcePartition>) -> bool {
        match &mut self.input {
            Input::Source(source) if source.growing && !source.counted => source.add(partition),
            Input::Source(_) | Input::Exchange(..) => return false,
        }
        true
    }

    /// True if nothing more can come from here but barriers.
    pub(super) fn is_finished(&self) -> bool {
        match &self.input {
            Input::Source(source) => {
                source.barriers.is_empty() && !source.growing && source.partitions.iter().all(|p| p.ended)
            }
            Input::Exchange(_, shuffle) => shuffle.as_ref().is_none_or(|shuffle| shuffle.is_quiet()),
        }
    }

    /// When an idle timeout is due.
    pub(super) fn idle_due_ms(&self) -> Option<u64> {
        match &self.input {
            Input::Source(source) => source.times.idle_due_ms(),
            Input::Exchange(..) => None,
        }
    }
}

fn drain(
    queues: &mut [QueueReceiver],
    node: usize,
    reach: &Reach,
    flow: &mut Flow,
    mut shuffle: Option<&mut ShuffleInput>,
) -> Result<bool, WorkerError> {
    let mut moved = false;
    for _ in 0..ELEMENTS_PER_STEP {
        let mut any = false;
        for (from, queue) in queues.iter_mut().enumerate() {
            if flow.is_blocked(reach) {
                return Ok(moved);
            }
            if flow.nodes[node].alignment.is_closed(from) {
                continue;
            }
            let element = queue.receive().map_err(|peer| WorkerError::peer(&flow.nodes[node].name, peer))?;
            let Some(element) = element else { continue };
            any = true;
            match element {
                Element::Batch(_) => flow.emit(node, element)?,
                Element::EventTime(time) => {
                    if let Some(time) = flow.nodes[node].time.update(from, time) {
                        flow.advance(node, time)?;
                    }
                }
                Element::Barrier(id) => {
                    if flow.nodes[node].alignment.arrive(from) {
                        match shuffle.as_deref_mut() {
                            Some(shuffle) => shuffle.pass(node, id, flow)?,
                            None => flow.pass(node, id)?,
                        }
                    }
                }
            }
        }
        if !any {
            break;
        }
        moved = true;
    }
    Ok(moved)
}

impl SourceInput {
    fn take_moved(&mut self, node: NodeId) -> Vec<(NodeId, PartitionId, Reached)> {
        let mut out = Vec::new();
        let moved = self.partitions.iter_mut().enumerate().filter(|(_, partition)| partition.moved);
        for (index, partition) in moved {
            partition.moved = false;
            if let Some(source) = &partition.source {
                let reached = Reached { position: source.position(), watermark_ms: self.times.reached(index) };
                out.push((node, source.id().clone(), reached));
            }
            // Its memory and its threads are given back, and its place to another.
            if partition.ended && self.growing {
                partition.source = None;
            }
        }
        out
    }

    /// Drops the partitions of shards of other pods: where they stand is told. They hold no time back.
    fn leave(&mut self, node: NodeId, owner: &[usize]) -> Vec<(NodeId, PartitionId)> {
        let mut left = Vec::new();
        for (index, partition) in self.partitions.iter_mut().enumerate() {
            let is_lost =
                |source: &mut Box<dyn SourcePartition>| source.shard().is_some_and(|shard| is_elsewhere(owner, shard));
            if let Some(source) = partition.source.take_if(is_lost) {
                left.push((node, source.id().clone()));
                (partition.ended, partition.moved) = (true, false);
                self.times.on_end(index);
            }
        }
        left
    }

    fn add(&mut self, source: Box<dyn SourcePartition>) {
        let free = self.partitions.iter().position(|old| old.source.is_none());
        self.times.add(free.unwrap_or(self.partitions.len()), source.known_ms());
        let partition = Partition::new(source);
        match free {
            Some(place) => self.partitions[place] = partition,
            None => self.partitions.push(partition),
        }
    }

    fn run(
        &mut self,
        node: usize,
        reach: &Reach,
        flow: &mut Flow,
        max_rows: usize,
        now_ms: u64,
    ) -> Result<bool, WorkerError> {
        let mut moved = false;
        // A barrier needs no room in a queue: what does not fit is held behind what is held already.
        while !self.barriers.is_empty() && !flow.is_aligning(reach) {
            if let Some(id) = self.barriers.pop_front() {
                flow.pass(node, id)?;
                moved = true;
            }
        }
        if !self.barriers.is_empty() {
            return Ok(moved);
        }
        if flow.gate.is_ended() {
            moved |= self.end();
        }
        for index in 0..self.partitions.len() {
            if flow.is_blocked(reach) || flow.gate.is_closed() || flow.is_full() {
                return Ok(moved);
            }
            moved |= self.poll(index, node, flow, max_rows, now_ms)?;
        }
        if let Some(time) = self.times.take_change()
            && let Some(time) = flow.nodes[node].time.update(0, time)
        {
            flow.advance(node, time)?;
            moved = true;
        }
        Ok(moved)
    }

    /// What is read is all there is; true if that is news.
    fn end(&mut self) -> bool {
        let news = self.growing || self.partitions.iter().any(|partition| !partition.ended);
        if news {
            self.growing = false;
            self.times.close();
            for (index, partition) in self.partitions.iter_mut().enumerate() {
                partition.moved |= !std::mem::replace(&mut partition.ended, true);
                self.times.on_end(index);
            }
        }
        news
    }

    fn poll(
        &mut self,
        index: usize,
        node: usize,
        flow: &mut Flow,
        max_rows: usize,
        now_ms: u64,
    ) -> Result<bool, WorkerError> {
        let partition = &mut self.partitions[index];
        let Some(source) = partition.source.as_mut().filter(|_| !partition.ended) else { return Ok(false) };
        let polled = source.poll(max_rows)?;
        if let Some(letters) = source.take_letters() {
            flow.give_letters(node, letters);
        }
        match polled {
            SourcePoll::Batch(decoded) => {
                partition.moved = true;
                self.on_rows(index, node, decoded, flow)?;
                Ok(true)
            }
            SourcePoll::Pending => {
                self.times.on_pending(index, now_ms);
                Ok(false)
            }
            SourcePoll::End => {
                (partition.ended, partition.moved) = (true, true);
                self.times.on_end(index);
                Ok(true)
            }
        }
    }

    fn on_rows(&mut self, index: usize, node: usize, decoded: RecordBatch, flow: &mut Flow) -> Result<(), WorkerError> {
        if decoded.num_rows() == 0 {
            return Ok(());
        }
        flow.commits.add_rows_in(decoded.num_rows() as u64);
        let state = &mut flow.nodes[node];
        state.rows_in += decoded.num_rows() as u64;
        let rows = match &self.spec.computed {
            Some(computed) => {
                let made = calc::apply(computed, &Batch::new(decoded));
                made.map_err(|e| WorkerError::calc(&state.name, e))?.map(|batch| batch.rows)
            }
            None => Some(decoded),
        };
        let Some(rows) = rows else { return Ok(()) };
        let watermark = match &self.spec.watermark {
            Some(spec) => {
                let evaluated = spec.expr.evaluate(&rows);
                let times =
                    evaluated.map_err(|source| WorkerError::Expression { operator: state.name.clone(), source })?;
                greatest(times.as_ref())
            }
            None => None,
        };
        let group = self.partitions[index].group;
        let hashes = group.map(|group| vec![u64::from(group.0); rows.num_rows()].into());
        flow.emit(node, Element::Batch(Batch { rows, hashes, partial: false }))?;
        self.times.on_rows(index, watermark);
        Ok(())
    }
}

/// The greatest of a column of milliseconds; nulls say nothing.
fn greatest(times: &dyn Array) -> Option<i64> {
    let values = native_values::<i64>(times);
    let greatest = match times.logical_nulls().filter(|n| n.null_count() > 0) {
        None => values.iter().copied().max(),
        Some(nulls) => nulls.valid_indices().map(|row| values[row]).max(),
    };
    greatest.filter(|&ms| ms != END_OF_TIME)
}
