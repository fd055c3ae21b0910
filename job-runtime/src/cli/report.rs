//! The report at the end of a run: a few lines for people, or one line of JSON for programs.
//!
//! Owns the form. CPU time and memory are the kernel's own accounts of this process.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::progress::{eprint_line, number, time};
use crate::pod::Ended;
use crate::pod::monitor::Monitor;

/// `run --report json`.
#[derive(Debug, Serialize)]
struct Report {
    /// True if bounded input is at its end; false after a stop.
    at_end: bool,
    rows_in: u64,
    rows_out: u64,
    late_dropped: u64,
    /// Records that did not fit: left out.
    skipped: u64,
    /// Records that did not fit: written elsewhere.
    dead_letters: u64,
    commits: u64,
    /// From the start of the process.
    seconds: f64,
    /// User and system time of all threads.
    cpu_seconds: f64,
    peak_rss_bytes: u64,
    commit_p50_ms: Option<f64>,
    commit_p99_ms: Option<f64>,
    start_to_first_commit_ms: Option<f64>,
}

/// For people, on standard error: standard output is the job's.
pub(super) fn text(monitor: &Monitor, ended: Ended, took: Duration, state_dir: &Path) {
    let seconds = took.as_secs_f64();
    let how = match ended {
        Ended::AtEnd => "done: the input is at its end and everything is committed",
        Ended::Stopped | Ended::Reassigned { .. } => "stopped: everything read is committed; run it again to go on",
    };
    let rows = monitor.rows_in();
    let rate = (rows as f64 / seconds.max(0.001)) as u64;
    eprint_line(how);
    eprint_line(&format!(
        "  {} rows in, {} rows out, {} late, {} commits, {seconds:.1} s, {} rows/s",
        number(rows),
        number(monitor.rows_out()),
        number(monitor.late_dropped()),
        number(monitor.commits().micros.len()),
        number(rate),
    ));
    if let Some(text) = misfits(monitor) {
        eprint_line(&format!("  {text}"));
    }
    if let (Ended::Stopped, Some(watermark)) = (ended, monitor.watermark_ms()) {
        eprint_line(&format!("  watermark {}", time(watermark)));
    }
    eprint_line(&format!("  state in {}", state_dir.display()));
}

/// What became of records that did not fit their table, if there were any.
fn misfits(monitor: &Monitor) -> Option<String> {
    let records = |n: u64| format!("{} {}", number(n), if n == 1 { "record" } else { "records" });
    let skipped = |n: u64| format!("{} did not fit: left out", records(n));
    let letters = |n: u64| format!("{} did not fit: dead letters", records(n));
    match (monitor.skipped(), monitor.dead_letters()) {
        (0, 0) => None,
        (n, 0) => Some(skipped(n)),
        (0, n) => Some(letters(n)),
        (a, b) => Some(format!("{}, {}", skipped(a), letters(b))),
    }
}

/// For programs, on standard output.
pub(super) fn json(monitor: &Monitor, at_end: bool, took: Duration) {
    let commits = monitor.commits();
    let some = !commits.micros.is_empty();
    let ms = |quantile: f64| some.then(|| commits.micros.value_at_quantile(quantile) as f64 / 1000.0);
    let report = Report {
        at_end,
        rows_in: monitor.rows_in(),
        rows_out: monitor.rows_out(),
        late_dropped: monitor.late_dropped(),
        skipped: monitor.skipped(),
        dead_letters: monitor.dead_letters(),
        commits: commits.micros.len(),
        seconds: took.as_secs_f64(),
        cpu_seconds: cpu_seconds(),
        peak_rss_bytes: peak_rss_bytes(),
        commit_p50_ms: ms(0.5),
        commit_p99_ms: ms(0.99),
        start_to_first_commit_ms: commits.first_after.map(|after| after.as_secs_f64() * 1000.0),
    };
    let line = serde_json::to_string(&report).expect("numbers and options can always be written as JSON");
    let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{line}\n"));
}

/// Fields 14 and 15 of `/proc/self/stat` (see proc(5)), in USER_HZ, which is 100 on the platforms that we build for.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// `VmHWM` of `/proc/self/status`, which is in KiB.
fn peak_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
