//! Compares what was recorded with what Tailwater wrote.
//!
//! Schemas are compared as texts, byte for byte. A payload that is JSON is taken apart into its tokens, each with its path,
//! exactly as they are written: `1.0` is not `1`, `\u00e9` is not `é`. The values that differ from run to run are replaced by
//! their shape: `null` stays, digits of times are counted, the form of a sequence is kept. Then a difference is named by
//! the path of its first token.

use std::fmt::Write as _;

use super::recording::{Entry, Part, Topics};

/// All differences, one a line, first of each part; empty where both are equal.
pub(crate) fn differences(recorded: &Topics, written: &Topics) -> Vec<String> {
    let mut found = Vec::new();
    for topic in recorded.keys().chain(written.keys().filter(|topic| !recorded.contains_key(*topic))) {
        let mut recorded = recorded.get(topic).cloned().unwrap_or_default();
        let mut written = written.get(topic).cloned().unwrap_or_default();
        if recorded.first().is_some_and(is_heartbeat) {
            // Their number follows the clock.
            recorded.truncate(1);
            written.truncate(1);
        }
        for (index, pair) in recorded
            .iter()
            .map(Some)
            .chain(std::iter::repeat(None))
            .zip(written.iter().map(Some).chain(std::iter::repeat(None)))
            .enumerate()
        {
            let place = format!("{topic}#{index}");
            match pair {
                (Some(recorded), Some(written)) => record_differences(&place, recorded, written, &mut found),
                (Some(recorded), None) => found.push(format!("{place}: recorded {}, tailwater wrote none", summary(recorded))),
                (None, Some(written)) => found.push(format!("{place}: none recorded, tailwater wrote {}", summary(written))),
                (None, None) => break,
            }
        }
    }
    found
}

fn is_heartbeat(entry: &Entry) -> bool {
    entry.value.schema.contains("\"io.debezium.connector.common.Heartbeat\"")
}

/// What a record holds, without what differs from run to run.
fn summary(entry: &Entry) -> String {
    let shorten = |payload: &str| {
        let text = normalised("", payload).into_iter().map(|token| token.text).collect::<Vec<_>>().join(" ");
        if text.chars().count() > 200 { text.chars().take(200).collect::<String>() + "…" } else { text }
    };
    format!("key {} value {}", shorten(&entry.key.payload), shorten(&entry.value.payload))
}

fn record_differences(place: &str, recorded: &Entry, written: &Entry, found: &mut Vec<String>) {
    let names = |entry: &Entry| entry.headers.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(recorded) == names(written) {
        for ((name, recorded), (_, written)) in recorded.headers.iter().zip(&written.headers) {
            part_difference(&format!("{place} header {name}"), name, recorded, written, found);
        }
    } else {
        found.push(format!("{place} headers: recorded {:?}, tailwater {:?}", names(recorded), names(written)));
    }
    part_difference(&format!("{place} key"), "", &recorded.key, &written.key, found);
    part_difference(&format!("{place} value"), "", &recorded.value, &written.value, found);
}

fn part_difference(place: &str, header: &str, recorded: &Part, written: &Part, found: &mut Vec<String>) {
    if recorded.schema != written.schema {
        found.push(format!("{place} schema{}", first_difference(&tokens(&recorded.schema), &tokens(&written.schema))));
    }
    let [recorded, written] = [recorded, written].map(|part| normalised(header, &part.payload));
    if recorded != written {
        found.push(format!("{place}{}", first_difference(&recorded, &written)));
    }
}

fn first_difference(recorded: &[Token], written: &[Token]) -> String {
    let show = |token: Option<&Token>| token.map_or("its end".to_owned(), |token| token.text.clone());
    let index = recorded.iter().zip(written).take_while(|(recorded, written)| recorded == written).count();
    let (recorded, written) = (recorded.get(index), written.get(index));
    let path = |token: Option<&Token>| token.map_or(String::new(), |token| token.path.clone());
    if path(recorded) == path(written) {
        format!("{}: recorded {}, tailwater {}", path(recorded), show(recorded), show(written))
    } else {
        format!(": recorded{} {}, tailwater{} {}", path(recorded), show(recorded), path(written), show(written))
    }
}

/// A scalar, a bracket, or a key, exactly as written.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Token {
    path: String,
    text: String,
}

/// The tokens of a JSON text; any other text is one token.
fn tokens(text: &str) -> Vec<Token> {
    let mut scanner = Scanner { rest: text, tokens: Vec::new() };
    match scanner.value("") {
        Some(()) if scanner.rest.is_empty() => scanner.tokens,
        _ => vec![Token { path: String::new(), text: text.to_owned() }],
    }
}

/// Reads JSON without white space, which Connect's converters never write.
struct Scanner<'a> {
    rest: &'a str,
    tokens: Vec<Token>,
}

impl Scanner<'_> {
    fn take(&mut self, character: char) -> Option<()> {
        self.rest = self.rest.strip_prefix(character)?;
        Some(())
    }

    fn push(&mut self, path: &str, text: &str) {
        self.tokens.push(Token { path: path.to_owned(), text: text.to_owned() });
    }

    fn value(&mut self, path: &str) -> Option<()> {
        match self.rest.chars().next()? {
            '{' => self.members(path, '{', '}'),
            '[' => self.members(path, '[', ']'),
            '"' => {
                let text = self.string()?;
                self.push(path, &text);
                Some(())
            }
            _ => {
                let end = self.rest.find([',', '}', ']', '"', ' ', '{', '[']).unwrap_or(self.rest.len());
                let (scalar, rest) = self.rest.split_at(end);
                serde_json::from_str::<serde::de::IgnoredAny>(scalar).ok()?;
                self.rest = rest;
                self.push(path, scalar);
                Some(())
            }
        }
    }

    fn members(&mut self, path: &str, open: char, close: char) -> Option<()> {
        self.take(open)?;
        self.push(path, &open.to_string());
        let mut index = 0;
        while self.take(close).is_none() {
            if index > 0 {
                self.take(',')?;
            }
            let path = if open == '{' {
                let name = self.string()?;
                self.take(':')?;
                format!("{path}.{}", name.trim_matches('"'))
            } else {
                format!("{path}[{index}]")
            };
            self.value(&path)?;
            index += 1;
        }
        self.push(path, &close.to_string());
        Some(())
    }

    fn string(&mut self) -> Option<String> {
        let mut escaped = false;
        let end = self.rest.strip_prefix('"')?.find(|character| {
            let ends = character == '"' && !escaped;
            escaped = character == '\\' && !escaped;
            ends
        })?;
        let (text, rest) = self.rest.split_at(end + 2);
        self.rest = rest;
        Some(text.to_owned())
    }
}

/// What differs from run to run: names within `source` and, with a prefix, names of metadata fields and headers.
const OF_THE_SOURCE: &[&str] =
    &["version", "ts_ms", "ts_us", "ts_ns", "lsn", "txId", "xmin", "sequence", "commit_lsn", "origin_lsn", "lsn_commit", "lsn_proc"];

/// The tokens of a payload, with the values that differ from run to run replaced by their shape.
fn normalised(header: &str, payload: &str) -> Vec<Token> {
    let mut tokens = tokens(payload);
    // Debezium makes the map anew from one whose order the virtual machine chooses at its start.
    for entries in tokens.chunk_by_mut(|one, two| in_additional_data(one) == in_additional_data(two)) {
        if in_additional_data(&entries[0]) {
            entries.sort_by(|one, two| one.path.cmp(&two.path));
        }
    }
    let has = |path: &str| tokens.iter().any(|token| token.path == path);
    let is_envelope = has(".source") && (has(".op") || has(".ddl") || has(".databaseName"));
    let is_transaction = has(".status") && has(".event_count");
    let is_notification = has(".aggregate_type");
    // The key of a notification's record is a UUID.
    let is_notification_key = tokens.len() == 3 && has(".id") && tokens[1].text.len() == 38 && tokens[1].text.matches('-').count() == 4;
    // The key of a transaction's record: its number, a colon, a place.
    let is_transaction_key = tokens.len() == 3 && has(".id") && tokens[1].text.trim_matches('"').split(':').count() == 2;
    let is_heartbeat = tokens.len() == 3 && has(".ts_ms");
    // Their time is the connector's clock, whose nanoseconds are any.
    let is_incremental = tokens.iter().any(|token| token.path == ".source.snapshot" && token.text == "\"incremental\"");
    let is_cloud_event = has(".specversion");
    for token in &mut tokens {
        let Token { path, text } = token;
        let volatile = match path.as_str() {
            "" => volatile_header(header),
            ".ts_ms" | ".ts_us" | ".ts_ns" => is_envelope || is_transaction || is_heartbeat,
            ".id" => is_transaction || is_transaction_key || is_notification || is_notification_key || is_cloud_event,
            ".timestamp" => is_notification,
            ".time" => is_cloud_event,
            ".transaction.id" => is_envelope,
            path => match (path.strip_prefix(".source."), path.strip_prefix(".iodebezium")) {
                (Some(name), _) => OF_THE_SOURCE.contains(&name),
                (_, Some(name)) => is_cloud_event && volatile_attribute(name),
                (None, None) => volatile_field(path),
            },
        };
        if volatile && !matches!(text.as_str(), "{" | "}" | "[" | "]") {
            // A header's value has no path of its own.
            *text = shape(if path.is_empty() { header } else { path }, text);
            if is_incremental {
                *text = text.replace(WHOLE, "");
            }
        }
    }
    tokens
}

/// Whether it is an entry of what a notification says besides, whose values are texts.
fn in_additional_data(token: &Token) -> bool {
    token.path.starts_with(".additional_data.")
}

/// A header with metadata of the source (`__source_ts_ms`, `cdc.version`) or the id of a run.
fn volatile_header(name: &str) -> bool {
    name == "__debezium.context.runId" || ends_with_a_name_of_the_source(name)
}

/// A field that ExtractNewRecordState adds (`__ts_ms`, `__source_lsn`, with another prefix `meta_LSN`) or that Flatten made
/// (`source.ts_ms`).
fn volatile_field(path: &str) -> bool {
    path.strip_prefix('.').is_some_and(|name| {
        let of_metadata = ["__", "meta_", "source.", "source_"].iter().any(|start| name.starts_with(start));
        of_metadata && ends_with_a_name_of_the_source(&name.to_ascii_lowercase())
    })
}

/// An extension attribute of a CloudEvent, whose names have no underscores.
fn volatile_attribute(name: &str) -> bool {
    name == "txid" || OF_THE_SOURCE.iter().any(|of_source| of_source.replace('_', "") == name)
}

fn ends_with_a_name_of_the_source(name: &str) -> bool {
    OF_THE_SOURCE.iter().any(|end| name.strip_suffix(end).is_some_and(|start| start.ends_with(['.', '_', ':'])))
}

/// What is said of a time in nanoseconds.
const WHOLE: &str = ", whole microseconds";

/// What a comparison keeps of a volatile value: whether it is null, its type, how many digits a time has, the form of a text.
fn shape(path: &str, text: &str) -> String {
    if text == "null" {
        return text.to_owned();
    }
    if path.ends_with("version") {
        return "<a version>".to_owned();
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    if is_number {
        if !path.contains("ts_") && !path.ends_with("timestamp") {
            return "<an integer>".to_owned();
        }
        // The source's times have microseconds; its nanoseconds are a thousand times these.
        let whole = if path.ends_with("source.ts_ns") && text.ends_with("000") { WHOLE } else { "" };
        return format!("<a time of {} digits{whole}>", text.len());
    }
    // Digits in a row become one mark, and so do the groups of a UUID.
    let mut shape = String::from("<");
    let mut in_digits = false;
    for character in text.chars() {
        let is_digit = character.is_ascii_hexdigit();
        if !is_digit {
            let _ = write!(shape, "{character}");
        } else if !in_digits {
            shape.push('N');
        }
        in_digits = is_digit;
    }
    shape + ">"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::{cases, recording};

    const VALUE: &str = r#"{"before":null,"after":{"id":1,"ts_ms":5,"f":1.0,"t":"\"\\"},"source":{"version":"3.6.1.Final","name":"a","ts_ms":1795227422224,"sequence":"[null,\"40093408\"]","ts_us":1795227422224429,"ts_ns":1795227422224429000,"txId":767,"lsn":40093408,"xmin":null},"transaction":{"id":"767:40093408","total_order":1},"op":"r","ts_ms":1795227422260}"#;

    fn changed(from: &str, to: &str) -> Option<String> {
        assert!(VALUE.contains(from), "{from}");
        compare(VALUE, &VALUE.replacen(from, to, 1))
    }

    fn compare(recorded: &str, written: &str) -> Option<String> {
        let topics = |value: &str| recording::parse_records(&format!("topic t\nkey - 1\nvalue - {value}\n"), "");
        let found = differences(&topics(recorded), &topics(written));
        assert!(found.len() <= 1, "{found:?}");
        found.into_iter().next()
    }

    #[test]
    fn values_that_differ_from_run_to_run_are_equal() {
        for (from, to) in [
            ("3.6.1.Final", "0.1.0"),
            ("\"ts_ms\":1795227422224", "\"ts_ms\":1895227422225"),
            ("\"ts_us\":1795227422224429,\"ts_ns\":1795227422224429000", "\"ts_us\":1795227422224430,\"ts_ns\":1795227422224430000"),
            ("\\\"40093408\\\"", "\\\"5\\\""),
            ("\"txId\":767", "\"txId\":1"),
            ("767:40093408", "1:2"),
            ("1795227422260", "1795227422261"),
        ] {
            assert_eq!(changed(from, to), None, "{from}");
        }
    }

    #[test]
    fn what_a_notification_says_besides_is_compared_without_its_order() {
        let told = r#"{"id":"1","aggregate_type":"Initial Snapshot","additional_data":{"a":"1","b":"2"},"timestamp":1795227422224}"#;
        assert_eq!(compare(told, &told.replace(r#""a":"1","b":"2""#, r#""b":"2","a":"1""#)), None);
        for other in [r#""a":"2","b":"1""#, r#""a":"1""#, r#""a":"1","b":"2","c":"3""#] {
            assert!(compare(told, &told.replace(r#""a":"1","b":"2""#, other)).is_some(), "{other}");
        }
    }

    #[test]
    fn everything_else_is_a_difference_named_by_its_path() {
        for (from, to, path) in [
            ("\"id\":1", "\"id\":2", "t#0 value.after.id: recorded 1, tailwater 2"),
            ("\"f\":1.0", "\"f\":1", "t#0 value.after.f: recorded 1.0, tailwater 1"),
            ("\"ts_ms\":5", "\"ts_ms\":6", "t#0 value.after.ts_ms: recorded 5, tailwater 6"),
            ("\"xmin\":null", "\"xmin\":3", "t#0 value.source.xmin: recorded null, tailwater <an integer>"),
            ("\"txId\":767", "\"txId\":null", "t#0 value.source.txId: recorded <an integer>, tailwater null"),
            ("\"txId\":767", "\"txId\":\"767\"", "t#0 value.source.txId: recorded <an integer>, tailwater <\"N\">"),
            ("1795227422224429000", "1795227422224429001", "whole microseconds"),
            ("[null,", "[\\\"1\\\",", "t#0 value.source.sequence"),
            ("\"name\":\"a\"", "\"name\":\"b\"", "t#0 value.source.name"),
            ("\"before\":null,", "", "recorded.before null, tailwater.after {"),
            ("\"ts_ms\":1795227422224,", "\"ts_ms\":1795227422224429,", "digits"),
        ] {
            let found = changed(from, to).unwrap_or_else(|| panic!("{from} -> {to} is not seen"));
            assert!(found.contains(path), "{found}");
        }
    }

    #[test]
    fn missing_further_and_reordered_records_are_differences() {
        let records = |keys: &[u32]| {
            let lines: String = keys.iter().map(|key| format!("key - {key}\nvalue - null\n\n")).collect();
            recording::parse_records(&format!("topic t\n{lines}"), "")
        };
        assert!(differences(&records(&[1, 2]), &records(&[1]))[0].contains("t#1: recorded"));
        assert!(differences(&records(&[1]), &records(&[1, 2]))[0].contains("t#1: none recorded"));
        assert_eq!(differences(&records(&[1, 2]), &records(&[2, 1])).len(), 2);
        assert_eq!(differences(&records(&[1]), &Topics::new()).len(), 1);
    }

    #[test]
    fn schemas_and_headers_are_compared_as_they_are() {
        let topics = |schema: &str, header: &str| {
            recording::parse_records(&format!("topic t\nheader {header} - 1\nkey s1 1\nvalue - null\n"), &format!("s1 {schema}\n"))
        };
        let recorded = topics(r#"{"type":"int32","optional":false}"#, "a");
        let found = differences(&recorded, &topics(r#"{"type":"int64","optional":false}"#, "a"));
        assert_eq!(found, [r#"t#0 key schema.type: recorded "int32", tailwater "int64""#]);
        let found = differences(&recorded, &topics(r#"{"optional":false,"type":"int32"}"#, "a"));
        assert_eq!(found.len(), 1);
        assert!(differences(&recorded, &topics(r#"{"type":"int32","optional":false}"#, "b"))[0].contains("headers"));
    }

    #[test]
    fn each_recorded_case_equals_itself_and_no_mutation_of_it() {
        for name in cases() {
            let recorded = recording::records(&name);
            assert_eq!(differences(&recorded, &recorded), Vec::<String>::new(), "{name}");
            for topic in recorded.keys().filter(|topic| !is_heartbeat(&recorded[*topic][0])) {
                let mut fewer = recorded.clone();
                fewer.get_mut(topic).unwrap().pop();
                assert!(!differences(&recorded, &fewer).is_empty(), "{name}: a record less in {topic}");
                let mut other = recorded.clone();
                let entry = &mut other.get_mut(topic).unwrap()[0];
                entry.value.payload = entry.value.payload.replacen("{", "{\"more\":0,", 1) + "x";
                assert!(!differences(&recorded, &other).is_empty(), "{name}: another value in {topic}");
            }
        }
    }
}
