//! One run of one seed: makes the world, feeds the input, breaks things for a while, lets everything heal, and checks.
//!
//! Owns the schedule of faults. All chance comes from the seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use checkpoint::names;
use dataflow::key::Shards;
use dataflow::testing::{Disk, Random};
use sim::message::{Record, Request};
use sim::world::{Faults, TaskId, World};

use super::commit::{Mutant, UID};
use super::job::{DISORDER_MS, INPUT, Row, encode, graph};
use super::oracle::{PER_PARTITION, Reader};
use super::pod::{Pod, output_topic, run};

const QUIET: Faults = Faults { break_once_in: 0, way_us: 2_000, latest_us: 0, marker_us: 5_000 };
/// Simulated time in which things break, then in which everything must be done.
const STORM_MS: u64 = 30_000;
const HEAL_MS: u64 = 60_000;
const LOOK_MS: u64 = 100;
/// Disks of processes that live at the same time.
const DISKS: usize = 4;

/// What a run, or many, have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) runs: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) commits: u64,
    pub(crate) starts: u64,
    pub(crate) kills: u64,
    pub(crate) pauses: u64,
    pub(crate) breaks: u64,
    pub(crate) events: u64,
    pub(crate) trace: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.simulated_ms += other.simulated_ms;
        self.commits += other.commits;
        self.starts += other.starts;
        self.kills += other.kills;
        self.pauses += other.pauses;
        self.breaks += other.breaks;
        self.events += other.events;
        self.trace ^= other.trace;
    }
}

/// A process, the disk that it has, and until when it sleeps.
struct Process {
    task: TaskId,
    disk: usize,
    asleep_until_ms: u64,
}

struct Run {
    world: World,
    pod: Rc<Pod>,
    random: Random,
    disks: Vec<Vec<Disk>>,
    processes: Vec<Process>,
    rows: Vec<Vec<Row>>,
    fed: Vec<usize>,
    reader: Reader,
    outcome: Outcome,
}

/// Runs a seed; says what is wrong if anything is.
pub(crate) fn simulate(seed: u64, mutant: Option<Mutant>) -> Result<Outcome, String> {
    let mut run = Run::new(seed, mutant);
    // A mutant is looked for where it hurts.
    let breaks = if mutant.is_some() { [20, 20, 40, 80] } else { [0, 40, 150, 600] };
    let storm = Faults {
        break_once_in: breaks[run.random.below(4)],
        way_us: [1_000, 5_000, 30_000][run.random.below(3)],
        latest_us: [10_000, 1_000_000, 6_000_000][run.random.below(3)],
        marker_us: [2_000, 50_000, 500_000][run.random.below(3)],
    };
    run.world.set_faults(storm);
    while run.world.now_ms() < STORM_MS {
        run.feed();
        run.disturb();
        run.look()?;
    }
    run.world.set_faults(QUIET);
    let healed = run.world.now_ms();
    loop {
        run.feed();
        run.keep_one();
        run.look()?;
        let input: Vec<Row> = run.rows.iter().flatten().copied().collect();
        if run.reader.is_complete(&input) && run.world.unfinished_transactions() == 0 {
            // What is wrong may still be on its way.
            run.world.run_until(run.world.now_ms() + 12_000);
            run.look()?;
            run.reader.check(&input)?;
            break;
        }
        if run.world.now_ms() > healed + HEAL_MS {
            run.reader.check(&input)?;
            return Err(format!("I4: {} transactions have no end", run.world.unfinished_transactions()));
        }
    }
    let (simulated_ms, commits) = (run.world.now_ms(), *run.pod.commits.borrow());
    let (breaks, events, trace) = (run.world.breaks(), run.world.events(), run.world.trace());
    Ok(Outcome { runs: 1, simulated_ms, commits, breaks, events, trace, ..run.outcome })
}

impl Run {
    fn new(seed: u64, mutant: Option<Mutant>) -> Self {
        let mut random = Random(seed ^ 0x5eed);
        let world = World::new(seed, QUIET);
        let partitions = 1 + random.below(3) as i32;
        let shards = Shards::new(1 + random.below(4) as u16).expect("not zero");
        let topic = |topic: String, partitions: i32| {
            world.ask(&Request::CreateTopic { topic, partitions }).expect("a new topic");
        };
        topic(INPUT.to_owned(), partitions);
        topic(output_topic(false), 2);
        topic(output_topic(true), 2);
        topic(names::changelog_topic(UID), i32::from(shards.count()));
        let rows: Vec<Vec<Row>> = (0..partitions).map(|partition| input(partition, partitions, &mut random)).collect();
        let pod = Pod {
            world: world.clone(),
            graph: Arc::new(graph()),
            partitions,
            shards,
            mutant,
            wrong: RefCell::new(None),
            commits: RefCell::new(0),
        };
        let disks = (0..DISKS).map(|_| shards.all().map(|_| Disk::default()).collect()).collect();
        let (fed, processes, reader) = (vec![0; rows.len()], Vec::new(), Reader::default());
        Self { world, pod: Rc::new(pod), random, disks, processes, rows, fed, reader, outcome: Outcome::default() }
    }

    /// Lets time pass, then looks at everything that can be seen.
    fn look(&mut self) -> Result<(), String> {
        self.world.run_until(self.world.now_ms() + LOOK_MS);
        if let Some(wrong) = self.pod.wrong.borrow().clone() {
            return Err(wrong);
        }
        self.reader.read(&self.world)
    }

    /// Gives each partition a part of its rows: all of them by the end of the storm.
    fn feed(&mut self) {
        let now = self.world.now_ms().min(STORM_MS);
        for (partition, rows) in self.rows.iter().enumerate() {
            let due = rows.len() * now as usize / STORM_MS as usize;
            let records: Vec<Record> = rows[self.fed[partition]..due.max(self.fed[partition])]
                .iter()
                .map(|row| Record { value: Some(encode(row)), timestamp_ms: row[1], ..Record::default() })
                .collect();
            self.fed[partition] += records.len();
            if !records.is_empty() {
                let to = (INPUT.to_owned(), partition as i32);
                self.world.ask(&Request::Produce { by: None, to, sequence: 0, records }).expect("the topic is there");
            }
        }
    }

    fn start(&mut self) {
        let free = (0..DISKS).filter(|disk| self.processes.iter().all(|process| process.disk != *disk));
        let free: Vec<usize> = free.collect();
        if free.is_empty() {
            return;
        }
        let disk = free[self.random.below(free.len())];
        let task = self.world.spawn(run(Rc::clone(&self.pod), self.disks[disk].clone()));
        self.processes.push(Process { task, disk, asleep_until_ms: 0 });
        self.outcome.starts += 1;
    }

    /// Kills, or sends to sleep; and starts a process when none is awake, or sometimes a second one.
    fn disturb(&mut self) {
        let now = self.world.now_ms();
        self.processes.retain(|process| self.world.is_alive(process.task));
        if self.random.once_in(50) && !self.processes.is_empty() {
            let process = self.processes.swap_remove(self.random.below(self.processes.len()));
            self.world.kill(process.task);
            self.outcome.kills += 1;
        }
        if self.random.once_in(60) && !self.processes.is_empty() {
            let ms = [50, 1_000, 5_000, 20_000][self.random.below(4)];
            let index = self.random.below(self.processes.len());
            self.world.pause(self.processes[index].task, ms);
            self.processes[index].asleep_until_ms = now + ms;
            self.outcome.pauses += 1;
        }
        let awake = self.processes.iter().filter(|process| process.asleep_until_ms <= now).count();
        if (awake == 0 && self.random.once_in(3)) || self.random.once_in(100) {
            self.start();
        }
    }

    /// As Kubernetes does in the end: one process, and another when it is gone.
    fn keep_one(&mut self) {
        self.processes.retain(|process| self.world.is_alive(process.task));
        while self.processes.len() > 1 {
            let process = self.processes.swap_remove(0);
            self.world.kill(process.task);
        }
        if self.processes.is_empty() {
            self.start();
        }
    }
}

/// Rows of a partition. Every key belongs to one partition, no row is late, and the last row closes all windows but its own.
fn input(partition: i32, partitions: i32, random: &mut Random) -> Vec<Row> {
    let count = 200 + random.below(600);
    let keys = 1 + random.below(20) as i64;
    let first = i64::from(partition) * PER_PARTITION;
    let mut rows: Vec<Row> = (0..count as i64)
        .map(|number| {
            let key = random.below(keys as usize) as i64 * i64::from(partitions) + i64::from(partition);
            [key, number * 7 + random.below(DISORDER_MS as usize) as i64, first + number]
        })
        .collect();
    rows.push([-1 - i64::from(partition), 1_000_000, first + count as i64]);
    rows
}
