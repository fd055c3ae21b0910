//! How far source partitions were read when the pod starts: in the log, in its state, in the savepoint that the job began from.
//!
//! Owns which of these is believed. Layouts are `commit::bookkeeping`'s.

use std::collections::BTreeMap;

use dataflow::graph::NodeId;
use dataflow::source::{PartitionId, Reached};

use super::{Log, OpenSource};
use crate::commit::bookkeeping::{self, Home};
use crate::pod::PodError;
use crate::pod::hold::Standing;
use crate::snapshot::origin::Origin;
use crate::state::rocks::RocksShardStore;

/// How far every source partition was read at the last commit.
pub(super) struct Positions(pub(super) BTreeMap<NodeId, BTreeMap<PartitionId, Reached>>);

impl Positions {
    pub(super) fn find(
        log: &Log,
        stores: &[RocksShardStore],
        home: Home,
        sources: &[OpenSource<'_>],
        origin: Option<&Origin>,
    ) -> Result<Self, PodError> {
        let mut found: BTreeMap<NodeId, BTreeMap<PartitionId, Reached>> = BTreeMap::new();
        // First where the savepoint has them: whatever the job itself says comes later.
        for stored in origin.iter().flat_map(|origin| origin.positions()) {
            if let Some(source) = sources.iter().find(|source| source.node.uid == stored.operator) {
                let reached = bookkeeping::decode_position(&stored.bytes)?;
                found.entry(source.node.id).or_default().insert(PartitionId(stored.partition.clone()), reached);
            }
        }
        for source in sources {
            for (id, reached) in bookkeeping::positions(&stores[0], home, source.node.uid)? {
                found.entry(source.node.id).or_default().insert(id, reached);
            }
        }
        if let Log::Kafka(log) = log {
            for ((node, id), reached) in log.positions(sources)? {
                found.entry(node).or_default().insert(id, reached);
            }
        }
        Ok(Self(found))
    }

    /// Those that are kept as state of this pod: a partition that is at its end may not be opened again, and a savepoint must have it.
    pub(super) fn standing(&self, log: &Log, sources: &[OpenSource<'_>]) -> Standing {
        let riding = match log {
            Log::Kafka(log) => log.sources.as_slice(),
            Log::Local(_) => &[],
        };
        let mut out = Standing::new();
        for source in sources.iter().filter(|source| !riding.contains(&source.node.id)) {
            let of_source = self.0.get(&source.node.id).into_iter().flatten();
            out.extend(of_source.map(|(id, reached)| ((source.node.uid, id.clone()), reached.clone())));
        }
        out
    }
}
