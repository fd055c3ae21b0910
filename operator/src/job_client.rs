//! Asks a job's pods how they are, over their control port. It is the only place that talks to pods; the address always comes from the
//! pod's own status, never from a user's text.

use std::net::IpAddr;
use std::time::Duration;

use futures::future::BoxFuture;
use job_api::{CONTROL_PORT, PodStatus};

/// How long a pod may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);

/// Longest answer that is read: a status is a few hundred bytes, a long error a few thousand.
const ANSWER_MAX: usize = 256 * 1024;

/// Why a pod's status is not known.
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
    /// It answered with something that is no status.
    #[error("pod at {address} answered with something that is no status: {message}")]
    NoStatus {
        /// Address of the pod.
        address: IpAddr,
        /// Why it is none.
        message: String,
    },
}

/// What the operator asks of pods.
pub trait JobClient: Send + Sync {
    /// How the pod at this address is.
    fn status(&self, address: IpAddr) -> BoxFuture<'_, Result<PodStatus, JobClientError>>;
}

/// [`JobClient`] over HTTP.
#[derive(Clone, Debug)]
pub struct HttpJobClient {
    http: reqwest::Client,
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
        let http = reqwest::Client::builder()
            .timeout(DEADLINE)
            .connect_timeout(DEADLINE)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()?;
        Ok(Self { http })
    }
}

impl JobClient for HttpJobClient {
    fn status(&self, address: IpAddr) -> BoxFuture<'_, Result<PodStatus, JobClientError>> {
        Box::pin(async move {
            let unreachable = |source| JobClientError::Unreachable { address, source };
            let url = format!("http://{}/status", std::net::SocketAddr::new(address, CONTROL_PORT));
            let mut response =
                self.http.get(url).send().await.and_then(reqwest::Response::error_for_status).map_err(unreachable)?;
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
                body.extend_from_slice(&chunk);
                if body.len() > ANSWER_MAX {
                    return Err(JobClientError::NoStatus {
                        address,
                        message: format!("longer than {ANSWER_MAX} bytes"),
                    });
                }
            }
            serde_json::from_slice(&body)
                .map_err(|error| JobClientError::NoStatus { address, message: error.to_string() })
        })
    }
}
