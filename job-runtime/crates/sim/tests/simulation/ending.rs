//! What must hold when a run is over: the answer, the snapshots, and that nothing is left lying about.
//!
//! Owns I6 and I9 for snapshots. It reads the object store beside its faults.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use checkpoint::snapshot::{ObjectId, Place};

use super::oracle::i9_nothing_is_left_on_the_broker;
use super::pod::Job;
use super::run::Run;
use super::snapshots;

/// Checks a run; `whole` if its output should be complete, which it cannot be when some of the input was lost.
pub(crate) fn check(run: &mut Run, whole: bool) -> Result<(), String> {
    run.wait_behind()?;
    if whole {
        let input: Vec<_> = run.rows.iter().flatten().copied().collect();
        run.reader.i1_i3_all_is_there(&input, &run.windows)?;
    }
    i9_nothing_is_left_on_the_broker(&run.job.world, 3)?;
    run.end_all();
    run.job.look_at_changelog();
    // The checks of snapshots are calls to the store: a task of their own does them, while no pod lives.
    let done = Rc::new(RefCell::new(None));
    let (job, result) = (Rc::clone(&run.job), Rc::clone(&done));
    run.job.world.spawn(async move {
        let checked = i6_i9_snapshots(&job).await;
        result.borrow_mut().replace(checked);
    });
    while done.borrow().is_none() {
        run.pass(1_000);
    }
    done.take().unwrap_or(Ok(()))?;
    run.job.found.borrow().clone().map_or(Ok(()), Err)
}

fn failed(what: &'static str) -> impl Fn(snapshots::Failed) -> String {
    move |error| format!("I6: {what}: {error:?}")
}

/// I6: every checkpoint that exists can be restored, and is what the changelog says. I9: behind the last retention, every object is one that a
/// checkpoint refers to.
async fn i6_i9_snapshots(job: &Rc<Job>) -> Result<(), String> {
    let checkpoints = snapshots::checkpoints(job).await.map_err(failed("the checkpoints cannot be read"))?;
    for manifest in &checkpoints {
        for entry in &manifest.entries {
            let read = snapshots::shard(job, manifest, entry).await;
            let disk = read.map_err(failed("a checkpoint cannot be restored"))?;
            job.archive.borrow_mut().i3_state_is_its_log(entry.shard, &disk, "a checkpoint")?;
        }
    }
    job.world.sleep(1_000).await;
    let kept = snapshots::remove_old(job, job.world.now_ms(), 0).await.map_err(failed("retention"))?;
    let mut referenced: BTreeSet<ObjectId> = BTreeSet::new();
    for manifest in &kept {
        referenced.insert(manifest.id());
        for entry in &manifest.entries {
            referenced.insert(entry.manifest.clone());
            let shard = snapshots::shard_manifest(job, manifest, entry).await.map_err(failed("a manifest"))?;
            referenced.extend(shard.files.into_iter().filter_map(|file| match file.place {
                Place::Object(id) => Some(id),
                Place::Inline(_) => None,
            }));
        }
    }
    for object in job.store.peek() {
        let id = snapshots::prefix().parse(&object.key);
        if !id.is_some_and(|id| referenced.contains(&id)) {
            return Err(format!("I9: object {} is left, and nothing refers to it", object.key));
        }
    }
    Ok(())
}
