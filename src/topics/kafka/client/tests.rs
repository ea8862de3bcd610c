use super::*;

fn values(entries: &[(&str, &str)]) -> ConfigValues {
    let servers = ("topics.kafka.bootstrap.servers", "127.0.0.1:9092");
    std::iter::once(&servers).chain(entries).copied().collect()
}

fn checked(role: Role, worker: &[(&str, &str)], connector: &[(&str, &str)]) -> Result<(ClientSettings, ConfigReport), ConfigReport> {
    ClientSettings::check(role, &values(worker), Some(&connector.iter().copied().collect()))
}

fn settings(role: Role, worker: &[(&str, &str)], connector: &[(&str, &str)]) -> ClientSettings {
    checked(role, worker, connector).map(|(settings, _)| settings).unwrap_or_else(|report| panic!("{report:?}"))
}

fn faults(role: Role, worker: &[(&str, &str)], connector: &[(&str, &str)]) -> String {
    let report = checked(role, worker, connector).err().expect("it has a fault");
    report.faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn javas_names_and_units_are_carried_over() {
    let worker = [
        ("topics.kafka.buffer.memory", "33554432"),
        ("topics.kafka.max.request.size", "2000000"),
        ("topics.kafka.batch.size", "131072"),
        ("topics.kafka.linger.ms", "7"),
        ("topics.kafka.security.protocol", "SASL_SSL"),
        ("topics.kafka.ssl.endpoint.identification.algorithm", ""),
        ("topics.kafka.send.buffer.bytes", "-1"),
        ("topics.kafka.compression.type", "zstd"),
        ("topics.kafka.compression.zstd.level", "6"),
        ("topics.kafka.compression.gzip.level", "9"),
        ("topics.kafka.partitioner.class", "org.apache.kafka.clients.producer.internals.DefaultPartitioner"),
    ];
    let settings = settings(Role::Producer, &worker, &[]);
    let expected = [
        ("queue.buffering.max.kbytes", "32768"),
        ("message.max.bytes", "2000000"),
        ("batch.size", "131072"),
        ("linger.ms", "7"),
        ("security.protocol", "SASL_SSL"),
        ("ssl.endpoint.identification.algorithm", "none"),
        ("socket.send.buffer.bytes", "0"),
        ("compression.level", "6"),
        ("partitioner", "murmur2_random"),
    ];
    for (name, value) in expected {
        assert_eq!(settings.get(name), Some(value), "{name}");
    }
    let consumer = [
        ("topics.kafka.consumer.fetch.max.wait.ms", "20"),
        ("topics.kafka.consumer.auto.offset.reset", "none"),
        (
            "topics.kafka.partition.assignment.strategy",
            "org.apache.kafka.clients.consumer.RangeAssignor,org.apache.kafka.clients.consumer.CooperativeStickyAssignor",
        ),
    ];
    let settings = self::settings(Role::Consumer, &consumer, &[]);
    for (name, value) in [("fetch.wait.max.ms", "20"), ("auto.offset.reset", "error"), ("partition.assignment.strategy", "range")] {
        assert_eq!(settings.get(name), Some(value), "{name}");
    }
}

#[test]
fn what_is_carried_over_is_what_librdkafka_takes() {
    let worker = [
        ("topics.kafka.buffer.memory", "33554432"),
        ("topics.kafka.max.request.size", "2000000"),
        ("topics.kafka.sasl.mechanism", "SCRAM-SHA-256"),
        ("topics.kafka.sasl.jaas.config", "ScramLoginModule required username=\"u\" password=\"p\";"),
        ("topics.kafka.security.protocol", "SASL_PLAINTEXT"),
    ];
    for role in Role::ALL {
        let config = settings(role, &worker, &[]).load().unwrap_or_else(|error| panic!("{error}"));
        config.create_native_config().unwrap();
        assert_eq!(config.get("sasl.password"), Some("p"));
    }
}

#[test]
fn the_later_layer_wins_by_whichever_name() {
    let worker = [
        ("topics.kafka.queue.buffering.max.ms", "1"),
        ("topics.kafka.producer.linger.ms", "2"),
        ("topics.kafka.consumer.linger.ms", "9"),
        ("topics.kafka.queue.buffering.max.kbytes", "5"),
    ];
    assert_eq!(settings(Role::Producer, &worker, &[]).get("linger.ms"), Some("2"));
    let connector =
        [("producer.override.linger.ms", "3"), ("producer.override.buffer.memory", "7168"), ("consumer.override.linger.ms", "8")];
    let settings = settings(Role::Producer, &worker, &connector);
    assert_eq!((settings.get("linger.ms"), settings.get("queue.buffering.max.kbytes")), (Some("3"), Some("7")));
}

// I13
#[test]
fn acks_and_idempotence_cannot_be_overridden() {
    let settings = settings(Role::Producer, &[], &[]);
    assert_eq!((settings.get("acks"), settings.get("enable.idempotence")), (Some("all"), Some("true")));
    for key in ["acks", "request.required.acks", "enable.idempotence"] {
        let worker = format!("topics.kafka.producer.{key}");
        assert!(faults(Role::Producer, &[(&worker, "1")], &[]).contains(&worker));
        let connector = format!("producer.override.{key}");
        assert!(faults(Role::Producer, &[], &[(&connector, "1")]).contains(&connector));
    }
    assert!(faults(Role::Consumer, &[], &[("consumer.override.enable.auto.commit", "true")]).contains("enable.auto.commit"));
}

#[test]
fn unknown_names_are_noted_and_librdkafkas_own_pass() {
    let worker = [("topics.kafka.max.poll.records", "100"), ("topics.kafka.socket.keepalive.enable", "true")];
    let (settings, report) = checked(Role::Consumer, &worker, &[]).unwrap_or_else(|report| panic!("{report:?}"));
    assert_eq!(settings.get("socket.keepalive.enable"), Some("true"));
    assert_eq!(settings.get("max.poll.records"), None);
    assert_eq!(report.notes.iter().map(|note| note.key.as_str()).collect::<Vec<_>>(), ["topics.kafka.max.poll.records"]);
}

#[test]
fn every_fault_shows_at_once() {
    let worker = [
        ("topics.kafka.linger.ms", "soon"),
        ("topics.kafka.buffer.memory", "much"),
        ("topics.kafka.sasl.mechanism", "GSSAPI"),
        ("topics.kafka.plugin.library.paths", "/tmp/x.so"),
        ("topics.kafka.partitioner.class", "com.example.Mine"),
        ("topics.kafka.ssl.cipher.suites", "TLS_AES_256_GCM_SHA384"),
    ];
    let found = faults(Role::Producer, &worker, &[]);
    for (key, _) in worker {
        assert!(found.contains(key), "{key} in {found}");
    }
    let nowhere = ClientSettings::check(Role::Admin, &ConfigValues::default(), None).err().expect("it has a fault");
    assert_eq!(nowhere.faults[0].key, "topics.kafka.bootstrap.servers");
}

#[test]
fn stores_in_pem_and_pkcs12_are_taken_and_jks_is_refused_with_the_command_that_converts_it() {
    let worker = [
        ("topics.kafka.ssl.truststore.type", "PEM"),
        ("topics.kafka.ssl.truststore.location", "/ca"),
        ("topics.kafka.ssl.keystore.location", "/client.p12"),
        ("topics.kafka.ssl.keystore.password", "p"),
    ];
    let taken = settings(Role::Admin, &worker, &[]);
    assert_eq!((taken.get("ssl.ca.location"), taken.get("ssl.keystore.location")), (Some("/ca"), Some("/client.p12")));
    let worker = [
        ("topics.kafka.ssl.truststore.certificates", "CA"),
        ("topics.kafka.ssl.keystore.certificate.chain", "CHAIN"),
        ("topics.kafka.ssl.keystore.key", "KEY"),
    ];
    let taken = settings(Role::Admin, &worker, &[]);
    for (name, value) in [("ssl.ca.pem", "CA"), ("ssl.certificate.pem", "CHAIN"), ("ssl.key.pem", "KEY")] {
        assert_eq!(taken.get(name), Some(value), "{name}");
    }
    let worker = [("topics.kafka.ssl.keystore.type", "PEM"), ("topics.kafka.ssl.keystore.location", "/both.pem")];
    let taken = settings(Role::Admin, &worker, &[]);
    assert_eq!((taken.get("ssl.certificate.location"), taken.get("ssl.key.location")), (Some("/both.pem"), Some("/both.pem")));
    let worker = [("topics.kafka.ssl.truststore.location", "/trust.jks"), ("topics.kafka.ssl.truststore.password", "canary")];
    let refused = faults(Role::Admin, &worker, &[]);
    assert!(refused.contains("keytool -importkeystore -srckeystore /trust.jks -destkeystore /trust.jks.p12"), "{refused}");
    assert!(faults(Role::Admin, &[("topics.kafka.ssl.truststore.location", "/trust")], &[]).contains("ssl.truststore.type"));
}

#[test]
fn a_connector_overrides_what_the_policy_allows() {
    let policy = |policy: &str, name: &str| {
        let worker = values(&[(OVERRIDE_POLICY, policy), ("connector.client.config.override.allowlist", "linger.ms, batch.size")]);
        may_override(&worker, name)
    };
    assert!(may_override(&ConfigValues::default(), "linger.ms"));
    assert!(policy("All", "linger.ms") && !policy("None", "linger.ms") && !policy("Nonsense", "linger.ms"));
    assert!(policy("Principal", "sasl.jaas.config") && !policy("Principal", "linger.ms"));
    assert!(policy("Allowlist", "batch.size") && !policy("Allowlist", "sasl.jaas.config"));
    assert!(policy("org.apache.kafka.connect.connector.policy.AllConnectorClientConfigOverridePolicy", "linger.ms"));
    let refused = faults(Role::Producer, &[(OVERRIDE_POLICY, "None")], &[("producer.override.linger.ms", "1")]);
    assert!(refused.starts_with("producer.override.linger.ms") && refused.contains(OVERRIDE_POLICY), "{refused}");
}

// I14
#[test]
fn a_secret_shows_in_no_fault_and_no_note() {
    let secrets = [
        "sasl.password",
        "sasl.jaas.config",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.key",
        "ssl.keystore.password",
        "ssl.truststore.password",
        "sasl.oauthbearer.config",
        "sasl.oauthbearer.client.secret",
        "sasl.login.callback.secret",
    ];
    for name in secrets {
        for value in ["canary", "canary\0", ""] {
            let key = format!("topics.kafka.{name}");
            let report = match checked(Role::Producer, &[(&key, value)], &[]) {
                Ok((_, report)) | Err(report) => report,
            };
            assert!(!format!("{report:?}").contains("canary"), "{name}: {report:?}");
        }
    }
}
