//! A real broker for the tests: topics with names of their own, and an independent read_committed reader.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use job_runtime::commit::kafka::{KafkaCommitLog, KafkaLogConfig};
use job_runtime::kafka::properties::{ClusterDefaults, KafkaProperties};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};

/// The broker's address, or a failure that says how to get one.
pub(crate) fn servers() -> String {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS").expect(
        "KAFKA_BOOTSTRAP_SERVERS is not set: these tests need a real broker. `make test` starts one; by hand: `make lab`, then use the environment that it prints",
    )
}

/// A name that no other test and no earlier run has, and no other thread of this one.
pub(crate) fn unique(name: &str) -> String {
    static NAMES: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    format!("{name}-{nanos}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn properties() -> KafkaProperties {
    KafkaProperties::new(&ClusterDefaults::default(), &[("bootstrap.servers".into(), servers())]).unwrap()
}

pub(crate) fn config(uid: &str, shards: u16) -> KafkaLogConfig {
    KafkaLogConfig {
        properties: properties(),
        job_uid: uid.to_owned(),
        ordinal: 0,
        pods: 1,
        waited: None,
        shards: dataflow::key::Shards::new(shards).unwrap(),
        exchanges: Vec::new(),
        group: None,
        replication: None,
        deadline: Duration::from_secs(10),
        bound_source: None,
        origin: None,
        stays_ended: false,
        stop: std::sync::Arc::default(),
    }
}

pub(crate) fn create_topic(name: &str, partitions: i32) {
    create_topic_at(&servers(), name, partitions, &[]);
}

/// As [`create_topic`], on other brokers, with settings of the topic.
pub(crate) fn create_topic_at(servers: &str, name: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(-1));
    let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
    let created = futures::executor::block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    created.into_iter().for_each(|result| drop(result.unwrap()));
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let metadata = consumer.fetch_metadata(Some(name), Duration::from_secs(5)).unwrap();
        let topic = &metadata.topics()[0];
        if topic.error().is_none() && topic.partitions().iter().all(|p| p.leader() >= 0) {
            return;
        }
        assert!(Instant::now() < deadline, "topic {name} was not made");
    }
}

/// Reads all partitions of a topic as anybody else would: only what is committed.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    pub(crate) values: Vec<String>,
}

impl Reader {
    pub(crate) fn new(topic: &str, partitions: i32) -> Self {
        Self::at(&servers(), topic, partitions)
    }

    /// Of other brokers.
    pub(crate) fn at(servers: &str, topic: &str, partitions: i32) -> Self {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", servers)
            .set("group.id", "independent-reader")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "20")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        (0..partitions).for_each(|p| list.add_partition_offset(topic, p, Offset::Beginning).unwrap());
        consumer.assign(&list).unwrap();
        Self { consumer, values: Vec::new() }
    }

    /// Reads until there are `count` values.
    pub(crate) fn until(&mut self, count: usize) -> &[String] {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.values.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} values after 30 s", self.values.len());
            self.poll(Duration::from_millis(100));
        }
        &self.values
    }

    /// Reads the next value; false if none came in that time.
    pub(crate) fn poll(&mut self, timeout: Duration) -> bool {
        self.try_poll(timeout).unwrap()
    }

    /// As [`Self::poll`], for brokers that may be away: then it is an error, and the next call goes on where this one was.
    pub(crate) fn try_poll(&mut self, timeout: Duration) -> Result<bool, KafkaError> {
        let Some(message) = self.consumer.poll(timeout) else { return Ok(false) };
        let message = message?;
        self.values.push(String::from_utf8_lossy(message.payload().unwrap_or(b"<none>")).into_owned());
        Ok(true)
    }
}

/// Fences, recovers into `stores`, and is ready.
pub(crate) fn start<S: dataflow::state::ShardStore>(config: KafkaLogConfig, stores: &mut [S]) -> KafkaCommitLog {
    KafkaCommitLog::fence(config).unwrap().assigned(&mut ()).unwrap().recover(stores).unwrap()
}
