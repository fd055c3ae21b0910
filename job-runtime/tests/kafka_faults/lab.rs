//! Brokers of a case's own, by the lab's scripts: so many, with settings that only this case wants, and each can be killed and started again.
//!
//! The brokers that the environment names are everybody's: nothing here touches them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where bases of ports are looked for: below the ports that the system gives out, away from the lab's own.
const PORTS: std::ops::Range<u16> = 26_000..31_000;
/// What the ports of three brokers take.
const SPAN: u16 = 40;

/// See the module's documentation.
pub(crate) struct Brokers {
    dir: tempfile::TempDir,
    base: u16,
    pub(crate) servers: String,
}

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/lab")
}

/// The first base all of whose ports are free.
fn free_base() -> u16 {
    let free = |base: &u16| (*base..*base + SPAN).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok());
    PORTS.step_by(usize::from(SPAN)).find(free).expect("there are free ports")
}

impl Brokers {
    /// Starts so many brokers.
    pub(crate) fn up(count: usize, options: &[&str]) -> Self {
        let mut brokers = Self { dir: tempfile::tempdir().unwrap(), base: free_base(), servers: String::new() };
        let count = count.to_string();
        brokers.servers = brokers.script("kafka-up", &[&["--brokers", count.as_str()], options].concat());
        brokers
    }

    /// As a power loss does it.
    pub(crate) fn kill(&self, number: usize) {
        self.script("kafka-down", &["--kill", "--only", &number.to_string()]);
    }

    /// Starts a killed one again, on its data.
    pub(crate) fn start(&self, number: usize) {
        self.script("kafka-up", &["--only", &number.to_string()]);
    }

    /// The port of broker 1's listener for whom a proxy stands before.
    pub(crate) fn behind_proxy(&self) -> u16 {
        self.base + 6
    }

    /// A file that the lab's scripts have written for these brokers.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join("kafka").join(name)
    }

    /// A tool of the distribution.
    pub(crate) fn tool(&self, name: &str, arguments: &[&str]) {
        self.script("kafka", &[&[name], arguments].concat());
    }

    fn script(&self, name: &str, arguments: &[&str]) -> String {
        let done = self.command(name, arguments).output().unwrap();
        let told = [&done.stdout, &done.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(done.status.success(), "{name} {arguments:?}: {told:?}");
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(lab().join(name));
        command.args(arguments).env("MILLSTREAM_LAB_DIR", self.dir.path());
        command.env("MILLSTREAM_KAFKA_PORT", self.base.to_string()).env_remove("KAFKA_BOOTSTRAP_SERVERS");
        // Several of them, and nothing much to hold.
        command.env("MILLSTREAM_KAFKA_JVM", "-Xms192m -Xmx192m").env_remove("MILLSTREAM_LOCKED_lab");
        command
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        // A failure here must not hide the test's own.
        let _ = self.command("kafka-down", &["--kill", "--wipe"]).status();
    }
}
