//! Everything that the changelog ever said, kept from the moment it is committed: what the state of a shard must be at any place of it.
//!
//! Owns I3 for shards, I5 and I6: it looks at the broker beside the network and shares no code with the pods but the layout of a record.

use std::collections::BTreeMap;

use checkpoint::changelog;
use dataflow::key::ShardId;
use dataflow::state::{Change, ChangeBatch, LogOffset};
use dataflow::testing::Disk;
use sim::world::World;

use super::commit::{JOB, WRITER, changelog_place};
use super::oracle::{edges, fetch};

#[derive(Default)]
struct Shard {
    records: Vec<(i64, ChangeBatch)>,
    next: i64,
    /// The processes that wrote, in order of their first record.
    writers: Vec<u64>,
}

/// See the module's documentation.
#[derive(Default)]
pub(crate) struct Archive {
    shards: BTreeMap<ShardId, Shard>,
    /// Work of the invariants that found nothing wrong, for the report.
    pub(crate) checked: u64,
}

impl Archive {
    /// Reads all shards as far as they are stable.
    pub(crate) fn read(&mut self, world: &World, shards: impl Iterator<Item = ShardId>) -> Result<(), String> {
        for shard in shards {
            loop {
                let own = self.shards.entry(shard).or_default();
                if edges(world, changelog_place(shard)).0 > own.next {
                    return Err(format!(
                        "I6: shard {}: the changelog was trimmed before anybody could read it",
                        shard.0
                    ));
                }
                let fetched = fetch(world, changelog_place(shard), own.next);
                for (offset, record) in &fetched.records {
                    let value = record.value.as_deref().unwrap_or_default();
                    let changes = changelog::decode(JOB, shard, value).expect("the changelog is ours");
                    own.records.push((*offset, changes));
                    let writer = record.headers.iter().find(|(name, _)| name == WRITER).expect("every record has one");
                    let writer = u64::from_le_bytes(writer.1.as_slice().try_into().expect("eight bytes"));
                    i5_one_writer_after_the_other(shard, &mut own.writers, writer)?;
                }
                let moved = fetched.next_offset > own.next;
                own.next = fetched.next_offset;
                if !moved {
                    break;
                }
            }
        }
        Ok(())
    }

    /// The last record of a shard that is known.
    pub(crate) fn last(&self, shard: ShardId) -> Option<LogOffset> {
        self.shards.get(&shard)?.records.last().map(|(offset, _)| LogOffset(*offset))
    }

    /// The entries of a shard at a place of its changelog.
    pub(crate) fn at(&self, shard: ShardId, applied: Option<LogOffset>) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut entries = BTreeMap::new();
        let records = self.shards.get(&shard).into_iter().flat_map(|shard| &shard.records);
        for (_, changes) in records.take_while(|(offset, _)| applied.is_some_and(|applied| *offset <= applied.0)) {
            for change in changes.iter() {
                match change {
                    Change::Put { key, value } => drop(entries.insert(key.to_vec(), value.to_vec())),
                    Change::Delete { key } => drop(entries.remove(key)),
                    Change::DeletePrefix { prefix } => {
                        let gone = entries.range(prefix.to_vec()..).map(|(key, _): (&Vec<u8>, _)| key);
                        let gone: Vec<_> = gone.take_while(|key| key.starts_with(prefix)).cloned().collect();
                        gone.iter().for_each(|key| drop(entries.remove(key)));
                    }
                }
            }
        }
        entries
    }

    /// I3: state is what the changelog says up to where the state stands, entry by entry.
    pub(crate) fn i3_state_is_its_log(&mut self, shard: ShardId, disk: &Disk, what: &str) -> Result<(), String> {
        self.checked += 1;
        let (found, expected) = (disk.entries(), self.at(shard, disk.applied()));
        if found == expected {
            return Ok(());
        }
        let (found, expected, at) = (found.len(), expected.len(), disk.applied());
        Err(format!("I3: {what}: shard {} has {found} entries at {at:?}, its changelog {expected}", shard.0))
    }

    /// I6: what a process begins with is not older than what was committed before it had settled who wrote before it.
    pub(crate) fn i6_not_older(shard: ShardId, floor: Option<LogOffset>, disk: &Disk) -> Result<(), String> {
        if disk.applied() >= floor {
            return Ok(());
        }
        Err(format!("I6: shard {} begins at {:?}, and {floor:?} was committed before", shard.0, disk.applied()))
    }
}

/// I5: one writer of a shard at a time: what a process has committed of it is one run, with nothing of another in between.
fn i5_one_writer_after_the_other(shard: ShardId, writers: &mut Vec<u64>, writer: u64) -> Result<(), String> {
    if writers.last() == Some(&writer) {
        return Ok(());
    }
    if writers.contains(&writer) {
        return Err(format!("I5: shard {}: process {writer} has written again behind {:?}", shard.0, writers.last()));
    }
    writers.push(writer);
    Ok(())
}
