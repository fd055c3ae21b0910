//! Closing the databases of shards that are lost, and fetching the files of shards that are gained, while the pod works.
//!
//! Owns the threads: closing writes what is in memory to disk, and fetching takes as long as there is state. No commit waits for either. A start
//! decides by itself what it goes on from; what is fetched here is there then, and follows the changelog until little of it is missing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use dataflow::key::{ShardId, Shards};
use tokio_util::sync::CancellationToken;

use crate::commit::kafka::{ControlTopic, Prepare};
use crate::pod::PodError;
use crate::priority;
use crate::snapshot::place::StorePlace;
use crate::snapshot::start::{self, Restored, Sources};
use crate::state::rocks::{FlushHandle, RocksDatabases, StoreGauge};

/// A worker gives a store up with the next commit that it is told of. One that has not by then keeps it open itself.
const LEFT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// What others go on writing meanwhile is read in turns, until one is as short as this, or so many were not.
const SHORT: Duration = Duration::from_millis(300);
const TURNS: usize = 10;
/// A fetch that fails is tried again, later each time: then the start does it, and says what is wrong.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// Where the state of gained shards comes from.
pub(in crate::pod) struct Fetch {
    /// The object store, if there is one: else all is in the changelog.
    pub(in crate::pod) place: Option<StorePlace>,
    /// The job.
    pub(in crate::pod) name: String,
    /// Its uid.
    pub(in crate::pod) uid: String,
    /// Its shards.
    pub(in crate::pod) shards: Shards,
    /// Where they go.
    pub(in crate::pod) databases: Arc<RocksDatabases>,
    /// To read the changelog.
    pub(in crate::pod) topic: Mutex<ControlTopic>,
}

/// See the module's documentation. Gives up what is under way when dropped, and waits for its threads.
pub(in crate::pod) struct Moving {
    fetch: Option<Arc<Fetch>>,
    fetching: Arc<AtomicBool>,
    cancel: CancellationToken,
    threads: Vec<JoinHandle<()>>,
    driver: Thread,
}

impl Moving {
    /// For the driver of this thread. Without `fetch` there is nothing to fetch from.
    pub(in crate::pod) fn new(fetch: Option<Fetch>, driver: Thread) -> Self {
        let (fetch, threads) = (fetch.map(Arc::new), Vec::new());
        Self { fetch, fetching: Arc::default(), cancel: CancellationToken::new(), threads, driver }
    }

    /// Closes databases when the workers have given them up.
    pub(in crate::pod) fn close<'a>(&mut self, stores: impl Iterator<Item = &'a StoreGauge>) {
        // Held from now on: whoever drops it last closes it, and that must not be a worker.
        let handles: Vec<FlushHandle> = stores.filter_map(StoreGauge::hold).collect();
        if handles.is_empty() {
            return;
        }
        let cancel = self.cancel.clone();
        self.start("closing", move || {
            let deadline = Instant::now() + LEFT;
            while !handles.iter().all(FlushHandle::is_left) && Instant::now() < deadline && !cancel.is_cancelled() {
                std::thread::park_timeout(LOOK);
            }
            drop(handles);
        });
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        for ended in self.threads.extract_if(.., |thread| thread.is_finished()) {
            join(ended);
        }
        let run = || {
            priority::stand_back();
            run();
        };
        match std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread");
                self.fetching.store(false, Ordering::Release);
            }
        }
    }
}

/// Of shards whose databases nobody has open.
impl Prepare for Moving {
    fn fetch(&mut self, shards: Vec<ShardId>, begins_empty: bool) {
        let Some(fetch) = self.fetch.as_ref().filter(|_| !shards.is_empty()).map(Arc::clone) else { return };
        if self.fetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let (fetching, driver, cancel) = (Arc::clone(&self.fetching), self.driver.clone(), self.cancel.clone());
        self.start("fetching", move || {
            fetch.until_there(&shards, begins_empty, &cancel);
            fetching.store(false, Ordering::Release);
            driver.unpark();
        });
    }

    fn is_fetching(&self) -> bool {
        self.fetching.load(Ordering::Acquire)
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.threads.drain(..).for_each(join);
    }
}

fn join(thread: JoinHandle<()>) {
    if thread.join().is_err() {
        tracing::warn!("a thread that closes or fetches shards panicked");
    }
}

impl Fetch {
    fn until_there(&self, shards: &[ShardId], begins_empty: bool, cancel: &CancellationToken) {
        for tried in 1.. {
            let start = Instant::now();
            match self.run(shards, begins_empty, cancel) {
                Ok((fetched, records)) => {
                    let (restored, ms) = (fetched.shards.len(), start.elapsed().as_millis() as u64);
                    tracing::info!(restored, bytes = fetched.bytes, records, ms, "gained shards are fetched");
                    return;
                }
                Err(error) if tried == TRIES => {
                    tracing::warn!(%error, "gained shards are not fetched; the start does it");
                    return;
                }
                Err(error) => tracing::warn!(%error, "gained shards are not fetched; trying again"),
            }
            let until = Instant::now() + FIRST_WAIT * (1 << (tried - 1));
            while Instant::now() < until {
                if cancel.is_cancelled() {
                    return;
                }
                std::thread::park_timeout(LOOK);
            }
        }
    }

    /// The files, and what the changelog has of them by now. A shard of which there are no files is left to the start if it does not begin with
    /// nothing.
    fn run(
        &self,
        shards: &[ShardId],
        begins_empty: bool,
        cancel: &CancellationToken,
    ) -> Result<(Restored, u64), PodError> {
        let topic = self.topic.lock().unwrap_or_else(PoisonError::into_inner);
        let bounds = topic.bounds(shards)?;
        let store = self.place.as_ref().map(|place| place.open(&self.name, &self.uid, cancel)).transpose()?;
        let sources = Sources { store: store.as_deref(), origin: None, shards: self.shards };
        let restored = start::with_kafka(sources, &self.uid, &self.databases, &bounds)?;
        let mut stores = Vec::new();
        for shard in shards {
            if begins_empty || self.databases.copied(*shard, &self.databases.path(*shard))?.is_some() {
                stores.push(self.databases.open(*shard)?);
            }
        }
        let mut records = 0;
        for _ in 0..TURNS {
            let turn = Instant::now();
            records += topic.follow(&mut stores)?;
            if turn.elapsed() < SHORT || cancel.is_cancelled() {
                break;
            }
        }
        stores.iter().try_for_each(|store| store.flush_handle().flush())?;
        Ok((restored, records))
    }
}
