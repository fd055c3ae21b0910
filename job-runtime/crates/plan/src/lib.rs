//! From text to plan: the StreamJob file, its SQL in Flink's dialect, the streaming logical plan, and the job graph that workers run.
//!
//! Owns every message about what a user wrote, with its place. The only crate that knows DataFusion. No I/O.
#![deny(clippy::disallowed_methods)]

use arrow::datatypes::SchemaRef;
use dataflow::graph::JobGraph;

mod bind;
mod catalog;
pub mod diagnostic;
mod explain;
mod expr;
mod expression;
pub mod functions;
pub mod job;
mod logical;
mod lower;
mod query;
mod settings;
mod show;
mod sql;
mod uid;

pub use diagnostic::{Diagnostic, Diagnostics};
pub use explain::explain;

use bind::Bound;
use job::{JobFile, SqlSource};
use logical::PlanOp;
use query::QueryPlanner;
use sql::Statement;
use sql::place::Places;

/// What a sink promises, as the job is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Guarantee {
    /// No loss and no repetition is ever visible.
    ExactlyOnce,
    /// Repetition is possible after a failure, loss is not.
    AtLeastOnce,
    /// Output is for looking at.
    None,
}

/// A place in the job file: byte offsets into its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Span {
    /// First byte.
    pub start: usize,
    /// After the last byte.
    pub end: usize,
}

/// A `WITH` option as written, in order of appearance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableOption {
    /// Key, e.g. `scan.startup.mode`.
    pub key: String,
    /// Value.
    pub value: String,
    /// Where the key stands.
    pub key_span: Span,
    /// Where the value stands.
    pub value_span: Span,
}

/// A declared table.
#[derive(Clone, Debug)]
pub struct Table {
    /// Name.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// Physical columns (what the connector and format read or write): computed columns left out, all declared ones in order.
    pub physical: SchemaRef,
    /// Columns of `PRIMARY KEY … NOT ENFORCED`, indexes into `physical`.
    pub primary_key: Vec<usize>,
    /// Options.
    pub options: Vec<TableOption>,
}

/// A job, planned.
#[derive(Clone, Debug)]
pub struct PlannedJob {
    /// The declared tables that the graph reads or writes.
    pub tables: Vec<Table>,
    /// What workers run.
    pub graph: JobGraph,
    /// What the user wrote, for `explain`.
    logical: logical::StreamPlan,
    definitions: Vec<catalog::TableDef>,
}

/// Plans a job.
///
/// # Errors
/// All problems of its SQL that could be found, each at its place.
pub fn plan(job: &JobFile) -> Result<PlannedJob, Diagnostics> {
    let text = match &job.sql {
        SqlSource::Inline(text) => text,
        SqlSource::ConfigMap { span, .. } => {
            let problem = Diagnostic::at(*span, "`sqlFrom` is read by Kubernetes only")
                .help("put the statements below `spec.sql` to run the job here");
            return Err(job.diagnostics(vec![problem]));
        }
    };
    let places = Places::new(text);
    let mut problems = Vec::new();
    let statements = sql::parser::parse(&places, &mut problems);
    // A statement that could not be read may have declared what others name.
    if !problems.is_empty() {
        return Err(job.diagnostics(problems));
    }
    let mut planner = QueryPlanner::new(&places);
    for statement in &statements {
        let planned = plan_statement(&mut planner, statement, &mut problems);
        problems.extend(planned.err().filter(|problem| !problem.is_consequence()));
    }
    if problems.is_empty() && !statements.iter().any(|s| matches!(s, Statement::Insert(_))) {
        let end = text.text.trim_end().len();
        problems.push(
            Diagnostic::at(text.file_span(end..end), "the job writes nothing")
                .help("add `INSERT INTO <table> SELECT ...`"),
        );
    }
    if let Some(ttl) = &planner.state_ttl {
        problems.extend(ttl.refuse_without_watermark(&planner));
    }
    if !problems.is_empty() {
        return Err(job.diagnostics(problems));
    }
    let ttl = planner.state_ttl.as_ref().and_then(settings::StateTtl::duration);
    let graph = lower::lower(&planner.plan, &planner.tables, ttl)
        .map_err(|error| job.diagnostics(vec![Diagnostic::of_file(format!("the plan cannot be run: {}", error.0))]))?;
    let used = |table: &Table| {
        planner.plan.nodes.iter().any(|node| match &node.op {
            PlanOp::Scan { table: name } | PlanOp::Sink { table: name } => *name == table.name,
            PlanOp::Calc { .. } | PlanOp::WindowAggregate { .. } | PlanOp::Deduplicate { .. } | PlanOp::Union => false,
        })
    };
    let tables = planner.tables.iter().map(|def| def.table.clone()).filter(used).collect();
    Ok(PlannedJob { tables, graph, logical: planner.plan, definitions: planner.tables })
}

fn plan_statement(planner: &mut QueryPlanner<'_>, statement: &Statement, problems: &mut Vec<Diagnostic>) -> Bound<()> {
    match statement {
        Statement::CreateTable(create) => {
            let name = &create.name.value;
            if planner.is_declared(name) {
                if create.if_not_exists {
                    return Ok(());
                }
                return Err(Diagnostic::at(create.span, format!("`{name}` is declared twice"))
                    .help("give one of them another name"));
            }
            let def = catalog::TableDef::new(create, planner.places, problems);
            planner.tables.push(def);
            Ok(())
        }
        Statement::CreateView(view) => {
            let name = view.name.value.clone();
            if planner.is_declared(&name) {
                return Err(Diagnostic::at(view.span, format!("`{name}` is declared twice"))
                    .help("give one of them another name"));
            }
            planner.set_fallback(view.span);
            let columns: Vec<_> = view.columns.iter().collect();
            let planned = planner.query(&view.query).and_then(|mut relation| {
                planner.rename_columns(&mut relation, &columns)?;
                Ok(relation)
            });
            match planned {
                Ok(relation) => planner.views.push((name, relation)),
                Err(problem) => {
                    planner.broken.push(name);
                    return Err(problem);
                }
            }
            Ok(())
        }
        Statement::Insert(insert) => planner.insert(insert),
        Statement::Set(setting) => planner.set(setting),
    }
}
