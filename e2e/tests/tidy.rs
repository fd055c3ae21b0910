//! Promises about the source itself: which crate may know which, how a file begins, how long it may be. Needs no server and does not
//! look at what the code does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Which of our crates each of our crates may use. docs/src/ARCHITECTURE.md gives the reasons; a new arrow needs a decision record.
const ARROWS: &[(&str, &[&str])] = &[
    ("job-api", &[]),
    ("dataflow", &[]),
    ("crds", &[]),
    ("checkpoint", &["job-api", "dataflow"]),
    ("plan", &["dataflow"]),
    ("sim", &["job-runtime", "dataflow", "checkpoint"]),
    ("job-runtime", &["job-api", "plan", "dataflow", "checkpoint"]),
    ("operator", &["crds", "job-api"]),
    ("e2e", &["crds", "job-api"]),
];

/// Libraries that a crate must not use, not even in its tests.
const NOT_DIRECTLY: &[(&str, &[&str])] = &[
    ("plan", &["tokio", "rdkafka", "kube", "rocksdb"]),
    ("dataflow", &["tokio", "rdkafka", "kube", "rocksdb"]),
    ("checkpoint", &["tokio", "rdkafka", "kube", "rocksdb"]),
    ("sim", &["tokio", "rdkafka", "kube", "rocksdb"]),
    ("job-api", &["tokio", "rdkafka", "kube", "rocksdb", "arrow"]),
];

/// Libraries that must not be in a program at all, by whatever way.
const NOT_AT_ALL: &[(&str, &[&str])] = &[
    ("job-runtime", &["kube", "kube-client", "k8s-openapi", "crds", "ring"]),
    ("operator", &["rdkafka", "rocksdb", "arrow", "job-runtime", "ring"]),
];

const MAX_LINES: usize = 700;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("e2e lies in the workspace").to_owned()
}

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--offline",
            "--locked",
            "--filter-platform",
            "x86_64-unknown-linux-gnu",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

fn array<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Our packages by name: what each depends on directly, in any way.
fn ours(metadata: &Value) -> BTreeMap<&str, BTreeSet<&str>> {
    let members: BTreeSet<&str> = array(metadata, "workspace_members").filter_map(Value::as_str).collect();
    array(metadata, "packages")
        .filter(|package| members.contains(text(package, "id")))
        .map(|package| (text(package, "name"), array(package, "dependencies").map(|d| text(d, "name")).collect()))
        .collect()
}

/// Every package that the program `name` is built from; its tests and build scripts do not count.
fn closure(name: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--offline",
            "--locked",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "--package",
            name,
        ])
        // With the features of the whole workspace unified, the tree would be that of the whole workspace.
        .env_remove("CARGO_RESOLVER_FEATURE_UNIFICATION")
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo tree prints text");
    text.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// The files of the project with their paths from its root.
fn files() -> Vec<(String, PathBuf)> {
    let root = root();
    let mut todo = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = todo.pop() {
        for entry in std::fs::read_dir(&folder).expect("a folder of the project can be read") {
            let path = entry.expect("a folder of the project can be read").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || ["target", ".git", ".millstream", "book"].contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else {
                let inside = path.strip_prefix(&root).expect("below the root").to_string_lossy().into_owned();
                found.push((inside, path));
            }
        }
    }
    found.sort();
    found
}

fn rust_files() -> Vec<(String, String)> {
    files()
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"))
        .map(|(name, path)| (name, std::fs::read_to_string(path).expect("a source file is UTF-8")))
        .collect()
}

fn check(what: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

#[test]
fn our_crates_use_only_those_of_ours_that_they_may() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let known: BTreeSet<&str> = ARROWS.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours.keys().copied().collect::<BTreeSet<_>>(), known, "a new crate needs its line in ARROWS");
    let mut wrong = Vec::new();
    for (name, allowed) in ARROWS {
        for used in ours[name].iter().filter(|used| known.contains(**used) && !allowed.contains(used)) {
            wrong.push(format!("{name} -> {used}"));
        }
    }
    check("forbidden arrows between our crates", &wrong);
}

#[test]
fn pure_crates_do_no_io_and_programs_stay_apart() {
    let metadata = metadata();
    let ours = ours(&metadata);
    let mut wrong = Vec::new();
    for (name, banned) in NOT_DIRECTLY {
        wrong.extend(banned.iter().filter(|b| ours[name].contains(**b)).map(|b| format!("{name} uses {b}")));
    }
    for (name, banned) in NOT_AT_ALL {
        let all = closure(name);
        wrong.extend(banned.iter().filter(|b| all.contains(**b)).map(|b| format!("{name} is built with {b}")));
    }
    check("forbidden dependencies", &wrong);
}

#[test]
fn every_source_file_says_what_it_owns() {
    let wrong: Vec<String> =
        rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    check("files that do not open with `//!`", &wrong);
}

#[test]
fn no_source_file_is_too_long() {
    let is_test = |name: &str| name.contains("/tests/") || name.ends_with("/tests.rs");
    let wrong: Vec<String> = rust_files()
        .into_iter()
        .filter(|(name, _)| !is_test(name))
        .map(|(name, text)| (text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count(), name))
        .filter(|(lines, _)| *lines > MAX_LINES)
        .map(|(lines, name)| format!("{name}: {lines} lines"))
        .collect();
    check(&format!("files with more than {MAX_LINES} lines without their tests"), &wrong);
}

#[test]
fn modules_lie_in_files_of_their_own_name() {
    let wrong: Vec<String> =
        rust_files().into_iter().map(|(name, _)| name).filter(|name| name.ends_with("/mod.rs")).collect();
    check("use foo.rs beside foo/ instead of", &wrong);
}

#[test]
fn no_file_names_a_path_of_one_machine() {
    // Taken apart, so that this file does not name them either.
    let paths =
        [concat!("/ro", "ot/"), concat!("/wo", "rk/main"), concat!("/wo", "rk/shared"), concat!("/wo", "rk/wt")];
    let mut wrong = Vec::new();
    for (name, path) in files() {
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        for (line, text) in text.lines().enumerate() {
            if paths.iter().any(|p| text.contains(p)) {
                wrong.push(format!("{name}:{}", line + 1));
            }
        }
    }
    check("lines that name a path of one machine", &wrong);
}
