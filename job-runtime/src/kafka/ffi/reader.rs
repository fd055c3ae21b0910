//! Reading one partition through its own queue, in batches.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use dataflow::worker::Wake;
use rdkafka::bindings as c;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode as Code;

use super::{ClientError, c_string, text};

/// What a partition gave.
#[derive(Debug)]
pub enum Fetched<'a> {
    /// A record. A tombstone has no value.
    Record {
        /// Its offset.
        offset: i64,
        /// Its value.
        value: Option<&'a [u8]>,
        /// What is seldom asked for.
        details: Details<'a>,
    },
    /// The end of the partition as it is now; the next record will have this offset or a later one.
    End {
        /// The offset.
        offset: i64,
    },
    /// The partition cannot be read any further.
    Failed(ClientError),
}

/// A record's key and time, looked up only when asked for.
pub struct Details<'a>(&'a c::rd_kafka_message_t);

impl std::fmt::Debug for Details<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Details")
    }
}

impl<'a> Details<'a> {
    /// The key.
    pub fn key(&self) -> Option<&'a [u8]> {
        let Self(message) = self;
        // SAFETY: a message's key pointer is null or valid for its length while the message is, which is what 'a says.
        (!message.key.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(message.key.cast::<u8>().cast_const(), message.key_len) })
    }

    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub fn timestamp_ms(&self) -> Option<i64> {
        let mut kind = c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the client made the message, which lives for 'a; the place for the kind lives until the call returns.
        let at = unsafe { c::rd_kafka_message_timestamp(self.0, &raw mut kind) };
        (at >= 0 && kind != c::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE).then_some(at)
    }
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

/// The end of a partition (its high watermark) as the client saw it with its last fetch; asks no broker. `None` before the first fetch.
pub fn known_end<C: ConsumerContext>(consumer: &BaseConsumer<C>, topic: &str, partition: i32) -> Option<u64> {
    let topic = c_string(topic).ok()?;
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client lives as long as the consumer; the name and both places live until the call returns.
    let result = unsafe {
        let client = consumer.client().native_ptr();
        c::rd_kafka_get_watermark_offsets(client, topic.as_ptr(), partition, &raw mut low, &raw mut high)
    };
    let known = result == c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    known.then_some(high).and_then(|high| u64::try_from(high).ok())
}

/// # Safety
/// The message's pointers are valid for its lengths while the result is used.
unsafe fn fetched(message: &c::rd_kafka_message_t) -> Fetched<'_> {
    match message.err {
        c::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
            // SAFETY: by the function's contract; null means a tombstone.
            let value = (!message.payload.is_null())
                .then(|| unsafe { std::slice::from_raw_parts(message.payload.cast::<u8>().cast_const(), message.len) });
            Fetched::Record { offset: message.offset, value, details: Details(message) }
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

/// Called by threads of the client when a partition's queue is no longer empty; it must not call the client.
unsafe extern "C" fn woken(_: *mut c::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: opaque is the reader's boxed `Wake`, freed only after this callback was taken off.
    let wake = unsafe { &*opaque.cast::<Wake>().cast_const() };
    wake();
}
