//! Login, TLS and rights: what is refused is said in words that lead to the option.

use std::time::{Duration, Instant};

use job_runtime::commit::kafka::{KafkaCommitLog, KafkaLogConfig};
use job_runtime::kafka::client::{ConnectError, ConsumerClient};
use job_runtime::kafka::properties::{ClusterDefaults, KafkaProperties};

use crate::broker::{config, unique};

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name} is not set: `e2e/lab/kafka-up --secure` starts a broker that has it, `e2e/lab/env` prints it")
    })
}

fn login(password: &str, ca: &str) -> KafkaProperties {
    let servers = var("KAFKA_BOOTSTRAP_SERVERS_SASL_SSL");
    let table = [
        ("bootstrap.servers", servers.as_str()),
        ("security.protocol", "SASL_SSL"),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", "lab"),
        ("sasl.password", password),
        ("ssl.ca.pem", ca),
    ];
    let table: Vec<_> = table.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    KafkaProperties::new(&ClusterDefaults::default(), &table).unwrap()
}

fn certificate(name: &str) -> String {
    std::fs::read_to_string(format!("{}/{name}", var("KAFKA_CERTIFICATES"))).unwrap()
}

fn fence(properties: KafkaProperties) -> Result<(), ConnectError> {
    KafkaCommitLog::fence(KafkaLogConfig { properties, ..config(&unique("job"), 1) }).map(drop)
}

#[test]
#[ignore = "needs the lab"]
fn a_wrong_password_is_said_early_and_never_shown() {
    let properties = login("wr0ng-passw0rd", &certificate("ca.crt"));
    let started = Instant::now();
    let error = fence(properties.clone()).expect_err("refused");
    let text = error.to_string();
    assert!(matches!(error, ConnectError::Login { .. }) && !text.contains("wr0ng"), "{text}");
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    let client = ConsumerClient::new(&properties, &[], Duration::from_secs(10)).unwrap();
    let error = client.partitions("any").expect_err("refused");
    assert!(matches!(error, ConnectError::Login { .. }), "{error}");
}

#[test]
#[ignore = "needs the lab"]
fn a_broker_with_another_certificate_authority_is_not_trusted() {
    let error = fence(login("lab-secret", &certificate("client.crt"))).expect_err("refused");
    assert!(matches!(error, ConnectError::Tls { .. }) && error.to_string().contains("ssl.ca.pem"), "{error}");
}

#[test]
#[ignore = "needs the lab"]
fn a_right_that_is_missing_is_named() {
    let properties = login("lab-secret", &certificate("ca.crt"));
    match fence(properties.clone()) {
        // The lab's own tests may have granted the user transactional ids.
        Ok(()) => {}
        Err(error) => {
            assert!(matches!(&error, ConnectError::Denied { what, .. } if what.contains("transactional id")), "{error}")
        }
    }
    let client = ConsumerClient::new(&properties, &[("group.id", "not-granted")], Duration::from_secs(10)).unwrap();
    let error = client.committed(&[("any".to_owned(), 0)]).expect_err("refused");
    assert!(matches!(error, ConnectError::Denied { .. }), "{error}");
}
