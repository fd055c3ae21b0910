//! `millstream pod`: the job of a StatefulSet's pod. Configuration from the mounted files, health and status over HTTP, last words for
//! Kubernetes.
//!
//! Owns what Kubernetes adds to a pod. The job itself runs as on a laptop.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dataflow::key::Shards;
use job_api::{JOB_FILE, PodPhase, PodSettings, SETTINGS_FILE, Termination, TerminationReason, VERSION};
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::job::{self, Loaded};
use super::{PodArgs, signals};
use crate::background::Background;
use crate::commit::kafka::RecoverError;
use crate::connector::registry::{ConnectorContext, Output};
use crate::control::{Bound, ControlError, ControlPort};
use crate::crash::{self, Step};
use crate::http::{self, Pages};
use crate::metrics::{self, JobLabels};
use crate::pod::monitor::Monitor;
use crate::pod::orders::Orders;
use crate::pod::{Ended, Pod, PodConfig, PodError};
use crate::snapshot::place::StorePlace;
use crate::state::memory::StateMemory;

/// A pod that is deleted by force is replaced before its process has gone: that one has its grace period, 30 seconds unless the job says
/// otherwise, to make its last commit. Who waits does not fail, and is not held back longer and longer by Kubernetes.
const STATE_DIR_WAIT: Duration = Duration::from_secs(60);

/// Tells a process that begins anew under which assignment the one before it has waited long enough for releases.
const WAITED: &str = "MILLSTREAM_WAITED";

/// Runs until ended from outside or failed.
pub(super) fn run(args: &PodArgs, started: Instant) -> ExitCode {
    // Before there is any other thread.
    signals::hold();
    let result = settings(&args.config_dir).and_then(|settings| {
        let span =
            tracing::info_span!("pod", job = tracing::field::Empty, revision = settings.revision, pod = args.pod_name);
        let _entered = span.clone().entered();
        serve(args, &settings, started, &span)
    });
    match result {
        Ok(Ended::Reassigned { waited }) => begin_anew(waited),
        Ok(Ended::AtEnd | Ended::Stopped) => ExitCode::SUCCESS,
        Err((reason, failure)) => {
            failure.print();
            let message = last_words(&failure);
            tracing::error!(reason = ?reason, "{message}");
            write_termination(&args.termination_file, &Termination { version: VERSION, reason, message });
            failure.exit_code()
        }
    }
}

type PodResult<T> = Result<T, (TerminationReason, Failure)>;

fn settings(dir: &Path) -> PodResult<PodSettings> {
    let path = dir.join(SETTINGS_FILE);
    let wrong = |what: String| (TerminationReason::InvalidJob, Failure::Usage(format!("{}: {what}", path.display())));
    let text = std::fs::read_to_string(&path).map_err(|e| wrong(e.to_string()))?;
    let settings: PodSettings = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
    if settings.version > VERSION {
        return Err(wrong(format!(
            "version {} is newer than this image reads ({VERSION}); use the operator's image",
            settings.version
        )));
    }
    Ok(settings)
}

fn serve(args: &PodArgs, settings: &PodSettings, started: Instant, span: &tracing::Span) -> PodResult<Ended> {
    let monitor = Arc::new(Monitor::new(started));
    let pages = Arc::new(Pages {
        monitor: Arc::clone(&monitor),
        registry: Mutex::new(None),
        graph: OnceLock::new(),
        phase: Mutex::new((PodPhase::Starting, None)),
        revision: settings.revision.clone(),
    });
    let orders: Arc<dyn Orders> = Arc::<Monitor>::clone(&monitor);
    let file = args.config_dir.join(SETTINGS_FILE);
    let control = ControlPort::of_pod(Arc::clone(&pages), orders, file, settings);
    let (ports, shown, watched) = ((args.health_port, args.control_port), Arc::clone(&pages), Arc::clone(&monitor));
    let background = Background::start(move |cancel| async move {
        let http = http::serve(shown, ports.0, cancel.clone());
        let orders = serve_control(control, ports.1, cancel.clone());
        let (http, orders, signals) = tokio::join!(http, orders, signals::watch(watched, cancel));
        if let Err(error) = http.and(signals) {
            tracing::error!(%error, "cannot serve health");
        }
        if let Err(error) = orders {
            tracing::error!(%error, "cannot serve status and orders");
        }
    });
    let internal =
        |e: std::io::Error| (TerminationReason::Internal, Failure::Start(format!("cannot start a thread: {e}")));
    let background = background.map_err(internal)?;
    let set = |phase, error| *pages.phase.lock().unwrap_or_else(PoisonError::into_inner) = (phase, error);
    let result = run_job(args, settings, &pages, &monitor, started, span, &|| set(PodPhase::Running, None));
    match &result {
        Ok(Ended::AtEnd) => {
            set(PodPhase::Finished, None);
            tracing::info!("the input is at its end and everything is committed; waiting to be ended");
            wait_for_stop(&monitor);
        }
        // By an order, not by a signal: the job's work has ended, and a process that ended too would be started again.
        Ok(Ended::Stopped) if !monitor.stop_asked() => {
            set(PodPhase::Finished, None);
            tracing::info!("stopped as ordered, everything is committed; waiting to be ended");
            wait_for_stop(&monitor);
        }
        Ok(Ended::Stopped | Ended::Reassigned { .. }) => {}
        Err((reason, failure)) => {
            set(
                PodPhase::Failed,
                Some(Termination { version: VERSION, reason: *reason, message: last_words(failure) }),
            );
        }
    }
    // From here on nobody watches for signals: one that comes is for the process that replaces this one.
    drop(background);
    match result {
        Ok(Ended::Reassigned { .. }) if monitor.stop_asked() => Ok(Ended::Stopped),
        result => result,
    }
}

async fn serve_control(control: Arc<ControlPort>, port: u16, cancel: CancellationToken) -> Result<(), ControlError> {
    Bound::of_pod(port).await?.serve(control, cancel).await;
    Ok(())
}

/// Replaces the process by a new one with the same arguments: a start settles and restores what is gained, and Kubernetes need not know.
fn begin_anew(waited: Option<u64>) -> ExitCode {
    let program = std::env::current_exe().unwrap_or_else(|_| "/proc/self/exe".into());
    let mut anew = std::process::Command::new(program);
    anew.args(std::env::args_os().skip(1)).env_remove(WAITED).envs(crash::passed());
    anew.envs(waited.map(|number| (WAITED, number.to_string())));
    // Returns only if it failed.
    let error = crash::around(Step::Anew, || anew.exec());
    tracing::error!(%error, "cannot begin anew; leaving it to Kubernetes");
    ExitCode::FAILURE
}

fn run_job(
    args: &PodArgs,
    settings: &PodSettings,
    pages: &Pages,
    monitor: &Arc<Monitor>,
    started: Instant,
    span: &tracing::Span,
    running: &dyn Fn(),
) -> PodResult<Ended> {
    let invalid = |failure| (TerminationReason::InvalidJob, failure);
    let loaded = job::load(&args.config_dir.join(JOB_FILE)).map_err(invalid)?;
    span.record("job", loaded.file.name.as_str());
    let labels =
        JobLabels { job: loaded.file.name.clone(), revision: settings.revision.clone(), pod: args.pod_name.clone() };
    let graph = Arc::new(loaded.planned.graph.clone());
    let _ = pages.graph.set(Arc::clone(&graph));
    match metrics::registry(&labels, graph, Arc::clone(monitor)) {
        Ok(registry) => *pages.registry.lock().unwrap_or_else(PoisonError::into_inner) = Some(registry),
        Err(error) => tracing::error!(%error, "no metrics"),
    }
    let config = config(args, settings, &loaded).map_err(invalid)?;
    let failed = |error: PodError, start: bool| {
        let reason = error.reason();
        let failure = match error {
            PodError::Connector(error) if start => loaded.blame(&error),
            other if start => Failure::Start(other.to_string()),
            other => Failure::Run(other),
        };
        (reason, failure)
    };
    let pod = match Pod::start(config, monitor, started) {
        Err(PodError::Stopped | PodError::Recover(RecoverError::Stopped)) => return Ok(Ended::Stopped),
        Err(PodError::Recover(error @ RecoverError::Ended { .. })) => {
            tracing::info!("{error}");
            return Ok(Ended::Stopped);
        }
        other => other.map_err(|error| failed(error, true))?,
    };
    running();
    tracing::info!(resumes = pod.report.resumes, ms = started.elapsed().as_millis() as u64, "running");
    pod.run().map_err(|error| failed(error, false))
}

fn config(args: &PodArgs, settings: &PodSettings, loaded: &Loaded) -> Result<PodConfig, Failure> {
    let file = &loaded.file;
    let number = args.pod_name.rsplit_once('-').and_then(|(_, number)| number.parse::<u16>().ok());
    let ordinal =
        number.ok_or_else(|| Failure::Usage(format!("pod name {} does not end in a number", args.pod_name)))?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let checkpoints = settings.checkpoints.as_ref().map(StorePlace::of_settings).or(args.checkpoint_dir.clone());
    let output: Output = Arc::new(Mutex::new(std::io::stdout()));
    Ok(PodConfig {
        planned: loaded.planned.clone(),
        name: file.name.clone(),
        uid: Some(settings.job_uid.clone()),
        shards: Shards::new(file.shards).expect("the job file's bounds are those of the engine"),
        commit_interval: file.commit_interval,
        workers: file.workers.map_or(cores, usize::from).min(usize::from(file.shards)),
        state_dir: args.state_dir.clone(),
        state_dir_wait: STATE_DIR_WAIT,
        state_memory: StateMemory::new(file.state_memory),
        fresh: false,
        restore_from: settings.restore_from.clone().or(file.restore_from.clone()),
        allow_lost_state: false,
        stays_ended: true,
        snapshots: loaded.snapshots(checkpoints),
        ordinal,
        pods: settings.replicas,
        waited: std::env::var(WAITED).ok().and_then(|number| number.parse().ok()),
        connectors: ConnectorContext {
            base_dir: loaded.base_dir.clone(),
            job_uid: settings.job_uid.clone(),
            kafka: settings.kafka.clone(),
            output,
            bounded: false,
        },
    })
}

/// Waits for SIGTERM: the operator scales a finished job to zero.
fn wait_for_stop(monitor: &Monitor) {
    while !monitor.stop_asked() {
        // The signal's handler unparks the driver's thread, which is this one.
        std::thread::park_timeout(std::time::Duration::from_secs(1));
    }
}

fn last_words(failure: &Failure) -> String {
    match failure {
        Failure::Job(diagnostics) | Failure::Connector(diagnostics) => diagnostics.summary(),
        Failure::Usage(text) | Failure::Start(text) | Failure::Unreachable(text) | Failure::Order(text) => text.clone(),
        Failure::Run(error) => error.to_string(),
    }
}

fn write_termination(path: &Path, termination: &Termination) {
    let text = serde_json::to_string(termination).expect("a termination is plain text and numbers");
    if let Err(error) = std::fs::write(path, text) {
        tracing::warn!(%error, path = %path.display(), "cannot leave last words");
    }
}
