//! `make bench`: throughput, latency, recovery, a gigabyte of state, memory; prints tables and writes the book's page.
//!
//! `bench MILLSTREAM PAGE` runs all rows and writes the page; `bench MILLSTREAM PAGE ROW…` runs the rows or groups of these names and writes nothing. A row
//! that fails says why, and the others go on. Owns the order and the page; what is measured and how is in `e2e::bench`. Absolute times are of this
//! machine; ratios within one run are what counts.
#![expect(clippy::print_stdout, reason = "a command line program")]

use std::path::PathBuf;

use anyhow::Context;
use e2e::bench::process::Runner;
use e2e::bench::report::Sheet;
use e2e::bench::rows::Table;
use e2e::bench::throughput::{self, KAFKA_RECORDS, NEXMARK_EVENTS, PARTITIONS};
use e2e::bench::{kafka, large, latency, memory, notes, recovery};

const USAGE: &str = "usage: bench PATH-OF-MILLSTREAM PAGE-TO-WRITE [ROW...]";

type Group = fn(&Runner, &mut Sheet) -> anyhow::Result<()>;

const GROUPS: [(&str, Group); 9] = [
    ("nexmark", throughput::nexmark),
    ("state", throughput::state),
    ("kafka", throughput::kafka),
    ("commits", latency::commits),
    ("latency", latency::direct),
    ("shuffle", latency::shuffled),
    ("recovery", recovery::small),
    ("large", large::all),
    ("memory", memory::idle),
];

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let [binary, page] = [arguments.next(), arguments.next()].map(|path| path.map(PathBuf::from));
    let (binary, page, wanted) = (binary.context(USAGE)?, page.context(USAGE)?, arguments.collect::<Vec<_>>());
    let whole = wanted.is_empty();
    let (dir, tag) = (tempfile::tempdir()?, format!("bench-{}", std::process::id()));
    let (runner, mut sheet) = (Runner::new(&binary, dir.path(), &tag), Sheet::new(wanted)?);
    for (group, run) in GROUPS {
        if sheet.wants_of(group) {
            if let Err(error) = run(&runner, &mut sheet) {
                println!("{group}: {error:#}");
                sheet.failed(group, &error);
            }
            // What the group wrote to Kafka goes with it; without a broker there is nothing.
            let _ = kafka::delete_topics(&tag);
        }
    }
    let text = body(&sheet);
    println!("\n{text}");
    if whole {
        std::fs::write(&page, format!("{}\n{text}", heading()?)).with_context(|| page.display().to_string())?;
    }
    anyhow::ensure!(!sheet.has_failures(), "some rows could not be measured");
    Ok(())
}

fn heading() -> anyhow::Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name\t: ")).unwrap_or("unknown").to_owned();
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "# Benchmarks\n\n\
         Written by `make bench`; do not edit. `bench/run ROW…` runs single rows or groups of them. Machine: {model}, {cores} cores, shared with\n\
         the broker, the S3 server and the load generator, so look at records per CPU-second of the job's process (user and system time of all\n\
         its threads, start included) rather than at the clock. One worker thread. Each row has the floor and the target that it is held to.\n"
    ))
}

fn body(sheet: &Sheet) -> String {
    let roofline = sheet.roofline.as_ref().map_or(String::new(), |roofline| {
        format!(
            "Kafka to Kafka: {KAFKA_RECORDS} JSON records of about 95 bytes in {PARTITIONS} partitions, lz4, one broker, exactly once, commit interval 50 ms. The roofline\n\
             is what bare loops cost in the same run: librdkafka's batch calls for consume and produce, sonic-rs into and out of a struct for decode\n\
             and encode, no commit and no engine: {roofline}.\nA row's part of it is the roofline's time for what the row reads and writes, divided by the job's.\n\n"
        )
    });
    let missed = sheet.missed(notes::note);
    let missed = if missed.is_empty() { missed } else { format!("\n## Missed targets\n\n{missed}") };
    format!(
        "## Throughput\n\n\
         Nexmark and state: generators in process, blackhole sink; Nexmark has {NEXMARK_EVENTS} events of which 46 in 50 are bids (records in). Counts of \
         Kafka\nrecords have five rows of each key in each window.\n\n{roofline}{}\n\
         ## Latency, recovery, snapshots, memory\n\nOf several kills the longest counts. Half load is where about half of the machine is busy, broker, sender and reader included. A reader is a\nclient of its own that shares no code with the runtime.\n\n{}{missed}",
        sheet.table(Table::Throughput),
        sheet.table(Table::Figures),
    )
}
