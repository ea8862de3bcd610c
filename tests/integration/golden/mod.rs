//! Debezium and Kafka Connect as the oracle.
//!
//! Recorded cases are played through the binary and compared. Equality is the default. Where Tailwater writes something
//! better, `differences.yaml` says so and why, and `differences/` holds exactly what differs, so that nothing else can
//! hide behind an entry. Cases that no code covers yet stand in `pending.yaml`, which only shrinks.
//!
//! `TAILWATER_GOLDEN=postgres/operations,transforms/chain` plays these cases alone, pending ones too, and prints their
//! differences; `TAILWATER_GOLDEN=pending` plays all pending ones and names those that became equal.
//! On Kafka the same bytes must stand: a few cases are always played through a real broker, all with `TAILWATER_LONG=1`, and those
//! that `TAILWATER_GOLDEN` names with `TAILWATER_GOLDEN_ENGINE=kafka`.
//! `TAILWATER_GOLDEN_UPDATE=1` writes the files below `differences/` anew for cases that have an entry.

mod comparison;
mod player;
mod recording;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde::Deserialize;
use tailwater_testkit::kafka::KafkaBroker;
use tailwater_testkit::{PostgresServer, required_or_skip};

/// Folders of cases that this version plays.
const FAMILIES: [&str; 2] = ["postgres", "transforms"];

/// Cases at the same time; each has a server and a daemon, which mostly wait.
const AT_ONCE: usize = 4;

/// Cases that are always played on Kafka too: every operation, unknown values, headers of a key change, what no schema describes, a
/// chain of transforms, a snapshot alone, and a signal that comes by a topic.
const ON_KAFKA: [&str; 7] = [
    "postgres/converter-schemaless",
    "postgres/incremental-read-only",
    "postgres/key-changes",
    "postgres/operations",
    "postgres/snapshot-initial-only",
    "postgres/toast-default",
    "postgres/transforms-unwrap-and-route",
];

/// What every server of a case has, as the recording ones had it.
const SETTINGS: &[(&str, &str)] = &[("max_prepared_transactions", "10"), ("track_commit_timestamp", "on")];

/// A difference between Debezium and Tailwater that is meant.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Difference {
    case: String,
    debezium: String,
    tailwater: String,
    why: String,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden")
}

/// Names of all cases of [`FAMILIES`]: `postgres/operations`.
pub(crate) fn cases() -> Vec<String> {
    let mut names = Vec::new();
    for family in FAMILIES {
        for entry in fs::read_dir(recording::root().join(family)).unwrap() {
            let entry = entry.unwrap();
            if entry.path().join("case.yaml").exists() {
                names.push(format!("{family}/{}", entry.file_name().to_string_lossy()));
            }
        }
    }
    names.sort();
    names
}

fn pending() -> Vec<String> {
    serde_saphyr::from_str(&fs::read_to_string(folder().join("pending.yaml")).unwrap()).unwrap()
}

/// Differences of recorded cases; those of the REST API (`rest/TITLE`) are held by the test beside it.
fn entries() -> Vec<Difference> {
    let mut entries: Vec<Difference> = serde_saphyr::from_str(&fs::read_to_string(folder().join("differences.yaml")).unwrap()).unwrap();
    entries.retain(|entry| !entry.case.starts_with("rest/"));
    entries
}

/// The file that holds what differs in a case.
fn expected_differences(name: &str) -> PathBuf {
    folder().join("differences").join(format!("{}.txt", name.replace('/', "-")))
}

/// What became of a case.
enum Outcome {
    Skipped,
    /// The differences; none where it is equal
    Played(Vec<String>),
    /// It could not be played to its end
    Broken(String),
}

#[test]
fn recorded_cases_are_equal_or_their_differences_are_listed() {
    let pending: BTreeSet<_> = pending().into_iter().collect();
    let selection = std::env::var("TAILWATER_GOLDEN").ok();
    let selected: Vec<String> = match selection.as_deref() {
        None => cases().into_iter().filter(|name| !pending.contains(name)).collect(),
        Some("pending") => pending.iter().cloned().collect(),
        Some(names) => names.split(',').map(str::to_owned).collect(),
    };
    let engine = match std::env::var("TAILWATER_GOLDEN_ENGINE").as_deref() {
        Ok("kafka") => Engine::Kafka,
        Ok(engine) => panic!("TAILWATER_GOLDEN_ENGINE is kafka or not set, not {engine:?}"),
        Err(_) => Engine::Embedded,
    };
    // What needs a broker anyway is played on it, below if nobody asks for it here.
    let (beside_kafka, selected): (Vec<_>, Vec<_>) =
        selected.into_iter().partition(|name| recording::case(name).takes_signals_from_kafka());
    let mut outcomes = play_all(selected, engine);
    if selection.is_some() && !beside_kafka.is_empty() {
        outcomes.extend(play_all(beside_kafka, Engine::Kafka));
    }
    if selection.as_deref() == Some("pending") {
        let equal: Vec<_> = outcomes
            .iter()
            .filter(|(_, outcome)| matches!(outcome, Outcome::Played(found) if found.is_empty()))
            .map(|(name, _)| name)
            .collect();
        println!("pending cases that are equal now: {equal:#?}");
        return;
    }
    assert_equal_or_listed(&outcomes);
}

#[test]
fn recorded_cases_are_the_same_on_a_real_broker() {
    let names = if std::env::var_os("TAILWATER_LONG").is_some() {
        let pending: BTreeSet<_> = pending().into_iter().collect();
        cases().into_iter().filter(|name| !pending.contains(name)).collect()
    } else {
        ON_KAFKA.map(str::to_owned).into()
    };
    assert_equal_or_listed(&play_all(names, Engine::Kafka));
}

fn assert_equal_or_listed(outcomes: &BTreeMap<String, Outcome>) {
    let listed: BTreeSet<_> = entries().into_iter().map(|entry| entry.case).collect();
    let faults: Vec<_> = outcomes.iter().filter_map(|(name, outcome)| fault(name, outcome, listed.contains(name))).collect();
    assert!(faults.is_empty(), "{} of {} cases:\n\n{}", faults.len(), outcomes.len(), faults.join("\n\n"));
}

/// What keeps the records.
#[derive(Clone, Copy)]
enum Engine {
    Embedded,
    Kafka,
}

/// Each case has a thread and a runtime of its own, so that one that panics is one case less and not the end. All share a broker.
fn play_all(names: Vec<String>, engine: Engine) -> BTreeMap<String, Outcome> {
    let broker = match engine {
        Engine::Embedded => None,
        Engine::Kafka => match required_or_skip(runtime().block_on(KafkaBroker::start(&[]))) {
            Some(broker) => Some(Arc::new(broker)),
            None => return names.into_iter().map(|name| (name, Outcome::Skipped)).collect(),
        },
    };
    let names = Mutex::new(names.into_iter());
    let outcomes = Mutex::new(BTreeMap::new());
    let work = || {
        while let Some(name) = { names.lock().unwrap().next() } {
            let (case, broker) = (name.clone(), broker.clone());
            let played = std::thread::spawn(move || runtime().block_on(compare(case, broker.as_deref())));
            let outcome = played.join().unwrap_or_else(|panic| Outcome::Broken(panic_text(panic)));
            outcomes.lock().unwrap().insert(name, outcome);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(work);
        }
    });
    outcomes.into_inner().unwrap()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

async fn compare(name: String, broker: Option<&KafkaBroker>) -> Outcome {
    let case = recording::case(&name);
    let Some(server) = required_or_skip(PostgresServer::start(player::version(&case), SETTINGS).await) else { return Outcome::Skipped };
    if required_or_skip(player::has_extensions(&case, &server).await).is_none() {
        return Outcome::Skipped;
    }
    let may_fail = recording::has_failure(&name) || entries().iter().any(|entry| entry.case == name);
    let played = player::play(&name, &server, broker, may_fail).await;
    let mut found = comparison::differences(&recording::records(&name), &played.topics);
    match (recording::has_failure(&name), played.failure) {
        (true, None) => found.push("recorded a failure, tailwater works".to_owned()),
        (false, Some(failure)) => {
            eprintln!("{name} fails: {failure}");
            let kind = failure.split(':').next().unwrap_or_default();
            found.push(format!("recorded no failure, tailwater fails: {kind}"));
        }
        (true, Some(_)) | (false, None) => {}
    }
    Outcome::Played(found)
}

fn panic_text(panic: Box<dyn Any + Send>) -> String {
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast::<&str>().map_or_else(|_| "a panic without a text".to_owned(), |text| (*text).to_owned()),
    }
}

/// What is wrong with the outcome of a case, as a text that a developer can act on.
fn fault(name: &str, outcome: &Outcome, is_listed: bool) -> Option<String> {
    let found = match outcome {
        Outcome::Skipped => return None,
        Outcome::Broken(text) => return Some(format!("{name} could not be played: {text}")),
        Outcome::Played(found) => found,
    };
    match (found.is_empty(), is_listed) {
        (true, false) => None,
        (true, true) => Some(format!("{name} is equal now: remove its entries from differences.yaml")),
        (false, false) => Some(format!("{name} differs:\n  {}", found.join("\n  "))),
        (false, true) => {
            let path = expected_differences(name);
            let text = found.join("\n") + "\n";
            if std::env::var_os("TAILWATER_GOLDEN_UPDATE").is_some() {
                fs::create_dir_all(path.parent().expect("it is in a folder")).unwrap();
                fs::write(&path, text).unwrap();
                return None;
            }
            let expected = fs::read_to_string(&path).unwrap_or_default();
            (expected != text).then(|| format!("{name} differs otherwise than {} says:\n  {}", path.display(), found.join("\n  ")))
        }
    }
}

#[test]
fn lists_name_only_cases_that_exist_and_none_twice() {
    let cases: BTreeSet<_> = cases().into_iter().collect();
    let pending = pending();
    let distinct: BTreeSet<_> = pending.iter().cloned().collect();
    assert_eq!(distinct.len(), pending.len(), "a name stands twice in pending.yaml");
    for entry in entries() {
        assert!(cases.contains(&entry.case), "differences.yaml names {}, which is no case", entry.case);
        assert!(!distinct.contains(&entry.case), "{} is pending and has differences", entry.case);
        assert!([&entry.debezium, &entry.tailwater, &entry.why].iter().all(|text| !text.trim().is_empty()), "{}", entry.case);
        assert!(expected_differences(&entry.case).exists(), "{} has no file below differences/", entry.case);
    }
    let unknown: Vec<_> = distinct.difference(&cases).collect();
    assert!(unknown.is_empty(), "pending.yaml names {unknown:?}, which are no cases");
}

#[test]
fn an_outcome_must_fit_the_lists() {
    let differs = Outcome::Played(vec!["t#0 key: recorded 1, tailwater 2".to_owned()]);
    let equal = Outcome::Played(Vec::new());
    assert!(fault("postgres/operations", &equal, false).is_none());
    assert!(fault("postgres/operations", &equal, true).unwrap().contains("is equal now"));
    assert!(fault("postgres/operations", &differs, false).unwrap().contains("t#0 key"));
    assert!(fault("postgres/no-such-case", &differs, true).unwrap().contains("differs otherwise"));
    assert!(fault("postgres/operations", &Outcome::Broken("why".to_owned()), true).unwrap().contains("why"));
}
