//! A small shop in PostgreSQL: the source of most tests, and its configuration.
//!
//! Each row carries the number of its last change. Numbers are never used twice, so a record that reaches a topic twice
//! is seen by its table, key and number.

use std::path::Path;

use serde_json::{Value, json};
use tailwater_testkit::PostgresServer;
use tokio_postgres::Client;

use super::wait_until;

/// Name of the database, the topic prefix, the slot and the publication.
pub(crate) const SHOP: &str = "shop";

/// Makes the database with its tables; `orders` and `visits` get this many rows each.
pub(crate) async fn create(server: &PostgresServer, rows: u32) -> Client {
    server.create_database(SHOP).await.unwrap();
    let client = server.connect(SHOP).await.unwrap();
    client
        .batch_execute(&format!(
            "CREATE SEQUENCE change_numbers;
             CREATE TABLE orders (id bigint PRIMARY KEY, change bigint NOT NULL, note text);
             CREATE TABLE visits (id bigint NOT NULL, change bigint NOT NULL, page text);
             INSERT INTO orders SELECT i, nextval('change_numbers'), 'order ' || i FROM generate_series(1, {rows}) i;
             INSERT INTO visits SELECT i, nextval('change_numbers'), '/page/' || i FROM generate_series(1, {rows}) i;"
        ))
        .await
        .unwrap();
    client
}

/// A source of all tables of the shop.
pub(crate) fn source(server: &PostgresServer) -> Value {
    json!({
        "connector.class": "postgres",
        "topic.prefix": SHOP,
        "database.hostname": "127.0.0.1",
        "database.port": server.port().to_string(),
        "database.user": "postgres",
        "database.password": "unused",
        "database.dbname": SHOP,
        "plugin.name": "pgoutput",
        "slot.name": SHOP,
        "publication.name": SHOP,
        "table.include.list": "public.orders,public.visits",
        "status.update.interval.ms": "500",
    })
}

/// A sink that keeps `orders` equal in the database of this URL.
pub(crate) fn copy_of_orders(url: &str) -> Value {
    json!({
        "connector.class": "sql",
        "topics": format!("{SHOP}.public.orders"),
        "connection.url": url,
        "insert.mode": "upsert",
        "primary.key.mode": "record_key",
        "delete.enabled": "true",
        "schema.evolution": "basic",
    })
}

/// A sink that only adds rows, into a table without a key.
pub(crate) fn copy_of_visits(url: &str) -> Value {
    json!({
        "connector.class": "sql",
        "topics": format!("{SHOP}.public.visits"),
        "connection.url": url,
        "insert.mode": "insert",
        "primary.key.mode": "none",
        "schema.evolution": "basic",
    })
}

/// A sink that appends the values of `visits` to files in this folder.
pub(crate) fn lines_of_visits(folder: &Path) -> Value {
    json!({
        "connector.class": "file",
        "topics": format!("{SHOP}.public.visits"),
        "path": folder.display().to_string(),
        "json.content": "value",
    })
}

/// A connector file in JSON.
pub(crate) fn file(name: &str, config: &Value) -> String {
    json!({"name": name, "config": config}).to_string()
}

/// The place that the source's log has reached, to be given to [`wait_for_confirmed`].
pub(crate) async fn log_end(client: &Client) -> String {
    client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap().get(0)
}

/// Whether the slot has confirmed everything up to `place`.
pub(crate) async fn has_confirmed(client: &Client, slot: &str, place: &str) -> bool {
    let query = "SELECT coalesce(bool_or(confirmed_flush_lsn >= ($2::text)::pg_lsn), false) FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(query, &[&slot, &place]).await.unwrap().get(0)
}

/// The fence that ends a test: the slot has confirmed everything that was committed before the call.
pub(crate) async fn wait_for_confirmed(client: &Client, slot: &str) {
    let place = log_end(client).await;
    wait_until(&format!("slot {slot} to confirm {place}"), async || has_confirmed(client, slot, &place).await).await;
}

/// What the log says of the table without a key, which is only added to.
pub(crate) const NO_IDENTITY: &str = "has no replica identity";

/// Whether a connection reads from the slot. One that is still making it does not.
pub(crate) async fn is_streaming(client: &Client, slot: &str) -> bool {
    let query = "SELECT count(*) > 0 FROM pg_replication_slots JOIN pg_stat_replication ON pid = active_pid \
                 WHERE slot_name = $1 AND state IN ('catchup', 'streaming')";
    client.query_one(query, &[&slot]).await.unwrap().get(0)
}

/// Waits until a connection reads from the slot.
pub(crate) async fn wait_for_streaming(client: &Client, slot: &str) {
    wait_until(&format!("slot {slot} to be read"), async || is_streaming(client, slot).await).await;
}
