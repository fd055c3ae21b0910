//! Talks to a job's pods over their control port: asks how they are, and gives orders. It is the only place that talks to pods; the address
//! always comes from the pod's own status, never from a user's text.
//!
//! TLS with a certificate that the pod made itself: it encrypts and proves nothing (decision 0013). A token goes with orders only, and is
//! good for the pods of one job only.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use job_api::orders::{
    ASSIGNMENT_PATH, AssignmentRequest, Refused, SAVEPOINTS_PATH, STATUS_PATH, SavepointRequest, SavepointStatus,
};
use job_api::{CONTROL_PORT, PodStatus};
use reqwest::{Method, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::Token;

/// How long a pod may take to answer a question.
const DEADLINE: Duration = Duration::from_secs(2);

/// How long a pod may take to take an order: longer than the port itself allows the job.
const ORDER_DEADLINE: Duration = Duration::from_secs(15);

/// Longest answer that is read: a status is a few hundred bytes, a long error a few thousand.
const ANSWER_MAX: usize = 256 * 1024;

/// Why nothing came of a question or an order.
#[derive(Debug, thiserror::Error)]
pub enum JobClientError {
    /// It did not answer, or not in time.
    #[error("pod at {address} does not answer on its control port")]
    Unreachable {
        /// Address of the pod.
        address: IpAddr,
        /// Why.
        #[source]
        source: reqwest::Error,
    },
    /// It answered with something that is no answer.
    #[error("pod at {address} answered with something that cannot be read: {message}")]
    Unreadable {
        /// Address of the pod.
        address: IpAddr,
        /// Why it is none.
        message: String,
    },
    /// It does not take the order, or does not know what is asked for.
    #[error("{message}")]
    Refused {
        /// HTTP status of the answer.
        code: u16,
        /// In its own words.
        message: String,
    },
}

/// What the operator asks of pods.
pub trait JobClient: Send + Sync {
    /// How the pod at this address is.
    fn status(&self, address: IpAddr) -> BoxFuture<'_, Result<PodStatus, JobClientError>>;

    /// Orders a savepoint.
    fn savepoint<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        order: &'a SavepointRequest,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>>;

    /// How far a savepoint is, as this pod knows it.
    fn savepoint_status<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        name: &'a str,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>>;

    /// Orders the job's work to be distributed over this number of pods. True if it is: it takes as long as the state that moves. Ask again until
    /// then.
    fn assign<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        replicas: u16,
    ) -> BoxFuture<'a, Result<bool, JobClientError>>;
}

/// [`JobClient`] over HTTP.
#[derive(Clone, Debug)]
pub struct HttpJobClient {
    http: reqwest::Client,
    port: u16,
}

/// The TLS library of every client in this process. Called once, before the first client is made.
pub fn install_tls_provider() {
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        tracing::debug!("a TLS provider was already installed");
    }
}

impl HttpJobClient {
    /// A client that follows no redirect and uses no proxy: it talks to pods only.
    pub fn new() -> Result<Self, reqwest::Error> {
        Self::at_port(CONTROL_PORT)
    }

    /// A client of pods whose control port is another one.
    pub fn at_port(port: u16) -> Result<Self, reqwest::Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .https_only(true)
            // A pod makes its certificate itself, and nobody vouches for it.
            .tls_danger_accept_invalid_certs(true)
            .build()?;
        Ok(Self { http, port })
    }

    async fn ask<T: DeserializeOwned>(&self, address: IpAddr, ask: Ask<'_>) -> Result<T, JobClientError> {
        let (_, body) = self.exchange(address, ask).await?;
        serde_json::from_slice(&body)
            .map_err(|error| JobClientError::Unreadable { address, message: error.to_string() })
    }

    /// Sends and reads the answer's status and body, if it is a success.
    async fn exchange(&self, address: IpAddr, ask: Ask<'_>) -> Result<(StatusCode, Vec<u8>), JobClientError> {
        let unreachable =
            |source: reqwest::Error| JobClientError::Unreachable { address, source: source.without_url() };
        let url = format!("https://{}{}", std::net::SocketAddr::new(address, self.port), ask.path);
        let mut request = self.http.request(ask.method, url).timeout(ask.deadline);
        if let Some(token) = ask.token {
            request = request.bearer_auth(token.reveal());
        }
        if let Some(body) = ask.body {
            request = request.header("Content-Type", "application/json").body(body);
        }
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > ANSWER_MAX {
                return Err(JobClientError::Unreadable { address, message: format!("longer than {ANSWER_MAX} bytes") });
            }
        }
        if status.is_success() { Ok((status, body)) } else { Err(refused(status, &body)) }
    }
}

/// One question or order.
struct Ask<'a> {
    method: Method,
    path: String,
    token: Option<&'a Token>,
    body: Option<Vec<u8>>,
    deadline: Duration,
}

impl<'a> Ask<'a> {
    fn question(path: String, token: Option<&'a Token>) -> Self {
        Self { method: Method::GET, path, token, body: None, deadline: DEADLINE }
    }

    fn order(path: &str, token: &'a Token, order: &impl Serialize) -> Self {
        let body = serde_json::to_vec(order).expect("an order is plain text and numbers");
        Self {
            method: Method::POST,
            path: path.to_owned(),
            token: Some(token),
            body: Some(body),
            deadline: ORDER_DEADLINE,
        }
    }
}

fn refused(status: StatusCode, body: &[u8]) -> JobClientError {
    let message = match serde_json::from_slice::<Refused>(body) {
        Ok(refused) => refused.message,
        Err(_) => format!("the pod answered {status}"),
    };
    JobClientError::Refused { code: status.as_u16(), message }
}

impl JobClient for HttpJobClient {
    fn status(&self, address: IpAddr) -> BoxFuture<'_, Result<PodStatus, JobClientError>> {
        Box::pin(self.ask(address, Ask::question(STATUS_PATH.to_owned(), None)))
    }

    fn savepoint<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        order: &'a SavepointRequest,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>> {
        Box::pin(self.ask(address, Ask::order(SAVEPOINTS_PATH, token, order)))
    }

    fn savepoint_status<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        name: &'a str,
    ) -> BoxFuture<'a, Result<SavepointStatus, JobClientError>> {
        Box::pin(self.ask(address, Ask::question(format!("{SAVEPOINTS_PATH}/{name}"), Some(token))))
    }

    fn assign<'a>(
        &'a self,
        address: IpAddr,
        token: &'a Token,
        replicas: u16,
    ) -> BoxFuture<'a, Result<bool, JobClientError>> {
        Box::pin(async move {
            let order = AssignmentRequest { replicas };
            let (status, _) = self.exchange(address, Ask::order(ASSIGNMENT_PATH, token, &order)).await?;
            Ok(status == StatusCode::OK)
        })
    }
}
