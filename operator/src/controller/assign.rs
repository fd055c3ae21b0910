//! Gives the order to distribute a job's work over another number of pods, until it is carried out. When to, is decided in `decide.rs`.
//!
//! It is best effort: pod 0 makes the assignment by itself when it starts with another number in its settings. So a failure is logged, and
//! tried again with the next look.

use crds::names::Reason;
use crds::v1alpha1::StreamJob;
use kube::Resource as _;

use super::Context;
use super::decide::{Assign, Decision};
use super::events::{self, Note};
use super::facts::PodFacts;
use super::validate::ValidatedJob;
use crate::access::Token;

/// Gives the order that was decided on. Answers with the number that is to be recorded, if there is a new one.
pub async fn assign(
    context: &Context,
    job: &StreamJob,
    valid: &ValidatedJob,
    decision: &Decision,
    pods: &[PodFacts],
) -> Option<u16> {
    match decision.assign {
        Assign::Nothing => None,
        Assign::Record(replicas) => Some(replicas),
        Assign::Order(replicas) => {
            let token = match context.access.token(&valid.uid).await {
                Ok(token) => token,
                Err(error) => {
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), "an assignment cannot be ordered");
                    return None;
                }
            };
            if !order(context, pods, &token, replicas).await {
                return None;
            }
            let text = format!("the job's work is distributed over {replicas} pods");
            events::publish(context, &job.object_ref(&()), &Note::normal(Reason::AssignmentOrdered, text)).await;
            Some(replicas)
        }
    }
}

/// Gives the order to one ready pod after the other until one takes it. True if it is carried out.
async fn order(context: &Context, pods: &[PodFacts], token: &Token, replicas: u16) -> bool {
    for pod in pods.iter().filter(|pod| pod.ready && !pod.terminating) {
        let Some(address) = pod.ip else { continue };
        match context.pods.assign(address, token, replicas).await {
            Ok(done) => {
                tracing::info!(pod = pod.name, replicas, done, "an assignment is ordered");
                return done;
            }
            Err(error) => tracing::info!(pod = pod.name, replicas, %error, "a pod does not take an assignment"),
        }
    }
    false
}
