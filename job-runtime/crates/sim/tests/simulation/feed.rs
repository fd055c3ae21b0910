//! What a process has asked the broker to read: a partition of the input, or the messages for a shard.
//!
//! Owns one request at a time per partition, and what becomes of its answer. What is read next is taken by workers, not here.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use sim::message::{Answer, ErrorCode, Fetched, Isolation, Place, Request};
use sim::world::CallError;

use super::commit::{CALL_TIMEOUT_MS, Ended};
use super::job::{self, Buffer, Inbox};
use super::pod::Job;

/// Rows of an input partition, and messages for a shard, that wait at most before no more are fetched; and how many come at once.
const BUFFERED: usize = 60;
const FETCHED: usize = 30;
/// A partition that had nothing is asked again after this time.
const EMPTY_US: u64 = 40_000;

/// Something that a process waits for beside its work.
pub(crate) type Pending<T> = Pin<Box<dyn Future<Output = T>>>;

/// Looks whether it is there.
pub(crate) fn poll<T>(pending: &mut Option<Pending<T>>) -> Option<T> {
    let Poll::Ready(done) = pending.as_mut()?.as_mut().poll(&mut Context::from_waker(Waker::noop())) else {
        return None;
    };
    *pending = None;
    Some(done)
}

/// Whose records a fetch brings.
pub(crate) enum Target {
    Rows(Buffer),
    Messages(Inbox),
}

/// A partition that is read.
pub(crate) struct Feed {
    from: Place,
    next: i64,
    target: Target,
    pending: Option<Pending<Result<Option<Fetched>, Ended>>>,
}

impl Feed {
    /// Reads a partition from an offset on.
    pub(crate) fn new(from: Place, next: i64, target: Target) -> Self {
        Self { from, next, target, pending: None }
    }

    /// Takes what has come, and asks for more if there is room.
    pub(crate) fn go_on(&mut self, job: &Rc<Job>) -> Result<(), Ended> {
        self.arrived()?;
        if self.pending.is_none() && self.len() < BUFFERED {
            self.ask(job);
            // The first request goes out now.
            self.arrived()?;
        }
        i12_bounded(job, self.len());
        Ok(())
    }

    fn len(&self) -> usize {
        match &self.target {
            Target::Rows(buffer) => buffer.len(),
            Target::Messages(inbox) => inbox.len(),
        }
    }

    /// What a worker has taken since the last question.
    pub(crate) fn taken(&self) -> u64 {
        match &self.target {
            Target::Rows(buffer) => buffer.taken(),
            Target::Messages(inbox) => inbox.taken(),
        }
    }

    fn take(&mut self, fetched: &Fetched) {
        self.next = fetched.next_offset;
        match &self.target {
            Target::Rows(buffer) => {
                for (offset, record) in &fetched.records {
                    let row = job::decode(record.value.as_deref().expect("a row")).try_into().expect("three fields");
                    buffer.push(offset + 1, row);
                }
            }
            Target::Messages(inbox) => {
                let messages =
                    fetched.records.iter().map(|(at, record)| (*at, record.value.clone().unwrap_or_default()));
                inbox.push(messages, fetched.next_offset, fetched.high_watermark);
            }
        }
    }

    /// Takes what has come of the request that is under way.
    fn arrived(&mut self) -> Result<(), Ended> {
        if let Some(Some(fetched)) = poll(&mut self.pending).transpose()? {
            self.take(&fetched);
        }
        Ok(())
    }

    fn ask(&mut self, job: &Rc<Job>) {
        let (world, from, offset) = (job.world.clone(), self.from.clone(), self.next);
        let lost = match &self.target {
            Target::Rows(_) => Ended::Gone,
            Target::Messages(_) => Ended::Failed,
        };
        self.pending = Some(Box::pin(async move {
            let (most, isolation) = (FETCHED, Isolation::ReadCommitted);
            match world.call(world.connect(), CALL_TIMEOUT_MS, Request::Fetch { from, offset, most, isolation }).await {
                Ok(Answer::Fetched(fetched)) => {
                    if fetched.next_offset == offset {
                        world.sleep(EMPTY_US).await;
                    }
                    Ok(Some(fetched))
                }
                Err(CallError::Refused(ErrorCode::OffsetOutOfRange)) => Err(lost),
                Ok(_) | Err(_) => {
                    world.sleep(EMPTY_US).await;
                    Ok(None)
                }
            }
        }));
    }
}

/// I12: what waits in memory is bounded.
fn i12_bounded(job: &Rc<Job>, waiting: usize) {
    if waiting > BUFFERED + FETCHED {
        job.wrong(format!("I12: {waiting} records of a partition wait in memory"));
    }
}
