//! Recorded cases as they lie on disk, in the format of `tests/golden/README.md`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// Folder of all recorded cases.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// What `case.yaml` says of how a case is played.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    pub(crate) server: String,
    #[serde(default)]
    pub(crate) config: BTreeMap<String, Value>,
    #[serde(default)]
    pub(crate) setup: Option<String>,
    #[serde(default)]
    pub(crate) stream: Option<Stream>,
    /// Patterns of the topics to compare; those of the topic prefix if absent
    #[serde(default)]
    pub(crate) topics: Option<Vec<String>>,
    /// Topics that are there before the connector is
    #[serde(default)]
    pub(crate) create_topics: Vec<String>,
    /// Whether the connector streams after its snapshot
    #[serde(default)]
    streams: Option<bool>,
    /// The configuration is refused
    #[serde(default)]
    rejected: bool,
    /// The task fails at its start within this many seconds
    #[serde(default)]
    pub(crate) fails: Option<f64>,
}

/// The steps while the connector streams.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Stream {
    One(String),
    Many(Vec<Step>),
}

impl Stream {
    pub(crate) fn steps(self) -> Vec<Step> {
        match self {
            Self::One(sql) => vec![Step::Text(sql)],
            Self::Many(steps) => steps,
        }
    }
}

/// One step.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Step {
    Text(String),
    Keyed(Box<KeyedStep>),
}

/// A step that is more than SQL; one of these keys is set, `fails` beside `restart`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct KeyedStep {
    pub(crate) sql: Option<String>,
    pub(crate) wait: Option<f64>,
    pub(crate) quiet: Option<f64>,
    pub(crate) restart: Option<String>,
    pub(crate) fails: Option<f64>,
    pub(crate) reconfigure: Option<BTreeMap<String, Value>>,
    pub(crate) expect_failure: Option<f64>,
    pub(crate) produce: Option<Value>,
    pub(crate) registry: Option<Value>,
}

/// One text of a record: its schema, if the text was a schema and a payload, and the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// JSON of the schema; a mark (`-`, `+`, `"`) where there is none
    pub(crate) schema: String,
    pub(crate) payload: String,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) headers: Vec<(String, Part)>,
    pub(crate) key: Part,
    pub(crate) value: Part,
}

/// Records by topic, in the order of their offsets.
pub(crate) type Topics = BTreeMap<String, Vec<Entry>>;

impl Case {
    /// Whether it can only be played beside a broker.
    pub(crate) fn takes_signals_from_kafka(&self) -> bool {
        self.config.contains_key("signal.kafka.topic")
    }

    /// Keys of the configuration that a step changes.
    pub(crate) fn reconfigured(&self) -> Vec<String> {
        let Some(Stream::Many(steps)) = &self.stream else { return Vec::new() };
        let changes = steps.iter().filter_map(|step| match step {
            Step::Keyed(step) => step.reconfigure.as_ref(),
            Step::Text(_) => None,
        });
        changes.flat_map(|changes| changes.keys().cloned()).collect()
    }

    /// Whether the connector streams once it has started.
    pub(crate) fn streams(&self) -> bool {
        self.streams.unwrap_or(self.fails.is_none() && !self.rejected)
    }
}

/// Reads `case.yaml`.
pub(crate) fn case(name: &str) -> Case {
    let path = root().join(name).join("case.yaml");
    serde_saphyr::from_str(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The recorded configuration, without addresses and passwords.
pub(crate) fn configuration(name: &str) -> Option<serde_json::Map<String, Value>> {
    let text = fs::read_to_string(root().join(name).join("connector.json")).ok()?;
    Some(serde_json::from_str(&text).unwrap())
}

/// Whether the case ends with a failure.
pub(crate) fn has_failure(name: &str) -> bool {
    root().join(name).join("failure.txt").exists()
}

/// The recorded records; none where the case recorded none.
pub(crate) fn records(name: &str) -> Topics {
    let folder = root().join(name);
    let Ok(text) = fs::read_to_string(folder.join("records.txt")) else { return Topics::new() };
    parse_records(&text, &fs::read_to_string(folder.join("schemas.txt")).unwrap_or_default())
}

/// Reads the texts of `records.txt` and `schemas.txt`.
pub(crate) fn parse_records(records: &str, schemas: &str) -> Topics {
    let schemas: HashMap<&str, &str> = schemas.lines().filter_map(|line| line.split_once(' ')).collect();
    let part = |rest: &str| {
        let (schema, payload) = rest.split_once(' ').unwrap_or((rest, ""));
        let schema = schemas.get(schema).copied().unwrap_or(schema);
        Part { schema: schema.to_owned(), payload: payload.to_owned() }
    };
    let mut topics = Topics::new();
    let mut topic = String::new();
    let mut headers = Vec::new();
    let mut key = None;
    // Lines end with a line feed alone: payloads hold the other characters that `lines` may split at.
    for line in records.split('\n').filter(|line| !line.is_empty()) {
        let (word, rest) = line.split_once(' ').unwrap_or_else(|| panic!("a line without a space: {line}"));
        match word {
            "topic" => rest.clone_into(&mut topic),
            // Partitions and timestamps are recorded where they matter; see `not_compared`.
            "partition" | "timestamp" => {}
            "header" => {
                let (name, rest) = rest.split_once(' ').expect("a header has a schema and a payload");
                headers.push((name.to_owned(), part(rest)));
            }
            "key" => key = Some(part(rest)),
            "value" => {
                let key = key.take().expect("a key stands before the value");
                topics.entry(topic.clone()).or_default().push(Entry { headers: std::mem::take(&mut headers), key, value: part(rest) });
            }
            other => panic!("unknown line {other:?} in records.txt"),
        }
    }
    topics
}

/// Statements as the recorder sent them: each ends with a semicolon at a line's end; what stands between
/// `--- transaction` and `---` is one string.
pub(crate) fn statements(sql: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut block: Option<Vec<&str>> = None;
    let mut statement = Vec::new();
    for line in sql.lines() {
        match (&mut block, line.trim()) {
            (None, "--- transaction") => block = Some(Vec::new()),
            (Some(lines), "---") => {
                statements.push(lines.join("\n"));
                block = None;
            }
            (Some(lines), _) => lines.push(line),
            (None, _) => {
                statement.push(line);
                if line.trim_end().ends_with(';') {
                    statements.push(std::mem::take(&mut statement).join("\n"));
                }
            }
        }
    }
    let rest = statement.join("\n");
    if !rest.trim().is_empty() {
        statements.push(rest);
    }
    statements
}

/// A record as `topic read` prints it, split as the recorder split it.
pub(crate) fn entry(record: &Value) -> Entry {
    let headers = record["headers"].as_array().expect("headers are a list");
    Entry {
        headers: headers.iter().map(|header| (header[0].as_str().expect("a header has a name").to_owned(), split(&header[1]))).collect(),
        key: split(&record["key"]),
        value: split(&record["value"]),
    }
}

fn split(bytes: &Value) -> Part {
    let part = |schema: &str, payload: &str| Part { schema: schema.to_owned(), payload: payload.to_owned() };
    let text = match bytes {
        Value::Null => return part("-", "null"),
        Value::String(text) => text,
        other => return part("base64", other["base64"].as_str().expect("bytes are text or base64")),
    };
    if text == "null" {
        return part("+", "null");
    }
    let schema_end = text.strip_prefix(r#"{"schema":"#).and_then(|rest| {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<&serde_json::value::RawValue>();
        values.next()?.ok().map(|schema| schema.get().len())
    });
    if let Some(end) = schema_end {
        let (schema, rest) = text[r#"{"schema":"#.len()..].split_at(end);
        if let Some(payload) = rest.strip_prefix(r#","payload":"#).and_then(|rest| rest.strip_suffix('}')) {
            return part(schema, payload);
        }
    }
    if text.contains('\n') { part("\"", &Value::from(text.as_str()).to_string()) } else { part("-", text) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn statements_end_at_line_ends_and_blocks_stay_whole() {
        let sql = "create table t (\n a int);\n--- transaction\nbegin;\ncommit;\n---\nselect 1; select 2;\nselect 3";
        assert_eq!(statements(sql), ["create table t (\n a int);", "begin;\ncommit;", "select 1; select 2;", "select 3"]);
    }

    #[test]
    fn texts_are_split_as_the_recorder_splits_them() {
        let with_schema = split(&json!(r#"{"schema":{"type":"int32","optional":true},"payload":"}"}"#));
        assert_eq!((with_schema.schema.as_str(), with_schema.payload.as_str()), (r#"{"type":"int32","optional":true}"#, r#""}""#));
        let marks = [json!(null), json!("null"), json!("a\nb"), json!(r#"{"a":1}"#), json!({"base64": "AA=="})].map(|text| split(&text));
        assert_eq!(marks.map(|part| part.schema), ["-", "+", "\"", "-", "base64"]);
    }

    #[test]
    fn every_recorded_case_can_be_read() {
        let mut records = 0;
        for name in super::super::cases() {
            let case = case(&name);
            drop(case.stream.map(Stream::steps));
            records += super::records(&name).values().map(Vec::len).sum::<usize>();
        }
        assert!(records > 1000, "only {records} records");
    }
}
