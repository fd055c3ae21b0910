//! A pod's side of the shuffle: what the workers have for other pods goes into the commit's transaction.
//!
//! Owns the way from the workers' shares to the log. What is sent when is decided in `dataflow::shuffle`.

mod pressure;
mod trim;

use std::collections::BTreeMap;

use dataflow::graph::NodeId;
use dataflow::shuffle::backlog::{Amount, Target};
use dataflow::shuffle::outgoing::Outgoing;
use dataflow::shuffle::{ShuffleBlock, ShuffleMessage};
use dataflow::worker::{CommitId, WorkerCommit};

use crate::commit::{CommitError, CommitLog, KafkaOffset};

pub(super) use pressure::{Pressure, Readers, Waits};
pub(super) use trim::Trimmer;

/// What goes to other pods.
pub(super) struct Outward {
    /// What is sent when.
    pub(super) outgoing: Outgoing,
    /// The topic of each exchange.
    pub(super) topics: BTreeMap<NodeId, String>,
    /// Removes what this pod has read.
    pub(super) trimmer: Trimmer,
    /// Lets the sources wait for readers of other pods.
    pub(super) pressure: Pressure,
    /// What the commit under way has for each target.
    pub(super) running: BTreeMap<Target, Amount>,
}

impl Outward {
    /// Rows that do not wait for the barrier; returns their size.
    pub(super) fn block(
        &mut self,
        log: &mut dyn CommitLog,
        commit: CommitId,
        block: ShuffleBlock,
    ) -> Result<u64, CommitError> {
        let Some(message) = self.outgoing.full_block(block, commit) else { return Ok(0) };
        self.send(log, &message)?;
        Ok(message.bytes.len() as u64)
    }

    /// Takes what a worker's share of a commit has for other pods.
    pub(super) fn take(&mut self, share: &mut WorkerCommit) {
        self.outgoing.take(share.worker, std::mem::take(&mut share.shuffles));
    }

    /// Puts the messages of a commit into its transaction.
    pub(super) fn write(&mut self, log: &mut dyn CommitLog, commit: CommitId, now_ms: u64) -> Result<(), CommitError> {
        let messages = self.outgoing.messages(commit, now_ms);
        messages.iter().try_for_each(|message| self.send(log, message))
    }

    /// A commit is in the log: `read` is how far it has read what others sent.
    pub(super) fn committed(&mut self, log: &mut dyn CommitLog, read: impl Iterator<Item = (String, i32, i64)>) {
        self.trimmer.committed(read);
        let last: BTreeMap<(String, i32), i64> =
            log.take_sent().into_iter().map(|(topic, partition, offset)| ((topic, partition), offset)).collect();
        let sent = std::mem::take(&mut self.running).into_iter().filter_map(|(target, amount)| {
            let (exchange, shard) = target;
            let offset = last.get(&(self.topics.get(&exchange)?.clone(), i32::from(shard.0)))?;
            Some((target, *offset, amount))
        });
        self.pressure.sent(sent);
    }

    /// The offsets among those of a commit up to which this pod has read what others sent.
    pub(super) fn read(&self, offsets: &[KafkaOffset]) -> Vec<(String, i32, i64)> {
        let ours = |offset: &&KafkaOffset| self.topics.values().any(|own| *own == offset.topic);
        let place = |offset: &KafkaOffset| (offset.topic.clone(), offset.partition, offset.next_offset);
        offsets.iter().filter(ours).map(place).collect()
    }

    fn send(&mut self, log: &mut dyn CommitLog, message: &ShuffleMessage) -> Result<(), CommitError> {
        if message.rows {
            let amount = Amount { messages: 1, bytes: message.bytes.len() as u64 };
            self.running.entry((message.exchange, message.shard)).or_default().add(amount);
        }
        let topic = self.topics.get(&message.exchange).expect("every exchange of a job of several pods has a topic");
        log.send(topic, i32::from(message.shard.0), &message.bytes)
    }
}
