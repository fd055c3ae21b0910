//! Clocks that are wrong and clocks that jump: a pod to whom the time of day is an hour ahead or behind, at its start and while it runs. Windows are
//! in event time, waits go by the monotonic clock, and nothing that is kept is decided by the wall clock.
//!
//! The lie is a small library before the C library's. The Kafka client's waits end at a time of day: one that is under way when the machine's own clock
//! goes back lasts longer, and that is not tried here.

use std::path::PathBuf;

use super::broker::servers;
use super::rig::{Address, Home, Kept, Rig};
use super::storage;

/// The library that lies to a process, built here.
fn library(home: &Home) -> PathBuf {
    let built = home.shop.path("clock.so");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kafka_faults/clock.c");
    let mut compiler = std::process::Command::new("cc");
    let done = compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&built).arg(source).status();
    assert!(done.is_ok_and(|status| status.success()), "no C compiler: `e2e/lab/setup build` installs one");
    built
}

/// Makes the clock so many seconds wrong, from now on.
fn lie(home: &Home, clock: &str) {
    // Read by a running process: it must never be seen half written.
    home.shop.write("clock.new", clock);
    std::fs::rename(home.shop.path("clock.new"), home.shop.path("clock")).unwrap();
}

/// The time of the pod's last commit, by its own clock, is so far from now.
fn believes(rig: &Rig, pod: &mut Kept, seconds: i64) {
    let port = pod.home.control;
    let told = || {
        let told = super::rig::status(port).and_then(|status| status["lastCommitMs"].as_i64())?;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Some(told / 1000 - now.as_secs().cast_signed())
    };
    rig.wait(&format!("a clock {seconds} s off"), &mut [&mut *pod], || {
        told().is_some_and(|off| off.abs_diff(seconds) < 60)
    });
}

#[test]
#[ignore = "needs the lab"]
fn a_clock_that_is_hours_off_or_jumps_changes_no_result() {
    let rig = Rig::new(Address::plain(&servers()), "");
    let home = storage::home(&rig, &storage::endpoint(), &storage::bucket());
    let port = home.control;
    let mut pod = home.keep();
    rig.passes(100, &mut [&mut pod]);
    let environment = [
        format!("LD_PRELOAD={}", library(&pod.home).display()),
        format!("MILLSTREAM_TEST_CLOCK={}", pod.home.shop.path("clock").display()),
    ];
    pod.environment = environment.into();
    // At a start: ahead, then behind, each behind a kill.
    for clock in ["+3600", "-3600"] {
        assert!(pod.running.take().unwrap().kill_after(std::time::Duration::ZERO));
        lie(&pod.home, clock);
        pod.mend();
        rig.passes(200, &mut [&mut pod]);
        believes(&rig, &mut pod, clock.parse().unwrap());
    }
    // While it runs: to the right time, ahead, and far back.
    for clock in ["+0", "+3600", "-7200", "+0"] {
        lie(&pod.home, clock);
        rig.passes(200, &mut [&mut pod]);
        believes(&rig, &mut pod, clock.parse().unwrap());
    }
    // The S3 server may have refused what was signed with a wrong time; now it is right again.
    let taken = storage::count(port, "taken");
    rig.wait("a snapshot", &mut [&mut pod], || {
        storage::count(port, "taken") > taken && storage::snapshots(port).is_some_and(|told| told["error"].is_null())
    });
    let ended = pod.ended.clone();
    let sent = rig.finish(vec![pod]);
    println!("clocks an hour and two off, {} ends by itself: {ended:?}; {sent} readings exact", ended.len());
    assert!(ended.is_empty(), "{ended:?}");
}
