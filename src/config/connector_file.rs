//! Connector files: YAML, JSON (`{"name":…,"config":{…}}` or flat) and Java's `.properties`.
//!
//! Which connector it is says `connector.class`, as in Connect, or `connector`, our own key. The latter stands for both, so that whoever
//! reads a configuration finds the class, and a connector can tell a file that was written for us from a configuration of Connect.

use std::path::Path;

use serde_json::Value;
use tailwater_api::config::ConfigReport;
use tailwater_api::state::JsonMap;

use super::document::{self, Entry, Member, Node, fault};

/// A connector as a file declares it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectorFile {
    /// Its name
    pub name: String,
    /// Flat keys with text values as they are written, `name` among them, placeholders unresolved
    pub config: JsonMap,
}

/// Endings of the files that [`read`] knows.
pub const ENDINGS: [&str; 4] = ["yaml", "yml", "json", "properties"];

/// Reads a connector file.
///
/// # Errors
/// All faults with their lines; a fault without a key is one of the whole file.
pub fn read(path: &Path) -> Result<ConnectorFile, ConfigReport> {
    parse(path, &document::read_text(path)?)
}

/// As [`read`], for a text that was read; the path says the format.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, text: &str) -> Result<ConnectorFile, ConfigReport> {
    let entries = document::flatten(&unwrap_config(document::parse(path, text)?)?)?;
    let mut config: JsonMap = entries.into_iter().map(|Entry { key, value, line: _ }| (key, Value::String(value))).collect();
    if let Some(class) = config.get("connector").cloned() {
        config.entry("connector.class").or_insert(class);
    }
    match config.get("name").and_then(Value::as_str).map(str::trim) {
        Some(name) if !name.is_empty() => {
            let name = name.to_owned();
            config.insert("name".to_owned(), Value::String(name.clone()));
            Ok(ConnectorFile { name, config })
        }
        Some(_) | None => Err(whole("name", "is missing: the name of the connector, unique in the worker")),
    }
}

fn whole(key: &str, message: impl Into<String>) -> ConfigReport {
    ConfigReport { faults: vec![fault(key, message)], notes: Vec::new() }
}

/// Takes the form that Connect's REST API is given, `name` and `config`, apart.
fn unwrap_config(members: Vec<Member>) -> Result<Vec<Member>, ConfigReport> {
    let is_config = |member: &Member| member.key == "config" && matches!(member.node, Node::Map(_));
    let belongs = |member: &Member| matches!(member.key.as_str(), "name" | "initial_state") || is_config(member);
    if !members.iter().any(is_config) || !members.iter().all(belongs) {
        return Ok(members);
    }
    if let Some(state) = members.iter().find(|member| member.key == "initial_state") {
        let message = format!("line {}: cannot be given in a file; pause or stop the connector once it is there", state.line);
        return Err(whole("initial_state", message));
    }
    let outer = members.iter().find(|member| member.key == "name").map(|member| member.node.clone());
    let mut flat = Vec::new();
    for member in members {
        match member.node {
            // The name once more inside is what Connect itself answers; only a different one is a fault.
            Node::Map(inner) => flat.extend(inner.into_iter().filter(|inner| inner.key != "name" || outer.as_ref() != Some(&inner.node))),
            node @ (Node::Null | Node::Text(_) | Node::List(_)) => flat.push(Member { node, ..member }),
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(name: &str, text: &str) -> Result<ConnectorFile, String> {
        let show = |report: ConfigReport| report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        parse(Path::new(name), text).map_err(show)
    }

    #[test]
    fn the_three_formats_say_the_same() {
        let yaml = parsed("a.yaml", "name: shop\nconnector.class: postgres\ndatabase: {port: 5432}\n").unwrap();
        let wrapped = parsed("a.json", r#"{"name":"shop","config":{"connector.class":"postgres","database.port":"5432"}}"#).unwrap();
        let flat = parsed("a.json", r#"{"name":"shop","connector.class":"postgres","database.port":5432}"#).unwrap();
        let properties = parsed("a.properties", "name=shop\nconnector.class=postgres\ndatabase.port=5432\n").unwrap();
        assert_eq!(yaml.name, "shop");
        assert_eq!(wrapped.config["connector.class"], "postgres");
        assert!([wrapped, flat, properties].iter().all(|other| *other == yaml));
    }

    #[test]
    fn our_own_key_stands_for_the_class_and_stays() {
        let short = parsed("a.yaml", "name: a\nconnector: x\n").unwrap();
        assert_eq!((&short.config["connector"], &short.config["connector.class"]), (&"x".into(), &"x".into()));
        // As the REST API shows it.
        let both = parsed("a.json", r#"{"name":"a","connector":"x","connector.class":"x"}"#).unwrap();
        assert_eq!(both, short);
    }

    #[test]
    fn faults_are_clear() {
        assert!(parsed("a.yaml", "connector: postgres\n").unwrap_err().starts_with("name: is missing"));
        assert!(parsed("a.json", r#"{"name":"a","config":{},"initial_state":"STOPPED"}"#).unwrap_err().contains("cannot be given"));
        assert!(parsed("a.json", r#"{"name":"a","config":{"name":"b"}}"#).unwrap_err().contains("given twice"));
        assert!(parsed("a.json", r#"{"config":{"name":"a","connector.class":"x"},"name":"a"}"#).is_ok());
    }

    #[test]
    fn keys_that_begin_with_config_may_be_nested() {
        let file = parsed("a.yaml", "name: a\nconnector: x\nconfig: {action.reload: none}\n").unwrap();
        assert_eq!(file.config["config.action.reload"], "none");
    }

    #[test]
    fn placeholders_stay_as_they_are() {
        let file = parsed("a.yaml", "name: a\nconnector: postgres\ndatabase.password: ${env:PG_PASSWORD}\n").unwrap();
        assert_eq!(file.config["database.password"], "${env:PG_PASSWORD}");
    }

    #[test]
    fn a_file_that_is_not_there_says_so() {
        let report = read(Path::new("/no/such/file.yaml")).unwrap_err();
        assert!(report.faults[0].message.starts_with("cannot be read"));
    }
}
