//! The sample data as records of a topic, and the answer that the sample job must give: an oracle of its own that shares no code with
//! the engine.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// One departure.
#[derive(Clone, Debug, PartialEq)]
pub struct Flight {
    /// Airport of departure.
    pub origin: String,
    /// Airline.
    pub carrier: String,
    /// Number of the flight.
    pub flight: i32,
    /// Minutes; none when the flight was cancelled.
    pub dep_delay: Option<i32>,
    /// Airport of arrival.
    pub dest: String,
    /// Scheduled hour as `2013-01-01T10:00:00Z`.
    pub hour: String,
}

/// What the job says about one airport and hour.
#[derive(Clone, Debug, PartialEq)]
pub struct Delays {
    /// Flights that departed.
    pub departures: i64,
    /// Mean delay in minutes.
    pub mean_delay: Option<f64>,
    /// Worst delay in minutes.
    pub worst_delay: Option<i64>,
}

/// What a job gives a row for, each hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Per {
    /// Each airport of departure, as in `EWR`.
    Airport,
    /// Each airport of departure and of arrival, as in `EWR-IAH`.
    Route,
}

impl Per {
    fn key(self, origin: &str, dest: &str) -> String {
        match self {
            Self::Airport => origin.to_owned(),
            Self::Route => format!("{origin}-{dest}"),
        }
    }
}

/// Rows by airport or route, and hour (`2013-01-01T10:00`). A row that came twice is there twice.
pub type Answer = BTreeMap<(String, String), Vec<Delays>>;

/// Reads the sample data.
///
/// # Errors
/// When the file is not as expected.
pub fn read() -> anyhow::Result<Vec<Flight>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/flights/flights.csv");
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().context("no header")?.split(',').collect();
    let at = |name: &str| names.iter().position(|n| *n == name).with_context(|| format!("no column {name}"));
    let (origin, dest, carrier, flight, delay, hour) =
        (at("origin")?, at("dest")?, at("carrier")?, at("flight")?, at("dep_delay")?, at("time_hour")?);
    lines
        .map(|line| {
            let fields: Vec<&str> = line.split(',').collect();
            Ok(Flight {
                origin: fields[origin].to_owned(),
                carrier: fields[carrier].to_owned(),
                flight: fields[flight].parse()?,
                dep_delay: if fields[delay] == "NA" { None } else { Some(fields[delay].parse()?) },
                dest: fields[dest].to_owned(),
                hour: fields[hour].to_owned(),
            })
        })
        .collect()
}

impl Flight {
    /// The record of the topic.
    #[must_use]
    pub fn record(&self) -> String {
        json!({"carrier": self.carrier, "flight": self.flight, "origin": self.origin, "dest": self.dest,
            "dep_delay": self.dep_delay, "time_hour": self.hour})
        .to_string()
    }

    /// A record long after all others, which closes their windows. One goes into every partition.
    #[must_use]
    pub fn closing() -> Self {
        Self {
            origin: "end".to_owned(),
            carrier: "-".to_owned(),
            flight: 0,
            dep_delay: None,
            dest: "-".to_owned(),
            hour: "2013-12-31T00:00:00Z".to_owned(),
        }
    }
}

/// The flights in an order in which each may be an hour behind one before it, and none more: no record is late for the sample job.
#[must_use]
pub fn nearly_sorted(mut flights: Vec<Flight>) -> Vec<Flight> {
    let mut hours: Vec<String> = flights.iter().map(|flight| flight.hour.clone()).collect();
    hours.sort();
    hours.dedup();
    let at = |flight: &Flight| {
        hours.binary_search(&flight.hour).expect("every hour is in the list") + flight.flight as usize % 2
    };
    flights.sort_by_key(at);
    flights
}

/// The answer for `flights`.
#[must_use]
pub fn oracle(flights: &[Flight], per: Per) -> Answer {
    let mut groups: BTreeMap<(String, String), Vec<i32>> = BTreeMap::new();
    for flight in flights {
        let key = per.key(&flight.origin, &flight.dest);
        let group = groups.entry((key, flight.hour[..16].to_owned())).or_default();
        group.extend(flight.dep_delay);
    }
    let answer = |delays: Vec<i32>| Delays {
        departures: i64::try_from(delays.len()).expect("the sample is small"),
        mean_delay: (!delays.is_empty())
            .then(|| delays.iter().copied().map(f64::from).sum::<f64>() / delays.len() as f64),
        worst_delay: delays.iter().copied().max().map(i64::from),
    };
    groups.into_iter().map(|(key, delays)| (key, vec![answer(delays)])).collect()
}

/// The rows of the output topic.
///
/// # Errors
/// When a record is not as the job's sink table says.
pub fn answer(records: &[Vec<u8>], per: Per) -> anyhow::Result<Answer> {
    let mut answer = Answer::new();
    for record in records {
        let row: Value =
            serde_json::from_slice(record).with_context(|| String::from_utf8_lossy(record).into_owned())?;
        let text = |name: &str| row[name].as_str().with_context(|| format!("no {name} in {row}")).map(str::to_owned);
        let mut hour = text("window_start")?.replace(' ', "T");
        hour.truncate(16);
        let Some(departures) = row["departures"].as_i64() else { bail!("no departures in {row}") };
        let delays =
            Delays { departures, mean_delay: row["mean_delay"].as_f64(), worst_delay: row["worst_delay"].as_i64() };
        let dest = match per {
            Per::Airport => String::new(),
            Per::Route => text("dest")?,
        };
        answer.entry((per.key(&text("origin")?, &dest), hour)).or_default().push(delays);
    }
    Ok(answer)
}

/// What is wrong with the part of the answer that is there: rows that came twice, that are others than wanted, or that nobody asked for.
#[must_use]
pub fn differences_so_far(got: &Answer, want: &Answer) -> Vec<String> {
    let due = want.iter().filter(|(key, _)| got.contains_key(*key));
    differences(got, &due.map(|(key, rows)| (key.clone(), rows.clone())).collect())
}

/// What is wrong with `got`, in at most ten lines; empty when it equals `want`.
#[must_use]
pub fn differences(got: &Answer, want: &Answer) -> Vec<String> {
    let close = |a: Option<f64>, b: Option<f64>| match (a, b) {
        (Some(a), Some(b)) => (a - b).abs() < 1e-6,
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    let same = |a: &Delays, b: &Delays| {
        a.departures == b.departures && close(a.mean_delay, b.mean_delay) && a.worst_delay == b.worst_delay
    };
    let mut wrong: Vec<String> = Vec::new();
    for (key, rows) in want {
        match got.get(key).map_or(&[][..], Vec::as_slice) {
            [] => wrong.push(format!("missing: {key:?}")),
            [row] if same(row, &rows[0]) => {}
            [row] => wrong.push(format!("{key:?}: {row:?} instead of {:?}", rows[0])),
            rows => wrong.push(format!("{key:?} came {} times", rows.len())),
        }
    }
    wrong.extend(got.keys().filter(|key| !want.contains_key(*key)).map(|key| format!("not asked for: {key:?}")));
    let count = wrong.len();
    wrong.truncate(10);
    if count > wrong.len() {
        wrong.push(format!("… {count} in all, of {} rows", want.len()));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oracle_knows_the_sample() {
        let flights = read().unwrap();
        assert_eq!(flights.len(), 12_208);
        let answer = oracle(&flights, Per::Airport);
        assert_eq!(answer[&("EWR".to_owned(), "2013-01-01T10:00".to_owned())][0].departures, 2);
        assert!(differences(&answer, &answer).is_empty());
        let mut twice = answer.clone();
        twice.values_mut().for_each(|rows| rows.extend(rows.clone()));
        assert_eq!(differences(&twice, &answer).len(), 11);
        assert_eq!(differences_so_far(&twice, &answer).len(), 11);
        let routes = oracle(&flights, Per::Route);
        assert_eq!(routes.len(), 10_371);
        assert_eq!(routes[&("EWR-IAH".to_owned(), "2013-01-01T10:00".to_owned())][0].departures, 1);
        let mut part = routes.clone();
        part.pop_first();
        assert!(differences_so_far(&part, &routes).is_empty());
        assert_eq!(differences(&part, &routes).len(), 1);
    }
}
