//! Orders as people give them: `millstream stop` and `millstream savepoint` to a run on this machine, and to nobody.

use super::pod::free_port;
use super::workshop::Workshop;

/// A job that runs until it is stopped, at this port of this machine.
fn start(workshop: &Workshop, port: u16) -> super::workshop::Running {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cli/jobs/ticks.yaml");
    workshop.write("job.yaml", &std::fs::read_to_string(path).unwrap().replace("'149999'", "'149999999999'"));
    let address = format!("127.0.0.1:{port}");
    let mut running = workshop.start(&["run", "job.yaml", "--control", &address, "--report", "json"]);
    running.wait_until("the port", || std::net::TcpStream::connect(&address).is_ok());
    running
}

#[test]
fn a_run_is_stopped_from_another_terminal() {
    let (workshop, other, port) = (Workshop::new(), Workshop::new(), free_port());
    let running = start(&workshop, port);
    let outcome = other.run(&["stop", "--control", &format!("127.0.0.1:{port}")]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""), "{outcome:?}");
    assert!(outcome.stderr.contains("stopped: everything read is committed"), "{outcome:?}");
    let ended = running.end();
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("\"at_end\":false"), "{ended:?}");
}

#[test]
fn an_order_to_nobody_says_how_to_start_somebody() {
    let (workshop, port) = (Workshop::new(), free_port());
    let control = format!("127.0.0.1:{port}");
    for arguments in [&["stop", "--control", &control][..], &["savepoint", "one", "--control", &control]] {
        let outcome = workshop.run(arguments);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        let expected = format!("start it with `millstream run FILE --control {control}`");
        assert!(outcome.stderr.contains(&expected), "{outcome:?}");
    }
}

#[test]
fn orders_are_taken_from_this_machine_only() {
    let workshop = Workshop::new();
    for arguments in [
        &["run", "job.yaml", "--control", "0.0.0.0:7070"][..],
        &["stop", "--control", "192.0.2.1:7070"],
        &["savepoint", "one", "--control", "192.0.2.1:7070"],
    ] {
        let outcome = workshop.run(arguments);
        assert_eq!(outcome.code, Some(2), "{outcome:?}");
        assert!(outcome.stderr.contains("takes orders from everybody who reaches it"), "{outcome:?}");
    }
    let outcome = workshop.run(&["savepoint", "Not/A/Name", "--control", "127.0.0.1:7070"]);
    assert_eq!(outcome.code, Some(2), "{outcome:?}");
    assert!(outcome.stderr.contains("1 to 63 of a-z, 0-9 and -"), "{outcome:?}");
}

#[test]
fn a_port_that_is_taken_is_said_before_the_job_starts() {
    let (workshop, taken) = (Workshop::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    workshop.copy("job-runtime/tests/cli/jobs/ticks.yaml", "job.yaml");
    let address = taken.local_addr().unwrap().to_string();
    let outcome = workshop.run(&["run", "job.yaml", "--control", &address]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stderr.contains(&format!("cannot take orders at {address}")), "{outcome:?}");
    assert!(!workshop.path(".millstream").exists(), "nothing was started");
}
