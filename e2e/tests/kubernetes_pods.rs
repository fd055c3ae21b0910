//! A job of several pods on a real Kubernetes, with a shuffle between them and snapshots in a real S3: it loses pods, a volume, and gets a
//! third pod, while rows flow; what comes out is what an oracle says.
//!
//! Needs what `kubernetes.rs` needs, and the S3 server of the environment: `make e2e` sees to all of it.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use e2e::cluster::Namespace;
use e2e::flights::{self, Answer, Flight, Per};
use e2e::kafka::{self, Reader};
use e2e::{operator, s3};
use serde_json::Value;

const PARTITIONS: i32 = 5;
const JOB: &str = "routes";
/// In this time all but a third of the rows flow, in the next such time all but a third of that third: however long the faults take, there
/// are rows left for them.
const PACE: Duration = Duration::from_secs(120);

/// The source's partitions are not keyed: about half of the rows must go to the other pod.
const SQL: &str = "
    CREATE TABLE flights (
      time_hour TIMESTAMP(3), origin STRING, dest STRING, dep_delay INT,
      WATERMARK FOR time_hour AS time_hour - INTERVAL '2' HOUR
    ) WITH ('connector' = 'kafka', 'topic' = '@INPUT@', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json');
    CREATE TABLE routes (
      window_start TIMESTAMP(3), origin STRING, dest STRING, departures BIGINT, mean_delay DOUBLE, worst_delay INT
    ) WITH ('connector' = 'kafka', 'topic' = '@OUTPUT@', 'format' = 'json');
    INSERT INTO routes
    SELECT window_start, origin, dest, COUNT(dep_delay), AVG(CAST(dep_delay AS DOUBLE)), MAX(dep_delay)
    FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(time_hour), INTERVAL '1' HOUR))
    GROUP BY origin, dest, window_start, window_end;
";

/// Rows that flow in the background.
struct Feeder {
    hurry: Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Feeder {
    fn start(topic: &str, flights: Vec<Flight>) -> Self {
        let (hurry, told) = channel();
        let topic = topic.to_owned();
        let thread = std::thread::spawn(move || {
            let (begin, all) = (Instant::now(), flights.len() as f64);
            let records = flights.iter().enumerate().map(|(number, flight)| {
                wait(&told, begin + PACE.mul_f64((all / (all - number as f64)).ln()));
                (number as i32 % PARTITIONS, flight.record())
            });
            kafka::produce(&topic, records)
        });
        Self { hurry, thread }
    }

    /// Sends all that is left, at once.
    fn finish(self) -> anyhow::Result<()> {
        drop(self.hurry);
        self.thread.join().unwrap()
    }
}

/// Until the record is due, or nobody has an ear for that any more.
fn wait(told: &Receiver<()>, due: Instant) {
    match told.recv_timeout(due.saturating_duration_since(Instant::now())) {
        Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
}

/// The job with all that it needs, and the reader of what it writes.
struct Job {
    namespace: Namespace,
    input: String,
    output: String,
    want: Answer,
    reader: Reader,
    begin: Instant,
}

impl Job {
    fn start(runtime: &tokio::runtime::Runtime, want: Answer) -> Self {
        operator::install().unwrap();
        let begin = Instant::now();
        let namespace = Namespace::new("e2e-pods").unwrap();
        let (input, output) = (format!("{}-flights", namespace.name), format!("{}-routes", namespace.name));
        runtime.block_on(kafka::create_topics(&[(&input, PARTITIONS), (&output, 2)])).unwrap();
        s3::create_bucket(&namespace.name).unwrap();
        namespace.apply(&resources(&namespace.name, &input, &output)).unwrap();
        let reader = Reader::new(&output).unwrap();
        Self { namespace, input, output, want, reader, begin }
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

    /// Reads on until a row comes that was not there; all rows so far must be the oracle's.
    fn another_row(&mut self, what: &str) {
        self.reader.to_end().unwrap();
        let before = self.reader.records.len();
        let came = self.reader.until(what, Duration::from_secs(60), |rows| rows.len() > before);
        let wrong = flights::differences_so_far(&self.rows(), &self.want);
        assert!(came.is_ok() && wrong.is_empty(), "{came:?}\n{}\n{}", wrong.join("\n"), self.namespace.describe());
        self.say(what);
    }

    fn rows(&self) -> Answer {
        flights::answer(&self.reader.records, Per::Route).unwrap()
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
        let want = self.want.len();
        let complete = self.reader.until("all rows", Duration::from_secs(90), |rows| rows.len() >= want);
        self.reader.to_end().unwrap();
        let wrong = flights::differences(&self.rows(), &self.want);
        assert!(
            complete.is_ok() && wrong.is_empty(),
            "{complete:?}\n{}\n{}",
            wrong.join("\n"),
            self.namespace.describe()
        );
        self.say(&format!("all {want} rows, each once"));
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

fn resources(bucket: &str, input: &str, output: &str) -> String {
    let (key, secret) = s3::credentials().unwrap();
    let (endpoint, region) = (s3::endpoint_of_pods().unwrap(), s3::region().unwrap());
    let kafka = kafka::bootstrap_of_pods().unwrap();
    let sql = SQL.replace("@INPUT@", input).replace("@OUTPUT@", output);
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: bucket-key}}
stringData: {{accessKeyId: {key}, secretAccessKey: {secret}}}
---
apiVersion: millstream.io/v1alpha1
kind: StreamCluster
metadata: {{name: default}}
spec:
  kafka: {{bootstrapServers: \"{kafka}\", internalTopics: {{replicationFactor: 1}}}}
  storage:
    checkpoints:
      s3:
        bucket: {bucket}
        prefix: e2e
        endpoint: {endpoint}
        region: {region}
        credentialsSecretRef: {{name: bucket-key}}
---
apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata: {{name: {JOB}}}
spec:
  clusterRef: {{name: default}}
  replicas: 2
  shards: 8
  workers: 1
  commitInterval: 50ms
  checkpoint: {{interval: 5s, retention: {{count: 2}}}}
  template:
    volumeSize: 1Gi
    resources: {{requests: {{cpu: 100m, memory: 256Mi}}, limits: {{memory: 1Gi}}}}
  sql: |{sql}"
    )
}

#[test]
#[ignore = "needs the lab"]
fn two_pods_lose_each_other_and_a_volume_and_become_three_with_every_row_exactly_once() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let all = flights::nearly_sorted(flights::read().unwrap());
    let mut job = Job::start(&runtime, flights::oracle(&all, Per::Route));
    let feeder = Feeder::start(&job.input, all);
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
    kafka::produce(&job.input, (0..PARTITIONS).map(|partition| (partition, Flight::closing().record()))).unwrap();
    job.check_all();
    assert_eq!(job.status(".progress.lastCheckpoint.error"), "");
    let shuffled = kafka::ends_of(&format!("millstream-{uid}-shuffle-")).unwrap();
    assert!(shuffled > 500, "{shuffled} offsets between the pods");

    operator::delete_job(&job.namespace, JOB).unwrap();
    let rows = job.reader.records.len();
    job.reader.to_end().unwrap();
    assert_eq!(job.reader.records.len(), rows, "what came after the end");
    job.say(&format!("deleted; {shuffled} offsets between the pods"));
    let topics = [&uid, &job.namespace.name].map(|part| runtime.block_on(kafka::delete_topics(part)).unwrap());
    assert!(topics[1].contains(&job.output), "{topics:?}");
}
