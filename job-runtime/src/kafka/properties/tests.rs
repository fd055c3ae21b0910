//! Promises of client properties: what is allowed, what is refused and with which words, and that no secret is printed.

use super::*;

fn table(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    let broker = [("bootstrap.servers", "b:9092")];
    broker.iter().chain(pairs).map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn refuse(key: &str) -> String {
    let error = KafkaProperties::new(&ClusterDefaults::default(), &table(&[(key, "secret-value")])).unwrap_err();
    assert_eq!(error.option, format!("properties.{key}"));
    assert!(!error.message.contains("secret-value"), "{key}: a refused value is not repeated");
    error.message
}

#[test]
fn what_loads_code_reads_files_runs_programs_or_trusts_anybody_is_refused() {
    for key in [
        "plugin.library.paths",
        "interceptor.classes",
        "ssl.ca.location",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.keystore.location",
        "ssl.crl.location",
        "ssl.engine.location",
        "ssl.engine.id",
        "ssl.providers",
        "ssl.ca.certificate.stores",
        "https.ca.location",
        "https.ca.pem",
        "sasl.kerberos.kinit.cmd",
        "sasl.kerberos.keytab",
        "sasl.kerberos.service.name",
        "sasl.oauthbearer.token.endpoint.url",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.method",
        "sasl.oauthbearer.assertion.private.key.file",
        "sasl.oauthbearer.assertion.file",
        "sasl.oauthbearer.assertion.jwt.template.file",
        "sasl.oauthbearer.metadata.authentication.type",
        "enable.sasl.oauthbearer.unsecure.jwt",
        "enable.ssl.certificate.verification",
        "sasl.client.callback.handler.class",
        "sasl.login.callback.handler.class",
        "offset.store.path",
        "debug",
        "statistics.interval.ms",
        "log_level",
        "opaque",
        "transactional.id",
        "enable.idempotence",
        "acks",
        "enable.auto.commit",
        "something.new.location",
        "something.new.file",
        "something.new.url",
    ] {
        assert!(refuse(key).contains(&format!("'{key}'")), "{key}");
    }
}

#[test]
fn no_allowed_name_reads_a_file_or_loads_code() {
    for (name, _) in ALLOWED {
        assert!(
            !["location", "path", "file", "url", "cmd", "class", "_cb"].iter().any(|part| name.contains(part)),
            "{name}"
        );
        assert!(!REFUSED.iter().any(|(refused, _)| refused == name), "{name}");
    }
}

#[test]
fn java_names_say_what_to_write() {
    assert!(refuse("sasl.jaas.config").contains("properties.sasl.username"));
    assert!(refuse("ssl.truststore.location").contains("properties.ssl.ca.pem"));
    assert!(refuse("fetch.max.wait.ms").contains("properties.fetch.wait.max.ms"));
    assert!(refuse("lingr.ms").contains("did you mean 'properties.linger.ms'"));
}

#[test]
fn weak_values_are_refused() {
    for (key, value) in [
        ("ssl.endpoint.identification.algorithm", "none"),
        ("sasl.mechanism", "GSSAPI"),
        ("sasl.mechanisms", "OAUTHBEARER"),
        ("security.protocol", "tls"),
    ] {
        assert!(KafkaProperties::new(&ClusterDefaults::default(), &table(&[(key, value)])).is_err(), "{key}={value}");
    }
    let upper =
        KafkaProperties::new(&ClusterDefaults::default(), &table(&[("security.protocol", "SASL_SSL")])).unwrap();
    assert_eq!(upper.get("security.protocol"), Some("sasl_ssl"));
}

#[test]
fn the_brokers_are_named_or_the_message_says_where() {
    let error = KafkaProperties::new(&ClusterDefaults::default(), &[]).unwrap_err();
    assert!(error.message.contains("'properties.bootstrap.servers' = 'host:port"));
}

fn cluster() -> ClusterDefaults {
    let dir = tempfile::tempdir().unwrap();
    for (file, text) in [("username", "ann\n"), ("password", "pa55word\n"), ("ca.crt", "PEM"), ("tls.key", "k3y")] {
        std::fs::write(dir.path().join(file), text).unwrap();
    }
    ClusterDefaults {
        bootstrap_servers: Some("c:9092".into()),
        properties: vec![("security.protocol".into(), "SASL_SSL".into()), ("linger.ms".into(), "7".into())],
        credentials: Credentials::read(dir.path()).unwrap(),
    }
}

#[test]
fn a_cluster_gives_brokers_defaults_and_credentials() {
    let own = [("linger.ms".to_owned(), "3".to_owned())];
    let properties = KafkaProperties::new(&cluster(), &own).unwrap();
    assert_eq!(properties.bootstrap_servers(), "c:9092");
    assert_eq!((properties.get("linger.ms"), properties.get("sasl.password")), (Some("3"), Some("pa55word")));
    assert_eq!(properties.get("ssl.ca.pem"), Some("PEM"));
    assert!(properties.consumer().iter().all(|(key, _)| *key != "linger.ms"));
    assert!(properties.producer().contains(&("linger.ms", "3")));
}

#[test]
fn the_clusters_credentials_never_go_to_brokers_that_a_table_names() {
    let own = table(&[("security.protocol", "sasl_ssl"), ("sasl.mechanism", "PLAIN")]);
    let properties = KafkaProperties::new(&cluster(), &own).unwrap();
    assert_eq!(
        (properties.get("sasl.username"), properties.get("sasl.password"), properties.get("ssl.key.pem")),
        (None, None, None)
    );
}

#[test]
fn secrets_are_not_in_debug() {
    let cluster = cluster();
    let properties = KafkaProperties::new(&cluster, &[]).unwrap();
    for text in [format!("{cluster:?}"), format!("{properties:?}")] {
        assert!(!text.contains("pa55word") && !text.contains("k3y"), "{text}");
    }
    assert!(format!("{properties:?}").contains("ann"));
}

#[test]
fn no_secret_directory_means_no_credentials() {
    assert!(Credentials::read(Path::new("/nonexistent/kafka")).unwrap().values.is_empty());
}
