//! SIGKILL at named points, each of which lies between two steps that belong together: a topic holds nothing twice afterwards, and
//! the targets equal the source.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, shop, wait_at_most};
use crate::kills::{STILL_HELD, TORN_TAIL, Target, Work, source_rows, write, write_in_parts_and_phases};

/// A crash point, and at which of its passages the daemon ends: at the first ones of a new home, then again and again.
type Crashes = (&'static str, &'static [u32]);

const WITH_A_SNAPSHOT_BEFORE_THE_LOG: &[Crashes] = &[
    // On the way through the snapshot: its slot, the first segment, the first table, the second one.
    ("slot-created", &[1]),
    ("segment-roll", &[1]),
    ("journal-published", &[1, 1]),
    ("source-transformed", &[1, 2, 5]),
    ("source-appended", &[1, 2, 5]),
    ("journal-before-write", &[1, 2, 5]),
    ("journal-after-write", &[1, 2, 5]),
    ("journal-after-fsync", &[1, 2, 5]),
    ("source-before-confirmation", &[1, 2]),
    ("segment-roll", &[1]),
    ("sink-written", &[1, 2, 5]),
    ("sink-flushed", &[1, 2]),
    ("sink-committed", &[1, 2]),
];

const WITH_CHUNKS_BESIDE_THE_LOG: &[Crashes] = &[
    ("slot-created", &[1]),
    ("chunk-sent", &[1, 2, 5, 1]),
    ("source-appended", &[2]),
    ("journal-after-write", &[2]),
    ("journal-after-fsync", &[2]),
    ("source-before-confirmation", &[1, 2]),
];

const WITH_UNCOMMITTED_TRANSACTIONS: &[Crashes] = &[
    ("spilled-part-sent", &[1, 2, 3, 1]),
    ("source-appended", &[2]),
    ("journal-after-write", &[2]),
    ("journal-after-fsync", &[2]),
    ("source-before-confirmation", &[1, 2]),
];

/// Signal by which a crash point ends the process.
const SIGKILL: i32 = 9;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_each_named_point_repeats_nothing() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    // Segments of 512 KiB, none of which goes while this runs.
    let worker = "topics.embedded: {max.bytes: 4194304, retention.ms: -1}\n";
    repeats_nothing(&server, 500, worker, Work::Consistent, WITH_A_SNAPSHOT_BEFORE_THE_LOG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_while_tables_are_read_in_chunks() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V17, &[]).await) else { return };
    repeats_nothing(&server, 10_000, "", Work::Chunks, WITH_CHUNKS_BESIDE_THE_LOG).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nor_does_one_among_uncommitted_transactions() {
    let settings = [("max_prepared_transactions", "10"), ("logical_decoding_work_mem", "64kB")];
    let Some(server) = required_or_skip(PostgresServer::start(Version::V18, &settings).await) else { return };
    repeats_nothing(&server, 100, "", Work::Uncommitted, WITH_UNCOMMITTED_TRANSACTIONS).await;
}

async fn repeats_nothing(server: &PostgresServer, rows: u32, worker: &str, work: Work, crashes: &[Crashes]) {
    let source = shop::create(server, rows).await;
    let home = Home::new();
    let url = format!("sqlite://{}", home.path("copy.db").display());
    let lines = home.path("lines");
    let options = |armed: Option<String>| {
        let options = Options::default()
            .worker(format!("{worker}offset.flush.interval.ms: 100\n"))
            .connector("shop.json", shop::file("shop", &work.source(server)))
            .connector("orders.json", shop::file("orders", &shop::copy_of_orders(&url)))
            .connector("lines.json", shop::file("lines", &shop::lines_of_visits(&lines)))
            .expect(STILL_HELD)
            .expect(TORN_TAIL);
        match armed {
            Some(point) => options.environment("TAILWATER_CRASH_POINT", point),
            None => options,
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = vec![tokio::spawn(write(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop)))];
    if work == Work::Uncommitted {
        // The slot of the snapshot would wait for whatever is prepared.
        let daemon = Daemon::start(&home, &options(None)).await;
        shop::wait_for_streaming(&source, shop::SHOP).await;
        daemon.kill();
        writers.push(tokio::spawn(write_in_parts_and_phases(server.connect(shop::SHOP).await.unwrap(), Arc::clone(&stop))));
    }
    for (point, passages) in crashes {
        for passage in *passages {
            let armed = format!("{point}:{passage}");
            if *point == "segment-roll" {
                // What fills a segment.
                let sql = "INSERT INTO visits SELECT -change, change, repeat('x', 600) \
                           FROM (SELECT nextval('change_numbers') AS change FROM generate_series(1, 1000)) AS numbers";
                source.batch_execute(sql).await.unwrap();
            }
            let mut daemon = Daemon::spawn(&home, &options(Some(armed.clone())));
            let status = daemon.ended().await;
            assert_eq!(status.signal(), Some(SIGKILL), "{armed} was not what ended it: {status}\n{}", daemon.log_text());
        }
    }
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    let daemon = Daemon::start(&home, &options(None)).await;
    shop::wait_for_streaming(&source, shop::SHOP).await;
    shop::wait_for_confirmed(&source, shop::SHOP).await;
    for table in ["orders", "visits"] {
        let topic = format!("{}.public.{table}", shop::SHOP);
        work.assert_nothing_twice(&topic, &daemon.read_topic(&topic).await);
    }
    let target = Target::Sqlite(url.clone());
    let expected = source_rows(&source, "orders", "note").await;
    wait_at_most(Duration::from_secs(60), "equal tables", async || target.rows("shop_public_orders", "note").await == expected).await;
    let expected: Vec<_> = source_rows(&source, "visits", "page").await.into_iter().map(|(_, change, _)| change).collect();
    let sorted = |mut changes: Vec<i64>| {
        changes.sort_unstable();
        changes
    };
    let expected = sorted(expected);
    wait_at_most(Duration::from_secs(60), "each visit once in the files", async || sorted(changes_in_files(&lines)) == expected).await;
    daemon.stop().await;
}

/// The numbers of the changes in all files of a folder, one JSON object a line.
fn changes_in_files(folder: &Path) -> Vec<i64> {
    let mut changes = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let text = std::fs::read_to_string(path).unwrap_or_default();
        // The last line may be half written.
        changes.extend(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["after"]["change"].as_i64()));
    }
    changes
}
