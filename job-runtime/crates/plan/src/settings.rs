//! `SET 'key' = 'value'`: the settings that Flink has and a StreamJob has no field for.
//!
//! Owns which there are and what they may be. A setting holds for the whole job, wherever it stands.

use std::time::Duration;

use crate::Span;
use crate::bind::Bound;
use crate::diagnostic::{Diagnostic, did_you_mean};
use crate::logical::PlanOp;
use crate::lower::source_tables;
use crate::query::QueryPlanner;
use crate::sql::{Setting, duration};

const STATE_TTL: &str = "table.exec.state.ttl";

/// `table.exec.state.ttl`: for how long state lives that has no end of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StateTtl {
    ttl: Duration,
    span: Span,
}

impl QueryPlanner<'_> {
    /// Takes a setting.
    pub(crate) fn set(&mut self, setting: &Setting) -> Bound<()> {
        if setting.key != STATE_TTL {
            let problem = Diagnostic::at(setting.key_span, format!("there is no setting '{}'", setting.key))
                .help_if(did_you_mean(&setting.key, [STATE_TTL]));
            return Err(problem.help(format!(
                "`SET` knows '{STATE_TTL}'; other settings are fields of the StreamJob (e.g. `commitInterval`) and options of tables"
            )));
        }
        if self.state_ttl.is_some() {
            return Err(Diagnostic::at(setting.key_span, format!("'{STATE_TTL}' is set twice"))
                .help("it holds for the whole job: set it once"));
        }
        let ttl = duration::parse(&setting.value).map_err(|why| {
            Diagnostic::at(setting.value_span, format!("'{}' is not a duration", setting.value)).help(why)
        })?;
        self.state_ttl = Some(StateTtl { ttl, span: setting.value_span });
        Ok(())
    }
}

impl StateTtl {
    /// The time; `None` for ever, as Flink has it for zero.
    pub(crate) fn duration(&self) -> Option<Duration> {
        (self.ttl > Duration::ZERO).then_some(self.ttl)
    }

    /// State ages with the watermark: there must be one wherever there is such state.
    pub(crate) fn refuse_without_watermark(&self, planner: &QueryPlanner<'_>) -> Option<Diagnostic> {
        self.duration()?;
        let has_watermark =
            |table: &String| planner.tables.iter().any(|def| def.table.name == *table && def.watermark.is_some());
        let kept = planner.plan.nodes.iter().filter(|node| matches!(node.op, PlanOp::Deduplicate { .. }));
        let table = kept.flat_map(|node| source_tables(&planner.plan, node)).find(|table| !has_watermark(table))?;
        let problem = Diagnostic::at(self.span, format!("state ages in event time, and `{table}` has no watermark"));
        Some(
            problem
                .help(format!("add to the CREATE TABLE of `{table}`: `WATERMARK FOR ts AS ts - INTERVAL '5' SECOND`")),
        )
    }
}
