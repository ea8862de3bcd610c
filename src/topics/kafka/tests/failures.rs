//! What a real broker refuses or does not do: each is a kind of error with its remedy, and nothing is lost.

use std::io::{Read as _, Write as _};

use super::*;

const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";

/// Lets everybody do everything who comes without a name, and nothing else to anybody.
async fn broker() -> Option<KafkaBroker> {
    let plain = format!(r#"{PLAIN} username="broker" password="canary" user_alice="alice";"#);
    let settings = [
        ("listener.security.protocol.map", "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_PLAINTEXT"),
        ("listener.name.passwords.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.passwords.plain.sasl.jaas.config", &plain),
        ("authorizer.class.name", "org.apache.kafka.metadata.authorizer.StandardAuthorizer"),
        ("super.users", "User:ANONYMOUS"),
    ];
    required_or_skip(KafkaBroker::start_with_listeners(&["PASSWORDS"], &settings).await)
}

/// A connector whose clients log in as somebody without rights.
fn without_rights(broker: &KafkaBroker, connector: &str) -> LogUser {
    let servers = broker.bootstrap_servers_of("PASSWORDS");
    let login = format!(r#"{PLAIN} username="alice" password="alice";"#);
    let mut config = ConfigValues::default();
    for role in ["producer", "consumer", "admin"] {
        for (name, value) in
            [("bootstrap.servers", servers.as_str()), ("security.protocol", "SASL_PLAINTEXT"), ("sasl.jaas.config", &login)]
        {
            config.set(format!("{role}.override.{name}"), value);
        }
    }
    LogUser { config: Arc::new(config), ..LogUser::from(connector) }
}

/// Lets everybody who has a name be a member of any group (Kafka protocol, `CreateAclsRequest` version 1).
fn let_join_groups(broker: &KafkaBroker) {
    fn text(text: &str) -> Vec<u8> {
        [&i16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
    }
    const KEY_AND_VERSION: [u8; 4] = [0, 30, 0, 1];
    const GROUP: [u8; 1] = [3];
    const LITERALLY: [u8; 1] = [3];
    const READ_ALLOWED: [u8; 2] = [3, 3];
    let (correlation, one_rule) = ([0; 4], [0, 0, 0, 1]);
    let parts = [
        &KEY_AND_VERSION[..],
        &correlation,
        &text("test"),
        &one_rule,
        &GROUP,
        &text("*"),
        &LITERALLY,
        &text("User:*"),
        &text("*"),
        &READ_ALLOWED,
    ];
    let request = parts.concat();
    let mut connection = std::net::TcpStream::connect(broker.bootstrap_servers()).unwrap();
    connection.write_all(&[&u32::try_from(request.len()).unwrap().to_be_bytes()[..], &request].concat()).unwrap();
    // Its length, correlation, throttling, the number of results; then the code of the first.
    let mut answer = [0; 18];
    connection.read_exact(&mut answer).unwrap();
    assert_eq!(answer[12..], [0, 0, 0, 1, 0, 0], "{answer:?}");
}

fn assert_refused(error: &Error, kind: ErrorKind, remedy: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.remedy().is_some_and(|mend| mend.contains(remedy)), "{error:?}");
}

fn one(record: Record, state: u64) -> SourceBatch {
    SourceBatch { records: vec![record], state: at(state), ..SourceBatch::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_refuses_has_its_kind_and_remedy_and_nothing_is_lost() {
    let Some(mut broker) = broker().await else { return };
    let (log, offsets) = opened(&broker.bootstrap_servers(), true).await;
    write(&log, "t", 0..1).await;

    // No right to write, no right to read.
    let mut writer = log.writer(&without_rights(&broker, "shop")).await.unwrap();
    assert_refused(&writer.append(1, one(text("t", "k", "1"), 1)).await.unwrap_err(), ErrorKind::Unauthorised, "kafka-acls.sh");
    let mut reader = log.reader(&without_rights(&broker, "copy"), topics(&["t"])).await.unwrap();
    let polled = tokio::time::timeout(Duration::from_secs(60), reader.poll(1 << 20)).await.expect("the reader says something");
    assert_refused(&polled.unwrap_err(), ErrorKind::Unauthorised, "kafka-acls.sh");
    drop(reader);
    // A topic that it may not see looks to it like one that is not there, but for the brokers' answer to its name (I11).
    let_join_groups(&broker);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    let error = loop {
        let mut reader = log.reader(&without_rights(&broker, "copy"), topics(&["hidden"])).await.unwrap();
        let polled = tokio::time::timeout(Duration::from_secs(60), reader.poll(1 << 20)).await.expect("the reader says something");
        let error = polled.unwrap_err();
        // A new rule takes a moment to be in force.
        if !error.to_string().contains("Group") || tokio::time::Instant::now() > deadline {
            break error;
        }
    };
    assert_refused(&error, ErrorKind::Unauthorised, "kafka-acls.sh");
    assert!(error.to_string().contains("hidden"), "{error}");

    // A topic that is not there, where nobody makes topics.
    let (makes_none, _) = opened(&broker.bootstrap_servers(), false).await;
    let mut writer = makes_none.writer(&"shop".into()).await.unwrap();
    assert_refused(&writer.append(1, one(text("none", "k", "1"), 1)).await.unwrap_err(), ErrorKind::Missing, "kafka-topics.sh --create");

    // A record that is too large for its topic, which only the broker knows.
    let config = [("topic.creation.default.max.message.bytes", "1000"), ("producer.override.compression.type", "none")];
    let narrow = LogUser { config: Arc::new(config.into_iter().collect()), ..LogUser::from("shop") };
    let mut writer = log.writer(&narrow).await.unwrap();
    writer.append(1, one(text("narrow", "k", &"x".repeat(5000)), 1)).await.unwrap();
    assert_refused(&durable(&*writer, 1).await.unwrap_err(), ErrorKind::Rejected, "max.message.bytes");
    assert!(offsets.load(&of("shop")).await.unwrap().is_empty(), "I2");

    // The same where it may be left out: it is, alone.
    let left_out = Arc::new(LeftOut::default());
    let config = [("producer.override.batch.size", "500"), ("producer.override.compression.type", "none"), ("value.converter", "bytes")];
    let narrow =
        LogUser { config: Arc::new(config.into_iter().collect()), refusals: Some(Arc::clone(&left_out) as _), ..LogUser::from("lenient") };
    let mut writer = log.writer(&narrow).await.unwrap();
    let mut records: Vec<_> = (0..1000).map(|number| text("narrow", "k", &number.to_string())).collect();
    records[500] = text("narrow", "k", &"x".repeat(5000));
    writer.append(1, SourceBatch { records, state: at(1), ..SourceBatch::default() }).await.unwrap();
    durable(&*writer, 1).await.unwrap();
    writer.append(2, one(text("narrow", "k", "1000"), 2)).await.unwrap();
    writer.close().await.unwrap();
    assert_eq!(*left_out.0.lock().unwrap(), [("narrow".to_owned(), None)]);
    assert_eq!(
        values(&log, "narrow").await,
        (0..=1000).filter(|number| *number != 500).map(|number| number.to_string()).collect::<Vec<_>>()
    );

    // A broker that is away for longer than the producer waits: the next run writes again from what is durable.
    let mut impatient = options(&broker.bootstrap_servers(), true);
    impatient.worker.set("topics.kafka.delivery.timeout.ms", "2000");
    let impatient = KafkaLog::open(impatient, Arc::clone(&offsets) as _).await.unwrap();
    let mut writer = impatient.writer(&"shop".into()).await.unwrap();
    writer.append(1, one(text("t", "k", "1"), 1)).await.unwrap();
    durable(&*writer, 1).await.unwrap();
    broker.kill().unwrap();
    writer.append(2, one(text("t", "k", "2"), 2)).await.unwrap();
    assert_eq!(durable(&*writer, 2).await.unwrap_err().kind(), ErrorKind::TimedOut);
    drop(writer);
    assert_eq!(offsets.load(&of("shop")).await.unwrap().iter().next().unwrap().1["lsn"], 1);
    broker.start_again().await.unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    writer.append(1, one(text("t", "k", "2"), 2)).await.unwrap();
    durable(&*writer, 1).await.unwrap();
    let found = values(&log, "t").await;
    assert!(found.starts_with(&["0".to_owned(), "1".to_owned()]) && found.ends_with(&["2".to_owned()]), "{found:?}");

    // A quota slows down, and that is all.
    broker.configure(&["--alter", "--add-config", "producer_byte_rate=20000", "--entity-type", "clients", "--entity-default"]).unwrap();
    let mut writer = log.writer(&"shop".into()).await.unwrap();
    let before = values(&log, "t").await.len();
    for number in 1..=10 {
        let records = (0..10).map(|_| text("t", "k", &fastrand::u64(..).to_string().repeat(50))).collect();
        writer.append(number, SourceBatch { records, ..SourceBatch::default() }).await.unwrap();
    }
    durable(&*writer, 10).await.unwrap();
    assert_eq!(values(&log, "t").await.len(), before + 100);
}
