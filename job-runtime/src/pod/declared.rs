//! What a table declares of its partitions: how many there are, and, where the plan relies on it, the key group of each.
//!
//! Owns that check and its words. It asks no source: who lists partitions, counts them.

use checkpoint::partition_group::{most_partitions, partition_group};
use dataflow::graph::{JobGraph, Node, NodeKind};
use dataflow::key::{KeyGroup, Shards};
use dataflow::placement;

use crate::connector::ConnectorError;

/// A table with `DISTRIBUTED BY`.
#[derive(Debug)]
pub(super) struct Declared {
    table: String,
    buckets: u32,
    /// The job's shards, if the plan relies on the partitions.
    shards: Option<Shards>,
}

impl Declared {
    /// Of a source of a plan; `None` if its table declares nothing.
    ///
    /// # Errors
    /// When the plan relies on more partitions than can be told apart.
    pub(super) fn of(node: &Node, graph: &JobGraph, shards: Shards) -> Result<Option<Self>, ConnectorError> {
        let NodeKind::Source(source) = &node.kind else { return Ok(None) };
        let Some(distribution) = &source.distribution else { return Ok(None) };
        let relied = placement::relied_upon(graph, node.id);
        let declared =
            Self { table: source.table.clone(), buckets: distribution.buckets, shards: relied.then_some(shards) };
        let most = most_partitions(shards);
        if relied && distribution.buckets as usize > most {
            let message = format!(
                "`DISTRIBUTED BY … INTO {} BUCKETS` is declared, and with {} shards at most {most} partitions can be told apart: write another spec.shards, or leave the clause out",
                distribution.buckets,
                shards.count()
            );
            return Err(declared.error(message));
        }
        Ok(Some(declared))
    }

    /// Compares with the number of partitions that there are.
    ///
    /// # Errors
    /// When it is another one.
    pub(super) fn check(&self, found: usize) -> Result<(), ConnectorError> {
        let buckets = self.buckets;
        if found == buckets as usize {
            return Ok(());
        }
        Err(self.error(format!(
            "`DISTRIBUTED BY … INTO {buckets} BUCKETS` is declared, and the topic has {found} partitions: rows that are equal in the columns may be in \
             more than one of them. If they are not, write `INTO {found} BUCKETS`, else leave the clause out; a job that has run then begins anew \
             (--fresh, or a StreamJob under another name)"
        )))
    }

    /// The key group of the `index`-th partition, if the plan relies on it.
    pub(super) fn group(&self, index: usize) -> Option<KeyGroup> {
        partition_group(index, self.shards?)
    }

    fn error(&self, message: String) -> ConnectorError {
        ConnectorError { table: self.table.clone(), option: None, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_number_of_partitions_is_refused_with_both_numbers() {
        let shards = Shards::new(4).unwrap();
        let declared = Declared { table: "flights".into(), buckets: 8, shards: Some(shards) };
        assert!(declared.check(8).is_ok());
        let error = declared.check(9).unwrap_err().to_string();
        assert!(
            error.starts_with(
                "table flights: `DISTRIBUTED BY … INTO 8 BUCKETS` is declared, and the topic has 9 partitions"
            ),
            "{error}"
        );
        assert!(error.contains("write `INTO 9 BUCKETS`"), "{error}");
        assert_eq!((declared.group(0), declared.group(4)), (Some(KeyGroup(0)), Some(KeyGroup(1))));
        assert_eq!(Declared { shards: None, ..declared }.group(0), None, "nobody relies on it");
    }
}
