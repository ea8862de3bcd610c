//! What keeps the source from running is said with its remedy, by a run and by a probe.

use tailwater_api::ErrorKind;
use tailwater_api::config::{ConfigReport, ConfigValues, read_config};
use tailwater_api::source::SourceConnector;
use tailwater_postgres::{PostgresConfig, PostgresConnector};
use tailwater_testkit::PostgresServer;

use crate::harness::{Log, config, eventually, server, start};

async fn both_refuse(server: &PostgresServer, entries: &[(&str, &str)], kind: ErrorKind, remedy: &str) {
    let config = config(server, entries);
    let report = PostgresConnector::probe(&config).await;
    assert!(!report.is_ready(), "the probe finds it: {report:?}");
    let mended = report.findings.iter().any(|finding| finding.mend.as_deref().is_some_and(|mend| mend.contains(remedy)));
    assert!(mended, "the probe says {remedy}: {report:?}");
    let error = start(&config, Log::default()).failed().await;
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains(remedy)), "{error}");
}

#[tokio::test]
async fn a_server_without_logical_wal_is_refused_with_the_statement() {
    let Some(server) = server(&[("wal_level", "replica")]).await else { return };
    both_refuse(&server, &[], ErrorKind::Misconfigured, "ALTER SYSTEM SET wal_level = logical;").await;
}

#[tokio::test]
async fn a_role_without_rights_is_refused_with_the_statement() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE ROLE plain LOGIN; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.unwrap();
    both_refuse(&server, &[("database.user", "plain")], ErrorKind::Unauthorised, "ALTER ROLE \"plain\" REPLICATION;").await;

    client.batch_execute("ALTER ROLE plain REPLICATION").await.unwrap();
    let report = PostgresConnector::probe(&config(&server, &[("database.user", "plain")])).await;
    assert!(
        report.findings.iter().any(|finding| finding.mend.as_deref().is_some_and(|mend| mend.contains("GRANT SELECT ON"))),
        "{report:?}"
    );
    let error = start(&config(&server, &[("database.user", "plain")]), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(error.remedy().unwrap().contains("CREATE PUBLICATION \"shop\" FOR ALL TABLES"), "{error}");

    client.batch_execute("GRANT SELECT ON t TO plain").await.unwrap();
    let report = PostgresConnector::probe(&config(&server, &[("database.user", "plain")])).await;
    let fault = report.findings.iter().find(|finding| finding.key == Some("publication.autocreate.mode")).expect("it may not publish");
    assert!(fault.mend.as_deref().unwrap().contains("CREATE PUBLICATION \"shop\" FOR ALL TABLES"), "{fault:?}");
    assert!(!fault.message.contains("CREATE PUBLICATION"), "the remedy is said once: {fault:?}");
    assert!(PostgresConnector::probe(&config(&server, &[])).await.is_ready());
    let publications: i64 = client.query_one("SELECT count(*) FROM pg_publication", &[]).await.unwrap().get(0);
    assert_eq!(publications, 0, "I15: what was rehearsed is not there");
    client.batch_execute("REVOKE SELECT ON t FROM plain").await.unwrap();

    client.batch_execute("CREATE PUBLICATION shop FOR ALL TABLES").await.unwrap();
    let error = start(&config(&server, &[("database.user", "plain")]), Log::default()).failed().await;
    assert!(error.remedy().unwrap().contains("GRANT SELECT ON \"public\".\"t\" TO \"plain\""), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_not_shown() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("SET password_encryption = 'scram-sha-256'; CREATE ROLE guarded LOGIN SUPERUSER PASSWORD 'right'").await.unwrap();
    server.set_access_rules("host all guarded 127.0.0.1/32 scram-sha-256\nhost replication guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n").await.unwrap();
    let settings = [("database.user", "guarded"), ("database.password", "hunter2")];
    let error = start(&config(&server, &settings), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(!format!("{error:?}").contains("hunter2"), "I14");
    let report = PostgresConnector::probe(&config(&server, &settings)).await;
    assert!(!report.is_ready() && !format!("{report:?}").contains("hunter2"));
    assert_eq!(report.findings[0].key, Some("database.password"));
    both_refuse(&server, &[("database.user", "guarded")], ErrorKind::Unauthorised, "set database.password").await;
    both_refuse(&server, &[("database.sslmode", "require")], ErrorKind::Misconfigured, "ssl = on").await;
    let right = [("database.user", "guarded"), ("database.password", "right")];
    let mut running = start(&config(&server, &right), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    running.stop().await;
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    let Some(mut server) = server(&[]).await else { return };
    server.stop().unwrap();
    let error = start(&config(&server, &[]), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
}

#[tokio::test]
async fn a_database_that_is_missing_is_named() {
    let Some(server) = server(&[]).await else { return };
    both_refuse(&server, &[("database.dbname", "nowhere")], ErrorKind::Missing, "database.dbname").await;
}

#[tokio::test]
async fn a_slot_in_use_is_tried_again_and_then_refused_with_its_holder() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY)").await.unwrap();
    let mut first = start(&config(&server, &[]), Log::default());
    first.until(|log| !log.state.is_empty()).await;
    eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots").await;
    let pid: i32 = client.query_one("SELECT active_pid FROM pg_replication_slots", &[]).await.unwrap().get(0);

    let impatient = [("slot.max.retries", "1"), ("slot.retry.delay.ms", "100"), ("snapshot.mode", "no_data")];
    let error = start(&config(&server, &impatient), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert!(error.to_string().contains(&pid.to_string()), "{error}");

    // It comes by the slot once the other one is gone.
    let patient = [("slot.max.retries", "50"), ("slot.retry.delay.ms", "100"), ("snapshot.mode", "no_data")];
    let mut second = start(&config(&server, &patient), Log::default());
    second.until(|log| !log.state.is_empty()).await;
    first.stop().await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    second.records(1).await;
    second.stop().await;
}

#[tokio::test]
async fn publications_that_cannot_serve_are_refused() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)").await.unwrap();
    let only_a = ("table.include.list", r"public\.a");
    both_refuse(
        &server,
        &[("publication.autocreate.mode", "disabled"), only_a],
        ErrorKind::Missing,
        "CREATE PUBLICATION \"shop\" FOR TABLE \"public\".\"a\"",
    )
    .await;
    let nothing = [("publication.autocreate.mode", "filtered"), ("table.include.list", "nothing")];
    both_refuse(&server, &nothing, ErrorKind::Misconfigured, "table.include.list").await;
    client.batch_execute("CREATE PUBLICATION shop FOR ALL TABLES").await.unwrap();
    both_refuse(&server, &[("publication.autocreate.mode", "filtered"), only_a], ErrorKind::Conflict, "DROP PUBLICATION \"shop\";").await;
}

#[tokio::test]
async fn a_publication_that_leaves_out_a_part_of_a_key_is_refused() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (x int, y text, z int, PRIMARY KEY (x, y)); INSERT INTO a VALUES (1, 'one', 2);
             CREATE PUBLICATION shop FOR TABLE a (y, z) WITH (publish = 'insert')",
        )
        .await
        .unwrap();
    let remedy = r#"ALTER PUBLICATION "shop" ADD TABLE "public"."a" ("y", "z", "x");"#;
    both_refuse(&server, &[], ErrorKind::Conflict, remedy).await;
    let mut running = start(&config(&server, &[("message.key.columns", r"public\.a:y,z")]), Log::default());
    running.records(1).await;
    client.batch_execute("INSERT INTO a VALUES (2, 'one', 3)").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["r public.a {one,2} null->{one,2}", "c public.a {one,3} null->{one,3}"]);
}

#[tokio::test]
async fn a_filtered_publication_follows_the_include_list() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY); CREATE TABLE \"C d\" (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let named = "SELECT string_agg(tablename, ',' ORDER BY tablename) FROM pg_publication_tables WHERE pubname = 'shop'";
    let mut log = Log::default();
    for (tables, expected) in [(r"public\.(a|b)", "a,b"), (r"public\.(b|c d)", "C d,b"), (r"public\.a", "a")] {
        let mut running = start(&config(&server, &[("publication.autocreate.mode", "filtered"), ("table.include.list", tables)]), log);
        // A table that is published again is first stored as one that was not.
        running.meanwhile(eventually(&client, "SELECT bool_or(active) FROM pg_replication_slots")).await;
        let found: String = client.query_one(named, &[]).await.unwrap().get(0);
        let mut sorted: Vec<_> = found.split(',').collect();
        sorted.sort_unstable();
        assert_eq!(sorted.join(","), expected);
        running.until(|log| !log.state.is_empty()).await;
        log = running.stop().await;
        eventually(&client, "SELECT NOT bool_or(active) FROM pg_replication_slots").await;
    }
}

#[tokio::test]
async fn a_table_that_is_not_logged_is_named_by_a_probe_with_what_logs_it() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE kept (id int PRIMARY KEY); CREATE UNLOGGED TABLE lost (id int PRIMARY KEY)").await.unwrap();
    let mends = async || {
        let report = PostgresConnector::probe(&config(&server, &[])).await;
        assert!(report.is_ready(), "{report:?}");
        report
            .findings
            .into_iter()
            .filter(|finding| finding.message.contains("unlogged"))
            .map(|finding| finding.mend.unwrap())
            .collect::<Vec<_>>()
    };
    let told = mends().await;
    assert_eq!(told, [r#"ALTER TABLE "public"."lost" SET LOGGED;"#]);
    client.batch_execute(&told[0]).await.unwrap();
    assert!(mends().await.is_empty());
}

#[tokio::test]
async fn tables_without_identity_are_named_by_a_probe() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE logs (a int, b text)").await.unwrap();
    let report = PostgresConnector::probe(&config(&server, &[])).await;
    assert!(report.is_ready());
    assert!(
        report.findings.iter().any(|finding| finding.message.contains("ALTER TABLE \"public\".\"logs\" REPLICA IDENTITY FULL;")),
        "{report:?}"
    );
}

fn check(entries: &[(&str, &str)]) -> Result<ConfigReport, ConfigReport> {
    let values: ConfigValues = entries.iter().copied().collect();
    read_config::<PostgresConfig>(&values).map(|(_, report)| report)
}

const COMPLETE: [(&str, &str); 4] =
    [("topic.prefix", "shop"), ("database.hostname", "db"), ("database.user", "cdc"), ("database.dbname", "shop")];

#[test]
fn two_phases_and_a_filter_of_origins_exclude_each_other() {
    for (origin, faults) in [("origin=none", 1), ("origin=NONE", 1), ("origin=any", 0)] {
        let entries = [("transaction.two.phase", "true"), ("slot.stream.params", origin)];
        let named =
            check(&entries).err().map_or(0, |report| report.faults.iter().filter(|fault| fault.key == "transaction.two.phase").count());
        assert_eq!(named, faults, "{origin}");
    }
}

#[test]
fn all_faults_of_a_configuration_are_named_at_once() {
    let report = check(&[
        ("topic.prefix", "bad prefix"),
        ("snapshot.mode", "sometimes"),
        ("decimal.handling.mode", "roughly"),
        ("time.precision.mode", "hours"),
        ("slot.name", "Bad-Slot"),
        ("max.batch.size", "0"),
        ("skipped.operations", "c,x"),
        ("heartbeat.interval.ms", "-1"),
        ("table.include.list", "["),
        ("table.exclude.list", "x"),
        ("plugin.name", "decoderbufs"),
        ("database.port", "many"),
    ])
    .unwrap_err();
    let mut keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "database.dbname",
            "database.hostname",
            "database.port",
            "database.user",
            "decimal.handling.mode",
            "heartbeat.interval.ms",
            "max.batch.size",
            "plugin.name",
            "skipped.operations",
            "slot.name",
            "snapshot.mode",
            "table.exclude.list",
            "table.include.list",
            "time.precision.mode",
            "topic.prefix",
        ]
    );
}

#[test]
fn debeziums_old_values_and_keys_are_taken_with_a_note() {
    let mut entries = COMPLETE.to_vec();
    entries.remove(0);
    entries.extend([("database.server.name", "shop"), ("snapshot.mode", "never"), ("include.schema.changes", "true")]);
    let report = check(&entries).unwrap();
    for key in ["database.server.name", "snapshot.mode", "include.schema.changes"] {
        assert!(report.notes.iter().any(|note| note.key == key), "{key}: {report:?}");
    }
}

#[test]
fn chunks_without_a_log_to_follow_are_noted_where_they_are_asked_for() {
    let is_noted = |asked: (&'static str, &'static str), mode| {
        let entries = [&COMPLETE[..], &[asked, ("snapshot.mode", mode)]].concat();
        check(&entries).unwrap().notes.iter().any(|note| note.key == "snapshot.strategy")
    };
    let watermark = ("snapshot.strategy", "watermark");
    assert!(is_noted(watermark, "initial_only"));
    assert!(!is_noted(watermark, "initial"));
    assert!(!is_noted(("connector", "postgres"), "initial_only"), "nobody asks for them");
}

#[test]
fn a_configuration_written_for_debezium_is_taken_as_it_is() {
    let report = check(&[
        ("database.hostname", "postgres-primary"),
        ("database.port", "5432"),
        ("database.user", "debezium"),
        ("database.password", "secret"),
        ("database.dbname", "userdb"),
        ("database.server.name", "user-db"),
        ("table.include.list", "public.users,public.orders,public.payments"),
        ("plugin.name", "pgoutput"),
        ("slot.name", "debezium_user_slot"),
        ("publication.name", "debezium_publication"),
        ("snapshot.mode", "initial"),
        ("decimal.handling.mode", "double"),
        ("include.schema.changes", "true"),
        ("provide.transaction.metadata", "true"),
        ("max.batch.size", "2048"),
        ("max.queue.size", "81920"),
    ])
    .unwrap();
    let noted: Vec<_> = report.notes.iter().map(|note| note.key.as_str()).collect();
    for key in ["database.server.name", "include.schema.changes", "max.batch.size", "max.queue.size"] {
        assert!(noted.contains(&key), "{key}: {noted:?}");
    }
}

#[tokio::test]
async fn i11_policies_that_hide_rows_are_found_by_a_probe() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE plain LOGIN REPLICATION; CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1), (2); GRANT SELECT ON t TO plain;
             ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY few ON t USING (id = 1); CREATE PUBLICATION shop FOR ALL TABLES",
        )
        .await
        .unwrap();
    let entries = [("database.user", "plain")];
    both_refuse(&server, &entries, ErrorKind::Unauthorised, "BYPASSRLS;").await;
    client.batch_execute("ALTER ROLE plain BYPASSRLS").await.unwrap();
    let report = PostgresConnector::probe(&config(&server, &entries)).await;
    assert!(report.is_ready(), "{report:?}");
}
