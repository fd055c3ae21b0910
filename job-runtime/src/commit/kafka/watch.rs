//! The thread that watches the control topic while a pod works, and appends what the pod releases meanwhile.
//!
//! Owns its rhythm. What a change means for the pod is the driver's; it decides nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use checkpoint::control::ControlLog;
use checkpoint::names;
use checkpoint::ownership::record::{ControlRecord, Release};

use super::control::Control;
use super::{KafkaCommitLog, KafkaLogConfig};
use crate::crash::Step;
use crate::kafka::client::ConsumerClient;

/// How often the control topic is looked at.
const WORKING: Duration = Duration::from_millis(300);
/// And while a savepoint is under way: sources stand still.
const URGENT: Duration = Duration::from_millis(10);

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
        let releases = Releases::default();
        let (asked, config, job) = (releases.clone(), self.config.clone(), self.job);
        let look = move || watch(&config, job, &asked, &urgent, &changed);
        let thread = std::thread::Builder::new().name("millstream-control".into()).spawn(look)?;
        Ok(Watching { releases, thread: Some(thread) })
    }
}

/// What the watching thread is asked to append, so that no commit waits for it.
#[derive(Clone, Default)]
pub struct Releases(Arc<(Mutex<Asked>, Condvar)>);

#[derive(Default)]
struct Asked {
    releases: Vec<Release>,
    stop: bool,
}

impl Releases {
    fn ask(&self, change: impl FnOnce(&mut Asked)) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    /// Appends a release soon. It may get lost: who gains fences then.
    pub fn append(&self, release: Release) {
        self.ask(|asked| asked.releases.push(release));
    }

    /// What was asked for until now or within `period`, and whether that is all.
    fn wait(&self, period: Duration) -> (Vec<Release>, bool) {
        let asked = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = |asked: &mut Asked| asked.releases.is_empty() && !asked.stop;
        let (mut asked, _) = self.0.1.wait_timeout_while(asked, period, quiet).unwrap_or_else(PoisonError::into_inner);
        (std::mem::take(&mut asked.releases), asked.stop)
    }
}

/// The thread that watches; ended and joined when dropped, behind what it was asked to append.
pub struct Watching {
    releases: Releases,
    thread: Option<JoinHandle<()>>,
}

impl Watching {
    /// Where to ask for releases.
    pub fn releases(&self) -> Releases {
        self.releases.clone()
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.releases.ask(|asked| asked.stop = true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the control topic's thread panicked");
        }
    }
}

fn watch(config: &KafkaLogConfig, job: u64, asked: &Releases, urgent: &AtomicBool, changed: &dyn Fn(&ControlLog)) {
    let plain = [("isolation.level", "read_uncommitted"), ("enable.partition.eof", "true")];
    let Ok(client) = ConsumerClient::new(&config.properties, &plain, config.deadline) else { return };
    let (control, topic) = (Control { config, job, client: &client }, names::control_topic(&config.job_uid));
    if let Ok(log) = control.read()
        && let Some(proposal) = control.proposal(&log.view)
    {
        tracing::info!(assignment = proposal.number, pods = proposal.pods.len(), "the number of pods has changed");
        if let Err(error) = control.append_as(Step::Reassign, &ControlRecord::Assignment(proposal)) {
            tracing::warn!(%error, "cannot make the next assignment; the next start of pod 0 tries again");
        }
    }
    let mut seen = -1;
    loop {
        let period = if urgent.load(Ordering::Acquire) { URGENT } else { WORKING };
        let (releases, stop) = asked.wait(period);
        for release in releases {
            tracing::info!(assignment = release.number, shards = ?release.shards, "released");
            if let Err(error) = control.append_as(Step::Release, &ControlRecord::Release(release)) {
                tracing::warn!(%error, "what is lost could not be released; who gains it waits and fences");
            }
        }
        if stop {
            return;
        }
        // A broker that does not answer now is asked again: what is missed meanwhile is only the moment.
        let Ok(end) = client.ends(&topic, &[0]) else { continue };
        if std::mem::replace(&mut seen, end[0]) == end[0] {
            continue;
        }
        match control.read() {
            Ok(log) => changed(&log),
            Err(error) => {
                tracing::debug!(%error, "cannot read the control topic now");
                seen = -1;
            }
        }
    }
}
