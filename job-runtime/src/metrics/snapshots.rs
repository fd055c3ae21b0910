//! Metrics of snapshots, for jobs that take them. Names and texts are in `list`.

use prometheus::proto::MetricFamily;

use super::{Series, family, list, one};
use crate::snapshot::thread::SnapshotView;

/// All families.
pub(super) fn collect(view: &SnapshotView, out: &mut Vec<MetricFamily>) {
    let by = |values: [(&str, f64); 2]| -> Series {
        values.into_iter().map(|(label, value)| (vec![label.to_owned()], value)).collect()
    };
    family(&list::SNAPSHOT, &by([("taken", view.taken as f64), ("failed", view.failed as f64)]), out);
    let files = [("uploaded", view.new_files as f64), ("kept", view.kept_files as f64)];
    family(&list::SNAPSHOT_FILES, &by(files), out);
    let plain = [
        (&list::SNAPSHOT_UPLOADED, view.uploaded),
        (&list::SNAPSHOT_REMOVED, view.removed),
        (&list::SNAPSHOT_DAMAGED, view.restored.damaged),
        (&list::SNAPSHOT_STORED_BYTES, view.stored),
        (&list::SNAPSHOT_STORED, view.checkpoints),
        (&list::SNAPSHOT_RESTORED_BYTES, view.restored.bytes),
    ];
    plain.into_iter().for_each(|(doc, value)| family(doc, &one(value as f64), out));
    let Some(last) = view.last_ms else { return };
    family(&list::SNAPSHOT_LAST, &one(last as f64 / 1000.0), out);
    family(&list::SNAPSHOT_LAST_BYTES, &one(view.bytes as f64), out);
    let took = [("all", view.took.as_secs_f64()), ("copy", view.copying.as_secs_f64())];
    family(&list::SNAPSHOT_LAST_DURATION, &by(took), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_has_taken_none_yet_shows_that() {
        let families = |view: &SnapshotView| {
            let mut out = Vec::new();
            collect(view, &mut out);
            out.iter().map(|family| family.name().to_owned()).collect::<Vec<_>>()
        };
        let none = families(&SnapshotView::default());
        assert!(none.contains(&list::SNAPSHOT.name.to_owned()));
        assert!(!none.contains(&list::SNAPSHOT_LAST.name.to_owned()));
        let some = families(&SnapshotView { last_ms: Some(1), ..SnapshotView::default() });
        assert!(some.contains(&list::SNAPSHOT_LAST.name.to_owned()));
    }
}
