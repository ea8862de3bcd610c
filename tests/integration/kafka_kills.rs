//! SIGKILL at random while changes stream through a real broker: sources and sinks die in the middle of whatever they do.
//!
//! At least once, nothing is lost: every change is in its topic, and a copy by key is equal in the end. Exactly once, a reader of
//! committed records sees each change once and in order, and a table without a key that is only added to is equal, too.
//!
//! The kills begin when the snapshot is complete: a snapshot that is interrupted is taken anew, with rows that stand in the topics twice
//! and without deletes of rows that are gone by then, here as with Debezium.
//!
//! In the first half of the kills a sink takes the place of its killed predecessor in the group at once; in the second it waits until the
//! broker has given that one up, and is killed when it has gone on.
//!
//! `TAILWATER_KILLS=100` sets how often the daemon is killed; a few times otherwise.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tailwater_testkit::{KafkaBroker, PostgresServer, Version, required_or_skip};
use tokio_postgres::Client;

use crate::harness::{Daemon, Home, Options, payload, shop, wait_at_most};
use crate::kills::{FEW, Rows, STILL_HELD, Target, assert_equal, assert_nothing_twice, kills, source_rows, write};

/// Rows that each table has before the first kill.
const ROWS: u32 = 2_000;
/// A daemon that was killed often has much to catch up with on a busy machine.
const PATIENCE: Duration = Duration::from_secs(180);

/// The copy of the table that is only added to.
const VISITS: &str = "shop_public_visits";

/// A worker whose topics and state are in the broker.
fn worker(broker: &KafkaBroker, support: &str) -> String {
    format!(
        "topics: {{engine: kafka, kafka: {{bootstrap.servers: '{}'}}}}\n\
         exactly.once.source.support: {support}\n\
         config.storage.replication.factor: 1\n\
         offset.storage: {{replication.factor: 1, partitions: 1}}\n\
         status.storage: {{replication.factor: 1, partitions: 1}}\n\
         key.converter: org.apache.kafka.connect.json.JsonConverter\n\
         value.converter: org.apache.kafka.connect.json.JsonConverter\n",
        broker.bootstrap_servers()
    )
}

/// How a sink is a member of its group (KIP-345).
#[derive(Clone, Copy, PartialEq)]
enum Membership {
    Static,
    Dynamic,
}

fn sink(name: &str, mut config: Value, membership: Membership) -> String {
    if membership == Membership::Static {
        config["consumer.override.group.instance.id"] = name.into();
    }
    // The least that a broker takes by default.
    config["consumer.override.session.timeout.ms"] = "6000".into();
    shop::file(name, &config)
}

struct Killed {
    daemon: Daemon,
    source: Client,
    server: PostgresServer,
    _broker: KafkaBroker,
    _home: Home,
}

/// Kills the daemon again and again under load, and returns with the last one when it has caught up.
async fn killed_at_random(support: &str) -> Option<Killed> {
    let server = required_or_skip(PostgresServer::start(Version::V15, &[]).await)?;
    let broker = required_or_skip(KafkaBroker::start(&[]).await)?;
    let source = shop::create(&server, ROWS).await;
    server.create_database("copy").await.unwrap();
    let copy = server.url("copy");
    let home = Home::new();
    let options = |membership| {
        Options::default()
            .worker(worker(&broker, support))
            .connector("shop.json", shop::file("shop", &shop::source(&server)))
            .connector("orders.json", sink("orders", shop::copy_of_orders(&copy), membership))
            .connector("visits.json", sink("visits", shop::copy_of_visits(&copy), membership))
            .expect(STILL_HELD)
            // The killed daemon's connection to the target may still hold its row of positions.
            .expect("another writer")
    };
    let daemon = Daemon::start(&home, &options(Membership::Static)).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    // A snapshot whose end is not durable is taken anew, and of rows deleted between the two nothing is told. A change behind it is
    // confirmed when its end is durable (I1).
    source.batch_execute("INSERT INTO visits VALUES (0, nextval('change_numbers'), '/first')").await.unwrap();
    let place = shop::log_end(&source).await;
    wait_at_most(PATIENCE, "the slot to confirm", async || shop::has_confirmed(&source, shop::SHOP, &place).await).await;
    daemon.kill();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(write(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop)));
    let mut while_streaming = 0;
    let target = Target::Postgres(server.connect("copy").await.unwrap());
    let kills = kills(FEW);
    for round in 0..kills {
        let membership = if round < kills / 2 { Membership::Static } else { Membership::Dynamic };
        let copied = target.rows(VISITS, "page").await.len();
        let daemon = Daemon::start(&home, &options(membership)).await;
        // Half of the kills find it streaming, wherever it is then.
        if fastrand::bool() {
            shop::wait_for_streaming(&source, shop::SHOP).await;
            while_streaming += 1;
        }
        if membership == Membership::Dynamic {
            wait_at_most(PATIENCE, "the sink to go on", async || target.rows(VISITS, "page").await.len() > copied).await;
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..2000))).await;
        daemon.kill();
    }
    eprintln!("killed {kills} times, {while_streaming} of them surely while streaming");
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let daemon = Daemon::start(&home, &options(Membership::Dynamic)).await;
    let place = shop::log_end(&source).await;
    wait_at_most(PATIENCE, "the slot to confirm", async || shop::has_confirmed(&source, shop::SHOP, &place).await).await;
    Some(Killed { daemon, source, server, _broker: broker, _home: home })
}

impl Killed {
    async fn topic(&self, table: &str) -> Vec<Value> {
        self.daemon.read_topic(&format!("{}.public.{table}", shop::SHOP)).await
    }

    /// Waits until the copy of a table is what the table is.
    async fn assert_copied(&self, table: &str, text: &str) {
        let target = Target::Postgres(self.server.connect("copy").await.unwrap());
        let expected = source_rows(&self.source, table, text).await;
        let mut rows = Rows::new();
        let deadline = std::time::Instant::now() + PATIENCE;
        while rows != expected && std::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(200)).await;
            rows = target.rows(&format!("{}_public_{table}", shop::SHOP), text).await;
        }
        assert_equal(table, &expected, &rows);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_least_once_kills_lose_nothing() {
    let Some(killed) = killed_at_random("disabled").await else { return };
    let visits = source_rows(&killed.source, "visits", "page").await;
    let seen: BTreeSet<i64> =
        killed.topic("visits").await.iter().filter_map(|record| payload(record)["after"]["change"].as_i64()).collect();
    let lost: Vec<_> = visits.iter().filter(|(_, change, _)| !seen.contains(change)).take(10).collect();
    assert!(lost.is_empty(), "not in the topic: {lost:?}");
    killed.assert_copied("orders", "note").await;
    killed.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_each_change_is_seen_once_and_in_order() {
    let Some(killed) = killed_at_random("enabled").await else { return };
    for table in ["orders", "visits"] {
        let records = killed.topic(table).await;
        assert_nothing_twice(table, &records);
        // One writer takes numbers in the order of its changes.
        let events = records.iter().map(payload).filter(|event| !event.is_null() && event["op"] != "r");
        let changes: Vec<i64> = events.filter_map(|event| event["after"]["change"].as_i64()).collect();
        assert!(changes.is_sorted(), "{table}: {:?}", changes.windows(2).find(|pair| pair[0] > pair[1]));
    }
    killed.assert_copied("orders", "note").await;
    killed.assert_copied("visits", "page").await;
    killed.daemon.stop().await;
}
