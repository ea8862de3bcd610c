//! Clients of Kafka Connect's REST API that nobody here wrote, unchanged: each creates, reads, updates, pauses, restarts and
//! deletes a connector. And schemathesis, which reads `/openapi.json` and sends what it describes and what it forbids.
//!
//! `scripts/install-test-servers clients` installs them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use tailwater_api::{Error, ErrorKind};
use tailwater_testkit::servers::{cache_dir, required_or_skip};

use crate::harness::{Daemon, Home, Options, said, wait_until};

/// The program of a client; `None` where it is not installed.
fn program(name: &str) -> Option<PathBuf> {
    let path = cache_dir().join("rest-clients/bin").join(name);
    let missing = || Error::new(ErrorKind::Missing, format!("find {}", path.display())).mend("scripts/install-test-servers clients");
    required_or_skip(if path.exists() { Ok(path.clone()) } else { Err(missing()) })
}

/// Runs a client to its end, which must be a good one.
async fn run(program: &PathBuf, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).env_remove("KAFKA_CONNECT_URL").env("NO_PROXY", "127.0.0.1");
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn config(rows: u64) -> Value {
    json!({"connector.class": "generator", "tasks.max": "1", "generator.topics": "rows", "generator.rows": rows.to_string()})
}

async fn worker() -> (Home, Daemon) {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default()).await;
    (home, daemon)
}

async fn has_state(daemon: &Daemon, state: &str) {
    wait_until(state, async || {
        let status = daemon.status("shop").await;
        status["connector"]["state"] == state && status["tasks"][0]["state"] == state
    })
    .await;
}

async fn has_rows(daemon: &Daemon, rows: &str) {
    assert_eq!(daemon.request("GET", "/connectors/shop/config", None).await.1["generator.rows"], rows);
}

async fn has_nothing(daemon: &Daemon) {
    assert_eq!(daemon.request("GET", "/connectors", None).await.1, json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_connect_py() {
    let Some(kc) = program("kc") else { return };
    let (_home, daemon) = worker().await;
    let kc = async |arguments: &[&str]| run(&kc, &[&["--url", daemon.url()], arguments].concat()).await;
    assert!(kc(&["info"]).await.contains("4.3"));
    kc(&["create", "--config-data", &json!({"name": "shop", "config": config(1)}).to_string()]).await;
    daemon.wait_for_running("shop").await;
    for (arguments, part) in [
        (vec!["list"], "shop"),
        (vec!["list", "--expand", "status"], "RUNNING"),
        (vec!["get", "shop"], "generator.rows"),
        (vec!["config", "shop"], "generator.topics"),
        (vec!["status", "shop"], "RUNNING"),
        (vec!["list-tasks", "shop"], "\"task\": 0"),
        (vec!["task-status", "shop", "0"], "RUNNING"),
        (vec!["list-topics", "shop"], "topics"),
        (vec!["list-plugins"], "PostgresConnector"),
    ] {
        let said = kc(&arguments).await;
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    kc(&["reset-topics", "shop"]).await;
    kc(&["update", "shop", "--config-data", &config(2).to_string()]).await;
    has_rows(&daemon, "2").await;
    kc(&["pause", "shop"]).await;
    has_state(&daemon, "PAUSED").await;
    kc(&["resume", "shop"]).await;
    has_state(&daemon, "RUNNING").await;
    kc(&["restart", "shop"]).await;
    kc(&["restart", "shop", "--include-tasks"]).await;
    has_state(&daemon, "RUNNING").await;
    kc(&["restart-task", "shop", "0"]).await;
    kc(&["delete", "shop"]).await;
    has_nothing(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkaconnect() {
    let Some(kafkaconnect) = program("kafkaconnect") else { return };
    let (home, daemon) = worker().await;
    let run = async |arguments: &[&str]| run(&kafkaconnect, &[&["--connect", daemon.url()], arguments].concat()).await;
    // It validates before it creates, which is why the file names the connector.
    let file = |rows: u64| {
        let mut config = config(rows);
        config["name"] = "shop".into();
        home.write("shop.json", &config.to_string()).display().to_string()
    };
    run(&["upload", "--name", "shop", &file(1)]).await;
    daemon.wait_for_running("shop").await;
    for (command, part) in
        [("info", "generator"), ("status", "RUNNING"), ("config", "generator.rows"), ("tasks", "task"), ("topics", "rows")]
    {
        let said = run(&[command, "shop"]).await;
        assert!(said.contains(part), "{command}: {said}");
    }
    assert!(run(&["list"]).await.contains("shop"));
    assert!(run(&["plugins"]).await.contains("PostgresConnector"));
    run(&["upload", "--name", "shop", &file(2)]).await;
    has_rows(&daemon, "2").await;
    run(&["pause", "shop"]).await;
    has_state(&daemon, "PAUSED").await;
    run(&["resume", "shop"]).await;
    has_state(&daemon, "RUNNING").await;
    run(&["restart", "shop"]).await;
    run(&["delete", "shop"]).await;
    has_nothing(&daemon).await;
    daemon.stop().await;
}

/// What a user of the library `kafka-connect-api` writes.
const KAFKA_CONNECT_API: &str = r#"
import sys, time
from kafka_connect_api.kafka_connect_api import Api, Cluster, Connector

cluster = Cluster(Api(url=sys.argv[1]))
shop = Connector(cluster, "shop")

def wait(state):
    for _ in range(400):
        if shop.state == state and [task.state for task in shop.tasks] == [state]:
            return
        time.sleep(0.05)
    sys.exit(f"{state} expected: {shop.status}")

assert cluster.version.startswith("4.") and cluster.kafka_cluster
assert "shop" not in cluster.connectors
config = {"connector.class": "generator", "tasks.max": "1", "generator.topics": "rows", "generator.rows": "1"}
shop.config = config
assert shop.exists() and "shop" in cluster.connectors
wait("RUNNING")
config["generator.rows"] = "2"
shop.config = config
assert shop.config["generator.rows"] == "2"
wait("RUNNING")
shop.pause()
wait("PAUSED")
shop.resume()
wait("RUNNING")
shop.restart()
shop.restart_all_tasks()
wait("RUNNING")
shop.cycle_connector()
wait("RUNNING")
assert "root" in cluster.loggers
cluster.root_logger = "WARN"
assert cluster.root_logger["level"] == "WARN"
shop.delete()
assert "shop" not in cluster.connectors
"#;

#[tokio::test(flavor = "multi_thread")]
async fn kafka_connect_api() {
    let Some(python) = program("python3") else { return };
    let (home, daemon) = worker().await;
    let script = home.write("client.py", KAFKA_CONNECT_API);
    run(&python, &[script.to_str().unwrap(), daemon.url()]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn go_kafka_connect() {
    // Without a Go toolchain there is no such client, on a server of continuous integration either.
    if !cache_dir().join("rest-clients/bin/go-kafka-connect").exists() && Command::new("go").arg("version").output().is_err() {
        eprintln!("SKIPPED: no Go toolchain");
        return;
    }
    let Some(client) = program("go-kafka-connect") else { return };
    let (home, daemon) = worker().await;
    let run = async |arguments: &[&str]| run(&client, &[&["--host", daemon.url()], arguments].concat()).await;
    let create = home.write("create.json", &json!({"name": "shop", "config": config(1)}).to_string()).display().to_string();
    let update = home.write("update.json", &config(2).to_string()).display().to_string();
    run(&["create", "--from-file", &create]).await;
    daemon.wait_for_running("shop").await;
    for (arguments, part) in [
        (vec!["list"], "shop"),
        (vec!["show", "shop"], "generator"),
        (vec!["config", "shop"], "generator.rows"),
        (vec!["tasks", "shop"], "shop"),
        (vec!["status", "shop"], "RUNNING"),
    ] {
        let said = run(&arguments).await;
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    run(&["update", "--config", &update, "shop"]).await;
    has_rows(&daemon, "2").await;
    run(&["pause", "shop"]).await;
    has_state(&daemon, "PAUSED").await;
    run(&["resume", "shop"]).await;
    has_state(&daemon, "RUNNING").await;
    run(&["restart", "shop"]).await;
    run(&["delete", "shop"]).await;
    has_nothing(&daemon).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis() {
    let Some(schemathesis) = program("schemathesis") else { return };
    let home = Home::new();
    // It sets levels of the log, and what it makes may fail as soon as it runs.
    let options = Options::default().worker("rest.requests.per.second: 100000\n").expect("\"level\"");
    let daemon = Daemon::start(&home, &options).await;
    daemon.put_connector("shop", &config(5)).await;
    let openapi = format!("{}/openapi.json", daemon.url());
    // An answer that follows a topic has no end. A configuration of the right form may still be none that can run, so that "400" is a good answer to good data.
    let arguments = "--phases coverage,fuzzing --max-examples 5 --generation-deterministic --checks all \
        --exclude-checks positive_data_acceptance,ignored_auth --exclude-path /topics/{topic}/follow --continue-on-failure --no-color";
    let arguments: Vec<&str> = ["run", &openapi].into_iter().chain(arguments.split_whitespace()).collect();
    run(&schemathesis, &arguments).await;
    daemon.stop().await;
}
