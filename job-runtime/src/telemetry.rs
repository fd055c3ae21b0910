//! Logs: where they go and how they look.
//!
//! Owns the subscriber. Levels come from `RUST_LOG`; nothing here decides what is logged.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// Libraries whose lines help only those who work on them; `RUST_LOG` may still name them.
const QUIET: &str = "sqlparser=info,aws_config=error";

/// Starts logging to standard error, at `default` unless `RUST_LOG` says otherwise.
pub fn init(format: LogFormat, default: &str) {
    let wanted = std::env::var(EnvFilter::DEFAULT_ENV).ok().filter(|wanted| !wanted.is_empty());
    let filter = EnvFilter::new(format!("{QUIET},{}", wanted.as_deref().unwrap_or(default)));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second initialisation in one process (tests) keeps the first.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(color(std::io::stderr().is_terminal())).with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).try_init(),
    };
}

/// Whether to use colour on an output: only on a terminal, and not if the user said no (`NO_COLOR`, see no-color.org).
pub fn color(terminal: bool) -> bool {
    terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}
