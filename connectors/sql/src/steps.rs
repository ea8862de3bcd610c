//! A merged step of one table as set-based statements.
//!
//! Rows of one statement know the same columns. The keys of puts and of patches are disjoint, so these may be grouped
//! in any order; appends keep theirs, and only neighbours share a statement.

use tailwater_api::{Error, ErrorKind, Scope};
use tailwater_kit::merge::{Row, Step};

use crate::catalog::Table;
use crate::config::{InsertMode, SqlConfig};
use crate::datum::Datum;
use crate::dialect::{Action, Dialect, Statement, quoted};
use crate::failure::{Failure, Meaning};

/// Applies a step. Returns the number of updates that found no row, where that is no error.
pub(crate) async fn apply<D: Dialect>(
    database: &mut D,
    config: &SqlConfig,
    table: &Table,
    key: &[usize],
    step: &Step<Datum>,
) -> Result<u64, Failure> {
    let mut without_row = 0;
    if step.truncate {
        let sql = D::truncate(&table.quoted());
        database.execute(&sql, &[]).await.map_err(|cause| failed(database, cause, "truncate", 0, table, key))?;
    }
    let deletes: Vec<&Row<Datum>> = step.deletes.iter().collect();
    write(database, config, Action::Delete, table, key, key, &deletes).await?;

    let upserts = config.insert_mode == InsertMode::Upsert;
    for (columns, rows) in by_columns(key, &step.puts) {
        if upserts {
            write(database, config, Action::Upsert, table, key, &columns, &rows).await?;
        } else {
            let touched = if columns.len() > key.len() {
                write(database, config, Action::Update, table, key, &columns, &rows).await?
            } else {
                rows.len() as u64
            };
            without_row += (rows.len() as u64).saturating_sub(touched);
        }
    }
    for (columns, rows) in by_columns(key, &step.patches) {
        check_rows_exist(database, config, table, key, &rows).await?;
        if columns.len() > key.len() {
            write(database, config, Action::Update, table, key, &columns, &rows).await?;
        }
    }
    for (columns, rows) in by_columns(key, &step.updates) {
        if columns.len() > key.len() {
            let touched = write(database, config, Action::Update, table, key, &columns, &rows).await?;
            without_row += (rows.len() as u64).saturating_sub(touched);
        }
    }
    // Appends keep their order: only neighbours with the same columns share a statement.
    let mut appends = &step.appends[..];
    while let Some(first) = appends.first() {
        let columns = known_columns(key, first);
        let alike = appends.iter().take_while(|row| known_columns(key, row) == columns).count();
        let (rows, rest) = appends.split_at(alike);
        write(database, config, Action::Insert, table, key, &columns, &rows.iter().collect::<Vec<_>>()).await?;
        appends = rest;
    }
    Ok(without_row)
}

async fn write<D: Dialect>(
    database: &mut D,
    config: &SqlConfig,
    action: Action,
    table: &Table,
    key: &[usize],
    columns: &[usize],
    rows: &[&Row<Datum>],
) -> Result<u64, Failure> {
    let statement = Statement { action, table, columns, key: key.len() };
    let mut touched = 0;
    for rows in rows.chunks(config.rows_per_statement) {
        let done = database.write(&statement, rows).await;
        touched += done.map_err(|cause| failed(database, cause, verb(action), rows.len(), table, key))?;
    }
    Ok(touched)
}

/// A row that is not known whole must be there: it is never inserted with holes (I8).
async fn check_rows_exist<D: Dialect>(
    database: &mut D,
    config: &SqlConfig,
    table: &Table,
    key: &[usize],
    rows: &[&Row<Datum>],
) -> Result<(), Failure> {
    let statement = Statement { action: Action::Update, table, columns: key, key: key.len() };
    for rows in rows.chunks(config.rows_per_statement) {
        let missing = database.count_missing(&statement, rows).await;
        if missing.map_err(|cause| failed(database, cause, "look for", rows.len(), table, key))? > 0 {
            let error = Error::new(ErrorKind::Rejected, format!("update a row of {}", table.quoted()))
                .because("the row is not in the target, and the record does not have the values that did not change")
                .mend(
                    "set errors.tolerance=all, which passes the record, and signal execute-snapshot for the table, which brings its rows; \
                     REPLICA IDENTITY FULL at the source has all values told",
                );
            return Err(Failure::new(Meaning::Data, error.scoped(Scope::Record)));
        }
    }
    Ok(())
}

/// The columns of the key and then those that are known.
fn known_columns(key: &[usize], row: &Row<Datum>) -> Vec<usize> {
    let known = row.iter().enumerate().filter(|(place, cell)| cell.known().is_some() && !key.contains(place)).map(|(place, _)| place);
    key.iter().copied().chain(known).collect()
}

/// Rows that know the same columns together. Their keys are disjoint, so their order does not matter.
fn by_columns<'a>(key: &[usize], rows: &'a [Row<Datum>]) -> Vec<(Vec<usize>, Vec<&'a Row<Datum>>)> {
    let mut groups: Vec<(Vec<usize>, Vec<&Row<Datum>>)> = Vec::new();
    for row in rows {
        let columns = known_columns(key, row);
        match groups.iter_mut().find(|(known, _)| *known == columns) {
            Some((_, rows)) => rows.push(row),
            None => groups.push((columns, vec![row])),
        }
    }
    groups
}

fn verb(action: Action) -> &'static str {
    match action {
        Action::Insert => "insert",
        Action::Upsert => "upsert",
        Action::Update => "update",
        Action::Delete => "delete",
    }
}

fn failed<D: Dialect>(database: &D, cause: sqlx::Error, verb: &str, rows: usize, table: &Table, key: &[usize]) -> Failure {
    let name = table.quoted();
    let columns: Vec<String> = key.iter().map(|place| quoted(&table.columns[*place].name)).collect();
    let mend = match D::meaning(&cause) {
        Meaning::Other(ErrorKind::Unauthorised) => Some(database.grant(&cause, &name)),
        // ON CONFLICT found no unique index over the key.
        Meaning::Other(ErrorKind::Missing) => {
            let index = quoted(&format!("{}_key", table.name));
            Some(format!("CREATE UNIQUE INDEX {index} ON {name} ({})", columns.join(", ")))
        }
        Meaning::Other(ErrorKind::Misconfigured) => {
            Some("give the column the type of the source's, or convert the field by a transform".to_owned())
        }
        Meaning::Data | Meaning::Shape | Meaning::Exists | Meaning::Full | Meaning::Other(_) => None,
    };
    let failure = Failure::database(D::meaning(&cause), format!("{verb} {rows} rows of {name}"), cause).on_table(&name);
    match mend {
        Some(mend) => failure.mend(mend),
        None => failure,
    }
}
