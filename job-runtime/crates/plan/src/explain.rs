//! A plan as text for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::{Guarantee, PlannedJob};

/// The plan of a job: what it computes, then the stream operators that do it.
pub fn explain(job: &PlannedJob, guarantees: &BTreeMap<String, Guarantee>) -> String {
    let mut out = String::new();
    for node in &job.graph.nodes {
        let _ = writeln!(out, "{} {} {:?}", node.id.0, node.name, guarantees.get(&node.name));
    }
    out
}
