//! The promise of keyed state: whatever is committed, evicted, dropped by a store or lost in a crash, it says what plain maps say.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::DataType;
use proptest::prelude::*;

use super::*;
use crate::graph::OperatorUid;
use crate::key::{EncodedKeys, KeyEncoder, ShardId, Shards, group_of};
use crate::state::{ChangeBatch, Changes, LogOffset, Stores};
use crate::testing::{Disk, MemoryStore, Random};
use crate::watermark::{END_OF_TIME, NO_WATERMARK};
use crate::worker::CommitId;

const UID: OperatorUid = OperatorUid(77);
const TTL: i64 = 1000;

fn shards() -> Shards {
    Shards::new(3).unwrap()
}

/// Keys as a batch has them: numbers, or texts that are the start of each other.
fn encode(keys: &[u8], text: bool) -> (EncodedKeys, Arc<[u64]>) {
    let column: ArrayRef = match text {
        true => Arc::new(keys.iter().map(|k| (*k > 0).then(|| "k".repeat(usize::from(*k)))).collect::<StringArray>()),
        false => Arc::new(keys.iter().map(|k| (*k > 0).then_some(i64::from(*k) << 33)).collect::<Int64Array>()),
    };
    let batch = RecordBatch::try_from_iter_with_nullable([("k", column, true)]).unwrap();
    let keys = KeyEncoder::new(&batch.schema(), &[0]).unwrap().encode(&batch);
    let hashes = keys.hashes();
    (keys, hashes)
}

/// An operator with one state of each kind.
struct Live {
    scope: Scope,
    values: ValueState,
    lists: ListState,
    maps: MapState,
    timers: Timers,
}

impl Live {
    fn open(stores: &Stores, ttl: bool) -> Self {
        let owned: Vec<ShardId> = shards().all().collect();
        let ttl = ttl.then(|| Duration::from_millis(TTL as u64));
        let columns = vec![("k".to_owned(), DataType::Int64)];
        let description = Description { name: "test".to_owned(), keys: columns, ..Description::default() };
        let mut scope =
            Scope::new(ScopeConfig { uid: UID, shards: shards(), owned: &owned, ttl, apart: false, description });
        scope.restore(stores).unwrap();
        Self {
            values: ValueState::new(&scope, 3),
            lists: ListState::new(&scope, 0),
            maps: MapState::new(&scope, 1),
            timers: Timers::new(&scope, 15),
            scope,
        }
    }

    fn take_changes(&mut self, commit: CommitId) -> Vec<(ShardId, ChangeBatch)> {
        let mut changes = Changes::default();
        self.scope.begin(commit);
        self.values.take_changes(&self.scope, &mut changes);
        self.lists.take_changes(&self.scope, &mut changes);
        self.maps.take_changes(&self.scope, &mut changes);
        self.timers.take_changes(&self.scope, &mut changes);
        self.scope.write_notes(self.timers.buckets(), &mut changes);
        changes.into_shards()
    }

    fn evict(&mut self, random: &mut Random) {
        let mut bytes = || random.below(4000) as u64;
        self.values.evict(&self.scope, bytes());
        self.lists.evict(&self.scope, bytes());
        self.maps.evict(&self.scope, bytes());
        self.timers.evict(&self.scope, bytes());
    }
}

type Stamped = (Vec<u8>, i64);

/// The same by plain maps. Values stay after they have expired, as they may.
#[derive(Clone, Default)]
struct Model {
    values: BTreeMap<u8, Stamped>,
    /// Elements, and when the list as a whole expires.
    lists: BTreeMap<u8, (Vec<Stamped>, i64)>,
    maps: BTreeMap<(u8, u8), Stamped>,
    timers: BTreeSet<(i64, u8)>,
}

/// Everything, driven by chance.
struct World {
    random: Random,
    text: bool,
    ttl: bool,
    keys: usize,
    stores: Stores,
    /// Disks of which nothing is dropped: a copy made from the log.
    copy: Vec<Disk>,
    live: Live,
    model: Model,
    committed: Model,
    commit: CommitId,
    /// Commits that are in the log and not in the stores.
    pending: VecDeque<(CommitId, Vec<(ShardId, ChangeBatch)>)>,
    offset: i64,
    seen: Seen,
}

/// What a run has tried.
#[derive(Debug, Default)]
struct Seen {
    crashes: usize,
    misses: u64,
    evictions: u64,
    fired: usize,
    expired: usize,
}

fn stores_of(disks: &[Disk]) -> Stores {
    let store = |(shard, disk): (ShardId, &Disk)| Box::new(MemoryStore::new(shard, disk.clone())) as _;
    Stores::new(shards(), shards().all().zip(disks).map(store).collect())
}

fn apply(stores: &mut Stores, changes: &[(ShardId, ChangeBatch)], offset: i64) {
    for store in stores.iter_mut() {
        let shard = store.shard();
        for (_, batch) in changes.iter().filter(|(of, _)| *of == shard) {
            store.apply(&ChangeBatch::decode(&batch.encode()).unwrap(), LogOffset(offset)).unwrap();
        }
    }
}

impl World {
    fn new(seed: u64, text: bool, ttl: bool) -> Self {
        let disks: Vec<Disk> = shards().all().map(|_| Disk::default()).collect();
        let stores = stores_of(&disks);
        let mut random = Random(seed);
        Self {
            keys: 3 + random.below(40),
            random,
            text,
            ttl,
            live: Live::open(&stores, ttl),
            stores,
            copy: shards().all().map(|_| Disk::default()).collect(),
            model: Model::default(),
            committed: Model::default(),
            commit: CommitId(0),
            pending: VecDeque::new(),
            offset: 0,
            seen: Seen::default(),
        }
    }

    fn keys(&mut self) -> Vec<u8> {
        let count = 1 + self.random.below(8);
        (0..count).map(|_| self.random.below(self.keys) as u8).collect()
    }

    fn time(&self) -> i64 {
        self.live.scope.time_ms
    }

    fn expires(&self, lifetime: Lifetime) -> i64 {
        match lifetime {
            Lifetime::Ttl if self.ttl && self.time() != NO_WATERMARK => self.time() + TTL,
            Lifetime::Ttl | Lifetime::Kept => NEVER,
        }
    }

    fn lifetime(&mut self) -> Lifetime {
        if self.random.once_in(4) { Lifetime::Kept } else { Lifetime::Ttl }
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.random.below(30);
        (0..length).map(|_| self.random.next_u64() as u8).collect()
    }

    fn visible<'a>(&mut self, value: Option<&'a Stamped>) -> Option<&'a [u8]> {
        let (bytes, expires) = value?;
        let gone = *expires <= self.time();
        self.seen.expired += usize::from(gone);
        (!gone).then_some(bytes)
    }

    fn touch_values(&mut self) {
        let keys = self.keys();
        let (encoded, hashes) = encode(&keys, self.text);
        self.live.values.find(&self.live.scope, &self.stores, &encoded, &hashes).unwrap();
        for (row, key) in keys.into_iter().enumerate() {
            let slot = self.live.values.slot(row);
            let known = self.model.values.get(&key).cloned();
            let want = self.visible(known.as_ref());
            assert_eq!(self.live.values.get(&self.live.scope, slot), want, "value of {key}");
            match self.random.below(4) {
                0 => {}
                1 => {
                    self.live.values.remove(slot);
                    self.model.values.remove(&key);
                }
                _ => {
                    let (bytes, lifetime) = (self.bytes(), self.lifetime());
                    self.live.values.set(&self.live.scope, slot, lifetime, &bytes);
                    self.model.values.insert(key, (bytes, self.expires(lifetime)));
                }
            }
        }
    }

    fn touch_lists(&mut self) {
        let keys = self.keys();
        let (encoded, hashes) = encode(&keys, self.text);
        self.live.lists.find(&self.live.scope, &self.stores, &encoded, &hashes).unwrap();
        for (row, &key) in keys.iter().enumerate() {
            let slot = self.live.lists.slot(row);
            let time = self.time();
            let (elements, lives) = self.model.lists.entry(key).or_default();
            if *lives <= time {
                elements.clear();
            }
            assert_eq!(self.live.lists.len(&self.live.scope, slot), Ok(elements.len() as u64));
            match self.random.below(5) {
                0 => {
                    let count = self.random.below(4);
                    self.live.lists.drop_front(&self.live.scope, slot, count as u64).unwrap();
                    elements.drain(..count.min(elements.len()));
                }
                1 if self.random.once_in(3) => {
                    self.live.lists.clear(&self.live.scope, slot).unwrap();
                    elements.clear();
                }
                _ => {
                    let (bytes, lifetime) = (self.bytes(), self.lifetime());
                    self.live.lists.append(&self.live.scope, slot, lifetime, &bytes).unwrap();
                    let expires = self.expires(lifetime);
                    let (elements, lives) = self.model.lists.get_mut(&key).unwrap();
                    *lives = if elements.is_empty() { expires } else { expires.max(*lives) };
                    elements.push((bytes, expires));
                }
            }
        }
        let slots: Vec<Slot> = (0..keys.len()).map(|row| self.live.lists.slot(row)).collect();
        let mut found = vec![Vec::new(); keys.len()];
        let visit = |at: usize, value: &[u8]| found[at].push(value.to_vec());
        self.live.lists.read(&self.live.scope, &self.stores, &slots, visit).unwrap();
        for (at, key) in keys.iter().enumerate() {
            let elements = self.model.lists[key].0.clone();
            let want: Vec<&[u8]> = elements.iter().filter_map(|element| self.visible(Some(element))).collect();
            assert_eq!(found[at], want, "list of {key}");
        }
    }

    fn touch_maps(&mut self) {
        let keys = self.keys();
        let map_keys: Vec<u8> = keys.iter().map(|_| self.random.below(6) as u8).collect();
        let (encoded, hashes) = encode(&keys, self.text);
        let (encoded_map, _) = encode(&map_keys, !self.text);
        let own = (&encoded, &hashes[..]);
        self.live.maps.find(&self.live.scope, &self.stores, own, &encoded_map).unwrap();
        for (row, key) in keys.iter().copied().zip(map_keys).enumerate() {
            let slot = self.live.maps.slot(row);
            let known = self.model.maps.get(&key).cloned();
            let want = self.visible(known.as_ref());
            assert_eq!(self.live.maps.get(&self.live.scope, slot), want, "entry {key:?}");
            match self.random.below(4) {
                0 => {
                    self.live.maps.remove(slot);
                    self.model.maps.remove(&key);
                }
                1 => {}
                _ => {
                    let (bytes, lifetime) = (self.bytes(), self.lifetime());
                    self.live.maps.set(&self.live.scope, slot, lifetime, &bytes);
                    self.model.maps.insert(key, (bytes, self.expires(lifetime)));
                }
            }
        }
        self.check_map(keys[0]);
    }

    /// All entries of one key.
    fn check_map(&mut self, key: u8) {
        let (encoded, hashes) = encode(&[key], self.text);
        let (mut user, mut found) = (Vec::new(), BTreeMap::new());
        encoded.write(0, &mut user);
        let visit = |map_key: &[u8], value: &[u8]| {
            assert!(found.insert(map_key.to_vec(), value.to_vec()).is_none(), "an entry was visited twice");
        };
        let of = (user.as_slice(), group_of(hashes[0]));
        self.live.maps.entries_of(&self.live.scope, &self.stores, of, visit).unwrap();
        let mut want = BTreeMap::new();
        for ((_, map_key), stamped) in self.model.maps.clone().range((key, 0)..=(key, u8::MAX)) {
            if let Some(value) = self.visible(Some(stamped)) {
                let mut bytes = Vec::new();
                encode(&[*map_key], !self.text).0.write(0, &mut bytes);
                want.insert(bytes, value.to_vec());
            }
        }
        assert_eq!(found, want, "map of {key}");
    }

    fn touch_timers(&mut self) {
        let keys = self.keys();
        let (encoded, hashes) = encode(&keys, self.text);
        let start = if self.time() == NO_WATERMARK { 0 } else { self.time() };
        for (row, &key) in keys.iter().enumerate() {
            let mut user = Vec::new();
            encoded.write(row, &mut user);
            let own: Vec<i64> = self.model.timers.iter().filter(|timer| timer.1 == key).map(|timer| timer.0).collect();
            if self.random.once_in(3) && !own.is_empty() {
                let time = own[self.random.below(own.len())];
                self.live.timers.remove(&self.live.scope, time, &user, hashes[row]);
                self.model.timers.remove(&(time, key));
            } else {
                let far = if self.random.once_in(4) { 5 * super::timers::BUCKET_MS } else { 400 };
                let time = start + 1 + self.random.below(far as usize) as i64;
                self.live.timers.set(&self.live.scope, time, &user, hashes[row]);
                self.model.timers.insert((time, key));
            }
        }
    }

    fn advance(&mut self, watermark: i64) {
        self.live.scope.advance(watermark);
        let most = 1 + self.random.below(5);
        let (mut due, mut found) = (Due::default(), Vec::new());
        loop {
            self.live.timers.pop_due(&self.live.scope, &self.stores, watermark, most, &mut due).unwrap();
            if due.is_empty() {
                break;
            }
            assert!(due.len() <= most);
            found.extend((0..due.len()).map(|at| (due.time_ms(at), due.key(at).to_vec())));
        }
        assert!(found.is_sorted_by_key(|timer| timer.0), "in the order of their times");
        let key_bytes = |key: u8| {
            let mut bytes = Vec::new();
            encode(&[key], self.text).0.write(0, &mut bytes);
            bytes
        };
        let (due, later): (BTreeSet<_>, BTreeSet<_>) =
            std::mem::take(&mut self.model.timers).into_iter().partition(|timer| timer.0 <= watermark);
        let mut want: Vec<(i64, Vec<u8>)> = due.into_iter().map(|(time, key)| (time, key_bytes(key))).collect();
        self.model.timers = later;
        want.sort();
        found.sort();
        assert_eq!(found, want, "timers through {watermark}");
        self.seen.fired += found.len();
    }

    fn commit(&mut self) {
        if self.pending.len() == 2 {
            self.apply_oldest();
        }
        self.commit = self.commit.next();
        let changes = self.live.take_changes(self.commit);
        self.pending.push_back((self.commit, changes));
        self.committed = self.model.clone();
    }

    fn apply_oldest(&mut self) {
        let Some((commit, changes)) = self.pending.pop_front() else { return };
        self.offset += 1;
        apply(&mut self.stores, &changes, self.offset);
        apply(&mut stores_of(&self.copy), &changes, self.offset);
        self.live.scope.on_applied(commit, &self.stores);
    }

    /// Memory is gone; the stores are brought up to the log's end, or made again from the log.
    fn crash(&mut self) {
        let touches = [
            self.live.values.touches(),
            self.live.lists.touches(),
            self.live.maps.touches(),
            self.live.timers.touches(),
        ];
        self.seen.misses += touches.iter().map(|t| t.misses).sum::<u64>();
        self.seen.evictions += touches.iter().map(|t| t.evictions).sum::<u64>();
        self.seen.crashes += 1;
        for (_, changes) in std::mem::take(&mut self.pending) {
            self.offset += 1;
            apply(&mut self.stores, &changes, self.offset);
            apply(&mut stores_of(&self.copy), &changes, self.offset);
        }
        if self.random.once_in(3) {
            let whole: Vec<Disk> = self.copy.iter().map(Disk::duplicate).collect();
            self.stores = stores_of(&whole);
        }
        self.live = Live::open(&self.stores, self.ttl);
        self.commit = CommitId(0);
        self.model = self.committed.clone();
    }

    fn run(mut self, steps: usize) -> Seen {
        for _ in 0..steps {
            match self.random.below(24) {
                0..5 => self.touch_values(),
                5..9 => self.touch_lists(),
                9..13 => self.touch_maps(),
                13..16 => self.touch_timers(),
                16 => {
                    let start = if self.time() == NO_WATERMARK { 0 } else { self.time() };
                    let far = if self.random.once_in(9) { super::timers::BUCKET_MS as usize } else { 300 };
                    let watermark = start + self.random.below(far) as i64;
                    self.advance(watermark);
                }
                17..19 => self.commit(),
                19..21 => self.apply_oldest(),
                21..23 => self.live.evict(&mut self.random),
                _ if self.random.once_in(4) => self.crash(),
                _ => {}
            }
        }
        self.crash();
        (0..self.keys as u8).for_each(|key| self.check_map(key));
        self.advance(END_OF_TIME);
        self.seen
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]
    #[test]
    fn it_says_what_plain_maps_say(seed in any::<u64>(), text in any::<bool>(), ttl in any::<bool>()) {
        World::new(seed, text, ttl).run(600);
    }
}

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn division(count: u16) -> Shards {
    Shards::new(count).unwrap()
}

/// A job of so many shards that has these entries, opened.
fn opened(count: u16, entries: &Entries) -> (Vec<Disk>, Stores, Scope) {
    let all = division(count);
    let disks: Vec<Disk> = all.all().map(|_| Disk::default()).collect();
    let store = |(shard, disk): (ShardId, &Disk)| Box::new(MemoryStore::new(shard, disk.clone())) as _;
    let mut stores = Stores::new(all, all.all().zip(&disks).map(store).collect());
    let mut changes = Changes::default();
    for (key, value) in entries {
        let group = crate::key::KeyGroup(u16::from_be_bytes([key[0], key[1]]));
        changes.of(all, group).put(key, value);
    }
    apply(&mut stores, &changes.into_shards(), 1);
    let owned: Vec<ShardId> = all.all().collect();
    let ttl = Some(Duration::from_millis(TTL as u64));
    let config =
        ScopeConfig { uid: UID, shards: all, owned: &owned, ttl, apart: false, description: Description::default() };
    let mut scope = Scope::new(config);
    scope.restore(&stores).unwrap();
    (disks, stores, scope)
}

fn all_entries(disks: &[Disk]) -> Entries {
    disks.iter().flat_map(Disk::entries).collect()
}

fn notes(disks: &[Disk]) -> usize {
    all_entries(disks).keys().filter(|key| key.len() == 7).count()
}

/// What a job of `next` shards takes of one of `count`.
fn cut(count: u16, disks: &[Disk], next: u16) -> Entries {
    let (old, all) = (division(count), division(next));
    let mut taken = Entries::new();
    for (shard, disk) in old.all().zip(disks) {
        for new in all.all() {
            for (key, value) in disk.entries() {
                if let Some(key) = crate::state::reshard(&key, &old.groups(shard), &all.groups(new)) {
                    taken.insert(key.into_owned(), value);
                }
            }
        }
    }
    taken
}

/// Shards that are cut differently, as another job's may be: one becomes three, and three one.
#[test]
fn other_shards_find_what_was_theirs() {
    let keys: Vec<u8> = (0..200).collect();
    let (encoded, hashes) = encode(&keys, false);
    let mut stored = Entries::new();
    for (round, count) in [1u16, 3, 1, 3, 2].into_iter().enumerate() {
        let (disks, mut stores, mut scope) = opened(count, &stored);
        let (mut values, mut timers) = (ValueState::new(&scope, 0), Timers::new(&scope, 0));
        assert_eq!(scope.time_ms, if round == 0 { NO_WATERMARK } else { 100 * round as i64 }, "round {round}");
        values.find(&scope, &stores, &encoded, &hashes).unwrap();
        scope.advance(100 * (round as i64 + 1));
        for row in 0..keys.len() {
            let slot = values.slot(row);
            let want = (round > 0).then(|| vec![round as u8]);
            assert_eq!(values.get(&scope, slot).map(<[u8]>::to_vec), want, "round {round}, row {row}");
            values.set(&scope, slot, Lifetime::Kept, &[round as u8 + 1]);
            let mut user = Vec::new();
            encoded.write(row, &mut user);
            timers.set(&scope, 1_000_000 + row as i64, &user, hashes[row]);
        }
        let (mut changes, mut due) = (Changes::default(), Due::default());
        scope.begin(CommitId::FIRST);
        timers.pop_due(&scope, &stores, 1_000_000 + 10 * round as i64, 1000, &mut due).unwrap();
        assert_eq!(due.len(), 10 * round + 1, "set again in each round, and due again");
        values.take_changes(&scope, &mut changes);
        timers.take_changes(&scope, &mut changes);
        scope.write_notes(timers.buckets(), &mut changes);
        apply(&mut stores, &changes.into_shards(), 2);
        assert_eq!(notes(&disks), usize::from(count), "one note per shard");
        stored = cut(count, &disks, [3, 1, 3, 2, 1][round]);
    }
}

/// A savepoint takes only the note at a shard's beginning along: what it says must be true of the whole shard, even if nothing has changed since the
/// start.
#[test]
fn shards_that_were_cut_often_and_changed_by_nobody_still_have_all() {
    let (encoded, hashes) = encode(&(0..200).collect::<Vec<u8>>(), false);
    let (mut disks, mut stores, mut scope) = opened(3, &Entries::new());
    let mut values = ValueState::new(&scope, 0);
    values.find(&scope, &stores, &encoded, &hashes).unwrap();
    scope.advance(100);
    for row in 0..200 {
        let slot = values.slot(row);
        values.set(&scope, slot, Lifetime::Kept, &[1]);
    }
    let mut changes = Changes::default();
    scope.begin(CommitId::FIRST);
    values.take_changes(&scope, &mut changes);
    scope.write_notes(std::iter::empty(), &mut changes);
    apply(&mut stores, &changes.into_shards(), 2);
    for (count, next) in [(3, 1), (1, 3), (3, 2), (2, 5), (5, 2)] {
        let (after, mut stores, mut quiet) = opened(next, &cut(count, &disks, next));
        assert_eq!(quiet.time_ms, 100, "{count} to {next}");
        let mut changes = Changes::default();
        quiet.begin(CommitId::FIRST);
        quiet.write_notes(std::iter::empty(), &mut changes);
        apply(&mut stores, &changes.into_shards(), 2);
        assert!(next > 1 || notes(&after) == 1, "{} notes", notes(&after));
        let mut values = ValueState::new(&quiet, 0);
        values.find(&quiet, &stores, &encoded, &hashes).unwrap();
        assert!((0..200).all(|row| values.get(&quiet, values.slot(row)).is_some()), "{count} to {next}");
        disks = after;
    }
}

/// A test that tries nothing proves nothing.
#[test]
fn the_runs_above_try_what_they_should() {
    let seen = World::new(7, true, true).run(20_000);
    assert!(seen.crashes > 50 && seen.misses > 1000 && seen.evictions > 1000, "{seen:?}");
    assert!(seen.fired > 300 && seen.expired > 300, "{seen:?}");
}

#[test]
fn values_have_a_layout_for_ever() {
    assert_eq!(stored_value(&[1, 0, 7, 8]), Ok((NEVER, &[7, 8][..])));
    assert_eq!(stored_value(&[1, 1, 5, 0, 0, 0, 0, 0, 0, 0, 9]), Ok((5, &[9][..])));
    assert_eq!(stored_value(&[2, 0]), Err(KeyedError::Version(2)));
    assert!(matches!(stored_value(&[1, 1, 5]), Err(KeyedError::Damaged { .. })));
    assert!(matches!(stored_value(&[1, 2]), Err(KeyedError::Damaged { .. })));
    assert!(matches!(stored_value(&[]), Err(KeyedError::Damaged { .. })));
    for (kind, byte) in
        [(Kind::Note, 0), (Kind::Value, 0x12), (Kind::List, 0x22), (Kind::Map, 0x32), (Kind::Timer, 0x42)]
    {
        let number = if kind == Kind::Note { 0 } else { 2 };
        assert_eq!((kind.byte(number), Kind::of(byte)), (byte, Some((kind, number))));
    }
    assert_eq!([Kind::of(1), Kind::of(0x50)], [None, None]);
}

#[test]
fn state_keys_have_a_layout_for_ever() {
    let mut stores = stores_of(&shards().all().map(|_| Disk::default()).collect::<Vec<_>>());
    let mut live = Live::open(&stores, true);
    let (keys, hashes) = encode(&[1], true);
    live.scope.advance(5);
    live.values.find(&live.scope, &stores, &keys, &hashes).unwrap();
    live.values.set(&live.scope, live.values.slot(0), Lifetime::Ttl, b"v");
    live.lists.find(&live.scope, &stores, &keys, &hashes).unwrap();
    live.lists.append(&live.scope, live.lists.slot(0), Lifetime::Kept, b"e").unwrap();
    live.maps.find(&live.scope, &stores, (&keys, &hashes), &encode(&[2], true).0).unwrap();
    live.maps.set(&live.scope, live.maps.slot(0), Lifetime::Kept, b"m");
    let user = [1, 0, 0, 0, 1, b'k'];
    live.timers.set(&live.scope, 6, &user, hashes[0]);
    apply(&mut stores, &live.take_changes(CommitId::FIRST), 1);
    let group = group_of(hashes[0]);
    let mut entries = Vec::new();
    let prefix = [&group.0.to_be_bytes()[..], &[0, 0, 0, 77]].concat();
    stores.of(group).unwrap().scan(&prefix, &mut |k, v| entries.push((k[6..].to_vec(), v.to_vec()))).unwrap();
    let key = |parts: &[&[u8]]| parts.concat();
    let want = [
        (key(&[&[0x13], &user]), vec![1, 1, 0xed, 3, 0, 0, 0, 0, 0, 0, b'v']),
        (key(&[&[0x20], &user, &[0; 8]]), vec![1, 0, b'e']),
        (key(&[&[0x20], &user, &[255; 8]]), [&[1, 0][..], &[0; 8], &[1, 0, 0, 0, 0, 0, 0, 0]].concat()),
        (key(&[&[0x31], &user, &[1, 0, 0, 0, 2, b'k', b'k']]), vec![1, 0, b'm']),
        (key(&[&[0x4f], &[0x80, 0, 0, 0, 0, 0, 0, 6], &user]), vec![1, 0]),
    ];
    assert_eq!(entries, want);
}
