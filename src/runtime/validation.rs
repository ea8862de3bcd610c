//! Checking a configuration that nobody runs yet: first without I/O, and where that finds nothing, by connecting (I15).

use std::time::Duration;

use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues};
use tailwater_api::probe::Severity;

use crate::config::check::check;
use crate::connectors;
use crate::runtime::plugin::Plugin;
use crate::runtime::source_task::panicked;
use crate::runtime::worker::Worker;

/// How long a probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);

impl Worker {
    /// Checks a configuration and, where that is clean, probes it with a limit of 10 s. What the probe finds comes under the
    /// key it belongs to; what belongs to none comes under `connector.class`. Changes nothing.
    pub async fn validate(&self, config: &ConfigValues) -> ConfigReport {
        let mut report = check(config.get("name").unwrap_or_default(), config, &self.options().defaults);
        let plugin = config.get("connector.class").and_then(connectors::find);
        if let (true, Some(plugin)) = (report.faults.is_empty(), plugin) {
            match self.inner.parts.providers.resolve(config) {
                Ok(values) => report.faults.extend(probe(plugin, values).await),
                Err(unresolved) => report.faults.extend(unresolved.faults),
            }
        }
        report
    }
}

async fn probe(plugin: &'static dyn Plugin, values: ConfigValues) -> Vec<ConfigFault> {
    let fault = |key: Option<&str>, message: String| ConfigFault { key: key.unwrap_or("connector.class").to_owned(), message };
    // A task of its own: a panic of the connector's probe must not end the request without an answer.
    let mut probing = tokio::spawn(async move { plugin.probe(&values).await });
    let report = match tokio::time::timeout(PROBE_TIMEOUT, &mut probing).await {
        Ok(Ok(report)) => report,
        Ok(Err(error)) => return vec![fault(None, panicked(error).to_string())],
        Err(_) => {
            probing.abort();
            return vec![fault(None, format!("could not be probed within {} s", PROBE_TIMEOUT.as_secs()))];
        }
    };
    let faults = report.findings.into_iter().filter(|finding| finding.severity == Severity::Fault);
    faults
        .map(|finding| {
            let mend = finding.mend.map(|mend| format!(". To mend it: {mend}")).unwrap_or_default();
            fault(finding.key, format!("{}{mend}", finding.message))
        })
        .collect()
}
