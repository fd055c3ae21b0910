//! The operator: makes the cluster look like the StreamJobs say, and says in their status what became of them.
//!
//! It talks to the API server and to the job's pods. It has no Kafka and no object store client, and reads no Secret.

pub mod access;
pub mod args;
pub mod checkpoints;
pub mod controller;
pub mod job_client;
pub mod leader;
pub mod metrics;
pub mod run;
pub mod server;
pub mod telemetry;
