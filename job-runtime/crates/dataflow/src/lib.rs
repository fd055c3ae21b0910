//! The dataflow engine: workers, batches, exchange, watermarks, barriers, keyed state and windows.
//!
//! Pure: no tokio, no Kafka, no files, no clock, no randomness, no thread. The runtime drives each [`worker`] by `step()` and does all I/O.
#![deny(clippy::disallowed_methods)]

pub mod batch;
mod columns;
pub mod exchange;
pub mod graph;
pub mod key;
pub mod operators;
pub mod placement;
pub mod shuffle;
pub mod sink;
pub mod source;
pub mod state;
pub mod testing;
pub mod watermark;
pub mod worker;
