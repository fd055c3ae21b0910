//! Every row of the benchmark: its name, its work, and what it should reach.
//!
//! Owns the list, which is the order of the page. It measures nothing.

/// The table that a row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// Records per CPU-second of the job.
    Throughput,
    /// Anything else: one figure.
    Figures,
}

/// Whether a greater figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// It is.
    More,
    /// A smaller one is.
    Less,
}

/// What a row should reach.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// Less than this is a fault.
    pub floor: f64,
    /// Where it should be.
    pub target: Option<f64>,
    /// Of both.
    pub unit: &'static str,
    /// The direction.
    pub better: Better,
}

impl Goal {
    /// How a figure does: in words for the page.
    pub fn met(&self, value: Option<f64>) -> &'static str {
        let Some(value) = value else { return "no" };
        let reaches = |goal: f64| match self.better {
            Better::More => value >= goal,
            Better::Less => value <= goal,
        };
        match (reaches(self.floor), self.target.map(reaches)) {
            (_, Some(true)) => "target",
            (true, Some(false)) => "floor",
            (true, None) => "yes",
            (false, Some(false) | None) => "no",
        }
    }
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct RowInfo {
    /// What is measured together.
    pub group: &'static str,
    /// Its name, by which it can be run alone.
    pub name: &'static str,
    /// What is done.
    pub work: &'static str,
    /// Where it is printed.
    pub table: Table,
    /// What it should reach.
    pub goal: Option<Goal>,
}

/// The row of a name.
pub fn row(name: &str) -> Option<&'static RowInfo> {
    ROWS.iter().find(|row| row.name == name)
}

const fn rate(group: &'static str, name: &'static str, work: &'static str, goals: &[f64]) -> RowInfo {
    let goal = match goals {
        [floor, target] => Some(Goal { floor: *floor, target: Some(*target), unit: "", better: Better::More }),
        [floor] => Some(Goal { floor: *floor, target: None, unit: "", better: Better::More }),
        _ => None,
    };
    RowInfo { group, name, work, table: Table::Throughput, goal }
}

const fn figure(
    group: &'static str,
    name: &'static str,
    work: &'static str,
    goals: Option<(f64, f64, &'static str)>,
) -> RowInfo {
    let goal = match goals {
        Some((floor, target, unit)) => Some(Goal { floor, target: Some(target), unit, better: Better::Less }),
        None => None,
    };
    RowInfo { group, name, work, table: Table::Figures, goal }
}

/// All rows.
pub const ROWS: &[RowInfo] = &[
    rate("nexmark", "q0", "pass-through", &[3.0]),
    rate("nexmark", "q1", "map", &[]),
    rate("nexmark", "q2", "filter", &[]),
    rate("nexmark", "q5-like", "10 s tumbling count per auction", &[1.5]),
    rate("nexmark", "q7-like", "10 s tumbling max", &[]),
    rate("state", "state-memory", "count per key, 1 M keys, all in memory", &[0.5, 2.0]),
    rate("state", "state-disk", "count per key, 3 M keys, about ten times what memory has room for", &[0.02, 0.1]),
    rate("state", "value-memory", "each key once, 1 M keys, all in memory", &[0.5, 2.0]),
    rate("state", "value-disk", "each key once, 3 M keys, about ten times what memory has room for", &[0.02, 0.1]),
    rate("state", "first-memory", "first row per key in event time, 1 M keys, all in memory", &[0.5, 2.0]),
    rate("state", "first-disk", "first row per key in event time, 3 M keys, about ten times the room", &[0.02, 0.1]),
    rate("kafka", "kafka-q0", "pass-through", &[0.5, 0.8]),
    rate("kafka", "kafka-q1", "map", &[0.5, 0.8]),
    rate("kafka", "kafka-q2", "filter 1 in 123", &[]),
    rate("kafka", "kafka-count", "filter half + 10 s tumbling count of 1,000 keys", &[1.0, 2.0]),
    rate("kafka", "kafka-count-100k", "filter half + 10 s tumbling count of 100,000 keys", &[0.7, 1.4]),
    figure("kafka", "changelog", "changelog bytes per input row, before compression, of the two counts above", None),
    figure(
        "commits",
        "commits",
        "commit of 1,000 rows and offsets, by partitions of the output touched: 1, 10, 50",
        None,
    ),
    figure(
        "latency",
        "latency",
        "produced to readable by a `read_committed` reader at half load, no shuffle, commit interval 20 ms, 8 partitions",
        Some((150.0, 50.0, "ms")),
    ),
    figure("latency", "rss-load", "RSS of that job, at first with 100,000 records/s", Some((128.0, 64.0, "MiB"))),
    figure(
        "shuffle",
        "latency-shuffle",
        "the same with one shuffle: two pods, each row once by key, 4 shards, 4 partitions",
        Some((300.0, 100.0, "ms")),
    ),
    figure(
        "recovery",
        "recovery",
        "SIGKILL to the first new record, small state, 20,000 records/s",
        Some((3.0, 1.0, "s")),
    ),
    figure(
        "recovery",
        "stall",
        "readers' stall after a SIGKILL in the middle of a transaction, process replaced at once: how long the last stable offset stands still",
        Some((2.0, 0.1, "s")),
    ),
    figure(
        "large",
        "snapshot-pause",
        "longest pause of the data path for a snapshot of 1 GB to S3: longest gap between commits, more than without",
        Some((100.0, 10.0, "ms")),
    ),
    figure(
        "large",
        "snapshot-cpu",
        "extra CPU of that snapshot, every file of it new, in parts of a core over the default interval of 60 s",
        Some((20.0, 5.0, "%")),
    ),
    figure("large", "savepoint", "savepoint of 1 GB to S3 of a running job: pause of its sources", None),
    figure("large", "local", "SIGKILL to the first new record, 1 GB of state on local disk", Some((3.0, 1.0, "s"))),
    figure("large", "restore", "SIGKILL to the first new record, 1 GB of state from S3", Some((15.0, 5.0, "s"))),
    figure(
        "large",
        "rescale-moved",
        "2 to 3 pods, 1 GB of state, snapshots in S3: longest pause of a shard that moves",
        Some((10.0, 3.0, "s")),
    ),
    figure("large", "rescale-other", "the same: longest pause of a shard that stays", Some((1.0, 0.2, "s"))),
    figure("memory", "rss-idle", "RSS of a job that waits for input", Some((64.0, 32.0, "MiB"))),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_rows_or_groups_share_a_name() {
        let names: BTreeSet<&str> = ROWS.iter().map(|row| row.name).collect();
        assert_eq!(names.len(), ROWS.len());
    }

    #[test]
    fn a_figure_meets_its_target_its_floor_or_nothing() {
        let less = Goal { floor: 150.0, target: Some(50.0), unit: "ms", better: Better::Less };
        assert_eq!([less.met(Some(50.0)), less.met(Some(51.0)), less.met(Some(151.0))], ["target", "floor", "no"]);
        let more = Goal { floor: 0.5, target: None, unit: "", better: Better::More };
        assert_eq!([more.met(Some(0.5)), more.met(Some(0.4)), more.met(None)], ["yes", "no", "no"]);
    }
}
