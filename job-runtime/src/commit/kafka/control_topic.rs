//! The job's control topic for orders, for what pods say of savepoints, and for who follows shards that other pods still have.
//!
//! Owns its connections: they last as long as a savepoint is under way, because sources stand still for what each step takes.

use std::collections::BTreeMap;

use checkpoint::ownership::record::ControlRecord;
use checkpoint::proposal::{Next, Proposal};
use checkpoint::savepoint::record::SavepointRecord;
use checkpoint::snapshot::choice::LogBounds;
use checkpoint::{local_log, names};
use dataflow::key::ShardId;
use dataflow::state::ShardStore;

use super::KafkaLogConfig;
use super::control::{Control, changelog_bounds};
use super::recover::{RecoverError, apply_tails, committed_reader, tails};
use crate::crash;
use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::ffi::RawProducer;

/// The job's control topic, for orders and for what pods say of savepoints.
pub struct ControlTopic {
    config: KafkaLogConfig,
    job: u64,
    /// Connected while a savepoint is under way: sources stand still for what each step takes.
    connected: Option<(ConsumerClient, RawProducer)>,
}

impl ControlTopic {
    /// Of a job.
    pub fn new(config: &KafkaLogConfig) -> Self {
        Self { config: config.clone(), job: local_log::job_hash(&config.job_uid), connected: None }
    }

    fn client(&self) -> Result<ConsumerClient, ConnectError> {
        let plain = [("isolation.level", "read_uncommitted"), ("enable.partition.eof", "true")];
        ConsumerClient::new(&self.config.properties, &plain, self.config.deadline)
    }

    fn connect(&mut self) -> Result<(Control<'_>, &RawProducer), RecoverError> {
        if self.connected.is_none() {
            let client = self.client()?;
            let producer = Control { config: &self.config, job: self.job, client: &client }.producer()?;
            self.connected = Some((client, producer));
        }
        let (client, producer) = self.connected.as_ref().expect("it was connected above");
        Ok((Control { config: &self.config, job: self.job, client }, producer))
    }

    /// Gives the connections up until they are needed again.
    pub fn disconnect(&mut self) {
        self.connected = None;
    }

    /// Appends a record.
    ///
    /// # Errors
    /// When Kafka does not take it; it may be there nevertheless.
    pub fn say(&mut self, record: SavepointRecord) -> Result<(), RecoverError> {
        let (control, producer) = self.connect()?;
        control.append_by(producer, &ControlRecord::Savepoint(record))
    }

    /// Proposes the next assignment, for so many pods, unless that is done. True if it is in force.
    ///
    /// More pods than shards are shared among as many as there are shards.
    ///
    /// # Errors
    /// When Kafka does not answer; or [`RecoverError::BoundSource`].
    pub fn propose(&self, pods: u16) -> Result<bool, RecoverError> {
        let pods = pods.min(self.config.shards.count());
        let client = self.client()?;
        let control = Control { config: &self.config, job: self.job, client: &client };
        let log = control.read()?;
        let Some(current) = log.view.in_force() else { return Ok(false) };
        let (in_force, by) = (current.pods.len() == usize::from(pods), self.config.ordinal);
        let next = Next { number: current.number + 1, pods };
        match &log.proposed {
            None if in_force => return Ok(true),
            // By another pod: it may be the one that has gone.
            Some(proposed) if proposed.next() == next && proposed.by() == by => return Ok(false),
            Some(_) | None => {}
        }
        if let Some(table) = &self.config.bound_source {
            return Err(RecoverError::BoundSource { table: table.clone() });
        }
        control.append_as(crash::Step::Propose, &ControlRecord::Proposal(Proposal { next, by }))?;
        Ok(in_force)
    }

    /// What the changelog holds of these shards now.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn bounds(&self, shards: &[ShardId]) -> Result<Vec<(ShardId, LogBounds)>, ConnectError> {
        changelog_bounds(&self.client()?, &self.config.job_uid, shards)
    }

    /// Brings the stores of shards that other pods have up to what is committed of them by now.
    ///
    /// # Errors
    /// When Kafka does not answer, or a store fails, or its next record is gone.
    pub fn follow<S: ShardStore>(&self, stores: &mut [S]) -> Result<u64, RecoverError> {
        let committed = committed_reader(&self.config)?;
        let topic = names::changelog_topic(&self.config.job_uid);
        let partitions: Vec<i32> = stores.iter().map(|store| i32::from(store.shard().0)).collect();
        let lows = self.client()?.all_watermarks(&topic, &partitions)?;
        let ends = committed.ends(&topic, &partitions)?;
        let edges: Vec<_> = lows.into_iter().zip(ends).map(|((low, _), end)| (low, end)).collect();
        let tails = tails(&topic, stores, &edges)?;
        apply_tails(&committed, self.job, &topic, &tails, stores)
    }

    /// Ends the job's input for all pods, and for those that start later.
    ///
    /// # Errors
    /// When Kafka does not take it; it may be there nevertheless.
    pub fn drain(&self) -> Result<(), RecoverError> {
        let client = self.client()?;
        Control { config: &self.config, job: self.job, client: &client }.append(&ControlRecord::Drain)
    }

    /// The ends of partitions of internal topics now, whatever of it is committed.
    ///
    /// # Errors
    /// When Kafka does not answer.
    pub fn ends(&mut self, of: &[(String, Vec<i32>)]) -> Result<BTreeMap<(String, i32), i64>, RecoverError> {
        let ((control, _), mut out) = (self.connect()?, BTreeMap::new());
        for (topic, partitions) in of {
            let ends = control.client.ends(topic, partitions)?;
            out.extend(partitions.iter().zip(ends).map(|(partition, end)| ((topic.clone(), *partition), end)));
        }
        Ok(out)
    }
}
