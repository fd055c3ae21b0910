//! A world to run Millstream in: a simulated Kafka broker, an object store, a network that delays, loses and reorders, and a clock, all from one
//! seed.
//!
//! Owns the world and nothing of the product: it is for tests. Pure: no thread, no socket, no file, no real time. One seed is one run; two
//! runs of a seed have the same trace.
//!
//! - [`broker`]: Kafka as a state machine: one request in, one answer out; nothing happens by itself.
//! - [`store`]: an object store whose calls fail, lose their reply, or read damage.
//! - [`world`]: tasks (plain `async fn`s) that call the broker over connections, with time, faults, and a trace.
//!
//! # What runs in it
//! `tests/simulation.rs` runs a job of one to three pods. Of the program, this very code is in it:
//!
//! | part | crate |
//! | --- | --- |
//! | workers by `step()`: sources, an exchange, window aggregates, watermarks, barriers, the state of keys | `dataflow` |
//! | the shuffle between pods: blocks, messages, heartbeats, places, the gate | `dataflow::shuffle` |
//! | when to commit, and what waits for an outcome | `checkpoint::commit` |
//! | who may act on which shard: assignments, settling, proofs, releases | `checkpoint::ownership`, `assignment` |
//! | the layouts of changelog, control records and manifests; every name | `checkpoint` |
//! | which state to start from, what to keep, what is garbage, how far to trim | `checkpoint::snapshot` |
//!
//! Not in it: librdkafka, RocksDB, the S3 client, threads, the planner, formats, and the files of `job-runtime` that carry the decisions out. Their
//! calls are written again here, in the same order, over the simulated broker and store: so a wrong decision or a wrong order is found here, and a
//! wrong call of a library is not. Those are found by the tests on real parts (`job-runtime/tests`) and by the bugs planted there
//! (`job-runtime/src/planted.rs`).
//!
//! # What goes wrong
//! Names as in the book's page on tested faults. Each happens at moments that the seed chooses, and as often as the seed chooses.
//!
//! | fault | how |
//! | --- | --- |
//! | kill | a process is dropped where it stands; its disk keeps all, what was flushed, an older copy, another machine's, or nothing |
//! | pause | a process sleeps, for up to five transaction timeouts, while another one of its pod is started |
//! | two processes of a pod | a second one is started beside the first |
//! | lost connections | a request is lost, or arrives up to six seconds late, perhaps in the next transaction; its answer is lost |
//! | cut off | a process reaches nobody, or everybody and hears nothing |
//! | the broker is away | connections break and nothing arrives for up to six seconds |
//! | transaction timeout | the coordinator aborts what is too old and fences its producer; markers come late, in any order |
//! | pods come and go | another number of pods is asked for, also before the last change is done |
//! | foreign transaction | somebody else leaves a transaction open on the input, and aborts it |
//! | object store | calls fail, lose their reply, take seconds |
//! | corrupt object | a read gives a flipped bit, a part, or another object |
//! | input lost | a partition of the input loses all that it has, read or not |
//! | full disk, slow disk | a write of the local state fails; each takes half a second |
//! | lost sync | a flush says that it is done, and is not |
//! | lost disk, older copy, another machine's | see kill |
//! | wrong clocks | each machine's clock is wrong by up to an hour, and jumps |
//!
//! The broker speaks Kafka's transaction protocol 1 or 2, as the seed says; so do the pods.
//!
//! Not simulated: partitions that are added, torn writes, schema drift, poison records, memory limits, and several brokers.
#![deny(clippy::disallowed_methods)]

pub mod broker;
pub mod message;
pub mod store;
pub mod world;
