//! Changes that came from other servers, by their replication origin.

use tailwater_api::ErrorKind;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Log, config, eventually, start};

const ACTIVE: &str = "SELECT bool_or(active) FROM pg_replication_slots";

/// Makes a change of its own, one of another server, and one of its own, in whole transactions and in large ones.
const WRITES: &[&str] = &[
    "INSERT INTO t VALUES (1)",
    "SELECT pg_replication_origin_session_setup('upstream')",
    "INSERT INTO t VALUES (2)",
    "INSERT INTO t SELECT generate_series(1000, 4000)",
    "BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'theirs'",
    "SELECT pg_logical_emit_message(false, 'm', 'theirs')",
    "SELECT pg_replication_origin_session_reset()",
    // The one who commits has no origin.
    "COMMIT PREPARED 'theirs'",
    "INSERT INTO t VALUES (4)",
];

#[tokio::test]
async fn changes_with_an_origin_are_left_out_where_that_is_asked_for() {
    let settings = [("max_prepared_transactions", "5"), ("logical_decoding_work_mem", "64kB")];
    let Some(server) = required_or_skip(PostgresServer::start(Version::V17, &settings).await) else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SELECT pg_replication_origin_create('upstream')").await.unwrap();
    for (origin, two_phase, in_progress, count) in
        [("none", "false", "false", 2), ("none", "false", "true", 2), ("any", "true", "true", 1 + 1 + 3001 + 1 + 1 + 1)]
    {
        let params = format!("origin={origin}");
        let entries = [
            ("slot.stream.params", params.as_str()),
            ("transaction.two.phase", two_phase),
            ("transaction.streaming", in_progress),
            ("snapshot.mode", "no_data"),
            ("slot.drop.on.stop", "true"),
        ];
        let mut running = start(&config(&server, &entries), Log::default());
        running.until(|log| !log.state.is_empty()).await;
        eventually(&client, ACTIVE).await;
        for statement in WRITES {
            client.batch_execute(statement).await.unwrap();
        }
        running.records(count).await;
        let lines = running.stop().await.lines();
        assert_eq!((lines.len(), lines.first(), lines.last()), (count, lines.first(), lines.last()), "{entries:?}");
        if origin == "none" {
            // Its own commit is no change of another server, but all that it commits is.
            assert_eq!(lines, ["c public.t {1} null->{1}", "c public.t {4} null->{4}"], "{entries:?}");
        }
        client.batch_execute("TRUNCATE t").await.unwrap();
    }
}

#[tokio::test]
async fn a_server_that_cannot_filter_by_origin_is_refused() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let error = start(&config(&server, &[("slot.stream.params", "origin=none")]), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("slot.stream.params")), "{error:?}");
}
