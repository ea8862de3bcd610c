//! Replica identities: what the log holds of a row before its change, and what follows for keys.
//!
//! `replica.identity.autoset.values` sets them at the start: `TABLES:IDENTITY,TABLES:IDENTITY`, where TABLES is an expression
//! on `schema.table` and IDENTITY is `DEFAULT`, `FULL`, `NOTHING` or `INDEX name`. Only a table that has another one is
//! altered, since that takes a lock that waits for every reader.
//!
//! Two things go wrong with an identity that does not fit, and both are named with the statement that mends them: the server
//! refuses updates and deletes of a published table without one, and where the identity does not hold the columns of the
//! key, the log knows neither the key of a deleted row nor that a key changed.

use tailwater_api::{Error, ErrorKind, Result};
use tailwater_kit::filters::NameList;
use tailwater_kit::relational_config::RelationalConfig;
use tokio_postgres::error::SqlState;
use tracing::info;

use crate::catalog::{ServerFacts, TableDefinition, quote_identifier};
use crate::connect::{SqlConnection, sql_error};
use crate::pgoutput::ReplicaIdentity;

/// An identity that a table is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Default,
    Full,
    Nothing,
    Index(String),
}

/// The identity that the tables of an expression are to have.
#[derive(Clone, Debug)]
pub(crate) struct IdentityRule {
    expression: String,
    tables: NameList,
    wanted: Wanted,
}

/// Parses `replica.identity.autoset.values`.
///
/// # Errors
/// A sentence that names the entry.
pub(crate) fn parse_rules(text: &str) -> Result<Vec<IdentityRule>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(parse_rule).collect()
}

fn parse_rule(entry: &str) -> Result<IdentityRule, String> {
    let wrong = || format!("holds {entry:?}; write TABLES:IDENTITY, where IDENTITY is DEFAULT, FULL, NOTHING or INDEX name");
    let (expression, identity) = entry.rsplit_once(':').ok_or_else(wrong)?;
    let mut words = identity.split_ascii_whitespace();
    let wanted = match (words.next().map(str::to_ascii_uppercase).as_deref(), words.next(), words.next()) {
        (Some("DEFAULT"), None, None) => Wanted::Default,
        (Some("FULL"), None, None) => Wanted::Full,
        (Some("NOTHING"), None, None) => Wanted::Nothing,
        (Some("INDEX"), Some(name), None) => Wanted::Index(name.to_owned()),
        _ => return Err(wrong()),
    };
    Ok(IdentityRule { expression: expression.to_owned(), tables: NameList::parse(expression)?, wanted })
}

/// The rule of a table, if one names it.
fn rule_of<'a>(rules: &'a [IdentityRule], table: &TableDefinition) -> Result<Option<&'a IdentityRule>> {
    let name = table.full_name();
    let mut matching = rules.iter().filter(|rule| rule.tables.matches(&name));
    match (matching.next(), matching.next()) {
        (found, None) => Ok(found),
        (Some(one), Some(two)) => Err(Error::new(ErrorKind::Misconfigured, format!("set the replica identity of {name}"))
            .because(format!("both {} and {} of replica.identity.autoset.values name it", one.expression, two.expression))
            .mend("narrow one of the expressions")),
        (None, Some(_)) => Ok(None),
    }
}

/// The statement that gives a table its identity, if it has another one. `index` is the index of its present identity.
fn statement(rule: &IdentityRule, table: &TableDefinition, index: Option<&str>) -> Option<String> {
    let identity = match (&rule.wanted, table.identity) {
        (Wanted::Default, ReplicaIdentity::Default)
        | (Wanted::Full, ReplicaIdentity::Full)
        | (Wanted::Nothing, ReplicaIdentity::Nothing) => return None,
        (Wanted::Index(wanted), ReplicaIdentity::Index) if index == Some(wanted) => return None,
        (Wanted::Default, _) => "DEFAULT".to_owned(),
        (Wanted::Full, _) => "FULL".to_owned(),
        (Wanted::Nothing, _) => "NOTHING".to_owned(),
        (Wanted::Index(name), _) => format!("USING INDEX {}", quote_identifier(name)),
    };
    Some(format!("ALTER TABLE {} REPLICA IDENTITY {identity};", table.quoted()))
}

/// What has to be run so that the captured tables have the identities that the rules name.
///
/// # Errors
/// Two rules name one table.
pub(crate) async fn statements(sql: &SqlConnection, rules: &[IdentityRule], captured: &[&TableDefinition]) -> Result<Vec<String>> {
    let mut statements = Vec::new();
    for table in captured {
        let Some(rule) = rule_of(rules, table)? else { continue };
        let query =
            "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = $1 AND i.indisreplident";
        let failed = |error| sql_error(format!("read the replica identity of {}", table.full_name()), error);
        let index = sql.query_opt(query, &[&table.oid]).await.map_err(failed)?.map(|row| row.get::<_, String>(0));
        statements.extend(statement(rule, table, index.as_deref()));
    }
    Ok(statements)
}

/// Gives the captured tables the identities that the rules name, and says whether it changed any.
pub(crate) async fn set(sql: &SqlConnection, facts: &ServerFacts, rules: &[IdentityRule], captured: &[&TableDefinition]) -> Result<bool> {
    let statements = statements(sql, rules, captured).await?;
    let doing = "set the replica identities of replica.identity.autoset.values";
    if facts.in_recovery && !statements.is_empty() {
        return Err(Error::new(ErrorKind::Conflict, doing)
            .because("this server is a standby")
            .mend(format!("on the primary: {}", statements.join(" "))));
    }
    for statement in &statements {
        sql.batch_execute(statement).await.map_err(|error| {
            let unauthorised = error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE);
            let error = sql_error(doing, error);
            if unauthorised { error.mend(format!("as owner of the table: {statement}")) } else { error }
        })?;
        info!("changed a replica identity: {statement}");
    }
    Ok(!statements.is_empty())
}

/// Why the server refuses updates and deletes of the table once it is published, and the statement that mends it.
pub(crate) fn refused_changes(table: &TableDefinition) -> Option<String> {
    table.refuses_changes().then(|| {
        format!(
            "the table has no replica identity: once it is published, the server refuses its updates and deletes. To mend it: \
             ALTER TABLE {} REPLICA IDENTITY FULL;",
            table.quoted()
        )
    })
}

/// Which columns of its key the log does not tell for deleted rows, and the statement that mends it.
pub(crate) fn untold_key(config: &RelationalConfig, table: &TableDefinition) -> Option<String> {
    let told = match table.identity {
        ReplicaIdentity::Default => &table.key,
        ReplicaIdentity::Index => &table.identity_columns,
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => return None,
    };
    let configured = table.configured_key(config);
    let key = configured.as_ref().unwrap_or(&table.key);
    let untold: Vec<_> = key.iter().filter(|name| !told.contains(name)).map(String::as_str).collect();
    (!untold.is_empty() && !table.refuses_changes()).then(|| {
        format!(
            "the replica identity does not hold {} of the key: the log tells neither the key of a deleted row nor that it changed. \
             To mend it: ALTER TABLE {} REPLICA IDENTITY FULL;",
            untold.join(", "),
            table.quoted()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_tables_and_an_identity() {
        let rules = parse_rules(r"public\.fulls:FULL, public\.i.*:index idx_code,a:Default,b:NOTHING").unwrap();
        let wanted: Vec<_> = rules.iter().map(|rule| rule.wanted.clone()).collect();
        assert_eq!(wanted, [Wanted::Full, Wanted::Index("idx_code".into()), Wanted::Default, Wanted::Nothing]);
        assert!(rules[1].tables.matches("public.idx"));
        assert_eq!(parse_rules(" ").unwrap().len(), 0);
    }

    #[test]
    fn what_is_no_rule_is_named() {
        for text in ["public.a", "public.a:SOME", "public.a:INDEX", "public.a:INDEX a b", "public.a:", "[:FULL"] {
            assert!(parse_rules(text).is_err(), "{text}");
        }
    }
}
