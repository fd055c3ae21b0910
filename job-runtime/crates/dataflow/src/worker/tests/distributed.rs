//! Jobs without an exchange where the plan needs none give what they give with one, whatever the order, the workers, the pods and the crashes.

use super::*;
use crate::key::{KEY_GROUPS, KeyGroup, group_of};
use crate::placement::{Placement, Spreads};

/// A graph in the making, with an exchange before each operator with state that needs one, or before all.
struct Plan {
    graph: JobGraph,
    spreads: Spreads,
    all: bool,
    sinks: Vec<NodeId>,
}

impl Plan {
    fn new(all: bool) -> Self {
        Self { graph: JobGraph::default(), spreads: Spreads::default(), all, sinks: Vec::new() }
    }

    fn add(&mut self, inputs: &[NodeId], schema: SchemaRef, kind: NodeKind) -> NodeId {
        let id = NodeId(self.graph.nodes.len() as u32);
        let (uid, name) = (OperatorUid(16 + id.0), format!("node {}", id.0));
        let node = Node { id, uid, name, inputs: inputs.to_vec(), schema, kind };
        self.spreads.push(&node);
        self.graph.nodes.push(node);
        id
    }

    fn schema(&self, id: NodeId) -> SchemaRef {
        Arc::clone(&self.graph.nodes[id.0 as usize].schema)
    }

    fn source(&mut self, declared: Option<u32>) -> NodeId {
        let NodeKind::Source(mut source) = graph(DataType::Utf8).nodes.swap_remove(0).kind else {
            unreachable!("the source is the first node")
        };
        let buckets = declared.filter(|_| !self.all);
        source.distribution = buckets.map(|buckets| Distribution { columns: vec![0], buckets });
        self.add(&[], raw(), NodeKind::Source(source))
    }

    fn calc(&mut self, input: NodeId, columns: &[usize], filter: bool) -> NodeId {
        let below = self.schema(input);
        let fields = columns.iter().map(|column| below.field(*column).clone()).enumerate();
        let fields = fields.map(|(at, field)| field.with_name(format!("c{at}"))).collect();
        let filter =
            filter.then(|| Arc::new(Function(|batch| -> ArrayRef { Arc::new(not_a_third(batch)) })) as ExprRef);
        let projection = columns.iter().map(|column| Arc::new(Column(*column)) as ExprRef).collect();
        let calc = Calc { filter, projection, schema: schema(fields) };
        self.add(&[input], Arc::clone(&calc.schema), NodeKind::Calc(calc))
    }

    /// What an operator by `keys` reads.
    fn exchanged(&mut self, input: NodeId, keys: &[usize]) -> NodeId {
        if !self.all && self.spreads.placement(input, keys).is_some() {
            return input;
        }
        self.add(&[input], self.schema(input), NodeKind::Exchange(ExchangeNode { keys: keys.to_vec() }))
    }

    /// Counts per key and window of `size` times the usual.
    fn window(&mut self, input: NodeId, keys: &[usize], rowtime: usize, size: i64) -> NodeId {
        let below = self.schema(input);
        let mut fields: Vec<Field> = keys.iter().map(|key| below.field(*key).clone()).collect();
        fields.extend([time("start"), time("end"), int("n")]);
        let input = self.exchanged(input, keys);
        let kind = tumble(size * SIZE, keys.to_vec(), rowtime, vec![call(AggregateFunction::CountStar, None)]);
        self.add(&[input], schema(fields), kind)
    }

    fn first(&mut self, input: NodeId, keys: &[usize], first: FirstBy) -> NodeId {
        let input = self.exchanged(input, keys);
        let kind = NodeKind::Deduplicate(DeduplicateNode { keys: keys.to_vec(), first, ttl: None });
        self.add(&[input], self.schema(input), kind)
    }

    fn sink(&mut self, input: NodeId) {
        let sink = NodeKind::Sink(SinkNode { table: "output".to_owned() });
        let id = self.add(&[input], self.schema(input), sink);
        self.sinks.push(id);
    }

    fn exchanges(&self) -> usize {
        self.graph.nodes.iter().filter(|node| matches!(node.kind, NodeKind::Exchange(_))).count()
    }
}

/// Key, time, value.
fn raw() -> SchemaRef {
    graph(DataType::Utf8).nodes[0].schema.clone()
}

fn not_a_third(batch: &RecordBatch) -> arrow::array::BooleanArray {
    batch.column(1).as_primitive::<TimestampMillisecondType>().values().iter().map(|time| Some(time % 3 != 0)).collect()
}

/// By (key, value) in windows, distinct pairs of those, the first row of each key, windows over these; and the source twice, as a view used twice.
fn declared(all: bool, partitions: u32) -> Plan {
    let mut plan = Plan::new(all);
    let source = plan.source(Some(partitions));
    let rows = plan.calc(source, &[1, 0, 2], true);
    let windows = plan.window(rows, &[1, 2], 0, 1);
    plan.sink(windows);
    let pairs = plan.calc(windows, &[1, 0], false);
    let pairs = plan.first(pairs, &[0, 1], FirstBy::Arrival);
    plan.sink(pairs);
    let firsts = plan.first(rows, &[1], FirstBy::EventTime { rowtime: 0 });
    let counts = plan.window(firsts, &[1, 2], 0, 2);
    let keys = plan.calc(counts, &[0], false);
    let keys = plan.first(keys, &[0], FirstBy::Arrival);
    plan.sink(keys);
    let again = plan.calc(source, &[1, 0, 2], false);
    let both = plan.add(&[rows, again], plan.schema(again), NodeKind::Union);
    let wide = plan.window(both, &[1], 0, 10);
    plan.sink(wide);
    plan
}

/// One exchange by the key; behind it windows, windows over these, distinct rows of more columns, and a union of two of them.
fn proved(all: bool) -> Plan {
    let mut plan = Plan::new(all);
    let source = plan.source(None);
    let rows = plan.calc(source, &[1, 0, 2], true);
    let windows = plan.window(rows, &[1], 0, 1);
    plan.sink(windows);
    let wide = plan.window(windows, &[0], 1, 10);
    plan.sink(wide);
    let counts = plan.calc(windows, &[3, 0], false);
    let distinct = plan.first(counts, &[0, 1], FirstBy::Arrival);
    let widths = plan.calc(wide, &[3, 0], false);
    let both = plan.add(&[distinct, widths], plan.schema(widths), NodeKind::Union);
    let both = plan.first(both, &[0, 1], FirstBy::Arrival);
    plan.sink(both);
    let firsts = plan.calc(windows, &[2, 0, 3], false);
    let firsts = plan.first(firsts, &[1, 2], FirstBy::EventTime { rowtime: 0 });
    plan.sink(firsts);
    plan
}

struct Spec {
    rows: usize,
    partitions: usize,
    pods: u16,
    max_workers: usize,
    crash_once_in: usize,
    state_budget: u64,
}

/// Rows whose key says the partition; null is a key like another.
fn keyed(random: &mut Random, spec: &Spec) -> Vec<Arc<[RecordBatch]>> {
    let part = |number: usize, random: &mut Random| {
        let mut all = rows(random, spec.rows, 30);
        for row in &mut all {
            let key = random.below(8) * spec.partitions + number;
            row.0 = (key > 0).then_some(key as i64);
            row.2 = row.2.map(|value| value % 3);
        }
        batches(&all, true, random)
    };
    (0..spec.partitions).map(|number| part(number, random)).collect()
}

/// Runs both plans over the same rows; they must give the same. Returns what the one without exchanges did.
fn compare(seed: u64, plan: &Plan, shuffled: &Plan, spec: &Spec, placed: bool) -> Outcome {
    let mut random = Random(seed);
    let partitions = keyed(&mut random, spec);
    let mut groups: Vec<KeyGroup> = Vec::new();
    while placed && groups.len() < spec.partitions {
        groups.push(group_of(random.next_u64()));
        groups.dedup();
    }
    let harness = |plan: &Plan, groups: Vec<KeyGroup>| Harness {
        graph: Arc::new(plan.graph.clone()),
        sources: vec![SourceData { node: NodeId(SOURCE), partitions: partitions.clone(), groups }],
        shards: Shards::new(16).unwrap(),
        pods: 1,
        max_workers: 1,
        queue_capacity: 2,
        max_rows: 20,
        commit_once_in: 20,
        rescale_once_in: 0,
        crash_once_in: 0,
        state_budget: u64::MAX,
    };
    let want = harness(shuffled, Vec::new()).run(seed).unwrap();
    let Spec { pods, max_workers, crash_once_in, state_budget, .. } = *spec;
    let rescale_once_in = if pods > 1 { 400 } else { 0 };
    let run = Harness { pods, max_workers, rescale_once_in, crash_once_in, state_budget, ..harness(plan, groups) };
    let got = run.run(seed).unwrap();
    assert_eq!((want.late_dropped, got.late_dropped), (0, 0), "seed {seed}");
    for (number, (sink, twin)) in plan.sinks.iter().zip(&shuffled.sinks).enumerate() {
        let of = |outcome: &Outcome, sink| lines(outcome.output.get(sink).map_or(&[], Vec::as_slice));
        assert_eq!(of(&got, sink), of(&want, twin), "seed {seed}, sink number {number}");
    }
    got
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 100, ..ProptestConfig::default() })]

    #[test]
    fn a_declared_distribution_gives_what_a_shuffle_gives(
        seed in any::<u64>(),
        rows in 0usize..150,
        partitions in 1usize..6,
        pods in 1u16..4,
        max_workers in 1usize..4,
        crash_once_in in prop_oneof![Just(0usize), 150usize..1000],
        state_budget in prop_oneof![Just(u64::MAX), Just(0u64), 0u64..20_000],
    ) {
        let spec = Spec { rows, partitions, pods, max_workers, crash_once_in, state_budget };
        let plan = declared(false, partitions as u32);
        prop_assert_eq!(plan.exchanges(), 0);
        let outcome = compare(seed, &plan, &declared(true, partitions as u32), &spec, true);
        prop_assert_eq!(outcome.messages, 0, "nothing goes between pods");
    }

    #[test]
    fn one_exchange_serves_all_operators_by_its_columns(
        seed in any::<u64>(),
        rows in 0usize..150,
        partitions in 1usize..6,
        pods in 1u16..4,
        max_workers in 1usize..4,
        crash_once_in in prop_oneof![Just(0usize), 150usize..1000],
        state_budget in prop_oneof![Just(u64::MAX), Just(0u64), 0u64..20_000],
    ) {
        let spec = Spec { rows, partitions, pods, max_workers, crash_once_in, state_budget };
        let plan = proved(false);
        prop_assert_eq!((plan.exchanges(), proved(true).exchanges()), (1, 5));
        compare(seed, &plan, &proved(true), &spec, false);
    }
}

#[test]
fn state_lies_in_the_key_group_of_its_partition() {
    let spec = Spec { rows: 400, partitions: 3, pods: 2, max_workers: 2, crash_once_in: 60, state_budget: 0 };
    let plan = declared(false, 3);
    let outcome = compare(5, &plan, &declared(true, 3), &spec, true);
    assert!(outcome.crashes > 1 && outcome.misses > 100, "{} crashes, {} misses", outcome.crashes, outcome.misses);
    // What is left: what is remembered of distinct rows, one byte behind the id. Notes lie at the shards' beginnings.
    let entries = outcome.disks.iter().flat_map(|disk| disk.entries().into_keys());
    let groups: std::collections::BTreeSet<[u8; 2]> =
        entries.filter(|key| key.get(6) == Some(&0x10)).map(|key| [key[0], key[1]]).collect();
    assert_eq!(groups.len(), 3, "one key group per partition, of {KEY_GROUPS}");
}

#[test]
fn a_partition_that_is_read_by_another_worker_than_the_owner_of_its_state_is_refused() {
    let plan = declared(false, 1);
    let operator = plan.graph.nodes.iter().find(|node| node.kind.has_state()).unwrap();
    assert_eq!(plan.spreads.of_state(operator), Some(Placement::Partition(NodeId(SOURCE))));
    let shards = Shards::new(2).unwrap();
    let start = |group: Option<KeyGroup>| {
        let graph = Arc::new(plan.graph.clone());
        let wakes: [Wake; 2] = [Arc::new(|| {}), Arc::new(|| {})];
        let source = VecPartition::new("0", Arc::from([]), None, 0).in_group(group);
        Worker::new(WorkerConfig {
            index: 0,
            workers: 2,
            exchange: ports(&graph, 2, 4, &wakes).remove(0),
            encoders: plan.sinks.iter().map(|sink| (*sink, Box::<BatchEncoder>::default() as _)).collect(),
            graph,
            shards,
            owner: Arc::from([0, 1]),
            sources: vec![(NodeId(SOURCE), Box::new(source))],
            stores: vec![Box::new(MemoryStore::new(ShardId(0), Disk::default()))],
            growing: Vec::new(),
            max_rows_per_poll: 1000,
            shuffle: None,
            gate: Arc::new(Gate::open()),
            state_budget: u64::MAX,
        })
        .map(drop)
    };
    assert!(start(Some(KeyGroup(7))).is_ok());
    for elsewhere in [None, Some(KeyGroup(KEY_GROUPS - 1))] {
        let error = start(elsewhere).unwrap_err().to_string();
        assert!(error.contains("its key group is another worker's"), "{error}");
    }
}

/// A pod that had read all it had gained a partition, and its old word of being at the end was taken for the new process's.
#[test]
fn a_pod_that_begins_anew_is_not_at_its_end() {
    let spec = Spec { rows: 50, partitions: 4, pods: 3, max_workers: 3, crash_once_in: 151, state_budget: u64::MAX };
    compare(979820585545424527, &declared(false, 4), &declared(true, 4), &spec, true);
}
