//! The first row of each key, each row once, and how long that is remembered.

use std::collections::BTreeMap;
use std::time::Duration;

use dataflow::graph::{DeduplicateNode, FirstBy, NodeKind};
use plan::PlannedJob;

use super::bad_input::statements;
use super::{TABLES, assert_text, planned};

fn with_tables(sql: &str) -> PlannedJob {
    planned(&format!("{TABLES}{sql}")).unwrap_or_else(|problems| panic!("{problems}"))
}

fn deduplicate(job: &PlannedJob) -> (Vec<String>, DeduplicateNode, u32) {
    let found = job.graph.nodes.iter().find_map(|node| match &node.kind {
        NodeKind::Deduplicate(spec) => {
            Some((node.schema.fields().iter().map(|f| f.name().clone()).collect(), spec.clone(), node.uid.0))
        }
        _ => None,
    });
    found.expect("the plan has such an operator")
}

const FIRST: &str = "INSERT INTO out SELECT customer, id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY customer ORDER BY ts ASC) AS rn FROM orders WHERE paid) WHERE rn = 1";

#[test]
fn flinks_pattern_holds_only_what_is_used() {
    let job = with_tables(&format!("{FIRST};"));
    let (columns, spec, _) = deduplicate(&job);
    assert_eq!(columns, ["id", "customer", "ts"]);
    assert_eq!((spec.keys, spec.first, spec.ttl), (vec![1], FirstBy::EventTime { rowtime: 2 }, None));
    let names: Vec<&str> = job.graph.nodes.iter().map(|node| node.name.as_str()).collect();
    let want = [
        "source(orders)",
        "calc(paid)",
        "exchange(customer)",
        "deduplicate(customer)",
        "calc(customer, n)",
        "sink(out)",
    ];
    assert_eq!(names, want);
}

#[test]
fn it_is_found_through_views_and_with_other_conditions() {
    let view = with_tables(
        "CREATE VIEW numbered AS SELECT customer AS c, id, ts AS t, ROW_NUMBER() OVER (PARTITION BY customer ORDER BY ts) AS n FROM orders;
         CREATE VIEW passed AS SELECT id, n AS number, c FROM numbered;
         INSERT INTO out SELECT c, number + id FROM passed WHERE 1 = number AND id > 5;",
    );
    let (columns, ..) = deduplicate(&view);
    assert_eq!(columns, ["id", "customer", "ts"]);
    let names: Vec<&str> = view.graph.nodes.iter().map(|node| node.name.as_str()).collect();
    assert!(names.contains(&"calc(id > 5)"), "the condition is behind it: {names:?}");
}

#[test]
fn its_watermark_goes_on_to_windows() {
    let job = with_tables(
        "CREATE VIEW firsts AS SELECT customer, ts FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY customer, LOWER(customer) ORDER BY ts) AS rn FROM orders) WHERE rn = 1;
         INSERT INTO out SELECT 'new', COUNT(*) FROM TABLE(TUMBLE(TABLE firsts, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;",
    );
    assert!(job.graph.nodes.iter().any(|node| matches!(node.kind, NodeKind::WindowAggregate(_))));
    assert_eq!(deduplicate(&job).1.keys.len(), 2);
}

#[test]
fn its_id_is_that_of_what_it_holds() {
    let of = |sql: &str| deduplicate(&with_tables(&format!("{sql};"))).2;
    let first = of(FIRST);
    assert_eq!(first, of(&format!("SET 'table.exec.state.ttl' = '1 d'; {FIRST} AND id > 3")));
    assert_ne!(
        first,
        of(&FIRST.replace("SELECT customer, id", "SELECT customer, id + quantity")),
        "another column is held"
    );
    assert_ne!(first, of(&FIRST.replace("PARTITION BY customer", "PARTITION BY customer, quantity")));
}

#[test]
fn distinct_needs_no_watermark_unless_it_forgets() {
    let job = with_tables("INSERT INTO out SELECT DISTINCT UPPER(customer), id FROM orders WHERE paid;");
    let (columns, spec, _) = deduplicate(&job);
    assert_eq!((columns.len(), spec.keys, spec.first, spec.ttl), (2, vec![0, 1], FirstBy::Arrival, None));
    let NodeKind::Source(source) = &job.graph.nodes[0].kind else { panic!("a source is first") };
    assert!(source.watermark.is_none());
    let job =
        with_tables("SET 'table.exec.state.ttl' = '36 h'; INSERT INTO out SELECT DISTINCT customer, id FROM orders;");
    assert_eq!(deduplicate(&job).1.ttl, Some(Duration::from_secs(36 * 3600)));
    let NodeKind::Source(source) = &job.graph.nodes[0].kind else { panic!("a source is first") };
    assert!(source.watermark.is_some());
}

#[test]
fn it_is_explained() {
    let sql = format!(
        "SET 'table.exec.state.ttl' = '1 d';
         CREATE TABLE seen (customer STRING) WITH ('connector' = 'print');
         {FIRST};
         INSERT INTO seen SELECT DISTINCT customer FROM orders;"
    );
    assert_text("explain_first", &plan::explain(&with_tables(&sql), &BTreeMap::new()));
}

/// Flink's pattern with something else in a place of it.
fn other(what: &str, instead: &str) -> String {
    format!("{};", FIRST.replace(what, instead))
}

#[test]
fn everything_else_is_refused() {
    let cases = [
        ("descending", other("ts ASC", "ts DESC")),
        ("not the time column", other("ORDER BY ts ASC", "ORDER BY id")),
        ("processing time", other("ORDER BY ts ASC", "ORDER BY PROCTIME()")),
        ("two columns", other("ORDER BY ts ASC", "ORDER BY ts, id")),
        ("no order", other(" ORDER BY ts ASC", "")),
        ("no key", other("PARTITION BY customer ", "")),
        ("a float as key", other("PARTITION BY customer", "PARTITION BY CAST(price AS DOUBLE)")),
        ("the first five", other("rn = 1", "rn <= 5")),
        ("the second", other("rn = 1", "rn = 2")),
        ("first or", other("rn = 1", "rn = 1 OR id = 3")),
        ("no condition on it", other("rn = 1", "id = 3")),
        ("no condition", other(" WHERE rn = 1", "")),
        ("in the query itself", "INSERT INTO out SELECT customer, ROW_NUMBER() OVER (PARTITION BY customer ORDER BY ts) FROM orders;".to_owned()),
        ("another function", other("ROW_NUMBER()", "RANK()")),
        ("a frame", other("ts ASC", "ts ROWS BETWEEN 1 PRECEDING AND CURRENT ROW")),
        ("no watermark", "CREATE TABLE t (customer STRING, id BIGINT, ts TIMESTAMP(3)) WITH ('connector' = 'kafka'); ".to_owned() + &other("FROM orders WHERE paid", "FROM t")),
        ("a distinct float", "INSERT INTO out SELECT DISTINCT customer, id, CAST(price AS DOUBLE) FROM orders;".to_owned()),
        ("distinct groups", "INSERT INTO out SELECT DISTINCT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY customer, window_start, window_end;".to_owned()),
        ("distinct on", "INSERT INTO out SELECT DISTINCT ON (customer) customer, id FROM orders;".to_owned()),
        ("an unknown setting", "SET 'table.exec.state.tll' = '1 h'; INSERT INTO out SELECT customer, id FROM orders;".to_owned()),
        ("no duration", "SET 'table.exec.state.ttl' = 'a day'; INSERT INTO out SELECT customer, id FROM orders;".to_owned()),
        ("set twice", "SET 'table.exec.state.ttl' = '1 d'; SET 'table.exec.state.ttl' = '2 d'; INSERT INTO out SELECT customer, id FROM orders;".to_owned()),
        ("without quotes", "SET table.exec.state.ttl = '1 d';".to_owned()),
        ("ageing without a watermark", "SET 'table.exec.state.ttl' = '1 d'; CREATE TABLE t (a STRING, b BIGINT) WITH ('connector' = 'kafka'); INSERT INTO out SELECT DISTINCT a, b FROM t;".to_owned()),
    ];
    let cases: Vec<(&str, &str)> = cases.iter().map(|(title, sql)| (*title, sql.as_str())).collect();
    assert_text("first", &statements(&cases));
}
