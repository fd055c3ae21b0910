//! The key group that stands for a source partition, where the state of its rows' keys lies if a plan relies on how the source is distributed.
//!
//! Owns that mapping. It lies in the shard whose owner reads the partition ([`partition_shard`]), so that state and partition move together when
//! shards do. Which plans rely on it, the planner decides.
//!
//! # The mapping, for ever
//! Of `s` shards, partition `i` has the `i / s`-th key group of shard `partition_shard(i, s)`. Partitions `i` and `j` of one shard differ in
//! `i / s`: so each has a key group of its own. A shard has `4096 / s` key groups at least, so there may be `s * (4096 / s)` partitions. State that lies so
//! belongs to one number of shards.

use dataflow::key::{KEY_GROUPS, KeyGroup, ShardId, Shards};

use crate::assignment::partition_shard;

/// How many partitions a job of so many shards can tell apart.
pub fn most_partitions(shards: Shards) -> usize {
    usize::from(KEY_GROUPS / shards.count() * shards.count())
}

/// The key group of the `index`-th partition of a table; `None` from [`most_partitions`] on.
pub fn partition_group(index: usize, shards: Shards) -> Option<KeyGroup> {
    if index >= most_partitions(shards) {
        return None;
    }
    let first = shards.groups(ShardId(partition_shard(index, shards.count()))).start;
    u16::try_from(index / usize::from(shards.count())).ok().map(|round| KeyGroup(first + round))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::assignment::Assignment;

    proptest! {
        #[test]
        fn each_partition_has_a_key_group_of_its_own_with_the_owner_of_the_partition(
            count in 1u16..=4096,
            pods in 1u16..9,
            more in 1u16..9,
            partitions in 1usize..300,
        ) {
            let shards = Shards::new(count).unwrap();
            let mut assignment = Assignment::first(count, pods.min(count));
            let partitions = partitions.min(most_partitions(shards));
            for _ in 0..2 {
                let groups: BTreeSet<KeyGroup> = (0..partitions).filter_map(|i| partition_group(i, shards)).collect();
                prop_assert_eq!(groups.len(), partitions);
                for index in 0..partitions {
                    let shard = shards.shard_of(partition_group(index, shards).unwrap());
                    let owner = assignment.owner(shard.0).unwrap();
                    let owned = assignment.owns_source(owner, "t", &index.to_string(), index);
                    prop_assert!(owned);
                }
                // State and partition go to the same pod: both follow the shard.
                assignment = assignment.rescaled(more.min(count));
            }
        }

        #[test]
        fn there_are_as_many_as_it_says(count in 1u16..=4096) {
            let shards = Shards::new(count).unwrap();
            let most = most_partitions(shards);
            let groups: BTreeSet<KeyGroup> = (0..most).filter_map(|index| partition_group(index, shards)).collect();
            prop_assert_eq!((groups.len(), partition_group(most, shards)), (most, None));
        }
    }

    #[test]
    fn the_mapping_is_for_ever() {
        let group = |index, shards| partition_group(index, Shards::new(shards).unwrap()).unwrap().0;
        assert_eq!([0, 1, 2, 7, 8, 9].map(|index| group(index, 8)), [0, 2560, 1024, 1536, 1, 2561]);
        assert_eq!([0, 1, 2, 3].map(|index| group(index, 3)), [0, 1366, 2731, 1]);
        assert_eq!(group(4095, 1), 4095);
    }
}
