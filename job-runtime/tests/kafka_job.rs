//! Whole jobs on a real broker: killed with SIGKILL at random moments, what an independent `read_committed` reader sees is exactly right, and
//! readers wait no longer for a killed job than its restart takes.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "cli/oracle.rs"]
mod oracle;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use broker::{Reader, create_topic, servers, unique};
use oracle::{Answer, Flight, answer, flights, oracle};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};
use workshop::{Moments, Running, Workshop};

const PARTITIONS: i32 = 3;
const KILLS: usize = 25;
/// Every flight is sent so often: more rows for the kills to hit.
const COPIES: usize = 5;

/// The sample, each flight at most one hour behind one before it.
fn sample() -> Vec<Flight> {
    let path = format!("{}/../examples/flights/flights.csv", env!("CARGO_MANIFEST_DIR"));
    let mut all = flights(&std::fs::read_to_string(path).unwrap());
    let mut hours: Vec<String> = all.iter().map(|flight| flight.0.clone()).collect();
    hours.sort();
    hours.dedup();
    let mut number = 0;
    all.sort_by_cached_key(|flight| {
        number += 1;
        hours.binary_search(&flight.0).unwrap() + number % 2
    });
    all.into_iter().flat_map(|flight| vec![flight; COPIES]).collect()
}

fn record((hour, origin, delay): &Flight) -> String {
    json!({"time_hour": hour, "origin": origin, "dep_delay": delay}).to_string()
}

/// A producer of the test's own, without transactions.
struct Feeder(BaseProducer);

impl Feeder {
    fn new() -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("linger.ms", "1");
        Self(config.create().unwrap())
    }

    fn send(&self, topic: &str, partition: i32, text: &str) {
        self.0.send(BaseRecord::<(), str>::to(topic).partition(partition).payload(text)).map_err(|(e, _)| e).unwrap();
        self.0.poll(Duration::ZERO);
    }

    fn flush(&self) {
        self.0.flush(Duration::from_secs(10)).unwrap();
    }
}

/// The windowed job; `more` goes into the options of its source.
fn windows(input: &str, output: &str, more: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: delays
spec:
  sql: |
    CREATE TABLE flights (
      time_hour  TIMESTAMP(3),
      origin     STRING,
      dep_delay  INT,
      WATERMARK FOR time_hour AS time_hour - INTERVAL '2' HOUR
    ) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'{more}
    );
    CREATE TABLE delays (
      window_start TIMESTAMP(3), origin STRING, departures BIGINT, mean_delay DOUBLE, worst_delay INT
    ) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO delays
    SELECT window_start, origin, COUNT(dep_delay), AVG(CAST(dep_delay AS DOUBLE)), MAX(dep_delay)
    FROM TABLE(TUMBLE(TABLE flights, DESCRIPTOR(time_hour), INTERVAL '1' HOUR))
    GROUP BY origin, window_start, window_end;
"
    )
}

fn start(workshop: &Workshop) -> Running {
    workshop.start_as(&["env", "RUST_LOG=info", env!("CARGO_BIN_EXE_millstream")], &["run", "job.yaml"])
}

fn running(workshop: &Workshop) -> bool {
    let said = workshop.read(".stderr");
    said.contains("starts anew") || said.contains("goes on from its last commit")
}

#[test]
#[ignore = "needs the lab"]
fn killed_at_random_moments_a_windowed_job_gives_each_row_once() {
    let (input, output) = (unique("flights"), unique("delays"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let workshop = Workshop::new();
    workshop.write("job.yaml", &windows(&input, &output, ""));
    let (flights, feeder, mut moments) = (sample(), Feeder::new(), Moments::new());
    let mut sent = 0;
    let mut send = |until: usize| {
        for flight in &flights[sent..until] {
            feeder.send(&input, sent as i32 % PARTITIONS, &record(flight));
            sent += 1;
        }
        feeder.flush();
    };
    for kill in 1..=KILLS {
        let job = start(&workshop);
        send(flights.len() * (2 * kill - 1) / (2 * KILLS));
        std::thread::sleep(moments.between(0, 300));
        send(flights.len() * kill / KILLS);
        assert!(job.kill_after(moments.between(1, 500)), "the job ended by itself");
    }
    let end = record(&("2013-12-31 00:00:00".to_owned(), "end".to_owned(), None));
    (0..PARTITIONS).for_each(|partition| feeder.send(&input, partition, &end));
    feeder.flush();

    let want = oracle(&flights);
    let job = start(&workshop);
    let mut reader = Reader::new(&output, 1);
    reader.until(want.len());
    job.signal("TERM");
    let outcome = job.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    reader.poll(Duration::from_secs(1));
    let got = answer(reader.values.iter().map(String::as_str));
    let wrong: Vec<_> = want.iter().filter(|(key, values)| got.get(*key) != Some(*values)).take(5).collect();
    assert!(wrong.is_empty(), "{} rows for {}; wrong: {wrong:?}", got.len(), want.len());
    assert_eq!(got.len(), want.len());
    println!("{KILLS} kills, {} records, {} rows", flights.len(), got.len());
}

/// The rows of all windows that end before `watermark`, an hour as the sample writes it.
fn fired(flights: &[Flight], watermark: &str) -> Answer {
    oracle(flights).into_iter().filter(|((hour, _), _)| hour.as_str() < watermark).collect()
}

#[test]
#[ignore = "needs the lab"]
fn windows_that_fire_because_all_partitions_fell_idle_reach_the_topic() {
    let (input, output) = (unique("flights"), unique("delays"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let workshop = Workshop::new();
    workshop.write("job.yaml", &windows(&input, &output, ", 'scan.watermark.idle-timeout' = '1 s'"));
    let (flights, feeder) = (sample(), Feeder::new());
    let job = start(&workshop);
    // The last partition never gets a record; the others hold the sample to the end of 5 January, and nothing comes after it.
    let flights: Vec<Flight> = flights.into_iter().filter(|flight| *flight.0 < *"2013-01-06").collect();
    for (sent, flight) in flights.iter().enumerate() {
        feeder.send(&input, sent as i32 % (PARTITIONS - 1), &record(flight));
    }
    feeder.flush();
    let last = flights.iter().map(|flight| flight.0.as_str()).max().unwrap();
    let hour: u32 = last[11..13].parse().unwrap();
    let want = fired(&flights, &format!("{} {:02}:00", &last[..10], hour - 2));
    assert!(want.len() > 100, "{}", want.len());
    let mut reader = Reader::new(&output, 1);
    reader.until(want.len());
    job.signal("TERM");
    assert_eq!(job.end().code, Some(0));
    reader.poll(Duration::from_secs(1));
    assert_eq!(answer(reader.values.iter().map(String::as_str)), want);
}

fn copy(input: &str, output: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: copy
spec:
  commitInterval: 10ms
  sql: |
    CREATE TABLE numbers (id BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'scan.startup.mode' = 'earliest-offset', 'format' = 'json'
    );
    CREATE TABLE copies (id BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json'
    );
    INSERT INTO copies SELECT id FROM numbers;
"
    )
}

/// When a record, written beside the job right after its kill, is seen: held back by the killed job's open transaction until that is ended.
struct Stall {
    /// Not seen before the job was started again: a transaction was open.
    blocked: bool,
    /// From the new start until the job ran.
    restart: Duration,
    /// From the moment that it ran until the record was seen; zero if that came first.
    beyond: Duration,
}

fn stall(
    workshop: &Workshop,
    job: Running,
    reader: &mut Reader,
    feeder: &Feeder,
    output: &str,
    mark: &str,
) -> (Running, Stall) {
    assert!(job.kill_after(Duration::ZERO));
    feeder.send(output, 0, mark);
    feeder.flush();
    let seen = |reader: &Reader| reader.values.iter().rev().take(50_000).any(|value| value == mark);
    let pause = Instant::now();
    while pause.elapsed() < Duration::from_millis(200) {
        reader.poll(Duration::from_millis(5));
    }
    let blocked = !seen(reader);
    let (job, begin) = (start(workshop), Instant::now());
    let (mut ran, mut saw) = (None, None);
    while ran.is_none() || saw.is_none() {
        reader.poll(Duration::from_millis(2));
        if ran.is_none() && running(workshop) {
            ran = Some(begin.elapsed());
        }
        if saw.is_none() && seen(reader) {
            saw = Some(begin.elapsed());
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "ran {ran:?}, saw {saw:?}: {}", workshop.read(".stderr"));
    }
    let (restart, saw) = (ran.unwrap(), saw.unwrap());
    (job, Stall { blocked, restart, beyond: saw.saturating_sub(restart) })
}

#[test]
#[ignore = "needs the lab"]
fn readers_wait_for_a_killed_job_no_longer_than_its_restart_takes_and_a_second() {
    let (input, output) = (unique("numbers"), unique("copies"));
    create_topic(&input, 1);
    create_topic(&output, 1);
    let workshop = Workshop::new();
    workshop.write("job.yaml", &copy(&input, &output));
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(0_usize)));
    let feeding = {
        let (stop, sent, input) = (Arc::clone(&stop), Arc::clone(&sent), input.clone());
        std::thread::spawn(move || {
            let feeder = Feeder::new();
            while !stop.load(Ordering::Relaxed) {
                let mut sent = sent.lock().unwrap();
                feeder.send(&input, 0, &json!({"id": *sent}).to_string());
                *sent += 1;
                drop(sent);
                std::thread::sleep(Duration::from_millis(1));
            }
            feeder.flush();
        })
    };
    let (mut reader, feeder) = (Reader::new(&output, 1), Feeder::new());
    let mut job = start(&workshop);
    let mut stalls = Vec::new();
    let mut moments = Moments::new();
    // A kill between two transactions shows nothing: it goes on until three have hit one.
    while stalls.iter().filter(|stall: &&Stall| stall.blocked).count() < 3 {
        let round = stalls.len();
        assert!(round < 60, "60 kills, and not three that left a transaction open");
        reader.until(reader.values.len() + 100);
        std::thread::sleep(moments.between(1, 60));
        let (next, stall) = stall(&workshop, job, &mut reader, &feeder, &output, &format!("mark {round}"));
        println!("blocked {}, restart {:?}, beyond it {:?}", stall.blocked, stall.restart, stall.beyond);
        job = next;
        stalls.push(stall);
    }
    stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    let sent = *sent.lock().unwrap();
    reader.until(sent + stalls.len());
    job.signal("TERM");
    assert_eq!(job.end().code, Some(0));
    reader.poll(Duration::from_secs(1));
    let id = |value: &String| serde_json::from_str::<Value>(value).ok()?["id"].as_u64();
    let mut ids: Vec<u64> = reader.values.iter().filter_map(id).collect();
    ids.sort_unstable();
    assert!(ids == (0..sent as u64).collect::<Vec<_>>(), "{} ids for {sent}", ids.len());
    assert!(stalls.iter().all(|stall| stall.beyond <= Duration::from_secs(1)));
}

/// Numbers, of which some are none: good ones are copied, the others become dead letters at `place`.
fn sifting(input: &str, output: &str, place: &str) -> String {
    let option =
        format!("'format' = 'json',\n      'on-error' = 'dead-letter', {place}\n    );\n    CREATE TABLE copies");
    copy(input, output).replace("'format' = 'json'\n    );\n    CREATE TABLE copies", &option)
}

const NUMBERS: usize = 20_000;

fn is_bad(number: usize) -> bool {
    number % 7 == 2 || number % 1000 < 30
}

/// Sends the numbers in slices while the job is killed again and again, and ends it when `done` says that everything is there.
fn sift(workshop: &Workshop, input: &str, kills: usize, mut done: impl FnMut() -> bool) {
    let (feeder, mut moments, mut sent) = (Feeder::new(), Moments::new(), 0);
    let mut send = |until: usize| {
        for number in sent..until {
            let text = if is_bad(number) { format!("no number: {number}") } else { json!({"id": number}).to_string() };
            feeder.send(input, number as i32 % PARTITIONS, &text);
        }
        sent = until;
        feeder.flush();
    };
    for kill in 1..=kills {
        let job = start(workshop);
        send(NUMBERS * (2 * kill - 1) / (2 * kills + 1));
        std::thread::sleep(moments.between(300, 1200));
        send(NUMBERS * 2 * kill / (2 * kills + 1));
        assert!(job.kill_after(moments.between(1, 200)), "the job ended by itself");
    }
    // The last run has something to do, so that it is well on its way when it is stopped.
    let mut job = start(workshop);
    send(NUMBERS);
    job.wait_until("everything", &mut done);
    job.signal("TERM");
    let outcome = job.end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

fn check_numbers(found: impl Iterator<Item = usize>, bad: bool) {
    let mut found: Vec<usize> = found.collect();
    found.sort_unstable();
    let want: Vec<usize> = (0..NUMBERS).filter(|number| is_bad(*number) == bad).collect();
    assert!(found == want, "{} for {}, bad: {bad}", found.len(), want.len());
}

fn check_letters<'a>(letters: impl Iterator<Item = &'a str>, input: &str) {
    let number = |letter: &str| {
        let letter: Value = serde_json::from_str(letter).unwrap_or_else(|e| panic!("{letter}: {e}"));
        let number = letter["record"].as_str().unwrap().strip_prefix("no number: ").unwrap().parse::<usize>().unwrap();
        assert_eq!((letter["topic"].as_str().unwrap(), letter["table"].as_str().unwrap()), (input, "numbers"));
        assert_eq!(letter["partition"], number % PARTITIONS as usize);
        assert_eq!(letter["offset"], number / PARTITIONS as usize);
        assert!(letter["timestamp"].as_i64() > Some(1_700_000_000_000) && letter["error"].is_string(), "{letter}");
        number
    };
    check_numbers(letters.map(number), true);
}

/// Everything that is there.
fn take(reader: &mut Reader) {
    while reader.poll(Duration::from_millis(1)) {}
}

fn lines(workshop: &Workshop, name: &str) -> usize {
    std::fs::read_to_string(workshop.path(name)).unwrap_or_default().lines().count()
}

fn id_of(record: &str) -> usize {
    serde_json::from_str::<Value>(record).unwrap()["id"].as_u64().unwrap() as usize
}

#[test]
#[ignore = "needs the lab"]
fn dead_letters_in_a_topic_are_in_the_transaction_of_the_rows() {
    let (input, output, letters) = (unique("numbers"), unique("copies"), unique("letters"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    create_topic(&letters, 1);
    let workshop = Workshop::new();
    workshop.write("job.yaml", &sifting(&input, &output, &format!("'dead-letter.topic' = '{letters}'")));
    let (mut rows, mut dead) = (Reader::new(&output, 1), Reader::new(&letters, 1));
    let bad = (0..NUMBERS).filter(|number| is_bad(*number)).count();
    sift(&workshop, &input, 12, || {
        take(&mut rows);
        take(&mut dead);
        rows.values.len() >= NUMBERS - bad && dead.values.len() >= bad
    });
    assert!(!rows.poll(Duration::from_secs(1)) && !dead.poll(Duration::from_secs(1)));
    check_numbers(rows.values.iter().map(|record| id_of(record)), false);
    check_letters(dead.values.iter().map(String::as_str), &input);
}

#[test]
#[ignore = "needs the lab"]
fn dead_letters_of_a_topic_in_a_file_are_in_the_commit_of_the_rows() {
    let (input, output) = (unique("numbers"), unique("copies"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let workshop = Workshop::new();
    workshop.write("job.yaml", &sifting(&input, &output, "'dead-letter.path' = 'letters.jsonl'"));
    let mut rows = Reader::new(&output, 1);
    let bad = (0..NUMBERS).filter(|number| is_bad(*number)).count();
    sift(&workshop, &input, 6, || {
        take(&mut rows);
        rows.values.len() >= NUMBERS - bad && lines(&workshop, "letters.jsonl") >= bad
    });
    assert!(!rows.poll(Duration::from_secs(1)));
    check_numbers(rows.values.iter().map(|record| id_of(record)), false);
    check_letters(workshop.read("letters.jsonl").lines(), &input);
}

#[test]
#[ignore = "needs the lab"]
fn a_job_without_a_kafka_sink_writes_its_dead_letters_in_a_transaction_all_the_same() {
    let (input, letters) = (unique("numbers"), unique("letters"));
    create_topic(&input, PARTITIONS);
    create_topic(&letters, 1);
    let workshop = Workshop::new();
    let job = sifting(&input, "none", &format!("'dead-letter.topic' = '{letters}'"));
    let (head, rest) = job.split_once("CREATE TABLE copies (id BIGINT) WITH (\n").unwrap();
    let (_, tail) = rest.split_once(");").unwrap();
    let file = "'connector' = 'filesystem', 'path' = 'copies.jsonl', 'format' = 'json'";
    workshop.write("job.yaml", &format!("{head}CREATE TABLE copies (id BIGINT) WITH ({file});{tail}"));
    let mut dead = Reader::new(&letters, 1);
    let bad = (0..NUMBERS).filter(|number| is_bad(*number)).count();
    sift(&workshop, &input, 6, || {
        take(&mut dead);
        dead.values.len() >= bad && lines(&workshop, "copies.jsonl") >= NUMBERS - bad
    });
    assert!(!dead.poll(Duration::from_secs(1)));
    check_numbers(workshop.read("copies.jsonl").lines().map(id_of), false);
    check_letters(dead.values.iter().map(String::as_str), &input);
    let missing = sifting(&input, "none", &format!("'dead-letter.topic' = '{}'", unique("nowhere")));
    workshop.write("job.yaml", &missing.replace("'topic' = 'none'", &format!("'topic' = '{input}'")));
    let outcome = workshop.run(&["run", "job.yaml", "--state-dir", "other"]);
    assert!(outcome.code == Some(3) && outcome.stderr.contains("nowhere"), "{outcome:?}");
}

fn add_partitions(topic: &str, count: usize) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers());
    let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> = config.create().unwrap();
    let wanted = rdkafka::admin::NewPartitions::new(topic, count);
    let options = rdkafka::admin::AdminOptions::new();
    let done = futures::executor::block_on(admin.create_partitions(&[wanted], &options));
    done.unwrap().into_iter().for_each(|result| assert!(result.is_ok(), "{result:?}"));
}

#[test]
#[ignore = "needs the lab"]
fn partitions_that_are_added_to_a_topic_are_read_from_their_beginning_while_the_job_runs() {
    let (input, output) = (unique("numbers"), unique("copies"));
    create_topic(&input, 1);
    create_topic(&output, 1);
    let workshop = Workshop::new();
    // What is there before the first start is not wanted; of a partition that is added later everything is.
    let job = copy(&input, &output)
        .replace("'earliest-offset'", "'latest-offset', 'scan.topic-partition-discovery.interval' = '100 ms'");
    workshop.write("job.yaml", &job);
    let (feeder, mut reader) = (Feeder::new(), Reader::new(&output, 1));
    let send = |partition: i32, numbers: std::ops::Range<usize>| {
        numbers.for_each(|number| feeder.send(&input, partition, &json!({"id": number}).to_string()));
        feeder.flush();
    };
    send(0, 5000..5010);
    let mut job = start(&workshop);
    job.wait_until("running", || running(&workshop));
    send(0, 0..100);
    reader.until(100);
    add_partitions(&input, 3);
    // The feeder learns of the partitions in its own time.
    let feeder = Feeder::new();
    let send = |partition: i32, numbers: std::ops::Range<usize>| {
        numbers.for_each(|number| feeder.send(&input, partition, &json!({"id": number}).to_string()));
        feeder.flush();
    };
    send(1, 100..200);
    send(2, 200..300);
    reader.until(300);
    assert!(job.kill_after(Duration::ZERO));
    // More come while nobody looks, with records in them.
    send(1, 300..400);
    add_partitions(&input, 4);
    let feeder = Feeder::new();
    (400..500).for_each(|number| feeder.send(&input, 3, &json!({"id": number}).to_string()));
    feeder.flush();
    let mut job = start(&workshop);
    job.wait_until("running", || running(&workshop));
    reader.until(500);
    job.signal("TERM");
    assert_eq!(job.end().code, Some(0));
    assert!(!reader.poll(Duration::from_secs(1)));
    let mut ids: Vec<usize> = reader.values.iter().map(|record| id_of(record)).collect();
    ids.sort_unstable();
    assert!(ids == (0..500).collect::<Vec<_>>(), "{ids:?}");
}
