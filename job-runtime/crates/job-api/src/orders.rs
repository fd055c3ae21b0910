//! What may be asked of a running job over its control port, and the answers.
//!
//! Serde types and paths only. Any pod takes an order for its whole job; the pods pass it on through the job's control topic.

use serde::{Deserialize, Serialize};

/// `GET`: [`crate::PodStatus`].
pub const STATUS_PATH: &str = "/status";
/// `POST` [`SavepointRequest`]: answers [`SavepointStatus`] with 202, or [`Refused`] with 400, 409 or 503. Asking again for the same name
/// answers how far that one is. `GET` with `/<name>` behind it: [`SavepointStatus`], or 404.
pub const SAVEPOINTS_PATH: &str = "/v1/savepoints";
/// `POST` [`StopRequest`]: 202, or [`Refused`].
pub const STOP_PATH: &str = "/v1/stop";
/// `POST` [`AssignmentRequest`]: 202, or [`Refused`].
pub const ASSIGNMENT_PATH: &str = "/v1/assignment";

/// Make a savepoint of the whole job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SavepointRequest {
    /// Its name, unique in the job for ever: 1 to 63 of `a-z 0-9 -`, beginning and ending with a letter or digit.
    pub name: String,
    /// End the job's work behind it: nothing is read or written after the savepoint.
    #[serde(default)]
    pub stop: bool,
}

/// How far a savepoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SavepointPhase {
    /// Sources pause, internal topics are read to their ends, every pod commits.
    Draining,
    /// All state is copied; the job goes on, or has stopped; files are on their way to the store.
    Uploading,
    /// Every pod's part is in the store: a job can be started from it.
    Completed,
    /// It cannot be used; the job went on.
    Failed,
}

/// What became of a savepoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SavepointStatus {
    /// [`crate::VERSION`].
    pub version: u32,
    /// Its name.
    pub name: String,
    /// How far it is.
    pub phase: SavepointPhase,
    /// Where it is, as `restoreFrom` and `--from-savepoint` take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
    /// Milliseconds that this pod's sources stood still for it, once they go on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause_ms: Option<u64>,
    /// Size of this pod's part, once it is complete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// End the job's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct StopRequest {
    /// How.
    pub mode: StopMode,
}

/// Ways to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopMode {
    /// Commit what is read, then end; the next start goes on from there.
    Stop,
    /// Treat what is read as all there is: the watermark goes to the end of time, windows close, then the last commit and the end.
    Drain,
}

/// Distribute the job over another number of pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AssignmentRequest {
    /// Number of pods.
    pub replicas: u16,
}

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// For people: what is wrong and what to do.
    pub message: String,
}
