//! Commands, their output and exit codes.

use serde_json::Value;

use crate::harness::{Daemon, Home, Options, PATIENCE, read_topic_offline, run_tailwater, said, tailwater, wait_until};

const ROWS: &str = "name: rows\nconnector: generator\ngenerator.topics: rows\ngenerator.rows: 300\n";

fn said_by(arguments: &[&str]) -> (Option<i32>, String) {
    let output = run_tailwater(arguments);
    (output.status.code(), said(&output))
}

#[test]
fn check_reports_every_fault_at_once_and_connects_to_nothing() {
    let home = Home::new();
    let file = home.write(
        "wrong.yaml",
        "name: wrong\nconnector: postgres\ntopic.prefx: shop\ntasks.max: many\nerrors.tolerance: some\ndatabase: {hostname: 203.0.113.1, port: none}\n",
    );
    let output = run_tailwater(["check".as_ref(), file.as_os_str(), "--output".as_ref(), "json".as_ref()]);
    assert_eq!(output.status.code(), Some(2), "{}", said(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = answer[0]["faults"].as_array().unwrap();
    for key in ["topic.prefix", "tasks.max", "errors.tolerance", "database.port", "database.dbname", "database.user"] {
        assert!(faults.iter().any(|fault| fault["key"] == key), "{key} in {answer}");
    }
    let prefix = faults.iter().find(|fault| fault["key"] == "topic.prefix").unwrap();
    assert!(prefix["message"].as_str().unwrap().contains("topic.prefx"), "{prefix}");
}

#[test]
fn an_unknown_connector_names_the_nearest() {
    let home = Home::new();
    let file = home.write("wrong.yaml", "name: wrong\nconnector: postgers\n");
    let (code, text) = said_by(&["check", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("is postgres meant?"), "{text}");
}

#[test]
fn plan_says_how_often_a_change_arrives_and_connects_to_nothing() {
    let home = Home::new();
    let source = home.write("rows.yaml", ROWS);
    let sink = home.write("gone.yaml", "name: gone\nconnector: blackhole\ntopics: rows\n");
    let worker = home.write(
        "worker.yaml",
        "topics: {engine: kafka, kafka: {bootstrap.servers: '203.0.113.1:9092'}}\nexactly.once.source.support: enabled\n",
    );
    let (source, sink) = (source.to_str().unwrap(), sink.to_str().unwrap());
    let (code, text) = said_by(&["plan", source, "--config", worker.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("rows -> kafka  exactly-once  records and offset are in one transaction"), "{text}");
    let (code, text) = said_by(&["plan", source, sink, "--output", "json"]);
    assert_eq!(code, Some(0), "{text}");
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&answer[0]["log"], &answer[0]["guarantee"]), (&"embedded".into(), &"at-least-once".into()), "{answer}");
    assert_eq!(answer.as_array().unwrap().len(), 1);
    let required = home.write("required.yaml", &format!("{ROWS}exactly.once.support: required\n"));
    let alone = home.write("alone.yaml", "topics: {engine: kafka, kafka: {bootstrap.servers: '203.0.113.1:9092'}}\n");
    let (code, text) = said_by(&["plan", required.to_str().unwrap(), "--config", alone.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("exactly.once.support"), "{text}");
}

#[test]
fn wrong_usage_and_a_wrong_worker_file_end_with_two() {
    assert_eq!(said_by(&["run", "--colour"]).0, Some(2));
    let home = Home::new();
    let file = home.write("worker.yaml", "memory.budget: lots\ntopics.engine: kaffka\nrest.listen: here\n");
    let (code, text) = said_by(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(2), "{text}");
    for key in ["memory.budget", "topics.engine", "rest.listen"] {
        assert!(text.contains(key), "{key} in {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_names_the_key() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    let home = Home::new();
    let data = home.data();
    let (code, text) = said_by(&["run", "--listen", &address, "--data-dir", data.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("rest.listen"), "{text}");
}

#[test]
fn a_worker_that_is_not_there_is_said_so() {
    let (code, text) = said_by(&["connector", "list", "--url", "http://127.0.0.1:1"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot reach the worker"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_speak_to_a_running_worker() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default()).await;
    let file = home.write("rows.yaml", ROWS);
    let url = daemon.url().to_owned();
    let command = |arguments: &[&str]| {
        let output = tailwater().args(arguments).args(["--url", &url]).output().unwrap();
        (output.status.code(), said(&output))
    };
    let made = command(&["connector", "create", file.to_str().unwrap()]);
    assert_eq!(made.0, Some(0), "{}", made.1);
    assert_eq!(command(&["connector", "create", file.to_str().unwrap()]), (Some(1), "error: Connector rows already exists\n".into()));
    wait_until("the topic", async || daemon.topics().await.iter().any(|topic| topic == "rows")).await;
    wait_until("all rows", async || daemon.read_topic("rows").await.len() == 300).await;

    let (_, list) = command(&["connector", "list"]);
    assert!(
        list.lines().nth(1).is_some_and(|line| line.starts_with("rows") && line.contains("source") && line.contains("RUNNING")),
        "{list}"
    );
    assert_eq!(command(&["connector", "pause", "rows"]).0, Some(0));
    let (code, text) = command(&["connector", "status", "rows"]);
    assert!(code == Some(0) && text.contains("exactly-once: records and offset are one group"), "{text}");
    wait_until("the pause", async || command(&["connector", "status", "rows", "--output", "json"]).1.contains("PAUSED")).await;
    for action in ["resume", "restart", "stop", "offsets"] {
        let (code, text) = command(&["connector", action, "rows"]);
        assert_eq!(code, Some(0), "{action}: {text}");
    }
    let (_, topics) = command(&["topic", "list"]);
    assert!(topics.lines().any(|line| line.split_whitespace().eq(["rows", "rows", "0", "0", "300"])), "{topics}");
    let (_, part) = command(&["topic", "read", "rows", "--offset", "298", "--max", "5"]);
    assert_eq!(part.lines().count(), 2, "{part}");
    assert_eq!(command(&["topic", "read", "nothing"]).0, Some(1));
    assert_eq!(command(&["connector", "delete", "rows"]).0, Some(0));
    assert_eq!(command(&["connector", "delete", "rows"]), (Some(1), "error: Connector rows not found\n".into()));

    let before = daemon.read_topic("rows").await;
    daemon.stop().await;
    assert_eq!(read_topic_offline(&home.data(), "rows"), before, "the journals show what the worker showed");
}

#[tokio::test(flavor = "multi_thread")]
async fn following_a_topic_prints_what_comes() {
    let home = Home::new();
    let daemon = Daemon::start(
        &home,
        &Options::default().connector("rows.yaml", "name: rows\nconnector: generator\ngenerator: {topics: rows, rate: 200}\n"),
    )
    .await;
    wait_until("a row", async || daemon.topics().await == ["rows"]).await;
    let follow = tokio::process::Command::from(tailwater())
        .args(["topic", "read", "rows", "--follow", "--max", "100", "--url", daemon.url()])
        .output();
    let output = tokio::time::timeout(PATIENCE, follow).await.expect("a hundred rows come").unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().lines().count(), 100);
    daemon.stop().await;
}
