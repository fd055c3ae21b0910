//! How the rows of each node lie among workers and pods, and so where an operator's state lies, and where an exchange is needed.
//!
//! Owns that analysis of a graph, for the planner, which leaves out exchanges that change nothing, and for the worker, which checks the plan. It moves
//! no row.
//!
//! # What is sound
//! Rows that came through an exchange lie with the hash of its columns, in its order. A source whose table is distributed lies with its partitions: the
//! user says that rows with equal values of the declared columns (null is a value) are in one. Both hold on as long as the columns come through
//! unchanged, under any name; a column that is computed, cast or dropped ends it. Behind `UNION ALL` it holds if it holds for all inputs at
//! the same columns, and the place is found in the same way: all by hashes of equal types, or all from the partitions of one source node. Two tables with
//! the same declaration need not have the same partitioner.
//!
//! An operator needs no exchange if all the columns are among its keys: rows of one key have one value of each. Its entries then lie in the key group
//! of the *columns*, or of the *partition*, not of its own keys, so that they are on the worker that has the rows, also after shards have
//! moved. The empty list of columns is no distribution: what met on one worker only because it had no key is spread again.

use crate::graph::{Calc, JobGraph, Node, NodeId, NodeKind};

/// How the rows that a node gives out lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Spread {
    /// Rows that are equal in some columns may be on several workers.
    Anywhere,
    /// With the owner of the hash of these columns.
    Hashed {
        /// Indexes in the node's schema, in the order in which they were hashed.
        columns: Vec<usize>,
        /// The exchange that they came through last; of a union, that of its first input.
        exchange: NodeId,
    },
    /// With the owner of the source partition that they were read from.
    Declared {
        /// Indexes in the node's schema.
        columns: Vec<usize>,
        /// The source node.
        source: NodeId,
    },
}

/// In which key group an operator keeps the state of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// In that of the key's own hash.
    Key,
    /// In that of the hash of these columns of the input, which are among the keys.
    Columns(Vec<usize>),
    /// In that of the source partition that its rows come from.
    Partition(NodeId),
}

/// The spread of every node of a graph, in its order.
#[derive(Clone, Debug, Default)]
pub struct Spreads(Vec<Spread>);

impl Spreads {
    /// Of a whole graph.
    pub fn of(graph: &JobGraph) -> Self {
        let mut spreads = Self::default();
        graph.nodes.iter().for_each(|node| spreads.push(node));
        spreads
    }

    /// Adds the next node, whose inputs are known.
    pub fn push(&mut self, node: &Node) {
        let spread = self.spread(node);
        self.0.push(spread);
    }

    /// Of one node.
    ///
    /// # Panics
    /// If the node was not added.
    pub fn node(&self, id: NodeId) -> &Spread {
        &self.0[id.0 as usize]
    }

    /// Where an operator by `keys` that reads `input` without an exchange of its own keeps its state; `None` if it needs one.
    pub fn placement(&self, input: NodeId, keys: &[usize]) -> Option<Placement> {
        let among = |columns: &[usize]| !columns.is_empty() && columns.iter().all(|column| keys.contains(column));
        match self.node(input) {
            Spread::Hashed { columns, .. } if columns == keys => Some(Placement::Key),
            Spread::Hashed { columns, .. } if among(columns) => Some(Placement::Columns(columns.clone())),
            Spread::Declared { columns, source } if among(columns) => Some(Placement::Partition(*source)),
            Spread::Hashed { .. } | Spread::Declared { .. } | Spread::Anywhere => None,
        }
    }

    /// The placement of an operator with state; `None` of any other node, and if the graph lacks an exchange.
    pub fn of_state(&self, node: &Node) -> Option<Placement> {
        self.placement(*node.inputs.first()?, state_keys(node)?)
    }

    fn spread(&self, node: &Node) -> Spread {
        let input = node.inputs.first().map(|id| self.node(*id));
        match (&node.kind, input) {
            (NodeKind::Source(source), _) => match &source.distribution {
                Some(declared) if !declared.columns.is_empty() => {
                    Spread::Declared { columns: declared.columns.clone(), source: node.id }
                }
                Some(_) | None => Spread::Anywhere,
            },
            (NodeKind::Exchange(exchange), _) => Spread::Hashed { columns: exchange.keys.clone(), exchange: node.id },
            (NodeKind::Calc(calc), Some(input)) => renamed(input, |column| passed(calc, column)),
            (NodeKind::WindowAggregate(window), Some(input)) => {
                renamed(input, |column| window.keys.iter().position(|key| *key == column))
            }
            (NodeKind::Deduplicate(_), Some(input)) => input.clone(),
            (NodeKind::Union, Some(first)) => self.union(first, &node.inputs[1..]),
            (NodeKind::Sink(_), _)
            | (NodeKind::Calc(_) | NodeKind::WindowAggregate(_) | NodeKind::Deduplicate(_) | NodeKind::Union, None) => {
                Spread::Anywhere
            }
        }
    }

    fn union(&self, first: &Spread, rest: &[NodeId]) -> Spread {
        let same = |other: &Spread| match (first, other) {
            (Spread::Hashed { columns, .. }, Spread::Hashed { columns: others, .. }) => columns == others,
            (Spread::Declared { .. }, Spread::Declared { .. }) => first == other,
            (Spread::Hashed { .. } | Spread::Declared { .. } | Spread::Anywhere, _) => false,
        };
        if rest.iter().all(|id| same(self.node(*id))) { first.clone() } else { Spread::Anywhere }
    }
}

/// True if an operator with state relies on what the source's table declares.
pub fn relied_upon(graph: &JobGraph, source: NodeId) -> bool {
    let spreads = Spreads::of(graph);
    graph.nodes.iter().any(|node| spreads.of_state(node) == Some(Placement::Partition(source)))
}

/// The columns of the input by which an operator with state keeps it.
fn state_keys(node: &Node) -> Option<&[usize]> {
    match &node.kind {
        NodeKind::WindowAggregate(window) => Some(&window.keys),
        NodeKind::Deduplicate(deduplicate) => Some(&deduplicate.keys),
        NodeKind::Source(_) | NodeKind::Calc(_) | NodeKind::Exchange(_) | NodeKind::Union | NodeKind::Sink(_) => None,
    }
}

/// Where a calculation gives a column on unchanged.
fn passed(calc: &Calc, column: usize) -> Option<usize> {
    calc.projection.iter().position(|expr| expr.as_column() == Some(column))
}

/// The same spread under the columns' new places, if all have one.
fn renamed(spread: &Spread, place: impl Fn(usize) -> Option<usize>) -> Spread {
    let places = |columns: &[usize]| columns.iter().map(|column| place(*column)).collect::<Option<Vec<_>>>();
    let renamed = match spread {
        Spread::Anywhere => None,
        Spread::Hashed { columns, exchange } => {
            places(columns).map(|columns| Spread::Hashed { columns, exchange: *exchange })
        }
        Spread::Declared { columns, source } => {
            places(columns).map(|columns| Spread::Declared { columns, source: *source })
        }
    };
    renamed.unwrap_or(Spread::Anywhere)
}

#[cfg(test)]
mod tests;
