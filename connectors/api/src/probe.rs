//! What a probe finds: everything that keeps a configuration from running, with the statements that mend it.

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// It runs, but the user should know.
    Note,
    /// It cannot run.
    Fault,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// How bad it is
    pub severity: Severity,
    /// The key that it belongs to, where one does
    pub key: Option<&'static str>,
    /// What was found
    pub message: String,
    /// The statement or step that mends it
    pub mend: Option<String>,
}

/// All findings; empty means ready to run.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProbeReport {
    /// In the order in which they were found
    pub findings: Vec<Finding>,
}

impl ProbeReport {
    /// Adds what keeps the configuration from running.
    pub fn fault(&mut self, key: Option<&'static str>, message: impl Into<String>, mend: Option<String>) {
        self.findings.push(Finding { severity: Severity::Fault, key, message: message.into(), mend });
    }

    /// Adds what the user should know.
    pub fn note(&mut self, key: Option<&'static str>, message: impl Into<String>, mend: Option<String>) {
        self.findings.push(Finding { severity: Severity::Note, key, message: message.into(), mend });
    }

    /// Whether nothing keeps the configuration from running.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.findings.iter().all(|finding| finding.severity == Severity::Note)
    }
}
