//! Why a worker stops. Owns the error type only.

use arrow::error::ArrowError;

use crate::exchange::PeerGone;
use crate::graph::{ExpressionError, NodeId};
use crate::key::{KeyDecodeError, ShardId, UnsupportedKey};
use crate::operators::calc::CalcError;
use crate::operators::deduplicate::DeduplicateError;
use crate::operators::window::WindowError;
use crate::shuffle::{BlockError, MessageError, PlaceError, UnsupportedColumn};
use crate::sink::SinkError;
use crate::source::SourceError;
use crate::state::StateError;
use crate::worker::CommitId;

/// A worker cannot go on. Every variant ends the process's work on the job; `operator` is the name of the stream operator.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A source stopped.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A sink cannot take a row.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// A store cannot be read or written.
    #[error(transparent)]
    State(#[from] StateError),
    /// An expression failed on data.
    #[error("{operator}: {source}")]
    Expression {
        /// The stream operator.
        operator: String,
        /// The expression, and what went wrong.
        source: ExpressionError,
    },
    /// Columns do not fit together: a bug of the plan or of a decoder.
    #[error("{operator}: {message}")]
    Arrow {
        /// The stream operator.
        operator: String,
        /// What does not fit.
        message: String,
    },
    /// A window aggregate cannot go on.
    #[error("{operator}: {source}")]
    Window {
        /// The stream operator.
        operator: String,
        /// What went wrong.
        source: WindowError,
    },
    /// Deduplication cannot go on.
    #[error("{operator}: {source}")]
    Deduplicate {
        /// The stream operator.
        operator: String,
        /// What went wrong.
        source: DeduplicateError,
    },
    /// A key column's type has no key encoding.
    #[error("{operator}: {source}")]
    Key {
        /// The stream operator.
        operator: String,
        /// Which column.
        source: UnsupportedKey,
    },
    /// A column cannot be sent to another pod.
    #[error("{operator}: {source}")]
    Column {
        /// The stream operator.
        operator: String,
        /// Which column.
        source: UnsupportedColumn,
    },
    /// A message of another pod cannot be read.
    #[error("{operator}: topic {topic}, partition {}, before offset {next_offset}: {source}", shard.0)]
    Message {
        /// The exchange.
        operator: String,
        /// The topic.
        topic: String,
        /// The shard.
        shard: ShardId,
        /// The offset after the message.
        next_offset: i64,
        /// What is wrong.
        source: MessageError,
    },
    /// Rows of another pod cannot be read.
    #[error("{operator}: shard {}: {source}", shard.0)]
    Block {
        /// The exchange.
        operator: String,
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        source: BlockError,
    },
    /// What is stored of the shuffle cannot be read.
    #[error("{operator}: shard {}: {source}", shard.0)]
    Place {
        /// The exchange.
        operator: String,
        /// The shard.
        shard: ShardId,
        /// What is wrong.
        source: PlaceError,
    },
    /// The graph and what the runtime gave do not fit.
    #[error("cannot start worker {worker}: {message}")]
    Config {
        /// The worker.
        worker: usize,
        /// What does not fit.
        message: String,
    },
    /// Another worker has stopped.
    #[error("{operator}: worker {peer} has stopped")]
    PeerGone {
        /// The exchange.
        operator: String,
        /// The worker that stopped.
        peer: usize,
    },
    /// Commits must be begun one after the other, from [`CommitId::FIRST`].
    #[error("commit {} was begun, but the next is {}", found.0, expected.0)]
    CommitOrder {
        /// What was begun.
        found: CommitId,
        /// What should have been.
        expected: CommitId,
    },
    /// A commit was reported as applied that is not waiting for that.
    #[error("commit {} is not waiting to be applied", id.0)]
    NotPending {
        /// The commit.
        id: CommitId,
    },
    /// The log has a commit's changes, but does not say where those of one shard stand.
    #[error("commit {} changed shard {}, but the log gave no offset for it", id.0, shard.0)]
    OffsetMissing {
        /// The commit.
        id: CommitId,
        /// The shard.
        shard: ShardId,
    },
}

impl WorkerError {
    pub(super) fn calc(operator: &str, error: CalcError) -> Self {
        match error {
            CalcError::Expression(source) => Self::Expression { operator: operator.to_owned(), source },
            CalcError::Arrow(error) => Self::arrow(operator, &error),
        }
    }

    pub(super) fn arrow(operator: &str, error: &ArrowError) -> Self {
        Self::Arrow { operator: operator.to_owned(), message: error.to_string() }
    }

    pub(super) fn peer(operator: &str, peer: PeerGone) -> Self {
        Self::PeerGone { operator: operator.to_owned(), peer: peer.worker }
    }

    pub(super) fn window(operator: &str, source: WindowError) -> Self {
        Self::Window { operator: operator.to_owned(), source }
    }

    pub(super) fn deduplicate(operator: &str, source: DeduplicateError) -> Self {
        Self::Deduplicate { operator: operator.to_owned(), source }
    }

    pub(super) fn key(operator: &str, source: UnsupportedKey) -> Self {
        Self::Key { operator: operator.to_owned(), source }
    }

    pub(super) fn config(worker: usize, message: impl Into<String>) -> Self {
        Self::Config { worker, message: message.into() }
    }

    pub(super) fn missing(worker: usize, what: &str, node: NodeId, table: &str) -> Self {
        Self::config(worker, format!("{what} for node {} (table {table})", node.0))
    }
}

impl From<KeyDecodeError> for WindowError {
    fn from(error: KeyDecodeError) -> Self {
        Self::Damaged { message: format!("a stored key cannot be read: {error}") }
    }
}
