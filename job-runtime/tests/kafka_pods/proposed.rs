//! The next assignment while it is proposed: who has shards works on until who gains them has their state.

use checkpoint::ownership::record::ControlRecord;
use checkpoint::proposal::{Next, Proposal};

use super::rescale::{ROUTES, counted, feed_and_count};
use super::*;

/// So many rows of results are two seconds of input.
const TWO_SECONDS: usize = 2 * ROUTES as usize;

/// Where a pod says something first.
fn place(job: &Pods, pod: usize, text: &str) -> Option<usize> {
    job.shops[pod].read(".stderr").find(text)
}

#[test]
#[ignore = "needs the lab"]
fn shards_stay_where_they_are_until_who_gains_them_has_their_state() {
    let (input, output) = (unique("ticks"), unique("counts"));
    create_topic(&input, PARTITIONS);
    create_topic(&output, 1);
    let mut job = Pods::new(2, &ticks(&input, &output));
    let stop = Arc::new(AtomicBool::new(false));
    let feeding = {
        let (stop, input) = (Arc::clone(&stop), input.clone());
        std::thread::spawn(move || feed_and_count(&input, &stop))
    };
    let mut reader = Reader::new(&output, 1);
    read_until(&mut reader, TWO_SECONDS, &mut job);
    let next = Next { number: 2, pods: 3 };
    job.say(&ControlRecord::Proposal(Proposal { next, by: 1 }));
    // Nobody has come who could take them.
    let rows = reader.values.len() + 2 * TWO_SECONDS;
    read_until(&mut reader, rows, &mut job);
    for pod in [0, 1] {
        assert!(place(&job, pod, "another assignment is proposed").is_some(), "{}", job.said());
        assert_eq!(place(&job, pod, "lost shards"), None);
        assert_eq!(job.turns(pod), (1, 0), "{}", job.said());
    }
    job.resize(3);
    job.start(2);
    job.wait_for_turns(2, (1, 0));
    let in_order =
        ["fetching what is proposed", "gained shards are fetched", "ready for what is proposed", "the pod is an owner"];
    let places: Vec<usize> = in_order.iter().map(|text| place(&job, 2, text).expect(text)).collect();
    assert!(places.is_sorted(), "{places:?}: {}", job.said());
    // Who only loses has not begun anew; the order of who notices first is nobody's.
    [0, 1].into_iter().for_each(|pod| job.wait_for_turns(pod, (1, 1)));
    let rows = reader.values.len() + TWO_SECONDS;
    read_until(&mut reader, rows, &mut job);
    stop.store(true, Ordering::Relaxed);
    let want = feeding.join().unwrap();
    read_until(&mut reader, want.len(), &mut job);
    assert_eq!(counted(&reader.values), want);
    job.stop();
}
