//! Asks the control port of a run on this machine: one request, one answer, each within a deadline.
//!
//! What is asked and what becomes of the answer is the command line's. It speaks no TLS: it is for the loopback address.

use std::net::SocketAddr;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::http::{Method, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use job_api::orders::Refused;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ORDER_DEADLINE;

/// Longer than the port lets an order take, twice: an order may have to wait for another one.
const DEADLINE: Duration = ORDER_DEADLINE.saturating_mul(2).saturating_add(Duration::from_secs(2));
/// Longest answer that is read.
const ANSWER_MAX: usize = 256 * 1024;

/// An order was not taken, or nothing is known of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody listens, or the connection broke.
    #[error("no job answers at {address}: {message}; start it with `millstream run FILE --control {address}`")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// Why.
        message: String,
    },
    /// No answer came in time.
    #[error("the job at {address} did not answer within {} s; ask again", DEADLINE.as_secs())]
    Late {
        /// Where.
        address: SocketAddr,
    },
    /// The job does not take the order.
    #[error("{message}")]
    Refused {
        /// With this status.
        status: StatusCode,
        /// In its own words.
        message: String,
    },
    /// What answered is no job.
    #[error("what answers at {address} is no control port of Millstream: {message}")]
    NoJob {
        /// Where.
        address: SocketAddr,
        /// Why not.
        message: String,
    },
}

/// Asks the port at one address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// Where the port is.
    pub(crate) address: SocketAddr,
}

impl Client {
    /// Reads something.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let bytes = self.ask(Method::GET, path, Bytes::new()).await?;
        self.read(&bytes)
    }

    /// Gives an order that is answered with something.
    pub(crate) async fn order<T: DeserializeOwned>(
        &self,
        path: &str,
        order: &impl Serialize,
    ) -> Result<T, ClientError> {
        let bytes = self.send(path, order).await?;
        self.read(&bytes)
    }

    /// Gives an order.
    pub(crate) async fn send(&self, path: &str, order: &impl Serialize) -> Result<Bytes, ClientError> {
        let body = serde_json::to_vec(order).expect("an order is plain text and numbers");
        self.ask(Method::POST, path, body.into()).await
    }

    /// Whether somebody listens.
    pub(crate) async fn answers(&self) -> bool {
        matches!(timeout(DEADLINE, TcpStream::connect(self.address)).await, Ok(Ok(_)))
    }

    fn read<T: DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes)
            .map_err(|error| ClientError::NoJob { address: self.address, message: error.to_string() })
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Bytes, ClientError> {
        let late = ClientError::Late { address: self.address };
        let (status, bytes) = timeout(DEADLINE, self.exchange(method, path, body)).await.map_err(|_| late)??;
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Refused>(&bytes) {
            Ok(refused) => Err(ClientError::Refused { status, message: refused.message }),
            Err(_) => Err(ClientError::NoJob { address: self.address, message: format!("it answered {status}") }),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes), ClientError> {
        let address = self.address;
        let unreachable = |message: String| ClientError::Unreachable { address, message };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .header(header::CONNECTION, "close")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Body::from(body))
            .expect("the parts are well-formed");
        let stream = TcpStream::connect(address).await.map_err(|error| unreachable(error.to_string()))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.to_string()))?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
            let status = response.status();
            let bytes = to_bytes(Body::new(response.into_body()), ANSWER_MAX).await.map_err(|e| e.to_string())?;
            Ok((status, bytes))
        };
        let (answer, connection) = tokio::join!(exchange, connection);
        // What the connection says of its end matters only if there is no answer.
        answer.map_err(|message: String| match connection {
            Ok(()) => unreachable(message),
            Err(error) => ClientError::NoJob { address, message: error.to_string() },
        })
    }
}
