//! The configuration of the PostgreSQL source: Debezium's keys (3.6, `PostgresConnectorConfig`) and some of our own, such as
//! `snapshot.strategy`.

mod fields;

use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::Secret;
use tailwater_api::config::{ConfigField, ConfigReader, ConnectorConfig};
use tailwater_kit::filters::NameFilter;
use tailwater_kit::relational_config::{OnLoss, RelationalConfig};
use tailwater_kit::relational_fields::RELATIONAL_FIELDS;
use tailwater_kit::tls::{TlsMode, TlsOptions};

use self::fields::{POSTGRES_FIELDS, stream_options};
use crate::connect::split_statements;
use crate::data_types::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode, TypeOptions};
use crate::identity::{IdentityRule, parse_rules};
use crate::servers::{Server, SessionAttributes, parse_servers};

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

    /// Whether a table that began to be read is read to its end.
    pub(crate) fn finishes_tables(self) -> bool {
        self.goes_on() || self.reads_new_tables
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
        let behind_schema = self.relational.signals.table.as_deref().and_then(|name| name.strip_prefix(schema));
        behind_schema.and_then(|name| name.strip_prefix('.')) == Some(table)
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
            reader.note("slot.drop.on.stop", "drops the slot whenever the connector is stopped or paused: the next start is refused unless a new snapshot may be taken, and changes in between are lost");
        }
        let filters_messages = reader.is_set("message.prefix.include.list") || reader.is_set("message.prefix.exclude.list");
        if reader.boolean("transaction.streaming") && !filters_messages {
            reader.note(
                "transaction.streaming",
                "lets logical messages (pg_logical_emit_message) of a savepoint that is rolled back through with their transaction: the server sends \
                 them as the transaction's own; message.prefix.exclude.list leaves messages out",
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
    fn the_signalling_table_may_be_named_in_quotes() {
        let of = |name: &str| {
            let entries = [("topic.prefix", "shop"), ("database.hostname", "h"), ("database.user", "u"), ("database.dbname", "d")];
            let values: ConfigValues = entries.into_iter().chain([("signal.data.collection", name)]).collect();
            read_config::<PostgresConfig>(&values).map(|(config, _)| config).unwrap_or_else(|report| panic!("{report:?}"))
        };
        for name in ["public.Sig", r#""public"."Sig""#, r#"public."Sig""#, r#""public".Sig"#] {
            let config = of(name);
            assert!(config.is_signal_table("public", "Sig") && !config.is_signal_table("public", "sig"), "{name}");
        }
        assert!(of(r#""S.x"."my signals""#).is_signal_table("S.x", "my signals"));
        assert!(!of("public.sig").is_signal_table("public", "s") && !of("public.sig").is_signal_table("pub", "sig"));
    }

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
