//! The start of a process behind its fence: local state, or a snapshot, or nothing; then the changelog's tail; then where the sources go on.
//!
//! Owns the calls. Which state is right is `checkpoint::snapshot::choice`'s to say.

use std::rc::Rc;

use checkpoint::snapshot::choice::{self, LocalShard, LogBounds};
use checkpoint::snapshot::{CheckpointManifest, ShardEntry};
use checkpoint::{changelog, names};
use dataflow::key::ShardId;
use dataflow::shuffle::Place as ShufflePlace;
use dataflow::state::{LogOffset, ShardStore};
use dataflow::testing::Disk;
use sim::message::{Answer, ErrorCode, Isolation, Place, Request};
use sim::world::{CallError, Connection, World};

use super::archive::Archive;
use super::commit::{CALL_TIMEOUT_MS, Ended, JOB, UID, changelog_place};
use super::job::{INPUT, exchange_uid};
use super::machine::{Disks, Store};
use super::member::Member;
use super::mutant::Mutant;
use super::pod::Job;
use super::snapshots::{self, Failed};

const AGAIN_US: u64 = 20_000;
/// Markers of those who owned a shard before come a moment after their last commit.
const STABLE_MS: u64 = 3_000;

/// What a process goes on from.
pub(crate) struct Restored {
    pub(crate) stores: Vec<Store>,
    /// The pod's partitions of the input, and where each goes on.
    pub(crate) sources: Vec<(i32, i64)>,
    /// Per shard, in the order of the stores: where other pods' messages are read on, and where they ended at the start.
    pub(crate) inboxes: Vec<(i64, i64)>,
}

pub(crate) fn shuffle_place(shard: ShardId) -> Place {
    (names::shuffle_topic(UID, exchange_uid()), i32::from(shard.0))
}

/// First offset and end of a partition.
pub(crate) async fn edges(world: &World, connection: Connection, of: Place) -> Result<(i64, i64), Ended> {
    match world.call(connection, CALL_TIMEOUT_MS, Request::ListOffsets { of }).await? {
        Answer::Edges(low, high) => Ok((low, high)),
        other => unreachable!("{other:?}"),
    }
}

/// Brings the pod's shards up to the end of their log.
pub(crate) async fn restore(job: &Rc<Job>, disks: &Disks, member: &mut Member) -> Result<Restored, Ended> {
    let (world, connection) = (&job.world, job.world.connect());
    job.look_at_changelog();
    let own = member.shards();
    let floors: Vec<_> = own.iter().map(|shard| job.archive.borrow().last(*shard)).collect();
    let mut snapshots = None;
    let mut restored = Restored { stores: Vec::new(), sources: Vec::new(), inboxes: Vec::new() };
    for (shard, floor) in own.into_iter().zip(floors) {
        let disk = &disks.now[usize::from(shard.0)];
        let (low, high) = edges(world, connection, changelog_place(shard)).await?;
        choose(job, disk, (shard, LogBounds { low, high }), &mut snapshots).await?;
        let mut store = disks.store(shard);
        tail(job, connection, &mut store, low).await?;
        check(job, shard, disk, floor);
        member.process.restored(shard.0);
        let place = ShufflePlace::stored(&store, job.shards, exchange_uid()).expect("the state is ours");
        let end = edges(world, connection, shuffle_place(shard)).await?.1;
        restored.inboxes.push((place.map_or(0, |place| place.next_offset), end));
        restored.stores.push(store);
    }
    restored.sources = sources(job, connection, member).await?;
    Ok(restored)
}

fn check(job: &Rc<Job>, shard: ShardId, disk: &Disk, floor: Option<LogOffset>) {
    job.look_at_changelog();
    let state = job.archive.borrow_mut().i3_state_is_its_log(shard, disk, "restored");
    let age = Archive::i6_not_older(shard, floor, disk);
    if let Err(wrong) = state.and(age) {
        job.wrong(wrong);
    }
}

/// The checkpoints that can be read, read once per start.
type Checkpoints = Option<Vec<CheckpointManifest>>;

/// Puts the right state onto the disk: what is there, the newest snapshot that can be read, or nothing.
async fn choose(
    job: &Rc<Job>,
    disk: &Disk,
    (shard, log): (ShardId, LogBounds),
    snapshots: &mut Checkpoints,
) -> Result<(), Ended> {
    let local = match disk.applied() {
        None => LocalShard::Missing,
        applied => LocalShard::At(applied),
    };
    let unchecked = job.mutant == Some(Mutant::LocalUnchecked) && local != LocalShard::Missing;
    if unchecked || choice::start(local, log, &[]).local {
        return Ok(());
    }
    if snapshots.is_none() {
        *snapshots = Some(snapshots::checkpoints(job).await.map_err(|_| Ended::Failed)?);
    }
    let all = snapshots.iter().flatten();
    let mut of_shard: Vec<(&CheckpointManifest, &ShardEntry)> =
        all.filter_map(|manifest| Some((manifest, manifest.entry(shard)?))).collect();
    of_shard.sort_by_key(|(_, entry)| std::cmp::Reverse(entry.offset));
    let offsets: Vec<Option<LogOffset>> = of_shard.iter().map(|(_, entry)| entry.offset).collect();
    let choice = choice::start(local, log, &offsets);
    for index in choice.snapshots {
        let (manifest, entry) = of_shard[index];
        match snapshots::shard(job, manifest, entry).await {
            Ok(found) => {
                disk.replace(&found);
                job.counts.borrow_mut().restored += 1;
                let whole = job.archive.borrow_mut().i3_state_is_its_log(shard, disk, "a snapshot");
                whole.unwrap_or_else(|wrong| job.wrong(wrong));
                return Ok(());
            }
            Err(Failed::Damaged | Failed::Overtaken) => job.counts.borrow_mut().damage_found += 1,
            Err(Failed::Store) => return Err(Ended::Failed),
        }
    }
    // Else the state is lost, unless the next try can read what this one could not.
    if choice.empty {
        disk.replace(&Disk::default());
        return Ok(());
    }
    Err(Ended::Failed)
}

/// Applies what the changelog has and the store does not.
async fn tail(job: &Rc<Job>, connection: Connection, store: &mut Store, low: i64) -> Result<(), Ended> {
    let (world, shard, begin) = (&job.world, store.shard(), job.world.now_ms());
    let mut offset = store.applied().map_or(0, |applied| applied.0 + 1);
    if low > offset {
        if job.mutant != Some(Mutant::LocalUnchecked) {
            return Err(Ended::Failed);
        }
        offset = low;
    }
    loop {
        let (from, isolation) = (changelog_place(shard), Isolation::ReadCommitted);
        let request = Request::Fetch { from, offset, most: 200, isolation };
        let Answer::Fetched(fetched) = world.call(connection, CALL_TIMEOUT_MS, request).await? else {
            unreachable!("a fetch fetches")
        };
        for (at, record) in &fetched.records {
            let value = record.value.as_deref().expect("a changelog record has a value");
            let changes = changelog::decode(JOB, shard, value).expect("the changelog is ours");
            store.apply(&changes, LogOffset(*at)).map_err(|_| Ended::Failed)?;
        }
        offset = fetched.next_offset;
        if offset == fetched.high_watermark {
            return Ok(());
        }
        if offset == fetched.last_stable_offset {
            // Somebody's transaction is open here: not ours, for we have fenced our former selves.
            if world.now_ms() > begin + STABLE_MS {
                return Err(Ended::Failed);
            }
            world.sleep(AGAIN_US).await;
        }
    }
}

/// The pod's partitions of the input, and where their committed offsets stand.
async fn sources(job: &Rc<Job>, connection: Connection, member: &Member) -> Result<Vec<(i32, i64)>, Ended> {
    let own: Vec<i32> = (0..job.partitions).filter(|partition| member.reads(INPUT, *partition)).collect();
    let partitions: Vec<Place> = own.iter().map(|partition| (INPUT.to_owned(), *partition)).collect();
    loop {
        let (group, partitions) = (names::consumer_group(UID), partitions.clone());
        let request = Request::OffsetFetch { group, partitions, require_stable: true };
        match job.world.call(connection, CALL_TIMEOUT_MS, request).await {
            Ok(Answer::Offsets(offsets)) => {
                return Ok(own.into_iter().zip(offsets.into_iter().map(|offset| offset.max(0))).collect());
            }
            Err(CallError::Refused(ErrorCode::UnstableOffsetCommit)) => job.world.sleep(AGAIN_US).await,
            Ok(_) | Err(_) => return Err(Ended::Failed),
        }
    }
}
