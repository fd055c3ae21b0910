//! Reads what the decision needs: the job as it is now, what it refers to, its objects, its pods and what they say of themselves.
//!
//! It reads the API server itself and no cache, so that a decision is never made on a view older than the operator's own last write. It
//! decides nothing.

use std::collections::BTreeMap;

use crds::names;
use crds::v1alpha1::{Checkpoint, CheckpointPhase, StreamCluster, StreamJob};
use futures::future::join_all;
use job_api::control::ControlAccess;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ListParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::de::DeserializeOwned;

use super::Context;
use super::build;
use super::facts::{self, PodFacts, StatefulSetFacts};
use crate::job_client::JobClient;

/// What the controller saw.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// When.
    pub now: Timestamp,
    /// The StreamCluster.
    pub cluster: Referenced<StreamCluster>,
    /// The SQL of `spec.sqlFrom`.
    pub sql: Referenced<String>,
    /// The Checkpoint of `spec.restoreFrom`.
    pub restore: Referenced<CheckpointFacts>,
    /// Whose orders the pods should take, if they can check who gives them.
    pub access: Option<ControlAccess>,
    /// The StatefulSet, if it is the job's.
    pub stateful_set: Option<StatefulSetFacts>,
    /// The pods.
    pub pods: Vec<PodFacts>,
    /// The job's objects as they are, to know which must be applied again.
    pub children: BTreeMap<&'static str, ChildVersion>,
    /// An object of a name that the job needs and that belongs to someone else.
    pub taken: Option<String>,
}

/// What matters of a Checkpoint that a job is to begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointFacts {
    /// Where it is, if it is complete.
    pub location: Option<String>,
    /// Whether it never will be.
    pub failed: bool,
}

/// Something that a spec refers to.
#[derive(Clone, Debug, PartialEq)]
pub enum Referenced<T> {
    /// The spec refers to nothing.
    NotNamed,
    /// It is not there.
    Missing,
    /// It is there.
    Found(T),
}

/// Which version of an object was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildVersion {
    /// Which object.
    pub uid: String,
    /// Changes with its content: the generation where Kubernetes counts it, because status writes do not matter, else the resource version.
    pub version: String,
}

impl ChildVersion {
    /// The version of an object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        let version = match meta.generation {
            Some(generation) => format!("g{generation}"),
            None => meta.resource_version.clone().unwrap_or_default(),
        };
        Self { uid: meta.uid.clone().unwrap_or_default(), version }
    }
}

/// Label selector of a job's objects.
pub fn selector(job: &str) -> String {
    format!("{}={job}", names::LABEL_JOB)
}

/// Reads everything that the decision about this job needs.
pub async fn observe(context: &Context, job: &StreamJob) -> Result<Observed, kube::Error> {
    let (client, pods) = (&context.client, context.pods.as_ref());
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let (cluster, sql, restore, access, stateful_set, children, pod_list) = futures::try_join!(
        cluster(client, namespace, job),
        sql(client, namespace, job),
        restore(client, namespace, job),
        context.access.of_job(uid),
        sets.get_opt(name),
        children(client, namespace, name),
        pod_facts(client, pods, namespace, name),
    )?;
    let mut observed = Observed {
        now: Timestamp::now(),
        cluster,
        sql,
        restore,
        access,
        stateful_set: None,
        pods: pod_list,
        children: BTreeMap::new(),
        taken: None,
    };
    let stateful_set_meta = stateful_set.as_ref().map(|set| (build::STATEFUL_SET, set.metadata.clone()));
    for (kind, meta) in children.into_iter().chain(stateful_set_meta) {
        if owned(&meta, uid) {
            observed.children.insert(kind, ChildVersion::of(&meta));
        } else {
            observed.taken = Some(format!("{kind} {}", meta.name.unwrap_or_default()));
        }
    }
    if observed.children.contains_key(build::STATEFUL_SET) {
        observed.stateful_set = stateful_set.as_ref().map(facts::stateful_set);
    }
    Ok(observed)
}

fn owned(meta: &ObjectMeta, uid: &str) -> bool {
    meta.owner_references.iter().flatten().any(|owner: &OwnerReference| owner.uid == uid)
}

async fn cluster(client: &Client, namespace: &str, job: &StreamJob) -> Result<Referenced<StreamCluster>, kube::Error> {
    let Some(reference) = &job.spec.cluster_ref else { return Ok(Referenced::NotNamed) };
    let found = Api::<StreamCluster>::namespaced(client.clone(), namespace).get_opt(&reference.name).await?;
    Ok(found.map_or(Referenced::Missing, Referenced::Found))
}

async fn sql(client: &Client, namespace: &str, job: &StreamJob) -> Result<Referenced<String>, kube::Error> {
    let Some(from) = &job.spec.sql_from else { return Ok(Referenced::NotNamed) };
    let reference = &from.config_map_key_ref;
    let config_map = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&reference.name).await?;
    let text = config_map.and_then(|map| map.data).and_then(|mut data| data.remove(&reference.key));
    Ok(text.map_or(Referenced::Missing, Referenced::Found))
}

async fn restore(
    client: &Client,
    namespace: &str,
    job: &StreamJob,
) -> Result<Referenced<CheckpointFacts>, kube::Error> {
    let from = job.spec.restore_from.as_ref().and_then(|from| from.checkpoint.as_ref());
    let Some(name) = from else { return Ok(Referenced::NotNamed) };
    let found = Api::<Checkpoint>::namespaced(client.clone(), namespace).get_opt(name).await?;
    Ok(found.map_or(Referenced::Missing, |checkpoint| {
        let status = checkpoint.status.unwrap_or_default();
        let complete = status.phase == Some(CheckpointPhase::Completed);
        Referenced::Found(CheckpointFacts {
            location: status.location.filter(|_| complete),
            failed: status.phase == Some(CheckpointPhase::Failed),
        })
    }))
}

/// Metadata of the job's objects besides the StatefulSet.
async fn children(client: &Client, namespace: &str, job: &str) -> Result<Vec<(&'static str, ObjectMeta)>, kube::Error> {
    let config_map = build::config_map_name(job);
    let found = futures::try_join!(
        metadata::<ConfigMap>(client, namespace, &config_map),
        metadata::<Service>(client, namespace, job),
        metadata::<PodDisruptionBudget>(client, namespace, job),
        metadata::<NetworkPolicy>(client, namespace, job),
    )?;
    let kinds =
        [(build::CONFIG_MAP, found.0), (build::SERVICE, found.1), (build::BUDGET, found.2), (build::POLICY, found.3)];
    Ok(kinds.into_iter().filter_map(|(kind, meta)| meta.map(|meta| (kind, meta))).collect())
}

async fn metadata<K>(client: &Client, namespace: &str, name: &str) -> Result<Option<ObjectMeta>, kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    let found = Api::<K>::namespaced(client.clone(), namespace).get_metadata_opt(name).await?;
    Ok(found.map(|object| object.metadata))
}

/// The job's pods, and what each says of itself. A pod that does not answer is not an error: its probes tell.
async fn pod_facts(
    client: &Client,
    pods: &dyn JobClient,
    namespace: &str,
    job: &str,
) -> Result<Vec<PodFacts>, kube::Error> {
    let list =
        Api::<Pod>::namespaced(client.clone(), namespace).list(&ListParams::default().labels(&selector(job))).await?;
    let mut facts: Vec<PodFacts> = list.items.iter().map(facts::pod).collect();
    facts.sort_by(|a, b| a.name.cmp(&b.name));
    let answers = join_all(facts.iter().map(|pod| async move {
        let address = pod.ip.filter(|_| pod.running && !pod.terminating)?;
        pods.status(address).await.inspect_err(|error| tracing::debug!(pod = pod.name, %error, "no status")).ok()
    }))
    .await;
    for (pod, status) in facts.iter_mut().zip(answers) {
        pod.status = status;
    }
    Ok(facts)
}

/// The pods of a job that is being deleted, and its StatefulSet.
pub async fn remains(
    client: &Client,
    job: &StreamJob,
) -> Result<(Vec<PodFacts>, Option<StatefulSetFacts>), kube::Error> {
    let namespace = job.metadata.namespace.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let sets = Api::<StatefulSet>::namespaced(client.clone(), namespace);
    let parameters = ListParams::default().labels(&selector(name));
    let (pods, set) = futures::try_join!(pods.list(&parameters), sets.get_opt(name))?;
    let set = set.filter(|set| owned(&set.metadata, uid)).as_ref().map(facts::stateful_set);
    Ok((pods.items.iter().map(facts::pod).collect(), set))
}
