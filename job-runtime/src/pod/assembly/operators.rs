//! The stream operators that have state, by name beside that state: so a start finds out that the state is another plan's.
//!
//! Owns that check. It moves no state: what the job's text no longer has must not be lost without a word, so the start ends.

use dataflow::graph::{JobGraph, Node, NodeKind};
use dataflow::key::Shards;
use dataflow::state::{ChangeBatch, ShardStore};

use crate::commit::bookkeeping::{self, Home};
use crate::pod::PodError;

/// Checks that the job has every operator whose state is in these stores, which are the pod's own; returns what is to be stored of those that
/// are new, in the first commit.
pub(super) fn check<S: ShardStore>(graph: &JobGraph, stores: &[S], shards: Shards) -> Result<ChangeBatch, PodError> {
    let stateful: Vec<&Node> = graph.nodes.iter().filter(|node| has_state(node)).collect();
    let own = Home::new(shards, stores[0].shard());
    let mut known = Vec::new();
    // A shard that came from another pod may be where that one kept them.
    for store in stores {
        let home = Home::new(shards, store.shard());
        for (uid, name) in bookkeeping::operators(store, home)? {
            if !stateful.iter().any(|node| node.uid == uid) {
                return Err(PodError::OtherPlan { operator: name });
            }
            if home == own {
                known.push(uid);
            }
        }
    }
    let mut new = ChangeBatch::new();
    for node in stateful.iter().filter(|node| !known.contains(&node.uid)) {
        bookkeeping::put_operator(&mut new, own, node.uid, &node.name);
    }
    Ok(new)
}

fn has_state(node: &Node) -> bool {
    match node.kind {
        NodeKind::WindowAggregate(_) | NodeKind::Deduplicate(_) => true,
        NodeKind::Source(_) | NodeKind::Sink(_) | NodeKind::Calc(_) | NodeKind::Exchange(_) | NodeKind::Union => false,
    }
}
