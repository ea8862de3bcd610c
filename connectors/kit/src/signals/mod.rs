//! Signals to a running source, as Debezium 3.6 understands them ("Sending signals to a Debezium connector").
//!
//! | type | data |
//! |---|---|
//! | `execute-snapshot` | `{"type": "incremental" or "blocking", "data-collections": [EXPRESSION, …], "additional-conditions": [{"data-collection": EXPRESSION, "filter": SQL}, …], "surrogate-key": COLUMN}` |
//! | `stop-snapshot` | `{"type": "incremental" or "blocking", "data-collections": [EXPRESSION, …]}`, without a type of both, without expressions all |
//! | `pause-snapshot`, `resume-snapshot` | `{"type": "incremental"}` or nothing |
//! | `log` | `{"message": TEXT}` |
//!
//! An expression matches the whole name of a table, as those of the filters do; with an incremental snapshot upper and lower case
//! differ. A name may stand in double quotes: of an incremental snapshot and of one to stop each part as SQL has it
//! (`public."my orders"`), of a blocking one both or none. Of the types of snapshots to take `incremental` is the default; with it a filter is a condition, with `blocking` a whole
//! statement. Debezium can stop an incremental snapshot only.
//!
//! A member that is not known is refused: whoever mistypes `additional-conditions` would read the whole table. A signal that
//! cannot be understood stops nothing; it is told of and not carried out (I11).

use fancy_regex::Regex;
use serde_json::{Map, Value};
use tailwater_api::signal::Signal;
use tailwater_api::{Error, ErrorKind, Result};

use crate::filters::{NameList, plain_table_name, whole_name};

pub mod channels;
mod file;

/// What a signal asks for.
#[derive(Clone, Debug)]
pub enum Request {
    /// Read tables
    Execute(ExecuteSnapshot),
    /// Give up snapshots
    Stop(StopSnapshot),
    /// Let snapshots rest
    Pause,
    /// Let them go on
    Resume,
    /// Say this in the log; `{}` stands for the position
    Log(String),
    /// A mark of a chunk that Debezium wrote: nothing is to be done
    Window,
}

/// Which tables are to be read, and how.
#[derive(Clone, Debug)]
pub struct ExecuteSnapshot {
    /// Whether streaming rests meanwhile
    pub blocking: bool,
    /// The tables' names
    pub tables: NameList,
    /// What single tables are narrowed down by
    conditions: Vec<Condition>,
    /// Column whose order the chunks follow, in place of the key
    pub surrogate_key: Option<String>,
}

#[derive(Clone, Debug)]
struct Condition {
    tables: Regex,
    /// The table, where `tables` is a name
    name: String,
    filter: String,
}

/// Which snapshots are to be given up.
#[derive(Clone, Debug)]
pub struct StopSnapshot {
    /// Those for which streaming rests, or those beside it; `None` for both
    pub blocking: Option<bool>,
    /// Those of these tables, of all where the list is empty
    tables: NameList,
}

impl StopSnapshot {
    /// Whether those of the table of this name are.
    #[must_use]
    pub fn names(&self, table: &str) -> bool {
        self.tables.is_empty() || self.tables.matches(table)
    }
}

impl ExecuteSnapshot {
    /// What the table of this name is narrowed down by.
    #[must_use]
    pub fn condition(&self, table: &str) -> Option<&str> {
        // As Debezium does: a table that no expression matches goes by what the signal calls it.
        let called = self.tables.text_of_name(table).unwrap_or(table);
        let is_meant =
            |condition: &&Condition| condition.tables.is_match(called).unwrap_or(false) || self.blocking && condition.name == table;
        self.conditions.iter().find(is_meant).map(|condition| condition.filter.as_str())
    }
}

impl Request {
    /// Understands the signal.
    ///
    /// # Errors
    /// `unsupported` for a type that is none, `misconfigured` for data that do not fit to it; the cause says what.
    pub fn parse(signal: &Signal) -> Result<Self> {
        Self::read(signal).map_err(|(kind, cause)| Error::new(kind, format!("understand the signal {:?}", signal.id)).because(cause))
    }

    fn read(signal: &Signal) -> Result<Self, (ErrorKind, String)> {
        let wrong = |cause: String| (ErrorKind::Misconfigured, cause);
        match signal.kind.as_str() {
            "execute-snapshot" => Data::read(&signal.data).and_then(execute).map_err(wrong),
            "stop-snapshot" => Data::read(&signal.data).and_then(stop).map_err(wrong),
            // Debezium ignores what stands there.
            "pause-snapshot" => Ok(Self::Pause),
            "resume-snapshot" => Ok(Self::Resume),
            "log" => Data::read(&signal.data).and_then(log).map_err(wrong),
            "snapshot-window-open" | "snapshot-window-close" => Ok(Self::Window),
            other => Err((
                ErrorKind::Unsupported,
                format!("its type is {other:?}; known are execute-snapshot, stop-snapshot, pause-snapshot, resume-snapshot and log"),
            )),
        }
    }
}

fn execute(mut data: Data) -> Result<Request, String> {
    let blocking = data.is_blocking()?.unwrap_or(false);
    let tables = data.texts("data-collections")?.filter(|names| !names.is_empty());
    let tables = tables.ok_or("data-collections is missing: which tables, a list of regular expressions")?;
    let conditions = data.conditions()?;
    let surrogate_key = data.text("surrogate-key")?.filter(|column| !column.is_empty());
    data.finish("type, data-collections, additional-conditions, surrogate-key")?;
    if blocking && surrogate_key.is_some() {
        return Err("surrogate-key has no meaning with a blocking snapshot".to_owned());
    }
    let tables = if blocking { NameList::of(&tables)? } else { NameList::exact(&tables)?.or_names() };
    Ok(Request::Execute(ExecuteSnapshot { blocking, tables, conditions, surrogate_key }))
}

fn stop(mut data: Data) -> Result<Request, String> {
    let blocking = data.is_blocking()?;
    let tables = data.texts("data-collections")?.unwrap_or_default();
    data.finish("type, data-collections")?;
    Ok(Request::Stop(StopSnapshot { blocking, tables: NameList::of(&tables)?.or_names() }))
}

fn log(mut data: Data) -> Result<Request, String> {
    let message = data.text("message")?.ok_or("message is missing")?;
    data.finish("message")?;
    Ok(Request::Log(message))
}

/// As Debezium reads it, a backslash before a character that JSON does not escape stands for that character: who writes regular
/// expressions forgets to double theirs.
fn without_lone_backslashes(text: &str) -> String {
    let mut characters = text.chars();
    let mut read = String::with_capacity(text.len());
    while let Some(character) = characters.next() {
        let escaped = if character == '\\' { characters.next() } else { None };
        match escaped {
            Some(escaped @ ('"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' | 'u')) => read.extend([character, escaped]),
            Some(escaped) => read.push(escaped),
            None => read.push(character),
        }
    }
    read
}

/// The members of a signal's data that are not read yet.
struct Data(Map<String, Value>);

impl Data {
    fn read(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_str(&without_lone_backslashes(text)) {
            Ok(Value::Object(members)) => Ok(Self(members)),
            Ok(Value::Null) => Ok(Self(Map::new())),
            Ok(_) => Err("its data is no JSON object".to_owned()),
            Err(error) => Err(format!("its data is no JSON: {error}")),
        }
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(format!("{name} is no text")),
        }
    }

    fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, String> {
        let wrong = || format!("{name} is no list of texts");
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(values)) => {
                let text = |value| if let Value::String(text) = value { Ok(text) } else { Err(wrong()) };
                values.into_iter().map(text).collect::<Result<_, _>>().map(Some)
            }
            Some(_) => Err(wrong()),
        }
    }

    /// What the type of the snapshot says, where there is one.
    fn is_blocking(&mut self) -> Result<Option<bool>, String> {
        match self.text("type")? {
            None => Ok(None),
            Some(kind) if kind.eq_ignore_ascii_case("incremental") => Ok(Some(false)),
            Some(kind) if kind.eq_ignore_ascii_case("blocking") => Ok(Some(true)),
            Some(kind) => Err(format!("type must be incremental or blocking, not {kind:?}")),
        }
    }

    fn conditions(&mut self) -> Result<Vec<Condition>, String> {
        let wrong = || "additional-conditions is no list of {\"data-collection\", \"filter\"}".to_owned();
        let entries = match self.take("additional-conditions") {
            None => return Ok(Vec::new()),
            Some(Value::Array(entries)) => entries,
            Some(_) => return Err(wrong()),
        };
        let condition = |entry| {
            let Value::Object(members) = entry else { return Err(wrong()) };
            let mut entry = Self(members);
            let (Some(table), Some(filter)) = (entry.text("data-collection")?, entry.text("filter")?) else { return Err(wrong()) };
            entry.finish("data-collection, filter")?;
            Ok(Condition { tables: whole_name(&table)?, name: plain_table_name(&table), filter })
        };
        entries.into_iter().map(condition).collect()
    }

    /// Refuses what nobody has read.
    fn finish(self, known: &str) -> Result<(), String> {
        self.0.keys().next().map_or(Ok(()), |name| Err(format!("{name:?} is not known; known are {known}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(kind: &str, data: &str) -> Result<Request> {
        Request::parse(&Signal { id: "s".into(), kind: kind.into(), data: data.into() })
    }

    fn execute(data: &str) -> ExecuteSnapshot {
        let Ok(Request::Execute(execute)) = parse("execute-snapshot", data) else { panic!("{data}") };
        execute
    }

    #[test]
    fn an_incremental_snapshot_is_the_default() {
        let plain = execute(r#"{"data-collections": ["public.things", "public\\.t_.*"]}"#);
        assert!(
            !plain.blocking
                && plain.tables.matches("public.t_one")
                && !plain.tables.matches("public.T_one")
                && !plain.tables.matches("public.other")
        );
        assert!(execute(r#"{"data-collections": ["public\.t_.*"]}"#).tables.matches("public.t_one"), "as regular expressions are written");
        assert_eq!((plain.condition("public.things"), plain.surrogate_key.as_deref()), (None, None));
        assert!(!execute(r#"{"data-collections": ["a"], "type": "INCREMENTAL"}"#).blocking);
        let blocking = execute(r#"{"data-collections": ["a"], "type": "blocking"}"#);
        assert!(blocking.blocking && blocking.tables.matches("A"));
    }

    #[test]
    fn conditions_are_found_by_the_name_of_the_table() {
        let narrowed = execute(
            r#"{"data-collections": ["public\\..*"], "surrogate-key": "n",
                "additional-conditions": [{"data-collection": "public\\.a.*", "filter": "x > 1"}, {"data-collection": "public.b", "filter": "y"}]}"#,
        );
        assert_eq!(narrowed.condition("public.ab"), Some("x > 1"));
        assert_eq!(narrowed.condition("public.b"), Some("y"));
        assert_eq!(narrowed.condition("public.c"), None);
        assert_eq!(narrowed.surrogate_key.as_deref(), Some("n"));
    }

    #[test]
    fn names_may_stand_in_quotes() {
        let incremental = execute(
            r#"{"data-collections": ["\"public\".\"Q q\"", "public.t"], "additional-conditions": [
                {"data-collection": "\"public\".\"Q q\"", "filter": "x"}, {"data-collection": "\"public\".\"t\"", "filter": "y"}]}"#,
        );
        assert!(incremental.tables.matches("public.Q q") && !incremental.tables.matches("public.q q"));
        assert_eq!((incremental.condition("public.Q q"), incremental.condition("public.t")), (Some("x"), None));
        let blocking = execute(
            r#"{"type": "blocking", "data-collections": ["\"public\".\"Q q\""],
                "additional-conditions": [{"data-collection": "public.\"Q q\"", "filter": "x"}]}"#,
        );
        assert!(blocking.tables.matches(r#""public"."Q q""#) && !blocking.tables.matches("public.Q q"));
        assert_eq!(blocking.condition("public.Q q"), Some("x"));
        let Ok(Request::Stop(stop)) = parse("stop-snapshot", r#"{"data-collections": ["public.\"Q q\""]}"#) else { panic!() };
        assert!(stop.names("public.Q q") && !stop.names("public.t"));
    }

    #[test]
    fn the_other_types_are_known() {
        let Ok(Request::Stop(all)) = parse("stop-snapshot", "") else { panic!() };
        assert!(all.names("public.a") && all.blocking.is_none());
        let Ok(Request::Stop(one)) = parse("stop-snapshot", r#"{"type": "incremental", "data-collections": ["public.a"]}"#) else {
            panic!()
        };
        assert!(one.names("public.a") && !one.names("public.b") && one.blocking == Some(false));
        let Ok(Request::Stop(blocking)) = parse("stop-snapshot", r#"{"type": "blocking"}"#) else { panic!() };
        assert!(blocking.names("public.a") && blocking.blocking == Some(true));
        assert!(matches!(parse("pause-snapshot", r#"{"type": "incremental"}"#), Ok(Request::Pause)));
        assert!(matches!(parse("resume-snapshot", ""), Ok(Request::Resume)));
        assert!(matches!(parse("snapshot-window-open", "{}"), Ok(Request::Window)));
        let Ok(Request::Log(message)) = parse("log", r#"{"message": "at {}"}"#) else { panic!() };
        assert_eq!(message, "at {}");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_a_word() {
        for (kind, data, word) in [
            ("unheard-of", "{}", "known are"),
            ("set-binlog-position", "{}", "set-binlog-position"),
            ("execute-snapshot", "{not json", "JSON"),
            ("execute-snapshot", "[]", "object"),
            ("execute-snapshot", "", "data-collections is missing"),
            ("execute-snapshot", r#"{"data-collections": []}"#, "data-collections is missing"),
            ("execute-snapshot", r#"{"data-collections": "a"}"#, "list of texts"),
            ("execute-snapshot", r#"{"data-collections": ["("]}"#, "regular expression"),
            ("execute-snapshot", r#"{"data-collections": ["a"], "type": "full"}"#, "incremental or blocking"),
            ("execute-snapshot", r#"{"data-collections": ["a"], "additional-condition": "x"}"#, "additional-condition"),
            ("execute-snapshot", r#"{"data-collections": ["a"], "additional-conditions": [{"filter": "x"}]}"#, "additional-conditions"),
            ("execute-snapshot", r#"{"data-collections": ["a"], "type": "blocking", "surrogate-key": "x"}"#, "surrogate-key"),
            ("stop-snapshot", r#"{"type": "initial"}"#, "incremental or blocking"),
            ("log", "{}", "message"),
        ] {
            let error = parse(kind, data).expect_err(data);
            assert!(error.to_string().contains(word), "{error}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_comes_in_panics(kind in "execute-snapshot|stop-snapshot|log|.{0,5}", data in ".{0,80}") {
            let _ = parse(&kind, &data);
        }
    }
}
