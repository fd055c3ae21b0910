//! The operator and its jobs as a user handles them: installed by Helm, pods that come again, a job that is deleted. It knows nothing of
//! what a job does.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};

use crate::cluster::{Namespace, required, run};

/// Namespace of the operator.
pub const SYSTEM: &str = "millstream-system";

const RELEASE: &str = "millstream";

/// Installs the operator by Helm, once for all tests of this process.
///
/// # Errors
/// When the environment names no cluster, or Helm fails: its own words, and how the operator's pods are.
pub fn install() -> anyhow::Result<()> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let done = DONE.get_or_init(|| helm().map_err(|error| format!("{error:#}")));
    done.clone().map_err(|error| anyhow!(error))
}

fn helm() -> anyhow::Result<()> {
    required()?;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/millstream");
    let chart = chart.to_str().context("the checkout's path is not UTF-8")?;
    let mut arguments = vec!["upgrade", "--install", RELEASE, chart, "--namespace", SYSTEM, "--create-namespace"];
    // Definitions that someone applied by hand before are taken over.
    arguments.extend(["--take-ownership", "--wait", "--timeout", "120s"]);
    // A cluster of one's own pulls the images from a registry of one's own: `--set image.repository=… --set jobImage.repository=…`.
    let more = std::env::var("MILLSTREAM_HELM_ARGUMENTS").unwrap_or_default();
    arguments.extend(more.split_whitespace());
    run("helm", &arguments).map(drop).map_err(|error| {
        let pods = run("kubectl", &["--namespace", SYSTEM, "get", "pods", "-o", "wide"]).unwrap_or_default();
        let events = run("kubectl", &["--namespace", SYSTEM, "get", "events"]).unwrap_or_default();
        let logs = ["--namespace", SYSTEM, "logs", "--selector=app.kubernetes.io/component=operator", "--tail=40"];
        let logs = run("kubectl", &logs).unwrap_or_default();
        anyhow!("{error:#}\n{pods}\n{events}\n{logs}")
    })
}

/// Waits until a pod of this name that is not the one with the uid `old` is ready. The condition of its StreamJob would not do: it may be one
/// from before a kill.
///
/// # Errors
/// When the deadline passes first.
pub fn wait_for_new_pod(namespace: &Namespace, pod: &str, old: &str) -> anyhow::Result<()> {
    let object = format!("pod/{pod}");
    namespace.until("a new pod Ready", Duration::from_secs(90), || {
        let new = namespace.get(&object, "{.metadata.uid}")?;
        let ready = namespace.get(&object, "{.status.conditions[?(@.type==\"Ready\")].status}")?;
        Ok((new != old && ready == "True").then_some(()))
    })
}

/// Deletes a StreamJob and waits until nothing of it is left.
///
/// # Errors
/// When the deadline passes first: what is left.
pub fn delete_job(namespace: &Namespace, job: &str) -> anyhow::Result<()> {
    namespace.kubectl(&["delete", "streamjob", job, "--timeout=90s"])?;
    let kinds = "statefulset,pod,service,configmap,pvc,poddisruptionbudget,networkpolicy,secret";
    let selector = format!("--selector=millstream.io/job={job}");
    namespace.until("nothing of the job left", Duration::from_secs(60), || {
        let left = namespace.kubectl(&["get", kinds, &selector, "-o", "name"])?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(Some(()))
    })
}
