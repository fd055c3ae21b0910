//! Removes from the shuffle topics what this pod has read and committed: nobody reads it again.
//!
//! Owns the thread. A failure loses nothing: the topics stay longer, and it is tried again.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::kafka::properties::KafkaProperties;
use crate::kafka::shuffle::delete_before;

/// How often records are removed.
const INTERVAL: Duration = Duration::from_secs(30);

/// Per topic and partition: the first offset that is still needed.
type Places = BTreeMap<(String, i32), i64>;

/// See the module's documentation. Ends its thread when dropped.
pub(in crate::pod) struct Trimmer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    committed: Places,
    stop: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Trimmer {
    pub(in crate::pod) fn start(properties: KafkaProperties) -> std::io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("millstream-trim".into()).spawn(move || run(&own, &properties))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Everything before these offsets is read and committed.
    pub(in crate::pod) fn committed(&self, offsets: impl Iterator<Item = (String, i32, i64)>) {
        self.shared.state().committed.extend(offsets.map(|(topic, partition, offset)| ((topic, partition), offset)));
    }
}

impl Drop for Trimmer {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that trims shuffle topics panicked");
        }
    }
}

fn run(shared: &Shared, properties: &KafkaProperties) {
    let mut done = Places::new();
    let mut said = false;
    while let Some(committed) = wait(shared) {
        let new: Places = committed.into_iter().filter(|(place, offset)| done.get(place) != Some(offset)).collect();
        if new.is_empty() {
            continue;
        }
        match delete_before(properties, &new) {
            Ok(()) => {
                done.extend(new);
                said = false;
            }
            Err(error) if said => tracing::debug!(error, "shuffle topics"),
            Err(error) => {
                said = true;
                tracing::warn!(error, "shuffle topics grow until records can be removed");
            }
        }
    }
}

/// What is committed, after an interval; `None` at the end.
fn wait(shared: &Shared) -> Option<Places> {
    let deadline = Instant::now() + INTERVAL;
    let mut state = shared.state();
    loop {
        if state.stop {
            return None;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Some(std::mem::take(&mut state.committed));
        }
        state = shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}
