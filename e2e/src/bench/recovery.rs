//! SIGKILL of a job with small state: how long until new output is readable, and how long readers stand still.
//!
//! Owns the moment of the kill: in the middle of a transaction, which is the worst one.

use std::time::Duration;

use super::job::{self, Settings};
use super::kafka::{Feeder, create_topics, now_us};
use super::process::Runner;
use super::report::{Line, Sheet};
use super::until;
use super::watch::{Ends, Newest};
use crate::kafka::bootstrap;

const RATE: u64 = 20_000;
const PARTITIONS: u64 = 2;
const KILLS: usize = 10;
/// Between a recovery and the next kill.
const BETWEEN: Duration = Duration::from_millis(1_500);
const LONGEST: Duration = Duration::from_secs(30);

/// Both rows, of the same kills.
///
/// # Errors
/// When Kafka or the job fails.
pub fn small(runner: &Runner, sheet: &mut Sheet) -> anyhow::Result<()> {
    let (input, output) = (runner.own("recovery-in"), runner.own("recovery-out"));
    create_topics(&[(&input, PARTITIONS as i32), (&output, PARTITIONS as i32)])?;
    let text = job::kafka(job::PASS, &bootstrap()?, (&input, &output), false, None);
    let (newest, ends, feeder) = (Newest::of(&output)?, Ends::new()?, Feeder::narrow(&input, PARTITIONS, RATE)?);
    let start = || runner.start("recovery", &text, &Settings::default(), &[]);
    let mut job = start()?;
    newest.after(0, LONGEST)?;
    let (mut gaps, mut stalls) = (Vec::new(), Vec::new());
    for _ in 0..KILLS {
        std::thread::sleep(BETWEEN);
        job.check()?;
        let partition = in_transaction(&ends, &output)?;
        let killed = now_us()?;
        drop(job);
        job = start()?;
        let (readable, written) = (ends.readable(&output, partition)?, ends.written(&output, partition)?);
        if readable < written {
            until("the end of the transaction", LONGEST, || {
                Ok((ends.readable(&output, partition)? >= written).then_some(()))
            })?;
            stalls.push(Duration::from_micros(now_us()? - killed));
        }
        // What was sent after the kill can only have come through the new process.
        gaps.push(newest.after(killed, LONGEST)?);
    }
    job.stop()?;
    feeder.finish()?;
    newest.finish()?;
    sheet.add("recovery", median_and_longest(&mut gaps, "kills"));
    anyhow::ensure!(!stalls.is_empty(), "no kill of {KILLS} left a transaction open");
    sheet.add("stall", median_and_longest(&mut stalls, "kills that left a transaction open"));
    Ok(())
}

/// Waits until a transaction is open on the output; on which partition.
fn in_transaction(ends: &Ends, output: &str) -> anyhow::Result<i32> {
    let mut partition = 0;
    until("an open transaction", LONGEST, || {
        partition = (partition + 1) % PARTITIONS as i32;
        Ok((ends.readable(output, partition)? < ends.written(output, partition)?).then_some(()))
    })?;
    Ok(partition)
}

/// A line whose longest time counts.
pub(super) fn median_and_longest(times: &mut [Duration], what: &str) -> Line {
    times.sort_unstable();
    let [median, longest] = [times[times.len() / 2], times[times.len() - 1]].map(|time| time.as_secs_f64());
    let figure = format!("median {median:.2} s, longest {longest:.2} s of {} {what}", times.len());
    Line { figure, value: Some(longest), ..Line::default() }
}
