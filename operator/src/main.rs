//! The process: allocator, TLS provider, arguments. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use operator::args::Args;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    operator::telemetry::init(args.log_format);
    operator::job_client::install_tls_provider();
    match operator::run::run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "the operator stops");
            ExitCode::FAILURE
        }
    }
}
