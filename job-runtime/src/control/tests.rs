//! Promises of the control port over real TLS with real tokens: who is let in, what is refused and with which words, and that the port
//! outlives whoever abuses it. The job behind it only writes down what it is ordered.

#[path = "../../tests/cli/tls.rs"]
mod tls_client;
#[path = "../../tests/cli/tokens.rs"]
mod tokens;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use job_api::orders::{SavepointPhase, SavepointRequest, SavepointStatus, StopMode};
use job_api::{PodPhase, PodSettings};
use serde_json::{Value, json};

use super::client::{Client, ClientError};
use super::connections::Security;
use super::{Bound, ControlPort};
use crate::background::Background;
use crate::http::Pages;
use crate::pod::monitor::Monitor;
use crate::pod::orders::{OrderError, Orders};
use tls_client::{ask, send};
use tokens::{SigningKey, access, claims, now};

const UID: &str = "6d9d4d0c-52cb-4d2c-9a34-6a1b3b6d1c11";

/// A job that writes down its orders.
#[derive(Default)]
struct Recorder {
    orders: Mutex<Vec<String>>,
    answer: Mutex<Option<OrderError>>,
    /// While true, an order does not return.
    stuck: Mutex<bool>,
    freed: Condvar,
}

impl Recorder {
    fn take(&self, order: String) -> Result<(), OrderError> {
        drop(self.freed.wait_while(self.stuck.lock().unwrap(), |stuck| *stuck).unwrap());
        self.orders.lock().unwrap().push(order);
        self.answer.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    fn orders(&self) -> Vec<String> {
        self.orders.lock().unwrap().clone()
    }

    fn free(&self) {
        *self.stuck.lock().unwrap() = false;
        self.freed.notify_all();
    }
}

impl Orders for Recorder {
    fn savepoint(&self, request: SavepointRequest) -> Result<SavepointStatus, OrderError> {
        self.take(format!("savepoint {} {}", request.name, request.stop))?;
        Ok(status(&request.name, SavepointPhase::Draining))
    }

    fn savepoint_status(&self, name: &str) -> Option<SavepointStatus> {
        (name == "known").then(|| status(name, SavepointPhase::Completed))
    }

    fn stop(&self, mode: StopMode) -> Result<(), OrderError> {
        self.take(format!("stop {mode:?}"))
    }

    fn assign(&self, replicas: u16) -> Result<bool, OrderError> {
        // Four are in force.
        self.take(format!("assign {replicas}")).map(|()| replicas == 4)
    }
}

fn status(name: &str, phase: SavepointPhase) -> SavepointStatus {
    SavepointStatus {
        version: job_api::VERSION,
        name: name.to_owned(),
        phase,
        location: None,
        pause_ms: None,
        bytes: None,
        message: None,
    }
}

/// A port that is served, its settings file, and the job behind it.
struct Served {
    address: SocketAddr,
    recorder: Arc<Recorder>,
    port: Arc<ControlPort>,
    folder: tempfile::TempDir,
    _background: Background,
}

impl Served {
    /// A pod's port, with these settings.
    fn pod(settings: &Value) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(job_api::SETTINGS_FILE);
        std::fs::write(&file, settings.to_string()).unwrap();
        let settings: PodSettings = serde_json::from_value(settings.clone()).unwrap();
        let security = Security::Tls(super::tls::acceptor().unwrap());
        Self::serve(folder, security, |pages, orders| ControlPort::of_pod(pages, orders, file, &settings))
    }

    /// A laptop's port.
    fn laptop() -> Self {
        Self::serve(tempfile::tempdir().unwrap(), Security::Plain, ControlPort::of_run)
    }

    fn serve(
        folder: tempfile::TempDir,
        security: Security,
        port: impl FnOnce(Arc<Pages>, Arc<dyn Orders>) -> Arc<ControlPort>,
    ) -> Self {
        let pages = Arc::new(Pages {
            monitor: Arc::new(Monitor::new(Instant::now())),
            registry: Mutex::new(None),
            graph: OnceLock::new(),
            phase: Mutex::new((PodPhase::Running, None)),
            revision: "6f1c9a7e".to_owned(),
        });
        let recorder = Arc::new(Recorder::default());
        let port = port(pages, Arc::<Recorder>::clone(&recorder));
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let served = Arc::clone(&port);
        let background = Background::start(move |cancel| async move {
            let bound = Bound { security, ..Bound::of_run(listener).unwrap() };
            bound.serve(served, cancel).await;
        });
        Self { address, recorder, port, folder, _background: background.unwrap() }
    }

    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        ask(self.address, method, path, token, body).unwrap()
    }

    /// Refused, and the message says so.
    #[track_caller]
    fn refuses(&self, token: Option<&str>, code: u16, because: &str) {
        let (status, body) = self.ask("POST", "/v1/stop", token, r#"{"mode":"Stop"}"#);
        let message = serde_json::from_str::<Value>(&body).unwrap()["message"].to_string();
        assert_eq!(status, code, "{message}");
        assert!(message.contains(because), "{message}");
        assert_eq!(self.recorder.orders(), [] as [&str; 0]);
    }
}

fn settings(keys: &[&SigningKey]) -> Value {
    json!({"version": 1, "jobUid": UID, "revision": "6f1c9a7e", "replicas": 2, "control": access(UID, keys)})
}

#[test]
fn whoever_has_the_operators_token_for_this_job_gives_orders() {
    let (rsa, p256, p384) = (SigningKey::rsa("r"), SigningKey::p256("e"), SigningKey::p384("f"));
    let served = Served::pod(&settings(&[&rsa, &p256, &p384]));
    for (key, mode) in [(&rsa, "Stop"), (&p256, "Drain"), (&p384, "Stop")] {
        let token = key.sign(&claims(UID));
        let answer = served.ask("POST", "/v1/stop", Some(&token), &json!({"mode": mode}).to_string());
        assert_eq!(answer, (202, String::new()));
    }
    let token = rsa.sign(&claims(UID));
    let (code, body) = served.ask("POST", "/v1/savepoints", Some(&token), r#"{"name":"before-upgrade","stop":true}"#);
    assert_eq!(code, 202, "{body}");
    assert_eq!(serde_json::from_str::<SavepointStatus>(&body).unwrap().name, "before-upgrade");
    assert_eq!(served.ask("GET", "/v1/savepoints/known", Some(&token), "").0, 200);
    assert_eq!(served.ask("GET", "/v1/savepoints/other", Some(&token), "").0, 404);
    assert_eq!(served.ask("POST", "/v1/assignment", Some(&token), r#"{"replicas":3}"#).0, 202, "under way");
    assert_eq!(served.ask("POST", "/v1/assignment", Some(&token), r#"{"replicas":4}"#).0, 200, "in force");
    let one_audience =
        json!({"iss": tokens::ISSUER, "sub": tokens::SUBJECT, "aud": format!("millstream/{UID}"), "exp": now() + 60});
    assert_eq!(served.ask("GET", "/v1/savepoints/known", Some(&rsa.sign(&one_audience)), "").0, 200);
    assert_eq!(
        served.recorder.orders(),
        ["stop Stop", "stop Drain", "stop Stop", "savepoint before-upgrade true", "assign 3", "assign 4"]
    );
}

#[test]
fn nobody_else_does() {
    let (key, other) = (SigningKey::rsa("k"), SigningKey::rsa("k"));
    let ec = SigningKey::p256("e");
    let served = Served::pod(&settings(&[&key, &ec]));
    let with = |claim: &str, value: Value| {
        let mut all = claims(UID);
        all[claim] = value;
        key.sign(&all)
    };
    served.refuses(None, 401, "Authorization: Bearer");
    served.refuses(Some("no-token"), 401, "no token of a service account");
    served.refuses(Some(&with("aud", json!(["millstream/another-job"]))), 401, "another audience");
    served.refuses(Some(&with("aud", json!("https://kubernetes.default.svc"))), 401, "another audience");
    served.refuses(Some(&with("iss", json!("https://elsewhere"))), 401, "another issuer");
    let thief = "system:serviceaccount:team-a:default";
    served.refuses(Some(&with("sub", json!(thief))), 403, "not the operator's");
    served.refuses(Some(&with("exp", json!(now() - 120))), 401, "it expired 12");
    served.refuses(Some(&with("nbf", json!(now() + 600))), 401, "it holds only in");
    served.refuses(Some(&with("exp", json!("soon"))), 401, "no token of a service account");
    served.refuses(Some(&other.sign(&claims(UID))), 401, "its signature is wrong");
    served.refuses(Some(&SigningKey::rsa("unknown").sign(&claims(UID))), 401, "a key that this pod does not know");
    // The key decides on the algorithm: neither none, nor that of another kind of key, nor a secret that is no secret.
    for alg in ["none", "HS256", "ES256", "RS512"] {
        served.refuses(Some(&key.sign_as(&json!({"alg": alg, "kid": "k"}), &claims(UID))), 401, "its algorithm");
    }
    served.refuses(Some(&ec.sign_as(&json!({"alg": "ES384", "kid": "e"}), &claims(UID))), 401, "its algorithm");
    let critical = json!({"alg": "RS256", "kid": "k", "crit": ["b64"]});
    served.refuses(Some(&key.sign_as(&critical, &claims(UID))), 401, "no token of a service account");
    let good = key.sign(&claims(UID));
    let (signed, _) = good.rsplit_once('.').unwrap();
    served.refuses(Some(&format!("{signed}.")), 401, "its signature is wrong");
    let other_claims = tokens::base64(claims("another").to_string().as_bytes());
    let mut parts: Vec<&str> = good.split('.').collect();
    parts[1] = &other_claims;
    served.refuses(Some(&parts.join(".")), 401, "its signature is wrong");
}

#[test]
fn a_pod_that_knows_no_operator_tells_its_status_and_takes_no_orders() {
    let key = SigningKey::p256("k");
    let mut settings = settings(&[&key]);
    settings.as_object_mut().unwrap().remove("control");
    let served = Served::pod(&settings);
    let (code, body) = served.ask("GET", "/status", None, "");
    let told: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((code, &told["revision"], &told["settingsReplicas"]), (200, &json!("6f1c9a7e"), &json!(2)));
    served.refuses(Some(&key.sign(&claims(UID))), 403, "this pod takes no orders");
    served.refuses(None, 403, "this pod takes no orders");
}

#[test]
fn new_keys_reach_a_pod_that_runs() {
    let (old, new) = (SigningKey::p256("old"), SigningKey::p256("new"));
    let served = Served::pod(&settings(&[&old]));
    let stop = |key: &SigningKey| served.ask("POST", "/v1/stop", Some(&key.sign(&claims(UID))), r#"{"mode":"Stop"}"#).0;
    assert_eq!((stop(&old), stop(&new)), (202, 401));
    let mut changed = settings(&[&new]);
    changed["replicas"] = json!(3);
    let file = served.folder.path().join(job_api::SETTINGS_FILE);
    // Half a file is no settings, and changes nothing.
    std::fs::write(&file, &changed.to_string()[..40]).unwrap();
    assert_eq!(stop(&old), 202);
    std::fs::write(&file, changed.to_string()).unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while stop(&new) != 202 {
        assert!(Instant::now() < deadline, "the new key is never known");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(stop(&old), 401);
    let told: Value = serde_json::from_str(&served.ask("GET", "/status", None, "").1).unwrap();
    assert_eq!(told["settingsReplicas"], 3);
}

#[test]
fn what_the_job_refuses_is_refused_in_its_words() {
    let key = SigningKey::p256("k");
    let served = Served::pod(&settings(&[&key]));
    let token = key.sign(&claims(UID));
    let message = || "the job's own words".to_owned();
    for (error, code) in [
        (OrderError::Invalid { message: message() }, 400),
        (OrderError::Conflict { message: message() }, 409),
        (OrderError::NotReady { message: message() }, 503),
    ] {
        *served.recorder.answer.lock().unwrap() = Some(error);
        let answer = served.ask("POST", "/v1/assignment", Some(&token), r#"{"replicas":3}"#);
        assert_eq!(answer, (code, r#"{"message":"the job's own words"}"#.to_owned()));
    }
}

#[test]
fn what_is_no_order_never_reaches_the_job() {
    let key = SigningKey::p256("k");
    let served = Served::pod(&settings(&[&key]));
    let token = key.sign(&claims(UID));
    let post = |path: &str, body: &str| served.ask("POST", path, Some(&token), body).0;
    assert_eq!(post("/v1/savepoints", r#"{"name":"../../etc"}"#), 400);
    assert_eq!(post("/v1/savepoints", r#"{"name":"a","halt":true}"#), 400);
    assert_eq!(post("/v1/savepoints", ""), 400);
    assert_eq!(post("/v1/stop", "not JSON"), 400);
    assert_eq!(post("/v1/assignment", r#"{"replicas":0}"#), 400);
    assert_eq!(post("/v1/assignment", r#"{"replicas":65536}"#), 400);
    assert_eq!(post("/v1/unknown", "{}"), 404);
    assert_eq!(post("/status", "{}"), 405);
    assert_eq!(served.ask("DELETE", "/v1/stop", Some(&token), "").0, 405);
    assert_eq!(served.ask("GET", "/v1/savepoints/..%2f..", Some(&token), "").0, 404);
    assert_eq!(post("/v1/stop", &" ".repeat(5000)), 413);
    // Who may not give orders learns that before the size of the body matters.
    assert_eq!(served.ask("POST", "/v1/stop", None, &" ".repeat(5000)).0, 401);
    assert_eq!(served.recorder.orders(), [] as [&str; 0]);
}

#[test]
fn headers_have_a_size() {
    let served = Served::pod(&settings(&[]));
    let long = format!("GET /status HTTP/1.1\r\nHost: pod\r\nX-Long: {}\r\n\r\n", "x".repeat(64 * 1024));
    let answer = String::from_utf8(send(served.address, long.as_bytes()).unwrap()).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!("GET /status HTTP/1.1\r\nHost: pod\r\n{}\r\n", "X-One: 1\r\n".repeat(100));
    let answer = String::from_utf8(send(served.address, many.as_bytes()).unwrap()).unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(served.ask("GET", "/status", None, "").0, 200);
}

#[test]
fn those_who_say_nothing_are_sent_away_and_hold_up_nobody_for_long() {
    let served = Served::pod(&settings(&[]));
    // More than the port has places, none of which ever says a word.
    let silent: Vec<_> = (0..40).map(|_| std::net::TcpStream::connect(served.address).unwrap()).collect();
    assert_eq!(served.ask("GET", "/status", None, "").0, 200, "answered when the silent ones are sent away");
    drop(silent);
    // Half a request is a silence too.
    let begin = Instant::now();
    send(served.address, b"GET /status HTTP/1.1\r\nHost:");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_job_that_does_not_answer_is_not_waited_for() {
    let key = SigningKey::p256("k");
    let served = Served::pod(&settings(&[&key]));
    *served.recorder.stuck.lock().unwrap() = true;
    let token = key.sign(&claims(UID));
    let begin = Instant::now();
    let (code, body) = served.ask("POST", "/v1/stop", Some(&token), r#"{"mode":"Stop"}"#);
    assert_eq!(code, 503, "{body}");
    assert!(body.contains("did not answer within 10 s"), "{body}");
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    // The status needs no order.
    assert_eq!(served.ask("GET", "/status", None, "").0, 200);
    served.recorder.free();
    assert_eq!(served.ask("POST", "/v1/stop", Some(&token), r#"{"mode":"Drain"}"#).0, 202);
    assert_eq!(served.recorder.orders(), ["stop Stop", "stop Drain"]);
}

#[test]
fn plain_http_is_not_understood_by_a_pod() {
    use std::io::{Read as _, Write as _};
    let served = Served::pod(&settings(&[]));
    let mut stream = std::net::TcpStream::connect(served.address).unwrap();
    stream.write_all(b"GET /status HTTP/1.1\r\nHost: pod\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // The port may cut the connection without a word.
    let _ = stream.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_laptop_takes_orders_without_tokens() {
    let served = tokio::task::spawn_blocking(Served::laptop).await.unwrap();
    let client = Client { address: served.address };
    let order = SavepointRequest { name: "one".to_owned(), stop: false };
    let status: SavepointStatus = client.order("/v1/savepoints", &order).await.unwrap();
    assert_eq!(status.phase, SavepointPhase::Draining);
    assert!(served.port.settling().is_watched(), "the order's giver wants to know its end");
    let status: SavepointStatus = client.get("/v1/savepoints/known").await.unwrap();
    assert_eq!(status.phase, SavepointPhase::Completed);
    assert!(!served.port.settling().is_watched(), "and has been told");
    let error = client.get::<SavepointStatus>("/v1/savepoints/other").await.unwrap_err();
    assert!(matches!(error, ClientError::Refused { .. }), "{error}");
    assert_eq!(served.recorder.orders(), ["savepoint one false"]);
    let address = served.address;
    tokio::task::spawn_blocking(move || drop(served)).await.unwrap();
    assert!(!client.answers().await);
    let error = Client { address }.get::<SavepointStatus>("/v1/savepoints/known").await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
}
