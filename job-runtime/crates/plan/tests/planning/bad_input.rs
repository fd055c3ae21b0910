//! What a user reads who wrote something wrong. The snapshots are shown in the book.

use super::{TABLES, assert_text, job_file, planned};

/// All messages of several wrong inputs, one after the other.
pub(crate) fn messages(inputs: &[(&str, String)]) -> String {
    let mut out = String::new();
    for (title, text) in inputs {
        let problems = match plan::job::read("job.yaml", text) {
            Ok(job) => plan::plan(&job).err(),
            Err(problems) => Some(problems),
        };
        let rendered = problems.map_or_else(|| "accepted!".to_owned(), |p| p.render(false));
        out.push_str(&format!("## {title}\n{rendered}\n\n"));
    }
    out
}

#[test]
fn files() {
    let good = job_file("INSERT INTO x SELECT 1;");
    assert_text(
        "files",
        &messages(&[
            ("not YAML", "kind: [StreamJob\nspec: {".to_owned()),
            ("not a StreamJob", "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: x\n".to_owned()),
            ("a list", "- a\n- b\n".to_owned()),
            ("empty", String::new()),
            ("an unknown field", good.replace("  sql: |", "  shard: 4\n  sql: |")),
            ("an unknown version", good.replace("v1alpha1", "v1")),
            ("a wrong type", good.replace("  sql: |", "  shards: many\n  sql: |")),
            ("out of range", good.replace("  sql: |", "  shards: 5000\n  sql: |")),
            ("more pods than shards", good.replace("  sql: |", "  replicas: 20\n  sql: |")),
            ("a bad duration", good.replace("  sql: |", "  commitInterval: 50\n  sql: |")),
            ("a bad duration's unit", good.replace("  sql: |", "  commitInterval: 5 sec\n  sql: |")),
            ("too short a duration", good.replace("  sql: |", "  commitInterval: 1ms\n  sql: |")),
            ("no SQL", good.split("  sql: |").next().unwrap_or_default().to_owned() + "  shards: 4\n"),
            ("two documents", format!("{good}---\n{good}")),
            ("a bad name", good.replace("name: test", "name: My_Job")),
        ]),
    );
}

/// One wrong statement after the usual tables.
pub(crate) fn statements(cases: &[(&str, &str)]) -> String {
    let inputs: Vec<(&str, String)> =
        cases.iter().map(|(title, sql)| (*title, job_file(&format!("{TABLES}{sql}")))).collect();
    messages(&inputs)
}

#[test]
fn syntax() {
    assert_text(
        "syntax",
        &statements(&[
            ("a misspelled keyword", "INSERT INTO out SELEC customer, id FROM orders;"),
            ("a missing expression", "INSERT INTO out SELECT customer, FROM orders;"),
            ("the SQL ends", "INSERT INTO out SELECT customer, (id FROM orders"),
            ("an open string", "INSERT INTO out SELECT 'abc, id FROM orders;"),
            ("a query alone", "SELECT * FROM orders;"),
            ("SET", "SET 'parallelism.default' = '4';"),
            ("an unknown type", "CREATE TABLE t (a INTEGR) WITH ('connector' = 'print');"),
            ("too precise a type", "CREATE TABLE t (a TIMESTAMP(9)) WITH ('connector' = 'print');"),
            ("a nested type", "CREATE TABLE t (a ROW<x INT, y STRING>) WITH ('connector' = 'print');"),
            ("no WITH", "CREATE TABLE t (a INT);"),
            ("an unquoted option", "CREATE TABLE t (a INT) WITH ('connector' = print);"),
            (
                "a metadata column",
                "CREATE TABLE t (a TIMESTAMP(3) METADATA FROM 'timestamp') WITH ('connector' = 'kafka');",
            ),
            ("an enforced key", "CREATE TABLE t (a INT PRIMARY KEY) WITH ('connector' = 'kafka');"),
        ]),
    );
}

#[test]
fn names() {
    assert_text(
        "names",
        &statements(&[
            ("an unknown table", "INSERT INTO out SELECT customer, id FROM order;"),
            ("an unknown sink", "INSERT INTO outt SELECT customer, id FROM orders;"),
            ("an unknown column", "INSERT INTO out SELECT custmer, id FROM orders;"),
            ("a column in other letters", "INSERT INTO out SELECT Customer, id FROM orders;"),
            ("an unknown qualifier", "INSERT INTO out SELECT o.customer, o.id FROM orders AS p;"),
            ("an unknown function", "INSERT INTO out SELECT UPER(customer), id FROM orders;"),
            (
                "no aggregate, not grouped",
                "INSERT INTO out SELECT customer, id FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;",
            ),
            ("declared twice", "CREATE TABLE out (a INT) WITH ('connector' = 'print');"),
        ]),
    );
}

#[test]
fn kinds() {
    assert_text(
        "types",
        &statements(&[
            ("a string compared with a number", "INSERT INTO out SELECT customer, id FROM orders WHERE customer = 5;"),
            ("arithmetic on a string", "INSERT INTO out SELECT customer, id + customer FROM orders;"),
            ("no condition", "INSERT INTO out SELECT customer, id FROM orders WHERE id;"),
            ("a sink's column of another type", "INSERT INTO out SELECT customer, price FROM orders;"),
            (
                "a sink's column of a narrower type",
                "CREATE TABLE small (n INT) WITH ('connector' = 'print'); INSERT INTO small SELECT id FROM orders;",
            ),
            ("too few columns", "INSERT INTO out SELECT customer FROM orders;"),
            ("an argument of a wrong type", "INSERT INTO out SELECT UPPER(id), id FROM orders;"),
            ("too many arguments", "INSERT INTO out SELECT UPPER(customer, 2), id FROM orders;"),
            ("CASE of two types", "INSERT INTO out SELECT CASE WHEN paid THEN 'yes' ELSE 0 END, id FROM orders;"),
            ("a bad pattern", "INSERT INTO out SELECT DATE_FORMAT(ts, 'QQ'), id FROM orders;"),
            ("a bad regular expression", "INSERT INTO out SELECT REGEXP_EXTRACT(customer, '(a'), id FROM orders;"),
            (
                "a watermark on a number",
                "CREATE TABLE t (id BIGINT, WATERMARK FOR id AS id - 5) WITH ('connector' = 'kafka');",
            ),
            (
                "a watermark on an unknown column",
                "CREATE TABLE t (ts TIMESTAMP(3), WATERMARK FOR tss AS tss) WITH ('connector' = 'kafka');",
            ),
        ]),
    );
}

#[test]
fn windows() {
    assert_text(
        "windows",
        &statements(&[
            (
                "no watermark",
                "CREATE TABLE t (a STRING, ts TIMESTAMP(3)) WITH ('connector' = 'kafka'); INSERT INTO out SELECT a, COUNT(*) FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY a, window_start, window_end;",
            ),
            (
                "another column",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(id), INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;",
            ),
            (
                "no size",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '0' HOUR)) GROUP BY customer, window_start, window_end;",
            ),
            (
                "a size that is a number",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), 60)) GROUP BY customer, window_start, window_end;",
            ),
            (
                "a size in months",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MONTH)) GROUP BY customer, window_start, window_end;",
            ),
            (
                "half of the window",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY customer, window_start;",
            ),
            ("no window", "INSERT INTO out SELECT customer, COUNT(*) FROM orders GROUP BY customer;"),
            ("an aggregate without GROUP BY", "INSERT INTO out SELECT 'all', COUNT(*) FROM orders;"),
            (
                "HOP",
                "INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(HOP(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;",
            ),
            (
                "the old form",
                "INSERT INTO out SELECT customer, COUNT(*) FROM orders GROUP BY customer, TUMBLE(ts, INTERVAL '1' HOUR);",
            ),
            (
                "DISTINCT",
                "INSERT INTO out SELECT customer, COUNT(DISTINCT id) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;",
            ),
        ]),
    );
}

#[test]
fn not_supported_yet() {
    assert_text(
        "not_supported_yet",
        &statements(&[
            ("a join", "INSERT INTO out SELECT a.customer, b.id FROM orders a JOIN orders b ON a.id = b.id;"),
            ("a join by comma", "INSERT INTO out SELECT a.customer, b.id FROM orders a, orders b;"),
            ("ORDER BY", "INSERT INTO out SELECT customer, id FROM orders ORDER BY id;"),
            ("LIMIT", "INSERT INTO out SELECT customer, id FROM orders LIMIT 10;"),
            ("UNION", "INSERT INTO out SELECT customer, id FROM orders UNION SELECT customer, id FROM orders;"),
            (
                "a subquery in an expression",
                "INSERT INTO out SELECT customer, id FROM orders WHERE id IN (SELECT id FROM orders);",
            ),
            ("OVER", "INSERT INTO out SELECT customer, COUNT(*) OVER (PARTITION BY customer ORDER BY ts) FROM orders;"),
            (
                "a temporal join",
                "INSERT INTO out SELECT o.customer, o.id FROM orders AS o JOIN rates FOR SYSTEM_TIME AS OF o.ts AS r ON o.id = r.id;",
            ),
            (
                "MATCH_RECOGNIZE",
                "INSERT INTO out SELECT customer, n FROM orders MATCH_RECOGNIZE (PARTITION BY customer ORDER BY ts MEASURES A.id AS n PATTERN (A B) DEFINE A AS A.paid);",
            ),
            ("PROCTIME", "CREATE TABLE t (a INT, p AS PROCTIME()) WITH ('connector' = 'kafka');"),
            ("VALUES", "INSERT INTO out VALUES ('a', 1);"),
        ]),
    );
}

#[test]
fn places_in_folded_and_quoted_sql_are_found_again() {
    let text = "apiVersion: millstream.io/v1alpha1\nkind: StreamJob\nmetadata:\n  name: test\nspec:\n  sql: \"CREATE TABLE t (a INT) WITH ('connector' = 'print'); INSERT INTO t SELECT b FROM t\"\n";
    let problems = plan::plan(&plan::job::read("job.yaml", text).unwrap()).unwrap_err();
    let (line, column) = problems.line_column(&problems.items()[0]).unwrap();
    assert_eq!((line, &text.lines().nth(line - 1).unwrap()[column - 1..column]), (6, "b"));
}

#[test]
fn several_problems_are_told_at_once() {
    let problems = planned(&format!(
        "{TABLES}INSERT INTO out SELECT a, id FROM orders; INSERT INTO out SELECT customer, b FROM orders;"
    ))
    .unwrap_err();
    assert_eq!(problems.items().len(), 2, "{problems}");
}

#[test]
fn a_view_that_cannot_be_planned_is_told_once_and_not_again_by_all_who_read_it() {
    let text = job_file(&format!(
        "{TABLES}CREATE VIEW wrong AS SELECT nothing FROM orders; CREATE VIEW above AS SELECT * FROM wrong; \
         INSERT INTO out SELECT * FROM above; INSERT INTO out SELECT * FROM wrong;"
    ));
    let problems = plan::plan(&plan::job::read("job.yaml", &text).unwrap()).unwrap_err();
    let messages: Vec<&str> = problems.items().iter().map(|problem| problem.message.as_str()).collect();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(messages[0].contains("nothing"), "{messages:?}");
}
