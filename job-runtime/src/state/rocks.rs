//! One RocksDB database per shard, in a directory of its own; block cache, write buffers and background threads are shared by all shards.
//!
//! RocksDB's own write-ahead log is off: the commit log is the truth, and a shard that lost its unflushed writes is brought up to date
//! from there. For that the place of the last applied commit is written in the same batch as the changes.
//!
//! # Keys
//! State keys as `dataflow::state` lays them out (they begin with a key group below 4096), and one of ours:
//! `FF FF 00 00 00 00 "applied"` → `version u8 = 1 | log offset i64 LE`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Weak};

use dataflow::graph::OperatorUid;
use dataflow::key::ShardId;
use dataflow::state::{Change, ChangeBatch, LogOffset, STATE_KEY_PREFIX, ShardStore, StateError};
use rocksdb::checkpoint::Checkpoint;
use rocksdb::properties::{
    ACTUAL_DELAYED_WRITE_RATE, CUR_SIZE_ALL_MEM_TABLES, IS_WRITE_STOPPED, PropName, TOTAL_SST_FILES_SIZE,
};
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DB, DBCompressionType, Env, IterateBounds,
    Options, PrefixRange, ReadOptions, SliceTransform, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::expiry::Expiry;
use super::memory::StateMemory;
use crate::crash::{self, Step};

const APPLIED_KEY: &[u8] = b"\xff\xff\0\0\0\0applied";
const APPLIED_VERSION: u8 = 1;
const NONE: i64 = i64::MIN;
/// What the prefix filters know of a key: the fixed part and eight bytes more, which are the window's end, or the start of the user's key.
const FILTER_PREFIX: usize = STATE_KEY_PREFIX + 8;
const DEFAULT_FAMILY: &str = "default";

/// How much memory and how many threads the databases of all shards share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RocksConfig {
    /// Block cache in bytes; write buffers count against it.
    pub cache_bytes: usize,
    /// Write buffers of all shards together, in bytes: beyond it RocksDB flushes.
    pub write_buffer_bytes: usize,
    /// Background threads for flushes and compactions.
    pub background_threads: i32,
}

impl RocksConfig {
    /// Takes about `bytes` of memory at most.
    pub fn within(bytes: usize) -> Self {
        Self { cache_bytes: bytes, write_buffer_bytes: bytes / 2, background_threads: 2 }
    }
}

impl Default for RocksConfig {
    fn default() -> Self {
        Self::within(StateMemory::default().databases())
    }
}

/// Opens the databases of a state directory with what they share.
pub struct RocksDatabases {
    dir: PathBuf,
    config: RocksConfig,
    cache: Cache,
    buffers: WriteBufferManager,
    env: Env,
}

impl RocksDatabases {
    /// Prepares to open shards below `dir` (the `shards` directory of the state directory).
    ///
    /// # Errors
    /// When RocksDB's environment cannot be made.
    pub fn new(dir: &Path, config: RocksConfig) -> Result<Self, StateError> {
        let cache = Cache::new_lru_cache(config.cache_bytes);
        let buffers =
            WriteBufferManager::new_write_buffer_manager_with_cache(config.write_buffer_bytes, false, cache.clone());
        let mut env = Env::new().map_err(|e| failed(ShardId(0), "cannot start RocksDB", &e))?;
        env.set_background_threads(config.background_threads);
        env.set_high_priority_background_threads(1);
        Ok(Self { dir: dir.to_owned(), config, cache, buffers, env })
    }

    /// Opens or creates the database of one shard.
    ///
    /// # Errors
    /// When the directory cannot be read or written, or the database is damaged.
    pub fn open(&self, shard: ShardId) -> Result<RocksShardStore, StateError> {
        self.open_at(shard, &self.path(shard))
    }

    /// Opens or creates a shard's database in another place.
    ///
    /// # Errors
    /// See [`RocksDatabases::open`].
    pub fn open_at(&self, shard: ShardId, path: &Path) -> Result<RocksShardStore, StateError> {
        let context = || format!("cannot open {}", path.display());
        std::fs::create_dir_all(path).map_err(|e| StateError { shard, message: format!("{}: {e}", context()) })?;
        let expiry = Expiry::default();
        let mut options = self.options();
        options.set_compaction_filter_factory(expiry.clone());
        let family = ColumnFamilyDescriptor::new(DEFAULT_FAMILY, options.clone());
        let db = DB::open_cf_descriptors(&options, path, [family]).map_err(|e| failed(shard, &context(), &e))?;
        let applied = match db.get(APPLIED_KEY).map_err(|e| failed(shard, &context(), &e))? {
            None => NONE,
            Some(value) => decode_applied(shard, &value)?,
        };
        // Without a write-ahead log, what is readable after opening came from files: it is on disk.
        let db = ShardDb {
            shard,
            db,
            applied: AtomicI64::new(applied),
            flushed: AtomicI64::new(applied),
            left: AtomicBool::new(false),
        };
        let mut write = WriteOptions::default();
        write.disable_wal(true);
        Ok(RocksShardStore { db: Arc::new(db), write, expiry })
    }

    /// The last commit in a database at `path` that nobody has open; the outer `None` if there is no database.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn copied(&self, shard: ShardId, path: &Path) -> Result<Option<Option<LogOffset>>, StateError> {
        if !path.join("CURRENT").exists() {
            return Ok(None);
        }
        let context = || format!("cannot open {}", path.display());
        let family = ColumnFamilyDescriptor::new(DEFAULT_FAMILY, self.options());
        let db = DB::open_cf_descriptors_read_only(&self.options(), path, [family], false)
            .map_err(|e| failed(shard, &context(), &e))?;
        match db.get(APPLIED_KEY).map_err(|e| failed(shard, &context(), &e))? {
            None => Ok(Some(None)),
            Some(value) => Ok(Some(offset(decode_applied(shard, &value)?))),
        }
    }

    /// Directory of a shard's database.
    pub fn path(&self, shard: ShardId) -> PathBuf {
        self.dir.join(shard.0.to_string())
    }

    fn options(&self) -> Options {
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&self.cache);
        table.set_bloom_filter(10.0, false);
        table.set_whole_key_filtering(true);
        table.set_cache_index_and_filter_blocks(true);
        table.set_pin_l0_filter_and_index_blocks_in_cache(true);
        // Indexes and filters in parts: a database of many times the cache must not need them whole in it.
        table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
        table.set_partition_filters(true);
        table.set_metadata_block_size(4096);
        table.set_pin_top_level_index_and_filter(true);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_env(&self.env);
        options.set_write_buffer_manager(&self.buffers);
        // One shard may use a quarter of the buffers before it flushes for itself.
        options.set_write_buffer_size((self.config.write_buffer_bytes / 4).max(1 << 20));
        options.set_block_based_table_factory(&table);
        options.set_prefix_extractor(SliceTransform::create_fixed_prefix(FILTER_PREFIX));
        // New keys are looked up too: most of them end at these filters. Ten bits for each of the entries of a hundred bytes that fill a whole
        // write buffer; more would be memory that an idle shard has for nothing, because RocksDB clears a filter when it makes it.
        options.set_memtable_prefix_bloom_ratio(0.0125);
        options.set_memtable_whole_key_filtering(true);
        // Many shards share a small budget: no memtable takes more than it needs.
        options.set_arena_block_size((self.config.write_buffer_bytes / 256).clamp(16 << 10, 1 << 20));
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_bottommost_compression_type(DBCompressionType::Zstd);
        options.set_max_open_files(128);
        options.set_max_background_jobs(2);
        options.set_max_log_file_size(1 << 20);
        options.set_keep_log_file_num(2);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options
    }
}

#[derive(Debug)]
struct ShardDb {
    shard: ShardId,
    db: DB,
    applied: AtomicI64,
    flushed: AtomicI64,
    /// The worker that owned it has given it up.
    left: AtomicBool,
}

/// The state of one shard, for the worker that owns it.
pub struct RocksShardStore {
    db: Arc<ShardDb>,
    write: WriteOptions,
    expiry: Expiry,
}

/// What the commit log needs to know of a shard's database while a worker owns the store.
#[derive(Clone)]
pub struct FlushHandle {
    db: Arc<ShardDb>,
}

impl FlushHandle {
    /// Which shard.
    pub fn shard(&self) -> ShardId {
        self.db.shard
    }

    /// True once the worker that owned the shard has given it up: the database is closed with the last of these handles.
    pub fn is_left(&self) -> bool {
        self.db.left.load(Ordering::Acquire)
    }

    /// The last commit known to be in the database's files, and so safe from a crash without the commit log.
    pub fn flushed(&self) -> Option<LogOffset> {
        offset(self.db.flushed.load(Ordering::Acquire))
    }

    /// Writes everything applied so far to files and waits for it.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn flush(&self) -> Result<(), StateError> {
        let applied = self.db.applied.load(Ordering::Acquire);
        if applied == self.db.flushed.load(Ordering::Acquire) {
            return Ok(());
        }
        self.db.db.flush().map_err(|e| failed(self.db.shard, "cannot flush to disk", &e))?;
        self.db.flushed.fetch_max(applied, Ordering::AcqRel);
        Ok(())
    }

    /// The last commit applied.
    pub fn applied(&self) -> Option<LogOffset> {
        offset(self.db.applied.load(Ordering::Acquire))
    }

    /// Makes `dir`, which must not exist and be on the same file system, a copy of the database by hard links, while its owner goes on
    /// writing. The copy is the database as it was at one commit; [`RocksDatabases::copied`] says which.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn copy(&self, dir: &Path) -> Result<(), StateError> {
        crash::around(Step::Memtable, || self.flush())?;
        let link = || Checkpoint::new(&self.db.db).and_then(|checkpoint| checkpoint.create_checkpoint(dir));
        crash::around(Step::Link, link)
            .map_err(|e| failed(self.db.shard, &format!("cannot copy the database to {}", dir.display()), &e))
    }
}

/// Figures of a shard's database for metrics. It does not keep the database open.
#[derive(Clone, Debug)]
pub struct StoreGauge {
    db: Weak<ShardDb>,
}

/// What a database holds and how it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreFigures {
    /// Which shard.
    pub shard: ShardId,
    /// Size of its files in bytes.
    pub disk_bytes: u64,
    /// Size of its write buffers in bytes.
    pub buffer_bytes: u64,
    /// True while writes are slowed or stopped.
    pub stalled: bool,
}

impl StoreGauge {
    /// True while somebody has the database open.
    pub fn is_open(&self) -> bool {
        self.db.strong_count() > 0
    }

    /// Keeps the database open from now on; `None` if it is closed.
    pub fn hold(&self) -> Option<FlushHandle> {
        self.db.upgrade().map(|db| FlushHandle { db })
    }

    /// The figures now; `None` once its owner has given it up.
    pub fn read(&self) -> Option<StoreFigures> {
        let db = self.db.upgrade().filter(|db| !db.left.load(Ordering::Acquire))?;
        // What cannot be read is shown as nothing: a figure is no reason to stop.
        let figure = |name: &PropName| db.db.property_int_value(name).ok().flatten().unwrap_or(0);
        Some(StoreFigures {
            shard: db.shard,
            disk_bytes: figure(TOTAL_SST_FILES_SIZE),
            buffer_bytes: figure(CUR_SIZE_ALL_MEM_TABLES),
            stalled: figure(IS_WRITE_STOPPED) > 0 || figure(ACTUAL_DELAYED_WRITE_RATE) > 0,
        })
    }
}

impl RocksShardStore {
    /// Figures for metrics.
    pub fn gauge(&self) -> StoreGauge {
        StoreGauge { db: Arc::downgrade(&self.db) }
    }

    /// A handle for flushing from another thread.
    pub fn flush_handle(&self) -> FlushHandle {
        FlushHandle { db: Arc::clone(&self.db) }
    }
}

impl ShardStore for RocksShardStore {
    fn shard(&self) -> ShardId {
        self.db.shard
    }

    fn scan(&self, prefix: &[u8], visit: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        let mut read = ReadOptions::default();
        read.set_iterate_range(PrefixRange(prefix));
        // The table filters know prefixes of exactly this length; a shorter one has to look everywhere.
        read.set_total_order_seek(prefix.len() < FILTER_PREFIX);
        let mut cursor = self.db.db.raw_iterator_opt(read);
        cursor.seek_to_first();
        while let Some((key, value)) = cursor.item() {
            if key != APPLIED_KEY {
                visit(key, value);
            }
            cursor.next();
        }
        cursor.status().map_err(|e| failed(self.db.shard, "cannot read", &e))
    }

    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        let family = self.db.db.cf_handle(DEFAULT_FAMILY).expect("every database is opened with its default family");
        let found = self.db.db.batched_multi_get_cf(&family, keys.iter().copied(), false);
        let value = |entry: Result<Option<rocksdb::DBPinnableSlice<'_>>, rocksdb::Error>| match entry {
            Ok(value) => Ok(value.map(|v| v.to_vec())),
            Err(e) => Err(failed(self.db.shard, "cannot read", &e)),
        };
        found.into_iter().map(value).collect()
    }

    fn apply(&mut self, changes: &ChangeBatch, offset: LogOffset) -> Result<(), StateError> {
        let mut batch = WriteBatch::with_capacity_bytes(changes.byte_len() + 64);
        for change in in_key_order(changes) {
            match change {
                Change::Put { key, value } => batch.put(key, value),
                Change::Delete { key } => batch.delete(key),
                Change::DeletePrefix { prefix } => {
                    // State keys begin with a key group below 4096: there is always a key behind those of a prefix.
                    if let (Some(from), Some(to)) = PrefixRange(prefix).into_bounds() {
                        batch.delete_range(from, to);
                    }
                }
            }
        }
        batch.put(APPLIED_KEY, encode_applied(offset));
        self.db.db.write_opt(batch, &self.write).map_err(|e| failed(self.db.shard, "cannot write", &e))?;
        self.db.applied.store(offset.0, Ordering::Release);
        Ok(())
    }

    fn applied(&self) -> Option<LogOffset> {
        offset(self.db.applied.load(Ordering::Acquire))
    }

    fn expire(&self, operator: OperatorUid, through_ms: i64) {
        self.expiry.set(operator, through_ms);
    }

    fn leave(&mut self) {
        self.db.left.store(true, Ordering::Release);
    }
}

/// Changes by key, later ones of a key behind earlier ones: a memtable takes neighbours several times as fast as keys in no order. With deletes of
/// prefixes the order says what they delete, and stays.
fn in_key_order(changes: &ChangeBatch) -> Vec<Change<'_>> {
    let mut all: Vec<Change<'_>> = changes.iter().collect();
    if !all.iter().any(|change| matches!(change, Change::DeletePrefix { .. })) {
        all.sort_by_key(|change| match *change {
            Change::Put { key, .. } | Change::Delete { key } | Change::DeletePrefix { prefix: key } => key,
        });
    }
    all
}

fn offset(value: i64) -> Option<LogOffset> {
    (value != NONE).then_some(LogOffset(value))
}

fn encode_applied(offset: LogOffset) -> [u8; 9] {
    let mut out = [APPLIED_VERSION; 9];
    out[1..].copy_from_slice(&offset.0.to_le_bytes());
    out
}

fn decode_applied(shard: ShardId, value: &[u8]) -> Result<i64, StateError> {
    match value {
        [APPLIED_VERSION, rest @ ..] if rest.len() == 8 => {
            Ok(i64::from_le_bytes(rest.try_into().expect("eight bytes")))
        }
        [version, ..] if *version > APPLIED_VERSION => {
            let message = format!(
                "written by a newer release of Millstream (layout {version}); run that release or start with --fresh"
            );
            Err(StateError { shard, message })
        }
        _ => Err(StateError {
            shard,
            message: "the place of the last applied commit cannot be read; start with --fresh".into(),
        }),
    }
}

fn failed(shard: ShardId, context: &str, error: &rocksdb::Error) -> StateError {
    let text = error.as_ref();
    // The library has no kind of its own for it.
    let advice = if text.contains("No space left") {
        "; free some and start again, the job goes on from its last commit"
    } else {
        ""
    };
    StateError { shard, message: format!("{context}: {text}{advice}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(group: u16, uid: u32, user: &[u8]) -> Vec<u8> {
        let mut key = Vec::new();
        dataflow::state::state_key_prefix(dataflow::key::KeyGroup(group), dataflow::graph::OperatorUid(uid), &mut key);
        key.extend_from_slice(user);
        key
    }

    fn put(entries: &[(Vec<u8>, &str)]) -> ChangeBatch {
        let mut batch = ChangeBatch::new();
        for (key, value) in entries {
            batch.put(key, value.as_bytes());
        }
        batch
    }

    fn scan(store: &RocksShardStore, prefix: &[u8]) -> Vec<(Vec<u8>, String)> {
        let mut out = Vec::new();
        store.scan(prefix, &mut |k, v| out.push((k.to_vec(), String::from_utf8_lossy(v).into_owned()))).unwrap();
        out
    }

    #[test]
    fn changes_are_read_back_by_key_and_by_prefix() {
        let dir = tempfile::tempdir().unwrap();
        let databases = RocksDatabases::new(dir.path(), RocksConfig::default()).unwrap();
        let mut store = databases.open(ShardId(2)).unwrap();
        assert_eq!((store.shard(), store.applied()), (ShardId(2), None));
        let (a, b, c) = (key(7, 20, b"a"), key(7, 20, b"b"), key(7, 21, b"c"));
        store.apply(&put(&[(a.clone(), "1"), (b.clone(), "2"), (c.clone(), "3")]), LogOffset(5)).unwrap();
        assert_eq!(store.multi_get(&[&c, b"none", &a]).unwrap(), [Some(b"3".to_vec()), None, Some(b"1".to_vec())]);
        assert_eq!(scan(&store, &key(7, 20, b"")), [(a.clone(), "1".to_owned()), (b.clone(), "2".to_owned())]);
        assert_eq!(scan(&store, b"").len(), 3, "the applied offset is not an entry");
        let mut delete = ChangeBatch::new();
        delete.delete(&a);
        store.apply(&delete, LogOffset(6)).unwrap();
        store.flush_handle().flush().unwrap();
        assert_eq!(scan(&store, &7u16.to_be_bytes()).len(), 2, "a prefix shorter than the filter's");
        assert_eq!(scan(&store, &key(7, 20, b"")), [(b.clone(), "2".to_owned())]);
        assert_eq!(store.applied(), Some(LogOffset(6)));
        let mut delete = put(&[(key(7, 20, b"bb"), "4"), (key(7, 20, b"c"), "5")]);
        delete.delete_prefix(&key(7, 20, b"b"));
        store.apply(&delete, LogOffset(7)).unwrap();
        assert_eq!(scan(&store, &7u16.to_be_bytes()), [(key(7, 20, b"c"), "5".to_owned()), (c, "3".to_owned())]);
    }

    #[test]
    fn what_has_expired_goes_when_it_is_compacted_and_nothing_else_does() {
        let dir = tempfile::tempdir().unwrap();
        let databases = RocksDatabases::new(dir.path(), RocksConfig::default()).unwrap();
        let mut store = databases.open(ShardId(0)).unwrap();
        let value = |expires: i64| [&[1, 1][..], &expires.to_le_bytes(), b"v"].concat();
        let mut batch = ChangeBatch::new();
        // A value of keyed state begins with its kind; the same of an operator that said nothing, and one that never expires.
        for (uid, user, value) in [
            (20, b"\x10a", value(5)),
            (20, b"\x10b", value(6)),
            (20, b"\x10c", b"\x01\0v".to_vec()),
            (20, b"\x40d", value(5)),
            (20, b"\x80e", value(5)),
            (21, b"\x10a", value(5)),
        ] {
            batch.put(&key(1, uid, user), &value);
        }
        store.apply(&batch, LogOffset(1)).unwrap();
        store.flush_handle().flush().unwrap();
        let compact = || store.db.db.compact_range::<&[u8], &[u8]>(None, None);
        compact();
        assert_eq!(scan(&store, b"").len(), 6, "nobody has said what time it is");
        store.expire(OperatorUid(20), 5);
        store.expire(OperatorUid(20), 4);
        compact();
        let left: Vec<Vec<u8>> = scan(&store, b"").into_iter().map(|(key, _)| key).collect();
        let want = [(20, b"\x10b"), (20, b"\x10c"), (20, b"\x40d"), (20, b"\x80e"), (21, b"\x10a")];
        assert_eq!(left, want.map(|(uid, user)| key(1, uid, user)));
        assert_eq!(store.applied(), Some(LogOffset(1)));
    }

    #[test]
    fn a_shard_that_was_not_flushed_is_as_old_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let open = || RocksDatabases::new(dir.path(), RocksConfig::default()).unwrap().open(ShardId(0)).unwrap();
        let a = key(1, 20, b"a");
        let mut store = open();
        store.apply(&put(&[(a.clone(), "old")]), LogOffset(1)).unwrap();
        let handle = store.flush_handle();
        handle.flush().unwrap();
        assert_eq!(handle.flushed(), Some(LogOffset(1)));
        store.apply(&put(&[(a.clone(), "new")]), LogOffset(2)).unwrap();
        assert_eq!(handle.flushed(), Some(LogOffset(1)), "applied, not on disk");
        // As a killed process leaves it: the files as they are now, without RocksDB's orderly end.
        let copy = tempfile::tempdir().unwrap();
        std::fs::create_dir(copy.path().join("0")).unwrap();
        for entry in std::fs::read_dir(dir.path().join("0")).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), copy.path().join("0").join(entry.file_name())).unwrap();
        }
        let after = RocksDatabases::new(copy.path(), RocksConfig::default()).unwrap().open(ShardId(0)).unwrap();
        let value = after.multi_get(&[&a]).unwrap()[0].clone().unwrap();
        match after.applied() {
            Some(LogOffset(1)) => assert_eq!(value, b"old"),
            Some(LogOffset(2)) => assert_eq!(value, b"new"),
            other => panic!("applied {other:?}"),
        }
    }

    #[test]
    fn an_applied_offset_comes_back_and_newer_layouts_are_refused() {
        for value in [0, 1, i64::MAX, -1] {
            assert_eq!(decode_applied(ShardId(0), &encode_applied(LogOffset(value))).unwrap(), value);
        }
        let newer = [2, 0, 0, 0, 0, 0, 0, 0, 0];
        assert!(decode_applied(ShardId(3), &newer).unwrap_err().to_string().contains("newer release"));
        assert!(decode_applied(ShardId(3), &[]).is_err());
    }
}
