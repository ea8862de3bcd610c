//! What keeps the source from running, with the statements that mend it. Changes nothing (I15).

use tailwater_api::envelope::Operation;
use tailwater_api::probe::ProbeReport;
use tailwater_api::{Error, ErrorKind, Result};

use crate::catalog::{Publication, ServerFacts, TableDefinition, quote_identifier};
use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, replication_options};
use crate::identity;
use crate::publication::{self, Step, left_out_operations};
use crate::replication::ReplicationConnection;
use crate::restart::{Offer, usable_slot};
use crate::source::{captured, check_server, unlogged, unlogged_mend, unpublished, unpublished_advice};
use crate::{servers, slot};

/// Connects and looks.
pub(crate) async fn probe(config: &PostgresConfig) -> ProbeReport {
    let mut report = ProbeReport::default();
    let config = &match servers::choose(config.clone()).await {
        Ok(config) => config,
        Err(error) => {
            fault(&mut report, Some("database.hostname"), &error);
            return report;
        }
    };
    let sql = match SqlConnection::connect_to_look(config).await {
        Ok(sql) => sql,
        Err(error) => {
            let key = if error.kind() == ErrorKind::Unauthorised { "database.password" } else { "database.hostname" };
            fault(&mut report, Some(key), &error);
            return report;
        }
    };
    if let Err(error) = look(config, &sql, &mut report).await {
        fault(&mut report, None, &error);
    }
    report
}

async fn look(config: &PostgresConfig, sql: &SqlConnection, report: &mut ProbeReport) -> Result<()> {
    let facts = ServerFacts::load(sql).await?;
    let definitions = TableDefinition::load(sql, None).await?;
    let captured = captured(config, &definitions);
    if captured.is_empty() {
        let mend = "names are written schema.table, with \\. for the dot".to_owned();
        report.note(Some("table.include.list"), "no table passes the filters", Some(mend));
    }
    for table in unlogged(config, &definitions) {
        let message = format!("{} is unlogged: its changes are not in the log, so it is not captured", table.full_name());
        report.note(Some("table.include.list"), message, Some(unlogged_mend(table)));
    }
    for table in captured.iter().filter(|table| !table.may_select) {
        let role = quote_identifier(&facts.role);
        let mend =
            format!("GRANT USAGE ON SCHEMA {} TO {role}; GRANT SELECT ON {} TO {role};", quote_identifier(&table.schema), table.quoted());
        report.fault(Some("database.user"), format!("role {} may not read {}", facts.role, table.full_name()), Some(mend));
    }
    for table in captured.iter().filter(|table| table.hides_rows) {
        let message = format!("policies of row-level security hide rows of {} from the role {}", table.full_name(), facts.role);
        report.fault(Some("database.user"), message, Some(format!("ALTER ROLE {} BYPASSRLS;", quote_identifier(&facts.role))));
    }
    if !config.snapshot.stream {
        return Ok(());
    }
    let ready = match check_server(config, &facts) {
        Ok(()) => true,
        Err(error) => {
            fault(report, Some("database.user").filter(|_| !facts.may_replicate), &error);
            false
        }
    };
    let existing = Publication::load(sql, &facts, &config.publication).await?;
    match publication::plan(config, &facts, existing.as_ref(), &definitions) {
        // What a start runs publishes the tables that are missing.
        Ok(Step::Nothing) => {
            if let Some(publication) = &existing {
                let unpublished = unpublished(config, publication, &definitions);
                for table in unpublished.into_iter().filter(|table| table.logged) {
                    let advice = unpublished_advice(config, &facts, publication, &definitions, table);
                    report.note(Some("publication.name"), advice, None);
                }
            }
        }
        Ok(Step::Run(statements)) => {
            report.note(Some("publication.name"), format!("on start, this is run: {}", statements.join(" ")), None);
            match publication::rehearse(sql, config, &statements).await {
                // A table that somebody has locked, or dropped just now, says nothing about rights.
                Ok(()) => {}
                Err(error) if publication::may_pass(&error) => {}
                Err(error) => fault(report, Some("publication.autocreate.mode"), &error),
            }
        }
        Err(error) => fault(report, Some("publication.autocreate.mode"), &error),
    }
    match identity::statements(sql, &config.identities, &captured).await {
        Ok(statements) if statements.is_empty() => {}
        Ok(statements) => {
            report.note(Some("replica.identity.autoset.values"), format!("on start, this is run: {}", statements.join(" ")), None);
        }
        Err(error) => fault(report, Some("replica.identity.autoset.values"), &error),
    }
    if let Some((message, statement)) = existing.as_ref().and_then(|publication| left_out_operations(config, &facts, &publication.named)) {
        report.note(Some("publication.name"), message, Some(statement));
    }
    let is_change = |operation: &Operation| matches!(operation, Operation::Update | Operation::Delete);
    if existing.as_ref().is_none_or(|publication| publication.named.operations.iter().any(is_change)) {
        for table in &captured {
            if let Some(advice) = identity::refused_changes(table).or_else(|| identity::untold_key(&config.relational, table)) {
                report.note(Some("table.include.list"), format!("{}: {advice}", table.full_name()), None);
            }
        }
    }
    look_at_slot(config, sql, &facts, ready, report).await
}

async fn look_at_slot(
    config: &PostgresConfig,
    sql: &SqlConnection,
    facts: &ServerFacts,
    ready: bool,
    report: &mut ProbeReport,
) -> Result<()> {
    let slot = slot::load(sql, &config.slot).await?;
    match &slot {
        None if facts.free_slots <= 0 => {
            let mend = "as superuser: ALTER SYSTEM SET max_replication_slots = 20; and restart the server, or drop slots that nobody uses";
            report.fault(Some("slot.name"), "the server has no free replication slot", Some(mend.into()));
        }
        None => report.note(Some("slot.name"), format!("on start, the slot {} is created", config.slot), None),
        Some(state) => {
            let offer = Offer {
                system: String::new(),
                timeline: 0,
                end: facts.end,
                database: config.dbname.clone(),
                in_recovery: facts.in_recovery,
                switch_points: Vec::new(),
                two_phase: config.two_phase,
                slot: slot.clone(),
            };
            if let Err(refusal) = usable_slot(&offer) {
                fault(report, Some("slot.name"), &refusal.into_error(&config.slot, None));
            } else if let Some(pid) = state.active_pid {
                report.note(Some("slot.name"), format!("the slot {} is in use by pid {pid}", config.slot), None);
            }
        }
    }
    if ready {
        // Rights may be there and pg_hba.conf refuse replication all the same.
        let options = replication_options(config);
        match ReplicationConnection::connect(&options).await {
            Ok(mut connection) => {
                connection.identify_system().await?;
            }
            Err(error) => fault(report, Some("database.hostname"), &error),
        }
    }
    Ok(())
}

fn fault(report: &mut ProbeReport, key: Option<&'static str>, error: &Error) {
    report.fault(key, error.sentence(), error.remedy().map(str::to_owned));
}
