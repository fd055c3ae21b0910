//! Removing records of the changelog that every snapshot kept is ahead of.
//!
//! Owns the call. How far it may go is decided in `checkpoint::snapshot::retention`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::time::Duration;

use checkpoint::names;
use dataflow::key::ShardId;
use dataflow::state::LogOffset;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::topic_partition_list::Offset;

use super::KafkaLogConfig;
use crate::kafka::properties::KafkaProperties;

/// Removes records of one job's changelog.
#[derive(Debug)]
pub struct ChangelogTrim {
    properties: KafkaProperties,
    topic: String,
    deadline: Duration,
    /// How far each shard is trimmed by this process.
    done: Mutex<HashMap<ShardId, LogOffset>>,
}

impl ChangelogTrim {
    pub(super) fn new(config: &KafkaLogConfig) -> Self {
        let topic = names::changelog_topic(&config.job_uid);
        Self { properties: config.properties.clone(), topic, deadline: config.deadline, done: Mutex::default() }
    }

    /// Removes the records up to and including these offsets.
    ///
    /// # Errors
    /// What Kafka said, with what to do. Nothing is lost by it: the changelog stays longer.
    pub fn trim(&self, offsets: &BTreeMap<ShardId, LogOffset>) -> Result<(), String> {
        let mut done = self.done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let new: Vec<_> = offsets.iter().filter(|(shard, offset)| done.get(shard) != Some(offset)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let failed = |reason: String| {
            format!(
                "Kafka at {}: cannot remove old records of topic {}: {reason}; grant this user Delete on the topic (the changelog grows until then)",
                self.properties.bootstrap_servers(),
                self.topic
            )
        };
        let mut list = TopicPartitionList::new();
        for (shard, offset) in &new {
            let added = list.add_partition_offset(&self.topic, i32::from(shard.0), Offset::Offset(offset.0 + 1));
            added.map_err(|e| failed(e.to_string()))?;
        }
        let mut config = ClientConfig::new();
        for (key, value) in self.properties.consumer() {
            config.set(key, value);
        }
        let admin: AdminClient<DefaultClientContext> = config.create().map_err(|e| failed(e.to_string()))?;
        let options = AdminOptions::new().operation_timeout(Some(self.deadline)).request_timeout(Some(self.deadline));
        let answer = futures::executor::block_on(admin.delete_records(&list, &options));
        for element in answer.map_err(|e| failed(e.to_string()))?.elements() {
            element.error().map_err(|e| failed(format!("partition {}: {e}", element.partition())))?;
        }
        done.extend(new.into_iter().map(|(shard, offset)| (*shard, *offset)));
        Ok(())
    }
}
