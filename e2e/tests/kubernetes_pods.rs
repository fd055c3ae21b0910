//! A job of several pods on a real Kubernetes, with a shuffle between them and snapshots in a real S3: it loses pods, a volume, and gets a
//! third pod, while rows flow; what comes out is what an oracle says.
//!
//! Needs what `kubernetes.rs` needs, and the S3 server of the environment: `make e2e` sees to all of it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::time::{Duration, Instant};

use e2e::cluster::Namespace;
use e2e::flights::{self, Flight};
use e2e::kafka;
use e2e::routes::{self, Feeder, Output};
use e2e::{operator, s3};
use serde_json::Value;

const JOB: &str = "routes";
/// Of the rows that flow.
const PACE: Duration = Duration::from_secs(120);

/// The job with all that it needs, and what it writes.
struct Job {
    namespace: Namespace,
    input: String,
    topic: String,
    output: Output,
    begin: Instant,
}

impl Job {
    fn start(runtime: &tokio::runtime::Runtime, flights: &[Flight]) -> Self {
        operator::install().unwrap();
        let begin = Instant::now();
        let namespace = Namespace::new("e2e-pods").unwrap();
        let (input, topic) = (format!("{}-flights", namespace.name), format!("{}-routes", namespace.name));
        runtime.block_on(kafka::create_topics(&[(&input, routes::PARTITIONS), (&topic, 2)])).unwrap();
        s3::create_bucket(&namespace.name).unwrap();
        let job = routes::job(JOB, &input, &topic, "  replicas: 2\n  shards: 8");
        namespace.apply(&format!("{}---\n{job}", routes::cluster(&namespace.name).unwrap())).unwrap();
        let output = Output::new(&topic, flights).unwrap();
        Self { namespace, input, topic, output, begin }
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s: {what}", self.begin.elapsed().as_secs_f64());
    }

    fn status(&self, path: &str) -> String {
        self.namespace.get(&format!("streamjob/{JOB}"), &format!("{{.status{path}}}")).unwrap()
    }

    fn uid_of(&self, object: &str) -> String {
        self.namespace.get(object, "{.metadata.uid}").unwrap()
    }

    /// A row comes that was not there; all rows so far are the oracle's.
    fn another_row(&mut self, what: &str) {
        self.output.another_row(what).unwrap_or_else(|error| panic!("{error:#}\n{}", self.namespace.describe()));
        self.say(what);
    }

    fn log(&self, pod: &str) -> anyhow::Result<String> {
        self.namespace.kubectl(&["logs", pod])
    }

    /// Waits until so many pods are ready and work under assignment `number`.
    fn wait_for_pods(&self, pods: usize, number: u64) {
        let what = format!("{pods} pods at work under assignment {number}");
        self.namespace
            .until(&what, Duration::from_secs(150), || {
                for pod in 0..pods {
                    if under_assignment(&self.log(&format!("{JOB}-{pod}"))?) != Some(number) {
                        return Ok(None);
                    }
                }
                Ok((self.status(".readyReplicas") == pods.to_string()).then_some(()))
            })
            .unwrap();
        self.say(&what);
    }

    /// A pod goes as its node would: nobody asks it, nobody waits for it.
    fn lose(&mut self, pod: &str, with_volume: bool) {
        let (old, claim) = (self.uid_of(&format!("pod/{pod}")), format!("pvc/state-{pod}"));
        let volume = self.uid_of(&claim);
        if with_volume {
            // It goes when no pod uses it any more.
            self.namespace.kubectl(&["delete", &claim, "--wait=false"]).unwrap();
        }
        self.namespace.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]).unwrap();
        operator::wait_for_new_pod(&self.namespace, pod, &old).unwrap();
        assert_eq!(self.uid_of(&claim) != volume, with_volume, "the volume of {pod}");
        let restored = self.log(pod).unwrap().contains("restored from a snapshot");
        assert_eq!(restored, with_volume, "{pod} restored from a snapshot: {}", self.log(pod).unwrap());
        self.another_row(&format!("a row after {pod} was lost, volume included: {with_volume}"));
    }

    /// Everything that was read is the oracle's, and nothing is missing.
    fn check_all(&mut self) {
        let rows = self.output.all().unwrap_or_else(|error| panic!("{error:#}\n{}", self.namespace.describe()));
        self.say(&format!("all {rows} rows, each once"));
    }
}

/// The last assignment under which a pod runs, by its log; none while it begins anew.
fn under_assignment(log: &str) -> Option<u64> {
    let (mut owner, mut runs) = (None, None);
    for line in log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        match line["message"].as_str() {
            Some("the pod is an owner") => (owner, runs) = (line["assignment"].as_u64(), None),
            Some("running") => runs = owner,
            Some("another assignment is taken up") => runs = line["assignment"].as_u64(),
            Some("another assignment is in force") => (owner, runs) = (None, None),
            Some(_) | None => {}
        }
    }
    runs
}

#[test]
#[ignore = "needs the lab"]
fn two_pods_lose_each_other_and_a_volume_and_become_three_with_every_row_exactly_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = flights::nearly_sorted(flights::read().unwrap());
    let mut job = Job::start(&runtime, &all);
    let feeder = Feeder::start(&job.input, all, PACE);
    job.wait_for_pods(2, 1);
    job.another_row("a first row");
    job.namespace
        .until("a snapshot of every pod", Duration::from_secs(90), || {
            Ok((!job.status(".progress.lastCheckpoint.completedAt").is_empty()).then_some(()))
        })
        .unwrap();
    job.say("a snapshot of every pod");

    job.lose("routes-0", false);
    job.lose("routes-1", true);
    job.wait_for_pods(2, 1);

    job.namespace.kubectl(&["scale", "streamjob", JOB, "--replicas=3"]).unwrap();
    job.wait_for_pods(3, 2);
    let uid = job.uid_of(&format!("streamjob/{JOB}"));
    feeder.finish().unwrap();
    routes::close(&job.input).unwrap();
    job.check_all();
    assert_eq!(job.status(".progress.lastCheckpoint.error"), "");
    let shuffled = kafka::ends_of(&format!("millstream-{uid}-shuffle-")).unwrap();
    assert!(shuffled > 500, "{shuffled} offsets between the pods");

    operator::delete_job(&job.namespace, JOB).unwrap();
    let rows = job.output.rows();
    job.output.to_end().unwrap();
    assert_eq!(job.output.rows(), rows, "what came after the end");
    job.say(&format!("deleted; {shuffled} offsets between the pods"));
    let topics = [&uid, &job.namespace.name].map(|part| runtime.block_on(kafka::delete_topics(part)).unwrap());
    assert!(topics[1].contains(&job.topic), "{topics:?}");
}
