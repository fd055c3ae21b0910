//! One pod of a job: everything between a planned job and its end.
//!
//! Owns the order of a start and the threads. It does not read the job file (crate `plan`) or talk to the user (`cli`).

mod assembly;
mod counting;
mod declared;
mod discovery;
mod driver;
mod error;
mod hold;
pub mod monitor;
mod order_book;
pub mod orders;
mod reassign;
mod savepoint;
mod shuffle;
mod worker_thread;

use std::path::PathBuf;
use std::time::Duration;

use plan::PlannedJob;

use crate::connector::registry::ConnectorContext;
use crate::snapshot::place::SnapshotConfig;
use crate::state::memory::StateMemory;

pub(crate) use assembly::EXCHANGE_BATCHES;
pub use assembly::{Pod, PodReport};
pub use driver::Ended;
pub use error::PodError;
pub use worker_thread::WorkerView;

/// What a pod needs to know to run a job.
pub struct PodConfig {
    /// The job.
    pub planned: PlannedJob,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`; `None` on a laptop, where the state directory keeps one.
    pub uid: Option<String>,
    /// `spec.shards`.
    pub shards: dataflow::key::Shards,
    /// `spec.commitInterval`.
    pub commit_interval: Duration,
    /// Worker threads.
    pub workers: usize,
    /// Where state is kept.
    pub state_dir: PathBuf,
    /// How long to wait for another process to let go of it.
    pub state_dir_wait: Duration,
    /// `spec.stateMemory`.
    pub state_memory: StateMemory,
    /// Start anew: remove the job's earlier state first.
    pub fresh: bool,
    /// The savepoint that the job is to begin from, if it has no state yet.
    pub restore_from: Option<String>,
    /// State in it that the job's plan has no stream operator for may be lost.
    pub allow_lost_state: bool,
    /// A job that has ended with a savepoint stays so when its process is started again.
    pub stays_ended: bool,
    /// Snapshots, if the job has a place for them.
    pub snapshots: Option<SnapshotConfig>,
    /// This pod's number, from 0.
    pub ordinal: u16,
    /// Number of pods.
    pub pods: u16,
    /// The assignment under which the process before this one has waited long enough for others to release what the pod gains.
    pub waited: Option<u64>,
    /// What connectors need; its `job_uid` is filled in from the state directory.
    pub connectors: ConnectorContext,
}
