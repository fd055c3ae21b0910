//! From a file to a planned and checked job, with every problem shown in the file.
//!
//! Owns the mapping of a connector's complaint to the option in the file. No connector is opened here.

use std::path::{Path, PathBuf};

use checkpoint::snapshot::retention::Retention;
use dataflow::graph::NodeKind;
use plan::job::{Checkpointing, JobFile};
use plan::{Diagnostic, PlannedJob, Span};

use super::failure::Failure;
use crate::connector::{ConnectorError, registry};
use crate::snapshot::place::{SnapshotConfig, StorePlace};

/// A job that may be run.
pub(super) struct Loaded {
    /// The file.
    pub(super) file: JobFile,
    /// The plan.
    pub(super) planned: PlannedJob,
    /// Directory that relative paths in options start from.
    pub(super) base_dir: PathBuf,
}

/// Reads, plans and checks a job.
pub(super) fn load(path: &Path) -> Result<Loaded, Failure> {
    let shown = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::Usage(format!("cannot read {shown}: {e}; give the path of a StreamJob file")))?;
    let file = plan::job::read(&shown, &text).map_err(Failure::Job)?;
    let planned = plan::plan(&file).map_err(Failure::Job)?;
    let problems: Vec<Diagnostic> = check(&planned).iter().map(|error| diagnostic(&planned, error)).collect();
    if !problems.is_empty() {
        return Err(Failure::Job(file.diagnostics(problems)));
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let base_dir = parent.canonicalize().unwrap_or_else(|_| parent.to_owned());
    Ok(Loaded { file, planned, base_dir })
}

impl Loaded {
    /// How the job's snapshots are taken, if there is a place for them.
    pub(super) fn snapshots(&self, place: Option<StorePlace>) -> Option<SnapshotConfig> {
        let Checkpointing { interval, count, age } = self.file.checkpoint;
        let retention = Retention { count: count.into(), age_ms: age.as_millis() as u64 };
        place.map(|place| SnapshotConfig { place, interval, retention })
    }

    /// What a connector complains of, shown at its option in the file.
    pub(super) fn blame(&self, error: &ConnectorError) -> Failure {
        Failure::Connector(self.file.diagnostics(vec![diagnostic(&self.planned, error)]))
    }
}

fn check(planned: &PlannedJob) -> Vec<ConnectorError> {
    let used = |name: &str, source: bool| {
        planned.graph.nodes.iter().any(|node| match &node.kind {
            NodeKind::Source(node) => source && node.table == name,
            NodeKind::Sink(node) => !source && node.table == name,
            NodeKind::Calc(_)
            | NodeKind::Exchange(_)
            | NodeKind::WindowAggregate(_)
            | NodeKind::Deduplicate(_)
            | NodeKind::Union => false,
        })
    };
    let checked = planned.tables.iter().map(|t| registry::validate(t, used(&t.name, true), used(&t.name, false)));
    checked.filter_map(Result::err).collect()
}

fn diagnostic(planned: &PlannedJob, error: &ConnectorError) -> Diagnostic {
    let Some(table) = planned.tables.iter().find(|table| table.name == error.table) else {
        return Diagnostic::of_file(error.to_string());
    };
    let option = error.option.as_ref().and_then(|key| table.options.iter().find(|option| option.key == *key));
    let span = option.map_or(table.span, |o| Span { start: o.key_span.start, end: o.value_span.end });
    Diagnostic::at(span, error.to_string())
}
