//! Prometheus metrics of a pod: names, help texts and labels, filled from the monitor whenever they are asked for.
//!
//! Owns the names (`millstream_<component>_<thing>_<unit>[_total]`). Labels are the job's name and the plan's stream operators and tables, so
//! their number is bounded by the job. It counts nothing itself.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::pod::monitor::{CommitOutcome, Monitor};

use std::collections::HashMap;
use std::sync::Arc;

use dataflow::graph::{JobGraph, NodeKind};

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

/// Quantiles of the commit time that are shown.
const QUANTILES: [f64; 3] = [0.5, 0.9, 0.99];

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
        self.sources_and_operators(&mut out);
        self.sinks(&mut out);
        self.workers(&mut out);
        self.commits(&mut out);
        out
    }
}

fn counter(name: &str, help: &str, labels: &[&str], values: &[(Vec<String>, u64)], out: &mut Vec<MetricFamily>) {
    let vec =
        IntCounterVec::new(Opts::new(name, help), labels).expect("metric names are constants that the tests check");
    for (labels, value) in values {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        vec.with_label_values(&labels).inc_by(*value);
    }
    out.extend(vec.collect());
}

fn gauge(name: &str, help: &str, labels: &[&str], values: &[(Vec<String>, f64)], out: &mut Vec<MetricFamily>) {
    let vec = GaugeVec::new(Opts::new(name, help), labels).expect("metric names are constants that the tests check");
    for (labels, value) in values {
        let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
        vec.with_label_values(&labels).set(*value);
    }
    out.extend(vec.collect());
}

impl PodCollector {
    fn sources_and_operators(&self, out: &mut Vec<MetricFamily>) {
        let views = self.monitor.workers();
        let of = |node: &dataflow::graph::Node| {
            let id = node.id;
            views.iter().flat_map(move |view| view.progress.nodes.iter().filter(move |progress| progress.node == id))
        };
        let label = |node: &dataflow::graph::Node| vec![node.name.clone(), node.uid.to_string()];
        let nodes = &self.graph.nodes;
        let sum = |value: fn(&dataflow::worker::NodeProgress) -> u64| -> Vec<_> {
            nodes.iter().map(|node| (label(node), of(node).map(value).sum())).collect()
        };
        let both = &["operator", "uid"];
        counter(
            "millstream_operator_records_in_total",
            "Rows that a stream operator was given.",
            both,
            &sum(|n| n.rows_in),
            out,
        );
        counter(
            "millstream_operator_records_out_total",
            "Rows that a stream operator emitted.",
            both,
            &sum(|n| n.rows_out),
            out,
        );
        counter(
            "millstream_operator_late_records_total",
            "Rows that came behind the watermark and were dropped.",
            both,
            &sum(|n| n.late_dropped),
            out,
        );
        let state = |value: fn(&dataflow::worker::NodeProgress) -> u64| -> Vec<_> {
            let keyed = nodes.iter().filter(|node| matches!(node.kind, NodeKind::WindowAggregate(_)));
            keyed.map(|node| (label(node), of(node).map(value).sum::<u64>() as f64)).collect()
        };
        gauge("millstream_state_entries", "Entries of keyed state in memory.", both, &state(|n| n.state_entries), out);
        gauge("millstream_state_bytes", "Size of keyed state in memory, about.", both, &state(|n| n.state_bytes), out);
        let watermarks: Vec<_> = nodes
            .iter()
            .filter_map(|node| Some((label(node), of(node).map(|n| n.watermark_ms).min()??)))
            .map(|(label, ms)| (label, ms as f64 / 1000.0))
            .collect();
        gauge(
            "millstream_operator_watermark_seconds",
            "Watermark in seconds since 1970-01-01T00:00:00Z, the least of all workers.",
            both,
            &watermarks,
            out,
        );
    }

    fn sinks(&self, out: &mut Vec<MetricFamily>) {
        let counts = self.monitor.sinks();
        let sinks: Vec<_> = self
            .graph
            .nodes
            .iter()
            .filter_map(|node| match &node.kind {
                NodeKind::Sink(sink) => {
                    Some((vec![sink.table.clone()], counts.get(&node.id.0).copied().unwrap_or_default()))
                }
                _ => None,
            })
            .collect();
        let rows: Vec<_> = sinks.iter().map(|(label, count)| (label.clone(), count.rows)).collect();
        let bytes: Vec<_> = sinks.iter().map(|(label, count)| (label.clone(), count.bytes)).collect();
        counter(
            "millstream_sink_records_total",
            "Rows handed to a sink; visible after their commit.",
            &["table"],
            &rows,
            out,
        );
        counter("millstream_sink_bytes_total", "Encoded bytes handed to a sink.", &["table"], &bytes, out);
        counter(
            "millstream_source_records_total",
            "Rows read by all sources of the pod.",
            &[],
            &[(Vec::new(), self.monitor.rows_in())],
            out,
        );
    }

    fn workers(&self, out: &mut Vec<MetricFamily>) {
        let views = self.monitor.workers();
        let busy: Vec<_> =
            views.iter().enumerate().map(|(i, view)| (vec![i.to_string()], view.busy.as_micros() as u64)).collect();
        counter(
            "millstream_worker_busy_microseconds_total",
            "Time that a worker spent on rows; its rate divided by 1e6 is the busy ratio.",
            &["worker"],
            &busy,
            out,
        );
        let running = f64::from(u8::from(self.monitor.running()));
        gauge(
            "millstream_pod_running",
            "1 while rows flow, 0 while the pod starts.",
            &[],
            &[(Vec::new(), running)],
            out,
        );
    }

    fn commits(&self, out: &mut Vec<MetricFamily>) {
        let commits = self.monitor.commits();
        let outcomes: Vec<_> = CommitOutcome::ALL
            .iter()
            .map(|outcome| {
                (vec![outcome.label().to_owned()], commits.outcomes.get(outcome).copied().unwrap_or_default())
            })
            .collect();
        counter("millstream_commit_total", "Commits by outcome.", &["outcome"], &outcomes, out);
        let total = commits.total.as_micros() as u64;
        counter(
            "millstream_commit_duration_microseconds_total",
            "Time spent in commits.",
            &[],
            &[(Vec::new(), total)],
            out,
        );
        if commits.micros.is_empty() {
            return;
        }
        let quantiles: Vec<_> = QUANTILES
            .iter()
            .map(|q| (vec![q.to_string()], commits.micros.value_at_quantile(*q) as f64 / 1e6))
            .collect();
        gauge(
            "millstream_commit_duration_seconds",
            "Duration of commits since the start, by quantile.",
            &["quantile"],
            &quantiles,
            out,
        );
        if let Some(last) = commits.last_ms {
            let seconds = last as f64 / 1000.0;
            gauge(
                "millstream_commit_last_timestamp_seconds",
                "When the last commit succeeded, in seconds since 1970-01-01T00:00:00Z.",
                &[],
                &[(Vec::new(), seconds)],
                out,
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn names_follow_the_convention_and_say_what_they_are() {
        let labels = JobLabels { job: "j".into(), revision: "r".into(), pod: "j-0".into() };
        let monitor = Arc::new(Monitor::new(Instant::now()));
        let registry = registry(&labels, Arc::new(JobGraph::default()), monitor).unwrap();
        for family in registry.gather().iter().filter(|family| !family.name().starts_with("process_")) {
            let name = family.name();
            assert!(name.starts_with("millstream_"), "{name}");
            assert!(!family.help().is_empty(), "{name}");
            let counter = family.get_field_type() == prometheus::proto::MetricType::COUNTER;
            assert_eq!(counter, name.ends_with("_total"), "{name}");
        }
        assert!(render(&registry).unwrap().contains("millstream_pod_running{job=\"j\",pod=\"j-0\",revision=\"r\"} 0"));
    }
}
