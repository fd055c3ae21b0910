//! The independent reader: reads both outputs with `read_committed` while faults happen, and finds at once what must never be seen.
//!
//! I1 and I2 of the bar: of each source partition the copies are, at every moment, exactly the beginning of what was sent, in its order: none
//! left out, none twice. Each window is there at most once, with its right values. It shares no code with the runtime.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;

use super::broker::Reader;
use super::rig::{PARTITIONS, PER_SECOND, SENSORS, Topics};

#[derive(Default)]
struct Seen {
    /// Per source partition: the next number that may come.
    next: [u64; PARTITIONS as usize],
    /// Readings that only close windows.
    ends: u64,
    /// Sensor and second.
    windows: BTreeSet<(u64, u64)>,
    wrong: Option<String>,
}

/// What a row of one of the outputs means.
type Read = fn(&mut Seen, &Value) -> Result<(), String>;

/// See the module's documentation.
pub(crate) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Seen {
    fn copied(&self) -> u64 {
        self.next.iter().sum()
    }

    /// The stateless sink: `{"id": …}`.
    fn copy(&mut self, row: &Value) -> Result<(), String> {
        let Some(id) = row["id"].as_u64() else {
            self.ends += 1;
            return if self.ends <= PARTITIONS { Ok(()) } else { Err(format!("{} ends", self.ends)) };
        };
        let partition = id % PARTITIONS;
        let next = &mut self.next[partition as usize];
        let wanted = *next * PARTITIONS + partition;
        if id != wanted {
            return Err(format!("copies of partition {partition}: {id} where {wanted} must come"));
        }
        *next += 1;
        Ok(())
    }

    /// The windowed sink: a sensor's readings of one second.
    fn total(&mut self, row: &Value) -> Result<(), String> {
        let field = |name: &str| row[name].as_u64().ok_or_else(|| format!("{row} has no {name}"));
        let (sensor, second) = (field("sensor")?, field("least")? / PER_SECOND);
        let readings: Vec<u64> = readings(sensor, second).collect();
        let wanted = (readings[0], readings.len() as u64, readings.iter().sum());
        let got = (field("least")?, field("n")?, field("total")?);
        if got != wanted {
            return Err(format!("sensor {sensor}, second {second}: {got:?}, not {wanted:?}"));
        }
        if !self.windows.insert((sensor, second)) {
            return Err(format!("twice: sensor {sensor}, second {second}"));
        }
        Ok(())
    }

    fn see(&mut self, text: &str, read: Read) {
        let row = serde_json::from_str(text).map_err(|e| format!("{text}: {e}"));
        if let Err(wrong) = row.and_then(|row| read(self, &row)) {
            self.wrong.get_or_insert(wrong);
        }
    }
}

/// The numbers of a sensor's readings in a whole second of event time.
fn readings(sensor: u64, second: u64) -> impl Iterator<Item = u64> {
    (second * PER_SECOND..(second + 1) * PER_SECOND).filter(move |id| id % SENSORS == sensor)
}

impl Watcher {
    pub(crate) fn start(servers: &str, topics: &Topics) -> Self {
        let (seen, stop) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let mut readers: [(Reader, Read); 2] = [
            (Reader::at(servers, &topics.copies, 1), Seen::copy),
            (Reader::at(servers, &topics.totals, 1), Seen::total),
        ];
        let (told, stopped) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (reader, read) in &mut readers {
                    // Brokers may be away: then nothing is read, and whoever waits for something sees that.
                    while reader.try_poll(Duration::from_millis(2)).unwrap_or(false) {}
                    let mut seen = told.lock().unwrap();
                    reader.values.drain(..).for_each(|text| seen.see(&text, *read));
                }
            }
        });
        Self { seen, stop, thread: Some(thread) }
    }

    fn with<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.seen.lock().unwrap())
    }

    /// Nothing wrong was seen so far.
    pub(crate) fn check(&self) {
        let wrong = self.with(|seen| seen.wrong.clone());
        assert!(wrong.is_none(), "{}", wrong.unwrap_or_default());
    }

    pub(crate) fn copied(&self) -> u64 {
        self.with(Seen::copied)
    }

    pub(crate) fn windows(&self) -> u64 {
        self.with(|seen| seen.windows.len() as u64)
    }

    pub(crate) fn counts(&self) -> String {
        format!("{} copies, {} windows", self.copied(), self.windows())
    }

    /// True when everything that must come out of so many readings is there.
    pub(crate) fn complete(&self, sent: u64) -> bool {
        self.with(|seen| seen.copied() + seen.ends >= sent + PARTITIONS && seen.windows.len() >= windows(sent))
    }

    /// Nothing more may come now.
    pub(crate) fn finish(mut self, sent: u64) {
        std::thread::sleep(Duration::from_millis(300));
        self.end();
        self.check();
        let counts = self.with(|seen| (seen.copied(), seen.ends, seen.windows.len()));
        assert_eq!(counts, (sent, PARTITIONS, windows(sent)));
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the watcher failed");
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.end();
    }
}

fn windows(sent: u64) -> usize {
    (sent / PER_SECOND * SENSORS) as usize
}
