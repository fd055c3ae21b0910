//! `make bench`: Nexmark in process, Kafka → Kafka exactly once, idle memory, latency at half load, recovery; prints a table and writes the book's page.
//!
//! Runs the optimised `millstream` binary as users do. Absolute times are of this machine; ratios within one run are what counts.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use e2e::bench::job::{self, RunReport, Runner};
use e2e::bench::kafka;
use e2e::bench::report::{Row, table};

const NEXMARK_EVENTS: u64 = 20_000_000;
const KAFKA_RECORDS: u64 = 5_000_000;
const PARTITIONS: u64 = 2;
const LATENCY_RATE: u64 = 100_000;
const RECOVERY_RATE: u64 = 20_000;
const KILLS: u32 = 7;

/// Floors in millions of records per CPU-second, by work.
fn floor(name: &str) -> &'static str {
    match name {
        "q0" => "3.0",
        "q5-like" => "1.5",
        "kafka-q0" => "0.4",
        "kafka-count" => "0.8",
        "state-memory" | "value-memory" | "first-memory" => "0.5",
        "state-disk" | "value-disk" | "first-disk" => "0.02",
        _ => "",
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let binary = PathBuf::from(
        std::env::args().nth(1).context("usage: bench PATH-OF-MILLSTREAM [PAGE-TO-WRITE | latency | state]")?,
    );
    let page = std::env::args().nth(2).map(PathBuf::from);
    let dir = tempfile::tempdir()?;
    let runner = Runner::new(&binary, dir.path());
    if let Some("latency") = page.as_deref().and_then(std::path::Path::to_str) {
        let bootstrap = std::env::var("KAFKA_BOOTSTRAP_SERVERS").context("KAFKA_BOOTSTRAP_SERVERS is not set")?;
        println!("{}{}", latency_lines(&runner, &bootstrap).await?, recovery_line(&runner, &bootstrap).await?);
        return Ok(());
    }
    if let Some("state") = page.as_deref().and_then(std::path::Path::to_str) {
        println!("{}", table(&state(&runner)?));
        return Ok(());
    }
    let mut rows = nexmark(&runner)?;
    rows.extend(state(&runner)?);
    let mut latency = None;
    match std::env::var("KAFKA_BOOTSTRAP_SERVERS") {
        Ok(bootstrap) => {
            rows.extend(kafka_rows(&runner, &bootstrap).await?);
            let recovery = recovery_line(&runner, &bootstrap).await?;
            latency = Some(format!("{}{recovery}", latency_lines(&runner, &bootstrap).await?));
        }
        Err(_) => println!("KAFKA_BOOTSTRAP_SERVERS is not set: no Kafka rows."),
    }
    let idle = idle_rss(&runner)?;
    let text = format!(
        "{}\nIdle RSS (a job that waits for input): {idle} MiB (floor: at most 64).\n{}",
        table(&rows),
        latency.unwrap_or_default()
    );
    println!("{text}");
    if let Some(page) = page {
        std::fs::write(&page, format!("{}\n{text}", heading()?)).with_context(|| page.display().to_string())?;
    }
    Ok(())
}

fn heading() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "# Benchmarks\n\nWritten by `make bench`; do not edit. Machine: {model}, {cores} cores, shared with the broker and the load generator, so look at records per\nCPU-second of the job's process (user and system time of all its threads, start included) rather than at the clock. One worker thread.\n\n\
         Nexmark: generator in process, {NEXMARK_EVENTS} events of which 46 in 50 are bids (records in), blackhole sink. Kafka: {KAFKA_RECORDS} JSON records of about 95\nbytes in {PARTITIONS} partitions, lz4, one broker, exactly once, commit interval 50 ms.\n"
    ))
}

fn row(name: &str, what: &str, report: &RunReport) -> Row {
    let millions = |seconds: f64| format!("{:.2}", report.rows_in as f64 / seconds / 1e6);
    let ms = |value: Option<f64>| value.map_or("–".into(), |ms| format!("{ms:.1}"));
    Row {
        work: format!("{name}: {what}"),
        cells: vec![
            report.rows_in.to_string(),
            millions(report.seconds),
            millions(report.cpu_seconds),
            floor(name).to_owned(),
            (report.peak_rss_bytes / (1 << 20)).to_string(),
            ms(report.commit_p50_ms),
            ms(report.commit_p99_ms),
            ms(report.start_to_first_commit_ms),
        ],
    }
}

fn nexmark(runner: &Runner) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, what, query) in job::NEXMARK {
        let report = runner.run(&format!("nexmark-{name}"), &format!("{}{query}", job::bids(NEXMARK_EVENTS)))?;
        rows.push(row(name, what, &report));
        println!("{name}: {:.2} M/s", report.rows_in as f64 / report.seconds / 1e6);
    }
    Ok(rows)
}

fn state(runner: &Runner) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (name, what, memory, keys) in job::STATE {
        let report = runner.run_within(name, &job::count_per_key(keys), memory)?;
        println!("{name}: {:.3} M records per CPU-second", report.rows_in as f64 / report.cpu_seconds / 1e6);
        rows.push(row(name, what, &report));
    }
    for (name, what, memory, keys, query) in job::VALUES {
        let report = runner.run_within(name, &job::each_key(keys, query), memory)?;
        println!("{name}: {:.3} M records per CPU-second", report.rows_in as f64 / report.cpu_seconds / 1e6);
        rows.push(row(name, what, &report));
    }
    Ok(rows)
}

async fn kafka_rows(runner: &Runner, bootstrap: &str) -> anyhow::Result<Vec<Row>> {
    let run = std::process::id();
    let input = format!("bench-{run}-in");
    kafka::create_topics(bootstrap, &[&input], PARTITIONS as i32).await?;
    kafka::fill(bootstrap, &input, KAFKA_RECORDS, PARTITIONS)?;
    let mut rows = Vec::new();
    for (name, what, query) in job::KAFKA {
        let output = format!("bench-{run}-{name}");
        kafka::create_topics(bootstrap, &[&output], PARTITIONS as i32).await?;
        let sql = query
            .replace("{source}", &job::kafka_source(bootstrap, &input, true))
            .replace("{sink}", &job::kafka_sink(bootstrap, &output));
        let report = runner.run(name, &sql)?;
        println!("{name}: {:.2} M records per CPU-second", report.rows_in as f64 / report.cpu_seconds / 1e6);
        rows.push(row(name, what, &report));
    }
    Ok(rows)
}

async fn latency_lines(runner: &Runner, bootstrap: &str) -> anyhow::Result<String> {
    let run = std::process::id();
    let (input, output) = (format!("bench-{run}-latency-in"), format!("bench-{run}-latency-out"));
    kafka::create_topics(bootstrap, &[&input, &output], PARTITIONS as i32).await?;
    let query = job::KAFKA[0].2;
    let sql = query
        .replace("{source}", &job::kafka_source(bootstrap, &input, false))
        .replace("{sink}", &job::kafka_sink(bootstrap, &output));
    let running = runner.start("latency", &sql)?;
    let (from, to) = (bootstrap.to_owned(), bootstrap.to_owned());
    let feeder = tokio::task::spawn_blocking(move || {
        kafka::feed(&from, &input, LATENCY_RATE, PARTITIONS, Duration::from_secs(20))
    });
    let reader = tokio::task::spawn_blocking(move || {
        kafka::latencies(&to, &output, PARTITIONS as i32, Duration::from_secs(6), Duration::from_secs(20))
    });
    let sent = feeder.await??;
    let histogram = reader.await??;
    let (cpu, rss) = (running.cpu()?, running.resident_bytes()? / (1 << 20));
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(format!(
        "End to end (produced to readable by a `read_committed` reader) at {LATENCY_RATE} records/s, pass-through, {} records seen of {sent} sent: p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms\n(floor: p99 at most 200 ms); the job used {:.1} s of CPU and {rss} MiB.\n",
        histogram.len(),
        ms(0.5),
        ms(0.99),
        ms(1.0),
        cpu.as_secs_f64(),
    ))
}

/// SIGKILL to the next output, with a process that is started again at once.
async fn recovery_line(runner: &Runner, bootstrap: &str) -> anyhow::Result<String> {
    let run = std::process::id();
    let (input, output) = (format!("bench-{run}-recovery-in"), format!("bench-{run}-recovery-out"));
    kafka::create_topics(bootstrap, &[&input, &output], PARTITIONS as i32).await?;
    let sql = job::KAFKA[0]
        .2
        .replace("{source}", &job::kafka_source(bootstrap, &input, false))
        .replace("{sink}", &job::kafka_sink(bootstrap, &output));
    let length = Duration::from_secs(4 * u64::from(KILLS) + 8);
    let newest = Arc::new(AtomicU64::new(0));
    let (from, to, seen) = (bootstrap.to_owned(), bootstrap.to_owned(), Arc::clone(&newest));
    let feeder = tokio::task::spawn_blocking(move || kafka::feed(&from, &input, RECOVERY_RATE, PARTITIONS, length));
    let reader = tokio::task::spawn_blocking(move || kafka::newest(&to, &output, PARTITIONS as i32, length, &seen));
    let mut running = runner.start("recovery", &sql)?;
    let mut gaps = Vec::new();
    for _ in 0..KILLS {
        tokio::time::sleep(Duration::from_secs(3)).await;
        let killed = kafka::now_us()?;
        drop(running);
        running = runner.start_again("recovery", &sql)?;
        // What was sent after the kill can only have come through the new process.
        while newest.load(Ordering::Relaxed) <= killed {
            anyhow::ensure!(kafka::now_us()? < killed + 30_000_000, "no output within 30 s of a kill");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        gaps.push((kafka::now_us()? - killed) / 1000);
    }
    feeder.await??;
    reader.await??;
    drop(running);
    gaps.sort_unstable();
    Ok(format!(
        "SIGKILL to the first new record at a `read_committed` reader, started again at once, {RECOVERY_RATE} records/s, small state, {KILLS} kills: median {} ms, longest {} ms\n(floor: at most 3 s).\n",
        gaps[gaps.len() / 2],
        gaps[gaps.len() - 1],
    ))
}

fn idle_rss(runner: &Runner) -> anyhow::Result<u64> {
    let sql = "CREATE TABLE src (n BIGINT) WITH ('connector' = 'datagen', 'rows-per-second' = '1');
               CREATE TABLE out (n BIGINT) WITH ('connector' = 'blackhole');
               INSERT INTO out SELECT n FROM src;";
    let running = runner.start("idle", sql)?;
    let mut peak = 0;
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(100));
        peak = peak.max(running.resident_bytes()?);
    }
    Ok(peak / (1 << 20))
}
