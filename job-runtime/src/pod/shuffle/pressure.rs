//! Back-pressure across the log: asks how far other pods have read what this one sends, and lets this pod's sources wait for one that is too far
//! behind.
//!
//! Owns the thread, the question, and what is said about it. When to wait is decided in `dataflow::shuffle::backlog`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataflow::graph::NodeId;
use dataflow::key::ShardId;
use dataflow::shuffle::Gate;
use dataflow::shuffle::backlog::{Amount, BOUND, Backlog, Target};

use crate::kafka::client::{ConnectError, ConsumerClient};
use crate::kafka::properties::KafkaProperties;

/// How often to look.
const LOOK: Duration = Duration::from_secs(1);
/// How long the brokers may take to answer.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the thread needs to ask and to say.
pub(in crate::pod) struct Readers {
    /// The cluster of the job's log.
    pub(in crate::pod) properties: KafkaProperties,
    /// The group that carries how far topics are read.
    pub(in crate::pod) group: String,
    /// The topic of each exchange.
    pub(in crate::pod) topics: BTreeMap<NodeId, String>,
    /// The pod of each shard; [`Pressure::passed`] says it anew.
    pub(in crate::pod) owners: Vec<u16>,
}

/// How long the sources were held, and what for.
#[derive(Debug, Default)]
pub(in crate::pod) struct Waits {
    past_ms: AtomicU64,
    now: Mutex<Option<(Instant, String)>>,
}

impl Waits {
    fn now(&self) -> MutexGuard<'_, Option<(Instant, String)>> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All together, the wait under way included.
    pub(in crate::pod) fn total(&self) -> Duration {
        let running = self.now().as_ref().map_or(Duration::ZERO, |(since, _)| since.elapsed());
        Duration::from_millis(self.past_ms.load(Ordering::Relaxed)) + running
    }

    /// What the sources wait for now.
    pub(in crate::pod) fn why(&self) -> Option<String> {
        self.now().as_ref().map(|(_, why)| why.clone())
    }

    /// Takes what they wait for now; returns how long they have waited if they do not any more.
    fn set(&self, why: Option<String>) -> Option<Duration> {
        let mut now = self.now();
        match (now.take(), why) {
            (None, None) => None,
            (None, Some(why)) => {
                *now = Some((Instant::now(), why));
                None
            }
            (Some((since, _)), Some(why)) => {
                *now = Some((since, why));
                None
            }
            (Some((since, _)), None) => {
                let waited = since.elapsed();
                self.past_ms.fetch_add(waited.as_millis() as u64, Ordering::Relaxed);
                Some(waited)
            }
        }
    }
}

/// See the module's documentation. Ends its thread when dropped.
pub(in crate::pod) struct Pressure {
    shared: Arc<Shared>,
    waits: Arc<Waits>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

struct State {
    backlog: Backlog,
    /// The pod of each shard.
    owners: Vec<u16>,
    stop: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pressure {
    /// Closes `gate` while a reader is too far behind.
    pub(in crate::pod) fn start(readers: Readers, gate: Arc<Gate>) -> std::io::Result<Self> {
        let (backlog, owners) = (Backlog::new(BOUND), readers.owners.clone());
        let state = Mutex::new(State { backlog, owners, stop: false });
        let (shared, waits) = (Arc::new(Shared { state, wake: Condvar::new() }), Arc::<Waits>::default());
        let mut look =
            Look { shared: Arc::clone(&shared), waits: Arc::clone(&waits), readers, gate, client: None, said: false };
        let thread = std::thread::Builder::new().name("millstream-readers".into()).spawn(move || look.run())?;
        Ok(Self { shared, waits, thread: Some(thread) })
    }

    /// For metrics and status.
    pub(in crate::pod) fn waits(&self) -> Arc<Waits> {
        Arc::clone(&self.waits)
    }

    /// Shards have passed between pods: the pod of each now.
    pub(in crate::pod) fn passed(&self, owners: Vec<u16>) {
        self.shared.state().owners = owners;
    }

    /// A commit is in the log that sent this; each with the offset of its last message.
    pub(in crate::pod) fn sent(&self, sent: impl Iterator<Item = (Target, i64, Amount)>) {
        let mut state = self.shared.state();
        sent.for_each(|(target, last, amount)| state.backlog.sent(target, last, amount));
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that asks how far other pods have read panicked");
        }
    }
}

/// The thread's own.
struct Look {
    shared: Arc<Shared>,
    waits: Arc<Waits>,
    readers: Readers,
    gate: Arc<Gate>,
    /// While there is something to ask.
    client: Option<ConsumerClient>,
    /// That it cannot be asked.
    said: bool,
}

impl Look {
    fn run(&mut self) {
        while let Some(targets) = self.wait() {
            if targets.is_empty() {
                self.client = None;
                continue;
            }
            match self.ask(&targets) {
                Ok(read) => self.heard(read),
                // Whoever waits goes on waiting, who does not is not stopped: without the group's broker nobody commits anyway.
                Err(error) => {
                    self.client = None;
                    if !std::mem::replace(&mut self.said, true) {
                        tracing::warn!(%error, "cannot see how far other pods have read what this one sends; trying again");
                    }
                }
            }
        }
    }

    /// What to ask for, after a while; `None` at the end.
    fn wait(&self) -> Option<Vec<Target>> {
        let deadline = Instant::now() + LOOK;
        let mut state = self.shared.state();
        loop {
            if state.stop {
                return None;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Some(state.backlog.to_ask());
            }
            state = self.shared.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Where the readers of these go on.
    fn ask(&mut self, targets: &[Target]) -> Result<Vec<(Target, i64)>, ConnectError> {
        let client = match self.client.take() {
            Some(client) => client,
            None => {
                // What is committed now: a reader that works has a transaction open nearly always, and it must not be waited for.
                let own = [("group.id", self.readers.group.as_str()), ("isolation.level", "read_uncommitted")];
                ConsumerClient::new(&self.readers.properties, &own, DEADLINE)?
            }
        };
        let place = |(exchange, shard): &Target| Some((self.readers.topics.get(exchange)?.clone(), i32::from(shard.0)));
        let places: Vec<(Target, (String, i32))> =
            targets.iter().filter_map(|target| Some((*target, place(target)?))).collect();
        let wanted: Vec<(String, i32)> = places.iter().map(|(_, place)| place.clone()).collect();
        let committed = client.committed(&wanted)?;
        let mut read = Vec::with_capacity(places.len());
        for (target, (topic, partition)) in places {
            let next_offset = match committed.get(&(topic.clone(), partition)) {
                Some((next_offset, _)) => *next_offset,
                // The reader was never there, or so long ago that the group has forgotten it. What is removed was read.
                None => client.watermarks(&topic, partition)?.0,
            };
            read.push((target, next_offset));
        }
        self.client = Some(client);
        Ok(read)
    }

    fn heard(&mut self, read: Vec<(Target, i64)>) {
        self.said = false;
        let mut state = self.shared.state();
        read.into_iter().for_each(|(target, next_offset)| state.backlog.read(target, next_offset));
        let awaited = state.backlog.awaited();
        drop(state);
        self.gate.wait(awaited.is_some());
        let why = awaited.map(|((_, shard), amount)| why(self.owner(shard), shard, amount));
        if let (None, Some(why)) = (self.waits.why(), &why) {
            tracing::warn!(why, "the sources are held");
        }
        if let Some(waited) = self.waits.set(why) {
            tracing::info!(ms = waited.as_millis() as u64, "the sources go on");
        }
    }

    fn owner(&self, shard: ShardId) -> Option<u16> {
        self.shared.state().owners.get(usize::from(shard.0)).copied()
    }
}

fn why(owner: Option<u16>, ShardId(shard): ShardId, Amount { messages, bytes }: Amount) -> String {
    let pod = owner.map_or_else(|| "another pod".to_owned(), |owner| format!("pod {owner}"));
    format!("waits for shard {shard} of {pod}, {messages} messages ({} MiB) behind", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_names_shard_pod_and_how_far() {
        let amount = Amount { messages: 1_025, bytes: 3 << 20 };
        let text = why(Some(1), ShardId(5), amount);
        assert_eq!(text, "waits for shard 5 of pod 1, 1025 messages (3 MiB) behind");
    }

    #[test]
    fn waiting_time_is_counted_while_it_lasts_and_after() {
        let waits = Waits::default();
        assert_eq!((waits.total(), waits.why(), waits.set(None)), (Duration::ZERO, None, None));
        assert_eq!(waits.set(Some("a".into())), None);
        assert_eq!(waits.set(Some("b".into())), None);
        assert_eq!(waits.why(), Some("b".into()));
        let (total, waited) = (waits.total(), waits.set(None));
        assert!(waited >= Some(total), "{waited:?} of {total:?}");
        assert_eq!(waits.why(), None);
    }
}
