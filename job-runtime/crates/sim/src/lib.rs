//! A world to run Millstream in: a simulated Kafka broker, a network that delays, loses and reorders, and a clock, all from one seed.
//!
//! Owns the world and nothing of the product: it is for tests. Pure: no thread, no socket, no file, no real time. One seed is one run; two
//! runs of a seed have the same trace.
//!
//! - [`broker`]: Kafka as a state machine: one request in, one answer out; nothing happens by itself.
//! - [`world`]: tasks (plain `async fn`s) that call the broker over connections, with time, faults, and a trace.
#![deny(clippy::disallowed_methods)]

pub mod broker;
pub mod message;
pub mod world;
