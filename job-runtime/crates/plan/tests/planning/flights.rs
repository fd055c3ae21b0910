//! The main job of the project is planned as documented.

use std::collections::BTreeMap;

use dataflow::graph::NodeKind;

use super::assert_text;

/// The job of the tutorial.
const FLIGHTS: &str = r"apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: delays
spec:
  sql: |
    -- Flights as they are scheduled.
    CREATE TABLE flights (
      `year` INT, `month` INT, `day` INT, dep_time INT, sched_dep_time INT, dep_delay INT, arr_time INT, sched_arr_time INT,
      arr_delay INT, carrier STRING, flight INT, tailnum STRING, origin STRING, dest STRING, air_time INT, distance INT,
      `hour` INT, `minute` INT, time_hour TIMESTAMP_LTZ(3),
      scheduled AS time_hour + `minute` * INTERVAL '1' MINUTE,
      WATERMARK FOR scheduled AS scheduled - INTERVAL '1' HOUR
    ) WITH (
      'connector' = 'filesystem', 'path' = 'flights.csv', 'format' = 'csv', 'csv.header' = 'true', 'csv.null-literal' = 'NA'
    );
    CREATE TABLE delays (
      origin STRING, window_start TIMESTAMP_LTZ(3), window_end TIMESTAMP_LTZ(3), departures BIGINT, mean_delay DOUBLE,
      worst_delay INT
    ) WITH ('connector' = 'filesystem', 'path' = 'out', 'format' = 'json');
    INSERT INTO delays
    SELECT origin, window_start, window_end, COUNT(*) FILTER (WHERE dep_time IS NOT NULL), AVG(dep_delay), MAX(dep_delay)
    FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(scheduled), INTERVAL '1' HOUR))
    GROUP BY origin, window_start, window_end;
";

#[test]
fn the_flights_job_is_planned() {
    let job = plan::job::read("delays.yaml", FLIGHTS).unwrap();
    let planned = plan::plan(&job).unwrap();
    let guarantees = BTreeMap::from([("delays".to_owned(), plan::Guarantee::ExactlyOnce)]);
    assert_text("explain_flights", &plan::explain(&planned, &guarantees));
    let names: Vec<&str> = planned.graph.nodes.iter().map(|n| n.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "source(flights)",
            "calc(origin, scheduled, dep_time IS NOT NULL, dep_delay)",
            "exchange(origin)",
            "window_aggregate(origin)",
            "calc(origin, window_start, window_end, departures, mean_delay, worst_delay)",
            "sink(delays)"
        ]
    );
    let NodeKind::Source(source) = &planned.graph.nodes[0].kind else { panic!("a source is first") };
    let decoded: Vec<&str> = source.decoded.fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(decoded, ["dep_time", "dep_delay", "origin", "minute", "time_hour"]);
}
