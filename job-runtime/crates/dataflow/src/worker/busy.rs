//! Where a worker's time goes: how long each stream operator was at work itself, without what it gave on to others.
//!
//! Owns the counting. It has no clock of its own: whoever runs the worker may give it one that only measures, and nothing that a worker does
//! depends on it.

/// Nanoseconds of some clock that never goes back.
pub type Stopwatch = Box<dyn Fn() -> u64 + Send>;

/// The operator that is at work now, and what each had so far.
#[derive(Default)]
pub(super) struct Busy {
    stopwatch: Option<Stopwatch>,
    /// `None` between steps.
    current: Option<usize>,
    since_ns: u64,
    /// By node.
    spent_ns: Vec<u64>,
}

impl Busy {
    pub(super) fn measure(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = Some(stopwatch);
    }

    /// `node` begins to work, called by whoever worked until now, which is returned for [`Busy::leave`].
    pub(super) fn enter(&mut self, node: usize) -> Option<usize> {
        self.change(Some(node))
    }

    /// The work goes back to whoever called.
    pub(super) fn leave(&mut self, caller: Option<usize>) {
        self.change(caller);
    }

    pub(super) fn spent_ns(&self, node: usize) -> u64 {
        self.spent_ns.get(node).copied().unwrap_or(0)
    }

    fn change(&mut self, next: Option<usize>) -> Option<usize> {
        let Some(stopwatch) = &self.stopwatch else { return None };
        let now = stopwatch();
        if let Some(current) = self.current {
            if self.spent_ns.len() <= current {
                self.spent_ns.resize(current + 1, 0);
            }
            self.spent_ns[current] += now.saturating_sub(self.since_ns);
        }
        self.since_ns = now;
        std::mem::replace(&mut self.current, next)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn each_has_its_own_time_without_that_of_whom_it_calls() {
        let now = Arc::new(AtomicU64::new(100));
        let clock = Arc::clone(&now);
        let mut busy = Busy::default();
        busy.measure(Box::new(move || clock.load(Ordering::Relaxed)));
        let pass = |ns| now.fetch_add(ns, Ordering::Relaxed);
        pass(1000);
        let outside = busy.enter(0);
        pass(1);
        let source = busy.enter(2);
        pass(10);
        busy.leave(source);
        pass(2);
        busy.leave(outside);
        pass(1000);
        let outside = busy.enter(2);
        pass(20);
        busy.leave(outside);
        assert_eq!([0, 1, 2, 3].map(|node| busy.spent_ns(node)), [3, 0, 30, 0]);
    }

    #[test]
    fn without_a_stopwatch_nothing_is_counted() {
        let mut busy = Busy::default();
        let outside = busy.enter(0);
        busy.leave(outside);
        assert_eq!(busy.spent_ns(0), 0);
    }
}
