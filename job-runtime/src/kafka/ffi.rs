//! The C calls of the Kafka client that have no safe equivalent, or only one that is too slow: batch produce, batch consume, queue events.
//!
//! The only module with `unsafe`. It owns two types, [`RawProducer`] and [`PartitionReader`], and decides nothing.
//!
//! Why not the wrapper's producer: its `flush` sleeps up to 100 ms after the last report (it polls for a full slice), and it makes an event
//! object and an `Arc` per delivered record.
#![expect(unsafe_code, reason = "batch calls of librdkafka; every block says why it is sound")]

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dataflow::sink::EncodedRows;
use dataflow::worker::Wake;
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;

const ERROR_TEXT: usize = 512;
/// Messages that are handed to the producer in one call.
const PRODUCE_BATCH: usize = 8192;
/// `RD_KAFKA_PARTITION_UA`: the partitioner chooses. A macro in C, so not among the bindings.
const ANY_PARTITION: i32 = -1;

/// An error of the client, with what it means for a transaction.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ClientError {
    /// The code.
    pub code: Code,
    /// The client's words.
    pub text: String,
    /// The producer can do nothing any more.
    pub fatal: bool,
    /// The call may be made again.
    pub retriable: bool,
    /// The transaction must be aborted.
    pub abort: bool,
}

impl ClientError {
    fn plain(error: c::rd_kafka_resp_err_t) -> Self {
        // SAFETY: rd_kafka_err2str returns a pointer to static text for every code.
        let text = unsafe { text(c::rd_kafka_err2str(error)) };
        Self { code: error.into(), text, fatal: false, retriable: false, abort: false }
    }

    fn made(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), fatal: false, retriable: false, abort: false }
    }

    /// Takes ownership of an error object of the client; null is success.
    ///
    /// # Safety
    /// `error` is null or was returned by a call that gives the error to the caller, and is not used after.
    unsafe fn take(error: *mut c::rd_kafka_error_t) -> Result<(), Self> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null, and ours until destroyed below.
        unsafe {
            let taken = Self {
                code: c::rd_kafka_error_code(error).into(),
                text: text(c::rd_kafka_error_string(error)),
                fatal: c::rd_kafka_error_is_fatal(error) != 0,
                retriable: c::rd_kafka_error_is_retriable(error) != 0,
                abort: c::rd_kafka_error_txn_requires_abort(error) != 0,
            };
            c::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }
}

/// What became of produced records since it was last asked.
#[derive(Debug, Default)]
pub struct Deliveries {
    /// The first record that was not delivered: its topic and why.
    pub failed: Option<(String, ClientError)>,
    /// Tags given to [`RawProducer::produce`] and the offsets that their records have.
    pub placed: Vec<(usize, i64)>,
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

    /// Adds consumer offsets to the transaction, each with `note` beside it. Flush before: without it the call takes 100 ms.
    ///
    /// # Errors
    /// The client's.
    pub fn send_offsets(
        &self,
        group: &str,
        offsets: &[(String, i32, i64)],
        note: &str,
        timeout: Duration,
    ) -> Result<(), ClientError> {
        let group = c_string(group)?;
        let topics = offsets.iter().map(|(topic, ..)| c_string(topic)).collect::<Result<Vec<_>, _>>()?;
        // SAFETY: list and group metadata are made here, used in the one call, and destroyed here; the element pointer is valid until the
        // next add; its metadata is a fresh allocation of the client's allocator, which destroying the list frees.
        unsafe {
            let list = c::rd_kafka_topic_partition_list_new(offsets.len() as c_int);
            for ((_, partition, offset), topic) in offsets.iter().zip(&topics) {
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

/// What a partition gave.
#[derive(Debug)]
pub enum Fetched<'a> {
    /// A record. A tombstone has no value.
    Record {
        /// Its offset.
        offset: i64,
        /// Its value.
        value: Option<&'a [u8]>,
    },
    /// The end of the partition as it is now; the next record will have this offset or a later one.
    End {
        /// The offset.
        offset: i64,
    },
    /// The partition cannot be read any further.
    Failed(ClientError),
}

/// Reads one partition through its own queue, in batches, without ever blocking.
pub struct PartitionReader<C: ConsumerContext + 'static> {
    consumer: Arc<BaseConsumer<C>>,
    topic: *mut c::rd_kafka_topic_t,
    partition: i32,
    queue: *mut c::rd_kafka_queue_t,
    /// What the queue's event callback calls; freed after the callback is taken off.
    wake: *mut Wake,
    messages: Vec<*mut c::rd_kafka_message_t>,
}

// SAFETY: the handles may be used from any thread, one at a time here (`&mut self`).
unsafe impl<C: ConsumerContext + 'static> Send for PartitionReader<C> {}

impl<C: ConsumerContext + 'static> PartitionReader<C> {
    /// Starts fetching from `offset`; `wake` is called when the queue is no longer empty.
    ///
    /// # Errors
    /// The client's.
    pub fn start(
        consumer: Arc<BaseConsumer<C>>,
        topic: &str,
        partition: i32,
        offset: i64,
        wake: Wake,
    ) -> Result<Self, ClientError> {
        let name = c_string(topic)?;
        let client = consumer.client().native_ptr();
        // SAFETY: the consumer is kept in self, so the client outlives topic and queue. On every way out after topic_new, Drop (or the
        // branch below) gives back what was made. The callback's opaque pointer is a leaked box that Drop frees after taking the callback
        // off, which waits for a running callback because both hold the queue's lock.
        unsafe {
            let handle = c::rd_kafka_topic_new(client, name.as_ptr(), ptr::null_mut());
            if handle.is_null() {
                return Err(ClientError::plain(c::rd_kafka_last_error()));
            }
            let queue = c::rd_kafka_queue_get_partition(client, name.as_ptr(), partition);
            if queue.is_null() {
                c::rd_kafka_topic_destroy(handle);
                return Err(ClientError::made(Code::UnknownPartition, format!("no partition {partition}")));
            }
            let reader = Self {
                consumer,
                topic: handle,
                partition,
                queue,
                wake: Box::into_raw(Box::new(wake)),
                messages: Vec::with_capacity(1024),
            };
            c::rd_kafka_queue_cb_event_enable(queue, Some(woken), reader.wake.cast());
            if c::rd_kafka_consume_start(handle, partition, offset) != 0 {
                return Err(ClientError::plain(c::rd_kafka_last_error()));
            }
            Ok(reader)
        }
    }

    /// Takes at most `max` records that are there and shows each to `visit`, in order; returns how many things were shown.
    pub fn take(&mut self, max: usize, mut visit: impl FnMut(Fetched<'_>)) -> usize {
        self.messages.clear();
        self.messages.reserve(max);
        // SAFETY: the vector has room for `max` pointers; the client initialises as many as it returns (or -1 for none).
        let taken = unsafe {
            let taken = c::rd_kafka_consume_batch_queue(self.queue, 0, self.messages.as_mut_ptr(), max).max(0) as usize;
            self.messages.set_len(taken);
            taken
        };
        for message in self.messages.drain(..) {
            // SAFETY: the client gave us this message; its memory is valid until it is destroyed, after the visit.
            unsafe {
                visit(fetched(&*message));
                c::rd_kafka_message_destroy(message);
            }
        }
        taken
    }

    /// The consumer that this reader belongs to.
    pub fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }
}

impl<C: ConsumerContext + 'static> Drop for PartitionReader<C> {
    fn drop(&mut self) {
        // SAFETY: last use of all handles; the callback is off before its opaque is freed; the consumer is dropped after this function.
        unsafe {
            c::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            drop(Box::from_raw(self.wake));
            c::rd_kafka_consume_stop(self.topic, self.partition);
            c::rd_kafka_queue_destroy(self.queue);
            c::rd_kafka_topic_destroy(self.topic);
        }
    }
}

/// # Safety
/// The message's pointers are valid for its lengths while the result is used.
unsafe fn fetched(message: &c::rd_kafka_message_t) -> Fetched<'_> {
    match message.err {
        c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
            // SAFETY: by the function's contract; null means a tombstone.
            let value = (!message.payload.is_null())
                .then(|| unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>().cast_const(), message.len) });
            Fetched::Record { offset: message.offset, value }
        }
        c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => Fetched::End { offset: message.offset },
        error => {
            // SAFETY: for a message with an error the client returns text that lives as long as the message, or null.
            let detail = unsafe { text(c::rd_kafka_message_errstr(message)) };
            let plain = ClientError::plain(error);
            let text = if detail.is_empty() { plain.text } else { detail };
            Fetched::Failed(ClientError { text, ..plain })
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

fn millis(timeout: Duration) -> c_int {
    timeout.as_millis().min(i32::MAX as u128) as c_int
}

fn c_string(text: &str) -> Result<CString, ClientError> {
    CString::new(text).map_err(|_| ClientError::made(Code::InvalidArgument, "a name or value contains a zero byte"))
}

/// # Safety
/// `pointer` is null or points to text that ends with zero.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by the function's contract.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
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

/// Called by threads of the client when a partition's queue is no longer empty; it must not call the client.
unsafe extern "C" fn woken(_: *mut c::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: opaque is the reader's boxed `Wake`, freed only after this callback was taken off.
    let wake = unsafe { &*opaque.cast::<Wake>().cast_const() };
    wake();
}
