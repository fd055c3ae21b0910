//! The commit log on the simulated broker: the order of calls of a commit, and what an error means.
//!
//! Owns the producer's side. When to commit is `checkpoint::commit`'s to say.
//!
//! A batch whose answer is lost is sent again, for its sequence number tells the broker. Nothing else is asked twice in one epoch: every other lost
//! answer, and every refusal but "come again", ends the process.

use std::collections::HashMap;

use checkpoint::{changelog, names};
use dataflow::key::ShardId;
use dataflow::state::{ChangeBatch, LogOffset};
use dataflow::worker::{AppliedOffsets, CommitId};
use sim::message::{Answer, ErrorCode, Place, Protocol, Record, Request, Transactional};
use sim::world::{CallError, Connection, World};

use super::mutant::Mutant;

/// The job.
pub(crate) const UID: &str = "job";
/// Its number in records.
pub(crate) const JOB: u64 = 7;
/// A transaction that is older is aborted by the broker.
pub(crate) const TRANSACTION_TIMEOUT_MS: u64 = 4_000;
pub(crate) const CALL_TIMEOUT_MS: u64 = 1_000;
const AGAIN_US: u64 = 5_000;
const RECORD: usize = 1 << 20;
/// On every changelog record, for the checks: the number of the process that wrote it.
pub(crate) const WRITER: &str = "process";

/// Why a process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Another process has the epoch.
    Fenced,
    /// The outcome of a commit is unknown.
    Unknown,
    /// Another assignment is in force.
    Reassigned,
    /// Records of the input are not there any more that were not read yet.
    Gone,
    /// Anything else: begin anew.
    Failed,
}

impl From<CallError> for Ended {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch) => Self::Fenced,
            CallError::Disconnected | CallError::Refused(_) => Self::Failed,
        }
    }
}

/// Everything of one commit.
pub(crate) struct Commit {
    pub(crate) id: CommitId,
    /// For sinks and for other pods.
    pub(crate) outputs: Vec<(Place, Vec<Record>)>,
    pub(crate) changes: Vec<(ShardId, ChangeBatch)>,
    pub(crate) offsets: Vec<(Place, i64)>,
}

/// A producer with an epoch.
pub(crate) struct Log {
    world: World,
    connection: Connection,
    by: Transactional,
    /// The process.
    number: u64,
    sequences: HashMap<Place, i32>,
    mutant: Option<Mutant>,
}

pub(crate) fn changelog_place(shard: ShardId) -> Place {
    (names::changelog_topic(UID), i32::from(shard.0))
}

/// Gets an epoch for a pod: whatever a process of it left open is aborted when this returns.
pub(crate) async fn fence(world: &World, pod: u16) -> Result<Transactional, Ended> {
    let id = names::transactional_id(UID, pod);
    let mut connection = world.connect();
    loop {
        let (transactional_id, timeout_ms) = (id.clone(), TRANSACTION_TIMEOUT_MS);
        let request = Request::InitProducerId { transactional_id, timeout_ms };
        match world.call(connection, CALL_TIMEOUT_MS, request).await {
            Ok(Answer::Producer(producer)) => return Ok(Transactional { id, producer }),
            Ok(other) => unreachable!("{other:?}"),
            Err(CallError::Refused(ErrorCode::ConcurrentTransactions)) => world.sleep(AGAIN_US).await,
            Err(CallError::Disconnected) => connection = world.connect(),
            Err(CallError::Refused(_)) => return Err(Ended::Failed),
        }
    }
}

impl Log {
    /// Fences the processes before this one of the pod.
    pub(crate) async fn open(world: &World, pod: u16, number: u64, mutant: Option<Mutant>) -> Result<Self, Ended> {
        let by = fence(world, pod).await?;
        let connection = world.connect();
        Ok(Self { world: world.clone(), connection, by, number, sequences: HashMap::new(), mutant })
    }

    /// Asks; while the broker says "come again", comes again.
    async fn ask(&mut self, request: Request) -> Result<Answer, CallError> {
        loop {
            match self.world.call(self.connection, CALL_TIMEOUT_MS, request.clone()).await {
                Err(CallError::Refused(ErrorCode::ConcurrentTransactions)) => self.world.sleep(AGAIN_US).await,
                other => return other,
            }
        }
    }

    /// One transaction. Says where the changes of each shard stand.
    pub(crate) async fn commit(&mut self, commit: Commit) -> Result<AppliedOffsets, Ended> {
        let by = self.by.clone();
        let group = names::consumer_group(UID);
        if self.mutant == Some(Mutant::OffsetsFirst) {
            self.ask(Request::OffsetCommit { group: group.clone(), offsets: commit.offsets.clone() }).await?;
        }
        let changed = commit.changes.iter().map(|(shard, _)| changelog_place(*shard));
        let partitions: Vec<Place> = commit.outputs.iter().map(|(place, _)| place.clone()).chain(changed).collect();
        let one = self.world.protocol() == Protocol::One;
        if one && !partitions.is_empty() {
            self.ask(Request::AddPartitionsToTxn { by: by.clone(), partitions }).await?;
        }
        for (place, records) in commit.outputs {
            self.produce(place, records).await?;
        }
        let mut applied = AppliedOffsets::new();
        for (shard, changes) in &commit.changes {
            let values = changelog::encode(JOB, *shard, commit.id.0, changes, RECORD);
            let count = values.len() as i64;
            let headers = vec![(WRITER.to_owned(), self.number.to_le_bytes().to_vec())];
            let record = |value| Record { value: Some(value), headers: headers.clone(), ..Record::default() };
            let first = self.produce(changelog_place(*shard), values.into_iter().map(record).collect()).await?;
            applied.push((*shard, LogOffset(first + count - 1)));
        }
        if self.mutant != Some(Mutant::OffsetsFirst) && !commit.offsets.is_empty() {
            if one {
                self.ask(Request::AddOffsetsToTxn { by: by.clone(), group: group.clone() }).await?;
            }
            self.ask(Request::TxnOffsetCommit { by: by.clone(), group, offsets: commit.offsets }).await?;
        }
        self.end(by).await?;
        Ok(applied)
    }

    async fn end(&mut self, by: Transactional) -> Result<(), Ended> {
        loop {
            let request = Request::EndTxn { by: by.clone(), commit: true };
            match self.world.call(self.connection, CALL_TIMEOUT_MS, request).await {
                Ok(Answer::Producer(next)) => {
                    // Protocol 2: each transaction has an epoch, and its sequence numbers begin anew.
                    self.by.producer = next;
                    self.sequences.clear();
                    return Ok(());
                }
                Ok(_) => return Ok(()),
                Err(CallError::Disconnected) if self.mutant == Some(Mutant::CommitAskedAgain) => {
                    self.connection = self.world.connect();
                }
                Err(CallError::Refused(ErrorCode::ConcurrentTransactions))
                    if self.mutant == Some(Mutant::CommitAskedAgain) =>
                {
                    self.world.sleep(AGAIN_US).await;
                }
                Err(CallError::Disconnected) => return Err(Ended::Unknown),
                Err(refused) => return Err(refused.into()),
            }
        }
    }

    async fn produce(&mut self, to: Place, records: Vec<Record>) -> Result<i64, Ended> {
        let sequence = self.sequences.get(&to).copied().unwrap_or(0);
        self.sequences.insert(to.clone(), sequence + records.len() as i32);
        loop {
            let (by, to, records) = (Some(self.by.clone()), to.clone(), records.clone());
            match self.ask(Request::Produce { by, to, sequence, records }).await {
                Ok(Answer::Appended(offset)) => return Ok(offset),
                Ok(other) => unreachable!("{other:?}"),
                Err(CallError::Disconnected) => self.connection = self.world.connect(),
                Err(refused) => return Err(refused.into()),
            }
        }
    }
}
