//! Signals over the REST API and the command line, and a snapshot that one asks for, killed in its midst under load.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, run_tailwater, said, shop, wait_at_most, wait_until};
use crate::kills::{STILL_HELD, TORN_TAIL, write};

/// Rows that no snapshot at the start has read.
const ROWS: u32 = 20_000;
/// How often the daemon is killed while they are read.
const KILLS: u32 = 3;
/// So small chunks take their time on a busy machine.
const LONG: Duration = Duration::from_secs(240);

type Orders = BTreeSet<(i64, i64, Option<String>)>;

async fn source_orders(client: &Client) -> Orders {
    let rows = client.query("SELECT id, change, note FROM orders", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn target_orders(url: &str) -> Orders {
    let Ok(mut connection) = sqlx::SqliteConnection::connect(url).await else { return Orders::new() };
    let query = "SELECT id, \"change\", note FROM shop_public_orders";
    let rows = sqlx::query(query).fetch_all(&mut connection).await.unwrap_or_default();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// How many rows were read of what a signal asked for and is not read to its end; `None` where nothing is asked for.
async fn under_way(daemon: &Daemon) -> Option<u64> {
    let (_, answer) = daemon.request("GET", "/connectors/shop/offsets", None).await;
    let asked_for = answer["offsets"].as_array()?.iter().find(|entry| entry["partition"].get("tailwater.signal").is_some())?;
    asked_for["offset"]["rows"].as_u64()
}

#[tokio::test]
async fn a_snapshot_that_a_signal_asks_for_survives_kills_under_load_and_the_target_equals_the_source() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let source = shop::create(&server, ROWS).await;
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("orders.db").display());
    let mut config = shop::source(&server);
    config["snapshot.mode"] = "no_data".into();
    config["incremental.snapshot.chunk.size"] = "20".into();
    let options = Options::default()
        .connector("shop.json", shop::file("shop", &config))
        .connector("orders.json", shop::file("orders", &shop::copy_of_orders(&url)))
        .expect(STILL_HELD)
        .expect(TORN_TAIL);
    let mut daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    answers_are_clear(&daemon).await;

    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop)));
    let data = r#"{"data-collections": ["public\\.orders"]}"#;
    let output = run_tailwater(["connector", "signal", "shop", "execute-snapshot", data, "--id", "again", "--url", daemon.url()]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("shop: took the signal again"), "{}", said(&output));
    for _ in 0..KILLS {
        let mut rows = Some(0);
        let begun = under_way(&daemon).await;
        wait_until("some rows to be read", async || {
            rows = under_way(&daemon).await;
            rows.is_none() || rows > begun
        })
        .await;
        assert!(rows.is_some(), "the snapshot is too fast to be killed in its midst");
        daemon.kill();
        daemon = Daemon::start(&home, &options).await;
    }
    wait_at_most(LONG, "the end of the snapshot", async || under_way(&daemon).await.is_none() && has_offsets(&daemon).await).await;
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let expected = source_orders(&source).await;
    wait_until("the target to equal the source", async || target_orders(&url).await == expected).await;
    daemon.stop().await;
}

/// Whether the connector has a position, so that what it does not name is done.
async fn has_offsets(daemon: &Daemon) -> bool {
    let (_, answer) = daemon.request("GET", "/connectors/shop/offsets", None).await;
    answer["offsets"].as_array().is_some_and(|offsets| !offsets.is_empty())
}

async fn answers_are_clear(daemon: &Daemon) {
    let post = async |connector: &str, body: Value| daemon.request("POST", &format!("/connectors/{connector}/signals"), Some(&body)).await;
    for (connector, body, status, word) in [
        ("shop", json!({"type": "log", "data": {"message": "at {}"}}), 202, "id"),
        ("shop", json!({"data": {}}), 400, "type"),
        ("shop", json!({"type": "unheard-of"}), 400, "known are"),
        ("shop", json!({"type": "execute-snapshot", "data": {"tables": []}}), 400, "data-collections"),
        ("shop", json!({"type": "execute-snapshot", "data": {"data-collections": ["public.no_such"]}}), 404, "no captured table"),
        ("orders", json!({"type": "pause-snapshot"}), 400, "takes no signals"),
        ("nobody", json!({"type": "pause-snapshot"}), 404, "not found"),
    ] {
        let (answered, answer) = post(connector, body.clone()).await;
        assert_eq!(answered, status, "{connector} {body}: {answer}");
        assert!(answer.to_string().contains(word), "{connector} {body}: {answer}");
    }
    let (paused, _) = daemon.request("PUT", "/connectors/shop/pause", None).await;
    assert_eq!(paused, 202);
    wait_until("a connector that rests to refuse", async || post("shop", json!({"type": "pause-snapshot"})).await.0 == 409).await;
    daemon.request("PUT", "/connectors/shop/resume", None).await;
    daemon.wait_for_running("shop").await;
    // Another run takes signals only once it follows the log.
    wait_until("the next run to take signals", async || post("shop", json!({"type": "log", "data": {"message": "again"}})).await.0 == 202)
        .await;
}

/// Ways by which a signal reaches a source.
#[derive(Clone, Copy, Debug)]
enum Channel {
    File,
    Rest,
    CommandLine,
}

/// Sends a signal, which is taken.
async fn send(daemon: &Daemon, file: &Path, channel: Channel, kind: &str, data: &Value) {
    let id = format!("{channel:?} {kind}");
    match channel {
        Channel::File => {
            let mut lines = std::fs::File::options().create(true).append(true).open(file).unwrap();
            writeln!(lines, "{}", json!({"id": id, "type": kind, "data": data})).unwrap();
        }
        Channel::Rest => {
            let body = json!({"id": id, "type": kind, "data": data});
            let (status, answer) = daemon.request("POST", "/connectors/shop/signals", Some(&body)).await;
            assert_eq!(status, 202, "{answer}");
        }
        Channel::CommandLine => {
            let data = data.to_string();
            let output = run_tailwater(["connector", "signal", "shop", kind, &data, "--id", &id, "--url", daemon.url()]);
            assert!(output.status.success(), "{}", said(&output));
        }
    }
}

#[tokio::test]
async fn each_signal_is_carried_out_whichever_way_it_comes() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let source = shop::create(&server, 2000).await;
    source.batch_execute("DELETE FROM visits WHERE id > 5").await.unwrap();
    let home = Home::new();
    let file = home.path("signals.txt");
    let mut config = shop::source(&server);
    for (key, value) in [
        ("snapshot.mode", "no_data"),
        // So slowly that the snapshot of orders is under way until it is stopped.
        ("snapshot.max.bytes.per.second", "100"),
        ("signal.enabled.channels", "file"),
        ("signal.file", file.to_str().unwrap()),
        ("signal.poll.interval.ms", "50"),
    ] {
        config[key] = value.into();
    }
    let daemon = Daemon::start(&home, &Options::default().connector("shop.json", shop::file("shop", &config))).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    let signals = [
        ("log", json!({"message": "the log is at {}"}), "the log is at {"),
        ("execute-snapshot", json!({"type": "incremental", "data-collections": ["public.orders"]}), "a signal asks for a snapshot"),
        ("pause-snapshot", json!({"type": "incremental"}), "a signal lets snapshots rest"),
        ("resume-snapshot", json!({"type": "incremental"}), "a signal lets snapshots go on"),
        ("stop-snapshot", json!({"type": "incremental", "data-collections": ["public.orders"]}), "a signal stops the snapshot"),
    ];
    for (channel, times) in [Channel::File, Channel::Rest, Channel::CommandLine].into_iter().zip(1..) {
        for (kind, data, word) in &signals {
            let told = || daemon.log_text().matches(word).count();
            let before = told();
            send(&daemon, &file, channel, kind, data).await;
            wait_until(&format!("{channel:?} {kind}"), async || told() > before).await;
        }
        let blocking = json!({"type": "blocking", "data-collections": ["public.visits"]});
        send(&daemon, &file, channel, "execute-snapshot", &blocking).await;
        wait_until(&format!("the blocking snapshot by {channel:?}"), async || {
            daemon.topics().await.iter().any(|topic| topic == "shop.public.visits")
                && daemon.read_topic("shop.public.visits").await.len() == 5 * times
        })
        .await;
        // The log goes on behind it.
        shop::wait_for_confirmed(&source, shop::SHOP).await;
        // One that takes an hour is stopped.
        send(&daemon, &file, channel, "execute-snapshot", &for_an_hour()).await;
        wait_until(&format!("the slow query by {channel:?}"), async || somebody_sleeps(&source).await).await;
        let stop = json!({"type": "blocking", "data-collections": ["public.orders"]});
        send(&daemon, &file, channel, "stop-snapshot", &stop).await;
        wait_until(&format!("the end of the slow query by {channel:?}"), async || !somebody_sleeps(&source).await).await;
        shop::wait_for_confirmed(&source, shop::SHOP).await;
    }
    // What runs when the daemon ends does not stay behind it.
    send(&daemon, &file, Channel::Rest, "execute-snapshot", &for_an_hour()).await;
    wait_until("the slow query", async || somebody_sleeps(&source).await).await;
    daemon.stop().await;
    wait_until("the end of the slow query", async || !somebody_sleeps(&source).await).await;
}

/// A blocking snapshot whose query takes an hour before its first row.
fn for_an_hour() -> Value {
    let condition = json!({"data-collection": "public.orders", "filter": "SELECT orders.* FROM orders, pg_sleep(3600)"});
    json!({"type": "blocking", "data-collections": ["public.orders"], "additional-conditions": [condition]})
}

async fn somebody_sleeps(source: &Client) -> bool {
    let query = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep')";
    source.query_one(query, &[]).await.unwrap().get(0)
}
