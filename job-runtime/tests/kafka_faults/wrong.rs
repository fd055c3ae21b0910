//! What is wrong around a job on Kafka: state of something else, places that are none, rights that are missing. Each message is a page of the book
//! (`docs/src/errors`), comes with the right reason and exit code, names the cure, and when that is done the job goes on and nothing is lost.
//!
//! Run with SNAPSHOTS=overwrite to write the pages again after a message has changed on purpose.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use serde_json::Value;
use snapbox::{Data, assert_data_eq};

use super::broker::{create_topic_at, servers};
use super::lab::Brokers;
use super::rig::{Address, Home, Kept, Rig, Topics};
use super::storage::{self, bucket, endpoint};
use super::workshop::Outcome;

/// The pod ended with this page of the book, reason and exit code.
fn says(home: &Home, outcome: &Outcome, (code, reason): (i32, &str), page: &str, names: &[(&str, &str)]) {
    assert_eq!(outcome.code, Some(code), "{outcome:?}");
    let (told, message) = home.last_words();
    assert_eq!(told, reason, "{message}");
    let shop = home.shop.dir().canonicalize().unwrap().display().to_string();
    let mut text = format!("error: {message}\n").replace(&shop, "/home/you");
    for (real, shown) in names {
        text = text.replace(real, shown);
    }
    let path = format!("{}/../docs/src/errors/{page}.txt", env!("CARGO_MANIFEST_DIR"));
    assert_data_eq!(text, Data::read_from(path.as_ref(), None).raw());
}

const UID: &str = "5d41402a-bc4b-4a76-b971-9d911017c592";

/// A job that has run for a while and has state, stopped.
fn stopped() -> (Rig, Home) {
    let rig = Rig::new(Address::plain(&servers()), "");
    let mut pod = rig.home().keep();
    rig.passes(400, &mut [&mut pod]);
    pod.stop();
    (rig, pod.home)
}

/// Started with another job or other settings, the pod ends with a page; put right again, it goes on.
fn refused(home: &Home, job: Option<&str>, settings: Option<(&str, &str)>, ends: (i32, &str), page: &str, uid: &str) {
    let (right_job, right_settings) = (home.shop.read("job.yaml"), home.shop.read("settings.yaml"));
    if let Some(job) = job {
        home.shop.write("job.yaml", job);
    }
    if let Some((right, wrong)) = settings {
        assert!(right_settings.contains(right), "{right_settings}");
        home.shop.write("settings.yaml", &right_settings.replace(right, wrong));
    }
    says(home, &home.start(&[]).end(), ends, page, &[(uid, UID)]);
    home.shop.write("job.yaml", &right_job);
    home.shop.write("settings.yaml", &right_settings);
}

#[test]
#[ignore = "needs the lab"]
fn state_of_something_else_is_refused_and_nothing_of_it_is_lost() {
    let (rig, home) = stopped();
    let uid = rig.uid.clone();
    let failed = (3, "StateFailed");
    refused(&home, None, Some((uid.as_str(), "a-newer-uid")), failed, "state-of-another-uid", &uid);
    let other = rig.job.replace("INTERVAL '1' SECOND", "INTERVAL '5' SECOND");
    refused(&home, Some(&other), None, failed, "state-of-another-plan", &uid);
    let shards = rig.job.replace("shards: 4", "shards: 8");
    refused(&home, Some(&shards), None, failed, "state-of-other-shards", &uid);
    // On another disk the state directory does not know it: the topics do.
    let elsewhere = Home::new(&shards, &uid, "");
    says(&elsewhere, &elsewhere.start(&[]).end(), failed, "internal-topic", &[(uid.as_str(), UID)]);
    // And the plan that the state is of is known from the log too.
    let elsewhere = Home::new(&other, &uid, "");
    says(&elsewhere, &elsewhere.start(&[]).end(), failed, "state-of-another-plan", &[(uid.as_str(), UID)]);
    // A newer release has written the directory.
    let job = home.shop.read("state/job.json");
    home.shop.write("state/job.json", &job.replace("\"version\": 1", "\"version\": 9"));
    says(&home, &home.start(&[]).end(), failed, "state-of-a-newer-release", &[(uid.as_str(), UID)]);
    home.shop.write("state/job.json", &job);
    refused(&home, None, Some(("replicas: 1", "replicas: 5")), (3, "InvalidJob"), "more-pods-than-shards", &uid);
    let mut pod = home.keep();
    rig.passes(200, &mut [&mut pod]);
    assert!(pod.ended.is_empty(), "{:?}", pod.ended);
    rig.finish(vec![pod]);
}

#[test]
#[ignore = "needs the lab"]
fn places_for_snapshots_that_are_none_are_named() {
    let (rig, _) = stopped();
    let (uid, server, failed) = (rig.uid.clone(), endpoint(), (3, "StateFailed"));
    let missing = storage::home(&rig, &server, "there-is-no-such-bucket");
    let names = [(uid.as_str(), UID), (server.as_str(), "http://s3:9000")];
    says(&missing, &missing.start(&[]).end(), failed, "no-bucket", &names);
    let bucket = bucket();
    let names = [(uid.as_str(), UID), (server.as_str(), "http://s3:9000"), (bucket.as_str(), "snapshots")];
    let home = storage::home(&rig, &server, &bucket);
    let outcome = home.start(&["AWS_SECRET_ACCESS_KEY=another"]).end();
    says(&home, &outcome, failed, "bucket-wrong-key", &names);
    let outcome = home.start(&["AWS_ACCESS_KEY_ID=nobody"]).end();
    says(&home, &outcome, failed, "bucket-unknown-key", &names);
    // A path that is a file.
    let filed = rig.home();
    filed.shop.write("snapshots", "something else");
    let outcome = filed.start_with(&["--checkpoint-dir", "snapshots"]).end();
    says(&filed, &outcome, failed, "snapshot-path", &names);
    let mut pod = home.keep();
    rig.passes(200, &mut [&mut pod]);
    assert!(pod.ended.is_empty(), "{:?}", pod.ended);
    rig.finish(vec![pod]);
}

/// The SQL of a job as one line of YAML, so that certificates may be in it.
fn in_one_line(job: &str) -> String {
    let (head, sql) = job.split_once("  sql: |\n").unwrap();
    format!("{head}  sql: {}\n", Value::from(sql))
}

#[test]
#[ignore = "needs the lab"]
fn long_rights_that_are_missing_are_named_one_after_the_other_and_granted_the_job_runs() {
    let brokers = Brokers::up(1, &["--secure"]);
    let ca = std::fs::read_to_string(brokers.file("certs/ca.crt")).unwrap();
    let closed = std::fs::read_to_string(brokers.file("bootstrap.sasl_ssl")).unwrap().trim().to_owned();
    let rig = Rig::new(Address { job: closed.clone(), test: brokers.servers.clone() }, "");
    let login = format!(
        "', 'properties.security.protocol' = 'SASL_SSL', 'properties.sasl.mechanism' = 'SCRAM-SHA-512',
         'properties.sasl.username' = 'lab', 'properties.sasl.password' = 'lab-secret', 'properties.ssl.ca.pem' = '{ca}'"
    );
    let servers = format!("'properties.bootstrap.servers' = '{closed}");
    let job = in_one_line(&rig.job).replace(&format!("{servers}'"), &(servers + &escaped(&login)));
    let home = Home::new(&job, &rig.uid, "");
    let names = [(rig.uid.as_str(), UID), (closed.as_str(), "kafka:9092")];
    let grant = |what: &[&str]| {
        brokers.tool("acls", &[&["--add", "--allow-principal", "User:lab", "--operation", "All"], what].concat());
    };
    let Topics { input, copies, totals } = &rig.topics;
    grant(&["--topic", input, "--topic", copies, "--topic", totals]);
    says(&home, &home.start(&[]).end(), (3, "ConnectorFailed"), "no-right-to-transactional-id", &names);
    grant(&["--transactional-id", "millstream-", "--resource-pattern-type", "prefixed"]);
    says(&home, &home.start(&[]).end(), (3, "StateFailed"), "no-right-to-topics", &names);
    grant(&["--topic", "millstream-", "--resource-pattern-type", "prefixed"]);
    says(&home, &home.start(&[]).end(), (3, "ConnectorFailed"), "no-right-to-group", &names);
    grant(&["--group", "millstream-", "--resource-pattern-type", "prefixed"]);
    let mut pod: Kept = home.keep();
    rig.passes(200, &mut [&mut pod]);
    assert!(pod.ended.is_empty(), "{:?}", pod.ended);
    rig.finish(vec![pod]);
}

/// As a part of a string in JSON.
fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

#[test]
#[ignore = "needs the lab"]
fn an_internal_topic_that_somebody_else_made_is_not_used() {
    let rig = Rig::new(Address::plain(&servers()), "");
    let changelog = format!("millstream-{}-changelog", rig.uid);
    create_topic_at(&servers(), &changelog, 3, &[]);
    let home = rig.home();
    says(
        &home,
        &home.start(&[]).end(),
        (3, "StateFailed"),
        "internal-topic-made-by-another",
        &[(rig.uid.as_str(), UID)],
    );
    delete_topic(&changelog);
    let mut pod = home.keep();
    rig.passes(200, &mut [&mut pod]);
    rig.finish(vec![pod]);
}

fn delete_topic(name: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", servers());
    let admin: rdkafka::admin::AdminClient<rdkafka::client::DefaultClientContext> = config.create().unwrap();
    let options = rdkafka::admin::AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
    let deleted = futures::executor::block_on(admin.delete_topics(&[name], &options)).unwrap();
    deleted.into_iter().for_each(|result| assert!(result.is_ok(), "{result:?}"));
}
