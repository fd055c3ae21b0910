//! Savepoints on a real Kubernetes, with the objects that a user creates: of a job of two pods while rows flow, while a pod is lost, and at its end;
//! from the last one another job of three pods and other shards goes on. What both wrote is what an oracle says.
//!
//! Needs what `kubernetes_pods.rs` needs: `make e2e` sees to all of it. It does not look into what is stored: `kafka_savepoints.rs` does.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::time::{Duration, Instant};

use e2e::cluster::Namespace;
use e2e::flights::{self, Flight};
use e2e::kafka;
use e2e::routes::{self, Feeder, Output};
use e2e::{operator, s3};

const FIRST: &str = "routes";
const SECOND: &str = "routes-2";
/// Of the rows that flow into the first job.
const PACE: Duration = Duration::from_secs(90);

/// The jobs' surroundings, and what they write.
struct Stage {
    namespace: Namespace,
    input: String,
    topic: String,
    output: Output,
    begin: Instant,
}

impl Stage {
    fn new(runtime: &tokio::runtime::Runtime, flights: &[Flight]) -> Self {
        operator::install().unwrap();
        let begin = Instant::now();
        let namespace = Namespace::new("e2e-savepoints").unwrap();
        let (input, topic) = (format!("{}-flights", namespace.name), format!("{}-routes", namespace.name));
        runtime.block_on(kafka::create_topics(&[(&input, routes::PARTITIONS), (&topic, 2)])).unwrap();
        s3::create_bucket(&namespace.name).unwrap();
        namespace.apply(&routes::cluster(&namespace.name).unwrap()).unwrap();
        let output = Output::new(&topic, flights).unwrap();
        Self { namespace, input, topic, output, begin }
    }

    fn say(&self, what: &str) {
        println!("{:5.1} s: {what}", self.begin.elapsed().as_secs_f64());
    }

    fn start_job(&self, name: &str, spec: &str) {
        self.namespace.apply(&routes::job(name, &self.input, &self.topic, spec)).unwrap();
    }

    fn wait_for_job(&self, name: &str) {
        self.namespace.wait_for(&format!("streamjob/{name}"), "condition=Ready", Duration::from_secs(90)).unwrap();
        self.say(&format!("{name} is ready"));
    }

    fn get(&self, object: &str, path: &str) -> String {
        self.namespace.get(object, path).unwrap()
    }

    fn another_row(&mut self, what: &str) {
        self.output.another_row(what).unwrap_or_else(|error| panic!("{error:#}\n{}", self.namespace.describe()));
        self.say(what);
    }

    /// Creates a Checkpoint of type Savepoint.
    fn order(&self, name: &str) {
        let yaml = format!(
            "{{apiVersion: millstream.io/v1alpha1, kind: Checkpoint, metadata: {{name: {name}}}, \
             spec: {{jobRef: {{name: {FIRST}}}, type: Savepoint}}}}"
        );
        self.namespace.apply(&yaml).unwrap();
    }

    /// Waits as a user does; returns the location.
    fn complete(&self, name: &str) -> String {
        let object = format!("checkpoint/{name}");
        self.namespace.wait_for(&object, "condition=Ready", Duration::from_secs(60)).unwrap();
        // The sizes of all pods come a moment later, if one of them was slow to tell.
        let status = |field: &str| self.get(&object, &format!("{{.status.{field}}}"));
        self.namespace
            .until("the savepoint's size", Duration::from_secs(20), || {
                Ok((!status("sizeBytes").is_empty()).then_some(()))
            })
            .unwrap();
        let number = |field: &str| status(field).parse::<i64>().unwrap_or_else(|e| panic!("{field}: {e}"));
        let (location, size, pause) = (status("location"), number("sizeBytes"), number("pauseMs"));
        assert!(location.starts_with(&format!("s3://{}/e2e/{FIRST}/", self.namespace.name)), "{location}");
        assert!(status("phase") == "Completed" && size > 0 && pause > 0, "{size} bytes, {pause} ms");
        self.say(&format!("savepoint {name}: {size} bytes, sources stood still for {pause} ms"));
        location
    }

    /// A pod goes as its node would while a savepoint is made: it is whole, or has failed and says why.
    fn lose_a_pod_meanwhile(&self, name: &str, pod: &str) {
        let object = format!("checkpoint/{name}");
        let status = |field: &str| self.namespace.get(&object, &format!("{{.status.{field}}}"));
        let old = self.get(&format!("pod/{pod}"), "{.metadata.uid}");
        self.order(name);
        self.namespace
            .until("an order", Duration::from_secs(30), || {
                Ok((!["", "Pending"].contains(&status("phase")?.as_str())).then_some(()))
            })
            .unwrap();
        let found = status("phase").unwrap();
        self.namespace.kubectl(&["delete", "pod", pod, "--force", "--grace-period=0"]).unwrap();
        operator::wait_for_new_pod(&self.namespace, pod, &old).unwrap();
        let ended = self
            .namespace
            .until("the savepoint's end", Duration::from_secs(60), || {
                let phase = status("phase")?;
                Ok(["Completed", "Failed"].contains(&phase.as_str()).then_some(phase))
            })
            .unwrap();
        let reason = self.get(&object, "{.status.conditions[?(@.type==\"Ready\")].reason}");
        let message = status("message").unwrap();
        // Its size is not asked for: the pod that knew its part may be the one that was lost.
        let said = if ended == "Completed" { status("location").unwrap() } else { reason.clone() };
        assert!(!said.is_empty() && !message.is_empty(), "{ended}: {reason}: {message}");
        self.say(&format!("savepoint {name} was {found} when {pod} was lost, and is {ended}: {reason}: {message}"));
    }

    /// Waits until a job has committed all that is in its input: what it can still write, a savepoint waits for.
    fn wait_until_all_is_read(&self, job: &str) {
        let group = format!("millstream-{}", self.get(&format!("streamjob/{job}"), "{.metadata.uid}"));
        self.namespace
            .until("the input's end", Duration::from_secs(60), || {
                Ok((kafka::behind(&group, &self.input)? == 0).then_some(()))
            })
            .unwrap();
        self.say("all that is there is read");
    }

    /// Deletes what is left of a job, its internal topics too; returns the names of those.
    fn delete_job(&self, runtime: &tokio::runtime::Runtime, name: &str) -> Vec<String> {
        let uid = self.get(&format!("streamjob/{name}"), "{.metadata.uid}");
        operator::delete_job(&self.namespace, name).unwrap();
        self.say(&format!("{name} is deleted"));
        runtime.block_on(kafka::delete_topics(&uid)).unwrap()
    }
}

#[test]
#[ignore = "needs the lab"]
fn a_job_of_two_pods_goes_on_from_a_savepoint_as_one_of_three_with_every_row_exactly_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = flights::nearly_sorted(flights::read().unwrap());
    let (before, after) = all.split_at(all.len() * 6 / 10);
    let mut stage = Stage::new(&runtime, &all);
    stage.start_job(FIRST, "  replicas: 2\n  shards: 8");
    let feeder = Feeder::start(&stage.input, before.to_vec(), PACE);
    stage.wait_for_job(FIRST);
    stage.another_row("a first row");

    stage.order("running");
    stage.complete("running");
    stage.another_row("a row after a savepoint");
    stage.lose_a_pod_meanwhile("cut", "routes-1");
    stage.another_row("a row after a pod was lost in a savepoint");

    // Nothing is read or written between this savepoint and the end of the job.
    feeder.finish().unwrap();
    stage.wait_until_all_is_read(FIRST);
    stage.order("last");
    let location = stage.complete("last");
    stage.start_job(SECOND, "  replicas: 3\n  shards: 5\n  restoreFrom: {checkpoint: last}");
    let shuffled = stage.delete_job(&runtime, FIRST);
    assert!(shuffled.iter().any(|topic| topic.contains("-shuffle-")), "{shuffled:?}");
    stage.output.to_end().unwrap();
    let written = stage.output.rows();

    let rest = after.iter().enumerate().map(routes::record);
    kafka::produce(&stage.input, rest).unwrap();
    routes::close(&stage.input).unwrap();
    stage.wait_for_job(SECOND);
    let rows = stage.output.all().unwrap_or_else(|error| panic!("{error:#}\n{}", stage.namespace.describe()));
    stage.say(&format!("all {rows} rows, each once: {written} by {FIRST}, the others by {SECOND}"));
    assert!(written > 0 && written < rows, "{written} of {rows} rows by the first job");
    assert_eq!(stage.get(&format!("streamjob/{SECOND}"), "{.status.restoreFrom}"), location);

    // Savepoints outlive their job, and go when they are told to.
    for name in ["running", "last"] {
        assert_eq!(stage.get(&format!("checkpoint/{name}"), "{.status.phase}"), "Completed");
    }
    stage.delete_job(&runtime, SECOND);
    stage.namespace.kubectl(&["delete", "checkpoints", "--all", "--timeout=30s"]).unwrap();
    let kinds = "streamjobs,checkpoints,pods,pvc,statefulsets,services,poddisruptionbudgets,networkpolicies";
    let left = stage.namespace.kubectl(&["get", kinds, "-o", "name"]).unwrap();
    assert!(left.trim().is_empty(), "{left}");
    let topics = runtime.block_on(kafka::delete_topics(&stage.namespace.name)).unwrap();
    assert!(topics.contains(&stage.topic), "{topics:?}");
    stage.say("nothing is left");
}
