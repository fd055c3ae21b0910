//! What the controller knows about a job's pods and StatefulSet, taken from the API objects. Pure: it reads objects, not the cluster.

use std::net::IpAddr;

use crds::names::{self, Reason};
use job_api::{PodStatus, Termination, TerminationReason};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use k8s_openapi::jiff::Timestamp;

use super::build::JOB_CONTAINER;

/// Label that the StatefulSet controller puts on pods: which of its revisions made them.
const CONTROLLER_REVISION: &str = "controller-revision-hash";

/// Longest message taken over from a pod into a status.
const MESSAGE_MAX: usize = 4096;

/// One pod of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFacts {
    /// Its name.
    pub name: String,
    /// Its uid, so that only this very pod is deleted.
    pub uid: String,
    /// Its address, once it has one.
    pub ip: Option<IpAddr>,
    /// The job's revision that it was made for.
    pub revision: Option<String>,
    /// The StatefulSet's revision that it was made from.
    pub controller_revision: Option<String>,
    /// Whether its readiness probe succeeds.
    pub ready: bool,
    /// Whether its process runs, so that it can be asked.
    pub running: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// What stands in its way.
    pub blocker: Option<Blocker>,
    /// How its last process ended.
    pub last_words: Option<LastWords>,
    /// What it says of itself, if it answered.
    pub status: Option<PodStatus>,
}

/// Something that keeps a pod from running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocker {
    /// What kind.
    pub reason: Reason,
    /// In Kubernetes' words.
    pub message: String,
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq)]
pub struct LastWords {
    /// What kind of trouble; none if it was asked to stop or ended well.
    pub reason: Option<Reason>,
    /// In the process' own words, or the last lines of its log.
    pub message: String,
    /// Its exit code.
    pub exit_code: i32,
    /// When.
    pub at: Option<Timestamp>,
}

/// A job's StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatefulSetFacts {
    /// Its uid.
    pub uid: String,
    /// Whether its controller has seen its spec.
    pub observed: bool,
    /// The revision of its own that new pods are made from.
    pub update_revision: Option<String>,
    /// Number of pods that it should have.
    pub replicas: i32,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// Facts about a StatefulSet.
pub fn stateful_set(object: &StatefulSet) -> StatefulSetFacts {
    let status = object.status.as_ref();
    StatefulSetFacts {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        observed: status.and_then(|status| status.observed_generation) >= object.metadata.generation,
        update_revision: status.and_then(|status| status.update_revision.clone()),
        replicas: object.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1),
        terminating: object.metadata.deletion_timestamp.is_some(),
    }
}

/// Facts about a pod, without what only the pod itself can say.
pub fn pod(object: &Pod) -> PodFacts {
    let meta = &object.metadata;
    let container = job_container(object);
    let annotation = |key: &str| meta.annotations.as_ref().and_then(|map| map.get(key).cloned());
    let label = |key: &str| meta.labels.as_ref().and_then(|map| map.get(key).cloned());
    PodFacts {
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        ip: object.status.as_ref().and_then(|status| status.pod_ip.as_ref()).and_then(|ip| ip.parse().ok()),
        revision: annotation(names::ANNOTATION_REVISION),
        controller_revision: label(CONTROLLER_REVISION),
        ready: condition(object, "Ready").is_some_and(|(status, _, _)| status == "True"),
        running: container.and_then(|status| status.state.as_ref()).is_some_and(|state| state.running.is_some()),
        terminating: meta.deletion_timestamp.is_some(),
        blocker: blocker(object, container),
        last_words: container.and_then(last_words),
        status: None,
    }
}

fn job_container(pod: &Pod) -> Option<&ContainerStatus> {
    pod.status.as_ref()?.container_statuses.iter().flatten().find(|status| status.name == JOB_CONTAINER)
}

/// Status, reason and message of a pod's condition.
fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let found = conditions.iter().find(|condition| condition.type_ == type_)?;
    Some((
        found.status.as_str(),
        found.reason.as_deref().unwrap_or_default(),
        found.message.as_deref().unwrap_or_default(),
    ))
}

fn blocker(pod: &Pod, container: Option<&ContainerStatus>) -> Option<Blocker> {
    if let Some(("False", "Unschedulable", message)) = condition(pod, "PodScheduled") {
        return Some(Blocker { reason: Reason::Unschedulable, message: message.to_owned() });
    }
    let waiting = container?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting_reason(waiting.reason.as_deref().unwrap_or_default())?;
    Some(Blocker { reason, message: waiting.message.clone().unwrap_or_default() })
}

/// Kubelet's words for a container that cannot start. `CrashLoopBackOff` is not here: why it crashed is in its last words.
fn waiting_reason(reason: &str) -> Option<Reason> {
    match reason {
        "ErrImagePull"
        | "ImagePullBackOff"
        | "InvalidImageName"
        | "ErrImageNeverPull"
        | "ImageInspectError"
        | "RegistryUnavailable" => Some(Reason::ImagePullFailed),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            Some(Reason::ContainerConfigFailed)
        }
        _ => None,
    }
}

fn last_words(container: &ContainerStatus) -> Option<LastWords> {
    let terminated = |state: &Option<k8s_openapi::api::core::v1::ContainerState>| {
        state.as_ref().and_then(|state| state.terminated.clone())
    };
    let end = terminated(&container.state).or_else(|| terminated(&container.last_state))?;
    Some(read_last_words(&end))
}

fn read_last_words(end: &ContainerStateTerminated) -> LastWords {
    let text = end.message.as_deref().unwrap_or_default().trim();
    let at = end.finished_at.as_ref().map(|time| time.0);
    let words = |reason, message: &str| LastWords { reason, message: shorten(message), exit_code: end.exit_code, at };
    if end.reason.as_deref() == Some("OOMKilled") {
        return words(
            Some(Reason::OutOfMemory),
            "the pod used more memory than its limit; raise spec.template.resources.limits.memory",
        );
    }
    if let Some(termination) = read_termination(text) {
        return words(termination_reason(termination.reason), &termination.message);
    }
    if end.exit_code == 0 {
        return words(None, text);
    }
    let message = if text.is_empty() {
        match end.signal {
            Some(signal) => format!("the pod's process was ended by signal {signal} without last words"),
            None => format!("the pod's process ended with exit code {} without last words", end.exit_code),
        }
    } else {
        text.to_owned()
    };
    words(Some(Reason::CrashLoop), &message)
}

/// Reads a pod's last words. The kubelet cuts them at 4096 bytes, so a long message may lack its end.
fn read_termination(text: &str) -> Option<Termination> {
    if let Ok(termination) = serde_json::from_str(text) {
        return Some(termination);
    }
    let body = text.strip_prefix('{')?.trim_end_matches('\\');
    ["\"}", "}"].iter().find_map(|end| serde_json::from_str(&format!("{{{body}{end}")).ok())
}

/// The pod's word for its trouble as a reason of ours.
fn termination_reason(reason: TerminationReason) -> Option<Reason> {
    match reason {
        TerminationReason::InvalidJob => Some(Reason::InvalidJob),
        TerminationReason::ConnectorFailed => Some(Reason::ConnectorFailed),
        TerminationReason::RecordFailed => Some(Reason::RecordFailed),
        TerminationReason::StateFailed => Some(Reason::StateFailed),
        TerminationReason::CommitFailed => Some(Reason::CommitFailed),
        TerminationReason::Fenced => Some(Reason::Fenced),
        TerminationReason::Internal => Some(Reason::Internal),
        TerminationReason::Stopped => None,
    }
}

/// A message that fits into a status, cut at a character.
pub fn shorten(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_MAX) {
        Some((end, _)) => format!("{} …", &message[..end]),
        None => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts(status: serde_json::Value) -> PodFacts {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "delays-0", "uid": "1", "annotations": {"millstream.io/revision": "r1"},
                         "labels": {"controller-revision-hash": "delays-1"}},
            "status": status
        });
        pod(&serde_json::from_value(object).expect("the pod is a pod"))
    }

    fn terminated(end: serde_json::Value) -> LastWords {
        let pod = facts(json!({"containerStatuses": [{
            "name": "job", "image": "i", "imageID": "i", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": {"terminated": end}
        }]}));
        assert_eq!(pod.blocker, None);
        pod.last_words.expect("the container ended")
    }

    #[test]
    fn last_words_are_the_pods_own() {
        let message = r#"{"version":1,"reason":"ConnectorFailed","message":"no broker at kafka:9092"}"#;
        let words = terminated(json!({"exitCode": 3, "message": message}));
        assert_eq!((words.reason, words.message.as_str()), (Some(Reason::ConnectorFailed), "no broker at kafka:9092"));
        assert_eq!(words.exit_code, 3);
    }

    #[test]
    fn an_end_without_last_words_still_says_what_is_known() {
        let log = terminated(json!({"exitCode": 101, "message": "thread 'main' panicked"}));
        assert_eq!((log.reason, log.message.as_str()), (Some(Reason::CrashLoop), "thread 'main' panicked"));
        let nothing = terminated(json!({"exitCode": 137, "signal": 9}));
        assert!(nothing.message.contains("signal 9"), "{nothing:?}");
        let memory = terminated(json!({"exitCode": 137, "reason": "OOMKilled"}));
        assert_eq!(memory.reason, Some(Reason::OutOfMemory));
    }

    #[test]
    fn a_pod_that_was_asked_to_stop_is_no_trouble() {
        let words = terminated(json!({"exitCode": 0, "message": r#"{"version":1,"reason":"Stopped","message":""}"#}));
        assert_eq!(words.reason, None);
    }

    #[test]
    fn what_stands_in_the_way_is_named() {
        let waiting = |reason: &str| {
            facts(json!({"containerStatuses": [{
                "name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": reason, "message": "why"}}
            }]}))
            .blocker
            .map(|blocker| blocker.reason)
        };
        assert_eq!(waiting("ImagePullBackOff"), Some(Reason::ImagePullFailed));
        assert_eq!(waiting("CreateContainerConfigError"), Some(Reason::ContainerConfigFailed));
        assert_eq!(waiting("ContainerCreating"), None);
        let pending = facts(json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}
        ]}));
        assert_eq!(pending.blocker.map(|blocker| blocker.reason), Some(Reason::Unschedulable));
    }

    #[test]
    fn last_words_that_the_kubelet_cut_are_still_read() {
        let words = terminated(
            json!({"exitCode": 2, "message": r#"{"version":1,"reason":"InvalidJob","message":"line 1\nline"#}),
        );
        assert_eq!((words.reason, words.message.as_str()), (Some(Reason::InvalidJob), "line 1\nline"));
        let words =
            terminated(json!({"exitCode": 2, "message": r#"{"version":1,"reason":"InvalidJob","message":"line 1\"#}));
        assert_eq!((words.reason, words.message.as_str()), (Some(Reason::InvalidJob), "line 1"));
    }

    #[test]
    fn messages_are_cut_at_a_character() {
        assert!(shorten(&"ü".repeat(MESSAGE_MAX * 2)).ends_with(" …"));
        assert_eq!(shorten("short"), "short");
    }
}
