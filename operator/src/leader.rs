//! Leader election: at most one operator acts at a time. It does not act itself.
//!
//! Losing the lease ends the process: whatever is half done is done again by the next leader, and nothing of ours runs unled.

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::args::Args;

/// How long a lease is valid without being renewed, in seconds.
const DURATION_SECONDS: u64 = 15;
/// How long before its end a lease is renewed, in seconds.
const GRACE_SECONDS: u64 = 5;

/// Why there is no election.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The lease cannot be read or created.
    #[error("cannot use the lease {namespace}/{name}")]
    Lease {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Why.
        #[source]
        source: LeaseManagerError,
    },
    /// The election ended.
    #[error("the leader election ended")]
    Ended,
}

/// A running election.
#[derive(Debug)]
pub struct Election {
    leads: watch::Receiver<bool>,
    task: JoinHandle<Result<LeaseManager, LeaseManagerError>>,
}

impl Election {
    /// Stands for election.
    pub async fn start(client: Client, args: &Args) -> Result<Self, LeaderError> {
        let manager = LeaseManagerBuilder::new(client, &args.lease_name)
            .with_namespace(&args.namespace)
            .with_identity(&args.identity)
            .with_duration(DURATION_SECONDS)
            .with_grace(GRACE_SECONDS)
            .build()
            .await
            .map_err(|source| LeaderError::Lease {
                namespace: args.namespace.clone(),
                name: args.lease_name.clone(),
                source,
            })?;
        let (leads, task) = manager.watch().await;
        Ok(Self { leads, task })
    }

    /// Waits until this process leads.
    pub async fn won(&mut self) -> Result<(), LeaderError> {
        self.leads.wait_for(|leads| *leads).await.map(|_| ()).map_err(|_| LeaderError::Ended)
    }

    /// Waits until this process no longer leads.
    pub async fn lost(&mut self) {
        // An election that ended is lost as well.
        drop(self.leads.wait_for(|leads| !*leads).await);
    }

    /// Gives the lease back, so that another operator need not wait for its end.
    pub async fn release(self) {
        drop(self.leads);
        match self.task.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the lease was not given back"),
            Err(error) => tracing::warn!(%error, "the leader election did not end well"),
        }
    }
}
