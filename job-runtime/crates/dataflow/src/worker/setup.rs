//! Building a worker: the operators of the graph, what leads where, and the state from the stores.
//!
//! Owns the checks that what the runtime gave fits the graph. Runs once; nothing here is on the data path.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::exchange::{ExchangePorts, Splitter};
use crate::graph::{JobGraph, Node, NodeId, NodeKind, OperatorUid, WindowAggregateNode};
use crate::key::{KeyEncoder, ShardId};
use crate::operators::deduplicate::Deduplicate;
use crate::operators::placing::Placing;
use crate::operators::window::WindowAggregate;
use crate::operators::window::partial::{self, Preaggregate};
use crate::placement::{Placement, Spreads, relied_upon};
use crate::shuffle::{OTHER_POD, Outbox, Place, SlotTimes, block};
use crate::sink::SinkEncoder;
use crate::source::SourcePartition;
use crate::state::Stores;
use crate::watermark::{MinOfInputs, SourceWatermarks};
use crate::worker::busy::Busy;
use crate::worker::commits::Commits;
use crate::worker::flow::{Alignment, Exchange, Flow, NodeState, Port, Reach, Role};
use crate::worker::root::{Input, Partition, Root, SourceInput};
use crate::worker::shuffled::{Inbound, ShuffleInput};
use crate::worker::{CommitId, Worker, WorkerConfig, WorkerError};

pub(super) fn build(mut config: WorkerConfig) -> Result<Worker, WorkerError> {
    check(&config)?;
    let exchange = std::mem::take(&mut config.exchange);
    let mut ends: BTreeMap<NodeId, _> =
        exchange.exchanges.into_iter().map(|e| (e.node, (e.senders, e.receivers))).collect();
    let mut nodes = Vec::with_capacity(config.graph.nodes.len());
    let mut inputs = Vec::new();
    let graph = Arc::clone(&config.graph);
    for node in &graph.nodes {
        let (senders, receivers) = ends.remove(&node.id).unzip();
        let role = role(node, &mut config, senders)?;
        let shuffle = shuffle_input(node, &mut config)?;
        nodes.push(node_state(node, role, &config, shuffle.as_deref()));
        match (&node.kind, receivers) {
            (NodeKind::Source(spec), _) => {
                let growing = config.growing.contains(&node.id);
                let mut input = source_input(spec.clone(), node.id, &mut config.sources, growing);
                input.counted = relied_upon(&graph, node.id);
                inputs.push((node.id, Input::Source(Box::new(input))));
            }
            (_, Some(receivers)) => inputs.push((node.id, Input::Exchange(receivers, shuffle))),
            (_, None) => {}
        }
    }
    connect(&graph.nodes, &mut nodes);
    let mut flow = Flow {
        worker: config.index,
        nodes,
        commits: Commits::new(config.index),
        gate: config.gate,
        stores: Stores::new(config.shards, config.stores),
        owner: config.owner,
        switching: None,
        state_budget: config.state_budget,
        busy: Busy::default(),
    };
    restore(&mut flow)?;
    let root = |(id, input): (NodeId, Input)| {
        let node = id.0 as usize;
        Root { node, reach: reach(&flow, node), input }
    };
    let roots = inputs.into_iter().map(root).collect();
    Ok(Worker { roots, flow, max_rows: config.max_rows_per_poll, failed: None })
}

fn check(config: &WorkerConfig) -> Result<(), WorkerError> {
    let fail = |message: String| Err(WorkerError::config(config.index, message));
    let nodes = &config.graph.nodes;
    if config.index >= config.workers || config.max_rows_per_poll == 0 {
        return fail("the index must be below the number of workers, and max_rows_per_poll above 0".to_owned());
    }
    let known = |&w: &usize| w < config.workers || (w == OTHER_POD && config.shuffle.is_some());
    if config.owner.len() != usize::from(config.shards.count()) || !config.owner.iter().all(known) {
        return fail(format!("owner must name one of the workers for each of {} shards", config.shards.count()));
    }
    for (place, node) in nodes.iter().enumerate() {
        if node.id.0 as usize != place || node.inputs.iter().any(|input| input.0 as usize >= place) {
            return fail(format!("node {} ({}) is out of order in the graph", node.id.0, node.name));
        }
        let inputs = node.inputs.len();
        let right = match &node.kind {
            NodeKind::Source(_) => inputs == 0,
            NodeKind::Union => inputs >= 1,
            NodeKind::Calc(_)
            | NodeKind::Exchange(_)
            | NodeKind::WindowAggregate(_)
            | NodeKind::Deduplicate(_)
            | NodeKind::Sink(_) => inputs == 1,
        };
        if !right {
            return fail(format!("{} has {inputs} inputs", node.name));
        }
        if node.uid.0 < OperatorUid::FIRST_FREE && node.kind.has_state() {
            return fail(format!("{} has the reserved uid {}", node.name, node.uid));
        }
    }
    let exchanges = nodes.iter().filter(|n| matches!(n.kind, NodeKind::Exchange(_))).count();
    let expected = if config.workers > 1 || config.shuffle.is_some() { exchanges } else { 0 };
    if config.exchange.exchanges.len() != expected {
        return fail("the exchange ports were made for another graph or number of workers".to_owned());
    }
    check_partitions(config)?;
    check_stores(config)
}

fn check_stores(config: &WorkerConfig) -> Result<(), WorkerError> {
    let fail = |message: String| Err(WorkerError::config(config.index, message));
    for store in &config.stores {
        if config.owner.get(usize::from(store.shard().0)) != Some(&config.index) {
            return fail(format!("it was given shard {}, which it does not own", store.shard().0));
        }
    }
    let stateful = config.graph.nodes.iter().any(|n| n.kind.has_state());
    match owned(config).iter().find(|shard| config.stores.iter().all(|s| s.shard() != **shard)) {
        Some(shard) if stateful => fail(format!("it owns shard {}, but was given no store for it", shard.0)),
        _ => Ok(()),
    }
}

/// The shards of this worker.
fn owned(config: &WorkerConfig) -> Vec<ShardId> {
    config.shards.all().filter(|shard| config.owner[usize::from(shard.0)] == config.index).collect()
}

fn role(
    node: &Node,
    config: &mut WorkerConfig,
    senders: Option<Vec<crate::exchange::QueueSender>>,
) -> Result<Role, WorkerError> {
    let input = node.inputs.first().map(|input| &config.graph.nodes[input.0 as usize]);
    Ok(match (&node.kind, input) {
        (NodeKind::Source(_), _) | (_, None) => Role::Source,
        (NodeKind::Calc(calc), _) => Role::Calc(calc.clone()),
        (NodeKind::Exchange(exchange), Some(input)) => {
            let keys = KeyEncoder::new(&input.schema, &exchange.keys).map_err(|e| WorkerError::key(&node.name, e))?;
            match senders {
                Some(senders) => {
                    let splitter = Splitter::new(config.shards, &config.owner, config.workers);
                    let outbox = config.shuffle.as_ref().map(|_| outbox(node, config)).transpose()?;
                    Role::Exchange(Box::new(Exchange { keys, splitter, senders, outbox }))
                }
                None => Role::LocalExchange(keys),
            }
        }
        (NodeKind::WindowAggregate(spec), Some(input)) => {
            let placing = placing(node, input, config)?;
            let window = WindowAggregate::new(node, spec, &input.schema, config.shards, &owned(config), placing);
            Role::Window(Box::new(window.map_err(|e| WorkerError::window(&node.name, e))?))
        }
        (NodeKind::Deduplicate(spec), Some(input)) => {
            let placing = placing(node, input, config)?;
            let deduplicate = Deduplicate::new(node, spec, config.shards, &owned(config), placing);
            Role::Deduplicate(Box::new(deduplicate.map_err(|e| WorkerError::deduplicate(&node.name, e))?))
        }
        (NodeKind::Union, _) => Role::Union,
        (NodeKind::Sink(sink), _) => Role::Sink(
            take_encoder(&mut config.encoders, node.id)
                .ok_or_else(|| WorkerError::missing(config.index, "no encoder was given", node.id, &sink.table))?,
        ),
    })
}

/// How a node with state finds the key groups of its keys. With several workers or pods the graph must have brought the rows of one key together.
fn placing(node: &Node, input: &Node, config: &WorkerConfig) -> Result<Placing, WorkerError> {
    let exchanged = matches!(input.kind, NodeKind::Exchange(_));
    Ok(match Spreads::of(&config.graph).of_state(node) {
        // Only behind the exchange itself are the hashes those of the keys.
        Some(Placement::Key) => {
            if exchanged {
                Placing::Given
            } else {
                Placing::Own
            }
        }
        Some(Placement::Columns(columns)) => {
            let encoder = KeyEncoder::new(&input.schema, &columns).map_err(|e| WorkerError::key(&node.name, e))?;
            Placing::Columns(encoder)
        }
        Some(Placement::Partition(_)) => Placing::Carried,
        None if config.workers > 1 || config.shuffle.is_some() => {
            let message = format!("{} must read an exchange by its own keys, or by some of them", node.name);
            return Err(WorkerError::config(config.index, message));
        }
        None => Placing::Own,
    })
}

/// Where the plan relies on a source's partitions, each must have a key group that this worker owns: its rows meet their state there.
fn check_partitions(config: &WorkerConfig) -> Result<(), WorkerError> {
    for (node, partition) in config.sources.iter().filter(|(node, _)| relied_upon(&config.graph, *node)) {
        let group = partition.key_group();
        let owner = group.map(|group| config.owner[usize::from(config.shards.shard_of(group).0)]);
        if owner != Some(config.index) {
            let message = format!(
                "partition {} of node {} is read here, and its key group is another worker's: {group:?}",
                partition.id().0,
                node.0
            );
            return Err(WorkerError::config(config.index, message));
        }
    }
    Ok(())
}

fn take_encoder(encoders: &mut Vec<(NodeId, Box<dyn SinkEncoder>)>, node: NodeId) -> Option<Box<dyn SinkEncoder>> {
    let place = encoders.iter().position(|(id, _)| *id == node)?;
    Some(encoders.swap_remove(place).1)
}

fn source_input(
    spec: crate::graph::SourceNode,
    node: NodeId,
    sources: &mut Vec<(NodeId, Box<dyn SourcePartition>)>,
    growing: bool,
) -> SourceInput {
    let (own, others): (Vec<_>, Vec<_>) = std::mem::take(sources).into_iter().partition(|(id, _)| *id == node);
    *sources = others;
    let idle_timeout = spec.watermark.as_ref().and_then(|w| w.idle_timeout);
    let mut times = SourceWatermarks::new(idle_timeout, growing);
    own.iter().enumerate().for_each(|(place, (_, source))| times.add(place, source.known_ms()));
    let partitions: Vec<_> = own.into_iter().map(|(_, source)| Partition::new(source)).collect();
    SourceInput { spec, partitions, growing, counted: false, times, barriers: VecDeque::new() }
}

/// The window aggregate by the keys of an exchange behind it, if it is all that reads it: then rows for other pods are aggregated first.
fn aggregated<'a>(exchange: &Node, graph: &'a JobGraph) -> Option<(&'a Node, &'a WindowAggregateNode)> {
    let mut readers = graph.nodes.iter().filter(|node| node.inputs.contains(&exchange.id));
    let same = |keys: &[usize]| matches!(&exchange.kind, NodeKind::Exchange(exchange) if exchange.keys == keys);
    match (readers.next().map(|node| (node, &node.kind)), readers.next()) {
        (Some((node, NodeKind::WindowAggregate(spec))), None) if same(&spec.keys) => Some((node, spec)),
        _ => None,
    }
}

fn outbox(node: &Node, config: &WorkerConfig) -> Result<Outbox, WorkerError> {
    let aggregate = aggregated(node, &config.graph).map(|(window, spec)| Preaggregate::new(window, spec, &node.schema));
    let aggregate = aggregate.transpose().map_err(|e| WorkerError::window(&node.name, e))?;
    Ok(Outbox::new(node.id, config.shards, Arc::clone(&node.schema), aggregate.map(Box::new)))
}

/// What other pods send to an exchange: one reader per shard of this worker, going on from what is stored.
fn shuffle_input(node: &Node, config: &mut WorkerConfig) -> Result<Option<Box<ShuffleInput>>, WorkerError> {
    let (NodeKind::Exchange(exchange), Some(shuffle)) = (&node.kind, &mut config.shuffle) else { return Ok(None) };
    block::check(&node.schema).map_err(|source| WorkerError::Column { operator: node.name.clone(), source })?;
    let (own, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut shuffle.readers).into_iter().partition(|(id, _)| *id == node.id);
    shuffle.readers = others;
    let mut inbound = Vec::with_capacity(own.len());
    for (_, reader) in own {
        let shard = reader.shard();
        let Some(store) = config.stores.iter().find(|store| store.shard() == shard) else {
            let message = format!("{} has a reader for shard {}, and there is no store for it", node.name, shard.0);
            return Err(WorkerError::config(config.index, message));
        };
        let stored = Place::stored(store.as_ref(), config.shards, node.uid);
        let stored = stored.map_err(|source| WorkerError::Place { operator: node.name.clone(), shard, source })?;
        let times = SlotTimes::new(shuffle.view.assignment, shuffle.view.others.clone(), stored.as_ref());
        inbound.push(Inbound::new(config.workers + inbound.len(), reader, times));
    }
    let (job, gate) = (shuffle.view.job, Arc::clone(&config.gate));
    if inbound.len() != owned(config).len() {
        let message = format!("{} has {} readers for {} shards", node.name, inbound.len(), owned(config).len());
        return Err(WorkerError::config(config.index, message));
    }
    Ok(Some(Box::new(ShuffleInput {
        job,
        uid: node.uid,
        shards: config.shards,
        schema: Arc::clone(&node.schema),
        partial: aggregated(node, &config.graph)
            .map(|(window, spec)| partial::schema(window, spec, &node.schema))
            .transpose()
            .map_err(|e| WorkerError::window(&node.name, e))?,
        keys: KeyEncoder::new(&node.schema, &exchange.keys).map_err(|e| WorkerError::key(&node.name, e))?,
        queues: config.workers,
        inbound,
        gate,
        barriers: VecDeque::new(),
    })))
}

fn node_state(node: &Node, role: Role, config: &WorkerConfig, shuffle: Option<&ShuffleInput>) -> NodeState {
    // Of an exchange: the queues; behind them one input for the barriers, and one per shard for the event time, of other pods.
    let (inputs, barriers) = match (&role, shuffle) {
        (Role::Source, _) => (1, 1),
        (Role::Exchange(_), None) => (config.workers, config.workers),
        (Role::Exchange(_), Some(shuffle)) => (config.workers + shuffle.inbound.len(), config.workers + 1),
        (
            Role::Calc(_)
            | Role::LocalExchange(_)
            | Role::Window(_)
            | Role::Deduplicate(_)
            | Role::Union
            | Role::Sink(_),
            _,
        ) => (node.inputs.len(), node.inputs.len()),
    };
    let mut time = MinOfInputs::new(inputs);
    for inbound in shuffle.iter().flat_map(|shuffle| &shuffle.inbound) {
        // What is stored is not news: the queues say nothing yet.
        let _ = time.update(inbound.input, inbound.time());
    }
    NodeState {
        id: node.id,
        name: node.name.clone(),
        role,
        consumers: Vec::new(),
        time,
        alignment: Alignment::new(barriers),
        interval: CommitId::FIRST,
        rows_in: 0,
        rows_out: 0,
    }
}

fn connect(graph: &[Node], nodes: &mut [NodeState]) {
    for node in graph {
        for (input, from) in node.inputs.iter().enumerate() {
            nodes[from.0 as usize].consumers.push(Port { node: node.id.0 as usize, input });
        }
    }
}

/// What the output of `root` reaches on this worker without crossing a queue.
fn reach(flow: &Flow, root: usize) -> Reach {
    let mut reach = Reach::default();
    let mut open = vec![root];
    let mut seen = vec![false; flow.nodes.len()];
    while let Some(node) = open.pop() {
        for &port in &flow.nodes[node].consumers {
            let consumer = &flow.nodes[port.node];
            if matches!(consumer.role, Role::Exchange(_)) {
                if !reach.exchanges.contains(&port.node) {
                    reach.exchanges.push(port.node);
                }
                continue;
            }
            if matches!(consumer.role, Role::Union) && !reach.gates.contains(&port) {
                reach.gates.push(port);
            }
            if !std::mem::replace(&mut seen[port.node], true) {
                open.push(port.node);
            }
        }
    }
    reach
}

/// Lets every operator with state find out what the stores have for it. Entries of other uids (positions, tickets, operators that the plan no
/// longer has) are not the worker's.
fn restore(flow: &mut Flow) -> Result<(), WorkerError> {
    for node in &mut flow.nodes {
        match &mut node.role {
            Role::Window(window) => {
                window.restore(&flow.stores).map_err(|error| WorkerError::window(&node.name, error))?;
            }
            Role::Deduplicate(deduplicate) => {
                deduplicate.restore(&flow.stores).map_err(|error| WorkerError::deduplicate(&node.name, error))?;
            }
            Role::Source | Role::Calc(_) | Role::LocalExchange(_) | Role::Exchange(_) | Role::Union | Role::Sink(_) => {
            }
        }
    }
    Ok(())
}

impl ExchangePorts {
    /// True if there is no queue: one worker, or no exchange.
    pub fn is_empty(&self) -> bool {
        self.exchanges.is_empty()
    }
}
