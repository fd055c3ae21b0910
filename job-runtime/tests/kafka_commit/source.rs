//! The Kafka source against a real broker.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use dataflow::sink::SinkPayload;
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};
use job_runtime::connector::stats::SourceStats;
use job_runtime::connector::testing;
use job_runtime::connector::{ConnectorError, Opening, SinkTarget, SizeHint, SourceFactory, Start};
use rdkafka::config::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use crate::broker::{create_topic, servers, unique};

fn schema() -> SchemaRef {
    testing::schema(&[("id", DataType::Int64), ("name", DataType::Utf8)])
}

fn table(topic: &str, options: &[(&str, &str)]) -> plan::Table {
    let servers = servers();
    let always = [
        ("connector", "kafka"),
        ("topic", topic),
        ("properties.bootstrap.servers", servers.as_str()),
        ("format", "json"),
    ];
    testing::table(&schema(), &always.iter().chain(options).copied().collect::<Vec<_>>())
}

pub(crate) fn factory(topic: &str, options: &[(&str, &str)]) -> Result<Box<dyn SourceFactory>, ConnectorError> {
    testing::source(&table(topic, options), &schema(), Path::new("."))
}

struct Open {
    partition: Box<dyn SourcePartition>,
    woken: Receiver<()>,
    stats: Arc<SourceStats>,
}

fn open(factory: &dyn SourceFactory, topic: &str, number: i32, position: Option<i64>) -> Result<Open, ConnectorError> {
    let (wake, woken) = sync_channel(1);
    let wake = Arc::new(move || wake.try_send(()).unwrap_or_default());
    let position =
        position.map(|next_offset| SourcePosition::Kafka { topic: topic.to_owned(), partition: number, next_offset });
    let stats = Arc::<SourceStats>::default();
    let start = position.map_or(Start::First, Start::At);
    let opening = Opening { start, wake, stats: Arc::clone(&stats) };
    let partition = factory.open(&PartitionId(format!("{topic}-{number}")), opening)?;
    Ok(Open { partition, woken, stats })
}

pub(crate) fn ids(batch: &RecordBatch) -> Vec<i64> {
    let column: &Int64Array = batch.column(0).as_any().downcast_ref().unwrap();
    column.values().to_vec()
}

impl Open {
    /// Reads until `count` rows or the end, waiting only for wake-ups.
    fn rows(&mut self, count: usize) -> Result<Vec<i64>, SourceError> {
        let mut out = Vec::new();
        while out.len() < count {
            match self.partition.poll(1000)? {
                SourcePoll::Batch(batch) => out.extend(ids(&batch)),
                SourcePoll::Pending => self.woken.recv_timeout(Duration::from_secs(20)).expect("woken"),
                SourcePoll::End => return Ok(out),
            }
        }
        Ok(out)
    }

    fn next(&self) -> i64 {
        match self.partition.position() {
            SourcePosition::Kafka { next_offset, .. } => next_offset,
            SourcePosition::Opaque(_) => panic!("a Kafka position"),
        }
    }
}

fn producer() -> BaseProducer {
    ClientConfig::new().set("bootstrap.servers", servers()).set("linger.ms", "0").create().unwrap()
}

fn send(producer: &BaseProducer, topic: &str, partition: i32, value: Option<&str>) {
    let mut record = BaseRecord::<(), str>::to(topic).partition(partition);
    if let Some(value) = value {
        record = record.payload(value);
    }
    producer.send(record).map_err(|(e, _)| e).unwrap();
}

pub(crate) fn fill(topic: &str, partition: i32, ids: std::ops::Range<i64>) {
    let producer = producer();
    ids.for_each(|id| send(&producer, topic, partition, Some(&format!(r#"{{"id": {id}, "name": "n{id}"}}"#))));
    producer.flush(Duration::from_secs(10)).unwrap();
}

const EARLIEST: (&str, &str) = ("scan.startup.mode", "earliest-offset");
const BOUNDED: (&str, &str) = ("scan.bounded.mode", "latest-offset");

#[test]
#[ignore = "needs the lab"]
fn partitions_are_read_to_their_ends_and_resumed_where_they_were() {
    let topic = unique("in");
    create_topic(&topic, 3);
    fill(&topic, 0, 0..2500);
    fill(&topic, 2, 100..103);
    let factory = factory(&topic, &[EARLIEST, BOUNDED]).unwrap();
    assert!(factory.bounded());
    let names: Vec<String> = factory.partitions().unwrap().into_iter().map(|p| p.0).collect();
    assert_eq!(names, [format!("{topic}-0"), format!("{topic}-1"), format!("{topic}-2")]);
    let all: Vec<i64> = (0..2500).collect();
    assert_eq!(open(&*factory, &topic, 0, None).unwrap().rows(usize::MAX).unwrap(), all);
    assert_eq!(open(&*factory, &topic, 1, None).unwrap().rows(usize::MAX).unwrap(), [0; 0], "empty");
    assert_eq!(open(&*factory, &topic, 2, Some(1)).unwrap().rows(usize::MAX).unwrap(), [101, 102]);
    let mut part = open(&*factory, &topic, 0, None).unwrap();
    let first = part.rows(1).unwrap();
    let rest = open(&*factory, &topic, 0, Some(part.next())).unwrap().rows(usize::MAX).unwrap();
    assert_eq!([first, rest].concat(), all);
}

#[test]
#[ignore = "needs the lab"]
fn a_new_record_wakes_the_worker_within_milliseconds() {
    let topic = unique("in");
    create_topic(&topic, 2);
    let factory = factory(&topic, &[("scan.startup.mode", "latest-offset")]).unwrap();
    let mut opened = open(&*factory, &topic, 0, None).unwrap();
    let _other = open(&*factory, &topic, 1, None).unwrap();
    assert!(matches!(opened.partition.poll(10).unwrap(), SourcePoll::Pending));
    let producer = producer();
    let mut times = Vec::new();
    for id in 0..30 {
        std::thread::sleep(Duration::from_millis(20));
        let sent = Instant::now();
        send(&producer, &topic, 0, Some(&format!(r#"{{"id": {id}}}"#)));
        producer.poll(Duration::ZERO);
        assert_eq!(opened.rows(1).unwrap(), [id]);
        times.push(sent.elapsed());
    }
    times.sort();
    println!("record sent to row decoded: p50 {:?}, max {:?}", times[15], times[29]);
    assert!(times[15] < Duration::from_millis(50), "{times:?}");
}

#[test]
#[ignore = "needs the lab"]
fn the_lag_is_what_is_not_read_yet_and_nothing_at_the_end_even_behind_a_transaction() {
    let topic = unique("in");
    create_topic(&topic, 1);
    fill(&topic, 0, 0..50);
    let factory = factory(&topic, &[EARLIEST]).unwrap();
    let mut opened = open(&*factory, &topic, 0, None).unwrap();
    let lag = |opened: &Open, records: u64| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while opened.stats.lag() != Some(SizeHint::Rows(records)) {
            assert!(Instant::now() < deadline, "{:?} is not {records}", opened.stats.lag());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    lag(&opened, 50);
    while opened.next() < 20 {
        opened.partition.poll(20).unwrap();
    }
    lag(&opened, 50 - opened.next().cast_unsigned());
    fill(&topic, 0, 50..70);
    opened.rows(30).unwrap();
    let id = unique("txn");
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", servers()).set("transactional.id", id).create().unwrap();
    producer.init_transactions(Duration::from_secs(20)).unwrap();
    producer.begin_transaction().unwrap();
    send(&producer, &topic, 0, Some(r#"{"id": 70}"#));
    producer.commit_transaction(Duration::from_secs(20)).unwrap();
    // 71 records and the transaction's marker.
    while opened.next() < 72 {
        if let SourcePoll::Pending = opened.partition.poll(1000).unwrap() {
            opened.woken.recv_timeout(Duration::from_secs(20)).expect("woken");
        }
    }
    lag(&opened, 0);
    assert!(opened.stats.bytes() > 71 * 10, "{:?}", opened.stats);
}

#[test]
#[ignore = "needs the lab"]
fn records_without_a_value_and_records_that_do_not_fit() {
    let topic = unique("in");
    create_topic(&topic, 1);
    let producer = producer();
    for value in [Some(r#"{"id": 1}"#), None, Some("not json"), Some(r#"{"id": 2}"#), None] {
        send(&producer, &topic, 0, value);
    }
    producer.flush(Duration::from_secs(10)).unwrap();
    let skipping = factory(&topic, &[EARLIEST, BOUNDED, ("on-error", "skip")]).unwrap();
    let mut opened = open(&*skipping, &topic, 0, None).unwrap();
    assert_eq!(opened.rows(usize::MAX).unwrap(), [1, 2]);
    assert_eq!((opened.next(), opened.stats.skipped()), (5, 1));
    let failing = factory(&topic, &[EARLIEST, BOUNDED]).unwrap();
    let error = open(&*failing, &topic, 0, None).unwrap().rows(usize::MAX).unwrap_err().to_string();
    assert!(
        error.contains(&format!("topic {topic}, partition 0, offset 2"))
            && error.contains("'on-error' = 'skip' or 'dead-letter'"),
        "{error}"
    );
}

#[test]
#[ignore = "needs the lab"]
fn start_positions() {
    let topic = unique("in");
    create_topic(&topic, 1);
    fill(&topic, 0, 0..5);
    std::thread::sleep(Duration::from_millis(50));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis().to_string();
    fill(&topic, 0, 5..8);
    let read = |options: &[(&str, &str)]| {
        let factory = factory(&topic, &[options, &[BOUNDED]].concat()).unwrap();
        open(&*factory, &topic, 0, None).map(|mut opened| opened.rows(usize::MAX).unwrap())
    };
    assert_eq!(
        read(&[("scan.startup.mode", "timestamp"), ("scan.startup.timestamp-millis", &now)]).unwrap(),
        [5, 6, 7]
    );
    let specific = ("scan.startup.mode", "specific-offsets");
    assert_eq!(read(&[specific, ("scan.startup.specific-offsets", "partition:0,offset:6")]).unwrap(), [6, 7]);
    assert!(read(&[specific, ("scan.startup.specific-offsets", "partition:1,offset:6")]).is_err());
    assert_eq!(read(&[("scan.startup.mode", "latest-offset")]).unwrap(), [0; 0]);
    let group = ("properties.group.id", "nobody-ever-committed");
    assert_eq!(read(&[group, ("properties.auto.offset.reset", "earliest")]).unwrap().len(), 8);
    let error = read(&[group]).unwrap_err();
    assert!(error.message.contains("'scan.startup.mode' = 'earliest-offset'"), "{error}");
}

#[test]
#[ignore = "needs the lab"]
fn a_position_that_is_not_there_stops_with_what_to_do() {
    let topic = unique("in");
    create_topic(&topic, 1);
    fill(&topic, 0, 0..5);
    let factory = factory(&topic, &[EARLIEST]).unwrap();
    let error = open(&*factory, &topic, 0, Some(99)).err().expect("refused").to_string();
    assert!(error.contains("at offset 99") && error.contains("offsets 0 to 5") && error.contains("--fresh"), "{error}");
}

#[test]
#[ignore = "needs the lab"]
fn a_topic_or_a_broker_that_is_not_there_is_named() {
    let missing = unique("missing");
    let error = factory(&missing, &[EARLIEST]).unwrap().partitions().unwrap_err();
    assert_eq!(error.option.as_deref(), Some("topic"));
    assert!(error.message.contains(&format!("topic {missing} does not exist")), "{error}");
    let error = testing::sink(&table(&missing, &[]), Path::new(".")).unwrap().target().err().expect("refused");
    assert!(error.message.contains(&format!("topic {missing} does not exist")), "{error}");
    let nowhere = [EARLIEST, ("properties.bootstrap.servers", "127.0.0.1:9")];
    let started = Instant::now();
    let error = factory("any", &nowhere).unwrap().partitions().unwrap_err();
    assert!(
        error.message.contains("127.0.0.1:9 within 10 s") && started.elapsed() < Duration::from_secs(14),
        "{error}"
    );
}

#[test]
#[ignore = "needs the lab"]
fn a_sinks_records_have_the_keys_of_the_table() {
    let topic = unique("out");
    create_topic(&topic, 1);
    let options = [("key.fields", "id"), ("key.format", "json")];
    let factory = testing::sink(&table(&topic, &options), Path::new(".")).unwrap();
    let SinkTarget::Kafka(target) = factory.target().unwrap() else { panic!("a Kafka target") };
    assert_eq!(target.topic, topic);
    let names: Arc<dyn arrow::array::Array> = Arc::new(arrow::array::StringArray::from(vec!["a", "b"]));
    let batch = RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(vec![1, 2])), names]).unwrap();
    let mut encoder = factory.encoder(0).unwrap();
    let mut out = Vec::new();
    encoder.encode(&batch, &mut out).unwrap();
    encoder.flush(&mut out).unwrap();
    let SinkPayload::Rows(rows) = &out[0] else { panic!("rows") };
    assert_eq!(String::from_utf8_lossy(&rows.bytes), r#"{"id":1,"name":"a"}{"id":2,"name":"b"}"#);
    assert_eq!(String::from_utf8_lossy(&rows.key_bytes), r#"{"id":1}{"id":2}"#);
    assert_eq!((rows.ends.len(), rows.key_ends.len()), (2, 2));
}
