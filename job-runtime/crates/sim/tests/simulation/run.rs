//! One run of one seed: makes the world, feeds the input, breaks things for a while, lets everything heal, and checks.
//!
//! Owns the course of a run. What is done to it is `storm`'s. All chance comes from the seed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use checkpoint::names;
use dataflow::key::Shards;
use dataflow::testing::Random;
use sim::message::{Answer, Protocol, Record, Request, Transactional};
use sim::store::ObjectStore;
use sim::world::{TaskId, World};

use super::archive::Archive;
use super::commit::UID;
use super::ending;
use super::faults::{Plan, QUIET, STORE_QUIET};
use super::job::{DISORDER_MS, INPUT, Row, encode, exchange_uid, graph};
use super::machine::Disks;
use super::mutant::Mutant;
use super::oracle::{PER_PARTITION, Reader, Windows, closed_windows};
use super::outcome::Outcome;
use super::pod::{Job, Machine, output_topic, run};

#[path = "storm.rs"]
mod storm;

/// Simulated time in which things break; then in which everything must be done.
pub(crate) const STORM_MS: u64 = 40_000;
const HEAL_MS: u64 = 45_000;
/// What is wrong may still be on its way when all seems done.
const AFTER_MS: u64 = 12_000;
/// A run is at least as long.
const LEAST_MS: u64 = 60_000;
const LOOK_MS: u64 = 100;
/// Machines of a pod: processes of it that live at the same time.
const MACHINES: usize = 3;
/// Pods at most.
const PODS: u16 = 3;

/// A process, the machine that it has, how wrong that one's clock is, and until when it sleeps.
struct Process {
    task: TaskId,
    pod: u16,
    machine: usize,
    skew_ms: Rc<Cell<i64>>,
    asleep_until_ms: u64,
}

/// Records of a partition of the input that are not there any more: of so many rows, those that nobody had read yet are lost.
struct Gone {
    partition: usize,
    rows: usize,
}

/// See the module's documentation.
pub(crate) struct Run {
    pub(crate) job: Rc<Job>,
    plan: Plan,
    random: Random,
    /// Of each pod.
    machines: Vec<Vec<Disks>>,
    processes: Vec<Process>,
    pub(crate) rows: Vec<Vec<Row>>,
    fed: Vec<usize>,
    pub(crate) windows: Windows,
    pub(crate) reader: Reader,
    foreign: Option<(Transactional, u64)>,
    gone: Option<Gone>,
    outcome: Outcome,
}

/// Runs a seed; says what is wrong if anything is.
pub(crate) fn simulate(seed: u64, mutant: Option<Mutant>) -> Result<Outcome, String> {
    simulate_with(seed, mutant, None)
}

/// The same, with this transaction protocol whatever the seed says.
pub(crate) fn simulate_with(seed: u64, mutant: Option<Mutant>, protocol: Option<Protocol>) -> Result<Outcome, String> {
    let mut run = Run::new(seed, mutant, protocol);
    run.job.world.set_faults(run.plan.network);
    run.job.store.set_faults(run.plan.store);
    while run.now() < STORM_MS {
        run.feed();
        run.disturb();
        run.look()?;
    }
    let whole = run.heal()?;
    ending::check(&mut run, whole)?;
    let (job, outcome) = (&run.job, run.outcome);
    let (store_failures, damaged) = job.store.faults_seen();
    Ok(Outcome {
        runs: 1,
        protocol_two: u64::from(job.world.protocol() == Protocol::Two),
        simulated_ms: job.world.now_ms(),
        breaks: job.world.breaks(),
        store_failures,
        damaged,
        counts: *job.counts.borrow(),
        checks: job.archive.borrow().checked,
        events: job.world.events(),
        trace: job.world.trace(),
        ..outcome
    })
}

impl Run {
    fn new(seed: u64, mutant: Option<Mutant>, protocol: Option<Protocol>) -> Self {
        let mut random = Random(seed ^ 0x5eed);
        let plan = Plan::new(&mut random, mutant);
        let world = World::new(seed, QUIET);
        world.speak(protocol.unwrap_or(plan.protocol));
        let store = ObjectStore::new(&world);
        store.set_faults(STORE_QUIET);
        let partitions = plan.partitions;
        let shards = Shards::new(plan.pods + random.below(3) as u16).expect("not zero");
        let topic = |topic: String, partitions: i32| {
            world.ask(&Request::CreateTopic { topic, partitions }).expect("a new topic");
        };
        let each = i32::from(shards.count());
        topic(INPUT.to_owned(), partitions);
        topic(output_topic(false), 2);
        topic(output_topic(true), 2);
        topic(names::changelog_topic(UID), each);
        topic(names::shuffle_topic(UID, exchange_uid()), each);
        topic(names::control_topic(UID), 1);
        let rows: Vec<Vec<Row>> = (0..partitions).map(|partition| input(partition, &mut random)).collect();
        let windows = closed_windows(rows.iter().flatten());
        let job = Job {
            world,
            store,
            graph: Arc::new(graph()),
            partitions,
            shards,
            pods: Cell::new(plan.pods),
            look_us: plan.look_us,
            mutant,
            archive: RefCell::new(Archive::default()),
            counts: RefCell::default(),
            found: RefCell::new(None),
            processes: Cell::new(0),
        };
        let machines = |_| (0..MACHINES).map(|_| Disks::new(shards.count())).collect();
        let (fed, processes, reader) = (vec![0; rows.len()], Vec::new(), Reader::default());
        let (job, machines) = (Rc::new(job), (0..PODS).map(machines).collect());
        let (foreign, gone, outcome) = (None, None, Outcome::default());
        Self { job, plan, random, machines, processes, rows, fed, windows, reader, foreign, gone, outcome }
    }

    pub(crate) fn now(&self) -> u64 {
        self.job.world.now_ms()
    }

    /// Lets time pass, then looks at everything that can be seen.
    pub(crate) fn look(&mut self) -> Result<(), String> {
        self.pass(LOOK_MS);
        self.job.look_at_changelog();
        if let Some(wrong) = self.job.found.borrow().clone() {
            return Err(wrong);
        }
        self.reader.read(&self.job.world)
    }

    pub(crate) fn pass(&self, ms: u64) {
        self.job.world.run_until(self.now() + ms);
    }

    /// Gives each partition a part of its rows: all of them by the end of the storm.
    fn feed(&mut self) {
        let now = self.now().min(STORM_MS);
        for (partition, rows) in self.rows.iter().enumerate() {
            let due = rows.len() * now as usize / STORM_MS as usize;
            let records: Vec<Record> = rows[self.fed[partition]..due.max(self.fed[partition])]
                .iter()
                .map(|row| Record { value: Some(encode(row)), timestamp_ms: row[1], ..Record::default() })
                .collect();
            self.fed[partition] += records.len();
            if !records.is_empty() {
                let to = (INPUT.to_owned(), partition as i32);
                self.ask(&Request::Produce { by: None, to, sequence: 0, records });
            }
        }
    }

    fn ask(&self, request: &Request) -> Option<Answer> {
        self.job.world.ask(request).ok()
    }

    /// One more row for each partition, behind all windows: a process that started anew knows no event time before its next row.
    fn feed_the_end(&mut self) {
        for rows in &mut self.rows {
            let last = rows.last().expect("every partition has rows");
            let row = [last[0], last[1] + 1, last[2] + 1];
            rows.push(row);
        }
        self.feed();
    }

    fn start(&mut self, pod: u16) {
        let free = (0..MACHINES)
            .filter(|machine| self.processes.iter().all(|process| (process.pod, process.machine) != (pod, *machine)));
        let free: Vec<usize> = free.collect();
        if free.is_empty() {
            return;
        }
        let machine = free[self.random.below(free.len())];
        let disks = self.machines[usize::from(pod)][machine].clone();
        let skew_ms = Rc::new(Cell::new(self.skew_ms()));
        let here = Machine { pod, disks, skew_ms: Rc::clone(&skew_ms) };
        let task = self.job.world.spawn(run(Rc::clone(&self.job), here));
        self.processes.push(Process { task, pod, machine, skew_ms, asleep_until_ms: 0 });
        self.outcome.starts += 1;
    }

    fn skew_ms(&mut self) -> i64 {
        self.random.below(2 * self.plan.skew_ms) as i64 - self.plan.skew_ms as i64
    }

    fn kill(&mut self, place: usize) {
        let process = self.processes.swap_remove(place);
        self.job.world.kill(process.task);
        let fate = self.plan.fate(&mut self.random);
        let other = &self.machines[self.random.below(usize::from(PODS))][self.random.below(MACHINES)];
        self.machines[usize::from(process.pod)][process.machine].meets(fate, other);
        self.outcome.kills += 1;
    }

    /// True if somebody has stopped because records are gone, and nothing behind them is out.
    fn is_stopped(&self, before: u64) -> Result<bool, String> {
        let Some(Gone { partition, rows }) = self.gone else { return Ok(false) };
        let stopped = self.job.counts.borrow().gone > before;
        if stopped && self.reader.rows_of(partition) > rows {
            return Err(format!("I1: rows of partition {partition} behind the {rows} of which some were lost are out"));
        }
        Ok(stopped)
    }

    /// Nothing breaks any more. I13: after this time everything that was read is out; or, if records of the input are lost, a process says so. False
    /// for that.
    fn heal(&mut self) -> Result<bool, String> {
        self.job.world.set_faults(QUIET);
        self.job.store.set_faults(STORE_QUIET);
        if let Some((by, _)) = self.foreign.take() {
            self.ask(&Request::EndTxn { by, commit: false });
        }
        self.machines.iter().flatten().for_each(|disks| disks.slow_down(0));
        self.job.world.broker_away(0);
        let (healed, stops) = (self.now(), self.job.counts.borrow().gone);
        let mut looks = 0;
        loop {
            self.feed();
            self.keep_one_each();
            self.look()?;
            looks += 1;
            if looks % 20 == 0 {
                self.feed_the_end();
            }
            let rows = self.rows.iter().map(Vec::len).sum();
            let open = self.job.world.unfinished_transactions();
            if self.reader.is_complete(rows, &self.windows) && open == 0 && self.now() + AFTER_MS >= LEAST_MS {
                return Ok(true);
            }
            if self.is_stopped(stops)? && open == 0 && self.now() >= LEAST_MS {
                return Ok(false);
            }
            if self.now() > healed + HEAL_MS {
                let progress = self.reader.progress(rows, &self.windows);
                return Err(format!("I13: {HEAL_MS} ms after the last fault: {progress}, {open} open transactions"));
            }
        }
    }

    /// What is wrong may still be on its way.
    pub(crate) fn wait_behind(&mut self) -> Result<(), String> {
        for _ in 0..AFTER_MS / 1_000 {
            self.pass(900);
            self.look()?;
        }
        Ok(())
    }

    /// As Kubernetes does in the end: one process of each pod, awake, and another when it is gone.
    fn keep_one_each(&mut self) {
        self.processes.retain(|process| self.job.world.is_alive(process.task));
        let pods = self.job.pods.get();
        while let Some(place) = self.superfluous(pods) {
            self.kill(place);
        }
        for pod in 0..pods {
            if self.processes.iter().all(|process| process.pod != pod) {
                self.start(pod);
            }
        }
    }

    fn superfluous(&self, pods: u16) -> Option<usize> {
        let newer =
            |place: usize| self.processes[place + 1..].iter().any(|other| other.pod == self.processes[place].pod);
        let asleep = |place: usize| self.processes[place].asleep_until_ms > self.now();
        (0..self.processes.len()).find(|place| self.processes[*place].pod >= pods || newer(*place) || asleep(*place))
    }

    /// Ends all processes.
    pub(crate) fn end_all(&mut self) {
        while !self.processes.is_empty() {
            let process = self.processes.swap_remove(0);
            self.job.world.kill(process.task);
        }
    }
}

/// Rows of a partition. Any key may be in any partition, no row is late, and the last row closes all windows but its own.
fn input(partition: i32, random: &mut Random) -> Vec<Row> {
    let count = 200 + random.below(400);
    let keys = 1 + random.below(20);
    let first = i64::from(partition) * PER_PARTITION;
    let mut rows: Vec<Row> = (0..count as i64)
        .map(|number| {
            let key = random.below(keys) as i64;
            [key, number * 7 + random.below(DISORDER_MS as usize) as i64, first + number]
        })
        .collect();
    rows.push([-1 - i64::from(partition), 1_000_000, first + count as i64]);
    rows
}
