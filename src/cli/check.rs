//! `check`: every fault of configuration files, without connecting anywhere (I15).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};
use tailwater_api::config::{ConfigFault, ConfigReport, ConfigValues};

use super::output::{Output, print};
use super::{Exit, Failure};
use crate::config::check::{check, flatten};
use crate::config::connector_file;
use crate::config::document::{self, fault};
use crate::config::worker_file;

/// Checks files of connectors and workers, and connects to nothing
#[derive(Args)]
pub(super) struct Check {
    /// Connector files, and worker files: those that name no connector
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The worker file whose converters the connectors inherit
    #[arg(long)]
    config: Option<PathBuf>,
    /// Form of the result
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// What was found in one file.
struct Checked {
    file: PathBuf,
    name: Option<String>,
    report: ConfigReport,
}

impl Check {
    pub(super) fn execute(self) -> Result<Exit, Failure> {
        let worker = worker_file::load(self.config.as_deref(), &[]);
        let worker = worker.map_err(|report| Failure::invalid(&self.config.unwrap_or_default().display().to_string(), &report))?;
        let mut checked: Vec<Checked> = self.files.iter().map(|file| check_file(file, &worker.values)).collect();
        refuse_repeated_names(&mut checked);
        match self.output {
            Output::Text => print(&checked.iter().map(text).collect::<String>())?,
            Output::Json => print(&format!("{}\n", checked.iter().map(json).collect::<Value>()))?,
        }
        let is_valid = checked.iter().all(|checked| checked.report.faults.is_empty());
        Ok(if is_valid { Exit::Done } else { Exit::Invalid })
    }
}

fn check_file(file: &Path, defaults: &ConfigValues) -> Checked {
    let (name, report) = if is_worker_file(file) {
        (None, worker_file::load(Some(file), &[]).map_or_else(|report| report, |loaded| loaded.notes))
    } else {
        match connector_file::read(file) {
            Ok(connector) => {
                let report = flatten(&connector.config).map_or_else(|report| report, |values| check(&connector.name, &values, defaults));
                (Some(connector.name), report)
            }
            Err(report) => (None, report),
        }
    };
    Checked { file: file.to_owned(), name, report }
}

/// A file that names no connector, and something that a worker has.
fn is_worker_file(file: &Path) -> bool {
    let entries = document::read_text(file).and_then(|text| document::parse(file, &text)).and_then(|members| document::flatten(&members));
    entries.is_ok_and(|entries| {
        let is_connectors = |key: &str| matches!(key, "name" | "connector" | "connector.class" | "config.connector.class");
        !entries.iter().any(|entry| is_connectors(&entry.key)) && entries.iter().any(|entry| worker_file::declares(&entry.key))
    })
}

/// Two files cannot declare one connector.
fn refuse_repeated_names(checked: &mut [Checked]) {
    let mut first: BTreeMap<String, PathBuf> = BTreeMap::new();
    for Checked { file, name, report } in checked {
        let Some(name) = name else { continue };
        match first.get(name) {
            Some(other) => report.faults.push(fault("name", format!("{name} is declared by {} too", other.display()))),
            None => drop(first.insert(name.clone(), file.clone())),
        }
    }
}

fn text(checked: &Checked) -> String {
    let file = checked.file.display();
    let mut text = String::new();
    for fault in &checked.report.faults {
        let _ = writeln!(text, "{file}: fault: {fault}");
    }
    for note in &checked.report.notes {
        let _ = writeln!(text, "{file}: note: {note}");
    }
    if checked.report.faults.is_empty() {
        let _ = writeln!(text, "{file}: valid");
    }
    text
}

fn json(checked: &Checked) -> Value {
    let list = |faults: &[ConfigFault]| faults.iter().map(|fault| json!({"key": fault.key, "message": fault.message})).collect::<Value>();
    json!({
        "file": checked.file.display().to_string(),
        "name": checked.name,
        "valid": checked.report.faults.is_empty(),
        "faults": list(&checked.report.faults),
        "notes": list(&checked.report.notes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn worker_files_and_connector_files_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        assert!(is_worker_file(&write(folder.path(), "worker.yaml", "data: {dir: /d}\n")));
        assert!(!is_worker_file(&write(folder.path(), "a.yaml", "name: a\nconnector: x\nkey.converter: json\n")));
        assert!(!is_worker_file(&write(folder.path(), "a.json", r#"{"name":"a","config":{"connector.class":"x"}}"#)));
        assert!(!is_worker_file(&write(folder.path(), "b.yaml", "topic.prefix: a\n")));
    }

    #[test]
    fn every_file_and_every_fault_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let one = write(folder.path(), "one.yaml", "name: a\nconnector: nothing\ntasks.max: 0\n");
        let two = write(folder.path(), "two.yaml", "name: a\nconnector: nothing\n");
        let mut checked: Vec<Checked> = [one, two].iter().map(|file| check_file(file, &ConfigValues::default())).collect();
        refuse_repeated_names(&mut checked);
        let keys = |checked: &Checked| checked.report.faults.iter().map(|fault| fault.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&checked[0]), ["connector.class", "tasks.max"]);
        assert_eq!(keys(&checked[1]), ["connector.class", "name"]);
        assert!(text(&checked[0]).contains("one.yaml: fault: tasks.max: must be at least 1"));
        assert_eq!(json(&checked[1])["faults"][1]["key"], "name");
    }
}
