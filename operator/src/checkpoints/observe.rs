//! Reads what the decision about a Checkpoint needs, and carries the order to the job's pods: its job, the job's storage and pods, and what the
//! pods know. It decides nothing.

use crds::v1alpha1::{Checkpoint, Phase, StreamCluster, StreamJob};
use futures::future::join_all;
use job_api::orders::{SavepointRequest, SavepointStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use kube::api::{Api, ListParams};

use super::decide::{Answer, JobFacts, JobSeen, Pursuit, ReadyPod, must_order};
use crate::access::Token;
use crate::controller::{Context, facts, observe};
use crate::job_client::JobClientError;

/// The job of a checkpoint, as it is now.
pub async fn job(context: &Context, checkpoint: &Checkpoint) -> Result<JobSeen, kube::Error> {
    let namespace = checkpoint.namespace().unwrap_or_default();
    let name = &checkpoint.spec.job_ref.name;
    let client = &context.client;
    let job = Api::<StreamJob>::namespaced(client.clone(), &namespace).get_opt(name).await?;
    let Some(job) = job else { return Ok(JobSeen::Missing { name: name.clone() }) };
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    let parameters = ListParams::default().labels(&observe::selector(name));
    let (storage, pods) = futures::try_join!(has_storage(context, &namespace, &job), pods.list(&parameters))?;
    let mut ready: Vec<ReadyPod> = pods.items.iter().filter_map(ready_pod).collect();
    ready.sort_by(|a, b| a.name.cmp(&b.name));
    let phase = match &job.metadata.deletion_timestamp {
        Some(_) => Some(Phase::Deleting),
        None => job.status.as_ref().and_then(|status| status.phase),
    };
    Ok(JobSeen::Found(JobFacts { name: name.clone(), uid: job.uid().unwrap_or_default(), phase, storage, ready }))
}

async fn has_storage(context: &Context, namespace: &str, job: &StreamJob) -> Result<bool, kube::Error> {
    let Some(reference) = &job.spec.cluster_ref else { return Ok(false) };
    let clusters = Api::<StreamCluster>::namespaced(context.client.clone(), namespace);
    let cluster = clusters.get_opt(&reference.name).await?;
    Ok(cluster.and_then(|cluster| cluster.spec.storage).is_some_and(|storage| storage.checkpoints.is_some()))
}

fn ready_pod(pod: &Pod) -> Option<ReadyPod> {
    let facts = facts::pod(pod);
    let address = facts.ip.filter(|_| facts.ready && facts.running && !facts.terminating)?;
    Some(ReadyPod { name: facts.name, address })
}

/// Asks every pod about an order, and gives it to the first that could take it if none knows it. The answers are in the order of the pods.
pub async fn pursue(context: &Context, pursuit: &Pursuit) -> Vec<Answer> {
    let token = match context.access.token(&pursuit.ordered.job_uid).await {
        Ok(token) => token,
        Err(error) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            return vec![Answer::Silent { message: format!("{error}{cause}") }];
        }
    };
    let name = &pursuit.ordered.name;
    let asked = pursuit.pods.iter().map(|pod| context.pods.savepoint_status(pod.address, &token, name));
    let mut answers: Vec<Answer> = join_all(asked).await.into_iter().map(answer).collect();
    if must_order(pursuit, &answers) {
        order(context, pursuit, &token, &mut answers).await;
    }
    answers
}

/// Gives the order to one pod after the other until one takes it or says for all that it is not to be taken.
async fn order(context: &Context, pursuit: &Pursuit, token: &Token, answers: &mut [Answer]) {
    let order = SavepointRequest { name: pursuit.ordered.name.clone(), stop: false };
    for (pod, told) in pursuit.pods.iter().zip(answers) {
        if *told != Answer::Unknown {
            continue;
        }
        *told = answer(context.pods.savepoint(pod.address, token, &order).await);
        match told {
            Answer::Known(_) => return tracing::info!(pod = pod.name, savepoint = order.name, "ordered"),
            // Of the order itself, or of the job: another pod would say the same.
            Answer::Refused { code: 400 | 409, .. } => return,
            Answer::Refused { .. } | Answer::Unknown | Answer::Silent { .. } => {}
        }
    }
}

fn answer(result: Result<SavepointStatus, JobClientError>) -> Answer {
    match result {
        Ok(status) => Answer::Known(status),
        Err(JobClientError::Refused { code: 404, .. }) => Answer::Unknown,
        Err(JobClientError::Refused { code, message }) => Answer::Refused { code, message },
        Err(error @ (JobClientError::Unreachable { .. } | JobClientError::Unreadable { .. })) => {
            Answer::Silent { message: error.to_string() }
        }
    }
}
