//! `millstream savepoint` and `millstream stop`: orders for a run on this machine, and what became of them.
//!
//! Owns the waiting and the output: a location on standard output, for scripts; sentences on standard error. What an order does is the job's.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use job_api::orders::{
    SAVEPOINTS_PATH, STOP_PATH, SavepointPhase, SavepointRequest, SavepointStatus, StopMode, StopRequest,
    is_savepoint_name,
};
use tokio::time::sleep;

use super::failure::Failure;
use super::progress::{eprint_line, number};
use super::{SavepointArgs, StopArgs};
use crate::control::client::{Client, ClientError};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// An address of this machine only: the port of a run asks nobody who he is.
pub(super) fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write an address and a port, as 127.0.0.1:7070".to_owned())?;
    if !address.ip().is_loopback() {
        return Err(
            "this port takes orders from everybody who reaches it: write 127.0.0.1:PORT or [::1]:PORT".to_owned()
        );
    }
    Ok(address)
}

/// A duration as in a job file.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    plan::job::duration::parse(text)
}

/// The name of a savepoint.
pub(super) fn savepoint_name(text: &str) -> Result<String, String> {
    if is_savepoint_name(text) {
        return Ok(text.to_owned());
    }
    Err("write 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit".to_owned())
}

/// Orders a savepoint and waits for it.
pub(super) fn savepoint(args: &SavepointArgs) -> Result<(), Failure> {
    let client = Client { address: args.control };
    let status = on_a_runtime(async {
        let end = Instant::now() + args.timeout;
        let order = SavepointRequest { name: args.name.clone(), stop: args.stop };
        let mut status: SavepointStatus = client.order(SAVEPOINTS_PATH, &order).await?;
        while !ended(&status) && Instant::now() < end {
            sleep(ASK_EVERY).await;
            status = client.get(&format!("{SAVEPOINTS_PATH}/{}", args.name)).await?;
        }
        Ok(status)
    })?;
    report(args, &status)
}

fn ended(status: &SavepointStatus) -> bool {
    match status.phase {
        SavepointPhase::Draining | SavepointPhase::Uploading => false,
        SavepointPhase::Completed | SavepointPhase::Failed => true,
    }
}

#[expect(clippy::print_stdout, reason = "the location is the command's output")]
fn report(args: &SavepointArgs, status: &SavepointStatus) -> Result<(), Failure> {
    let name = &args.name;
    match status.phase {
        SavepointPhase::Completed => {
            let bytes = status.bytes.map(|bytes| format!(", {} bytes", number(bytes))).unwrap_or_default();
            let pause = status.pause_ms.map(|ms| format!("; sources stood still for {ms} ms")).unwrap_or_default();
            eprint_line(&format!("savepoint {name} is complete{bytes}{pause}"));
            if let Some(location) = &status.location {
                println!("{location}");
            }
            Ok(())
        }
        SavepointPhase::Failed => {
            let why = status.message.as_deref().unwrap_or("the job does not say why");
            Err(Failure::Order(format!("savepoint {name} failed: {why}; the job went on")))
        }
        SavepointPhase::Draining => Err(late(args, "its sources' data is still on the way through the job")),
        SavepointPhase::Uploading => Err(late(args, "its files are still on their way to the store")),
    }
}

fn late(args: &SavepointArgs, what: &str) -> Failure {
    let (name, control) = (&args.name, args.control);
    Failure::Order(format!(
        "savepoint {name} is not complete in time: {what}. It goes on; ask again with `millstream savepoint {name} --control {control}`"
    ))
}

/// Orders the end of the job's work and waits for it.
pub(super) fn stop(args: &StopArgs) -> Result<(), Failure> {
    let client = Client { address: args.control };
    let mode = if args.drain { StopMode::Drain } else { StopMode::Stop };
    let gone = on_a_runtime(async {
        let end = Instant::now() + args.timeout;
        client.send(STOP_PATH, &StopRequest { mode }).await?;
        while client.answers().await {
            if Instant::now() >= end {
                return Ok(false);
            }
            sleep(ASK_EVERY).await;
        }
        Ok(true)
    })?;
    if gone {
        eprint_line("stopped: everything read is committed");
        return Ok(());
    }
    Err(Failure::Order("the job was told to stop and has not ended in time; it may still do so".to_owned()))
}

fn on_a_runtime<T>(work: impl Future<Output = Result<T, ClientError>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Start(format!("cannot start a thread: {error}")))?;
    runtime.block_on(work).map_err(|error| match error {
        ClientError::Unreachable { .. } | ClientError::NoJob { .. } => Failure::Unreachable(error.to_string()),
        ClientError::Late { .. } | ClientError::Refused { .. } => Failure::Order(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_may_give_orders() {
        for good in ["127.0.0.1:7070", "127.8.8.8:1", "[::1]:7070"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:7070", "10.0.0.7:7070", "[::]:7070"] {
            assert!(loopback(bad).unwrap_err().contains("everybody who reaches it"), "{bad}");
        }
        for bad in ["7070", "localhost:7070", "127.0.0.1"] {
            assert!(loopback(bad).unwrap_err().contains("as 127.0.0.1:7070"), "{bad}");
        }
    }
}
