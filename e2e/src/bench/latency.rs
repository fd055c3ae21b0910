//! How long a commit takes by the partitions that it touches, and how late records are at a reader, with and without a shuffle.
//!
//! Owns the loads. The clocks of sender and reader are this machine's one clock.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::job::{self, Settings};
use super::kafka::{Feeder, create_topics};
use super::pods::Pods;
use super::process::{Machine, Runner};
use super::report::{Line, Sheet};
use super::until;
use super::watch::Latencies;
use crate::kafka::bootstrap;

/// At most; less where this keeps more than half of the machine busy, broker, sender and reader included.
const RATE: u64 = 100_000;
const SHUFFLED_RATE: u64 = 10_000;
const COMMITS_RATE: u64 = 20_000;
const IN_PARTITIONS: u64 = 2;
const OUT_PARTITIONS: i32 = 8;
const SHARDS: u16 = 4;
const FIRST: Duration = Duration::from_secs(30);
const WARM_UP: Duration = Duration::from_secs(3);
const MEASURED: Duration = Duration::from_secs(12);
/// Between two looks at the job.
const LOOK: Duration = Duration::from_millis(200);
/// Half load: percent of the machine.
const HALF: u64 = 50;
/// Rates that are tried for it; the last one is taken as it is: what a commit costs does not become less with fewer records.
const TRIES: usize = 5;
/// Records that come sooner do not wait behind others.
const CAUGHT_UP_US: u64 = 300_000;

/// Commit times by partitions of the output.
///
/// # Errors
/// When Kafka or a job fails.
pub fn commits(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for partitions in [1, 10, 50] {
        let name = format!("commits-{partitions}");
        let (input, output) = (runner.own(&format!("{name}-in")), runner.own(&format!("{name}-out")));
        create_topics(&[(&input, IN_PARTITIONS as i32), (&output, partitions)])?;
        let text = job::kafka(job::PASS, &bootstrap()?, (&input, &output), false, Some("k"));
        let latencies = Latencies::of(&output)?;
        let job = runner.start(&name, &text, &Settings::default(), &[])?;
        let feeder = Feeder::narrow(&input, IN_PARTITIONS, COMMITS_RATE)?;
        until("a record", FIRST, || Ok((!latencies.take().is_empty()).then_some(())))?;
        std::thread::sleep(MEASURED);
        feeder.finish()?;
        let report = job.stop()?;
        latencies.finish()?;
        let ms = |value: Option<f64>| value.map_or("–".into(), |ms| format!("{ms:.1}"));
        let (p50, p99) = (ms(report.commit_p50_ms), ms(report.commit_p99_ms));
        figures.push(format!("{partitions}: p50 {p50} ms, p99 {p99} ms"));
    }
    sheet.add("commits", Line { figure: figures.join("; "), ..Line::default() });
    Ok(())
}

/// No shuffle, one process; and its memory.
///
/// # Errors
/// When Kafka or the job fails.
pub fn direct(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let (input, output) = (runner.own("latency-in"), runner.own("latency-out"));
    create_topics(&[(&input, IN_PARTITIONS as i32), (&output, OUT_PARTITIONS)])?;
    let text = job::kafka(job::PASS, &bootstrap()?, (&input, &output), false, Some("k"));
    let settings = Settings { commit_interval: "20ms", ..Settings::default() };
    let job = runner.start("latency", &text, &settings, &[])?;
    let mut rss = 0;
    let line = measure(&input, &output, RATE, || {
        rss = rss.max(job.resident_bytes()?);
        Ok(())
    })?;
    job.stop()?;
    sheet.add("latency", line);
    let mib = rss as f64 / f64::from(1 << 20);
    sheet.add("rss-load", Line { figure: format!("{mib:.0} MiB"), value: Some(mib), ..Line::default() });
    Ok(())
}

/// One shuffle, two pods as processes.
///
/// # Errors
/// When Kafka or a pod fails.
pub fn shuffled(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let (input, output) = (runner.own("shuffle-in"), runner.own("shuffle-out"));
    create_topics(&[(&input, IN_PARTITIONS as i32), (&output, i32::from(SHARDS))])?;
    let text = job::kafka(job::ONCE, &bootstrap()?, (&input, &output), false, Some("v"));
    let settings = Settings { commit_interval: "20ms", shards: SHARDS, ..Settings::default() };
    let mut pods = Pods::new(runner, "shuffle", &text, &settings, None)?;
    (0..2).try_for_each(|_| pods.add(None))?;
    pods.resize(2)?;
    let line = measure(&input, &output, SHUFFLED_RATE, || pods.check())?;
    pods.stop()?;
    sheet.add("latency-shuffle", line);
    Ok(())
}

/// Feeds at `rate`, or at what the machine carries with about half of its processors, reads, and calls `look` now and then.
fn measure(input: &str, output: &str, rate: u64, mut look: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Line> {
    let latencies = Latencies::of(output)?;
    let mut looked = |time: Duration| {
        let machine = Machine::now()?;
        for _ in 0..time.as_millis() / LOOK.as_millis() {
            std::thread::sleep(LOOK);
            look()?;
        }
        machine.busy_since()
    };
    let (mut rate, mut tries) = (rate, 0);
    let feeder = loop {
        let feeder = Feeder::narrow(input, IN_PARTITIONS, rate)?;
        until("a record that did not wait behind others", FIRST, || {
            looked(LOOK)?;
            let late = latencies.take();
            Ok((!late.is_empty() && late.value_at_quantile(0.5) < CAUGHT_UP_US).then_some(()))
        })?;
        looked(WARM_UP)?;
        let busy = looked(WARM_UP)?;
        tries += 1;
        if busy <= HALF + HALF / 5 || tries == TRIES {
            break feeder;
        }
        feeder.finish()?;
        rate = (rate * HALF / busy).next_multiple_of(1_000);
    };
    latencies.take();
    let busy = looked(MEASURED)?;
    let histogram = latencies.take();
    feeder.finish()?;
    latencies.finish()?;
    let figure = format!("{} at {rate} records/s, machine {busy} % busy", in_words(&histogram));
    let p99 = histogram.value_at_quantile(0.99) as f64 / 1000.0;
    Ok(Line { figure, value: Some(p99), ..Line::default() })
}

fn in_words(histogram: &Histogram<u64>) -> String {
    let ms = |quantile: f64| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    format!("p50 {:.1} ms, p99 {:.1} ms, longest {:.1} ms", ms(0.5), ms(0.99), ms(1.0))
}
