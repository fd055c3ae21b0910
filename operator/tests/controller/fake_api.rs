//! An API server in memory with the little of a cluster that the controller sees: objects with versions and generations, server-side
//! apply, finalizers, owner references; StatefulSets that make pods. It can fail at any write, before or after the write took effect.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use job_api::PodStatus;
use job_api::orders::{SavepointPhase, SavepointRequest, SavepointStatus};
use kube::Client;
use kube::client::Body;
use operator::access::Token;
use operator::job_client::{JobClient, JobClientError};
use serde_json::{Map, Value, json};

/// How a write fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It never reached the API server.
    Lost,
    /// It took effect, and the answer was lost.
    Unanswered,
}

/// What is in the cluster.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    /// Objects by path.
    pub(crate) objects: BTreeMap<String, Value>,
    /// Writes in their order, as `VERB path`.
    pub(crate) writes: Vec<String>,
    /// The write of this number fails.
    pub(crate) fail: Option<(usize, Failure)>,
    /// Paths that end like this are refused by a quota.
    pub(crate) refuse: Option<String>,
    /// The namespace is being deleted and the operator's rights in it are gone, but for the jobs themselves.
    pub(crate) rights_gone: bool,
    counter: u64,
}

/// A handle of the cluster.
#[derive(Clone, Debug, Default)]
pub(crate) struct FakeApi(Arc<Mutex<Cluster>>);

/// Answer: status code and body.
type Answer = (u16, Value);

impl FakeApi {
    /// The cluster itself.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Cluster> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client of this cluster.
    pub(crate) fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = api.clone();
            async move {
                let (parts, body) = request.into_parts();
                let body = body.collect_bytes().await?;
                let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
                let (code, answer) = api.lock().handle(&parts.method, parts.uri.path(), body);
                let text = serde_json::to_vec(&answer)?;
                let response = Response::builder().status(code).body(Body::from(text))?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(response)
            }
        });
        Client::new(service, "default")
    }
}

fn status(code: u16, reason: &str) -> Answer {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}),
    )
}

impl Cluster {
    fn handle(&mut self, method: &Method, path: &str, body: Value) -> Answer {
        if self.rights_gone && !path.contains("/streamjobs/") {
            return status(403, "Forbidden");
        }
        if *method == Method::GET {
            return self.get(path);
        }
        // A token is nothing in the cluster.
        if path.ends_with("/token") {
            return self.token();
        }
        let number = self.writes.len();
        self.writes.push(format!("{method} {path}"));
        let failure = self.fail.filter(|(at, _)| *at == number).map(|(_, failure)| failure);
        if failure == Some(Failure::Lost) {
            return status(500, "Lost");
        }
        if self.refuse.as_ref().is_some_and(|end| path.ends_with(end)) {
            return status(403, "exceeded quota");
        }
        let answer = match *method {
            // Events are counted as writes and kept by nobody.
            Method::PATCH if path.contains("/events/") => (200, body),
            Method::PATCH => self.patch(path, &body),
            Method::DELETE => self.delete(path),
            Method::POST => (201, body),
            _ => status(405, "MethodNotAllowed"),
        };
        if failure == Some(Failure::Unanswered) { status(500, "Unanswered") } else { answer }
    }

    fn token(&self) -> Answer {
        if self.refuse.as_deref() == Some("/token") {
            return status(403, "no right to tokens");
        }
        let expires = k8s_openapi::jiff::Timestamp::now() + k8s_openapi::jiff::SignedDuration::from_mins(10);
        (201, json!({"status": {"token": TOKEN, "expirationTimestamp": expires.to_string()}}))
    }

    /// The API server serves the keys of its tokens.
    pub(crate) fn publish_keys(&mut self, kid: &str) {
        let keys =
            json!({"keys": [{"use": "sig", "kty": "RSA", "kid": kid, "alg": "RS256", "n": "AQAB", "e": "AQAB"}]});
        self.objects.insert("/openid/v1/jwks".to_owned(), keys);
        let configuration = json!({"issuer": "https://kubernetes.default.svc", "jwks_uri": "https://elsewhere/keys"});
        self.objects.insert("/.well-known/openid-configuration".to_owned(), configuration);
    }

    fn get(&self, path: &str) -> Answer {
        if let Some(object) = self.objects.get(path) {
            return (200, object.clone());
        }
        if path.ends_with("/pods") {
            let items: Vec<_> = self
                .objects
                .iter()
                .filter(|(key, _)| key.starts_with(&format!("{path}/")))
                .map(|(_, pod)| pod)
                .collect();
            return (200, json!({"apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": items}));
        }
        status(404, "NotFound")
    }

    /// Merges what is sent into what is there; the controller sends objects whole, so this is what server-side apply comes to.
    fn patch(&mut self, path: &str, body: &Value) -> Answer {
        let (path, only_status) = match path.strip_suffix("/status") {
            Some(path) => (path, true),
            None => (path, false),
        };
        let old = self.objects.get(path).cloned();
        if old.is_none() && (only_status || body.get("apiVersion").is_none()) {
            return status(404, "NotFound");
        }
        let sent_version = body.pointer("/metadata/resourceVersion").filter(|version| !version.is_null());
        if let (Some(sent), Some(old)) = (sent_version, &old)
            && *sent != old["metadata"]["resourceVersion"]
        {
            return status(409, "Conflict");
        }
        let mut new = old.clone().unwrap_or_else(|| self.created());
        let sent = body.as_object().cloned().unwrap_or_default();
        for (key, value) in sent {
            match key.as_str() {
                "status" if !only_status => {}
                "status" => new["status"] = value,
                _ if only_status => {}
                "metadata" => merge(&mut new["metadata"], &value),
                _ => new[key.as_str()] = value,
            }
        }
        if old.as_ref() != Some(&new) {
            self.counter += 1;
            if old.as_ref().is_some_and(|old| old["spec"] != new["spec"]) {
                new["metadata"]["generation"] = json!(new["metadata"]["generation"].as_i64().unwrap_or(0) + 1);
            }
            new["metadata"]["resourceVersion"] = json!(self.counter.to_string());
        }
        self.objects.insert(path.to_owned(), new.clone());
        self.collect(path);
        (200, new)
    }

    fn created(&mut self) -> Value {
        self.counter += 1;
        json!({"metadata": {"uid": format!("uid-{}", self.counter), "generation": 1}})
    }

    /// An object that is being deleted and has no finalizer is gone, and what it owns with it.
    fn collect(&mut self, path: &str) {
        let meta = &self.objects[path]["metadata"];
        let held = meta["finalizers"].as_array().is_some_and(|finalizers| !finalizers.is_empty());
        if meta["deletionTimestamp"].is_null() || held {
            return;
        }
        let uid = meta["uid"].clone();
        self.objects.remove(path);
        self.objects.retain(|_, object| object.pointer("/metadata/ownerReferences/0/uid") != Some(&uid));
    }

    fn delete(&mut self, path: &str) -> Answer {
        match self.objects.remove(path) {
            Some(object) => {
                let uid = object["metadata"]["uid"].clone();
                self.objects.retain(|_, child| child.pointer("/metadata/ownerReferences/0/uid") != Some(&uid));
                (200, object)
            }
            None => status(404, "NotFound"),
        }
    }

    /// Somebody deletes an object that has a finalizer.
    pub(crate) fn mark_deleted(&mut self, path: &str) {
        self.counter += 1;
        let version = self.counter.to_string();
        let meta = &mut self.objects.get_mut(path).expect("the object exists")["metadata"];
        meta["deletionTimestamp"] = json!(k8s_openapi::jiff::Timestamp::now().to_string());
        meta["resourceVersion"] = json!(version);
    }

    /// Somebody edits a job.
    pub(crate) fn edit(&mut self, path: &str, spec: &Value) {
        let (code, _) = self.patch(path, &json!({"apiVersion": "x", "spec": spec}));
        assert_eq!(code, 200);
    }

    /// What Kubernetes' own controllers do with the StatefulSets: pods made, or taken away.
    pub(crate) fn run_stateful_sets(&mut self) {
        let sets: Vec<(String, Value)> = self
            .objects
            .iter()
            .filter(|(path, _)| path.contains("/statefulsets/"))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for (path, mut set) in sets {
            let revision =
                format!("revision-{:x}", xxhash_rust::xxh3::xxh3_64(set["spec"]["template"].to_string().as_bytes()));
            set["status"] = json!({
                "observedGeneration": set["metadata"]["generation"], "updateRevision": revision, "replicas": 1
            });
            let pod_path = path.replace("/apis/apps/v1/", "/api/v1/").replace("/statefulsets/", "/pods/") + "-0";
            if set["spec"]["replicas"] == 0 {
                self.objects.remove(&pod_path);
            } else if !self.objects.contains_key(&pod_path) {
                let pod = self.pod(&set, &revision);
                self.objects.insert(pod_path, pod);
            }
            self.objects.insert(path, set);
        }
    }

    fn pod(&mut self, set: &Value, revision: &str) -> Value {
        self.counter += 1;
        let template = &set["spec"]["template"];
        let mut labels = template["metadata"]["labels"].clone();
        labels["controller-revision-hash"] = json!(revision);
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("{}-0", set["metadata"]["name"].as_str().unwrap_or_default()),
                "uid": format!("uid-{}", self.counter), "labels": labels,
                "annotations": template["metadata"]["annotations"],
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": set["metadata"]["name"],
                                     "uid": set["metadata"]["uid"], "controller": true}]
            },
            "spec": template["spec"],
            "status": {
                "podIP": "10.0.0.1",
                "conditions": [{"type": "Ready", "status": "True"}],
                "containerStatuses": [{
                    "name": "job", "image": "i", "imageID": "i", "ready": true, "restartCount": 0,
                    "state": {"running": {}}
                }]
            }
        })
    }
}

/// Merge patch.
fn merge(target: &mut Value, patch: &Value) {
    let Some(patch) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|target| target.remove(key));
        } else {
            merge(&mut target[key.as_str()], value);
        }
    }
}

/// Pods that all say the same, and write down what they are ordered.
#[derive(Debug, Default)]
pub(crate) struct FakePods {
    /// What they say of themselves.
    pub(crate) status: Mutex<Option<PodStatus>>,
    /// Orders in their sequence.
    pub(crate) orders: Mutex<Vec<String>>,
    /// Savepoints that they know.
    pub(crate) savepoints: Mutex<BTreeMap<String, SavepointStatus>>,
    /// They refuse orders with this.
    pub(crate) refuse: Mutex<Option<(u16, &'static str)>>,
    /// They are not done with an assignment.
    pub(crate) fetching: AtomicBool,
}

/// The token that the API server in memory gives.
pub(crate) const TOKEN: &str = "a-token-of-the-operator";

impl FakePods {
    fn take(&self, token: &Token, order: String) -> Result<(), JobClientError> {
        assert_eq!(token.reveal(), TOKEN);
        if let Some((code, message)) = *self.refuse.lock().unwrap_or_else(PoisonError::into_inner) {
            return Err(JobClientError::Refused { code, message: message.to_owned() });
        }
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
        Ok(())
    }

    /// What the orders were.
    pub(crate) fn ordered(&self) -> Vec<String> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A savepoint goes on.
    pub(crate) fn tell(&self, change: impl Fn(&mut SavepointStatus)) {
        self.savepoints.lock().unwrap_or_else(PoisonError::into_inner).values_mut().for_each(change);
    }
}

fn answered<'a, T: Send + 'a>(answer: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(answer))
}

impl JobClient for FakePods {
    fn status(&self, address: IpAddr) -> BoxFuture<'_, Result<PodStatus, JobClientError>> {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        answered(status.ok_or(JobClientError::Unreadable { address, message: "not said".to_owned() }))
    }

    fn savepoint<'a>(
        &'a self,
        _: IpAddr,
        token: &'a Token,
        order: &'a SavepointRequest,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>> {
        if let Err(error) = self.take(token, format!("savepoint {}", order.name)) {
            return answered(Err(error));
        }
        let status = SavepointStatus {
            version: job_api::VERSION,
            name: order.name.clone(),
            phase: SavepointPhase::Draining,
            location: None,
            pause_ms: None,
            bytes: None,
            message: None,
        };
        let mut known = self.savepoints.lock().unwrap_or_else(PoisonError::into_inner);
        answered(Ok(known.entry(order.name.clone()).or_insert(status).clone()))
    }

    fn savepoint_status<'a>(
        &'a self,
        _: IpAddr,
        _: &'a Token,
        name: &'a str,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>> {
        let known = self.savepoints.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        answered(known.ok_or(JobClientError::Refused { code: 404, message: "not known".to_owned() }))
    }

    fn assign<'a>(&'a self, _: IpAddr, token: &'a Token, replicas: u16) -> BoxFuture<'a, Result<bool, JobClientError>> {
        let fetching = self.fetching.load(Ordering::Relaxed);
        answered(self.take(token, format!("assign {replicas}")).map(|()| !fetching))
    }
}
