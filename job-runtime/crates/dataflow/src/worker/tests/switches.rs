//! What a worker does with shards that are taken away at a barrier.

use super::*;
use crate::exchange::ports_of_pod;
use crate::key::{KeyEncoder, group_of};
use crate::shuffle::outgoing::Outgoing;
use crate::shuffle::{PodView, ShuffleConfig, ShuffleReader};
use crate::source::{SourceError, SourcePoll};
use crate::testing::ShuffleLog;
use crate::watermark::EventTime;

const KEPT: ShardId = ShardId(0);
const LOST: ShardId = ShardId(1);

fn view(assignment: u64) -> PodView {
    PodView { job: 1, assignment, slot: 0, others: vec![1] }
}

fn partition(name: &str, parts: &[Vec<Row>], shard: ShardId) -> Box<dyn SourcePartition> {
    let all: Vec<RecordBatch> = parts.iter().flat_map(|rows| one_batch(rows).to_vec()).collect();
    Box::new(VecPartition::new(name, all.into(), None, 0).with_shard(shard))
}

/// Rows as one batch.
fn one_batch(rows: &[Row]) -> Arc<[RecordBatch]> {
    let parts = batches(rows, false, &mut Random(1));
    let schema = parts[0].schema();
    [arrow::compute::concat_batches(&schema, parts.iter()).unwrap()].into()
}

/// The shard of a key, of two.
fn shard_of(key: i64) -> ShardId {
    let rows = one_batch(&[(Some(key), 0, None)]);
    let hash = KeyEncoder::new(&rows[0].schema(), &[0]).unwrap().encode(&rows[0]).hashes()[0];
    Shards::new(2).unwrap().shard_of(group_of(hash))
}

/// The only worker of a pod of two that owns both shards; its partitions pass to other pods with one of them each.
fn worker(sources: Vec<Box<dyn SourcePartition>>, log: &ShuffleLog, disks: &[Disk; 2]) -> Worker {
    let graph = Arc::new(graph(DataType::Int64));
    let wake: Wake = Arc::new(|| {});
    let mut readers: Vec<(NodeId, Box<dyn ShuffleReader>)> = Vec::new();
    for (node, _) in crate::shuffle::exchanges(&graph) {
        for shard in [KEPT, LOST] {
            readers.push((node, Box::new(log.reader(node, shard, 0, Arc::clone(&wake)))));
        }
    }
    let store = |shard: ShardId| Box::new(MemoryStore::new(shard, disks[usize::from(shard.0)].clone())) as _;
    Worker::new(WorkerConfig {
        index: 0,
        workers: 1,
        exchange: ports_of_pod(&graph, 1, 4, &[wake]).remove(0),
        encoders: [WINDOW_SINK, TOTAL_SINK, UNION_SINK].map(|n| (n, Box::<BatchEncoder>::default() as _)).into(),
        graph,
        shards: Shards::new(2).unwrap(),
        owner: Arc::from([0, 0]),
        sources: sources.into_iter().map(|partition| (NodeId(SOURCE), partition)).collect(),
        stores: [KEPT, LOST].map(store).into(),
        growing: vec![NodeId(SOURCE)],
        max_rows_per_poll: 1000,
        shuffle: Some(ShuffleConfig { view: view(1), readers }),
        gate: Arc::new(Gate::open()),
        state_budget: u64::MAX,
    })
    .unwrap()
}

fn share(worker: &mut Worker) -> WorkerCommit {
    let mut events = Vec::new();
    step_to_rest(worker, &mut events);
    let commit = events.into_iter().find_map(|event| match event {
        WorkerEvent::Commit(commit) => Some(commit),
        WorkerEvent::Chunk { .. } | WorkerEvent::Block { .. } => None,
    });
    commit.expect("the barrier has passed")
}

fn changed(commit: &WorkerCommit) -> Vec<ShardId> {
    commit.changes.iter().map(|(shard, _)| *shard).collect()
}

fn applied(worker: &mut Worker, commit: &WorkerCommit) {
    let offsets = commit.changes.iter().map(|(shard, _)| (*shard, LogOffset(commit.id.0 as i64))).collect();
    worker.commit_applied(commit.id, &offsets).unwrap();
}

fn partitions(commit: &WorkerCommit) -> Vec<&str> {
    commit.positions.iter().map(|(_, partition, _)| partition.0.as_str()).collect()
}

#[test]
fn behind_the_barrier_nothing_of_a_lost_shard_is_this_pods() {
    let (log, disks) = (ShuffleLog::default(), [Disk::default(), Disk::default()]);
    let rows = |from: i64| -> Vec<Row> { (0..40).map(|key| (Some(key), from + key, Some(1))).collect() };
    assert!((0..40).any(|key| shard_of(key) == KEPT) && (0..40).any(|key| shard_of(key) == LOST));
    let kept = partition("kept", &[rows(0), rows(10)], KEPT);
    let lost = partition("lost", &[rows(5), rows(15)], LOST);
    let mut worker = worker(vec![kept, lost], &log, &disks);
    worker.step(0, &mut Vec::new()).unwrap();
    let owner: Arc<[usize]> = Arc::from([0, OTHER_POD]);
    worker.begin_switch(CommitId(1), Arc::new(Switch { owner, view: Some(view(2)) }));
    let first = share(&mut worker);
    assert_eq!((first.rows_in, changed(&first)), (80, vec![KEPT, LOST]), "the last commit that has both");
    assert_eq!(first.left, [(NodeId(SOURCE), PartitionId("lost".to_owned()))]);
    assert!(partitions(&first).contains(&"lost") && first.shuffles.iter().all(|share| share.blocks.is_empty()));
    applied(&mut worker, &first);
    worker.begin_commit(CommitId(2));
    let second = share(&mut worker);
    assert_eq!((second.rows_in, changed(&second)), (40, vec![KEPT]), "the rest of the partition that is kept");
    let told = partitions(&second);
    assert!(!told.contains(&"lost") && !told.contains(&"1") && told.contains(&"kept"), "{told:?}");
    let blocks: Vec<ShardId> = second.shuffles.iter().flat_map(|s| &s.blocks).map(|block| block.shard).collect();
    assert!(!blocks.is_empty() && blocks.iter().all(|shard| *shard == LOST), "{blocks:?}");
    let late = partition("late", &[rows(20)], LOST);
    worker.add_source(NodeId(SOURCE), late).unwrap();
    applied(&mut worker, &second);
    worker.begin_commit(CommitId(3));
    let third = share(&mut worker);
    assert_eq!((third.rows_in, partitions(&third).contains(&"late")), (0, false), "it came when it was another pod's");
    assert_eq!(disks.map(|disk| disk.applied()), [2, 1].map(|at| Some(LogOffset(at))));
}

/// A partition that may always have more.
struct Endless(Box<dyn SourcePartition>);

impl SourcePartition for Endless {
    fn id(&self) -> &PartitionId {
        self.0.id()
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        let polled = self.0.poll(max_rows)?;
        Ok(if let SourcePoll::End = polled { SourcePoll::Pending } else { polled })
    }

    fn position(&self) -> SourcePosition {
        self.0.position()
    }

    fn shard(&self) -> Option<ShardId> {
        self.0.shard()
    }
}

/// The other pod says how far its event time is, under an assignment.
fn says(log: &ShuffleLog, assignment: u64, watermark_ms: i64, shards: &[ShardId]) {
    let exchange = NodeId(1);
    let other = PodView { slot: 1, others: vec![0], ..view(assignment) };
    let uid = graph(DataType::Int64).nodes[1].uid;
    let mut outgoing = Outgoing::new(other, [(exchange, uid)].into_iter(), shards, 1);
    let time = EventTime { watermark_ms, idle: false };
    outgoing.take(0, vec![ShuffleShare { exchange, time, blocks: Vec::new() }]);
    log.append(outgoing.messages(CommitId(1), 0));
}

#[test]
fn no_window_closes_over_rows_of_a_partition_that_is_between_two_pods() {
    let (log, disks) = (ShuffleLog::default(), [Disk::default(), Disk::default()]);
    let fast = partition("fast", &[vec![(Some(1), 2_000, Some(1))]], KEPT);
    let slow = partition("slow", &[vec![(Some(1), 300, Some(1))]], LOST);
    let mut worker = worker(vec![Box::new(Endless(fast)), Box::new(Endless(slow))], &log, &disks);
    let time = |worker: &Worker| worker.progress().nodes[1].watermark_ms;
    says(&log, 1, 5_000, &[KEPT, LOST]);
    step_to_rest(&mut worker, &mut Vec::new());
    let slow_ms = Some(300 - DISORDER);
    assert_eq!(time(&worker), slow_ms);
    says(&log, 2, 900, &[KEPT]);
    step_to_rest(&mut worker, &mut Vec::new());
    let owner: Arc<[usize]> = Arc::from([0, OTHER_POD]);
    worker.begin_switch(CommitId(1), Arc::new(Switch { owner: Arc::clone(&owner), view: None }));
    let first = share(&mut worker);
    applied(&mut worker, &first);
    step_to_rest(&mut worker, &mut Vec::new());
    assert_eq!(time(&worker), slow_ms, "nobody reads the slow one, and this pod waits for more");
    worker.begin_switch(CommitId(2), Arc::new(Switch { owner, view: Some(view(3)) }));
    let second = share(&mut worker);
    applied(&mut worker, &second);
    assert_eq!(time(&worker), slow_ms, "what was said under other assignments does not count");
    says(&log, 3, 1_000, &[KEPT]);
    step_to_rest(&mut worker, &mut Vec::new());
    assert_eq!(time(&worker), Some(1_000));
}

#[test]
fn a_worker_refuses_to_gain_and_to_lose_twice_at_once() {
    let (log, disks) = (ShuffleLog::default(), [Disk::default(), Disk::default()]);
    let switch = |owner: [usize; 2]| Arc::new(Switch { owner: Arc::from(owner), view: Some(view(2)) });
    let mut losing = worker(Vec::new(), &log, &disks);
    losing.begin_switch(CommitId(1), switch([0, OTHER_POD]));
    losing.begin_switch(CommitId(2), switch([OTHER_POD, OTHER_POD]));
    let error = losing.step(0, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("before the last commit that took some away was applied"), "{error}");
    let mut gaining = worker(Vec::new(), &log, &disks);
    gaining.begin_switch(CommitId(1), switch([0, 1]));
    let error = gaining.step(0, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("can only be taken away"), "{error}");
}

#[test]
fn pods_that_exchange_shards_while_they_work_give_the_oracles_output() {
    let case = Case {
        rows_per_partition: 400,
        partitions: 6,
        keys: 20,
        text_keys: true,
        pods: 3,
        max_workers: 3,
        queue_capacity: 2,
        commit_once_in: 20,
        rescale_once_in: 80,
        crash_once_in: 0,
        state_budget: u64::MAX,
    };
    let outcomes: Vec<Outcome> = (0..5).map(|seed| check(seed, &case)).collect();
    let (rescales, taken_up) = outcomes.iter().fold((0, 0), |(a, b), o| (a + o.rescales, b + o.taken_up));
    assert!(rescales >= 10 && taken_up >= 5, "{rescales} rescales, taken up {taken_up} times without a start");
    let crashing = check(7, &Case { crash_once_in: 200, state_budget: 0, ..case });
    assert!(crashing.crashes > 2 && crashing.rescales > 0, "{} crashes", crashing.crashes);
}
