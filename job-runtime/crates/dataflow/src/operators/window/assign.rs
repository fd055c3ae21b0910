//! Which rows of a batch lie in which window. Decides nothing else.

use std::collections::BTreeMap;

use super::groups::Rows;
use crate::graph::WindowKind;

/// The rows of a batch that lie in one window.
pub(super) enum WindowRows {
    All(usize),
    Some(Vec<u32>),
}

impl WindowRows {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::All(rows) => *rows,
            Self::Some(rows) => rows.len(),
        }
    }

    pub(super) fn rows(&self) -> Rows<'_> {
        match self {
            Self::All(rows) => Rows::All(*rows),
            Self::Some(rows) => Rows::Some(rows),
        }
    }
}

/// End of the window that holds `time`.
pub(super) fn window_end(window: WindowKind, time: i64) -> i64 {
    let WindowKind::Tumble { size_ms, offset_ms } = window;
    let into = time.wrapping_sub(offset_ms).rem_euclid(size_ms);
    time.saturating_sub(into).saturating_add(size_ms)
}

/// Window ends, ascending, with their rows. Most batches lie in one window, and neighbours in the same.
pub(super) fn split_by_window(window: WindowKind, times: &[i64]) -> Vec<(i64, WindowRows)> {
    let WindowKind::Tumble { size_ms, .. } = window;
    let (least, greatest) = times.iter().fold((i64::MAX, i64::MIN), |(lo, hi), &t| (lo.min(t), hi.max(t)));
    let last = window_end(window, greatest);
    if window_end(window, least) == last {
        return vec![(last, WindowRows::All(times.len()))];
    }
    let mut slots: BTreeMap<i64, usize> = BTreeMap::new();
    let mut rows: Vec<Vec<u32>> = Vec::new();
    let (mut start, mut end, mut slot) = (1, 0, 0);
    for (row, &time) in times.iter().enumerate() {
        if !(start..end).contains(&time) {
            end = window_end(window, time);
            start = end.saturating_sub(size_ms);
            slot = *slots.entry(end).or_insert(rows.len());
            if slot == rows.len() {
                rows.push(Vec::new());
            }
        }
        rows[slot].push(row as u32);
    }
    slots.into_iter().map(|(end, slot)| (end, WindowRows::Some(std::mem::take(&mut rows[slot])))).collect()
}
