//! What a commit is, decided and laid out without I/O: the commit protocol, ownership, savepoints, names, and the layout of everything that
//! a commit log stores.
//!
//! Pure: no tokio, no Kafka, no files, no clock. It does not write a log (that is `job-runtime::commit`) and does not process rows.
#![deny(clippy::disallowed_methods)]

pub mod assignment;
pub mod changelog;
pub mod commit;
pub mod control;
pub mod local_log;
pub mod names;
pub mod offset_note;
pub mod ownership;
pub mod partition_group;
pub mod proposal;
pub mod rescale;
pub mod savepoint;
pub mod snapshot;
