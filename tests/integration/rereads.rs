//! Tables that are read anew into a target that has their rows: behind a lost slot, and where one was errored.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{Connection as _, Row as _};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, run_tailwater, shop, wait_until};

async fn source_keys(client: &Client) -> BTreeSet<i64> {
    client.query("SELECT id FROM orders", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn target_keys(url: &str) -> BTreeSet<i64> {
    let Ok(mut connection) = sqlx::SqliteConnection::connect(url).await else { return BTreeSet::new() };
    let rows = sqlx::query("SELECT id FROM shop_public_orders").fetch_all(&mut connection).await.unwrap_or_default();
    rows.iter().map(|row| row.get(0)).collect()
}

/// Drops the slot of a daemon that is down, and with it what tells of the row that goes now.
async fn lose_slot(client: &Client, deleted: i64, inserted: i64) {
    client
        .batch_execute(&format!(
            "SELECT pg_drop_replication_slot('shop'); DELETE FROM orders WHERE id = {deleted};
             INSERT INTO orders VALUES ({inserted}, nextval('change_numbers'), 'new');"
        ))
        .await
        .unwrap();
}

#[tokio::test]
async fn t018_behind_a_lost_slot_the_target_equals_the_source() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
        let source = shop::create(&server, 50).await;
        source.batch_execute("DELETE FROM visits").await.unwrap();
        let home = Home::new();
        let url = format!("sqlite://{}", home.path("orders.db").display());
        let options = |entries: &[(&str, &str)]| {
            let mut config = shop::source(&server);
            config["snapshot.strategy"] = strategy.into();
            entries.iter().for_each(|(key, value)| config[*key] = Value::from(*value));
            let mut copy = shop::copy_of_orders(&url);
            copy["truncate.enabled"] = "true".into();
            Options::default().connector("shop.json", shop::file("shop", &config)).connector("orders.json", shop::file("orders", &copy))
        };
        let again = ("snapshot.mode", "when_needed");
        let daemon = Daemon::start(&home, &options(&[])).await;
        let expected = source_keys(&source).await;
        wait_until("the first snapshot", async || target_keys(&url).await == expected).await;
        shop::wait_for_confirmed(&source, shop::SHOP).await;
        daemon.stop().await;

        lose_slot(&source, 1, 1001).await;
        let skipping = options(&[again]).expect("a new snapshot is taken").expect("Consumers keep rows that were deleted meanwhile");
        let daemon = Daemon::start(&home, &skipping).await;
        wait_until("the second snapshot", async || target_keys(&url).await.contains(&1001)).await;
        shop::wait_for_confirmed(&source, shop::SHOP).await;
        assert!(target_keys(&url).await.contains(&1), "nothing tells of the row that went");
        assert!(daemon.log_text().contains("Consumers keep rows that were deleted meanwhile"));
        daemon.stop().await;

        lose_slot(&source, 2, 1002).await;
        let telling = options(&[again, ("skipped.operations", "none")]).expect("a new snapshot is taken");
        let daemon = Daemon::start(&home, &telling).await;
        let expected = source_keys(&source).await;
        wait_until("the target to equal the source", async || target_keys(&url).await == expected).await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn i10_an_errored_table_is_told_of_and_its_target_equals_the_source_once_it_is_read_again() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let source = shop::create(&server, 20).await;
    source.batch_execute("DELETE FROM visits; ALTER TABLE orders ADD price numeric(6,2)").await.unwrap();
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("orders.db").display());
    let mut config = shop::source(&server);
    config["event.processing.failure.handling.mode"] = "isolate".into();
    config["event.converting.failure.handling.mode"] = "fail".into();
    let mut copy = shop::copy_of_orders(&url);
    copy["truncate.enabled"] = "true".into();
    let options = Options::default()
        .connector("shop.json", shop::file("shop", &config))
        .connector("orders.json", shop::file("orders", &copy))
        .expect("the table is errored");
    let daemon = Daemon::start(&home, &options).await;
    let expected = source_keys(&source).await;
    wait_until("the first snapshot", async || target_keys(&url).await == expected).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    source.batch_execute("UPDATE orders SET price = 'NaN' WHERE id = 1; DELETE FROM orders WHERE id = 2").await.unwrap();
    // I5: the position moves on.
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let trace = async || daemon.status("shop").await["tasks"][0]["trace"].as_str().unwrap_or_default().to_owned();
    let told = trace().await;
    assert!(told.contains("the table public.orders is errored") && told.contains("execute-snapshot"), "{told}");
    let (_, offsets) = daemon.request("GET", "/connectors/shop/offsets", None).await;
    let is_errored = |offsets: &Value| offsets["offsets"].as_array().unwrap().iter().any(|entry| entry["offset"]["state"] == "errored");
    assert!(is_errored(&offsets), "{offsets}");
    assert!(target_keys(&url).await.contains(&2));
    daemon.stop().await;

    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    source.batch_execute("UPDATE orders SET price = 1 WHERE id = 1").await.unwrap();
    let data = r#"{"data-collections": ["public.orders"]}"#;
    wait_until("the signal to be taken", async || {
        run_tailwater(["connector", "signal", "shop", "execute-snapshot", data, "--id", "mend", "--url", daemon.url()]).status.success()
    })
    .await;
    let expected = source_keys(&source).await;
    wait_until("the target to equal the source", async || target_keys(&url).await == expected).await;
    source.batch_execute("DELETE FROM orders WHERE id = 3").await.unwrap();
    let expected = source_keys(&source).await;
    wait_until("changes to be followed again", async || target_keys(&url).await == expected).await;
    let (_, offsets) = daemon.request("GET", "/connectors/shop/offsets", None).await;
    assert!(!is_errored(&offsets), "{offsets}");
    daemon.stop().await;
}
