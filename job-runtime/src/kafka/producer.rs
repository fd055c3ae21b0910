//! The transactional producer of a pod, and a watchdog over its blocking calls.
//!
//! Owns its settings and the start (`init_transactions`). It does not decide what goes into a transaction (`commit::kafka`).
//!
//! librdkafka's transaction calls can outlast the time they are given. So they run on a thread of their own, and the caller waits no longer
//! than the deadline and a grace. A call that did not come back leaves its thread behind: the process is about to end anyway, because the
//! outcome of the commit is unknown.

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;

use super::client::ConnectError;
use super::fence;
use super::ffi::RawProducer;
use super::properties::KafkaProperties;

/// How long the broker lets a transaction stay open, unless the table says otherwise: a bound for readers held back by a pod that never
/// comes back.
pub const TRANSACTION_TIMEOUT_MS: u32 = 15_000;
/// How much longer than its time-out a call may take.
const GRACE: Duration = Duration::from_secs(3);
const INIT_SLICE: Duration = Duration::from_secs(2);

/// An open transaction is ended in a few milliseconds. Past this the client's own fence does it.
const HEAD_START: Duration = Duration::from_secs(2);

type Call = Box<dyn FnOnce(&RawProducer) + Send>;

/// What the raw fence before the client's needs to know.
struct HeadStart {
    properties: KafkaProperties,
    transactional_id: String,
    transaction_timeout_ms: u32,
}

/// See the module's documentation.
pub struct TransactionalProducer {
    raw: Arc<RawProducer>,
    servers: String,
    head_start: HeadStart,
    calls: Option<SyncSender<Call>>,
    thread: Option<JoinHandle<()>>,
}

impl TransactionalProducer {
    /// Makes the producer; nothing is sent yet.
    ///
    /// # Errors
    /// When the client does not take a property.
    pub fn new(properties: &KafkaProperties, transactional_id: &str) -> Result<Self, ConnectError> {
        let servers = properties.bootstrap_servers().to_owned();
        let timeout = properties.get("transaction.timeout.ms").map(str::to_owned);
        let timeout = timeout.unwrap_or_else(|| TRANSACTION_TIMEOUT_MS.to_string());
        let mut all = vec![
            ("linger.ms", "5"),
            ("compression.type", "lz4"),
            ("partitioner", "murmur2_random"),
            // A topic that is not there is an error after this time; its existence is checked before anything is written.
            ("topic.metadata.propagation.max.ms", "4000"),
            ("queue.buffering.max.messages", "1000000"),
            ("queue.buffering.max.kbytes", "131072"),
            ("socket.nagle.disable", "true"),
        ];
        all.extend(properties.producer());
        // After the table's: nobody overrides these.
        all.extend([
            ("transactional.id", transactional_id),
            ("enable.idempotence", "true"),
            ("acks", "all"),
            ("transaction.timeout.ms", &timeout),
        ]);
        let other =
            |what: &str, reason: String| ConnectError::Other { what: what.into(), servers: servers.clone(), reason };
        let raw = Arc::new(RawProducer::new(&all).map_err(|e| other("making a client", e.text))?);
        let (calls, received) = sync_channel::<Call>(1);
        let producer = Arc::clone(&raw);
        let serve = move || received.into_iter().for_each(|call: Call| call(&producer));
        let thread = std::thread::Builder::new().name("millstream-txn".into()).spawn(serve);
        let thread = Some(thread.map_err(|e| other("starting a thread", e.to_string()))?);
        let head_start = HeadStart {
            properties: properties.clone(),
            transactional_id: transactional_id.to_owned(),
            // The client has taken the value already.
            transaction_timeout_ms: timeout.parse().unwrap_or(TRANSACTION_TIMEOUT_MS),
        };
        Ok(Self { raw, servers, head_start, calls: Some(calls), thread })
    }

    /// The producer, for calls that do not block.
    pub fn raw(&self) -> &RawProducer {
        &self.raw
    }

    /// The brokers.
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// Fences every earlier process with the same id and ends its open transaction.
    ///
    /// # Errors
    /// When no broker answers in time, or the user may not use the id.
    pub fn init(&mut self, deadline: Duration) -> Result<(), ConnectError> {
        let start = Instant::now();
        let HeadStart { properties, transactional_id, transaction_timeout_ms } = &self.head_start;
        match fence::end_open_transaction(properties, transactional_id, *transaction_timeout_ms, HEAD_START) {
            Ok(()) => tracing::debug!(ms = start.elapsed().as_millis() as u64, "ended what was open"),
            Err(error) => tracing::debug!(%error, "no head start for the fence"),
        }
        if let Err(error) = self.raw.connect(HEAD_START.min(deadline)) {
            tracing::debug!(error = error.text, "no broker is connected yet");
        }
        loop {
            let left = deadline.saturating_sub(start.elapsed()).max(Duration::from_millis(100));
            let slice = left.min(INIT_SLICE);
            let result = self.watched(slice, move |raw| raw.init_transactions(slice));
            self.raw.poll(Duration::ZERO);
            let (code, reason, again) = match result {
                Some(Ok(())) => return Ok(()),
                Some(Err(error)) => (error.code, error.text, error.retriable && !error.fatal),
                None => (Code::OperationTimedOut, String::new(), false),
            };
            let last = self.raw.last_error();
            let refused = last.as_ref().is_some_and(|(code, _)| matches!(code, Code::Authentication | Code::SSL));
            if !again || refused || start.elapsed() >= deadline {
                let what = "the job's transactional id";
                return Err(ConnectError::new(&self.servers, what, code, &reason, deadline, last));
            }
        }
    }

    /// Runs a blocking call that was given `timeout`; `None` if it did not come back in that time and a grace, and for every call after.
    pub fn watched<T: Send + 'static>(
        &mut self,
        timeout: Duration,
        call: impl FnOnce(&RawProducer) -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = sync_channel(1);
        // The receiver may be gone: then nobody waits for the answer any more.
        let call = Box::new(move |raw: &RawProducer| drop(answer.send(call(raw))));
        self.calls.as_ref()?.send(call).ok()?;
        let result = answered.recv_timeout(timeout + GRACE).ok();
        if result.is_none() {
            tracing::error!("a call of the Kafka client did not come back in its time");
            // The thread is stuck in the client: it cannot be joined, and nothing more may be asked of it.
            self.calls = None;
            self.thread = None;
        }
        result
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        self.calls = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the transaction thread panicked");
        }
    }
}
