//! Queries become the operators that they should.

use std::collections::BTreeMap;

use dataflow::graph::{NodeKind, WindowKind};
use plan::PlannedJob;

use super::{TABLES, assert_text, planned};

fn names(job: &PlannedJob) -> Vec<&str> {
    job.graph.nodes.iter().map(|n| n.name.as_str()).collect()
}

fn with_tables(sql: &str) -> PlannedJob {
    planned(&format!("{TABLES}{sql}")).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_filter_reads_only_what_it_uses() {
    let job = with_tables("INSERT INTO out SELECT customer, id FROM orders WHERE paid AND quantity > 2;");
    let NodeKind::Source(source) = &job.graph.nodes[0].kind else { panic!("a source is first") };
    let decoded: Vec<&str> = source.decoded.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(decoded, ["id", "customer", "quantity", "paid"]);
    assert!(source.watermark.is_none(), "nothing waits for the watermark");
    assert_eq!(names(&job), ["source(orders)", "calc(paid AND (quantity > 2))", "sink(out)"]);
}

#[test]
fn views_and_ctes_melt_into_one_calc() {
    let job = with_tables(
        "CREATE VIEW big AS SELECT customer AS c, id, quantity * 2 AS q FROM orders WHERE quantity > 2;
         INSERT INTO out WITH bigger AS (SELECT c, id FROM big WHERE q > 10) SELECT b.c, b.id FROM bigger AS b WHERE b.id <> 7;",
    );
    assert_eq!(job.graph.nodes.len(), 3, "{:?}", names(&job));
}

#[test]
fn one_source_serves_several_sinks() {
    let job = with_tables(
        "CREATE TABLE second (id BIGINT) WITH ('connector' = 'blackhole');
         EXECUTE STATEMENT SET BEGIN
           INSERT INTO out SELECT customer, id FROM orders;
           INSERT INTO second SELECT id FROM orders WHERE paid;
         END;",
    );
    assert_eq!(names(&job).iter().filter(|n| n.starts_with("source")).count(), 1);
    assert_eq!(names(&job).iter().filter(|n| n.starts_with("sink")).count(), 2);
}

#[test]
fn windows_keep_their_ids_when_other_parts_change() {
    let window = |sql: &str| {
        let job = with_tables(sql);
        let node = job.graph.nodes.iter().find(|n| matches!(n.kind, NodeKind::WindowAggregate(_))).unwrap().clone();
        (node.uid, job)
    };
    let from = "FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE))";
    let (first, _) = window(&format!(
        "INSERT INTO out SELECT customer, COUNT(*) {from} GROUP BY customer, window_start, window_end;"
    ));
    let (having, job) = window(&format!(
        "INSERT INTO out SELECT UPPER(customer), COUNT(*) {from} WHERE paid GROUP BY window_end, window_start, customer HAVING COUNT(*) > 1;"
    ));
    assert_eq!(first, having);
    assert!(names(&job).contains(&"calc(COUNT(*) > 1)"));
    let (other_size, _) = window(&format!(
        "INSERT INTO out SELECT customer, COUNT(*) {} GROUP BY customer, window_start, window_end;",
        from.replace("'1'", "'2'")
    ));
    assert_ne!(first, other_size);
}

#[test]
fn offsets_named_arguments_and_expressions_as_keys() {
    let job = with_tables(
        "INSERT INTO out SELECT LOWER(customer), SUM(quantity + 1) FROM TABLE(TUMBLE(DATA => TABLE orders, TIMECOL => DESCRIPTOR(ts),
         SIZE => INTERVAL '1' HOUR, OFFSET => INTERVAL '15' MINUTE)) GROUP BY LOWER(customer), window_start, window_end;",
    );
    let window = job.graph.nodes.iter().find_map(|n| match &n.kind {
        NodeKind::WindowAggregate(w) => Some(w),
        _ => None,
    });
    assert_eq!(window.unwrap().window, WindowKind::Tumble { size_ms: 3_600_000, offset_ms: 900_000 });
}

#[test]
fn windows_over_windows_use_window_time() {
    let job = with_tables(
        "CREATE VIEW minutes AS SELECT customer, window_time AS t, COUNT(*) AS n
           FROM TABLE(TUMBLE(TABLE orders, DESCRIPTOR(ts), INTERVAL '1' MINUTE)) GROUP BY customer, window_start, window_end, window_time;
         INSERT INTO out SELECT customer, MAX(n) FROM TABLE(TUMBLE(TABLE minutes, DESCRIPTOR(t), INTERVAL '1' HOUR))
           GROUP BY customer, window_start, window_end;",
    );
    assert_eq!(names(&job).iter().filter(|n| n.starts_with("window_aggregate")).count(), 2);
}

#[test]
fn a_window_without_grouping_adds_columns() {
    let job = planned(
        "CREATE TABLE t (a INT, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'datagen');
         CREATE TABLE o (a INT, s TIMESTAMP(3), e TIMESTAMP(3), t TIMESTAMP(3)) WITH ('connector' = 'print');
         INSERT INTO o SELECT a, window_start, window_end, window_time FROM TABLE(TUMBLE(TABLE t, DESCRIPTOR(ts), INTERVAL '10' SECOND));",
    )
    .unwrap();
    assert_eq!(job.graph.nodes.len(), 3);
}

#[test]
fn unions_are_explained() {
    let job = with_tables(
        "CREATE TABLE returns (who STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts) WITH ('connector' = 'kafka', 'scan.watermark.idle-timeout' = '30s');
         CREATE VIEW both_streams AS SELECT customer, ts FROM orders WHERE NOT paid UNION ALL SELECT who, ts FROM returns;
         INSERT INTO out SELECT customer, COUNT(*) FROM TABLE(TUMBLE(TABLE both_streams, DESCRIPTOR(ts), INTERVAL '1' DAY))
           GROUP BY customer, window_start, window_end;",
    );
    assert_text("explain_union", &plan::explain(&job, &BTreeMap::new()));
}

/// The jobs that users copy are planned.
#[test]
fn examples_and_samples_are_planned() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let mut seen = 0;
    for folder in ["examples/flights", "examples/nexmark", "manifests/samples"] {
        let Ok(files) = std::fs::read_dir(root.join(folder)) else { continue };
        for file in files {
            let path = file.unwrap().path();
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            if !text.contains("kind: StreamJob") || text.lines().any(|line| line.trim_end() == "---") {
                continue;
            }
            let job = plan::job::read(&path.to_string_lossy(), &text).unwrap_or_else(|problems| panic!("{problems}"));
            plan::plan(&job).unwrap_or_else(|problems| panic!("{problems}"));
            seen += 1;
        }
    }
    assert!(seen > 0, "no example was found");
}
