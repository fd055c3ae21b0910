//! Why a pod's run ended badly, by what a person must look at.
//!
//! Owns the mapping to [`TerminationReason`]; the messages were made where the failure was seen.

use dataflow::worker::WorkerError;
use job_api::TerminationReason;

use crate::commit::CommitError;
use crate::commit::bookkeeping::BookkeepingError;
use crate::commit::kafka::RecoverError;
use crate::commit::local::LocalLogError;
use crate::connector::ConnectorError;
use crate::state::directory::DirectoryError;

/// A run cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    /// A connector cannot start, or a sink cannot be written.
    #[error(transparent)]
    Connector(#[from] ConnectorError),
    /// The state directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A shard's database cannot be read or written.
    #[error(transparent)]
    State(#[from] dataflow::state::StateError),
    /// Stored positions or tickets cannot be read.
    #[error(transparent)]
    Bookkeeping(#[from] BookkeepingError),
    /// Snapshots cannot be read, or are of something else.
    #[error(transparent)]
    Snapshot(#[from] crate::snapshot::SnapshotError),
    /// The local commit log cannot be opened.
    #[error(transparent)]
    Log(#[from] LocalLogError),
    /// Kafka cannot be used.
    #[error(transparent)]
    Kafka(#[from] crate::kafka::client::ConnectError),
    /// The Kafka commit log cannot be read.
    #[error(transparent)]
    Recover(#[from] RecoverError),
    /// A commit did not succeed.
    #[error(transparent)]
    Commit(#[from] CommitError),
    /// A worker stopped on data or state.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// Several pods, and no log that they could share.
    #[error(
        "the job has {pods} pods and no sink with connector 'kafka': pods work together through Kafka; write to Kafka, or set spec.replicas: 1"
    )]
    PodsNeedKafka {
        /// Number of pods.
        pods: u16,
    },
    /// Several pods, and a sink that only one can write.
    #[error(
        "sink {table}: connector 'filesystem' cannot be written by {pods} pods; write to Kafka, or set spec.replicas: 1"
    )]
    PodsAndFiles {
        /// Number of pods.
        pods: u16,
        /// The sink.
        table: String,
    },
    /// A pod would have nothing to do.
    #[error("the job has {pods} pods and {shards} shards: a pod needs a shard; set spec.replicas: {shards} or less")]
    MorePodsThanShards {
        /// Number of pods.
        pods: u16,
        /// Number of shards.
        shards: u16,
    },
    /// The state is of another plan.
    #[error(
        "the job's state has {operator}, which its SQL does not have any more: what that has gathered would be lost; write the query as it was, or start anew with --fresh (a StreamJob: under another name)"
    )]
    OtherPlan {
        /// Name of the stream operator.
        operator: String,
    },
    /// The state of an operator lies elsewhere than the plan looks for it.
    #[error(
        "the job has the state of {operator} by {was}, and its SQL would look for it by {now}: its results would be wrong; write `DISTRIBUTED BY` and the query before {operator} as they were, or start anew with --fresh (a StreamJob: under another name)"
    )]
    OtherPlace {
        /// Name of the stream operator.
        operator: String,
        /// What places its state.
        was: String,
        /// What the plan would place it by.
        now: String,
    },
    /// An operator has an exchange where it had none, or the other way round, and rows may be on the way between pods.
    #[error(
        "the job was run with another plan, in which rows go to {operator} in another way, and some may be on their way between its pods: take a savepoint with what ran before, and begin from that under another name"
    )]
    OtherExchange {
        /// Name of the stream operator.
        operator: String,
    },
    /// A thread of ours panicked: a bug.
    #[error("internal error in {thread}: {message}; this is a bug of Millstream")]
    Panic {
        /// The thread's name.
        thread: String,
        /// The panic's message.
        message: String,
    },
    /// The driver and the commit protocol disagree: a bug.
    #[error("internal error: {0}; this is a bug of Millstream")]
    Protocol(#[from] checkpoint::commit::ProtocolError),
    /// A thread cannot be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Asked to stop while it waited for another process to let go of the state directory.
    #[error("stopped before it started")]
    Stopped,
    /// A wait passed its deadline.
    #[error("{what} took longer than {seconds} s; the next start goes on from the last commit")]
    Deadline {
        /// What was waited for.
        what: &'static str,
        /// The deadline.
        seconds: u64,
    },
}

impl PodError {
    /// True if this is only how one worker saw another one end: not the cause of anything.
    pub(super) fn is_consequence(&self) -> bool {
        matches!(self, Self::Worker(WorkerError::PeerGone { .. }))
    }

    /// The kind of trouble, for the pod's last words.
    pub fn reason(&self) -> TerminationReason {
        match self {
            Self::Connector(_) | Self::Kafka(_) => TerminationReason::ConnectorFailed,
            Self::Directory(_)
            | Self::State(_)
            | Self::Bookkeeping(_)
            | Self::Snapshot(_)
            | Self::Log(_)
            | Self::OtherPlan { .. }
            | Self::OtherPlace { .. }
            | Self::OtherExchange { .. } => TerminationReason::StateFailed,
            Self::Stopped => TerminationReason::Stopped,
            Self::Recover(RecoverError::Unproved(CommitError::Fenced { .. }))
            | Self::Commit(CommitError::Fenced { .. }) => TerminationReason::Fenced,
            Self::Recover(RecoverError::Unproved(_)) => TerminationReason::CommitFailed,
            Self::Recover(_) => TerminationReason::StateFailed,
            Self::Commit(_) | Self::Deadline { .. } => TerminationReason::CommitFailed,
            Self::Worker(WorkerError::State(_)) => TerminationReason::StateFailed,
            Self::Worker(_) => TerminationReason::RecordFailed,
            Self::PodsNeedKafka { .. } | Self::PodsAndFiles { .. } | Self::MorePodsThanShards { .. } => {
                TerminationReason::InvalidJob
            }
            Self::Panic { .. } | Self::Protocol(_) | Self::Thread(_) => TerminationReason::Internal,
        }
    }
}
