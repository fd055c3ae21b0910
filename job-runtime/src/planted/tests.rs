//! Every planted bug is on the list of `make mutants`, and those that need no server are found out here.

use std::process::Command;

use super::Bug;

/// `bug target test [case]`, a line each.
const LIST: &str = include_str!("../../tests/mutants.txt");

struct Line<'a> {
    bug: &'a str,
    target: &'a str,
    test: &'a str,
}

fn lines() -> Vec<Line<'static>> {
    let line = |text: &'static str| {
        let mut words = text.split_whitespace();
        let mut word = || words.next().unwrap_or_else(|| panic!("{text:?}: write bug, target, test"));
        Line { bug: word(), target: word(), test: word() }
    };
    LIST.lines().filter(|text| !text.is_empty() && !text.starts_with('#')).map(line).collect()
}

#[test]
fn every_planted_bug_has_its_test() {
    let mut listed: Vec<&str> = lines().iter().map(|line| line.bug).collect();
    let mut all: Vec<&str> = Bug::ALL.iter().map(|bug| bug.name()).collect();
    listed.sort_unstable();
    all.sort_unstable();
    assert_eq!(listed, all, "tests/mutants.txt and planted.rs");
}

/// Runs a test of this program in a process of its own; true if it passes.
fn passes(test: &str, planted: Option<&str>) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--quiet"]);
    match planted {
        Some(name) => child.env("MILLSTREAM_PLANTED", name),
        None => child.env_remove("MILLSTREAM_PLANTED"),
    };
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test"), "there is no test {test}: {text}");
    output.status.success()
}

#[test]
fn the_planted_bugs_that_need_no_server_are_found_out() {
    let mut found = 0;
    for line in lines().iter().filter(|line| line.target == "lib") {
        assert!(!passes(line.test, Some(line.bug)), "{} is not found out by {}", line.bug, line.test);
        assert!(passes(line.test, None), "{} fails without a planted bug", line.test);
        found += 1;
    }
    assert!(found > 3);
}
