//! A Kafka client of the tests' own: topics, records in, and an independent `read_committed` reader of what came out. It shares no code
//! with the runtime.

use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};

const TIMEOUT: Duration = Duration::from_secs(30);

/// The brokers as this process reaches them.
///
/// # Errors
/// When the environment does not say.
pub fn bootstrap() -> anyhow::Result<String> {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS")
        .context("KAFKA_BOOTSTRAP_SERVERS is not set: use `make e2e`, or `eval \"$(e2e/lab/env)\"`")
}

/// The brokers as pods reach them.
///
/// # Errors
/// When the environment does not say.
pub fn bootstrap_of_pods() -> anyhow::Result<String> {
    std::env::var("KAFKA_BOOTSTRAP_SERVERS_PODS").or_else(|_| bootstrap())
}

fn config() -> anyhow::Result<ClientConfig> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap()?);
    Ok(config)
}

fn admin() -> anyhow::Result<AdminClient<DefaultClientContext>> {
    Ok(config()?.create()?)
}

/// Creates topics with so many partitions each.
///
/// # Errors
/// When the broker refuses.
pub async fn create_topics(topics: &[(&str, i32)]) -> anyhow::Result<()> {
    let new: Vec<NewTopic> =
        topics.iter().map(|(name, partitions)| NewTopic::new(name, *partitions, TopicReplication::Fixed(1))).collect();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    for result in admin()?.create_topics(&new, &options).await? {
        result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
    }
    Ok(())
}

/// Deletes every topic whose name contains `part`; answers with their names.
///
/// # Errors
/// When the broker refuses.
pub async fn delete_topics(part: &str) -> anyhow::Result<Vec<String>> {
    let admin = admin()?;
    let metadata = admin.inner().fetch_metadata(None, TIMEOUT)?;
    let names: Vec<String> =
        metadata.topics().iter().map(|t| t.name().to_owned()).filter(|name| name.contains(part)).collect();
    if names.is_empty() {
        return Ok(names);
    }
    let slices: Vec<&str> = names.iter().map(String::as_str).collect();
    for result in admin.delete_topics(&slices, &AdminOptions::new()).await? {
        result.map_err(|(topic, code)| anyhow!("topic {topic}: {code}"))?;
    }
    Ok(names)
}

/// How far all partitions of the topics whose names begin with `prefix` go, together.
///
/// # Errors
/// When the broker does not say.
pub fn ends_of(prefix: &str) -> anyhow::Result<i64> {
    let consumer: BaseConsumer = config()?.create()?;
    let metadata = consumer.fetch_metadata(None, TIMEOUT)?;
    let mut sum = 0;
    for topic in metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix)) {
        for partition in topic.partitions() {
            sum += consumer.fetch_watermarks(topic.name(), partition.id(), TIMEOUT)?.1;
        }
    }
    Ok(sum)
}

/// How many records of a topic a consumer group has not committed.
///
/// # Errors
/// When the broker does not say.
pub fn behind(group: &str, topic: &str) -> anyhow::Result<i64> {
    let consumer: BaseConsumer = config()?.set("group.id", group).create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let mut list = TopicPartitionList::new();
    for partition in metadata.topics().first().context("no topic in the answer")?.partitions() {
        list.add_partition(topic, partition.id());
    }
    let mut sum = 0;
    for element in consumer.committed_offsets(list, TIMEOUT)?.elements() {
        let (low, high) = consumer.fetch_watermarks(topic, element.partition(), TIMEOUT)?;
        sum += match element.offset() {
            Offset::Offset(offset) => high - offset,
            _ => high - low,
        };
    }
    Ok(sum)
}

/// Writes records, each into its partition, in order.
///
/// # Errors
/// When the broker does not take them.
pub fn produce(topic: &str, records: impl IntoIterator<Item = (i32, String)>) -> anyhow::Result<()> {
    let producer: BaseProducer = config()?.set("enable.idempotence", "true").set("linger.ms", "5").create()?;
    for (partition, text) in records {
        let mut record = BaseRecord::<(), str>::to(topic).partition(partition).payload(&text);
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    producer.poll(Duration::from_millis(20));
                    record = back;
                }
                Err((error, _)) => bail!("produce to {topic}: {error}"),
            }
        }
        producer.poll(Duration::ZERO);
    }
    producer.flush(TIMEOUT).with_context(|| format!("produce to {topic}"))
}

/// Reads one topic from its beginning, only what is committed.
pub struct Reader {
    consumer: BaseConsumer,
    topic: String,
    /// Values so far.
    pub records: Vec<Vec<u8>>,
}

impl Reader {
    /// A reader of all partitions.
    ///
    /// # Errors
    /// When the broker or the topic is not there.
    pub fn new(topic: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = config()?
            .set("group.id", format!("reader-of-{topic}"))
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "false")
            .create()?;
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        let partitions = metadata.topics().first().context("no topic in the answer")?.partitions();
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition_offset(topic, partition.id(), Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        Ok(Self { consumer, topic: topic.to_owned(), records: Vec::new() })
    }

    /// Reads on until `enough` says so.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub fn until(
        &mut self,
        what: &str,
        deadline: Duration,
        mut enough: impl FnMut(&[Vec<u8>]) -> bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + deadline;
        loop {
            if enough(&self.records) {
                return Ok(());
            }
            if Instant::now() > end {
                bail!(
                    "{} s passed and not yet {what}: {} records of {}",
                    deadline.as_secs(),
                    self.records.len(),
                    self.topic
                );
            }
            self.poll()?;
        }
    }

    /// Reads what is there now, up to the last stable offset that the brokers tell.
    ///
    /// # Errors
    /// When it cannot be read in time.
    pub fn to_end(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + TIMEOUT;
        let assigned = self.consumer.assignment()?;
        for element in assigned.elements() {
            let (_, high) = self.consumer.fetch_watermarks(element.topic(), element.partition(), TIMEOUT)?;
            loop {
                let position = self.consumer.position()?;
                let at = position.find_partition(element.topic(), element.partition()).map(|e| e.offset());
                match at {
                    Some(Offset::Offset(offset)) if offset >= high => break,
                    _ if high == 0 => break,
                    _ if Instant::now() > end => {
                        bail!(
                            "{}: partition {} is not readable to its end {high}: {at:?}",
                            self.topic,
                            element.partition()
                        )
                    }
                    _ => self.poll()?,
                }
            }
        }
        Ok(())
    }

    fn poll(&mut self) -> anyhow::Result<()> {
        if let Some(message) = self.consumer.poll(Duration::from_millis(100)) {
            self.records.push(message?.payload().unwrap_or_default().to_vec());
        }
        Ok(())
    }
}
