//! New tables that cannot be published, read or looked for: that is told of and tried again, and no other table is held up by it.

use std::time::Duration;

use tailwater_api::ErrorKind;

use crate::harness::{Log, config, eventually, server, start};
use crate::warnings::Warnings;

const READ: (&str, &str) = ("snapshot.new.tables", "read");
const FILTERED: (&str, &str) = ("publication.autocreate.mode", "filtered");
const SOON: (&str, &str) = ("table.refresh.interval.ms", "100");
const ACTIVE: &str = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots";
const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";

#[tokio::test]
async fn a_table_of_somebody_else_that_passes_the_filters_stops_nothing() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE capturing LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO capturing; GRANT CREATE ON SCHEMA public TO capturing;
             SET ROLE capturing; CREATE TABLE a (id int PRIMARY KEY)",
        )
        .await
        .unwrap();
    let config = config(&server, &[FILTERED, SOON, ("snapshot.mode", "no_data"), ("database.user", "capturing")]);
    let running = start(&config, Log::default());
    eventually(&client, ACTIVE).await;
    client
        .batch_execute("RESET ROLE; CREATE TABLE strange (id int PRIMARY KEY); SET ROLE capturing; CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .unwrap();
    // What can be published is, and nothing else is tried.
    let (result, log) = running.ended().await;
    let error = result.unwrap_err();
    assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains(r#"ADD TABLE "public"."b""#), "{error}");
    assert!(!error.to_string().contains("strange"), "{error}");
    let mut running = start(&config, log);
    running.meanwhile(eventually(&client, "SELECT count(*) = 2 FROM pg_publication_tables")).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("INSERT INTO a VALUES (1); INSERT INTO b VALUES (1); RESET ROLE; INSERT INTO strange VALUES (1)").await.unwrap();
    running.records(2).await;
    assert_eq!(running.stop().await.lines(), ["c public.a {1} null->{1}", "c public.b {1} null->{1}"]);
}

#[tokio::test]
async fn i10_a_new_table_that_the_role_may_not_read_stops_nothing_and_is_read_by_the_start_behind_its_grant() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let warnings = Warnings::collect();
        let client = server.connect("postgres").await.unwrap();
        client
            .batch_execute(
                "CREATE ROLE capturing LOGIN REPLICATION; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
                 GRANT SELECT ON a TO capturing; CREATE PUBLICATION shop FOR ALL TABLES",
            )
            .await
            .unwrap();
        let config = config(&server, &[READ, SOON, ("snapshot.strategy", strategy), ("database.user", "capturing")]);
        let mut running = start(&config, Log::default());
        running.records(1).await;
        running.until(|log| log.state.iter().any(|(_, offset)| offset.get("state").is_some_and(|state| state == "complete"))).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;
        client.batch_execute("CREATE TABLE strange (id int PRIMARY KEY); INSERT INTO strange VALUES (1)").await.unwrap();

        let mut running = start(&config, log);
        running.meanwhile(warnings.told(&["may not read", r#"GRANT SELECT ON "public"."strange" TO "capturing";"#])).await;
        running.meanwhile(eventually(&client, ACTIVE)).await;
        client.batch_execute("INSERT INTO a VALUES (2)").await.unwrap();
        running.until(|log| log.lines().contains(&"c public.a {2} null->{2}".to_owned())).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;

        client.batch_execute("GRANT SELECT ON strange TO capturing").await.unwrap();
        let mut running = start(&config, log);
        running.until(|log| log.lines().contains(&"r public.strange {1} null->{1}".to_owned())).await;
        running.stop().await;
    }
}

#[tokio::test]
async fn i10_a_table_of_somebody_else_stops_no_start_where_all_others_were_made_again() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE capturing LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO capturing; GRANT CREATE ON SCHEMA public TO capturing;
             CREATE TABLE audit (id int PRIMARY KEY);
             SET ROLE capturing; CREATE TABLE orders (id int PRIMARY KEY); CREATE PUBLICATION shop FOR TABLE orders",
        )
        .await
        .unwrap();
    let config = config(&server, &[FILTERED, SOON, ("snapshot.mode", "no_data"), ("database.user", "capturing")]);
    let mut running = start(&config, Log::default());
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY)").await.unwrap();
    let (result, log) = running.ended().await;
    assert!(result.unwrap_err().is_planned());

    // Nor does it where they are locked, which may pass.
    let other = server.connect("postgres").await.unwrap();
    other.batch_execute("BEGIN; LOCK TABLE orders IN SHARE UPDATE EXCLUSIVE MODE").await.unwrap();
    let (result, log) = start(&config, log).ended().await;
    let error = result.unwrap_err();
    assert!(error.is_planned() && error.to_string().contains("lock timeout"), "{error}");
    other.batch_execute("COMMIT").await.unwrap();
    let mut running = start(&config, log);
    running.meanwhile(eventually(&client, "SELECT count(*) = 1 FROM pg_publication_tables")).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("INSERT INTO orders VALUES (1)").await.unwrap();
    running.records(1).await;
    assert_eq!(running.stop().await.lines(), ["c public.orders {1} null->{1}"]);
}

#[tokio::test]
async fn i11_that_new_tables_cannot_be_looked_for_or_published_is_told_of_and_tried_again() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE capturing LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO capturing; GRANT CREATE ON SCHEMA public TO capturing;
             CREATE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'change freeze'; END $$;
             SET ROLE capturing; CREATE TABLE a (id int PRIMARY KEY); CREATE PUBLICATION shop FOR TABLE a; RESET ROLE;
             CREATE EVENT TRIGGER frozen ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION') EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    let mut running =
        start(&config(&server, &[FILTERED, SOON, ("snapshot.mode", "no_data"), ("database.user", "capturing")]), Log::default());
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("REVOKE SELECT ON pg_inherits FROM PUBLIC").await.unwrap();
    let refused = ["new tables cannot be looked for", "permission denied"];
    running.meanwhile(warnings.told(&refused)).await;
    running.for_a_while(Duration::from_secs(1)).await;
    assert_eq!(warnings.with(&refused).len(), 1, "once for as long as it fails in one way");

    let table = "SET ROLE capturing; CREATE TABLE b (id int PRIMARY KEY); RESET ROLE";
    client.batch_execute(&format!("GRANT SELECT ON pg_inherits TO PUBLIC; {table}")).await.unwrap();
    running.meanwhile(warnings.told(&["change freeze"])).await;
    running.meanwhile(warnings.told(&["does not publish the table public.b"])).await;
    running.stop().await;
}

/// Somebody may hold the lock for hours, as where an index is made of a large table.
#[tokio::test]
async fn i10_a_new_table_that_is_locked_keeps_no_other_from_being_followed() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    let other = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY)").await.unwrap();
    let config = config(&server, &[FILTERED, SOON, ("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    running.meanwhile(eventually(&client, ACTIVE)).await;
    other
        .batch_execute("BEGIN; CREATE TABLE b (id int PRIMARY KEY); COMMIT; BEGIN; LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    running.meanwhile(warnings.told(&["lock timeout", "it is tried again", r#"ADD TABLE "public"."b""#])).await;
    client.batch_execute("INSERT INTO a VALUES (1)").await.unwrap();
    running.records(1).await;
    // Nor do looks rest for others.
    client.batch_execute("CREATE TABLE c (id int PRIMARY KEY)").await.unwrap();
    let (result, log) = running.ended().await;
    let error = result.unwrap_err().to_string();
    assert!(error.contains(r#"ADD TABLE "public"."c""#) && !error.contains(r#""b""#), "{error}");
    eventually(&client, INACTIVE).await;

    // Nor does it keep the connector from being started.
    let mut running = start(&config, log);
    running.meanwhile(eventually(&client, "SELECT count(*) = 2 FROM pg_publication_tables")).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("INSERT INTO a VALUES (2)").await.unwrap();
    running.records(2).await;
    // A look that fails meanwhile does not forget it.
    let waiting = "FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%ADD TABLE \"public\".\"b\"%'";
    running.meanwhile(eventually(&client, &format!("SELECT count(pg_terminate_backend(pid)) > 0 {waiting}"))).await;
    other.batch_execute("COMMIT").await.unwrap();
    let (result, log) = running.ended().await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
    let mut running = start(&config, log);
    running.meanwhile(eventually(&client, "SELECT count(*) = 3 FROM pg_publication_tables")).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    client.batch_execute("INSERT INTO b VALUES (1)").await.unwrap();
    running.records(3).await;
    assert_eq!(running.stop().await.lines(), ["c public.a {1} null->{1}", "c public.a {2} null->{2}", "c public.b {1} null->{1}"]);
}

#[tokio::test]
async fn i10_a_refused_statement_is_told_of_whenever_its_reason_is_another_one_and_stops_no_start() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    let other = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE capturing LOGIN REPLICATION; GRANT CREATE ON DATABASE postgres TO capturing; GRANT CREATE ON SCHEMA public TO capturing;
             SET ROLE capturing; CREATE TABLE a (id int PRIMARY KEY); RESET ROLE",
        )
        .await
        .unwrap();
    let config = config(&server, &[FILTERED, SOON, ("snapshot.mode", "no_data"), ("database.user", "capturing")]);
    let mut running = start(&config, Log::default());
    running.meanwhile(eventually(&client, ACTIVE)).await;
    other
        .batch_execute("BEGIN; CREATE TABLE b (id int PRIMARY KEY); COMMIT; BEGIN; LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE")
        .await
        .unwrap();
    running.meanwhile(warnings.told(&["lock timeout", "it is tried again"])).await;
    other.batch_execute("COMMIT").await.unwrap();
    running.meanwhile(warnings.told(&["must be owner of table b", "as superuser"])).await;
    let mut log = running.stop().await;

    // As the server refuses whatever is frozen, a table that was dropped just now, and a deadlock
    for (id, code, said) in [(1, "P0001", "see the server's log"), (2, "42P01", "it is tried again"), (3, "40P01", "it is tried again")] {
        eventually(&client, INACTIVE).await;
        let refused = format!("refused with {code}");
        client
            .batch_execute(&format!(
                "DROP EVENT TRIGGER IF EXISTS frozen; CREATE OR REPLACE FUNCTION refuse() RETURNS event_trigger LANGUAGE plpgsql AS
                 $$ BEGIN RAISE EXCEPTION '{refused}' USING ERRCODE = '{code}'; END $$;
                 CREATE EVENT TRIGGER frozen ON ddl_command_start WHEN TAG IN ('ALTER PUBLICATION') EXECUTE FUNCTION refuse()"
            ))
            .await
            .unwrap();
        let mut running = start(&config, log);
        running.meanwhile(warnings.told(&["cannot change the publication shop", &refused, said])).await;
        client.batch_execute(&format!("INSERT INTO a VALUES ({id})")).await.unwrap();
        running.records(id).await;
        running.for_a_while(Duration::from_millis(500)).await;
        assert_eq!(warnings.with(&[&refused]).len(), 1, "once by the start and the looks behind it");
        log = running.stop().await;
    }
}
