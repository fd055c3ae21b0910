//! `millstream run`: a job on this machine, with its progress on the screen.
//!
//! Owns what a laptop adds to a pod: the state directory's place, the progress display, the report at the end.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use dataflow::key::Shards;
use job_api::PodPhase;
use tokio_util::sync::CancellationToken;

use super::failure::Failure;
use super::job::{self, Loaded};
use super::{ReportFormat, RunArgs, progress, report, signals};
use crate::background::Background;
use crate::connector::registry::{ConnectorContext, Output};
use crate::control::{Bound, ControlPort, Settling};
use crate::http::Pages;
use crate::pod::monitor::Monitor;
use crate::pod::orders::Orders;
use crate::pod::{Ended, Pod, PodConfig, PodError};
use crate::state::memory::StateMemory;

/// Directory below the current one that holds the state of jobs.
const STATE_ROOT: &str = ".millstream";
/// A run on a laptop has no revision.
const LOCAL_REVISION: &str = "local";
/// How often to look whether somebody still waits to be told.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Runs a job to its end.
pub(super) fn run(args: &RunArgs, started: Instant) -> Result<(), Failure> {
    let loaded = job::load(&args.file)?;
    let monitor = Arc::new(Monitor::new(started));
    let config = config(args, &loaded)?;
    let state_dir = config.state_dir.clone();
    let listener = args.control.map(listen).transpose()?;
    let pages = Arc::new(Pages {
        monitor: Arc::clone(&monitor),
        registry: Mutex::new(None),
        graph: OnceLock::from(Arc::new(loaded.planned.graph.clone())),
        phase: Mutex::new((PodPhase::Starting, None)),
        revision: LOCAL_REVISION.to_owned(),
    });
    let orders: Arc<dyn Orders> = Arc::<Monitor>::clone(&monitor);
    let control = ControlPort::of_run(Arc::clone(&pages), orders);
    let pod = Pod::start(config, &monitor, started).map_err(|error| start_failure(&loaded, error))?;
    pages.phase.lock().unwrap_or_else(PoisonError::into_inner).0 = PodPhase::Running;
    let shown = progress::Progress::new(&loaded, &pod.report, &state_dir);
    let (watched, listener, port) = (Arc::clone(&monitor), listener, Arc::clone(&control));
    let background = Background::start(move |cancel| async move {
        let signals = signals::watch(Arc::clone(&watched), cancel.clone());
        let orders = serve_control(listener, port, cancel.clone());
        let (signals, (), orders) = tokio::join!(signals, shown.run(&watched, cancel), orders);
        if let Err(error) = signals {
            tracing::warn!(%error, "cannot watch for signals");
        }
        if let Err(error) = orders {
            tracing::warn!(%error, "cannot take orders");
        }
    });
    let background = background.map_err(|e| Failure::Start(format!("cannot start a thread: {e}")))?;
    let ended = pod.run();
    tell_the_end(control.settling());
    drop(background);
    let ended = ended.map_err(Failure::Run)?;
    match args.report {
        ReportFormat::Text => report::text(&monitor, ended, started.elapsed(), &state_dir),
        ReportFormat::Json => report::json(&monitor, ended == Ended::AtEnd, started.elapsed()),
    }
    Ok(())
}

/// Binds the port for orders before anything is started, so that a port that is taken is seen at once.
fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    bound.map_err(|error| Failure::Start(format!("cannot take orders at {address}: {error}; write another --control")))
}

async fn serve_control(
    listener: Option<TcpListener>,
    port: Arc<ControlPort>,
    cancel: CancellationToken,
) -> std::io::Result<()> {
    if let Some(listener) = listener {
        Bound::of_run(listener)?.serve(port, cancel).await;
    }
    Ok(())
}

/// Who ordered a savepoint behind which the job ends is told of its end before the port closes.
fn tell_the_end(settling: &Settling) {
    while settling.is_watched() {
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A connector's complaint is shown in the file; anything else as it is.
fn start_failure(loaded: &Loaded, error: PodError) -> Failure {
    match error {
        PodError::Connector(error) => loaded.blame(&error),
        other => Failure::Start(other.to_string()),
    }
}

fn config(args: &RunArgs, loaded: &Loaded) -> Result<PodConfig, Failure> {
    let file = &loaded.file;
    let shards = Shards::new(file.shards).expect("the job file's bounds are those of the engine");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = args.workers.or(file.workers).map_or(cores, usize::from).min(usize::from(file.shards));
    let state_dir = args.state_dir.clone().unwrap_or_else(|| Path::new(STATE_ROOT).join(&file.name));
    let output: Output = Arc::new(Mutex::new(std::io::stdout()));
    Ok(PodConfig {
        planned: loaded.planned.clone(),
        name: file.name.clone(),
        uid: file.uid.clone(),
        shards,
        commit_interval: file.commit_interval,
        workers,
        state_dir: absolute(state_dir)?,
        // The other one runs until somebody ends it, most likely.
        state_dir_wait: Duration::ZERO,
        state_memory: StateMemory::new(file.state_memory),
        fresh: args.fresh,
        restore_from: args.from_savepoint.clone().or(file.restore_from.clone()),
        allow_lost_state: args.allow_lost_state,
        stays_ended: false,
        snapshots: loaded.snapshots(args.checkpoint_dir.clone()),
        ordinal: 0,
        pods: 1,
        waited: None,
        connectors: ConnectorContext {
            base_dir: loaded.base_dir.clone(),
            job_uid: String::new(),
            kafka: None,
            output,
            bounded: false,
        },
    })
}

fn absolute(path: PathBuf) -> Result<PathBuf, Failure> {
    std::path::absolute(&path).map_err(|e| Failure::Usage(format!("directory {}: {e}", path.display())))
}
