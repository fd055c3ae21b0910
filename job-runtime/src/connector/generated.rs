//! What the generators share: rows made from their number, so that any position can be gone to, and a pace.
//!
//! Owns random numbers by position, the source partition around a [`RowMaker`], and waiting for the clock. It does not know what rows mean.
//!
//! Stored position, version 1: `1u8 | number of the next row u64 big-endian`.

use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use dataflow::source::{PartitionId, SourceError, SourcePartition, SourcePoll, SourcePosition};
use dataflow::worker::Wake;

use super::stats::SourceStats;
use super::{ConnectorError, Start};

const VERSION: u8 = 1;
/// How often a source with a pace looks at the clock.
const TICK: Duration = Duration::from_millis(5);

/// A random number that depends on nothing but its arguments: the same for ever. (The finaliser of SplitMix64.)
#[inline]
pub(super) fn random(key: u64, number: u64) -> u64 {
    let z = key ^ number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Scales 64 random bits to `0..range`.
#[inline]
pub(super) fn below(bits: u64, range: u64) -> u64 {
    // The high half of the product is always below `range`.
    ((u128::from(bits) * u128::from(range)) >> 64) as u64
}

/// Makes rows by number.
pub(super) trait RowMaker: Send {
    /// Rows `from .. from + count`.
    fn make(&mut self, from: u64, count: usize) -> Result<RecordBatch, String>;
}

/// A partition whose rows are made.
pub(super) struct GeneratedPartition<M> {
    pub(super) id: PartitionId,
    pub(super) table: String,
    pub(super) maker: M,
    /// The next row's number.
    pub(super) next: u64,
    /// How many rows there are; `None` never ends.
    pub(super) rows: Option<u64>,
    pub(super) pace: Option<Pace>,
    pub(super) stats: Arc<SourceStats>,
}

impl<M: RowMaker> SourcePartition for GeneratedPartition<M> {
    fn id(&self) -> &PartitionId {
        &self.id
    }

    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, SourceError> {
        let left = self.rows.map_or(u64::MAX, |rows| rows.saturating_sub(self.next));
        if left == 0 {
            return Ok(SourcePoll::End);
        }
        let due = self.pace.as_ref().map_or(u64::MAX, |pace| pace.due().saturating_sub(self.next));
        let count = usize::try_from(left.min(due)).unwrap_or(usize::MAX).min(max_rows);
        if count == 0 {
            return Ok(SourcePoll::Pending);
        }
        let batch = self.maker.make(self.next, count).map_err(|message| SourceError {
            table: self.table.clone(),
            place: format!("row {}", self.next),
            message,
        })?;
        self.next += count as u64;
        self.stats.at(self.next);
        Ok(SourcePoll::Batch(batch))
    }

    fn position(&self) -> SourcePosition {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&self.next.to_be_bytes());
        SourcePosition::Opaque(bytes)
    }
}

/// The number of the next row of a stored position.
pub(super) fn next_row(table: &str, start: &Start) -> Result<u64, ConnectorError> {
    let next = match start {
        Start::First | Start::Added => Some(0),
        Start::At(SourcePosition::Opaque(bytes)) => match bytes.split_first() {
            Some((&VERSION, rest)) => rest.try_into().ok().map(u64::from_be_bytes),
            Some(_) | None => None,
        },
        Start::At(SourcePosition::Kafka { .. }) => None,
    };
    next.ok_or_else(|| ConnectorError {
        table: table.to_owned(),
        option: None,
        message: "the stored position is not a generator's: did the table's connector change? Start over with --fresh"
            .to_owned(),
    })
}

/// Lets rows out at a rate, from the row at which this process began.
pub(super) struct Pace {
    rows_per_second: f64,
    first: u64,
    begun: Instant,
    stop: Option<Sender<()>>,
    ticker: Option<JoinHandle<()>>,
}

impl Pace {
    pub(super) fn start(rows_per_second: f64, first: u64, wake: Wake) -> std::io::Result<Pace> {
        let (stop, stopped) = channel::<()>();
        let ticker = std::thread::Builder::new().name("generator-tick".to_owned()).spawn(move || {
            while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                wake();
            }
        })?;
        Ok(Pace { rows_per_second, first, begun: Instant::now(), stop: Some(stop), ticker: Some(ticker) })
    }

    /// The number of the first row that is not due yet.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float cast saturates")]
    fn due(&self) -> u64 {
        self.first.saturating_add((self.begun.elapsed().as_secs_f64() * self.rows_per_second) as u64)
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(ticker) = self.ticker.take()
            && ticker.join().is_err()
        {
            tracing::error!("the thread that wakes a generator panicked");
        }
    }
}
