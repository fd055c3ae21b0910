//! The S3 server is slow, answers with errors, says nothing or cuts connections while a job runs and when one starts: commits go on, the status
//! says what is wrong, the next snapshot after it heals is whole, and a pod that has lost its disk goes on from it.

use aws_config::BehaviorVersion;
use serde_json::Value;

use super::broker::{servers, unique};
use super::gate::{Gate, Mode};
use super::rig::{Address, Home, Kept, Rig, status};

pub(crate) fn endpoint() -> String {
    std::env::var("AWS_ENDPOINT_URL").expect(
        "AWS_ENDPOINT_URL is not set: these tests need an S3 server. `make test` starts one; by hand: `make lab`, then use the environment that it prints",
    )
}

/// A new bucket on the lab's server.
pub(crate) fn bucket() -> String {
    let name = unique("faults");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shared = aws_config::defaults(BehaviorVersion::latest()).load().await;
        let config = aws_sdk_s3::config::Builder::from(&shared).force_path_style(true).build();
        let made = aws_sdk_s3::Client::from_conf(config).create_bucket().bucket(&name).send().await;
        made.unwrap_or_else(|e| panic!("no bucket at {}: {e:?}", endpoint()));
    });
    name
}

/// A pod whose snapshots, one a second, go to a bucket at this address.
pub(crate) fn home(rig: &Rig, server: &str, bucket: &str) -> Home {
    let job = rig.job.replace("spec:\n", "spec:\n  checkpoint: {interval: 1s, retention: {count: 2}}\n");
    let s3 = format!("bucket: {bucket}, endpoint: '{server}', region: us-east-1, pathStyle: true");
    Home::new(&job, &rig.uid, &format!("checkpoints:\n  s3: {{{s3}}}\n"))
}

/// What the pod says of its snapshots; nothing while it does not answer.
pub(crate) fn snapshots(pod: u16) -> Option<Value> {
    status(pod).map(|status| status["snapshots"].clone()).filter(Value::is_object)
}

pub(crate) fn count(pod: u16, field: &str) -> u64 {
    snapshots(pod).and_then(|told| told[field].as_u64()).unwrap_or(0)
}

/// Breaks the server while the pod works, and heals it.
fn broken(rig: &Rig, gate: &Gate, pod: &mut Kept, mode: Mode) {
    let port = pod.home.control;
    let (failed, taken) = (count(port, "failed"), count(port, "taken"));
    gate.set(mode);
    let fails = match mode {
        Mode::Answers(_) | Mode::Cuts => true,
        // What is only slow works in the end, and what is silent is given up after minutes: longer than a test may wait.
        Mode::Slow | Mode::Silent | Mode::Open => false,
    };
    if fails {
        rig.wait(&format!("a failed snapshot at {mode:?}"), &mut [&mut *pod], || count(port, "failed") > failed);
        let told = snapshots(port).unwrap();
        let error = told["error"].as_str().unwrap_or_default();
        assert!(error.contains("s3://"), "{mode:?}: the status names the place: {told}");
    } else {
        rig.wait("a snapshot under way", &mut [&mut *pod], || gate.came() > 0);
    }
    // The job does not care.
    rig.passes(400, &mut [&mut *pod]);
    assert_eq!(status(port).unwrap()["phase"], "Running");
    gate.set(Mode::Open);
    rig.wait("a snapshot after it healed", &mut [&mut *pod], || {
        count(port, "taken") > taken && snapshots(port).is_some_and(|told| told["error"].is_null())
    });
    println!("{mode:?}: commits went on, and snapshots after it: {}", snapshots(port).unwrap());
}

#[test]
#[ignore = "needs the lab"]
fn a_store_that_fails_or_is_slow_stops_no_commit_and_is_used_again_when_it_heals() {
    let server = endpoint();
    let gate = Gate::new(server.trim_start_matches("http://"));
    let rig = Rig::new(Address::plain(&servers()), "");
    let mut pod = home(&rig, &format!("http://127.0.0.1:{}", gate.port), &bucket()).keep();
    let port = pod.home.control;
    rig.wait("a first snapshot", &mut [&mut pod], || count(port, "taken") > 0);
    for mode in [Mode::Answers(503), Mode::Answers(500), Mode::Cuts, Mode::Slow, Mode::Silent] {
        broken(&rig, &gate, &mut pod, mode);
    }
    assert!(pod.ended.is_empty(), "{:?}", pod.ended);
    // The disk is lost, and the store answers with errors: the start says so; when the store is back, the next start goes on.
    assert!(pod.running.take().unwrap().kill_after(std::time::Duration::ZERO));
    std::fs::remove_dir_all(pod.home.shop.path("state")).unwrap();
    gate.set(Mode::Answers(503));
    let running = pod.home.start(&[]);
    let (reason, message) = super::rig::last_outcome(&pod.home, &running.end());
    assert!(reason == "StateFailed" && message.contains("s3://"), "{reason}: {message}");
    gate.set(Mode::Open);
    pod.mend();
    rig.passes(200, &mut [&mut pod]);
    assert!(pod.home.shop.read(".stderr").contains("restored from a snapshot"), "{}", pod.home.said());
    let sent = rig.finish(vec![pod]);
    println!("the store was broken in five ways; {sent} readings exact");
}
