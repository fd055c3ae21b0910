//! Retention and savepoints: what a savepoint refers to stays as long as it is there, and what only it refers to goes with the clean-up behind its
//! removal.

use std::collections::BTreeSet;
use std::time::Duration;

use checkpoint::snapshot::ObjectId;
use checkpoint::snapshot::retention::Retention;
use tokio_util::sync::CancellationToken;

use super::rig::{self, Kind, Rig};
use crate::snapshot::remove::Found;
use crate::snapshot::restore;
use crate::snapshot::retain::Keeper;

/// The shards' manifests that the savepoint has; each is read.
fn shards(rig: &Rig) -> BTreeSet<ObjectId> {
    let store = rig.store.as_ref();
    let (_, parts) = restore::savepoint(store, rig::UID, "one").unwrap().unwrap();
    let entries = parts.iter().flat_map(|part| part.entries.iter().map(move |entry| (part, entry)));
    entries
        .map(|(part, entry)| {
            restore::shard(store, part, entry).unwrap();
            entry.manifest.clone()
        })
        .collect()
}

#[test]
fn what_only_a_savepoint_refers_to_goes_when_it_is_removed_and_not_before() {
    let mut rig = Rig::new(Kind::Kafka);
    rig.commits(9);
    rig.savepoint("one");
    for _ in 0..3 {
        rig.commits(9);
        rig.take().unwrap();
    }
    let mut keeper = Keeper::new(Retention { count: 1, age_ms: u64::MAX }, Duration::ZERO);
    // Objects of one millisecond are of one age.
    std::thread::sleep(Duration::from_millis(5));
    keeper.run(rig.store.as_ref(), rig::UID).unwrap();
    assert_eq!(restore::numbers(rig.store.as_ref(), 0).unwrap(), [4], "the savepoint's checkpoint is gone");
    let own = shards(&rig);
    assert_eq!(own.len(), usize::from(rig::SHARDS));

    Found::find(&rig.location("one"), &CancellationToken::new()).unwrap().remove().unwrap();
    assert!(own.is_subset(&rig.objects()), "removing takes nothing but the savepoint's own objects");
    keeper.run(rig.store.as_ref(), rig::UID).unwrap();
    assert!(own.is_disjoint(&rig.objects()), "nothing refers to them any more");
    rig.check_all_restorable();
    rig.lose_and_restart();
    rig.check_state(36);
}
