//! The promises of a worker, on whole jobs: exactly what an oracle says comes out, whatever the order, the commits and the crashes.

mod distributed;
mod switches;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMillisecondType};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use proptest::prelude::*;

use super::*;
use crate::exchange::ports;
use crate::graph::*;
use crate::shuffle::Gate;
use crate::source::{SourceError, SourcePoll, SourcePosition};
use crate::testing::{
    BatchEncoder, Column, Disk, Function, Harness, MemoryStore, Outcome, Random, SourceData, VecPartition,
};

const SIZE: i64 = 100;
const DISORDER: i64 = 250;

const SOURCE: u32 = 0;
const WINDOW_SINK: NodeId = NodeId(3);
const TOTAL_SINK: NodeId = NodeId(6);
const UNION_SINK: NodeId = NodeId(10);

fn time(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), true)
}

fn schema(fields: Vec<Field>) -> SchemaRef {
    Arc::new(Schema::new(fields))
}

fn int(name: &str) -> Field {
    Field::new(name, DataType::Int64, true)
}

fn call(function: AggregateFunction, argument: Option<usize>) -> AggregateCall {
    let input_type = if argument.is_some() { DataType::Int64 } else { DataType::Null };
    AggregateCall { function, argument, filter: None, input_type, output_type: DataType::Int64 }
}

fn tumble(size_ms: i64, keys: Vec<usize>, rowtime: usize, aggregates: Vec<AggregateCall>) -> NodeKind {
    let window = WindowKind::Tumble { size_ms, offset_ms: 0 };
    NodeKind::WindowAggregate(WindowAggregateNode { window, rowtime, keys, aggregates })
}

/// source(k, ts, v) → window per key → sink; → window over that per 10 windows → sink; and both the windows and the raw rows → sink.
fn graph(key: DataType) -> JobGraph {
    let raw = schema(vec![Field::new("k", key.clone(), true), time("ts"), int("v")]);
    let windows = schema(vec![
        Field::new("k", key, true),
        time("window_start"),
        time("window_end"),
        int("n"),
        int("total"),
        int("least"),
        int("most"),
    ]);
    let totals = schema(vec![time("window_start"), time("window_end"), int("n")]);
    let flat = schema(windows.fields()[..4].iter().map(|f| f.as_ref().clone()).collect());
    let columns = |list: &[usize]| list.iter().map(|&i| Arc::new(Column(i)) as ExprRef).collect::<Vec<_>>();
    let watermark = |batch: &RecordBatch| -> ArrayRef {
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        Arc::new(times.unary::<_, TimestampMillisecondType>(|t| t - DISORDER))
    };
    let source = SourceNode {
        table: "input".to_owned(),
        decoded: Arc::clone(&raw),
        computed: None,
        watermark: Some(WatermarkSpec { rowtime: 1, expr: Arc::new(Function(watermark)), idle_timeout: None }),
        distribution: None,
    };
    let sink = || NodeKind::Sink(SinkNode { table: "output".to_owned() });
    let project =
        |list: &[usize]| NodeKind::Calc(Calc { filter: None, projection: columns(list), schema: Arc::clone(&flat) });
    let mut graph = JobGraph::default();
    let mut add = |inputs: Vec<u32>, schema: &SchemaRef, kind: NodeKind| {
        let id = NodeId(graph.nodes.len() as u32);
        let inputs = inputs.into_iter().map(NodeId).collect();
        let (uid, name) = (OperatorUid(16 + id.0), format!("node {}", id.0));
        graph.nodes.push(Node { id, uid, name, inputs, schema: Arc::clone(schema), kind });
    };
    let count = call(AggregateFunction::CountStar, None);
    let per_key = vec![
        count.clone(),
        call(AggregateFunction::Sum, Some(2)),
        call(AggregateFunction::Min, Some(2)),
        call(AggregateFunction::Max, Some(2)),
    ];
    add(vec![], &raw, NodeKind::Source(source));
    add(vec![SOURCE], &raw, NodeKind::Exchange(ExchangeNode { keys: vec![0] }));
    add(vec![1], &windows, tumble(SIZE, vec![0], 1, per_key));
    add(vec![2], &windows, sink());
    add(vec![2], &windows, NodeKind::Exchange(ExchangeNode { keys: vec![] }));
    add(vec![4], &totals, tumble(10 * SIZE, vec![], 1, vec![call(AggregateFunction::Sum, Some(3))]));
    add(vec![5], &totals, sink());
    add(vec![2], &flat, project(&[0, 1, 2, 3]));
    add(vec![SOURCE], &flat, project(&[0, 1, 1, 2]));
    add(vec![7, 8], &flat, NodeKind::Union);
    add(vec![9], &flat, sink());
    graph
}

type Row = (Option<i64>, i64, Option<i64>);

/// Rows of one partition: time rises with bounded disorder.
fn rows(random: &mut Random, count: usize, keys: usize) -> Vec<Row> {
    let start = random.below(500) as i64;
    let row = |i: usize| {
        let key = random.below(keys + 1) as i64 - 1;
        let time = start + i as i64 * 3 + random.below(DISORDER as usize) as i64;
        let value = (!random.once_in(7)).then(|| random.below(1000) as i64 - 500);
        ((key >= 0).then_some(key * 977), time, value)
    };
    (0..count).map(row).collect()
}

fn batches(rows: &[Row], text_keys: bool, random: &mut Random) -> Arc<[RecordBatch]> {
    let raw = graph(if text_keys { DataType::Utf8 } else { DataType::Int64 }).nodes[0].schema.clone();
    let mut rest = rows;
    let mut out = Vec::new();
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(rest.len().min(1 + random.below(60)));
        rest = tail;
        let keys: ArrayRef = match text_keys {
            true => Arc::new(part.iter().map(|r| r.0.map(|k| format!("key {k}"))).collect::<StringArray>()),
            false => Arc::new(part.iter().map(|r| r.0).collect::<Int64Array>()),
        };
        let times = Arc::new(part.iter().map(|r| Some(r.1)).collect::<TimestampMillisecondArray>());
        let values = Arc::new(part.iter().map(|r| r.2).collect::<Int64Array>());
        out.push(RecordBatch::try_new(Arc::clone(&raw), vec![keys, times, values]).unwrap());
    }
    out.into()
}

/// Rows as text, sorted.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch.columns().iter().map(as_plain).collect();
        let formatters: Vec<_> = columns.iter().map(|c| ArrayFormatter::try_new(c, &options).unwrap()).collect();
        for row in 0..batch.num_rows() {
            lines.push(formatters.iter().map(|f| f.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    lines.sort();
    lines
}

/// Times as numbers, so that the oracle needs no calendar.
fn as_plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(_, _) => {
            Arc::new(column.as_primitive::<TimestampMillisecondType>().reinterpret_cast::<Int64Type>())
        }
        _ => Arc::clone(column),
    }
}

fn show<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or("null".to_owned(), |v| v.to_string())
}

/// What the three sinks must hold.
fn oracle(rows: &[Row], text_keys: bool) -> BTreeMap<NodeId, Vec<String>> {
    let key_text = |k: Option<i64>| if text_keys { show(k.map(|k| format!("key {k}"))) } else { show(k) };
    let mut windows: BTreeMap<(i64, Option<i64>), Vec<Option<i64>>> = BTreeMap::new();
    let mut flat = Vec::new();
    for &(key, time, value) in rows {
        windows.entry((time - time.rem_euclid(SIZE), key)).or_default().push(value);
        flat.push(format!("{} {time} {time} {}", key_text(key), show(value)));
    }
    let mut totals: BTreeMap<i64, usize> = BTreeMap::new();
    let mut per_key = Vec::new();
    for ((start, key), values) in &windows {
        *totals.entry(start - start.rem_euclid(10 * SIZE)).or_default() += values.len();
        let known = || values.iter().flatten();
        let sum = known().copied().reduce(|a, b| a + b);
        let short = format!("{} {start} {} {}", key_text(*key), start + SIZE, values.len());
        per_key.push(format!("{short} {} {} {}", show(sum), show(known().min()), show(known().max())));
        flat.push(short);
    }
    let mut total = totals.iter().map(|(start, n)| format!("{start} {} {n}", start + 10 * SIZE)).collect::<Vec<_>>();
    [&mut per_key, &mut total, &mut flat].into_iter().for_each(|lines| lines.sort());
    BTreeMap::from([(WINDOW_SINK, per_key), (TOTAL_SINK, total), (UNION_SINK, flat)])
}

struct Case {
    rows_per_partition: usize,
    partitions: usize,
    keys: usize,
    text_keys: bool,
    pods: u16,
    max_workers: usize,
    queue_capacity: usize,
    commit_once_in: usize,
    rescale_once_in: usize,
    crash_once_in: usize,
    state_budget: u64,
}

fn check(seed: u64, case: &Case) -> Outcome {
    let mut random = Random(seed);
    let mut all = Vec::new();
    let mut partitions = Vec::new();
    for _ in 0..case.partitions {
        let rows = rows(&mut random, case.rows_per_partition, case.keys);
        partitions.push(batches(&rows, case.text_keys, &mut random));
        all.extend(rows);
    }
    let mut letters: Vec<String> = Vec::new();
    for (partition, batches) in partitions.iter().enumerate() {
        for (batch, rows) in batches.iter().enumerate() {
            letters.extend((0..rows.num_rows()).map(|row| format!("{partition} {batch} {row}")));
        }
    }
    letters.sort();
    let harness = Harness {
        graph: Arc::new(graph(if case.text_keys { DataType::Utf8 } else { DataType::Int64 })),
        sources: vec![SourceData { node: NodeId(SOURCE), partitions, groups: Vec::new() }],
        shards: Shards::new(16).unwrap(),
        pods: case.pods,
        max_workers: case.max_workers,
        queue_capacity: case.queue_capacity,
        max_rows: 1 + random.below(50),
        commit_once_in: case.commit_once_in,
        rescale_once_in: case.rescale_once_in,
        crash_once_in: case.crash_once_in,
        state_budget: case.state_budget,
    };
    let mut outcome = harness.run(seed).unwrap();
    outcome.letters.sort();
    assert_eq!(outcome.letters, letters, "seed {seed}: each dead letter once");
    assert_eq!(outcome.late_dropped, 0, "seed {seed}");
    for (sink, expected) in oracle(&all, case.text_keys) {
        let found = lines(outcome.output.get(&sink).map_or(&[], Vec::as_slice));
        assert_eq!(found, expected, "seed {seed}, sink {}", sink.0);
    }
    for disk in &outcome.disks {
        for key in disk.entries().keys() {
            let place = case.pods > 1 && key[2..6] == OperatorUid::SHUFFLES.0.to_be_bytes();
            assert!(place || key.len() == 14, "seed {seed}: after the end only the notes of closed windows are left");
        }
    }
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn committed_output_is_the_oracles_whatever_happens(
        seed in any::<u64>(),
        rows_per_partition in 0usize..250,
        partitions in 1usize..5,
        keys in 1usize..40,
        text_keys in any::<bool>(),
        max_workers in 1usize..5,
        queue_capacity in 1usize..5,
        commit_once_in in 1usize..60,
        crash_once_in in prop_oneof![Just(0usize), 150usize..1000],
        state_budget in prop_oneof![Just(u64::MAX), Just(0u64), 0u64..20_000],
    ) {
        let case = Case { rows_per_partition, partitions, keys, text_keys, pods: 1, max_workers, queue_capacity, commit_once_in, rescale_once_in: 0, crash_once_in, state_budget };
        check(seed, &case);
    }

    #[test]
    fn several_pods_give_the_oracles_output_whatever_happens_to_each(
        seed in any::<u64>(),
        rows_per_partition in 0usize..250,
        partitions in 1usize..7,
        keys in 1usize..40,
        text_keys in any::<bool>(),
        pods in 2u16..5,
        max_workers in 1usize..4,
        queue_capacity in 1usize..5,
        commit_once_in in 1usize..60,
        rescale_once_in in prop_oneof![Just(0usize), 100usize..2000],
        crash_once_in in prop_oneof![Just(0usize), 150usize..1000],
        state_budget in prop_oneof![Just(u64::MAX), Just(0u64), 0u64..20_000],
    ) {
        let case = Case { rows_per_partition, partitions, keys, text_keys, pods, max_workers, queue_capacity, commit_once_in, rescale_once_in, crash_once_in, state_budget };
        check(seed, &case);
    }
}

#[test]
fn crashes_really_happen_in_these_tests() {
    let case = Case {
        rows_per_partition: 400,
        partitions: 4,
        keys: 10,
        text_keys: false,
        pods: 1,
        max_workers: 4,
        queue_capacity: 2,
        commit_once_in: 20,
        rescale_once_in: 0,
        crash_once_in: 30,
        state_budget: u64::MAX,
    };
    let outcome = check(7, &case);
    assert!(outcome.crashes > 2 && outcome.commits > 3, "{} crashes, {} commits", outcome.crashes, outcome.commits);
    assert_eq!(outcome.messages, 0, "one pod needs no log between pods");
    let outcome = check(7, &Case { pods: 3, text_keys: true, ..case });
    assert!(
        outcome.crashes > 2 && outcome.messages > 100,
        "{} crashes, {} messages",
        outcome.crashes,
        outcome.messages
    );
}

#[test]
fn with_no_memory_nearly_every_entry_comes_from_the_stores() {
    let case = Case {
        pods: 1,
        rows_per_partition: 400,
        partitions: 4,
        keys: 30,
        text_keys: true,
        max_workers: 1,
        queue_capacity: 2,
        commit_once_in: 4,
        rescale_once_in: 0,
        crash_once_in: 0,
        state_budget: 0,
    };
    let outcome = check(11, &case);
    assert!(
        outcome.misses > 300 && outcome.evictions > 300,
        "{} misses, {} evictions",
        outcome.misses,
        outcome.evictions
    );
}

/// One worker over given rows, with a disk.
fn single(rows: &[Row], disk: &Disk, position: Option<&SourcePosition>) -> Worker {
    let source = VecPartition::new("0", batches(rows, false, &mut Random(1)), position, 0);
    one_worker(vec![(NodeId(SOURCE), Box::new(source))], Vec::new(), disk)
}

fn one_worker(sources: Vec<(NodeId, Box<dyn SourcePartition>)>, growing: Vec<NodeId>, disk: &Disk) -> Worker {
    let graph = Arc::new(graph(DataType::Int64));
    let shards = Shards::new(1).unwrap();
    let wakes: [Wake; 1] = [Arc::new(|| {})];
    Worker::new(WorkerConfig {
        index: 0,
        workers: 1,
        exchange: ports(&graph, 1, 4, &wakes).remove(0),
        encoders: [WINDOW_SINK, TOTAL_SINK, UNION_SINK].map(|n| (n, Box::<BatchEncoder>::default() as _)).into(),
        graph,
        shards,
        owner: Arc::from([0]),
        sources,
        stores: vec![Box::new(MemoryStore::new(ShardId(0), disk.clone()))],
        growing,
        max_rows_per_poll: 1000,
        shuffle: None,
        gate: Arc::new(Gate::open()),
        state_budget: u64::MAX,
    })
    .unwrap()
}

fn step_to_rest(worker: &mut Worker, out: &mut Vec<WorkerEvent>) -> StepStatus {
    loop {
        match worker.step(0, out).unwrap() {
            StepStatus::Progress => {}
            rest => return rest,
        }
    }
}

fn commit(worker: &mut Worker, id: CommitId) -> WorkerCommit {
    let mut events = Vec::new();
    worker.begin_commit(id);
    step_to_rest(worker, &mut events);
    match events.pop() {
        Some(WorkerEvent::Commit(commit)) => commit,
        other => panic!("the commit comes last, found {other:?}"),
    }
}

#[test]
fn a_barrier_works_when_finished_and_an_empty_commit_changes_nothing() {
    let mut worker = single(&[(Some(1), 10, Some(5))], &Disk::default(), None);
    assert_eq!(step_to_rest(&mut worker, &mut Vec::new()), StepStatus::Finished);
    let first = commit(&mut worker, CommitId(1));
    assert!(first.finished && first.rows_in == 1 && first.positions.len() == 1);
    let second = commit(&mut worker, CommitId(2));
    assert!(second.finished && second.rows_in == 0 && second.changes.is_empty());
    assert_eq!(worker.progress().watermark_ms, Some(i64::MAX));
}

#[test]
fn partitions_are_added_to_a_source_that_grows_and_each_position_is_told_when_it_moved() {
    let part = |name: &str, row: Row| -> Box<dyn SourcePartition> {
        Box::new(VecPartition::new(name, batches(&[row], false, &mut Random(1)), None, 0))
    };
    let told =
        |commit: &WorkerCommit| -> Vec<String> { commit.positions.iter().map(|(_, id, _)| id.0.clone()).collect() };
    let mut worker = one_worker(Vec::new(), vec![NodeId(SOURCE)], &Disk::default());
    assert!(matches!(step_to_rest(&mut worker, &mut Vec::new()), StepStatus::Idle { .. }), "it may still grow");
    worker.add_source(NodeId(SOURCE), part("a", (Some(1), 10, Some(5)))).unwrap();
    step_to_rest(&mut worker, &mut Vec::new());
    let first = commit(&mut worker, CommitId(1));
    assert_eq!((told(&first), first.rows_in, first.finished), (vec!["a".to_owned()], 1, false));
    assert_eq!(told(&commit(&mut worker, CommitId(2))), [""; 0], "nothing moved");
    // Its time is behind the first one's windows' ends and ahead of the watermark: nothing is late.
    for (id, name) in [(3, "b"), (4, "c")] {
        worker.add_source(NodeId(SOURCE), part(name, (Some(1), 2_000 * id, Some(5)))).unwrap();
        step_to_rest(&mut worker, &mut Vec::new());
        let next = commit(&mut worker, CommitId(id as u64));
        assert_eq!((told(&next), next.rows_in), (vec![name.to_owned()], 1));
    }
    let progress = worker.progress();
    assert_eq!(progress.nodes.iter().map(|node| node.late_dropped).sum::<u64>(), 0);
    assert_eq!(progress.nodes[0].watermark_ms, Some(8_000 - DISORDER));
    let error = worker.add_source(WINDOW_SINK, part("d", (None, 0, None))).unwrap_err().to_string();
    assert!(error.contains("no growing source"), "{error}");
}

#[test]
fn a_group_that_comes_and_goes_within_an_interval_is_never_stored() {
    let mut worker = single(&[(Some(1), 10, Some(5)), (Some(2), 10, None)], &Disk::default(), None);
    step_to_rest(&mut worker, &mut Vec::new());
    let commit = commit(&mut worker, CommitId(1));
    let puts: usize = commit.changes.iter().map(|(_, batch)| batch.len()).sum();
    assert_eq!(puts, 2, "only the notes of the two aggregates' closed windows");
}

#[test]
fn commits_keep_their_order() {
    let mut worker = single(&[], &Disk::default(), None);
    worker.begin_commit(CommitId(5));
    let error = worker.step(0, &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), "commit 5 was begun, but the next is 1");
    assert!(matches!(worker.commit_applied(CommitId(1), &vec![]), Err(WorkerError::NotPending { .. })));
}

#[test]
fn a_window_that_was_emitted_before_a_restart_is_not_emitted_again() {
    let disk = Disk::default();
    let before = [(Some(1), 10, Some(5)), (Some(1), 1_000, Some(5))];
    let mut worker = single(&before, &disk, None);
    worker.step(0, &mut Vec::new()).unwrap();
    worker.step(0, &mut Vec::new()).unwrap();
    let first = commit(&mut worker, CommitId(1));
    let offsets = first.changes.iter().map(|(shard, _)| (*shard, LogOffset(0))).collect();
    worker.commit_applied(CommitId(1), &offsets).unwrap();
    let mut restarted = single(&[(Some(1), 20, Some(7))], &disk, None);
    step_to_rest(&mut restarted, &mut Vec::new());
    let late: u64 = restarted.progress().nodes.iter().map(|node| node.late_dropped).sum();
    assert_eq!(late, 1);
}

/// A partition that never ends.
struct Unbounded(VecPartition);

impl SourcePartition for Unbounded {
    fn id(&self) -> &PartitionId {
        self.0.id()
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        Ok(match self.0.poll(max_rows)? {
            SourcePoll::End => SourcePoll::Pending,
            found => found,
        })
    }

    fn position(&self) -> SourcePosition {
        self.0.position()
    }

    fn known_ms(&self) -> Option<i64> {
        self.0.known_ms()
    }
}

#[test]
fn a_restarted_worker_closes_windows_by_what_a_partition_had_reached_without_a_row_of_it() {
    let partition = |name: &str, rows: &[Row], known_ms| -> (NodeId, Box<dyn SourcePartition>) {
        let partition = VecPartition::new(name, batches(rows, false, &mut Random(1)), None, 0).after(known_ms);
        (NodeId(SOURCE), Box::new(Unbounded(partition)))
    };
    let disk = Disk::default();
    let slow = partition("slow", &[(Some(1), 10, Some(5))], None);
    let ahead = partition("ahead", &[(Some(1), 20, Some(5)), (Some(1), 9_000, Some(5))], None);
    let mut worker = one_worker(vec![slow, ahead], Vec::new(), &disk);
    step_to_rest(&mut worker, &mut Vec::new());
    let first = commit(&mut worker, CommitId(1));
    let reached = |name: &str| first.positions.iter().find(|(_, id, _)| id.0 == name).unwrap().2.watermark_ms;
    assert_eq!((reached("slow"), reached("ahead")), (Some(10 - DISORDER), Some(9_000 - DISORDER)));
    let offsets = first.changes.iter().map(|(shard, _)| (*shard, LogOffset(0))).collect();
    worker.commit_applied(CommitId(1), &offsets).unwrap();
    // The one that is ahead has nothing more: only what it had reached says that windows may close.
    let next = [(Some(1), 2_000, Some(5))];
    for (known, watermark, closed) in [(false, None, 0), (true, Some(2_000 - DISORDER), 1)] {
        let know = |name: &str| reached(name).filter(|_| known);
        let sources = vec![partition("slow", &next, know("slow")), partition("ahead", &[], know("ahead"))];
        let mut restarted = one_worker(sources, Vec::new(), &disk);
        step_to_rest(&mut restarted, &mut Vec::new());
        let progress = restarted.progress();
        assert_eq!(progress.nodes[SOURCE as usize].watermark_ms, watermark);
        assert_eq!(progress.nodes[2].rows_out, closed, "the window that both had rows in");
        if known {
            let again = commit(&mut restarted, CommitId(1));
            let moved = again.positions.iter().find(|(_, id, _)| id.0 == "ahead").unwrap();
            assert_eq!(moved.2.watermark_ms, reached("ahead"), "it is committed again as it was");
        }
    }
}

#[test]
fn a_sum_that_overflows_names_operator_and_aggregate() {
    let mut worker = single(&[(Some(1), 10, Some(i64::MAX)), (Some(1), 11, Some(1))], &Disk::default(), None);
    let error = (0..10).find_map(|_| worker.step(0, &mut Vec::new()).err()).unwrap();
    assert!(error.to_string().starts_with("node 2: aggregate total: the sum does not fit Int64"), "{error}");
}
