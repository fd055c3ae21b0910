//! `properties.*` of a table and of a StreamCluster: which client properties a job may set, and where its credentials come from.
//!
//! Owns the allow-list. A property that makes the client load code, read a file, run a program, call a URL or trust anybody is refused by
//! name; an unknown one is refused with the nearest known. Secrets never appear in `Debug`, messages or logs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Who uses a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Both,
    Consumer,
    Producer,
    /// Not given to the client: Millstream uses it.
    Ours,
}

const ALLOWED: &[(&str, Role)] = &[
    ("bootstrap.servers", Role::Both),
    ("broker.address.family", Role::Both),
    ("client.dns.lookup", Role::Both),
    ("client.id", Role::Both),
    ("connections.max.idle.ms", Role::Both),
    ("metadata.max.age.ms", Role::Both),
    ("reconnect.backoff.max.ms", Role::Both),
    ("reconnect.backoff.ms", Role::Both),
    ("retry.backoff.max.ms", Role::Both),
    ("retry.backoff.ms", Role::Both),
    ("sasl.mechanism", Role::Both),
    ("sasl.mechanisms", Role::Both),
    ("sasl.password", Role::Both),
    ("sasl.username", Role::Both),
    ("security.protocol", Role::Both),
    ("socket.connection.setup.timeout.ms", Role::Both),
    ("socket.keepalive.enable", Role::Both),
    ("socket.receive.buffer.bytes", Role::Both),
    ("socket.send.buffer.bytes", Role::Both),
    ("socket.timeout.ms", Role::Both),
    ("ssl.ca.pem", Role::Both),
    ("ssl.certificate.pem", Role::Both),
    ("ssl.cipher.suites", Role::Both),
    ("ssl.endpoint.identification.algorithm", Role::Both),
    ("ssl.key.password", Role::Both),
    ("ssl.key.pem", Role::Both),
    ("topic.metadata.refresh.interval.ms", Role::Both),
    ("check.crcs", Role::Consumer),
    ("client.rack", Role::Consumer),
    ("fetch.max.bytes", Role::Consumer),
    ("fetch.message.max.bytes", Role::Consumer),
    ("fetch.min.bytes", Role::Consumer),
    ("fetch.wait.max.ms", Role::Consumer),
    ("isolation.level", Role::Consumer),
    ("max.partition.fetch.bytes", Role::Consumer),
    ("batch.num.messages", Role::Producer),
    ("batch.size", Role::Producer),
    ("compression.level", Role::Producer),
    ("compression.type", Role::Producer),
    ("linger.ms", Role::Producer),
    ("message.max.bytes", Role::Producer),
    ("partitioner", Role::Producer),
    ("request.timeout.ms", Role::Producer),
    ("sticky.partitioning.linger.ms", Role::Producer),
    ("auto.offset.reset", Role::Ours),
    ("group.id", Role::Ours),
    ("transaction.timeout.ms", Role::Ours),
];

const SECRET: &[&str] = &["sasl.password", "ssl.key.pem", "ssl.key.password"];

/// What is refused by name or by its beginning or end, and why or what to write instead.
const REFUSED: &[(&str, &str)] = &[
    ("plugin.library.paths", "it loads code into the process; there is no replacement"),
    ("interceptor.classes", "it loads code; there is no replacement"),
    ("ssl.engine.location", "it loads code into the process; there is no replacement"),
    ("ssl.engine.id", "it loads code into the process; there is no replacement"),
    ("ssl.providers", "it loads code into the process; there is no replacement"),
    (
        "sasl.kerberos.kinit.cmd",
        "it runs a program; use SCRAM or PLAIN with 'properties.sasl.username' and 'properties.sasl.password'",
    ),
    (
        "sasl.kerberos.*",
        "Kerberos reads files and runs programs; use SCRAM or PLAIN with 'properties.sasl.username' and 'properties.sasl.password'",
    ),
    (
        "sasl.oauthbearer.*",
        "it makes the client read files or call URLs; use SCRAM or PLAIN with 'properties.sasl.username' and 'properties.sasl.password'",
    ),
    ("enable.sasl.oauthbearer.unsecure.jwt", "it accepts tokens that anybody can make; there is no replacement"),
    (
        "sasl.login.*",
        "it loads code; use SCRAM or PLAIN with 'properties.sasl.username' and 'properties.sasl.password'",
    ),
    (
        "sasl.client.callback.handler.class",
        "it loads code; use SCRAM or PLAIN with 'properties.sasl.username' and 'properties.sasl.password'",
    ),
    (
        "sasl.jaas.config",
        "it belongs to the Java client; write 'properties.sasl.username' and 'properties.sasl.password' instead",
    ),
    (
        "enable.ssl.certificate.verification",
        "without it the broker could be anybody; write the CA's certificate as 'properties.ssl.ca.pem' instead",
    ),
    ("ssl.ca.location", "it reads a file; write the certificate itself as 'properties.ssl.ca.pem'"),
    (
        "ssl.ca.certificate.stores",
        "it reads the machine's store; write the certificate itself as 'properties.ssl.ca.pem'",
    ),
    ("https.*", "no HTTPS endpoint is called; leave it out"),
    ("ssl.certificate.location", "it reads a file; write the certificate itself as 'properties.ssl.certificate.pem'"),
    (
        "ssl.key.location",
        "it reads a file; write the key itself as 'properties.ssl.key.pem', or better use the StreamCluster's credentialsSecretRef",
    ),
    ("ssl.truststore.*", "it belongs to the Java client; write the CA's certificate as 'properties.ssl.ca.pem'"),
    ("ssl.keystore.*", "it reads a file; write 'properties.ssl.certificate.pem' and 'properties.ssl.key.pem' instead"),
    (
        "*.location",
        "it reads a file; write certificates and keys themselves as 'properties.ssl.ca.pem', 'properties.ssl.certificate.pem', 'properties.ssl.key.pem'",
    ),
    ("*.file", "it reads a file; there is no replacement"),
    ("*.url", "it makes the client call a URL; there is no replacement"),
    ("*.class", "it loads code; there is no replacement"),
    ("*.classes", "it loads code; there is no replacement"),
    ("acks", "Millstream always writes with acks=all; leave it out"),
    ("enable.idempotence", "Millstream always writes idempotently; leave it out"),
    ("transactional.id", "it names the pod's transactions and comes from the job's uid; leave it out"),
    ("enable.auto.commit", "offsets are committed with the job's transaction; leave it out"),
    ("enable.auto.offset.store", "offsets are committed with the job's transaction; leave it out"),
    ("group.instance.id", "partitions are assigned by Millstream, not by the group; leave it out"),
    ("key.serializer", "it belongs to the Java client; write 'key.format' instead"),
    ("key.deserializer", "it belongs to the Java client; write 'key.format' instead"),
    ("value.serializer", "it belongs to the Java client; write 'format' instead"),
    ("value.deserializer", "it belongs to the Java client; write 'format' instead"),
    ("fetch.max.wait.ms", "it belongs to the Java client; write 'properties.fetch.wait.max.ms' instead"),
    ("max.request.size", "it belongs to the Java client; write 'properties.message.max.bytes' instead"),
    ("max.poll.records", "it belongs to the Java client and has no use here; leave it out"),
    ("buffer.memory", "it belongs to the Java client and has no use here; leave it out"),
];

/// A property cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PropertyError {
    /// The table option, e.g. `properties.ssl.ca.location`.
    pub option: String,
    /// What is wrong and what to write instead. Never the value of a secret.
    pub message: String,
}

/// User name, password and certificates that were mounted for the process.
#[derive(Clone, Default)]
pub struct Credentials {
    values: BTreeMap<&'static str, String>,
}

impl Credentials {
    /// Reads the files of a mounted Secret that are there: `username`, `password`, `ca.crt`, `tls.crt`, `tls.key`. No directory: none.
    ///
    /// # Errors
    /// When a file is there and cannot be read as text.
    pub fn read(dir: &Path) -> std::io::Result<Self> {
        let files = [
            ("username", "sasl.username"),
            ("password", "sasl.password"),
            ("ca.crt", "ssl.ca.pem"),
            ("tls.crt", "ssl.certificate.pem"),
            ("tls.key", "ssl.key.pem"),
        ];
        let mut values = BTreeMap::new();
        for (file, property) in files {
            match std::fs::read_to_string(dir.join(file)) {
                Ok(text) => drop(values.insert(property, text.trim_end_matches(['\n', '\r']).to_owned())),
                Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(Self { values })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

/// What a StreamCluster says about its Kafka: defaults for every table, and the credentials for its brokers.
#[derive(Clone, Debug, Default)]
pub struct ClusterDefaults {
    /// `host:port,…` of the cluster, if there is one.
    pub bootstrap_servers: Option<String>,
    /// Client properties, without `properties.`.
    pub properties: Vec<(String, String)>,
    /// Used only for brokers of this cluster, never for ones that a table names itself.
    pub credentials: Credentials,
}

/// Client properties that passed the allow-list.
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaProperties {
    values: BTreeMap<String, String>,
}

impl fmt::Debug for KafkaProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            self.values.iter().map(|(key, value)| (key, if SECRET.contains(&key.as_str()) { "***" } else { value }));
        f.debug_map().entries(shown).finish()
    }
}

impl KafkaProperties {
    /// Joins a table's properties (names without `properties.`) with the cluster's, the table's first.
    ///
    /// # Errors
    /// Names the first property that is refused, unknown or wrong, or says that `bootstrap.servers` is missing.
    pub fn new(cluster: &ClusterDefaults, table: &[(String, String)]) -> Result<Self, PropertyError> {
        let mut values = BTreeMap::new();
        for (key, value) in table {
            check(key)?;
            values.insert(canonical(key).to_owned(), checked_value(key, value)?);
        }
        let own_brokers =
            values.get("bootstrap.servers").is_some_and(|own| Some(own) != cluster.bootstrap_servers.as_ref());
        if !own_brokers {
            for (key, value) in &cluster.properties {
                check(key)?;
                let value = checked_value(key, value)?;
                values.entry(canonical(key).to_owned()).or_insert(value);
            }
            if let Some(servers) = &cluster.bootstrap_servers {
                values.entry("bootstrap.servers".to_owned()).or_insert_with(|| servers.clone());
            }
            add_credentials(&mut values, &cluster.credentials);
        }
        if values.get("bootstrap.servers").is_none_or(|servers| servers.trim().is_empty()) {
            let message =
                "write 'properties.bootstrap.servers' = 'host:port,...' (or name a StreamCluster that has it)";
            return Err(PropertyError { option: "properties.bootstrap.servers".into(), message: message.into() });
        }
        Ok(Self { values })
    }

    /// The brokers to start from.
    pub fn bootstrap_servers(&self) -> &str {
        self.get("bootstrap.servers").expect("checked when made")
    }

    /// `group.id`, if the table has one.
    pub fn group_id(&self) -> Option<&str> {
        self.get("group.id")
    }

    /// A property's value.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(String::as_str)
    }

    /// True if both name the same brokers, in any order.
    pub fn same_cluster(&self, other: &Self) -> bool {
        let set = |p: &Self| {
            let mut servers: Vec<String> = p.bootstrap_servers().split(',').map(|s| s.trim().to_owned()).collect();
            servers.sort();
            servers
        };
        set(self) == set(other)
    }

    /// All as pairs, for a sink's target. Holds secrets: never to be printed.
    pub fn pairs(&self) -> Vec<(String, String)> {
        self.values.clone().into_iter().collect()
    }

    /// Takes back what [`Self::pairs`] gave.
    pub fn from_checked(pairs: &[(String, String)]) -> Self {
        Self { values: pairs.iter().cloned().collect() }
    }

    /// What a consumer is given.
    pub fn consumer(&self) -> Vec<(&str, &str)> {
        self.for_role(Role::Consumer)
    }

    /// What a producer is given.
    pub fn producer(&self) -> Vec<(&str, &str)> {
        self.for_role(Role::Producer)
    }

    fn for_role(&self, role: Role) -> Vec<(&str, &str)> {
        let wanted = |key: &str| ALLOWED.iter().any(|(name, r)| *name == key && (*r == Role::Both || *r == role));
        self.values.iter().filter(|(key, _)| wanted(key)).map(|(key, value)| (key.as_str(), value.as_str())).collect()
    }
}

fn add_credentials(values: &mut BTreeMap<String, String>, credentials: &Credentials) {
    let protocol = values.get("security.protocol").map_or("", String::as_str).to_owned();
    for (key, value) in &credentials.values {
        let used = if key.starts_with("sasl.") { protocol.starts_with("sasl") } else { protocol.ends_with("ssl") };
        if used {
            values.entry((*key).to_owned()).or_insert_with(|| value.clone());
        }
    }
}

fn canonical(key: &str) -> &str {
    if key == "sasl.mechanism" { "sasl.mechanisms" } else { key }
}

fn check(key: &str) -> Result<(), PropertyError> {
    if ALLOWED.iter().any(|(name, _)| *name == key) {
        return Ok(());
    }
    let matches = |pattern: &str| match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(end), _) => key.ends_with(end),
        (None, Some(start)) => key.starts_with(start),
        (None, None) => key == pattern,
    };
    let message = match REFUSED.iter().find(|(pattern, _)| matches(pattern)) {
        Some((_, why)) => format!("Kafka client property '{key}' is not allowed: {why}"),
        None => {
            let nearest = ALLOWED.iter().map(|(name, _)| (strsim::damerau_levenshtein(name, key), *name)).min();
            let hint = nearest
                .filter(|(distance, _)| *distance <= 4)
                .map(|(_, name)| format!("; did you mean 'properties.{name}'?"));
            format!("Kafka client property '{key}' is not known or not allowed{}", hint.unwrap_or_default())
        }
    };
    Err(PropertyError { option: format!("properties.{key}"), message })
}

/// Values that the client would take and that break a promise, or that it would refuse with a message nobody understands.
fn checked_value(key: &str, value: &str) -> Result<String, PropertyError> {
    let one_of = |lower: bool, known: &[&str], why: &str| {
        let normal = if lower { value.to_ascii_lowercase() } else { value.to_ascii_uppercase() };
        if known.contains(&normal.as_str()) {
            return Ok(normal);
        }
        let message = format!("'properties.{key}' = '{value}': write {}{why}", known.join(", "));
        Err(PropertyError { option: format!("properties.{key}"), message })
    };
    match key {
        "security.protocol" => one_of(true, &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"], ""),
        "sasl.mechanism" | "sasl.mechanisms" => one_of(
            false,
            &["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
            " (others read files, run programs or call URLs)",
        ),
        "ssl.endpoint.identification.algorithm" => {
            one_of(true, &["https"], " (without it the broker could be anybody), or leave it out")
        }
        "isolation.level" => one_of(true, &["read_committed", "read_uncommitted"], ""),
        "auto.offset.reset" => one_of(true, &["earliest", "latest", "none"], ""),
        "compression.type" => one_of(true, &["none", "gzip", "snappy", "lz4", "zstd"], ""),
        _ => Ok(value.to_owned()),
    }
}

#[cfg(test)]
mod tests;
