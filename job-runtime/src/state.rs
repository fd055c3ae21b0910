//! Durable state on local disk: the state directory and one RocksDB database per shard.
//!
//! Owns files below the state directory except the commit log's. It does not decide what to apply: a store is only ever given committed
//! changes.

pub mod directory;
mod expiry;
pub mod memory;
pub mod place;
pub mod rocks;
