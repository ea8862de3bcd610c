//! What is confirmed to the source is durable with us, whatever stalls, fails or is lost.
//!
//! A debug build's log obeys `TAILWATER_LOG_FAULT`: `fsync-refused:FILE` or `append-blocked:FILE`, in force while FILE exists.
//! `TAILWATER_LONG=1` runs the long forms: 90 s against a timeout of 10 s, three million rows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sqlx::{Connection as _, Row as _};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, payload, read_topic_offline, shop, wait_at_most, wait_until};
use crate::kills::{STILL_HELD, Seen, TORN_TAIL, assert_nothing_twice};

/// RssAnon that a daemon with a budget of 16 MiB stays below.
const MEMORY_LIMIT: u64 = 48 << 20;

const ORDERS: &str = "shop.public.orders";

fn is_long() -> bool {
    std::env::var_os("TAILWATER_LONG").is_some()
}

/// `wal_sender_timeout` and how long something is blocked, in seconds.
fn patience() -> (u64, u64) {
    if is_long() { (10, 90) } else { (5, 14) }
}

async fn server(settings: &[(&str, &str)]) -> Option<PostgresServer> {
    required_or_skip(PostgresServer::start(Version::V15, settings).await)
}

fn options(server: &PostgresServer) -> Options {
    Options::default().worker("memory.budget: 16MiB\n").connector("shop.json", shop::file("shop", &shop::source(server)))
}

/// Process id of the walsender that serves the slot: another one is another connection.
async fn walsender(client: &Client) -> Option<i32> {
    let query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1";
    client.query_one(query, &[&shop::SHOP]).await.unwrap().get(0)
}

async fn insert_orders(client: &Client, ids: std::ops::RangeInclusive<i32>) {
    let sql = "INSERT INTO orders SELECT i, nextval('change_numbers'), repeat('x', 200) FROM generate_series($1::int, $2::int) i";
    client.execute(sql, &[ids.start(), ids.end()]).await.unwrap();
}

fn ids(records: &[Value]) -> BTreeSet<i64> {
    records.iter().filter_map(|record| payload(record)["after"]["id"].as_i64()).collect()
}

fn copy_folder(from: &Path, to: &Path) {
    if to.exists() {
        fs::remove_dir_all(to).unwrap();
    }
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn the_slot_never_advances_past_a_log_that_refuses_to_sync() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 100).await;
    let home = Home::new();
    let fault = home.path("refuse");
    let options =
        options(&server).environment("TAILWATER_LOG_FAULT", format!("fsync-refused:{}", fault.display())).expect("the test refuses fsync");
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;

    fs::write(&fault, "").unwrap();
    let durable = shop::log_end(&source).await;
    insert_orders(&source, 1001..=1100).await;
    let committed = shop::log_end(&source).await;
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert!(!shop::has_confirmed(&source, shop::SHOP, &committed).await, "confirmed {committed} beyond the durable {durable}");
        assert!(ids(&daemon.read_topic(ORDERS).await).iter().all(|id| *id <= 100), "a reader sees records that are not durable");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    daemon.kill();
    fs::remove_file(&fault).unwrap();

    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let records = daemon.read_topic(ORDERS).await;
    assert_nothing_twice(ORDERS, &records);
    assert_eq!(ids(&records).len(), 200);
    daemon.stop().await;
}

#[tokio::test]
async fn power_loss_that_cuts_the_journal_back_to_its_last_sync_loses_nothing() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 100).await;
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    let options = || {
        options(&server).connector("orders.json", shop::file("orders", &shop::copy_of_orders(&url))).expect(STILL_HELD).expect(TORN_TAIL)
    };
    let mut rows = 100;
    for round in 0..6 {
        let daemon = Daemon::start(&home, &options()).await;
        shop::wait_for_streaming(&source, shop::SHOP).await;
        shop::wait_for_confirmed(&source, shop::SHOP).await;
        daemon.kill();
        // All of this is durable. The next daemon ends between its first write and the fsync behind it.
        let durable = files_of(&home.data());
        insert_orders(&source, rows + 1..=rows + 200).await;
        rows += 200;
        let mut daemon = Daemon::spawn(&home, &options().environment("TAILWATER_CRASH_POINT", "journal-after-write:1"));
        assert!(!daemon.ended().await.success());
        drop(daemon);
        for (path, length) in files_of(&home.data()) {
            if path.extension().is_some_and(|extension| extension == "segment") {
                let durable = durable.get(&path).copied().unwrap_or(0);
                assert!(length >= durable, "{} was cut below what is durable", path.display());
                // Any part of what was not fsynced may be missing: all of it in the first round.
                let left = if round == 0 { durable } else { fastrand::u64(durable..=length) };
                fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(left).unwrap();
            }
        }
    }
    let daemon = Daemon::start(&home, &options()).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let records = daemon.read_topic(ORDERS).await;
    assert_nothing_twice(ORDERS, &records);
    assert_eq!(ids(&records), (1..=i64::from(rows)).collect());
    wait_until("all rows in the target", async || {
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let row = sqlx::query("SELECT count(*) FROM shop_public_orders").fetch_one(&mut connection).await;
        row.is_ok_and(|row| row.get::<i64, _>(0) == i64::from(rows))
    })
    .await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_a_blocked_append_in_bounded_memory() {
    let (timeout, blocked) = patience();
    let Some(server) = server(&[("wal_sender_timeout", &format!("{timeout}s"))]).await else { return };
    let source = shop::create(&server, 100).await;
    let home = Home::new();
    let fault = home.path("block");
    let options = options(&server).environment("TAILWATER_LOG_FAULT", format!("append-blocked:{}", fault.display()));
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let before = walsender(&source).await;

    fs::write(&fault, "").unwrap();
    // More than the budget and the sockets hold.
    insert_orders(&source, 1001..=200_000).await;
    let end = Instant::now() + Duration::from_secs(blocked);
    while Instant::now() < end {
        assert_eq!(walsender(&source).await, before, "the connection was lost");
        assert!(daemon.anonymous_memory() < MEMORY_LIMIT, "{} bytes", daemon.anonymous_memory());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    fs::remove_file(&fault).unwrap();
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    assert_eq!(walsender(&source).await, before, "the connection was lost");
    let records = daemon.read_topic(ORDERS).await;
    assert_nothing_twice(ORDERS, &records);
    assert_eq!(ids(&records).len(), 100 + 199_000);
    daemon.stop().await;
}

#[tokio::test]
async fn a_connection_outlives_a_blocked_sink_and_the_source_goes_on() {
    let (timeout, blocked) = patience();
    let Some(server) = server(&[("wal_sender_timeout", &format!("{timeout}s"))]).await else { return };
    let source = shop::create(&server, 100).await;
    server.create_database("copy").await.unwrap();
    let target = server.connect("copy").await.unwrap();
    let home = Home::new();
    let options = options(&server)
        .connector("copy.json", shop::file("copy", &shop::copy_of_orders(&server.url("copy"))))
        .expect("canceling statement due to lock timeout");
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    let count = async |expected: i64| match target.query_one("SELECT count(*) FROM shop_public_orders", &[]).await {
        Ok(row) => row.get::<_, i64>(0) == expected,
        Err(_) => false,
    };
    wait_until("the first rows in the target", async || count(100).await).await;
    let before = walsender(&source).await;

    let lock = server.connect("copy").await.unwrap();
    lock.batch_execute("BEGIN; LOCK TABLE shop_public_orders IN EXCLUSIVE MODE").await.unwrap();
    insert_orders(&source, 1001..=100_000).await;
    let end = Instant::now() + Duration::from_secs(blocked);
    // The topic log stands between source and sink: the source confirms while the sink waits.
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    while Instant::now() < end {
        assert_eq!(walsender(&source).await, before, "the connection was lost");
        assert!(daemon.anonymous_memory() < MEMORY_LIMIT, "{} bytes", daemon.anonymous_memory());
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert!(count(100).await, "the lock does not hold");
    lock.batch_execute("COMMIT").await.unwrap();
    wait_at_most(Duration::from_secs(120), "all rows in the target", async || count(100 + 99_000).await).await;
    daemon.stop().await;
}

#[tokio::test]
async fn a_table_rewritten_while_the_snapshot_starts_loses_no_row() {
    for _ in 0..3 {
        let Some(server) = server(&[]).await else { return };
        let source = shop::create(&server, 3000).await;
        source.batch_execute("ALTER TABLE orders ADD COLUMN amount int DEFAULT 7").await.unwrap();
        let home = Home::new();
        // Each of these rewrites the table; a snapshot older than that sees no row of it, without an error.
        let rewriter = server.connect(shop::SHOP).await.unwrap();
        let rewriting = tokio::spawn(async move {
            for kind in ["bigint", "int"].into_iter().cycle().take(60) {
                rewriter.batch_execute(&format!("ALTER TABLE orders ALTER COLUMN amount TYPE {kind}")).await.unwrap();
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        });
        let daemon = Daemon::start(&home, &options(&server).expect("the table was rewritten since the snapshot was taken")).await;
        shop::wait_for_streaming(&source, shop::SHOP).await;
        rewriting.await.unwrap();
        shop::wait_for_confirmed(&source, shop::SHOP).await;
        assert_eq!(ids(&daemon.read_topic(ORDERS).await).len(), 3000);
        daemon.stop().await;
    }
}

#[tokio::test]
async fn two_updates_of_a_row_in_a_batch_leave_both_changes_where_the_second_has_an_unchanged_toast_column() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 1).await;
    source
        .batch_execute("ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL; UPDATE orders SET note = repeat('old ', 5000)")
        .await
        .unwrap();
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    let options = options(&server).connector("copy.json", shop::file("copy", &shop::copy_of_orders(&url)));
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    source.batch_execute("BEGIN; UPDATE orders SET note = repeat('new ', 5000); UPDATE orders SET change = 4711; COMMIT").await.unwrap();
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    let last = payload(daemon.read_topic(ORDERS).await.last().unwrap());
    assert_eq!(last["after"]["note"], "__debezium_unavailable_value", "the case needs a column that the log leaves out");
    wait_until("both changes in the target", async || {
        let mut connection = sqlx::SqliteConnection::connect(&url).await.unwrap();
        let row = sqlx::query("SELECT \"change\", note FROM shop_public_orders WHERE id = 1").fetch_one(&mut connection).await.unwrap();
        (row.get::<i64, _>(0), row.get::<String, _>(1)) == (4711, "new ".repeat(5000))
    })
    .await;
    daemon.stop().await;
}

/// The row may come late, since a snapshot reads beside the log; and what an update leaves as it was is told by the row alone.
#[tokio::test]
async fn i8_an_update_of_a_row_that_the_snapshot_has_yet_to_read_stops_no_copy_and_leaves_no_hole() {
    const ROWS: u32 = 300;
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, ROWS).await;
    source
        .batch_execute("ALTER TABLE orders ALTER COLUMN note SET STORAGE EXTERNAL; UPDATE orders SET note = repeat('note ', 1000)")
        .await
        .unwrap();
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    let mut config = shop::source(&server);
    for (key, value) in [
        ("table.include.list", "public.orders"),
        ("snapshot.strategy", "watermark"),
        ("incremental.snapshot.chunk.size", "10"),
        ("snapshot.max.bytes.per.second", "500000"),
    ] {
        config[key] = value.into();
    }
    let options = Options::default()
        .connector("shop.json", shop::file("shop", &config))
        .connector("copy.json", shop::file("copy", &shop::copy_of_orders(&url)));
    let daemon = Daemon::start(&home, &options).await;
    let copied = async |condition: &str| {
        let Ok(mut connection) = sqlx::SqliteConnection::connect(&url).await else { return 0 };
        let query = format!("SELECT count(*) FROM shop_public_orders WHERE {condition}");
        sqlx::query_scalar::<_, i64>(sqlx::AssertSqlSafe(query)).fetch_one(&mut connection).await.unwrap_or_default()
    };
    wait_until("the first rows in the target", async || copied("true").await > 0).await;
    source.batch_execute(&format!("UPDATE orders SET change = 4711 WHERE id > {}", ROWS - 20)).await.unwrap();
    source.batch_execute(&format!("DELETE FROM orders WHERE id = {ROWS}")).await.unwrap();
    wait_until("all rows in the target", async || copied("length(note) = 5000").await == i64::from(ROWS) - 1).await;
    assert_eq!(copied("\"change\" = 4711").await, 19);
    let of_last = |record: &Value| payload(record)["after"]["id"] == ROWS - 1;
    let operations: Vec<_> =
        daemon.read_topic(ORDERS).await.iter().filter(|record| of_last(record)).map(|record| payload(record)["op"].clone()).collect();
    assert_eq!(operations, ["u", "r"], "the case needs an update in front of the row");
    daemon.stop().await;
}

#[tokio::test]
async fn a_transaction_larger_than_memory_passes_and_a_kill_in_its_middle_repeats_nothing() {
    let rows: i32 = if is_long() { 3_000_000 } else { 200_000 };
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 10).await;
    let home = Home::new();
    let options = options(&server).expect(STILL_HELD).expect(TORN_TAIL);
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    insert_orders(&source, 1001..=1000 + rows).await;
    // Killed when a part of the transaction is in the journal: its files have grown by a few megabytes.
    let before = size(daemon.data());
    wait_until("a part of the transaction", async || size(daemon.data()) > before + (4 << 20)).await;
    assert!(daemon.anonymous_memory() < MEMORY_LIMIT, "{} bytes", daemon.anonymous_memory());
    daemon.kill();

    let daemon = Daemon::start(&home, &options).await;
    let place = shop::log_end(&source).await;
    let limit = Duration::from_secs(if is_long() { 600 } else { 120 });
    wait_at_most(limit, "the transaction", async || {
        assert!(daemon.anonymous_memory() < MEMORY_LIMIT, "{} bytes", daemon.anonymous_memory());
        shop::has_confirmed(&source, shop::SHOP, &place).await
    })
    .await;
    let mut seen = Seen::default();
    daemon.for_each_record(ORDERS, |record| seen.see(ORDERS, record));
    assert_eq!(seen.changes(), 10 + usize::try_from(rows).unwrap());
    daemon.stop().await;
}

/// The files below a folder and their lengths.
fn files_of(folder: &Path) -> BTreeMap<PathBuf, u64> {
    let mut lengths = BTreeMap::new();
    for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => lengths.extend(files_of(&entry.path())),
            Ok(metadata) => {
                lengths.insert(entry.path(), metadata.len());
            }
            // Removed meanwhile.
            Err(_) => {}
        }
    }
    lengths
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    files_of(folder).values().sum()
}

#[tokio::test]
async fn a_data_directory_restored_from_an_older_copy_is_history_gone() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 100).await;
    let home = Home::new();
    let options = options(&server);
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    daemon.stop().await;
    assert_eq!(ids(&read_topic_offline(&home.data(), ORDERS)).len(), 100);
    copy_folder(&home.data(), &home.path("older"));

    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    insert_orders(&source, 1001..=1100).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    daemon.stop().await;
    copy_folder(&home.path("older"), &home.data());

    let daemon = Daemon::start(&home, &options.expect(r#""error.kind":"history-gone""#)).await;
    let trace = daemon.wait_for_failure("shop").await;
    assert!(trace.contains("history-gone"), "{trace}");
    insert_orders(&source, 2001..=2010).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(ids(&daemon.read_topic(ORDERS).await).iter().all(|id| *id <= 100), "the gap was skipped");
    daemon.stop().await;
}

#[tokio::test]
async fn a_quiet_table_in_a_busy_database_still_advances_the_slot() {
    let Some(server) = server(&[]).await else { return };
    let source = shop::create(&server, 10).await;
    source.batch_execute("CREATE TABLE not_captured (a int)").await.unwrap();
    let home = Home::new();
    let mut config = shop::source(&server);
    config["publication.autocreate.mode"] = json!("filtered");
    let options = Options::default().connector("shop.json", shop::file("shop", &config));
    let daemon = Daemon::start(&home, &options).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    source.batch_execute("INSERT INTO not_captured SELECT generate_series(1, 1000)").await.unwrap();
    // I5
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_open_transactions_names_them_and_goes_on_when_they_end() {
    let Some(server) = server(&[("max_prepared_transactions", "5")]).await else { return };
    let client = shop::create(&server, 1).await;
    client.batch_execute("BEGIN; UPDATE orders SET note = 'prepared'; PREPARE TRANSACTION 'left behind'").await.unwrap();
    let open = server.connect(shop::SHOP).await.unwrap();
    open.batch_execute("BEGIN; UPDATE visits SET page = 'open'").await.unwrap();
    let pid: i32 = open.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let home = Home::new();
    let options = options(&server).expect("waits for open transactions");
    let daemon = Daemon::start(&home, &options).await;
    wait_until("both transactions to be named", async || {
        let log = daemon.log_text();
        log.contains(&format!("SELECT pg_terminate_backend({pid});")) && log.contains("ROLLBACK PREPARED 'left behind';")
    })
    .await;
    let (status, _) = daemon.request("GET", "/connectors", None).await;
    assert_eq!(status, 200, "the API answers meanwhile");
    open.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("ROLLBACK PREPARED 'left behind'").await.unwrap();
    wait_until("the rows", async || daemon.topics().await.iter().any(|topic| topic == "shop.public.orders")).await;
    daemon.stop().await;
}
