//! Records per CPU-second: Nexmark in process, keyed state, and Kafka → Kafka exactly once beside the roofline of the same run.
//!
//! Owns what is run and what is divided by what. The jobs' texts are in `job`.

use anyhow::Context;

use super::job::{self, Settings};
use super::kafka;
use super::process::{RunReport, Runner};
use super::report::{Line, Sheet};
use super::roofline::Roofline;
use crate::kafka::{Reader, bootstrap};

/// Events of Nexmark, of which 46 in 50 are bids.
pub const NEXMARK_EVENTS: u64 = 20_000_000;
/// Records of a Kafka job.
pub const KAFKA_RECORDS: u64 = 5_000_000;
/// Partitions of its topics.
pub const PARTITIONS: u64 = 2;

fn line(report: &RunReport, of_roofline: Option<f64>) -> Line {
    let millions = |seconds: f64| report.rows_in as f64 / seconds / 1e6;
    let ms = |value: Option<f64>| value.map_or("–".into(), |ms| format!("{ms:.1}"));
    Line {
        figure: format!("{:.2}", millions(report.cpu_seconds)),
        value: Some(millions(report.cpu_seconds)),
        more: vec![
            of_roofline.map_or(String::new(), |ratio| format!("{ratio:.2}")),
            report.rows_in.to_string(),
            format!("{:.2}", millions(report.seconds)),
            (report.peak_rss_bytes / (1 << 20)).to_string(),
            ms(report.commit_p50_ms),
            ms(report.commit_p99_ms),
            ms(report.start_to_first_commit_ms),
        ],
    }
}

/// The engine alone: generator in process, blackhole sink.
///
/// # Errors
/// When a job fails.
pub fn nexmark(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    for (name, query) in job::NEXMARK.iter().filter(|(name, _)| sheet.wants(name)).collect::<Vec<_>>() {
        let text = format!("{}{query}", job::bids(NEXMARK_EVENTS));
        let report = runner.run(name, &text, &Settings::default()).with_context(|| format!("job {name}"))?;
        sheet.add(name, line(&report, None));
    }
    Ok(())
}

/// Read-modify-write of keyed state, in memory and beyond it.
///
/// # Errors
/// When a job fails.
pub fn state(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let counts = job::STATE.map(|(name, memory, keys)| (name, memory, job::count_per_key(keys)));
    let values = job::VALUES.map(|(name, memory, keys, query)| (name, memory, job::each_key(keys, query)));
    for (name, memory, text) in
        counts.into_iter().chain(values).filter(|(name, ..)| sheet.wants(name)).collect::<Vec<_>>()
    {
        let settings = Settings { memory, ..Settings::default() };
        let report = runner.run(name, &text, &settings).with_context(|| format!("job {name}"))?;
        std::fs::remove_dir_all(runner.state_dir(name))?;
        sheet.add(name, line(&report, None));
    }
    Ok(())
}

/// Kafka → Kafka, and what the counts write into their changelog.
///
/// # Errors
/// When Kafka or a job fails.
pub fn kafka(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let input = |keys: u64| runner.own(&format!("in-{keys}"));
    let counts = ["kafka-count", "kafka-count-100k"];
    let wanted = |sheet: &Sheet, name: &str| sheet.wants(name) || counts.contains(&name) && sheet.wants("changelog");
    let jobs: Vec<_> = job::KAFKA.iter().filter(|(name, ..)| wanted(sheet, name)).collect();
    for keys in [job::FEW_KEYS, job::MANY_KEYS] {
        if jobs.iter().any(|(_, of_job, ..)| *of_job == keys) {
            kafka::create_topics(&[(&input(keys), PARTITIONS as i32)])?;
            kafka::fill(&input(keys), KAFKA_RECORDS, PARTITIONS, keys)?;
        }
    }
    let Some((_, first, ..)) = jobs.first() else { return Ok(()) };
    let output = runner.own("roofline");
    kafka::create_topics(&[(&output, PARTITIONS as i32)])?;
    let roofline = Roofline::measure(&input(*first), &output, PARTITIONS as i32, KAFKA_RECORDS)?;
    sheet.roofline = Some(roofline.to_string());
    let mut changelog = Vec::new();
    for (name, keys, columns, text) in jobs {
        let output = runner.own(name);
        kafka::create_topics(&[(&output, PARTITIONS as i32)])?;
        let text = job::kafka(text, &bootstrap()?, (&input(*keys), &output), true, None);
        let report = runner.run(name, &text, &Settings::default()).with_context(|| format!("job {name}"))?;
        let of_roofline = roofline.per_record_ns(*columns, report.rows_out as f64 / report.rows_in as f64)
            / (report.cpu_seconds * 1e9 / report.rows_in as f64);
        sheet.add(name, line(&report, Some(of_roofline)));
        if counts.contains(name) && sheet.wants("changelog") {
            let bytes = bytes_of(&format!("millstream-{}-changelog", runner.own(name)))?;
            changelog.push(format!("{:.2} of {keys} keys", bytes as f64 / report.rows_in as f64));
        }
        kafka::delete_topics(&output)?;
    }
    sheet.add("changelog", Line { figure: changelog.join("; "), ..Line::default() });
    Ok(())
}

/// Bytes of all values of a topic that can be read.
fn bytes_of(topic: &str) -> anyhow::Result<usize> {
    let mut reader = Reader::new(topic)?;
    reader.to_end()?;
    Ok(reader.records.iter().map(Vec::len).sum())
}
