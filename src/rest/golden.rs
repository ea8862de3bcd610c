//! The recorded exchanges with a worker of Kafka Connect 4.3.1, played against this API.
//!
//! The same requests must get the same statuses, keys, states and texts; what is meant to differ stands in
//! `tests/integration/golden/differences.yaml` as `rest/TITLE`, and how in `differences/rest.txt` beside it. `blackhole` stands
//! in for Connect's file sink and `generator` for Debezium's Postgres source, in requests and expected answers alike.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body as HttpBody;
use axum::http::Request as HttpRequest;
use serde_json::Value;
use tailwater_api::config::ConfigValues;
use tower::ServiceExt as _;

use super::*;
use crate::config::providers::Providers;
use crate::runtime::testing::{MemoryLog, MemoryStore, MemoryTopics};
use crate::runtime::worker::{WorkerOptions, WorkerParts};

/// Keys whose values are a worker's own.
const OWN: [&str; 10] =
    ["version", "commit", "kafka_cluster_id", "worker_id", "task.class", "partition", "offset", "topics", "level", "last_modified"];
/// Connect makes a name with a slash and cannot address it, so it stands there to the end; here it is deleted last.
const PLAYED_LAST: &str = "delete the odd name";
/// A file in the requests of the recorder, which is not to be on the machine. Here it is one of a folder of its own.
const NEW_FILE: &str = "/tmp/x";
/// Answers whose content is the worker's own: only their form is compared.
const FORM_ALONE: [&str; 10] = [
    "plugins that are connectors",
    "all plugins",
    "configuration keys of a sink by class",
    "configuration keys of a sink by short name",
    "configuration keys of the Postgres source",
    "configuration keys of a transform",
    "loggers",
    "set a level",
    "one logger",
    "validate with nothing but the class",
];

/// What is meant to differ, and why.
#[derive(serde::Deserialize)]
struct Meant {
    case: String,
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/integration/golden")
}

/// Titles of the exchanges that `differences.yaml` names.
fn meant() -> Vec<String> {
    let text = std::fs::read_to_string(golden_folder().join("differences.yaml")).unwrap();
    let meant: Vec<Meant> = serde_saphyr::from_str(&text).unwrap();
    meant.into_iter().filter_map(|meant| Some(meant.case.strip_prefix("rest/")?.to_owned())).collect()
}

/// An API whose worker runs on doubles.
pub(super) async fn running_api() -> Api {
    let options = WorkerOptions {
        data_dir: PathBuf::new(),
        memory_budget: 1 << 20,
        shutdown_timeout: Duration::from_secs(5),
        defaults: ConfigValues::default(),
        worker_id: "h:1".into(),
    };
    let metrics = Registry::default();
    let parts = WorkerParts {
        topics: Arc::new(MemoryTopics(MemoryLog::new())),
        store: Arc::<MemoryStore>::default(),
        providers: Providers::default(),
        metrics: Arc::new(metrics.clone()),
    };
    let api = Api::new(RestOptions::default(), metrics, Levels::new("warn"), "h:1".into()).unwrap();
    api.started(Worker::start_with(options, parts).await.unwrap());
    api
}

/// Status, path of the location, body.
pub(super) async fn send(api: &Api, method: &str, path: &str, kind: Option<&str>, body: &str) -> (u16, Option<String>, String) {
    let mut request = HttpRequest::builder().method(method).uri(path).header("host", "h:1");
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    let request = request.body(HttpBody::from(body.to_owned())).unwrap();
    let answer = NormalizePathLayer::trim_trailing_slash().layer(router(api.clone())).oneshot(request).await.unwrap();
    let status = answer.status().as_u16();
    let location = answer.headers().get("location").map(|location| location.to_str().unwrap().replace("http://h:1", ""));
    let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
    (status, location, String::from_utf8(body.to_vec()).unwrap())
}

/// The exchanges in the order in which they are played; `folder` is an empty one.
fn exchanges(folder: &Path) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rest/exchanges.jsonl");
    let new_file = folder.join("x");
    let text = std::fs::read_to_string(path).unwrap().replace(NEW_FILE, new_file.to_str().unwrap());
    let read = |line: &str| serde_json::from_str::<Value>(line).unwrap();
    let mut exchanges: Vec<Value> =
        text.lines().map(|line| if is_of_plugins(&read(line)) { read(line) } else { read(&played_by_stand_ins(line)) }).collect();
    let last = exchanges.iter().position(|exchange| exchange["title"] == PLAYED_LAST).unwrap();
    let last = exchanges.remove(last);
    exchanges.push(last);
    exchanges
}

/// Questions about plug-ins are answered by the connectors that they name.
fn is_of_plugins(exchange: &Value) -> bool {
    exchange["path"].as_str().unwrap().starts_with("/connector-plugins")
}

fn played_by_stand_ins(text: &str) -> String {
    text.replace("io.debezium.connector.postgresql.PostgresConnector", "generator")
        .replace("FileStreamSink\\\"", "blackhole\\\"")
        .replace("FileStreamSink\"", "blackhole\"")
        .replace("http://127.0.0.1:18084", "")
        // The recorder filled in what the requests name.
        .replace("${OUTFILE}", "/tmp/rest-out.txt")
        .replace("${PGHOST}", "127.0.0.1")
        .replace("${PGPORT}", "15432")
        .replace("${PGUSER}", "postgres")
        .replace("${PGPASSWORD}", "secret")
        .replace("${PGDATABASE}", "restdb")
}

/// How the form of `ours` differs: the keys of objects, and of the elements of lists.
fn difference_of_form(theirs: &Value, ours: &Value, at: &str) -> String {
    match (theirs, ours) {
        (Value::Array(theirs), Value::Array(ours)) if !theirs.is_empty() && !ours.is_empty() => {
            ours.iter().map(|ours| difference_of_form(&theirs[0], ours, &format!("{at}[]"))).collect()
        }
        (Value::Object(theirs), Value::Object(ours)) if theirs.contains_key("root") && ours.contains_key("root") => {
            ours.iter().map(|(name, logger)| difference_of_form(&theirs["root"], logger, &format!("{at}.{name}"))).collect()
        }
        (Value::Object(theirs), Value::Object(ours)) => {
            let (their_keys, our_keys): (Vec<_>, Vec<_>) = (theirs.keys().collect(), ours.keys().collect());
            if their_keys != our_keys {
                return format!("{at}: keys {our_keys:?}, not {their_keys:?}\n");
            }
            theirs.iter().map(|(key, value)| difference_of_form(value, &ours[key], &format!("{at}.{key}"))).collect()
        }
        (Value::Null, _) | (_, Value::Null) => String::new(),
        _ if std::mem::discriminant(theirs) == std::mem::discriminant(ours) => String::new(),
        _ => format!("{at}: {ours}, not as {theirs}\n"),
    }
}

/// The keys that a validation finds at fault.
fn faulty(validation: &Value) -> std::collections::BTreeSet<&str> {
    let configs = validation["configs"].as_array().unwrap().iter().map(|config| &config["value"]);
    let is_faulty = |value: &&Value| value["errors"].as_array().is_some_and(|errors| !errors.is_empty());
    configs.filter(is_faulty).map(|value| value["name"].as_str().unwrap()).collect()
}

/// How `ours` differs from `theirs`, by keys and values; empty where it does not.
fn difference(theirs: &Value, ours: &Value, at: &str) -> String {
    match (theirs, ours) {
        (Value::Object(theirs), Value::Object(ours)) => {
            let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<std::collections::BTreeSet<_>>();
            if keys(theirs) != keys(ours) {
                return format!("{at}: keys {:?}, not {:?}\n", keys(ours), keys(theirs));
            }
            let inner = theirs.iter().filter(|(key, _)| !OWN.contains(&key.as_str()));
            inner.map(|(key, value)| difference(value, &ours[key], &format!("{at}.{key}"))).collect()
        }
        (Value::Array(theirs), Value::Array(ours)) if theirs.len() == ours.len() => {
            // Connect's lists of names have the order of a hash table.
            let sorted = |list: &[Value]| {
                let mut list = list.to_vec();
                list.sort_by_key(Value::to_string);
                list
            };
            sorted(theirs).iter().zip(&sorted(ours)).map(|(theirs, ours)| difference(theirs, ours, &format!("{at}[]"))).collect()
        }
        _ if theirs == ours => String::new(),
        // What is wrong with a configuration is said in our own words, and once.
        (Value::String(theirs), Value::String(ours))
            if [theirs, ours].iter().all(|text| text.starts_with("Connector configuration is invalid and contains the following ")) =>
        {
            String::new()
        }
        _ => format!("{at}: {ours}, not {theirs}\n"),
    }
}

/// Plays one exchange and says how the answer differs.
async fn play(api: &Api, exchange: &Value) -> String {
    let text = |key: &str| exchange[key].as_str().unwrap_or_default();
    let kind = exchange["request_headers"]["Content-Type"].as_str().unwrap_or("application/json");
    let body = if exchange["request_body"].is_null() { text("request_text").to_owned() } else { exchange["request_body"].to_string() };
    let (status, location, answer) = send(api, text("method"), text("path"), Some(kind), &body).await;
    let expected = exchange["status"].as_u64().unwrap();
    if u64::from(status) != expected {
        return format!("status {status}, not {expected}: {answer}");
    }
    let theirs_location = exchange["headers"]["Location"].as_str();
    if location.as_deref() != theirs_location.map(|path| path.replace("odd/", "odd%2F")).as_deref() {
        return format!("location {location:?}, not {theirs_location:?}");
    }
    if text("answer").is_empty() {
        return if answer.is_empty() { String::new() } else { format!("a body: {answer}") };
    }
    let mut theirs: Value = serde_json::from_str(text("answer")).unwrap();
    let mut ours: Value = serde_json::from_str(&answer).unwrap();
    if status == 201 {
        // Connect makes the tasks later.
        (theirs["tasks"], ours["tasks"]) = (Value::Null, Value::Null);
    }
    if theirs.get("configs").is_some() {
        let (their_faulty, our_faulty) = (faulty(&theirs), faulty(&ours));
        let differs = their_faulty != our_faulty || theirs["name"] != ours["name"];
        let differs = if differs { format!("faults of {our_faulty:?}, not {their_faulty:?}\n") } else { String::new() };
        return differs + &difference_of_form(&theirs, &ours, "answer");
    }
    if FORM_ALONE.contains(&text("title")) { difference_of_form(&theirs, &ours, "answer") } else { difference(&theirs, &ours, "answer") }
}

/// Waits until nothing is under way, as the recorder did between requests that change something.
async fn settle(api: &Api) {
    for _ in 0..1000 {
        let (_, _, listing) = send(api, "GET", "/connectors?expand=status", None, "").await;
        let connectors: serde_json::Map<String, Value> = serde_json::from_str(&listing).unwrap();
        let is_settled = |status: &Value| {
            let tasks = status["tasks"].as_array().unwrap();
            let moves = |part: &Value| part["state"] == "RESTARTING" || part["state"] == "UNASSIGNED";
            let lacks_tasks = tasks.is_empty() && status["connector"]["state"] == "RUNNING";
            !lacks_tasks && !tasks.iter().chain([&status["connector"]]).any(moves)
        };
        if connectors.values().all(|connector| is_settled(&connector["status"])) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the connectors do not settle");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_exchange_is_answered_as_connect_answers_it_or_the_difference_is_listed() {
    let api = running_api().await;
    let meant = meant();
    let folder = tempfile::tempdir().unwrap();
    let (mut wrong, mut listed) = (String::new(), String::new());
    for exchange in exchanges(folder.path()) {
        let title = exchange["title"].as_str().unwrap();
        settle(&api).await;
        if title == "alter sink offsets when stopped" {
            let record =
                |_| tailwater_api::Record::new("rest-in".into(), tailwater_api::SchemaAndValue::NONE, tailwater_api::SchemaAndValue::NONE);
            api.worker().unwrap().topics().append((0..3).map(record).collect()).await.unwrap();
        }
        // What a request sets in motion may take a moment to be seen.
        let deadline = Instant::now() + Duration::from_secs(if meant.iter().any(|meant| meant == title) { 0 } else { 5 });
        let difference = loop {
            let difference = play(&api, &exchange).await;
            if difference.is_empty() || exchange["method"] != "GET" || Instant::now() > deadline {
                break difference;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        match (meant.iter().any(|meant| meant == title), difference.is_empty()) {
            (false, true) => {}
            (false, false) => wrong.push_str(&format!("{} {title}: {difference}\n", exchange["number"])),
            (true, false) => {
                // Where it differs; texts change with every connector that is added.
                let places: Vec<&str> = difference.lines().map(|line| line.split(": ").next().unwrap_or(line)).collect();
                listed.push_str(&format!("{} {title}: {}\n", exchange["number"], places.join("; ")));
            }
            (true, true) => wrong.push_str(&format!("{title} is equal now: remove it from differences.yaml\n")),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let path = golden_folder().join("differences/rest.txt");
    if std::env::var_os("TAILWATER_GOLDEN_UPDATE").is_some() {
        std::fs::write(&path, &listed).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == listed, "the answers differ otherwise than {} says:\n{listed}", path.display());
}
