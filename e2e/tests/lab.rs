//! Promises of the lab itself, which every other test leans on: transactions that are seen only when committed, listeners that refuse
//! whom they should, writes to S3 that succeed only once.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::Command;
use std::time::Duration;

use e2e::kafka::{self, Reader};
use e2e::s3;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: use `make e2e`, or `eval \"$(e2e/lab/env)\"`"))
}

/// A topic of this test process, made anew.
fn topic(name: &str) -> String {
    let topic = format!("lab-{name}-{}", std::process::id());
    tokio::runtime::Runtime::new().unwrap().block_on(kafka::create_topics(&[(&topic, 1)])).unwrap();
    topic
}

/// One transaction with one record.
fn transaction(config: &[(&str, &str)], topic: &str, text: &str, commit: bool) -> Result<(), String> {
    let mut all = ClientConfig::new();
    all.set("transactional.id", topic).set("message.timeout.ms", "4000");
    for (key, value) in config {
        all.set(*key, *value);
    }
    let timeout = Duration::from_secs(5);
    let producer: BaseProducer = all.create().map_err(|e| e.to_string())?;
    producer.init_transactions(timeout).map_err(|e| e.to_string())?;
    producer.begin_transaction().map_err(|e| e.to_string())?;
    producer.send(BaseRecord::<(), str>::to(topic).payload(text)).map_err(|(e, _)| e.to_string())?;
    producer.flush(timeout).map_err(|e| e.to_string())?;
    let end = if commit { producer.commit_transaction(timeout) } else { producer.abort_transaction(timeout) };
    end.map_err(|e| e.to_string())
}

#[test]
#[ignore = "needs the lab"]
fn an_aborted_transaction_is_never_read() {
    let bootstrap = var("KAFKA_BOOTSTRAP_SERVERS");
    let topic = topic("aborted");
    let plain = [("bootstrap.servers", bootstrap.as_str())];
    transaction(&plain, &topic, "no", false).unwrap();
    transaction(&plain, &topic, "yes", true).unwrap();
    let mut reader = Reader::new(&topic).unwrap();
    reader.until("the committed record", Duration::from_secs(20), |records| !records.is_empty()).unwrap();
    reader.to_end().unwrap();
    assert_eq!(reader.records, [b"yes".to_vec()]);
}

#[test]
#[ignore = "needs the lab"]
fn secure_listeners_take_the_right_client_and_refuse_others() {
    let (sasl, mtls, certificates) =
        (var("KAFKA_BOOTSTRAP_SERVERS_SASL_SSL"), var("KAFKA_BOOTSTRAP_SERVERS_MTLS"), var("KAFKA_CERTIFICATES"));
    let file = |name: &str| format!("{certificates}/{name}");
    let (ca, crt, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let topic = topic("secure");
    let allow =
        ["--add", "--allow-principal", "User:lab", "--operation", "All", "--topic", "*", "--transactional-id", "*"];
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/kafka");
    let output = Command::new(tool).arg("acls").args(allow).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let password = |mechanism: &'static str, password: &'static str| {
        vec![
            ("bootstrap.servers", sasl.as_str()),
            ("security.protocol", "SASL_SSL"),
            ("ssl.ca.location", ca.as_str()),
            ("sasl.mechanism", mechanism),
            ("sasl.username", "lab"),
            ("sasl.password", password),
        ]
    };
    let tls =
        vec![("bootstrap.servers", mtls.as_str()), ("security.protocol", "SSL"), ("ssl.ca.location", ca.as_str())];
    let certificate =
        [tls.clone(), vec![("ssl.certificate.location", crt.as_str()), ("ssl.key.location", key.as_str())]].concat();
    for config in [password("SCRAM-SHA-512", "lab-secret"), password("PLAIN", "lab-secret"), certificate] {
        transaction(&config, &topic, "in", true).unwrap_or_else(|error| panic!("{config:?}: {error}"));
    }
    for config in [password("SCRAM-SHA-512", "wrong"), tls] {
        assert!(transaction(&config, &topic, "out", true).is_err(), "{config:?} was let in");
    }
}

#[test]
#[ignore = "needs the lab"]
fn an_object_is_created_only_once() {
    let bucket = format!("lab-{}", std::process::id());
    assert_eq!(s3::request(&["-X", "PUT"], &bucket).unwrap(), "200");
    let key = format!("{bucket}/manifest");
    let once = ["-X", "PUT", "-H", "If-None-Match: *", "--data-binary", "a"];
    assert_eq!(s3::request(&once, &key).unwrap(), "200");
    assert_eq!(s3::request(&once, &key).unwrap(), "412");
    assert_eq!(s3::request(&[], &key).unwrap(), "200");
    assert_eq!(s3::request(&["-X", "DELETE"], &key).unwrap(), "204");
}
