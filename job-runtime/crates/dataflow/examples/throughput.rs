//! Rows per CPU-second of a tumbling count per Int64 key with one worker, over 1,000 and 100,000 keys. For a profiler and for comparing changes;
//! the project's benchmarks are elsewhere. Commits every 50 batches; the stores
//! forget what they are given. CPU time is Linux's; elsewhere it is elapsed time.
//!
//! `CARGO_PROFILE_DEV_OPT_LEVEL=3 CARGO_PROFILE_DEV_DEBUG_ASSERTIONS=false CARGO_PROFILE_DEV_OVERFLOW_CHECKS=false cargo run -p dataflow --example throughput`
#![expect(clippy::print_stdout, reason = "the figures are the program's output")]
#![expect(clippy::disallowed_methods, reason = "a measurement reads the clock; the engine does not")]

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit, TimestampMillisecondType};
use dataflow::exchange::ports;
use dataflow::graph::{
    AggregateCall, AggregateFunction, ExchangeNode, JobGraph, Node, NodeId, NodeKind, OperatorUid, SinkNode,
    SourceNode, WatermarkSpec, WindowAggregateNode, WindowKind,
};
use dataflow::key::{ShardId, Shards};
use dataflow::shuffle::Gate;
use dataflow::state::{ChangeBatch, LogOffset, ShardStore, StateError};
use dataflow::testing::{BatchEncoder, Function, Random, VecPartition};
use dataflow::worker::{CommitId, StepStatus, Wake, Worker, WorkerConfig, WorkerError, WorkerEvent};

const ROWS: usize = 20_000_000;
const BATCH: usize = 8192;

/// Forgets everything.
struct NoStore(ShardId);

impl ShardStore for NoStore {
    fn shard(&self) -> ShardId {
        self.0
    }
    fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8])) -> Result<(), StateError> {
        Ok(())
    }
    fn multi_get(&self, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, StateError> {
        Ok(vec![None; keys.len()])
    }
    fn apply(&mut self, _: &ChangeBatch, _: LogOffset) -> Result<(), StateError> {
        Ok(())
    }
    fn applied(&self) -> Option<LogOffset> {
        None
    }
}

/// Seconds on the CPU since `start`.
fn cpu_seconds(start: Instant) -> f64 {
    let scheduled = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = scheduled.as_deref().and_then(|s| s.split(' ').next()).and_then(|s| s.parse::<f64>().ok());
    nanos.map_or_else(|| start.elapsed().as_secs_f64(), |n| n / 1e9)
}

fn main() -> Result<(), WorkerError> {
    for text in [false, true] {
        for keys in [1_000, 100_000] {
            let (seconds, commits) = run(keys, text)?;
            let kind = if text { "Utf8" } else { "Int64" };
            let rate = ROWS as f64 / seconds / 1e6;
            println!(
                "{keys:>7} {kind} keys: {rate:.1} M rows per CPU-second, {:.1} ns per row, {commits} commits",
                1e3 / rate
            );
        }
    }
    Ok(())
}

fn graph(key: DataType) -> JobGraph {
    let time = |name: &str| Field::new(name, DataType::Timestamp(TimeUnit::Millisecond, None), false);
    let input = Arc::new(Schema::new(vec![Field::new("k", key.clone(), false), time("ts")]));
    let count = Field::new("n", DataType::Int64, false);
    let output = Arc::new(Schema::new(vec![Field::new("k", key, true), time("start"), time("end"), count]));
    let watermark = Function(|batch| -> ArrayRef {
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>();
        Arc::new(times.unary::<_, TimestampMillisecondType>(|t| t - 1))
    });
    let source = SourceNode {
        table: "input".to_owned(),
        decoded: Arc::clone(&input),
        computed: None,
        watermark: Some(WatermarkSpec { rowtime: 1, expr: Arc::new(watermark), idle_timeout: None }),
        distribution: None,
    };
    let aggregate = AggregateCall {
        function: AggregateFunction::CountStar,
        argument: None,
        filter: None,
        input_type: DataType::Null,
        output_type: DataType::Int64,
    };
    let window = WindowAggregateNode {
        window: WindowKind::Tumble { size_ms: 10_000, offset_ms: 0 },
        rowtime: 1,
        keys: vec![0],
        aggregates: vec![aggregate],
    };
    let kinds = [
        (NodeKind::Source(source), &input),
        (NodeKind::Exchange(ExchangeNode { keys: vec![0] }), &input),
        (NodeKind::WindowAggregate(window), &output),
        (NodeKind::Sink(SinkNode { table: "output".to_owned() }), &output),
    ];
    let node = |(place, (kind, schema)): (usize, (NodeKind, &Arc<Schema>))| Node {
        id: NodeId(place as u32),
        uid: OperatorUid(16 + place as u32),
        name: format!("node {place}"),
        inputs: (0..place as u32).last().map(NodeId).into_iter().collect(),
        schema: Arc::clone(schema),
        kind,
    };
    JobGraph { nodes: kinds.into_iter().enumerate().map(node).collect() }
}

/// 100,000 rows per second of event time, keys in no order.
fn input(keys: usize, text: bool, graph: &JobGraph) -> Arc<[RecordBatch]> {
    let mut random = Random(1);
    let batch = |first: usize| {
        let ids: Vec<i64> = (0..BATCH).map(|_| random.below(keys) as i64).collect();
        let keys: ArrayRef = match text {
            true => Arc::new(ids.iter().map(|id| Some(format!("key-{id:08}"))).collect::<StringArray>()),
            false => Arc::new(Int64Array::from(ids)),
        };
        let times: TimestampMillisecondArray = (first..first + BATCH).map(|row| Some(row as i64 / 100)).collect();
        RecordBatch::try_new(Arc::clone(&graph.nodes[0].schema), vec![keys, Arc::new(times)])
    };
    (0..ROWS).step_by(BATCH).map(batch).collect::<Result<Vec<_>, _>>().expect("columns of one length").into()
}

fn run(keys: usize, text: bool) -> Result<(f64, u64), WorkerError> {
    let graph = Arc::new(graph(if text { DataType::Utf8 } else { DataType::Int64 }));
    let batches = input(keys, text, &graph);
    let shards = Shards::new(16).expect("between 1 and 4096");
    let wakes: [Wake; 1] = [Arc::new(|| {})];
    let store = |shard: ShardId| Box::new(NoStore(shard)) as _;
    let mut worker = Worker::new(WorkerConfig {
        index: 0,
        workers: 1,
        exchange: ports(&graph, 1, 16, &wakes).remove(0),
        graph,
        shards,
        owner: vec![0; 16].into(),
        sources: vec![(NodeId(0), Box::new(VecPartition::new("0", batches, None, 0)))],
        encoders: vec![(NodeId(3), Box::new(BatchEncoder::default()))],
        stores: shards.all().map(store).collect(),
        growing: Vec::new(),
        state_budget: u64::MAX,
        max_rows_per_poll: BATCH,
        shuffle: None,
        gate: Gate::open().into(),
    })?;
    let (start, before, mut steps, mut next) = (Instant::now(), cpu_seconds(Instant::now()), 0, CommitId::FIRST);
    let mut out: Vec<WorkerEvent> = Vec::new();
    while worker.step(0, &mut out)? != StepStatus::Finished {
        steps += 1;
        if steps % 50 == 0 {
            worker.begin_commit(next);
            next = next.next();
        }
        for event in out.drain(..) {
            if let WorkerEvent::Commit(commit) = event {
                let offsets = commit.changes.iter().map(|(shard, _)| (*shard, LogOffset(0))).collect();
                worker.commit_applied(commit.id, &offsets)?;
            }
        }
    }
    Ok((cpu_seconds(start) - before, next.0 - 1))
}
