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
    /// What its rows stand for, also when it is at its end.
    rows_ms: i64,
    /// Since when polls have found nothing.
    pending_since_ms: Option<u64>,
}

impl PartitionTime {
    /// Of a partition that is read from its beginning, or from a place whose rows stand for `known_ms`.
    fn new(known_ms: Option<i64>) -> Self {
        let rows_ms = known_ms.unwrap_or(NO_WATERMARK).min(END_OF_TIME - 1);
        Self { time: EventTime { watermark_ms: rows_ms, idle: false }, rows_ms, pending_since_ms: None }
    }
}

impl SourceWatermarks {
    /// Without partitions yet. No partition at all is the end of time, unless the source is `growing`.
    pub fn new(idle_timeout: Option<Duration>, growing: bool) -> Self {
        Self {
            partitions: Vec::new(),
            growing,
            idle_timeout_ms: idle_timeout.map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            combined: EventTime::START,
        }
    }

    /// A partition takes the place of one that is at its end, or a new one. `known_ms` is what [`Self::reached`] said of it before. If nothing
    /// is known it holds the watermark where it is until it has rows.
    pub fn add(&mut self, place: usize, known_ms: Option<i64>) {
        let new = PartitionTime::new(known_ms);
        match self.partitions.get_mut(place) {
            Some(slot) => *slot = new,
            None => self.partitions.push(new),
        }
    }

    /// What a partition's next reader is to begin with: what its rows stand for, or the combined watermark if that is ahead of it, because the
    /// partition was idle and did not count. The minimum over partitions is the same with it, so none need know where the others were.
    pub fn reached(&self, place: usize) -> Option<i64> {
        let combined = Some(self.combined.watermark_ms).filter(|&ms| ms != END_OF_TIME).unwrap_or(NO_WATERMARK);
        let reached = self.partitions[place].rows_ms.max(combined);
        (reached != NO_WATERMARK).then_some(reached)
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
            slot.rows_ms = slot.rows_ms.max(watermark.min(END_OF_TIME - 1));
            slot.time.watermark_ms = slot.time.watermark_ms.max(slot.rows_ms);
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
        *slot = PartitionTime { time, pending_since_ms: None, ..*slot };
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
    use proptest::prelude::*;

    fn at(watermark_ms: i64) -> EventTime {
        EventTime { watermark_ms, idle: false }
    }

    fn of_two(idle_timeout: Option<Duration>, known_ms: [Option<i64>; 2]) -> SourceWatermarks {
        let mut source = SourceWatermarks::new(idle_timeout, false);
        known_ms.into_iter().enumerate().for_each(|(place, known)| source.add(place, known));
        source
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
        assert_eq!(SourceWatermarks::new(None, false).take_change(), Some(EventTime::END));
    }

    #[test]
    fn a_growing_source_has_no_end_and_a_new_partition_holds_the_watermark_until_it_has_rows() {
        let mut source = SourceWatermarks::new(None, true);
        assert_eq!(source.take_change(), Some(EventTime { watermark_ms: NO_WATERMARK, idle: true }));
        source.add(0, None);
        source.on_rows(0, Some(50));
        assert_eq!(source.take_change(), Some(at(50)));
        source.on_end(0);
        assert_eq!(source.take_change(), Some(EventTime { watermark_ms: 50, idle: true }));
        source.add(0, None);
        assert_eq!(source.take_change(), Some(at(50)));
        source.add(1, None);
        source.on_rows(0, Some(90));
        assert_eq!(source.take_change(), None);
        source.on_rows(1, Some(70));
        assert_eq!(source.take_change(), Some(at(70)));
    }

    #[test]
    fn a_partition_without_rows_becomes_idle_after_the_timeout_and_comes_back() {
        let mut source = of_two(Some(Duration::from_millis(100)), [None, None]);
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

    #[test]
    fn time_goes_on_from_what_partitions_had_reached() {
        assert_eq!(of_two(None, [Some(50), Some(40)]).take_change(), Some(at(40)), "no row is needed");
        let mut source = of_two(None, [Some(50), None]);
        assert_eq!(source.take_change(), None, "the other one was never heard of");
        source.on_rows(1, Some(45));
        assert_eq!(source.take_change(), Some(at(45)));
        source.on_rows(0, Some(30));
        source.on_rows(1, Some(60));
        assert_eq!(source.take_change(), Some(at(50)), "a late row does not turn time back");
        assert_eq!([source.reached(0), source.reached(1)], [Some(50), Some(60)]);
    }

    #[test]
    fn a_known_partition_counts_until_its_idle_timeout_begins_anew_and_is_over() {
        let mut source = of_two(Some(Duration::from_millis(100)), [Some(50), Some(40)]);
        assert_eq!(source.take_change(), Some(at(40)));
        source.on_pending(1, 5_000);
        assert_eq!(source.take_change(), None);
        source.on_pending(1, 5_100);
        assert_eq!(source.take_change(), Some(at(50)));
        assert_eq!(source.reached(1), Some(50), "its next rows count against what went on without it");
    }

    #[test]
    fn the_end_of_the_input_is_not_kept() {
        let mut source = of_two(None, [None, None]);
        source.on_rows(0, Some(50));
        source.on_end(0);
        source.on_end(1);
        assert_eq!(source.take_change(), Some(EventTime::END));
        assert_eq!([source.reached(0), source.reached(1)], [Some(50), None], "more may be added behind it");
        assert_eq!(of_two(None, [Some(END_OF_TIME), Some(3)]).take_change(), Some(at(3)));
    }

    proptest! {
        /// Whatever happened before: with what each had reached, a new reader of the same partitions is where the old one was.
        #[test]
        fn the_combined_time_is_the_minimum_of_what_each_had_reached(
            steps in proptest::collection::vec((0..3usize, proptest::option::of(0..100i64)), 0..40),
        ) {
            let mut source = SourceWatermarks::new(Some(Duration::from_millis(1)), false);
            (0..3).for_each(|place| source.add(place, None));
            for (now, (place, watermark)) in steps.into_iter().enumerate() {
                match watermark {
                    Some(watermark) => source.on_rows(place, Some(watermark)),
                    None => source.on_pending(place, now as u64),
                }
                source.take_change();
            }
            let mut next = SourceWatermarks::new(None, false);
            (0..3).for_each(|place| next.add(place, source.reached(place)));
            next.take_change();
            prop_assert_eq!(next.combined().watermark_ms, source.combined().watermark_ms);
        }
    }
}
