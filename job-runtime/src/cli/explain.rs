//! `millstream explain` and `millstream validate`: what a job would do, without doing it.
//!
//! Owns the two commands' output. The text of the plan is the planner's.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use dataflow::graph::NodeKind;
use plan::Guarantee;

use super::failure::Failure;
use super::job;
use crate::connector::registry;

/// Prints the plan.
pub(super) fn explain(file: &Path) -> Result<(), Failure> {
    let loaded = job::load(file)?;
    let mut guarantees: BTreeMap<String, Guarantee> = BTreeMap::new();
    for node in &loaded.planned.graph.nodes {
        if let NodeKind::Sink(sink) = &node.kind
            && let Some(table) = loaded.planned.tables.iter().find(|table| table.name == sink.table)
        {
            guarantees.insert(table.name.clone(), registry::guarantee(table).map_err(|error| loaded.blame(&error))?);
        }
    }
    print(&plan::explain(&loaded.planned, &guarantees));
    Ok(())
}

/// Checks every file; the first line of each that is right says so, and the first that is wrong decides the exit code.
pub(super) fn validate(files: &[PathBuf]) -> Result<(), Failure> {
    let mut first = None;
    for file in files {
        match job::load(file) {
            Ok(loaded) => {
                let nodes = loaded.planned.graph.nodes.len();
                print(&format!(
                    "{}: StreamJob {} is valid ({nodes} stream operators)\n",
                    file.display(),
                    loaded.file.name
                ));
            }
            Err(failure) => {
                if let Some(earlier) = first.replace(failure) {
                    earlier.print();
                }
            }
        }
    }
    first.map_or(Ok(()), Err)
}

fn print(text: &str) {
    // A closed pipe (`| head`) is the reader's wish, not a failure.
    let _ = std::io::stdout().write_all(text.as_bytes());
}
