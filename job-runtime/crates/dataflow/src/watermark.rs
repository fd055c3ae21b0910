//! Event time: the watermark of a source's partitions and the minimum over the inputs of a stream operator.
//!
//! Owns the arithmetic only. It never reads a clock (the caller says what time it is) and moves no rows.

use std::time::Duration;

/// "No watermark yet".
pub const NO_WATERMARK: i64 = i64::MIN;
/// The end of time: a bounded input is at its end.
pub const END_OF_TIME: i64 = i64::MAX;

/// What an edge says about event time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventTime {
    /// No row with a smaller or equal event time is expected any more; [`NO_WATERMARK`] before the first, [`END_OF_TIME`] at the end.
    pub watermark_ms: i64,
    /// True while the edge must not hold back the watermark of what reads it.
    pub idle: bool,
}

impl EventTime {
    /// Nothing is known.
    pub const START: EventTime = EventTime { watermark_ms: NO_WATERMARK, idle: false };
    /// Nothing will follow.
    pub const END: EventTime = EventTime { watermark_ms: END_OF_TIME, idle: false };

    /// True at the end of a bounded input.
    pub fn is_end(self) -> bool {
        self.watermark_ms == END_OF_TIME
    }

    /// The watermark, if there is one (the end of time counts as one).
    pub fn known(self) -> Option<i64> {
        (self.watermark_ms != NO_WATERMARK).then_some(self.watermark_ms)
    }
}

/// Combines the event time of several inputs: the minimum over those that are not idle, never going back. If all are idle, the maximum,
/// because then none of them holds anything back.
#[derive(Clone, Debug)]
pub struct MinOfInputs {
    inputs: Vec<EventTime>,
    combined: EventTime,
}

impl MinOfInputs {
    /// For `inputs` inputs of which nothing is known.
    pub fn new(inputs: usize) -> Self {
        Self { inputs: vec![EventTime::START; inputs], combined: EventTime::START }
    }

    /// What is known of all.
    pub fn combined(&self) -> EventTime {
        self.combined
    }

    /// Sets what is known of some inputs, whatever was known of them before; returns the combined event time if that changed. It does not go
    /// back: if one of the inputs is behind it, it stands still.
    pub fn replace(&mut self, inputs: impl Iterator<Item = (usize, EventTime)>) -> Option<EventTime> {
        inputs.for_each(|(input, time)| self.inputs[input] = time);
        self.combine()
    }

    /// Takes news of one input; returns the combined event time if that changed.
    pub fn update(&mut self, input: usize, time: EventTime) -> Option<EventTime> {
        let slot = &mut self.inputs[input];
        if *slot == time {
            return None;
        }
        *slot = EventTime { watermark_ms: time.watermark_ms.max(slot.watermark_ms), idle: time.idle };
        self.combine()
    }

    fn combine(&mut self) -> Option<EventTime> {
        let next = combine(self.inputs.iter().copied(), self.combined);
        (next != self.combined).then(|| {
            self.combined = next;
            next
        })
    }
}

fn combine(inputs: impl Iterator<Item = EventTime>, before: EventTime) -> EventTime {
    let (mut least, mut greatest, mut idle, mut ended) = (END_OF_TIME, NO_WATERMARK, true, true);
    // An input at its end holds nothing back, but while another one can still send, this is not the end of time.
    for input in inputs.filter(|input| !input.is_end()) {
        ended = false;
        greatest = greatest.max(input.watermark_ms);
        if !input.idle {
            idle = false;
            least = least.min(input.watermark_ms);
        }
    }
    if ended {
        return EventTime::END;
    }
    let watermark_ms = if idle { greatest } else { least };
    EventTime { watermark_ms: watermark_ms.max(before.watermark_ms), idle }
}

/// Event time of the partitions of one source node on one worker.
#[derive(Clone, Debug)]
pub struct SourceWatermarks {
    partitions: Vec<PartitionTime>,
    idle_timeout_ms: Option<u64>,
    /// More partitions may be added: the end of all is not the end of time.
    growing: bool,
    combined: EventTime,
}

#[derive(Clone, Copy, Debug)]
struct PartitionTime {
    time: EventTime,
    /// Since when polls have found nothing.
    pending_since_ms: Option<u64>,
}

impl PartitionTime {
    const START: Self = Self { time: EventTime::START, pending_since_ms: None };
}

impl SourceWatermarks {
    /// For `partitions` partitions of which nothing is known. No partition at all is the end of time, unless the source is `growing`.
    pub fn new(partitions: usize, idle_timeout: Option<Duration>, growing: bool) -> Self {
        Self {
            partitions: vec![PartitionTime::START; partitions],
            growing,
            idle_timeout_ms: idle_timeout.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            combined: EventTime::START,
        }
    }

    /// A partition of which nothing is known takes the place of one that is at its end, or a new one. It holds the watermark where it is
    /// until it has rows.
    pub fn add(&mut self, place: usize) {
        match self.partitions.get_mut(place) {
            Some(slot) => *slot = PartitionTime::START,
            None => self.partitions.push(PartitionTime::START),
        }
    }

    /// Event time of all partitions, as last taken.
    pub fn combined(&self) -> EventTime {
        self.combined
    }

    /// Rows came; `watermark_ms` is the greatest that they stand for, if the table has one.
    pub fn on_rows(&mut self, partition: usize, watermark_ms: Option<i64>) {
        let slot = &mut self.partitions[partition];
        slot.pending_since_ms = None;
        slot.time.idle = false;
        if let Some(watermark) = watermark_ms {
            // The end of time is reached only by the end of the input, whatever a row says.
            slot.time.watermark_ms = slot.time.watermark_ms.max(watermark.min(END_OF_TIME - 1));
        }
    }

    /// A poll found nothing.
    pub fn on_pending(&mut self, partition: usize, now_ms: u64) {
        let Some(timeout) = self.idle_timeout_ms else { return };
        let slot = &mut self.partitions[partition];
        let since = *slot.pending_since_ms.get_or_insert(now_ms);
        if now_ms.saturating_sub(since) >= timeout {
            slot.time.idle = true;
        }
    }

    /// The partition is at its end.
    pub fn on_end(&mut self, partition: usize) {
        let slot = &mut self.partitions[partition];
        // What follows may be older than the end of time: the partition only holds nothing back any more.
        let time = if self.growing { EventTime { idle: true, ..slot.time } } else { EventTime::END };
        *slot = PartitionTime { time, pending_since_ms: None };
    }

    /// No more partitions are added: the end of all is the end of time.
    pub fn close(&mut self) {
        self.growing = false;
    }

    /// The combined event time, if it changed since it was last taken.
    pub fn take_change(&mut self) -> Option<EventTime> {
        let next = match self.partitions.is_empty() && self.growing {
            true => EventTime { idle: true, ..self.combined },
            false => combine(self.partitions.iter().map(|p| p.time), self.combined),
        };
        (next != self.combined).then(|| {
            self.combined = next;
            next
        })
    }

    /// When the next partition becomes idle if nothing comes.
    pub fn idle_due_ms(&self) -> Option<u64> {
        let timeout = self.idle_timeout_ms?;
        let waiting = self.partitions.iter().filter(|p| !p.time.idle);
        waiting.filter_map(|p| p.pending_since_ms).map(|since| since.saturating_add(timeout)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(watermark_ms: i64) -> EventTime {
        EventTime { watermark_ms, idle: false }
    }

    #[test]
    fn the_slowest_input_decides_and_time_never_goes_back() {
        let mut min = MinOfInputs::new(2);
        assert_eq!(min.update(0, at(10)), None);
        assert_eq!(min.update(1, at(4)), Some(at(4)));
        assert_eq!(min.update(1, at(2)), None);
        assert_eq!(min.update(1, at(12)), Some(at(10)));
        assert_eq!(min.update(0, EventTime::END), Some(at(12)));
        assert_eq!(min.update(1, EventTime::END), Some(EventTime::END));
    }

    #[test]
    fn idle_inputs_hold_nothing_back() {
        let mut min = MinOfInputs::new(2);
        min.update(0, at(10));
        min.update(1, at(4));
        assert_eq!(min.update(1, EventTime { watermark_ms: 4, idle: true }), Some(at(10)));
        assert_eq!(min.update(1, at(5)), None, "an input that comes back late does not turn time back");
        min.update(0, EventTime { watermark_ms: 20, idle: true });
        assert_eq!(
            min.update(1, EventTime { watermark_ms: 5, idle: true }),
            Some(EventTime { watermark_ms: 20, idle: true })
        );
    }

    #[test]
    fn an_input_that_is_replaced_holds_time_where_it_is_until_it_has_caught_up() {
        let mut min = MinOfInputs::new(3);
        for (input, time) in [(0, 10), (1, 50), (2, 60)] {
            min.update(input, at(time));
        }
        assert_eq!(min.combined(), at(10));
        assert_eq!(min.replace([(1, EventTime::START), (2, EventTime::END)].into_iter()), None);
        assert_eq!(min.update(0, at(60)), None, "what was known of the other input does not count any more");
        assert_eq!(min.update(1, at(5)), None);
        assert_eq!(min.update(1, at(20)), Some(at(20)));
    }

    #[test]
    fn an_idle_partition_beside_an_ended_one_is_not_the_end() {
        let mut min = MinOfInputs::new(2);
        min.update(0, EventTime { watermark_ms: 7, idle: true });
        assert_eq!(min.update(1, EventTime::END), Some(EventTime { watermark_ms: 7, idle: true }));
        assert_eq!(min.update(0, EventTime::END), Some(EventTime::END));
    }

    #[test]
    fn a_source_without_partitions_is_at_its_end() {
        assert_eq!(SourceWatermarks::new(0, None, false).take_change(), Some(EventTime::END));
    }

    #[test]
    fn a_growing_source_has_no_end_and_a_new_partition_holds_the_watermark_until_it_has_rows() {
        let mut source = SourceWatermarks::new(0, None, true);
        assert_eq!(source.take_change(), Some(EventTime { watermark_ms: NO_WATERMARK, idle: true }));
        source.add(0);
        source.on_rows(0, Some(50));
        assert_eq!(source.take_change(), Some(at(50)));
        source.on_end(0);
        assert_eq!(source.take_change(), Some(EventTime { watermark_ms: 50, idle: true }));
        source.add(0);
        assert_eq!(source.take_change(), Some(at(50)));
        source.add(1);
        source.on_rows(0, Some(90));
        assert_eq!(source.take_change(), None);
        source.on_rows(1, Some(70));
        assert_eq!(source.take_change(), Some(at(70)));
    }

    #[test]
    fn a_partition_without_rows_becomes_idle_after_the_timeout_and_comes_back() {
        let mut source = SourceWatermarks::new(2, Some(Duration::from_millis(100)), false);
        source.on_rows(0, Some(50));
        source.on_pending(1, 1_000);
        assert_eq!(source.take_change(), None);
        assert_eq!(source.idle_due_ms(), Some(1_100));
        source.on_pending(1, 1_100);
        assert_eq!(source.take_change(), Some(at(50)));
        assert_eq!(source.idle_due_ms(), None);
        source.on_rows(1, Some(60));
        source.on_rows(0, Some(70));
        assert_eq!(source.take_change(), Some(at(60)));
        source.on_end(0);
        source.on_end(1);
        assert_eq!(source.take_change(), Some(EventTime::END));
    }
}
