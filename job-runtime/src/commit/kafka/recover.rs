//! Step 2 of a start: internal topics, the control topic, and the changelog's tail into the stores.
//!
//! Owns the order of these, and what fits together. Everything here runs after the fence: no earlier process of this pod can write any more, so
//! what is read to its end is the truth. It does not read a topic itself (`tail`), nor make one (`topics`).

use std::time::{Duration, Instant};

use checkpoint::assignment::Assignment;
use checkpoint::changelog::{self, ChangelogError};
use checkpoint::ownership::record::ControlError;
use checkpoint::snapshot::choice::LogBounds;
use checkpoint::{local_log, names};
use dataflow::graph::OperatorUid;
use dataflow::key::ShardId;
use dataflow::state::{LogOffset, ShardStore, StateError};

use super::control::{Control, Prepare, changelog_bounds};
use super::member::Membership;
use super::tail::{Tail, read_tails};
use super::{KafkaCommitLog, KafkaLogConfig, topics};
use crate::commit::CommitError;
use crate::crash::{self, Step};
use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::producer::TransactionalProducer;
use crate::planted::{self, Bug};

/// A job cannot go on from its log.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    /// Kafka cannot be used.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A store failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// An internal topic does not fit the job.
    #[error(
        "topic {topic} has {found} partitions, the job needs {expected} (spec.shards cannot be changed on existing state); write spec.shards: {found}"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// As it is.
        found: i32,
        /// As it should be.
        expected: i32,
    },
    /// A record of the control topic cannot be read.
    #[error("topic {topic}, offset {offset}: {source}")]
    Control {
        /// The topic.
        topic: String,
        /// The record.
        offset: i64,
        /// What is wrong.
        source: ControlError,
    },
    /// It cannot be shown that no other process has the pod.
    #[error(transparent)]
    Unproved(#[from] CommitError),
    /// Asked to stop while it waited for other pods; nothing was begun.
    #[error("asked to stop while waiting for other pods")]
    Stopped,
    /// The pod is not an owner.
    #[error(
        "pod {ordinal} is not in assignment {number} of the job ({pods} pods, {shards} shards); this process must not work on it"
    )]
    NotAssigned {
        /// The pod.
        ordinal: u16,
        /// The assignment in force.
        number: u64,
        /// Its pods.
        pods: usize,
        /// Its shards.
        shards: u16,
    },
    /// The job's work has ended with a savepoint: nothing was begun.
    #[error(
        "the job's work has ended with savepoint {name}; another job may go on from it. To go on with this one, change spec.replicas"
    )]
    Ended {
        /// The savepoint.
        name: String,
    },
    /// The number of pods cannot change.
    #[error(
        "the number of pods cannot change for this job: the position of source {table}, which is no topic on the sinks' Kafka cluster, is state of one pod; write the number of pods that there was"
    )]
    BoundSource {
        /// The source.
        table: String,
    },
    /// No assignment was made yet, and this pod is not the one to make it.
    #[error("the job has no assignment yet, and pod 0, which makes the first one, did not within {seconds} s")]
    NoAssignment {
        /// How long was waited.
        seconds: u64,
    },
    /// A record of the changelog cannot be read.
    #[error("topic {topic}, partition {partition}, offset {offset}: {source}; the state cannot be rebuilt from here")]
    Changelog {
        /// The topic.
        topic: String,
        /// The partition (= shard).
        partition: u16,
        /// The record.
        offset: i64,
        /// What is wrong.
        source: ChangelogError,
    },
    /// The changelog begins after, or ends before, what the local state has.
    #[error(
        "shard {}: the local state stands at offset {applied}, and topic {topic} holds offsets {low} to {high}; {advice}", shard.0
    )]
    Gap {
        /// The shard.
        shard: ShardId,
        /// The changelog.
        topic: String,
        /// The local state; -1 if there is none.
        applied: i64,
        /// First offset of the partition.
        low: i64,
        /// Its end.
        high: i64,
        /// What to do.
        advice: &'static str,
    },
    /// Somebody else has an open transaction on the changelog.
    #[error(
        "topic {topic}, partition {partition}: another producer has an open transaction since offset {stable}; find and stop it"
    )]
    Unfenced {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u16,
        /// The last stable offset.
        stable: i64,
    },
    /// Reading stopped.
    #[error("topic {topic}, partition {partition}: cannot read on: {reason}")]
    Read {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// Why.
        reason: String,
    },
}

/// A pod that has fenced its earlier self and has not yet read the log.
pub struct Fenced {
    config: KafkaLogConfig,
    job: u64,
    producer: TransactionalProducer,
    group_reader: ConsumerClient,
}

impl Fenced {
    pub(super) fn new(config: KafkaLogConfig, producer: TransactionalProducer, group_reader: ConsumerClient) -> Self {
        let job = local_log::job_hash(&config.job_uid);
        Self { config, job, producer, group_reader }
    }

    /// Step 2 of a start: the internal topics, and what the pod owns. Who has nothing yet waits, and brings by `prepare` what it is to get.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn assigned(mut self, prepare: &mut dyn Prepare) -> Result<Assigned, RecoverError> {
        // Reads everything, also what is not committed: the control topic is plain, and its view of an end is the high watermark.
        let plain = self.client(&[("isolation.level", "read_uncommitted"), ("enable.partition.eof", "true")])?;
        let (uid, shards) = (&self.config.job_uid, i32::from(self.config.shards.count()));
        let wanted = [(names::control_topic(uid), 1), (names::changelog_topic(uid), shards)];
        topics::ensure(&self.config, &plain, &wanted, &[])?;
        let control = Control { config: &self.config, job: self.job, client: &plain };
        let membership = control.join(&mut self.producer, prepare)?;
        if let Some(name) = membership.board.stopped().filter(|_| self.config.stays_ended) {
            return Err(RecoverError::Ended { name: name.to_owned() });
        }
        let assignment = membership.view.in_force().cloned().ok_or(RecoverError::NoAssignment { seconds: 0 })?;
        // Also for a pod that is alone now: what others have sent it is still there.
        if assignment.pods.len() > 1 || assignment.number > 1 {
            let topic = |exchange: &OperatorUid| (names::shuffle_topic(uid, *exchange), shards);
            let shuffles: Vec<_> = self.config.exchanges.iter().map(topic).collect();
            topics::ensure(&self.config, &plain, &shuffles, topics::SHUFFLE)?;
        }
        let (number, pods) = (assignment.number, assignment.pods.len());
        tracing::info!(assignment = number, pods, "the pod is an owner");
        Ok(Assigned { fenced: self, plain, assignment, membership })
    }

    fn client(&self, own: &[(&str, &str)]) -> Result<ConsumerClient, ConnectError> {
        ConsumerClient::new(&self.config.properties, own, self.config.deadline)
    }

    /// Applies what the changelog has and the stores do not. Returns the number of records.
    fn changelog_tail<S: ShardStore>(&self, plain: &ConsumerClient, stores: &mut [S]) -> Result<u64, RecoverError> {
        let topic = names::changelog_topic(&self.config.job_uid);
        let committed = committed_reader(&self.config)?;
        let partitions: Vec<i32> = stores.iter().map(|store| i32::from(store.shard().0)).collect();
        let edges = plain.all_watermarks(&topic, &partitions)?;
        self.await_stable(&committed, &topic, &partitions, &edges)?;
        let tails = tails(&topic, stores, &edges)?;
        apply_tails(&committed, self.job, &topic, &tails, stores)
    }

    /// After the fence nothing is open: the last stable offset is the high watermark, a moment later at most.
    fn await_stable(
        &self,
        committed: &ConsumerClient,
        topic: &str,
        partitions: &[i32],
        edges: &[(i64, i64)],
    ) -> Result<(), RecoverError> {
        let deadline = Instant::now() + self.config.deadline;
        loop {
            let stable = committed.ends(topic, partitions)?;
            let open = partitions.iter().zip(edges).zip(&stable).find(|((_, (_, high)), stable)| *stable < high);
            let Some(((partition, _), stable)) = open else { return Ok(()) };
            if Instant::now() >= deadline {
                let (topic, partition) = (topic.to_owned(), *partition as u16);
                return Err(RecoverError::Unfenced { topic, partition, stable: *stable });
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
}

/// Reads what is committed. The end behind the last commit's marker shows only in a fetch that found nothing more: that one does not wait long.
pub(super) fn committed_reader(config: &KafkaLogConfig) -> Result<ConsumerClient, ConnectError> {
    let own = [("isolation.level", "read_committed"), ("enable.partition.eof", "true"), ("fetch.wait.max.ms", "10")];
    ConsumerClient::new(&config.properties, &own, config.deadline)
}

/// The parts of the shards' partitions, which have these edges, that their stores do not have; checks that log and stores fit.
pub(super) fn tails<S: ShardStore>(topic: &str, stores: &[S], edges: &[(i64, i64)]) -> Result<Vec<Tail>, RecoverError> {
    let mut tails = Vec::new();
    for (store, (low, high)) in stores.iter().zip(edges) {
        let from = first_missing(topic, store.shard(), store.applied(), *low, *high)?;
        if from < *high {
            tails.push(Tail { partition: i32::from(store.shard().0), from, end: *high });
        }
    }
    Ok(tails)
}

/// Applies parts of the changelog to their stores. Returns the number of records.
pub(super) fn apply_tails<S: ShardStore>(
    committed: &ConsumerClient,
    job: u64,
    topic: &str,
    tails: &[Tail],
    stores: &mut [S],
) -> Result<u64, RecoverError> {
    let mut records = 0;
    read_tails(committed, topic, tails, &mut |partition, offset, value| {
        let shard = ShardId(partition as u16);
        let decoded = changelog::decode(job, shard, value.unwrap_or_default());
        let changes = decoded.map_err(|source| RecoverError::Changelog {
            topic: topic.to_owned(),
            partition: shard.0,
            offset,
            source,
        })?;
        let store =
            stores.iter_mut().find(|store| store.shard() == shard).expect("a tail is read for each of the stores");
        store.apply(&changes, LogOffset(offset))?;
        records += 1;
        Ok(())
    })?;
    Ok(records)
}

/// The first offset of a shard's partition (`low` to `high`) that its store lacks.
fn first_missing(
    topic: &str,
    shard: ShardId,
    applied: Option<LogOffset>,
    low: i64,
    high: i64,
) -> Result<i64, RecoverError> {
    let gap = |applied: i64, advice| RecoverError::Gap { shard, topic: topic.to_owned(), applied, low, high, advice };
    match applied {
        None if low > 0 => Err(gap(-1, "the beginning was deleted and there is no snapshot: the state is lost")),
        None => Ok(0),
        Some(applied) if applied.0 >= high => {
            Err(gap(applied.0, "the topic was made anew or is another one; drop the local state with --fresh"))
        }
        Some(applied) if low > applied.0 + 1 => Err(gap(applied.0, "what lies between was deleted: the state is lost")),
        Some(_) if planted::is(Bug::TailSkipped) => Ok(high),
        Some(applied) => Ok(applied.0 + 1),
    }
}

/// A pod that knows what it owns and has not yet read the changelog.
pub struct Assigned {
    fenced: Fenced,
    plain: ConsumerClient,
    assignment: Assignment,
    membership: Membership,
}

impl Assigned {
    /// What the changelog holds of these shards.
    ///
    /// # Errors
    /// When Kafka cannot be used.
    pub fn bounds(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, LogBounds)>, RecoverError> {
        Ok(changelog_bounds(&self.plain, &self.fenced.config.job_uid, shards)?)
    }

    /// The savepoint that the job began from.
    pub fn origin(&self) -> Option<&str> {
        self.membership.origin.as_deref()
    }

    /// The assignment in force: the pod has a share of it.
    pub fn assignment(&self) -> &Assignment {
        &self.assignment
    }

    /// Brings `stores` (the pod's shards) up to the end of the changelog.
    ///
    /// # Errors
    /// See [`RecoverError`].
    pub fn recover<S: ShardStore>(mut self, stores: &mut [S]) -> Result<KafkaCommitLog, RecoverError> {
        let start = Instant::now();
        let records = crash::around(Step::Restore, || self.fenced.changelog_tail(&self.plain, stores))?;
        tracing::info!(records, ms = start.elapsed().as_millis() as u64, "state is at the end of the changelog");
        stores.iter().for_each(|store| self.membership.process.restored(store.shard().0));
        let Fenced { config, producer, group_reader, .. } = self.fenced;
        Ok(KafkaCommitLog::new(config, producer, group_reader, self.membership))
    }
}
