//! Real faults on real parts: processes that sleep, brokers that are killed, connections that are cut, clocks that are wrong, stores and disks
//! that fail, records and settings that are bad. Each case is a `millstream pod` on a real broker, and an independent `read_committed` reader
//! compares with an oracle while the fault happens and after it. Nothing is tried twice.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "kafka_faults/clocks.rs"]
mod clocks;
#[path = "kafka_faults/cuts.rs"]
mod cuts;
#[path = "kafka_faults/gate.rs"]
mod gate;
#[path = "kafka_faults/lab.rs"]
mod lab;
#[path = "kafka_faults/poison.rs"]
mod poison;
#[path = "kafka_faults/proxy.rs"]
mod proxy;
#[path = "kafka_faults/resources.rs"]
mod resources;
#[path = "kafka_faults/restarts.rs"]
mod restarts;
#[path = "kafka_faults/rig.rs"]
mod rig;
#[path = "kafka_faults/sleepers.rs"]
mod sleepers;
#[path = "kafka_faults/storage.rs"]
mod storage;
#[path = "cli/tls.rs"]
mod tls;
#[path = "kafka_faults/watcher.rs"]
mod watcher;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;
#[path = "kafka_faults/wrong.rs"]
mod wrong;
