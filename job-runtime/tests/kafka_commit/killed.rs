//! A process that copies a topic and counts in its state is killed at random moments; what an independent reader sees must be exact.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use dataflow::key::ShardId;
use dataflow::source::{PartitionId, SourcePoll, SourcePosition};
use dataflow::state::ShardStore;
use dataflow::worker::CommitId;
use job_runtime::commit::{CommitLog, CommitRequest};
use job_runtime::connector::{Opening, Start};
use job_runtime::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};

use crate::broker::{Reader, config, create_topic, start, unique};
use crate::source::{factory, fill, ids};
use crate::{change, chunk, get, read_to};

const ROWS: i64 = 60_000;
const KILLS: usize = 20;
const JOB: &str = "MILLSTREAM_TEST_JOB";

fn stores(dir: &str) -> Vec<RocksShardStore> {
    let databases = RocksDatabases::new(dir.as_ref(), RocksConfig::default()).unwrap();
    (0..4).map(|shard| databases.open(ShardId(shard)).unwrap()).collect()
}

/// The process that is killed: it is this test, started by the other one with the job in its environment.
#[test]
#[ignore = "needs the lab"]
fn copying_process() {
    let Ok(job) = std::env::var(JOB) else { return };
    let [uid, input, output, dir]: [&str; 4] = job.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let mut stores = stores(dir);
    let mut log = start(config(uid, 4), &mut stores);
    let committed = log.committed_offsets(&[(input.to_owned(), 0)]).unwrap();
    let position = committed.get(&(input.to_owned(), 0)).map(|read| SourcePosition::Kafka {
        topic: input.to_owned(),
        partition: 0,
        next_offset: read.next_offset,
    });
    let (wake, woken) = sync_channel(1);
    let factory =
        factory(input, &[("scan.startup.mode", "earliest-offset"), ("scan.bounded.mode", "latest-offset")]).unwrap();
    let wake = Arc::new(move || wake.try_send(()).unwrap_or_default());
    let start = position.map_or(Start::First, Start::At);
    let opening = Opening { start, wake, stats: Arc::default() };
    let mut partition = factory.open(&PartitionId(format!("{input}-0")), opening).unwrap();
    let mut count: i64 = get(&stores[3], "count").map_or(0, |text| text.parse().unwrap());
    let mut id = 0;
    loop {
        let rows = match partition.poll(100).unwrap() {
            SourcePoll::Batch(batch) => ids(&batch),
            SourcePoll::Pending => {
                woken.recv_timeout(Duration::from_secs(20)).unwrap();
                continue;
            }
            SourcePoll::End => return,
        };
        // The state is in the output: a count that was lost or counted twice would be seen.
        let text: Vec<String> = rows
            .iter()
            .map(|row| {
                count += 1;
                format!("{row} {count}")
            })
            .collect();
        log.write(output, &chunk(&text.iter().map(String::as_str).collect::<Vec<_>>())).unwrap();
        let SourcePosition::Kafka { next_offset, .. } = partition.position() else { panic!("a Kafka position") };
        id += 1;
        let changes = vec![(ShardId(3), change("count", &count.to_string()))];
        let request =
            CommitRequest { id: CommitId(id), changes, kafka_offsets: vec![read_to(input, next_offset, None)] };
        for (shard, offset) in log.commit(request).unwrap() {
            stores[usize::from(shard.0)].apply(&change("count", &count.to_string()), offset).unwrap();
        }
        // Slow enough that the kills meet it at work.
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn spawn(job: &str) -> Child {
    let this = std::env::current_exe().unwrap();
    let mut command = Command::new(this);
    command.args(["--exact", "killed::copying_process", "--nocapture", "--ignored"]).env(JOB, job);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
#[ignore = "needs the lab"]
fn killed_twenty_times_the_output_is_exact() {
    let (uid, input, output) = (unique("job"), unique("in"), unique("out"));
    let dir = tempfile::tempdir().unwrap();
    create_topic(&input, 1);
    create_topic(&output, 1);
    fill(&input, 0, 0..ROWS);
    let job = format!("{uid} {input} {output} {}", dir.path().display());
    let mut noise = std::process::id();
    let mut seen_before = 0;
    let mut reader = Reader::new(&output, 1);
    for kill in 0..KILLS {
        let mut child = spawn(&job);
        noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        std::thread::sleep(Duration::from_millis(u64::from(300 + (noise >> 16) % 1500)));
        child.kill().unwrap();
        child.wait().unwrap();
        while reader.values.len() < ROWS as usize && reader.poll(Duration::from_millis(50)) {}
        println!(
            "kill {kill}: {} rows committed, {} since the last",
            reader.values.len(),
            reader.values.len() - seen_before
        );
        seen_before = reader.values.len();
    }
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut child = spawn(&job);
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if Instant::now() > deadline => {
                child.kill().unwrap();
                panic!("the last run did not end");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    assert!(status.success(), "the last run failed: {status}");
    let expected: Vec<String> = (0..ROWS).map(|row| format!("{row} {}", row + 1)).collect();
    assert!(seen_before < ROWS as usize, "the kills met a finished job");
    assert!(reader.until(ROWS as usize) == expected, "rows lost, repeated or out of order");
    assert!(!reader.poll(Duration::from_secs(1)), "nothing after the last row");
}
