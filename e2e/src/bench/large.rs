//! A job with a gigabyte of state: made once, then snapshot, savepoint, kill with the local disk, kill without it, and rescale.
//!
//! Owns the order, in which each step uses what the one before left. What is read by whom is in `watch`; several pods are in `rescale`.
//!
//! The state is a count for each of [`KEYS`] wide keys in a window that never closes. Beside it the job copies each record's number to its
//! output, in the same commits: what is readable there shows that the whole job goes on.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use job_api::PodStatus;
use job_api::orders::{SAVEPOINTS_PATH, STATUS_PATH, SavepointPhase, SavepointRequest, SavepointStatus};
use serde::de::DeserializeOwned;

use super::job::{self, Settings};
use super::kafka::{Feeder, create_topics, delete_topics, fill_wide, now_us};
use super::process::{Job, Runner};
use super::recovery::median_and_longest;
use super::report::{Line, Sheet};
use super::watch::{Arrivals, Newest};
use super::{rescale, until};
use crate::cluster::run_with;
use crate::kafka::bootstrap;
use crate::s3;

/// Wide keys: more than a gigabyte before compression, and about one on disk.
pub const KEYS: u64 = 1_300_000;
/// Records a second once the state is there.
pub const RATE: u64 = 2_000;
/// Partitions of the input: several pods have some each.
pub const PARTITIONS: u64 = 6;
/// The job's name.
pub const NAME: &str = "large";
const FILLED: Duration = Duration::from_secs(240);
const STARTED: Duration = Duration::from_secs(60);
/// A snapshot of everything has ended.
const SNAPSHOT: Duration = Duration::from_secs(120);
/// Time without a snapshot that is compared with the time of it.
const BEFORE_US: u64 = 8_000_000;
const KILLS: usize = 5;
const LOSSES: usize = 2;
const BETWEEN: Duration = Duration::from_secs(2);
/// The interval that a job has that says nothing, in seconds.
const DEFAULT_INTERVAL: f64 = 60.0;
/// How often the process's CPU time is noted.
const CPU_EVERY: Duration = Duration::from_millis(50);
const GB: f64 = 1e9;

/// What all steps share.
pub struct Large<'a> {
    /// Where processes come from.
    pub runner: &'a Runner,
    /// The job's SQL.
    pub text: String,
    input: String,
    output: String,
    /// `s3://…`
    pub snapshots: String,
    control: String,
}

/// All rows of a gigabyte of state.
///
/// # Errors
/// When Kafka, S3 or the job fails.
pub fn all(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let bucket = runner.own(NAME);
    s3::create_bucket(&bucket)?;
    let done = steps(runner, sheet, &bucket);
    let removed = s3::remove_bucket(&bucket);
    delete_topics(&bucket)?;
    done.and(removed)
}

fn steps(runner: &Runner, sheet: &mut Sheet, bucket: &str) -> anyhow::Result<()> {
    let port = std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let (input, output) = (runner.own("large-in"), runner.own("large-out"));
    let text = job::kafka(job::LARGE, &bootstrap()?, (&input, &output), false, None);
    let (snapshots, control) = (format!("s3://{bucket}"), format!("127.0.0.1:{port}"));
    let large = Large { runner, text, input, output, snapshots, control };
    create_topics(&[(&large.input, PARTITIONS as i32), (&large.output, 2)])?;
    large.fill().context("the state was not made")?;
    let feeder = Feeder::wide(&large.input, PARTITIONS, RATE, KEYS)?;
    let newest = Newest::of(&large.output)?;
    let mut job = large.snapshot(sheet, &newest).context("snapshot")?;
    if sheet.wants("savepoint") {
        sheet.add("savepoint", large.savepoint()?);
    }
    if sheet.wants("local") || sheet.wants("restore") {
        job = large.kills(sheet, job, &newest)?;
    }
    job.stop()?;
    if sheet.wants("rescale-moved") || sheet.wants("rescale-other") {
        rescale::two_to_three(&large, sheet).context("rescale")?;
    }
    newest.finish()?;
    feeder.finish().map(drop)
}

impl Large<'_> {
    fn start(&self, snapshot_interval: &str, snapshots: bool) -> anyhow::Result<Job> {
        let settings = Settings { snapshot_interval, ..Settings::default() };
        let place = ["--checkpoint-dir", &self.snapshots];
        let more = [&["--control", &self.control][..], if snapshots { &place } else { &[] }].concat();
        self.runner.start(NAME, &self.text, &settings, &more)
    }

    /// Reads the input of all keys, without snapshots.
    fn fill(&self) -> anyhow::Result<()> {
        fill_wide(&self.input, PARTITIONS, KEYS)?;
        let mut job = self.start("60s", false)?;
        until("all keys", FILLED, || {
            job.check()?;
            std::thread::sleep(CPU_EVERY);
            Ok(self.ask::<PodStatus>(STATUS_PATH, "").is_ok_and(|status| status.rows_in >= KEYS).then_some(()))
        })?;
        job.stop()?;
        Ok(())
    }

    /// The state's size on disk, in words.
    fn size(&self) -> anyhow::Result<String> {
        Ok(format!("{:.2} GB on disk", bytes_below(&self.runner.state_dir(NAME))? as f64 / GB))
    }

    /// One question or order to the job's control port.
    fn ask<T: DeserializeOwned>(&self, path: &str, body: &str) -> anyhow::Result<T> {
        let (address, quiet) = (format!("http://{}{path}", self.control), ["-sS", "--max-time", "20"]);
        let order: &[&str] = if body.is_empty() { &[] } else { &["-X", "POST", "-d", body] };
        let text = run_with("", "curl", &[&quiet[..], order, &[address.as_str()]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("{path}: {text}"))
    }

    /// The first snapshot, in which everything is new, and the time before it.
    fn snapshot(&self, sheet: &mut Sheet, newest: &Newest) -> anyhow::Result<Job> {
        let (size, began) = (self.size()?, now_us()?);
        let mut job = self.start("45s", true)?;
        newest.after(began, STARTED)?;
        let arrivals = Arrivals::of(&self.output)?;
        let mut cpu = vec![(now_us()?, job.cpu()?)];
        let (begin, end, bytes) = until("a snapshot", SNAPSHOT, || {
            job.check()?;
            std::thread::sleep(CPU_EVERY);
            cpu.push((now_us()?, job.cpu()?));
            // Asking is a process of its own: seldom.
            if !cpu.len().is_multiple_of(10) {
                return Ok(None);
            }
            let snapshots = self.ask::<PodStatus>(STATUS_PATH, "")?.snapshots.unwrap_or_default();
            if let Some(error) = snapshots.error {
                anyhow::bail!("it failed: {error}");
            }
            let ended = snapshots.last_ms.filter(|_| snapshots.taken == 1);
            Ok(ended.map(|end| ((end - snapshots.took_ms) * 1000, end * 1000, snapshots.bytes)))
        })?;
        let before = begin.saturating_sub(BEFORE_US).max(cpu[0].0);
        let gap = |from, to| arrivals.gaps(from, to).into_iter().max().unwrap_or_default().as_secs_f64() * 1000.0;
        let (with, without) = (gap(begin, end), gap(before, begin));
        let seconds = (end - begin) as f64 / 1e6;
        let more = (with - without).max(0.0);
        let figure = format!(
            "{with:.0} ms with, {without:.0} ms without; {:.2} GB uploaded in {seconds:.1} s",
            bytes as f64 / GB
        );
        sheet.add("snapshot-pause", Line { figure, value: Some(more), ..Line::default() });
        let idle = used(&cpu, before, begin) / ((begin - before) as f64 / 1e6);
        let extra = (used(&cpu, begin, end) - idle * seconds).max(0.0);
        let share = extra / DEFAULT_INTERVAL * 100.0;
        let figure =
            format!("{share:.1} % ({extra:.1} s of CPU for {size}; the job without uses {:.0} %)", idle * 100.0);
        sheet.add("snapshot-cpu", Line { figure, value: Some(share), ..Line::default() });
        arrivals.finish()?;
        Ok(job)
    }

    fn savepoint(&self) -> anyhow::Result<Line> {
        let name = "bench";
        let order = serde_json::to_string(&SavepointRequest { name: name.to_owned(), stop: false })?;
        let began = now_us()?;
        self.ask::<SavepointStatus>(SAVEPOINTS_PATH, &order)?;
        let status = until("a savepoint", SNAPSHOT, || {
            std::thread::sleep(CPU_EVERY);
            let status: SavepointStatus = self.ask(&format!("{SAVEPOINTS_PATH}/{name}"), "")?;
            match status.phase {
                SavepointPhase::Draining | SavepointPhase::Uploading => Ok(None),
                SavepointPhase::Completed => Ok(Some(status)),
                SavepointPhase::Failed => anyhow::bail!("it failed: {}", status.message.unwrap_or_default()),
            }
        })?;
        let (took, bytes) = ((now_us()? - began) as f64 / 1e6, status.bytes.unwrap_or(0) as f64 / GB);
        let pause = status.pause_ms.context("it says nothing of a pause")?;
        Ok(Line { figure: format!("{pause} ms; complete after {took:.1} s, {bytes:.2} GB"), ..Line::default() })
    }

    /// Kills with the state directory, and without it. The job goes on without a snapshot under way, and with one to restore from.
    fn kills(&self, sheet: &mut Sheet, job: Job, newest: &Newest) -> anyhow::Result<Job> {
        drop(job);
        let (size, began) = (self.size()?, now_us()?);
        let mut job = self.start("60s", true)?;
        newest.after(began, STARTED)?;
        let (mut local, mut restored) = (Vec::new(), Vec::new());
        for round in 0..KILLS + LOSSES {
            let loses = round >= KILLS;
            if !sheet.wants(if loses { "restore" } else { "local" }) {
                continue;
            }
            std::thread::sleep(BETWEEN);
            job.check()?;
            let killed = now_us()?;
            drop(job);
            // Moved away, not removed: what a kill takes with it is gone at once.
            let (state, lost) = (self.runner.state_dir(NAME), self.runner.path("lost"));
            if loses {
                std::fs::rename(&state, &lost)?;
            }
            job = self.start("60s", true)?;
            let gap = newest.after(killed, STARTED)?;
            if loses {
                std::fs::remove_dir_all(&lost)?;
                restored.push(gap);
            } else {
                local.push(gap);
            }
        }
        for (row, mut gaps, what) in [("local", local, "kills"), ("restore", restored, "kills and lost disks")] {
            if !gaps.is_empty() {
                let line = median_and_longest(&mut gaps, what);
                sheet.add(row, Line { figure: format!("{}, {size}", line.figure), ..line });
            }
        }
        Ok(job)
    }
}

/// CPU seconds used between two moments, by samples in order.
fn used(samples: &[(u64, Duration)], from: u64, to: u64) -> f64 {
    let at = |moment: u64| {
        samples.iter().rev().find(|(at, _)| *at <= moment).or(samples.first()).map_or(Duration::ZERO, |sample| sample.1)
    };
    at(to).saturating_sub(at(from)).as_secs_f64()
}

fn bytes_below(path: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in std::fs::read_dir(path)? {
        let (entry, metadata) = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)))?;
        sum += if metadata.is_dir() { bytes_below(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_between_two_moments_is_that_of_the_samples_before_them() {
        let ms = Duration::from_millis;
        let samples = [(100, ms(10)), (200, ms(30)), (300, ms(80))];
        assert!((used(&samples, 200, 300) - 0.05).abs() < 1e-9);
        assert!((used(&samples, 0, 250) - 0.02).abs() < 1e-9);
    }
}
