//! What a run shows while it works: one line that changes on a terminal, a plain line every few seconds elsewhere.
//!
//! Owns the words and the rhythm. The numbers are the monitor's.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::job::Loaded;
use crate::connector::SizeHint;
use crate::pod::PodReport;
use crate::pod::monitor::Monitor;

const REDRAW: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(5);

/// The display of one run.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    total: Option<SizeHint>,
    started: Instant,
}

impl Progress {
    /// Says what starts, and prepares the line.
    pub(super) fn new(loaded: &Loaded, report: &PodReport, state_dir: &Path) -> Self {
        let how = if report.resumes { "goes on from its last commit" } else { "starts anew" };
        tracing::info!(job = loaded.file.name, state = %state_dir.display(), "{how}");
        let total = report.size;
        let terminal = std::io::stderr().is_terminal();
        let bar = terminal.then(|| bar(total));
        if let (Some(bar), true) = (&bar, report.resumes) {
            bar.println(format!("{} {how} (state in {})", loaded.file.name, state_dir.display()));
        }
        Self { bar, total, started: Instant::now() }
    }

    /// Shows the monitor's numbers until cancelled.
    pub(super) async fn run(self, monitor: &Arc<Monitor>, cancel: CancellationToken) {
        let period = if self.bar.is_some() { REDRAW } else { PLAIN };
        let mut ticks = tokio::time::interval(period);
        ticks.tick().await;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = ticks.tick() => self.show(monitor),
            }
        }
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    fn show(&self, monitor: &Monitor) {
        let rows = monitor.rows_in();
        let rate = rows as f64 / self.started.elapsed().as_secs_f64().max(0.001);
        let commits = monitor.commits().micros.len();
        let watermark = monitor.watermark_ms().map_or_else(|| "–".to_owned(), time);
        let late = match monitor.late_dropped() {
            0 => String::new(),
            late => format!(", {} late", number(late)),
        };
        let rows_out = number(monitor.rows_out());
        let text =
            format!("{}/s, {rows_out} rows out{late}, {commits} commits, watermark {watermark}", number(rate as u64));
        match &self.bar {
            Some(bar) => {
                bar.set_position(self.total.map_or(rows, |total| monitor.done(total)));
                match self.total {
                    Some(SizeHint::Bytes(_)) => bar.set_message(format!("{} rows in, {text}", number(rows))),
                    Some(SizeHint::Rows(_)) | None => bar.set_message(text),
                }
            }
            None => {
                let done = match self.total {
                    Some(total @ SizeHint::Bytes(all)) => {
                        format!(" ({} of {})", HumanBytes(monitor.done(total)), HumanBytes(all))
                    }
                    Some(SizeHint::Rows(all)) => format!(" of {}", number(all)),
                    None => String::new(),
                };
                eprint_line(&format!("{} rows in{done}, {text}", number(rows)));
            }
        }
    }
}

fn bar(total: Option<SizeHint>) -> ProgressBar {
    let target = ProgressDrawTarget::stderr();
    let (length, template) = match total {
        Some(SizeHint::Rows(rows)) => (Some(rows), "{spinner} {bar:24} {human_pos} of {human_len} rows, {msg}"),
        Some(SizeHint::Bytes(bytes)) => (Some(bytes), "{spinner} {bar:24} {bytes} of {total_bytes}, {msg}"),
        None => (None, "{spinner} {human_pos} rows in, {msg}"),
    };
    let bar = ProgressBar::with_draw_target(length, target);
    // The templates are ours and known to be right; a bar without style is still a bar.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Writes a line to standard error, whoever reads it.
pub(super) fn eprint_line(text: &str) {
    let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{text}\n"));
}

/// A number with commas between thousands.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Milliseconds since 1970 as UTC time; the end of time has no date.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| "end of input".into(), |time| time.strftime("%F %T").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        assert_eq!([0, 999, 1000, 1_234_567].map(number), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(time(1_357_034_400_000), "2013-01-01 10:00:00");
        assert_eq!(time(i64::MAX), "end of input");
    }
}
