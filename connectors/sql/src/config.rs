//! Keys, defaults and names of Debezium's JDBC sink (Debezium 3.6, `JdbcSinkConnectorConfig`).

use std::time::Duration;

use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig, Effect, FieldType, Importance};

use crate::target_url::Target;

/// How a row is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum InsertMode {
    /// Every record is a further row.
    #[default]
    Insert,
    /// Insert, or update where the key is there.
    Upsert,
    /// Update only; a key that is not there is counted and left out.
    Update,
}

/// What the key of a row is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum PrimaryKeyMode {
    /// No key.
    #[default]
    None,
    /// Topic, partition and offset of the record.
    Kafka,
    /// The record's key.
    RecordKey,
    /// Fields of the row.
    RecordValue,
    /// Headers of the record.
    RecordHeader,
}

/// Whether tables are created and widened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum SchemaEvolution {
    /// Never.
    #[default]
    None,
    /// Tables that are missing are created, columns that are missing are added; nothing is dropped or retyped.
    Basic,
}

/// How a topic's name becomes a table's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum NamingStrategy {
    /// Dots of the topic become underscores; dots of the format part schema and table.
    #[default]
    Default,
    /// The topic as it is; its dots part schema and table.
    Passthrough,
}

/// A checked configuration. It has no `Debug`: it holds a password (I14).
#[derive(Clone)]
pub struct SqlConfig {
    pub(crate) target: Target,
    pub(crate) insert_mode: InsertMode,
    pub(crate) primary_key_mode: PrimaryKeyMode,
    pub(crate) primary_key_fields: Vec<String>,
    pub(crate) delete_enabled: bool,
    pub(crate) truncate_enabled: bool,
    pub(crate) schema_evolution: SchemaEvolution,
    pub(crate) name_format: String,
    pub(crate) naming_strategy: NamingStrategy,
    pub(crate) quote_identifiers: bool,
    pub(crate) rows_per_statement: usize,
    pub(crate) include: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) max_retries: u32,
    pub(crate) retry_delay: Duration,
    pub(crate) forget_positions: bool,
}

const ONE_CONNECTION: Effect = Effect::Never("each task writes over one connection, so that a batch is one transaction");

const STRATEGIES: [(&str, NamingStrategy); 6] = [
    ("io.debezium.connector.jdbc.naming.DefaultTableNamingStrategy", NamingStrategy::Default),
    ("io.debezium.sink.naming.DefaultCollectionNamingStrategy", NamingStrategy::Default),
    ("io.debezium.connector.jdbc.naming.DefaultCollectionNamingStrategy", NamingStrategy::Default),
    ("io.debezium.sink.naming.PassthroughCollectionNamingStrategy", NamingStrategy::Passthrough),
    ("io.debezium.connector.jdbc.naming.PassthroughCollectionNamingStrategy", NamingStrategy::Passthrough),
    ("io.debezium.connector.jdbc.naming.PassthroughTableNamingStrategy", NamingStrategy::Passthrough),
];

const FIELDS: &[ConfigField] = &[
    ConfigField::new(
        "connection.url",
        FieldType::Text,
        "The database: sqlite:///absolute/path, sqlite:relative/path, postgres://host:port/database, or a JDBC URL of these. \
         connectTimeout (30) and socketTimeout (300) of PostgreSQL limit connecting and each answer, in seconds.",
    )
    .required(),
    ConfigField::new("connection.username", FieldType::Text, "User name; wins over the URL's.").importance(Importance::High),
    ConfigField::new("connection.password", FieldType::Password, "Password; wins over the URL's.").importance(Importance::High),
    ConfigField::new(
        "insert.mode",
        FieldType::Choice(&["insert", "upsert", "update"]),
        "How rows are written. insert appends every record.",
    )
    .default("insert")
    .importance(Importance::High),
    ConfigField::new("delete.enabled", FieldType::Boolean, "Whether deletes and tombstones remove rows; needs a key.").default("false"),
    ConfigField::new("truncate.enabled", FieldType::Boolean, "Whether truncates empty the table.").default("false"),
    ConfigField::new(
        "primary.key.mode",
        FieldType::Choice(&["none", "kafka", "record_key", "record_value", "record_header"]),
        "Where the key of a row comes from.",
    )
    .default("none")
    .importance(Importance::High),
    ConfigField::new(
        "primary.key.fields",
        FieldType::List,
        "The fields that make the key; all fields where it is empty. Names the column of a key that is no struct.",
    ),
    ConfigField::new(
        "schema.evolution",
        FieldType::Choice(&["none", "basic"]),
        "basic creates tables and adds columns that are missing; nothing is ever dropped or retyped.",
    )
    .default("none")
    .importance(Importance::High),
    ConfigField::new(
        "collection.name.format",
        FieldType::Text,
        "Name of the table: ${topic} and ${source.FIELD} are replaced, a dot parts schema and table.",
    )
    .default("${topic}")
    .validator(check_format),
    ConfigField::new("table.name.format", FieldType::Text, "").effect(Effect::OldNameOf("collection.name.format")).validator(check_format),
    ConfigField::new(
        "collection.naming.strategy",
        FieldType::Class,
        "Default… turns the dots of a topic into underscores, Passthrough… keeps them.",
    )
    .default("io.debezium.connector.jdbc.naming.DefaultCollectionNamingStrategy")
    .validator(check_strategy),
    ConfigField::new("table.naming.strategy", FieldType::Class, "")
        .effect(Effect::OldNameOf("collection.naming.strategy"))
        .validator(check_strategy),
    ConfigField::new("collection.table.format", FieldType::Text, "Form of the table's name.").default("${table}").effect(Effect::NotYet),
    ConfigField::new("column.naming.strategy", FieldType::Class, "Names of columns.")
        .effect(Effect::Never("columns are called as the fields; rename fields by a transform")),
    ConfigField::new(
        "quote.identifiers",
        FieldType::Boolean,
        "Whether names keep their case; without it PostgreSQL sees them in lower case. Reserved words work either way.",
    )
    .default("false"),
    ConfigField::new("use.time.zone", FieldType::Text, "Time zone of temporal values.")
        .default("UTC")
        .effect(Effect::Never("instants are written in UTC and say so, local times as they are")),
    ConfigField::new("database.time_zone", FieldType::Text, "").effect(Effect::OldNameOf("use.time.zone")),
    ConfigField::new("batch.size", FieldType::Int, "Rows of one statement, at most.").default("500").validator(check_positive),
    ConfigField::new("use.reduction.buffer", FieldType::Boolean, "Whether a batch is merged by key before it is written.")
        .default("false")
        .effect(Effect::Never("with a key, batches are always merged")),
    ConfigField::new(
        "keyed.message.batch.mode",
        FieldType::Choice(&["deduplication", "passthrough"]),
        "How records of one key are batched.",
    )
    .default("deduplication")
    .effect(Effect::Never("with a key, batches are always merged")),
    ConfigField::new("field.include.list", FieldType::List, "Fields to write, FIELD or TOPIC:FIELD; all where it is empty."),
    ConfigField::new("field.exclude.list", FieldType::List, "Fields to leave out, FIELD or TOPIC:FIELD."),
    ConfigField::new("flush.max.retries", FieldType::Int, "How often a batch is tried again over a transient fault before the task fails.")
        .default("5")
        .validator(check_not_negative),
    ConfigField::new("flush.retry.delay.ms", FieldType::Long, "Milliseconds between these tries.")
        .default("1000")
        .validator(check_not_negative),
    ConfigField::new("connection.restart.on.errors", FieldType::Boolean, "Whether to connect again after a fault.")
        .default("false")
        .effect(Effect::Never("a lost connection is always opened again")),
    ConfigField::new("connection.pool.min_size", FieldType::Int, "Least connections.").default("5").effect(ONE_CONNECTION),
    ConfigField::new("connection.pool.max_size", FieldType::Int, "Most connections.").default("32").effect(ONE_CONNECTION),
    ConfigField::new("connection.pool.acquire_increment", FieldType::Int, "Connections opened at once.")
        .default("32")
        .effect(ONE_CONNECTION),
    ConfigField::new("connection.pool.timeout", FieldType::Long, "Seconds that an idle connection lives.")
        .default("1800")
        .effect(ONE_CONNECTION),
    ConfigField::new("connection.provider", FieldType::Class, "The JVM's connection pool.").effect(Effect::Never("there is no JVM")),
    ConfigField::new("hibernate.*", FieldType::Text, "Options of Hibernate.").effect(Effect::Never("there is no Hibernate")),
    ConfigField::new("dialect.postgres.postgis.schema", FieldType::Text, "Schema of PostGIS.").default("public").effect(Effect::NotYet),
    ConfigField::new("dialect.postgres.unnest.insert.enabled", FieldType::Boolean, "Whether PostgreSQL gets rows as arrays.")
        .default("false")
        .effect(Effect::Never("PostgreSQL always gets rows as arrays")),
    ConfigField::new("dialect.sqlserver.identity.insert", FieldType::Boolean, "Whether identity columns are written.")
        .default("false")
        .effect(Effect::Never("there is no dialect for SQL Server")),
    ConfigField::new("dialect.starrocks.catalog.name", FieldType::Text, "Catalog of StarRocks.")
        .effect(Effect::Never("there is no dialect for StarRocks")),
    ConfigField::new("cloud.events.schema.name.pattern", FieldType::Text, "Names of CloudEvents schemas.")
        .default(".*CloudEvents\\.Envelope$")
        .effect(Effect::NotYet),
    ConfigField::new(
        "internal.positions.forget",
        FieldType::Boolean,
        "Whether the target forgets the positions when the sink ends: for a sink of one run, whose name never comes again.",
    )
    .default("false"),
    ConfigField::new("internal.enable.sces", FieldType::Boolean, "The shared sink framework.")
        .effect(Effect::Never("records that the target refuses are always isolated")),
];

impl ConnectorConfig for SqlConfig {
    const FIELDS: &'static [&'static [ConfigField]] = &[FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let insert_mode =
            reader.choice("insert.mode", &[("insert", InsertMode::Insert), ("upsert", InsertMode::Upsert), ("update", InsertMode::Update)]);
        let primary_key_mode = reader.choice(
            "primary.key.mode",
            &[
                ("none", PrimaryKeyMode::None),
                ("kafka", PrimaryKeyMode::Kafka),
                ("record_key", PrimaryKeyMode::RecordKey),
                ("record_value", PrimaryKeyMode::RecordValue),
                ("record_header", PrimaryKeyMode::RecordHeader),
            ],
        );
        let delete_enabled = reader.boolean("delete.enabled");
        if insert_mode != InsertMode::Insert && primary_key_mode == PrimaryKeyMode::None {
            reader.fault("primary.key.mode", "must say what the key is where insert.mode is upsert or update, for instance record_key");
        }
        if insert_mode == InsertMode::Update && primary_key_mode == PrimaryKeyMode::Kafka {
            reader.fault("primary.key.mode", "must not be kafka where insert.mode is update: no row has the offset of a later record");
        }
        if delete_enabled && matches!(primary_key_mode, PrimaryKeyMode::None | PrimaryKeyMode::Kafka) {
            reader.fault("delete.enabled", "needs primary.key.mode record_key, record_value or record_header to know the row");
        }
        let (include, exclude) = (reader.list("field.include.list"), reader.list("field.exclude.list"));
        if !include.is_empty() && !exclude.is_empty() {
            reader.fault("field.exclude.list", "cannot stand beside field.include.list; keep one of them");
        }
        let strategy = reader.text("collection.naming.strategy");
        let target = Target::read(reader);
        Self {
            target,
            insert_mode,
            primary_key_mode,
            primary_key_fields: reader.list("primary.key.fields"),
            delete_enabled,
            truncate_enabled: reader.boolean("truncate.enabled"),
            schema_evolution: reader.choice("schema.evolution", &[("none", SchemaEvolution::None), ("basic", SchemaEvolution::Basic)]),
            name_format: reader.text("collection.name.format"),
            naming_strategy: STRATEGIES.iter().find(|(name, _)| *name == strategy).map(|(_, value)| *value).unwrap_or_default(),
            quote_identifiers: reader.boolean("quote.identifiers"),
            rows_per_statement: reader.number::<usize>("batch.size").max(1),
            include,
            exclude,
            max_retries: reader.number("flush.max.retries"),
            retry_delay: reader.milliseconds("flush.retry.delay.ms"),
            forget_positions: reader.boolean("internal.positions.forget"),
        }
    }
}

fn check_format(format: &str) -> Result<(), String> {
    let mut rest = format;
    if rest.is_empty() {
        return Err("must not be empty".to_owned());
    }
    while let Some(start) = rest.find("${") {
        let inner = &rest[start + 2..];
        let end = inner.find('}').ok_or_else(|| format!("has no }} after ${{ in {format:?}"))?;
        let name = &inner[..end];
        if name != "topic" && name.strip_prefix("source.").is_none_or(str::is_empty) {
            return Err(format!("may hold ${{topic}} and ${{source.FIELD}}, not ${{{name}}}"));
        }
        rest = &inner[end + 1..];
    }
    Ok(())
}

fn check_strategy(class: &str) -> Result<(), String> {
    if STRATEGIES.iter().any(|(name, _)| *name == class) {
        return Ok(());
    }
    Err(format!("must be {} or {}, not {class:?}", STRATEGIES[2].0, STRATEGIES[4].0))
}

fn check_positive(value: &str) -> Result<(), String> {
    if value.parse::<i64>().is_ok_and(|number| number > 0) { Ok(()) } else { Err("must be at least 1".to_owned()) }
}

fn check_not_negative(value: &str) -> Result<(), String> {
    if value.parse::<i64>().is_ok_and(|number| number >= 0) { Ok(()) } else { Err("must not be negative".to_owned()) }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigReport, ConfigValues, read_config};

    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<(SqlConfig, ConfigReport), ConfigReport> {
        read_config(&entries.iter().copied().collect::<ConfigValues>())
    }

    fn valid(entries: &[(&str, &str)]) -> (SqlConfig, ConfigReport) {
        read(entries).unwrap_or_else(|report| panic!("{report:?}"))
    }

    fn faulty_keys(entries: &[(&str, &str)]) -> Vec<String> {
        let Err(report) = read(entries) else { return Vec::new() };
        report.faults.into_iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn defaults_are_those_of_the_jdbc_sink() {
        let (config, report) = valid(&[("connection.url", "sqlite:copy.db")]);
        assert_eq!((config.insert_mode, config.primary_key_mode), (InsertMode::Insert, PrimaryKeyMode::None));
        assert_eq!((config.schema_evolution, config.delete_enabled, config.rows_per_statement), (SchemaEvolution::None, false, 500));
        assert!(report.notes.is_empty(), "{report:?}");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let keys = faulty_keys(&[
            ("insert.mode", "merge"),
            ("batch.size", "0"),
            ("delete.enabled", "yes"),
            ("collection.name.format", "${table}"),
            ("field.include.list", "a"),
            ("field.exclude.list", "b"),
        ]);
        for key in ["connection.url", "insert.mode", "batch.size", "delete.enabled", "collection.name.format", "field.exclude.list"] {
            assert!(keys.iter().any(|found| found == key), "{key} is missing in {keys:?}");
        }
    }

    #[test]
    fn keys_that_need_each_other_are_checked_together() {
        assert_eq!(faulty_keys(&[("connection.url", "sqlite:a"), ("insert.mode", "upsert")]), ["primary.key.mode"]);
        assert_eq!(faulty_keys(&[("connection.url", "sqlite:a"), ("delete.enabled", "true")]), ["delete.enabled"]);
    }

    #[test]
    fn old_names_count_for_the_new_keys() {
        let (config, report) = valid(&[
            ("connection.url", "jdbc:sqlite:a"),
            ("table.name.format", "copy_${topic}"),
            ("table.naming.strategy", "io.debezium.connector.jdbc.naming.DefaultTableNamingStrategy"),
        ]);
        assert_eq!(config.name_format, "copy_${topic}");
        assert_eq!(report.notes.len(), 2);
    }
}
