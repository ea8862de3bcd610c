//! A source whose slot is lost is read anew, into a target that has its rows.

use std::collections::BTreeSet;

use serde_json::Value;
use sqlx::{Connection as _, Row as _};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, shop, wait_until};

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
