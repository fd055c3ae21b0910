//! Where the state of a stream operator lies, in words that are stored beside it, compared at a start, and shown.
//!
//! Owns the words. What they stand for is decided by the plan (`dataflow::placement`), and what follows from a difference by whoever compares.
//!
//! # The words, for ever
//! Nothing: by the operator's own keys. `the columns (a, b)`: in the key groups of these columns, which are among its keys, in this order. `the
//! partitions of t, of 8`: in the key groups of the partitions of table `t`, of which there are 8.

use dataflow::graph::{JobGraph, Node, NodeKind};
use dataflow::placement::{Placement, Spreads};

/// Where the state of an operator lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlaceOfState {
    /// By its own keys.
    Keys,
    /// By some of the columns of its keys.
    Columns(Vec<String>),
    /// By the partition that a row was read from.
    Partitions {
        /// The table.
        table: String,
        /// Its number of partitions.
        buckets: u32,
    },
}

impl PlaceOfState {
    /// Of an operator with state.
    pub fn of(graph: &JobGraph, spreads: &Spreads, node: &Node) -> Self {
        let input = node.inputs.first().map(|input| &graph.nodes[input.0 as usize]);
        match (spreads.of_state(node), input) {
            (Some(Placement::Columns(columns)), Some(input)) => {
                Self::Columns(columns.iter().map(|column| input.schema.field(*column).name().clone()).collect())
            }
            (Some(Placement::Partition(source)), Some(_)) => Self::of_source(&graph.nodes[source.0 as usize]),
            (Some(Placement::Key) | None, _) | (Some(_), None) => Self::Keys,
        }
    }

    fn of_source(node: &Node) -> Self {
        let NodeKind::Source(source) = &node.kind else { return Self::Keys };
        let buckets = source.distribution.as_ref().map_or(0, |declared| declared.buckets);
        Self::Partitions { table: source.table.clone(), buckets }
    }

    /// As it is stored.
    pub fn words(&self) -> String {
        match self {
            Self::Keys => String::new(),
            Self::Columns(columns) => format!("the columns ({})", columns.join(", ")),
            Self::Partitions { table, buckets } => format!("the partitions of {table}, of {buckets}"),
        }
    }
}

/// What is stored, for people.
pub fn in_words(stored: &str) -> String {
    if stored.is_empty() { "its own keys".to_owned() } else { stored.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_for_ever() {
        let columns = PlaceOfState::Columns(vec!["a".into(), "b".into()]);
        let partitions = PlaceOfState::Partitions { table: "flights".into(), buckets: 8 };
        let words = [PlaceOfState::Keys, columns, partitions].map(|place| place.words());
        assert_eq!(words, ["", "the columns (a, b)", "the partitions of flights, of 8"]);
        assert_eq!(words.map(|words| in_words(&words))[0], "its own keys");
    }
}
