//! Requests and answers without a worker, held against what Connect 4.3.1 answered.

use std::path::PathBuf;
use std::sync::Arc;

use axum::body::Body as HttpBody;
use axum::http::Request as HttpRequest;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tailwater_api::config::{ConfigFault, ConfigReport};
use tailwater_api::record::TopicPartition;
use tailwater_api::sink::LogPosition;
use tailwater_api::state::{JsonMap, SourceState, StateChange};
use tower::ServiceExt as _;

use super::failure::Failure;
use super::requests::{Body, Create};
use super::*;
use crate::runtime::offsets::Offsets;
use crate::runtime::worker::{ConnectorInfo, ConnectorType, MetricsFactory as _, Refused, RunState, RunStatus};
use crate::state::TargetState;

fn map(text: &str) -> JsonMap {
    serde_json::from_str(text).unwrap()
}

fn sink() -> ConnectorInfo {
    ConnectorInfo {
        name: "rest-sink".into(),
        kind: Some(ConnectorType::Sink),
        config: map(r#"{"connector.class":"FileStreamSink","tasks.max":"1","name":"rest-sink"}"#),
        target: TargetState::Running,
        connector: RunStatus { task: None, state: RunState::Running, trace: None },
        tasks: vec![RunStatus { task: Some(0), state: RunState::Failed, trace: Some("unreachable: …".into()) }],
        file: None,
        topics: Vec::new(),
    }
}

async fn text(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

/// What an API whose worker is still starting answers.
async fn ask(method: &str, path: &str, kind: Option<&str>, body: &str) -> (u16, String) {
    let mut request = HttpRequest::builder().method(method).uri(path);
    if let Some(kind) = kind {
        request = request.header("content-type", kind);
    }
    let app = NormalizePathLayer::trim_trailing_slash()
        .layer(router(Api::new(RestOptions::default(), Registry::default(), Levels::new("info"), "h:1".into()).unwrap()));
    text(app.oneshot(request.body(HttpBody::from(body.to_owned())).unwrap()).await.unwrap()).await
}

#[tokio::test]
async fn every_failure_has_connects_shape() {
    let json = Some("application/json");
    assert_eq!(ask("GET", "/nothing", None, "").await, (404, r#"{"error_code":404,"message":"HTTP 404 Not Found"}"#.into()));
    assert_eq!(ask("DELETE", "/", None, "").await, (405, r#"{"error_code":405,"message":"HTTP 405 Method Not Allowed"}"#.into()));
    assert_eq!(
        ask("POST", "/connectors", Some("text/plain"), "x").await,
        (415, r#"{"error_code":415,"message":"HTTP 415 Unsupported Media Type"}"#.into())
    );
    assert_eq!(ask("POST", "/connectors", json, "name=rest").await.0, 400);
    assert_eq!(ask("POST", "/connectors", json, &" ".repeat(RestOptions::default().max_body + 1)).await.0, 413);
    assert_eq!(ask("GET", "/connectors/a/tasks/x/status", None, "").await.0, 404);
    assert_eq!(ask("GET", "/connectors/%ff", None, "").await.0, 404);
    for (method, path) in [("GET", "/nothing"), ("POST", "/connectors/"), ("GET", "/connectors/a/status")] {
        let (status, body) = ask(method, path, json, "{}").await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["error_code"], status);
        assert_eq!(body.as_object().unwrap().keys().collect::<Vec<_>>(), ["error_code", "message"]);
    }
}

#[tokio::test]
async fn a_worker_that_is_starting_says_so() {
    assert_eq!(ask("GET", "/health", None, "").await, (503, r#"{"status":"starting","message":"Worker is still starting up."}"#.into()));
    assert_eq!(ask("GET", "/connectors/", None, "").await.0, 503);
    assert_eq!(ask("GET", "/metrics", None, "").await.0, 200);
    let (status, body) = ask("GET", "/", None, "").await;
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (status, body.as_object().unwrap().keys().map(String::as_str).collect::<Vec<_>>()),
        (200, vec!["version", "commit", "kafka_cluster_id"])
    );
}

#[test]
fn a_body_to_create_is_read_as_connect_reads_it() {
    let body = r#"{"name":" a ","initial_state":"stopped","config":{"tasks.max":1,"x":true,"gone":null,"y":"z"}}"#;
    let expected =
        Create { name: "a".into(), config: map(r#"{"tasks.max":"1","x":"true","y":"z","name":"a"}"#), target: TargetState::Stopped };
    assert_eq!(Body::of(body).create().unwrap(), expected);
}

#[test]
fn a_wrong_body_is_a_bad_request_that_says_what_is_wrong() {
    let wrong = [
        ("", "empty"),
        ("[]", "JSON object"),
        ("{nope", "not valid JSON"),
        (r#"{"name":"a"}"#, "config is missing"),
        (r#"{"name":"a","config":"x"}"#, "config must be"),
        (r#"{"name":"a","config":{"k":[1]}}"#, "value of k"),
        (r#"{"name":"a","config":{},"initial_state":"SLEEPING"}"#, "SLEEPING"),
        (r#"{"name":"a","config":{},"colour":"red"}"#, "Unrecognized field \"colour\""),
        (r#"{"name":"a","config":{"name":"b"}}"#, "Connector name configuration (b) doesn't match connector name in the URL (a)"),
    ];
    for (body, part) in wrong {
        let failure = format!("{:?}", Body::of(body).create().unwrap_err());
        assert!(failure.contains("400") && failure.contains(&part.replace('"', "\\\"")), "{body}: {failure}");
    }
    assert!(Body::of(r#"{"name":"other"}"#).config("a").is_err());
}

#[test]
fn info_status_and_tasks_have_connects_keys_in_order() {
    assert_eq!(
        answers::info(&sink()).to_string(),
        r#"{"name":"rest-sink","config":{"connector.class":"FileStreamSink","tasks.max":"1","name":"rest-sink"},"tasks":[{"connector":"rest-sink","task":0}],"type":"sink"}"#
    );
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(
        answers::status(&sink(), "h:1").to_string(),
        format!(
            r#"{{"name":"rest-sink","connector":{{"state":"RUNNING","worker_id":"h:1","version":"{version}"}},"tasks":[{{"id":0,"state":"FAILED","worker_id":"h:1","trace":"unreachable: …","version":"{version}"}}],"type":"sink"}}"#
        )
    );
    assert!(
        answers::tasks(&sink())
            .to_string()
            .starts_with(r#"[{"id":{"connector":"rest-sink","task":0},"config":{"connector.class":"FileStreamSink""#)
    );
}

#[test]
fn i11_a_task_that_left_events_out_says_so_while_it_runs() {
    let metrics = Registry::default();
    let left_out = metrics.task("rest-sink", 0).counter("source_unreadable_events", "", None);
    let running = || ConnectorInfo { tasks: vec![RunStatus { task: Some(0), state: RunState::Running, trace: None }], ..sink() };
    let trace = |mut info: ConnectorInfo| {
        connectors::tell_of_left_out(&metrics, &mut info);
        info.tasks[0].trace.clone()
    };
    assert_eq!(trace(running()), None);
    left_out.add(3);
    assert!(trace(running()).unwrap().starts_with("unreadable: 3 events of the log"));
    assert_eq!(trace(sink()).unwrap(), "unreachable: …", "what it failed of comes first");
    let errored = |table| metrics.task("rest-sink", 0).gauge("source_table_errored", "", Some(table));
    errored("public.a").set(1);
    errored("public.b").set(0);
    let told = trace(running()).unwrap();
    assert!(
        told.starts_with("unreadable: the table public.a is errored") && told.contains(r#"["public\\.a"]"#) && !told.contains("public.b"),
        "{told}"
    );
    assert_eq!(trace(sink()).unwrap(), "unreachable: …");
}

#[test]
fn a_listing_is_names_or_what_is_asked_for() {
    let connectors = [sink()];
    assert_eq!(connectors::listing(&connectors, &[], "h:1").to_string(), r#"["rest-sink"]"#);
    assert_eq!(connectors::listing(&connectors, &["colour"], "h:1").to_string(), r#"{"rest-sink":{}}"#);
    let both = connectors::listing(&connectors, &["info", "status"], "h:1");
    assert_eq!(both["rest-sink"].as_object().unwrap().keys().collect::<Vec<_>>(), ["info", "status"]);
}

#[test]
fn offsets_have_connects_keys() {
    let position =
        LogPosition { log: Arc::from("l"), topic_partition: TopicPartition { topic: Arc::from("rest-in"), partition: 0 }, offset: 3 };
    assert_eq!(
        answers::offsets(&Offsets::Sink(vec![position])).to_string(),
        r#"{"offsets":[{"partition":{"kafka_partition":0,"kafka_topic":"rest-in"},"offset":{"kafka_offset":3}}]}"#
    );
    let mut state = SourceState::default();
    state.apply(&StateChange { partition: map(r#"{"server":"restpg"}"#), offset: Some(map(r#"{"lsn":1}"#)) });
    assert_eq!(
        answers::offsets(&Offsets::Source(state)).to_string(),
        r#"{"offsets":[{"partition":{"server":"restpg"},"offset":{"lsn":1}}]}"#
    );
}

#[tokio::test]
async fn refusals_have_connects_statuses_and_texts() {
    let unknown = |name: &str| format!("Connector {name} not found");
    let fault = |key: &str, message: &str| ConfigFault { key: key.into(), message: message.into() };
    let report = ConfigReport { faults: vec![fault("a", "is missing"), fault("b", "must be")], notes: Vec::new() };
    let cases = [
        (Refused::Unknown("x".into()), 404, "Connector x not found"),
        (Refused::Exists("x".into()), 409, "Connector x already exists"),
        (
            Refused::OwnedByFile(PathBuf::from("/c/x.yaml")),
            409,
            "Connector x is declared by the file /c/x.yaml; change or remove that file",
        ),
        (
            Refused::Invalid(report),
            400,
            "Connector configuration is invalid and contains the following 2 error(s):\na: is missing\nb: must be\nYou can also find the above list of errors at the endpoint `/connector-plugins/{connectorType}/config/validate`",
        ),
    ];
    for (refused, status, message) in cases {
        let (answered, body) = text(Failure::refused("x", refused, unknown).into_response()).await;
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((answered, body["message"].as_str()), (status, Some(message)));
    }
}

#[test]
fn a_name_is_one_segment_of_the_location() {
    assert_eq!(segment("odd/name ü"), "odd%2Fname%20%C3%BC");
}

#[test]
fn a_range_has_defaults_and_limits() {
    let parameters = |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Vec<_>>();
    assert_eq!(topics::range(&[]).unwrap(), topics::Range { partition: 0, offset: 0, limit: None });
    assert_eq!(
        topics::range(&parameters(&[("limit", "1000000"), ("offset", "7")])).unwrap(),
        topics::Range { partition: 0, offset: 7, limit: Some(1_000_000) }
    );
    assert!(topics::range(&parameters(&[("offset", "-1")])).is_err());
    assert!(topics::range(&parameters(&[("ofset", "1")])).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_their_records_are_listed_as_lines() {
    use super::golden::{running_api, send};
    let api = running_api().await;
    let body = r#"{"connector.class":"generator","generator.topics":"rest.rows","generator.rows":"250"}"#;
    assert_eq!(send(&api, "PUT", "/connectors/rest-rows/config", None, body).await.0, 201);
    let mut topics = String::new();
    for _ in 0..500 {
        topics = send(&api, "GET", "/topics", None, "").await.2;
        if topics.contains("\"next_offset\":250") {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let topics: Value = serde_json::from_str(&topics).unwrap();
    assert_eq!(topics[0]["name"], "rest.rows");
    assert_eq!(topics[0]["connector"], "rest-rows");
    assert_eq!(topics[0]["partitions"], serde_json::json!([{"partition": 0, "first_offset": 0, "next_offset": 250}]));

    let (status, _, body) = send(&api, "GET", "/topics/rest.rows/records?offset=20&limit=220", None, "").await;
    let records: Vec<Value> = serde_json::from_str(&body).unwrap();
    assert_eq!((status, records.len(), body.lines().count()), (200, 220, 221));
    assert!(records.iter().zip(20..).all(|(record, offset)| record["offset"] == offset && record["topic"] == "rest.rows"));
    assert_eq!(send(&api, "GET", "/topics/rest.rows/records?offset=250", None, "").await.2, "[]\n");
    let (_, _, body) = send(&api, "GET", "/topics/rest.rows/follow?offset=20&limit=220", None, "").await;
    assert_eq!(body.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>(), records);
    assert_eq!(send(&api, "GET", "/topics/nothing/follow", None, "").await.0, 404);
    let (status, _, body) = send(&api, "GET", "/topics/nothing/records", None, "").await;
    assert_eq!((status, serde_json::from_str::<Value>(&body).unwrap()["error_code"].as_u64()), (404, Some(404)));
    assert!(send(&api, "GET", "/metrics", None, "").await.2.contains("connector=\"rest-rows\""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_from_a_file_is_changed_by_its_file_alone_but_paused_over_rest() {
    use super::golden::{running_api, send};
    let api = running_api().await;
    let config = map(r#"{"connector.class":"blackhole","topics":"none","name":"rest-owned"}"#);
    api.worker().unwrap().create("rest-owned", config, TargetState::Running, Some("/c/owned.yaml".into())).await.unwrap();
    for (method, path) in [("PUT", "/connectors/rest-owned/config"), ("DELETE", "/connectors/rest-owned")] {
        let (status, _, body) = send(&api, method, path, None, r#"{"connector.class":"blackhole","topics":"other"}"#).await;
        assert_eq!(status, 409, "{body}");
        assert!(body.contains("/c/owned.yaml"), "{body}");
    }
    assert_eq!(send(&api, "PUT", "/connectors/rest-owned/pause", None, "").await.0, 202);
    assert_eq!(send(&api, "PUT", "/connectors/rest-owned/stop", None, "").await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_answered_as_they_were_given() {
    use super::golden::{running_api, send};
    let api = running_api().await;
    // A variable that every test has; its value is the canary (I14).
    let body = r#"{"connector.class":"blackhole","topics":"none","x.password":"${env:CARGO_MANIFEST_DIR}"}"#;
    assert_eq!(send(&api, "PUT", "/connectors/rest-secret/config", None, body).await.0, 201);
    for path in ["", "/config", "/tasks", "/status"] {
        let (status, _, body) = send(&api, "GET", &format!("/connectors/rest-secret{path}"), None, "").await;
        assert!(status == 200 && !body.contains(env!("CARGO_MANIFEST_DIR")), "{body}");
    }
    assert!(send(&api, "GET", "/connectors/rest-secret/config", None, "").await.2.contains("${env:CARGO_MANIFEST_DIR}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_of_a_sink_that_does_not_run_grows_with_its_topics() {
    use super::golden::{running_api, send};
    let api = running_api().await;
    let sink = r#"{"name":"rest-lags","initial_state":"PAUSED","config":{"connector.class":"blackhole","topics":"rest.lag"}}"#;
    assert_eq!(send(&api, "POST", "/connectors", None, sink).await.0, 201);
    let source = r#"{"connector.class":"generator","generator.topics":"rest.lag","generator.rows":"25"}"#;
    assert_eq!(send(&api, "PUT", "/connectors/rest-fills/config", None, source).await.0, 201);
    let mut text = String::new();
    for state in ["pause", "stop"] {
        send(&api, "PUT", &format!("/connectors/rest-lags/{state}"), None, "").await;
        for _ in 0..500 {
            text = send(&api, "GET", "/metrics", None, "").await.2;
            if text.contains("tailwater_lag_records{connector=\"rest-lags\",task=\"0\"} 25\n") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert!(text.contains("tailwater_lag_records{connector=\"rest-lags\",task=\"0\"} 25\n"), "{state}: {text}");
    }
    assert_eq!(send(&api, "PUT", "/connectors/rest-lags/resume", None, "").await.0, 202);
    for _ in 0..500 {
        text = send(&api, "GET", "/metrics", None, "").await.2;
        if text.contains("tailwater_lag_records{connector=\"rest-lags\",task=\"0\"} 0\n") {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{text}");
}

#[tokio::test]
async fn no_endpoint_can_be_used_without_its_role() {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use tailwater_api::secret::Secret;

    use crate::config::rest_options::{Role, User};
    let user = |name: &str, role| User { name: name.into(), password: Some(Secret::new("p")), token: None, role };
    let users = vec![user("reads", Role::Read), user("operates", Role::Operate), user("administers", Role::Administer)];
    let options = || RestOptions { users: users.clone(), ..RestOptions::default() };
    let api = Api::new(options(), Registry::default(), Levels::new("info"), "h:1".into()).unwrap();
    for endpoint in endpoints::ENDPOINTS {
        let path = endpoint.path.replace("{task}", "0").replace(['{', '}'], "");
        let status = async |name: Option<&str>| {
            let mut request = HttpRequest::builder().method(endpoint.method).uri(&path);
            if let Some(name) = name {
                request = request.header("authorization", format!("Basic {}", STANDARD.encode(format!("{name}:p"))));
            }
            router(api.clone()).oneshot(request.body(HttpBody::empty()).unwrap()).await.unwrap().status().as_u16()
        };
        let Some(needed) = endpoint.role else {
            assert_ne!(status(None).await, 401, "{path}");
            continue;
        };
        assert_eq!(status(None).await, 401, "{} {path}", endpoint.method);
        for user in &users {
            let is_refused = status(Some(&user.name)).await == 403;
            assert_eq!(is_refused, user.role < needed, "{} {} {path}", user.name, endpoint.method);
        }
        assert!(endpoint.method == "GET" || needed > Role::Read, "{path} changes something");
    }
}
