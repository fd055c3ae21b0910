//! Orders for the job that this process runs: handed to whoever carries them out.
//!
//! Owns which orders a pod can take. The port that they come by is `http`'s; savepoints are made in `savepoint`.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataflow::shuffle::Gate;
use job_api::orders::{SavepointRequest, SavepointStatus, StopMode};

use super::hold::{Desk, Want};
use super::orders::OrderError;
use super::savepoint::{Book, Event};
use crate::commit::kafka::ControlTopic;

/// How long the thread of savepoints may take to answer: it may be writing to the control topic.
const ANSWER: Duration = Duration::from_secs(10);

/// What the job needs to have another number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Assigning {
    /// Nothing: it has it.
    InForce,
    /// The pods see to it.
    UnderWay,
    /// This process must begin anew: it does not watch the control topic.
    Anew,
}

/// See the module's documentation.
pub(super) struct OrderBook {
    /// To the thread of savepoints.
    pub(super) events: SyncSender<Event>,
    /// What becomes of savepoints.
    pub(super) book: Arc<Book>,
    /// To the driver.
    pub(super) desk: Arc<Desk>,
    /// The sources.
    pub(super) gate: Arc<Gate>,
    /// The control topic, if the log is in Kafka.
    pub(super) topic: Option<Mutex<ControlTopic>>,
    /// The pod has no others beside it, and watches no topic.
    pub(super) alone: bool,
}

impl OrderBook {
    pub(super) fn savepoint(&self, request: SavepointRequest) -> Result<SavepointStatus, OrderError> {
        let gone = || OrderError::NotReady { message: "the pod is ending; ask another one".to_owned() };
        let (answer, answered) = sync_channel(1);
        self.events.try_send(Event::Order { request, answer }).map_err(|_| gone())?;
        answered.recv_timeout(ANSWER).map_err(|_| gone())?
    }

    pub(super) fn savepoint_status(&self, name: &str) -> Option<SavepointStatus> {
        self.book.get(name)
    }

    pub(super) fn stop(&self, mode: StopMode) -> Result<(), OrderError> {
        match (mode, self.topic.as_ref().filter(|_| !self.alone)) {
            (StopMode::Stop, None) => self.desk.want(Want::End),
            (StopMode::Drain, None) => self.gate.end(),
            // Every pod finds it there, this one too.
            (StopMode::Drain, Some(topic)) => {
                let said = topic.lock().unwrap_or_else(PoisonError::into_inner).drain();
                said.map_err(|error| OrderError::NotReady { message: error.to_string() })?;
            }
            (StopMode::Stop, Some(_)) => {
                let message = "a job of several pods is stopped by a savepoint with \"stop\": true, or by spec.state";
                return Err(OrderError::Conflict { message: message.to_owned() });
            }
        }
        Ok(())
    }

    /// What is to be done for the job to have so many pods.
    pub(super) fn assign(&self, replicas: u16) -> Result<Assigning, OrderError> {
        let conflict = |message: String| OrderError::Conflict { message };
        if replicas == 0 {
            return Err(OrderError::Invalid { message: "a job has at least one pod".to_owned() });
        }
        let Some(topic) = &self.topic else {
            let message = "the job has no sink with connector 'kafka': it has one pod, for ever";
            return if replicas == 1 { Ok(Assigning::InForce) } else { Err(conflict(message.to_owned())) };
        };
        let in_force = topic.lock().unwrap_or_else(PoisonError::into_inner).propose(replicas);
        let in_force = in_force.map_err(|error| match error {
            crate::commit::kafka::RecoverError::BoundSource { .. } => conflict(error.to_string()),
            other => OrderError::NotReady { message: other.to_string() },
        })?;
        Ok(match in_force {
            true => Assigning::InForce,
            false if self.alone => Assigning::Anew,
            false => Assigning::UnderWay,
        })
    }
}
