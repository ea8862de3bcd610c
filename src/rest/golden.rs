//! The recorded exchanges with a worker of Kafka Connect 4.3.1, played against this API.
//!
//! The same requests must get the same statuses, keys, states and texts. `blackhole` stands in for Connect's file sink
//! and `generator` for Debezium's Postgres source, in requests and expected answers alike.

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

/// Parts of paths that this API does not have yet.
const LATER: [&str; 3] = ["/connector-plugins", "/admin/", "/topics/reset"];
/// Exchanges that cannot be played here: what follows changes of offsets, which this API does not have yet, a name with a
/// slash, which Connect makes and then cannot address, and a converter that is made to fail.
const LEFT_OUT: [&str; 6] = [
    "sink offsets after that",
    "source offsets when there are none",
    "the odd name",
    "delete the odd name",
    "create a source that fails to start",
    "delete the failing one",
];
/// Connect answers these wrong requests with 500 and a Java message; here it is 400 and a sentence.
const MERELY_WRONG: [&str; 5] = [
    "create with no configuration",
    "create with a body that is not JSON",
    "create with an unknown property in the body",
    "create with an empty body",
    "create with initial state unknown",
];
/// Keys whose values are a worker's own.
const OWN: [&str; 8] = ["version", "commit", "kafka_cluster_id", "worker_id", "task.class", "partition", "offset", "topics"];

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
    let api = Api::new(metrics, "h:1".into());
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

fn exchanges() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/rest/exchanges.jsonl");
    let text = std::fs::read_to_string(path).unwrap();
    let text = text
        .replace("io.debezium.connector.postgresql.PostgresConnector", "generator")
        .replace("FileStreamSink\\\"", "blackhole\\\"")
        .replace("FileStreamSink\"", "blackhole\"")
        .replace("http://127.0.0.1:18084", "")
        // The recorder filled in what the requests name.
        .replace("${OUTFILE}", "/tmp/rest-out.txt")
        .replace("${PGHOST}", "127.0.0.1")
        .replace("${PGPORT}", "15432")
        .replace("${PGUSER}", "postgres")
        .replace("${PGPASSWORD}", "secret")
        .replace("${PGDATABASE}", "restdb");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn is_played(exchange: &Value) -> bool {
    let (title, method, path) =
        (exchange["title"].as_str().unwrap(), exchange["method"].as_str().unwrap(), exchange["path"].as_str().unwrap());
    let changes_offsets = path.ends_with("/offsets") && method != "GET";
    method != "PATCH" && !changes_offsets && !LEFT_OUT.contains(&title) && !LATER.iter().any(|part| path.contains(part))
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
    let is_merely_wrong = MERELY_WRONG.contains(&text("title"));
    let expected = if is_merely_wrong { 400 } else { exchange["status"].as_u64().unwrap() };
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
    if is_merely_wrong || text("title") == "create with an unknown class" {
        assert_eq!(ours["error_code"], 400);
        (theirs["message"], theirs["error_code"]) = (ours["message"].clone(), ours["error_code"].clone());
    }
    difference(&theirs, &ours, "answer")
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
async fn every_recorded_exchange_is_answered_as_connect_answers_it() {
    let api = running_api().await;
    let mut differences = String::new();
    let mut played = 0;
    for exchange in exchanges().iter().filter(|exchange| is_played(exchange)) {
        settle(&api).await;
        played += 1;
        // What a request sets in motion may take a moment to be seen.
        let deadline = Instant::now() + Duration::from_secs(5);
        let difference = loop {
            let difference = play(&api, exchange).await;
            if difference.is_empty() || exchange["method"] != "GET" || Instant::now() > deadline {
                break difference;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        if !difference.is_empty() {
            differences.push_str(&format!("{} {}: {difference}\n", exchange["number"], exchange["title"]));
        }
    }
    assert!(differences.is_empty(), "{differences}");
    assert!(played > 70, "only {played} exchanges were played");
}
