//! Snapshots in a real S3 server, with files and with Kafka: what the store promises, and jobs that lose their state directory.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests")]

#[path = "kafka_commit/broker.rs"]
#[expect(dead_code, reason = "shared with the tests of the commit log")]
mod broker;
#[path = "cli/workshop.rs"]
#[expect(dead_code, reason = "shared with the tests of the command line")]
mod workshop;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::{Duration, Instant};

use aws_config::BehaviorVersion;
use broker::{Reader, create_topic, servers, unique};
use checkpoint::snapshot::{ObjectId, PartId};
use dataflow::key::ShardId;
use job_runtime::snapshot::origin::Location;
use job_runtime::snapshot::place::StorePlace;
use job_runtime::snapshot::s3::S3Place;
use job_runtime::snapshot::store::{Body, Listing, ObjectStore, Put, StoreError};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use workshop::{Running, Workshop};

/// A new bucket on the lab's server.
fn bucket() -> String {
    let name = unique("snapshots");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true).build();
        aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(&name).send().await.unwrap_or_else(|e| {
            panic!("no S3 server: {e:?}; `make test` starts one; by hand: `make lab`, then use the environment that it prints")
        });
    });
    name
}

fn store(place: &StorePlace) -> std::sync::Arc<dyn ObjectStore> {
    place.open("job", "uid-1", &CancellationToken::new()).unwrap()
}

fn read(store: &dyn ObjectStore, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::new();
    store.get(id, &mut |part| {
        out.extend_from_slice(part);
        Ok(())
    })?;
    Ok(out)
}

#[test]
#[ignore = "needs the lab"]
fn the_server_keeps_what_the_store_promises() {
    let place = StorePlace::parse(&format!("s3://{}/team/a", bucket())).unwrap();
    let store = store(&place);
    let id = |count| ObjectId::File(ShardId(3), PartId { number: 1, process: 7, count });
    assert_eq!(store.list(Listing::All).unwrap(), []);
    assert!(matches!(read(store.as_ref(), &id(1)), Err(StoreError::Missing { .. })));
    let dir = tempfile::tempdir().unwrap();
    let large = dir.path().join("large");
    let bytes: Vec<u8> = (0..20_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&large, &bytes).unwrap();
    assert_eq!(store.put(&id(1), Body::File(&large)).unwrap(), Put::Written);
    assert_eq!(store.put(&id(1), Body::Bytes(b"other")).unwrap(), Put::Exists);
    assert!(read(store.as_ref(), &id(1)).unwrap() == bytes, "20 MB come back");
    for number in 1..=3 {
        store.put(&ObjectId::Checkpoint { pod: 0, number }, Body::Bytes(b"m")).unwrap();
    }
    let listed = store.list(Listing::Checkpoints).unwrap();
    assert_eq!(listed.iter().map(|object| object.length).collect::<Vec<_>>(), [1, 1, 1]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(listed.iter().all(|object| now.abs_diff(object.modified_ms) < 60_000), "{listed:?}");
    store.delete(&id(1)).unwrap();
    store.delete(&id(1)).unwrap();
    assert_eq!(store.list(Listing::All).unwrap().len(), 3);
    // Another job of the same bucket sees none of it.
    let other = place.open("job", "uid-2", &CancellationToken::new()).unwrap();
    assert_eq!(other.list(Listing::All).unwrap(), []);
}

#[test]
#[ignore = "needs the lab"]
fn of_many_who_write_the_same_checkpoint_one_does() {
    let place = StorePlace::parse(&format!("s3://{}", bucket())).unwrap();
    for number in 0..10 {
        let id = ObjectId::Checkpoint { pod: 0, number };
        let written = std::thread::scope(|scope| {
            let put = |own: u8| {
                let (place, id) = (&place, &id);
                scope.spawn(move || store(place).put(id, Body::Bytes(&[own])).unwrap() == Put::Written)
            };
            let racers: Vec<_> = (0..8).map(put).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).filter(|written| *written).count()
        });
        assert_eq!(written, 1, "checkpoint {number}");
    }
}

#[test]
#[ignore = "needs the lab"]
fn what_is_wrong_with_a_bucket_is_said() {
    let endpoint = Some(std::env::var("AWS_ENDPOINT_URL").unwrap());
    let place = |bucket: &str, endpoint: Option<String>| {
        let (bucket, prefix) = (bucket.to_owned(), String::new());
        StorePlace::S3(S3Place { bucket, prefix, endpoint, region: None, path_style: true })
    };
    let list = |place: &StorePlace| store(place).list(Listing::All).unwrap_err();
    let missing = list(&place("there-is-no-such-bucket", endpoint));
    assert!(matches!(missing, StoreError::Refused { .. }), "{missing}");
    assert!(missing.to_string().contains("create the bucket"), "{missing}");
    let begin = Instant::now();
    let nobody = list(&place("any", Some("http://127.0.0.1:9".into())));
    assert!(matches!(nobody, StoreError::Unavailable { .. }), "{nobody}");
    assert!(begin.elapsed() < Duration::from_secs(30), "after {:?}", begin.elapsed());
}

#[test]
#[ignore = "needs the lab"]
fn a_stopped_process_does_not_wait_for_a_server() {
    // Nothing answers there, and nothing refuses.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (bucket, prefix) = ("any".to_owned(), String::new());
    let place = StorePlace::S3(S3Place { bucket, prefix, endpoint, region: None, path_style: true });
    let cancel = CancellationToken::new();
    let store = place.open("job", "uid", &cancel).unwrap();
    let begin = Instant::now();
    let listing = std::thread::spawn(move || store.list(Listing::All).unwrap_err());
    std::thread::sleep(Duration::from_millis(200));
    cancel.cancel();
    let error = listing.join().unwrap();
    assert!(matches!(error, StoreError::Stopped), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(5), "after {:?}", begin.elapsed());
}

#[test]
#[ignore = "needs the lab"]
fn a_savepoint_is_removed_and_nothing_else_is_touched() {
    let bucket = bucket();
    let place = format!("s3://{bucket}/team/a");
    let workshop = Workshop::new();
    workshop.write("job.yaml", &ticks("'connector' = 'blackhole'"));
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let control = format!("127.0.0.1:{port}");
    let mut running = workshop.start(&["run", "job.yaml", "--checkpoint-dir", &place, "--control", &control]);
    running.wait_until("the port", || std::net::TcpStream::connect(&control).is_ok());
    let locations = [["one", "--timeout=60s"], ["one-more", "--stop"]].map(|more| {
        let outcome = Workshop::new().run(&[&["savepoint"], &more[..], &["--control", &control]].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout.trim().to_owned()
    });
    running.end();
    let location = Location::parse(&locations[0]).unwrap();
    let store = location.place.open(location.job_name, location.job_uid, &CancellationToken::new()).unwrap();
    let all = || store.list(Listing::All).unwrap().into_iter().map(|object| object.id).collect::<BTreeSet<_>>();
    let before = all();
    let remove = |more: &[&str]| Workshop::new().run(&[&["remove-savepoint", &locations[0]], more].concat());
    assert_eq!(remove(&[]).code, Some(1));
    assert_eq!(all(), before);
    let outcome = remove(&["--force"]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let gone: Vec<ObjectId> = before.difference(&all()).cloned().collect();
    let name = || "one".to_owned();
    assert_eq!(gone, [ObjectId::Savepoint { name: name(), pod: 0 }, ObjectId::SavepointRoot { name: name() }]);
    assert!(all().is_subset(&before));
    // The other one can still be begun from.
    let workshop = Workshop::new();
    workshop.write("job.yaml", &ticks("'connector' = 'blackhole'"));
    let outcome = workshop.run(&["run", "job.yaml", "--from-savepoint", &locations[1]]);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

/// Seconds of event time; the generator makes 50 in a second.
const SECONDS: i64 = 400;

/// Windows of a generator, with a snapshot every second.
fn ticks(sink: &str) -> String {
    let path = format!("{}/tests/cli/jobs/ticks.yaml", env!("CARGO_MANIFEST_DIR"));
    let job = fs::read_to_string(path).unwrap();
    let file = "'connector' = 'filesystem',\n      'path' = 'out/seconds.jsonl',\n      'format' = 'json'";
    assert!(job.contains(file), "the job's sink is another one");
    let job = job.replace("spec:\n", "spec:\n  checkpoint: {interval: 1s, retention: {count: 1}}\n");
    job.replace(file, sink).replace("'149999'", &format!("'{}'", SECONDS * 1000 - 1))
}

fn start(workshop: &Workshop, place: &str) -> Running {
    let program = ["env", "RUST_LOG=info", env!("CARGO_BIN_EXE_millstream")];
    workshop.start_as(&program, &["run", "job.yaml", "--checkpoint-dir", place])
}

/// Runs the job, each time until it has taken a snapshot, and removes its state; then to the end. Returns what it said at the end.
fn lose_state_again_and_again(workshop: &Workshop, place: &str, times: usize) -> String {
    for round in 0..times {
        let mut running = start(workshop, place);
        // Behind the first, what is old was removed before the second began.
        running.wait_until("snapshots", || workshop.read(".stderr").matches("snapshot taken").count() >= 2);
        drop(running);
        if round > 0 {
            assert!(workshop.read(".stderr").contains("restored from a snapshot"), "{}", workshop.read(".stderr"));
        }
        fs::remove_dir_all(workshop.path(".millstream")).unwrap();
    }
    let outcome = start(workshop, place).end();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    outcome.stderr
}

/// Per second, the number of ticks and their sum; every second once.
fn check(rows: impl Iterator<Item = String>) {
    let mut found = BTreeMap::new();
    for text in rows {
        let row: Value = serde_json::from_str(&text).unwrap();
        let values = (row["ticks"].as_i64().unwrap(), row["total"].as_i64().unwrap());
        assert!(found.insert(row["second"].as_str().unwrap().to_owned(), values).is_none(), "twice: {text}");
    }
    let want: Vec<(i64, i64)> = (0..SECONDS).map(|second| (1000, (second * 1000..(second + 1) * 1000).sum())).collect();
    assert_eq!(found.into_values().collect::<Vec<_>>(), want);
}

#[test]
#[ignore = "needs the lab"]
fn a_job_with_files_that_loses_its_directory_goes_on_from_the_bucket() {
    let workshop = Workshop::new();
    workshop.write("job.yaml", &ticks("'connector' = 'filesystem', 'path' = 'out/seconds.jsonl', 'format' = 'json'"));
    let said = lose_state_again_and_again(&workshop, &format!("s3://{}/jobs", bucket()), 2);
    assert!(said.contains("restored from a snapshot"), "{said}");
    check(workshop.read("out/seconds.jsonl").lines().map(str::to_owned));
}

#[test]
#[ignore = "needs the lab"]
fn a_job_with_kafka_goes_on_from_the_bucket_and_what_is_left_of_the_changelog() {
    let topic = unique("seconds");
    create_topic(&topic, 1);
    let workshop = Workshop::new();
    let sink = format!(
        "'connector' = 'kafka', 'topic' = '{topic}', 'properties.bootstrap.servers' = '{}', 'format' = 'json'",
        servers()
    );
    let uid = unique("uid");
    let job = ticks(&sink).replace("  name: ticks\n", &format!("  name: ticks\n  uid: {uid}\n"));
    workshop.write("job.yaml", &job);
    let said = lose_state_again_and_again(&workshop, &format!("s3://{}", bucket()), 2);
    assert!(said.contains("restored from a snapshot"), "{said}");
    let mut reader = Reader::new(&topic, 1);
    reader.until(SECONDS as usize);
    reader.poll(Duration::from_secs(1));
    check(reader.values.into_iter());
    // The changelog is trimmed: without the snapshots nothing could have been restored.
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers()).create().unwrap();
    let changelog = checkpoint::names::changelog_topic(&uid);
    let low = |shard| consumer.fetch_watermarks(&changelog, shard, Duration::from_secs(10)).unwrap().0;
    let lows: Vec<i64> = (0..16).map(low).collect();
    assert!(lows.iter().any(|low| *low > 0), "{lows:?}");
}
