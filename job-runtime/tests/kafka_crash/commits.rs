//! Every step of a start and of a commit, cut in the first or second one, when there is something to lose.

use job_runtime::crash::Step;

use super::readings::{EACH, Rig};
use super::{ended_well, places};

/// Readings that the first process is fed with: the rest stays for the one after it.
const FIRST: u64 = 600;

pub(crate) fn cases() -> Vec<String> {
    let mut cases = Vec::new();
    for step in Step::COMMIT {
        let time = match step {
            Step::Fence | Step::Topics | Step::Assign | Step::Restore => 1,
            _ => 2,
        };
        // The step that decides, asked for and never heard of.
        let unsent = (step == Step::End).then_some("unsent");
        cases.extend(places(step).chain(unsent).map(|place| format!("{}:{place}:{time}", step.name())));
    }
    cases
}

pub(crate) fn cut(point: &str) {
    let mut rig = Rig::new("  shards: 4\n", EACH);
    let mut dying = rig.start(&[&format!("MILLSTREAM_CRASH={point}")], &[]);
    assert!(!rig.feed_until(&mut dying, FIRST, |_| false));
    ended_well(point, &dying.end());
    let mut running = rig.start(&[], &[]);
    rig.feeder.send(FIRST);
    rig.compare_all(&mut running);
    rig.stop(running);
}
