//! The Kafka commit log against a real broker: what is committed is seen once, what is not is never seen.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "tests, and their measurements are printed")]

#[path = "kafka_commit/broker.rs"]
mod broker;
#[path = "kafka_commit/killed.rs"]
mod killed;
#[path = "kafka_commit/owners.rs"]
mod owners;
#[path = "kafka_commit/secure.rs"]
mod secure;
#[path = "kafka_commit/source.rs"]
mod source;

use std::time::{Duration, Instant};

use broker::{Reader, config, create_topic, start, unique};
use dataflow::graph::NodeId;
use dataflow::key::ShardId;
use dataflow::sink::{EncodedRows, SinkChunk, SinkPayload};
use dataflow::state::{ChangeBatch, LogOffset, ShardStore};
use dataflow::worker::CommitId;
use job_runtime::commit::kafka::{KafkaCommitLog, KafkaLogConfig, RecoverError};
use job_runtime::commit::{CommitError, CommitLog, CommitRequest, KafkaOffset};
use job_runtime::kafka::client::ConnectError;
use job_runtime::kafka::properties::{ClusterDefaults, KafkaProperties};
use job_runtime::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};

fn chunk(values: &[&str]) -> SinkChunk {
    let mut rows = EncodedRows::default();
    for value in values {
        rows.bytes.extend_from_slice(value.as_bytes());
        rows.ends.push(rows.bytes.len() as u32);
    }
    SinkChunk { sink: NodeId(1), worker: 0, payload: SinkPayload::Rows(rows) }
}

fn change(key: &str, value: &str) -> ChangeBatch {
    let mut batch = ChangeBatch::new();
    batch.put(&[b"\0\0\0\0\0\x20", key.as_bytes()].concat(), value.as_bytes());
    batch
}

fn get(store: &RocksShardStore, key: &str) -> Option<String> {
    let key = [b"\0\0\0\0\0\x20", key.as_bytes()].concat();
    store.multi_get(&[&key]).unwrap().remove(0).map(|v| String::from_utf8(v).unwrap())
}

fn request(id: u64, changes: Vec<(ShardId, ChangeBatch)>, kafka_offsets: Vec<KafkaOffset>) -> CommitRequest {
    CommitRequest { id: CommitId(id), changes, kafka_offsets }
}

/// The first partition of a topic, read up to an offset.
fn read_to(topic: &str, next_offset: i64, watermark_ms: Option<i64>) -> KafkaOffset {
    KafkaOffset { topic: topic.to_owned(), partition: 0, next_offset, watermark_ms }
}

struct Disk(tempfile::TempDir);

impl Disk {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn stores(&self, shards: u16) -> Vec<RocksShardStore> {
        let databases = RocksDatabases::new(self.0.path(), RocksConfig::default()).unwrap();
        (0..shards).map(|shard| databases.open(ShardId(shard)).unwrap()).collect()
    }
}

#[test]
#[ignore = "needs the lab"]
fn output_state_and_offsets_of_a_commit_are_there_after_a_restart() {
    let (uid, out) = (unique("job"), unique("out"));
    let input = unique("in");
    create_topic(&out, 1);
    create_topic(&input, 2);
    let disk = Disk::new();
    let mut stores = disk.stores(4);
    let mut log = start(config(&uid, 4), &mut stores);
    log.write(&out, &chunk(&["a", "b"])).unwrap();
    let changes = vec![(ShardId(1), change("k", "1")), (ShardId(3), change("k", "3"))];
    let applied = log.commit(request(1, changes, vec![read_to(&input, 17, None)])).unwrap();
    assert_eq!(applied.iter().map(|(shard, _)| shard.0).collect::<Vec<_>>(), [1, 3]);
    stores[1].apply(&change("k", "1"), applied[0].1).unwrap();
    log.write(&out, &chunk(&["c"])).unwrap();
    log.commit(request(2, vec![(ShardId(1), change("k", "2"))], vec![read_to(&input, 18, Some(-7))])).unwrap();
    assert_eq!(Reader::new(&out, 1).until(3), ["a", "b", "c"]);
    drop((log, stores));
    // The same disk, and a new one: both end at the same state.
    for disk in [disk, Disk::new()] {
        let mut stores = disk.stores(4);
        let log = start(config(&uid, 4), &mut stores);
        assert_eq!(
            (get(&stores[1], "k"), get(&stores[3], "k"), get(&stores[0], "k")),
            (Some("2".into()), Some("3".into()), None)
        );
        let offsets = log.committed_offsets(&[(input.clone(), 0), (input.clone(), 1)]).unwrap();
        assert_eq!(offsets.into_values().collect::<Vec<_>>(), [read_to(&input, 18, Some(-7))]);
    }
}

#[test]
#[ignore = "needs the lab"]
fn nothing_to_commit_makes_no_transaction() {
    let uid = unique("job");
    let mut stores = Disk::new().stores(1);
    let mut log = start(config(&uid, 1), &mut stores);
    assert!(log.commit(request(1, Vec::new(), Vec::new())).unwrap().is_empty());
    let applied = log.commit(request(2, vec![(ShardId(0), change("k", "1"))], Vec::new())).unwrap();
    assert_eq!(applied, [(ShardId(0), LogOffset(0))], "the first record of the changelog");
}

/// What a killed process leaves: its transaction is open, and nothing of it ends in order.
fn kill(log: KafkaCommitLog) {
    std::mem::forget(log);
}

#[test]
#[ignore = "needs the lab"]
fn an_open_transaction_of_a_killed_process_is_never_seen_and_blocks_readers_for_a_restart_only() {
    let (uid, out) = (unique("job"), unique("out"));
    create_topic(&out, 1);
    let disk = Disk::new();
    let mut worst = Duration::ZERO;
    for round in 0..5u64 {
        let mut stores = disk.stores(2);
        let mut log = start(config(&uid, 2), &mut stores);
        log.write(&out, &chunk(&[&format!("right-{round}")])).unwrap();
        log.commit(request(1, Vec::new(), Vec::new())).unwrap();
        log.write(&out, &chunk(&["never"])).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        kill(log);
        drop(stores);
        let killed = Instant::now();
        let mut stores = disk.stores(2);
        let fenced = KafkaCommitLog::fence(config(&uid, 2)).unwrap();
        let fence = killed.elapsed();
        let mut log = fenced.assigned(&mut ()).unwrap().recover(&mut stores).unwrap();
        let restarted = killed.elapsed();
        log.write(&out, &chunk(&[&format!("after-{round}")])).unwrap();
        log.commit(request(1, Vec::new(), Vec::new())).unwrap();
        let committed = killed.elapsed();
        let mut reader = Reader::new(&out, 1);
        reader.until(2 * round as usize + 2);
        assert!(!reader.values.iter().any(|v| v == "never"), "{:?}", reader.values);
        let blocked = killed.elapsed();
        println!(
            "round {round}: fence {fence:?}, recovered {restarted:?}, committed {committed:?}, a new reader has it {blocked:?}"
        );
        worst = worst.max(blocked);
        assert!(blocked < restarted + Duration::from_secs(1), "restart {restarted:?}, blocked {blocked:?}");
    }
    println!("readers were held back for {worst:?} at most");
}

#[test]
#[ignore = "needs the lab"]
fn a_process_that_was_replaced_is_fenced_and_commits_nothing() {
    let (uid, out) = (unique("job"), unique("out"));
    create_topic(&out, 1);
    let (mut first, mut second) = (Disk::new().stores(1), Disk::new().stores(1));
    let mut old = start(config(&uid, 1), &mut first);
    old.write(&out, &chunk(&["old"])).unwrap();
    let mut new = start(config(&uid, 1), &mut second);
    let error = old.commit(request(1, vec![(ShardId(0), change("k", "old"))], Vec::new())).unwrap_err();
    assert!(matches!(error, CommitError::Fenced { .. }), "{error:?}");
    assert!(
        matches!(old.commit(request(2, Vec::new(), Vec::new())), Err(CommitError::Fatal { .. })),
        "and stays closed"
    );
    new.write(&out, &chunk(&["new"])).unwrap();
    new.commit(request(1, Vec::new(), Vec::new())).unwrap();
    let mut reader = Reader::new(&out, 1);
    assert_eq!(reader.until(1), ["new"]);
}

#[test]
#[ignore = "needs the lab"]
fn a_large_commit_is_split_and_comes_back_whole() {
    let uid = unique("job");
    let mut batch = ChangeBatch::new();
    for i in 0..3000u32 {
        let mut noise = i.wrapping_mul(2_654_435_761);
        let value: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (noise >> 24) as u8
        })
        .take(1000)
        .collect();
        batch.put(&[b"\0\0\0\0\0\x20".as_slice(), &i.to_be_bytes()].concat(), &value);
    }
    let mut stores = Disk::new().stores(1);
    let mut log = start(config(&uid, 1), &mut stores);
    let applied = log.commit(request(1, vec![(ShardId(0), batch)], Vec::new())).unwrap();
    drop(log);
    let mut stores = Disk::new().stores(1);
    drop(start(config(&uid, 1), &mut stores));
    let mut entries = 0;
    stores[0].scan(b"", &mut |_, _| entries += 1).unwrap();
    assert_eq!((entries, stores[0].applied()), (3000, Some(applied[0].1)));
}

#[test]
#[ignore = "needs the lab"]
fn offsets_of_something_else_in_the_same_group_are_not_ours() {
    let (uid, topic) = (unique("job"), unique("in"));
    create_topic(&topic, 1);
    let group = unique("shared-group");
    let theirs: rdkafka::consumer::BaseConsumer = rdkafka::config::ClientConfig::new()
        .set("bootstrap.servers", broker::servers())
        .set("group.id", &group)
        .create()
        .unwrap();
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, rdkafka::Offset::Offset(5)).unwrap();
    rdkafka::consumer::Consumer::commit(&theirs, &list, rdkafka::consumer::CommitMode::Sync).unwrap();
    let mut stores = Disk::new().stores(1);
    let mut log = start(KafkaLogConfig { group: Some(group), ..config(&uid, 1) }, &mut stores);
    assert!(log.committed_offsets(&[(topic.clone(), 0)]).unwrap().is_empty());
    log.commit(request(1, Vec::new(), vec![read_to(&topic, 7, None)])).unwrap();
    assert_eq!(log.committed_offsets(&[(topic.clone(), 0)]).unwrap()[&(topic.clone(), 0)], read_to(&topic, 7, None));
}

#[test]
#[ignore = "needs the lab"]
fn a_topic_that_is_not_there_is_named_and_nothing_is_committed() {
    let uid = unique("job");
    let mut stores = Disk::new().stores(1);
    let mut log = start(config(&uid, 1), &mut stores);
    let missing = unique("missing");
    let result = log
        .write(&missing, &chunk(&["x"]))
        .and_then(|()| log.commit(request(1, vec![(ShardId(0), change("k", "1"))], Vec::new())));
    let error = result.unwrap_err();
    assert!(matches!(error, CommitError::Fatal { .. }) && error.to_string().contains(&missing), "{error}");
    drop(log);
    let mut stores = Disk::new().stores(1);
    drop(start(config(&uid, 1), &mut stores));
    assert_eq!(get(&stores[0], "k"), None);
}

#[test]
#[ignore = "needs the lab"]
fn other_shards_other_pods_and_other_disks_are_refused() {
    let uid = unique("job");
    let disk = Disk::new();
    let mut stores = disk.stores(2);
    let mut log = start(config(&uid, 2), &mut stores);
    let applied = log.commit(request(1, vec![(ShardId(1), change("k", "1"))], Vec::new())).unwrap();
    drop(log);
    let recover = |config, stores: &mut [RocksShardStore]| {
        KafkaCommitLog::fence(config)
            .unwrap()
            .assigned(&mut ())
            .and_then(|assigned| assigned.recover(stores))
            .err()
            .expect("refused")
    };
    let error = recover(config(&uid, 3), &mut Disk::new().stores(3));
    assert!(
        matches!(&error, RecoverError::Partitions { found: 2, expected: 3, .. })
            && error.to_string().contains("spec.shards: 2"),
        "{error}"
    );
    let deadline = Duration::from_secs(1);
    let second = KafkaLogConfig { ordinal: 1, pods: 2, deadline, ..config(&uid, 2) };
    let error = recover(second, &mut Disk::new().stores(2));
    assert!(matches!(error, RecoverError::NotAssigned { ordinal: 1, number: 1, pods: 1, shards: 2 }), "{error}");
    // A disk that is ahead of the log is not this log's.
    stores[1].apply(&change("k", "9"), LogOffset(applied[0].1.0 + 100)).unwrap();
    let error = recover(config(&uid, 2), &mut stores);
    assert!(
        matches!(error, RecoverError::Gap { shard: ShardId(1), .. }) && error.to_string().contains("--fresh"),
        "{error}"
    );
}

#[test]
#[ignore = "needs the lab"]
fn a_pod_that_may_not_make_the_first_assignment_waits_for_pod_0() {
    let deadline = Duration::from_secs(1);
    let config = KafkaLogConfig { ordinal: 1, pods: 2, deadline, ..config(&unique("job"), 2) };
    let error = KafkaCommitLog::fence(config).unwrap().assigned(&mut ()).err().expect("refused");
    assert!(matches!(error, RecoverError::NoAssignment { seconds: 18 }), "{error}");
}

#[test]
#[ignore = "needs the lab"]
fn a_broker_that_is_not_there_is_named_within_the_deadline() {
    let nowhere =
        KafkaProperties::new(&ClusterDefaults::default(), &[("bootstrap.servers".into(), "127.0.0.1:9".into())])
            .unwrap();
    let config = KafkaLogConfig { properties: nowhere, deadline: Duration::from_secs(3), ..config(&unique("job"), 1) };
    let started = Instant::now();
    let error = KafkaCommitLog::fence(config).err().expect("refused");
    assert!(
        matches!(error, ConnectError::Unreachable { .. }) && error.to_string().contains("127.0.0.1:9 within 3 s"),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(7), "{:?}", started.elapsed());
}

#[test]
#[ignore = "needs the lab"]
fn how_long_a_commit_takes() {
    let (uid, out) = (unique("job"), unique("out"));
    let input = unique("in");
    create_topic(&out, 4);
    create_topic(&input, 1);
    let mut stores = Disk::new().stores(16);
    let mut log = start(config(&uid, 16), &mut stores);
    let mut times = Vec::new();
    for id in 1..=100u64 {
        std::thread::sleep(Duration::from_millis(20));
        let begin = Instant::now();
        log.write(&out, &chunk(&["row"; 50])).unwrap();
        let changes = (0..16).map(|shard| (ShardId(shard), change("k", &id.to_string()))).collect();
        log.commit(request(id, changes, vec![read_to(&input, id as i64, None)])).unwrap();
        times.push(begin.elapsed());
    }
    times.sort();
    println!(
        "commit of 16 changelog partitions, 4 output partitions and offsets: p50 {:?}, p99 {:?}",
        times[50], times[98]
    );
    assert!(times[50] < Duration::from_millis(90), "the flush must come before the offsets: p50 {:?}", times[50]);
}
