//! The streaming runtime: connectors, formats, state, commit logs, the pod and the command line.
//!
//! All I/O of a job is here. It does not plan SQL (crate `plan`) and does not process rows (crate `dataflow`).

pub mod commit;
pub mod connector;
pub mod format;
pub mod kafka;
pub mod reference;
pub mod state;
