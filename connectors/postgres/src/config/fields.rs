//! The keys that are of PostgreSQL alone, each with its type, default and documentation.

use tailwater_api::config::FieldType::{Boolean, Choice, Class, Int, List, Long, Password, Text};
use tailwater_api::config::{ConfigField, Effect};
use tailwater_kit::filters::validate_name_list;
use tailwater_kit::relational_fields::{not_negative, positive};

use crate::identity::parse_rules;
use crate::servers::parse_servers;

const SNAPSHOT_MODES: &[&str] =
    &["initial", "always", "initial_only", "no_data", "when_needed", "configuration_based", "custom", "never", "schema_only"];

pub(super) const POSTGRES_FIELDS: &[ConfigField] = &[
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

pub(super) fn stream_options(text: &str) -> Result<Vec<(String, String)>, String> {
    let parse = |entry: &str| match entry.split_once('=') {
        Some((name, _)) if matches!(name.trim(), "proto_version" | "streaming" | "two_phase") => {
            Err(format!("must not hold {}, which the connector decides; see transaction.streaming and transaction.two.phase", name.trim()))
        }
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.trim().to_owned())),
        Some(_) | None => Err(format!("must be NAME=VALUE;NAME=VALUE, unlike {entry:?}")),
    };
    text.split(';').filter(|entry| !entry.trim().is_empty()).map(parse).collect()
}
