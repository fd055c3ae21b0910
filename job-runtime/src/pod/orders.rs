//! What a running job can be ordered to do, as the control port hands it over.
//!
//! Owns the trait between the ports (`http`) and the pod's driver, and why an order is not taken. It carries no order out.

use job_api::orders::{SavepointRequest, SavepointStatus, StopMode};

/// Takes orders for the job that this process runs part of.
///
/// A call takes note of an order and returns; it does not wait for the job. It may block for a short time (an append to the control
/// topic), so it is called from a thread that may block. It must not block for more than a few seconds: orders are given one at a time.
pub trait Orders: Send + Sync {
    /// Orders a savepoint. Asking again for a name that is known answers how far that one is, and orders nothing.
    ///
    /// # Errors
    /// When the order is not taken.
    fn savepoint(&self, request: SavepointRequest) -> Result<SavepointStatus, OrderError>;

    /// How far a savepoint is; `None` if none of this name was ordered.
    fn savepoint_status(&self, name: &str) -> Option<SavepointStatus>;

    /// Ends the job's work. Asking again is no error.
    ///
    /// # Errors
    /// When the order is not taken.
    fn stop(&self, mode: StopMode) -> Result<(), OrderError>;

    /// Distributes the job over another number of pods, once those that gain work by it have its state. True if it is done: ask again until then.
    ///
    /// # Errors
    /// When the order is not taken.
    fn assign(&self, replicas: u16) -> Result<bool, OrderError>;
}

/// An order was not taken. The message is for people: what is wrong and what to do. Never a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// The order itself is wrong: it will not be taken later either (400).
    #[error("{message}")]
    Invalid {
        /// For people.
        message: String,
    },
    /// The job as it is does not allow it: another savepoint runs, the job has no place for one (409).
    #[error("{message}")]
    Conflict {
        /// For people.
        message: String,
    },
    /// The pod cannot take it now: it starts, or another pod must answer first. Ask again (503).
    #[error("{message}")]
    NotReady {
        /// For people.
        message: String,
    },
}
