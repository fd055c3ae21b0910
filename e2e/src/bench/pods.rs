//! A job of several pods without Kubernetes: each pod a process with a folder of its own, kept running, and given orders as the operator gives them.
//!
//! Owns what kubelet and operator are otherwise: settings, restarts, tokens. It measures nothing.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use job_api::control::{ControlAccess, IssuerKey, audience};
use job_api::orders::{ASSIGNMENT_PATH, AssignmentRequest};
use job_api::{JOB_FILE, PodSettings, SETTINGS_FILE, VERSION};
use serde_json::json;

use super::job::{Settings, job_text};
use super::kafka::now_us;
use super::process::{Job, Runner};
use super::until;
use crate::cluster::run_with;

const ISSUER: &str = "https://bench";
const SUBJECT: &str = "system:serviceaccount:bench:operator";
const KEY: &str = "bench";
/// How long a token is good, in seconds.
const TOKEN: u64 = 600;
const STOPS: Duration = Duration::from_secs(30);
/// A pod that ends again and again is not kept running for ever.
const RESTARTS: usize = 10;
/// Asking is a process of its own: not so often that it shows in what is measured.
const ASK_EVERY: Duration = Duration::from_millis(100);
const SHARD_METRIC: &str = "millstream_state_disk_bytes{";

struct Pod {
    folder: PathBuf,
    state: PathBuf,
    health: u16,
    control: u16,
    job: Option<Job>,
    restarts: usize,
}

/// The pods of one job. They are killed when dropped.
pub struct Pods<'a> {
    runner: &'a Runner,
    name: &'a str,
    text: String,
    snapshots: Option<&'a str>,
    key: EcdsaKeyPair,
    replicas: u16,
    pods: Vec<Pod>,
}

impl<'a> Pods<'a> {
    /// Of a job with snapshots at a place, if there is one; no pod yet.
    ///
    /// # Errors
    /// When no key can be made.
    pub fn new(
        runner: &'a Runner,
        name: &'a str,
        sql: &str,
        settings: &Settings<'_>,
        snapshots: Option<&'a str>,
    ) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).ok().context("no key can be made")?;
        let text = job_text(name, &runner.own(name), sql, settings);
        Ok(Self { runner, name, text, snapshots, key, replicas: 0, pods: Vec::new() })
    }

    /// A place for one more pod; `state` is a state directory that is there already.
    ///
    /// # Errors
    /// When its folder cannot be made.
    pub fn add(&mut self, state: Option<&Path>) -> anyhow::Result<()> {
        let folder = self.runner.path(&format!("{}-{}", self.name, self.pods.len()));
        std::fs::create_dir_all(&folder)?;
        std::fs::write(folder.join(JOB_FILE), &self.text)?;
        let state = state.map_or_else(|| folder.join("state"), Path::to_owned);
        let (health, control) = (free_port()?, free_port()?);
        self.pods.push(Pod { folder, state, health, control, job: None, restarts: 0 });
        Ok(())
    }

    /// Tells all that there are so many pods, and starts those of them that do not run.
    ///
    /// # Errors
    /// When one cannot be started.
    pub fn resize(&mut self, replicas: u16) -> anyhow::Result<()> {
        self.replicas = replicas;
        let settings = serde_json::to_string(&self.settings())?;
        self.pods.iter().try_for_each(|pod| std::fs::write(pod.folder.join(SETTINGS_FILE), &settings))?;
        (0..usize::from(replicas))
            .filter(|at| self.pods[*at].job.is_none())
            .collect::<Vec<_>>()
            .into_iter()
            .try_for_each(|at| self.start(at))
    }

    fn settings(&self) -> PodSettings {
        let uid = self.runner.own(self.name);
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let (kid, crv, [x, y]) = (KEY.to_owned(), "P-256".to_owned(), [x, y].map(|part| URL_SAFE_NO_PAD.encode(part)));
        PodSettings {
            version: VERSION,
            revision: "bench".to_owned(),
            replicas: self.replicas,
            kafka: None,
            checkpoints: None,
            restore_from: None,
            control: Some(ControlAccess {
                issuer: ISSUER.to_owned(),
                audience: audience(&uid),
                subject: SUBJECT.to_owned(),
                keys: vec![IssuerKey::Ec { kid, crv, x, y }],
            }),
            job_uid: uid,
        }
    }

    fn start(&mut self, at: usize) -> anyhow::Result<()> {
        let pod = &mut self.pods[at];
        let mut command = self.runner.command("pod");
        command.arg("--config-dir").arg(&pod.folder).arg("--state-dir").arg(&pod.state);
        command.arg("--pod-name").arg(format!("{}-{at}", self.name));
        command.arg("--termination-file").arg(pod.folder.join("last-words"));
        command.arg("--health-port").arg(pod.health.to_string()).arg("--control-port").arg(pod.control.to_string());
        if let Some(place) = self.snapshots {
            command.args(["--checkpoint-dir", place]);
        }
        pod.job = Some(Job::start(&mut command, &pod.folder.join("pod"))?);
        Ok(())
    }

    /// Starts pods again that have ended by themselves, as the kubelet does.
    ///
    /// # Errors
    /// When one ends again and again.
    pub fn check(&mut self) -> anyhow::Result<()> {
        for at in 0..self.pods.len() {
            let pod = &mut self.pods[at];
            let Some(job) = &mut pod.job else { continue };
            if !job.runs()? {
                pod.restarts += 1;
                anyhow::ensure!(pod.restarts <= RESTARTS, "pod {at} ends again and again: {}", job.last_words());
                self.start(at)?;
            }
        }
        Ok(())
    }

    /// The shards that each pod has open, by its metrics; none while it does not answer.
    fn shards(&self) -> Vec<BTreeSet<usize>> {
        let of = |pod: &Pod| {
            let address = format!("http://127.0.0.1:{}/metrics", pod.health);
            let text = run_with("", "curl", &["-sS", "--max-time", "5", &address]).unwrap_or_default();
            let shard = |line: &str| line.split_once("shard=\"")?.1.split_once('"')?.0.parse().ok();
            text.lines().filter(|line| line.starts_with(SHARD_METRIC)).filter_map(shard).collect()
        };
        self.pods.iter().map(of).collect()
    }

    /// Waits until each running pod has a share of all `shards` shards, and each shard one pod; the shards of each.
    ///
    /// # Errors
    /// When it is not so in time.
    pub fn settled(&mut self, shards: usize, longest: Duration) -> anyhow::Result<Vec<BTreeSet<usize>>> {
        until("all shards with a pod", longest, || {
            self.check()?;
            std::thread::sleep(ASK_EVERY);
            let mut found = self.shards();
            found.truncate(usize::from(self.replicas));
            let all: BTreeSet<usize> = found.iter().flatten().copied().collect();
            let each_once = found.iter().map(BTreeSet::len).sum::<usize>() == shards && all.len() == shards;
            Ok((each_once && found.iter().all(|of_pod| !of_pod.is_empty())).then_some(found))
        })
    }

    /// Orders from a pod that the job is spread over as many pods as the settings say.
    ///
    /// # Errors
    /// When no pod takes the order in time.
    pub fn order_assignment(&mut self, of: usize, longest: Duration) -> anyhow::Result<()> {
        let (body, token) = (serde_json::to_string(&AssignmentRequest { replicas: self.replicas })?, self.token()?);
        let address = format!("https://127.0.0.1:{}{ASSIGNMENT_PATH}", self.pods[of].control);
        // The token comes in by standard input: an argument can be seen by others.
        let header = format!("header = \"Authorization: Bearer {token}\"\n");
        let quiet = ["-sSk", "--http1.1", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10", "--config", "-"];
        let order = [&quiet[..], &["-X", "POST", "-d", &body, &address]].concat();
        until("a pod that takes the order", longest, || {
            self.check()?;
            Ok(run_with(&header, "curl", &order).is_ok_and(|code| code == "202" || code == "200").then_some(()))
        })
    }

    /// As the API server makes it for the operator.
    fn token(&self) -> anyhow::Result<String> {
        let (now, encode) = (now_us()? / 1_000_000, |text: String| URL_SAFE_NO_PAD.encode(text));
        let header = json!({"alg": "ES256", "kid": KEY});
        let claims = json!({
            "iss": ISSUER, "sub": SUBJECT, "aud": [audience(&self.runner.own(self.name))],
            "iat": now, "nbf": now, "exp": now + TOKEN
        });
        let signed = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok().context("nothing can be signed")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.as_ref())))
    }

    /// Ends all in order.
    ///
    /// # Errors
    /// When one does not end in time.
    pub fn stop(mut self) -> anyhow::Result<()> {
        let mut jobs: Vec<Job> = self.pods.iter_mut().filter_map(|pod| pod.job.take()).collect();
        jobs.iter().try_for_each(Job::terminate)?;
        jobs.iter_mut().try_for_each(|job| until("a pod's end", STOPS, || Ok((!job.runs()?).then_some(()))))
    }
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}
