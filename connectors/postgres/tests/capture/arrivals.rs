//! Tables that come while the connector has a position: captured from then on, or read, too.

use std::collections::BTreeMap;
use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::envelope::{Envelope, Operation};
use tailwater_testkit::PostgresServer;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::chunks::{release_commits, stall_commits};
use crate::harness::{Log, config, eventually, server, show, start};
use crate::warnings::Warnings;

const READ: (&str, &str) = ("snapshot.new.tables", "read");
const FILTERED: (&str, &str) = ("publication.autocreate.mode", "filtered");
const SOON: (&str, &str) = ("table.refresh.interval.ms", "100");
const ACTIVE: &str = "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots";
const INACTIVE: &str = "SELECT NOT bool_or(active) FROM pg_replication_slots";

/// The records of one table in short.
fn of_table(log: &Log, table: &str) -> Vec<String> {
    log.lines().into_iter().filter(|line| line.split(' ').nth(1) == Some(table)).collect()
}

#[tokio::test]
async fn a_table_added_to_the_filters_is_read_where_that_is_asked_for_and_else_followed() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE keyed (id int PRIMARY KEY, v text); CREATE TABLE keyless (id int, v text);
             INSERT INTO a VALUES (1); INSERT INTO keyed VALUES (1, 'x'), (2, 'y'); INSERT INTO keyless VALUES (1, 'x');",
        )
        .await
        .unwrap();
    for (name, strategy, new) in
        [("one", "consistent", "read"), ("two", "watermark", "read"), ("three", "consistent", "none"), ("four", "watermark", "none")]
    {
        client.batch_execute("DELETE FROM keyed WHERE id > 2; DELETE FROM keyless WHERE id > 1").await.unwrap();
        let settings = |tables| {
            let entries = [
                FILTERED,
                ("snapshot.strategy", strategy),
                ("snapshot.new.tables", new),
                ("slot.name", name),
                ("publication.name", name),
                ("table.include.list", tables),
            ];
            config(&server, &entries)
        };
        let mut running = start(&settings("public.a"), Log::default());
        running.records(1).await;
        eventually(&client, ACTIVE).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;

        let mut running = start(&settings("public.a,public.keyed,public.keyless"), log);
        running.meanwhile(eventually(&client, ACTIVE)).await;
        client.batch_execute("INSERT INTO keyed VALUES (3, 'z'); INSERT INTO keyless VALUES (2, 'y')").await.unwrap();
        let reads = new == "read";
        let last = if reads {
            ["c public.keyed {3}", "c public.keyless", "r public.keyed {2}"].as_slice()
        } else {
            &["c public.keyed", "c public.keyless"]
        };
        running.until(|log| last.iter().all(|last| log.lines().iter().any(|line| line.starts_with(last)))).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;
        let mut keyed = of_table(&log, "public.keyed");
        keyed.sort();
        let whole = ["c public.keyed {3} null->{3,z}", "r public.keyed {1} null->{1,x}", "r public.keyed {2} null->{2,y}"];
        // Read in chunks, the row that was inserted meanwhile may stand among the rows that were read, too.
        keyed.retain(|line| !line.starts_with("r public.keyed {3}"));
        assert_eq!(keyed, whole[..if reads { 3 } else { 1 }], "{strategy} {new}");
        let keyless = ["r public.keyless null null->{1,x}", "c public.keyless null null->{2,y}"];
        assert_eq!(of_table(&log, "public.keyless"), keyless[usize::from(!reads)..], "{strategy} {new}");

        // The next start knows them.
        let count = log.records.len();
        let mut running = start(&settings("public.a,public.keyed,public.keyless"), log);
        eventually(&client, ACTIVE).await;
        client.batch_execute(&format!("INSERT INTO keyless VALUES (3, '{name}')")).await.unwrap();
        running.until(|log| log.records.len() > count).await;
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;
        assert_eq!(log.lines()[count..], [format!("c public.keyless null null->{{3,{name}}}")]);
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}'); DROP PUBLICATION {name}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_table_that_the_filters_left_out_for_a_while_is_read_again() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    for (name, strategy) in [("one", "consistent"), ("two", "watermark")] {
        client
            .batch_execute(
                "DROP TABLE IF EXISTS a, b, hidden; CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v text);
                 INSERT INTO a VALUES (1); INSERT INTO b VALUES (1, 'x');",
            )
            .await
            .unwrap();
        let settings = |tables| {
            let own = [("snapshot.strategy", strategy), ("slot.name", name), ("publication.name", name), ("table.include.list", tables)];
            config(&server, &[&[READ, FILTERED][..], &own].concat())
        };
        let both = "public.a,public.b";
        let mut running = start(&settings(both), Log::default());
        running.records(2).await;
        let is_complete =
            |log: &Log| log.state.iter().filter(|(_, offset)| offset.get("state").is_some_and(|state| state == "complete")).count() == 2;
        running.until(is_complete).await;
        let mut log = running.stop().await;
        // Left out by the filters, then by its name.
        for (id, tables, statement, back) in [
            (2, "public.a", "UPDATE b SET v = 'y'", "SELECT"),
            (3, both, "ALTER TABLE b RENAME TO hidden; UPDATE hidden SET v = 'z'", "ALTER TABLE hidden RENAME TO b"),
        ] {
            eventually(&client, INACTIVE).await;
            client.batch_execute(statement).await.unwrap();
            let mut running = start(&settings(tables), log);
            eventually(&client, ACTIVE).await;
            client.batch_execute(&format!("INSERT INTO a VALUES ({id})")).await.unwrap();
            running.until(|log| log.lines().contains(&format!("c public.a {{{id}}} null->{{{id}}}"))).await;
            log = running.stop().await;
            eventually(&client, INACTIVE).await;
            client.batch_execute(back).await.unwrap();
            let count = log.records.len();
            let mut running = start(&settings(both), log);
            running.until(|log| log.records.len() > count && is_complete(log)).await;
            log = running.stop().await;
        }
        eventually(&client, INACTIVE).await;
        let read = ["x", "y", "z"].map(|value| format!("r public.b {{1}} null->{{1,{value}}}"));
        assert_eq!(of_table(&log, "public.b"), read, "{strategy}");
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}'); DROP PUBLICATION {name}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_table_made_while_a_filtered_publication_is_followed_is_published_and_read() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE a (id int PRIMARY KEY, v text); INSERT INTO a VALUES (1, 'x')").await.unwrap();
    let config = config(&server, &[FILTERED, READ, SOON, ("table.include.list", r"public\.(a|b)")]);
    let mut running = start(&config, Log::default());
    running.records(1).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1), (2); CREATE TABLE other (id int)").await.unwrap();
    // The daemon runs it again.
    let (result, log) = running.ended().await;
    let error = result.unwrap_err();
    assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains(r#"ADD TABLE "public"."b""#), "{error}");
    eventually(&client, INACTIVE).await;

    let mut running = start(&config, log);
    running.records(3).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("INSERT INTO b VALUES (3)").await.unwrap();
    running.records(4).await;
    // Made again under its name, it is another table, which the publication does not hold.
    client.batch_execute("DROP TABLE a; CREATE TABLE a (name text PRIMARY KEY); INSERT INTO a VALUES ('y')").await.unwrap();
    let (result, log) = running.ended().await;
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
    eventually(&client, INACTIVE).await;
    let mut running = start(&config, log);
    running.records(5).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("INSERT INTO a VALUES ('z')").await.unwrap();
    running.records(6).await;
    let expected = [
        "r public.a {1} null->{1,x}",
        "r public.b {1} null->{1}",
        "r public.b {2} null->{2}",
        "c public.b {3} null->{3}",
        "r public.a {y} null->{y}",
        "c public.a {z} null->{z}",
    ];
    assert_eq!(running.stop().await.lines(), expected);
}

#[tokio::test]
async fn a_table_renamed_into_the_filters_is_read_and_one_made_anew_is_not() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE TABLE draft (id int PRIMARY KEY); INSERT INTO draft VALUES (1)").await.unwrap();
    let config = config(&server, &[READ, SOON, ("snapshot.mode", "no_data"), ("table.exclude.list", r"public\.draft")]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("CREATE TABLE fresh (id int PRIMARY KEY); INSERT INTO fresh VALUES (1)").await.unwrap();
    running.records(1).await;
    client.batch_execute("ALTER TABLE draft RENAME TO final").await.unwrap();
    let (result, log) = running.ended().await;
    let error = result.unwrap_err();
    assert!(error.to_string().contains("public.final"), "{error}");
    eventually(&client, INACTIVE).await;
    let mut running = start(&config, log);
    running.until(|log| log.lines().iter().any(|line| line == "r public.final {1} null->{1}")).await;
    let log = running.stop().await;
    assert_eq!(of_table(&log, "public.final"), ["r public.final {1} null->{1}"]);
    assert_eq!(of_table(&log, "public.fresh")[0], "c public.fresh {1} null->{1}");
}

#[tokio::test]
async fn a_table_attached_with_its_rows_to_a_published_one_is_read_and_one_made_as_a_partition_is_not() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE root (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE one PARTITION OF root FOR VALUES IN (1);
             CREATE PUBLICATION shop FOR TABLE root",
        )
        .await
        .unwrap();
    let config = config(&server, &[READ, SOON, ("snapshot.mode", "no_data"), ("publication.autocreate.mode", "disabled")]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("CREATE TABLE two PARTITION OF root FOR VALUES IN (2); INSERT INTO root VALUES (2)").await.unwrap();
    running.records(1).await;
    // In one transaction: what is made and attached in it is none that was made as a partition.
    client
        .batch_execute(
            "BEGIN; CREATE TABLE three (id int PRIMARY KEY); INSERT INTO three VALUES (3);
             ALTER TABLE root ATTACH PARTITION three FOR VALUES IN (3); COMMIT",
        )
        .await
        .unwrap();
    let (result, log) = running.ended().await;
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Restarting);
    assert!(error.to_string().contains("public.three"), "{error}");
    eventually(&client, INACTIVE).await;
    let mut running = start(&config, log);
    running.until(|log| !of_table(log, "public.three").is_empty()).await;
    eventually(&client, ACTIVE).await;
    client.batch_execute("UPDATE root SET id = id").await.unwrap();
    running.until(|log| of_table(log, "public.three").len() == 2).await;
    let log = running.stop().await;
    assert_eq!(of_table(&log, "public.three"), ["r public.three {3} null->{3}", "u public.three {3} null->{3}"]);
    assert_eq!(of_table(&log, "public.two")[0], "c public.two {2} null->{2}");
}

#[tokio::test]
async fn a_root_that_somebody_adds_to_the_publication_is_read_whether_by_itself_or_by_its_schema() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE SCHEMA more;
             CREATE TABLE b (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE b_leaf PARTITION OF b DEFAULT;
             CREATE TABLE more.c (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE more.c_leaf PARTITION OF more.c DEFAULT;
             INSERT INTO b VALUES (1); INSERT INTO more.c VALUES (1);
             CREATE PUBLICATION shop FOR TABLE a WITH (publish_via_partition_root = true)",
        )
        .await
        .unwrap();
    let config = config(&server, &[READ, SOON, ("publication.autocreate.mode", "disabled"), ("snapshot.mode", "no_data")]);
    let mut running = start(&config, Log::default());
    running.until(|log| !log.state.is_empty()).await;
    for (added, table) in [("TABLE b", "public.b"), ("TABLES IN SCHEMA more", "more.c")] {
        running.meanwhile(eventually(&client, ACTIVE)).await;
        client.batch_execute(&format!("INSERT INTO {table} VALUES (2); ALTER PUBLICATION shop ADD {added}")).await.unwrap();
        let (result, log) = running.ended().await;
        let error = result.unwrap_err();
        assert!(error.kind() == ErrorKind::Restarting && error.to_string().contains(table), "{error}");
        eventually(&client, INACTIVE).await;
        running = start(&config, log);
        running.until(|log| of_table(log, table).len() == 2).await;
        client.batch_execute(&format!("INSERT INTO {table} VALUES (3)")).await.unwrap();
        running.until(|log| of_table(log, table).len() == 3).await;
    }
    let log = running.stop().await;
    for table in ["public.b", "more.c"] {
        let expected = ["r", "r", "c"].iter().zip(1..).map(|(operation, id)| format!("{operation} {table} {{{id}}} null->{{{id}}}"));
        assert_eq!(of_table(&log, table), expected.collect::<Vec<_>>());
    }
}

/// A commit that stands in the log and waits for a standby, so that only who follows the log knows of it.
struct Hanging {
    pid: i32,
    writer: JoinHandle<()>,
}

impl Hanging {
    /// Commits the statement; returns when it hangs.
    async fn commit(server: &PostgresServer, client: &Client, statement: &'static str) -> Self {
        let own = server.connect("postgres").await.unwrap();
        let pid: i32 = own.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
        let statement = format!("SET synchronous_commit = on; {statement}");
        let writer = tokio::spawn(async move { own.batch_execute(&statement).await.unwrap() });
        eventually(client, &format!("SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = {pid}")).await;
        Self { pid, writer }
    }

    /// Waits until the creation of a slot waits for its end.
    async fn holds_a_slot(&self, client: &Client) {
        let query = format!(
            "SELECT EXISTS (SELECT FROM pg_locks own JOIN pg_locks other USING (transactionid)
             WHERE own.pid = {} AND own.granted AND NOT other.granted)",
            self.pid
        );
        eventually(client, &query).await;
    }

    /// Lets it go on without the standby.
    async fn release(self, client: &Client) {
        client.execute("SELECT pg_cancel_backend($1)", &[&self.pid]).await.unwrap();
        self.writer.await.unwrap();
    }
}

/// The rows of a keyless table cannot be told apart, so each has to come by the read alone or by the log alone. They are divided by
/// the point at which the slot of the read becomes consistent, and the slot waits for whatever hangs before it. A read in a
/// snapshot of its own would not wait: it would lose row 3, which it does not see and the log never tells of, and row 4, too,
/// if it were anchored at the end of the log. Anchored at the stored position, row 4 would come twice.
#[tokio::test]
async fn a_keyless_table_added_while_commits_hang_has_each_row_once() {
    for strategy in ["consistent", "watermark"] {
        let Some(server) = server(&[]).await else { return };
        let client = server.connect("postgres").await.unwrap();
        client
            .batch_execute(
                "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1);
                 ALTER ROLE postgres SET synchronous_commit = local; SET synchronous_commit = local",
            )
            .await
            .unwrap();
        let config = config(&server, &[FILTERED, READ, SOON, ("snapshot.strategy", strategy)]);
        let mut running = start(&config, Log::default());
        running.records(1).await;
        eventually(&client, ACTIVE).await;
        stall_commits(&client).await;
        client.batch_execute("CREATE TABLE keyless (id int); INSERT INTO keyless VALUES (1), (2)").await.unwrap();
        let (result, log) = running.ended().await;
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Restarting);
        eventually(&client, INACTIVE).await;

        // Not published yet, so the log never tells of it.
        let unpublished = Hanging::commit(&server, &client, "INSERT INTO keyless VALUES (3)").await;
        let mut running = start(&config, log);
        unpublished.holds_a_slot(&client).await;
        let published = Hanging::commit(&server, &client, "INSERT INTO keyless VALUES (4)").await;
        unpublished.release(&client).await;
        published.holds_a_slot(&client).await;
        published.release(&client).await;
        running.until(|log| of_table(log, "public.keyless").len() == 4).await;
        eventually(&client, ACTIVE).await;
        let behind = Hanging::commit(&server, &client, "INSERT INTO keyless VALUES (5)").await;
        running.until(|log| of_table(log, "public.keyless").len() == 5).await;
        eventually(&client, "SELECT count(*) = 4 FROM keyless").await;
        release_commits(&client).await;
        behind.writer.await.unwrap();
        let log = running.stop().await;
        let read = (1..=4).map(|id| format!("r public.keyless null null->{{{id}}}"));
        let followed = ["c public.keyless null null->{5}".to_owned()];
        assert_eq!(of_table(&log, "public.keyless"), read.chain(followed).collect::<Vec<_>>(), "{strategy}");
    }
}

/// Its rows are in the snapshot that the slot exports, and not in the log behind it.
#[tokio::test]
async fn i11_a_table_made_while_the_first_slot_waits_for_open_transactions_has_each_row_once() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let holder = server.connect("postgres").await.unwrap();
    let modes = [("initial", "none"), ("no_data", "read")];
    let publications = ["all_tables", "filtered"];
    for (number, (strategy, (mode, new), publication)) in ["consistent", "watermark"]
        .into_iter()
        .flat_map(|strategy| modes.into_iter().flat_map(move |mode| publications.map(|publication| (strategy, mode, publication))))
        .enumerate()
    {
        let name = format!("c{number}");
        let entries = [
            ("snapshot.strategy", strategy),
            ("snapshot.mode", mode),
            ("snapshot.new.tables", new),
            ("publication.autocreate.mode", publication),
            ("slot.name", &name),
            ("publication.name", &name),
            ("table.include.list", r"public\.(a|made)"),
        ];
        client.batch_execute("DROP TABLE IF EXISTS a, made; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1)").await.unwrap();
        holder.batch_execute("BEGIN; INSERT INTO a VALUES (2)").await.unwrap();
        let mut running = start(&config(&server, &entries), Log::default());
        let is_waiting = "SELECT coalesce(bool_or(active AND confirmed_flush_lsn IS NULL), false) FROM pg_replication_slots";
        running.meanwhile(eventually(&client, is_waiting)).await;
        client.batch_execute("CREATE TABLE made (id int PRIMARY KEY); INSERT INTO made VALUES (1), (2)").await.unwrap();
        holder.batch_execute("COMMIT").await.unwrap();
        let has = |log: &Log, line: &str| log.lines().iter().any(|other| other == line);
        running.until(|log| has(log, "r public.made {1} null->{1}") && has(log, "r public.made {2} null->{2}")).await;
        running
            .meanwhile(eventually(&client, "SELECT coalesce(bool_or(active), false) FROM pg_replication_slots WHERE NOT temporary"))
            .await;
        client.batch_execute("INSERT INTO made VALUES (3)").await.unwrap();
        running.until(|log| has(log, "c public.made {3} null->{3}")).await;
        // The next start knows it.
        let log = running.stop().await;
        eventually(&client, INACTIVE).await;
        let mut running = start(&config(&server, &entries), log);
        running.meanwhile(eventually(&client, ACTIVE)).await;
        client.batch_execute("INSERT INTO made VALUES (4)").await.unwrap();
        running.until(|log| has(log, "c public.made {4} null->{4}")).await;
        let mut told = of_table(&running.stop().await, "public.made");
        // Read in chunks, a row that was inserted meanwhile may stand among those that were read, too.
        told.retain(|line| !line.starts_with("r public.made {3}"));
        told.sort();
        let expected = [("c", 3), ("c", 4), ("r", 1), ("r", 2)];
        assert_eq!(told, expected.map(|(code, id)| format!("{code} public.made {{{id}}} null->{{{id}}}")), "{entries:?}");
        eventually(&client, INACTIVE).await;
        client.batch_execute(&format!("SELECT pg_drop_replication_slot('{name}'); DROP PUBLICATION {name}")).await.unwrap();
    }
}

#[tokio::test]
async fn a_crash_while_a_new_table_is_read_loses_nothing_and_repeats_nothing() {
    let Some(server) = server(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v text); CREATE TABLE c (id int, v text);
             INSERT INTO b SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i; INSERT INTO c SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i;",
        )
        .await
        .unwrap();
    let settings = |tables| config(&server, &[FILTERED, READ, ("table.include.list", tables), ("snapshot.mode", "initial")]);
    let mut running = start(&settings("public.a"), Log::default());
    running.until(|log| log.state.iter().any(|(_, offset)| offset.contains_key("anchor"))).await;
    eventually(&client, ACTIVE).await;
    let begun = running.stop().await;
    eventually(&client, INACTIVE).await;

    let later = settings("public.a,public.b,public.c");
    let mut running = start(&later, begun);
    running.refuse_confirmation();
    running.records(6000).await;
    let whole = running.crash().await;
    client.batch_execute("UPDATE b SET v = 'new' WHERE id = 7; INSERT INTO c VALUES (3001, 'new')").await.unwrap();
    for point in 0..whole.points.len() {
        eventually(&client, INACTIVE).await;
        let mut running = start(&later, whole.after_crash(point));
        running.refuse_confirmation();
        let is_new = |row: &BTreeMap<String, String>, key: &str| row.get(key).is_some_and(|row| row.ends_with(",new}"));
        running.until(|log| is_new(&rows(log, "b"), "{7}") && rows(log, "c").contains_key("{3001}")).await;
        let log = running.crash().await;
        assert_eq!(rows(&log, "b").len(), 3000, "after a crash behind batch {point}");
        let of_c = of_table(&log, "public.c");
        assert_eq!(of_c.len(), 3001, "after a crash behind batch {point}");
    }
}

/// A read that takes hours goes on behind each crash, whatever `snapshot.mode` says of the tables that were there first.
#[tokio::test]
async fn a_new_table_that_is_read_in_chunks_goes_on_where_it_was_also_where_the_first_ones_are_not_read() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY, v text);
             INSERT INTO b SELECT i, repeat('x', 500) FROM generate_series(1, 3000) i",
        )
        .await
        .unwrap();
    let settings = |tables| {
        let chunks = [("snapshot.strategy", "watermark"), ("incremental.snapshot.chunk.size", "500")];
        config(&server, &[&[FILTERED, READ, SOON, ("snapshot.mode", "no_data"), ("table.include.list", tables)][..], &chunks].concat())
    };
    let mut running = start(&settings("public.a"), Log::default());
    running.until(|log| !log.state.is_empty()).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    let begun = running.stop().await;
    eventually(&client, INACTIVE).await;

    let later = settings("public.a,public.b");
    let mut running = start(&later, begun);
    running.refuse_confirmation();
    running.records(3000).await;
    let whole = running.crash().await;
    let is_amid = |log: &Log| (500..=2500).contains(&log.records.len());
    let amid = (0..whole.points.len()).map(|point| whole.after_crash(point)).find(is_amid).expect("it is read in several chunks");
    eventually(&client, INACTIVE).await;
    let mut running = start(&later, amid.clone());
    running.refuse_confirmation();
    let is_complete =
        |log: &Log| log.state.iter().filter(|(_, offset)| offset.get("state").is_some_and(|state| state == "complete")).count() == 2;
    running.until(is_complete).await;
    assert_eq!(of_table(&running.crash().await, "public.b").len(), 3000, "no row twice");
    assert_eq!(warnings.with(&["rows are missing"]), Vec::<String>::new());

    // What has its name by then is read in its place.
    eventually(&client, INACTIVE).await;
    client
        .batch_execute("ALTER TABLE b RENAME TO former; CREATE TABLE b (id int PRIMARY KEY, v text); INSERT INTO b VALUES (1, 'new')")
        .await
        .unwrap();
    let mut running = start(&later, amid);
    running.until(|log| of_table(log, "public.b").last().is_some_and(|line| line == "r public.b {1} null->{1,new}")).await;
    running.until(is_complete).await;
    running.stop().await;
}

/// What changed between the slot and the publication stands in no log.
#[tokio::test]
async fn i11_a_table_that_is_published_only_behind_the_first_slot_is_read_also_where_the_others_are_not() {
    let Some(server) = server(&[]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    let holder = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1); CREATE TABLE b (id int PRIMARY KEY); INSERT INTO b VALUES (1);
             CREATE PUBLICATION shop FOR TABLE a",
        )
        .await
        .unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE b IN SHARE UPDATE EXCLUSIVE MODE; INSERT INTO b VALUES (2)").await.unwrap();
    let mut running = start(&config(&server, &[FILTERED, READ, ("snapshot.mode", "no_data")]), Log::default());
    running.meanwhile(warnings.told(&["lock timeout", r#"ADD TABLE "public"."b""#])).await;
    let is_waiting = "SELECT coalesce(bool_or(active AND confirmed_flush_lsn IS NULL), false) FROM pg_replication_slots";
    running.meanwhile(eventually(&client, is_waiting)).await;
    holder.batch_execute("COMMIT").await.unwrap();
    running.records(2).await;
    running.meanwhile(eventually(&client, &format!("{ACTIVE} WHERE NOT temporary"))).await;
    client.batch_execute("INSERT INTO a VALUES (2)").await.unwrap();
    running.records(3).await;
    let lines = running.stop().await.lines();
    assert_eq!(lines, ["r public.b {1} null->{1}", "r public.b {2} null->{2}", "c public.a {2} null->{2}"]);
}

#[tokio::test]
async fn i10_a_new_table_that_cannot_be_read_for_want_of_a_slot_keeps_no_other_from_being_followed_and_is_read_later() {
    let Some(server) = server(&[("max_replication_slots", "2")]).await else { return };
    let warnings = Warnings::collect();
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE again (id int); INSERT INTO a VALUES (1); INSERT INTO again VALUES (1)",
        )
        .await
        .unwrap();
    let config = config(&server, &[FILTERED, READ, SOON, ("snapshot.strategy", "consistent")]);
    let is_complete =
        |log: &Log| log.state.iter().filter(|(_, offset)| offset.get("state").is_some_and(|state| state == "complete")).count();
    let mut running = start(&config, Log::default());
    running.until(|log| is_complete(log) == 2).await;
    running.meanwhile(eventually(&client, ACTIVE)).await;
    let log = running.stop().await;
    eventually(&client, INACTIVE).await;
    client
        .batch_execute(
            "SELECT pg_create_logical_replication_slot('other', 'test_decoding');
             CREATE TABLE made (id int); INSERT INTO made VALUES (1); DROP TABLE again; CREATE TABLE again (id int); INSERT INTO again VALUES (2)",
        )
        .await
        .unwrap();
    let mut running = start(&config, log);
    running.meanwhile(warnings.told(&["public.again, public.made", "max_replication_slots", "restart the connector"])).await;
    running.meanwhile(eventually(&client, "SELECT active FROM pg_replication_slots WHERE slot_name = 'shop'")).await;
    client.batch_execute("INSERT INTO a VALUES (2); INSERT INTO made VALUES (2)").await.unwrap();
    running.records(4).await;
    running.for_a_while(Duration::from_secs(1)).await;
    let log = running.stop().await;
    eventually(&client, INACTIVE).await;
    client.batch_execute("SELECT pg_drop_replication_slot('other')").await.unwrap();
    let mut running = start(&config, log);
    running.until(|log| is_complete(log) == 3).await;
    let log = running.stop().await;
    let made = ["c public.made null null->{2}", "r public.made null null->{1}", "r public.made null null->{2}"];
    assert_eq!(of_table(&log, "public.made"), made);
    assert_eq!(of_table(&log, "public.again"), ["r public.again null null->{1}", "r public.again null null->{2}"]);
}

/// What a target holds of a table, by the column `id`.
fn rows(log: &Log, table: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for record in log.records.iter().filter(|record| record.topic.ends_with(&format!(".{table}"))) {
        let Some(envelope) = Envelope::of(record).filter(|envelope| envelope.operation() != Operation::Delete) else { continue };
        let Some([id, ..]) = envelope.after().as_struct() else { continue };
        rows.insert(format!("{{{}}}", show(id)), show(envelope.after()));
    }
    rows
}
