//! Orders and savepoints in the start of a pod: where the pods agree, who watches the control topic, and the thread that makes savepoints.
//!
//! Owns that wiring. What an order does is in `pod::order_book` and `pod::savepoint`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex};

use checkpoint::assignment::Assignment;
use checkpoint::control::ControlLog;
use dataflow::shuffle::Gate;

use super::cast::Cast;
use super::{Log, Recovered};
use crate::commit::kafka::{ControlTopic, Member, Sayings, Watching};
use crate::crash::{self, Step};
use crate::kafka::shuffle::ReadUpTo;
use crate::pod::hold::{Desk, Hold};
use crate::pod::monitor::Monitor;
use crate::pod::order_book::OrderBook;
use crate::pod::reassign::News;
use crate::pod::savepoint::{self, Agreement, Book, Event, SavepointStore, SavepointWork, Savepoints};
use crate::pod::{PodConfig, PodError};
use crate::snapshot::thread::Tell;

/// What is known before the pod's parts are placed.
pub(super) struct Orders {
    pub(super) watching: Option<Watching>,
    /// For the driver, if the pod may not be alone for ever.
    pub(super) watch: Option<Watch>,
    agreement: Agreement,
    topic: Option<ControlTopic>,
    note: Option<ControlTopic>,
    urgent: Arc<AtomicBool>,
    /// The job's input had ended before.
    drained: bool,
    events: SyncSender<Event>,
    heard: Receiver<Event>,
}

/// What the driver needs to take other assignments up.
pub(super) struct Watch {
    pub(super) member: Member,
    pub(super) sayings: Sayings,
    pub(super) news: Arc<News>,
    pub(super) events: SyncSender<Event>,
}

/// What runs, and what the driver needs of it.
pub(super) struct Started {
    pub(super) thread: Savepoints,
    desk: Arc<Desk>,
    events: SyncSender<Event>,
}

impl Orders {
    /// A pod that is and stays alone has nothing to watch.
    pub(super) fn new(config: &PodConfig, recovered: &Recovered) -> Result<Self, PodError> {
        let (events, heard) = savepoint::channel();
        let urgent = Arc::new(AtomicBool::new(false));
        let first = || Assignment::first(config.shards.count(), 1);
        let (mut watching, mut watch, mut topic, mut note, mut drained) = (None, None, None, None, false);
        let agreement = match &recovered.log {
            Log::Local(_) => Agreement::Alone(first()),
            Log::Kafka(kafka) => {
                let log = &kafka.log;
                (topic, note) = (Some(log.control_topic()), Some(log.control_topic()));
                drained = log.is_drained();
                let assignment = log.assignment().unwrap_or_else(first);
                if recovered.seat.has_others() || config.pods > 1 || log.is_proposed() {
                    let number = assignment.number;
                    let news = Arc::new(News::new(std::thread::current()));
                    let changed = tell(number, Arc::clone(&news), events.clone());
                    let running = log.watch(Arc::clone(&urgent), changed).map_err(PodError::Thread)?;
                    let (member, sayings) = (log.member(), running.sayings());
                    watch = Some(Watch { member, sayings, news, events: events.clone() });
                    watching = Some(running);
                    Agreement::Topic(Box::new(log.control_topic()), log.board(), number)
                } else {
                    Agreement::Alone(assignment)
                }
            }
        };
        Ok(Self { watching, watch, agreement, topic, note, urgent, drained, events, heard })
    }

    /// For the snapshot thread.
    pub(super) fn tell(&self) -> Tell {
        let events = self.events.clone();
        // If the thread of savepoints is gone, so is who asked.
        Box::new(move |news| drop(events.send(Event::Snapshot(news))))
    }

    /// Starts the thread, and takes orders from now on.
    pub(super) fn start(
        self,
        config: &PodConfig,
        cast: &Cast,
        snapshots: Option<SavepointStore>,
        monitor: &Monitor,
    ) -> Result<Started, PodError> {
        let (desk, book) = (Arc::new(Desk::new(std::thread::current())), Arc::new(Book::default()));
        let alone = matches!(self.agreement, Agreement::Alone(_));
        if self.drained {
            cast.gate.end();
        }
        let exchanges = dataflow::shuffle::exchanges(&config.planned.graph).count();
        let rounds = if cast.outward.is_some() { 1 + exchanges } else { 1 };
        let mut reads: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for read in &cast.read {
            reads.entry(read.topic.clone()).or_default().push(read.partition);
        }
        let work = SavepointWork {
            agreement: self.agreement,
            pod: config.ordinal,
            note: if alone { self.note } else { None },
            rounds: u16::try_from(rounds).expect("a job has far fewer exchanges"),
            reads: reads.into_iter().collect(),
            snapshots,
            desk: Arc::clone(&desk),
            gate: Arc::clone(&cast.gate),
            urgent: self.urgent,
            book: Arc::clone(&book),
        };
        let events = self.events.clone();
        let thread = Savepoints::start(work, (self.events.clone(), self.heard)).map_err(PodError::Thread)?;
        let (gate, topic) = (Arc::clone(&cast.gate), self.topic.map(Mutex::new));
        monitor.attach_orders(OrderBook { events: self.events, book, desk: Arc::clone(&desk), gate, topic, alone });
        Ok(Started { thread, desk, events })
    }
}

/// Tells driver and savepoints of every change of the control topic.
fn tell(number: u64, news: Arc<News>, events: SyncSender<Event>) -> impl Fn(&ControlLog) + Send + 'static {
    let seen = AtomicU64::new(number);
    move |log| {
        let (from, to) = (seen.swap(log.view.number(), Ordering::Relaxed), log.view.number());
        if from != to {
            tracing::info!(from, to, "another assignment is in force");
        }
        crash::around_if(from != to, Step::Notice, || news.tell(log));
        if log.drained {
            let _ = events.send(Event::InputEnds);
        }
        // The thread looks at the newest only; what does not fit waits for the next change.
        let _ = events.send(Event::Board { board: log.board.clone(), in_force: to });
    }
}

impl Started {
    /// The driver's side.
    pub(super) fn hold(&self, gate: Arc<Gate>, read: Vec<ReadUpTo>) -> Hold {
        Hold::new(Arc::clone(&self.desk), gate, read, self.events.clone())
    }
}
