//! Configuration files as flat keys with text values, whatever their format.
//!
//! A value keeps the text that the file holds: `1.10` stays `1.10`, `010` stays `010`. So YAML is read from its
//! events and JSON from its raw values, and no number is ever parsed here. Nested keys are joined by dots, lists by
//! commas, a comma inside an element being escaped as `\,` (see [`tailwater_api::config::split_list`]).

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_saphyr::granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use tailwater_api::config::{ConfigFault, ConfigReport};

use super::properties;

/// A file larger than this is no configuration (I6).
const MAX_BYTES: u64 = 1 << 20;
/// Deeper than this no key is nested.
const MAX_DEPTH: usize = 32;

/// A tree of keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Node {
    Null,
    Text(String),
    List(Vec<Node>),
    Map(Vec<Member>),
}

/// A key of a [`Node::Map`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Member {
    pub(crate) key: String,
    /// Line of the key or its value, from 1
    pub(crate) line: usize,
    pub(crate) node: Node,
}

/// A flat key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) line: usize,
}

/// A fault of the whole file or of one place in it.
pub(crate) fn fault(key: &str, message: impl Into<String>) -> ConfigFault {
    ConfigFault { key: key.to_owned(), message: message.into() }
}

fn one_fault(message: impl Into<String>) -> ConfigReport {
    ConfigReport { faults: vec![fault("", message)], notes: Vec::new() }
}

/// Reads a file's text.
///
/// # Errors
/// It cannot be read, is too large, or is no UTF-8.
pub(crate) fn read_text(path: &Path) -> Result<String, ConfigReport> {
    let metadata = std::fs::metadata(path).map_err(|error| one_fault(format!("cannot be read: {error}")))?;
    if !metadata.is_file() {
        return Err(one_fault("is no file"));
    }
    if metadata.len() > MAX_BYTES {
        return Err(one_fault(format!("is larger than {MAX_BYTES} bytes, which is no configuration")));
    }
    std::fs::read_to_string(path).map_err(|error| one_fault(format!("cannot be read: {error}")))
}

/// Parses `text` by the ending of `path`: `.yaml`, `.yml`, `.json` or `.properties`. The result is a [`Node::Map`].
///
/// # Errors
/// What is wrong, with its line.
pub(crate) fn parse(path: &Path, text: &str) -> Result<Vec<Member>, ConfigReport> {
    let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    let node = match ending.to_ascii_lowercase().as_str() {
        "yaml" | "yml" => parse_yaml(text),
        "json" => parse_json(text),
        "properties" => parse_properties(text),
        _ => Err("must end in .yaml, .yml, .json or .properties".to_owned()),
    };
    match node.map_err(one_fault)? {
        Node::Map(members) => Ok(members),
        Node::Null => Ok(Vec::new()),
        Node::Text(_) | Node::List(_) => Err(one_fault("must hold keys and values at its top")),
    }
}

fn parse_properties(text: &str) -> Result<Node, String> {
    let properties = properties::parse(text).map_err(|(line, message)| format!("line {line}: {message}"))?;
    let member = |property: properties::Property| Member { key: property.key, line: property.line, node: Node::Text(property.value) };
    Ok(Node::Map(properties.into_iter().map(member).collect()))
}

// ---- YAML

fn parse_yaml(text: &str) -> Result<Node, String> {
    let mut reader = YamlReader { parser: Parser::new_from_str(text) };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(Node::Null),
            (Event::DocumentStart(..), _) => break,
            _ => {}
        }
    }
    let first = reader.next()?;
    let node = match first.0 {
        Event::DocumentEnd => return Ok(Node::Null),
        _ => reader.node(first, 0)?,
    };
    loop {
        match reader.next()? {
            (Event::StreamEnd, _) => return Ok(node),
            (Event::DocumentStart(..), span) => return Err(format!("line {}: a second document; one file holds one", line(&span))),
            _ => {}
        }
    }
}

fn line(span: &Span) -> usize {
    span.start.line()
}

struct YamlReader<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> {
    parser: I,
}

impl<'a, I: Iterator<Item = Result<(Event<'a>, Span), ScanError>>> YamlReader<'a, I> {
    /// The next event that is no comment.
    fn next(&mut self) -> Result<(Event<'a>, Span), String> {
        loop {
            match self.parser.next() {
                Some(Ok((Event::Comment(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    return Err(format!("line {}, column {}: {}", error.marker().line(), error.marker().col() + 1, error.info()));
                }
                None => return Err("ends in the middle of a value".to_owned()),
            }
        }
    }

    fn node(&mut self, (event, span): (Event<'a>, Span), depth: usize) -> Result<Node, String> {
        if depth > MAX_DEPTH {
            return Err(format!("line {}: nested deeper than {MAX_DEPTH} levels", line(&span)));
        }
        match event {
            Event::Scalar(text, ScalarStyle::Plain, _, None) if matches!(&*text, "" | "~" | "null" | "Null" | "NULL") => Ok(Node::Null),
            Event::Scalar(text, ..) => Ok(Node::Text(text.into_owned())),
            Event::SequenceStart(..) => {
                let mut elements = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(elements)),
                        event => elements.push(self.node(event, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => self.map(depth),
            Event::Alias(_) | Event::Anchor(..) | Event::UnresolvedAlias(_) => {
                Err(format!("line {}: anchors and aliases are not supported; write the value out", line(&span)))
            }
            // Ends and starts where a value should stand; the parser's type is open, so they are not listed.
            _ => Err(format!("line {}: a value is missing", line(&span))),
        }
    }

    fn map(&mut self, depth: usize) -> Result<Node, String> {
        let mut members = Vec::new();
        loop {
            let (event, span) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Node::Map(members)),
                Event::Scalar(key, ..) if key == "<<" => {
                    return Err(format!("line {}: merge keys are not supported; write the keys out", line(&span)));
                }
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(format!("line {}: a key must be text", line(&span))),
            };
            let value = self.next()?;
            members.push(Member { key, line: line(&span), node: self.node(value, depth + 1)? });
        }
    }
}

// ---- JSON

/// The members of a JSON object, values untouched, repeated keys included.
struct RawMembers<'a>(Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for RawMembers<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = RawMembers<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = access.next_entry()? {
                    members.push(member);
                }
                Ok(RawMembers(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// Parses JSON text.
///
/// # Errors
/// The parser's sentence, with line and column.
pub(crate) fn parse_json(text: &str) -> Result<Node, String> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|error| error.to_string())?;
    json_node(text, raw.get(), 0)
}

fn json_node(whole: &str, text: &str, depth: usize) -> Result<Node, String> {
    if depth > MAX_DEPTH {
        return Err(format!("nested deeper than {MAX_DEPTH} levels"));
    }
    let describe = |error: serde_json::Error| error.to_string();
    match text.as_bytes().first() {
        Some(b'{') => {
            let RawMembers(members) = serde_json::from_str(text).map_err(describe)?;
            let member = |(key, raw): (String, &RawValue)| {
                Ok(Member { key, line: line_in(whole, raw.get()), node: json_node(whole, raw.get(), depth + 1)? })
            };
            Ok(Node::Map(members.into_iter().map(member).collect::<Result<_, String>>()?))
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> = serde_json::from_str(text).map_err(describe)?;
            Ok(Node::List(elements.into_iter().map(|raw| json_node(whole, raw.get(), depth + 1)).collect::<Result<_, String>>()?))
        }
        Some(b'"') => Ok(Node::Text(serde_json::from_str(text).map_err(describe)?)),
        Some(b'n') => Ok(Node::Null),
        // Numbers, true and false: as they are written.
        _ => Ok(Node::Text(text.to_owned())),
    }
}

/// The line, from 1, on which `part` stands, which is a slice of `whole`.
fn line_in(whole: &str, part: &str) -> usize {
    let start = (part.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    1 + whole.bytes().take(start).filter(|byte| *byte == b'\n').count()
}

// ---- flat keys

/// The flat keys of a tree in its order. A key that is null is left out, as one that is not given.
///
/// # Errors
/// All faults: keys given twice, lists of more than scalars.
pub(crate) fn flatten(members: &[Member]) -> Result<Vec<Entry>, ConfigReport> {
    let mut flat = Flat { entries: Vec::new(), report: ConfigReport::default() };
    flat.add_all("", members);
    if flat.report.faults.is_empty() { Ok(flat.entries) } else { Err(flat.report) }
}

struct Flat {
    entries: Vec<Entry>,
    report: ConfigReport,
}

impl Flat {
    fn add_all(&mut self, prefix: &str, members: &[Member]) {
        for member in members {
            let key = if prefix.is_empty() { member.key.clone() } else { format!("{prefix}.{}", member.key) };
            match &member.node {
                Node::Null => {}
                Node::Text(text) => self.add(key, text.clone(), member.line),
                Node::List(elements) => match join(elements) {
                    Some(text) => self.add(key, text, member.line),
                    None => self.report.faults.push(fault(&key, format!("line {}: a list may hold texts and numbers only", member.line))),
                },
                Node::Map(inner) => self.add_all(&key, inner),
            }
        }
    }

    fn add(&mut self, key: String, value: String, line: usize) {
        match self.entries.iter().find(|entry| entry.key == key) {
            Some(first) => {
                let message = format!("is given twice, on lines {} and {line}", first.line);
                self.report.faults.push(fault(&key, message));
            }
            None => self.entries.push(Entry { key, value, line }),
        }
    }
}

fn join(elements: &[Node]) -> Option<String> {
    let mut texts = Vec::with_capacity(elements.len());
    for element in elements {
        match element {
            Node::Text(text) => texts.push(text.replace(',', "\\,")),
            Node::Null | Node::List(_) | Node::Map(_) => return None,
        }
    }
    Some(texts.join(","))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tailwater_api::config::split_list;

    use super::*;

    fn flat(name: &str, text: &str) -> Result<Vec<(String, String)>, String> {
        let entries = parse(Path::new(name), text).and_then(|members| flatten(&members));
        let show = |report: ConfigReport| report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Ok(entries.map_err(show)?.into_iter().map(|entry| (entry.key, entry.value)).collect())
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn yaml_keeps_the_text_of_scalars() {
        let text = "a: 1.10\nb: 010\nc: yes\nd: 1_000\ne: 'x: y'\nf: shop\\.public\\..*\ng:\nh: ~\ni: ''\nj: 2026-01-02\nk: 1e3\n";
        let expected = pairs(&[
            ("a", "1.10"),
            ("b", "010"),
            ("c", "yes"),
            ("d", "1_000"),
            ("e", "x: y"),
            ("f", "shop\\.public\\..*"),
            ("i", ""),
            ("j", "2026-01-02"),
            ("k", "1e3"),
        ]);
        assert_eq!(flat("a.yaml", text).unwrap(), expected);
    }

    #[test]
    fn nested_and_dotted_keys_are_one() {
        let expected = pairs(&[("database.hostname", "db"), ("database.ssl.mode", "require"), ("database.port", "5432")]);
        assert_eq!(flat("a.yaml", "database:\n  hostname: db\n  ssl.mode: require\ndatabase.port: 5432\n").unwrap(), expected);
        assert_eq!(flat("a.json", r#"{"database":{"hostname":"db","ssl.mode":"require"},"database.port":5432}"#).unwrap(), expected);
        assert_eq!(flat("a.properties", "database.hostname=db\ndatabase.ssl.mode=require\ndatabase.port=5432").unwrap(), expected);
    }

    #[test]
    fn json_keeps_the_text_of_numbers() {
        let expected = pairs(&[("a", "1.10"), ("b", "true"), ("c", "ü\n"), ("d", "1e400")]);
        assert_eq!(flat("a.json", "{\"a\":1.10,\"b\":true,\"c\":\"\\u00fc\\n\",\"d\":1e400,\"e\":null}").unwrap(), expected);
    }

    #[test]
    fn a_list_escapes_the_commas_of_its_elements() {
        let expected = pairs(&[("tables", "public.a{1\\,2},public.b")]);
        assert_eq!(flat("a.yaml", "tables: ['public.a{1,2}', public.b]").unwrap(), expected);
        assert_eq!(flat("a.json", r#"{"tables":["public.a{1,2}","public.b"]}"#).unwrap(), expected);
    }

    #[test]
    fn faults_name_the_line() {
        assert_eq!(
            flat("a.yaml", "a: 1\nb: [x, {y: 1}]\na: 2\n").unwrap_err(),
            "b: line 2: a list may hold texts and numbers only; a: is given twice, on lines 1 and 3"
        );
        assert!(flat("a.yaml", "a: 1\nb: [x\n").unwrap_err().starts_with("line "));
        assert!(flat("a.yaml", "a: &x 1\nb: *x\n").unwrap_err().starts_with("line 2: anchors"));
        assert!(flat("a.yaml", "a: 1\n---\nb: 2\n").unwrap_err().contains("second document"));
        assert!(flat("a.json", "{\"a\":1,\n\"b\" 2}").unwrap_err().contains("line 2"));
        assert_eq!(flat("a.json", "{\"a\":1,\n\"a\":2}").unwrap_err(), "a: is given twice, on lines 1 and 2");
        assert!(flat("a.properties", "a=1\nb=\\u1").unwrap_err().starts_with("line 2: "));
        assert!(flat("a.yaml", "- a\n").unwrap_err().contains("keys and values"));
        assert!(flat("a.toml", "a = 1").unwrap_err().contains(".yaml"));
        assert_eq!(flat("a.yaml", "").unwrap(), []);
        assert_eq!(flat("a.yaml", "# nothing\n---\n").unwrap(), []);
    }

    #[test]
    fn depth_is_bounded() {
        let yaml = format!("{}x{}", "{a: ".repeat(60), "}".repeat(60));
        let json = format!("{}1{}", "{\"a\":".repeat(60), "}".repeat(60));
        assert!(flat("a.yaml", &yaml).is_err());
        assert!(flat("a.json", &json).unwrap_err().contains("deeper"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[-a-c:{}\\[\\]\"', \n&*#|>\\\\1]{0,40}") {
            for name in ["a.yaml", "a.json", "a.properties"] {
                let _ = flat(name, &text);
            }
        }

        #[test]
        fn a_list_of_patterns_survives_the_flat_text(elements in proptest::collection::vec("[a-z.*{}(),]{1,8}", 1..5)) {
            let text = serde_json::to_string(&serde_json::json!({ "list": elements })).unwrap();
            let flat = flat("a.json", &text).unwrap();
            prop_assert_eq!(split_list(&flat[0].1), elements);
        }
    }
}
