//! The port of health and metrics, and what a pod says of itself on this port and on the control port.
//!
//! Owns routes and answers. What "alive" and "ready" mean is decided from the monitor's facts by the functions here; nothing can be
//! changed over this port (see `control`).

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use dataflow::graph::{JobGraph, Node};
use job_api::{OperatorStatus, PodPhase, PodStatus, Termination};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::pod::WorkerView;
use crate::pod::monitor::Monitor;

/// A driver that has not gone round its loop for so long is stuck: longer than any wait that has a deadline of its own.
const STUCK: Duration = Duration::from_secs(90);

/// What the ports answer from.
pub(crate) struct Pages {
    /// The run's numbers.
    pub(crate) monitor: Arc<Monitor>,
    /// Metrics; set when the job is planned.
    pub(crate) registry: Mutex<Option<Registry>>,
    /// The job's stream operators; set when it is planned.
    pub(crate) graph: OnceLock<Arc<JobGraph>>,
    /// Where the pod is in its life, and why it failed.
    pub(crate) phase: Mutex<(PodPhase, Option<Termination>)>,
    /// The revision that the pod runs.
    pub(crate) revision: String,
}

impl Pages {
    fn phase(&self) -> (PodPhase, Option<Termination>) {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Alive: starting, ended in order, or a driver that goes round.
    fn alive(&self) -> bool {
        match self.phase().0 {
            PodPhase::Starting | PodPhase::Finished | PodPhase::Failed => true,
            PodPhase::Running => self.monitor.since_beat() < STUCK,
        }
    }

    /// Ready: recovered, and able to commit; or finished.
    fn ready(&self) -> bool {
        match self.phase().0 {
            PodPhase::Starting | PodPhase::Failed => false,
            PodPhase::Finished => true,
            PodPhase::Running => self.monitor.running() && self.monitor.since_beat() < STUCK,
        }
    }

    /// What the pod says of itself.
    pub(crate) fn status(&self) -> PodStatus {
        let (phase, error) = self.phase();
        let commits = self.monitor.commits();
        PodStatus {
            version: job_api::VERSION,
            revision: self.revision.clone(),
            phase,
            commits: commits.micros.len(),
            last_commit_ms: commits.last_ms,
            rows_in: self.monitor.rows_in(),
            rows_out: self.monitor.rows_out(),
            lag_rows: self.monitor.lag_records(),
            waits: self.monitor.waits_for(),
            watermark_ms: self.monitor.watermark_ms().filter(|ms| *ms != i64::MAX),
            settings_replicas: None,
            snapshots: self.monitor.snapshots().map(|view| view.status()),
            operators: self.graph.get().map(|graph| operators(graph, &self.monitor.workers())).unwrap_or_default(),
            error,
        }
    }
}

/// What the stream operators did, over all workers.
fn operators(graph: &JobGraph, workers: &[WorkerView]) -> Vec<OperatorStatus> {
    let status = |node: &Node| {
        let of_node =
            || workers.iter().flat_map(|view| &view.progress.nodes).filter(|progress| progress.node == node.id);
        OperatorStatus {
            uid: node.uid.to_string(),
            name: node.name.clone(),
            rows_in: of_node().map(|progress| progress.rows_in).sum(),
            rows_out: of_node().map(|progress| progress.rows_out).sum(),
            busy_ms: of_node().map(|progress| progress.busy_ns).sum::<u64>() / 1_000_000,
            watermark_ms: of_node().map(|progress| progress.watermark_ms).min().flatten().filter(|ms| *ms != i64::MAX),
            state_bytes: of_node().map(|progress| progress.state_bytes).sum(),
        }
    };
    graph.nodes.iter().map(status).collect()
}

/// Serves health and metrics until cancelled.
///
/// # Errors
/// When the port cannot be bound.
pub(crate) async fn serve(pages: Arc<Pages>, health: u16, cancel: CancellationToken) -> std::io::Result<()> {
    let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, health))).await?;
    axum::serve(listener, health_routes(pages)).with_graceful_shutdown(cancel.cancelled_owned()).await
}

fn health_routes(pages: Arc<Pages>) -> Router {
    Router::new()
        .route(
            "/healthz",
            get(|State(pages): State<Arc<Pages>>| async move { answer(pages.alive(), "the driver is stuck") }),
        )
        .route("/readyz", get(|State(pages): State<Arc<Pages>>| async move { answer(pages.ready(), "not running") }))
        .route(
            "/startupz",
            get(|State(pages): State<Arc<Pages>>| async move { answer(pages.ready(), "still starting") }),
        )
        .route("/metrics", get(metrics))
        .with_state(pages)
}

fn answer(good: bool, why_not: &'static str) -> (StatusCode, &'static str) {
    if good { (StatusCode::OK, "ok\n") } else { (StatusCode::SERVICE_UNAVAILABLE, why_not) }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Result<String, (StatusCode, String)> {
    let registry = pages.registry.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Some(registry) = registry else { return Ok(String::new()) };
    crate::metrics::render(&registry).map_err(|e| (StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}
