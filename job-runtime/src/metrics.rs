//! Prometheus metrics of a pod: names, help texts and labels, filled from the monitor whenever they are asked for.
//!
//! Owns the names (`millstream_<component>_<thing>_<unit>[_total]`, in `list`). Labels are the job's name and the plan's stream operators,
//! tables and source partitions, so their number is bounded by the job. It counts nothing itself.

mod list;
mod snapshots;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Bucket, Histogram, Metric, MetricFamily, MetricType};
use prometheus::{CounterVec, Encoder, GaugeVec, Opts, Registry, TextEncoder};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dataflow::graph::{JobGraph, Node, NodeKind};
use dataflow::worker::NodeProgress;

use crate::connector::SizeHint;
use crate::connector::stats::SourceStats;
use crate::pod::EXCHANGE_BATCHES;
use crate::pod::monitor::{CommitOutcome, CommitStats, Monitor};
use crate::state::rocks::StoreFigures;

pub use list::{ALL, Kind, MetricDoc};

/// The job as metrics name it.
#[derive(Clone, Debug)]
pub struct JobLabels {
    /// `metadata.name`.
    pub job: String,
    /// Revision of the spec.
    pub revision: String,
    /// The pod.
    pub pod: String,
}

/// Bounds of the buckets of the commit time, in milliseconds.
const COMMIT_BUCKETS_MS: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000];

/// A registry over a monitor.
///
/// # Errors
/// When a name is taken twice: a bug that every test of this function finds.
pub fn registry(
    labels: &JobLabels,
    graph: Arc<JobGraph>,
    monitor: Arc<Monitor>,
) -> Result<Registry, prometheus::Error> {
    let common = HashMap::from([
        ("job".to_owned(), labels.job.clone()),
        ("revision".to_owned(), labels.revision.clone()),
        ("pod".to_owned(), labels.pod.clone()),
    ]);
    let registry = Registry::new_custom(None, Some(common))?;
    registry.register(Box::new(PodCollector { graph, monitor }))?;
    registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
    Ok(registry)
}

/// The exposition text.
///
/// # Errors
/// When a family is malformed.
pub fn render(registry: &Registry) -> Result<String, prometheus::Error> {
    let mut out = Vec::new();
    let mut families = registry.gather();
    // The registry adds the labels of the pod in any order: the same series looks the same each time.
    for metric in families.iter_mut().flat_map(|family| family.mut_metric().iter_mut()) {
        metric.mut_label().sort_by(|a, b| a.name().cmp(b.name()));
    }
    TextEncoder::new().encode(&families, &mut out)?;
    Ok(String::from_utf8_lossy(&out).into_owned())
}

struct PodCollector {
    graph: Arc<JobGraph>,
    monitor: Arc<Monitor>,
}

impl Collector for PodCollector {
    fn desc(&self) -> Vec<&Desc> {
        // The families are made anew at each collection; an empty list leaves the check of names to the tests.
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut out = Vec::new();
        self.sources(&mut out);
        self.stream_operators(&mut out);
        self.stores(&mut out);
        self.queues(&mut out);
        self.sinks(&mut out);
        self.workers(&mut out);
        commits(&self.monitor.commits(), &mut out);
        if let Some(view) = self.monitor.snapshots() {
            snapshots::collect(&view, &mut out);
        }
        out
    }
}

/// Series of one metric: label values and value.
type Series = Vec<(Vec<String>, f64)>;

const CONSTANT: &str = "names and labels of metrics are constants that the tests check";

/// Adds a counter or a gauge.
fn family(doc: &MetricDoc, series: &Series, out: &mut Vec<MetricFamily>) {
    let opts = Opts::new(doc.name, doc.help);
    let labels = |labels: &[String]| -> Vec<String> { labels.to_vec() };
    if doc.kind == Kind::Counter {
        let vec = CounterVec::new(opts, doc.labels).expect(CONSTANT);
        series.iter().for_each(|(names, value)| vec.with_label_values(&labels(names)).inc_by(*value));
        out.extend(vec.collect());
    } else {
        let vec = GaugeVec::new(opts, doc.labels).expect(CONSTANT);
        series.iter().for_each(|(names, value)| vec.with_label_values(&labels(names)).set(*value));
        out.extend(vec.collect());
    }
}

fn one(value: f64) -> Series {
    vec![(Vec::new(), value)]
}

impl PodCollector {
    fn sources(&self, out: &mut Vec<MetricFamily>) {
        let sources = self.monitor.sources();
        let by_table = |value: fn(&SourceStats) -> u64| -> BTreeMap<&str, u64> {
            let mut sums = BTreeMap::new();
            for source in &sources {
                *sums.entry(source.table.as_str()).or_default() += value(&source.stats);
            }
            sums
        };
        let sum = |value| -> Series {
            by_table(value).into_iter().map(|(table, sum)| (vec![table.to_owned()], sum as f64)).collect()
        };
        family(&list::SOURCE_RECORDS, &sum(SourceStats::records), out);
        family(&list::SOURCE_BYTES, &sum(SourceStats::bytes), out);
        let errors = |kind: &str, value| -> Series {
            let kinds = by_table(value).into_iter();
            kinds.map(|(table, sum)| (vec![table.to_owned(), kind.to_owned()], sum as f64)).collect()
        };
        let kinds = [errors("skipped", SourceStats::skipped), errors("dead_letter", SourceStats::dead_letters)];
        family(&list::SOURCE_ERRORS, &kinds.concat(), out);
        let (mut records, mut bytes) = (BTreeMap::new(), BTreeMap::new());
        for source in &sources {
            let label = vec![source.table.clone(), source.partition.0.clone()];
            match source.stats.lag() {
                Some(SizeHint::Rows(lag)) => *records.entry(label).or_insert(0.0) += lag as f64,
                Some(SizeHint::Bytes(lag)) => *bytes.entry(label).or_insert(0.0) += lag as f64,
                None => {}
            }
        }
        family(&list::SOURCE_LAG_RECORDS, &records.into_iter().collect(), out);
        family(&list::SOURCE_LAG_BYTES, &bytes.into_iter().collect(), out);
        if let Some(waited) = self.monitor.waited() {
            family(&list::SOURCE_HELD, &one(waited.as_secs_f64()), out);
        }
    }

    fn stream_operators(&self, out: &mut Vec<MetricFamily>) {
        let views = self.monitor.workers();
        let of = |node: &Node| {
            let id = node.id;
            views.iter().flat_map(move |view| view.progress.nodes.iter().filter(move |progress| progress.node == id))
        };
        let nodes = &self.graph.nodes;
        let sum = |value: fn(&NodeProgress) -> u64, wanted: fn(&NodeKind) -> bool| -> Series {
            let nodes = nodes.iter().filter(|node| wanted(&node.kind));
            nodes.map(|node| (label(node), of(node).map(value).sum::<u64>() as f64)).collect()
        };
        let keyed = NodeKind::has_state;
        family(&list::OPERATOR_IN, &sum(|n| n.rows_in, |_| true), out);
        family(&list::OPERATOR_OUT, &sum(|n| n.rows_out, |_| true), out);
        family(&list::OPERATOR_LATE, &sum(|n| n.late_dropped, |_| true), out);
        let busy = |node: &Node| of(node).map(|n| Duration::from_nanos(n.busy_ns).as_secs_f64()).sum();
        family(&list::OPERATOR_BUSY, &nodes.iter().map(|node| (label(node), busy(node))).collect(), out);
        family(&list::STATE_ENTRIES, &sum(|n| n.state_entries, keyed), out);
        family(&list::STATE_BYTES, &sum(|n| n.state_bytes, keyed), out);
        family(&list::STATE_HITS, &sum(|n| n.state_hits, keyed), out);
        family(&list::STATE_MISSES, &sum(|n| n.state_misses, keyed), out);
        family(&list::STATE_EVICTIONS, &sum(|n| n.state_evictions, keyed), out);
        let watermark = |node: &Node| Some(of(node).map(|n| n.watermark_ms).min()?? as f64 / 1000.0);
        let all = nodes.iter().filter_map(|node| Some((label(node), watermark(node)?))).collect();
        family(&list::OPERATOR_WATERMARK, &all, out);
        let mut tables = BTreeMap::new();
        for node in nodes {
            if let (NodeKind::Source(source), Some(mark)) = (&node.kind, watermark(node)) {
                let least: &mut f64 = tables.entry(vec![source.table.clone()]).or_insert(mark);
                *least = least.min(mark);
            }
        }
        family(&list::SOURCE_WATERMARK, &tables.into_iter().collect(), out);
    }

    fn stores(&self, out: &mut Vec<MetricFamily>) {
        let stores = self.monitor.stores();
        let series = |value: fn(&StoreFigures) -> u64| -> Series {
            stores.iter().map(|store| (vec![store.shard.0.to_string()], value(store) as f64)).collect()
        };
        family(&list::STATE_DISK, &series(|store| store.disk_bytes), out);
        family(&list::STATE_BUFFERS, &series(|store| store.buffer_bytes), out);
        family(&list::STATE_STALLED, &series(|store| u64::from(store.stalled)), out);
    }

    fn queues(&self, out: &mut Vec<MetricFamily>) {
        let mut sums: BTreeMap<Vec<String>, (f64, f64)> = BTreeMap::new();
        for queue in self.monitor.queues() {
            let Some(node) = self.graph.nodes.get(queue.node.0 as usize) else { continue };
            let mut label = label(node);
            label.push(queue.to.to_string());
            let (waiting, capacity) = sums.entry(label).or_default();
            *waiting += queue.waiting() as f64;
            *capacity += EXCHANGE_BATCHES as f64;
        }
        let waiting = sums.iter().map(|(label, sum)| (label.clone(), sum.0)).collect();
        family(&list::QUEUE_BATCHES, &waiting, out);
        family(&list::QUEUE_CAPACITY, &sums.into_iter().map(|(label, sum)| (label, sum.1)).collect(), out);
    }

    fn sinks(&self, out: &mut Vec<MetricFamily>) {
        let counts = self.monitor.sinks();
        let mut tables: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for node in &self.graph.nodes {
            if let NodeKind::Sink(sink) = &node.kind {
                let count = counts.get(&node.id.0).copied().unwrap_or_default();
                let (rows, bytes) = tables.entry(&sink.table).or_default();
                (*rows, *bytes) = (*rows + count.rows, *bytes + count.bytes);
            }
        }
        let series = |value: fn(&(u64, u64)) -> u64| -> Series {
            tables.iter().map(|(table, counts)| (vec![(*table).to_owned()], value(counts) as f64)).collect()
        };
        family(&list::SINK_RECORDS, &series(|counts| counts.0), out);
        family(&list::SINK_BYTES, &series(|counts| counts.1), out);
    }

    fn workers(&self, out: &mut Vec<MetricFamily>) {
        let views = self.monitor.workers();
        let busy = views.iter().enumerate().map(|(i, view)| (vec![i.to_string()], view.busy.as_secs_f64())).collect();
        family(&list::WORKER_BUSY, &busy, out);
        family(&list::POD_RUNNING, &one(f64::from(u8::from(self.monitor.running()))), out);
    }
}

fn label(node: &Node) -> Vec<String> {
    vec![node.name.clone(), node.uid.to_string()]
}

fn commits(commits: &CommitStats, out: &mut Vec<MetricFamily>) {
    let count = |outcome: &CommitOutcome| commits.outcomes.get(outcome).copied().unwrap_or_default();
    let outcomes = CommitOutcome::ALL.iter().map(|o| (vec![o.label().to_owned()], count(o) as f64)).collect();
    family(&list::COMMIT, &outcomes, out);
    out.push(commit_duration(&commits.micros, commits.total));
    if let Some(last) = commits.last_ms {
        family(&list::COMMIT_LAST, &one(last as f64 / 1000.0), out);
    }
}

/// The buckets are counted from the finer ones that the monitor keeps.
fn commit_duration(micros: &hdrhistogram::Histogram<u64>, total: Duration) -> MetricFamily {
    let bucket = |ms: &u64| {
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(*ms as f64 / 1000.0);
        bucket.set_cumulative_count(micros.count_between(0, ms * 1000));
        bucket
    };
    let mut histogram = Histogram::default();
    histogram.set_bucket(COMMIT_BUCKETS_MS.iter().map(bucket).collect());
    histogram.set_sample_count(micros.len());
    histogram.set_sample_sum(total.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    let mut family = MetricFamily::default();
    family.set_name(list::COMMIT_DURATION.name.to_owned());
    family.set_help(list::COMMIT_DURATION.help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn names_follow_the_convention_and_every_family_is_in_the_list() {
        let labels = JobLabels { job: "j".into(), revision: "r".into(), pod: "j-0".into() };
        let monitor = Arc::new(Monitor::new(Instant::now()));
        let registry = registry(&labels, Arc::new(JobGraph::default()), monitor).unwrap();
        for family in registry.gather().iter().filter(|family| !family.name().starts_with("process_")) {
            let name = family.name();
            let doc = ALL.iter().find(|doc| doc.name == name).unwrap_or_else(|| panic!("{name} is not in the list"));
            assert_eq!(family.help(), doc.help);
            let kind = match family.get_field_type() {
                MetricType::COUNTER => Kind::Counter,
                MetricType::HISTOGRAM => Kind::Histogram,
                _ => Kind::Gauge,
            };
            assert_eq!(kind, doc.kind, "{name}");
        }
        for doc in ALL {
            assert!(doc.name.starts_with("millstream_") && !doc.help.is_empty(), "{}", doc.name);
            assert_eq!(doc.kind == Kind::Counter, doc.name.ends_with("_total"), "{}", doc.name);
        }
        assert!(render(&registry).unwrap().contains("millstream_pod_running{job=\"j\",pod=\"j-0\",revision=\"r\"} 0"));
    }

    #[test]
    fn the_commit_time_is_a_histogram_from_a_millisecond_to_a_minute() {
        let mut micros = hdrhistogram::Histogram::new_with_bounds(1, 600_000_000, 3).unwrap();
        for took in [700, 7_000, 7_000, 300_000, 100_000_000] {
            micros.record(took).unwrap();
        }
        let family = commit_duration(&micros, Duration::from_micros(100_314_700));
        let text = TextEncoder::new().encode_to_string(&[family]).unwrap();
        for line in ["bucket{le=\"0.001\"} 1", "bucket{le=\"0.01\"} 3", "bucket{le=\"0.5\"} 4", "bucket{le=\"60\"} 4"] {
            assert!(text.contains(line), "no {line} in {text}");
        }
        assert!(text.contains("bucket{le=\"+Inf\"} 5") && text.contains("_count 5"), "{text}");
        assert!(text.contains("_sum 100.3147"), "{text}");
    }
}
