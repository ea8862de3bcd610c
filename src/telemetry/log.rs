//! Logs: one line an event on standard error, as text for people or JSON for machines.
//!
//! Fields of the surrounding spans (`connector`, `task`) stand beside those of the event; an event's own win. Keys of
//! JSON lines are `timestamp`, `level`, `message`, then the fields: `connector`, `task`, `table`, `position`,
//! `error.kind`, `error.mend` where they are known. A log that cannot be written is no reason to stop.

use std::fmt::{self, Write as _};
use std::io::Write as _;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::{LookupSpan, Scope};
use tracing_subscriber::util::SubscriberInitExt;

use super::levels::Levels;
use crate::config::worker_file::LogFormat;

/// Sends events to standard error. `level` is a level or directives of `tracing`, checked with the worker file.
/// Called once, first of all; a second call changes nothing. The levels can be changed later.
pub fn init(format: LogFormat, level: &str) -> Levels {
    let levels = Levels::new(level);
    let _ = tracing_subscriber::registry().with(Lines { format }.with_filter(levels.clone())).try_init();
    levels
}

struct Lines {
    format: LogFormat,
}

/// Fields of a span, kept with it.
struct SpanFields(Map<String, Value>);

struct Collect<'a>(&'a mut Map<String, Value>);

impl Collect<'_> {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_owned(), value);
    }
}

impl Visit for Collect<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, Value::String(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, Value::from(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, Value::from(value));
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Map::new();
        attributes.record(&mut Collect(&mut fields));
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(&mut Collect(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Map::new();
        for span in context.event_scope(event).into_iter().flat_map(Scope::from_root) {
            if let Some(SpanFields(inherited)) = span.extensions().get() {
                fields.extend(inherited.iter().map(|(name, value)| (name.clone(), value.clone())));
            }
        }
        event.record(&mut Collect(&mut fields));
        let message = match fields.shift_remove("message") {
            Some(Value::String(message)) => message,
            Some(_) | None => String::new(),
        };
        let level = event.metadata().level().as_str();
        let mut line = match self.format {
            LogFormat::Text => text(&now(), level, &message, &fields),
            LogFormat::Json => json(&now(), level, &message, fields),
        };
        line.push('\n');
        // One write, so that lines of several threads and processes do not mix.
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

/// The time as RFC 3339 in UTC.
fn now() -> String {
    let mut text = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut text));
    text
}

fn json(timestamp: &str, level: &str, message: &str, fields: Map<String, Value>) -> String {
    let mut line = Map::new();
    line.insert("timestamp".to_owned(), timestamp.into());
    line.insert("level".to_owned(), level.into());
    line.insert("message".to_owned(), message.into());
    line.extend(fields);
    Value::Object(line).to_string()
}

/// Control characters in what others sent must not forge lines or drive a terminal, so they are escaped.
fn text(timestamp: &str, level: &str, message: &str, fields: &Map<String, Value>) -> String {
    let mut line = format!("{timestamp} {level:>5} ");
    escape(message, &mut line);
    for (name, value) in fields {
        let _ = write!(line, " {name}=");
        match value {
            Value::String(text) if text.contains([' ', '"', '=']) => {
                let _ = write!(line, "{text:?}");
            }
            Value::String(text) => escape(text, &mut line),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                let _ = write!(line, "{value}");
            }
        }
    }
    line
}

fn escape(text: &str, line: &mut String) {
    for character in text.chars() {
        if character.is_control() { line.extend(character.escape_default()) } else { line.push(character) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Map<String, Value> {
        let fields = serde_json::json!({"connector": "shop", "task": 0, "error.kind": "unreachable", "error.mend": "start it"});
        fields.as_object().unwrap().clone()
    }

    #[test]
    fn json_lines_have_the_documented_keys_in_order() {
        let line = json("2026-01-02T03:04:05.000000Z", "ERROR", "cannot\nconnect", fields());
        let expected = r#"{"timestamp":"2026-01-02T03:04:05.000000Z","level":"ERROR","message":"cannot\nconnect","connector":"shop","task":0,"error.kind":"unreachable","error.mend":"start it"}"#;
        assert_eq!(line, expected);
    }

    #[test]
    fn text_lines_stay_one_line() {
        let line = text("T", "WARN", "a\nb\u{1b}[31m", &fields());
        assert_eq!(line, "T  WARN a\\nb\\u{1b}[31m connector=shop task=0 error.kind=unreachable error.mend=\"start it\"");
    }

    #[test]
    fn the_time_is_rfc_3339_in_utc() {
        let time = now();
        assert!(time.len() >= 20 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
}
