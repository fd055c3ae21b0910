//! The transaction coordinator of one transactional id.
//!
//! Owns its states and epochs. What a marker does to a partition or a group is theirs.

use std::collections::BTreeSet;

use super::Broker;
use crate::message::{Answer, ErrorCode, Place, ProducerEpoch, Protocol, Response, Transactional};

/// What takes part in a transaction.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    Partition(Place),
    Group(String),
}

/// A marker that is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Marker {
    pub(super) transactional_id: String,
    pub(super) target: Target,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Empty,
    Ongoing {
        since_ms: u64,
        targets: BTreeSet<Target>,
    },
    /// Decided; these markers are to come.
    Prepare {
        commit: bool,
        targets: BTreeSet<Target>,
    },
    Complete {
        commit: bool,
    },
}

#[derive(Clone, Debug)]
pub(super) struct Coordinator {
    producer: ProducerEpoch,
    timeout_ms: u64,
    stage: Stage,
    /// Protocol 2: the epoch whose transaction its own producer has ended last, if nobody else has a new epoch since.
    ended: Option<i16>,
}

impl Broker {
    pub(super) fn init_producer(&mut self, transactional_id: &str, timeout_ms: u64) -> Response {
        if let Some(known) = self.coordinators.get_mut(transactional_id) {
            return known.init(timeout_ms);
        }
        let producer = ProducerEpoch { id: self.next_producer_id, epoch: 0 };
        self.next_producer_id += 1;
        let coordinator = Coordinator { producer, timeout_ms, stage: Stage::Empty, ended: None };
        self.coordinators.insert(transactional_id.to_owned(), coordinator);
        Ok(Answer::Producer(producer))
    }

    /// The coordinator, if the caller is the present producer.
    pub(super) fn coordinator(&mut self, by: &Transactional) -> Result<&mut Coordinator, ErrorCode> {
        let known = self.any_epoch(by)?;
        if known.producer.epoch == by.producer.epoch { Ok(known) } else { Err(ErrorCode::ProducerFenced) }
    }

    fn any_epoch(&mut self, by: &Transactional) -> Result<&mut Coordinator, ErrorCode> {
        let known = self.coordinators.get_mut(&by.id).filter(|known| known.producer.id == by.producer.id);
        known.ok_or(ErrorCode::InvalidProducerIdMapping)
    }

    /// Ends the transaction of this epoch.
    pub(super) fn end(&mut self, by: &Transactional, commit: bool) -> Response {
        match self.protocol {
            Protocol::One => self.coordinator(by)?.end(commit),
            Protocol::Two => self.any_epoch(by)?.end_epoch(by.producer.epoch, commit),
        }
    }

    /// What is written to takes part in the transaction: it was added, or is added by this.
    pub(super) fn takes_part(&mut self, now_ms: u64, by: &Transactional, target: Target) -> Result<(), ErrorCode> {
        let protocol = self.protocol;
        let coordinator = self.coordinator(by)?;
        match protocol {
            Protocol::One => coordinator.expect_open(&target),
            Protocol::Two => coordinator.add(now_ms, std::iter::once(target)).map(drop),
        }
    }

    /// The first batch of a transaction in a partition is checked with the coordinator; later ones by the partition alone.
    pub(super) fn verify(&mut self, now_ms: u64, by: &Transactional, to: &Place) -> Result<(), ErrorCode> {
        if self.partition(to)?.has_open(by.producer) {
            return Ok(());
        }
        match self.takes_part(now_ms, by, Target::Partition(to.clone())) {
            Err(ErrorCode::ProducerFenced) => Err(ErrorCode::InvalidProducerEpoch),
            other => other,
        }
    }
}

impl Coordinator {
    pub(super) fn stage(&self) -> &Stage {
        &self.stage
    }

    fn init(&mut self, timeout_ms: u64) -> Response {
        match &self.stage {
            Stage::Empty | Stage::Complete { .. } => {
                self.producer.epoch += 1;
                (self.timeout_ms, self.stage, self.ended) = (timeout_ms, Stage::Empty, None);
                Ok(Answer::Producer(self.producer))
            }
            Stage::Ongoing { .. } => {
                self.abort_with_new_epoch();
                Err(ErrorCode::ConcurrentTransactions)
            }
            Stage::Prepare { .. } => Err(ErrorCode::ConcurrentTransactions),
        }
    }

    fn abort_with_new_epoch(&mut self) {
        (self.producer.epoch, self.ended) = (self.producer.epoch + 1, None);
        self.prepare(false);
    }

    pub(super) fn add(&mut self, now_ms: u64, more: impl Iterator<Item = Target>) -> Response {
        match &mut self.stage {
            Stage::Ongoing { targets, .. } => targets.extend(more),
            Stage::Empty | Stage::Complete { .. } => {
                self.stage = Stage::Ongoing { since_ms: now_ms, targets: more.collect() };
            }
            Stage::Prepare { .. } => return Err(ErrorCode::ConcurrentTransactions),
        }
        Ok(Answer::Done)
    }

    pub(super) fn expect_open(&self, target: &Target) -> Result<(), ErrorCode> {
        match &self.stage {
            Stage::Ongoing { targets, .. } if targets.contains(target) => Ok(()),
            Stage::Prepare { .. } => Err(ErrorCode::ConcurrentTransactions),
            Stage::Empty | Stage::Ongoing { .. } | Stage::Complete { .. } => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Ends the transaction. Asked again for what is done already, it says done.
    pub(super) fn end(&mut self, commit: bool) -> Response {
        match &self.stage {
            Stage::Ongoing { .. } => {
                self.prepare(commit);
                Ok(Answer::Done)
            }
            Stage::Complete { commit: done } if *done == commit => Ok(Answer::Done),
            Stage::Prepare { commit: decided, .. } if *decided == commit => Err(ErrorCode::ConcurrentTransactions),
            Stage::Empty | Stage::Prepare { .. } | Stage::Complete { .. } => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Protocol 2: ends the transaction of an epoch, and gives its producer the next one. Asked again before that is used, it says the same.
    fn end_epoch(&mut self, epoch: i16, commit: bool) -> Response {
        let again = self.ended == Some(epoch);
        if epoch != self.producer.epoch && !again {
            return Err(ErrorCode::ProducerFenced);
        }
        match &self.stage {
            Stage::Ongoing { .. } if again => Err(ErrorCode::ProducerFenced),
            Stage::Ongoing { .. } => {
                (self.producer.epoch, self.ended) = (epoch + 1, Some(epoch));
                self.prepare(commit);
                Ok(Answer::Producer(self.producer))
            }
            Stage::Complete { commit: done } if again && *done == commit => Ok(Answer::Producer(self.producer)),
            Stage::Prepare { commit: decided, .. } if again && *decided == commit => {
                Err(ErrorCode::ConcurrentTransactions)
            }
            Stage::Empty | Stage::Prepare { .. } | Stage::Complete { .. } => Err(ErrorCode::InvalidTxnState),
        }
    }

    fn prepare(&mut self, commit: bool) {
        if let Stage::Ongoing { targets, .. } = std::mem::replace(&mut self.stage, Stage::Empty) {
            self.stage = Stage::Prepare { commit, targets };
            self.complete();
        }
    }

    fn complete(&mut self) {
        if let Stage::Prepare { commit, targets } = &self.stage
            && targets.is_empty()
        {
            self.stage = Stage::Complete { commit: *commit };
        }
    }

    pub(super) fn markers(&self, transactional_id: &str) -> Vec<Marker> {
        let marker = |target: &Target| Marker { transactional_id: transactional_id.to_owned(), target: target.clone() };
        match &self.stage {
            Stage::Prepare { targets, .. } => targets.iter().map(marker).collect(),
            Stage::Empty | Stage::Ongoing { .. } | Stage::Complete { .. } => Vec::new(),
        }
    }

    /// A marker is written: as whom, and commit or abort. `None` if none was due there.
    pub(super) fn written(&mut self, target: &Target) -> Option<(ProducerEpoch, bool)> {
        let Stage::Prepare { commit, targets } = &mut self.stage else { return None };
        let commit = *commit;
        if !targets.remove(target) {
            return None;
        }
        self.complete();
        Some((self.producer, commit))
    }

    pub(super) fn expire(&mut self, now_ms: u64) {
        if let Stage::Ongoing { since_ms, .. } = self.stage
            && now_ms >= since_ms + self.timeout_ms
        {
            self.abort_with_new_epoch();
        }
    }
}
