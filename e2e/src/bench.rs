//! The benchmark's parts: running the job binary, filling topics, measuring latency from outside, and printing the table.
//!
//! Everything is measured on the release that users run: the `millstream` binary as a process of its own. Owns no engine code.

pub mod job;
pub mod kafka;
pub mod report;
