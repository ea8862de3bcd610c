//! The publication, created and kept as `publication.autocreate.mode` says.
//!
//! It comes before the slot: a slot whose history begins before its publication cannot be decoded. Tables are added
//! to and removed from an existing filtered publication one by one, so that row filters and column lists that
//! somebody gave to the others stay.
//!
//! Publishing a table without a replica identity makes the server refuse updates and deletes of it, so such tables
//! are named before the publication changes.

use std::collections::HashMap;

use tailwater_api::envelope::Operation;
use tailwater_api::{Error, ErrorKind, Result};
use tokio_postgres::error::SqlState;
use tracing::{info, warn};

use crate::catalog::{ColumnDefinition, Named, OPERATIONS, Publication, ServerFacts, TableDefinition, quote_identifier};
use crate::config::{PostgresConfig, PublicationMode};
use crate::connect::{SqlConnection, sql_error};
use crate::identity;
use crate::source::captured;

/// What has to be done to have the publication that the configuration asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is there as it should be.
    Nothing,
    /// These statements, in this order.
    Run(Vec<String>),
}

/// The statement, and where it is to be run: a standby takes none.
pub(crate) fn where_it_runs(facts: &ServerFacts, statement: &str) -> String {
    if facts.in_recovery { format!("on the primary: {statement}") } else { statement.to_owned() }
}

/// Compares what is there with what the configuration asks for. `definitions` are the tables of the database.
///
/// # Errors
/// The configuration asks for what cannot be had; the error says what to do.
pub(crate) fn plan(
    config: &PostgresConfig,
    facts: &ServerFacts,
    existing: Option<&Publication>,
    definitions: &[TableDefinition],
) -> Result<Step> {
    let captured = &captured(config, definitions)[..];
    let name = &config.publication;
    let quoted = quote_identifier(name);
    let Some(publication) = existing else {
        let statement = creation(config, captured)?;
        if config.publication_mode == PublicationMode::Disabled {
            return Err(Error::new(ErrorKind::Missing, format!("use the publication {name}"))
                .because("it does not exist, and publication.autocreate.mode is disabled")
                .mend(where_it_runs(facts, &statement)));
        }
        if facts.in_recovery {
            return Err(Error::new(ErrorKind::Missing, format!("use the publication {name}"))
                .because("it does not exist, and this server is a standby")
                .mend(where_it_runs(facts, &statement)));
        }
        return Ok(Step::Run(vec![statement]));
    };
    refuse_cut_keys(config, facts, publication, captured)?;
    if config.publication_mode != PublicationMode::Filtered {
        return Ok(Step::Nothing);
    }
    if publication.all_tables {
        return Err(Error::new(ErrorKind::Conflict, format!("filter the publication {name}"))
            .because("it is a publication for all tables, which cannot be narrowed")
            // Without it for a moment only, or what is written meanwhile could never be read.
            .mend(where_it_runs(
                facts,
                &format!(
                    "BEGIN; DROP PUBLICATION {quoted}; {} COMMIT; or set publication.autocreate.mode to all_tables",
                    creation(config, captured)?
                ),
            )));
    }
    refuse_empty(config, captured)?;
    let missing = captured.iter().filter(|table| !publication.named.tables.contains_key(&table.oid));
    // One by one: one that the role may not publish keeps no other from being published (I10).
    let mut statements: Vec<_> = missing.map(|table| format!("ALTER PUBLICATION {quoted} ADD TABLE {};", table.quoted())).collect();
    // Only those that are known not to pass the filters: somebody may have made and named another one meanwhile.
    let is_extra = |table: &&TableDefinition| {
        publication.named.tables.contains_key(&table.oid) && !captured.iter().any(|captured| captured.oid == table.oid)
    };
    let extra = definitions.iter().filter(is_extra);
    statements.extend(extra.map(|table| format!("ALTER PUBLICATION {quoted} DROP TABLE {};", table.quoted())));
    if statements.is_empty() {
        return Ok(Step::Nothing);
    }
    if facts.in_recovery {
        return Err(Error::new(ErrorKind::Conflict, format!("filter the publication {name}"))
            .because("its tables are not those to capture, and this server is a standby")
            .mend(where_it_runs(facts, &statements.join(" "))));
    }
    Ok(Step::Run(statements))
}

/// A key that lacks a column would be that of other rows, too. The server itself refuses this only where updates are published.
fn refuse_cut_keys(config: &PostgresConfig, facts: &ServerFacts, publication: &Publication, captured: &[&TableDefinition]) -> Result<()> {
    for table in captured {
        let Some(membership) = publication.table(table.oid) else { continue };
        let Some(published) = membership.columns.as_deref() else { continue };
        let is_cut = |column: &&ColumnDefinition| {
            table.key.contains(&column.name) && column.generated.is_none() && !published.contains(&column.name)
        };
        let missing: Vec<&str> = table.columns.iter().filter(is_cut).map(|column| column.name.as_str()).collect();
        let columns: Vec<&str> = published.iter().map(String::as_str).collect();
        let configured = config.relational.key_columns.of(&table.schema, &table.name, &columns);
        if missing.is_empty() || configured.is_some() {
            continue;
        }
        let (publication, quoted) = (quote_identifier(&config.publication), table.quoted());
        // The filter goes with the membership; its text is not asked for, which would wait for whoever has locked the table (I10).
        let (filter, hint) = match membership.filtered_by {
            Some(_) => (" WHERE (…)", "with its row filter, which pg_publication_tables.rowfilter shows, "),
            None => ("", ""),
        };
        let columns = published.iter().map(String::as_str).chain(missing.iter().copied()).map(quote_identifier);
        return Err(Error::new(ErrorKind::Conflict, format!("capture the table {}", table.full_name()))
            .because(format!("the column list of the publication {publication} leaves out {} of its key", missing.join(", ")))
            .mend(where_it_runs(
                facts,
                &format!(
                    "BEGIN; ALTER PUBLICATION {publication} DROP TABLE {quoted}; ALTER PUBLICATION {publication} ADD TABLE {quoted} ({}){filter}; COMMIT; \
                     {hint}or name other columns with message.key.columns",
                    columns.collect::<Vec<_>>().join(", ")
                ),
            )));
    }
    Ok(())
}

fn refuse_empty(config: &PostgresConfig, captured: &[&TableDefinition]) -> Result<()> {
    if captured.is_empty() {
        return Err(Error::new(ErrorKind::Misconfigured, format!("filter the publication {}", config.publication))
            .because("no table passes the filters of the configuration")
            .mend("mend table.include.list; names are written schema.table, with \\. for the dot"));
    }
    Ok(())
}

/// The statement that makes the publication as the configuration asks for it.
pub(crate) fn creation(config: &PostgresConfig, captured: &[&TableDefinition]) -> Result<String> {
    let tables = || captured.iter().map(|table| table.quoted()).collect::<Vec<_>>().join(", ");
    let what = match config.publication_mode {
        PublicationMode::AllTables => " FOR ALL TABLES".to_owned(),
        PublicationMode::NoTables => String::new(),
        PublicationMode::Filtered => {
            refuse_empty(config, captured)?;
            format!(" FOR TABLE {}", tables())
        }
        // Only shown to the user.
        PublicationMode::Disabled if captured.is_empty() => " FOR ALL TABLES".to_owned(),
        PublicationMode::Disabled => format!(" FOR TABLE {}", tables()),
    };
    let mut options = Vec::new();
    if config.publish_via_root {
        options.push("publish_via_partition_root = true".to_owned());
    }
    if config.relational.skips_operations_explicitly {
        let skipped = config.relational.skipped_operations;
        options.push(format!("publish = '{}'", names_of(|operation| !skipped.contains(operation))));
    }
    let options = if options.is_empty() { String::new() } else { format!(" WITH ({})", options.join(", ")) };
    Ok(format!("CREATE PUBLICATION {}{what}{options};", quote_identifier(&config.publication)))
}

/// The operations of which `is_chosen` says so, as `publish` lists them.
fn names_of(is_chosen: impl Fn(Operation) -> bool) -> String {
    let chosen = OPERATIONS.into_iter().filter(|(operation, _)| is_chosen(*operation));
    chosen.map(|(_, name)| name).collect::<Vec<_>>().join(", ")
}

/// What to say of operations that the publication leaves out and `skipped.operations` does not, and the statement that mends it (I11):
/// the log does not tell of such changes at all.
pub(crate) fn left_out_operations(config: &PostgresConfig, facts: &ServerFacts, named: &Named) -> Option<(String, String)> {
    let is_wanted = |operation| !config.relational.skipped_operations.contains(operation);
    let left_out = names_of(|operation| is_wanted(operation) && !named.operations.contains(&operation));
    if left_out.is_empty() {
        return None;
    }
    let publish = names_of(|operation| is_wanted(operation) || named.operations.contains(&operation));
    let statement = format!("ALTER PUBLICATION {} SET (publish = '{publish}');", quote_identifier(&config.publication));
    Some((
        format!("the publication {} does not publish {left_out}: such changes are not captured", config.publication),
        where_it_runs(facts, &statement),
    ))
}

/// Warns of operations that the publication leaves out, and of those that it left out `before` and publishes by now.
pub(crate) fn warn_about_operations(config: &PostgresConfig, facts: &ServerFacts, before: Option<&Named>, named: &Named) {
    let untold =
        "what was left out until then is in no record: signal execute-snapshot reads the rows that are there, and none that are gone";
    if let Some((message, statement)) = left_out_operations(config, facts, named) {
        warn!("{message}. To mend it: {statement} {untold}. Or name the operations in skipped.operations");
    }
    let Some(before) = before else { return };
    let is_back = |operation| !before.operations.contains(&operation) && named.operations.contains(&operation);
    let back = names_of(|operation| is_back(operation) && !config.relational.skipped_operations.contains(operation));
    if !back.is_empty() {
        warn!("the publication {} publishes {back} by now: {untold}", config.publication);
    }
}

/// Creates or changes the publication where the configuration asks for it, and returns what is there then, with the statements that the
/// server refused and what was said of each. `told` is what was said before, which is not said again.
pub(crate) async fn ensure(
    sql: &SqlConnection,
    config: &PostgresConfig,
    facts: &ServerFacts,
    definitions: &[TableDefinition],
    told: &HashMap<String, String>,
) -> Result<(Publication, HashMap<String, String>)> {
    let name = &config.publication;
    let captured = captured(config, definitions);
    let existing = Publication::load(sql, facts, name).await?;
    let mut refusals = HashMap::new();
    let publication = match plan(config, facts, existing.as_ref(), definitions)? {
        Step::Nothing => existing,
        Step::Run(statements) => {
            warn_about_identities(&captured);
            let mut first = None;
            // I10: a table that is locked for long does not stop the others, either.
            let limit = if existing.is_some() { "SET LOCAL lock_timeout = '10s'; " } else { "" };
            for statement in statements {
                match sql.batch_execute(&format!("{limit}{statement}")).await.map_err(|error| refused(config, &statement, error)) {
                    Ok(()) => info!(publication = %name, "changed the publication: {statement}"),
                    // I10: a table that cannot be published now, or by this role, does not stop those that are.
                    Err(error) if existing.is_some() && (may_pass(&error) || !error.kind().is_transient()) => {
                        let refusal = refusal(config, &statement, &error);
                        if told.get(&statement) != Some(&refusal) {
                            warn!(publication = %name, "{refusal}");
                        }
                        refusals.insert(statement, refusal);
                        if first.as_ref().is_none_or(|first| !may_pass(first) && may_pass(&error)) {
                            first = Some(error);
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            let publication = Publication::load(sql, facts, name).await?;
            let is_published = |publication: &Publication| captured.iter().any(|table| publication.table(table.oid).is_some());
            match first {
                Some(error) if !publication.as_ref().is_some_and(is_published) => return Err(nothing_published(error)),
                Some(_) | None => publication,
            }
        }
    };
    let gone = || Error::new(ErrorKind::Missing, format!("use the publication {name}")).because("somebody dropped it just now");
    publication.map(|publication| (publication, refusals)).ok_or_else(gone)
}

/// Why nothing can be followed, where the server refused to publish what is captured. What may pass is tried again.
fn nothing_published(refusal: Error) -> Error {
    if !may_pass(&refusal) {
        return refusal;
    }
    Error::new(ErrorKind::Restarting, "bring the publication in order").because(refusal).planned()
}

/// Whether the server may take the statement the next time: a table was locked or dropped, or somebody else changed the publication.
pub(crate) fn may_pass(refusal: &Error) -> bool {
    matches!(refusal.kind(), ErrorKind::TimedOut | ErrorKind::Conflict)
}

/// What to say of a statement that the server refuses.
pub(crate) fn refusal(config: &PostgresConfig, statement: &str, error: &Error) -> String {
    let again = if config.table_refresh_interval.is_zero() { "at the next start" } else { "each table.refresh.interval.ms" };
    match error.remedy() {
        _ if may_pass(error) => format!("{error}: it is tried again {again}: {statement}"),
        Some(_) => error.to_string(),
        None => format!("{error}. To mend it, see the server's log, and run: {statement}"),
    }
}

/// Runs the statements in a transaction that is rolled back: only the server knows who may make which publication. A table that
/// somebody has locked is not waited for (`timed_out`), and says nothing about rights. Autovacuum gives way within a second.
pub(crate) async fn rehearse(sql: &SqlConnection, config: &PostgresConfig, statements: &[String]) -> Result<()> {
    let begun = sql.batch_execute("BEGIN; SET LOCAL lock_timeout = '2s'").await;
    begun.map_err(|error| sql_error(format!("rehearse the creation of the publication {}", config.publication), error))?;
    let mut rehearsed = Ok(());
    for statement in statements {
        if let Err(error) = sql.batch_execute(statement).await {
            rehearsed = Err(refused(config, statement, error));
            break;
        }
    }
    let ended = sql.batch_execute("ROLLBACK").await;
    rehearsed.and(ended.map_err(|error| sql_error("end the rehearsal", error)))
}

fn refused(config: &PostgresConfig, statement: &str, error: tokio_postgres::Error) -> Error {
    let code = error.code().cloned();
    let doing = if statement.starts_with("CREATE") { "create" } else { "change" };
    let doing = format!("{doing} the publication {}", config.publication);
    // It was there when the tables were listed.
    if matches!(code, Some(SqlState::UNDEFINED_TABLE | SqlState::INVALID_SCHEMA_NAME)) {
        return Error::new(ErrorKind::Conflict, doing).because(error);
    }
    let error = sql_error(doing, error);
    if code != Some(SqlState::INSUFFICIENT_PRIVILEGE) {
        return error;
    }
    let advice = match config.publication_mode {
        PublicationMode::AllTables => {
            " or set publication.autocreate.mode to filtered, GRANT CREATE ON DATABASE and make the role the owner of the tables"
        }
        PublicationMode::Disabled | PublicationMode::Filtered | PublicationMode::NoTables => "",
    };
    error.mend(format!("as superuser: {statement}{advice}"))
}

/// Names the tables whose updates and deletes the server refuses once they are published.
fn warn_about_identities(captured: &[&TableDefinition]) {
    for table in captured {
        if let Some(advice) = identity::refused_changes(table) {
            warn!(table = %table.full_name(), "{advice}");
        }
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigValues, read_config};

    use super::*;

    #[test]
    fn a_refusal_says_once_what_mends_it() {
        let values: ConfigValues =
            [("topic.prefix", "shop"), ("database.hostname", "h"), ("database.user", "u"), ("database.dbname", "d"), ("slot.name", "s")]
                .into_iter()
                .collect();
        let Ok((config, _)) = read_config::<PostgresConfig>(&values) else { panic!("faults") };
        let error = |kind| Error::new(kind, "change the publication shop").because("no");
        let statement = "ALTER PUBLICATION shop ADD TABLE t;";
        let mended = refusal(&config, statement, &error(ErrorKind::Unauthorised).mend(format!("as superuser: {statement}")));
        assert_eq!(mended, format!("cannot change the publication shop: no. To mend it: as superuser: {statement}"));
        let plain = refusal(&config, statement, &error(ErrorKind::Misconfigured));
        assert!(plain.matches(statement).count() == 1 && plain.contains("server's log"), "{plain}");
        // A deadlock, and a lock that somebody has
        for kind in [ErrorKind::Conflict, ErrorKind::TimedOut] {
            let passing = refusal(&config, statement, &error(kind));
            assert!(passing.ends_with(&format!("it is tried again each table.refresh.interval.ms: {statement}")), "{passing}");
        }
    }
}
