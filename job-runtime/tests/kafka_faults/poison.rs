//! Records that are poison: no JSON, no UTF-8, megabytes, nested without end, no numbers, and batches that are small on the wire and huge in
//! memory. Each is a dead letter in the commit of the rows beside it, or ends the pod with its place; never a panic, never the same death again
//! once its cause is gone.

use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;

use super::broker::{Reader, create_topic_at, servers, unique};
use super::resources::noise;
use super::rig::{Home, Kept, last_outcome};

/// Topics and producers that take anything.
const LARGEST: &str = "40000000";
const DEADLINE: Duration = Duration::from_secs(60);

/// What is wrong with a record, and its bytes.
fn poison() -> Vec<(&'static str, Vec<u8>)> {
    let nested = |depth: usize| format!("{{\"id\": {}1{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    let other =
        |depth: usize| format!("{{\"id\": 1, \"other\": {}{}}}", "[".repeat(depth), "]".repeat(depth)).into_bytes();
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("cut short", text("{\"id\": 1")),
        ("no UTF-8", b"{\"id\": 1, \"name\": \"\xff\xfe\xc0\"}".to_vec()),
        ("10 MB where a number should be", format!("{{\"id\": \"{}\"}}", "9".repeat(10 << 20)).into_bytes()),
        ("nested 200,000 deep", nested(200_000)),
        ("opened 200,000 times and never closed", "[".repeat(200_000).into_bytes()),
        ("nested 200,000 deep where nobody reads", other(200_000)),
        ("NaN", text("{\"id\": 1, \"x\": NaN}")),
        ("Infinity", text("{\"id\": 1, \"x\": -Infinity}")),
        ("a number that no BIGINT holds", text("{\"id\": 92233720368547758080}")),
        ("nothing", Vec::new()),
        ("zeros", vec![0; 1000]),
        ("a list", text("[1, 2]")),
        ("two objects", text("{\"id\": 1} {\"id\": 2}")),
    ]
}

/// Good records that look bad: `id` is `number`.
fn strange(number: usize) -> Vec<Vec<u8>> {
    vec![
        // A bomb: 40 MB that are 40 kB in a compressed batch.
        format!("{{\"id\": {number}, \"other\": \"{}\"}}", "a".repeat(40 << 20)).into_bytes(),
        format!("{{\"id\": {}, \"x\": 1e-999}}", number + 1).into_bytes(),
    ]
}

fn producer(compression: &str) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers()).set("enable.idempotence", "true").set("compression.type", compression);
    config.set("message.max.bytes", "1000000000").set("queue.buffering.max.kbytes", "2000000").create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, value: &[u8]) {
    let record = BaseRecord::<(), [u8]>::to(topic).partition(0).payload(value);
    producer.send(record).map_err(|(error, _)| error).unwrap();
    producer.flush(Duration::from_secs(30)).unwrap();
}

fn topic(name: &str) -> String {
    let name = unique(name);
    create_topic_at(&servers(), &name, 1, &[("max.message.bytes", LARGEST)]);
    name
}

fn job(input: &str, output: &str, source: &str) -> String {
    let servers = servers();
    format!(
        "apiVersion: millstream.io/v1alpha1
kind: StreamJob
metadata:
  name: faults
spec:
  commitInterval: 20ms
  workers: 1
  sql: |
    CREATE TABLE numbers (id BIGINT, x DOUBLE, name STRING) WITH (
      'connector' = 'kafka', 'topic' = '{input}', 'properties.bootstrap.servers' = '{servers}',
      'format' = 'json', {source}
    );
    CREATE TABLE copies (id BIGINT) WITH (
      'connector' = 'kafka', 'topic' = '{output}', 'properties.bootstrap.servers' = '{servers}', 'format' = 'json',
      'properties.message.max.bytes' = '{LARGEST}'
    );
    INSERT INTO copies SELECT id FROM numbers WHERE x IS NULL OR x < 1 OR name IS NOT NULL;
"
    )
}

fn wait(pod: &mut Kept, what: &str, mut seen: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !seen() {
        pod.mend();
        assert!(Instant::now() < deadline, "not yet {what}: {}", pod.home.said());
    }
}

fn ids(reader: &Reader) -> Vec<u64> {
    let id = |text: &String| serde_json::from_str::<Value>(text).unwrap()["id"].as_u64().unwrap();
    reader.values.iter().map(id).collect()
}

#[test]
#[ignore = "needs the lab"]
fn poison_becomes_dead_letters_beside_the_rows_and_the_pod_goes_on() {
    let (input, output, letters) = (topic("numbers"), topic("copies"), topic("letters"));
    let (plain, gzip, zstd) = (producer("none"), producer("gzip"), producer("zstd"));
    // Good, bad, good, bad: by the offsets it is known which is which.
    let (mut good, mut bad, mut offset) = (Vec::new(), Vec::new(), 0);
    for (_, record) in poison() {
        send(&plain, &input, format!("{{\"id\": {offset}}}").as_bytes());
        send(&plain, &input, &record);
        good.push(offset);
        bad.push(offset + 1);
        offset += 2;
    }
    for producer in [&gzip, &zstd] {
        for record in strange(offset as usize) {
            send(producer, &input, &record);
            good.push(offset);
            offset += 1;
        }
    }
    let option = format!(
        "'scan.startup.mode' = 'earliest-offset', 'on-error' = 'dead-letter', 'dead-letter.topic' = '{letters}'"
    );
    let home = Home::new(&job(&input, &output, &option), &unique("uid"), "");
    let mut pod = home.keep();
    let (mut rows, mut dead) = (Reader::new(&output, 1), Reader::new(&letters, 1));
    wait(&mut pod, "all of it", || {
        while rows.poll(Duration::from_millis(10)) {}
        while dead.poll(Duration::from_millis(10)) {}
        rows.values.len() >= good.len() && dead.values.len() >= bad.len()
    });
    assert!(pod.ended.is_empty(), "{:?}", pod.ended);
    pod.stop();
    assert!(!rows.poll(Duration::from_millis(300)) && !dead.poll(Duration::from_millis(300)), "nothing more comes");
    assert_eq!(ids(&rows), good);
    for ((text, offset), (what, record)) in dead.values.iter().zip(&bad).zip(poison()) {
        let letter: Value = serde_json::from_str(text).unwrap();
        assert_eq!(
            (letter["offset"].as_u64(), letter["topic"].as_str()),
            (Some(*offset), Some(input.as_str())),
            "{what}"
        );
        let kept = letter["record"].as_str().map_or(0, str::len) + letter["record_base64"].as_str().map_or(0, str::len);
        assert!(kept >= record.len(), "{what}: the original bytes are in the letter");
        assert!(!letter["error"].as_str().unwrap().is_empty() && text.len() < 6 * record.len() + 2_000, "{what}");
    }
    println!("{} kinds of poison, {} good records beside them, 2 bombs", bad.len(), good.len());
}

#[test]
#[ignore = "needs the lab"]
fn poison_ends_a_pod_that_says_fail_with_its_place_and_the_cure_works() {
    let (input, output) = (topic("numbers"), topic("copies"));
    let plain = producer("none");
    for (_, record) in poison() {
        send(&plain, &input, &record);
    }
    send(&plain, &input, b"{\"id\": 77}");
    let count = poison().len();
    for (offset, (what, record)) in poison().iter().enumerate() {
        let from = format!(
            "'scan.startup.mode' = 'specific-offsets', 'scan.startup.specific-offsets' = 'partition:0,offset:{offset}'"
        );
        let home = Home::new(&job(&input, &output, &from), &unique("uid"), "");
        let (reason, message) = last_outcome(&home, &home.start(&[]).end());
        assert_eq!(reason, "RecordFailed", "{what}: {message}");
        let place = format!("topic {input}, partition 0, offset {offset}:");
        assert!(message.contains(&place) && message.contains("'on-error'"), "{what}: {message}");
        assert!(message.len() < 1_000 && record.len() < 11 << 20, "{what}: a message of {} bytes", message.len());
        if offset + 1 == count {
            // The cure that the message names.
            home.shop.write("job.yaml", &job(&input, &output, &format!("'on-error' = 'skip', {from}")));
            let mut pod = home.keep();
            let mut rows = Reader::new(&output, 1);
            wait(&mut pod, "the row behind it", || rows.poll(Duration::from_millis(50)));
            assert_eq!(ids(&rows), [77]);
            pod.stop();
        }
    }
}

#[test]
#[ignore = "needs the lab"]
fn a_letter_too_long_for_its_topic_and_a_bomb_too_large_for_the_client_end_the_pod_with_the_reason() {
    let (input, output, letters) = (topic("numbers"), topic("copies"), unique("letters"));
    create_topic_at(&servers(), &letters, 1, &[]);
    let (plain, zstd) = (producer("none"), producer("zstd"));
    send(&plain, &input, b"{\"id\": 1}");
    // The limit is that of the batch on the wire: it must not compress.
    send(&plain, &input, format!("{{\"id\": \"{}\"}}", noise(7, 3_000_000)).as_bytes());
    send(&plain, &input, b"{\"id\": 3}");
    let to = |place: &str| {
        format!("'scan.startup.mode' = 'earliest-offset', 'on-error' = 'dead-letter', 'dead-letter.topic' = '{place}'")
    };
    let home = Home::new(&job(&input, &output, &to(&letters)), &unique("uid"), "");
    let (reason, message) = last_outcome(&home, &home.start(&[]).end());
    assert_eq!(reason, "CommitFailed", "{message}");
    assert!(message.contains(&letters) && message.contains("max.message.bytes"), "{message}");
    // Another topic, that takes it: nothing was lost, nothing is there twice.
    let larger = topic("letters");
    home.shop.write("job.yaml", &job(&input, &output, &to(&larger)));
    let mut pod = home.keep();
    let (mut rows, mut dead) = (Reader::new(&output, 1), Reader::new(&larger, 1));
    wait(&mut pod, "rows and letter", || {
        while rows.poll(Duration::from_millis(10)) {}
        while dead.poll(Duration::from_millis(10)) {}
        rows.values.len() >= 2 && !dead.values.is_empty()
    });
    assert_eq!((ids(&rows), dead.values.len()), (vec![1, 3], 1));
    // 150 MB in some 10 kB: more than the client unpacks.
    send(&zstd, &input, format!("{{\"id\": 4, \"other\": \"{}\"}}", "a".repeat(150 << 20)).as_bytes());
    let Kept { home, running, .. } = pod;
    let (reason, message) = last_outcome(&home, &running.unwrap().end());
    assert_eq!(reason, "RecordFailed", "{message}");
    assert!(message.contains(&format!("topic {input}, partition 0, offset 3")), "{message}");
    assert!(message.contains("cannot be unpacked") && message.contains("specific-offsets"), "{message}");
}
