//! Every step of a change of the number of pods: two pods become three and two again, as processes, and one of them is cut at the step. What an
//! independent reader sees, all the time and in the end, is the oracle's.

use std::time::{Duration, Instant};

use job_runtime::crash::Step;
use serde_json::json;

use super::broker::servers;
use super::rig::{Address, Home, Kept, PER_SECOND, Rig, SENSORS};
use super::tokens::{SigningKey, access, claims};
use super::{ended_well, places, tls};

/// Readings in a second: several jobs of three pods share two processors.
const PACE: u64 = 200;
const DEADLINE: Duration = Duration::from_secs(90);

/// When a case cuts, and whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Pod 1, which takes the order for three pods.
    Ordered,
    /// Pod 0, which starts with settings that say three.
    Started,
    /// Pod 1, which loses shards to pod 2.
    Loses,
    /// Pod 2, which gets shards from the others.
    Joins,
    /// Pod 2, while pod 1 is away and cannot release.
    Fences,
    /// Pod 1, which gets shards back from pod 2.
    Gains,
    /// Pod 2, which has no share any more.
    Leaves,
}

impl When {
    const ALL: [Self; 7] =
        [Self::Ordered, Self::Started, Self::Loses, Self::Joins, Self::Fences, Self::Gains, Self::Leaves];

    fn name(self) -> &'static str {
        match self {
            Self::Ordered => "ordered",
            Self::Started => "started",
            Self::Loses => "loses",
            Self::Joins => "joins",
            Self::Fences => "fences",
            Self::Gains => "gains",
            Self::Leaves => "leaves",
        }
    }

    fn victim(self) -> usize {
        match self {
            Self::Started => 0,
            Self::Ordered | Self::Loses | Self::Gains => 1,
            Self::Joins | Self::Fences | Self::Leaves => 2,
        }
    }
}

/// Each as `<point> <when>`.
pub(crate) fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    let mut add = |step: Step, time: u32, whens: &[When]| {
        for when in whens {
            cases.extend(places(step).map(|place| format!("{}:{place}:{time} {}", step.name(), when.name())));
        }
    };
    for step in Step::RESCALE {
        match step {
            Step::Propose | Step::Reassign => add(step, 1, &[When::Ordered, When::Started]),
            Step::Ready => add(step, 1, &[When::Joins, When::Gains]),
            Step::Notice | Step::LastCommit => add(step, 1, &[When::Loses]),
            // Who only loses goes on: its last commit of what it lost is the proof.
            Step::Prove => add(step, 1, &[When::Leaves]),
            Step::Release => add(step, 1, &[When::Loses, When::Leaves]),
            // Nothing comes behind it but the next fence, of a process that counts on.
            Step::Anew => add(Step::Fence, 2, &[When::Gains]),
            Step::FenceLoser => add(step, 1, &[When::Fences]),
            Step::FirstCommit => {
                add(step, 1, &[When::Joins]);
                add(step, 2, &[When::Gains]);
            }
            _ => panic!("{step:?} has no case"),
        }
    }
    // What is gained is restored.
    add(Step::Restore, 1, &[When::Joins]);
    add(Step::Restore, 2, &[When::Gains]);
    cases.push(format!("{}:before:1 {}", Step::Anew.name(), When::Gains.name()));
    cases
}

struct Job {
    rig: Rig,
    key: SigningKey,
    point: String,
    when: When,
    pods: Vec<Kept>,
}

impl Job {
    /// Two pods.
    fn new(point: &str, when: When) -> Self {
        let mut rig = Rig::at_pace(Address::plain(&servers()), "", PACE);
        rig.job = rig.job.replace("shards: 4", "shards: 8").replace("workers: 2", "workers: 1");
        let (key, point, pods) = (SigningKey::p256("one"), point.to_owned(), Vec::new());
        let mut job = Self { rig, key, point, when, pods };
        (0..2).for_each(|pod| job.add(pod, 2));
        job
    }

    fn settings(&self, pods: usize) -> String {
        format!("replicas: {pods}\ncontrol: {}\n", access(&self.rig.uid, &[&self.key]))
    }

    /// Starts another pod, armed if it is the one to be cut; one that is to start armed or to gain is armed later.
    fn add(&mut self, pod: usize, pods: usize) {
        let home = Home::of(pod, &self.rig.job, &self.rig.uid, &self.settings(pods));
        let later = matches!(self.when, When::Started | When::Gains);
        let running = if self.when.victim() == pod && !later { home.start(&[&self.armed()]) } else { home.start(&[]) };
        self.pods.push(home.keep_running(running));
    }

    fn armed(&self) -> String {
        format!("MILLSTREAM_CRASH={}", self.point)
    }

    /// Ends a pod in order and starts it armed.
    fn arm(&mut self, pod: usize) {
        self.pods[pod].stop();
        self.pods[pod].running = Some(self.pods[pod].home.start(&[&self.armed()]));
    }

    /// Writes the number of pods into the settings of all, as the operator does.
    fn set(&self, pods: usize) {
        self.pods.iter().for_each(|pod| pod.home.settings(&self.rig.uid, &self.settings(pods)));
    }

    /// Orders so many pods from one of them; true if it took the order.
    fn ask(&self, pod: usize, pods: usize) -> bool {
        let (token, order) = (self.key.sign(&claims(&self.rig.uid)), json!({"replicas": pods}).to_string());
        let address = ([127, 0, 0, 1], self.pods[pod].home.control).into();
        let answer = tls::ask(address, "POST", "/v1/assignment", Some(&token), &order);
        answer.is_some_and(|(code, _)| code == 202 || code == 200)
    }

    /// Orders so many pods until somebody takes the order.
    fn order(&mut self, pods: usize) {
        let deadline = Instant::now() + DEADLINE;
        while !self.pods.iter().enumerate().any(|(pod, kept)| kept.running.is_some() && self.ask(pod, pods)) {
            self.mend();
            assert!(Instant::now() < deadline, "nobody takes the order: {}", self.said());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Starts pods again that have ended by themselves, as Kubernetes does; not those that were killed here.
    fn mend(&mut self) {
        self.pods.iter_mut().filter(|pod| pod.running.is_some()).for_each(Kept::mend);
    }

    /// Waits until a pod is cut. It is started again; if it has only lost an answer it goes on.
    fn cut(&mut self) {
        let (victim, deadline) = (self.when.victim(), Instant::now() + DEADLINE);
        loop {
            self.rig.watcher.check();
            let pod = &mut self.pods[victim];
            if pod.home.shop.read(".stderr").contains("the answer is lost") {
                return;
            }
            if !pod.running.as_mut().expect("it was started").runs() {
                let running = pod.running.take().expect("it was started");
                ended_well(&self.point, &running.end());
                return pod.mend();
            }
            for (number, pod) in self.pods.iter_mut().enumerate() {
                if number != victim && pod.running.is_some() {
                    pod.mend();
                }
            }
            assert!(Instant::now() < deadline, "{} is not reached: {}", self.point, self.said());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Two pods become three.
    fn up(&mut self) {
        self.set(3);
        self.add(2, 3);
        match self.when {
            When::Started => self.arm(0),
            When::Ordered => {
                // Whether it was taken, or who was to take it died, the cut says.
                let deadline = Instant::now() + DEADLINE;
                while !self.ask(1, 3) && !self.is_cut() {
                    assert!(Instant::now() < deadline, "nobody takes the order: {}", self.said());
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            When::Fences => {
                let away = self.pods[1].running.take().expect("it was started");
                assert!(away.kill_after(Duration::ZERO), "pod 1 ended by itself: {}", self.said());
                self.order(3);
            }
            When::Loses | When::Joins | When::Gains | When::Leaves => self.order(3),
        }
        if !matches!(self.when, When::Gains | When::Leaves) {
            self.cut();
        }
        self.pods.iter_mut().for_each(Kept::mend);
        if self.when != When::Started {
            self.order(3);
        }
        self.says(2, "\"running\"");
    }

    /// Three pods become two.
    fn down(&mut self) {
        self.set(2);
        if self.when == When::Gains {
            self.arm(1);
            self.says(1, "\"running\"");
        }
        self.order(2);
        if matches!(self.when, When::Gains | When::Leaves) {
            self.cut();
            self.order(2);
        }
        self.says(2, "the pod has no share");
        let mut left = self.pods.pop().expect("there are three");
        left.stop();
    }

    fn is_cut(&mut self) -> bool {
        let pod = &mut self.pods[self.when.victim()];
        !pod.running.as_mut().expect("it was started").runs()
            || pod.home.shop.read(".stderr").contains("the answer is lost")
    }

    /// Waits until a pod has said something.
    fn says(&mut self, pod: usize, what: &str) {
        let path = self.pods[pod].home.shop.path(".stderr");
        let said = || std::fs::read_to_string(&path).is_ok_and(|text| text.contains(what));
        let mut pods: Vec<&mut Kept> = self.pods.iter_mut().collect();
        self.rig.wait(what, &mut pods, said);
    }

    /// Waits until every window is out of which all readings had been sent before: every shard is at work, and hears of every source.
    fn goes_on(&mut self) {
        let goal = SENSORS * (self.rig.sent() / PER_SECOND);
        let mut pods: Vec<&mut Kept> = self.pods.iter_mut().collect();
        self.rig.wait(&format!("{goal} windows"), &mut pods, || self.rig.watcher.windows() >= goal);
    }

    fn said(&self) -> String {
        self.pods.iter().map(|pod| pod.home.said()).collect::<Vec<_>>().join("\n---\n")
    }
}

pub(crate) fn cut(case: &str) {
    let (point, when) = case.split_once(' ').expect("<point> <when>");
    let when = When::ALL.into_iter().find(|known| known.name() == when).expect("a known moment");
    let mut job = Job::new(point, when);
    (0..2).for_each(|pod| job.says(pod, "\"running\""));
    job.goes_on();
    job.up();
    job.goes_on();
    job.down();
    job.goes_on();
    job.rig.finish(job.pods);
}
