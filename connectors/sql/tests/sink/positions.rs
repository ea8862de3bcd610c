//! Positions in the target: exactly once, one writer (I12, I13).

use std::time::Duration;

use tailwater_api::sink::{Assignment, Progress, SinkWriter};
use tailwater_api::{ErrorKind, Kind, Schema, Value};
use tailwater_testkit::fault_proxy::{Direction, Fault, FaultProxy};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::{Captured, LOG, Sink, Target, UPSERT, id, place, postgres, targets};

const APPEND: &[(&str, &str)] = &[("schema.evolution", "basic")];

fn log() -> Captured {
    Captured::without_key("shop.public.log", vec![("n", Schema::of(Kind::Int32).build())])
}

#[tokio::test]
async fn a_batch_is_durable_with_its_position_and_the_next_writer_goes_on_there() {
    for target in targets("positions_basic").await {
        let log = log();
        let mut sink = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        assert_eq!(sink.next, 0);
        let progress = sink.write((0..10).map(|n| log.create(vec![id(n)])).collect()).await.unwrap();
        assert_eq!(progress, Progress::DurableWithPosition);
        drop(sink);

        let sink = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        assert_eq!(sink.next, 10);
        let stored = target.rows("SELECT connector, log_id, topic, \"partition\", \"position\" FROM tailwater_offsets").await;
        assert_eq!(stored, [format!("copy|{LOG}|shop.public.log|0|10")]);
    }
}

#[tokio::test]
async fn a_position_of_another_log_is_reported_as_it_is() {
    for target in targets("positions_other_log").await {
        let log = log();
        let mut sink = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        sink.write(vec![log.create(vec![id(1)])]).await.unwrap();
        let assignment = Assignment { topic_partition: place(&log.topic), log: "another".into() };
        let positions = sink.writer.assign(&[assignment]).await.unwrap();
        assert_eq!((&*positions[0].log, positions[0].offset), (LOG, 1));
    }
}

#[tokio::test]
async fn of_two_writers_the_second_writes_nothing() {
    for target in targets("positions_two_writers").await {
        let log = log();
        let mut one = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        let mut two = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        // Both found no row, so both insert theirs.
        one.write(vec![log.create(vec![id(1)])]).await.unwrap();
        let error = two.write(vec![log.create(vec![id(1)])]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");

        // Both found a row, so both move it.
        let mut three = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        one.write(vec![log.create(vec![id(2)])]).await.unwrap();
        let error = three.write(vec![log.create(vec![id(2)])]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
        assert_eq!(target.rows("SELECT n FROM shop_public_log ORDER BY n").await, ["1", "2"]);
    }
}

#[tokio::test]
async fn writers_at_the_same_time_apply_every_record_once() {
    for target in targets("positions_race").await {
        let log = log();
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (url, log) = (target.url(), self::log());
            tasks.spawn(async move {
                loop {
                    let mut sink = Sink::open(&url, APPEND, &[&log.topic]).await.unwrap();
                    while sink.next < 60 {
                        let record = log.create(vec![id(sink.next.try_into().unwrap())]);
                        match sink.write(vec![record]).await {
                            Ok(_) => {}
                            Err(error) if error.kind() == ErrorKind::Conflict => break,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    if sink.next >= 60 {
                        return;
                    }
                }
            });
        }
        tasks.join_all().await;
        let expected: Vec<String> = (0..60).map(|n: i32| n.to_string()).collect();
        assert_eq!(target.rows("SELECT n FROM shop_public_log ORDER BY n").await, expected);
        drop(log);
    }
}

#[tokio::test]
async fn a_writer_dropped_at_any_moment_leaves_data_and_position_together() {
    for target in targets("positions_dropped").await {
        let log = log();
        let mut written = 0;
        for round in 0..40_u64 {
            let mut sink = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
            assert!(sink.next == written || sink.next == written + 500, "round {round}: {} after {written}", sink.next);
            written = sink.next;
            let rows = (0..500).map(|n| log.create(vec![id(n)])).collect();
            let patience = Duration::from_micros(round * 400);
            let _ = tokio::time::timeout(patience, sink.write(rows)).await;
        }
        let sink = Sink::open(&target.url(), APPEND, &[&log.topic]).await.unwrap();
        let count = target.rows("SELECT count(*) FROM shop_public_log").await;
        assert_eq!(count, [sink.next.to_string()]);
    }
}

/// Where the proxy cuts the connection once.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The server never sees the commit.
    BeforeCommit,
    /// The server commits, its answer is lost.
    AfterCommit,
}

/// A proxy before the server at `port` that cuts the connection at the second commit.
async fn proxy(port: u16, cut: Cut) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let own = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut commits = 0;
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            let mut buffer = vec![0; 65536];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                let commit = buffer[..count].windows(6).any(|window| window == b"COMMIT");
                commits += i32::from(commit);
                if commit && commits == 2 {
                    answers.abort();
                    if matches!(cut, Cut::AfterCommit) {
                        to_server.write_all(&buffer[..count]).await.unwrap();
                        // The server answers into a stream that nobody reads any more.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    break;
                }
                if to_server.write_all(&buffer[..count]).await.is_err() {
                    break;
                }
            }
        }
    });
    own
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_looked_up_and_applied_once() {
    for (cut, database) in [(Cut::BeforeCommit, "positions_cut_before"), (Cut::AfterCommit, "positions_cut_after")] {
        let Some(target) = postgres(database).await else { return };
        let url = target.url();
        let port: u16 = url.rsplit(':').next().unwrap().split('/').next().unwrap().parse().unwrap();
        let through = url.replace(&format!(":{port}/"), &format!(":{}/", proxy(port, cut).await)) + "?sslmode=disable";
        let log = log();
        let mut sink = Sink::open(&through, APPEND, &[&log.topic]).await.unwrap();
        for batch in 0..3 {
            sink.write((0..10).map(|n| log.create(vec![id(batch * 10 + n)])).collect()).await.unwrap();
        }
        let expected: Vec<String> = (0..30).map(|n: i32| n.to_string()).collect();
        assert_eq!(target.rows("SELECT n FROM shop_public_log ORDER BY n").await, expected, "{cut:?}");
    }
}

/// A proxy before the target's server, and the URL that leads through it.
async fn through_a_proxy(target: &Target, parameters: &str) -> (FaultProxy, String) {
    let url = target.url();
    let (address, database) = url.strip_prefix("postgres://postgres@").unwrap().split_once('/').unwrap();
    let proxy = FaultProxy::start(address.parse().unwrap()).await.unwrap();
    let through = format!("postgres://postgres@{}/{database}?sslmode=disable&{parameters}", proxy.address());
    (proxy, through)
}

/// Longer than every limit that these tests set.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_server_that_falls_silent_while_it_commits_is_given_up_and_asked_again() {
    let Some(target) = postgres("positions_silent").await else { return };
    // A commit that lasts, so that the silence begins within it.
    target
        .run(
            "CREATE TABLE shop_public_log (n int);
             CREATE FUNCTION last() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1); RETURN NULL; END';
             CREATE CONSTRAINT TRIGGER lasts AFTER INSERT ON shop_public_log DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW WHEN (NEW.n = 10) EXECUTE FUNCTION last()",
        )
        .await;
    let (proxy, through) = through_a_proxy(&target, "connectTimeout=2&socketTimeout=3").await;
    let log = log();
    let mut sink = Sink::open(&through, APPEND, &[&log.topic]).await.unwrap();
    sink.write((0..10).map(|n| log.create(vec![id(n)])).collect()).await.unwrap();
    let writing = tokio::spawn(async move {
        sink.write((10..20).map(|n| log.create(vec![id(n)])).collect()).await.unwrap();
        // The connection that took its place works.
        sink.write((20..30).map(|n| log.create(vec![id(n)])).collect()).await.unwrap();
    });
    let wait_for = async |sql: &str| {
        while target.rows(sql).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    wait_for("SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query = 'COMMIT'").await;
    proxy.set(Direction::ToClient, Fault::Blackhole);
    wait_for("SELECT n FROM shop_public_log WHERE n = 19").await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    proxy.heal();
    tokio::time::timeout(PATIENCE, writing).await.expect("the silent connection is given up").unwrap();
    let expected: Vec<String> = (0..30).map(|n: i32| n.to_string()).collect();
    assert_eq!(target.rows("SELECT n FROM shop_public_log ORDER BY n").await, expected);
}

#[tokio::test]
async fn a_server_that_is_silent_from_the_start_is_given_up() {
    let Some(target) = postgres("positions_mute").await else { return };
    let (proxy, through) = through_a_proxy(&target, "connectTimeout=1").await;
    proxy.set(Direction::ToClient, Fault::Blackhole);
    let opened = tokio::time::timeout(PATIENCE, Sink::open(&through, APPEND, &[])).await.expect("connecting has a limit");
    let error = opened.err().expect("nobody answers");
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
}

#[tokio::test]
async fn positions_of_a_sink_of_one_run_are_forgotten_when_it_ends() {
    for target in targets("positions_forgotten").await {
        let log = log();
        for (forgets, left) in [("true", 0), ("false", 1)] {
            let keys = [APPEND, &[("internal.positions.forget", forgets)]].concat();
            let mut sink = Sink::open(&target.url(), &keys, &[&log.topic]).await.unwrap();
            sink.write(vec![log.create(vec![id(1)])]).await.unwrap();
            sink.writer.close().await.unwrap();
            assert_eq!(target.rows("SELECT topic FROM tailwater_offsets").await.len(), left);
        }
    }
}

#[tokio::test]
async fn a_connection_that_the_server_ends_is_opened_again() {
    let Some(target) = postgres("positions_terminated").await else { return };
    let Target::Postgres { database, .. } = &target else { unreachable!("it is PostgreSQL") };
    let orders = Captured::orders();
    let mut sink = Sink::open(&target.url(), UPSERT, &[&orders.topic]).await.unwrap();
    for round in 0..3 {
        sink.write(vec![orders.create(vec![id(round), Value::Null, Value::Null])]).await.unwrap();
        let own = format!("datname = '{database}' AND application_name = 'tailwater'");
        target.run(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {own}")).await;
    }
    sink.write(vec![orders.create(vec![id(3), Value::Null, Value::Null])]).await.unwrap();
    assert_eq!(target.rows("SELECT count(*) FROM shop_public_orders").await, ["4"]);
}

#[tokio::test]
async fn a_server_that_crashes_under_load_has_every_record_once() {
    let started = PostgresServer::start(Version::V15, &[]).await;
    let Some(mut server) = required_or_skip(started) else { return };
    let url = server.url("postgres");
    let writing = tokio::spawn(async move {
        let log = log();
        loop {
            let Ok(mut sink) = Sink::open(&url, APPEND, &[&log.topic]).await else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            };
            while sink.next < 6000 {
                let first = sink.next;
                let rows = (first..first + 20).map(|n| log.create(vec![id(n.try_into().unwrap())])).collect();
                if sink.write(rows).await.is_err() {
                    break;
                }
            }
            if sink.next >= 6000 {
                return;
            }
        }
    });
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(250)).await;
        server.kill().unwrap();
        server.start_again().await.unwrap();
    }
    writing.await.unwrap();
    let target = Target::Postgres { url: server.url("postgres"), database: "postgres".to_owned() };
    let rows = target.rows("SELECT count(*) AS a, count(DISTINCT n) AS b, min(n), max(n) FROM shop_public_log").await;
    assert_eq!(rows, ["6000|6000|0|5999"]);
}
