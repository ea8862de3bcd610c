//! From the settings that people already have for Kafka's Java clients to those of librdkafka.
//!
//! Everything about Kafka stands under `topics.kafka` of the worker file, with the names that a Connect worker file gives it:
//! `bootstrap.servers`, `security.protocol`, `sasl.jaas.config` and so on for every client, `producer.`, `consumer.` and
//! `admin.` in front of a name for one kind of client. A connector overrides them by `producer.override.`,
//! `consumer.override.` and `admin.override.`, as far as `connector.client.config.override.policy` lets it. The later of
//! these layers wins, whichever of its names a setting is given by.
//!
//! A name is looked up in this order:
//!
//! 1. What Tailwater's promises rest on cannot be set: `acks` and idempotence (I13), automatic commits of consumers (I2).
//! 2. Java's names whose meaning has another name or another unit in librdkafka are carried over (`carry_over`); stores of
//!    certificates and the JAAS text in modules of their own.
//! 3. All other names are librdkafka's to judge: most of Java's are also its own, and its further ones pass. It is asked by
//!    setting each property on an empty configuration, which does no I/O. Names that it does not know have no effect and
//!    are noted by name.
//!
//! Values may be secrets, so no fault repeats the value of a setting that may hold one (I14).

mod jaas;
mod tls;
pub(super) mod token;

use std::collections::BTreeMap;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use tailwater_api::Result;
use tailwater_api::config::{ConfigReport, ConfigValues};

use crate::config::document::fault;

/// Prefix of everything about Kafka in the worker file.
const WORKER_PREFIX: &str = "topics.kafka.";

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Writes records
    Producer,
    /// Reads records
    Consumer,
    /// Creates and describes topics
    Admin,
}

impl Role {
    const ALL: [Self; 3] = [Self::Producer, Self::Consumer, Self::Admin];

    /// Its prefix in the worker file; a connector's has `override.` after it.
    const fn prefix(self) -> &'static str {
        match self {
            Self::Producer => "producer.",
            Self::Consumer => "consumer.",
            Self::Admin => "admin.",
        }
    }

    /// Starting point that may be overridden.
    const fn defaults(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Producer => &[
                // Keys stay in the partitions where the Java client put them.
                ("partitioner", "murmur2_random"),
                // The Java client's own. A broker that is away for minutes is waited for; then the task's status says so, and its
                // next run writes again from what is durable.
                ("delivery.timeout.ms", "120000"),
            ],
            Self::Consumer => &[
                ("auto.offset.reset", "earliest"),
                // Not Java's default: no sink is to write what its source has aborted. librdkafka's own agrees.
                ("isolation.level", "read_committed"),
            ],
            Self::Admin => &[],
        }
    }

    /// What cannot be set, and why.
    const fn fixed(self) -> &'static [(&'static str, &'static str, &'static str)] {
        const DURABLE: &str = "records are durable before their position is stored"; // I1, I13
        const COMMITTED: &str = "positions are committed when the target holds the records"; // I2
        match self {
            Self::Producer => &[("acks", "all", DURABLE), ("enable.idempotence", "true", DURABLE)],
            Self::Consumer => &[("enable.auto.commit", "false", COMMITTED), ("enable.auto.offset.store", "false", COMMITTED)],
            Self::Admin => &[],
        }
    }
}

/// Settings of one client, checked without I/O (I15). No Debug: they hold secrets (I14).
pub struct ClientSettings {
    properties: BTreeMap<String, String>,
    trust_store: Option<tls::Pkcs12TrustStore>,
}

/// Whether a client with these settings can make topics. One that needs tokens is given them by events, which the crate's admin
/// client does not look at: the topics must be there.
pub fn can_administer(config: &ClientConfig) -> bool {
    config.get("sasl.mechanism") != Some("OAUTHBEARER")
}

/// A setting as it was given.
struct Given {
    /// Its whole key, for faults and notes
    key: String,
    value: String,
}

/// All settings of a client by name, the last layer's value of each.
type Settings = BTreeMap<String, Given>;

impl ClientSettings {
    /// Checks what `worker` (the flat keys of the worker file) and `connector` say about clients of `role`. Placeholders of
    /// secrets are resolved before. The worker's own clients have no connector.
    ///
    /// # Errors
    /// Every fault at once. The notes of the report name what has no effect.
    pub fn check(role: Role, worker: &ConfigValues, connector: Option<&ConfigValues>) -> Result<(Self, ConfigReport), ConfigReport> {
        let mut report = ConfigReport::default();
        let mut settings = layers(role, worker, connector, &mut report);
        if !settings.contains_key("bootstrap.servers") {
            report.faults.push(fault("topics.kafka.bootstrap.servers", "is needed: host:port of one or more brokers"));
        }
        let mut properties: BTreeMap<String, String> =
            role.defaults().iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        jaas::translate(&mut settings, &mut properties, &mut report);
        let trust_store = tls::translate(&mut settings, &mut properties, &mut report);
        compression_level(&mut settings, &mut properties);
        for (name, given) in &settings {
            match judged(name, &given.value) {
                Judgement::Known => {
                    properties.insert(name.clone(), given.value.clone());
                }
                Judgement::Unknown => {
                    report.notes.push(fault(&given.key, "has no meaning for librdkafka, which speaks to Kafka here, and no effect"));
                }
                Judgement::Refused(_) if may_be_secret(name) => report.faults.push(fault(&given.key, "has no valid value")),
                Judgement::Refused(why) => report.faults.push(fault(&given.key, why)),
            }
        }
        for (name, value, _) in role.fixed() {
            properties.insert((*name).to_owned(), (*value).to_owned());
        }
        if report.faults.is_empty() { Ok((Self { properties, trust_store }, report)) } else { Err(report) }
    }

    /// The configuration for librdkafka. Reads the trust store, where there is one in PKCS#12; librdkafka reads the other
    /// files itself when the client is created.
    ///
    /// # Errors
    /// `misconfigured` if the trust store cannot be read or opened.
    pub fn load(self) -> Result<ClientConfig> {
        let mut config: ClientConfig = self.properties.into_iter().collect();
        if let Some(store) = self.trust_store {
            config.set("ssl.ca.pem", store.load()?);
        }
        config.set_log_level(RDKafkaLogLevel::Warning);
        Ok(config)
    }

    /// The value of one of librdkafka's properties, by its name in Java where it has one there.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }
}

/// Merges the layers, each name carried over to librdkafka's.
fn layers(role: Role, worker: &ConfigValues, connector: Option<&ConfigValues>, report: &mut ConfigReport) -> Settings {
    let mut settings = Settings::new();
    let mut take = |key: String, name: &str, value: &str| {
        let canonical = canonical(name);
        if let Some((_, _, why)) = role.fixed().iter().find(|(fixed, _, _)| *fixed == canonical) {
            report.faults.push(fault(&key, format!("cannot be set: {why}")));
        } else if REFUSED.contains(&canonical) {
            report.faults.push(fault(&key, "cannot be set here"));
        } else {
            match carry_over(canonical, value) {
                Ok((name, value)) => {
                    settings.insert(name.to_owned(), Given { key, value });
                }
                Err(why) => report.faults.push(fault(&key, why)),
            }
        }
    };
    let is_of_a_role = |name: &str| Role::ALL.iter().any(|role| name.starts_with(role.prefix()));
    for (name, value) in worker.with_prefix(WORKER_PREFIX).filter(|(name, _)| !is_of_a_role(name)) {
        take(format!("{WORKER_PREFIX}{name}"), name, value);
    }
    let of_role = format!("{WORKER_PREFIX}{}", role.prefix());
    for (name, value) in worker.with_prefix(&of_role) {
        take(format!("{of_role}{name}"), name, value);
    }
    let overrides = format!("{}override.", role.prefix());
    let mut forbidden = Vec::new();
    for (name, value) in connector.iter().flat_map(|connector| connector.with_prefix(&overrides)) {
        let key = format!("{overrides}{name}");
        if may_override(worker, name) {
            take(key, name, value);
        } else {
            forbidden.push(fault(&key, format!("is not allowed by the worker's {OVERRIDE_POLICY}")));
        }
    }
    report.faults.append(&mut forbidden);
    settings
}

const OVERRIDE_POLICY: &str = "connector.client.config.override.policy";

/// Connect's policies (4.3) under their short names; the Java classes of the same names end in `ConnectorClientConfigOverridePolicy`.
fn may_override(worker: &ConfigValues, name: &str) -> bool {
    let policy = worker.get(OVERRIDE_POLICY).unwrap_or("All");
    let policy = policy.rsplit('.').next().unwrap_or(policy);
    match policy.strip_suffix("ConnectorClientConfigOverridePolicy").unwrap_or(policy) {
        "All" => true,
        "Principal" => matches!(name, "security.protocol" | "sasl.jaas.config" | "sasl.mechanism"),
        "Allowlist" => {
            let allowed = worker.get("connector.client.config.override.allowlist").unwrap_or_default();
            allowed.split(',').any(|allowed| allowed.trim() == name)
        }
        // None, and what is no policy: the careful reading of a word that nobody knows.
        _ => false,
    }
}

/// librdkafka's properties that load programs or belong to the engine itself.
const REFUSED: &[&str] = &["plugin.library.paths", "ssl.engine.location", "transactional.id", "opaque", "default_topic_conf"];

/// One name for settings that librdkafka knows by two (librdkafka 2.12, CONFIGURATION.md, "Alias for"), the one that is
/// also Java's.
fn canonical(name: &str) -> &str {
    match name {
        "metadata.broker.list" => "bootstrap.servers",
        "request.required.acks" => "acks",
        "message.timeout.ms" => "delivery.timeout.ms",
        "message.send.max.retries" => "retries",
        "queue.buffering.max.ms" => "linger.ms",
        "max.in.flight" => "max.in.flight.requests.per.connection",
        "compression.codec" => "compression.type",
        "fetch.message.max.bytes" => "max.partition.fetch.bytes",
        "auto.commit.enable" => "enable.auto.commit",
        "sasl.mechanisms" => "sasl.mechanism",
        other => other,
    }
}

/// Carries Java's names over whose meaning has another name or another unit in librdkafka (Kafka 4.3, `ProducerConfig`,
/// `ConsumerConfig`, `SslConfigs`). All other settings stay as they are.
fn carry_over<'a>(name: &'a str, value: &str) -> Result<(&'a str, String), String> {
    let same = || value.trim().to_owned();
    let number = || value.trim().parse::<i64>().map_err(|_| format!("must be a number, not {value:?}"));
    Ok(match name {
        "buffer.memory" => ("queue.buffering.max.kbytes", (number()? / 1024).max(1).to_string()),
        "max.request.size" => ("message.max.bytes", same()),
        // Java: no batches at all.
        "batch.size" if value.trim() == "0" => ("batch.size", "1".to_owned()),
        "fetch.max.wait.ms" => ("fetch.wait.max.ms", same()),
        // Java: -1 is what the system gives, which librdkafka says by 0.
        "send.buffer.bytes" => ("socket.send.buffer.bytes", number()?.max(0).to_string()),
        "receive.buffer.bytes" => ("socket.receive.buffer.bytes", number()?.max(0).to_string()),
        "auto.offset.reset" if value.trim() == "none" => ("auto.offset.reset", "error".to_owned()),
        "ssl.endpoint.identification.algorithm" if value.trim().is_empty() => (name, "none".to_owned()),
        "ssl.cipher.suites" if value.contains("TLS_") || value.contains("SSL_") => {
            return Err("must name OpenSSL's ciphers, such as ECDHE-RSA-AES256-GCM-SHA384, separated by colons".to_owned());
        }
        "sasl.mechanism" if value.trim() == "GSSAPI" => {
            return Err("GSSAPI (Kerberos) is not supported; PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 and OAUTHBEARER are".to_owned());
        }
        "partitioner.class" => match short_class(value) {
            "" | "DefaultPartitioner" => ("partitioner", "murmur2_random".to_owned()),
            _ => {
                return Err("cannot be loaded here; partitioner takes murmur2_random, consistent_random, fnv1a_random or random".to_owned());
            }
        },
        "partition.assignment.strategy" => (name, assignors(value)?),
        other => (other, same()),
    })
}

/// Java's classes by librdkafka's names. A list that holds an eager one beside the cooperative one means the eager one:
/// Java keeps both during an upgrade, librdkafka refuses to mix them.
fn assignors(value: &str) -> Result<String, String> {
    let mut names = Vec::new();
    for class in value.split(',').map(str::trim) {
        names.push(match short_class(class) {
            "RangeAssignor" | "range" => "range",
            "RoundRobinAssignor" | "roundrobin" => "roundrobin",
            "CooperativeStickyAssignor" | "cooperative-sticky" => "cooperative-sticky",
            _ => return Err(format!("names {class:?}; range, roundrobin and cooperative-sticky are known")),
        });
    }
    if names.iter().any(|name| *name != "cooperative-sticky") {
        names.retain(|name| *name != "cooperative-sticky");
    }
    Ok(names.join(","))
}

fn short_class(class: &str) -> &str {
    class.trim().rsplit('.').next().unwrap_or_default()
}

/// Java has a level for each type of compression, librdkafka one for the type in use.
fn compression_level(settings: &mut Settings, properties: &mut BTreeMap<String, String>) {
    let used = settings.get("compression.type").map_or(String::new(), |given| given.value.to_ascii_lowercase());
    for kind in ["gzip", "lz4", "zstd"] {
        if let Some(level) = settings.remove(&format!("compression.{kind}.level"))
            && kind == used
        {
            properties.insert("compression.level".to_owned(), level.value);
        }
    }
}

/// What librdkafka says about a property.
enum Judgement {
    Known,
    Unknown,
    Refused(String),
}

fn judged(name: &str, value: &str) -> Judgement {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Judgement::Known,
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Judgement::Unknown,
        Err(KafkaError::ClientConfig(_, why, ..)) => Judgement::Refused(why),
        // Text that C cannot take: a zero byte.
        Err(_) => Judgement::Refused("holds a character that cannot be passed on".to_owned()),
    }
}

/// Whether a setting may hold a secret: then its value is never shown (I14).
fn may_be_secret(name: &str) -> bool {
    ["password", "passphrase", "secret", "jaas", "key", "pem", "token", "assertion", "oauthbearer.config"]
        .iter()
        .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests;
