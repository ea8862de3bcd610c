//! Ordinary SQL connections, and what they share with replication connections: address, credentials, TLS, and settings
//! that make the server render text the same way on both (I7).

use std::convert::Infallible;
use std::error::Error as _;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::tls::TlsMode;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::catalog::quote_identifier;
use crate::config::PostgresConfig;
use crate::data_types::{SESSION_SETTINGS, TypeCatalog, TypeOptions, TypeRow};
use crate::replication::{
    CERTIFICATE_REMEDY, ConnectOptions, LIFT_LATER_LIMITS, METHOD_REMEDY, NOT_UTF_8_REMEDY, PASSWORD_REMEDY, POOLER_REMEDY, SESSION_RIGHTS,
    TLS_REMEDY, TOO_LONG_REMEDY, UNREACHABLE_REMEDY, is_from_pooler, kind_of, tls_refusal,
};

/// What the server's views call our sessions.
const APPLICATION: &str = "tailwater";
/// How long a commit that is in the log already may take to be seen.
const VISIBILITY_WAIT: Duration = Duration::from_secs(5);
/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the end of a run waits for queries to be cancelled.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// A connection for SQL. Dropping it closes it.
pub(crate) struct SqlConnection {
    client: Client,
    task: JoinHandle<()>,
    /// Absent where nothing is encrypted
    tls: Option<MakeRustlsConnect>,
}

impl Deref for SqlConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Drop for SqlConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SqlConnection {
    /// Connects, and begins as `database.initial.statements` says.
    pub(crate) async fn connect(config: &PostgresConfig) -> Result<Self> {
        let connection = Self::connect_plainly(config).await?;
        for (number, statement) in (1..).zip(&config.initial_statements) {
            connection.batch_execute(statement).await.map_err(|error| initial_statement_failed(number, error))?;
        }
        connection.settle(config).await?;
        Ok(connection)
    }

    /// Connects for a look that changes nothing (I15): an initial statement that would write is passed over.
    pub(crate) async fn connect_to_look(config: &PostgresConfig) -> Result<Self> {
        let connection = Self::connect_plainly(config).await?;
        let read_only = |is_on| format!("SET default_transaction_read_only = {is_on}");
        let failed = |error| sql_error("begin a session that only reads", error);
        connection.batch_execute(&read_only("on")).await.map_err(failed)?;
        for (number, statement) in (1..).zip(&config.initial_statements) {
            match connection.batch_execute(statement).await {
                Err(error) if error.code() != Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => {
                    return Err(initial_statement_failed(number, error));
                }
                Ok(()) | Err(_) => {}
            }
        }
        connection.batch_execute(&read_only("off")).await.map_err(failed)?;
        connection.settle(config).await?;
        Ok(connection)
    }

    /// Whatever the initial statements set, values come as they are read here (I7), and all of them (I11).
    async fn settle(&self, config: &PostgresConfig) -> Result<()> {
        if config.initial_statements.is_empty() {
            return Ok(());
        }
        let settings: String = SESSION_SETTINGS.iter().map(|(name, value)| format!("SET {name} = '{value}';")).collect();
        let settings = settings + "SET row_security = off";
        self.batch_execute(&settings).await.map_err(|error| sql_error("set how values are written", error))
    }

    /// Connects without the initial statements.
    pub(crate) async fn connect_plainly(config: &PostgresConfig) -> Result<Self> {
        let doing = || format!("connect to {}:{} as {}", config.hostname, config.port, config.user);
        let mut options = tokio_postgres::Config::new();
        options
            .host(&config.hostname)
            .port(config.port)
            .user(&config.user)
            .dbname(&config.dbname)
            .application_name(APPLICATION)
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(60))
            .options(session_settings())
            .ssl_mode(match config.tls.mode {
                // A Unix socket does not leave the machine; like libpq, nothing is encrypted there.
                _ if config.hostname.starts_with('/') => tokio_postgres::config::SslMode::Disable,
                TlsMode::Disable => tokio_postgres::config::SslMode::Disable,
                TlsMode::Allow | TlsMode::Prefer => tokio_postgres::config::SslMode::Prefer,
                TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => tokio_postgres::config::SslMode::Require,
            });
        if let Some(password) = &config.password {
            options.password(password.expose());
        }
        let tls = config.tls.client_config()?.map(MakeRustlsConnect::new);
        let (client, task) = match tls.clone() {
            None => {
                let (client, connection) = options.connect(NoTls).await.map_err(|error| connection_error(doing(), config, error))?;
                (client, tokio::spawn(drive(connection)))
            }
            Some(tls) => {
                let (client, connection) = options.connect(tls).await.map_err(|error| connection_error(doing(), config, error))?;
                (client, tokio::spawn(drive(connection)))
            }
        };
        let connection = Self { client, task, tls };
        let timeout = config.statement_timeout.as_millis();
        // Not as the session begins: what the server says of it by itself counts for `database.target_session_attrs`.
        let settings = format!("{LIFT_LATER_LIMITS}; SET statement_timeout = {timeout}; SET default_transaction_read_only = off");
        connection.batch_execute(&settings).await.map_err(|error| sql_error(doing(), error))?;
        Ok(connection)
    }

    /// What cancels the query that the connection runs; it is one of those of the run.
    pub(crate) fn cancelling(&self, of_run: &Cancellations) -> Cancelling {
        Cancelling { server: Some((self.cancel_token(), self.tls.clone(), of_run.clone())) }
    }

    /// For statements that read for hours.
    pub(crate) async fn without_timeout(&self) -> Result<()> {
        self.batch_execute("SET statement_timeout = 0").await.map_err(|error| sql_error("lift the limit of the reading session", error))
    }

    /// Waits until other sessions see what the transaction has committed: until then it holds a lock on its number. A commit
    /// may wait for a standby for long, which must not stop the stream, so the wait has an end.
    pub(crate) async fn await_visibility(&self, xid: u32) -> Result<()> {
        let query = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'transactionid' AND transactionid = $1::text::xid)";
        let failed = |error| sql_error(format!("see whether transaction {xid} is visible"), error);
        let deadline = tokio::time::Instant::now() + VISIBILITY_WAIT;
        while self.query_one(query, &[&xid.to_string()]).await.map_err(failed)?.get(0) {
            if tokio::time::Instant::now() > deadline {
                tracing::warn!(
                    "transaction {xid} is in the log but not visible yet; the server is asked all the same, and may answer as of before it"
                );
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }

    /// What `read` reads on this connection, all of it as of one moment.
    pub(crate) async fn in_one_snapshot<T>(&self, read: impl Future<Output = Result<T>>) -> Result<T> {
        let run = async |statement| self.batch_execute(statement).await.map_err(|error| sql_error("read the catalog at one moment", error));
        run("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await?;
        let read = read.await;
        let ended = run("COMMIT").await;
        read.and_then(|read| ended.map(|()| read))
    }

    /// Reads the types of the database.
    pub(crate) async fn load_types(&self, options: TypeOptions) -> Result<TypeCatalog> {
        let rows = self.query(TypeCatalog::QUERY, &[]).await.map_err(|error| sql_error("read the types of the database", error))?;
        let types = rows
            .iter()
            .map(|row| TypeRow {
                oid: row.get(0),
                name: row.get(1),
                namespace: row.get(2),
                // A letter, as pg_type.typtype always is.
                kind: row.get::<_, &str>(3).chars().next().unwrap_or('b'),
                element: row.get(4),
                delimiter: row.get::<_, &str>(5).bytes().next().unwrap_or(b','),
                base: row.get(6),
                modifier: row.get(7),
                labels: row.get(8),
            })
            .collect();
        Ok(TypeCatalog::new(types, options))
    }

    /// The transaction number that the server gives out next, as a mark of now.
    pub(crate) async fn next_xid(&self) -> Result<u32> {
        let query = "SELECT (txid_snapshot_xmax(txid_current_snapshot()) & 4294967295)::int8";
        let row = self.query_one(query, &[]).await.map_err(|error| sql_error("read the server's transaction number", error))?;
        Ok(u32::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }
}

/// Cancels what a connection runs, when it is dropped before it is told that the query is over. To close the connection is not enough:
/// the server does not look for that while a query has nothing to send.
#[derive(Default)]
pub(crate) struct Cancelling {
    server: Option<(CancelToken, Option<MakeRustlsConnect>, Cancellations)>,
}

impl Cancelling {
    /// The query is over.
    pub(crate) fn is_over(&mut self) {
        self.server = None;
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        let Some(((token, tls, of_run), runtime)) = self.server.take().zip(Handle::try_current().ok()) else { return };
        runtime.spawn(async move {
            let _of_run = of_run;
            let cancelled = match tls {
                None => token.cancel_query(NoTls).await,
                Some(tls) => token.cancel_query(tls).await,
            };
            if let Err(error) = cancelled {
                tracing::debug!("a query could not be cancelled: {error}");
            }
        });
    }
}

/// The queries that a run may have to cancel when it ends.
#[derive(Clone)]
pub(crate) struct Cancellations {
    /// Closed where none is left
    _open: mpsc::Sender<Infallible>,
}

impl Cancellations {
    /// Those of a new run, and its end.
    pub(crate) fn new() -> (Self, EndOfRun) {
        let (open, closed) = mpsc::channel(1);
        (Self { _open: open }, EndOfRun(closed))
    }
}

/// Where the end of a run waits for its queries: the process may end with it, and what it was about to cancel would go on.
pub(crate) struct EndOfRun(mpsc::Receiver<Infallible>);

impl EndOfRun {
    /// Waits until each query of the run, which runs no more, is over or cancelled, but not for a server that does not answer.
    pub(crate) async fn wait(mut self) {
        if timeout(CANCEL_WAIT, self.0.recv()).await.is_err() {
            tracing::warn!(
                "the server was not reached in time to cancel the queries that still run; it ends them when they next send rows"
            );
        }
    }
}

async fn drive<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    // Whoever uses the client sees the failure there.
    if let Err(error) = connection.await {
        tracing::debug!("an SQL connection ended: {error}");
    }
}

/// A connection that is made when it is needed, and made anew when it broke.
pub(crate) struct SqlSession {
    config: Arc<PostgresConfig>,
    connection: Option<SqlConnection>,
}

impl SqlSession {
    pub(crate) fn new(config: Arc<PostgresConfig>) -> Self {
        Self { config, connection: None }
    }

    pub(crate) async fn get(&mut self) -> Result<&SqlConnection> {
        let usable = self.connection.take().filter(|connection| !connection.is_closed());
        let connection = match usable {
            Some(connection) => connection,
            None => SqlConnection::connect(&self.config).await?,
        };
        Ok(self.connection.insert(connection))
    }

    /// Reads the types of the database.
    pub(crate) async fn load_types(&mut self) -> Result<TypeCatalog> {
        let options = self.config.values;
        self.get().await?.load_types(options).await
    }
}

/// What a replication connection is made with.
pub(crate) fn replication_options(config: &PostgresConfig) -> ConnectOptions {
    ConnectOptions {
        host: config.hostname.clone(),
        port: config.port,
        user: config.user.clone(),
        password: config.password.clone(),
        database: config.dbname.clone(),
        application_name: APPLICATION.to_owned(),
        connect_timeout: CONNECT_TIMEOUT,
        tls: config.tls.clone(),
        settings: Vec::new(),
    }
}

/// The statements of `database.initial.statements`, which are separated by semicolons; two of them are one that is part of a statement.
pub(crate) fn split_statements(text: &str) -> Vec<String> {
    let mut statements = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        if character == ';' && characters.next_if_eq(&';').is_none() {
            statements.push(String::new());
        } else if let Some(statement) = statements.last_mut() {
            statement.push(character);
        }
    }
    statements.retain(|statement| !statement.trim().is_empty());
    statements
}

/// The statement itself may hold what nobody is to see (I14).
fn initial_statement_failed(number: usize, error: tokio_postgres::Error) -> Error {
    let failed = sql_error(format!("run statement {number} of database.initial.statements"), error);
    if failed.kind().is_transient() {
        return failed;
    }
    let refused = Error::new(ErrorKind::Misconfigured, "use database.initial.statements").because(failed);
    refused.mend("correct that statement, or grant what it needs to database.user")
}

/// The settings of every session of ours, as the start-up message takes them.
fn session_settings() -> String {
    let settings = SESSION_SETTINGS.into_iter().chain(SESSION_RIGHTS);
    settings.map(|(name, value)| format!("-c {name}={} ", value.replace(' ', "\\ "))).collect()
}

/// Maps an error of an established connection to its kind by SQLSTATE (PostgreSQL 18, appendix A).
pub(crate) fn sql_error(doing: impl Into<String>, error: tokio_postgres::Error) -> Error {
    let kind = match error.code() {
        Some(state) => kind_of(state.code(), error.as_db_error().map_or("", tokio_postgres::error::DbError::message)),
        None => ErrorKind::Unreachable,
    };
    let remedy = error.as_db_error().and_then(|refused| match refused.code().code() {
        "22021" => Some(NOT_UTF_8_REMEDY),
        "54000" => Some(TOO_LONG_REMEDY),
        // See `SESSION_RIGHTS`.
        "42501" if refused.message().contains("row-level security") => {
            Some("as superuser, for the role of database.user: ALTER ROLE … BYPASSRLS;")
        }
        _ => None,
    });
    let error = Error::new(kind, doing).because(error);
    match remedy {
        Some(remedy) => error.mend(remedy),
        None => error,
    }
}

/// What TLS says against a connection; rustls hands its errors on inside of those of the socket.
fn handshake_error(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref()) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn connection_error(doing: String, config: &PostgresConfig, error: tokio_postgres::Error) -> Error {
    let state = error.code().cloned();
    let message = error.as_db_error().map_or("", tokio_postgres::error::DbError::message);
    if is_from_pooler(message) {
        return Error::new(ErrorKind::Unsupported, doing).because(error).mend(POOLER_REMEDY);
    }
    if let Some((kind, mend)) = handshake_error(&error).map(tls_refusal).or_else(|| refused_by_driver(&error)) {
        return Error::new(kind, doing).because(error).mend(mend);
    }
    let is_about_certificate = message.contains("client certificate");
    let error = sql_error(doing, error);
    match state {
        // The server looks at a certificate when we hold the handshake for done, and may only close.
        None if config.tls.client_certificate.is_some() => {
            error.mend(format!("check that the server runs; where it closes the connection: {CERTIFICATE_REMEDY}"))
        }
        Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) if is_about_certificate => error.mend(CERTIFICATE_REMEDY),
        Some(SqlState::INVALID_PASSWORD) => error.mend("set database.password to the password of the role"),
        Some(SqlState::INVALID_AUTHORIZATION_SPECIFICATION) => error.mend(format!(
            "check database.user and pg_hba.conf; CREATE ROLE {} LOGIN REPLICATION PASSWORD '…';",
            quote_identifier(&config.user)
        )),
        Some(SqlState::INVALID_CATALOG_NAME) => error.mend("set database.dbname to a database of the server"),
        None => error.mend(UNREACHABLE_REMEDY),
        Some(_) => error,
    }
}

/// What no further try mends although the server has given no SQLSTATE. The driver (tokio-postgres 0.7) does not show the kinds of
/// its own errors, so their causes tell them apart.
fn refused_by_driver(error: &tokio_postgres::Error) -> Option<(ErrorKind, &'static str)> {
    let cause = error.source()?;
    match cause.to_string().as_str() {
        "server does not support TLS" => Some((ErrorKind::Misconfigured, TLS_REMEDY)),
        "password missing" => Some((ErrorKind::Unauthorised, PASSWORD_REMEDY)),
        text if text.starts_with("unsupported authentication method") || text.starts_with("unsupported SASL mechanism") => {
            Some((ErrorKind::Unsupported, METHOD_REMEDY))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_semicolons_are_one_that_separates_nothing() {
        assert_eq!(split_statements("SET a = 1; SET b = 2 ;"), ["SET a = 1", " SET b = 2 "]);
        assert_eq!(split_statements("DO $$ BEGIN x();; END $$;SELECT ';;'"), ["DO $$ BEGIN x(); END $$", "SELECT ';'"]);
        assert_eq!(split_statements(" ; "), Vec::<String>::new());
    }
}
