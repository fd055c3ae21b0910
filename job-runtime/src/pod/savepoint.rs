//! Savepoints of a running job: takes the order, does this pod's steps of it, and tells the other pods.
//!
//! Owns the thread that does so. What must be done next is `checkpoint::savepoint`'s; holding the sources is the driver's (`hold`); copies and
//! uploads are the snapshot thread's. A job of one pod has its board in memory, a job of several in the control topic.

mod work;

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use checkpoint::savepoint::record::{Begin, SavepointRecord};
use checkpoint::savepoint::{Board, Open, Todo};
use checkpoint::snapshot::StoredPosition;
use checkpoint::snapshot::key::savepoint_name;
use dataflow::key::ShardId;
use job_api::VERSION;
use job_api::orders::{SavepointPhase, SavepointRequest, SavepointStatus};

use super::hold::{Standing, Want};
use super::orders::OrderError;
use crate::commit::bookkeeping;
use crate::commit::kafka::ControlTopic;
use crate::snapshot::restore;
use crate::snapshot::take::{SavepointOf, complete};
use crate::snapshot::thread::SavepointNews;

pub(super) use work::{Agreement, SavepointStore, SavepointWork};

/// Events that may wait.
const EVENTS: usize = 64;
/// From the beginning to the last copy: sources stand still for most of it.
const COPIED: Duration = Duration::from_secs(30);
/// From the beginning to the last upload.
const STORED: Duration = Duration::from_secs(3600);
/// How often the thread looks around while a savepoint is under way, and while none is.
const BUSY: Duration = Duration::from_millis(200);
const CALM: Duration = Duration::from_secs(5);
/// Savepoints that are remembered.
const REMEMBERED: usize = 16;

/// What the thread is told.
pub(super) enum Event {
    /// Somebody wants a savepoint.
    Order {
        /// Which.
        request: SavepointRequest,
        /// Where to answer.
        answer: SyncSender<Result<SavepointStatus, OrderError>>,
    },
    /// What the control topic says now.
    Board {
        /// Of savepoints.
        board: Board,
        /// The number of the assignment in force.
        in_force: u64,
    },
    /// The pod has given shards up.
    Assigned {
        /// The assignment that it works under from then on.
        number: u64,
        /// The shards.
        lost: Vec<ShardId>,
    },
    /// Nothing is in flight on this pod.
    Drained {
        /// Of the order.
        number: u64,
        /// Where its source partitions stand.
        positions: Standing,
    },
    /// The sources go on.
    WentOn {
        /// How long they stood still.
        pause: Duration,
    },
    /// The job's input ends: the control topic says so.
    InputEnds,
    /// What the snapshot thread says.
    Snapshot(SavepointNews),
    /// The pod ends.
    Close,
}

/// What became of savepoints, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Book(Mutex<Vec<SavepointStatus>>);

impl Book {
    pub(super) fn get(&self, name: &str) -> Option<SavepointStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().rev().find(|status| status.name == name).cloned()
    }

    fn change(&self, name: &str, change: impl FnOnce(&mut SavepointStatus)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(status) = all.iter_mut().rev().find(|status| status.name == name) {
            change(status);
        }
    }

    fn begin(&self, name: &str) -> SavepointStatus {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|status| status.name != name);
        if all.len() == REMEMBERED {
            all.remove(0);
        }
        let status = status(name, SavepointPhase::Draining);
        all.push(status.clone());
        status
    }
}

fn status(name: &str, phase: SavepointPhase) -> SavepointStatus {
    let (name, location, pause_ms, bytes, message) = (name.to_owned(), None, None, None, None);
    SavepointStatus { version: VERSION, name, phase, location, pause_ms, bytes, message }
}

/// The thread; ended and joined when dropped.
pub(super) struct Savepoints {
    events: SyncSender<Event>,
    join: Option<JoinHandle<()>>,
}

/// A channel to the thread, made before it.
pub(super) fn channel() -> (SyncSender<Event>, Receiver<Event>) {
    sync_channel(EVENTS)
}

impl Savepoints {
    pub(super) fn start(
        work: SavepointWork,
        (events, heard): (SyncSender<Event>, Receiver<Event>),
    ) -> std::io::Result<Self> {
        let thread = std::thread::Builder::new().name("savepoints".into());
        let join = thread.spawn(move || Coordinator::new(work).run(&heard))?;
        Ok(Self { events, join: Some(join) })
    }
}

impl Drop for Savepoints {
    fn drop(&mut self) {
        // A full channel is a thread that still works, and ends at its next look.
        let _ = self.events.send(Event::Close);
        if let Some(join) = self.join.take()
            && join.join().is_err()
        {
            tracing::warn!("the savepoints' thread panicked");
        }
    }
}

struct Coordinator {
    work: SavepointWork,
    board: Board,
    doing: Option<Doing>,
    /// A word that could not be said yet.
    unsaid: Option<SavepointRecord>,
    drains: u64,
    /// The assignment in force. The pod may not have taken it up yet: then it has no part in savepoints.
    in_force: u64,
}

/// This pod's part of the savepoint under way.
struct Doing {
    begin: Begin,
    since: Instant,
    /// The step that was begun last.
    begun: Option<u16>,
    positions: Standing,
    stored: bool,
}

impl Coordinator {
    fn new(work: SavepointWork) -> Self {
        let (mut board, mut unsaid) = (Board::default(), None);
        if let Agreement::Topic(_, joined, _) = &work.agreement {
            board = joined.clone();
            // Whatever the process before us had done of it is gone.
            unsaid = board.open().map(|open| SavepointRecord::End {
                cut: open.begin.cut,
                failure: Some(format!("pod {} began anew meanwhile", work.pod)),
            });
        }
        let in_force = work.agreement.number();
        Self { work, board, doing: None, unsaid, drains: 0, in_force }
    }

    fn run(mut self, heard: &Receiver<Event>) {
        loop {
            self.say_again();
            // One that was open before this process has no part in it.
            if self.unsaid.is_none() {
                self.act();
            }
            let wait = if self.doing.is_some() || self.unsaid.is_some() { BUSY } else { CALM };
            match heard.recv_timeout(wait) {
                Ok(Event::Close) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(event) => self.take(event),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Order { request, answer } => {
                // Who asked may have gone.
                let _ = answer.send(self.order(&request));
            }
            Event::Board { board, in_force } => (self.board, self.in_force) = (board, in_force),
            Event::Assigned { number, lost } => self.work.take_up(number, &lost),
            Event::InputEnds => {
                if !self.work.gate.is_ended() {
                    tracing::info!("the job is drained: what is read is all there is");
                }
                self.work.gate.end();
            }
            Event::Drained { number, positions } if number == self.drains => {
                if let Some(doing) = &mut self.doing {
                    doing.positions = positions;
                }
                self.done();
            }
            Event::Snapshot(SavepointNews::Prepared | SavepointNews::Copied { .. }) => self.done(),
            Event::Snapshot(SavepointNews::Stored(stored)) => {
                if let Some(doing) = &mut self.doing {
                    doing.stored = true;
                    self.work.book.change(&doing.begin.name, |status| status.bytes = Some(stored.bytes));
                }
            }
            Event::WentOn { pause } => {
                if let Some(doing) = &self.doing {
                    let ms = pause.as_millis() as u64;
                    tracing::info!(savepoint = doing.begin.name, ms, "sources go on");
                    self.work.book.change(&doing.begin.name, |status| status.pause_ms = Some(ms));
                }
            }
            Event::Snapshot(SavepointNews::Failed(why)) => self.fail(why),
            Event::Drained { .. } | Event::Close => {}
        }
    }

    /// Takes an order, or says why not.
    fn order(&mut self, request: &SavepointRequest) -> Result<SavepointStatus, OrderError> {
        savepoint_name(&request.name).map_err(|error| OrderError::Invalid { message: error.to_string() })?;
        let conflict = |message: String| Err(OrderError::Conflict { message });
        let Some(store) = &self.work.snapshots else {
            return conflict(
                "the job has no place for savepoints: name a bucket in the StreamCluster's storage.checkpoints, or --checkpoint-dir on a laptop"
                    .to_owned(),
            );
        };
        match self.work.book.get(&request.name) {
            Some(known) if known.phase != SavepointPhase::Failed => return Ok(known),
            Some(_) | None => {}
        }
        if let Some(open) = self.board.open() {
            return conflict(format!("savepoint {} is under way; ask again when it has ended", open.begin.name));
        }
        match restore::savepoint(store.store.as_ref(), &store.whole.job_uid, &request.name) {
            Ok(None) => {}
            Ok(Some(_)) => {
                let mut found = status(&request.name, SavepointPhase::Completed);
                found.location = Some((store.location)(&request.name));
                return Ok(found);
            }
            Err(error) => return Err(OrderError::NotReady { message: error.to_string() }),
        }
        let assignment = self.work.agreement.number();
        if assignment < self.in_force {
            let message = "the job is being distributed anew; ask again".to_owned();
            return Err(OrderError::NotReady { message });
        }
        let cut = uuid::Uuid::new_v4().as_u128();
        let (name, stop, rounds) = (request.name.clone(), request.stop, self.work.rounds);
        let status = self.work.book.begin(&name);
        self.work.urgent.store(true, Ordering::Release);
        self.say(SavepointRecord::Begin(Begin { cut, name, stop, assignment, rounds }));
        Ok(status)
    }

    /// Does what is next.
    fn act(&mut self) {
        let Some(open) = self.board.open().cloned() else { return self.settle() };
        let begin = &open.begin;
        if begin.assignment != self.work.agreement.number() {
            return self.settle();
        }
        if self.doing.as_ref().is_none_or(|doing| doing.begin.cut != begin.cut) {
            tracing::info!(savepoint = begin.name, stop = begin.stop, "a savepoint is begun");
            self.work.urgent.store(true, Ordering::Release);
            if self.work.book.get(&begin.name).is_none_or(|known| known.phase != SavepointPhase::Draining) {
                self.work.book.begin(&begin.name);
            }
            let begin = begin.clone();
            self.doing =
                Some(Doing { begin, since: Instant::now(), begun: None, positions: Standing::new(), stored: false });
        }
        if let Err(why) = self.step(&open) {
            self.fail(why);
        }
    }

    fn step(&mut self, open: &Open) -> Result<(), String> {
        let Some(doing) = &mut self.doing else { return Ok(()) };
        let (pod, begin) = (self.work.pod, &open.begin);
        if open.is_copied() {
            self.work.book.change(&begin.name, |status| status.phase = SavepointPhase::Uploading);
            if !begin.stop {
                self.work.desk.want(Want::Run);
            }
        }
        let (limit, what) = if open.is_copied() { (STORED, "stored") } else { (COPIED, "copied by all pods") };
        if doing.since.elapsed() > limit {
            return Err(format!("it was not {what} within {} s", limit.as_secs()));
        }
        let steps = open.done(pod);
        let todo = open.todo(pod);
        if todo == Todo::Store && doing.stored {
            return self.say_done(steps + 1);
        }
        if todo == Todo::Wait || doing.begun == Some(steps) {
            return Ok(());
        }
        doing.begun = Some(steps);
        let store = self.work.snapshots.as_ref().ok_or("the pod has no place for savepoints")?;
        match todo {
            Todo::Prepare => store.ask.prepare(),
            Todo::Drain => {
                let ends = match &mut self.work.agreement {
                    Agreement::Alone(_) => BTreeMap::new(),
                    Agreement::Topic(topic, ..) => topic.ends(&self.work.reads).map_err(|e| e.to_string())?,
                };
                self.drains += 1;
                self.work.desk.want(Want::Drain { number: self.drains, ends });
                Ok(())
            }
            Todo::Copy => {
                let position = |((operator, partition), reached): (&(_, dataflow::source::PartitionId), _)| {
                    let bytes = bookkeeping::encode_position(reached);
                    StoredPosition { operator: *operator, partition: partition.0.clone(), bytes }
                };
                let positions = doing.positions.iter().map(position).collect();
                store.ask.copy(SavepointOf { name: begin.name.clone(), cut: begin.cut, positions })
            }
            Todo::Complete => {
                let pods: Vec<u16> = open.pods().collect();
                let made = complete(store.store.as_ref(), &store.whole, &begin.name, begin.cut, &pods);
                let failure = made.err().map(|error| error.to_string());
                self.say(SavepointRecord::End { cut: open.begin.cut, failure });
                Ok(())
            }
            Todo::Store | Todo::Wait => Ok(()),
        }
    }

    /// No savepoint is open: if this pod had a part in one, it has ended.
    fn settle(&mut self) {
        let Some(doing) = self.doing.take() else { return };
        let failure = match self.board.ended(doing.begin.cut) {
            Some(ended) => ended.failure.clone(),
            None => Some("its end is not known any more".to_owned()),
        };
        let name = &doing.begin.name;
        let location = self.work.snapshots.as_ref().map(|store| (store.location)(name));
        match &failure {
            None => tracing::info!(savepoint = name, location, "the savepoint is complete"),
            Some(why) => tracing::warn!(savepoint = name, why, "the savepoint failed; the job goes on"),
        }
        let stop = failure.is_none() && doing.begin.stop;
        if let (true, Some(topic)) = (stop, &mut self.work.note) {
            note(topic, &doing.begin);
        }
        self.work.book.change(name, |status| match failure {
            None => (status.phase, status.location) = (SavepointPhase::Completed, location),
            Some(why) => (status.phase, status.message) = (SavepointPhase::Failed, Some(why)),
        });
        if let Some(store) = &self.work.snapshots {
            store.ask.release();
        }
        if let Agreement::Topic(topic, ..) = &mut self.work.agreement {
            topic.disconnect();
        }
        self.work.urgent.store(false, Ordering::Release);
        self.work.desk.want(if stop { Want::End } else { Want::Run });
    }

    /// A step is done.
    fn done(&mut self) {
        let Some(open) = self.board.open() else { return };
        let steps = open.done(self.work.pod);
        let begun = self.doing.as_ref().and_then(|doing| doing.begun);
        if begun == Some(steps) {
            let _ = self.say_done(steps + 1);
        }
    }

    fn say_done(&mut self, steps: u16) -> Result<(), String> {
        if let Some(doing) = &mut self.doing {
            doing.begun = Some(steps - 1);
            doing.stored = false;
            let (cut, pod) = (doing.begin.cut, self.work.pod);
            self.say(SavepointRecord::Done { cut, pod, steps });
        }
        Ok(())
    }

    fn fail(&mut self, why: String) {
        if let Some(doing) = &self.doing
            && self.unsaid.is_none()
        {
            let failure = Some(format!("pod {}: {why}", self.work.pod));
            self.say(SavepointRecord::End { cut: doing.begin.cut, failure });
        }
    }

    fn say(&mut self, record: SavepointRecord) {
        self.unsaid = Some(record);
        self.say_again();
    }

    /// Until a word is said, this pod does nothing more: others may wait for it, or go on without it.
    fn say_again(&mut self) {
        let Some(record) = self.unsaid.take() else { return };
        match &mut self.work.agreement {
            Agreement::Alone(assignment) => self.board.append(&record, Some(assignment)),
            Agreement::Topic(topic, ..) => {
                if let Err(error) = topic.say(record.clone()) {
                    tracing::warn!(%error, "cannot write to the control topic for a savepoint; trying again");
                    self.unsaid = Some(record);
                }
            }
        }
    }
}

/// Notes in the control topic that the job's work has ended, so that the pod does not go on if it is started again.
fn note(topic: &mut ControlTopic, begin: &Begin) {
    let end = SavepointRecord::End { cut: begin.cut, failure: None };
    let said = topic.say(SavepointRecord::Begin(begin.clone())).and_then(|()| topic.say(end));
    if let Err(error) = said {
        tracing::warn!(%error, "the end of the job's work could not be noted; if this pod is started again, it goes on");
    }
    topic.disconnect();
}
