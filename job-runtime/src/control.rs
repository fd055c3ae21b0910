//! The control port: the pod's status for everybody who reaches it, and orders for the job from those who may give them.
//!
//! In a pod it is TLS with a certificate that the pod makes at its start, and an order carries a token of the operator ([`token`]); on a
//! laptop it is plain and on the loopback address only. It carries no order out: that is [`crate::pod::orders`].

pub(crate) mod client;
mod connections;
mod live_settings;
mod routes;
mod tls;
mod token;

#[cfg(test)]
mod tests;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use job_api::PodSettings;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::http::Pages;
use crate::pod::orders::Orders;
use connections::Security;
use live_settings::LiveSettings;
pub(crate) use routes::Settling;

/// The job has this long to say whether it takes an order.
pub(crate) const ORDER_DEADLINE: Duration = Duration::from_secs(10);

/// The port cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The address is taken, or is none of this machine.
    #[error("cannot listen on {address} for orders: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// No certificate.
    #[error("cannot make a certificate for the control port: {0}")]
    Certificate(#[from] tls::CertificateError),
}

/// Who may give orders.
enum Gate {
    /// Everybody who reaches the port: on the loopback address, people of this machine.
    Machine,
    /// Who has a token of the operator that the pod's settings name.
    Operator(Box<LiveSettings>),
}

/// What the port's routes work with.
pub(crate) struct ControlPort {
    pages: Arc<Pages>,
    orders: Arc<dyn Orders>,
    gate: Gate,
    settling: Settling,
    /// Orders are given one at a time: one that the job does not answer to holds up the others, and no thread more than one.
    turn: Arc<Semaphore>,
}

impl ControlPort {
    /// The port of a pod whose settings lie in `file` and are these now.
    pub(crate) fn of_pod(
        pages: Arc<Pages>,
        orders: Arc<dyn Orders>,
        file: PathBuf,
        settings: &PodSettings,
    ) -> Arc<Self> {
        Self::new(pages, orders, Gate::Operator(Box::new(LiveSettings::new(file, settings))))
    }

    /// The port of a run on a laptop.
    pub(crate) fn of_run(pages: Arc<Pages>, orders: Arc<dyn Orders>) -> Arc<Self> {
        Self::new(pages, orders, Gate::Machine)
    }

    fn new(pages: Arc<Pages>, orders: Arc<dyn Orders>, gate: Gate) -> Arc<Self> {
        Arc::new(Self { pages, orders, gate, settling: Settling::default(), turn: Arc::new(Semaphore::new(1)) })
    }

    /// Whether somebody waits for the end of a savepoint and has not been told yet.
    pub(crate) fn settling(&self) -> &Settling {
        &self.settling
    }
}

/// A listener that is bound and not served yet.
pub(crate) struct Bound {
    listener: TcpListener,
    security: Security,
}

impl Bound {
    /// Binds the port of a pod, on all addresses, and makes its certificate.
    pub(crate) async fn of_pod(port: u16) -> Result<Self, ControlError> {
        let security = Security::Tls(tls::acceptor()?);
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let listener = TcpListener::bind(address).await.map_err(|source| ControlError::Bind { address, source })?;
        Ok(Self { listener, security })
    }

    /// Takes a listener of a run on a laptop, which must not block.
    pub(crate) fn of_run(listener: std::net::TcpListener) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::from_std(listener)?, security: Security::Plain })
    }

    /// Serves until cancelled.
    pub(crate) async fn serve(self, port: Arc<ControlPort>, cancel: CancellationToken) {
        connections::serve(self.listener, self.security, routes::router(port), cancel).await;
    }
}
