//! SIGKILL at random, in the snapshot and while streaming under load.
//!
//! In the end the target equals the source row by row, no change stands twice in a topic, snapshot rows included, and no row
//! stands twice in a target table that has no key and is only added to. So it is with whole transactions, and with those that
//! are sent while they are in progress or prepared. The server is never confirmed what is not durable: each start holds
//! the stored position against the slot, and a slot that is ahead of it is an error, which fails the test.
//!
//! `TAILWATER_KILLS=500` sets how often the daemon is killed; 50 times where `CI=true`, and a few times otherwise.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use sqlx::Row as _;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, payload, shop, wait_at_most};

/// Rows that each table has before the first start, so that a kill finds the snapshot at work.
const ROWS: u32 = 20_000;

/// A killed daemon's server process may still hold the slot when the next one comes.
pub(crate) const STILL_HELD: &str = "the slot is in use; trying again";

/// What a killed daemon left half written.
pub(crate) const TORN_TAIL: &str = "the journal has a torn tail";

/// How often the daemon is killed where nothing asks for more.
pub(crate) const FEW: u32 = 6;

/// How often the daemon is killed: as `TAILWATER_KILLS` says, or else so often.
pub(crate) fn kills(otherwise: u32) -> u32 {
    std::env::var("TAILWATER_KILLS").map_or(otherwise, |text| text.parse().expect("TAILWATER_KILLS is a number"))
}

/// The rows of a table that holds `id, change`, twice where they stand twice.
pub(crate) type Rows = Vec<(i64, i64, Option<String>)>;

/// A target table as the comparison sees it.
pub(crate) enum Target {
    Sqlite(String),
    Postgres(Client),
}

impl Target {
    pub(crate) async fn rows(&self, table: &str, text: &str) -> Rows {
        let query = format!("SELECT id, \"change\", {text} FROM {table} ORDER BY id, \"change\"");
        match self {
            Self::Sqlite(url) => {
                use sqlx::Connection as _;
                let Ok(mut connection) = sqlx::SqliteConnection::connect(url).await else { return Rows::new() };
                let rows = sqlx::query(sqlx::AssertSqlSafe(query)).fetch_all(&mut connection).await.unwrap_or_default();
                rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
            }
            Self::Postgres(client) => match client.query(&query, &[]).await {
                Ok(rows) => rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect(),
                // The sink has not made its table yet.
                Err(_) => Rows::new(),
            },
        }
    }
}

pub(crate) async fn source_rows(client: &Client, table: &str, text: &str) -> Rows {
    let query = format!("SELECT id, change, {text} FROM {table} ORDER BY id, change");
    client.query(&query, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

/// Writes transactions of all kinds until told to stop. Ids and change numbers are never used twice.
pub(crate) async fn write(client: Client, stop: Arc<AtomicBool>) {
    let mut next = i64::from(ROWS);
    while !stop.load(Ordering::Relaxed) {
        let mut sql = String::from("BEGIN;");
        for _ in 0..fastrand::u32(1..20) {
            next += 1;
            let some = fastrand::i64(1..next);
            sql += &match fastrand::u32(0..10) {
                0..4 => format!("INSERT INTO orders VALUES ({next}, nextval('change_numbers'), 'new');"),
                4..6 => format!("INSERT INTO visits VALUES ({next}, nextval('change_numbers'), '/new');"),
                6..8 => format!("UPDATE orders SET change = nextval('change_numbers'), note = 'changed' WHERE id = {some};"),
                // A large note is left as it is, so the log does not tell it.
                8 => format!("UPDATE orders SET change = nextval('change_numbers') WHERE id = {some};"),
                _ => format!("DELETE FROM orders WHERE id = {some};"),
            };
        }
        let end = if fastrand::u32(0..10) == 0 { "ROLLBACK" } else { "COMMIT" };
        client.batch_execute(&format!("{sql}{end}")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10))).await;
    }
}

/// Writes large transactions, parts of which are rolled back, and prepared ones until told to stop; these end in any order. Prepared
/// ones only add rows, so that nobody waits for them.
pub(crate) async fn write_in_parts_and_phases(client: Client, stop: Arc<AtomicBool>) {
    let mut next = 10_000_000;
    let mut prepared = VecDeque::new();
    while !stop.load(Ordering::Relaxed) || !prepared.is_empty() {
        if prepared.len() >= 3 || stop.load(Ordering::Relaxed) {
            let gid = prepared.swap_remove_back(fastrand::usize(0..prepared.len())).expect("there is one");
            let end = if fastrand::u32(0..3) == 0 { "ROLLBACK" } else { "COMMIT" };
            client.batch_execute(&format!("{end} PREPARED 'p{gid}'")).await.unwrap();
            continue;
        }
        let mut rows = |table| {
            let (first, count) = (next + 1, fastrand::i64(1..600));
            next += count;
            format!("INSERT INTO {table} SELECT i, nextval('change_numbers'), repeat('x', 150) FROM generate_series({first}, {next}) i;")
        };
        let sql = format!("BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; {}", rows("orders"), rows("orders"), rows("visits"));
        let end = match fastrand::u32(0..6) {
            0 => "ROLLBACK".to_owned(),
            1..3 => {
                prepared.push_back(next);
                format!("PREPARE TRANSACTION 'p{next}'")
            }
            _ => "COMMIT".to_owned(),
        };
        client.batch_execute(&format!("{sql}{end}")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(fastrand::u64(500..1500))).await;
    }
}

/// What was seen of a topic, to find what stands in it twice: each change has a number of its own, a delete the id of a row that
/// never comes again.
#[derive(Default)]
pub(crate) struct Seen {
    changes: BTreeSet<i64>,
    deletes: BTreeSet<i64>,
    offset: Option<u64>,
}

impl Seen {
    pub(crate) fn see(&mut self, topic: &str, record: &Value) {
        let now = record["offset"].as_u64().expect("a record has an offset");
        assert!(self.offset.is_none_or(|before| before < now), "{topic}: offset {now} after {:?}", self.offset);
        self.offset = Some(now);
        let event = payload(record);
        if event.is_null() {
            return;
        }
        if event["op"] == "d" {
            let id = event["before"]["id"].as_i64().expect("a delete has its key");
            assert!(self.deletes.insert(id), "{topic}: the delete of {id} stands twice");
        } else {
            let change = event["after"]["change"].as_i64().expect("a row has its change");
            assert!(self.changes.insert(change), "{topic}: change {change} stands twice: {event}");
        }
    }

    pub(crate) fn changes(&self) -> usize {
        self.changes.len()
    }
}

pub(crate) fn assert_nothing_twice(topic: &str, records: &[Value]) {
    let mut seen = Seen::default();
    records.iter().for_each(|record| seen.see(topic, record));
}

/// Reads in chunks show what stands in the log before them once more, but no row is read twice.
fn assert_no_row_is_read_twice(topic: &str, records: &[Value]) {
    let mut read = BTreeSet::new();
    for event in records.iter().map(payload).filter(|event| event["op"] == "r") {
        assert!(read.insert(event["after"]["id"].as_i64()), "{topic}: read twice: {event}");
    }
}

/// What is killed at work.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// A snapshot before the log, and the log in whole transactions
    Consistent,
    /// A snapshot in chunks beside the log
    Chunks,
    /// The log in parts of transactions while they are in progress, and when they are prepared
    Uncommitted,
}

impl Work {
    /// The source that does it.
    pub(crate) fn source(self, server: &PostgresServer) -> Value {
        let mut config = shop::source(server);
        match self {
            Self::Consistent => {}
            Self::Chunks => {
                config["snapshot.strategy"] = "watermark".into();
                config["incremental.snapshot.chunk.size"] = "500".into();
            }
            Self::Uncommitted => {
                config["transaction.streaming"] = "true".into();
                // Nobody writes any; without this the source warns of those of savepoints.
                config["message.prefix.exclude.list"] = ".*".into();
                config["transaction.two.phase"] = "true".into();
            }
        }
        config
    }

    /// Holds a topic against what must not stand in it twice.
    pub(crate) fn assert_nothing_twice(self, topic: &str, records: &[Value]) {
        // A table without a key is read as a whole.
        let is_chunked = self == Self::Chunks && topic.ends_with("orders");
        if is_chunked { assert_no_row_is_read_twice(topic, records) } else { assert_nothing_twice(topic, records) }
    }
}

async fn killed_at_random(server: &PostgresServer, url: &str, target: &Target, work: Work) {
    let source = shop::create(server, ROWS).await;
    source
        .batch_execute("ALTER TABLE orders ALTER note SET STORAGE EXTERNAL; UPDATE orders SET note = repeat(note, 300) WHERE id % 10 = 0")
        .await
        .unwrap();
    let config = work.source(server);
    let options = Options::default()
        .connector("shop.json", shop::file("shop", &config))
        .connector("orders.json", shop::file("orders", &shop::copy_of_orders(url)))
        .connector("visits.json", shop::file("visits", &shop::copy_of_visits(url)))
        .expect(STILL_HELD)
        .expect(TORN_TAIL);
    let home = Home::new();
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = vec![tokio::spawn(write(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop)))];
    if work == Work::Uncommitted {
        // The snapshot has its kills elsewhere, and its slot would wait for whatever is prepared.
        let daemon = Daemon::start(&home, &options).await;
        shop::wait_for_streaming(&source, shop::SHOP).await;
        daemon.kill();
        writers.push(tokio::spawn(write_in_parts_and_phases(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop))));
    }
    let (mut in_snapshot, mut while_streaming) = (0, 0);
    let kills = kills(if std::env::var("CI").as_deref() == Ok("true") { 50 } else { FEW });
    for kill in 0..kills {
        let daemon = Daemon::start(&home, &options).await;
        // The first ones hit the snapshot, where it is not read yet.
        let longest = if kill < kills / 2 && work == Work::Consistent { 600 } else { 3000 };
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..longest))).await;
        *if daemon.log_text().contains("follows the log") { &mut while_streaming } else { &mut in_snapshot } += 1;
        daemon.kill();
    }
    eprintln!("killed {in_snapshot} times before the stream, {while_streaming} times in it");
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }

    let daemon = Daemon::start(&home, &options).await;
    // What was written between the kills is caught up with, the more the longer they took.
    let limit = Duration::from_secs(60) + Duration::from_secs(2) * kills;
    let end = shop::log_end(&source).await;
    wait_at_most(limit, &format!("the slot to confirm {end}"), async || shop::has_confirmed(&source, shop::SHOP, &end).await).await;
    for (table, text) in [("orders", "note"), ("visits", "page")] {
        let expected = source_rows(&source, table, text).await;
        let topic = format!("{}.public.{table}", shop::SHOP);
        let name = format!("{}_public_{table}", shop::SHOP);
        let mut rows = Rows::new();
        let deadline = std::time::Instant::now() + limit;
        while std::time::Instant::now() < deadline {
            rows = target.rows(&name, text).await;
            if rows == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_equal(table, &expected, &rows);
        let records = daemon.read_topic(&topic).await;
        work.assert_nothing_twice(&topic, &records);
    }
    daemon.stop().await;
}

/// Says what is missing, what is too much and what differs, a few rows of each.
pub(crate) fn assert_equal(table: &str, expected: &Rows, found: &Rows) {
    if expected == found {
        return;
    }
    let count = |rows: &Rows| {
        let mut counts: BTreeMap<(i64, i64, Option<String>), i32> = BTreeMap::new();
        for row in rows {
            *counts.entry(row.clone()).or_default() += 1;
        }
        counts
    };
    let (wanted, had) = (count(expected), count(found));
    let missing: Vec<_> = wanted.iter().filter(|(row, times)| had.get(row) < Some(times)).map(|(row, _)| row).take(10).collect();
    let extra: Vec<_> = had.iter().filter(|(row, times)| wanted.get(row) < Some(times)).map(|(row, _)| row).take(10).collect();
    panic!("{table}: {} rows in the source, {} in the target; missing {missing:?}; too much {extra:?}", expected.len(), found.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_a_copy_in_sqlite_is_equal_and_nothing_comes_twice() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    killed_at_random(&server, &url, &Target::Sqlite(url.clone()), Work::Consistent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_a_copy_in_postgres_is_equal_and_nothing_comes_twice() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V17, &[]).await) else { return };
    server.create_database("copy").await.unwrap();
    let target = Target::Postgres(server.connect("copy").await.unwrap());
    killed_at_random(&server, &server.url("copy"), &target, Work::Consistent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_while_tables_are_read_in_chunks_a_copy_is_equal_and_no_row_is_read_twice() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    killed_at_random(&server, &url, &Target::Sqlite(url.clone()), Work::Chunks).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_random_among_uncommitted_transactions_a_copy_is_equal_and_nothing_comes_twice() {
    let settings = [("max_prepared_transactions", "10"), ("logical_decoding_work_mem", "64kB")];
    let Some(server) = required_or_skip(PostgresServer::start(Version::V18, &settings).await) else { return };
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    killed_at_random(&server, &url, &Target::Sqlite(url.clone()), Work::Uncommitted).await;
}
