//! The streaming runtime: connectors, formats, state, commit logs, the pod and the command line.
//!
//! All I/O of a job is here. It does not plan SQL (crate `plan`) and does not process rows (crate `dataflow`).

mod background;
pub mod cli;
pub mod commit;
pub mod connector;
mod control;
pub mod crash;
pub mod format;
mod http;
pub mod kafka;
pub mod metrics;
pub mod planted;
pub mod pod;
mod priority;
pub mod reference;
pub mod snapshot;
pub mod state;
pub mod telemetry;
