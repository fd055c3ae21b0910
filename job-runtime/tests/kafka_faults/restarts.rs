//! Three brokers, everything on all of them: each in turn is killed and started again while the job runs.

use std::time::{Duration, Instant};

use super::lab::Brokers;
use super::rig::{Address, Rig};

/// Readings that must come out while a broker is away, and after it is back.
const READINGS: u64 = 100;
/// The transactions of a broker that is lost are another's after this time at most; then everything goes on.
const BACK: Duration = Duration::from_secs(30);

#[test]
#[ignore = "needs the lab"]
fn long_each_of_three_brokers_is_killed_and_started_again_and_nothing_is_lost_or_twice() {
    // Found missing soon, so that another leads what it led.
    let brokers =
        Brokers::up(3, &["--set", "broker.session.timeout.ms=3000", "--set", "broker.heartbeat.interval.ms=500"]);
    let rig = Rig::at_pace(Address::plain(&brokers.servers), "", 100);
    let mut pod = rig.home().keep();
    rig.passes(READINGS, &mut [&mut pod]);
    for number in 1..=3 {
        brokers.kill(number);
        let away = Instant::now();
        rig.passes(READINGS, &mut [&mut pod]);
        let stalled = away.elapsed();
        assert!(stalled < BACK, "{stalled:?} without broker {number}");
        brokers.start(number);
        rig.passes(READINGS, &mut [&mut pod]);
        println!("broker {number} killed: {READINGS} readings more after {:.1} s", stalled.as_secs_f64());
    }
    let ended = pod.ended.clone();
    let right = |reason: &str| matches!(reason, "CommitFailed" | "ConnectorFailed" | "Fenced" | "StateFailed");
    assert!(ended.iter().all(|(reason, _)| right(reason)), "{ended:?}");
    let sent = rig.finish(vec![pod]);
    println!("three brokers killed in turn, the pod ended {} times; {sent} readings exact", ended.len());
}
