//! What the planner promises, seen from outside.

#[path = "planning/bad_input.rs"]
mod bad_input;
#[path = "planning/distributed.rs"]
mod distributed;
#[path = "planning/first.rs"]
mod first;
#[path = "planning/flights.rs"]
mod flights;
#[path = "planning/functions.rs"]
mod functions;
#[path = "planning/never_panics.rs"]
mod never_panics;
#[path = "planning/queries.rs"]
mod queries;

use plan::job::JobFile;
use plan::{Diagnostics, PlannedJob};

/// A job file around statements, which are indented as a block scalar wants them.
fn job_file(sql: &str) -> String {
    let body: String = sql.trim_matches('\n').lines().map(|line| format!("    {line}\n")).collect();
    format!("apiVersion: millstream.io/v1alpha1\nkind: StreamJob\nmetadata:\n  name: test\nspec:\n  sql: |\n{body}")
}

fn read(sql: &str) -> Result<JobFile, Diagnostics> {
    plan::job::read("job.yaml", &job_file(sql))
}

fn planned(sql: &str) -> Result<PlannedJob, Diagnostics> {
    plan::plan(&read(sql)?)
}

/// Compares with a snapshot that holds the text alone.
fn assert_text(name: &str, text: &str) {
    insta::with_settings!({ omit_expression => true, prepend_module_to_snapshot => false, snapshot_path => "planning/snapshots" }, {
        insta::assert_snapshot!(name, text);
    });
}

/// Two tables that most tests use.
const TABLES: &str = "CREATE TABLE orders (id BIGINT, customer STRING, price DECIMAL(10, 2), quantity INT, paid BOOLEAN, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '5' SECOND) WITH ('connector' = 'kafka');
CREATE TABLE out (customer STRING, n BIGINT) WITH ('connector' = 'print');
";
