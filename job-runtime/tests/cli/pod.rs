//! `millstream pod` as the operator starts it: probes, metrics and status while it works, SIGTERM, and its last words.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use super::tls::ask;
use super::tokens::{SigningKey, access, claims};
use super::workshop::{Running, Workshop};

/// Uid of the pods' job.
const UID: &str = "5d41402a-bc4b-4a76";

/// A pod's folders and ports below the workshop's.
struct Pod {
    workshop: Workshop,
    health: u16,
    control: u16,
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

impl Pod {
    fn new(job: &str) -> Self {
        let workshop = Workshop::new();
        workshop.write("job.yaml", job);
        let settings = json!({"version": 1, "jobUid": UID, "revision": "6f1c9a7e", "replicas": 1});
        workshop.write("settings.yaml", &settings.to_string());
        Self { workshop, health: free_port(), control: free_port() }
    }

    fn start(&self) -> Running {
        self.start_as(&[env!("CARGO_BIN_EXE_millstream")])
    }

    /// By a command that ends by starting `millstream`.
    fn start_as(&self, command: &[&str]) -> Running {
        let (health, control) = (self.health.to_string(), self.control.to_string());
        let arguments = ["pod", "--config-dir", ".", "--state-dir", "state", "--pod-name", "ticks-0"];
        let ports = ["--termination-file", "last-words", "--health-port", &health, "--control-port", &control];
        self.workshop.start_as(command, &[&arguments[..], &ports[..]].concat())
    }

    fn is_ready(&self) -> bool {
        get(self.health, "/readyz").is_some_and(|(code, _)| code == 200)
    }

    /// The same pod at other ports, as Kubernetes starts it while the process of the one before still ends.
    fn again(self) -> Self {
        Self { health: free_port(), control: free_port(), ..self }
    }

    /// Asks on the control port.
    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Option<(u16, String)> {
        ask(([127, 0, 0, 1], self.control).into(), method, path, token, body)
    }

    fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.ask("GET", "/status", None, "")?.1).ok()
    }

    fn last_words(&self) -> Value {
        serde_json::from_str(&self.workshop.read("last-words")).unwrap()
    }
}

/// Status and body; `None` while nobody listens.
fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pod\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[test]
fn probes_metrics_and_status_tell_how_it_goes_and_sigterm_ends_it_well() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap());
    let mut running = pod.start();
    running.wait_until("ready", || pod.is_ready());
    assert_eq!(get(pod.health, "/healthz").unwrap().0, 200);
    assert_eq!(get(pod.health, "/startupz").unwrap().0, 200);
    running.wait_until("a commit", || pod.status().is_some_and(|told| told["commits"].as_u64() > Some(0)));
    let told = pod.status().unwrap();
    assert_eq!((&told["phase"], &told["revision"]), (&json!("Running"), &json!("6f1c9a7e")));
    let operators = |told: Value| told["operators"].as_array().cloned().unwrap_or_default();
    let some = |operator: &Value, what: &str| operator[what].as_u64() > Some(0);
    running.wait_until("rows at every stream operator, and time spent", || {
        let told = pod.status().map(operators).unwrap_or_default();
        told.iter().all(|operator| some(operator, "rowsIn")) && told.iter().any(|operator| some(operator, "busyMs"))
    });
    let metrics = get(pod.health, "/metrics").unwrap().1;
    // What the book lists is what there is.
    let page = include_str!("../../../docs/src/reference/metrics.md");
    let first_cell = |line: &str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let listed: BTreeSet<String> = page.lines().filter_map(first_cell).collect();
    let name = |line: &str| line.strip_prefix("# HELP ")?.split(' ').next().map(str::to_owned);
    let served = metrics.lines().filter_map(name).filter(|name| !name.starts_with("process_"));
    let unlisted: Vec<String> = served.filter(|name| !listed.contains(name)).collect();
    assert!(unlisted.is_empty(), "{unlisted:?} are not in the book");
    for name in [
        "millstream_source_records_total",
        "millstream_source_lag_records",
        "millstream_worker_busy_seconds_total",
        "millstream_stream_operator_busy_seconds_total",
    ] {
        assert!(metrics.contains(&format!("# HELP {name} ")), "no {name} in {metrics}");
    }
    assert!(metrics.contains("millstream_commit_duration_seconds_bucket{job=\"ticks\",pod=\"ticks-0\",revision=\"6f1c9a7e\",le=\"0.001\"}"), "{metrics}");
    assert!(told["lagRows"].is_u64(), "{told}");
    assert!(metrics.contains("job=\"ticks\",pod=\"ticks-0\",revision=\"6f1c9a7e\""), "{metrics}");
    running.signal("TERM");
    let outcome = running.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let lines: Vec<Value> = outcome.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line.to_string().contains("\"job\":\"ticks\"")), "{}", outcome.stderr);
    assert!(!pod.workshop.path("last-words").exists());
}

#[test]
fn finished_input_is_said_and_the_pod_waits_to_be_ended() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap().replace("'149999'", "'999'"));
    let mut running = pod.start();
    running.wait_until("the end", || pod.status().is_some_and(|told| told["phase"] == "Finished"));
    assert_eq!(get(pod.health, "/readyz").unwrap().0, 200);
    running.signal("TERM");
    assert_eq!(running.end().code, Some(0));
}

#[test]
fn a_job_that_is_wrong_leaves_its_message_for_kubernetes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap().replace("FROM TABLE(", "FROM TABEL("));
    assert_eq!(pod.start().end().code, Some(2));
    let words = pod.last_words();
    assert_eq!(words["reason"], "InvalidJob");
    assert!(words["message"].as_str().unwrap().contains("job.yaml:"), "{words}");
}

#[test]
fn the_operators_token_ends_the_job_and_another_one_does_not() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap().replace("'149999'", "'149999999999'"));
    let (key, stranger) = (SigningKey::rsa("k"), SigningKey::rsa("k"));
    let settings =
        json!({"version": 1, "jobUid": UID, "revision": "6f1c9a7e", "replicas": 1, "control": access(UID, &[&key])});
    pod.workshop.write("settings.yaml", &settings.to_string());
    let mut running = pod.start();
    running.wait_until("a commit", || pod.status().is_some_and(|told| told["commits"].as_u64() > Some(0)));
    let (theirs, ours) = (stranger.sign(&claims(UID)), key.sign(&claims(UID)));
    let stop = |token: &str| pod.ask("POST", "/v1/stop", Some(token), r#"{"mode":"Stop"}"#).unwrap().0;
    assert_eq!(stop(&theirs), 401);
    assert!(running.runs());
    assert_eq!(stop(&ours), 202);
    // The job's work ends; the pod says so and waits to be ended, or Kubernetes would start it again.
    running.wait_until("the end of its work", || pod.status().is_some_and(|told| told["phase"] == "Finished"));
    running.signal("TERM");
    let outcome = running.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for token in [&theirs, &ours] {
        let secret = token.rsplit_once('.').unwrap().1;
        assert!(!outcome.stderr.contains(secret), "a token is in the log");
    }
}

#[test]
fn a_pod_waits_for_the_process_before_it_to_leave_the_volume() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    // Hours of input: whoever runs, runs until asked to stop.
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap().replace("'149999'", "'999999999'"));
    let mut first = pod.start();
    first.wait_until("ready", || pod.is_ready());
    let pod = pod.again();
    let quietly = ["sh", "-c", "exec \"$0\" \"$@\" 2>next", env!("CARGO_BIN_EXE_millstream")];
    let waits = || std::fs::read_to_string(pod.workshop.path("next")).unwrap_or_default().contains("waiting for it");
    let mut next = pod.start_as(&quietly);
    next.wait_until("waiting", waits);
    // One that is asked to stop while it waits has nothing to complain of.
    next.signal("TERM");
    assert_eq!(next.end().code, Some(0), "{}", pod.workshop.read("next"));
    assert!(!pod.workshop.path("last-words").exists());
    std::fs::remove_file(pod.workshop.path("next")).unwrap();
    let mut next = pod.start_as(&quietly);
    next.wait_until("waiting", waits);
    first.signal("TERM");
    assert_eq!(first.end().code, Some(0));
    next.wait_until("ready", || pod.is_ready());
    next.signal("TERM");
    assert_eq!(next.end().code, Some(0), "{}", pod.workshop.read("next"));
}

#[test]
fn a_signal_from_before_the_process_was_replaced_is_heard() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    let pod = Pod::new(&std::fs::read_to_string(path).unwrap());
    // As a pod that begins anew: the signal is blocked, and still pending when the new program starts.
    let pending = ["env", "--block-signal=TERM", "sh", "-c", "kill -s TERM $$; exec \"$0\" \"$@\""];
    let outcome = pod.start_as(&[&pending[..], &[env!("CARGO_BIN_EXE_millstream")]].concat()).end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("asked to stop"), "{outcome:?}");
}
