//! The C calls of the Kafka client that have no safe equivalent, or only one that is too slow: batch produce, batch consume, queue events.
//!
//! With `cli::signals` and `priority` the only module with `unsafe`. It owns [`RawProducer`] and [`PartitionReader`], and decides nothing.
#![expect(unsafe_code, reason = "batch calls of librdkafka; every block says why it is sound")]

mod producer;
mod reader;

use std::ffi::{CStr, CString, c_char, c_int};
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::error::RDKafkaErrorCode as Code;

pub use producer::{Deliveries, NotedOffset, RawProducer};
pub use reader::{Details, Fetched, PartitionReader, known_end};

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
