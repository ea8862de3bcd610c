//! How far a snapshot is, as `/connectors/NAME/snapshot` tells while it is taken, also by a daemon that goes on with what a killed
//! one began.

use serde_json::{Value, json};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, shop, wait_until};
use crate::kills::{STILL_HELD, TORN_TAIL};

const ROWS: u64 = 5000;

/// What is told of the only table; `null` before anything is.
async fn told(daemon: &Daemon) -> (bool, Value) {
    let (status, answer) = daemon.request("GET", "/connectors/shop/snapshot", None).await;
    assert_eq!(status, 200, "{answer}");
    let tables = answer["tables"].as_array().expect("a list of tables");
    assert!(tables.iter().all(|table| table["table"] == "public.orders"), "{answer}");
    (answer["running"] == true, tables.first().cloned().unwrap_or_default())
}

/// How many rows the stored position of the table counts.
async fn stored_rows(daemon: &Daemon) -> u64 {
    let (_, answer) = daemon.request("GET", "/connectors/shop/offsets", None).await;
    let offsets = answer["offsets"].as_array().cloned().unwrap_or_default();
    offsets.iter().filter_map(|entry| entry["offset"]["rows"].as_u64()).max().unwrap_or(0)
}

#[tokio::test]
async fn a_throttled_snapshot_tells_how_far_it_is_and_behind_a_kill_goes_on_from_there() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let source = shop::create(&server, u32::try_from(ROWS).unwrap()).await;
    // The number of rows that is expected is the server's estimate.
    source.batch_execute("ANALYZE").await.unwrap();
    let mut config = shop::source(&server);
    // Our own key, with which it goes on behind the last chunk; what Connect's key stands for would begin anew.
    config.as_object_mut().unwrap().remove("connector.class");
    for (key, value) in [
        ("connector", "postgres"),
        ("table.include.list", "public.orders"),
        ("incremental.snapshot.chunk.size", "100"),
        ("snapshot.max.bytes.per.second", "20000"),
    ] {
        config[key] = value.into();
    }
    let options = Options::default().connector("shop.json", shop::file("shop", &config)).expect(STILL_HELD).expect(TORN_TAIL);
    let home = Home::new();
    let daemon = Daemon::start(&home, &options).await;
    wait_until("rows, bytes and the rest to be told", async || {
        let (running, table) = told(&daemon).await;
        let figure = |name: &str| table[name].as_u64().unwrap_or(0);
        let is_under_way = running && table["state"] == "reading" && figure("rows") > 0 && figure("bytes") > 0;
        is_under_way && figure("estimated_rows") == ROWS && figure("remaining_seconds") > 0
    })
    .await;
    wait_until("rows to be stored", async || stored_rows(&daemon).await > 0).await;
    let stored = stored_rows(&daemon).await;
    assert!(stored < ROWS, "it is too fast to be killed in its midst");
    daemon.kill();

    let daemon = Daemon::start(&home, &options).await;
    let mut first = Value::Null;
    wait_until("the table to be told of", async || {
        (_, first) = told(&daemon).await;
        !first.is_null()
    })
    .await;
    assert!(first["rows"].as_u64() >= Some(stored), "{stored} rows were stored: {first}");
    let mut rows = 0;
    wait_until("the end", async || {
        let (running, table) = told(&daemon).await;
        let now = table["rows"].as_u64().unwrap_or(0);
        assert!(now >= rows, "{rows} rows were told: {table}");
        rows = now;
        !running && table["state"] == "complete"
    })
    .await;
    let (_, table) = told(&daemon).await;
    assert_eq!((&table["rows"], &table["remaining_seconds"]), (&ROWS.into(), &0.into()), "{table}");
    daemon.stop().await;
}

#[tokio::test]
async fn a_snapshot_that_waits_for_transactions_tells_whose_they_are_and_goes_on_when_they_end() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[("max_prepared_transactions", "5")]).await) else { return };
    let source = shop::create(&server, 5).await;
    let mut config = shop::source(&server);
    config["snapshot.mode"] = "no_data".into();
    // After some time the log tells of it, too.
    let options =
        Options::default().connector("shop.json", shop::file("shop", &config)).expect("the snapshot waits for transactions to end");
    let home = Home::new();
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    source.batch_execute("BEGIN; INSERT INTO visits VALUES (6, 6, 'prepared'); PREPARE TRANSACTION 'left behind'").await.unwrap();
    let open = server.connect(shop::SHOP).await.unwrap();
    open.batch_execute("BEGIN; INSERT INTO visits VALUES (7, 7, 'open')").await.unwrap();
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let signal = json!({"type": "execute-snapshot", "data": {"data-collections": ["public.orders"]}});
    let (status, answer) = daemon.request("POST", "/connectors/shop/signals", Some(&signal)).await;
    assert_eq!(status, 202, "{answer}");
    let told = async || daemon.request("GET", "/connectors/shop/snapshot", None).await.1;
    let waits_for = async |words: &[&str]| {
        let lines = told().await["waits_for"].to_string();
        words.iter().all(|word| lines.contains(word))
    };
    let ending = format!("SELECT pg_terminate_backend({pid});");
    wait_until("both transactions to be told of", async || waits_for(&[&ending, "ROLLBACK PREPARED 'left behind';"]).await).await;
    assert_eq!(told().await["tables"][0]["state"], "waiting", "{}", told().await);
    open.batch_execute("COMMIT").await.unwrap();
    wait_until("one to be left", async || waits_for(&["left behind"]).await && !waits_for(&[&ending]).await).await;
    source.batch_execute("ROLLBACK PREPARED 'left behind'").await.unwrap();
    wait_until("the end", async || {
        let told = told().await;
        told["running"] == false && told["tables"][0]["state"] == "complete" && told["waits_for"] == json!([])
    })
    .await;
    daemon.stop().await;
}
