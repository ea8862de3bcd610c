//! `probe`: connects and says what is missing, with the statement that mends it. Changes nothing (I15).

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tailwater_api::config::ConfigReport;
use tailwater_api::probe::{Finding, ProbeReport, Severity};

use super::output::{Output, print};
use super::{Exit, Failure};
use crate::config::check::{check, flatten};
use crate::config::{connector_file, worker_file};
use crate::connectors;

/// Connects as the connector would, and says what is missing and what mends it
#[derive(Args)]
pub(super) struct Probe {
    /// Connector file
    file: PathBuf,
    /// The worker file, for its secret providers and converters
    #[arg(long)]
    config: Option<PathBuf>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

impl Probe {
    pub(super) async fn execute(self) -> Result<Exit, Failure> {
        let file = self.file.display().to_string();
        let invalid = |report: ConfigReport| Failure::invalid(&file, &report);
        let worker = worker_file::load(self.config.as_deref(), &[]);
        let worker = worker.map_err(|report| Failure::invalid(&self.config.unwrap_or_default().display().to_string(), &report))?;
        let connector = connector_file::read(&self.file).map_err(invalid)?;
        let values = flatten(&connector.config).map_err(invalid)?;
        let checked = check(&connector.name, &values, &worker.values);
        if !checked.faults.is_empty() {
            return Err(invalid(checked));
        }
        let class = values.get("connector.class").unwrap_or_default();
        let plugin = connectors::find(class).ok_or_else(|| Failure::failed(format!("there is no connector {class}")))?;
        let values = worker.providers.resolve(&values).map_err(invalid)?;
        let report = plugin.probe(&values).await;
        match self.output {
            Output::Text => print(&text(&report))?,
            Output::Json => print(&format!("{}\n", json(&report)))?,
        }
        Ok(if report.is_ready() { Exit::Done } else { Exit::Failed })
    }
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Note => "note",
        Severity::Fault => "fault",
    }
}

fn text(report: &ProbeReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let key = finding.key.map(|key| format!("{key}: ")).unwrap_or_default();
        let _ = writeln!(text, "{}: {key}{}", severity(finding), finding.message);
        if let Some(mend) = &finding.mend {
            let _ = writeln!(text, "    {}", mend.replace('\n', "\n    "));
        }
    }
    text.push_str(if report.is_ready() { "ready to run\n" } else { "not ready to run\n" });
    text
}

fn json(report: &ProbeReport) -> Value {
    let finding =
        |finding: &Finding| json!({"severity": severity(finding), "key": finding.key, "message": finding.message, "mend": finding.mend});
    json!({"ready": report.is_ready(), "findings": report.findings.iter().map(finding).collect::<Value>()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_show_what_mends_them() {
        let mut report = ProbeReport::default();
        report.fault(Some("database.user"), "cdc may not replicate", Some("ALTER ROLE cdc REPLICATION;".into()));
        assert_eq!(text(&report), "fault: database.user: cdc may not replicate\n    ALTER ROLE cdc REPLICATION;\nnot ready to run\n");
        assert_eq!(json(&report)["findings"][0]["mend"], "ALTER ROLE cdc REPLICATION;");
        assert_eq!(text(&ProbeReport::default()), "ready to run\n");
    }
}
