//! PostgreSQL: rows travel as one array for each column and are taken apart by `UNNEST`.
//!
//! So a statement's text does not depend on the number of its rows, is prepared once for each set of columns, and
//! never meets the limit of 65,535 parameters. Integers, floats, booleans and bytes travel in binary; everything
//! else travels as text and is cast to the type of the column, which is exact for every type: numeric of any size,
//! infinite timestamps, years before Christ. The cast names the type without its length, because `CAST` cuts a text
//! to its length in silence where an assignment refuses it.
//!
//! **A server that falls silent.** A host that vanishes after it has acknowledged a statement sends nothing more, not
//! even the end of the connection, and the driver gives its sockets neither keepalives nor a limit. So connecting and
//! every answer have a limit here. A connection whose answer did not come is never used again: what it was told last
//! may still happen, and the writer looks that up over a new one (I12).

use std::io;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgRow, PgSslMode};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _, ValueRef as _};
use tailwater_api::value::Value;
use tailwater_api::{Error, ErrorKind};
use tailwater_kit::merge::Row;
use tokio::time::timeout;

use crate::catalog::Table;
use crate::column_type::ColumnType;
use crate::datum::{self, Datum, hexadecimal, unfit};
use crate::dialect::{Action, Dialect, Statement, TableColumn, quoted, quoted_text};
use crate::failure::{Failure, Meaning, driver_meaning};
use crate::target_url::{PostgresTarget, Target};
use crate::temporal::with_era;

/// Statements kept prepared; each table needs a few.
const PREPARED_STATEMENTS: usize = 512;

/// One connection to PostgreSQL.
pub(crate) struct Postgres {
    connection: PgConnection,
    patience: Patience,
    /// Whose rights count
    user: String,
}

/// How long answers are waited for.
struct Patience {
    limit: Duration,
    /// An answer did not come, so the connection is between two messages of its protocol.
    lost: bool,
}

impl Patience {
    async fn wait<T>(&mut self, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        if self.lost {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "an earlier answer of the server did not come").into());
        }
        match timeout(self.limit, answer).await {
            Ok(answered) => answered,
            Err(_) => {
                self.lost = true;
                Err(silence(self.limit, "socketTimeout"))
            }
        }
    }
}

fn silence(limit: Duration, parameter: &str) -> sqlx::Error {
    let cause = format!("the server did not answer within {} s ({parameter} of connection.url)", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, cause).into()
}

/// How the values of a column travel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lane {
    Boolean,
    Integer,
    Float,
    Bytes,
    Text,
}

impl Lane {
    /// The lane of a column's type, if all its values fit; text otherwise.
    fn choose<'a>(type_name: &str, mut values: impl Iterator<Item = &'a Datum>) -> Self {
        let lane = match type_name {
            "boolean" => Self::Boolean,
            "smallint" | "integer" | "bigint" => Self::Integer,
            "real" | "double precision" => Self::Float,
            "bytea" => Self::Bytes,
            _ => return Self::Text,
        };
        let fits = values.all(|value| match value {
            Datum::Null => true,
            Datum::Boolean(_) => lane == Self::Boolean,
            Datum::Integer(_) => lane == Self::Integer,
            Datum::Float32(_) | Datum::Float64(_) => lane == Self::Float,
            Datum::Bytes(_) => lane == Self::Bytes,
            Datum::Text(_) => false,
        });
        if fits { lane } else { Self::Text }
    }

    fn array(self) -> &'static str {
        match self {
            Self::Boolean => "bool[]",
            Self::Integer => "int8[]",
            Self::Float => "float8[]",
            Self::Bytes => "bytea[]",
            Self::Text => "text[]",
        }
    }

    fn bind<'a>(self, arguments: &mut PgArguments, values: impl Iterator<Item = &'a Datum>) -> Result<(), sqlx::Error> {
        let added = match self {
            Self::Boolean => arguments.add(values.map(boolean).collect::<Vec<_>>()),
            Self::Integer => arguments.add(values.map(integer).collect::<Vec<_>>()),
            Self::Float => arguments.add(values.map(float).collect::<Vec<_>>()),
            Self::Bytes => arguments.add(values.map(octets).collect::<Vec<_>>()),
            Self::Text => arguments.add(values.map(Datum::text).collect::<Vec<_>>()),
        };
        added.map_err(sqlx::Error::Encode)
    }
}

// `Lane::choose` has seen that nothing but null and the named kind is among the values.
fn boolean(value: &Datum) -> Option<bool> {
    if let Datum::Boolean(value) = value { Some(*value) } else { None }
}

fn integer(value: &Datum) -> Option<i64> {
    if let Datum::Integer(value) = value { Some(*value) } else { None }
}

fn float(value: &Datum) -> Option<f64> {
    match value {
        Datum::Float32(value) => Some((*value).into()),
        Datum::Float64(value) => Some(*value),
        Datum::Null | Datum::Boolean(_) | Datum::Integer(_) | Datum::Text(_) | Datum::Bytes(_) => None,
    }
}

fn octets(value: &Datum) -> Option<&[u8]> {
    if let Datum::Bytes(value) = value { Some(value) } else { None }
}

/// The rows as a table `v` with the columns `c0`, `c1` …, and the expressions that read them.
struct Source {
    table: String,
    values: Vec<String>,
    arguments: PgArguments,
}

impl Source {
    fn of(statement: &Statement<'_>, rows: &[&Row<Datum>]) -> Result<Self, sqlx::Error> {
        let mut arguments = PgArguments::default();
        let (mut arrays, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (number, place) in statement.columns.iter().enumerate() {
            let type_name = &statement.table.columns[*place].type_name;
            let column = || rows.iter().map(|row| row[*place].known().unwrap_or(&Datum::Null));
            let lane = Lane::choose(type_name, column());
            lane.bind(&mut arguments, column())?;
            arrays.push(format!("${}::{}", number + 1, lane.array()));
            names.push(format!("c{number}"));
            values.push(format!("CAST(v.c{number} AS {type_name})"));
        }
        Ok(Self { table: format!("UNNEST({}) AS v({})", arrays.join(", "), names.join(", ")), values, arguments })
    }

    /// Says that a row of `target` has the key of a row of `v`.
    fn key_matches(&self, names: &[String], key: usize) -> String {
        let pairs = names.iter().zip(&self.values).take(key);
        pairs.map(|(name, value)| format!("target.{name} = {value}")).collect::<Vec<_>>().join(" AND ")
    }
}

impl Dialect for Postgres {
    const BEGIN: &'static str = "BEGIN";
    const WAIT_FOR_WRITERS: &'static str = " FOR UPDATE";
    const LONGEST_NAME: Option<usize> = Some(63);

    fn folded(name: &str) -> String {
        name.to_lowercase()
    }

    fn same_name(one: &str, two: &str) -> bool {
        one == two
    }

    /// The last two parts: a connection sees one database.
    fn table_name(name: &str) -> (Option<&str>, &str) {
        match name.rsplit_once('.') {
            Some((schema, table)) => (Some(schema.rsplit_once('.').map_or(schema, |(_, schema)| schema)), table),
            None => (None, name),
        }
    }

    fn type_name(kind: &ColumnType) -> String {
        match kind {
            ColumnType::Boolean => "boolean",
            ColumnType::Int16 => "smallint",
            ColumnType::Int32 => "integer",
            ColumnType::Int64 => "bigint",
            ColumnType::Float32 => "real",
            ColumnType::Float64 => "double precision",
            ColumnType::Text | ColumnType::Schemaless => "text",
            ColumnType::Bytes => "bytea",
            ColumnType::Decimal { precision: Some(precision), scale }
                if (1..=1000).contains(precision) && u32::try_from(*scale).is_ok_and(|scale| scale <= *precision) =>
            {
                return format!("numeric({precision},{scale})");
            }
            // Without a precision from the source only an unlimited numeric loses nothing.
            ColumnType::Decimal { .. } | ColumnType::VariableScaleDecimal { .. } => "numeric",
            ColumnType::Date => "date",
            ColumnType::Time(_) => "time",
            ColumnType::Timestamp(_) => "timestamp",
            ColumnType::ZonedTimestamp => "timestamptz",
            ColumnType::ZonedTime => "timetz",
            ColumnType::Duration | ColumnType::Interval => "interval",
            ColumnType::Json { binary: false } => "json",
            ColumnType::Json { binary: true } | ColumnType::Structured(_) => "jsonb",
            ColumnType::Uuid => "uuid",
            ColumnType::Xml => "xml",
            ColumnType::Native(name) => name,
            ColumnType::Bits(Some(length)) => return format!("bit({length})"),
            ColumnType::Bits(None) => "bit varying",
            ColumnType::Point { .. } => "point",
            // An array of arrays is of the same type: PostgreSQL does not count dimensions.
            ColumnType::Array(element) => {
                let element = Self::type_name(element);
                return if element.ends_with("[]") { element } else { format!("{element}[]") };
            }
        }
        .to_owned()
    }

    fn datum(kind: &ColumnType, value: &Value) -> Result<Datum, String> {
        match (kind, value) {
            (ColumnType::Array(element), Value::Array(values)) => {
                let mut text = String::new();
                append_array(element, values, &mut text)?;
                Ok(text.into())
            }
            (ColumnType::Point { x, y }, value) => datum::point(*x, *y, value),
            (ColumnType::ZonedTimestamp, Value::String(text)) => Ok(with_era(text).into()),
            (ColumnType::Duration, value) if !value.is_null() => {
                Ok(format!("{} microseconds", value.as_integer().ok_or_else(|| unfit(kind, value))?).into())
            }
            (ColumnType::Bits(length), Value::Bytes(bytes)) => Ok(bit_string(*length, bytes).into()),
            (kind, value) => datum::datum(kind, value),
        }
    }

    fn literal(datum: &Datum) -> String {
        match datum {
            Datum::Null => "NULL".to_owned(),
            Datum::Boolean(value) => value.to_string(),
            Datum::Integer(value) => value.to_string(),
            Datum::Bytes(bytes) => format!("'\\x{}'", hexadecimal(bytes)),
            Datum::Float32(_) | Datum::Float64(_) | Datum::Text(_) => quoted_text(&datum.text().expect("none of the three is null")),
        }
    }

    fn truncate(table: &str) -> String {
        format!("TRUNCATE TABLE {table}")
    }

    fn add_columns(table: &str, columns: &[String]) -> Vec<String> {
        let added: Vec<String> = columns.iter().map(|column| format!("ADD COLUMN IF NOT EXISTS {column}")).collect();
        vec![format!("ALTER TABLE {table} {}", added.join(", "))]
    }

    /// SQLSTATE (PostgreSQL 15, appendix A).
    fn meaning(error: &sqlx::Error) -> Meaning {
        if let Some(meaning) = driver_meaning(error) {
            return meaning;
        }
        let code = error.as_database_error().and_then(|error| error.code().map(std::borrow::Cow::into_owned)).unwrap_or_default();
        match code.as_str() {
            // Undefined table, column or schema; a type that an ALTER changed under a prepared statement.
            "42P01" | "42703" | "3F000" | "42804" => Meaning::Shape,
            "42P07" | "42701" | "42710" => Meaning::Exists,
            "53100" => Meaning::Full,
            "42501" => Meaning::Other(ErrorKind::Unauthorised),
            // No unique constraint for ON CONFLICT; no such database; no such type.
            "42P10" | "3D000" | "42704" => Meaning::Other(ErrorKind::Missing),
            "57014" | "25P03" => Meaning::Other(ErrorKind::TimedOut),
            "55P03" | "55006" => Meaning::Other(ErrorKind::Throttled),
            // A server that became a standby, or is being shut down.
            "25006" => Meaning::Other(ErrorKind::Restarting),
            "42846" | "42883" | "0A000" | "428C9" => Meaning::Other(ErrorKind::Misconfigured),
            "42601" => Meaning::Other(ErrorKind::Bug),
            code => match code.get(..2).unwrap_or_default() {
                // Data exceptions, constraints, a key twice in one statement, limits, checks, exceptions of triggers.
                "22" | "23" | "21" | "54" | "44" | "P0" => Meaning::Data,
                "08" => Meaning::Other(ErrorKind::Unreachable),
                "28" => Meaning::Other(ErrorKind::Unauthorised),
                "40" | "53" => Meaning::Other(ErrorKind::Throttled),
                "57" => Meaning::Other(ErrorKind::Restarting),
                _ => Meaning::Other(ErrorKind::Unsupported),
            },
        }
    }

    fn grant(&self, error: &sqlx::Error, table: &str) -> String {
        let user = quoted(&self.user);
        let message = error.as_database_error().map(sqlx::error::DatabaseError::message).unwrap_or_default();
        if let Some(schema) = message.strip_prefix("permission denied for schema ") {
            format!("GRANT USAGE, CREATE ON SCHEMA {} TO {user}", quoted(schema))
        } else if message.starts_with("must be owner of") {
            format!("ALTER TABLE {table} OWNER TO {user}")
        } else {
            format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {table} TO {user}")
        }
    }

    async fn connect(target: &Target) -> Result<Self, Error> {
        let Target::Postgres(target) = target else {
            return Err(Error::new(ErrorKind::Bug, "connect to PostgreSQL with another target"));
        };
        let user = target.user.as_deref().unwrap_or("the system's user");
        let doing = format!("connect to PostgreSQL at {}:{} as {user}", target.host, target.port);
        let connected = timeout(target.connect_limit, options(target).connect()).await;
        let mut connection = connected.unwrap_or_else(|_| Err(silence(target.connect_limit, "connectTimeout"))).map_err(|cause| {
            let meaning = Self::meaning(&cause);
            Failure::database(meaning, &*doing, cause).error.mend(match meaning {
                Meaning::Other(ErrorKind::Unauthorised) => "check connection.username, connection.password and pg_hba.conf",
                Meaning::Other(ErrorKind::Missing) => "CREATE DATABASE, or name another one in connection.url",
                Meaning::Data | Meaning::Shape | Meaning::Exists | Meaning::Full | Meaning::Other(_) => {
                    "check connection.url and that the server runs"
                }
            })
        })?;
        // Durable means durable, whatever the server's default is. The open transaction of a client that vanished holds
        // the locks of its positions, so the server is to notice within a minute; nobody waits for a lock in silence.
        let session = "SET standard_conforming_strings = on; SET DateStyle = 'ISO, MDY'; SET TimeZone = 'UTC'; SET lock_timeout = '30s'; \
             SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3; \
             SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
        let set_up = async {
            sqlx::raw_sql(session).execute(&mut connection).await?;
            sqlx::query_scalar("SELECT current_user::text").fetch_one(&mut connection).await
        };
        let mut patience = Patience { limit: target.answer_limit, lost: false };
        let user = patience.wait(set_up).await.map_err(|cause| Failure::database(Self::meaning(&cause), doing, cause).error)?;
        Ok(Self { connection, patience, user })
    }

    async fn execute(&mut self, sql: &str, parameters: &[Datum]) -> Result<u64, sqlx::Error> {
        let done = if parameters.is_empty() {
            self.patience.wait(sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.connection)).await?
        } else {
            let query = sqlx::query_with(AssertSqlSafe(sql), scalars(parameters)?);
            self.patience.wait(query.execute(&mut self.connection)).await?
        };
        Ok(done.rows_affected())
    }

    async fn query(&mut self, sql: &str, parameters: &[Datum]) -> Result<Vec<Vec<Datum>>, sqlx::Error> {
        let query = sqlx::query_with(AssertSqlSafe(sql), scalars(parameters)?);
        let rows = self.patience.wait(query.fetch_all(&mut self.connection)).await?;
        rows.iter().map(|row| (0..row.len()).map(|place| read(row, place)).collect()).collect()
    }

    async fn columns(&mut self, table: &Table) -> Result<Vec<TableColumn>, sqlx::Error> {
        // to_regclass finds the table as a statement would; generated columns cannot be written to.
        let sql = "SELECT a.attname::text, format_type(a.atttypid, -1)::text FROM pg_attribute a \
                   WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum";
        let rows = self.query(sql, &[table.quoted().into()]).await?;
        Ok(rows.into_iter().filter_map(table_column).collect())
    }

    async fn write(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> Result<u64, sqlx::Error> {
        let source = Source::of(statement, rows)?;
        let (table, names) = (statement.table.quoted(), statement.names());
        let insert = || {
            let values = source.values.join(", ");
            // OVERRIDING SYSTEM VALUE: an identity column of the target takes the source's value.
            format!("INSERT INTO {table} ({}) OVERRIDING SYSTEM VALUE SELECT {values} FROM {}", names.join(", "), source.table)
        };
        let matches = source.key_matches(&names, statement.key);
        let sql = match statement.action {
            Action::Insert => insert(),
            Action::Upsert => insert() + &statement.on_conflict(),
            Action::Update => {
                let set: Vec<String> =
                    names.iter().zip(&source.values).skip(statement.key).map(|(name, value)| format!("{name} = {value}")).collect();
                format!("UPDATE {table} AS target SET {} FROM {} WHERE {matches}", set.join(", "), source.table)
            }
            Action::Delete => format!("DELETE FROM {table} AS target USING {} WHERE {matches}", source.table),
        };
        let query = sqlx::query_with(AssertSqlSafe(sql), source.arguments);
        Ok(self.patience.wait(query.execute(&mut self.connection)).await?.rows_affected())
    }

    async fn count_missing(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> Result<u64, sqlx::Error> {
        let source = Source::of(statement, rows)?;
        let sql = format!(
            "SELECT count(*) FROM {} WHERE NOT EXISTS (SELECT 1 FROM {} AS target WHERE {})",
            source.table,
            statement.table.quoted(),
            source.key_matches(&statement.names(), statement.key)
        );
        let query = sqlx::query_with(AssertSqlSafe(sql), source.arguments);
        let row = self.patience.wait(query.fetch_one(&mut self.connection)).await?;
        Ok(row.try_get::<i64, _>(0)?.unsigned_abs())
    }

    async fn close(mut self) {
        // The server ends the session by itself when a farewell cannot be sent.
        let _ = self.patience.wait(self.connection.close()).await;
    }
}

fn options(target: &PostgresTarget) -> PgConnectOptions {
    let mut options = PgConnectOptions::new()
        .host(&target.host)
        .port(target.port)
        .application_name(target.application_name.as_deref().unwrap_or("tailwater"))
        .statement_cache_capacity(PREPARED_STATEMENTS)
        .disable_statement_logging();
    if let Some(database) = &target.database {
        options = options.database(database);
    }
    if let Some(user) = &target.user {
        options = options.username(user);
    }
    if let Some(password) = &target.password {
        options = options.password(password.expose());
    }
    if let Some(mode) = &target.ssl_mode {
        options = options.ssl_mode(match mode.as_str() {
            "disable" => PgSslMode::Disable,
            "allow" => PgSslMode::Allow,
            "require" => PgSslMode::Require,
            "verify-ca" => PgSslMode::VerifyCa,
            "verify-full" => PgSslMode::VerifyFull,
            _ => PgSslMode::Prefer,
        });
    }
    if let Some(path) = &target.ssl_root_certificate {
        options = options.ssl_root_cert(path);
    }
    if let Some(path) = &target.ssl_certificate {
        options = options.ssl_client_cert(path);
    }
    if let Some(path) = &target.ssl_key {
        options = options.ssl_client_key(path);
    }
    if let Some(search_path) = &target.search_path {
        options = options.options([("search_path", search_path)]);
    }
    options
}

fn scalars(parameters: &[Datum]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for parameter in parameters {
        let added = match parameter {
            Datum::Integer(value) => arguments.add(value),
            other => arguments.add(other.text()),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

fn read(row: &PgRow, place: usize) -> Result<Datum, sqlx::Error> {
    let value = row.try_get_raw(place)?;
    if value.is_null() {
        return Ok(Datum::Null);
    }
    if value.type_info().name() == "INT8" {
        return Ok(Datum::Integer(row.try_get(place)?));
    }
    Ok(row.try_get::<String, _>(place)?.into())
}

fn table_column(row: Vec<Datum>) -> Option<TableColumn> {
    match <[Datum; 2]>::try_from(row) {
        Ok([Datum::Text(name), Datum::Text(type_name)]) => Some(TableColumn { name: name.to_string(), type_name: type_name.to_string() }),
        _ => None,
    }
}

/// An array literal (PostgreSQL 15, 8.15.2); every element is quoted, which is right for every type.
fn append_array(element: &ColumnType, values: &[Value], text: &mut String) -> Result<(), String> {
    text.push('{');
    for (number, value) in values.iter().enumerate() {
        if number > 0 {
            text.push(',');
        }
        if let (ColumnType::Array(inner), Value::Array(values)) = (element, value) {
            append_array(inner, values, text)?;
            continue;
        }
        match Postgres::datum(element, value)?.text() {
            None => text.push_str("NULL"),
            Some(value) => {
                text.push('"');
                for character in value.chars() {
                    if matches!(character, '"' | '\\') {
                        text.push('\\');
                    }
                    text.push(character);
                }
                text.push('"');
            }
        }
    }
    text.push('}');
    Ok(())
}

/// Debezium's little-endian bytes as a bit string, most significant bit first. Of a varying length only the digits
/// from the first 1 on are known.
fn bit_string(length: Option<u32>, bytes: &[u8]) -> String {
    let bit = |place: usize| bytes.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1);
    let length = match length {
        Some(length) => length as usize,
        None => (0..bytes.len() * 8).rev().find(|place| bit(*place)).map_or(0, |place| place + 1),
    };
    (0..length).rev().map(|place| if bit(place) { '1' } else { '0' }).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn arrays_quote_their_elements_and_nest() {
        let kind = ColumnType::Array(Arc::new(ColumnType::Text));
        let value = Value::Array(vec!["a\"b\\c".into(), Value::Null, "NULL".into()].into());
        assert_eq!(Postgres::datum(&kind, &value).unwrap(), r#"{"a\"b\\c",NULL,"NULL"}"#.to_owned().into());
        let nested = ColumnType::Array(Arc::new(ColumnType::Array(Arc::new(ColumnType::Int32))));
        let row = || Value::Array(vec![Value::Int32(1), Value::Int32(2)].into());
        assert_eq!(
            Postgres::datum(&nested, &Value::Array(vec![row(), row()].into())).unwrap(),
            r#"{{"1","2"},{"1","2"}}"#.to_owned().into()
        );
        assert_eq!(Postgres::type_name(&nested), "integer[]");
    }

    #[test]
    fn bits_stand_most_significant_first() {
        assert_eq!(bit_string(Some(9), &[0xff, 0x01]), "111111111");
        assert_eq!(bit_string(Some(2), &[]), "00");
        assert_eq!(bit_string(None, &[0x55, 0x15]), "1010101010101");
    }

    #[test]
    fn table_names_have_at_most_a_schema() {
        assert_eq!(Postgres::table_name("orders"), (None, "orders"));
        assert_eq!(Postgres::table_name("shop.public.orders"), (Some("public"), "orders"));
    }
}
