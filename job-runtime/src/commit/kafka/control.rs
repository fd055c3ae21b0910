//! The job's control topic at work: joining an assignment, releasing what a killed process of the pod lost, settling those who owned a pod's
//! shards before, releasing what an assignment takes away at the end of a process. Who watches for what comes next is `watch`; orders and the words
//! of savepoints are `control_topic`'s.
//!
//! Owns the calls and their deadlines. What must be done next is `checkpoint::ownership`'s.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use checkpoint::assignment::Assignment;
use checkpoint::control::ControlLog;
use checkpoint::names;
use checkpoint::ownership::record::ControlRecord;
use checkpoint::ownership::{Process, Step};
use checkpoint::proposal::{Next, Proposal, Ready};
use checkpoint::savepoint::Board;
use checkpoint::snapshot::choice::LogBounds;
use dataflow::key::ShardId;

use super::member::{Member, Membership};
use super::proof::prove;
use super::recover::RecoverError;
use super::tail::{Tail, read_tails};
use super::{ControlTopic, KafkaCommitLog, KafkaLogConfig, no_answer};
use crate::commit::CommitError;
use crate::crash;
use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::fence;
use crate::kafka::ffi::{ClientError, RawProducer};
use crate::kafka::producer::{TRANSACTION_TIMEOUT_MS, TransactionalProducer};
use crate::planted::{self, Bug};

/// A pod without a share waits so many times as long as for Kafka: for pod 0's assignment, which makes none before it starts or, when the
/// job is scaled, before the kubelet has brought it the new number: a minute and a half later at the latest.
const SHARE: u32 = 18;
/// Earlier owners have this long to release what they lost; then they are fenced.
pub(crate) const SETTLE: Duration = Duration::from_secs(5);
/// How often a pod that waits looks at the control topic.
const WAITING: Duration = Duration::from_millis(50);

/// Brings the files of shards that a pod is to gain to where its start looks for them.
pub trait Prepare {
    /// Begins with these shards, unless it fetches already. `begins_empty`: a shard of which there are no files begins with nothing, and all
    /// that it has is in the changelog.
    fn fetch(&mut self, shards: Vec<ShardId>, begins_empty: bool);

    /// True until what can be fetched is there.
    fn is_fetching(&self) -> bool;
}

/// For a pod that takes all from its start.
impl Prepare for () {
    fn fetch(&mut self, _shards: Vec<ShardId>, _begins_empty: bool) {}

    fn is_fetching(&self) -> bool {
        false
    }
}

/// The control topic, for one pod.
pub(super) struct Control<'a> {
    pub(super) config: &'a KafkaLogConfig,
    pub(super) job: u64,
    /// Reads everything, also what is not committed: the topic's records are plain.
    pub(super) client: &'a ConsumerClient,
}

impl Control<'_> {
    /// Finds the pod's share, after `init_transactions`, releases what earlier processes of the pod lost, and settles all who owned its share
    /// before.
    pub(super) fn join(
        &self,
        producer: &mut TransactionalProducer,
        prepare: &mut dyn Prepare,
    ) -> Result<Membership, RecoverError> {
        let mut process = Process::new(self.config.ordinal);
        process.initialised();
        let mut log = self.read()?;
        log.view = planted::remembered(log.view);
        process.caught_up();
        if self.config.ordinal == 0 && log.view.in_force().is_none() {
            // Before the first assignment: no pod may begin with nothing when there is something to begin with.
            let origin = self.config.origin.clone().filter(|_| log.origin.is_none()).map(ControlRecord::Origin);
            let first = Assignment::first(self.config.shards.count(), self.config.pods);
            for record in origin.into_iter().chain([ControlRecord::Assignment(first)]) {
                self.append_as(crash::Step::Assign, &record)?;
            }
            // Read again: of two records with one number the earlier one stands, and that may not be ours.
            log = self.read()?;
        }
        self.settle(&mut process, &mut log, producer, prepare)?;
        if let Some(ignored) = self.config.origin.as_ref().filter(|wanted| log.origin.as_ref() != Some(*wanted)) {
            tracing::warn!(
                savepoint = ignored,
                "the job has state already, and goes on from that; restoreFrom is not used"
            );
        }
        let ControlLog { view, proposed, board, origin, drained } = log;
        Ok(Membership { process, view, is_proposed: proposed.is_some(), board, origin, drained })
    }

    /// What pod 0 proposes when the number of pods has changed: while it works under the last assignment, so that it can release what the next one
    /// takes from itself.
    pub(super) fn proposal(&self, log: &ControlLog) -> Option<Proposal> {
        let current = log.view.in_force()?;
        let pods = self.config.pods;
        let wanted = log.proposed.as_ref().map_or(current.pods.len(), |proposed| usize::from(proposed.next().pods));
        if self.config.ordinal != 0 || usize::from(pods) == wanted {
            return None;
        }
        if let Some(table) = &self.config.bound_source {
            tracing::error!(
                table,
                pods = current.pods.len(),
                "spec.replicas cannot change for this job: the position of a source that is not a topic on the sinks' Kafka cluster \
                 is state of one pod; write the number of pods that there was"
            );
            return None;
        }
        Some(Proposal { next: Next { number: current.number + 1, pods }, by: self.config.ordinal })
    }

    /// Waits for a share. Meanwhile, and before it has any, the pod fetches what is to be its own.
    fn await_share(&self, log: &mut ControlLog, prepare: &mut dyn Prepare) -> Result<(), RecoverError> {
        let wait = self.config.deadline * SHARE;
        let mut deadline = Instant::now() + wait;
        let (mut told, mut preparing) = (false, None);
        loop {
            let view = &log.view;
            let share = view.in_force().and_then(|current| current.share(self.config.ordinal));
            let shards = view.in_force().map(|current| current.shards);
            if share.is_some_and(|share| !share.shards.is_empty()) && shards == Some(self.config.shards.count()) {
                return Ok(());
            }
            if Instant::now() >= deadline || shards.is_some_and(|shards| shards != self.config.shards.count()) {
                return Err(match view.in_force() {
                    None => RecoverError::NoAssignment { seconds: wait.as_secs() },
                    Some(Assignment { number, shards, pods }) => RecoverError::NotAssigned {
                        ordinal: self.config.ordinal,
                        number: *number,
                        pods: pods.len(),
                        shards: *shards,
                    },
                });
            }
            if !std::mem::replace(&mut told, true) {
                tracing::info!(
                    assignment = view.number(),
                    "the pod has no share; waiting for an assignment that has one"
                );
            }
            if self.prepare(log, &mut preparing, prepare) {
                deadline = Instant::now() + wait;
            }
            self.pause()?;
            *log = self.read()?;
        }
    }

    /// Fetches what a proposal gives the pod, and says when it is there. True while it fetches.
    fn prepare(&self, log: &ControlLog, preparing: &mut Option<Next>, prepare: &mut dyn Prepare) -> bool {
        if prepare.is_fetching() {
            return true;
        }
        let Some((proposed, current)) = log.proposed.as_ref().zip(log.view.in_force()) else { return false };
        let (next, wanted) = (proposed.next(), proposed.wanted(current, self.config.ordinal));
        if wanted.is_empty() {
            return false;
        }
        if preparing.replace(next) == Some(next) {
            tracing::info!(assignment = next.number, pods = next.pods, "ready for what is proposed");
            let ready = ControlRecord::Ready(Ready { next, pod: self.config.ordinal });
            if let Err(error) = self.append_as(crash::Step::Ready, &ready) {
                tracing::warn!(%error, "that could not be said; trying again");
            }
        } else {
            tracing::info!(assignment = next.number, pods = next.pods, shards = ?wanted, "fetching what is proposed");
            prepare.fetch(wanted.into_iter().map(ShardId).collect(), log.origin.is_none());
        }
        true
    }

    /// Between two looks; ends the wait when the process is asked to stop.
    fn pause(&self) -> Result<(), RecoverError> {
        std::thread::park_timeout(WAITING);
        if self.config.stop.load(Ordering::Acquire) { Err(RecoverError::Stopped) } else { Ok(()) }
    }

    /// Releases what a process before this one lost and, because it was killed, did not release: or its gainers would fence this one too. Nothing
    /// is restored yet, and no transaction is open. It ends, because an append that Kafka has taken is there when the topic is read again.
    fn release_lost(
        &self,
        process: &mut Process,
        log: &mut ControlLog,
        producer: &mut TransactionalProducer,
    ) -> Result<(), RecoverError> {
        loop {
            let steps = process.steps(&log.view);
            match steps.into_iter().find(|step| matches!(step, Step::Prove | Step::Release(_))) {
                Some(Step::Prove) => {
                    let number = log.view.number();
                    let proved = crash::asked(crash::Step::Prove, || prove(producer, self.config, number));
                    proved.ok_or_else(|| no_answer(self.config))??;
                    process.proven(number);
                }
                Some(Step::Release(release)) => {
                    tracing::info!(assignment = release.number, shards = ?release.shards, "released for an earlier process");
                    self.append_as(crash::Step::Release, &ControlRecord::Release(release))?;
                    *log = self.read()?;
                }
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// Waits for a share, then for the releases of all who may still act on it, and past the deadline fences them.
    fn settle(
        &self,
        process: &mut Process,
        log: &mut ControlLog,
        producer: &mut TransactionalProducer,
        prepare: &mut dyn Prepare,
    ) -> Result<(), RecoverError> {
        let mut begin = None;
        loop {
            // First, for others may be waiting for it; and again, when an assignment that was made meanwhile takes something away.
            self.release_lost(process, log, producer)?;
            self.await_share(log, prepare)?;
            let (mut owners, mut lost) = (Vec::new(), false);
            for step in process.steps(&log.view) {
                match step {
                    Step::Settle { owners: more, .. } => owners.extend(more),
                    Step::Prove | Step::EndTransaction | Step::Release(_) => lost = true,
                    Step::InitTransactions | Step::ReadControlLog | Step::Restore { .. } => {}
                }
            }
            if lost {
                continue;
            }
            owners.sort_unstable();
            owners.dedup();
            if owners.is_empty() || planted::is(Bug::NotSettled) {
                return Ok(());
            }
            let waited = self.config.waited == Some(log.view.number());
            if begin.get_or_insert_with(Instant::now).elapsed() < SETTLE && !waited {
                self.pause()?;
                *log = self.read()?;
                continue;
            }
            for owner in owners {
                let number = log.view.number();
                let fenced = crash::asked(crash::Step::FenceLoser, || self.fence(owner));
                fenced.ok_or_else(|| no_answer(self.config))??;
                process.fenced(owner, number);
                tracing::info!(pod = owner, assignment = number, "fenced a pod that did not release what it lost");
            }
        }
    }

    /// Ends whatever another pod's process has open, for ever.
    fn fence(&self, pod: u16) -> Result<(), ConnectError> {
        let id = names::transactional_id(&self.config.job_uid, pod);
        let properties = &self.config.properties;
        match fence::end_open_transaction(properties, &id, TRANSACTION_TIMEOUT_MS, self.config.deadline) {
            Ok(()) => Ok(()),
            Err(error) => {
                tracing::debug!(%error, "fencing through the client");
                TransactionalProducer::new(properties, &id)?.init(self.config.deadline)
            }
        }
    }

    /// The topic from its start to the end that it has now.
    pub(super) fn read(&self) -> Result<ControlLog, RecoverError> {
        let topic = names::control_topic(&self.config.job_uid);
        let (low, high) = self.client.watermarks(&topic, 0)?;
        let mut log = ControlLog::default();
        let tail = Tail { partition: 0, from: low, end: high };
        read_tails(self.client, &topic, &[tail], &mut |_, offset, value| {
            let decoded = ControlRecord::decode(self.job, value.unwrap_or_default());
            let record = decoded.map_err(|source| RecoverError::Control { topic: topic.clone(), offset, source })?;
            log.append(&record);
            Ok(())
        })?;
        Ok(log)
    }

    /// Appends a plain record: it counts from its place in the topic, not from a transaction's end.
    pub(super) fn append(&self, record: &ControlRecord) -> Result<(), RecoverError> {
        self.append_by(&self.producer()?, record)
    }

    fn failed(&self, error: &ClientError) -> ConnectError {
        let (servers, topic) = (self.config.properties.bootstrap_servers(), names::control_topic(&self.config.job_uid));
        ConnectError::new(servers, &topic, error.code, &error.text, self.config.deadline, None)
    }

    pub(super) fn producer(&self) -> Result<RawProducer, RecoverError> {
        let mut properties = self.config.properties.producer();
        // Not idempotent, which may cost a start half a second: a record that is there twice counts once.
        properties.extend([("acks", "all"), ("enable.idempotence", "false"), ("linger.ms", "0")]);
        Ok(RawProducer::new(&properties).map_err(|error| self.failed(&error))?)
    }

    /// As [`Self::append`], as a step that can be cut.
    pub(super) fn append_as(&self, step: crash::Step, record: &ControlRecord) -> Result<(), RecoverError> {
        crash::asked(step, || self.append(record)).ok_or_else(|| no_answer(self.config))?
    }

    pub(super) fn append_by(&self, producer: &RawProducer, record: &ControlRecord) -> Result<(), RecoverError> {
        let (topic, failed) = (names::control_topic(&self.config.job_uid), |error: ClientError| self.failed(&error));
        let deadline = Instant::now() + self.config.deadline;
        producer.produce(&topic, 0, &record.encode(self.job), 0, deadline).map_err(failed)?;
        producer.flush(self.config.deadline).map_err(failed)?;
        match producer.take_deliveries().failed {
            Some((_, error)) => Err(failed(error).into()),
            None => Ok(()),
        }
    }
}

impl KafkaCommitLog {
    /// Leaves the assignment that the process worked under: releases what the one in force took away. All memory of it must be dropped before.
    /// What fails here costs the gainer a wait, and is otherwise harmless.
    pub(super) fn release(&mut self) -> Result<(), CommitError> {
        let told = |error: RecoverError| CommitError::Fatal { message: error.to_string() };
        let plain = [("isolation.level", "read_uncommitted"), ("enable.partition.eof", "true")];
        let client = ConsumerClient::new(&self.config.properties, &plain, self.config.deadline);
        let client = client.map_err(|error| told(error.into()))?;
        let config = self.config.clone();
        let control = Control { config: &config, job: self.job, client: &client };
        let view = control.read().map_err(told)?.view;
        let number = view.number();
        let member = self.member.clone();
        {
            let mut membership = member.lock();
            membership.view = view;
            membership.process.in_transaction(self.in_transaction);
        }
        loop {
            let steps = {
                let membership = member.lock();
                membership.process.steps(&membership.view)
            };
            let step = steps.into_iter().find(|step| matches!(step, Step::Prove | Step::Release(_)));
            match step {
                Some(Step::Prove) => {
                    crash::asked(crash::Step::Prove, || self.prove(number)).ok_or_else(|| self.unanswered())??;
                    member.lock().process.proven(number);
                }
                Some(Step::Release(release)) => {
                    member.lock().process.let_go(&release.shards);
                    tracing::info!(assignment = release.number, shards = ?release.shards, "released");
                    // It is asked for once: if it is lost, the next process of the pod releases, or the gainer fences.
                    let released = ControlRecord::Release(release);
                    return control.append_as(crash::Step::Release, &released).map_err(told);
                }
                // Nothing is lost, or a transaction is open that this process cannot account for: who gains it will fence us.
                Some(_) | None => return Ok(()),
            }
        }
    }

    /// The assignment that the process joined under, or has taken up since.
    pub fn assignment(&self) -> Option<Assignment> {
        self.member.lock().view.in_force().cloned()
    }

    /// What the process holds.
    pub fn member(&self) -> Member {
        self.member.clone()
    }

    /// Savepoints as they were when the process joined.
    pub fn board(&self) -> Board {
        self.member.lock().board.clone()
    }

    /// True if another assignment was proposed when the process joined.
    pub fn is_proposed(&self) -> bool {
        self.member.lock().is_proposed
    }

    /// True if the job's input had ended when the process joined.
    pub fn is_drained(&self) -> bool {
        self.member.lock().drained
    }

    /// What pods say to each other of savepoints.
    pub fn control_topic(&self) -> ControlTopic {
        ControlTopic::new(&self.config)
    }
}

/// What the changelog holds of these shards.
pub(super) fn changelog_bounds(
    client: &ConsumerClient,
    job_uid: &str,
    shards: &[ShardId],
) -> Result<Vec<(ShardId, LogBounds)>, ConnectError> {
    let topic = names::changelog_topic(job_uid);
    let bounds = |shard: &ShardId| {
        let (low, high) = client.watermarks(&topic, i32::from(shard.0))?;
        Ok((*shard, LogBounds { low, high }))
    };
    shards.iter().map(bounds).collect()
}
