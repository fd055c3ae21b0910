//! Writes a job's objects and ends pods of older revisions. It does what was decided, in the one order that is right, and nothing else.
//!
//! Order: what pods need before the pods. The ConfigMap first, or a new pod would start with the old job; the StatefulSet last.
//!
//! An object is written only if it is not the one that was written last: the same rendering over the same version. After a restart of the
//! operator each is applied once more, which changes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crds::names;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt as _};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh3::xxh3_64;

use super::build::{BUDGET, CONFIG_MAP, JobObjects, POLICY, SERVICE, STATEFUL_SET};
use super::decide::{Decision, PodRef};
use super::observe::{ChildVersion, Observed};
use super::{Context, Error};
use crate::metrics::Write;

/// What became of the objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Applied {
    /// They are as built.
    Done,
    /// The API server refuses one, and would again: a quota, a policy, a field that cannot change.
    Refused {
        /// Kind and name.
        object: String,
        /// In the API server's words.
        message: String,
    },
}

/// What was applied last, per job and kind: hash of the rendering, and the version that it became.
#[derive(Debug, Default)]
pub struct AppliedCache(Mutex<HashMap<String, AppliedKinds>>);

/// Per kind: hash of the rendering, and the version that it became.
type AppliedKinds = HashMap<&'static str, (u64, ChildVersion)>;

impl AppliedCache {
    fn is_current(&self, job: &str, kind: &'static str, hash: u64, seen: Option<&ChildVersion>) -> bool {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = cache.get(job).and_then(|kinds| kinds.get(kind));
        last.is_some_and(|(applied, version)| *applied == hash && Some(version) == seen)
    }

    fn remember(&self, job: &str, kind: &'static str, hash: u64, version: ChildVersion) {
        let mut cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.entry(job.to_owned()).or_default().insert(kind, (hash, version));
    }

    /// The job is gone.
    pub fn forget(&self, job: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(job);
    }
}

/// Applies the objects, then ends the pod that is to be replaced.
pub async fn apply(
    context: &Context,
    objects: &JobObjects,
    decision: &Decision,
    observed: &Observed,
    job: &str,
) -> Result<Applied, Error> {
    let writer = Writer { context, observed, job };
    let results = [
        writer.object(CONFIG_MAP, &objects.config_map).await?,
        writer.object(SERVICE, &objects.service).await?,
        writer.object(POLICY, &objects.network_policy).await?,
        writer.object(BUDGET, &objects.pod_disruption_budget).await?,
    ];
    if let Some(refused) = results.into_iter().find(|applied| *applied != Applied::Done) {
        return Ok(refused);
    }
    let applied = writer.object(STATEFUL_SET, &objects.stateful_set).await?;
    if applied == Applied::Done
        && let Some(pod) = &decision.replace
    {
        let namespace = objects.stateful_set.namespace().unwrap_or_default();
        delete_pod(context, &namespace, pod).await?;
        tracing::info!(pod = pod.name, "ended a pod of an older revision");
    }
    Ok(applied)
}

struct Writer<'a> {
    context: &'a Context,
    observed: &'a Observed,
    job: &'a str,
}

impl Writer<'_> {
    async fn object<K>(&self, kind: &'static str, object: &K) -> Result<Applied, Error>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Serialize
            + DeserializeOwned
            + std::fmt::Debug,
    {
        let text = serde_json::to_vec(object).expect("what we build can be written as JSON");
        let hash = xxh3_64(&text);
        if self.context.applied.is_current(self.job, kind, hash, self.observed.children.get(kind)) {
            return Ok(Applied::Done);
        }
        let name = object.name_any();
        let api: Api<K> = Api::namespaced(self.context.client.clone(), &object.namespace().unwrap_or_default());
        match api.patch(&name, &parameters(), &Patch::Apply(object)).await {
            Ok(written) => {
                self.context.metrics.wrote(Write::Apply);
                self.context.applied.remember(self.job, kind, hash, ChildVersion::of(written.meta()));
                Ok(Applied::Done)
            }
            Err(kube::Error::Api(status)) if is_refusal(status.code) => {
                Ok(Applied::Refused { object: format!("{kind} {name}"), message: status.message })
            }
            Err(source) => Err(Error::Apply { object: format!("{kind} {name}"), source }),
        }
    }
}

/// We own what we apply wholly, so another manager's opinion of it is overruled.
fn parameters() -> PatchParams {
    PatchParams::apply(names::FIELD_MANAGER).force()
}

/// Bad request, forbidden, unprocessable: the same write would be refused again.
fn is_refusal(code: u16) -> bool {
    matches!(code, 400 | 403 | 422)
}

/// Deletes this very pod. That it is gone already, or is another one by now, is fine.
pub async fn delete_pod(context: &Context, namespace: &str, pod: &PodRef) -> Result<(), Error> {
    let parameters = this_one(&pod.uid, DeleteParams::default());
    delete::<Pod>(&context.client, namespace, &pod.name, &parameters)
        .await
        .map_err(|source| Error::Delete { object: format!("Pod {}", pod.name), source })?;
    context.metrics.wrote(Write::Delete);
    Ok(())
}

/// Deletes this very StatefulSet after its pods.
pub async fn delete_stateful_set(context: &Context, namespace: &str, name: &str, uid: &str) -> Result<(), Error> {
    let parameters = this_one(uid, DeleteParams::foreground());
    delete::<StatefulSet>(&context.client, namespace, name, &parameters)
        .await
        .map_err(|source| Error::Delete { object: format!("{STATEFUL_SET} {name}"), source })?;
    context.metrics.wrote(Write::Delete);
    Ok(())
}

fn this_one(uid: &str, parameters: DeleteParams) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..parameters
    }
}

async fn delete<K>(client: &Client, namespace: &str, name: &str, parameters: &DeleteParams) -> Result<(), kube::Error>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    match Api::<K>::namespaced(client.clone(), namespace).delete(name, parameters).await {
        Ok(_) => Ok(()),
        // Not found, or another uid.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error),
    }
}
