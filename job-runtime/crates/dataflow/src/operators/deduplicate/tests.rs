//! The promises of deduplication: one row per key, the least in event time, whatever the order, the commits and the crashes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit, TimestampMillisecondType};
use proptest::prelude::*;

use super::*;
use crate::graph::{
    ExchangeNode, ExprRef, JobGraph, NodeId, NodeKind, OperatorUid, SinkNode, SourceNode, WatermarkSpec,
};
use crate::state::{LogOffset, ShardStore};
use crate::testing::{Disk, Function, Harness, MemoryStore, Outcome, Random, SourceData};

const DISORDER: i64 = 250;
const FIRST_SINK: NodeId = NodeId(3);
const DISTINCT_SINK: NodeId = NodeId(6);

fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    Arc::new(Schema::new(vec![
        Field::new("v", DataType::Int64, true),
        Field::new("k", DataType::Utf8, true),
        Field::new("ts", time, true),
    ]))
}

/// Value, key, time.
type Row = (Option<i64>, Option<String>, i64);

fn batch(rows: &[Row]) -> RecordBatch {
    let values: Int64Array = rows.iter().map(|row| row.0).collect();
    let keys: StringArray = rows.iter().map(|row| row.1.as_deref()).collect();
    let times: TimestampMillisecondArray = rows.iter().map(|row| Some(row.2)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(values), Arc::new(keys), Arc::new(times)]).unwrap()
}

fn rows_of(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for batch in batches {
        let (values, keys) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
        let times = batch.column(2).as_primitive::<TimestampMillisecondType>();
        let parts = values.iter().zip(keys.iter()).zip(times.values());
        rows.extend(parts.map(|((value, key), time)| (value, key.map(str::to_owned), *time)));
    }
    rows
}

fn node(first: FirstBy, keys: Vec<usize>, ttl: Option<i64>) -> NodeKind {
    NodeKind::Deduplicate(DeduplicateNode { keys, first, ttl: ttl.map(|ms| Duration::from_millis(ms as u64)) })
}

/// source → by key → the first in event time → sink; source → by key and value → the first that comes → sink.
fn graph(ttl: Option<i64>) -> JobGraph {
    let watermark = Function(|batch| -> ArrayRef {
        let times = batch.column(2).as_primitive::<TimestampMillisecondType>();
        Arc::new(times.unary::<_, TimestampMillisecondType>(|t| t - DISORDER))
    });
    let expr: ExprRef = Arc::new(watermark);
    let source = SourceNode {
        table: "input".to_owned(),
        decoded: schema(),
        computed: None,
        watermark: Some(WatermarkSpec { rowtime: 2, expr, idle_timeout: None }),
        distribution: None,
    };
    let sink = || NodeKind::Sink(SinkNode { table: "output".to_owned() });
    let mut graph = JobGraph::default();
    let mut add = |inputs: Vec<u32>, kind: NodeKind| {
        let id = NodeId(graph.nodes.len() as u32);
        let inputs = inputs.into_iter().map(NodeId).collect();
        let (uid, name) = (OperatorUid(16 + id.0), format!("node {}", id.0));
        graph.nodes.push(Node { id, uid, name, inputs, schema: schema(), kind });
    };
    add(vec![], NodeKind::Source(source));
    add(vec![0], NodeKind::Exchange(ExchangeNode { keys: vec![1] }));
    add(vec![1], node(FirstBy::EventTime { rowtime: 2 }, vec![1], ttl));
    add(vec![2], sink());
    add(vec![0], NodeKind::Exchange(ExchangeNode { keys: vec![1, 0] }));
    add(vec![4], node(FirstBy::Arrival, vec![1, 0], None));
    add(vec![5], sink());
    graph
}

struct Case {
    rows: usize,
    keys: usize,
    pods: u16,
    crash_once_in: usize,
    state_budget: u64,
    ttl: Option<i64>,
}

fn input(random: &mut Random, rows: usize, keys: usize) -> Vec<Row> {
    let row = |i: usize| {
        let key = random.below(keys + 1);
        let key = (key > 0).then(|| "key ".repeat(1 + key % 3) + &key.to_string());
        let value = (!random.once_in(5)).then(|| random.below(4) as i64);
        (value, key, i as i64 * 40 + random.below(DISORDER as usize) as i64)
    };
    (0..rows).map(row).collect()
}

fn run(case: &Case, seed: u64) -> (Vec<Row>, Outcome) {
    let mut random = Random(seed);
    let parts: Vec<Vec<Row>> = (0..3).map(|_| input(&mut random, case.rows, case.keys)).collect();
    let batches = |rows: &Vec<Row>| rows.chunks(17).map(batch).collect::<Vec<_>>().into();
    let sources = vec![SourceData { node: NodeId(0), partitions: parts.iter().map(batches).collect(), groups: vec![] }];
    let harness = Harness {
        graph: Arc::new(graph(case.ttl)),
        sources,
        shards: Shards::new(5).unwrap(),
        pods: case.pods,
        max_workers: 3,
        queue_capacity: 2,
        max_rows: 13,
        commit_once_in: 9,
        rescale_once_in: if case.pods > 1 { 400 } else { 0 },
        crash_once_in: case.crash_once_in,
        state_budget: case.state_budget,
    };
    (parts.concat(), harness.run(seed).unwrap())
}

fn least(rows: &[Row]) -> BTreeMap<Option<String>, Row> {
    let mut least: BTreeMap<Option<String>, Row> = BTreeMap::new();
    for row in rows {
        let held = least.entry(row.1.clone()).or_insert_with(|| row.clone());
        if (row.2, row.0) < (held.2, held.0) {
            *held = row.clone();
        }
    }
    least
}

fn check(case: &Case, seed: u64) -> Outcome {
    let (rows, outcome) = run(case, seed);
    assert_eq!(outcome.late_dropped, 0);
    let mut first = rows_of(&outcome.output[&FIRST_SINK]);
    first.sort_by_key(|row| (row.1.clone(), row.2));
    let want = least(&rows);
    match case.ttl {
        None => assert_eq!(first, want.into_values().collect::<Vec<_>>()),
        Some(ttl) => {
            for pair in first.windows(2).filter(|pair| pair[0].1 == pair[1].1) {
                assert!(pair[1].2 > pair[0].2 + ttl, "given out again too early: {pair:?}");
            }
            let again = least(&first);
            assert_eq!(again, want, "the first of all is the same");
            assert!(first.iter().all(|row| rows.contains(row)));
        }
    }
    let mut distinct = rows_of(&outcome.output[&DISTINCT_SINK]);
    distinct.iter_mut().for_each(|row| row.2 = 0);
    distinct.sort();
    let want: BTreeSet<Row> = rows.into_iter().map(|row| (row.0, row.1, 0)).collect();
    assert_eq!(distinct, want.into_iter().collect::<Vec<_>>());
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn each_key_has_its_first_row(
        seed in any::<u64>(),
        keys in 1usize..60,
        pods in 1u16..4,
        crash_once_in in prop::sample::select(vec![0, 200, 900]),
        state_budget in prop::sample::select(vec![0, 4 << 10, u64::MAX]),
        ttl in prop::option::of(1i64..4000),
    ) {
        check(&Case { rows: 150, keys, pods, crash_once_in, state_budget, ttl }, seed);
    }
}

#[test]
fn state_is_read_back_from_the_stores() {
    let mut sum = (0, 0, 0, 0);
    for seed in 0..4 {
        let case = Case { rows: 900, keys: 400, pods: 1, crash_once_in: 700, state_budget: 0, ttl: Some(20_000) };
        let outcome = check(&case, seed);
        sum = (sum.0 + outcome.misses, sum.1 + outcome.evictions, sum.2 + outcome.crashes, sum.3 + outcome.commits);
    }
    assert!(sum.0 > 200 && sum.1 > 200 && sum.2 > 4, "{sum:?}");
}

/// The operator alone.
struct Bench {
    operator: Deduplicate,
    stores: Stores,
    commit: CommitId,
}

fn operator(first: FirstBy, ttl: Option<i64>, stores: &Stores) -> Deduplicate {
    let shards = Shards::new(2).unwrap();
    let NodeKind::Deduplicate(spec) = node(first, vec![1], ttl) else { unreachable!("made so above") };
    let kind = NodeKind::Deduplicate(spec.clone());
    let node =
        Node { id: NodeId(0), uid: OperatorUid(20), name: "first".into(), inputs: vec![], schema: schema(), kind };
    let owned: Vec<ShardId> = shards.all().collect();
    let mut operator = Deduplicate::new(&node, &spec, shards, &owned, Placing::Own).unwrap();
    operator.restore(stores).unwrap();
    operator
}

impl Bench {
    fn new(first: FirstBy, ttl: Option<i64>) -> Self {
        let shards = Shards::new(2).unwrap();
        let store = |shard| Box::new(MemoryStore::new(shard, Disk::default())) as Box<dyn ShardStore>;
        let stores = Stores::new(shards, shards.all().map(store).collect());
        Self { operator: operator(first, ttl, &stores), stores, commit: CommitId(0) }
    }

    /// Rows of one key each, given as key and time; what goes on at once.
    fn give(&mut self, rows: &[(&str, i64)]) -> Vec<Row> {
        let rows: Vec<Row> = rows.iter().map(|(key, time)| (Some(*time), Some((*key).to_owned()), *time)).collect();
        let passed = self.operator.update(&Batch::new(batch(&rows)), &self.stores).unwrap();
        rows_of(passed.map(|batch| batch.rows).as_slice())
    }

    /// Times of what goes on at a watermark.
    fn fire(&mut self, watermark_ms: i64) -> Vec<(String, i64)> {
        let fired = std::iter::from_fn(|| self.operator.fire_next(watermark_ms, &self.stores).unwrap());
        rows_of(&fired.map(|batch| batch.rows).collect::<Vec<_>>())
            .into_iter()
            .map(|row| (row.1.unwrap(), row.2))
            .collect()
    }

    fn commit(&mut self) {
        self.commit = self.commit.next();
        for (shard, changes) in self.operator.take_changes(self.commit) {
            let store = self.stores.iter_mut().find(|store| store.shard() == shard).unwrap();
            store.apply(&changes, LogOffset(self.commit.0 as i64)).unwrap();
        }
        self.operator.on_applied(self.commit, &self.stores);
    }

    fn restart(&mut self, first: FirstBy, ttl: Option<i64>) {
        self.commit = CommitId(0);
        self.operator = operator(first, ttl, &self.stores);
    }
}

fn row(key: &str, time: i64) -> (String, i64) {
    (key.to_owned(), time)
}

const BY_TIME: FirstBy = FirstBy::EventTime { rowtime: 2 };

#[test]
fn the_least_row_waits_for_the_watermark_and_then_no_other_comes() {
    let mut bench = Bench::new(BY_TIME, None);
    assert!(bench.give(&[("a", 30), ("b", 50), ("a", 20), ("a", 25)]).is_empty());
    assert_eq!(bench.fire(19), []);
    bench.commit();
    bench.restart(BY_TIME, None);
    bench.give(&[("b", 40), ("a", 22)]);
    assert_eq!(bench.fire(40), [row("a", 20), row("b", 40)]);
    bench.commit();
    bench.restart(BY_TIME, None);
    bench.give(&[("a", 100), ("c", 90), ("b", 41)]);
    assert_eq!(bench.fire(i64::MAX), [row("c", 90)]);
}

#[test]
fn late_rows_are_counted_and_no_time_is_an_error() {
    let mut bench = Bench::new(BY_TIME, None);
    assert_eq!(bench.fire(10), []);
    bench.give(&[("a", 10), ("a", 11), ("b", 3)]);
    assert_eq!(bench.operator.size().late_dropped, 2);
    assert_eq!(bench.fire(11), [row("a", 11)]);
    let times: TimestampMillisecondArray = vec![None].into();
    let columns: Vec<ArrayRef> =
        vec![Arc::new(Int64Array::from(vec![1])), Arc::new(StringArray::from(vec!["a"])), Arc::new(times)];
    let rows = RecordBatch::try_new(schema(), columns).unwrap();
    let error = bench.operator.update(&Batch::new(rows), &bench.stores).unwrap_err();
    assert!(error.to_string().starts_with("column ts is null"), "{error}");
}

#[test]
fn a_key_is_forgotten_when_its_time_to_live_has_passed() {
    for (first, restart) in [(BY_TIME, false), (BY_TIME, true), (FirstBy::Arrival, false), (FirstBy::Arrival, true)] {
        let mut bench = Bench::new(first, Some(1000));
        bench.fire(0);
        let mut out = bench.give(&[("a", 10)]).len();
        out += bench.fire(20).len();
        bench.commit();
        assert_eq!(out, 1);
        if restart {
            bench.restart(first, Some(1000));
        }
        bench.fire(900);
        assert_eq!(bench.give(&[("a", 950)]).len() + bench.fire(960).len(), 0, "still remembered");
        bench.commit();
        if restart {
            bench.restart(first, Some(1000));
        }
        bench.fire(1020);
        assert_eq!(bench.give(&[("a", 1030)]).len() + bench.fire(1030).len(), 1, "forgotten");
        bench.fire(3000);
        bench.commit();
        let mut left = 0;
        bench.stores.iter().for_each(|store| store.scan(b"", &mut |key, _| left += usize::from(key[6] != 0)).unwrap());
        assert_eq!(left, 0, "the store may drop what has expired, and this one does");
    }
}

#[test]
fn rows_come_back_as_they_were() {
    let floats = |values: Vec<f64>| Arc::new(arrow::array::Float64Array::from(values)) as ArrayRef;
    let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
    let fields = vec![
        Field::new("f", DataType::Float64, true),
        Field::new("ts", time.clone(), true),
        Field::new("k", DataType::Int32, true),
        Field::new("d", DataType::Decimal128(20, 3), true),
    ];
    let schema = Arc::new(Schema::new(fields));
    let times = TimestampMillisecondArray::from(vec![5, 6, 7]).with_timezone("UTC");
    let decimals = arrow::array::Decimal128Array::from(vec![Some(1), None, Some(-77)]);
    let columns: Vec<ArrayRef> = vec![
        floats(vec![-0.0, f64::from_bits(0x7ff8_0000_0000_0001), -1.5]),
        Arc::new(times),
        Arc::new(arrow::array::Int32Array::from(vec![Some(3), None, Some(i32::MIN)])),
        Arc::new(decimals.with_precision_and_scale(20, 3).unwrap()),
    ];
    let rows = RecordBatch::try_new(Arc::clone(&schema), columns).unwrap();
    let spec = DeduplicateNode { keys: vec![2], first: FirstBy::EventTime { rowtime: 1 }, ttl: None };
    let kind = NodeKind::Deduplicate(spec.clone());
    let node = Node { id: NodeId(0), uid: OperatorUid(20), name: "first".into(), inputs: vec![], schema, kind };
    let stores = Bench::new(BY_TIME, None).stores;
    let shards = Shards::new(2).unwrap();
    let owned: Vec<ShardId> = shards.all().collect();
    let mut operator = Deduplicate::new(&node, &spec, shards, &owned, Placing::Own).unwrap();
    operator.update(&Batch::new(rows.clone()), &stores).unwrap();
    let out = operator.fire_next(7, &stores).unwrap().unwrap().rows;
    assert_eq!(out.columns()[1..], rows.columns()[1..]);
    let bits = |batch: &RecordBatch| -> Vec<u64> {
        let floats = batch.column(0).as_primitive::<arrow::datatypes::Float64Type>();
        floats.values().iter().map(|f| f.to_bits()).collect()
    };
    assert_eq!(bits(&out), bits(&rows));
}
