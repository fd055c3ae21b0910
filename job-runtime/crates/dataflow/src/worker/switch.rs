//! Giving shards up at a barrier: which are lost here, and what each stream operator does as the barrier passes it.
//!
//! Owns the checks and that book-keeping. What a source or a reader of other pods' rows does is theirs (`root`, `shuffled`); when shards are lost
//! is decided elsewhere.

use std::sync::Arc;

use crate::exchange::Splitter;
use crate::key::ShardId;
use crate::shuffle::{OTHER_POD, Switch};
use crate::worker::flow::{Flow, Role};
use crate::worker::{CommitId, WorkerError};

/// A switch whose commit is not applied yet.
pub(super) struct Switching {
    /// The barrier.
    id: CommitId,
    pub(super) switch: Arc<Switch>,
    /// Shards of this worker that are lost.
    pub(super) lost: Vec<ShardId>,
}

impl Flow {
    /// Takes a switch that comes with barrier `id`.
    pub(super) fn switch(&mut self, id: CommitId, switch: Arc<Switch>) -> Result<(), WorkerError> {
        let fail = |message: &str| Err(WorkerError::config(self.worker, message.to_owned()));
        if self.switching.is_some() {
            return fail("shards were taken away before the last commit that took some away was applied");
        }
        let fits = |(old, new): (&usize, &usize)| old == new || *new == OTHER_POD;
        if switch.owner.len() != self.owner.len() || !self.owner.iter().zip(switch.owner.iter()).all(fits) {
            return fail("shards can only be taken away");
        }
        if self.nodes.iter().any(|node| matches!(node.role, Role::LocalExchange(_))) {
            return fail("a job of one pod has nobody to give shards to");
        }
        let own = self.owner.iter().zip(switch.owner.iter()).enumerate();
        let lost = own.filter(|(_, (old, new))| **old == self.worker && **new == OTHER_POD);
        let lost = lost.map(|(shard, _)| ShardId(shard as u16)).collect();
        self.owner = Arc::clone(&switch.owner);
        self.switching = Some(Switching { id, switch, lost });
        Ok(())
    }

    /// The switch that comes with this barrier.
    pub(super) fn switch_at(&self, id: CommitId) -> Option<&Switching> {
        self.switching.as_ref().filter(|switching| switching.id == id)
    }

    /// The barrier has passed a node: what it has of lost shards is forgotten.
    pub(super) fn leave(&mut self, node: usize, id: CommitId) {
        let Some(switching) = self.switching.as_ref().filter(|switching| switching.id == id) else { return };
        if let Some(operator) = self.nodes[node].role.stateful_mut() {
            operator.leave(&switching.lost);
        }
    }

    /// The barrier goes into the queues of an exchange: rows behind it go to the owners that there are now.
    pub(super) fn redirect(&mut self, node: usize, id: CommitId) {
        let Some(switching) = self.switching.as_ref().filter(|switching| switching.id == id) else { return };
        if let Role::Exchange(exchange) = &mut self.nodes[node].role {
            exchange.splitter = Splitter::new(self.stores.shards(), &switching.switch.owner, exchange.senders.len());
        }
    }

    /// A commit is in the stores: those of shards that it was the last of are given up.
    pub(super) fn end_switch(&mut self, id: CommitId) {
        if let Some(switching) = self.switching.take_if(|switching| switching.id == id) {
            self.stores.leave(&switching.lost);
        }
    }
}
