//! The job of the tests with several pods, departures by route and hour, with the rows that flow into it and out of it. It knows nothing of what a
//! test does to the job.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{anyhow, ensure};

use crate::flights::{self, Answer, Flight, Per};
use crate::kafka::Reader;
use crate::{kafka, s3};

/// Partitions of the source. They are not keyed: about half of the rows must go to the other pod.
pub const PARTITIONS: i32 = 5;

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

/// A StreamCluster with the lab's Kafka, and with this bucket for snapshots.
///
/// # Errors
/// When the environment names no Kafka or no S3 server.
pub fn cluster(bucket: &str) -> anyhow::Result<String> {
    let (key, secret) = s3::credentials()?;
    let (endpoint, region, kafka) = (s3::endpoint_of_pods()?, s3::region()?, kafka::bootstrap_of_pods()?);
    Ok(format!(
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
"
    ))
}

/// The job from one topic to another; `spec` is more of its spec, as lines of YAML that are indented by two.
#[must_use]
pub fn job(name: &str, input: &str, output: &str, spec: &str) -> String {
    let sql = SQL.replace("@INPUT@", input).replace("@OUTPUT@", output);
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata: {{name: {name}}}
spec:
  clusterRef: {{name: default}}
{spec}
  workers: 1
  commitInterval: 50ms
  checkpoint: {{interval: 5s, retention: {{count: 2}}}}
  template:
    volumeSize: 1Gi
    resources: {{requests: {{cpu: 100m, memory: 256Mi}}, limits: {{memory: 1Gi}}}}
  sql: |{sql}"
    )
}

/// The record of a flight, with its partition: the flights go round.
#[must_use]
pub fn record((number, flight): (usize, &Flight)) -> (i32, String) {
    (number as i32 % PARTITIONS, flight.record())
}

/// What closes all windows.
///
/// # Errors
/// When the broker does not take it.
pub fn close(input: &str) -> anyhow::Result<()> {
    kafka::produce(input, (0..PARTITIONS).map(|partition| (partition, Flight::closing().record())))
}

/// What comes out, beside what must.
pub struct Output {
    reader: Reader,
    want: Answer,
}

impl Output {
    /// The output of jobs that read these flights.
    ///
    /// # Errors
    /// When the broker or the topic is not there.
    pub fn new(topic: &str, flights: &[Flight]) -> anyhow::Result<Self> {
        Ok(Self { reader: Reader::new(topic)?, want: flights::oracle(flights, Per::Route) })
    }

    /// Rows that were read.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.reader.records.len()
    }

    /// Reads on until a row comes that was not there.
    ///
    /// # Errors
    /// When none comes, or one of all rows so far is not the oracle's.
    pub fn another_row(&mut self, what: &str) -> anyhow::Result<()> {
        self.to_end()?;
        let before = self.rows();
        let came = self.reader.until(what, Duration::from_secs(60), |rows| rows.len() > before);
        let wrong = flights::differences_so_far(&flights::answer(&self.reader.records, Per::Route)?, &self.want);
        ensure!(came.is_ok() && wrong.is_empty(), "{came:?}\n{}", wrong.join("\n"));
        Ok(())
    }

    /// Reads what is there now.
    ///
    /// # Errors
    /// When it cannot be read in time.
    pub fn to_end(&mut self) -> anyhow::Result<()> {
        self.reader.to_end()
    }

    /// Reads on until all rows are there. Returns their number.
    ///
    /// # Errors
    /// When one is missing, is not the oracle's, or came twice.
    pub fn all(&mut self) -> anyhow::Result<usize> {
        let want = self.want.len();
        let complete = self.reader.until("all rows", Duration::from_secs(90), |rows| rows.len() >= want);
        self.to_end()?;
        let wrong = flights::differences(&flights::answer(&self.reader.records, Per::Route)?, &self.want);
        ensure!(complete.is_ok() && wrong.is_empty(), "{complete:?}\n{}", wrong.join("\n"));
        Ok(want)
    }
}

/// Rows that flow in the background.
pub struct Feeder {
    hurry: Sender<()>,
    thread: JoinHandle<anyhow::Result<()>>,
}

impl Feeder {
    /// In the time `pace` all but a third of the rows flow, in the next such time all but a third of that third: however long faults take, there are
    /// rows left for them.
    #[must_use]
    pub fn start(topic: &str, flights: Vec<Flight>, pace: Duration) -> Self {
        let (hurry, told) = channel();
        let topic = topic.to_owned();
        let thread = std::thread::spawn(move || {
            let (begin, all) = (Instant::now(), flights.len() as f64);
            let records = flights.iter().enumerate().map(|(number, flight)| {
                wait(&told, begin + pace.mul_f64((all / (all - number as f64)).ln()));
                record((number, flight))
            });
            kafka::produce(&topic, records)
        });
        Self { hurry, thread }
    }

    /// Sends all that is left, at once.
    ///
    /// # Errors
    /// When the broker did not take all.
    pub fn finish(self) -> anyhow::Result<()> {
        drop(self.hurry);
        self.thread.join().map_err(|_| anyhow!("the thread that produces panicked"))?
    }
}

/// Until the record is due, or nobody has an ear for that any more.
fn wait(told: &Receiver<()>, due: Instant) {
    match told.recv_timeout(due.saturating_duration_since(Instant::now())) {
        Ok(()) | Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
    }
}
