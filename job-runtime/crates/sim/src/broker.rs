//! A Kafka broker as a state machine.
//!
//! Owns topics, transaction coordinators and consumer groups. Nothing happens by itself: [`Broker::handle`] answers a request,
//! [`Broker::write_marker`] writes one of the markers that are due, [`Broker::expire`] looks for transactions that are too old. When each of
//! these happens is the caller's choice, so that a seed can choose it.
//!
//! As in Kafka (one broker, both transaction protocols):
//! - a commit is decided when `EndTxn` answers; markers come later, each partition and group by itself, and meanwhile the transactional id is
//!   busy (`CONCURRENT_TRANSACTIONS`);
//! - a new epoch aborts what is open, and answers only when the abort is complete;
//! - a transaction that times out is aborted with a new epoch, so that its producer is fenced;
//! - an epoch is checked by the coordinator and, for records, by the partition, which asks the coordinator at a transaction's first batch;
//! - of two pending offsets of a partition the one that was sent later wins, whichever marker comes first;
//! - in protocol 2 the end of a transaction gives its producer the next epoch, which the markers carry: whatever comes later with the old one is
//!   refused, but for the end itself, which may be asked for again until the next transaction begins.

mod groups;
mod partition;
#[cfg(test)]
mod tests;
mod transactions;

use std::collections::BTreeMap;

use crate::message::{Answer, ErrorCode, Place, Protocol, Request, Response};
use groups::Group;
use partition::Partition;
pub use transactions::Marker;
use transactions::{Coordinator, Stage, Target};

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Broker {
    protocol: Protocol,
    topics: BTreeMap<String, Vec<Partition>>,
    coordinators: BTreeMap<String, Coordinator>,
    groups: BTreeMap<String, Group>,
    next_producer_id: i64,
}

impl Broker {
    /// A broker without topics.
    pub fn new(protocol: Protocol) -> Self {
        Self { protocol, ..Self::default() }
    }

    /// Which transaction protocol it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// Answers a request that arrives now.
    ///
    /// # Errors
    /// Kafka's, as an answer.
    pub fn handle(&mut self, now_ms: u64, request: &Request) -> Response {
        match request {
            Request::CreateTopic { topic, partitions } => self.create(topic, *partitions),
            Request::InitProducerId { transactional_id, timeout_ms } => {
                self.init_producer(transactional_id, *timeout_ms)
            }
            Request::AddPartitionsToTxn { by, partitions } => {
                for place in partitions {
                    self.partition(place)?;
                }
                let targets = partitions.iter().map(|place| Target::Partition(place.clone()));
                self.coordinator(by)?.add(now_ms, targets)
            }
            Request::AddOffsetsToTxn { by, group } => {
                self.coordinator(by)?.add(now_ms, std::iter::once(Target::Group(group.clone())))
            }
            Request::Produce { by, to, sequence, records } => {
                if let Some(by) = by {
                    self.verify(now_ms, by, to)?;
                }
                let producer = by.as_ref().map(|by| (by.producer, *sequence));
                self.partition(to)?.append(producer, records).map(Answer::Appended)
            }
            Request::TxnOffsetCommit { by, group, offsets } => {
                self.takes_part(now_ms, by, Target::Group(group.clone()))?;
                self.groups.entry(group.clone()).or_default().send(by.producer.id, offsets);
                Ok(Answer::Done)
            }
            Request::EndTxn { by, commit } => self.end(by, *commit),
            Request::OffsetCommit { group, offsets } => {
                self.groups.entry(group.clone()).or_default().commit(offsets);
                Ok(Answer::Done)
            }
            Request::OffsetFetch { group, partitions, require_stable } => {
                let group = self.groups.entry(group.clone()).or_default();
                group.fetch(partitions, *require_stable).map(Answer::Offsets)
            }
            Request::Fetch { from, offset, most, isolation } => {
                self.partition(from)?.fetch(*offset, *most, *isolation).map(Answer::Fetched)
            }
            Request::ListOffsets { of } => self.partition(of).map(|partition| partition.edges()),
            Request::DeleteRecords { from, before } => self.partition(from)?.delete_before(*before),
        }
    }

    /// The markers that are still to be written, of all transactions.
    pub fn markers(&self) -> Vec<Marker> {
        self.coordinators.iter().flat_map(|(id, coordinator)| coordinator.markers(id)).collect()
    }

    /// Writes a marker. One that is written already changes nothing.
    pub fn write_marker(&mut self, marker: &Marker) {
        let Some(coordinator) = self.coordinators.get_mut(&marker.transactional_id) else { return };
        let Some((producer, commit)) = coordinator.written(&marker.target) else { return };
        match &marker.target {
            Target::Partition(place) => {
                if let Ok(partition) = self.partition(place) {
                    partition.mark(producer, commit);
                }
            }
            Target::Group(group) => self.groups.entry(group.clone()).or_default().mark(producer.id, commit),
        }
    }

    /// Aborts every transaction that is older than its timeout, as the coordinator does every ten seconds.
    pub fn expire(&mut self, now_ms: u64) {
        self.coordinators.values_mut().for_each(|coordinator| coordinator.expire(now_ms));
    }

    /// Number of transactions that are open or have markers to come.
    pub fn unfinished(&self) -> usize {
        self.coordinators.values().filter(|c| !matches!(c.stage(), Stage::Empty | Stage::Complete { .. })).count()
    }

    /// All transactional ids that were ever used.
    pub fn transactional_ids(&self) -> impl Iterator<Item = &str> {
        self.coordinators.keys().map(String::as_str)
    }

    /// All consumer groups that have or had offsets.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    fn create(&mut self, topic: &str, partitions: i32) -> Response {
        if self.topics.contains_key(topic) {
            return Err(ErrorCode::TopicAlreadyExists);
        }
        self.topics.insert(topic.to_owned(), (0..partitions).map(|_| Partition::default()).collect());
        Ok(Answer::Done)
    }

    fn partition(&mut self, (topic, number): &Place) -> Result<&mut Partition, ErrorCode> {
        let partitions = self.topics.get_mut(topic).ok_or(ErrorCode::UnknownTopicOrPartition)?;
        usize::try_from(*number).ok().and_then(|n| partitions.get_mut(n)).ok_or(ErrorCode::UnknownTopicOrPartition)
    }
}
