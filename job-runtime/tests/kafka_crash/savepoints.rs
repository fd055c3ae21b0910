//! Every step of a savepoint, cut while the job runs: ordered again it is there, the job has lost and repeated nothing, and another job that begins
//! from it goes on exactly where it was.

use std::time::{Duration, Instant};

use job_runtime::crash::Step;

use super::checkpoints::{SPEC, bucket};
use super::readings::{EACH_ONCE, Rig};
use super::rig::free_port;
use super::workshop::{Outcome, Running, Workshop};
use super::{ended_well, places};

const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    for step in Step::SAVEPOINT {
        let unsent = step.has_answer().then_some("unsent");
        cases.extend(places(step).chain(unsent).map(|place| format!("{}:{place}:1", step.name())));
    }
    cases
}

struct Job {
    rig: Rig,
    place: String,
    port: u16,
}

impl Job {
    fn start(&mut self, environment: &[&str], more: &[&str]) -> Running {
        self.port = free_port();
        let control = self.control();
        let arguments = ["--checkpoint-dir", &self.place, "--control", &control];
        self.rig.start(environment, &[&arguments[..], more].concat())
    }

    fn control(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Orders the savepoint and feeds the job until there is an answer.
    fn order(&mut self, running: &mut Running) -> Outcome {
        let desk = Workshop::new();
        let mut order = desk.start(&["savepoint", "one", "--control", &self.control(), "--timeout", "30s"]);
        self.rig.feed_until(running, u64::MAX, |_| !order.runs());
        order.end()
    }

    /// The location of the savepoint, ordered until it is there.
    fn savepoint(&mut self, running: &mut Running) -> String {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let outcome = self.order(running);
            if outcome.code == Some(0) {
                return outcome.stdout.trim().to_owned();
            }
            assert!(running.runs() && Instant::now() < deadline, "{outcome:?}: {}", self.rig.said());
        }
    }
}

pub(crate) fn cut(point: &str) {
    let (rig, place) = (Rig::new(SPEC, EACH_ONCE), format!("s3://{}", bucket()));
    let mut job = Job { rig, place, port: 0 };
    let mut running = job.start(&[&format!("MILLSTREAM_CRASH={point}")], &[]);
    job.rig.passes(&mut running, 300);
    let deadline = Instant::now() + DEADLINE;
    while running.runs() && !job.rig.said().contains("the answer is lost") {
        job.order(&mut running);
        assert!(Instant::now() < deadline, "not reached: {}", job.rig.said());
    }
    if !running.runs() {
        ended_well(point, &running.end());
        running = job.start(&[], &[]);
        job.rig.passes(&mut running, 50);
    }
    let location = job.savepoint(&mut running);
    job.rig.passes(&mut running, 200);
    job.rig.compare_all(&mut running);
    job.rig.stop(running);

    job.rig = job.rig.beside(SPEC, EACH_ONCE);
    let mut other = job.start(&[], &["--from-savepoint", &location]);
    let (firsts, since) = job.rig.compare(&mut other);
    let first = firsts.iter().min().copied().unwrap_or(0);
    assert!(first > 0, "it has begun with the savepoint");
    assert!(since * super::readings::PER_SECOND <= first, "windows from {since} s on, readings from {first} on");
    job.rig.stop(other);
}
