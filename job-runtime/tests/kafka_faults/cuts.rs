//! Connections between a pod and its broker that are cut at each request of a commit and of a start, before the broker sees it and when it has
//! answered; and stalls in both directions.

use std::time::{Duration, Instant};

use super::lab::Brokers;
use super::proxy::{Proxy, Rule, kind};
use super::rig::{Address, Rig};

const TIMEOUT: &str = ", 'properties.transaction.timeout.ms' = '3000'";
const SWEEP: &str = "transaction.abort.timed.out.transaction.cleanup.interval.ms=500";

/// A broker with the proxy before it.
struct Path {
    proxy: Proxy,
    brokers: Brokers,
}

impl Path {
    fn new() -> Self {
        let proxy = Proxy::new();
        let brokers = Brokers::up(1, &["--proxy-port", &proxy.port.to_string(), "--set", SWEEP]);
        proxy.stand_before(brokers.behind_proxy());
        Self { proxy, brokers }
    }

    fn address(&self) -> Address {
        Address { job: format!("127.0.0.1:{}", self.proxy.port), test: self.brokers.servers.clone() }
    }
}

/// Cut once, and all is well again: the client repeats what it may repeat.
fn cut_once(path: &Path, kinds: &[(&str, i16)]) {
    let rig = Rig::new(path.address(), TIMEOUT);
    let mut pod = rig.home().keep();
    rig.passes(100, &mut [&mut pod]);
    for (name, kind) in kinds {
        for seen in [false, true] {
            let begin = Instant::now();
            path.proxy.set(Rule::Cut { kind: *kind, seen, dark: false });
            rig.wait(&format!("a cut at {name}"), &mut [&mut pod], || path.proxy.has_cut());
            rig.passes(40, &mut [&mut pod]);
            let place = if seen { "when the broker had answered" } else { "before the broker saw it" };
            println!("{name} cut {place}: 40 readings more after {:.1} s", begin.elapsed().as_secs_f64());
        }
    }
    let ended = pod.ended.len();
    let sent = rig.finish(vec![pod]);
    println!("{} cuts, the pod ended {ended} times; {sent} readings exact", path.proxy.cuts());
}

/// Cut at the commit, and the broker out of reach until the process has given up: the outcome is unknown, and only the log knows it.
fn cut_and_dark(path: &Path, seen: bool) {
    let rig = Rig::new(path.address(), TIMEOUT);
    let home = rig.home();
    let mut process = home.start(&[]);
    process.wait_until("copies", || {
        rig.watcher.check();
        rig.watcher.copied() >= 100
    });
    path.proxy.set(Rule::Cut { kind: kind::END_TRANSACTION, seen, dark: true });
    let (reason, message) = super::rig::last_outcome(&home, &process.end());
    assert_eq!(reason, "CommitFailed", "{message}");
    assert!(message.contains("unknown"), "{message}");
    path.proxy.set(Rule::Pass);
    let mut pod = home.keep();
    rig.passes(200, &mut [&mut pod]);
    let sent = rig.finish(vec![pod]);
    println!("the commit cut, seen by the broker: {seen}, then nothing for long: {sent} readings exact");
}

/// Nothing passes in either direction for a while. Longer than the transaction may last, the process must end; shorter, it may go on.
fn stall(path: &Path, length: Duration) {
    let rig = Rig::new(path.address(), TIMEOUT);
    let mut pod = rig.home().keep();
    rig.passes(100, &mut [&mut pod]);
    path.proxy.set(Rule::Stall);
    std::thread::sleep(length);
    path.proxy.set(Rule::Pass);
    rig.passes(200, &mut [&mut pod]);
    let ended = pod.ended.clone();
    assert!(ended.iter().all(|(reason, _)| matches!(reason.as_str(), "Fenced" | "CommitFailed")), "{ended:?}");
    let sent = rig.finish(vec![pod]);
    println!("{} s without a byte, the pod ended {} times; {sent} readings exact", length.as_secs(), ended.len());
}

#[test]
#[ignore = "needs the lab"]
fn long_connections_that_are_cut_or_stall_at_a_commit_lose_nothing_and_repeat_nothing() {
    let path = Path::new();
    let kinds = [
        ("Produce", kind::PRODUCE),
        ("AddPartitionsToTxn", kind::ADD_PARTITIONS),
        ("AddOffsetsToTxn", kind::ADD_OFFSETS),
        ("TxnOffsetCommit", kind::COMMIT_OFFSETS),
        ("EndTxn", kind::END_TRANSACTION),
    ];
    cut_once(&path, &kinds);
    cut_and_dark(&path, false);
    cut_and_dark(&path, true);
    stall(&path, Duration::from_secs(1));
    stall(&path, Duration::from_secs(5));
    start_that_is_cut(&path);
}

/// The fence of a start is cut, before and after the broker saw it.
fn start_that_is_cut(path: &Path) {
    let rig = Rig::new(path.address(), TIMEOUT);
    let mut pod = rig.home().keep();
    rig.passes(100, &mut [&mut pod]);
    for seen in [false, true] {
        assert!(pod.running.take().unwrap().kill_after(Duration::ZERO));
        path.proxy.set(Rule::Cut { kind: kind::INIT_PRODUCER_ID, seen, dark: false });
        let home = pod.home;
        pod = home.keep();
        rig.wait("a cut at InitProducerId", &mut [&mut pod], || path.proxy.has_cut());
        rig.passes(40, &mut [&mut pod]);
    }
    let sent = rig.finish(vec![pod]);
    println!("starts cut at their fence; {sent} readings exact");
}
