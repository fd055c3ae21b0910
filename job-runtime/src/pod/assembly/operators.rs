//! The stream operators that have state, by name beside that state: so a start finds out that the state is another plan's.
//!
//! Owns that check. It moves no state: what the job's text no longer has, or would look for elsewhere, must not be lost without a word, so the
//! start ends.

use dataflow::graph::{JobGraph, Node, NodeKind};
use dataflow::key::Shards;
use dataflow::placement::Spreads;
use dataflow::state::{ChangeBatch, ShardStore};

use crate::commit::bookkeeping::{self, Home, StoredOperator};
use crate::pod::PodError;
use crate::state::place::{PlaceOfState, in_words};

/// Checks that the job has every operator whose state is in these stores, which are the pod's own, and has it in the same place; returns what is
/// to be stored of those that are new, in the first commit. `shuffles` says that rows may be on the way between pods.
pub(super) fn check<S: ShardStore>(
    graph: &JobGraph,
    stores: &[S],
    shards: Shards,
    shuffles: bool,
) -> Result<ChangeBatch, PodError> {
    let planned = planned(graph);
    let own = Home::new(shards, stores[0].shard());
    let mut known = Vec::new();
    // A shard that came from another pod may be where that one kept them.
    for store in stores {
        let home = Home::new(shards, store.shard());
        for stored in bookkeeping::operators(store, home)? {
            let Some(now) = planned.iter().find(|now| now.uid == stored.uid) else {
                return Err(PodError::OtherPlan { operator: stored.name });
            };
            compare(&stored, now, shuffles)?;
            if home == own && stored == *now {
                known.push(stored.uid);
            }
        }
    }
    let mut new = ChangeBatch::new();
    for operator in planned.iter().filter(|operator| !known.contains(&operator.uid)) {
        bookkeeping::put_operator(&mut new, own, operator);
    }
    Ok(new)
}

fn compare(stored: &StoredOperator, now: &StoredOperator, shuffles: bool) -> Result<(), PodError> {
    let operator = stored.name.clone();
    if stored.place != now.place {
        return Err(PodError::OtherPlace { operator, was: in_words(&stored.place), now: in_words(&now.place) });
    }
    if stored.exchanged != now.exchanged && shuffles {
        return Err(PodError::OtherExchange { operator });
    }
    Ok(())
}

/// The operators with state of a plan, as they are stored.
fn planned(graph: &JobGraph) -> Vec<StoredOperator> {
    let spreads = Spreads::of(graph);
    let input = |node: &Node| node.inputs.first().map(|input| &graph.nodes[input.0 as usize].kind);
    let stored = |node: &Node| StoredOperator {
        uid: node.uid,
        name: node.name.clone(),
        place: PlaceOfState::of(graph, &spreads, node).words(),
        exchanged: matches!(input(node), Some(NodeKind::Exchange(_))),
    };
    graph.nodes.iter().filter(|node| node.kind.has_state()).map(stored).collect()
}

#[cfg(test)]
mod tests {
    use dataflow::graph::OperatorUid;
    use dataflow::key::ShardId;
    use dataflow::state::LogOffset;
    use dataflow::testing::{Disk, MemoryStore};

    use super::*;

    const TABLES: &str = "
    CREATE TABLE flights (origin STRING, dest STRING) DISTRIBUTED BY (origin) INTO 8 BUCKETS WITH ('connector' = 'kafka');
    CREATE TABLE seen (origin STRING, dest STRING) WITH ('connector' = 'print');
    INSERT INTO seen SELECT DISTINCT origin, dest FROM flights;";

    fn graph(sql: &str) -> JobGraph {
        let sql = sql.replace('\n', "\n    ");
        let text = format!(
            "apiVersion: millstream.io/v1alpha1\nkind: StreamJob\nmetadata: {{name: t}}\nspec:\n  sql: |{sql}\n"
        );
        plan::plan(&plan::job::read("job.yaml", &text).unwrap()).unwrap().graph
    }

    /// What a start with `now` says to the state of a job that ran with `before`.
    fn start(before: &str, now: &str, shuffles: bool) -> Result<usize, String> {
        let shards = Shards::new(4).unwrap();
        let mut store = MemoryStore::new(ShardId(0), Disk::default());
        let first = check(&graph(before), &[store.clone()], shards, shuffles).unwrap();
        store.apply(&first, LogOffset(0)).unwrap();
        check(&graph(now), &[store], shards, shuffles).map(|new| new.len()).map_err(|error| error.to_string())
    }

    #[test]
    fn state_that_lies_elsewhere_is_refused_by_name() {
        assert_eq!(start(TABLES, TABLES, true), Ok(0), "the same plan");
        let shuffled = TABLES.replace(" DISTRIBUTED BY (origin) INTO 8 BUCKETS", "");
        let more = TABLES.replace("8 BUCKETS", "9 BUCKETS");
        let error = start(TABLES, &shuffled, false).unwrap_err();
        let words = "the state of distinct(origin, dest) by the partitions of flights, of 8, and its SQL would look for it by its own keys";
        assert!(error.contains(words), "{error}");
        assert!(start(&shuffled, TABLES, false).unwrap_err().contains("by its own keys, and"));
        assert!(start(TABLES, &more, false).unwrap_err().contains("by the partitions of flights, of 9:"));
        let other = TABLES.replace("SELECT DISTINCT origin, dest", "SELECT dest, origin");
        assert!(start(TABLES, &other, false).unwrap_err().contains("does not have any more"));
    }

    #[test]
    fn an_exchange_that_is_gone_is_refused_where_rows_may_be_on_the_way() {
        let operator = |exchanged| StoredOperator {
            uid: OperatorUid(20),
            name: "distinct(a)".to_owned(),
            place: String::new(),
            exchanged,
        };
        assert!(compare(&operator(true), &operator(false), false).is_ok());
        let error = compare(&operator(true), &operator(false), true).unwrap_err().to_string();
        assert!(error.contains("rows go to distinct(a) in another way"), "{error}");
    }
}
