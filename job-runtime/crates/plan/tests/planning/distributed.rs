//! Where rows of one key are together already, they are not shuffled: the table says so, or the plan shows it.

use std::collections::BTreeMap;

use dataflow::graph::NodeKind;
use plan::PlannedJob;

use super::bad_input::messages;
use super::{assert_text, job_file, planned};

/// A table whose topic has one partition per bucket.
const FLIGHTS: &str = "CREATE TABLE flights (origin STRING, dest STRING, delay INT, ts TIMESTAMP(3), code AS UPPER(origin), WATERMARK FOR ts AS ts)
  DISTRIBUTED BY HASH(origin) INTO 8 BUCKETS WITH ('connector' = 'kafka', 'topic' = 'flights');
CREATE TABLE others (origin STRING, dest STRING, delay INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts)
  DISTRIBUTED BY (origin) INTO 8 BUCKETS WITH ('connector' = 'kafka', 'topic' = 'others');
CREATE TABLE out (origin STRING, n BIGINT) WITH ('connector' = 'print');
";

fn with_tables(sql: &str) -> PlannedJob {
    planned(&format!("{FLIGHTS}{sql}")).unwrap_or_else(|problems| panic!("{problems}"))
}

/// By what the plan exchanges rows.
fn exchanges(job: &PlannedJob) -> Vec<&str> {
    let names = job.graph.nodes.iter().map(|node| node.name.as_str());
    names.filter_map(|name| name.strip_prefix("exchange(")?.strip_suffix(')')).collect()
}

/// A count by columns per hour.
fn counts(by: &str, from: &str) -> String {
    format!(
        "SELECT {by}, COUNT(*) AS n FROM TABLE(TUMBLE(TABLE {from}, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY {by}, window_start, window_end"
    )
}

fn hours(by: &str, from: &str) -> Vec<String> {
    let job = with_tables(&format!(
        "CREATE VIEW hours AS {}; INSERT INTO out SELECT CAST(n AS STRING), n FROM hours;",
        counts(by, from)
    ));
    exchanges(&job).into_iter().map(str::to_owned).collect()
}

#[test]
fn keys_that_have_all_declared_columns_need_no_shuffle() {
    assert_eq!(hours("origin", "flights"), [""; 0]);
    assert_eq!(hours("dest, origin", "flights"), [""; 0]);
    assert_eq!(hours("dest", "flights"), ["dest"]);
    assert_eq!(hours("code", "flights"), ["code"], "a computed column is another");
    assert_eq!(hours("LOWER(origin)", "flights"), ["LOWER(origin)"]);
    let all = with_tables(
        "CREATE VIEW hours AS SELECT COUNT(*) AS n FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(ts), INTERVAL '1' HOUR)) GROUP BY window_start, window_end;
         INSERT INTO out SELECT 'all', n FROM hours;",
    );
    assert_eq!(exchanges(&all), ["one key"]);
}

#[test]
fn it_is_seen_through_views_and_unions_of_one_table() {
    let union = |other: &str, column: &str| {
        let sql = format!(
            "CREATE VIEW late AS SELECT origin AS o, ts FROM flights WHERE delay > 15;
             CREATE VIEW rest AS SELECT {column}, ts FROM {other} WHERE delay <= 15;
             CREATE VIEW together AS SELECT o AS place, ts FROM late UNION ALL SELECT * FROM rest;
             INSERT INTO out {};",
            counts("place", "together")
        );
        exchanges(&with_tables(&sql)).len()
    };
    assert_eq!(union("flights", "origin"), 0);
    assert_eq!(union("flights", "dest"), 1, "the second part has other columns");
    assert_eq!(union("others", "origin"), 1, "two tables need not have the same partitioner");
}

#[test]
fn one_exchange_serves_what_stands_behind_it() {
    let shuffled = FLIGHTS.replace("DISTRIBUTED BY HASH(origin) INTO 8 BUCKETS ", "");
    let sql = "CREATE VIEW minutes AS SELECT origin AS o, dest, window_time AS t, COUNT(*) AS n
           FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY origin, dest, window_start, window_end, window_time;
         CREATE VIEW hours AS SELECT dest AS d, o, MAX(n) AS most
           FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(t), INTERVAL '1' HOUR)) GROUP BY o, dest, window_start, window_end;
         INSERT INTO out SELECT DISTINCT o || d, most FROM hours;
         CREATE TABLE seen (most BIGINT, d STRING, o STRING) WITH ('connector' = 'print');
         INSERT INTO seen SELECT DISTINCT most, d, o FROM hours;";
    let job = planned(&format!("{shuffled}{sql}")).unwrap();
    assert_eq!(exchanges(&job), ["origin, dest", "EXPR$0, most"], "{:?}", job.graph.nodes);
    let declared = with_tables(sql);
    assert_eq!(exchanges(&declared), ["EXPR$0, most"]);
    let uids = |job: &PlannedJob| -> BTreeMap<String, u32> {
        let stays =
            job.graph.nodes.iter().filter(|node| node.kind.has_state() || node.name == "exchange(EXPR$0, most)");
        stays.map(|node| (node.name.clone(), node.uid.0)).collect()
    };
    assert_eq!(uids(&job), uids(&declared), "ids do not depend on exchanges that are there or not");
}

#[test]
fn it_is_explained() {
    let job = with_tables(&format!(
        "INSERT INTO out {};
         CREATE TABLE seen (n BIGINT, origin STRING) WITH ('connector' = 'print');
         CREATE VIEW per_dest AS {};
         INSERT INTO seen SELECT DISTINCT n, dest FROM per_dest;",
        counts("origin", "flights"),
        counts("dest", "flights"),
    ));
    assert_text("explain_distributed", &plan::explain(&job, &BTreeMap::new()));
}

#[test]
fn what_is_declared_goes_to_the_source() {
    let job = with_tables(&format!("INSERT INTO out {};", counts("dest", "flights")));
    let NodeKind::Source(source) = &job.graph.nodes[0].kind else { panic!("a source is first") };
    let declared = source.distribution.as_ref().unwrap();
    assert_eq!((declared.columns.as_slice(), declared.buckets), (&[][..], 8), "the column is not read");
}

#[test]
fn what_is_written_stays_where_the_table_says() {
    let keyed =
        FLIGHTS.replace("'topic' = 'others'", "'topic' = 'others', 'key.fields' = 'origin', 'key.format' = 'json'");
    planned(&format!("{keyed}INSERT INTO others SELECT origin, dest, delay, ts FROM flights;")).unwrap();
}

#[test]
fn wrong_declarations_are_refused() {
    let table = |clause: &str, with: &str| {
        format!(
            "CREATE TABLE t (a STRING, b INT, c AS b + 1) {clause} WITH ({with});
CREATE TABLE o (a STRING) WITH ('connector' = 'print');
INSERT INTO o SELECT a FROM t;"
        )
    };
    let kafka = "'connector' = 'kafka', 'topic' = 't'";
    let cases = [
        ("no columns", table("DISTRIBUTED INTO 4 BUCKETS", kafka)),
        ("ranges", table("DISTRIBUTED BY RANGE(a) INTO 4 BUCKETS", kafka)),
        ("no number", table("DISTRIBUTED BY (a)", kafka)),
        ("no bucket", table("DISTRIBUTED BY (a) INTO 0 BUCKETS", kafka)),
        ("too many", table("DISTRIBUTED BY (a) INTO 5000 BUCKETS", kafka)),
        ("not a number", table("DISTRIBUTED BY (a) INTO many BUCKETS", kafka)),
        ("an unknown column", table("DISTRIBUTED BY (aa) INTO 4 BUCKETS", kafka)),
        ("a computed column", table("DISTRIBUTED BY (c) INTO 4 BUCKETS", kafka)),
        ("a column twice", table("DISTRIBUTED BY (a, a) INTO 4 BUCKETS", kafka)),
        ("files", table("DISTRIBUTED BY (a) INTO 4 BUCKETS", "'connector' = 'filesystem', 'path' = 'x'")),
        ("partitions of files too", table("DISTRIBUTED BY (a) INTO 4 BUCKETS PARTITIONED BY (b)", kafka)),
        (
            "written without its key",
            table("DISTRIBUTED BY (a) INTO 4 BUCKETS", kafka)
                .replace("INSERT INTO o SELECT a", "INSERT INTO t SELECT a, b"),
        ),
    ];
    let inputs: Vec<(&str, String)> = cases.iter().map(|(title, sql)| (*title, job_file(sql))).collect();
    assert_text("distributed", &messages(&inputs));
}
