//! Kafka: client properties, the source, the sink, and the transactional producer under the commit log.
//!
//! Owns every call of the Kafka client; the C calls are in `ffi` alone. It does not decide when to commit (crate `checkpoint`), and does not
//! know formats (module `format`).

pub mod client;
pub mod ffi;
pub mod producer;
pub mod properties;
