//! The transactional producer, by librdkafka's C interface.
//!
//! Why not the wrapper's producer: its `flush` sleeps up to 100 ms after the last report (it polls for a full slice), and it makes an event
//! object and an `Arc` per delivered record.

use std::collections::HashMap;
use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataflow::sink::EncodedRows;
use rdkafka::bindings as c;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{ClientError, c_string, millis, text};

const ERROR_TEXT: usize = 512;
/// Messages that are handed to the producer in one call.
const PRODUCE_BATCH: usize = 8192;
/// `RD_KAFKA_PARTITION_UA`: the partitioner chooses. A macro in C, so not among the bindings.
const ANY_PARTITION: i32 = -1;

/// What became of produced records since it was last asked.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The first record that was not delivered: its topic and why.
    pub failed: Option<(String, ClientError)>,
    /// Tags given to [`RawProducer::produce`] and the offsets that their records have.
    pub placed: Vec<(usize, i64)>,
}

/// A consumer offset with the note beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotedOffset {
    /// The topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The next offset to read.
    pub offset: i64,
    /// Kafka calls it metadata.
    pub note: String,
}

/// What the callbacks share with the producer's owner.
#[derive(Default)]
struct Shared {
    deliveries: Mutex<Deliveries>,
    last_error: Mutex<Option<(Code, String)>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while it was held left plain data: still right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Topic(*mut c::rd_kafka_topic_t);

// SAFETY: librdkafka's topic handles may be used from any thread.
unsafe impl Send for Topic {}

/// A transactional producer. Its methods block at most about as long as they are told, except where librdkafka does not keep its word: the
/// caller watches over that.
pub struct RawProducer {
    client: *mut c::rd_kafka_t,
    topics: Mutex<HashMap<String, Topic>>,
    shared: Box<Shared>,
}

// SAFETY: a librdkafka handle may be used from any thread at the same time; everything else here is behind a mutex.
unsafe impl Send for RawProducer {}
// SAFETY: as above.
unsafe impl Sync for RawProducer {}

impl RawProducer {
    /// Makes a producer; nothing is sent yet.
    ///
    /// # Errors
    /// When a property is refused by the client. The message names the property, not its value.
    pub fn new(properties: &[(&str, &str)]) -> Result<Self, ClientError> {
        let shared = Box::new(Shared::default());
        // SAFETY: the configuration is ours until rd_kafka_new succeeds, which then owns it; on failure we destroy it. `shared` is boxed,
        // so its address stays, and it is dropped after the client (see Drop), so the callbacks' opaque pointer is always valid.
        unsafe {
            let conf = c::rd_kafka_conf_new();
            if let Err(error) = set_all(conf, properties) {
                c::rd_kafka_conf_destroy(conf);
                return Err(error);
            }
            c::rd_kafka_conf_set_opaque(conf, ptr::from_ref::<Shared>(&shared).cast_mut().cast());
            c::rd_kafka_conf_set_dr_msg_cb(conf, Some(delivered));
            c::rd_kafka_conf_set_error_cb(conf, Some(errored));
            c::rd_kafka_conf_set_log_cb(conf, Some(logged));
            let mut why = [0 as c_char; ERROR_TEXT];
            let client = c::rd_kafka_new(c::rd_kafka_type_t::RD_KAFKA_PRODUCER, conf, why.as_mut_ptr(), why.len());
            if client.is_null() {
                c::rd_kafka_conf_destroy(conf);
                return Err(ClientError::made(Code::InvalidArgument, text(why.as_ptr())));
            }
            Ok(Self { client, topics: Mutex::default(), shared })
        }
    }

    /// Waits until a broker is connected. A client that asks for its producer id before sleeps 500 ms before it asks again.
    ///
    /// # Errors
    /// The client's.
    pub fn connect(&self, timeout: Duration) -> Result<(), ClientError> {
        let mut metadata = ptr::null();
        // SAFETY: the client is alive; without a topic only brokers are asked for; what comes back is ours and is destroyed at once.
        let error = unsafe {
            let error = c::rd_kafka_metadata(self.client, 0, ptr::null_mut(), &raw mut metadata, millis(timeout));
            if !metadata.is_null() {
                c::rd_kafka_metadata_destroy(metadata);
            }
            error
        };
        match error {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(ClientError::plain(error)),
        }
    }

    /// Fences earlier producers of the transactional id and ends their transactions. May be called again after a time-out.
    ///
    /// # Errors
    /// The client's.
    pub fn init_transactions(&self, timeout: Duration) -> Result<(), ClientError> {
        // SAFETY: the client is alive as long as self; the returned error is ours.
        unsafe { ClientError::take(c::rd_kafka_init_transactions(self.client, millis(timeout))) }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// The client's.
    pub fn begin(&self) -> Result<(), ClientError> {
        // SAFETY: as in init_transactions.
        unsafe { ClientError::take(c::rd_kafka_begin_transaction(self.client)) }
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// The client's. A time-out says nothing about the outcome.
    pub fn commit(&self, timeout: Duration) -> Result<(), ClientError> {
        // SAFETY: as in init_transactions.
        unsafe { ClientError::take(c::rd_kafka_commit_transaction(self.client, millis(timeout))) }
    }

    /// Aborts the transaction.
    ///
    /// # Errors
    /// The client's.
    pub fn abort(&self, timeout: Duration) -> Result<(), ClientError> {
        // SAFETY: as in init_transactions.
        unsafe { ClientError::take(c::rd_kafka_abort_transaction(self.client, millis(timeout))) }
    }

    /// Adds consumer offsets to the transaction. Flush before: without it the call takes 100 ms.
    ///
    /// # Errors
    /// The client's.
    pub fn send_offsets(&self, group: &str, offsets: &[NotedOffset], timeout: Duration) -> Result<(), ClientError> {
        let group = c_string(group)?;
        let topics = offsets.iter().map(|offset| c_string(&offset.topic)).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: list and group metadata are made here, used in the one call, and destroyed here; the element pointer is valid until the
        // next add; its metadata is a fresh allocation of the client's allocator, which destroying the list frees.
        unsafe {
            let list = c::rd_kafka_topic_partition_list_new(offsets.len() as c_int);
            for (NotedOffset { partition, offset, note, .. }, topic) in offsets.iter().zip(&topics) {
                let element = c::rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition);
                (*element).offset = *offset;
                let bytes = c::rd_kafka_mem_malloc(self.client, note.len());
                ptr::copy_nonoverlapping(note.as_ptr(), bytes.cast::<u8>(), note.len());
                (*element).metadata = bytes;
                (*element).metadata_size = note.len();
            }
            let metadata = c::rd_kafka_consumer_group_metadata_new(group.as_ptr());
            let result = c::rd_kafka_send_offsets_to_transaction(self.client, list, metadata, millis(timeout));
            c::rd_kafka_consumer_group_metadata_destroy(metadata);
            c::rd_kafka_topic_partition_list_destroy(list);
            ClientError::take(result)
        }
    }

    /// Waits until every record is delivered or has failed.
    ///
    /// # Errors
    /// A time-out.
    pub fn flush(&self, timeout: Duration) -> Result<(), ClientError> {
        // SAFETY: the client is alive as long as self.
        match unsafe { c::rd_kafka_flush(self.client, millis(timeout)) } {
            c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(ClientError::plain(error)),
        }
    }

    /// Serves delivery reports and errors.
    pub fn poll(&self, timeout: Duration) {
        // SAFETY: the client is alive as long as self.
        unsafe { c::rd_kafka_poll(self.client, millis(timeout)) };
    }

    /// What became of records since the last call.
    pub fn take_deliveries(&self) -> Deliveries {
        std::mem::take(&mut *locked(&self.shared.deliveries))
    }

    /// The last error of a connection: why nothing gets through.
    pub fn last_error(&self) -> Option<(Code, String)> {
        locked(&self.shared.last_error).clone()
    }

    /// Queues one record for a partition. When it is delivered, `tag` (not 0) and its offset are among the deliveries.
    ///
    /// # Errors
    /// The client's.
    pub fn produce(
        &self,
        topic: &str,
        partition: i32,
        value: &[u8],
        tag: usize,
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let mut message = message(value, None);
        message._private = ptr::without_provenance_mut(tag);
        self.produce_messages(topic, partition, std::slice::from_mut(&mut message), deadline)
    }

    /// Queues encoded rows; the partition is chosen by the key, or at random in runs if there is none.
    ///
    /// # Errors
    /// The client's.
    pub fn produce_rows(&self, topic: &str, rows: &EncodedRows, deadline: Instant) -> Result<(), ClientError> {
        let mut messages = Vec::with_capacity(rows.ends.len().min(PRODUCE_BATCH));
        let (mut start, mut key_start) = (0, 0);
        for (row, end) in rows.ends.iter().enumerate() {
            let key = rows.key_ends.get(row).map(|key_end| {
                let key = &rows.key_bytes[key_start..*key_end as usize];
                key_start = *key_end as usize;
                key
            });
            messages.push(message(&rows.bytes[start..*end as usize], key));
            start = *end as usize;
            if messages.len() == PRODUCE_BATCH {
                self.produce_messages(topic, ANY_PARTITION, &mut messages, deadline)?;
                messages.clear();
            }
        }
        self.produce_messages(topic, ANY_PARTITION, &mut messages, deadline)
    }

    fn produce_messages(
        &self,
        topic: &str,
        partition: i32,
        messages: &mut [c::rd_kafka_message_t],
        deadline: Instant,
    ) -> Result<(), ClientError> {
        let topic = self.topic(topic)?;
        let mut rest = messages;
        while !rest.is_empty() {
            // SAFETY: topic and client are alive; each message points to memory that outlives the call, and F_COPY makes the client copy
            // the value (a key is always copied).
            unsafe {
                c::rd_kafka_produce_batch(
                    topic,
                    partition,
                    c::RD_KAFKA_MSG_F_COPY,
                    rest.as_mut_ptr(),
                    rest.len() as c_int,
                );
            }
            let bad = rest.iter().position(|m| m.err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR);
            let Some(bad) = bad else { break };
            // From the first refusal on for want of room, the client takes none of the batch.
            if rest[bad].err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__QUEUE_FULL || Instant::now() >= deadline {
                return Err(self.refused(rest[bad].err));
            }
            rest = &mut rest[bad..];
            self.poll(Duration::from_millis(5));
        }
        self.poll(Duration::ZERO);
        Ok(())
    }

    /// A refusal while the producer is dead says why it is dead.
    fn refused(&self, error: c::rd_kafka_resp_err_t) -> ClientError {
        let mut why = [0 as c_char; ERROR_TEXT];
        // SAFETY: the buffer is writable for its length and the client ends the text.
        let (code, text) =
            unsafe { (c::rd_kafka_fatal_error(self.client, why.as_mut_ptr(), why.len()), text(why.as_ptr())) };
        if code == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return ClientError::plain(error);
        }
        ClientError { fatal: true, ..ClientError::made(code.into(), text) }
    }

    fn topic(&self, name: &str) -> Result<*mut c::rd_kafka_topic_t, ClientError> {
        let mut topics = locked(&self.topics);
        if let Some(topic) = topics.get(name) {
            return Ok(topic.0);
        }
        let c_name = c_string(name)?;
        // SAFETY: the client is alive; a null configuration means the default one; the handle is destroyed before the client.
        let topic = unsafe { c::rd_kafka_topic_new(self.client, c_name.as_ptr(), ptr::null_mut()) };
        if topic.is_null() {
            // SAFETY: reads a thread-local of the client.
            return Err(ClientError::plain(unsafe { c::rd_kafka_last_error() }));
        }
        topics.insert(name.to_owned(), Topic(topic));
        Ok(topic)
    }
}

impl Drop for RawProducer {
    fn drop(&mut self) {
        // SAFETY: last use of topics and client; records still queued are dropped first so that destroying does not wait for them. No
        // callback runs after rd_kafka_destroy has returned, and `shared` lives until after this function.
        unsafe {
            c::rd_kafka_purge(self.client, c::RD_KAFKA_PURGE_F_QUEUE | c::RD_KAFKA_PURGE_F_INFLIGHT);
            for topic in locked(&self.topics).values() {
                c::rd_kafka_topic_destroy(topic.0);
            }
            c::rd_kafka_destroy(self.client);
        }
    }
}

/// # Safety
/// `conf` is a live configuration.
unsafe fn set_all(conf: *mut c::rd_kafka_conf_t, properties: &[(&str, &str)]) -> Result<(), ClientError> {
    for (key, value) in properties {
        let (c_key, c_value) = (c_string(key)?, c_string(value)?);
        let mut why = [0 as c_char; ERROR_TEXT];
        // SAFETY: by the function's contract; all strings end with zero and live over the call.
        let result =
            unsafe { c::rd_kafka_conf_set(conf, c_key.as_ptr(), c_value.as_ptr(), why.as_mut_ptr(), why.len()) };
        if result != c::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
            // The client's own text may repeat the value, which may be a secret.
            return Err(ClientError::made(
                Code::InvalidArgument,
                format!("the Kafka client does not take the value of 'properties.{key}'"),
            ));
        }
    }
    Ok(())
}

fn message(value: &[u8], key: Option<&[u8]>) -> c::rd_kafka_message_t {
    c::rd_kafka_message_t {
        err: c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition: ANY_PARTITION,
        payload: value.as_ptr().cast_mut().cast(),
        len: value.len(),
        key: key.map_or(ptr::null_mut(), |key| key.as_ptr().cast_mut().cast()),
        key_len: key.map_or(0, <[u8]>::len),
        offset: 0,
        _private: ptr::null_mut(),
    }
}

/// Called for every record from `poll` and `flush`, on their thread.
unsafe extern "C" fn delivered(_: *mut c::rd_kafka_t, message: *const c::rd_kafka_message_t, opaque: *mut c_void) {
    // SAFETY: opaque is the producer's `Shared`, which outlives the client; the message is valid during the call.
    let (message, shared) = unsafe { (&*message, &*opaque.cast::<Shared>().cast_const()) };
    let failed = message.err != c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    let tag = message._private.addr();
    if !failed && tag == 0 {
        return;
    }
    let mut deliveries = locked(&shared.deliveries);
    if !failed {
        deliveries.placed.push((tag, message.offset));
    } else if deliveries.failed.is_none() {
        // SAFETY: a delivered message has its topic; the name lives as long as the topic.
        let topic = unsafe { text(c::rd_kafka_topic_name(message.rkt)) };
        deliveries.failed = Some((topic, ClientError::plain(message.err)));
    }
}

unsafe extern "C" fn errored(_: *mut c::rd_kafka_t, error: c_int, reason: *const c_char, opaque: *mut c_void) {
    // SAFETY: opaque as in `delivered`; the reason is text for the time of the call. The code is one of the client's, given as a number.
    let (shared, reason) = unsafe { (&*opaque.cast::<Shared>().cast_const(), text(reason)) };
    let code = rdkafka_code(error);
    tracing::debug!(target: "kafka", ?code, reason, "producer");
    let mut last = locked(&shared.last_error);
    // "All brokers are down" follows the reason for it and explains nothing.
    if code != Code::AllBrokersDown || last.is_none() {
        *last = Some((code, reason));
    }
}

/// The few codes of connections that are told apart; others are only shown as text.
fn rdkafka_code(error: c_int) -> Code {
    [
        Code::AllBrokersDown,
        Code::Authentication,
        Code::SSL,
        Code::Resolve,
        Code::BrokerTransportFailure,
        Code::TopicAuthorizationFailed,
        Code::GroupAuthorizationFailed,
        Code::ClusterAuthorizationFailed,
        Code::TransactionalIdAuthorizationFailed,
    ]
    .into_iter()
    .find(|code| *code as c_int == error)
    .unwrap_or(Code::Fail)
}

unsafe extern "C" fn logged(_: *const c::rd_kafka_t, level: c_int, facility: *const c_char, line: *const c_char) {
    // SAFETY: both are text for the time of the call.
    let (facility, line) = unsafe { (text(facility), text(line)) };
    match level {
        0..=3 => tracing::warn!(target: "kafka", facility, "{line}"),
        4..=5 => tracing::info!(target: "kafka", facility, "{line}"),
        _ => tracing::debug!(target: "kafka", facility, "{line}"),
    }
}
