//! Nexmark events from their number.
//!
//! Owns the benchmark's proportions and distributions: of 50 events one is a person, three are auctions, 46 are bids; half of the bids go
//! to the hot auction, three quarters of the bids come from the hot bidder, half from a hot channel; ids of auctions and people that are
//! referred to are recent ones; prices are log-uniform over six powers of ten; `extra` pads rows to 100 (bid), 200 (person), 500 (auction)
//! bytes on average. Every value is a pure function of seed, event and column, so that only the columns that are needed are made, a column
//! at a time. Strings of letters are cut from one pool of random letters.

mod columns;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray};
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, SchemaRef};

use super::super::generated::{below, random};
use columns::ColumnKind;
pub(super) use columns::columns;

pub(super) const EVENTS_PER_EPOCH: u64 = 50;
const PEOPLE: u64 = 1;
const AUCTIONS: u64 = 3;
const BIDS: u64 = 46;

const FIRST_PERSON: u64 = 1000;
const FIRST_AUCTION: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// Of as many ids one is hot, and moves on with them.
const HOT_STEP: u64 = 100;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const AUCTION_LEAD: u64 = 10;
const ACTIVE_PEOPLE: u64 = 1000;
const PERSON_LEAD: u64 = 10;
const CHANNELS: u64 = 10_000;

const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
const FIRST_NAMES: [&str; 11] =
    ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter"];
const LAST_NAMES: [&str; 9] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris"];
const CITIES: [&str; 10] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];

/// Length of the pool of letters, a power of two; the longest string is appended to it again.
const POOL: usize = 1 << 16;
const LONGEST: usize = 1024;

/// One of the three streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Person,
    Auction,
    Bid,
}

impl Stream {
    pub(super) fn per_epoch(self) -> u64 {
        match self {
            Stream::Person => PEOPLE,
            Stream::Auction => AUCTIONS,
            Stream::Bid => BIDS,
        }
    }

    /// Place of the stream's first event in an epoch.
    fn first(self) -> u64 {
        match self {
            Stream::Person => 0,
            Stream::Auction => PEOPLE,
            Stream::Bid => PEOPLE + AUCTIONS,
        }
    }

    /// How many of the first `events` events are of this stream.
    pub(super) fn rows_of(self, events: u64) -> u64 {
        let rest = (events % EVENTS_PER_EPOCH).saturating_sub(self.first()).min(self.per_epoch());
        events / EVENTS_PER_EPOCH * self.per_epoch() + rest
    }

    /// The event that is the stream's row `row`.
    #[inline]
    fn event(self, row: u64) -> u64 {
        match self {
            Stream::Person => row * EVENTS_PER_EPOCH,
            Stream::Auction => row / AUCTIONS * EVENTS_PER_EPOCH + PEOPLE + row % AUCTIONS,
            Stream::Bid => row / BIDS * EVENTS_PER_EPOCH + PEOPLE + AUCTIONS + row % BIDS,
        }
    }
}

/// When events happen.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventTimes {
    pub(super) base_ms: u64,
    /// Events in a second of event time.
    pub(super) per_second: u64,
}

impl EventTimes {
    #[inline]
    fn of(self, event: u64) -> i64 {
        (self.base_ms + event * 1000 / self.per_second).cast_signed()
    }
}

/// Makes rows of one stream.
pub(super) struct Generator {
    stream: Stream,
    columns: Vec<ColumnKind>,
    schema: SchemaRef,
    times: EventTimes,
    seed: u64,
    letters: Vec<u8>,
    prices: Vec<u64>,
    urls: Vec<String>,
    events: Vec<u64>,
}

impl Generator {
    pub(super) fn new(
        stream: Stream,
        columns: Vec<ColumnKind>,
        schema: SchemaRef,
        times: EventTimes,
        seed: u64,
    ) -> Self {
        let mut letters: Vec<u8> = (0..POOL as u64)
            .map(|i| b'a' + u8::try_from(below(random(seed ^ 0x1e77e5, i), 26)).expect("below 26"))
            .collect();
        letters.extend_from_within(..LONGEST);
        let urls = if columns.contains(&ColumnKind::Url) { urls(&letters, seed) } else { Vec::new() };
        Generator { stream, columns, schema, times, seed, letters, prices: price_table(), urls, events: Vec::new() }
    }

    /// `count` rows of the stream: `row`, `row + step`, …
    pub(super) fn rows(&mut self, row: u64, step: u64, count: usize) -> Result<RecordBatch, String> {
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        events.extend((0..count as u64).map(|i| self.stream.event(row + i * step)));
        let arrays = self.columns.iter().zip(self.schema.fields()).map(|(&kind, field)| {
            let array = self.column(kind, &events)?;
            match field.data_type() {
                DataType::Timestamp(_, Some(zone)) => {
                    let plain = array.as_any().downcast_ref::<TimestampMillisecondArray>();
                    Ok(match plain {
                        Some(plain) => Arc::new(plain.clone().with_timezone(zone.clone())) as ArrayRef,
                        None => array,
                    })
                }
                _ => Ok(array),
            }
        });
        let arrays = arrays.collect::<Result<Vec<_>, String>>()?;
        self.events = events;
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options).map_err(|e| e.to_string())
    }

    fn column(&self, kind: ColumnKind, events: &[u64]) -> Result<ArrayRef, String> {
        // Every column has random numbers of its own.
        let key = random(self.seed, 1 + kind as u64);
        let bits = |event: u64| random(key, event);
        let integers = |value: &dyn Fn(u64) -> u64| integers(events, value);
        let text = |width: usize, write: &dyn Fn(u64, &mut Vec<u8>)| strings(events, width, write);
        let pick = |list: &'static [&'static str]| {
            strings(events, 10, &|e, out| out.extend_from_slice(pick(list, bits(e)).as_bytes()))
        };
        match kind {
            ColumnKind::Id => Ok(integers(&|e| self.own_id(e))),
            ColumnKind::Auction => Ok(collect_integers(events.iter().map(|&e| auction_of_bid(e, bits(e))))),
            ColumnKind::Bidder => Ok(collect_integers(events.iter().map(|&e| bidder(e, bits(e))))),
            ColumnKind::Price | ColumnKind::InitialBid => {
                Ok(collect_integers(events.iter().map(|&e| price(&self.prices, bits(e)))))
            }
            ColumnKind::Reserve => {
                let initial = random(self.seed, 1 + ColumnKind::InitialBid as u64);
                Ok(integers(&|e| price(&self.prices, random(initial, e)) + price(&self.prices, bits(e))))
            }
            ColumnKind::Seller => Ok(integers(&|e| seller(e, bits(e)))),
            ColumnKind::Category => Ok(integers(&|e| FIRST_CATEGORY + below(bits(e), CATEGORIES))),
            ColumnKind::DateTime => Ok(times(events.iter().map(|&e| self.times.of(e)))),
            ColumnKind::Expires => Ok(times(events.iter().map(|&e| self.expires(e, bits(e))))),
            ColumnKind::Extra => self.extra(events, key),
            ColumnKind::Channel => text(12, &|e, out| channel(self.channel_bits(e), out)),
            ColumnKind::Url => text(70, &|e, out| self.url(self.channel_bits(e), out)),
            ColumnKind::Name => text(16, &|e, out| {
                out.extend_from_slice(self::pick(&FIRST_NAMES, bits(e)).as_bytes());
                out.push(b' ');
                out.extend_from_slice(self::pick(&LAST_NAMES, bits(e).rotate_left(32)).as_bytes());
            }),
            ColumnKind::Email => text(20, &|e, out| {
                out.extend_from_slice(self.letters(bits(e), 7));
                out.push(b'@');
                out.extend_from_slice(self.letters(bits(e) >> 20, 5));
                out.extend_from_slice(b".com");
            }),
            ColumnKind::CreditCard => text(20, &|e, out| credit_card(bits(e), out)),
            ColumnKind::City => pick(&CITIES),
            ColumnKind::State => pick(&STATES),
            ColumnKind::ItemName => self.short_text(events, key, 20),
            ColumnKind::Description => self.short_text(events, key, 100),
        }
    }

    /// `length` letters from the pool, by the lowest bits.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "only the lowest bits are used")]
    fn letters(&self, bits: u64, length: usize) -> &[u8] {
        let start = bits as usize & (POOL - 1);
        &self.letters[start..start + length]
    }

    fn own_id(&self, event: u64) -> u64 {
        let (epoch, place) = (event / EVENTS_PER_EPOCH, event % EVENTS_PER_EPOCH);
        match self.stream {
            Stream::Person => FIRST_PERSON + epoch,
            Stream::Auction | Stream::Bid => FIRST_AUCTION + epoch * AUCTIONS + place - PEOPLE,
        }
    }

    fn channel_bits(&self, event: u64) -> u64 {
        random(random(self.seed, 1 + ColumnKind::Channel as u64), event)
    }

    fn url(&self, bits: u64, out: &mut Vec<u8>) {
        let index = match hot_channel(bits) {
            Some(hot) => hot,
            None => HOT_CHANNELS.len() + usize::try_from(cold_channel(bits)).expect("below CHANNELS"),
        };
        out.extend_from_slice(self.urls[index].as_bytes());
    }

    /// An auction lives for up to twice the time in which all auctions in flight are made.
    fn expires(&self, event: u64, bits: u64) -> i64 {
        let until = event + AUCTIONS_IN_FLIGHT * EVENTS_PER_EPOCH / AUCTIONS;
        let horizon = (self.times.of(until) - self.times.of(event)).cast_unsigned();
        self.times.of(event) + 1 + below(bits, (horizon * 2).max(1)).cast_signed()
    }

    fn short_text(&self, events: &[u64], key: u64, longest: usize) -> Result<ArrayRef, String> {
        const SHORTEST: u64 = 3;
        strings(events, longest, &|e, out| {
            let bits = random(key, e);
            let length = SHORTEST + below(bits, longest as u64 - SHORTEST + 1);
            out.extend_from_slice(self.letters(bits, usize::try_from(length).expect("short")));
        })
    }

    /// Pads the row to its average size, a fifth more or less.
    fn extra(&self, events: &[u64], key: u64) -> Result<ArrayRef, String> {
        let (average, others) = match self.stream {
            Stream::Bid => (100, 32),
            Stream::Person => (200, 90),
            Stream::Auction => (500, 140),
        };
        let wanted = average - others;
        let delta = wanted / 5;
        let mut bytes = Vec::with_capacity(events.len() * (wanted + delta));
        let mut ends = Vec::with_capacity(events.len() + 1);
        ends.push(0);
        for &event in events {
            let bits = random(key, event);
            let length = wanted - delta + usize::try_from(below(bits, 2 * delta as u64)).expect("short");
            bytes.extend_from_slice(self.letters(bits, length));
            ends.push(i32::try_from(bytes.len()).map_err(|_| "the batch is too long".to_owned())?);
        }
        string_array(bytes, ends)
    }
}

fn collect_integers(values: impl Iterator<Item = u64>) -> ArrayRef {
    Arc::new(Int64Array::from(values.map(u64::cast_signed).collect::<Vec<i64>>()))
}

fn integers(events: &[u64], value: &dyn Fn(u64) -> u64) -> ArrayRef {
    collect_integers(events.iter().map(|&event| value(event)))
}

fn times(values: impl Iterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from(values.collect::<Vec<i64>>()))
}

fn strings(events: &[u64], width: usize, write: &dyn Fn(u64, &mut Vec<u8>)) -> Result<ArrayRef, String> {
    let mut bytes = Vec::with_capacity(events.len() * width);
    let mut ends = Vec::with_capacity(events.len() + 1);
    ends.push(0);
    for &event in events {
        write(event, &mut bytes);
        ends.push(i32::try_from(bytes.len()).map_err(|_| "the batch is too long".to_owned())?);
    }
    string_array(bytes, ends)
}

fn string_array(bytes: Vec<u8>, ends: Vec<i32>) -> Result<ArrayRef, String> {
    let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
    Ok(Arc::new(StringArray::try_new(offsets, bytes.into(), None).map_err(|e| e.to_string())?))
}

fn pick(list: &'static [&'static str], bits: u64) -> &'static str {
    list[usize::try_from(below(bits, list.len() as u64)).expect("an index")]
}

/// Half of the bids go to the hot auction, the others to one of the last ones or one of the next.
#[inline]
fn auction_of_bid(event: u64, bits: u64) -> u64 {
    let last = event / EVENTS_PER_EPOCH * AUCTIONS + AUCTIONS - 1;
    let id = if bits & 1 == 0 {
        last / HOT_STEP * HOT_STEP
    } else {
        let first = last.saturating_sub(AUCTIONS_IN_FLIGHT);
        first + below(bits, last - first + 1 + AUCTION_LEAD)
    };
    FIRST_AUCTION + id
}

/// Three of four bids come from the hot bidder.
#[inline]
fn bidder(event: u64, bits: u64) -> u64 {
    let last = event / EVENTS_PER_EPOCH;
    let id = if bits & 3 == 0 { active_person(last, bits) } else { last / HOT_STEP * HOT_STEP + 1 };
    FIRST_PERSON + id
}

/// Three of four auctions are the hot seller's.
fn seller(event: u64, bits: u64) -> u64 {
    let last = event / EVENTS_PER_EPOCH;
    let id = if bits & 3 == 0 { active_person(last, bits) } else { last / HOT_STEP * HOT_STEP };
    FIRST_PERSON + id
}

#[inline]
fn active_person(last: u64, bits: u64) -> u64 {
    let people = last + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + below(bits, active + PERSON_LEAD)
}

/// Steps of the price table: powers of ten in between are interpolated.
const PRICE_STEPS: usize = 1 << 10;

/// `100 · 10^(6 · i / steps)`: prices in cents from one to a million.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
fn price_table() -> Vec<u64> {
    let price = |i: usize| (10f64.powf(i as f64 / PRICE_STEPS as f64 * 6.0) * 100.0).round() as u64;
    (0..=PRICE_STEPS).map(price).collect()
}

#[inline]
fn price(table: &[u64], bits: u64) -> u64 {
    let step = usize::try_from(bits >> 54).expect("ten bits");
    let (low, high) = (table[step], table[step + 1]);
    low + (((high - low) * (bits >> 22 & 0xffff_ffff)) >> 32)
}

/// Half of the bids come over one of four channels.
#[inline]
fn hot_channel(bits: u64) -> Option<usize> {
    (bits & 1 == 0).then(|| usize::try_from(bits >> 1 & 3).expect("two bits"))
}

fn cold_channel(bits: u64) -> u64 {
    below(bits, CHANNELS)
}

fn channel(bits: u64, out: &mut Vec<u8>) {
    match hot_channel(bits) {
        Some(hot) => out.extend_from_slice(HOT_CHANNELS[hot].as_bytes()),
        None => {
            out.extend_from_slice(b"channel-");
            out.extend_from_slice(itoa::Buffer::new().format(cold_channel(bits)).as_bytes());
        }
    }
}

/// One URL per channel, the hot ones first; nine of ten of the others name their channel.
fn urls(letters: &[u8], seed: u64) -> Vec<String> {
    let key = random(seed, 0x0075_726c);
    let word = |bits: u64, shift: u32| {
        let start = usize::try_from(bits >> shift & (POOL as u64 - 1)).expect("inside the pool");
        String::from_utf8_lossy(&letters[start..start + 5]).into_owned()
    };
    let url = |index: u64| {
        let bits = random(key, index);
        let base =
            format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", word(bits, 0), word(bits, 16), word(bits, 32));
        match index.checked_sub(HOT_CHANNELS.len() as u64) {
            Some(channel) if bits >> 60 != 0 => {
                let reversed = u32::try_from(channel).expect("below CHANNELS").reverse_bits() & 0x7fff_ffff;
                format!("{base}&channel_id={reversed}")
            }
            Some(_) | None => base,
        }
    };
    (0..HOT_CHANNELS.len() as u64 + CHANNELS).map(url).collect()
}

fn credit_card(bits: u64, out: &mut Vec<u8>) {
    for group in 0..4 {
        let digits = below(random(bits, group), 10_000);
        out.extend_from_slice(format!("{}{digits:04}", if group == 0 { "" } else { " " }).as_bytes());
    }
}
