//! The first row of each key and each row once: killed with SIGKILL at random moments, the files say what an oracle says; what is kept can be read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde_json::Value;

use super::workshop::{Moments, Workshop};

/// Kills that must hit a running process, together.
const KILLS: usize = 10;
const EVENTS: i64 = 250_000;
const CUSTOMERS: u64 = 40_000;

struct Event {
    id: i64,
    customer: String,
    kind: String,
    amount: i64,
    second: i64,
}

/// 100 a second of event time, each up to 4 s out of order.
fn event(id: i64) -> Event {
    let mut mixed = (id as u64).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^= mixed >> 29;
    let (customer, kind, amount) = (mixed % CUSTOMERS, mixed / CUSTOMERS % 3, mixed / CUSTOMERS / 3 % 100);
    Event {
        id,
        customer: format!("customer {customer}"),
        kind: format!("kind {kind}"),
        amount: amount as i64,
        second: 4 + id / 100 - (mixed >> 40) as i64 % 5,
    }
}

fn time(second: i64) -> String {
    format!("2024-03-01 {:02}:{:02}:{:02}", second / 3600, second / 60 % 60, second % 60)
}

fn csv() -> String {
    let mut text = String::from("id,customer,kind,amount,event_time\n");
    for event in (0..EVENTS).map(event) {
        let Event { id, customer, kind, amount, second } = event;
        writeln!(text, "{id},{customer},{kind},{amount},{}", time(second)).unwrap();
    }
    text
}

/// The files' lines, sorted: of equal times the lesser id is the first.
fn oracle() -> (Vec<String>, Vec<String>) {
    let (mut firsts, mut kinds) = (BTreeMap::new(), BTreeSet::new());
    for event in (0..EVENTS).map(event) {
        if event.amount > 50 {
            kinds.insert(format!("{},{}", event.customer, event.kind));
        }
        let first = firsts.entry(event.customer.clone()).or_insert((event.second, event.id, event.amount));
        *first = (*first).min((event.second, event.id, event.amount));
    }
    let line = |(customer, (second, id, amount)): (String, (i64, i64, i64))| match amount {
        13 => None,
        _ => Some(format!("{customer},{id},{amount},1,{}", time(second))),
    };
    (sorted(firsts.into_iter().filter_map(line)), sorted(kinds.into_iter()))
}

fn sorted(lines: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = lines.collect();
    lines.sort();
    lines
}

fn written(workshop: &Workshop, name: &str) -> Vec<String> {
    // Quotes stand around what holds a blank.
    sorted(workshop.read(name).lines().map(|line| line.replace('"', "")))
}

fn check_run(workshop: &Workshop) {
    let outcome = workshop.run(&["run", "first_rows.yaml"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let (firsts, kinds) = oracle();
    let (found_firsts, found_kinds) = (written(workshop, "out/firsts.csv"), written(workshop, "out/kinds.csv"));
    assert_eq!((found_firsts.len(), found_kinds.len()), (firsts.len(), kinds.len()));
    let wrong: Vec<_> = found_firsts.iter().zip(&firsts).filter(|(found, want)| found != want).take(5).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    assert!(found_kinds == kinds, "other rows");
}

#[test]
fn first_rows_are_the_oracles_through_kills() {
    let csv = csv();
    let fresh = || {
        let workshop = Workshop::new();
        workshop.write("events.csv", &csv);
        workshop.copy("job-runtime/tests/cli/jobs/first_rows.yaml", "first_rows.yaml");
        workshop
    };
    let begin = std::time::Instant::now();
    let workshop = fresh();
    check_run(&workshop);
    let whole = begin.elapsed().as_millis() as u64;
    what_is_kept_can_be_read(&workshop);
    let (mut kills, mut rounds, mut moments) = (0, 0, Moments::new());
    while kills < KILLS {
        let workshop = fresh();
        let run = ["run", "first_rows.yaml"];
        while kills < KILLS && workshop.start(&run).kill_after(moments.between(5, whole.max(20))) {
            kills += 1;
        }
        check_run(&workshop);
        rounds += 1;
        println!("round {rounds}: {kills} kills so far");
        assert!(rounds < 200, "only {kills} kills hit in {rounds} rounds");
    }
}

fn what_is_kept_can_be_read(workshop: &Workshop) {
    let show = |what: &str| {
        let outcome = workshop.run(&["state", what, "--state-dir", ".millstream/first-rows"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let counted = show("count");
    for what in ["deduplicate(customer): value", "distinct(customer, kind): value", "deduplicate(customer): note"] {
        assert!(counted.contains(what), "{what}: {counted}");
    }
    let customers: BTreeSet<String> = (0..EVENTS).map(|id| event(id).customer).collect();
    let mut found = BTreeSet::new();
    for line in show("export").lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        if entry["name"] == "deduplicate(customer)" && entry["what"] == "value" {
            assert_eq!(entry["value"], Value::Null, "at the end every row has gone on: {line}");
            found.insert(entry["key"]["customer"].as_str().unwrap().to_owned());
        }
        assert_ne!(entry["what"], "timer", "at the end no timer is left: {line}");
    }
    assert!(found == customers, "{} of {} customers are remembered", found.len(), customers.len());
}
