//! Promises on a real Kubernetes with a real Kafka: what a user does with Helm and kubectl, and what comes out of the output topic.
//!
//! Needs KUBECONFIG and KAFKA_BOOTSTRAP_SERVERS, kubectl and helm, and the images on the nodes: `make e2e` sees to all of it.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::cluster::{Namespace, run};
use e2e::flights::{self, Flight, Per};
use e2e::kafka::{self, Reader};
use e2e::operator::{self, SYSTEM};

const PARTITIONS: i32 = 3;

/// The topics of one test, deleted at its end with those that the job made for itself.
struct Topics {
    input: String,
    output: String,
}

impl Topics {
    fn new(runtime: &tokio::runtime::Runtime, namespace: &str) -> Self {
        let topics = Self { input: format!("{namespace}-flights"), output: format!("{namespace}-delays") };
        runtime.block_on(kafka::create_topics(&[(&topics.input, PARTITIONS), (&topics.output, 2)])).unwrap();
        topics
    }

    /// The sample job on this test's topics, with its StreamCluster.
    fn resources(&self) -> String {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/samples/flights.yaml");
        let sample = std::fs::read_to_string(sample).unwrap();
        let job = sample
            .replace("'topic' = 'flights'", &format!("'topic' = '{}'", self.input))
            .replace("'topic' = 'delays'", &format!("'topic' = '{}'", self.output))
            .replace("cpu: \"1\", memory: 1Gi", "cpu: 100m, memory: 256Mi");
        assert!(
            job.contains(&self.input) && job.contains(&self.output),
            "the sample names its topics otherwise: {sample}"
        );
        format!(
            "apiVersion: millstream.io/v1alpha1
kind: StreamCluster
metadata: {{name: default}}
spec:
  kafka:
    bootstrapServers: {}
    internalTopics: {{replicationFactor: 1}}
---
{job}",
            kafka::bootstrap_of_pods().unwrap(),
        )
    }

    /// Writes flights, each airline's into one partition, so that no partition is in the order of the others.
    fn send(&self, flights: &[Flight]) {
        let partition =
            |flight: &Flight| i32::try_from(flight.carrier.bytes().map(u32::from).sum::<u32>() % 3).unwrap();
        kafka::produce(&self.input, flights.iter().map(|f| (partition(f), f.record()))).unwrap();
    }

    fn close(&self) {
        kafka::produce(&self.input, (0..PARTITIONS).map(|p| (p, Flight::closing().record()))).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

#[test]
#[ignore = "needs the lab"]
fn a_job_survives_the_loss_of_its_pod_with_every_row_exactly_once() {
    operator::install().unwrap();
    let runtime = runtime();
    let namespace = Namespace::new("e2e-flights").unwrap();
    let topics = Topics::new(&runtime, &namespace.name);
    let all = flights::nearly_sorted(flights::read().unwrap());
    let want = flights::oracle(&all, Per::Airport);
    // In four parts: before each loss of the pod there is work, and after each loss there is more.
    let parts: Vec<&[Flight]> = all.chunks(all.len().div_ceil(4)).collect();
    topics.send(parts[0]);
    namespace.apply(&topics.resources()).unwrap();
    namespace.wait_for("streamjob/flights", "condition=Ready", Duration::from_secs(90)).unwrap();
    let mut reader = Reader::new(&topics.output).unwrap();
    reader.until("a first row", Duration::from_secs(60), |rows| !rows.is_empty()).unwrap_or_else(|error| {
        panic!("{error:#}\n{}", namespace.describe());
    });
    for part in &parts[1..] {
        let old = namespace.get("pod/flights-0", "{.metadata.uid}").unwrap();
        topics.send(&part[..part.len() / 2]);
        namespace.kubectl(&["delete", "pod", "flights-0", "--force", "--grace-period=0"]).unwrap();
        topics.send(&part[part.len() / 2..]);
        operator::wait_for_new_pod(&namespace, "flights-0", &old).unwrap();
        let before = reader.records.len();
        reader.until("a row after the loss", Duration::from_secs(60), |rows| rows.len() > before).unwrap_or_else(
            |error| {
                panic!("{error:#}\n{}", namespace.describe());
            },
        );
    }
    topics.close();
    let complete = reader.until("all rows", Duration::from_secs(90), |rows| rows.len() >= want.len());
    reader.to_end().unwrap();
    let wrong = flights::differences(&flights::answer(&reader.records, Per::Airport).unwrap(), &want);
    assert!(complete.is_ok() && wrong.is_empty(), "{}\n{}", wrong.join("\n"), namespace.describe());
    namespace.wait_for("streamjob/flights", "condition=Ready", Duration::from_secs(30)).unwrap();
    operator::delete_job(&namespace, "flights").unwrap();
    runtime.block_on(kafka::delete_topics(&namespace.name)).unwrap();
}

#[test]
#[ignore = "needs the lab"]
fn a_wrong_job_is_refused_by_the_api_server_or_says_why_within_ten_seconds() {
    operator::install().unwrap();
    let runtime = runtime();
    let namespace = Namespace::new("e2e-wrong").unwrap();
    let topics = Topics::new(&runtime, &namespace.name);
    let both = topics.resources().replace("  sql: |", "  sqlFrom: {configMapKeyRef: {name: a, key: b}}\n  sql: |");
    let refusal = namespace.apply(&both).unwrap_err().to_string();
    assert!(refusal.contains("write exactly one of spec.sql and spec.sqlFrom"), "{refusal}");
    let many = topics.resources().replace("  sql: |", "  replicas: 17\n  sql: |");
    let refusal = namespace.apply(&many).unwrap_err().to_string();
    assert!(refusal.contains("spec.replicas"), "{refusal}");

    let begin = Instant::now();
    namespace.apply(&topics.resources().replace("COUNT(dep_delay)", "COUNT(dep_delya)")).unwrap();
    let message = namespace
        .until("the reason in the condition", Duration::from_secs(30), || {
            let stalled = namespace.get("streamjob/flights", "{.status.conditions[?(@.type==\"Stalled\")].status}")?;
            let message = namespace.get("streamjob/flights", "{.status.conditions[?(@.type==\"Stalled\")].message}")?;
            // A pod that waits for its volume may be what is said first.
            Ok((stalled == "True" && !message.contains("nodes are available")).then_some(message))
        })
        .unwrap();
    let took = begin.elapsed();
    assert!(message.contains("dep_delya"), "the message does not name the column: {message}");
    assert!(took < Duration::from_secs(10), "the reason came after {took:?}");
    let ready = namespace.get("streamjob/flights", "{.status.conditions[?(@.type==\"Ready\")].status}").unwrap();
    assert_eq!(ready, "False");
    operator::delete_job(&namespace, "flights").unwrap();
    runtime.block_on(kafka::delete_topics(&namespace.name)).unwrap();
}

#[test]
#[ignore = "needs the lab"]
fn a_suspended_job_has_no_pod_and_goes_on_where_it_was() {
    operator::install().unwrap();
    let runtime = runtime();
    let namespace = Namespace::new("e2e-suspend").unwrap();
    let topics = Topics::new(&runtime, &namespace.name);
    let all = flights::nearly_sorted(flights::read().unwrap());
    let (first, rest) = all.split_at(all.len() / 2);
    topics.send(first);
    namespace.apply(&topics.resources()).unwrap();
    namespace.wait_for("streamjob/flights", "condition=Ready", Duration::from_secs(90)).unwrap();
    let mut reader = Reader::new(&topics.output).unwrap();
    reader.until("a first row", Duration::from_secs(60), |rows| !rows.is_empty()).unwrap();
    let state = |state: &str| {
        let patch = format!("{{\"spec\":{{\"state\":\"{state}\"}}}}");
        namespace.kubectl(&["patch", "streamjob", "flights", "--type=merge", "--patch", &patch]).unwrap();
    };
    state("Suspended");
    namespace
        .until("no pod", Duration::from_secs(60), || {
            let pods = namespace.kubectl(&["get", "pods", "-o", "name"])?;
            let phase = namespace.get("streamjob/flights", "{.status.phase}")?;
            Ok((pods.trim().is_empty() && phase == "Suspended").then_some(()))
        })
        .unwrap();
    topics.send(rest);
    topics.close();
    state("Running");
    let want = flights::oracle(&all, Per::Airport);
    let complete = reader.until("all rows", Duration::from_secs(90), |rows| rows.len() >= want.len());
    reader.to_end().unwrap();
    let wrong = flights::differences(&flights::answer(&reader.records, Per::Airport).unwrap(), &want);
    assert!(complete.is_ok() && wrong.is_empty(), "{}\n{}", wrong.join("\n"), namespace.describe());
    operator::delete_job(&namespace, "flights").unwrap();
    runtime.block_on(kafka::delete_topics(&namespace.name)).unwrap();
}

#[test]
#[ignore = "needs the lab"]
fn the_operator_has_no_right_to_secrets_and_pods_hold_no_token() {
    operator::install().unwrap();
    let account =
        run("kubectl", &["--namespace", SYSTEM, "get", "pods", "-o", "jsonpath={.items[0].spec.serviceAccountName}"])
            .unwrap();
    let user = format!("--as=system:serviceaccount:{SYSTEM}:{account}");
    let mut allowed = BTreeSet::new();
    for verb in ["get", "list", "watch", "create", "update", "delete"] {
        // `auth can-i` ends with an error when the answer is no.
        if run("kubectl", &["auth", "can-i", verb, "secrets", &user, "--namespace", "default"]).is_ok() {
            allowed.insert(verb);
        }
    }
    assert!(allowed.is_empty(), "the operator may {allowed:?} secrets");
}
