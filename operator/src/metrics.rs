//! Metrics of the operator, named `millstream_operator_…`. Labels come from enums, so their number is bounded.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crds::v1alpha1::Phase;
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

/// How a reconcile ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The cluster is as decided.
    Ok,
    /// It will be tried again.
    Error,
}

/// What the operator wrote to the API server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// An object of a job was applied.
    Apply,
    /// A status was written.
    Status,
    /// A pod or StatefulSet was deleted.
    Delete,
    /// A finalizer was added or removed.
    Finalizer,
    /// An event was published.
    Event,
}

impl Write {
    const ALL: [Self; 5] = [Self::Apply, Self::Status, Self::Delete, Self::Finalizer, Self::Event];

    fn label(self) -> &'static str {
        match self {
            Self::Apply => "apply",
            Self::Status => "status",
            Self::Delete => "delete",
            Self::Finalizer => "finalizer",
            Self::Event => "event",
        }
    }
}

/// A metric that cannot be made: two of the same name, a bug of ours.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the operator's metrics")]
pub struct MetricsError(#[from] prometheus::Error);

/// The operator's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciles: IntCounterVec,
    duration: Histogram,
    writes: IntCounterVec,
    malformed: IntCounter,
    watch_errors: IntCounter,
    leader: IntGauge,
    jobs: IntGaugeVec,
    phases: Mutex<HashMap<String, Phase>>,
}

impl Metrics {
    /// All metrics at zero.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let reconciles = IntCounterVec::new(
            Opts::new("millstream_operator_reconciles_total", "Reconciles of StreamJobs by outcome"),
            &["outcome"],
        )?;
        let duration = Histogram::with_opts(
            HistogramOpts::new("millstream_operator_reconcile_duration_seconds", "Time of one reconcile")
                .buckets(vec![0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]),
        )?;
        let writes = IntCounterVec::new(
            Opts::new("millstream_operator_api_writes_total", "Writes to the API server by kind"),
            &["kind"],
        )?;
        let malformed = IntCounter::new(
            "millstream_operator_malformed_objects_total",
            "StreamJobs seen that cannot be read as this version's StreamJob",
        )?;
        let watch_errors =
            IntCounter::new("millstream_operator_watch_errors_total", "Errors of watches on the API server")?;
        let leader = IntGauge::new("millstream_operator_leader", "Whether this process holds the lease")?;
        let jobs = IntGaugeVec::new(Opts::new("millstream_operator_jobs", "StreamJobs by phase"), &["phase"])?;
        for collector in [
            Box::new(reconciles.clone()) as Box<dyn prometheus::core::Collector>,
            Box::new(duration.clone()),
            Box::new(writes.clone()),
            Box::new(malformed.clone()),
            Box::new(watch_errors.clone()),
            Box::new(leader.clone()),
            Box::new(jobs.clone()),
            Box::new(prometheus::process_collector::ProcessCollector::for_self()),
        ] {
            registry.register(collector)?;
        }
        for outcome in ["ok", "error"] {
            reconciles.with_label_values(&[outcome]);
        }
        for write in Write::ALL {
            writes.with_label_values(&[write.label()]);
        }
        for phase in Phase::ALL {
            jobs.with_label_values(&[phase.as_str()]);
        }
        let phases = Mutex::new(HashMap::new());
        Ok(Self { registry, reconciles, duration, writes, malformed, watch_errors, leader, jobs, phases })
    }

    /// One reconcile ended.
    pub fn reconciled(&self, outcome: Outcome, took: Duration) {
        let label = match outcome {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
        };
        self.reconciles.with_label_values(&[label]).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// One write to the API server was made.
    pub fn wrote(&self, write: Write) {
        self.writes.with_label_values(&[write.label()]).inc();
    }

    /// A StreamJob was seen that cannot be read.
    pub fn malformed(&self) {
        self.malformed.inc();
    }

    /// A watch failed; it is started again.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Whether this process holds the lease.
    pub fn leading(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// A job is in this phase, or gone.
    pub fn job(&self, key: &str, phase: Option<Phase>) {
        let mut phases = self.phases.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match phase {
            Some(phase) => phases.insert(key.to_owned(), phase),
            None => phases.remove(key),
        };
        if before == phase {
            return;
        }
        if let Some(before) = before {
            self.jobs.with_label_values(&[before.as_str()]).dec();
        }
        if let Some(phase) = phase {
            self.jobs.with_label_values(&[phase.as_str()]).inc();
        }
    }

    /// The metrics in Prometheus' text format.
    pub fn text(&self) -> Result<String, MetricsError> {
        let mut bytes = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_counted_once_in_the_phase_that_it_is_in() {
        let metrics = Metrics::new().expect("names are distinct");
        metrics.job("a/b", Some(Phase::Deploying));
        metrics.job("a/b", Some(Phase::Running));
        metrics.job("a/c", Some(Phase::Running));
        metrics.job("a/c", None);
        let text = metrics.text().expect("metrics are text");
        assert!(text.contains("millstream_operator_jobs{phase=\"Running\"} 1"), "{text}");
        assert!(text.contains("millstream_operator_jobs{phase=\"Deploying\"} 0"), "{text}");
    }

    #[test]
    fn every_metric_is_in_the_book() {
        let page = include_str!("../../docs/src/operations/metrics.md");
        let plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let names = include_str!("metrics.rs").split('"').filter(plain);
        let names: Vec<&str> = names.filter(|text| text.starts_with("millstream_") && !text.ends_with('_')).collect();
        assert!(names.len() >= 7, "{names:?}");
        for name in names {
            assert!(page.contains(&format!("`{name}`")), "{name} is not in the book");
        }
    }

    #[test]
    fn every_name_begins_with_the_component() {
        let text = Metrics::new().expect("names are distinct").text().expect("metrics are text");
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("millstream_operator_") || line.starts_with("process_"), "{line}");
        }
    }
}
