//! Time, tasks, connections and faults around a [`Broker`], all decided by one seed.
//!
//! Owns the queue of events and the trace. A task is a plain `async fn` that awaits only what [`World`] gives it: an answer, or time. To kill a
//! process is to drop its task; to pause it is not to run it for a while.
//!
//! # The network
//! Requests of one connection arrive in order, those of different connections in any. A connection may break at any request: the request is then
//! lost, or it arrives as much as [`Faults::latest_us`] later, when the client has long asked something else over a new connection; its answer is
//! lost in both cases. A client that waits too long gives up its connection.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::Hash;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use dataflow::testing::Random;
use xxhash_rust::xxh3::Xxh3;

use crate::broker::{Broker, Marker};
use crate::message::{ErrorCode, Protocol, Request, Response};

/// What goes wrong, and how often.
#[derive(Clone, Copy, Debug)]
pub struct Faults {
    /// A connection breaks once in so many requests (0: never).
    pub break_once_in: usize,
    /// Longest ordinary way of a request or an answer in microseconds.
    pub way_us: u64,
    /// A request of a broken connection may still arrive up to so much later.
    pub latest_us: u64,
    /// Longest time until a marker is written.
    pub marker_us: u64,
}

/// How often the coordinator looks for transactions that are too old.
const EXPIRY_US: u64 = 10_000_000;

/// A task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TaskId(usize);

/// A connection of a client to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Connection(usize);

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallError {
    /// The connection broke: the request may have arrived, may still arrive, or never will.
    Disconnected,
    /// The broker refused.
    Refused(ErrorCode),
}

/// Which way between a task and the broker is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing arrives, nothing comes back.
    Both,
    /// Requests arrive; answers are lost.
    Answers,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Call = u64;

enum Event {
    Arrive { connection: usize, call: Call, request: Request, answered: bool },
    Answer { connection: usize, call: Call, outcome: Result<Response, CallError> },
    Marker(Marker),
    Expire,
    Run(TaskId),
}

/// Each connection: open or not, and when the last request and the last answer arrive.
struct Wire {
    open: bool,
    request_us: u64,
    answer_us: u64,
}

struct Inner {
    now_us: u64,
    random: Random,
    faults: Faults,
    broker: Broker,
    events: BTreeMap<(u64, u64), Event>,
    next: u64,
    wires: Vec<Wire>,
    waiting: BTreeMap<Call, TaskId>,
    outcomes: BTreeMap<Call, Result<Response, CallError>>,
    markers: BTreeSet<Marker>,
    paused: BTreeMap<TaskId, u64>,
    /// Tasks without a network, and until when.
    cut: BTreeMap<TaskId, (u64, Cut)>,
    /// Until when the broker is away, and for how long it was or will be until then.
    away_until_us: u64,
    away_us: u64,
    /// When each task is to run next, if nothing arrives before: an event of another time is out of date.
    alarms: BTreeMap<TaskId, u64>,
    running: TaskId,
    trace: Xxh3,
    events_seen: u64,
    breaks: u64,
}

/// The world. Cheap to clone: all clones are the same world.
#[derive(Clone)]
pub struct World {
    inner: Rc<RefCell<Inner>>,
    tasks: Rc<RefCell<BTreeMap<TaskId, Task>>>,
    made: Rc<Cell<usize>>,
}

impl World {
    /// A world without tasks.
    pub fn new(seed: u64, faults: Faults) -> Self {
        let inner = Inner {
            now_us: 0,
            random: Random(seed),
            faults,
            broker: Broker::default(),
            events: BTreeMap::new(),
            next: 0,
            wires: Vec::new(),
            waiting: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            markers: BTreeSet::new(),
            paused: BTreeMap::new(),
            cut: BTreeMap::new(),
            away_until_us: 0,
            away_us: 0,
            alarms: BTreeMap::new(),
            running: TaskId(usize::MAX),
            trace: Xxh3::new(),
            events_seen: 0,
            breaks: 0,
        };
        let world = Self { inner: Rc::new(RefCell::new(inner)), tasks: Rc::default(), made: Rc::default() };
        world.inner.borrow_mut().at(EXPIRY_US, Event::Expire);
        world
    }

    /// Which transaction protocol the broker speaks: said before anything has happened.
    pub fn speak(&self, protocol: Protocol) {
        self.inner.borrow_mut().broker = Broker::new(protocol);
    }

    /// Which transaction protocol the broker speaks.
    pub fn protocol(&self) -> Protocol {
        self.inner.borrow().broker.protocol()
    }

    /// Takes the broker away for a while, as when it restarts: connections break, nothing arrives, and nothing happens at it. It forgets nothing.
    pub fn broker_away(&self, ms: u64) {
        let mut inner = self.inner.borrow_mut();
        let until = inner.now_us + ms * 1000;
        inner.away_us = inner.away_us - inner.away_until_us.saturating_sub(inner.now_us) + ms * 1000;
        inner.away_until_us = until;
        inner.wires.iter_mut().for_each(|wire| wire.open = false);
    }

    /// How long the broker has been there since the beginning, in milliseconds; times in which it is away count from their beginning.
    pub fn broker_ms(&self) -> u64 {
        let inner = self.inner.borrow();
        inner.now_us.saturating_sub(inner.away_us) / 1000
    }

    /// Milliseconds since the beginning.
    pub fn now_ms(&self) -> u64 {
        self.inner.borrow().now_us / 1000
    }

    /// A number below `bound`, from the seed.
    pub fn below(&self, bound: usize) -> usize {
        self.inner.borrow_mut().random.below(bound)
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.inner.borrow_mut().faults = faults;
    }

    /// Asks the broker at once, beside the network: for whoever feeds and checks the world.
    pub fn ask(&self, request: &Request) -> Response {
        let mut inner = self.inner.borrow_mut();
        let now = inner.now_us / 1000;
        let response = inner.broker.handle(now, request);
        inner.schedule_markers();
        response
    }

    /// Transactions of the broker that are open or have markers to come.
    pub fn unfinished_transactions(&self) -> usize {
        self.inner.borrow().broker.unfinished()
    }

    /// How many connections broke.
    pub fn breaks(&self) -> u64 {
        self.inner.borrow().breaks
    }

    /// A number over everything that happened, in order: equal for equal seeds.
    pub fn trace(&self) -> u64 {
        self.inner.borrow().trace.digest()
    }

    /// How many events have happened.
    pub fn events(&self) -> u64 {
        self.inner.borrow().events_seen
    }

    /// Starts a task; it runs from the next event on.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) -> TaskId {
        let id = TaskId(self.made.get());
        self.made.set(id.0 + 1);
        self.tasks.borrow_mut().insert(id, Box::pin(task));
        self.inner.borrow_mut().alarm(id, 0);
        id
    }

    /// Kills a task where it stands. Requests that it sent go on.
    pub fn kill(&self, id: TaskId) {
        // Taken out first: what is dropped may use the world.
        let task = self.tasks.borrow_mut().remove(&id);
        drop(task);
    }

    /// True if the task has not ended.
    pub fn is_alive(&self, id: TaskId) -> bool {
        self.tasks.borrow().contains_key(&id)
    }

    /// Lets a task sleep, wherever it stands, whatever arrives for it.
    pub fn pause(&self, id: TaskId, ms: u64) {
        let mut inner = self.inner.borrow_mut();
        let until = inner.now_us + ms * 1000;
        inner.paused.insert(id, until);
        inner.alarms.remove(&id);
        inner.alarm(id, ms * 1000);
    }

    /// Takes a task's network away for a while.
    pub fn cut(&self, id: TaskId, ms: u64, way: Cut) {
        let mut inner = self.inner.borrow_mut();
        let until = inner.now_us + ms * 1000;
        inner.cut.insert(id, (until, way));
    }

    /// Puts something that happened beside the network into the trace.
    pub fn note(&self, what: &impl Hash) {
        what.hash(&mut self.inner.borrow_mut().trace);
    }

    /// Transactional ids and consumer groups that the broker knows.
    pub fn known(&self) -> (Vec<String>, Vec<String>) {
        let inner = self.inner.borrow();
        let ids = inner.broker.transactional_ids().map(str::to_owned).collect();
        (ids, inner.broker.groups().map(str::to_owned).collect())
    }

    /// Opens a connection.
    pub fn connect(&self) -> Connection {
        let mut inner = self.inner.borrow_mut();
        inner.wires.push(Wire { open: true, request_us: 0, answer_us: 0 });
        Connection(inner.wires.len() - 1)
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn call(
        &self,
        connection: Connection,
        timeout_ms: u64,
        request: Request,
    ) -> Result<crate::message::Answer, CallError> {
        let call = self.inner.borrow_mut().send(connection, timeout_ms, request);
        let inner = Rc::clone(&self.inner);
        let outcome = std::future::poll_fn(move |_| match inner.borrow_mut().outcomes.remove(&call) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        })
        .await?;
        outcome.map_err(CallError::Refused)
    }

    /// Waits, or until this task runs for another reason: for a loop that looks around.
    pub async fn wait(&self, us: u64) {
        {
            let mut inner = self.inner.borrow_mut();
            let task = inner.running;
            inner.alarm(task, us);
        }
        let mut waited = false;
        std::future::poll_fn(move |_| {
            let ready = std::mem::replace(&mut waited, true);
            if ready { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Waits so long, whatever arrives.
    pub async fn sleep(&self, us: u64) {
        let until = self.inner.borrow().now_us + us;
        while self.inner.borrow().now_us < until {
            let left = until - self.inner.borrow().now_us;
            self.wait(left).await;
        }
    }

    /// Runs until a moment.
    pub fn run_until(&self, ms: u64) {
        loop {
            let event = {
                let mut inner = self.inner.borrow_mut();
                let due = inner.events.first_key_value().map(|((at, _), _)| *at).filter(|at| *at <= ms * 1000);
                let Some(at) = due else {
                    inner.now_us = ms * 1000;
                    return;
                };
                inner.now_us = at;
                let (_, event) = inner.events.pop_first().expect("looked at just now");
                event
            };
            let task = self.inner.borrow_mut().happen(event);
            if let Some(task) = task {
                self.run(task);
            }
        }
    }

    fn run(&self, id: TaskId) {
        {
            let mut inner = self.inner.borrow_mut();
            // What arrives meanwhile is found when it wakes.
            if inner.paused.get(&id).is_some_and(|until| *until > inner.now_us) {
                return;
            }
            inner.paused.remove(&id);
            inner.running = id;
        }
        // Taken out while it runs: a task may start others.
        let Some(mut task) = self.tasks.borrow_mut().remove(&id) else { return };
        if task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.tasks.borrow_mut().insert(id, task);
        }
    }
}

impl Inner {
    fn at(&mut self, us: u64, event: Event) {
        self.next += 1;
        self.events.insert((us, self.next), event);
    }

    fn after(&mut self, us: u64, event: Event) {
        self.at(self.now_us + us, event);
    }

    /// Runs a task in so many microseconds, or earlier if that is due already.
    fn alarm(&mut self, task: TaskId, us: u64) {
        let at = self.now_us + us;
        if self.alarms.get(&task).is_none_or(|due| *due > at) {
            self.alarms.insert(task, at);
            self.at(at, Event::Run(task));
        }
    }

    fn up_to(&mut self, us: u64) -> u64 {
        self.random.below(us as usize + 1) as u64
    }

    fn send(&mut self, connection: Connection, timeout_ms: u64, request: Request) -> Call {
        self.next += 1;
        let (call, now, faults) = (self.next, self.now_us, self.faults);
        self.waiting.insert(call, self.running);
        let give_up = Event::Answer { connection: connection.0, call, outcome: Err(CallError::Disconnected) };
        if !self.wires[connection.0].open {
            self.after(1, give_up);
            return call;
        }
        let way = self.up_to(faults.way_us);
        let arrives = self.wires[connection.0].request_us.max(now + way);
        self.wires[connection.0].request_us = arrives;
        let away = (self.away_until_us > now).then_some(Cut::Both);
        let cut = away.or(self.cut.get(&self.running).filter(|(until, _)| *until > now).map(|(_, way)| *way));
        if cut.is_some() || self.random.once_in(faults.break_once_in) {
            self.breaks += 1;
            self.wires[connection.0].open = false;
            let arrives_late = match cut {
                Some(Cut::Both) => false,
                Some(Cut::Answers) => true,
                None => self.random.once_in(2),
            };
            if arrives_late {
                let late = arrives + self.up_to(faults.latest_us);
                self.at(late, Event::Arrive { connection: connection.0, call, request, answered: false });
            }
            let seen = self.up_to(timeout_ms * 1000);
            self.after(seen, give_up);
        } else {
            self.at(arrives, Event::Arrive { connection: connection.0, call, request, answered: true });
            // Whatever else: the client does not wait longer.
            self.after(timeout_ms * 1000, give_up);
        }
        call
    }

    /// Lets an event happen; returns the task that it concerns.
    fn happen(&mut self, event: Event) -> Option<TaskId> {
        self.events_seen += 1;
        let now = self.now_us;
        self.trace.update(&now.to_le_bytes());
        if now < self.away_until_us {
            match event {
                // It finds nobody. Its client has seen its connection break, or gives up.
                Event::Arrive { .. } => return None,
                Event::Marker(_) | Event::Expire => {
                    self.at(self.away_until_us, event);
                    return None;
                }
                Event::Answer { .. } | Event::Run(_) => {}
            }
        }
        match event {
            Event::Arrive { connection, call, request, answered } => {
                (connection, call, &request).hash(&mut self.trace);
                let response = self.broker.handle(now / 1000, &request);
                self.schedule_markers();
                if answered && self.wires[connection].open {
                    let way = self.up_to(self.faults.way_us);
                    let arrives = self.wires[connection].answer_us.max(now + way);
                    self.wires[connection].answer_us = arrives;
                    self.at(arrives, Event::Answer { connection, call, outcome: Ok(response) });
                }
                None
            }
            Event::Answer { connection, call, outcome } => {
                // The first that comes counts: an answer, or the end of the client's patience.
                let task = self.waiting.remove(&call)?;
                (call, &outcome).hash(&mut self.trace);
                self.wires[connection].open &= outcome.is_ok();
                self.outcomes.insert(call, outcome);
                Some(task)
            }
            Event::Marker(marker) => {
                marker.hash(&mut self.trace);
                self.markers.remove(&marker);
                self.broker.write_marker(&marker);
                None
            }
            Event::Expire => {
                self.broker.expire(now / 1000);
                self.schedule_markers();
                self.after(EXPIRY_US, Event::Expire);
                None
            }
            Event::Run(task) => (self.alarms.get(&task) == Some(&now)).then(|| {
                self.alarms.remove(&task);
                task
            }),
        }
    }

    fn schedule_markers(&mut self) {
        for marker in self.broker.markers() {
            if self.markers.insert(marker.clone()) {
                let delay = self.up_to(self.faults.marker_us);
                self.after(delay, Event::Marker(marker));
            }
        }
    }
}
