//! Everything that runs against real parts: what the tests on a real Kafka and a real Kubernetes share, and the benchmark. No product
//! code.

pub mod bench;
pub mod cluster;
pub mod flights;
pub mod kafka;
pub mod operator;
pub mod routes;
pub mod s3;
