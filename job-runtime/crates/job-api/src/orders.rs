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
/// `POST` [`AssignmentRequest`]: 202 while those who gain work by it fetch its state, and 200 when it is in force: ask again until then. Or
/// [`Refused`].
pub const ASSIGNMENT_PATH: &str = "/v1/assignment";

/// Longest name of a savepoint.
pub const SAVEPOINT_NAME_MAX: usize = 63;

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

/// Whether a savepoint may have this name: it becomes a part of keys and paths.
pub fn is_savepoint_name(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=SAVEPOINT_NAME_MAX).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}

/// Why an order was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refused {
    /// For people: what is wrong and what to do.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    #[track_caller]
    fn is_written<T: Serialize + for<'a> Deserialize<'a> + PartialEq + Debug>(value: &T, text: &str) {
        assert_eq!(serde_json::to_string(value).expect("it is JSON"), text);
        assert_eq!(serde_json::from_str::<T>(text).expect("what was written is read"), *value);
    }

    #[test]
    fn orders_and_answers_are_read_as_they_were_written() {
        let request = SavepointRequest { name: "before-upgrade".to_owned(), stop: true };
        is_written(&request, r#"{"name":"before-upgrade","stop":true}"#);
        let only_name: SavepointRequest = serde_json::from_str(r#"{"name":"a"}"#).expect("a name is enough");
        assert!(!only_name.stop);
        let mut status = SavepointStatus {
            version: crate::VERSION,
            name: "a".to_owned(),
            phase: SavepointPhase::Draining,
            location: None,
            pause_ms: None,
            bytes: None,
            message: None,
        };
        is_written(&status, r#"{"version":1,"name":"a","phase":"Draining"}"#);
        status.phase = SavepointPhase::Completed;
        (status.location, status.pause_ms, status.bytes) = (Some("s3://b/k".to_owned()), Some(12), Some(4096));
        is_written(
            &status,
            r#"{"version":1,"name":"a","phase":"Completed","location":"s3://b/k","pauseMs":12,"bytes":4096}"#,
        );
        is_written(&StopRequest { mode: StopMode::Drain }, r#"{"mode":"Drain"}"#);
        is_written(&AssignmentRequest { replicas: 3 }, r#"{"replicas":3}"#);
        is_written(&Refused { message: "why".to_owned() }, r#"{"message":"why"}"#);
    }

    #[test]
    fn an_order_with_a_field_that_is_not_known_is_not_read() {
        assert!(serde_json::from_str::<SavepointRequest>(r#"{"name":"a","halt":true}"#).is_err());
        assert!(serde_json::from_str::<StopRequest>(r#"{"mode":"Kill"}"#).is_err());
        assert!(serde_json::from_str::<AssignmentRequest>(r#"{"replicas":-1}"#).is_err());
    }

    #[test]
    fn names_of_savepoints_can_be_parts_of_keys_and_paths() {
        let longest = "x".repeat(SAVEPOINT_NAME_MAX);
        for good in ["a", "0", "before-upgrade-2", &longest] {
            assert!(is_savepoint_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "..", "ä", &"x".repeat(SAVEPOINT_NAME_MAX + 1)] {
            assert!(!is_savepoint_name(bad), "{bad}");
        }
    }
}
