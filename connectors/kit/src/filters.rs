//! Which tables and columns are captured, by Debezium's lists of regular expressions.
//!
//! A list holds expressions separated by commas (`\,` is a comma inside one), each matched against the *whole*
//! name, without regard to the case of ASCII letters: `public.orders` or `public.orders.note`. Only one of an include list and its
//! exclude list may be given. No list captures everything. The dialect is Java's ([`java_regex`]).

use fancy_regex::Regex;
use tailwater_api::config::{ConfigReader, split_list};

use crate::java_regex;

/// What makes an expression match a whole name, without regard to case.
const BEFORE: &str = "(?i)^(?:";
/// What makes an expression match a whole name as it is written.
const BEFORE_EXACT: &str = "^(?:";
const BEHIND: &str = ")$";

/// One list of expressions.
#[derive(Clone, Debug, Default)]
pub struct NameList(Vec<Name>);

#[derive(Clone, Debug)]
struct Name {
    /// As the list has it
    text: String,
    expression: Regex,
    /// The table that the text names, where names are understood beside expressions
    plain: Option<String>,
}

impl Name {
    fn compile(before: &str, text: &str) -> Result<Self, String> {
        Ok(Self { text: text.to_owned(), expression: compile(before, text)?, plain: None })
    }

    /// An expression that backtracks without end counts as not matching.
    fn is_matched_by(&self, name: &str) -> bool {
        self.expression.is_match(name).unwrap_or(false)
    }

    fn is(&self, name: &str) -> bool {
        self.is_matched_by(name) || self.plain.as_deref() == Some(name)
    }
}

impl NameList {
    /// Compiles the expressions of `text`.
    ///
    /// # Errors
    /// A sentence that names the expression that does not compile.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::of(&split_list(text))
    }

    /// Compiles `expressions`.
    ///
    /// # Errors
    /// As of [`NameList::parse`].
    pub fn of(expressions: &[String]) -> Result<Self, String> {
        expressions.iter().map(|expression| Name::compile(BEFORE, expression)).collect::<Result<_, _>>().map(Self)
    }

    /// Compiles `expressions` so that they match names as they are written, where upper and lower case differ.
    ///
    /// # Errors
    /// As of [`NameList::parse`].
    pub fn exact(expressions: &[String]) -> Result<Self, String> {
        expressions.iter().map(|expression| Name::compile(BEFORE_EXACT, expression)).collect::<Result<_, _>>().map(Self)
    }

    /// With each text understood as the name of a table, too, which may stand in quotes.
    #[must_use]
    pub fn or_names(mut self) -> Self {
        for name in &mut self.0 {
            name.plain = Some(plain_table_name(&name.text));
        }
        self
    }

    /// Whether one of the expressions matches the whole of `name`. An expression that backtracks without end counts
    /// as not matching.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|known| known.is(name))
    }

    /// The text that names the table where no expression matches its name.
    #[must_use]
    pub fn text_of_name(&self, name: &str) -> Option<&str> {
        let is_matched = self.0.iter().any(|known| known.is_matched_by(name));
        self.0.iter().find(|known| !is_matched && known.is(name)).map(|known| known.text.as_str())
    }

    /// Place of the first expression that matches the whole of `name`; behind all of them where none does.
    #[must_use]
    pub fn place(&self, name: &str) -> usize {
        self.0.iter().position(|known| known.is(name)).unwrap_or(self.0.len())
    }

    /// The expressions that match none of `names`, each with its place.
    pub fn without_match(&self, names: &[String]) -> impl Iterator<Item = (usize, &str)> {
        let unmatched = |(_, known): &(usize, &Name)| !names.iter().any(|name| known.is(name));
        self.0.iter().enumerate().filter(unmatched).map(|(place, known)| (place, known.text.as_str()))
    }

    /// Whether there is no expression at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Compiles one expression that must match a whole name, without regard to case.
///
/// # Errors
/// A sentence that names the expression.
pub fn whole_name(expression: &str) -> Result<Regex, String> {
    compile(BEFORE, expression)
}

/// The expression that matches `name` and no other name that differs by more than case.
#[must_use]
pub fn expression_of(name: &str) -> String {
    let is_special = |character: char| character.is_ascii_punctuation() && character != '_';
    name.chars().flat_map(|character| is_special(character).then_some('\\').into_iter().chain([character])).collect()
}

/// The name of a table as `schema.table`, of one that may have its parts in quotes (`"my schema".orders`), as Debezium reads names: within
/// quotes two of them stand for one.
#[must_use]
pub fn plain_table_name(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.trim().chars().peekable();
    let mut begins = true;
    while let Some(character) = characters.next() {
        if begins && matches!(character, '"' | '\'' | '`') {
            while let Some(quoted) = characters.next() {
                if quoted == character && characters.next_if_eq(&character).is_none() {
                    break;
                }
                plain.push(quoted);
            }
        } else {
            plain.push(character);
        }
        begins = character == '.';
    }
    plain
}

fn compile(before: &str, expression: &str) -> Result<Regex, String> {
    let own = java_regex::translate(expression).map_err(|error| format!("holds {expression:?}, which {error}"))?;
    // A comment, as the flag x allows it, ends with its line; elsewhere a line break would stand for itself.
    Regex::new(&format!("{before}{own}{BEHIND}"))
        .or_else(|error| Regex::new(&format!("{before}{own}\n{BEHIND}")).map_err(|_| error))
        .map_err(|error| format!("holds {expression:?}, which is no regular expression: {error}"))
}

/// Validator of keys that hold a list of expressions.
///
/// # Errors
/// The sentence of the first expression that does not compile.
pub fn validate_name_list(text: &str) -> Result<(), String> {
    NameList::parse(text).map(|_| ())
}

/// An include list or an exclude list.
#[derive(Clone, Debug, Default)]
pub enum NameFilter {
    /// Every name
    #[default]
    All,
    /// Names that the list matches
    Include(NameList),
    /// Names that the list does not match
    Exclude(NameList),
}

impl NameFilter {
    /// Reads the pair of keys; both together are a fault of the exclude key.
    pub fn read(reader: &mut ConfigReader<'_>, include: &str, exclude: &str) -> Self {
        // What does not compile is already a fault of its key by its validator.
        let list = |text: &str| NameList::parse(text).unwrap_or_default();
        let included = reader.optional_text(include);
        let excluded = reader.optional_text(exclude);
        match (included, excluded) {
            (None, None) => Self::All,
            (Some(text), None) => Self::Include(list(&text)),
            (None, Some(text)) => Self::Exclude(list(&text)),
            (Some(_), Some(_)) => {
                reader.fault(exclude, format!("cannot be given together with {include}; keep one of them"));
                Self::All
            }
        }
    }

    /// Whether the filter lets `name` through.
    #[must_use]
    pub fn accepts(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Include(list) => list.matches(name),
            Self::Exclude(list) => !list.matches(name),
        }
    }

    /// Place of `name` in the order in which an include list names things; the same for all names without one.
    #[must_use]
    pub fn place(&self, name: &str) -> usize {
        match self {
            Self::All | Self::Exclude(_) => 0,
            Self::Include(list) => list.place(name),
        }
    }
}

/// Which tables of which schemas.
#[derive(Clone, Debug, Default)]
pub struct TableFilter {
    /// By name of the schema
    pub schemas: NameFilter,
    /// By `schema.table`
    pub tables: NameFilter,
}

impl TableFilter {
    /// Whether the table is captured.
    #[must_use]
    pub fn accepts(&self, schema: &str, table: &str) -> bool {
        self.schemas.accepts(schema) && (matches!(self.tables, NameFilter::All) || self.tables.accepts(&format!("{schema}.{table}")))
    }
}

/// The columns that stand in for a primary key: `message.key.columns`. As with Debezium, each column of an entry makes one expression on
/// `schema.table.column`: what stands before the colon, any character, and the column.
#[derive(Clone, Debug, Default)]
pub struct KeyColumns(Vec<KeyColumn>);

#[derive(Clone, Debug)]
struct KeyColumn {
    /// As the configuration has it: `TABLES:COLUMN`
    text: String,
    expression: Regex,
}

impl KeyColumns {
    /// Parses `TABLES:COLUMN,COLUMN;TABLES:COLUMN`; TABLES and COLUMN are expressions.
    ///
    /// # Errors
    /// A sentence that names the entry.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut all = Vec::new();
        for entry in text.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let wrong = || format!("holds {entry:?}; write TABLES:COLUMN,COLUMN with entries separated by semicolons");
            let (tables, columns) = entry.rsplit_once(':').ok_or_else(wrong)?;
            // As Debezium does: a blank before the colon is a part of the expression.
            let columns = split_list(columns);
            if columns.is_empty() {
                return Err(wrong());
            }
            for column in columns {
                all.push(KeyColumn { text: format!("{tables}:{column}"), expression: whole_name(&format!("{tables}.{column}"))? });
            }
        }
        Ok(Self(all))
    }

    /// The key columns that the configuration names for the table, of those that it has: in the order of the configuration, and where one
    /// expression has several, in theirs. `None` where it names none.
    #[must_use]
    pub fn of(&self, schema: &str, table: &str, columns: &[&str]) -> Option<Vec<String>> {
        let mut named: Vec<String> = Vec::new();
        for key in &self.0 {
            for column in columns.iter().filter(|column| key.matches(schema, table, column)) {
                if !named.iter().any(|known| known == column) {
                    named.push((*column).to_owned());
                }
            }
        }
        (!named.is_empty()).then_some(named)
    }

    /// Those of its columns, as `TABLES:COLUMN`, that none of `columns` is: schema, table and column.
    #[must_use]
    pub fn idle(&self, columns: &[(&str, &str, &str)]) -> Vec<&str> {
        let is_idle = |key: &&KeyColumn| !columns.iter().any(|(schema, table, column)| key.matches(schema, table, column));
        self.0.iter().filter(is_idle).map(|key| &*key.text).collect()
    }
}

impl KeyColumn {
    fn matches(&self, schema: &str, table: &str, column: &str) -> bool {
        self.expression.is_match(&format!("{schema}.{table}.{column}")).unwrap_or(false)
    }
}

/// Validator of `message.key.columns`.
///
/// # Errors
/// The sentence of the first faulty entry.
pub fn validate_key_columns(text: &str) -> Result<(), String> {
    KeyColumns::parse(text).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expression_of_a_name_matches_that_name_alone() {
        for name in ["public.orders", r"public.a$b", "a.(b)", r"x.back\slash", "s.\"quoted\"", "ü.漢 字"] {
            let list = NameList::exact(&[expression_of(name)]).unwrap();
            assert!(list.matches(name) && !list.matches(&name.replace('.', "x")) && !list.matches(&format!("{name}x")), "{name}");
        }
    }

    #[test]
    fn quotes_of_names_are_taken_away() {
        for (text, plain) in [
            ("public.orders", "public.orders"),
            (r#""S.x"."T.y""#, "S.x.T.y"),
            (r#" public."my orders" "#, "public.my orders"),
            (r#""public".Orders"#, "public.Orders"),
            (r#"a."b""c""#, r#"a.b"c"#),
            ("`a`.'b'", "a.b"),
            (r#"a.b"c"#, r#"a.b"c"#),
            (r#"a."b"#, "a.b"),
            ("", ""),
        ] {
            assert_eq!(plain_table_name(text), plain, "{text}");
        }
    }

    #[test]
    fn names_in_quotes_are_found_where_they_are_understood() {
        let list = NameList::exact(&[r#"public."my orders""#.to_owned(), r"public\.t.*".to_owned()]).unwrap();
        assert!(!list.matches("public.my orders"));
        let list = list.or_names();
        assert!(list.matches("public.my orders") && list.matches("public.things") && !list.matches("public.My orders"));
        assert_eq!((list.place("public.things"), list.place("public.my orders"), list.place("other")), (1, 0, 2));
        assert_eq!(list.text_of_name("public.my orders"), Some(r#"public."my orders""#));
        assert_eq!(list.text_of_name("public.things"), None);
        assert_eq!(list.without_match(&["public.my orders".to_owned()]).collect::<Vec<_>>(), [(1, r"public\.t.*")]);
    }

    #[test]
    fn expressions_match_whole_names_without_regard_to_case() {
        let list = NameList::parse(r"public\.orders, SHOP\.(a|b) ,x{1\,2}").unwrap();
        for name in ["public.orders", "PUBLIC.Orders", "shop.a", "shop.B", "xx"] {
            assert!(list.matches(name), "{name}");
        }
        for name in ["public.orders2", "my.public.orders", "shop.c", "xxx", "publicXorders"] {
            assert!(!list.matches(name), "{name}");
        }
    }

    #[test]
    fn expressions_are_those_of_java() {
        for (expression, name, other) in [
            (r"public\.users_\d+", "public.users_2024", "public.users_٢٣"),
            (r"app_\p{Alnum}\.\p{Alpha}+", "app_1.tab", "app_1.t-1"),
            (r"\Qapp_1.t-1\E", "APP_1.t-1", "app_1xt-1"),
            (r"public\.\Qt^{}\E", "public.t^{}", "public.t"),
            (r"(?x) app_1 \. tab # comment", "app_1.tab", "app_1 . tab"),
            ("äs.öt", "äS.öT", "ÄS.Öt"),
        ] {
            let list = NameList::parse(expression).unwrap();
            assert!(list.matches(name) && !list.matches(other), "{expression}");
            assert_eq!(list.without_match(&[]).collect::<Vec<_>>(), [(0, expression)]);
        }
        assert!(!NameList::exact(&["public.ORDERS".to_owned()]).unwrap().matches("public.orders"));
        assert!(validate_name_list(r"public\.\y").unwrap_err().contains("unknown escape"));
    }

    #[test]
    fn alternatives_are_anchored_on_both_sides() {
        assert!(!NameList::parse("a|b").unwrap().matches("ax"));
        assert!(!NameList::parse("a|b").unwrap().matches("xb"));
    }

    #[test]
    fn look_around_of_java_is_understood() {
        let list = NameList::parse(r"public\.(?!secret).*").unwrap();
        assert!(list.matches("public.orders"));
        assert!(!list.matches("public.secrets"));
    }

    #[test]
    fn what_does_not_compile_is_named() {
        assert!(validate_name_list("fine,[").unwrap_err().contains("\"[\""));
    }

    #[test]
    fn a_table_passes_its_schema_filter_and_its_table_filter() {
        let filter = TableFilter {
            schemas: NameFilter::Include(NameList::parse("public").unwrap()),
            tables: NameFilter::Exclude(NameList::parse(r"public\.log.*").unwrap()),
        };
        assert!(filter.accepts("public", "orders"));
        assert!(!filter.accepts("public", "logs"));
        assert!(!filter.accepts("other", "orders"));
    }

    #[test]
    fn key_columns_are_those_of_all_entries_that_the_table_has() {
        let keys = KeyColumns::parse(r"public\.orders:region;public\..*:ID,region,gone;public.orders:.*_at").unwrap();
        let columns = ["made_at", "id", "region", "sent_at"];
        assert_eq!(keys.of("public", "orders", &columns).unwrap(), ["region", "id", "made_at", "sent_at"]);
        assert_eq!(keys.of("public", "orders", &["other"]), None);
        let captured = columns.map(|column| ("public", "orders", column));
        assert_eq!(keys.idle(&captured), [r"public\..*:gone"]);
    }

    #[test]
    fn key_columns_are_found_by_table() {
        let keys = KeyColumns::parse(r"public\.customers:region,id; public\.(.*)_events:kind").unwrap();
        let of = |table| keys.of("public", table, &["id", "kind", "region"]);
        assert_eq!(of("customers").unwrap(), ["region", "id"]);
        assert_eq!(of("web_events").unwrap(), ["kind"]);
        assert_eq!(of("orders"), None);
        let blanks = |text: &str| KeyColumns::parse(text).unwrap().of("public", "t", &["id", "v"]);
        assert_eq!(blanks(" public.t: v , id ;").unwrap(), ["v", "id"]);
        assert_eq!(blanks("public.t :v"), None);
        assert!(KeyColumns::parse("customers").is_err());
        assert!(KeyColumns::parse("customers:").is_err());
        assert!(KeyColumns::parse("customers:(").is_err());
    }
}
