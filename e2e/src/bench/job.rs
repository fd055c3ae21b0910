//! One run of the `millstream` binary on a job written for the benchmark, and what it says of itself at its end.
//!
//! Owns the job texts and the parsing of the run's report. It measures nothing itself: CPU, memory and commit times are the process's own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

/// What `millstream run --report json` prints as its last line.
#[derive(Clone, Debug, Deserialize)]
pub struct RunReport {
    /// Rows read from sources.
    pub rows_in: u64,
    /// Rows written to sinks.
    pub rows_out: u64,
    /// Wall-clock time of the run in seconds.
    pub seconds: f64,
    /// User and system CPU time of the process in seconds.
    pub cpu_seconds: f64,
    /// Largest resident set in bytes.
    pub peak_rss_bytes: u64,
    /// Median time of a commit in milliseconds; absent if there was none.
    pub commit_p50_ms: Option<f64>,
    /// 99th percentile of the time of a commit in milliseconds.
    pub commit_p99_ms: Option<f64>,
    /// From process start to the first commit's end in milliseconds.
    pub start_to_first_commit_ms: Option<f64>,
}

/// The binary and a directory for job files and state.
pub struct Runner {
    binary: PathBuf,
    dir: PathBuf,
}

impl Runner {
    /// Uses `binary`, and `dir` for everything written.
    pub fn new(binary: &Path, dir: &Path) -> Self {
        Self { binary: binary.to_owned(), dir: dir.to_owned() }
    }

    /// Runs a bounded job to its end on one worker.
    ///
    /// # Errors
    /// When the job fails or prints no report.
    pub fn run(&self, name: &str, sql: &str) -> anyhow::Result<RunReport> {
        self.run_within(name, sql, "256Mi")
    }

    /// As [`Runner::run`], with `spec.stateMemory`.
    ///
    /// # Errors
    /// When the job fails or prints no report.
    pub fn run_within(&self, name: &str, sql: &str, memory: &str) -> anyhow::Result<RunReport> {
        let output = self.command(name, sql, memory)?.arg("--fresh").output().context("start millstream")?;
        if !output.status.success() {
            bail!("job {name} failed with {}:\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        let stdout = String::from_utf8_lossy(&output.stdout);
        let line = stdout.lines().rev().find(|line| line.starts_with('{')).context("the run printed no report")?;
        serde_json::from_str(line).with_context(|| format!("report of {name}: {line}"))
    }

    /// Starts an unbounded job; the caller ends it.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start(&self, name: &str, sql: &str) -> anyhow::Result<Job> {
        self.command(name, sql, "256Mi")?.arg("--fresh").spawn_quietly()
    }

    /// Starts a job that was started before, with what it has: as after a crash.
    ///
    /// # Errors
    /// When the process cannot be started.
    pub fn start_again(&self, name: &str, sql: &str) -> anyhow::Result<Job> {
        self.command(name, sql, "256Mi")?.spawn_quietly()
    }

    fn command(&self, name: &str, sql: &str, memory: &str) -> anyhow::Result<Command> {
        let file = self.dir.join(format!("{name}.yaml"));
        std::fs::write(&file, job_text(name, sql, memory))?;
        let mut command = Command::new(&self.binary);
        command.arg("run").arg(&file).args(["--workers", "1", "--report", "json", "--state-dir"]);
        command.arg(self.dir.join(format!("{name}-state"))).stdin(Stdio::null());
        Ok(command)
    }
}

trait SpawnQuietly {
    fn spawn_quietly(&mut self) -> anyhow::Result<Job>;
}

impl SpawnQuietly for Command {
    fn spawn_quietly(&mut self) -> anyhow::Result<Job> {
        Ok(Job { child: self.stdout(Stdio::null()).stderr(Stdio::null()).spawn()? })
    }
}

/// A job that runs until it is dropped; then it is killed (SIGKILL).
pub struct Job {
    child: Child,
}

impl Job {
    /// Resident set now, in bytes.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn resident_bytes(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.split_whitespace().nth(1).context("VmRSS has no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// CPU time used so far.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("stat has no name")?.1.split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
        // Linux reports these in USER_HZ, which is 100 on every architecture that we build for.
        Ok(Duration::from_millis(ticks * 10))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        // A benchmark's job has nothing to save; a failure to end it shows in the next run's figures.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job_text(name: &str, sql: &str, memory: &str) -> String {
    let sql: String = sql.trim().lines().map(|line| format!("    {}\n", line.trim())).collect();
    format!(
        "apiVersion: millstream.io/v1alpha1\nkind: StreamJob\nmetadata:\n  name: {name}\nspec:\n  commitInterval: 50ms\n  stateMemory: {memory}\n  sql: |\n{sql}"
    )
}

/// The Nexmark bids of a sequence of `events` events, as a table.
pub fn bids(events: u64) -> String {
    format!(
        "CREATE TABLE bid (auction BIGINT, bidder BIGINT, price BIGINT, channel STRING, url STRING, dateTime TIMESTAMP(3), extra STRING,
         WATERMARK FOR dateTime AS dateTime - INTERVAL '4' SECOND)
         WITH ('connector' = 'nexmark', 'nexmark.table.type' = 'bid', 'nexmark.events' = '{events}');\n"
    )
}

/// Read-modify-write of keyed state: name, what it is, `spec.stateMemory`, keys. The keys come in no order, each twice.
pub const STATE: [(&str, &str, &str, u64); 2] = [
    ("state-memory", "count per key, 1 M keys, all in memory", "1Gi", 1_000_000),
    ("state-disk", "count per key, 3 M keys, about ten times what memory has room for", "32Mi", 3_000_000),
];

/// A job that reads each of `keys` keys twice and counts them in one window.
pub fn count_per_key(keys: u64) -> String {
    format!(
        "CREATE TABLE src (n BIGINT, k AS MOD(n * 7919, {keys}), at AS TO_TIMESTAMP_LTZ(MOD(n, 1000), 3), WATERMARK FOR at AS at)
         WITH ('connector' = 'datagen', 'rows-per-second' = '1000000000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
         CREATE TABLE out (k BIGINT, n BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT k, COUNT(*) FROM TABLE(TUMBLE(TABLE src, DESCRIPTOR(at), INTERVAL '1' DAY))
         GROUP BY k, window_start, window_end;",
        keys * 2 - 1
    )
}

/// Values per key and timers: name, what it is, `spec.stateMemory`, keys, query. Keys as above.
pub const VALUES: [(&str, &str, &str, u64, &str); 4] = [
    ("value-memory", "each key once, 1 M keys, all in memory", "1Gi", 1_000_000, DISTINCT),
    ("value-disk", "each key once, 3 M keys, about ten times what memory has room for", "50Mi", 3_000_000, DISTINCT),
    ("first-memory", "first row per key in event time, 1 M keys, all in memory", "1Gi", 1_000_000, FIRST),
    ("first-disk", "first row per key in event time, 3 M keys, about ten times the room", "50Mi", 3_000_000, FIRST),
];

const DISTINCT: &str = "SELECT DISTINCT k FROM src";
const FIRST: &str =
    "SELECT k FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY k ORDER BY at) AS rn FROM src) WHERE rn = 1";

/// A job that reads each of `keys` keys twice and writes what `query` says of them. A thousand rows are a second.
pub fn each_key(keys: u64, query: &str) -> String {
    format!(
        "CREATE TABLE src (n BIGINT, k AS MOD(n * 7919, {keys}), at AS TO_TIMESTAMP_LTZ(n, 3), WATERMARK FOR at AS at - INTERVAL '1' SECOND)
         WITH ('connector' = 'datagen', 'rows-per-second' = '1000000000', 'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '{}');
         CREATE TABLE out (k BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out {query};",
        keys * 2 - 1
    )
}

/// The in-process queries: name, what it is, DDL of the sink and the query.
pub const NEXMARK: [(&str, &str, &str); 5] = [
    (
        "q0",
        "pass-through",
        "CREATE TABLE out (auction BIGINT, bidder BIGINT, price BIGINT, dateTime TIMESTAMP(3), extra STRING) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, bidder, price, dateTime, extra FROM bid;",
    ),
    (
        "q1",
        "map",
        "CREATE TABLE out (auction BIGINT, bidder BIGINT, price DOUBLE, dateTime TIMESTAMP(3), extra STRING) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, bidder, 0.908 * CAST(price AS DOUBLE), dateTime, extra FROM bid;",
    ),
    (
        "q2",
        "filter",
        "CREATE TABLE out (auction BIGINT, price BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0;",
    ),
    (
        "q5-like",
        "10 s tumbling count per auction",
        "CREATE TABLE out (auction BIGINT, window_start TIMESTAMP(3), bids BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT auction, window_start, COUNT(*) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))
         GROUP BY auction, window_start, window_end;",
    ),
    (
        "q7-like",
        "10 s tumbling max",
        "CREATE TABLE out (window_start TIMESTAMP(3), price BIGINT) WITH ('connector' = 'blackhole');
         INSERT INTO out SELECT window_start, MAX(price) FROM TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))
         GROUP BY window_start, window_end;",
    ),
];

/// Kafka → Kafka jobs on `{topic}` of [`crate::bench::kafka::fill`] (k, v, ts, pad): name, what it is, text with `{source}` and `{sink}`.
pub const KAFKA: [(&str, &str, &str); 3] = [
    (
        "kafka-q0",
        "pass-through, JSON, lz4, exactly once",
        "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT, pad STRING) WITH ({source});
         CREATE TABLE snk (k STRING, v BIGINT, ts BIGINT, pad STRING) WITH ({sink});
         INSERT INTO snk SELECT k, v, ts, pad FROM src;",
    ),
    (
        "kafka-q2",
        "filter 1 in 123, JSON, lz4, exactly once",
        "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT) WITH ({source});
         CREATE TABLE snk (k STRING, v BIGINT) WITH ({sink});
         INSERT INTO snk SELECT k, v FROM src WHERE MOD(v, 123) = 0;",
    ),
    (
        "kafka-count",
        "filter half + 10 s tumbling count of 1,000 keys, exactly once",
        "CREATE TABLE src (k STRING, v BIGINT, ts BIGINT, et AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR et AS et - INTERVAL '1' SECOND) WITH ({source});
         CREATE TABLE snk (ws TIMESTAMP_LTZ(3), k STRING, n BIGINT) WITH ({sink});
         INSERT INTO snk SELECT window_start, k, COUNT(*) FROM TABLE(TUMBLE(TABLE src, DESCRIPTOR(et), INTERVAL '10' SECOND))
         WHERE MOD(v, 2) = 0 GROUP BY k, window_start, window_end;",
    ),
];

/// Options of a Kafka source over `topic`; `bounded` ends at the offsets of now.
pub fn kafka_source(bootstrap: &str, topic: &str, bounded: bool) -> String {
    let bounded = if bounded { ", 'scan.bounded.mode' = 'latest-offset'" } else { "" };
    format!(
        "'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{bootstrap}', 'scan.startup.mode' = 'earliest-offset', 'format' = 'json'{bounded}"
    )
}

/// Options of a Kafka sink on `topic`.
pub fn kafka_sink(bootstrap: &str, topic: &str) -> String {
    format!(
        "'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{bootstrap}', 'format' = 'json'"
    )
}
