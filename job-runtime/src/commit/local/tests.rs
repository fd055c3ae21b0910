//! Promises of the local commit log over restarts and torn writes. Does not start the runtime.

use super::*;
use crate::commit::KafkaOffset;
use crate::state::rocks::{RocksConfig, RocksDatabases};
use dataflow::worker::CommitId;

struct Home {
    dir: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { dir: tempfile::tempdir().unwrap() };
        fs::create_dir(home.log()).unwrap();
        home
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn stores(&self, shards: u16) -> Vec<RocksShardStore> {
        let databases = RocksDatabases::new(&self.dir.path().join("shards"), RocksConfig::default()).unwrap();
        (0..shards).map(|shard| databases.open(ShardId(shard)).unwrap()).collect()
    }

    fn open(&self, stores: &mut [RocksShardStore]) -> Result<LocalCommitLog, LocalLogError> {
        LocalCommitLog::open(&self.log(), "job", SMALL, stores)
    }

    fn segments(&self) -> Vec<PathBuf> {
        segment_paths(&self.log()).unwrap()
    }

    /// State as if the machine had been lost: nothing was flushed.
    fn lose_unflushed(&self) {
        fs::remove_dir_all(self.dir.path().join("shards")).unwrap();
    }
}

const SMALL: LocalLogConfig = LocalLogConfig { segment_bytes: 400, log_bytes: 800 };

fn change(value: u64) -> ChangeBatch {
    let mut batch = ChangeBatch::new();
    batch.put(b"\0\x01\0\0\0\x20key", &value.to_be_bytes());
    batch
}

fn request(id: u64, shards: &[u16]) -> CommitRequest {
    let changes = shards.iter().map(|shard| (ShardId(*shard), change(id))).collect();
    CommitRequest { id: CommitId(id), changes, kafka_offsets: Vec::new() }
}

fn value(store: &RocksShardStore) -> Option<u64> {
    let found = store.multi_get(&[b"\0\x01\0\0\0\x20key"]).unwrap();
    found[0].as_ref().map(|bytes| u64::from_be_bytes(bytes.as_slice().try_into().unwrap()))
}

fn commit_and_apply(log: &mut LocalCommitLog, stores: &mut [RocksShardStore], id: u64, shards: &[u16]) {
    for (shard, offset) in log.commit(request(id, shards)).unwrap() {
        stores[usize::from(shard.0)].apply(&change(id), offset).unwrap();
    }
}

#[test]
fn what_was_committed_and_not_applied_is_applied_at_the_next_start() {
    let home = Home::new();
    let mut stores = home.stores(2);
    let mut log = home.open(&mut stores).unwrap();
    for id in 1..=5 {
        log.commit(request(id, &[(id % 2) as u16])).unwrap();
    }
    drop((log, stores));
    let mut stores = home.stores(2);
    let mut log = home.open(&mut stores).unwrap();
    assert_eq!((value(&stores[0]), value(&stores[1])), (Some(4), Some(5)));
    assert_eq!((stores[0].applied(), stores[1].applied()), (Some(LogOffset(4)), Some(LogOffset(5))));
    let offsets = log.commit(request(1, &[0])).unwrap();
    assert_eq!(offsets, [(ShardId(0), LogOffset(6))], "the log's own numbers go on where they were");
}

#[test]
fn an_empty_commit_leaves_no_record() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    let before = fs::metadata(&home.segments()[0]).unwrap().len();
    assert!(log.commit(request(1, &[])).unwrap().is_empty());
    assert_eq!(fs::metadata(&home.segments()[0]).unwrap().len(), before);
}

#[test]
fn a_torn_record_at_the_end_is_cut_off_at_every_length() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    log.commit(request(1, &[0])).unwrap();
    let whole = fs::metadata(&home.segments()[0]).unwrap().len();
    log.commit(request(2, &[0])).unwrap();
    drop((log, stores));
    let bytes = fs::read(&home.segments()[0]).unwrap();
    for length in (whole as usize + 1..bytes.len()).step_by(7) {
        home.lose_unflushed();
        fs::write(&home.segments()[0], &bytes[..length]).unwrap();
        let mut stores = home.stores(1);
        let log = home.open(&mut stores).unwrap();
        assert_eq!(value(&stores[0]), Some(1));
        drop(log);
        assert_eq!(fs::metadata(&home.segments()[0]).unwrap().len(), whole);
    }
}

#[test]
fn damage_in_the_middle_names_file_and_byte_and_changes_nothing() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    (1..=2).for_each(|id| drop(log.commit(request(id, &[0])).unwrap()));
    drop((log, stores));
    let path = &home.segments()[0];
    let mut bytes = fs::read(path).unwrap();
    bytes[local_log::SEGMENT_HEADER + 20] ^= 1;
    fs::write(path, &bytes).unwrap();
    let mut stores = home.stores(1);
    let error = home.open(&mut stores).err().expect("refused").to_string();
    assert!(
        error.contains(&path.display().to_string()) && error.contains("at byte 29") && error.contains("--fresh"),
        "{error}"
    );
    assert_eq!(fs::read(path).unwrap(), bytes);
}

#[test]
fn segments_go_when_every_shard_has_flushed_past_them() {
    let home = Home::new();
    let mut stores = home.stores(2);
    let mut log = home.open(&mut stores).unwrap();
    // Shard 1 changes once and never again: it must not hold the log for ever.
    commit_and_apply(&mut log, &mut stores, 1, &[0, 1]);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut id = 1;
    while home.segments().first().is_some_and(|path| path.ends_with("00000000000000000001.log")) {
        id += 1;
        commit_and_apply(&mut log, &mut stores, id, &[0]);
        assert!(std::time::Instant::now() < deadline, "the first segment is still there after {id} commits");
    }
    assert!(!home.segments().is_empty());
    drop((log, stores));
    let mut stores = home.stores(2);
    let _log = home.open(&mut stores).unwrap();
    assert_eq!((value(&stores[0]), value(&stores[1])), (Some(id), Some(1)));
}

#[test]
fn a_log_that_lost_commits_is_refused() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    (1..=30).for_each(|id| drop(log.commit(request(id, &[0])).unwrap()));
    drop((log, stores));
    let segments = home.segments();
    assert!(segments.len() > 2);
    let kept = fs::read(&segments[1]).unwrap();
    fs::remove_file(&segments[1]).unwrap();
    let mut stores = home.stores(1);
    assert!(matches!(home.open(&mut stores), Err(LocalLogError::Missing { .. })), "a gap");
    drop(stores);
    fs::write(&segments[1], kept).unwrap();
    let mut stores = home.stores(1);
    drop(home.open(&mut stores).unwrap());
    stores[0].flush_handle().flush().unwrap();
    drop(stores);
    segments.iter().for_each(|path| fs::remove_file(path).unwrap());
    let mut stores = home.stores(1);
    let error = home.open(&mut stores).err().expect("state without its log");
    assert!(matches!(error, LocalLogError::Missing { expected: 1, before: 30, .. }), "{error}");
}

#[test]
fn another_jobs_log_is_refused() {
    let home = Home::new();
    let mut stores = home.stores(1);
    drop(home.open(&mut stores).unwrap());
    let error = LocalCommitLog::open(&home.log(), "other", SMALL, &mut stores).err().expect("refused");
    assert!(matches!(error, LocalLogError::OtherJob { .. }), "{error}");
}

#[test]
fn a_segment_that_was_being_made_is_made_again() {
    let home = Home::new();
    fs::write(home.log().join("00000000000000000001.log"), [77; 5]).unwrap();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    log.commit(request(1, &[0])).unwrap();
}

#[test]
fn a_full_disk_says_where_and_what_to_do_and_the_log_stays_closed() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    // Every write to /dev/full fails as on a full disk.
    log.file = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let error = log.commit(request(1, &[0])).unwrap_err();
    assert!(matches!(error, CommitError::Fatal { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains(&home.segments()[0].display().to_string()) && text.contains("free some space"), "{text}");
    assert!(log.commit(request(2, &[0])).unwrap_err().to_string().contains("an earlier commit failed"));
}

#[test]
fn output_for_kafka_is_refused() {
    let home = Home::new();
    let mut stores = home.stores(1);
    let mut log = home.open(&mut stores).unwrap();
    let offset = KafkaOffset { topic: "t".into(), partition: 0, next_offset: 1, watermark_ms: None };
    let offsets = CommitRequest { id: CommitId(1), changes: Vec::new(), kafka_offsets: vec![offset] };
    assert!(matches!(log.commit(offsets), Err(CommitError::Fatal { .. })));
}
