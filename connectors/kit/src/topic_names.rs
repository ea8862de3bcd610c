//! Names of the topics of tables: `topic.naming.strategy` and its keys (Debezium 3.6, `io.debezium.schema.*TopicNamingStrategy`).
//!
//! A name joins the prefix, the schema and the table; the strategies whose names begin with `Default` leave the schema out.
//! Those with `Unicode` write `_uXXXX` for what a topic cannot hold, and for underscores; the others an underscore. Those
//! with `Regex` replace the name where an expression matches the whole of it, so that several tables share a topic. Then
//! keys get a further field that says which table a row is of, because equal keys of two tables are two rows.

use tailwater_api::config::ConfigReader;

use crate::java_regex::{JavaRegex, Replacement};
use crate::name_adjustment::escape;

/// The strategies, by the simple names of their classes, with what they do.
const STRATEGIES: [(&str, Strategy); 7] = [
    ("SchemaTopicNamingStrategy", Strategy { with_schema: true, unicode: false, regex: false }),
    ("SchemaUnicodeTopicNamingStrategy", Strategy { with_schema: true, unicode: true, regex: false }),
    ("SchemaRegexTopicNamingStrategy", Strategy { with_schema: true, unicode: false, regex: true }),
    ("DefaultTopicNamingStrategy", Strategy { with_schema: false, unicode: false, regex: false }),
    ("DefaultUnicodeTopicNamingStrategy", Strategy { with_schema: false, unicode: true, regex: false }),
    ("DefaultRegexTopicNamingStrategy", Strategy { with_schema: false, unicode: false, regex: true }),
    ("TableTopicNamingStrategy", Strategy { with_schema: false, unicode: false, regex: false }),
];

#[derive(Clone, Copy, Debug)]
struct Strategy {
    with_schema: bool,
    unicode: bool,
    regex: bool,
}

/// Names the topics of tables.
#[derive(Clone, Debug)]
pub struct TopicNames {
    prefix: String,
    delimiter: String,
    with_schema: bool,
    unicode: bool,
    logical: Option<LogicalTables>,
}

/// Tables that share a topic.
#[derive(Clone, Debug)]
struct LogicalTables {
    topic: Rewrite,
    /// Name of the field, and how its value is made of the name that the topic would have had
    key_field: Option<(String, Option<Rewrite>)>,
}

/// An expression, and what a text that it matches is replaced by.
#[derive(Clone, Debug)]
struct Rewrite {
    regex: JavaRegex,
    replacement: Replacement,
}

/// The topic of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableTopic {
    /// Its name
    pub name: String,
    /// Name and value of the further field of keys
    pub key_field: Option<(String, String)>,
}

/// Validator of `topic.naming.strategy`.
///
/// # Errors
/// A sentence that names the strategies.
pub fn validate_strategy(class: &str) -> Result<(), String> {
    strategy(class).map(|_| ()).ok_or_else(|| {
        let names = STRATEGIES.map(|(name, _)| name).join(", ");
        format!("must be one of {names}; {class:?} would have to be a Java class, and there is no JVM here")
    })
}

fn strategy(class: &str) -> Option<Strategy> {
    let simple = class.rsplit_once('.').map_or(class, |(_, name)| name);
    STRATEGIES.iter().find(|(name, _)| name.eq_ignore_ascii_case(simple)).map(|(_, strategy)| *strategy)
}

impl TopicNames {
    /// Reads the keys; the default strategy is that of tables in schemas.
    pub fn read(reader: &mut ConfigReader<'_>) -> Self {
        // What is no strategy is already a fault of its key by its validator.
        let strategy = reader.optional_text("topic.naming.strategy").and_then(|class| strategy(&class)).unwrap_or(STRATEGIES[0].1);
        let logical = if strategy.regex { LogicalTables::read(reader) } else { None };
        Self {
            prefix: reader.text("topic.prefix"),
            delimiter: reader.text("topic.delimiter"),
            with_schema: strategy.with_schema,
            unicode: strategy.unicode,
            logical,
        }
    }

    /// The topic of a table.
    #[must_use]
    pub fn of(&self, schema: &str, table: &str) -> TableTopic {
        let Self { prefix, delimiter, .. } = self;
        let joined = match self.with_schema {
            true => format!("{prefix}{delimiter}{schema}{delimiter}{table}"),
            false => format!("{prefix}{delimiter}{table}"),
        };
        match &self.logical {
            Some(logical) => TableTopic {
                name: self.valid(&logical.topic.apply(&joined)),
                key_field: logical
                    .key_field
                    .as_ref()
                    .map(|(name, value)| (name.clone(), value.as_ref().map_or_else(|| joined.clone(), |rewrite| rewrite.apply(&joined)))),
            },
            None => TableTopic { name: self.valid(&joined), key_field: None },
        }
    }

    /// A name as Kafka takes it: letters and digits of ASCII, dots, underscores and hyphens.
    fn valid(&self, name: &str) -> String {
        if self.unicode {
            let keeps = |unit| u8::try_from(unit).is_ok_and(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'-'));
            return escape(name, |_, unit| keeps(unit));
        }
        let valid =
            |character: char| if character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-') { character } else { '_' };
        name.chars().map(valid).collect()
    }
}

impl LogicalTables {
    fn read(reader: &mut ConfigReader<'_>) -> Option<Self> {
        for key in ["topic.regex", "topic.replacement"] {
            if !reader.is_set(key) {
                reader.fault(key, "is missing, but topic.naming.strategy names topics by an expression");
            }
        }
        let topic = Rewrite::read(reader, "topic.regex", "topic.replacement")?;
        if !reader.boolean("topic.key.enforce.uniqueness") {
            return Some(Self { topic, key_field: None });
        }
        let value = match (reader.is_set("topic.key.field.regex"), reader.is_set("topic.key.field.replacement")) {
            (true, true) => Rewrite::read(reader, "topic.key.field.regex", "topic.key.field.replacement"),
            (false, false) => None,
            (true, false) | (false, true) => {
                reader.fault("topic.key.field.replacement", "goes together with topic.key.field.regex; give both or neither");
                None
            }
        };
        Some(Self { topic, key_field: Some((reader.text("topic.key.field.name"), value)) })
    }
}

impl Rewrite {
    fn read(reader: &mut ConfigReader<'_>, regex: &str, replacement: &str) -> Option<Self> {
        let compiled = match JavaRegex::new(&reader.text(regex)) {
            Ok(compiled) => compiled,
            Err(fault) => {
                reader.fault(regex, fault);
                return None;
            }
        };
        match compiled.replacement(&reader.text(replacement)) {
            Ok(replacement) => Some(Self { regex: compiled, replacement }),
            Err(fault) => {
                reader.fault(replacement, fault);
                None
            }
        }
    }

    /// The text, replaced where the expression matches it. One that backtracks without end counts as not matching.
    fn apply(&self, text: &str) -> String {
        self.regex.replace_whole(text, &self.replacement).ok().flatten().unwrap_or_else(|| text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigReport, ConfigValues};

    use super::*;
    use crate::relational_fields::RELATIONAL_FIELDS;

    fn read(entries: &[(&str, &str)]) -> (TopicNames, ConfigReport) {
        let values: ConfigValues = [("topic.prefix", "p_q")].iter().chain(entries).copied().collect();
        let mut reader = ConfigReader::new(&[RELATIONAL_FIELDS], &values);
        let names = TopicNames::read(&mut reader);
        (names, reader.into_report())
    }

    fn named(strategy: &str, schema: &str, table: &str) -> String {
        read(&[("topic.naming.strategy", strategy)]).0.of(schema, table).name
    }

    #[test]
    fn names_follow_the_strategy() {
        assert_eq!(read(&[]).0.of("Über S", "t-1").name, "p_q._ber_S.t-1");
        assert_eq!(named("io.debezium.schema.DefaultTopicNamingStrategy", "s", "t"), "p_q.t");
        assert_eq!(named("io.debezium.schema.SchemaUnicodeTopicNamingStrategy", "Über S", "t-1"), "p_u005fq._u00dcber_u0020S.t-1");
        assert_eq!(read(&[("topic.delimiter", "_")]).0.of("s", "t").name, "p_q_s_t");
    }

    #[test]
    fn tables_that_share_a_topic_are_told_apart_by_their_keys() {
        let strategy = ("topic.naming.strategy", "io.debezium.schema.DefaultRegexTopicNamingStrategy");
        let shards = [strategy, ("topic.regex", r"(.*)\.(.*)_shard_(.*)"), ("topic.replacement", "$1.$2")];
        let (names, report) = read(&shards);
        assert!(report.faults.is_empty(), "{report:?}");
        let field = |value: &str| Some(("__dbz__physicalTableIdentifier".to_owned(), value.to_owned()));
        assert_eq!(names.of("s", "orders_shard_2"), TableTopic { name: "p_q.orders".into(), key_field: field("p_q.orders_shard_2") });
        assert_eq!(names.of("s", "plain"), TableTopic { name: "p_q.plain".into(), key_field: field("p_q.plain") });
        let further = [("topic.key.field.name", "shard"), ("topic.key.field.regex", ".*_(.*)"), ("topic.key.field.replacement", "$1")];
        let (names, _) = read(&[&shards[..], &further].concat());
        assert_eq!(names.of("s", "orders_shard_2").key_field, Some(("shard".into(), "2".into())));
        let (names, _) = read(&[&shards[..], &[("topic.key.enforce.uniqueness", "false")]].concat());
        assert_eq!(names.of("s", "orders_shard_2").key_field, None);
    }

    #[test]
    fn what_names_no_topic_is_a_fault() {
        let faulty = |entries: &[(&str, &str)]| read(entries).1.faults.into_iter().map(|fault| fault.key).collect::<Vec<_>>();
        let regex = ("topic.naming.strategy", "SchemaRegexTopicNamingStrategy");
        assert_eq!(faulty(&[("topic.naming.strategy", "com.example.Mine")]), ["topic.naming.strategy"]);
        assert_eq!(faulty(&[regex, ("topic.replacement", "x")]), ["topic.regex"]);
        assert_eq!(faulty(&[regex, ("topic.regex", "("), ("topic.replacement", "x")]), ["topic.regex"]);
        assert_eq!(faulty(&[regex, ("topic.regex", "a"), ("topic.replacement", "$1")]), ["topic.replacement"]);
    }
}
