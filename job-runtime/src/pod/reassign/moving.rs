//! Closing the databases of shards that are lost, and fetching the files of shards that are gained, while the pod works.
//!
//! Owns the threads: closing writes what is in memory to disk, and fetching takes as long as there is state. No commit waits for either. A start
//! decides by itself what it goes on from; what is fetched here is there then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use dataflow::key::{ShardId, Shards};
use tokio_util::sync::CancellationToken;

use crate::commit::kafka::ControlTopic;
use crate::pod::PodError;
use crate::snapshot::place::StorePlace;
use crate::snapshot::start::{self, Restored, Sources};
use crate::state::rocks::{FlushHandle, RocksDatabases, StoreGauge};

/// A worker gives a store up with the next commit that it is told of. One that has not by then keeps it open itself.
const LEFT: Duration = Duration::from_secs(60);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Where the state of gained shards comes from.
pub(in crate::pod) struct Fetch {
    /// The object store.
    pub(in crate::pod) place: StorePlace,
    /// The job.
    pub(in crate::pod) name: String,
    /// Its uid.
    pub(in crate::pod) uid: String,
    /// Its shards.
    pub(in crate::pod) shards: Shards,
    /// Where they go.
    pub(in crate::pod) databases: Arc<RocksDatabases>,
    /// To ask what the changelog holds.
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

    /// True until what can be fetched is there.
    pub(in crate::pod) fn is_fetching(&self) -> bool {
        self.fetching.load(Ordering::Acquire)
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

    /// Fetches what the object store has of shards whose databases nobody has open. A fetch that is under way goes on instead.
    pub(in crate::pod) fn fetch(&mut self, shards: Vec<ShardId>) {
        let Some(fetch) = self.fetch.as_ref().filter(|_| !shards.is_empty()).map(Arc::clone) else { return };
        if self.fetching.swap(true, Ordering::AcqRel) {
            return;
        }
        let (fetching, driver, cancel) = (Arc::clone(&self.fetching), self.driver.clone(), self.cancel.clone());
        self.start("fetching", move || {
            match fetch.run(&shards, &cancel) {
                Ok(fetched) => {
                    tracing::info!(shards = fetched.shards.len(), bytes = fetched.bytes, "gained shards are fetched");
                }
                Err(error) => tracing::info!(%error, "gained shards are not fetched; the start does it"),
            }
            fetching.store(false, Ordering::Release);
            driver.unpark();
        });
    }

    fn start(&mut self, name: &str, run: impl FnOnce() + Send + 'static) {
        for ended in self.threads.extract_if(.., |thread| thread.is_finished()) {
            join(ended);
        }
        match std::thread::Builder::new().name(name.to_owned()).spawn(run) {
            Ok(thread) => self.threads.push(thread),
            Err(error) => {
                tracing::warn!(%error, "cannot start a thread");
                self.fetching.store(false, Ordering::Release);
            }
        }
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
    fn run(&self, shards: &[ShardId], cancel: &CancellationToken) -> Result<Restored, PodError> {
        let bounds = self.topic.lock().unwrap_or_else(PoisonError::into_inner).bounds(shards)?;
        let store = self.place.open(&self.name, &self.uid, cancel)?;
        let sources = Sources { store: Some(store.as_ref()), origin: None, shards: self.shards };
        Ok(start::with_kafka(sources, &self.uid, &self.databases, &bounds)?)
    }
}
