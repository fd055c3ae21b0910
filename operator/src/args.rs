//! Arguments and environment of the operator, each defined once. It starts nothing.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// Reconciles StreamJobs into StatefulSets.
#[derive(Clone, Debug, Parser)]
#[command(name = "millstream-operator", version)]
pub struct Args {
    /// Namespace to watch; may be repeated, or separated by commas in the environment. All namespaces unless said otherwise, which needs
    /// a ClusterRole.
    #[arg(long = "watch-namespace", env = "MILLSTREAM_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Image of the job runtime for jobs and clusters that name none.
    #[arg(long, env = "MILLSTREAM_JOB_IMAGE", default_value = concat!("millstream:", env!("CARGO_PKG_VERSION")))]
    pub job_image: String,

    /// Namespace of the operator's own pods: holds the lease, and may reach the control port of jobs.
    #[arg(long, env = "POD_NAMESPACE", default_value = "millstream-system")]
    pub namespace: String,

    /// Name of the operator's own pod, for the lease and for events.
    #[arg(long, env = "POD_NAME", default_value_t = default_identity())]
    pub identity: String,

    /// Service account of the operator's own pods: its tokens are what jobs' pods take orders by.
    #[arg(long, env = "MILLSTREAM_SERVICE_ACCOUNT", default_value = "millstream-operator")]
    pub service_account: String,

    /// Where /healthz, /readyz and /metrics are served.
    #[arg(long, env = "MILLSTREAM_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,

    /// Work only while holding the lease, so that several operators may run.
    #[arg(long, env = "MILLSTREAM_LEADER_ELECTION", default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,

    /// Name of the lease.
    #[arg(long, env = "MILLSTREAM_LEASE_NAME", default_value = "millstream-operator")]
    pub lease_name: String,

    /// Reconciles that may run at the same time.
    #[arg(long, env = "MILLSTREAM_CONCURRENCY", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub concurrency: u16,

    /// Longest time in seconds between two looks at a running job's progress.
    #[arg(long, env = "MILLSTREAM_POLL_SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub poll_seconds: u64,

    /// Seconds to wait for the pods of a deleted job before the object goes without them.
    #[arg(long, env = "MILLSTREAM_DELETION_DEADLINE_SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(30..=86_400))]
    pub deletion_deadline_seconds: u64,

    /// How the log is written.
    #[arg(long, env = "MILLSTREAM_LOG_FORMAT", value_enum, default_value_t = LogFormat::Json)]
    pub log_format: LogFormat,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Lines for people.
    Text,
}

impl Args {
    /// Longest time between two looks at a running job's progress.
    pub fn poll_interval(&self) -> Duration {
        Duration::from_secs(self.poll_seconds)
    }

    /// How long the pods of a deleted job are waited for.
    pub fn deletion_deadline(&self) -> Duration {
        Duration::from_secs(self.deletion_deadline_seconds)
    }
}

/// Outside a cluster there is no pod name; the process id keeps two operators of one machine apart.
fn default_identity() -> String {
    std::env::var("HOSTNAME").unwrap_or_else(|_| format!("operator-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_repeated_or_separated_by_commas() {
        let args = Args::try_parse_from(["operator", "--watch-namespace", "a,b", "--watch-namespace", "c"]);
        assert_eq!(args.expect("the arguments are right").watch_namespaces, ["a", "b", "c"]);
    }

    #[test]
    fn without_a_namespace_all_are_watched() {
        assert!(Args::try_parse_from(["operator"]).expect("all arguments have defaults").watch_namespaces.is_empty());
    }
}
