//! The thread that watches the control topic while a pod works, appends what the pod has to say meanwhile, and puts what the pod has proposed into
//! force when the time has come.
//!
//! Owns its rhythm. What a change means for the pod is the driver's; when the time has come is decided in `checkpoint::proposal`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use checkpoint::control::ControlLog;
use checkpoint::names;
use checkpoint::ownership::record::{ControlRecord, Release};
use checkpoint::proposal::{Next, Ready};

use super::control::Control;
use super::{KafkaCommitLog, KafkaLogConfig};
use crate::crash::Step;
use crate::kafka::client::ConsumerClient;

/// How often the control topic is looked at.
const WORKING: Duration = Duration::from_millis(300);
/// And while a savepoint is under way, because sources stand still; and before the first look.
const URGENT: Duration = Duration::from_millis(10);
/// And while an assignment is proposed.
const PROPOSED: Duration = Duration::from_millis(50);
/// A pod that works has this long to fetch what it is to gain; then it gains it all the same.
const PREPARING: Duration = Duration::from_secs(600);

impl KafkaCommitLog {
    /// Tells of every change of the control topic, soon while `urgent` is set.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn watch(
        &self,
        urgent: Arc<AtomicBool>,
        changed: impl Fn(&ControlLog) + Send + 'static,
    ) -> std::io::Result<Watching> {
        let sayings = Sayings::default();
        let (asked, config, job) = (sayings.clone(), self.config.clone(), self.job);
        let look = move || watch(&config, job, &asked, &urgent, &changed);
        let thread = std::thread::Builder::new().name("millstream-control".into()).spawn(look)?;
        Ok(Watching { sayings, thread: Some(thread) })
    }
}

/// What the watching thread is asked to append, so that no commit waits for it.
#[derive(Clone, Default)]
pub struct Sayings(Arc<(Mutex<Asked>, Condvar)>);

#[derive(Default)]
struct Asked {
    releases: Vec<Release>,
    /// Said again until it is there: the others wait for it.
    ready: Option<Ready>,
    stop: bool,
}

impl Sayings {
    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// Appends a release soon. It may get lost: who gains fences then.
    pub fn release(&self, release: Release) {
        self.ask(|asked| asked.releases.push(release));
    }

    /// Says soon that the pod is ready for what is proposed, and nothing that was to be said of another proposal.
    pub fn ready(&self, ready: Ready) {
        self.ask(|asked| asked.ready = Some(ready));
    }

    /// What was asked for until now or within `period`.
    fn wait(&self, period: Duration) -> Asked {
        let asked = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |asked: &mut Asked| asked.releases.is_empty() && asked.ready.is_none() && !asked.stop;
        let (mut asked, _) = self.0.1.wait_timeout_while(asked, period, quiet).unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *asked)
    }
}

/// The thread that watches; ended and joined when dropped, behind what it was asked to append.
pub struct Watching {
    sayings: Sayings,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Where to ask for what is to be appended.
    pub fn sayings(&self) -> Sayings {
        self.sayings.clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.sayings.ask(|asked| asked.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the control topic's thread panicked");
        }
    }
}

fn watch(config: &KafkaLogConfig, job: u64, asked: &Sayings, urgent: &AtomicBool, changed: &dyn Fn(&ControlLog)) {
    let plain = [("isolation.level", "read_uncommitted"), ("enable.partition.eof", "true")];
    let Ok(client) = ConsumerClient::new(&config.properties, &plain, config.deadline) else { return };
    let (control, topic) = (Control { config, job, client: &client }, names::control_topic(&config.job_uid));
    let (mut seen, mut coming) = (-1, Coming::default());
    loop {
        let said = asked.wait(period(urgent, &coming));
        let stop = said.stop;
        say(&control, asked, said);
        if stop {
            return;
        }
        // A broker that does not answer now is asked again: what is missed meanwhile is only the moment.
        let Ok(end) = client.ends(&topic, &[0]) else { continue };
        if std::mem::replace(&mut seen, end[0]) != end[0] {
            match control.read() {
                Ok(log) => {
                    changed(&log);
                    coming.read(log);
                }
                Err(error) => {
                    tracing::debug!(%error, "cannot read the control topic now");
                    seen = -1;
                }
            }
        }
        coming.propose(&control);
        coming.put_into_force(&control);
    }
}

fn period(urgent: &AtomicBool, coming: &Coming) -> Duration {
    if urgent.load(Ordering::Acquire) || coming.log.view.in_force().is_none() {
        URGENT
    } else if coming.since.is_some() {
        PROPOSED
    } else {
        WORKING
    }
}

fn say(control: &Control<'_>, asked: &Sayings, said: Asked) {
    for release in said.releases {
        tracing::info!(assignment = release.number, shards = ?release.shards, "released");
        if let Err(error) = control.append_as(Step::Release, &ControlRecord::Release(release)) {
            tracing::warn!(%error, "what is lost could not be released; who gains it waits and fences");
        }
    }
    let Some(ready) = said.ready else { return };
    tracing::info!(assignment = ready.next.number, pods = ready.next.pods, "ready for what is proposed");
    if let Err(error) = control.append_as(Step::Ready, &ControlRecord::Ready(ready))
        && !said.stop
    {
        tracing::warn!(%error, "that could not be said; trying again");
        // What is newer stands.
        asked.ask(|asked| asked.ready = asked.ready.take().or(Some(ready)));
        std::thread::park_timeout(WORKING);
    }
}

/// What is proposed, and since when this process knows of it.
#[derive(Default)]
struct Coming {
    log: ControlLog,
    since: Option<(Next, Instant)>,
    /// What the pod's settings say is proposed, or in force.
    settled: bool,
}

impl Coming {
    fn read(&mut self, log: ControlLog) {
        let next = log.proposed.as_ref().map(checkpoint::proposal::Proposed::next);
        let before = self.since.filter(|(known, _)| next == Some(*known));
        if let (Some(proposed), Some(current), None) = (&log.proposed, log.view.in_force(), before) {
            let (next, awaited) = (proposed.next(), proposed.awaited(current));
            tracing::info!(assignment = next.number, pods = next.pods, ?awaited, "another assignment is proposed");
        }
        self.since = before.or_else(|| Some((next?, Instant::now())));
        self.log = log;
    }

    /// Proposes once what the pod's settings say. If that fails, or it is not known whether it did, it is looked at again.
    fn propose(&mut self, control: &Control<'_>) {
        if self.settled || self.log.view.in_force().is_none() {
            return;
        }
        let Some(proposal) = control.proposal(&self.log) else {
            self.settled = true;
            return;
        };
        let Next { number, pods } = proposal.next;
        tracing::info!(assignment = number, pods, "the number of pods has changed");
        match control.append_as(Step::Propose, &ControlRecord::Proposal(proposal)) {
            Ok(()) => self.settled = true,
            Err(error) => tracing::warn!(%error, "cannot propose the next assignment; trying again"),
        }
    }

    /// What this pod has proposed, if the time has come. If that fails, or it is not known whether it did, it is looked at again.
    fn put_into_force(&self, control: &Control<'_>) {
        let (Some(proposed), Some(current)) = (&self.log.proposed, self.log.view.in_force()) else { return };
        let long_enough = self.since.is_some_and(|(_, since)| since.elapsed() >= PREPARING);
        if proposed.by() != control.config.ordinal {
            return;
        }
        let Some(next) = proposed.due(current, long_enough) else { return };
        let late = proposed.awaited(current);
        if !late.is_empty() {
            tracing::warn!(pods = ?late, "these pods did not fetch what they are to gain; they gain it all the same");
        }
        if let Err(error) = control.append_as(Step::Reassign, &ControlRecord::Assignment(next)) {
            tracing::warn!(%error, "cannot put the next assignment into force; trying again");
        }
    }
}
