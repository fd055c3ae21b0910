//! The binary as people use it: right answers, the same after SIGKILL at any moment, and clear words when something is wrong.
//!
//! Nothing here needs a server. What needs Kafka is in `kafka_job.rs`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "cli/bad_input.rs"]
mod bad_input;
#[path = "cli/dead_letters.rs"]
mod dead_letters;
#[path = "cli/exactly_once.rs"]
mod exactly_once;
#[path = "cli/exports.rs"]
mod exports;
#[path = "cli/first_rows.rs"]
mod first_rows;
#[path = "cli/flights.rs"]
mod flights;
#[path = "cli/larger.rs"]
mod larger;
#[path = "cli/oracle.rs"]
mod oracle;
#[path = "cli/orders.rs"]
mod orders;
#[path = "cli/pod.rs"]
mod pod;
#[path = "cli/savepoints.rs"]
mod savepoints;
#[path = "cli/snapshots.rs"]
mod snapshots;
#[path = "cli/stopping.rs"]
mod stopping;
#[path = "cli/tls.rs"]
mod tls;
#[path = "cli/tokens.rs"]
#[expect(dead_code, reason = "the unit tests of the control port use the rest")]
mod tokens;
#[path = "cli/watched.rs"]
mod watched;
#[path = "cli/workshop.rs"]
mod workshop;
