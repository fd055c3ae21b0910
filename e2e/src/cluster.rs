//! A Kubernetes cluster as a user sees it: by `kubectl` and `helm`, with a namespace per test. It knows nothing of what is installed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// Checks that the environment names a cluster.
///
/// # Errors
/// When it does not.
pub fn required() -> anyhow::Result<()> {
    std::env::var("KUBECONFIG").map(drop).context("KUBECONFIG is not set: use `make e2e`, or `eval \"$(e2e/lab/env)\"`")
}

/// Runs a program with text as its input; answers with its output.
///
/// # Errors
/// When it fails: its own words.
pub fn run_with(input: &str, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let line = format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {line}"))?;
    child.stdin.take().context("its input is piped")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("{line}: {}{text}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// Runs a program.
///
/// # Errors
/// When it fails: its own words.
pub fn run(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    run_with("", program, arguments)
}

/// A namespace of one test, under the restricted pod security standard. It goes when this value goes, unless the test failed: then it
/// stays to be looked at.
pub struct Namespace {
    /// Its name.
    pub name: String,
}

impl Namespace {
    /// Makes a namespace whose name begins with `prefix`.
    ///
    /// # Errors
    /// When the cluster refuses.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        required()?;
        let name = format!("{prefix}-{}", std::process::id());
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, labels: {{pod-security.kubernetes.io/enforce: restricted}}}}}}"
        );
        run_with(&text, "kubectl", &["apply", "-f", "-"])?;
        Ok(Self { name })
    }

    /// `kubectl` in this namespace.
    ///
    /// # Errors
    /// When it fails: its own words.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        run("kubectl", &[&["--namespace", &self.name], arguments].concat())
    }

    /// `kubectl apply` of YAML.
    ///
    /// # Errors
    /// When the API server refuses: its own words.
    pub fn apply(&self, yaml: &str) -> anyhow::Result<String> {
        run_with(yaml, "kubectl", &["--namespace", &self.name, "apply", "--server-side", "-f", "-"])
    }

    /// One value by JSONPath; empty when it is not there.
    ///
    /// # Errors
    /// When the object is not there.
    pub fn get(&self, object: &str, path: &str) -> anyhow::Result<String> {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
    }

    /// Waits for a condition by `kubectl wait`, and says at the deadline how things stand.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub fn wait_for(&self, object: &str, condition: &str, deadline: Duration) -> anyhow::Result<()> {
        let timeout = format!("--timeout={}s", deadline.as_secs());
        match self.kubectl(&["wait", &format!("--for={condition}"), object, &timeout]) {
            Ok(_) => Ok(()),
            Err(error) => bail!("{error}\n{}", self.describe()),
        }
    }

    /// Repeats `look` until it answers.
    ///
    /// # Errors
    /// When the deadline passes first.
    pub fn until<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<T> {
        let end = Instant::now() + deadline;
        loop {
            let last = match look() {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => String::new(),
                Err(error) => format!(": {error:#}"),
            };
            if Instant::now() > end {
                bail!("{} s passed and not yet {what}{last}\n{}", deadline.as_secs(), self.describe());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// How things stand in this namespace, for the message of a failed test.
    #[must_use]
    pub fn describe(&self) -> String {
        let looks: [&[&str]; 5] = [
            &["get", "streamjobs,checkpoints,pods,statefulsets,pvc", "-o", "wide"],
            &[
                "get",
                "streamjobs,checkpoints",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}: {.status}{'\\n'}{end}",
            ],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["logs", "--selector=app.kubernetes.io/component=job", "--tail=40", "--prefix"],
            &[
                "logs",
                "--selector=app.kubernetes.io/component=job",
                "--tail=20",
                "--prefix",
                "--previous",
                "--ignore-errors",
            ],
        ];
        looks.iter().map(|look| self.kubectl(look).unwrap_or_else(|error| format!("{error:#}\n"))).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // Nobody waits: the next test has a namespace of its own.
            let _ = run("kubectl", &["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}
