//! The binary `millstream`: allocator, then the command line.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let started = Instant::now();
    job_runtime::cli::Cli::parse().run(started)
}
