//! The REST API and the directory of connector files of a running daemon. That every answer is Connect's is proved
//! beside the API itself, by the recorded exchanges.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Daemon, Home, Options, run_tailwater, said, wait_until};

const ROWS: &str = "name: rows\nconnector: generator\ngenerator.topics: rows\ngenerator.rows: 1000\n";
const FORGET: &str = "name: forget\nconnector: blackhole\ntopics: rows\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_is_healthy_and_shows_its_figures() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default().connector("rows.yaml", ROWS).connector("forget.yaml", FORGET)).await;
    let (status, health) = daemon.request("GET", "/health", None).await;
    assert_eq!((status, health["status"].as_str()), (200, Some("healthy")));
    daemon.wait_for_running("forget").await;
    let metrics = async || reqwest::get(format!("{}/metrics", daemon.url())).await.unwrap().text().await.unwrap();
    wait_until("figures of both connectors", async || {
        let text = metrics().await;
        text.contains("connector=\"rows\"") && text.contains("connector=\"forget\"")
    })
    .await;
    let text = metrics().await;
    let series = text.lines().filter(|line| !line.starts_with('#'));
    assert!(
        series.clone().count() > 0
            && series
                .clone()
                .all(|line| ["tailwater_", "kafka_connect_", "debezium_metrics_"].iter().any(|prefix| line.starts_with(prefix))),
        "{text}"
    );
    assert!(text.ends_with("# EOF\n"));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_directory_of_connector_files_is_what_runs() {
    let home = Home::new();
    let options = Options::default().connector("rows.yaml", ROWS).expect("broken.yaml").expect("again.yaml");
    let daemon = Daemon::start(&home, &options).await;
    daemon.wait_for_running("rows").await;
    let names = async || daemon.request("GET", "/connectors", None).await.1;

    // A new file, written beside and renamed as careful tools do.
    let beside = home.write("connectors/.forget.yaml.tmp", FORGET);
    fs::rename(beside, home.path("connectors/forget.yaml")).unwrap();
    daemon_has(&daemon, &json!(["forget", "rows"])).await;

    // A broken file and a second file of one name are complained about and change nothing.
    home.write("connectors/broken.yaml", "name: [\n");
    home.write("connectors/again.yaml", "name: rows\nconnector: generator\ngenerator.topics: other\n");
    wait_until("complaints about both files", async || {
        let log = daemon.log_text();
        log.contains("broken.yaml") && log.contains("again.yaml")
    })
    .await;
    assert_eq!(daemon.request("GET", "/connectors/rows/config", None).await.1["generator.topics"], "rows");
    assert_eq!(names().await, json!(["forget", "rows"]));

    // The file owns its connector; pausing is everybody's.
    let (status, answer) = daemon.request("DELETE", "/connectors/forget", None).await;
    assert_eq!(status, 409, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("forget.yaml"), "{answer}");
    assert_eq!(daemon.request("PUT", "/connectors/forget/pause", None).await.0, 202);

    fs::remove_file(home.path("connectors/forget.yaml")).unwrap();
    daemon_has(&daemon, &json!(["rows"])).await;
    daemon.stop().await;
}

async fn daemon_has(daemon: &Daemon, names: &Value) {
    wait_until(&format!("the connectors {names}"), async || {
        let mut found = daemon.request("GET", "/connectors", None).await.1;
        if let Some(found) = found.as_array_mut() {
            found.sort_by_key(Value::to_string);
        }
        found == *names
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connector_and_its_target_state_survive_a_restart() {
    let home = Home::new();
    let daemon = Daemon::start(&home, &Options::default()).await;
    let body = json!({"name": "later", "initial_state": "PAUSED", "config": {"connector.class": "generator", "generator.topics": "later", "generator.rows": "1"}});
    let (status, answer) = daemon.request("POST", "/connectors", Some(&body)).await;
    assert_eq!(status, 201, "{answer}");
    daemon.stop().await;
    let daemon = Daemon::start(&home, &Options::default()).await;
    assert_eq!(daemon.status("later").await["connector"]["state"], "PAUSED");
    assert_eq!(daemon.request("GET", "/topics", None).await.1, json!([]));
    assert_eq!(daemon.request("PUT", "/connectors/later/resume", None).await.0, 202);
    wait_until("the row", async || daemon.topics().await == ["later"]).await;
    assert_eq!(daemon.read_topic("later").await.len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_stopped_connector_move_and_are_where_it_goes_on() {
    let home = Home::new();
    let rows = json!({"connector.class": "generator", "generator.topics": "rows", "generator.rows": "10"});
    let sink = json!({"connector.class": "blackhole", "topics": "rows", "offset.flush.interval.ms": "50"});
    let sink_at = |offset: u64| json!({"offsets": [{"partition": {"kafka_partition": 0, "kafka_topic": "rows"}, "offset": {"kafka_offset": offset}}]});
    let daemon = Daemon::start(&home, &Options::default()).await;
    daemon.put_connector("rows", &rows).await;
    daemon.put_connector("forget", &sink).await;
    let stands_at = async |daemon: &Daemon, offset: u64| {
        wait_until(&format!("offset {offset}"), async || {
            daemon.request("GET", "/connectors/forget/offsets", None).await.1 == sink_at(offset)
        })
        .await;
    };
    stands_at(&daemon, 10).await;
    assert_eq!(daemon.request("PATCH", "/connectors/forget/offsets", Some(&sink_at(4))).await.0, 400, "it runs");
    for name in ["rows", "forget"] {
        assert_eq!(daemon.request("PUT", &format!("/connectors/{name}/stop"), None).await.0, 204);
    }
    let (status, answer) = daemon.request("PATCH", "/connectors/forget/offsets", Some(&sink_at(11))).await;
    assert!(status == 400 && answer["message"].as_str().unwrap().contains("0 to 10"), "{answer}");
    let (status, answer) = daemon.request("PATCH", "/connectors/forget/offsets", Some(&sink_at(4))).await;
    assert_eq!((status, answer), (200, json!({"message": "The offsets for this connector have been altered successfully"})));
    let source = daemon.request("GET", "/connectors/rows/offsets", None).await.1;
    assert_eq!(source["offsets"].as_array().unwrap().len(), 1, "{source}");
    let cli = |arguments: &[&str]| run_tailwater([&["connector", "offsets", "forget", "--url", daemon.url()], arguments].concat());
    let saved = home.write("offsets.json", std::str::from_utf8(&cli(&["--output", "json"]).stdout).unwrap());
    assert!(cli(&["--reset"]).status.success());
    assert_eq!(daemon.request("GET", "/connectors/forget/offsets", None).await.1, json!({"offsets": []}));
    let altered = cli(&["--alter", saved.to_str().unwrap()]);
    assert!(altered.status.success() && said(&altered).contains("altered successfully"), "{}", said(&altered));
    assert_eq!(cli(&["--alter", "/no/such/file"]).status.code(), Some(2));
    assert_eq!(daemon.request("DELETE", "/connectors/rows/offsets", None).await.0, 200);
    daemon.stop().await;

    let daemon = Daemon::start(&home, &Options::default()).await;
    stands_at(&daemon, 4).await;
    assert_eq!(daemon.request("GET", "/connectors/rows/offsets", None).await.1, json!({"offsets": []}));
    // The source begins anew, and the sink goes on where it was put.
    for name in ["rows", "forget"] {
        assert_eq!(daemon.request("PUT", &format!("/connectors/{name}/resume"), None).await.0, 202);
    }
    stands_at(&daemon, 20).await;
    assert_eq!(daemon.read_topic("rows").await.len(), 20);
    daemon.stop().await;
}
