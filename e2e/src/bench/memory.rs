//! Memory of jobs that have nothing to do.
//!
//! Memory under load is measured where the load is (`latency`).

use std::time::Duration;

use super::job::{self, Settings};
use super::kafka::create_topics;
use super::process::Runner;
use super::report::{Line, Sheet};
use crate::kafka::bootstrap;

/// Looks, a tenth of a second apart.
const LOOKS: usize = 80;

/// The most of the first eight seconds: of a generator, and of Kafka → Kafka, which counts.
///
/// # Errors
/// When Kafka or a job fails.
pub fn idle(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let (input, output) = (runner.own("idle-in"), runner.own("idle-out"));
    create_topics(&[(&input, 2), (&output, 2)])?;
    let generator = peak(runner, "idle", job::IDLE)?;
    let kafka = peak(runner, "idle-kafka", &job::kafka(job::PASS, &bootstrap()?, (&input, &output), false, None))?;
    let figure = format!("{kafka:.0} MiB Kafka to Kafka, {generator:.0} MiB with a generator and no sink");
    sheet.add("rss-idle", Line { figure, value: Some(kafka), ..Line::default() });
    Ok(())
}

fn peak(runner: &Runner, name: &str, text: &str) -> anyhow::Result<f64> {
    let mut job = runner.start(name, text, &Settings::default(), &[])?;
    let mut peak = 0;
    for _ in 0..LOOKS {
        std::thread::sleep(Duration::from_millis(100));
        job.check()?;
        peak = peak.max(job.resident_bytes()?);
    }
    job.stop()?;
    Ok(peak as f64 / f64::from(1 << 20))
}
