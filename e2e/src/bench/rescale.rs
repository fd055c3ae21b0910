//! Two pods become three under load: how long each shard stands still.
//!
//! A shard's pause is the longest time without a committed record in its partition of the changelog, as an independent reader sees it. Every shard has
//! changes in nearly every commit, because the records' keys are spread over all of them. Owns no process (see `pods`).

use std::collections::BTreeSet;
use std::time::Duration;

use super::job::Settings;
use super::kafka::now_us;
use super::large::{Large, NAME};
use super::pods::Pods;
use super::report::{Line, Sheet};
use super::until;
use super::watch::Arrivals;

const SHARDS: usize = 16;
const LONGEST: Duration = Duration::from_secs(90);
/// Time that is compared with.
const BEFORE: Duration = Duration::from_secs(5);
/// For snapshots behind the first move, so that the second has only their ends to read.
const SNAPSHOTS: Duration = Duration::from_secs(8);
/// Pauses end after the move itself.
const AFTER: Duration = Duration::from_secs(3);

/// Goes on with the state of the job that ran until now.
///
/// # Errors
/// When a pod, Kafka or S3 fails.
pub fn two_to_three(large: &Large<'_>, sheet: &mut Sheet) -> anyhow::Result<()> {
    let settings = Settings { snapshot_interval: "5s", ..Settings::default() };
    let mut pods = Pods::new(large.runner, NAME, &large.text, &settings, Some(&large.snapshots))?;
    pods.add(Some(&large.runner.state_dir(NAME)))?;
    (0..2).try_for_each(|_| pods.add(None))?;
    pods.resize(2)?;
    let old = pods.settled(SHARDS, LONGEST)?;
    let arrivals = Arrivals::of(&format!("millstream-{}-changelog", large.runner.own(NAME)))?;
    let all_since =
        |since: u64| until("all shards at work", LONGEST, || Ok((arrivals.heard_since(since) == SHARDS).then_some(())));
    all_since(now_us()?)?;
    std::thread::sleep(SNAPSHOTS);
    let before = now_us()?;
    std::thread::sleep(BEFORE);
    pods.check()?;
    pods.resize(3)?;
    let ordered = now_us()?;
    pods.order_assignment(1, LONGEST)?;
    let new = pods.settled(SHARDS, LONGEST)?;
    all_since(now_us()?)?;
    let settled = (now_us()? - ordered) as f64 / 1e6;
    std::thread::sleep(AFTER);
    let (usual, during) = (arrivals.gaps(before, ordered), arrivals.gaps(ordered, now_us()?));
    arrivals.finish()?;
    pods.stop()?;
    let longest = |of: &[Duration], wanted: &dyn Fn(usize) -> bool| {
        let of = of.iter().enumerate().filter(|(shard, _)| wanted(*shard)).map(|(_, gap)| *gap);
        of.max().unwrap_or_default().as_secs_f64()
    };
    let moved = |shard: usize| owner(&old, shard) != owner(&new, shard);
    let usual = longest(&usual, &|_| true);
    for (row, wanted) in [("rescale-moved", true), ("rescale-other", false)] {
        let (count, gap) = (
            (0..SHARDS).filter(|shard| moved(*shard) == wanted).count(),
            longest(&during, &|shard| moved(shard) == wanted),
        );
        let figure = format!("{gap:.2} s of {count} shards; {usual:.2} s before, all settled after {settled:.1} s");
        sheet.add(row, Line { figure, value: Some(gap), ..Line::default() });
    }
    Ok(())
}

fn owner(pods: &[BTreeSet<usize>], shard: usize) -> Option<usize> {
    pods.iter().position(|shards| shards.contains(&shard))
}
