//! The answer to the sample job, worked out from the file by other means, and read from what the job wrote.

use std::collections::BTreeMap;

use serde_json::Value;

/// One flight: the full hour, the airport, the delay.
pub(crate) type Flight = (String, String, Option<i64>);
/// Per hour and airport: departures, mean delay in millionths (what reads JSON here may be wrong in the last digit), worst delay.
pub(crate) type Answer = BTreeMap<(String, String), (i64, Option<i64>, Option<i64>)>;

fn millionths(mean: f64) -> i64 {
    (mean * 1e6).round() as i64
}

/// The flights of the sample file; hours as `2013-01-01 05:00:00`.
pub(crate) fn flights(csv: &str) -> Vec<Flight> {
    let mut lines = csv.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let at = |name| names.iter().position(|n| *n == name).unwrap();
    let (hour, origin, delay) = (at("time_hour"), at("origin"), at("dep_delay"));
    let flight = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[hour][..19].replace('T', " "), fields[origin].to_owned(), fields[delay].parse().ok())
    };
    lines.map(flight).collect()
}

/// What the job must say of them.
pub(crate) fn oracle(flights: &[Flight]) -> Answer {
    let mut groups: BTreeMap<(String, String), Vec<i64>> = BTreeMap::new();
    for (hour, origin, delay) in flights {
        groups.entry((hour[..16].to_owned(), origin.clone())).or_default().extend(delay);
    }
    let answer = |delays: Vec<i64>| {
        let mean = (!delays.is_empty()).then(|| millionths(delays.iter().sum::<i64>() as f64 / delays.len() as f64));
        (delays.len() as i64, mean, delays.into_iter().max())
    };
    groups.into_iter().map(|(key, delays)| (key, answer(delays))).collect()
}

/// What it said: one JSON object per record, none for the same hour and airport twice.
pub(crate) fn answer<'a>(records: impl Iterator<Item = &'a str>) -> Answer {
    let mut found = Answer::new();
    for record in records {
        let row: Value = serde_json::from_str(record).unwrap_or_else(|e| panic!("{record}: {e}"));
        let hour = row["window_start"].as_str().unwrap()[..16].replace('T', " ");
        let key = (hour, row["origin"].as_str().unwrap().to_owned());
        let values = (
            row["departures"].as_i64().unwrap(),
            row["mean_delay"].as_f64().map(millionths),
            row["worst_delay"].as_i64(),
        );
        assert!(found.insert(key, values).is_none(), "twice: {record}");
    }
    found
}
