//! A pod without workers: shards, a log of either kind, snapshots, and an oracle that knows what every commit did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use checkpoint::snapshot::choice::LogBounds;
use checkpoint::snapshot::retention::Listed;
use checkpoint::snapshot::{JobPrefix, ObjectId};
use dataflow::key::{KeyGroup, ShardId, Shards};
use dataflow::state::{Change, ChangeBatch, LogOffset, ShardStore, state_key_prefix};
use dataflow::worker::CommitId;

use crate::commit::local::{LocalCommitLog, LocalLogConfig};
use crate::commit::{CommitLog, CommitRequest};
use crate::snapshot::directory::DirectoryStore;
use crate::snapshot::origin;
use crate::snapshot::place::StorePlace;
use crate::snapshot::start::{self, Restored};
use crate::snapshot::store::{Body, Listing, ObjectStore, Put, StoreError};
use crate::snapshot::take::{JobOf, SavepointOf, Taken, Taker, Whole, complete};
use crate::snapshot::{SnapshotError, restore};
use crate::state::directory::{JobIdentity, Patience, StateDirectory};
use crate::state::rocks::{RocksConfig, RocksDatabases, RocksShardStore};

/// Uid of the job.
pub(super) const UID: &str = "u-1";
/// Its shards.
pub(super) const SHARDS: u16 = 3;
/// Small segments, so that the log has several.
const LOG: LocalLogConfig = LocalLogConfig { segment_bytes: 200_000, log_bytes: 800_000 };

/// Which log the job has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Kafka,
    Local,
}

/// Entries of all shards.
type State = BTreeMap<Vec<u8>, Vec<u8>>;

/// A store whose calls fail from a certain one on.
pub(super) struct FaultStore {
    pub(super) inner: DirectoryStore,
    calls: AtomicU64,
    /// The first call that fails.
    from: AtomicU64,
    /// The first call to fail takes effect: only its reply is lost.
    reply_lost: std::sync::atomic::AtomicBool,
}

impl FaultStore {
    fn call<T>(&self, call: impl FnOnce(&DirectoryStore) -> Result<T, StoreError>) -> Result<T, StoreError> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        let from = self.from.load(Ordering::SeqCst);
        if number < from {
            return call(&self.inner);
        }
        if number == from && self.reply_lost.load(Ordering::SeqCst) {
            call(&self.inner)?;
        }
        Err(StoreError::Unavailable { place: "faults".into(), action: "call".into(), message: "planned".into() })
    }
}

impl ObjectStore for FaultStore {
    fn place(&self) -> String {
        self.inner.place()
    }

    fn key(&self, id: &ObjectId) -> String {
        self.inner.key(id)
    }

    fn put(&self, id: &ObjectId, body: Body<'_>) -> Result<Put, StoreError> {
        self.call(|store| store.put(id, body))
    }

    fn get(&self, id: &ObjectId, part: &mut dyn FnMut(&[u8]) -> std::io::Result<()>) -> Result<(), StoreError> {
        self.call(|store| store.get(id, part))
    }

    fn list(&self, listing: Listing) -> Result<Vec<Listed>, StoreError> {
        self.call(|store| store.list(listing))
    }

    fn delete(&self, id: &ObjectId) -> Result<(), StoreError> {
        self.call(|store| store.delete(id))
    }
}

/// What is open while the pod runs.
struct Running {
    stores: Vec<RocksShardStore>,
    log: Option<LocalCommitLog>,
    taker: Taker,
    _directory: StateDirectory,
}

/// See the module's documentation.
pub(super) struct Rig {
    kind: Kind,
    place: tempfile::TempDir,
    pub(super) store: Arc<FaultStore>,
    running: Option<Running>,
    /// What Kafka holds: per shard, its records from offset 0; those below `low` are gone.
    changelog: Vec<Vec<ChangeBatch>>,
    low: Vec<i64>,
    /// The state after each commit, from none.
    oracle: Vec<State>,
}

impl Rig {
    pub(super) fn new(kind: Kind) -> Self {
        let place = tempfile::tempdir().unwrap();
        let inner = DirectoryStore::new(&place.path().join("store"), JobPrefix::new("", "job", UID).unwrap());
        let store = Arc::new(FaultStore {
            inner,
            calls: AtomicU64::new(0),
            from: AtomicU64::new(u64::MAX),
            reply_lost: false.into(),
        });
        let shards = usize::from(SHARDS);
        let (changelog, low) = (vec![Vec::new(); shards], vec![0; shards]);
        let mut rig = Self { kind, place, store, running: None, changelog, low, oracle: vec![State::new()] };
        rig.start().unwrap();
        rig
    }

    fn state_dir(&self) -> PathBuf {
        self.place.path().join("state")
    }

    /// A start as a pod does it.
    fn start(&mut self) -> Result<Restored, SnapshotError> {
        let identity = JobIdentity { uid: Some(UID), name: "job", shards: SHARDS };
        let directory = StateDirectory::open(&self.state_dir(), identity, false, Patience::NONE).unwrap();
        let databases = Arc::new(RocksDatabases::new(&directory.shards_dir(), RocksConfig::default()).unwrap());
        let store = self.store.as_ref();
        let bounds: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let index = usize::from(shard);
                (ShardId(shard), LogBounds { low: self.low[index], high: self.changelog[index].len() as i64 })
            })
            .collect();
        let shards = Shards::new(SHARDS).unwrap();
        let sources = start::Sources { store: Some(store), origin: None, shards };
        let restored = match self.kind {
            Kind::Kafka => start::with_kafka(sources, UID, &databases, &bounds)?,
            Kind::Local => start::with_local_log(sources, &directory, &databases)?,
        };
        let mut stores: Vec<_> = shards.all().map(|shard| databases.open(shard).unwrap()).collect();
        let log = match self.kind {
            Kind::Kafka => {
                self.replay(&mut stores);
                None
            }
            Kind::Local => {
                let log = LocalCommitLog::open(&directory.log_dir(), UID, LOG, &mut stores).unwrap();
                start::check_not_older(store, UID, log.handle().next_commit())?;
                Some(log)
            }
        };
        let handles = stores.iter().map(RocksShardStore::flush_handle).collect();
        let view = log.as_ref().map(LocalCommitLog::handle);
        let taker = Taker::new(self.store.clone(), job(), handles, databases, view, directory.snapshots_dir());
        self.running = Some(Running { stores, log, taker, _directory: directory });
        Ok(restored)
    }

    fn replay(&self, stores: &mut [RocksShardStore]) {
        for (store, log) in stores.iter_mut().zip(&self.changelog) {
            let from = store.applied().map_or(0, |applied| applied.0 + 1);
            assert!(from >= self.low[usize::from(store.shard().0)], "the log has what the state lacks");
            for (offset, changes) in log.iter().enumerate().skip(from as usize) {
                store.apply(changes, LogOffset(offset as i64)).unwrap();
            }
        }
    }

    /// Ends as a killed process does (nothing is flushed on purpose) and starts again.
    pub(super) fn restart(&mut self) -> Restored {
        self.running = None;
        self.start().unwrap()
    }

    /// The same after the state directory was removed.
    pub(super) fn lose_and_restart(&mut self) -> Restored {
        self.try_lose_and_restart().unwrap()
    }

    pub(super) fn try_lose_and_restart(&mut self) -> Result<Restored, SnapshotError> {
        self.running = None;
        fs::remove_dir_all(self.state_dir()).unwrap();
        let restored = self.start()?;
        if self.kind == Kind::Local {
            // What the lost log had behind the snapshot is gone: history goes on from there.
            let end = self.log_end();
            self.oracle.truncate(end as usize + 1);
        }
        Ok(restored)
    }

    /// Number of commits made.
    pub(super) fn end(&self) -> u64 {
        self.oracle.len() as u64 - 1
    }

    /// Number of the last commit in the local log.
    pub(super) fn log_end(&self) -> u64 {
        let running = self.running.as_ref().expect("the pod runs");
        running.log.as_ref().expect("the log is local").handle().next_commit() - 1
    }

    pub(super) fn commits(&mut self, count: usize) {
        for _ in 0..count {
            let number = self.end() + 1;
            // Two shards of three, in turn: a shard's own offset and the commit's number differ.
            let shards: Vec<u16> =
                (0..SHARDS).filter(|shard| !(number + u64::from(*shard)).is_multiple_of(3)).collect();
            self.commit(&shards);
        }
    }

    pub(super) fn one_shard_commit(&mut self, shard: u16) {
        self.commit(&[shard]);
    }

    fn commit(&mut self, shards: &[u16]) {
        let number = self.end() + 1;
        let mut state = self.oracle.last().unwrap().clone();
        let changes: Vec<(ShardId, ChangeBatch)> =
            shards.iter().map(|shard| (ShardId(*shard), changes_of(number, *shard))).collect();
        for (_, batch) in &changes {
            note(&mut state, batch);
        }
        self.oracle.push(state);
        let running = self.running.as_mut().expect("the pod runs");
        let offsets: BTreeMap<ShardId, LogOffset> = match &mut running.log {
            Some(log) => {
                let request =
                    CommitRequest { id: CommitId(number), changes: changes.clone(), kafka_offsets: Vec::new() };
                log.commit(request).unwrap().into_iter().collect()
            }
            None => {
                let mut offset = |(shard, batch): &(ShardId, ChangeBatch)| {
                    let log = &mut self.changelog[usize::from(shard.0)];
                    log.push(batch.clone());
                    (*shard, LogOffset(log.len() as i64 - 1))
                };
                changes.iter().map(&mut offset).collect()
            }
        };
        for (shard, batch) in &changes {
            running.stores[usize::from(shard.0)].apply(batch, offsets[shard]).unwrap();
        }
    }

    /// The pod gives a shard up.
    pub(super) fn leave(&mut self, shard: u16) {
        self.running.as_mut().expect("the pod runs").stores[usize::from(shard)].leave();
    }

    pub(super) fn take(&mut self) -> Result<Option<Taken>, SnapshotError> {
        self.running.as_mut().expect("the pod runs").taker.take()
    }

    /// Makes a savepoint of the pod, which is the job's only one.
    pub(super) fn savepoint(&mut self, name: &str) {
        let taker = &mut self.running.as_mut().expect("the pod runs").taker;
        let of = SavepointOf { name: name.to_owned(), cut: 1, positions: Vec::new() };
        let copied = taker.copy_for_savepoint(of).unwrap();
        taker.store_savepoint(copied).unwrap();
        let JobOf { uid: job_uid, name: job_name, shards, .. } = job();
        let whole = Whole { job_uid, job_name, shards, operators: Vec::new() };
        complete(self.store.as_ref(), &whole, name, 1, &[0]).unwrap();
    }

    /// Where a savepoint is.
    pub(super) fn location(&self, name: &str) -> String {
        origin::location(&StorePlace::Directory(self.place.path().join("store")), "job", UID, name)
    }

    /// Takes a snapshot on another thread while commits go on here; returns the commit it was begun behind.
    pub(super) fn take_while_committing(&mut self, commits: usize) -> u64 {
        let begun = self.end();
        let mut taker = self.another_taker();
        let taking = std::thread::spawn(move || taker.take().unwrap().unwrap());
        self.commits(commits);
        taking.join().unwrap();
        begun
    }

    pub(super) fn another_taker(&self) -> Taker {
        self.taker_of(0, 0..SHARDS)
    }

    /// What takes snapshots of a pod that has these shards.
    pub(super) fn taker_of(&self, pod: u16, shards: std::ops::Range<u16>) -> Taker {
        let running = self.running.as_ref().expect("the pod runs");
        let own = running.stores.iter().filter(|store| shards.contains(&store.shard().0));
        let handles = own.map(RocksShardStore::flush_handle).collect();
        let taker = &running.taker;
        let copies = self.state_dir().join(format!("other-copies-{pod}"));
        let job = JobOf { pod, ..job() };
        Taker::new(self.store.clone(), job, handles, Arc::clone(&taker.databases), taker.log.clone(), copies)
    }

    /// From the call with this number on, counted from now, the store fails.
    pub(super) fn fail_from(&self, call: u64) {
        self.fail(call, false);
    }

    pub(super) fn fail(&self, call: u64, reply_lost: bool) {
        self.store.reply_lost.store(reply_lost, Ordering::SeqCst);
        self.store.from.store(self.store.calls.load(Ordering::SeqCst) + call, Ordering::SeqCst);
    }

    pub(super) fn heal(&self) {
        self.store.from.store(u64::MAX, Ordering::SeqCst);
    }

    /// The running state equals that after a commit, entry by entry.
    pub(super) fn check_state(&self, commit: u64) {
        let running = self.running.as_ref().expect("the pod runs");
        assert_eq!(self.end(), commit, "commits that the oracle knows");
        let mut found = State::new();
        for store in &running.stores {
            store.scan(b"", &mut |key, value| drop(found.insert(key.to_vec(), value.to_vec()))).unwrap();
        }
        assert!(found == self.oracle[commit as usize], "the state is not that of commit {commit}");
    }

    /// Every checkpoint in the store can be read to its last file.
    pub(super) fn check_all_restorable(&self) {
        let (checkpoints, bad) = restore::checkpoints(self.store.as_ref(), UID).unwrap();
        assert!(bad.is_empty(), "{bad:?}");
        for manifest in &checkpoints {
            for entry in &manifest.entries {
                let shard = restore::shard(self.store.as_ref(), manifest, entry).unwrap();
                restore::files(self.store.as_ref(), &shard, &self.place.path().join("probe")).unwrap();
            }
            restore::log(self.store.as_ref(), manifest).unwrap();
        }
    }

    pub(super) fn objects(&self) -> BTreeSet<ObjectId> {
        self.store.inner.list(Listing::All).unwrap().into_iter().map(|object| object.id).collect()
    }

    pub(super) fn object_path(&self, id: &ObjectId) -> PathBuf {
        PathBuf::from(self.store.inner.key(id))
    }

    pub(super) fn last_offsets(&self) -> BTreeMap<ShardId, LogOffset> {
        let last = |(shard, log): (u16, &Vec<ChangeBatch>)| (ShardId(shard), LogOffset(log.len() as i64 - 1));
        (0..SHARDS).zip(&self.changelog).map(last).collect()
    }

    pub(super) fn trim(&mut self, offsets: &BTreeMap<ShardId, LogOffset>) {
        for (shard, offset) in offsets {
            self.low[usize::from(shard.0)] = offset.0 + 1;
        }
    }

    pub(super) fn copy_directory(&self) -> tempfile::TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_all(&self.state_dir(), copy.path());
        copy
    }

    /// The pod is ended, and goes on from the copy.
    pub(super) fn restart_on(&mut self, copy: &tempfile::TempDir) -> Restored {
        self.running = None;
        fs::remove_dir_all(self.state_dir()).unwrap();
        copy_all(copy.path(), &self.state_dir());
        self.start().unwrap()
    }

    /// The pod is ended, and its directory is the copy. It is refused, but for a start while the store does not answer.
    pub(super) fn put_directory_back(&mut self, copy: tempfile::TempDir) {
        self.running = None;
        fs::remove_dir_all(self.state_dir()).unwrap();
        copy_all(copy.path(), &self.state_dir());
        let error = self.start().unwrap_err();
        assert!(matches!(error, SnapshotError::OlderDirectory { .. }), "{error}");
        self.fail_from(0);
        self.start().unwrap();
        self.heal();
    }
}

fn job() -> JobOf {
    JobOf { uid: UID.into(), name: "job".into(), shards: SHARDS, pod: 0 }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Values that do not compress, so that a few commits make files worth an object of their own.
fn changes_of(number: u64, shard: u16) -> ChangeBatch {
    let mut batch = ChangeBatch::new();
    let key = |user: u64| {
        let mut key = Vec::new();
        state_key_prefix(KeyGroup(shard * 1000 + 1), dataflow::graph::OperatorUid(20), &mut key);
        key.extend_from_slice(&user.to_be_bytes());
        key
    };
    let mut random = number * 1000 + u64::from(shard) + 1;
    let mut noise = || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 56) as u8
    };
    for user in number * 4..number * 4 + 4 {
        batch.put(&key(user % 100), &(0..1500).map(|_| noise()).collect::<Vec<u8>>());
    }
    batch.delete(&key((number * 7) % 100));
    batch
}

fn note(state: &mut State, batch: &ChangeBatch) {
    for change in batch.iter() {
        match change {
            Change::Put { key, value } => drop(state.insert(key.to_vec(), value.to_vec())),
            Change::Delete { key } => drop(state.remove(key)),
            Change::DeletePrefix { prefix } => state.retain(|key, _| !key.starts_with(prefix)),
        }
    }
}
