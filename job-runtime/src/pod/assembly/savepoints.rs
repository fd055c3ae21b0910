//! Orders and savepoints in the start of a pod: where the pods agree, who watches the control topic, and the thread that makes savepoints.
//!
//! Owns that wiring. What an order does is in `pod::order_book` and `pod::savepoint`.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Arc, Mutex};

use checkpoint::assignment::Assignment;
use dataflow::shuffle::Gate;

use super::{Cast, Desk, Hold, Log, Recovered};
use crate::commit::kafka::{ControlTopic, Watching};
use crate::crash::{self, Step};
use crate::kafka::shuffle::ReadUpTo;
use crate::pod::monitor::Monitor;
use crate::pod::order_book::OrderBook;
use crate::pod::savepoint::{self, Agreement, Book, Event, SavepointStore, SavepointWork, Savepoints};
use crate::pod::{PodConfig, PodError};
use crate::snapshot::thread::Tell;

/// What is known before the pod's parts are placed.
pub(super) struct Orders {
    pub(super) watching: Option<Watching>,
    agreement: Agreement,
    topic: Option<ControlTopic>,
    note: Option<ControlTopic>,
    urgent: Arc<AtomicBool>,
    /// The job's input had ended before.
    drained: bool,
    events: SyncSender<Event>,
    heard: Receiver<Event>,
}

/// What runs, and what the driver needs of it.
pub(super) struct Started {
    pub(super) thread: Savepoints,
    desk: Arc<Desk>,
    events: SyncSender<Event>,
}

impl Orders {
    /// A pod that is and stays alone has nothing to watch; any other ends its run when another assignment is in force.
    pub(super) fn new(config: &PodConfig, recovered: &Recovered, monitor: &Arc<Monitor>) -> Result<Self, PodError> {
        let (events, heard) = savepoint::channel();
        let urgent = Arc::new(AtomicBool::new(false));
        let first = || Assignment::first(config.shards.count(), 1);
        let (mut watching, mut topic, mut note, mut drained) = (None, None, None, false);
        let agreement = match &recovered.log {
            Log::Local(_) => Agreement::Alone(first()),
            Log::Kafka(kafka) => {
                let log = &kafka.log;
                (topic, note) = (Some(log.control_topic()), Some(log.control_topic()));
                drained = log.is_drained();
                let assignment = log.assignment().cloned().unwrap_or_else(first);
                if recovered.seat.has_others() || config.pods > 1 {
                    let (number, monitor, events) = (assignment.number, Arc::clone(monitor), events.clone());
                    let changed = move |log: &checkpoint::control::ControlLog| {
                        if log.view.number() > number {
                            tracing::info!(from = number, to = log.view.number(), "another assignment is in force");
                            crash::around(Step::Notice, || monitor.reassign());
                        }
                        if log.drained {
                            let _ = events.send(Event::InputEnds);
                        }
                        // The thread looks at the newest only; what does not fit waits for the next change.
                        let _ = events.send(Event::Board(log.board.clone()));
                    };
                    watching = Some(log.watch(Arc::clone(&urgent), changed).map_err(PodError::Thread)?);
                    Agreement::Topic(Box::new(log.control_topic()), log.board().clone(), number)
                } else {
                    Agreement::Alone(assignment)
                }
            }
        };
        Ok(Self { watching, agreement, topic, note, urgent, drained, events, heard })
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

impl Started {
    /// The driver's side.
    pub(super) fn hold(&self, gate: Arc<Gate>, read: Vec<ReadUpTo>) -> Hold {
        Hold::new(Arc::clone(&self.desk), gate, read, self.events.clone())
    }
}
