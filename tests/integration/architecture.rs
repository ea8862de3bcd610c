//! Rules of the tree that no lint knows: which crate may use which, and which words stand where.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use regex::Regex;
use serde_json::Value;

/// What the contract may use: data types and synchronisation, no driver, no network, no file.
const CONTRACT_MAY_USE: &[&str] = &["bytes", "bytestring", "futures-core", "serde_json", "tokio"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn metadata() -> Value {
    // Packages of other platforms need not be on this machine.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &platform])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Our crates with what they use: names of normal dependencies, then of development ones.
fn crates(metadata: &Value) -> BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)> {
    let packages = metadata["packages"].as_array().unwrap();
    let ours = packages.iter().filter(|package| package["source"].is_null());
    ours.map(|package| {
        let of_kind = |development: bool| {
            let all = package["dependencies"].as_array().unwrap().iter();
            all.filter(|dependency| (dependency["kind"] == "dev") == development)
                .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
                .collect()
        };
        (package["name"].as_str().unwrap().to_owned(), (of_kind(false), of_kind(true)))
    })
    .collect()
}

/// Which of our crates a crate may use: daemon -> connectors -> kit -> api; the testkit serves tests alone.
fn may_use(user: &str, used: &str, development: bool) -> bool {
    let is_connector = |name: &str| !["tailwater", "tailwater-api", "tailwater-kit", "tailwater-testkit"].contains(&name);
    match (user, used) {
        ("tailwater-api", _) => false,
        ("tailwater-kit", used) => used == "tailwater-api",
        ("tailwater-testkit", used) => ["tailwater-api", "tailwater-kit"].contains(&used),
        (_, "tailwater-testkit") => development,
        (_, "tailwater-api" | "tailwater-kit") => true,
        ("tailwater", used) => is_connector(used),
        // No connector knows another, and none knows the daemon.
        _ => false,
    }
}

#[test]
fn dependencies_run_one_way() {
    let metadata = metadata();
    let crates = crates(&metadata);
    assert!(crates.len() > 5, "{:?}", crates.keys());
    for (user, (normal, development)) in &crates {
        for (used, is_development) in normal.iter().map(|name| (name, false)).chain(development.iter().map(|name| (name, true))) {
            assert!(!crates.contains_key(used) || may_use(user, used, is_development), "{user} must not depend on {used}");
        }
    }
}

#[test]
fn the_contract_uses_no_driver() {
    let metadata = metadata();
    let (used, _) = &crates(&metadata)["tailwater-api"];
    let others: Vec<_> = used.iter().filter(|name| !CONTRACT_MAY_USE.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "connectors/api uses {others:?}");
}

#[test]
fn one_implementation_of_cryptography_is_built_in() {
    // `cargo metadata` also lists what optional features of dependencies would bring; `cargo tree` knows what is built.
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--locked", "--offline", "--edges", "all", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    let tree = String::from_utf8(output.stdout).unwrap();
    let is_built = |name: &str| tree.lines().any(|line| line.split(' ').next() == Some(name));
    assert!(is_built("aws-lc-rs"), "{tree}{}", String::from_utf8_lossy(&output.stderr));
    assert!(!is_built("ring"), "`ring` is in the tree: cargo tree --workspace -i ring");
}

/// All Rust files below a folder with their texts.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().to_owned(), text));
            }
        }
    }
    assert!(!found.is_empty());
    found
}

fn lines_that_match(pattern: &str, files: &[(PathBuf, String)]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for (path, text) in files {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| pattern.is_match(line)) {
            found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
        }
    }
    found
}

#[test]
fn the_daemon_knows_no_word_of_a_database() {
    // Tests show what a source's own state looks like.
    let mut files = sources("src");
    files.retain(|(path, _)| !path.iter().any(|name| name == "tests" || name == "tests.rs"));
    for (_, text) in &mut files {
        text.truncate(text.find("#[cfg(test)]\nmod ").unwrap_or(text.len()));
    }
    let found = lines_that_match(r"(?i)\b(lsn|binlog|slot|slot_name|wal_level)\b", &files);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn connectors_are_switched_in_one_place() {
    let files: Vec<_> = sources("src").into_iter().filter(|(path, _)| path != Path::new("src/connectors.rs")).collect();
    let found = lines_that_match(r"cfg(_attr)?\(.*\bfeature\s*=", &files);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn no_module_is_a_drawer() {
    let drawers = ["utils", "util", "common", "helpers", "helper", "misc"];
    for folder in ["src", "connectors", "tests/integration"] {
        for (path, _) in sources(folder) {
            let names = path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
            assert!(names.into_iter().all(|name| !drawers.contains(&name.as_str())), "{}", path.display());
        }
    }
}
