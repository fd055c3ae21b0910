//! The job's internal topics: looked at, and made where they are missing.
//!
//! Owns their settings and the calls. Which topics there must be, with how many partitions, is said by whoever calls.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode as Code;

use super::recover::RecoverError;
use super::{KafkaLogConfig, no_answer};
use crate::crash::{self, Step};
use crate::kafka::client::{ConnectError, ConsumerClient};

/// Settings of shuffle topics: segments are short, so that what is trimmed leaves the disk soon.
pub(super) const SHUFFLE: &[(&str, &str)] = &[("segment.bytes", "67108864")];

/// Checks topics, and makes those that are missing. Pods may do so at the same time.
pub(super) fn ensure(
    config: &KafkaLogConfig,
    client: &ConsumerClient,
    wanted: &[(String, i32)],
    settings: &[(&str, &str)],
) -> Result<(), RecoverError> {
    let mut missing = Vec::new();
    for (topic, expected) in wanted {
        match client.partitions(topic) {
            Ok(found) if found == *expected => {}
            Ok(found) => {
                return Err(RecoverError::Partitions { topic: topic.clone(), found, expected: *expected });
            }
            Err(ConnectError::NoTopic { .. }) => missing.push((topic.clone(), *expected)),
            Err(error) => return Err(error.into()),
        }
    }
    if !missing.is_empty() {
        let made = crash::asked(Step::Topics, || create(config, client, &missing, settings));
        made.ok_or_else(|| no_answer(config))??;
    }
    Ok(())
}

fn create(
    log: &KafkaLogConfig,
    client: &ConsumerClient,
    missing: &[(String, i32)],
    settings: &[(&str, &str)],
) -> Result<(), RecoverError> {
    let servers = log.properties.bootstrap_servers();
    let failed = |topic: &str, code: Code, reason: String| {
        RecoverError::Connect(ConnectError::new(servers, topic, code, &reason, log.deadline, None))
    };
    let mut config = ClientConfig::new();
    for (key, value) in log.properties.consumer() {
        config.set(key, value);
    }
    let made: Result<AdminClient<DefaultClientContext>, _> = config.create();
    let admin = made.map_err(|e| failed("making a client", Code::Fail, e.to_string()))?;
    let replication = log.replication.map_or(-1, i32::from);
    // Kept for ever: the changelog is the state until a snapshot is known to hold it, and rows for other pods until they are read.
    let kept = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];
    let mut new = Vec::new();
    for (name, partitions) in missing {
        let topic = NewTopic::new(name, *partitions, TopicReplication::Fixed(replication));
        new.push(kept.iter().chain(settings).fold(topic, |topic, (key, value)| topic.set(key, value)));
    }
    let options = AdminOptions::new().operation_timeout(Some(log.deadline)).request_timeout(Some(log.deadline));
    let results = futures::executor::block_on(admin.create_topics(&new, &options));
    for result in
        results.map_err(|e| failed("creating topics", e.rdkafka_error_code().unwrap_or(Code::Fail), e.to_string()))?
    {
        match result {
            Ok(_) | Err((_, Code::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(failed(&topic, code, format!("cannot be created: {code}"))),
        }
    }
    await_all(log, client, missing)
}

/// A created topic is known to every broker a moment later.
fn await_all(log: &KafkaLogConfig, client: &ConsumerClient, topics: &[(String, i32)]) -> Result<(), RecoverError> {
    let deadline = Instant::now() + log.deadline;
    for (topic, expected) in topics {
        loop {
            match client.partitions(topic) {
                Ok(found) if found == *expected => break,
                Ok(_) | Err(ConnectError::NoTopic { .. }) if Instant::now() < deadline => {
                    std::thread::park_timeout(Duration::from_millis(20));
                }
                Ok(found) => {
                    return Err(RecoverError::Partitions { topic: topic.clone(), found, expected: *expected });
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}
