//! Everything that runs against real parts: the lab's helpers for tests, and the benchmark. No product code.

pub mod bench;
