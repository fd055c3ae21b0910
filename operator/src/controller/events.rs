//! Events on our objects: what changed, in one line. Which, is pure; publishing is best effort, because the status says the same.

use crds::names::{ConditionType, Reason};
use crds::v1alpha1::StreamJobStatus;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType};

use super::Context;
use super::decide::Verdict;
use crate::metrics::Write;

/// Longest text of an event that Kubernetes takes.
const NOTE_MAX: usize = 1000;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether something is wrong.
    pub warning: bool,
    /// What kind.
    pub reason: Reason,
    /// For people.
    pub text: String,
}

impl Note {
    /// Something is wrong.
    pub fn warning(reason: Reason, text: String) -> Self {
        Self { warning: true, reason, text }
    }

    /// Something happened.
    pub fn normal(reason: Reason, text: String) -> Self {
        Self { warning: false, reason, text }
    }
}

/// What is worth an event between an old status and a new one: a new revision, and a new reason of readiness.
pub fn between(old: Option<&StreamJobStatus>, new: &StreamJobStatus, verdict: &Verdict) -> Vec<Note> {
    let mut notes = Vec::new();
    let old_revision = old.and_then(|status| status.current_revision.as_ref());
    if let (Some(from), Some(to)) = (old_revision, &new.current_revision)
        && from != to
    {
        notes.push(Note::normal(Reason::RevisionChanged, format!("revision {from} is followed by {to}")));
    }
    if ready_reason(old) != ready_reason(Some(new)) {
        notes.push(match verdict {
            Verdict::Settled(reason, text) | Verdict::Working(reason, text) => Note::normal(*reason, text.clone()),
            Verdict::Stalled(reason, text) => Note::warning(*reason, text.clone()),
        });
    }
    notes
}

fn ready_reason(status: Option<&StreamJobStatus>) -> Option<&str> {
    let conditions = &status?.conditions;
    let ready = conditions.iter().find(|condition| condition.type_ == ConditionType::Ready.as_str())?;
    Some(&ready.reason)
}

/// Publishes an event; that it could not be is only logged.
pub async fn publish(context: &Context, about: &ObjectReference, note: &Note) {
    let text: String = note.text.chars().take(NOTE_MAX).collect();
    let event = Event {
        type_: if note.warning { EventType::Warning } else { EventType::Normal },
        reason: note.reason.into(),
        note: Some(text),
        action: "Reconcile".to_owned(),
        secondary: None,
    };
    match context.recorder.publish(&event, about).await {
        Ok(()) => context.metrics.wrote(Write::Event),
        Err(error) => tracing::warn!(%error, reason = %note.reason, "an event could not be published"),
    }
}
