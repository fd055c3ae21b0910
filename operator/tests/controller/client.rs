//! What the operator says to a pod, byte by byte: over TLS with a certificate that nobody vouches for, a token with orders and with nothing
//! else, and every kind of answer understood.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex};

use job_api::PodPhase;
use job_api::orders::{SavepointPhase, SavepointRequest};
use operator::access::Token;
use operator::job_client::{HttpJobClient, JobClient, JobClientError, install_tls_provider};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A pod that answers everything with the same bytes, and writes down what it is asked.
struct Pod {
    client: HttpJobClient,
    asked: Arc<Mutex<Vec<String>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn acceptor() -> TlsAcceptor {
    let made = rcgen::generate_simple_self_signed(vec!["pod".to_owned()]).expect("a certificate can be made");
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .expect("the key is that of the certificate");
    TlsAcceptor::from(Arc::new(config))
}

impl Pod {
    async fn new(status: u16, body: &str) -> Self {
        install_tls_provider();
        let listener = TcpListener::bind((HERE, 0)).await.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let answer =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        let (acceptor, notes) = (acceptor(), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let mut request = Vec::new();
                let mut piece = [0; 1024];
                while !is_whole(&request) {
                    match stream.read(&mut piece).await {
                        Ok(0) | Err(_) => break,
                        Ok(n) => request.extend_from_slice(&piece[..n]),
                    }
                }
                notes.lock().expect("nothing panicked").push(String::from_utf8_lossy(&request).into_owned());
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        let client = HttpJobClient::at_port(port).expect("a client can be made");
        Self { client, asked, task }
    }

    fn asked(&self) -> String {
        self.asked.lock().expect("nothing panicked").last().cloned().unwrap_or_default()
    }
}

/// Whether the headers and the body that they announce are there.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length =
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned));
    body.len() >= length.and_then(|length| length.parse().ok()).unwrap_or(0)
}

fn token() -> Token {
    Token::new("the-token".to_owned())
}

#[tokio::test]
async fn the_status_is_asked_for_without_a_token() {
    let body = r#"{"version":1,"revision":"r","phase":"Running","commits":7,"rowsIn":1,"rowsOut":2,"settingsReplicas":3,"new":1}"#;
    let pod = Pod::new(200, body).await;
    let status = pod.client.status(HERE).await.expect("it is a status");
    assert_eq!((status.phase, status.settings_replicas), (PodPhase::Running, Some(3)));
    assert!(pod.asked().starts_with("GET /status HTTP/1.1\r\n"), "{}", pod.asked());
    assert!(!pod.asked().to_ascii_lowercase().contains("authorization"), "{}", pod.asked());
}

#[tokio::test]
async fn orders_carry_the_token_and_are_what_the_contract_says() {
    let pod = Pod::new(202, r#"{"version":1,"name":"one","phase":"Draining"}"#).await;
    let order = SavepointRequest { name: "one".to_owned(), stop: false };
    let status = pod.client.savepoint(HERE, &token(), &order).await.expect("it is taken");
    assert_eq!(status.phase, SavepointPhase::Draining);
    let asked = pod.asked();
    assert!(asked.starts_with("POST /v1/savepoints HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("authorization: Bearer the-token\r\n"), "{asked}");
    assert!(asked.ends_with(r#"{"name":"one","stop":false}"#), "{asked}");
    pod.client.savepoint_status(HERE, &token(), "one").await.expect("it is known");
    assert!(pod.asked().starts_with("GET /v1/savepoints/one HTTP/1.1\r\n"), "{}", pod.asked());
    assert!(pod.asked().contains("Bearer the-token"), "{}", pod.asked());
    let pod = Pod::new(202, "").await;
    assert!(!pod.client.assign(HERE, &token(), 3).await.expect("it is taken"), "it is under way");
    assert!(pod.asked().starts_with("POST /v1/assignment HTTP/1.1\r\n"), "{}", pod.asked());
    assert!(pod.asked().ends_with(r#"{"replicas":3}"#), "{}", pod.asked());
    assert!(Pod::new(200, "").await.client.assign(HERE, &token(), 3).await.expect("it is taken"), "it is in force");
}

#[tokio::test]
async fn a_refusal_is_told_in_the_pods_words_and_no_error_holds_the_token() {
    let pod = Pod::new(409, r#"{"message":"another savepoint is being made"}"#).await;
    let error = pod.client.assign(HERE, &token(), 3).await.expect_err("it is refused");
    assert!(matches!(error, JobClientError::Refused { code: 409, .. }), "{error:?}");
    assert_eq!(error.to_string(), "another savepoint is being made");
    let nothing = Pod::new(502, "<html>").await.client.assign(HERE, &token(), 3).await.expect_err("it is refused");
    assert!(nothing.to_string().contains("the pod answered 502"), "{nothing}");
    let pod = Pod::new(200, "no JSON").await;
    let error = pod.client.savepoint_status(HERE, &token(), "one").await.expect_err("it is no status");
    assert!(matches!(error, JobClientError::Unreadable { .. }), "{error:?}");
    let long = "x".repeat(300 * 1024);
    let error = Pod::new(200, &long).await.client.status(HERE).await.expect_err("it is too long");
    assert!(matches!(error, JobClientError::Unreadable { .. }), "{error:?}");
    let port =
        std::net::TcpListener::bind((HERE, 0)).expect("a port is free").local_addr().expect("it is bound").port();
    let client = HttpJobClient::at_port(port).expect("a client can be made");
    let error = client.assign(HERE, &token(), 3).await.expect_err("nobody is there");
    assert!(matches!(error, JobClientError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error:?}").contains("the-token"), "{error:?}");
}
