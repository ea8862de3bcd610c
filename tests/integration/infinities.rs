//! Infinite dates and times travel as numbers, of which the schema of a record says nothing: a source and the sinks must
//! mean the same ones, in every precision, read from tables and from the log.

use serde_json::json;
use sqlx::{AssertSqlSafe, Connection};
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

use crate::harness::{Daemon, Home, Options, shop, wait_until};

/// `time.precision.mode`, with which dates and times are of milliseconds, microseconds and nanoseconds
const PRECISIONS: [&str; 3] = ["connect", "adaptive", "nanoseconds"];

const ROWS: &str = "(day, time, zoned, days, times, zoned_times) VALUES
    ('infinity', 'infinity', 'infinity', '{infinity,NULL}', '{infinity}', '{infinity}'),
    ('-infinity', '-infinity', '-infinity', '{-infinity,2024-02-29}', '{-infinity}', '{-infinity}'),
    (DEFAULT, '2024-02-29 10:00', '2024-02-29 10:00Z', '{}', '{2024-02-29 10:00}', NULL)";

/// What SQLite shows of them.
const SHOWN: &str = r#"infinity,infinity,infinity,["infinity",null],["infinity"],["infinity"]
-infinity,-infinity,-infinity,["-infinity","2024-02-29"],["-infinity"],["-infinity"]
infinity,2024-02-29 10:00:00,2024-02-29T10:00:00.000000Z,[],["2024-02-29 10:00:00"],"#;

async fn shown_in_sqlite(url: &str, table: &str) -> String {
    let Ok(mut connection) = sqlx::SqliteConnection::connect(url).await else { return String::new() };
    let columns = ["day", "time", "zoned", "days", "times", "zoned_times"].map(|column| format!("coalesce({column}, '')"));
    let row = columns.join(" || ',' || ");
    let query = AssertSqlSafe(format!("SELECT group_concat(row, char(10)) FROM (SELECT {row} AS row FROM {table} ORDER BY id)"));
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap_or_default()
}

async fn shown_in_postgres(client: &tokio_postgres::Client, table: &str) -> String {
    let query = format!("SELECT string_agg(concat_ws(',', day, time, zoned, days, times, zoned_times), chr(10) ORDER BY id) FROM {table}");
    client.query_one(&query, &[]).await.ok().and_then(|row| row.get(0)).unwrap_or_default()
}

#[tokio::test]
async fn infinite_dates_and_times_are_infinite_in_every_copy() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    server.create_database(shop::SHOP).await.unwrap();
    server.create_database("copy").await.unwrap();
    let (source, copy) = (server.connect(shop::SHOP).await.unwrap(), server.connect("copy").await.unwrap());
    source
        .batch_execute(
            "CREATE TABLE limits (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, day date DEFAULT 'infinity', time timestamp,
                                  zoned timestamptz, days date[], times timestamp[], zoned_times timestamptz[])",
        )
        .await
        .unwrap();
    let insert = format!("INSERT INTO limits {ROWS}");
    source.batch_execute(&insert).await.unwrap();

    let home = Home::new();
    let in_sqlite = format!("sqlite://{}", home.path("copy.db").display());
    let daemon = Daemon::start(&home, &Options::default()).await;
    for precision in PRECISIONS {
        let mut config = shop::source(&server);
        for key in ["topic.prefix", "slot.name", "publication.name"] {
            config[key] = json!(precision);
        }
        config["table.include.list"] = json!("public.limits");
        config["time.precision.mode"] = json!(precision);
        daemon.put_connector(precision, &config).await;
        for (target, url) in [("sqlite", &in_sqlite), ("postgres", &server.url("copy"))] {
            let mut config = shop::copy_of_orders(url);
            config["topics"] = json!(format!("{precision}.public.limits"));
            daemon.put_connector(&format!("{precision}-{target}"), &config).await;
        }
        shop::wait_for_streaming(&source, precision).await;
    }
    source.batch_execute(&insert).await.unwrap();

    let (expected, in_source) = (format!("{SHOWN}\n{SHOWN}"), shown_in_postgres(&source, "limits").await);
    for precision in PRECISIONS {
        let table = format!("{precision}_public_limits");
        wait_until(&format!("{table} to have all rows"), async || {
            let copies = (shown_in_sqlite(&in_sqlite, &table).await, shown_in_postgres(&copy, &table).await);
            copies.0.lines().count() == 6 && copies.1.lines().count() == 6
        })
        .await;
        assert_eq!(shown_in_sqlite(&in_sqlite, &table).await, expected, "{precision}");
        assert_eq!(shown_in_postgres(&copy, &table).await, in_source, "{precision}");
    }
    daemon.stop().await;
}
