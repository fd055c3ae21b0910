//! The command line: what can be asked of the binary, and what it answers with (output and exit code).
//!
//! Owns arguments and exit codes. What a command does is in its own file below.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

use crate::snapshot::place::StorePlace;

mod explain;
mod failure;
mod job;
mod orders;
mod pod;
mod progress;
mod remove;
mod report;
mod run;
mod signals;
mod state;

pub use failure::Failure;

/// Streaming SQL: reads Kafka or files, keeps state, writes exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "millstream",
    version,
    after_help = "Examples:\n  millstream run examples/flights/delays.yaml      run a job here, without Kafka or Kubernetes\n  millstream explain examples/flights/delays.yaml  what the job does, its state, and what it promises\n  millstream validate jobs/*.yaml                  check jobs without running them\n\nExit codes: 0 done, or stopped when asked; 1 the job or the order failed; 2 wrong use, or the job file is wrong;\n3 the job cannot start (source, sink, state directory), or no job takes the order; 130 stopped at once by a second Ctrl-C.\nLogs: RUST_LOG=debug, or RUST_LOG=job_runtime::kafka=debug for one part."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// How to write logs (to standard error).
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "MILLSTREAM_LOG_FORMAT")]
    log_format: LogFormat,
}

/// On a laptop the client's complaints about its connections say again what the error at the end says.
const QUIET_LOGS: &str = "warn,kafka=error";

/// How logs look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a job here until its input ends or Ctrl-C; a second run goes on where the first one stopped
    Run(RunArgs),
    /// Check job files: YAML, SQL, options. Reads no data and reaches no broker
    Validate {
        /// StreamJob files
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Show the plan of a job: stages, stream operators, watermarks, state, and the guarantee of each sink
    Explain {
        /// StreamJob file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Order a savepoint of a job that runs here with --control, wait for it, and print its location
    Savepoint(SavepointArgs),
    /// Remove a savepoint by its location. Without --force: say what it is, and remove nothing
    RemoveSavepoint(RemoveSavepointArgs),
    /// Stop a job that runs here with --control, and wait for its end
    Stop(StopArgs),
    /// Run as a pod of Kubernetes: job and settings come from the mounted ConfigMap
    Pod(PodArgs),
    /// Show what a stopped job's state directory, or a snapshot, holds
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Print a completion script: `millstream completion bash > /etc/bash_completion.d/millstream`
    Completion {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Arguments of `run`.
#[derive(Args, Debug)]
struct RunArgs {
    /// StreamJob file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Where the job's state is kept [default: .millstream/NAME in the current directory]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where snapshots of the job's state are kept, so that a lost state directory can be restored: a directory, or s3://BUCKET/PREFIX
    /// with the server and credentials of the environment (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...) [default: none are taken]
    #[arg(long, value_name = "DIR", value_parser = StorePlace::parse)]
    checkpoint_dir: Option<StorePlace>,
    /// Begin with the state of a savepoint, if the job has none of its own: a location as `millstream savepoint` prints it
    /// [default: `spec.restoreFrom`]
    #[arg(long, value_name = "LOCATION", conflicts_with = "fresh")]
    from_savepoint: Option<String>,
    /// With a savepoint: state of stream operators that the job does not have any more may be lost
    #[arg(long)]
    allow_lost_state: bool,
    /// Forget earlier state and start anew. Output that is already written is not touched
    #[arg(long)]
    fresh: bool,
    /// Worker threads [default: `spec.workers`, else one per core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Take orders (savepoint, stop) at this address of this machine, as 127.0.0.1:7070. Whoever reaches it may give them
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = orders::loopback)]
    control: Option<SocketAddr>,
    /// How to report the run at its end
    #[arg(long, value_enum, default_value_t = ReportFormat::Text)]
    report: ReportFormat,
}

/// Arguments of `savepoint`.
#[derive(Args, Debug)]
struct SavepointArgs {
    /// Its name, unique in the job for ever: a-z, 0-9 and -
    #[arg(value_name = "NAME", value_parser = orders::savepoint_name)]
    name: String,
    /// Where the job takes orders: what `millstream run` was given
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = orders::loopback)]
    control: SocketAddr,
    /// End the job behind the savepoint: it reads and writes nothing after it
    #[arg(long)]
    stop: bool,
    /// How long to wait for it. It goes on when the time is over
    #[arg(long, value_name = "DURATION", value_parser = orders::duration, default_value = "10m")]
    timeout: Duration,
}

/// Arguments of `remove-savepoint`.
#[derive(Args, Debug)]
struct RemoveSavepointArgs {
    /// Where it is: what `millstream savepoint` printed, or `status.location` of a Checkpoint
    #[arg(value_name = "LOCATION")]
    location: String,
    /// Remove it: no job that began from it is to start again
    #[arg(long)]
    force: bool,
}

/// Arguments of `stop`.
#[derive(Args, Debug)]
struct StopArgs {
    /// Where the job takes orders: what `millstream run` was given
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = orders::loopback)]
    control: SocketAddr,
    /// Treat what is read as all there is: windows close, then the job ends
    #[arg(long)]
    drain: bool,
    /// How long to wait for the end
    #[arg(long, value_name = "DURATION", value_parser = orders::duration, default_value = "2m")]
    timeout: Duration,
}

/// What `state` can show.
#[derive(Debug, Subcommand)]
enum StateCommand {
    /// The snapshots of a job, or the shards of a state directory
    List {
        #[command(flatten)]
        of: StateOf,
    },
    /// Number and size of the entries of each stream operator
    Count {
        #[command(flatten)]
        of: StateOf,
    },
    /// Every entry, as lines of JSON or in Parquet: keyed state by its columns, all else with key and value as bytes
    Export {
        #[command(flatten)]
        of: StateOf,
        #[command(flatten)]
        what: ExportArgs,
    },
}

/// What `state export` writes, and where.
#[derive(Args, Debug)]
struct ExportArgs {
    /// Only this shard
    #[arg(long, value_name = "N")]
    shard: Option<u16>,
    /// Only this stream operator, by its uid: a number, or `0x` and the digits that `millstream explain` shows
    #[arg(long, value_name = "UID", value_parser = operator_uid)]
    operator: Option<u32>,
    /// In which form. Parquet needs --output
    #[arg(long, value_enum, default_value_t = ExportFormat::Json)]
    format: ExportFormat,
    /// Where to write; nothing may be there yet, and it is there as a whole or not at all. Parquet of all stream operators is a directory
    /// with a file for each [default: standard output]
    #[arg(long, value_name = "FILE", required_if_eq("format", "parquet"))]
    output: Option<PathBuf>,
}

/// Forms of exported state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// An entry is a line of JSON.
    Json,
    /// An entry is a row of a Parquet file.
    Parquet,
}

/// A uid as `explain` shows it behind `0x`, or as a number.
fn operator_uid(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| "write the number, or `0x` and the eight digits that `millstream explain` shows".to_owned())
}

/// Whose state.
#[derive(Args, Debug)]
struct StateOf {
    /// State directory of a job that does not run
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the job's snapshots are: a directory, or s3://BUCKET/PREFIX
    #[arg(long, value_name = "DIR", value_parser = StorePlace::parse)]
    checkpoint_dir: Option<StorePlace>,
    /// Name of the job whose snapshot it is
    #[arg(long, value_name = "NAME")]
    job: Option<String>,
    /// Uid of the job [default: that of the newest snapshot of a job of this name]
    #[arg(long, value_name = "UID")]
    uid: Option<String>,
    /// Number of the snapshot [default: the newest]
    #[arg(long, value_name = "N")]
    number: Option<u64>,
}

/// How a run is reported at its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// A few lines for people, on standard error.
    Text,
    /// One line of JSON on standard output: rows, seconds, CPU, memory, commit times.
    Json,
}

/// Arguments of `pod`.
#[derive(Args, Debug)]
struct PodArgs {
    /// Directory of `job.yaml` and `settings.yaml`
    #[arg(long, value_name = "DIR", default_value = job_api::CONFIG_DIR)]
    config_dir: PathBuf,
    /// Directory of the state volume
    #[arg(long, value_name = "DIR", default_value = job_api::STATE_DIR)]
    state_dir: PathBuf,
    /// Directory or s3://BUCKET/PREFIX of snapshots, if the settings name no bucket
    #[arg(long, value_name = "DIR", value_parser = StorePlace::parse)]
    checkpoint_dir: Option<StorePlace>,
    /// This pod's name; its number is behind the last dash
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pod_name: String,
    /// Where to write the last error
    #[arg(long, value_name = "FILE", default_value = job_api::TERMINATION_FILE)]
    termination_file: PathBuf,
    /// Port of health and metrics
    #[arg(long, value_name = "PORT", default_value_t = job_api::HEALTH_PORT)]
    health_port: u16,
    /// Port of the status and of orders
    #[arg(long, value_name = "PORT", default_value_t = job_api::CONTROL_PORT)]
    control_port: u16,
}

impl Cli {
    /// Does what was asked; `started` is the start of the process.
    pub fn run(self, started: Instant) -> ExitCode {
        let result = match self.command {
            Command::Run(args) => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                run::run(&args, started)
            }
            Command::Validate { files } => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                explain::validate(&files)
            }
            Command::Explain { file } => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                explain::explain(&file)
            }
            Command::Savepoint(args) => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                orders::savepoint(&args)
            }
            Command::RemoveSavepoint(args) => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                remove::savepoint(&args)
            }
            Command::Stop(args) => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                orders::stop(&args)
            }
            Command::Pod(args) => {
                crate::telemetry::init(LogFormat::Json, "info");
                return pod::run(&args, started);
            }
            Command::State { command } => {
                crate::telemetry::init(self.log_format, QUIET_LOGS);
                state::run(&command)
            }
            Command::Completion { shell } => {
                clap_complete::generate(shell, &mut Self::command(), "millstream", &mut std::io::stdout());
                Ok(())
            }
        };
        match result {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => {
                failure.print();
                failure.exit_code()
            }
        }
    }
}
