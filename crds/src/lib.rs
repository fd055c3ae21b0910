//! The custom resources of Millstream: every spec and status field, once, with the names that go with them.
//!
//! The YAML beside this crate, the chart's copy and the API reference are generated from here (`generate`). It talks to no cluster and
//! holds no decision of the controller.

pub mod names;
pub mod reference;
pub mod schema;
#[expect(
    unreachable_pub,
    reason = "the schema derive makes a copy of each struct inside a function and keeps its visibility"
)]
pub mod v1alpha1;
