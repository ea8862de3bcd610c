//! Configuration: declared once per field, checked without I/O, read with types.
//!
//! A connector declares its fields in `const` tables. The declaration drives the answer of Connect's `validate`,
//! `tailwater check`, the reference documentation and the reading of values. Reading never stops at the first
//! fault: [`ConfigReader`] collects all of them (I15).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::secret::Secret;

/// Keys and values of one connector, flat, secrets resolved, in the order of the file.
#[derive(Clone, Default)]
pub struct ConfigValues(Vec<(String, String)>);

impl ConfigValues {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Sets `key`, in its place if it is there.
    pub fn set(&mut self, key: impl Into<String>, value: impl Into<String>) {
        let (key, value) = (key.into(), value.into());
        match self.0.iter_mut().find(|(name, _)| *name == key) {
            Some((_, old)) => *old = value,
            None => self.0.push((key, value)),
        }
    }

    /// Removes `key`.
    pub fn remove(&mut self, key: &str) {
        self.0.retain(|(name, _)| name != key);
    }

    /// Keys and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The entries whose key starts with `prefix`, without it.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.iter().filter_map(move |(key, value)| key.strip_prefix(prefix).map(|rest| (rest, value)))
    }
}

impl<K: Into<String>, V: Into<String>> FromIterator<(K, V)> for ConfigValues {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let mut values = Self::default();
        for (key, value) in entries {
            values.set(key, value);
        }
        values
    }
}

// No Debug: values may be resolved secrets (I14).

/// Type of a field's value, with the names of Connect's `ConfigDef.Type`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum FieldType {
    /// `true` or `false`, any case
    Boolean,
    /// Integer of 16 bits
    Short,
    /// Integer of 32 bits
    Int,
    /// Integer of 64 bits
    Long,
    /// Floating point
    Double,
    /// Text
    Text,
    /// Texts separated by commas, blanks around them trimmed
    List,
    /// Name of a class or of its short form
    Class,
    /// Text that is never shown (I14)
    Password,
    /// One of these words, any case, trimmed
    Choice(&'static [&'static str]),
}

impl FieldType {
    /// Name of the type in Connect's REST API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "BOOLEAN",
            Self::Short => "SHORT",
            Self::Int => "INT",
            Self::Long => "LONG",
            Self::Double => "DOUBLE",
            Self::Text | Self::Choice(_) => "STRING",
            Self::List => "LIST",
            Self::Class => "CLASS",
            Self::Password => "PASSWORD",
        }
    }
}

/// How much a field matters, with the names of Connect's `ConfigDef.Importance`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Importance {
    /// `HIGH`
    High,
    /// `MEDIUM`
    Medium,
    /// `LOW`
    Low,
}

/// What a declared key does here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// What it says.
    Yes,
    /// Accepted; a warning says that it does nothing yet.
    NotYet,
    /// Accepted; a warning gives this reason why it never does anything here.
    Never(&'static str),
    /// An older name of this key; a note says so, and the value counts for the new key unless that is set too.
    OldNameOf(&'static str),
    /// An older key that still means what it meant; the note says what to write today.
    Old(&'static str),
}

/// Says what is wrong with a value, as the end of the sentence "KEY …".
pub type Validator = fn(&str) -> Result<(), String>;

/// Declaration of one key.
#[derive(Clone, Copy, Debug)]
pub struct ConfigField {
    /// The key. A trailing `*` declares a family: `column.mask.with.*`.
    pub name: &'static str,
    /// Type of the value
    pub kind: FieldType,
    /// What holds where the key is not given; `None` leaves it unset
    pub default: Option<&'static str>,
    /// Whether the key must be given
    pub required: bool,
    /// Weight in forms and documentation
    pub importance: Importance,
    /// One or two sentences for the user: meaning and unit
    pub doc: &'static str,
    /// What it does here
    pub effect: Effect,
    /// A check beyond the type
    pub validator: Option<Validator>,
}

impl ConfigField {
    /// An optional field in effect, without a default.
    #[must_use]
    pub const fn new(name: &'static str, kind: FieldType, doc: &'static str) -> Self {
        Self { name, kind, default: None, required: false, importance: Importance::Medium, doc, effect: Effect::Yes, validator: None }
    }

    /// Sets the default.
    #[must_use]
    pub const fn default(mut self, value: &'static str) -> Self {
        self.default = Some(value);
        self
    }

    /// Makes the key mandatory.
    #[must_use]
    pub const fn required(mut self) -> Self {
        self.required = true;
        self.importance = Importance::High;
        self
    }

    /// Sets the weight.
    #[must_use]
    pub const fn importance(mut self, importance: Importance) -> Self {
        self.importance = importance;
        self
    }

    /// Sets what the key does.
    #[must_use]
    pub const fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Adds a check.
    #[must_use]
    pub const fn validator(mut self, validator: Validator) -> Self {
        self.validator = Some(validator);
        self
    }

    /// Whether the declaration covers `key`. The `*` of a family stands for at least one character.
    #[must_use]
    pub fn covers(&self, key: &str) -> bool {
        match self.name.strip_suffix('*') {
            Some(prefix) => key.len() > prefix.len() && key.starts_with(prefix),
            None => self.name == key,
        }
    }

    /// What is wrong with `value` by type and validator, as a sentence without the key.
    ///
    /// # Errors
    /// The sentence.
    pub fn check(&self, value: &str) -> Result<(), String> {
        let value = value.trim();
        match self.kind {
            FieldType::Boolean => parse_boolean(value).map(|_| ())?,
            FieldType::Short => check_number::<i16>(value, "a whole number of 16 bits")?,
            FieldType::Int => check_number::<i32>(value, "a whole number of 32 bits")?,
            FieldType::Long => check_number::<i64>(value, "a whole number of 64 bits")?,
            FieldType::Double => check_number::<f64>(value, "a number")?,
            FieldType::Choice(words) => {
                if !words.iter().any(|word| word.eq_ignore_ascii_case(value)) {
                    return Err(format!("must be one of {}, not {value:?}", words.join(", ")));
                }
            }
            FieldType::Text | FieldType::List | FieldType::Class | FieldType::Password => {}
        }
        self.validator.map_or(Ok(()), |validator| validator(value))
    }
}

fn parse_boolean(value: &str) -> Result<bool, String> {
    if value.eq_ignore_ascii_case("true") {
        Ok(true)
    } else if value.eq_ignore_ascii_case("false") {
        Ok(false)
    } else {
        Err(format!("must be true or false, not {value:?}"))
    }
}

fn check_number<T: FromStr>(value: &str, what: &str) -> Result<(), String> {
    value.parse::<T>().map(|_| ()).map_err(|_| format!("must be {what}, not {value:?}"))
}

/// A fault of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFault {
    /// The key; empty for faults of the whole
    pub key: String,
    /// What is wrong and how to mend it, without the key and without the value of a secret
    pub message: String,
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.key, self.message) }
    }
}

/// A checked configuration of a connector.
pub trait ConnectorConfig: Clone + Send + Sync + Sized + 'static {
    /// The declared fields, as tables that several connectors may share.
    const FIELDS: &'static [&'static [ConfigField]];

    /// Reads the values. Called with every declared field already checked for presence, type and validator by
    /// [`ConfigReader::new`]; adds what spans several fields with [`ConfigReader::fault`] and must not do I/O (I15).
    /// What it returns is used only if no fault was found.
    fn read(reader: &mut ConfigReader<'_>) -> Self;
}

/// All faults and notes of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigReport {
    /// What must be mended before the configuration can run
    pub faults: Vec<ConfigFault>,
    /// What the user should know: old keys, keys not yet in effect, values that surprise
    pub notes: Vec<ConfigFault>,
}

/// Checks a configuration against its declaration and reads it.
///
/// # Errors
/// The report, if it holds a fault.
pub fn read_config<C: ConnectorConfig>(values: &ConfigValues) -> Result<(C, ConfigReport), ConfigReport> {
    let mut reader = ConfigReader::new(C::FIELDS, values);
    let config = C::read(&mut reader);
    let report = reader.into_report();
    if report.faults.is_empty() { Ok((config, report)) } else { Err(report) }
}

/// Reads typed values and collects every fault. Getters of a faulty or absent value return the default of the type.
pub struct ConfigReader<'a> {
    fields: &'static [&'static [ConfigField]],
    values: &'a ConfigValues,
    report: ConfigReport,
}

impl<'a> ConfigReader<'a> {
    /// Checks presence, types and validators of all declared fields.
    #[must_use]
    pub fn new(fields: &'static [&'static [ConfigField]], values: &'a ConfigValues) -> Self {
        let mut reader = Self { fields, values, report: ConfigReport::default() };
        for field in fields.iter().copied().flatten() {
            reader.check_declared(field);
        }
        reader
    }

    fn check_declared(&mut self, field: &ConfigField) {
        let mut given = false;
        for (key, value) in self.values.iter().filter(|(key, _)| field.covers(key)) {
            given = true;
            match field.effect {
                Effect::Yes => {}
                Effect::NotYet => self.report.notes.push(fault(key, "is accepted but not yet in effect")),
                Effect::Never(reason) => self.report.notes.push(fault(key, &format!("is accepted and has no effect: {reason}"))),
                Effect::OldNameOf(today) => self.report.notes.push(fault(key, &format!("is an old name; today it is {today}"))),
                Effect::Old(advice) => self.report.notes.push(fault(key, advice)),
            }
            if let Err(message) = field.check(value) {
                // A secret's value is never part of a message (I14).
                let message = if field.kind == FieldType::Password { "is not valid".to_owned() } else { message };
                self.report.faults.push(fault(key, &message));
            }
        }
        let by_old_name = || self.old_names(field.name).any(|old| self.values.get(old).is_some());
        if field.required && !given && !by_old_name() {
            let message = format!("is missing: {}", field.doc);
            self.report.faults.push(fault(field.name, &message));
        }
    }

    fn old_names(&self, today: &str) -> impl Iterator<Item = &'static str> {
        self.fields.iter().copied().flatten().filter(move |field| field.effect_is_old_name_of(today)).map(|field| field.name)
    }

    fn declared(&self, key: &str) -> &'static ConfigField {
        let found = self.fields.iter().copied().flatten().find(|field| field.covers(key));
        found.unwrap_or_else(|| panic!("the key {key} is read but not declared"))
    }

    /// The text of `key`, of its old names, or its default; `None` where none of them is there.
    #[must_use]
    pub fn given(&self, key: &str) -> Option<&'a str> {
        self.untrimmed(key).map(str::trim)
    }

    fn untrimmed(&self, key: &str) -> Option<&'a str> {
        let field = self.declared(key);
        self.values.get(key).or_else(|| self.old_names(key).find_map(|old| self.values.get(old))).or(field.default)
    }

    /// Whether `key` itself or one of its old names was written down by the user.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.values.get(key).is_some() || self.old_names(key).any(|old| self.values.get(old).is_some())
    }

    /// Whether the configuration names its connector by `connector`, our own key. Otherwise it was written for Connect, whose key is
    /// `connector.class`, and its users rely on the defaults that they have there.
    #[must_use]
    pub fn is_our_own(&self) -> bool {
        self.values.get("connector").is_some()
    }

    /// Text; empty where absent.
    #[must_use]
    pub fn text(&self, key: &str) -> String {
        self.given(key).unwrap_or_default().to_owned()
    }

    /// Text with the blanks at its ends, for what is written into records as it is; empty where absent.
    #[must_use]
    pub fn raw_text(&self, key: &str) -> String {
        self.untrimmed(key).unwrap_or_default().to_owned()
    }

    /// Text, if it is there and not empty.
    #[must_use]
    pub fn optional_text(&self, key: &str) -> Option<String> {
        self.given(key).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    /// A secret, if it is there.
    #[must_use]
    pub fn secret(&self, key: &str) -> Option<Secret> {
        self.given(key).map(Secret::new)
    }

    /// A truth value; `false` where absent.
    #[must_use]
    pub fn boolean(&self, key: &str) -> bool {
        self.given(key).and_then(|text| parse_boolean(text).ok()).unwrap_or_default()
    }

    /// A number; zero where absent.
    #[must_use]
    pub fn number<T: FromStr + Default>(&self, key: &str) -> T {
        self.given(key).and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// A time given in milliseconds.
    #[must_use]
    pub fn milliseconds(&self, key: &str) -> Duration {
        Duration::from_millis(self.number(key))
    }

    /// The elements of a list. `\,` is a comma inside an element, as in Debezium's lists of regular expressions.
    #[must_use]
    pub fn list(&self, key: &str) -> Vec<String> {
        self.given(key).map(split_list).unwrap_or_default()
    }

    /// The value that belongs to the given word, compared without regard to case.
    #[must_use]
    pub fn choice<T: Clone + Default>(&self, key: &str, words: &[(&str, T)]) -> T {
        let text = self.given(key).unwrap_or_default();
        words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| value.clone()).unwrap_or_default()
    }

    /// The entries of the family `prefix*`, without the prefix.
    pub fn family(&self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.values.with_prefix(prefix).filter(|(rest, _)| !rest.is_empty())
    }

    /// Reports a fault of `key`; the message continues the sentence "KEY …".
    pub fn fault(&mut self, key: &str, message: impl AsRef<str>) {
        self.report.faults.push(fault(key, message.as_ref()));
    }

    /// Tells the user something about `key` that is no fault.
    pub fn note(&mut self, key: &str, message: impl AsRef<str>) {
        self.report.notes.push(fault(key, message.as_ref()));
    }

    /// Ends the reading.
    #[must_use]
    pub fn into_report(self) -> ConfigReport {
        self.report
    }
}

impl ConfigField {
    fn effect_is_old_name_of(&self, today: &str) -> bool {
        matches!(self.effect, Effect::OldNameOf(name) if name == today)
    }
}

fn fault(key: &str, message: &str) -> ConfigFault {
    ConfigFault { key: key.to_owned(), message: message.to_owned() }
}

/// Splits at commas, trims, drops empty elements; `\,` stands for a comma.
#[must_use]
pub fn split_list(text: &str) -> Vec<String> {
    let mut elements = vec![String::new()];
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' if characters.peek() == Some(&',') => {
                characters.next();
                elements.last_mut().expect("there is always one element").push(',');
            }
            ',' => elements.push(String::new()),
            _ => elements.last_mut().expect("there is always one element").push(character),
        }
    }
    elements.iter().map(|element| element.trim().to_owned()).filter(|element| !element.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug)]
    struct Example {
        prefix: String,
        retries: u32,
    }

    impl ConnectorConfig for Example {
        const FIELDS: &'static [&'static [ConfigField]] = &[&[
            ConfigField::new("topic.prefix", FieldType::Text, "Namespace of the topics.").required(),
            ConfigField::new("database.server.name", FieldType::Text, "").effect(Effect::OldNameOf("topic.prefix")),
            ConfigField::new("retries", FieldType::Int, "How often.").default("6"),
            ConfigField::new("mode", FieldType::Choice(&["a", "b"]), "Which."),
            ConfigField::new("key", FieldType::Password, "").validator(|_| Err("holds hunter2".into())),
        ]];

        fn read(reader: &mut ConfigReader<'_>) -> Self {
            Self { prefix: reader.text("topic.prefix"), retries: reader.number("retries") }
        }
    }

    fn values(entries: &[(&str, &str)]) -> ConfigValues {
        entries.iter().copied().collect()
    }

    #[test]
    fn all_faults_are_reported_at_once_and_secrets_are_not_shown() {
        let report = read_config::<Example>(&values(&[("retries", "six"), ("mode", "c"), ("key", "hunter2")])).unwrap_err();
        let keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["topic.prefix", "retries", "mode", "key"]);
        assert!(!format!("{report:?}").contains("hunter2"));
    }

    #[test]
    fn an_old_name_counts_for_the_new_key_and_is_noted() {
        let (config, report) = read_config::<Example>(&values(&[("database.server.name", "shop")])).unwrap();
        assert_eq!((config.prefix.as_str(), config.retries), ("shop", 6));
        assert_eq!(report.notes.len(), 1);
    }

    #[test]
    fn raw_texts_keep_their_blanks() {
        let values = values(&[("topic.prefix", " a b ")]);
        let reader = ConfigReader::new(Example::FIELDS, &values);
        assert_eq!((reader.text("topic.prefix").as_str(), reader.raw_text("topic.prefix").as_str()), ("a b", " a b "));
        assert_eq!((reader.raw_text("retries").as_str(), reader.raw_text("mode").as_str()), ("6", ""));
    }

    #[test]
    fn lists_keep_escaped_commas() {
        assert_eq!(split_list(r" a{1\,2} , b,,"), ["a{1,2}", "b"]);
    }
}
