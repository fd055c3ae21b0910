//! Wiring: the client, the health port, the election, one controller per kind and watched namespace. It holds no logic of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crds::names;
use crds::v1alpha1::{Checkpoint, StreamCluster, StreamJob};
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::controller::Controller;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::{controller, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use tokio_util::sync::CancellationToken;

use crate::access::Access;
use crate::args::Args;
use crate::checkpoints;
use crate::controller::apply::AppliedCache;
use crate::controller::{Context, Error as ReconcileError, error_policy, reconcile};
use crate::job_client::HttpJobClient;
use crate::leader::{Election, LeaderError};
use crate::metrics::{Metrics, MetricsError};
use crate::server::{Health, ServerError, serve};

/// How long reconciles that run may take to end when the operator stops.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How long the API server may take to answer the first question.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// Why the operator stops.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No way to the API server.
    #[error("cannot find the API server: neither KUBECONFIG nor a pod's service account can be used")]
    Config(#[source] kube::Error),
    /// The API server does not answer.
    #[error("the API server does not answer")]
    Unreachable(#[source] kube::Error),
    /// The API server does not answer in time.
    #[error("the API server does not answer within 30 seconds")]
    Slow,
    /// No HTTP client for pods.
    #[error("cannot make the client for the jobs' pods")]
    JobClient(#[source] reqwest::Error),
    /// No metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// No health port.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// No election.
    #[error(transparent)]
    Leader(#[from] LeaderError),
    /// A task of ours panicked.
    #[error("a task ended badly")]
    Task(#[source] tokio::task::JoinError),
    /// Signals cannot be waited for.
    #[error("cannot wait for signals")]
    Signal(#[source] std::io::Error),
    /// Another operator leads.
    #[error("the lease is lost; another operator leads")]
    LeaseLost,
    /// The controllers ended by themselves, which they never should.
    #[error("the controllers ended by themselves")]
    ControllersEnded,
    /// Something did not end when it was asked to.
    #[error("the operator did not stop in time")]
    Stuck,
}

/// Runs until a signal, or until the lease is lost. Whatever ends first ends the others.
pub async fn run(args: Args) -> Result<(), RunError> {
    let metrics = Arc::new(Metrics::new()?);
    let health = Arc::new(Health::new(Arc::clone(&metrics)));
    let cancel = CancellationToken::new();
    let server =
        tokio::spawn(then_cancel(serve(args.health_address, Arc::clone(&health), cancel.clone()), cancel.clone()));
    let signals = tokio::spawn(then_cancel(signal(cancel.clone()), cancel.clone()));
    let led = tokio::select! {
        led = lead(&args, &metrics, &health, &cancel) => led,
        () = given_up(&cancel) => Err(RunError::Stuck),
    };
    cancel.cancel();
    let served = server.await.map_err(RunError::Task)?;
    let signalled = signals.await.map_err(RunError::Task)?;
    led.and(served.map_err(RunError::from)).and(signalled)
}

async fn then_cancel<T>(task: impl Future<Output = T>, cancel: CancellationToken) -> T {
    let result = task.await;
    cancel.cancel();
    result
}

/// Long enough after a stop was asked for that everything should have ended.
async fn given_up(cancel: &CancellationToken) {
    cancel.cancelled().await;
    tokio::time::sleep(STOP_DEADLINE * 2).await;
}

/// Waits to lead, leads, and ends when asked to, when the lease is lost or when the controllers end.
async fn lead(
    args: &Args,
    metrics: &Arc<Metrics>,
    health: &Health,
    cancel: &CancellationToken,
) -> Result<(), RunError> {
    let client = Client::try_default().await.map_err(RunError::Config)?;
    let Some(mut election) = stand(args, &client, health, cancel).await? else { return Ok(()) };
    tracing::info!(identity = args.identity, "leading");
    metrics.leading(true);
    let context = Arc::new(context(args, client, Arc::clone(metrics))?);
    let stop = CancellationToken::new();
    let mut controllers = tokio::spawn(run_controllers(context, stop.clone()));
    let end = tokio::select! {
        () = lost(&mut election) => Err(RunError::LeaseLost),
        () = cancel.cancelled() => Ok(()),
        ended = &mut controllers => Err(ended.err().map_or(RunError::ControllersEnded, RunError::Task)),
    };
    metrics.leading(false);
    stop.cancel();
    if !controllers.is_finished() && tokio::time::timeout(STOP_DEADLINE, controllers).await.is_err() {
        tracing::warn!("reconciles did not end in time; the next leader does them again");
    }
    if let (Ok(()), Some(election)) = (&end, election) {
        election.release().await;
    }
    end
}

/// Stands for election and waits to win it. `None` if asked to stop before; `Some(None)` if there is no election.
async fn stand(
    args: &Args,
    client: &Client,
    health: &Health,
    cancel: &CancellationToken,
) -> Result<Option<Option<Election>>, RunError> {
    let version = tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await.map_err(|_| RunError::Slow)?;
    let version = version.map_err(RunError::Unreachable)?;
    tracing::info!(api_server = version.git_version, namespaces = ?args.watch_namespaces, "started");
    // A standby is ready: it answers, and takes over when it must.
    health.set_ready(true);
    if !args.leader_election {
        return Ok(Some(None));
    }
    let mut election = Election::start(client.clone(), args).await?;
    tokio::select! {
        won = election.won() => won?,
        () = cancel.cancelled() => {
            election.release().await;
            return Ok(None);
        }
    }
    Ok(Some(Some(election)))
}

/// Without an election nothing is ever lost.
async fn lost(election: &mut Option<Election>) {
    match election {
        Some(election) => election.lost().await,
        None => std::future::pending().await,
    }
}

fn context(args: &Args, client: Client, metrics: Arc<Metrics>) -> Result<Context, RunError> {
    let reporter = Reporter { controller: names::CONTROLLER.to_owned(), instance: Some(args.identity.clone()) };
    Ok(Context {
        recorder: Recorder::new(client.clone(), reporter),
        access: Access::new(client.clone(), &args.namespace, &args.service_account),
        client,
        pods: Arc::new(HttpJobClient::new().map_err(RunError::JobClient)?),
        metrics,
        args: args.clone(),
        applied: AppliedCache::default(),
        failures: Mutex::default(),
    })
}

/// Runs the controllers of all watched namespaces until stopped.
async fn run_controllers(context: Arc<Context>, stop: CancellationToken) {
    let scopes: Vec<Option<String>> = if context.args.watch_namespaces.is_empty() {
        vec![None]
    } else {
        context.args.watch_namespaces.iter().cloned().map(Some).collect()
    };
    let mut running: Vec<BoxFuture<'_, ()>> = Vec::new();
    for scope in &scopes {
        running.push(Box::pin(run_jobs(Arc::clone(&context), scope.as_deref(), stop.clone())));
        running.push(Box::pin(run_checkpoints(Arc::clone(&context), scope.as_deref(), stop.clone())));
    }
    join_all(running).await;
}

async fn run_jobs(context: Arc<Context>, scope: Option<&str>, stop: CancellationToken) {
    let client = &context.client;
    let ours = || watcher::Config::default().labels(&format!("{}={}", names::LABEL_MANAGED_BY, names::CONTROLLER));
    // Objects are read through a guard: one that cannot be read is reported and disturbs no other.
    let jobs = Controller::new(api::<DeserializeGuard<StreamJob>>(client, scope), watcher::Config::default());
    let store = jobs.store();
    let jobs = jobs
        .with_config(controller::Config::default().concurrency(context.args.concurrency))
        .graceful_shutdown_on(stop.cancelled_owned())
        .owns(api::<StatefulSet>(client, scope), ours())
        .owns(api::<ConfigMap>(client, scope), ours())
        .owns(api::<Service>(client, scope), ours())
        .owns(api::<NetworkPolicy>(client, scope), ours())
        .owns(api::<PodDisruptionBudget>(client, scope), ours())
        .watches(api::<DeserializeGuard<Pod>>(client, scope), ours(), |pod| job_of_pod(&pod))
        .watches(api::<DeserializeGuard<StreamCluster>>(client, scope), watcher::Config::default(), move |cluster| {
            jobs_of_cluster(&cluster, &store)
        })
        .run(reconcile, error_policy, Arc::clone(&context));
    jobs.for_each(|result| {
        note_watch_error(&context, result.err());
        std::future::ready(())
    })
    .await;
}

async fn run_checkpoints(context: Arc<Context>, scope: Option<&str>, stop: CancellationToken) {
    let api = api::<DeserializeGuard<Checkpoint>>(&context.client, scope);
    Controller::new(api, watcher::Config::default())
        .graceful_shutdown_on(stop.cancelled_owned())
        .run(checkpoints::reconcile, checkpoints::error_policy, Arc::clone(&context))
        .for_each(|_| std::future::ready(()))
        .await;
}

/// Errors of reconciles are logged where they are handled; what is left are watches, which start again by themselves.
fn note_watch_error(context: &Context, error: Option<controller::Error<ReconcileError, watcher::Error>>) {
    if let Some(controller::Error::QueueError(error)) = error {
        context.metrics.watch_failed();
        tracing::warn!(%error, "a watch failed and is started again");
    }
}

fn api<K>(client: &Client, scope: Option<&str>) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    match scope {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The job that a pod belongs to. Its owner is the StatefulSet, so the label tells.
fn job_of_pod(pod: &DeserializeGuard<Pod>) -> Option<ObjectRef<DeserializeGuard<StreamJob>>> {
    let job = pod.labels().get(names::LABEL_JOB)?;
    Some(ObjectRef::new(job).within(&pod.namespace()?))
}

/// The jobs that name a StreamCluster.
fn jobs_of_cluster(
    cluster: &DeserializeGuard<StreamCluster>,
    jobs: &Store<DeserializeGuard<StreamJob>>,
) -> Vec<ObjectRef<DeserializeGuard<StreamJob>>> {
    let names_it = |job: &StreamJob| {
        let reference = job.spec.cluster_ref.as_ref();
        job.namespace() == cluster.namespace()
            && reference.is_some_and(|reference| Some(&reference.name) == cluster.meta().name.as_ref())
    };
    jobs.state()
        .into_iter()
        .filter(|job| job.0.as_ref().is_ok_and(names_it))
        .map(|job| ObjectRef::from_obj(job.as_ref()))
        .collect()
}

/// Waits for SIGTERM or Ctrl-C, or until something else ended the operator.
async fn signal(cancel: CancellationToken) -> Result<(), RunError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    tokio::select! {
        _ = terminate.recv() => tracing::info!("asked to stop"),
        _ = interrupt.recv() => tracing::info!("asked to stop"),
        () = cancel.cancelled() => {}
    }
    Ok(())
}
