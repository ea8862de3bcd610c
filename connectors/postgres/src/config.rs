//! The configuration of the PostgreSQL source: Debezium's keys (3.6, `PostgresConnectorConfig`) and some of our own, such as
//! `snapshot.strategy`.

use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::Secret;
use tailwater_api::config::FieldType::{Boolean, Choice, Class, Int, List, Long, Password, Text};
use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig, Effect};
use tailwater_kit::filters::{NameFilter, validate_name_list};
use tailwater_kit::relational_config::{OnLoss, RelationalConfig};
use tailwater_kit::relational_fields::{RELATIONAL_FIELDS, not_negative, positive};
use tailwater_kit::tls::{TlsMode, TlsOptions};

use crate::connect::split_statements;
use crate::data_types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode, TypeOptions};
use crate::identity::{IdentityRule, parse_rules};
use crate::servers::{Server, SessionAttributes, parse_servers};

const SNAPSHOT_MODES: &[&str] =
    &["initial", "always", "initial_only", "no_data", "when_needed", "configuration_based", "custom", "never", "schema_only"];

const POSTGRES_FIELDS: &[ConfigField] = &[
    ConfigField::new(
        "database.hostname",
        Text,
        "Name or address of the server, or the folder of its Unix socket; several are separated by commas, each may have a port: HOST:PORT.",
    )
    .required()
    .validator(validate_servers),
    ConfigField::new("database.port", Int, "Port of the server.").default("5432").validator(validate_port),
    ConfigField::new(
        "database.target_session_attrs",
        Choice(&["any", "read-write", "read-only", "primary", "standby", "prefer-standby"]),
        "Which of several servers is followed, as libpq means it: the first that is so.",
    )
    .default("any"),
    ConfigField::new("database.user", Text, "Role to log in with; it needs REPLICATION and SELECT on the captured tables.").required(),
    ConfigField::new("database.password", Password, "Password of the role."),
    ConfigField::new("database.dbname", Text, "Database to capture.").required(),
    ConfigField::new(
        "database.sslmode",
        Choice(&["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
        "Whether the connection is encrypted and the server's certificate checked, as libpq means it.",
    )
    .default("prefer"),
    ConfigField::new("database.sslrootcert", Text, "File with the certificates to trust, PEM."),
    ConfigField::new("database.sslcert", Text, "File with the client's certificate, PEM."),
    ConfigField::new("database.sslkey", Text, "File with the client's key, PEM."),
    ConfigField::new("database.sslpassword", Password, "").effect(Effect::Never("keys have to be stored without a password")),
    ConfigField::new("database.sslfactory", Class, "").effect(Effect::Never("it names a Java class, and there is no JVM here")),
    ConfigField::new("database.connection.factory.class", Class, "")
        .effect(Effect::Never("it names a Java class, and there is no JVM here")),
    ConfigField::new("database.tcpKeepAlive", Boolean, "").default("true").effect(Effect::Never("connections are always kept alive")),
    ConfigField::new("database.query.timeout.ms", Long, "Longest time of a statement on the catalog, in milliseconds; 0 for no limit.")
        .default("600000")
        .validator(not_negative),
    ConfigField::new(
        "database.initial.statements",
        Text,
        "Statements run at the begin of each SQL connection, not of the one that follows the log; separated by semicolons, ;; is a semicolon.",
    ),
    ConfigField::new("plugin.name", Text, "Decoding plug-in of the server.").default("pgoutput").validator(validate_plugin),
    ConfigField::new("slot.name", Text, "Replication slot; created if it is missing.").default("debezium").validator(validate_slot_name),
    ConfigField::new("slot.drop.on.stop", Boolean, "Whether the slot is dropped when the connector stops; for tests only.")
        .default("false"),
    ConfigField::new("slot.failover", Boolean, "Whether standbys keep a copy of the slot to fail over to (PostgreSQL 17 and later).")
        .default("false"),
    ConfigField::new("slot.stream.params", Text, "Further options of the plug-in: NAME=VALUE;NAME=VALUE.")
        .validator(validate_stream_options),
    ConfigField::new(
        "transaction.streaming",
        Boolean,
        "Whether large transactions are sent while they are in progress and kept here until their commit (PostgreSQL 14 and later); \
         otherwise the server keeps them.",
    )
    .default("false"),
    ConfigField::new(
        "transaction.two.phase",
        Boolean,
        "Whether transactions that are committed in two phases are sent when they are prepared and kept here until their COMMIT PREPARED \
         (PostgreSQL 15 and later); otherwise the server keeps them. A slot that once was used so is used so for good.",
    )
    .default("false"),
    ConfigField::new("spill.directory", Text, "Folder for transactions without a commit; the system's for temporary files unless given."),
    ConfigField::new(
        "spill.max.bytes",
        Long,
        "What transactions without a commit may take there; beyond it the server keeps those in progress, and a prepared one is an error.",
    )
        .default("10737418240")
        .validator(positive),
    ConfigField::new("slot.max.retries", Int, "How often a slot in use is tried again.").default("6").validator(not_negative),
    ConfigField::new("slot.retry.delay.ms", Long, "Time between two such tries, in milliseconds.").default("10000").validator(not_negative),
    ConfigField::new(
        "slot.retained.wal.warn.bytes",
        Long,
        "How much log the server may keep for the slot before that is warned of; by default a server keeps it until its disk is full. 0 for \
         no such mark.",
    )
    .default("10737418240")
    .validator(not_negative),
    ConfigField::new("publication.name", Text, "Publication; created if it is missing.").default("dbz_publication").validator(not_empty),
    ConfigField::new(
        "publication.autocreate.mode",
        Choice(&["all_tables", "disabled", "filtered", "no_tables"]),
        "Which tables a publication gets that is created here.",
    )
    .default("all_tables"),
    ConfigField::new("publish.via.partition.root", Boolean, "Whether changes of partitions count as changes of their root.")
        .default("false"),
    ConfigField::new("replica.identity.autoset.values", Text, "Replica identities to give to tables: TABLES:IDENTITY,TABLES:IDENTITY.")
        .validator(validate_identities),
    ConfigField::new("offset.mismatch.strategy", Choice(&["no_validation", "trust_offset", "trust_slot", "trust_greater_lsn"]), "")
        .effect(Effect::Never("a stored position is always held against the slot; snapshot.mode decides what follows")),
    ConfigField::new(
        "lsn.flush.mode",
        Choice(&["connector", "manual", "connector_and_driver"]),
        "Who confirms to the server what is durable; with manual nobody does.",
    )
    .default("connector"),
    ConfigField::new("flush.lsn.source", Boolean, "Whether the server is told what is durable.")
        .effect(Effect::Old("today lsn.flush.mode says it: true is connector, false is manual")),
    ConfigField::new("lsn.flush.timeout.ms", Long, "").effect(Effect::Never("confirming does not wait for an answer")),
    ConfigField::new("lsn.flush.timeout.action", Choice(&["fail", "warn", "ignore"]), "")
        .effect(Effect::Never("confirming does not wait for an answer")),
    ConfigField::new("status.update.interval.ms", Int, "Longest time between two answers to the server, in milliseconds.")
        .default("10000")
        .validator(positive),
    ConfigField::new(
        "xmin.fetch.interval.ms",
        Long,
        "Time between two looks at the oldest transaction that the slot holds the catalog for, which source.xmin then tells, in milliseconds; \
         0 for none.",
    )
    .default("0")
    .validator(not_negative),
    ConfigField::new("snapshot.mode", Choice(SNAPSHOT_MODES), "When the rows that are there are read.").default("initial"),
    ConfigField::new(
        "snapshot.strategy",
        Choice(&["consistent", "watermark"]),
        "How the rows that are there are read: watermark reads tables with a key in chunks beside the log, consistent all rows in one \
         snapshot before the first change. The default is watermark where a connector file says connector: postgres, and \
         consistent for a configuration of Connect, which has connector.class.",
    )
    .default("consistent"),
    ConfigField::new(
        "snapshot.new.tables",
        Choice(&["none", "read"]),
        "Whether tables that join those captured after the first snapshot are read, too, or only their changes from then on captured.",
    )
    .default("none"),
    ConfigField::new(
        "table.refresh.interval.ms",
        Long,
        "Time between two looks at the catalog for tables that have to be published or read, in milliseconds; 0 for none.",
    )
    .default("60000")
    .validator(not_negative),
    ConfigField::new("snapshot.isolation.mode", Choice(&["serializable", "repeatable_read", "read_committed", "read_uncommitted"]), "")
        .effect(Effect::Never("a snapshot is always read in repeatable read, as one state of the database")),
    ConfigField::new("snapshot.locking.mode", Choice(&["none", "shared", "custom"]), "")
        .effect(Effect::Never("a table is locked in ACCESS SHARE mode while it is read")),
    ConfigField::new(
        "time.precision.mode",
        Choice(&["adaptive", "adaptive_time_microseconds", "isostring", "microseconds", "nanoseconds", "connect"]),
        "How times are written.",
    )
    .default("adaptive"),
    ConfigField::new("hstore.handling.mode", Choice(&["json", "map"]), "How hstore is written.").default("json"),
    ConfigField::new("interval.handling.mode", Choice(&["numeric", "string"]), "How intervals are written.").default("numeric"),
    ConfigField::new("money.fraction.digits", Int, "Digits of money behind the point where `decimal.handling.mode` is `precise`.")
        .default("2")
        .validator(validate_digits),
    ConfigField::new(
        "include.unknown.datatypes",
        Boolean,
        "Whether columns of types without a mapping are written as the octets of their text, and arrays that are left out otherwise as arrays.",
    )
    .default("false"),
    ConfigField::new("schema.refresh.mode", Choice(&["columns_diff", "columns_diff_exclude_unchanged_toast"]), "")
        .effect(Effect::Never("definitions follow the server's own messages")),
    ConfigField::new("message.prefix.include.list", List, "Prefixes of logical messages to capture: regular expressions.")
        .validator(validate_name_list),
    ConfigField::new("message.prefix.exclude.list", List, "Prefixes of logical messages to leave out: regular expressions.")
        .validator(validate_name_list),
    ConfigField::new("read.only", Boolean, "").default("false").effect(Effect::Never("snapshots write nothing to the source")),
    ConfigField::new("create.slot.command.timeout", Long, "").effect(Effect::Never("the log names what a new slot waits for")),
];

fn validate_port(value: &str) -> Result<(), String> {
    if value.parse::<u16>().is_ok_and(|port| port > 0) { Ok(()) } else { Err("must be a port, 1 to 65535".into()) }
}

fn validate_servers(value: &str) -> Result<(), String> {
    parse_servers(value, 5432).map(|_| ())
}

fn validate_digits(value: &str) -> Result<(), String> {
    if value.parse::<u8>().is_ok_and(|digits| digits <= 18) { Ok(()) } else { Err("must be 0 to 18".into()) }
}

fn validate_plugin(value: &str) -> Result<(), String> {
    if value.eq_ignore_ascii_case("pgoutput") {
        Ok(())
    } else {
        Err(format!(
            "must be pgoutput, not {value:?}; it is part of PostgreSQL, nothing has to be installed, but the slot has to be a new one"
        ))
    }
}

fn validate_slot_name(value: &str) -> Result<(), String> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if (1..=63).contains(&value.len()) && value.bytes().all(allowed) {
        Ok(())
    } else {
        Err(format!("must consist of 1 to 63 lower-case letters, digits and underscores, unlike {value:?}"))
    }
}

fn not_empty(value: &str) -> Result<(), String> {
    if value.is_empty() { Err("must not be empty".into()) } else { Ok(()) }
}

fn validate_identities(value: &str) -> Result<(), String> {
    parse_rules(value).map(|_| ())
}

fn validate_stream_options(value: &str) -> Result<(), String> {
    stream_options(value).map(|_| ())
}

fn stream_options(text: &str) -> Result<Vec<(String, String)>, String> {
    let parse = |entry: &str| match entry.split_once('=') {
        Some((name, _)) if matches!(name.trim(), "proto_version" | "streaming" | "two_phase") => {
            Err(format!("must not hold {}, which the connector decides; see transaction.streaming and transaction.two.phase", name.trim()))
        }
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        Some(_) | None => Err(format!("must be NAME=VALUE;NAME=VALUE, unlike {entry:?}")),
    };
    text.split(';').filter(|entry| !entry.trim().is_empty()).map(parse).collect()
}

/// When the rows that are there are read, and whether changes are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct SnapshotMode {
    pub(crate) read: SnapshotWhen,
    /// Whether a position that cannot be continued leads to a snapshot.
    pub(crate) if_history_is_gone: bool,
    pub(crate) stream: bool,
    /// Whether tables with keys are read in chunks beside the log
    pub(crate) in_chunks: bool,
    /// Whether tables that come later are read
    pub(crate) reads_new_tables: bool,
}

impl SnapshotMode {
    /// Whether a snapshot that began is read to its end.
    pub(crate) fn goes_on(self) -> bool {
        match self.read {
            SnapshotWhen::Initially | SnapshotWhen::Always => true,
            SnapshotWhen::Never => self.if_history_is_gone,
        }
    }
}

/// When the rows that are there are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum SnapshotWhen {
    /// Where no complete snapshot is known
    #[default]
    Initially,
    /// At every start
    Always,
    /// Never, but for a lost position where `if_history_is_gone`
    Never,
}

/// Which tables a publication gets that is created here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum PublicationMode {
    #[default]
    AllTables,
    Disabled,
    Filtered,
    NoTables,
}

/// Who confirms to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum FlushMode {
    #[default]
    Connector,
    Manual,
    ConnectorAndDriver,
}

/// Where transactions without a commit are kept.
#[derive(Clone, Debug)]
pub(crate) struct SpillOptions {
    pub(crate) folder: PathBuf,
    /// Bytes of all of them
    pub(crate) limit: u64,
}

/// A checked configuration of the PostgreSQL source.
#[derive(Clone)]
pub struct PostgresConfig {
    pub(crate) relational: RelationalConfig,
    /// The server that this run follows
    pub(crate) hostname: String,
    pub(crate) port: u16,
    /// Those that it is chosen from
    pub(crate) servers: Vec<Server>,
    pub(crate) session_attributes: SessionAttributes,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) dbname: String,
    pub(crate) tls: TlsOptions,
    pub(crate) statement_timeout: Duration,
    /// What each SQL connection begins with
    pub(crate) initial_statements: Vec<String>,
    pub(crate) slot: String,
    pub(crate) drop_slot_on_stop: bool,
    pub(crate) failover_slot: bool,
    pub(crate) stream_options: Vec<(String, String)>,
    /// Whether transactions in progress are asked for
    pub(crate) in_progress: bool,
    /// Whether prepared transactions are asked for before their commit
    pub(crate) two_phase: bool,
    pub(crate) spill: SpillOptions,
    pub(crate) slot_retries: u32,
    pub(crate) slot_retry_delay: Duration,
    /// What the server may keep for the slot before that is warned of
    pub(crate) retained_wal_mark: Option<i64>,
    pub(crate) publication: String,
    pub(crate) publication_mode: PublicationMode,
    pub(crate) publish_via_root: bool,
    pub(crate) identities: Vec<IdentityRule>,
    /// Logical messages that are captured, by their prefix
    pub(crate) message_prefixes: NameFilter,
    pub(crate) flush_mode: FlushMode,
    pub(crate) status_interval: Duration,
    /// Time between two looks at the slot's oldest transaction; zero for none
    pub(crate) xmin_interval: Duration,
    /// Whether definitions of tables are written to a topic of their own
    pub(crate) tells_definitions: bool,
    pub(crate) snapshot: SnapshotMode,
    /// Time between two looks for new tables; zero for none
    pub(crate) table_refresh_interval: Duration,
    pub(crate) values: TypeOptions,
}

/// Debezium counts this table of PostGIS, which holds the reference systems of the world, among the server's own.
const REFERENCE_SYSTEMS: &str = "spatial_ref_sys";

impl PostgresConfig {
    /// Whether changes of the table are captured.
    pub(crate) fn captures(&self, schema: &str, table: &str) -> bool {
        let is_wanted = table != REFERENCE_SYSTEMS && self.relational.tables.accepts(schema, table);
        is_wanted || self.is_signal_table(schema, table)
    }

    /// Whether the table's rows are signals; as with Debezium, it is captured whatever the filters say.
    pub(crate) fn is_signal_table(&self, schema: &str, table: &str) -> bool {
        let name = self.relational.signals.table.as_deref().and_then(|name| name.split_once('.'));
        name.is_some_and(|name| name == (schema, table))
    }
}

impl ConnectorConfig for PostgresConfig {
    const FIELDS: &'static [&'static [ConfigField]] = &[POSTGRES_FIELDS, RELATIONAL_FIELDS];

    fn read(reader: &mut ConfigReader<'_>) -> Self {
        let relational = RelationalConfig::read(reader);
        // Its default is for sources that tell their definitions in any case; Debezium's for PostgreSQL has none to tell.
        let tells_definitions = reader.is_set("include.schema.changes") && reader.boolean("include.schema.changes");
        if tells_definitions {
            reader.note(
                "include.schema.changes",
                "definitions are told on the topic that topic.prefix names (Debezium tells none of PostgreSQL's)",
            );
        }
        if reader.boolean("slot.drop.on.stop") {
            reader.note("slot.drop.on.stop", "loses every change between a stop and the next start");
        }
        if reader.boolean("transaction.streaming") {
            reader.note(
                "transaction.streaming",
                "lets logical messages (pg_logical_emit_message) of a savepoint that is rolled back through with their transaction: the server sends \
                 them as the transaction's own",
            );
        }
        if reader.text("lsn.flush.mode").eq_ignore_ascii_case("manual") {
            reader.note("lsn.flush.mode", "manual keeps the server's log until somebody else confirms it");
        }
        if !reader.is_set("slot.name") {
            reader.note("slot.name", "is not given: the slot is called debezium; two connectors on one server need two slots");
        }
        let flush_modes =
            [("connector", FlushMode::Connector), ("manual", FlushMode::Manual), ("connector_and_driver", FlushMode::ConnectorAndDriver)];
        let flush_mode = if reader.is_set("flush.lsn.source") && !reader.is_set("lsn.flush.mode") && !reader.boolean("flush.lsn.source") {
            FlushMode::Manual
        } else {
            reader.choice("lsn.flush.mode", &flush_modes)
        };
        // Who comes from Connect relies on all rows before the first change.
        let is_strategy_set = reader.is_set("snapshot.strategy");
        let snapshot = SnapshotMode {
            in_chunks: if is_strategy_set {
                reader.text("snapshot.strategy").eq_ignore_ascii_case("watermark")
            } else {
                reader.is_our_own()
            },
            reads_new_tables: reader.text("snapshot.new.tables").eq_ignore_ascii_case("read"),
            ..read_snapshot_mode(reader)
        };
        if snapshot.in_chunks && !snapshot.stream && is_strategy_set {
            reader.note(
                "snapshot.strategy",
                "watermark reads beside the log, which this snapshot.mode does not follow: the snapshot is consistent",
            );
        }
        let on_loss = relational.on_loss;
        // What does not parse is already a fault of its key by its validator.
        let stream_options = stream_options(&reader.text("slot.stream.params")).unwrap_or_default();
        let leaves_out = |(name, value): &(String, String)| name == "origin" && value.eq_ignore_ascii_case("none");
        if reader.boolean("transaction.two.phase") && stream_options.iter().any(leaves_out) {
            reader.fault(
                "transaction.two.phase",
                "cannot stand with origin=none in slot.stream.params: of a transaction that is prepared without an origin and ended with one, \
                 the server does not send the end",
            );
        }
        let servers = parse_servers(&reader.text("database.hostname"), reader.number("database.port")).unwrap_or_default();
        let first = servers.first().cloned().unwrap_or(Server { host: String::new(), port: 0 });
        Self {
            relational,
            hostname: first.host,
            port: first.port,
            servers,
            session_attributes: reader.choice(
                "database.target_session_attrs",
                &[
                    ("any", SessionAttributes::Any),
                    ("read-write", SessionAttributes::ReadWrite),
                    ("read-only", SessionAttributes::ReadOnly),
                    ("primary", SessionAttributes::Primary),
                    ("standby", SessionAttributes::Standby),
                    ("prefer-standby", SessionAttributes::PreferStandby),
                ],
            ),
            user: reader.text("database.user"),
            password: reader.secret("database.password"),
            dbname: reader.text("database.dbname"),
            tls: read_tls(reader),
            statement_timeout: reader.milliseconds("database.query.timeout.ms"),
            initial_statements: split_statements(&reader.text("database.initial.statements")),
            slot: reader.text("slot.name"),
            drop_slot_on_stop: reader.boolean("slot.drop.on.stop"),
            failover_slot: reader.boolean("slot.failover"),
            stream_options,
            in_progress: reader.boolean("transaction.streaming"),
            two_phase: reader.boolean("transaction.two.phase"),
            spill: SpillOptions {
                folder: reader.optional_text("spill.directory").map_or_else(std::env::temp_dir, PathBuf::from),
                limit: reader.number("spill.max.bytes"),
            },
            slot_retries: reader.number("slot.max.retries"),
            slot_retry_delay: reader.milliseconds("slot.retry.delay.ms"),
            retained_wal_mark: Some(reader.number("slot.retained.wal.warn.bytes")).filter(|mark| *mark > 0),
            publication: reader.text("publication.name"),
            publication_mode: reader.choice(
                "publication.autocreate.mode",
                &[
                    ("all_tables", PublicationMode::AllTables),
                    ("disabled", PublicationMode::Disabled),
                    ("filtered", PublicationMode::Filtered),
                    ("no_tables", PublicationMode::NoTables),
                ],
            ),
            publish_via_root: reader.boolean("publish.via.partition.root"),
            // What does not parse is already a fault of its key by its validator.
            identities: parse_rules(&reader.text("replica.identity.autoset.values")).unwrap_or_default(),
            message_prefixes: NameFilter::read(reader, "message.prefix.include.list", "message.prefix.exclude.list"),
            flush_mode,
            tells_definitions,
            status_interval: reader.milliseconds("status.update.interval.ms"),
            xmin_interval: reader.milliseconds("xmin.fetch.interval.ms"),
            snapshot,
            table_refresh_interval: reader.milliseconds("table.refresh.interval.ms"),
            values: read_type_options(reader, on_loss),
        }
    }
}

fn read_type_options(reader: &ConfigReader<'_>, on_loss: OnLoss) -> TypeOptions {
    let time_modes = [
        ("adaptive", TimeMode::Adaptive),
        ("adaptive_time_microseconds", TimeMode::AdaptiveTimeMicroseconds),
        ("isostring", TimeMode::Isostring),
        ("microseconds", TimeMode::Microseconds),
        ("nanoseconds", TimeMode::Nanoseconds),
        ("connect", TimeMode::Connect),
    ];
    TypeOptions {
        decimal: reader.choice(
            "decimal.handling.mode",
            &[("precise", DecimalMode::Precise), ("string", DecimalMode::String), ("double", DecimalMode::Double)],
        ),
        time: reader.choice("time.precision.mode", &time_modes),
        interval: reader.choice("interval.handling.mode", &[("numeric", IntervalMode::Numeric), ("string", IntervalMode::String)]),
        hstore: reader.choice("hstore.handling.mode", &[("json", HstoreMode::Json), ("map", HstoreMode::Map)]),
        binary: reader.choice(
            "binary.handling.mode",
            &[
                ("bytes", BinaryMode::Bytes),
                ("base64", BinaryMode::Base64),
                ("base64-url-safe", BinaryMode::Base64UrlSafe),
                ("hex", BinaryMode::Hex),
            ],
        ),
        money_fraction_digits: reader.number("money.fraction.digits"),
        include_unknown: reader.boolean("include.unknown.datatypes"),
        refuse_loss: on_loss == OnLoss::Fail,
    }
}

fn read_tls(reader: &ConfigReader<'_>) -> TlsOptions {
    let modes = [
        ("disable", TlsMode::Disable),
        ("allow", TlsMode::Allow),
        ("prefer", TlsMode::Prefer),
        ("require", TlsMode::Require),
        ("verify-ca", TlsMode::VerifyCa),
        ("verify-full", TlsMode::VerifyFull),
    ];
    let file = |key: &str| reader.optional_text(key).map(PathBuf::from);
    TlsOptions {
        mode: reader.choice("database.sslmode", &modes),
        root_certificates: file("database.sslrootcert"),
        client_certificate: file("database.sslcert"),
        client_key: file("database.sslkey"),
    }
}

fn read_snapshot_mode(reader: &mut ConfigReader<'_>) -> SnapshotMode {
    let mode = |read, if_history_is_gone, stream| SnapshotMode { read, if_history_is_gone, stream, ..SnapshotMode::default() };
    match reader.text("snapshot.mode").to_ascii_lowercase().as_str() {
        "always" => mode(SnapshotWhen::Always, true, true),
        "initial_only" => mode(SnapshotWhen::Initially, false, false),
        "no_data" => mode(SnapshotWhen::Never, false, true),
        old @ ("never" | "schema_only") => {
            reader.note("snapshot.mode", format!("{old} is an old value; today it is no_data"));
            mode(SnapshotWhen::Never, false, true)
        }
        "when_needed" => mode(SnapshotWhen::Initially, true, true),
        "configuration_based" => {
            let data = reader.boolean("snapshot.mode.configuration.based.snapshot.data");
            let on_error = reader.boolean("snapshot.mode.configuration.based.snapshot.on.data.error");
            let stream = reader.boolean("snapshot.mode.configuration.based.start.stream");
            if !data && !stream {
                reader.fault("snapshot.mode", "configuration_based needs snapshot.mode.configuration.based.snapshot.data or …start.stream");
            }
            mode(if data { SnapshotWhen::Always } else { SnapshotWhen::Never }, on_error, stream)
        }
        "custom" => {
            reader.fault("snapshot.mode", "custom names a Java class, and there is no JVM here; use one of the other modes");
            SnapshotMode::default()
        }
        // `initial`; any other word is already a fault of its key by its type.
        _ => mode(SnapshotWhen::Initially, false, true),
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigValues, read_config};

    use super::*;

    #[test]
    fn i10_our_own_files_isolate_tables_unless_they_say_otherwise_and_configurations_of_connect_stop() {
        let isolates = |entries: &[(&str, &str)]| {
            let complete = [("topic.prefix", "shop"), ("database.hostname", "h"), ("database.user", "u"), ("database.dbname", "d")];
            let values: ConfigValues = complete.iter().chain(entries).copied().collect();
            read_config::<PostgresConfig>(&values)
                .map(|(config, _)| config.relational.isolates_tables())
                .unwrap_or_else(|report| panic!("{report:?}"))
        };
        let (ours, class) = (("connector", "postgres"), ("connector.class", "postgres"));
        let [fail, isolate] = ["fail", "isolate"].map(|mode| ("event.processing.failure.handling.mode", mode));
        assert!(isolates(&[ours, class]) && isolates(&[class, isolate]));
        assert!(!isolates(&[class]) && !isolates(&[ours, fail]) && !isolates(&[ours, ("provide.transaction.metadata", "true")]));
    }

    #[test]
    fn our_own_files_are_read_in_chunks_unless_they_say_otherwise_and_configurations_of_connect_are_not() {
        let complete = [("topic.prefix", "shop"), ("database.hostname", "h"), ("database.user", "u"), ("database.dbname", "d")];
        let is_in_chunks = |entries: &[(&str, &str)]| {
            let values: ConfigValues = complete.iter().chain(entries).copied().collect();
            read_config::<PostgresConfig>(&values)
                .map(|(config, _)| config.snapshot.in_chunks)
                .unwrap_or_else(|report| panic!("{report:?}"))
        };
        let (ours, class) = (("connector", "postgres"), ("connector.class", "io.debezium.connector.postgresql.PostgresConnector"));
        let [consistent, watermark] = ["consistent", "watermark"].map(|strategy| ("snapshot.strategy", strategy));
        assert!(is_in_chunks(&[ours, ("connector.class", "postgres")]) && is_in_chunks(&[class, watermark]));
        assert!(!is_in_chunks(&[class]) && !is_in_chunks(&[("connector.class", "postgres")]) && !is_in_chunks(&[ours, consistent]));
    }
}
