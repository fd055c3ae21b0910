//! How a command ends badly: the text for the user and the exit code.
//!
//! Owns the exit codes. The messages were made where the failure was seen.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use plan::Diagnostics;

use crate::pod::PodError;

/// A command did not succeed.
#[derive(Debug)]
pub enum Failure {
    /// The job file is wrong.
    Job(Diagnostics),
    /// The command was used wrongly, e.g. a file that is not there.
    Usage(String),
    /// A source or sink cannot start, shown at its option in the job file.
    Connector(Diagnostics),
    /// The job cannot start.
    Start(String),
    /// The job started and failed.
    Run(PodError),
    /// Nobody takes an order: no job runs at the address.
    Unreachable(String),
    /// An order was refused, or did not come to its end.
    Order(String),
}

impl Failure {
    /// Exit code of the process.
    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Run(_) | Self::Order(_) => 1,
            Self::Job(_) | Self::Usage(_) => 2,
            Self::Connector(_) | Self::Start(_) | Self::Unreachable(_) => 3,
        })
    }

    /// Writes it to standard error.
    pub fn print(&self) {
        let mut stderr = std::io::stderr();
        let color = crate::telemetry::color(stderr.is_terminal());
        let text = match self {
            Self::Job(diagnostics) | Self::Connector(diagnostics) => diagnostics.render(color),
            Self::Usage(text) | Self::Start(text) | Self::Unreachable(text) | Self::Order(text) => {
                error_line(text, color)
            }
            Self::Run(error) => error_line(&error.to_string(), color),
        };
        // Nobody is left to tell if standard error is gone.
        let _ = writeln!(stderr, "{}", text.trim_end());
    }
}

fn error_line(text: &str, color: bool) -> String {
    if color { format!("\u{1b}[1;31merror\u{1b}[0m: {text}") } else { format!("error: {text}") }
}
