//! Ends the open transaction of the process before us at once: one raw `InitProducerId` to the transaction's coordinator.
//!
//! Owns this one exchange with the brokers. It is a head start, not the fence that correctness rests on: that is `init_transactions` of the
//! client, which follows and also works where this could not. librdkafka sleeps 500 ms when it meets a transaction that is being ended, and
//! every reader of the job's topics waits as long; asked again after a few milliseconds, the broker is done.
//!
//! The exchange: (TLS) → (SASL PLAIN) → `FindCoordinator` for the transactional id → the same to the coordinator → `InitProducerId`, again while
//! it answers `CONCURRENT_TRANSACTIONS`. SCRAM and encrypted private keys are left to the client.
//! Source of the messages: the Kafka protocol guide, <https://kafka.apache.org/protocol>.

use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::{FindCoordinatorRequest, InitProducerIdRequest, TransactionalId};
use kafka_protocol::protocol::StrBytes;

use super::properties::KafkaProperties;
use connection::{Connection, Security};

mod connection;

/// `FindCoordinator` from here on takes several ids in one request.
const FIND_COORDINATOR: i16 = 4;
const INIT_PRODUCER_ID: i16 = 4;
/// `FindCoordinator`'s key type of a transactional id.
const TRANSACTION: i8 = 1;
/// Between two tries: ending a transaction takes the broker a few milliseconds.
const RETRY: Duration = Duration::from_millis(4);

/// Why the head start was not taken. None of them is a reason to stop: the client's own fence follows.
#[derive(Debug, thiserror::Error)]
pub enum FenceError {
    /// The login is one that only the client can do.
    #[error("{0} is left to the client")]
    LeftToClient(&'static str),
    /// No broker could be talked to.
    #[error("{broker}: {reason}")]
    Connection {
        /// `host:port`.
        broker: String,
        /// What is wrong.
        reason: String,
    },
    /// A broker refused.
    #[error("{request}: {reason}")]
    Refused {
        /// The request.
        request: &'static str,
        /// The broker's words.
        reason: String,
    },
    /// The transaction was not ended in time.
    #[error("not done within {0:?}")]
    Deadline(Duration),
}

/// Ends what an earlier producer with this id left open, and fences it.
///
/// # Errors
/// When it could not be done in time; see [`FenceError`].
pub fn end_open_transaction(
    properties: &KafkaProperties,
    transactional_id: &str,
    transaction_timeout_ms: u32,
    deadline: Duration,
) -> Result<(), FenceError> {
    let end = Instant::now() + deadline;
    let security = Security::of(properties)?;
    let mut coordinator = find_coordinator(properties, &security, transactional_id, end)?;
    let request = InitProducerIdRequest::default()
        .with_transactional_id(Some(TransactionalId(text(transactional_id))))
        .with_transaction_timeout_ms(i32::try_from(transaction_timeout_ms).unwrap_or(i32::MAX))
        .with_producer_id((-1).into())
        .with_producer_epoch(-1);
    while Instant::now() < end {
        let answer = coordinator.call(&request, INIT_PRODUCER_ID)?;
        match ResponseError::try_from_code(answer.error_code) {
            None => return Ok(()),
            Some(ResponseError::ConcurrentTransactions | ResponseError::CoordinatorLoadInProgress) => {
                std::thread::sleep(RETRY);
            }
            Some(other) => return Err(refused("InitProducerId", other, None)),
        }
    }
    Err(FenceError::Deadline(deadline))
}

fn find_coordinator(
    properties: &KafkaProperties,
    security: &Security,
    transactional_id: &str,
    end: Instant,
) -> Result<Connection, FenceError> {
    let request = FindCoordinatorRequest::default()
        .with_key_type(TRANSACTION)
        .with_coordinator_keys(vec![text(transactional_id)]);
    let mut last = None;
    for broker in properties.bootstrap_servers().split(',') {
        let found = Connection::open(broker.trim(), security, end)
            .and_then(|mut connection| connection.call(&request, FIND_COORDINATOR));
        let answer = match found {
            Ok(answer) => answer,
            Err(error) => {
                last = Some(error);
                continue;
            }
        };
        let Some(one) = answer.coordinators.into_iter().next() else {
            return Err(FenceError::Refused { request: "FindCoordinator", reason: "an empty answer".into() });
        };
        return match ResponseError::try_from_code(one.error_code) {
            None => Connection::open(&format!("{}:{}", one.host.as_str(), one.port), security, end),
            Some(error) => Err(refused("FindCoordinator", error, one.error_message)),
        };
    }
    Err(last.unwrap_or(FenceError::LeftToClient("an empty list of brokers")))
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

fn refused(request: &'static str, error: ResponseError, words: Option<StrBytes>) -> FenceError {
    let reason = words.map_or_else(|| error.to_string(), |words| words.as_str().to_owned());
    FenceError::Refused { request, reason }
}

/// User name and password as SASL PLAIN sends them (RFC 4616).
fn plain(user: &str, password: &str) -> Bytes {
    Bytes::from(format!("\0{user}\0{password}"))
}
