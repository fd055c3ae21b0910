//! The driver of one pod: starts the workers, takes their output, and runs every commit through the commit log and the external sinks.
//!
//! Owns the loop that ties workers, sinks and log together, on the caller's thread. When to commit is decided in `checkpoint::commit`; what a
//! row means, in `dataflow`. It opens no connector (`assembly` does).

use std::sync::Arc;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use checkpoint::commit::{Command, CommitProtocol, Input, Triggers};
use dataflow::graph::{NodeId, OperatorUid};
use dataflow::key::ShardId;
use dataflow::sink::{SinkChunk, SinkPayload};
use dataflow::source::{Reached, SourcePosition};
use dataflow::state::ChangeBatch;
use dataflow::worker::{AppliedOffsets, CommitId, WorkerCommit, WorkerEvent};

use super::counting::Activity;
use super::error::PodError;
use super::hold::{Hold, Now, Standing};
use super::monitor::{CommitOutcome, Monitor};
use super::reassign::Reassign;
use super::shuffle::Outward;
use super::worker_thread::{Applied, EVENTS, Order, WorkerHandle};
use crate::commit::bookkeeping::{self, Home};
use crate::commit::{CommitLog, CommitRequest, KafkaOffset};
use crate::connector::ExternalSink;
use crate::crash::{self, Step};
use crate::planted::{self, Bug};

/// A barrier must have passed through all workers within this time.
const BARRIER_DEADLINE: Duration = Duration::from_secs(60);
/// The driver looks around this often even if nobody wakes it; it is also the heartbeat of the liveness probe.
const LONGEST_PARK: Duration = Duration::from_millis(500);

/// And so often while it waits for what other pods have sent.
const DRAINING_PARK: Duration = Duration::from_millis(2);

/// Where the chunks of one sink go.
pub(super) enum Destination {
    /// Into the commit log's own transaction.
    Log {
        /// Topic.
        topic: String,
    },
    /// To an external sink, with the node's stable uid for its tickets.
    External(OperatorUid, Box<dyn ExternalSink>),
}

/// What the driver runs.
pub(super) struct Parts {
    /// The workers, running.
    pub(super) workers: Vec<WorkerHandle>,
    /// What each worker has read.
    pub(super) activity: Vec<Arc<Activity>>,
    /// The sinks by node.
    pub(super) sinks: Vec<(NodeId, Destination)>,
    /// Stable uids of the source nodes.
    pub(super) sources: Vec<(NodeId, OperatorUid)>,
    /// Source nodes whose offsets the log sends with the transaction.
    pub(super) log_offsets: Vec<NodeId>,
    /// Where positions and tickets are kept.
    pub(super) home: Home,
    /// Names of operators that go into the first commit.
    pub(super) operators: ChangeBatch,
    /// The log.
    pub(super) log: Box<dyn CommitLog>,
    /// What goes to other pods; `None` for a job of one.
    pub(super) shuffle: Option<Outward>,
    /// Holds the sources for a savepoint.
    pub(super) hold: Hold,
    /// Where the source partitions stand.
    pub(super) positions: Standing,
    /// Takes other assignments up.
    pub(super) reassign: Reassign,
    /// When to commit.
    pub(super) triggers: Triggers,
}

/// How a run ended well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Bounded input is at its end and everything is committed.
    AtEnd,
    /// Stopped when asked, everything committed.
    Stopped,
    /// Stopped because another assignment is in force that this process cannot take up, everything committed: it is to begin anew.
    Reassigned {
        /// The assignment under which it has waited long enough for others to release what it gains.
        waited: Option<u64>,
    },
}

/// The loop's state.
pub(super) struct Driver {
    parts: Parts,
    monitor: Arc<Monitor>,
    protocol: CommitProtocol,
    started: Instant,
    /// Per worker: its share of the commit that is collecting. While it is there, the worker's further events wait in its channel.
    shares: Vec<Option<WorkerCommit>>,
    rows_seen: u64,
    bytes_open: u64,
    /// Something was read since the last commit, be it only records that were skipped.
    moved: bool,
    barrier_since: Option<Instant>,
    ended: bool,
}

impl Driver {
    pub(super) fn new(parts: Parts, monitor: Arc<Monitor>, started: Instant) -> Self {
        let workers = parts.workers.len();
        let protocol = CommitProtocol::new(workers, parts.triggers, started.elapsed().as_millis() as u64);
        let shares = (0..workers).map(|_| None).collect();
        Self {
            parts,
            monitor,
            protocol,
            started,
            shares,
            rows_seen: 0,
            bytes_open: 0,
            moved: false,
            barrier_since: None,
            ended: false,
        }
    }

    /// Runs until the end of the input, a stop, or a failure; all workers have ended when it returns.
    pub(super) fn run(mut self) -> Result<Ended, PodError> {
        let result = self.work();
        let ended: Vec<PodError> = self.parts.workers.drain(..).filter_map(|worker| worker.end().err()).collect();
        match result {
            // Everything is committed: workers that saw each other leave have nothing more to tell.
            Ok(Ended::Stopped) if self.monitor.reassigned() && !self.monitor.stop_asked() => {
                if let Err(error) = self.parts.log.leave() {
                    tracing::warn!(%error, "what is lost could not be released; who gains it waits and fences");
                }
                Ok(Ended::Reassigned { waited: self.parts.reassign.waited() })
            }
            Ok(ended) => Ok(ended),
            // The cause is the first failure that is not only the sight of another worker's end.
            Err(seen) => Err(std::iter::once(seen)
                .chain(ended)
                .min_by_key(PodError::is_consequence)
                .expect("one error is there")),
        }
    }

    fn work(&mut self) -> Result<Ended, PodError> {
        let mut commands = Vec::new();
        loop {
            self.monitor.beat();
            let moved = self.take_events(&mut commands)?;
            self.look_around(&mut commands)?;
            let busy = moved || !commands.is_empty();
            while !commands.is_empty() {
                if let Some(ended) = self.execute(&mut commands)? {
                    return Ok(ended);
                }
            }
            if !busy {
                std::thread::park_timeout(self.park_time());
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    fn park_time(&self) -> Duration {
        let due = self.protocol.due_ms().map(|due| Duration::from_millis(due.saturating_sub(self.now_ms()).max(1)));
        let heartbeat = self.parts.shuffle.as_ref().and_then(|shuffle| shuffle.outgoing.due_ms());
        let heartbeat = heartbeat.filter(|_| self.barrier_since.is_none());
        let wait = heartbeat.map(|due| Duration::from_millis(due.saturating_sub(self.now_ms()).max(1)));
        let longest = if self.parts.hold.is_draining() { DRAINING_PARK } else { LONGEST_PARK };
        due.into_iter().chain(wait).min().unwrap_or(longest).min(longest)
    }

    fn tell(&mut self, input: Input, commands: &mut Vec<Command>) -> Result<(), PodError> {
        let now = self.now_ms();
        Ok(self.protocol.on(input, now, commands)?)
    }

    /// Takes what the workers have handed over; true if there was anything.
    fn take_events(&mut self, commands: &mut Vec<Command>) -> Result<bool, PodError> {
        let mut moved = false;
        for index in 0..self.parts.workers.len() {
            // No more than a channel full: a worker that is faster than its sinks must not keep the clock and the others waiting.
            for _ in 0..EVENTS {
                if self.shares[index].is_some() {
                    break;
                }
                match self.parts.workers[index].events.try_recv() {
                    Ok(WorkerEvent::Chunk { chunk, .. }) => {
                        crash::around(Step::Write, || self.write(&chunk))?;
                        let bytes = payload_bytes(&chunk.payload);
                        self.bytes_open += bytes;
                        self.tell(Input::Activity { rows: 0, bytes }, commands)?;
                    }
                    Ok(WorkerEvent::Block { commit, block }) => {
                        let Some(shuffle) = &mut self.parts.shuffle else { continue };
                        let bytes = shuffle.block(self.parts.log.as_mut(), commit, block)?;
                        self.bytes_open += bytes;
                        self.tell(Input::Activity { rows: 0, bytes }, commands)?;
                    }
                    Ok(WorkerEvent::Commit(share)) => self.arrived(index, share, commands)?,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return Err(self.lost(index)),
                }
                moved = true;
            }
        }
        Ok(moved)
    }

    /// The error of a worker that has ended by itself.
    fn lost(&mut self, index: usize) -> PodError {
        let worker = self.parts.workers.remove(index);
        worker.end().err().unwrap_or_else(|| PodError::Panic {
            thread: format!("worker-{index}"),
            message: "ended without a reason".into(),
        })
    }

    fn arrived(&mut self, worker: usize, mut share: WorkerCommit, commands: &mut Vec<Command>) -> Result<(), PodError> {
        if let Some(shuffle) = &mut self.parts.shuffle {
            shuffle.take(&mut share);
        }
        let something = share.rows_in > 0
            || !share.changes.is_empty()
            || self.bytes_open > 0
            || self.moved
            || self.has_moved(&share)
            || self.heartbeat_due()
            || self.parts.reassign.is_taken_up_with(share.id);
        let input = Input::WorkerCommit { worker, id: share.id, something, finished: share.finished };
        self.shares[worker] = Some(share);
        self.tell(input, commands)
    }

    /// True if a source partition stands elsewhere than at the last commit. It is told once: it must not get lost in a commit that is skipped.
    fn has_moved(&self, share: &WorkerCommit) -> bool {
        share.positions.iter().any(|(node, ..)| self.parts.sources.iter().any(|(source, _)| source == node))
    }

    /// True if other pods must be told something, be it only the event time.
    fn heartbeat_due(&self) -> bool {
        self.parts.shuffle.as_ref().is_some_and(|shuffle| shuffle.outgoing.is_due(self.now_ms()))
    }

    /// Reads the counters, the clock and the stop flag.
    fn look_around(&mut self, commands: &mut Vec<Command>) -> Result<(), PodError> {
        let moved = self.parts.activity.iter().fold(false, |any, activity| activity.take_moved() | any);
        let rows: u64 = self.parts.activity.iter().map(|activity| activity.rows()).sum();
        if moved {
            self.moved = true;
            // A skipped record moves the position without a row: it must be committed too.
            let new = (rows - self.rows_seen).max(1);
            self.rows_seen = rows;
            self.tell(Input::Activity { rows: new, bytes: 0 }, commands)?;
        }
        if self.parts.activity.iter().fold(false, |any, activity| activity.take_stirred() | any) {
            // A barrier finds out whether there is anything to commit; if not, it is skipped.
            self.tell(Input::Activity { rows: 1, bytes: 0 }, commands)?;
        }
        if self.barrier_since.is_none() && self.heartbeat_due() {
            self.tell(Input::Activity { rows: 1, bytes: 0 }, commands)?;
        }
        if !self.ended && self.monitor.all_finished() {
            self.ended = true;
            self.tell(Input::Ended, commands)?;
        }
        match self.parts.hold.look() {
            Now::Go => {}
            // At once, whatever the interval.
            Now::Barrier => self.tell(Input::Activity { rows: self.parts.triggers.max_rows, bytes: 0 }, commands)?,
            Now::End => self.tell(Input::Stop, commands)?,
        }
        match self.parts.reassign.look() {
            Now::Go => {}
            Now::Barrier => self.tell(Input::Activity { rows: self.parts.triggers.max_rows, bytes: 0 }, commands)?,
            Now::End => self.monitor.reassign(),
        }
        if self.monitor.stop_asked() || self.monitor.reassigned() {
            self.tell(Input::Stop, commands)?;
        }
        self.tell(Input::Tick, commands)?;
        match self.barrier_since {
            Some(since) if since.elapsed() > BARRIER_DEADLINE => Err(PodError::Deadline {
                what: "a barrier's way through the workers",
                seconds: BARRIER_DEADLINE.as_secs(),
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn execute(&mut self, commands: &mut Vec<Command>) -> Result<Option<Ended>, PodError> {
        for command in std::mem::take(commands) {
            match command {
                Command::Barrier(id) => {
                    self.barrier_since = Some(Instant::now());
                    self.parts.hold.begun(id);
                    let switch = self.parts.reassign.begun(id);
                    self.parts.workers.iter().for_each(|worker| worker.order(Order::Barrier(id, switch.clone())));
                }
                Command::Commit { id, last } => self.commit(id, last, commands)?,
                Command::Skip(id) => self.skip(id),
                // Done in `commit`, where the offsets are.
                Command::Apply(_) => {}
                Command::Finish { at_end } => return Ok(Some(if at_end { Ended::AtEnd } else { Ended::Stopped })),
            }
        }
        Ok(None)
    }

    /// Nothing happened in the interval: the workers forget their empty shares.
    fn skip(&mut self, id: CommitId) {
        self.release_workers();
        self.apply(id, AppliedOffsets::new(), Vec::new());
        let settled = self.parts.shuffle.as_ref().is_none_or(|shuffle| shuffle.outgoing.due_ms().is_none());
        self.parts.hold.skipped(id, settled, &self.parts.positions);
    }

    fn apply(&self, id: CommitId, offsets: AppliedOffsets, added: Vec<(ShardId, ChangeBatch)>) {
        let applied = Arc::new(Applied { offsets, added });
        self.parts.workers.iter().for_each(|worker| worker.order(Order::Applied(id, Arc::clone(&applied))));
    }

    fn release_workers(&mut self) -> Vec<WorkerCommit> {
        self.barrier_since = None;
        (self.bytes_open, self.moved) = (0, false);
        self.shares.iter_mut().filter_map(Option::take).collect()
    }

    fn write(&mut self, chunk: &SinkChunk) -> Result<(), PodError> {
        let Some((_, destination)) = self.parts.sinks.iter_mut().find(|(node, _)| *node == chunk.sink) else {
            return Ok(());
        };
        self.monitor.wrote(chunk.sink, &chunk.payload);
        match destination {
            Destination::Log { topic } => self.parts.log.write(topic, chunk)?,
            Destination::External(_, sink) => sink.write(chunk)?,
        }
        Ok(())
    }

    /// One commit, in the order that must never change: external sinks durable, then the log, then visible and applied.
    fn commit(&mut self, id: CommitId, last: bool, commands: &mut Vec<Command>) -> Result<(), PodError> {
        let begin = Instant::now();
        let mut shares = self.release_workers();
        let left = shares.iter_mut().flat_map(|share| std::mem::take(&mut share.left)).collect();
        let (mut request, added) = self.request(id, shares)?;
        request.kafka_offsets.extend(self.parts.reassign.proof(id));
        let early = planted::is(Bug::StateBeforeCommit);
        if early {
            self.apply(id, planted::guessed(&request.changes), added.clone());
        }
        let now = self.now_ms();
        let read = self.parts.shuffle.as_ref().map(|shuffle| shuffle.read(&request.kafka_offsets));
        let sent = match &mut self.parts.shuffle {
            Some(shuffle) => shuffle.write(self.parts.log.as_mut(), id, now),
            None => Ok(()),
        };
        let leaving = self.parts.reassign.is_taken_up_with(id) || self.monitor.reassigned();
        let log = &mut self.parts.log;
        let offsets = match sent.and_then(|()| crash::around_if(leaving, Step::LastCommit, || log.commit(request))) {
            Ok(offsets) => offsets,
            Err(error) => {
                self.monitor.committed(begin.elapsed(), CommitOutcome::of(&error));
                self.tell(Input::Failed(id), commands)?;
                return Err(error.into());
            }
        };
        for (_, destination) in &mut self.parts.sinks {
            if let Destination::External(_, sink) = destination {
                sink.committed(id, last)?;
            }
        }
        if let Some(shuffle) = &mut self.parts.shuffle {
            shuffle.committed(self.parts.log.as_mut(), read.into_iter().flatten());
        }
        if early {
            planted::note(&offsets);
        } else {
            self.apply(id, offsets, added);
        }
        self.parts.take_up(id, left, &self.monitor);
        self.monitor.committed(begin.elapsed(), CommitOutcome::Committed);
        self.parts.hold.committed();
        self.tell(Input::Committed(id), commands)
    }

    /// The commit as the log takes it, and what of it the workers do not know: positions and tickets.
    fn request(
        &mut self,
        id: CommitId,
        shares: Vec<WorkerCommit>,
    ) -> Result<(CommitRequest, Vec<(ShardId, ChangeBatch)>), PodError> {
        let mut changes: Vec<(ShardId, ChangeBatch)> = Vec::new();
        let (mut books, home) = (std::mem::take(&mut self.parts.operators), self.parts.home);
        let mut kafka_offsets = Vec::new();
        for share in shares {
            changes.extend(share.changes);
            for (node, partition, reached) in share.positions {
                if let Some((_, uid)) = self.parts.sources.iter().find(|(source, _)| *source == node) {
                    self.parts.positions.insert((*uid, partition.clone()), reached.clone());
                }
                match reached {
                    Reached { position: SourcePosition::Kafka { topic, partition, next_offset }, watermark_ms }
                        if self.parts.log_offsets.contains(&node) =>
                    {
                        kafka_offsets.push(KafkaOffset { topic, partition, next_offset, watermark_ms });
                    }
                    _ if planted::is(Bug::PositionLeftOut) => {}
                    reached => bookkeeping::put_position(&mut books, home, self.uid_of(node), &partition, &reached),
                }
            }
        }
        for (_, destination) in &mut self.parts.sinks {
            if let Destination::External(uid, sink) = destination {
                sink.prepare(id)?.iter().for_each(|ticket| bookkeeping::put_ticket(&mut books, home, *uid, ticket));
            }
        }
        let mut added = Vec::new();
        if !books.is_empty() {
            added.push((home.shard, books.clone()));
            match changes.iter_mut().find(|(shard, _)| *shard == home.shard) {
                Some((_, batch)) => batch.append(&books),
                None => changes.push((home.shard, books)),
            }
        }
        Ok((CommitRequest { id, changes, kafka_offsets }, added))
    }

    fn uid_of(&self, node: NodeId) -> OperatorUid {
        let found = self.parts.sources.iter().find(|(id, _)| *id == node);
        found.map(|(_, uid)| *uid).expect("a worker reports positions of the sources it was given only")
    }
}

fn payload_bytes(payload: &SinkPayload) -> u64 {
    match payload {
        SinkPayload::Rows(rows) => (rows.bytes.len() + rows.key_bytes.len()) as u64,
        SinkPayload::Batch(batch) => batch.get_array_memory_size() as u64,
    }
}
