//! The custom resources of Millstream: every spec and status field, once, with the names that go with them.
//!
//! The YAML beside this crate, the chart's copy and the API reference are generated from here (`generate`). It talks to no cluster and
//! holds no decision of the controller.

pub mod names;
pub mod reference;
pub mod schema;
#[expect(
    unreachable_pub,
    clippy::duplicated_attributes,
    reason = "the derives copy each struct into a function with its visibility, and take columns that look alike to clippy"
)]
pub mod v1alpha1;
