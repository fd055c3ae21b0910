//! Processes that sleep: SIGSTOP at named points of a start and of a commit, past the transaction's timeout, a replacement of the same pod
//! meanwhile, then SIGCONT. Who wakes to find another at work writes nothing more and ends as `Fenced`.

use std::time::Duration;

use super::lab::Brokers;
use super::rig::{Address, Home, Kept, Rig, last_outcome};
use super::workshop::Running;

/// The broker ends a sleeper's transaction after this time, and looks every half second.
const TIMEOUT: &str = ", 'properties.transaction.timeout.ms' = '2000'";
const SWEEP: &str = "transaction.abort.timed.out.transaction.cleanup.interval.ms=500";
/// Longer than the timeout and a look of the broker.
const PAST: Duration = Duration::from_millis(3_000);

/// True when the kernel has stopped the process.
fn is_stopped(process: &Running) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// A home whose process sleeps at a point.
fn asleep(rig: &Rig, point: &str) -> (Home, Running) {
    let home = rig.home();
    let mut process = home.start(&[&format!("MILLSTREAM_SLEEP={point}")]);
    process.wait_until(point, || {
        rig.watcher.check();
        home.said().contains("stopped at a crash point")
    });
    while !is_stopped(&process) {
        assert!(process.runs(), "{}", home.said());
        std::thread::yield_now();
    }
    (home, process)
}

/// Sleeps at `point` while another process of the same pod, with nothing on its disk, takes over; wakes when that one is well on its way.
fn replaced(address: &Address, point: &str) {
    let rig = Rig::new(address.clone(), TIMEOUT);
    let (sleeper, process) = asleep(&rig, point);
    let mut replacement = rig.home().keep();
    rig.passes(200, &mut [&mut replacement]);
    process.signal("CONT");
    let outcome = process.end();
    let (reason, message) = last_outcome(&sleeper, &outcome);
    assert_eq!(reason, "Fenced", "{point}: {message}");
    rig.passes(200, &mut [&mut replacement]);
    assert!(replacement.ended.is_empty(), "{point}: the one at work is left alone: {:?}", replacement.ended);
    let sent = rig.finish(vec![replacement]);
    println!("{point}: slept, was replaced, ended as Fenced; {sent} readings exact");
}

/// Sleeps before its own fence: when it wakes it is the newer process, and takes over by right. The other one ends as `Fenced`.
fn wakes_into_its_fence(address: &Address) {
    let rig = Rig::new(address.clone(), TIMEOUT);
    let (sleeper, process) = asleep(&rig, "fence:before");
    let other = rig.home();
    let mut working = other.start(&[]);
    let goal = 400;
    working.wait_until("copies", || {
        rig.watcher.check();
        rig.watcher.copied() >= goal
    });
    process.signal("CONT");
    let (reason, message) = last_outcome(&other, &working.end());
    assert_eq!(reason, "Fenced", "{message}");
    let mut sleeper = sleeper.keep_running(process);
    rig.passes(200, &mut [&mut sleeper]);
    assert!(sleeper.ended.is_empty(), "{:?}", sleeper.ended);
    let sent = rig.finish(vec![sleeper]);
    println!("fence:before: slept, woke, took over; {sent} readings exact");
}

/// Nobody takes over: the broker ends the transaction by itself. What was in it is lost to the sleeper, who must not go on from memory.
fn alone(address: &Address, point: &str) {
    let rig = Rig::new(address.clone(), TIMEOUT);
    let (home, process) = asleep(&rig, point);
    std::thread::sleep(PAST);
    process.signal("CONT");
    let mut pod = home.keep_running(process);
    rig.passes(200, &mut [&mut pod]);
    let reasons: Vec<&str> = pod.ended.iter().map(|(reason, _)| reason.as_str()).collect();
    assert!(reasons.iter().all(|reason| matches!(*reason, "Fenced" | "CommitFailed")), "{:?}", pod.ended);
    let ended = pod.ended.len();
    let sent = rig.finish(vec![pod]);
    println!("{point}: slept alone past the timeout, ended {ended} times; {sent} readings exact");
}

/// SIGSTOP from outside at any moment, again and again, each time longer than the timeout and with a replacement.
fn at_any_moment(address: &Address) {
    let rig = Rig::new(address.clone(), TIMEOUT);
    let mut moments = super::workshop::Moments::new();
    let mut working = rig.home().keep();
    for _ in 0..3 {
        rig.passes(100, &mut [&mut working]);
        std::thread::sleep(moments.between(1, 60));
        let sleeper = working.running.take().unwrap();
        sleeper.signal("STOP");
        let mut next: Kept = rig.home().keep();
        rig.passes(100, &mut [&mut next]);
        sleeper.signal("CONT");
        let (reason, message) = last_outcome(&working.home, &sleeper.end());
        assert_eq!(reason, "Fenced", "{message}");
        working = next;
    }
    let sent = rig.finish(vec![working]);
    println!("3 times stopped at any moment; {sent} readings exact");
}

#[test]
#[ignore = "needs the lab"]
fn long_a_process_that_slept_past_its_replacement_writes_nothing_more_and_ends_as_fenced() {
    let brokers = Brokers::up(1, &["--set", SWEEP]);
    let address = Address::plain(&brokers.servers);
    // Before, inside and after a commit; and at a start right behind its own fence.
    for point in ["fence:after", "poll:after:3", "flush:after:2", "end:before:3", "end:after:3"] {
        replaced(&address, point);
    }
    wakes_into_its_fence(&address);
    at_any_moment(&address);
    for point in ["write:after:2", "end:before:3"] {
        alone(&address, point);
    }
}
