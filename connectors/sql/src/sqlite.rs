//! SQLite: rows travel as parameters of a multi-row `VALUES`.
//!
//! A statement's text depends on the number of its rows. A set of rows is therefore cut into pieces whose sizes have
//! at most four significant bits (500 is 480 and 20), so that few texts are prepared however batches vary in size.
//!
//! SQLite stores what it is given, by the affinity of the column. Decimals, times and dates are TEXT: a column of
//! affinity NUMERIC would turn `1.50` into the float 1.5 and `12345678901234567890` into 1.2345678901234567e19, and
//! a copy could no longer be compared with its source. A float that is not a number would be stored as NULL; it is
//! stored as the text `NaN`, which no affinity changes.

use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteRow, SqliteSynchronous};
use sqlx::{Arguments as _, AssertSqlSafe, ConnectOptions as _, Connection as _, Row as _, TypeInfo as _, ValueRef as _};
use std::time::{Duration, Instant};
use tailwater_api::value::Value;
use tailwater_api::{Error, ErrorKind};
use tailwater_kit::merge::Row;
use tokio::time::sleep;

use crate::catalog::Table;
use crate::column_type::ColumnType;
use crate::datum::{self, Datum, hexadecimal};
use crate::dialect::{Action, Dialect, Statement, TableColumn, quoted_text};
use crate::failure::{Failure, Meaning, driver_meaning};
use crate::target_url::Target;

/// `SQLITE_MAX_VARIABLE_NUMBER` of SQLite since 3.32.
const MOST_PARAMETERS: usize = 32_766;
/// Beyond this a longer statement gains nothing.
const MOST_ROWS: usize = 512;
const PREPARED_STATEMENTS: usize = 512;
/// What mends a file or directory that cannot be written to.
pub(crate) const RIGHTS: &str = "give the user of this process the right to write to the file and to its directory (chmod, chown)";
/// How long a statement, and the opening, wait for another writer of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to open a file that is in use.
const OPEN_AGAIN: Duration = Duration::from_millis(20);

/// One connection to a file.
pub(crate) struct Sqlite(SqliteConnection);

impl Sqlite {
    fn in_use(error: &sqlx::Error) -> bool {
        matches!(Self::meaning(error), Meaning::Other(ErrorKind::Throttled))
    }

    /// Runs `sql`, made for a number of rows, over pieces of `rows`; returns the sum of what `run` returns.
    async fn in_pieces(
        &mut self,
        columns: &[usize],
        rows: &[&Row<Datum>],
        sql: impl Fn(&str) -> String + Send,
        counts: bool,
    ) -> Result<u64, sqlx::Error> {
        let most = (MOST_PARAMETERS / columns.len().max(1)).clamp(1, MOST_ROWS);
        let (mut rest, mut sum) = (rows, 0);
        while !rest.is_empty() {
            let size = piece_size(rest.len(), most);
            let (piece, tail) = rest.split_at(size);
            rest = tail;
            let row = format!("({})", vec!["?"; columns.len()].join(", "));
            let statement = sql(&vec![row; size].join(", "));
            let mut arguments = SqliteArguments::default();
            arguments.reserve(size * columns.len(), 0);
            for row in piece {
                for place in columns {
                    add(&mut arguments, row[*place].known().unwrap_or(&Datum::Null))?;
                }
            }
            let query = sqlx::query_with(AssertSqlSafe(statement), arguments);
            sum += if counts {
                query.fetch_one(&mut self.0).await?.try_get::<i64, _>(0)?.unsigned_abs()
            } else {
                query.execute(&mut self.0).await?.rows_affected()
            };
        }
        Ok(sum)
    }
}

/// The largest number of rows with four significant bits, at most `most`.
fn piece_size(rows: usize, most: usize) -> usize {
    if rows >= most {
        return most;
    }
    let cut = rows.max(1).ilog2().saturating_sub(3);
    rows >> cut << cut
}

/// Says that a row of `target` has the key of a row of `v`.
fn key_matches(names: &[String], key: usize) -> String {
    let pairs = names.iter().take(key).enumerate();
    pairs.map(|(number, name)| format!("target.{name} = v.column{}", number + 1)).collect::<Vec<_>>().join(" AND ")
}

impl Dialect for Sqlite {
    const BEGIN: &'static str = "BEGIN IMMEDIATE";
    const WAIT_FOR_WRITERS: &'static str = "";
    const LONGEST_NAME: Option<usize> = None;

    /// Names compare without regard to case and keep theirs.
    fn folded(name: &str) -> String {
        name.to_owned()
    }

    fn same_name(one: &str, two: &str) -> bool {
        one.eq_ignore_ascii_case(two)
    }

    /// A file has no schemas.
    fn table_name(name: &str) -> (Option<&str>, &str) {
        (None, name)
    }

    fn type_name(kind: &ColumnType) -> String {
        match kind {
            ColumnType::Boolean => "BOOLEAN",
            ColumnType::Int16 | ColumnType::Int32 | ColumnType::Int64 | ColumnType::Duration => "INTEGER",
            ColumnType::Float32 | ColumnType::Float64 => "REAL",
            ColumnType::Bytes | ColumnType::Bits(_) => "BLOB",
            ColumnType::Text
            | ColumnType::Decimal { .. }
            | ColumnType::VariableScaleDecimal { .. }
            | ColumnType::Date
            | ColumnType::Time(_)
            | ColumnType::Timestamp(_)
            | ColumnType::ZonedTimestamp
            | ColumnType::ZonedTime
            | ColumnType::Interval
            | ColumnType::Json { .. }
            | ColumnType::Uuid
            | ColumnType::Xml
            | ColumnType::Native(_)
            | ColumnType::Point { .. }
            | ColumnType::Array(_)
            | ColumnType::Structured(_)
            | ColumnType::Schemaless => "TEXT",
        }
        .to_owned()
    }

    fn datum(kind: &ColumnType, value: &Value) -> Result<Datum, String> {
        match (kind, value) {
            (ColumnType::Array(_), Value::Array(_)) => Ok(array(kind, value)?.to_string().into()),
            (ColumnType::Point { x, y }, value) => datum::point(*x, *y, value),
            (kind, value) => datum::datum(kind, value),
        }
    }

    fn literal(datum: &Datum) -> String {
        match datum {
            Datum::Null => "NULL".to_owned(),
            Datum::Boolean(value) => u8::from(*value).to_string(),
            Datum::Integer(value) => value.to_string(),
            Datum::Float32(value) if value.is_finite() => format!("{value:?}"),
            Datum::Float64(value) if value.is_finite() => format!("{value:?}"),
            Datum::Bytes(bytes) => format!("X'{}'", hexadecimal(bytes)),
            Datum::Float32(_) | Datum::Float64(_) | Datum::Text(_) => quoted_text(&datum.text().expect("none of the three is null")),
        }
    }

    fn truncate(table: &str) -> String {
        format!("DELETE FROM {table}")
    }

    fn add_columns(table: &str, columns: &[String]) -> Vec<String> {
        columns.iter().map(|column| format!("ALTER TABLE {table} ADD COLUMN {column}")).collect()
    }

    /// Result codes (sqlite.org/rescode.html); the lowest byte is the primary one.
    fn meaning(error: &sqlx::Error) -> Meaning {
        if let Some(meaning) = driver_meaning(error) {
            return meaning;
        }
        let Some(error) = error.as_database_error() else { return Meaning::Other(ErrorKind::Bug) };
        let code = error.code().and_then(|code| code.parse::<i32>().ok()).unwrap_or_default();
        let message = error.message();
        match code & 0xff {
            1 if message.contains("no such table") || message.contains("no such column") || message.contains("no column named") => {
                Meaning::Shape
            }
            1 if message.contains("already exists") || message.contains("duplicate column name") => Meaning::Exists,
            1 if message.contains("ON CONFLICT clause does not match") => Meaning::Other(ErrorKind::Missing),
            1 if message.contains("syntax error") => Meaning::Other(ErrorKind::Bug),
            3 | 8 | 23 => Meaning::Other(ErrorKind::Unauthorised),
            5 | 6 | 7 | 17 => Meaning::Other(ErrorKind::Throttled),
            9 => Meaning::Other(ErrorKind::TimedOut),
            10 => Meaning::Other(ErrorKind::Unreachable),
            11 | 26 => Meaning::Other(ErrorKind::Unreadable),
            13 => Meaning::Full,
            14 => Meaning::Other(ErrorKind::Missing),
            18..=20 => Meaning::Data,
            _ => Meaning::Other(ErrorKind::Unsupported),
        }
    }

    fn grant(&self, _: &sqlx::Error, _: &str) -> String {
        RIGHTS.to_owned()
    }

    async fn connect(target: &Target) -> Result<Self, Error> {
        let Target::Sqlite(path) = target else {
            return Err(Error::new(ErrorKind::Bug, "open SQLite with another target"));
        };
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // Without FULL a commit in WAL mode may be lost with the power.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(PREPARED_STATEMENTS)
            .disable_statement_logging();
        // The change of a new file to WAL mode asks for the file alone and does not wait for it, whatever busy_timeout says
        // (sqlite.org/wal.html, "Sometimes Queries Return SQLITE_BUSY In WAL Mode").
        let deadline = Instant::now() + BUSY_TIMEOUT;
        let connected = loop {
            match options.connect().await {
                Err(cause) if Self::in_use(&cause) && Instant::now() < deadline => sleep(OPEN_AGAIN).await,
                connected => break connected,
            }
        };
        connected.map(Self).map_err(|cause| {
            let failure = Failure::database(Self::meaning(&cause), format!("open the SQLite file {}", path.display()), cause);
            match failure.meaning {
                Meaning::Other(ErrorKind::Missing) => {
                    failure.mend(format!("create its directory, or name another path in connection.url; {RIGHTS}")).error
                }
                Meaning::Other(ErrorKind::Unreadable) => failure.mend("the file is no SQLite database; name another path").error,
                Meaning::Other(ErrorKind::Unauthorised) => failure.mend(RIGHTS).error,
                Meaning::Data | Meaning::Shape | Meaning::Exists | Meaning::Full | Meaning::Other(_) => failure.error,
            }
        })
    }

    async fn execute(&mut self, sql: &str, parameters: &[Datum]) -> Result<u64, sqlx::Error> {
        let done = if parameters.is_empty() {
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut self.0).await?
        } else {
            sqlx::query_with(AssertSqlSafe(sql), scalars(parameters)?).execute(&mut self.0).await?
        };
        Ok(done.rows_affected())
    }

    async fn query(&mut self, sql: &str, parameters: &[Datum]) -> Result<Vec<Vec<Datum>>, sqlx::Error> {
        let rows = sqlx::query_with(AssertSqlSafe(sql), scalars(parameters)?).fetch_all(&mut self.0).await?;
        rows.iter().map(|row| (0..row.len()).map(|place| read(row, place)).collect()).collect()
    }

    async fn columns(&mut self, table: &Table) -> Result<Vec<TableColumn>, sqlx::Error> {
        // hidden is 0 for columns that can be written to.
        let rows =
            self.query("SELECT name FROM pragma_table_xinfo($1) WHERE hidden = 0 ORDER BY cid", &[table.name.clone().into()]).await?;
        let name = |row: Vec<Datum>| match row.into_iter().next() {
            Some(Datum::Text(name)) => Some(TableColumn { name: name.to_string(), type_name: String::new() }),
            _ => None,
        };
        Ok(rows.into_iter().filter_map(name).collect())
    }

    async fn write(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> Result<u64, sqlx::Error> {
        let (table, names) = (statement.table.quoted(), statement.names());
        let matches = key_matches(&names, statement.key);
        let sql = |values: &str| match statement.action {
            Action::Insert => format!("INSERT INTO {table} ({}) VALUES {values}", names.join(", ")),
            Action::Upsert => format!("INSERT INTO {table} ({}) VALUES {values}{}", names.join(", "), statement.on_conflict()),
            Action::Update => {
                let set = names.iter().enumerate().skip(statement.key).map(|(number, name)| format!("{name} = v.column{}", number + 1));
                let set = set.collect::<Vec<_>>().join(", ");
                format!("UPDATE {table} AS target SET {set} FROM (VALUES {values}) AS v WHERE {matches}")
            }
            Action::Delete => format!("DELETE FROM {table} WHERE ({}) IN (VALUES {values})", names.join(", ")),
        };
        self.in_pieces(statement.columns, rows, sql, false).await
    }

    async fn count_missing(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> Result<u64, sqlx::Error> {
        let (table, matches) = (statement.table.quoted(), key_matches(&statement.names(), statement.key));
        let sql = |values: &str| {
            format!("SELECT count(*) FROM (VALUES {values}) AS v WHERE NOT EXISTS (SELECT 1 FROM {table} AS target WHERE {matches})")
        };
        self.in_pieces(statement.columns, rows, sql, true).await
    }

    async fn close(self) {
        // All that was reported is durable; a checkpoint that fails is made by the next connection.
        let _ = self.0.close().await;
    }
}

fn scalars(parameters: &[Datum]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    parameters.iter().try_for_each(|parameter| add(&mut arguments, parameter))?;
    Ok(arguments)
}

fn add(arguments: &mut SqliteArguments, value: &Datum) -> Result<(), sqlx::Error> {
    let added = match value {
        Datum::Null => arguments.add(None::<i64>),
        Datum::Boolean(value) => arguments.add(i64::from(*value)),
        Datum::Integer(value) => arguments.add(*value),
        Datum::Float32(value) if !value.is_nan() => arguments.add(f64::from(*value)),
        Datum::Float64(value) if !value.is_nan() => arguments.add(*value),
        Datum::Float32(_) | Datum::Float64(_) => arguments.add("NaN"),
        Datum::Text(text) => arguments.add(&**text),
        Datum::Bytes(bytes) => arguments.add(&**bytes),
    };
    added.map_err(sqlx::Error::Encode)
}

fn read(row: &SqliteRow, place: usize) -> Result<Datum, sqlx::Error> {
    let value = row.try_get_raw(place)?;
    if value.is_null() {
        return Ok(Datum::Null);
    }
    if value.type_info().name() == "INTEGER" {
        return Ok(Datum::Integer(row.try_get(place)?));
    }
    Ok(row.try_get::<String, _>(place)?.into())
}

/// An array as JSON: numbers that JSON holds exactly as numbers, everything else as the text of a column of its own.
fn array(kind: &ColumnType, value: &Value) -> Result<serde_json::Value, String> {
    if let (ColumnType::Array(element), Value::Array(values)) = (kind, value) {
        return Ok(values.iter().map(|value| array(element, value)).collect::<Result<Vec<_>, _>>()?.into());
    }
    Ok(match Sqlite::datum(kind, value)? {
        Datum::Null => serde_json::Value::Null,
        Datum::Boolean(value) => value.into(),
        Datum::Integer(value) => value.into(),
        Datum::Text(text) => (&*text).into(),
        Datum::Float32(_) | Datum::Float64(_) | Datum::Bytes(_) => datum::json(None, value)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_few_and_of_few_sizes() {
        let pieces = |mut rows: usize| {
            let mut sizes = Vec::new();
            while rows > 0 {
                sizes.push(piece_size(rows, MOST_ROWS));
                rows -= sizes[sizes.len() - 1];
            }
            sizes
        };
        assert_eq!(pieces(500), [480, 20]);
        assert_eq!(pieces(1100), [512, 512, 72, 4]);
        let distinct: std::collections::HashSet<_> = (1..5000).flat_map(pieces).collect();
        assert!(distinct.len() < 70, "{}", distinct.len());
    }
}
