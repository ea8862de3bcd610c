//! `snapshot FILE --to URL`: one shot of a source into a database, as often as it is asked for.

use std::process::{Child, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _};
use tailwater_testkit::{Guard, PostgresServer, Version, required_or_skip};

use crate::harness::{Home, said, shop, tailwater, wait_until};

/// Enough rows that the sink is still at work when the first of them are seen.
const ROWS: u32 = 60_000;

/// A database to write into.
enum Target {
    Sqlite(String),
    Postgres(String),
}

impl Target {
    fn url(&self) -> &str {
        match self {
            Self::Sqlite(url) | Self::Postgres(url) => url,
        }
    }

    /// What a query counts; nothing where its table is not there.
    async fn count(&self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        match self {
            Self::Sqlite(url) => {
                let Ok(mut connection) = sqlx::SqliteConnection::connect(url).await else { return 0 };
                sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap_or_default()
            }
            Self::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap_or_default()
            }
        }
    }

    async fn run(&self, statement: &str) {
        let statement = sqlx::raw_sql(AssertSqlSafe(statement.to_owned()));
        match self {
            Self::Sqlite(url) => {
                let mut connection = sqlx::SqliteConnection::connect(url).await.unwrap();
                statement.execute(&mut connection).await.unwrap();
            }
            Self::Postgres(url) => {
                let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
                statement.execute(&mut connection).await.unwrap();
            }
        }
    }

    async fn rows(&self) -> i64 {
        self.count("SELECT count(*) FROM shop_public_orders").await
    }

    async fn positions(&self) -> i64 {
        self.count("SELECT count(*) FROM tailwater_offsets").await
    }
}

fn spawn(home: &Home, target: &Target) -> Child {
    let source = home.path("shop.json");
    let mut command = tailwater();
    command.arg("snapshot").arg(source).args(["--to", target.url()]);
    // A run that is killed leaves its log there.
    command.env("TMPDIR", home.path(""));
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Lets it run to its end without blocking the tasks of the test.
async fn ended(process: Child) -> Output {
    let _guard = Guard::new(process.id()).unwrap();
    tokio::task::spawn_blocking(|| process.wait_with_output()).await.unwrap().unwrap()
}

async fn complete(home: &Home, target: &Target) {
    let output = ended(spawn(home, target)).await;
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    assert_eq!(said(&output), format!("complete: {ROWS} records\n"));
}

#[tokio::test]
async fn a_snapshot_into_a_database_can_be_taken_again_whatever_became_of_the_one_before() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let _client = shop::create(&server, ROWS).await;
    server.create_database("copy").await.unwrap();
    let home = Home::new();
    let mut source = shop::source(&server);
    source["table.include.list"] = json!("public.orders");
    home.write("shop.json", &shop::file("shop", &source));
    let targets = [Target::Sqlite(format!("sqlite://{}", home.path("copy.db").display())), Target::Postgres(server.url("copy"))];
    for target in &targets {
        let process = spawn(&home, target);
        wait_until("the first rows", async || target.rows().await > 0).await;
        kill_process(Pid::from_child(&process), Signal::INT).unwrap();
        let output = ended(process).await;
        assert_eq!(output.status.code(), Some(3), "{}", said(&output));
        assert!(target.rows().await < i64::from(ROWS), "it was interrupted");

        // As a run leaves it that was killed: positions in a log that is gone.
        let mut process = spawn(&home, target);
        wait_until("a position", async || target.positions().await > 0).await;
        process.kill().unwrap();
        process.wait().unwrap();
        assert_eq!(target.positions().await, 1);

        complete(&home, target).await;
        assert_eq!(target.rows().await, i64::from(ROWS));
        target.run("DELETE FROM shop_public_orders WHERE id > 5; UPDATE shop_public_orders SET note = 'another'").await;
        complete(&home, target).await;
        assert_eq!(target.rows().await, i64::from(ROWS));
        assert_eq!(target.count("SELECT count(*) FROM shop_public_orders WHERE note = 'another'").await, 0);
        assert_eq!(target.positions().await, 1, "those of the killed run alone");
    }
}

#[tokio::test]
async fn what_did_not_reach_the_database_is_not_counted() {
    let Some(server) = required_or_skip(PostgresServer::start(Version::V15, &[]).await) else { return };
    let _client = shop::create(&server, 10).await;
    let home = Home::new();
    home.write("shop.json", &shop::file("shop", &shop::source(&server)));
    let output = ended(spawn(&home, &Target::Postgres(server.url("nowhere")))).await;
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("partial: 0 records") && said(&output).contains("CREATE DATABASE"), "{}", said(&output));
}
