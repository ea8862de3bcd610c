//! What differs between databases: names, types, literals, the form of set-based statements, errors.
//!
//! A dialect is one connection. Everything above it (catalog, offsets, writer) speaks the SQL that all of them
//! share: numbered parameters `$1`, savepoints, `ON CONFLICT`, `UPDATE … FROM`, and `column1`, `column2` … as the
//! names of the columns of `VALUES`.

use tailwater_api::Error;
use tailwater_api::value::Value;
use tailwater_kit::merge::Row;

use crate::catalog::Table;
use crate::column_type::ColumnType;
use crate::datum::Datum;
use crate::failure::Meaning;
use crate::target_url::Target;

/// A column of an existing table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TableColumn {
    /// Name as the catalog has it
    pub(crate) name: String,
    /// Type to cast to, without length or precision: a cast would cut in silence what an assignment refuses
    pub(crate) type_name: String,
}

/// What to do with a set of rows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    /// Insert the columns.
    Insert,
    /// Insert the columns, or update them where the key is there.
    Upsert,
    /// Update the columns where the key is there.
    Update,
    /// Remove the rows of the key.
    Delete,
}

/// A set-based statement over one table. The columns are places in [`Table::columns`]; those of the key come first.
pub(crate) struct Statement<'a> {
    pub(crate) action: Action,
    pub(crate) table: &'a Table,
    pub(crate) columns: &'a [usize],
    /// How many of the columns, from the first, are the key
    pub(crate) key: usize,
}

impl Statement<'_> {
    /// Quoted names of the columns, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        self.columns.iter().map(|place| quoted(&self.table.columns[*place].name)).collect()
    }

    /// What stands behind the rows of an upsert.
    pub(crate) fn on_conflict(&self) -> String {
        let names = self.names();
        let (key, rest) = names.split_at(self.key);
        if rest.is_empty() {
            return format!(" ON CONFLICT ({}) DO NOTHING", key.join(", "));
        }
        let set: Vec<String> = rest.iter().map(|name| format!("{name} = EXCLUDED.{name}")).collect();
        format!(" ON CONFLICT ({}) DO UPDATE SET {}", key.join(", "), set.join(", "))
    }
}

/// One connection to one kind of database.
pub(crate) trait Dialect: Send + Sized + 'static {
    /// Starts a transaction that writes.
    const BEGIN: &'static str;
    /// What makes a query wait for transactions that are changing its rows.
    const WAIT_FOR_WRITERS: &'static str;
    /// Longest name of a table or column, in bytes.
    const LONGEST_NAME: Option<usize>;

    /// The name that an identifier without quotes stands for.
    fn folded(name: &str) -> String;
    /// Whether two names are one to the database.
    fn same_name(one: &str, two: &str) -> bool;
    /// Parts the name of a table, as the format gives it, into schema and table.
    fn table_name(name: &str) -> (Option<&str>, &str);
    /// Type of a column to be created. Columns of a key may need another one.
    fn type_name(kind: &ColumnType) -> String;
    /// A value in the form that the database takes.
    fn datum(kind: &ColumnType, value: &Value) -> Result<Datum, String>;
    /// A value as a literal, for column defaults.
    fn literal(datum: &Datum) -> String;
    /// The statement that removes all rows of a table.
    fn truncate(table: &str) -> String;
    /// Statements that add columns; each element is `"name" type constraints`.
    fn add_columns(table: &str, columns: &[String]) -> Vec<String>;
    /// What a database's error means.
    fn meaning(error: &sqlx::Error) -> Meaning;
    /// The statement that gives this sink the right it lacks.
    fn grant(&self, error: &sqlx::Error, table: &str) -> String;

    /// Connects and sets the session up.
    fn connect(target: &Target) -> impl Future<Output = Result<Self, Error>> + Send;
    /// Runs a statement without a result; returns the number of rows that it touched.
    fn execute(&mut self, sql: &str, parameters: &[Datum]) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// Runs a query whose columns are all text or 64-bit integers.
    fn query(&mut self, sql: &str, parameters: &[Datum]) -> impl Future<Output = Result<Vec<Vec<Datum>>, sqlx::Error>> + Send;
    /// The columns of a table that rows can be written to; empty where there is no table.
    fn columns(&mut self, table: &Table) -> impl Future<Output = Result<Vec<TableColumn>, sqlx::Error>> + Send;
    /// Runs a set-based statement; returns the number of rows that it touched.
    fn write(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// How many of the keys have no row.
    fn count_missing(&mut self, statement: &Statement<'_>, rows: &[&Row<Datum>]) -> impl Future<Output = Result<u64, sqlx::Error>> + Send;
    /// Closes the connection.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// A name in double quotes (SQL:2016, delimited identifier).
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in single quotes.
pub(crate) fn quoted_text(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
