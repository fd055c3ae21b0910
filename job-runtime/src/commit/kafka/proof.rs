//! The proof that this process is not fenced: a transactional call that the brokers accept.
//!
//! Owns the call and what an error of it means. When it is due is `checkpoint::ownership`'s; what it leaves in the consumer group nobody reads.

use checkpoint::{names, offset_note};
use dataflow::worker::CommitId;

use super::{KafkaLogConfig, STEP_DEADLINE, classify};
use crate::commit::CommitError;
use crate::kafka::ffi::{ClientError, NotedOffset};
use crate::kafka::producer::TransactionalProducer;
use crate::planted::{self, Bug};

/// Proves that no other process has the pod's transactional id. No transaction may be open. An empty one would ask nobody, so it carries how far
/// the control topic is read: up to the assignment `number`.
pub(super) fn prove(
    producer: &mut TransactionalProducer,
    config: &KafkaLogConfig,
    number: u64,
) -> Result<(), CommitError> {
    if planted::is(Bug::ReleaseUnproved) {
        return Ok(());
    }
    let (what, servers) = ("proving that this process is not fenced", producer.servers().to_owned());
    let refused = |error: ClientError, at_commit| classify(CommitId(0), &servers, what, &error, at_commit);
    let silent = || "the Kafka client did not answer".to_owned();
    producer.raw().begin().map_err(|error| refused(error, false))?;
    let group = config.group();
    let read = NotedOffset {
        topic: names::control_topic(&config.job_uid),
        partition: 0,
        offset: i64::try_from(number).unwrap_or(i64::MAX),
        note: offset_note::encode(&config.job_uid, None),
    };
    match producer.watched(STEP_DEADLINE, move |raw| raw.send_offsets(&group, &[read], STEP_DEADLINE)) {
        Some(sent) => sent.map_err(|error| refused(error, false))?,
        None => return Err(CommitError::Aborted { id: CommitId(0), message: silent() }),
    }
    match producer.watched(STEP_DEADLINE, |raw| raw.commit(STEP_DEADLINE)) {
        Some(ended) => ended.map_err(|error| refused(error, true)),
        None => Err(CommitError::Unknown { id: CommitId(0), message: silent() }),
    }
}
