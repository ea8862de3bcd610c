//! Every way to log in, on one real broker with a listener for each.

use std::path::Path;
use std::process::Command;

use super::*;

const LISTENERS: [&str; 5] = ["PASSWORDS", "TOKENS", "ENCRYPTED", "MUTUAL", "BOTH"];
const PLAIN: &str = "org.apache.kafka.common.security.plain.PlainLoginModule required";
const SCRAM: &str = "org.apache.kafka.common.security.scram.ScramLoginModule required";
const BEARER: &str = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required";
const STORE: &str = "canary-store";

/// An authority, what it signed for the broker and for a client, and the stores that Java's tools make of them.
const STORES: &str = r#"set -e
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
openssl req -x509 $key -days 2 -subj /CN=authority -keyout authority.key -out authority.pem
echo 'subjectAltName=IP:127.0.0.1' > names
for who in broker client; do
    openssl req $key -subj /CN=$who -keyout $who.key -out $who.csr
    openssl x509 -req -in $who.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 -extfile names -out $who.pem
    openssl pkcs12 -export -in $who.pem -inkey $who.key -certfile authority.pem -name $who -passout pass:canary-store -out $who.p12
done
cat client.key client.pem > both.pem
keytool -importcert -noprompt -file authority.pem -alias authority -keystore trust.p12 -storetype PKCS12 -storepass canary-store
openssl req -x509 $key -days 2 -subj /CN=another -keyout another.key -out another.pem
"#;

async fn broker(stores: &Path) -> Option<KafkaBroker> {
    let made = Command::new("sh").arg("-c").arg(STORES).current_dir(stores).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let protocols = "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,PASSWORDS:SASL_PLAINTEXT,TOKENS:SASL_PLAINTEXT,\
                     ENCRYPTED:SSL,MUTUAL:SSL,BOTH:SASL_SSL";
    let file = |name: &str| stores.join(name).display().to_string();
    let (key_store, authority) = (file("broker.p12"), file("authority.pem"));
    let plain = format!(r#"{PLAIN} username="broker" password="canary" user_alice="canary-alice";"#);
    let (scram, bearer) = (format!("{SCRAM};"), format!(r#"{BEARER} unsecuredLoginStringClaim_sub="broker";"#));
    let settings = [
        ("listener.security.protocol.map", protocols),
        ("listener.name.passwords.sasl.enabled.mechanisms", "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"),
        ("listener.name.passwords.plain.sasl.jaas.config", &plain),
        ("listener.name.passwords.scram-sha-256.sasl.jaas.config", &scram),
        ("listener.name.passwords.scram-sha-512.sasl.jaas.config", &scram),
        ("listener.name.tokens.sasl.enabled.mechanisms", "OAUTHBEARER"),
        ("listener.name.tokens.oauthbearer.sasl.jaas.config", &bearer),
        ("listener.name.both.sasl.enabled.mechanisms", "PLAIN"),
        ("listener.name.both.plain.sasl.jaas.config", &plain),
        ("listener.name.mutual.ssl.client.auth", "required"),
        ("ssl.keystore.type", "PKCS12"),
        ("ssl.keystore.location", &key_store),
        ("ssl.keystore.password", STORE),
        ("ssl.key.password", STORE),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.location", &authority),
    ];
    let broker = required_or_skip(KafkaBroker::start_with_listeners(&LISTENERS, &settings).await)?;
    for (mechanism, user) in [("SCRAM-SHA-256", "alice"), ("SCRAM-SHA-512", "carol")] {
        let credentials = format!("{mechanism}=[password=canary-{user}]");
        broker.configure(&["--alter", "--add-config", &credentials, "--entity-type", "users", "--entity-name", user]).unwrap();
    }
    Some(broker)
}

/// Opens the topic log by a listener, with further settings of clients.
async fn open(broker: &KafkaBroker, listener: &str, settings: &[(&str, &str)]) -> Result<KafkaLog> {
    let mut options = options(&broker.bootstrap_servers_of(listener), true);
    for (name, value) in settings {
        options.worker.set(format!("topics.kafka.{name}"), *value);
    }
    KafkaLog::open(options, Arc::new(Offsets::default())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_to_log_in_works_on_a_real_broker_and_a_wrong_one_says_so() {
    let stores = tempfile::tempdir().unwrap();
    let Some(broker) = broker(stores.path()).await else { return };
    let file = |name: &str| stores.path().join(name).display().to_string();
    let (authority, another, trust) = (file("authority.pem"), file("another.pem"), file("trust.p12"));
    let (both, client) = (file("both.pem"), file("client.p12"));
    let login = |module: &str, user: &str| format!(r#"{module} username="{user}" password="canary-{user}";"#);
    let (plain, scram, scram_512) = (login(PLAIN, "alice"), login(SCRAM, "alice"), login(SCRAM, "carol"));
    let bearer = format!(r#"{BEARER} unsecuredLoginStringClaim_sub="alice";"#);
    let passwords = ("security.protocol", "SASL_PLAINTEXT");
    let encrypted = ("security.protocol", "SSL");
    let pem = [("ssl.truststore.type", "PEM"), ("ssl.truststore.location", authority.as_str())];
    let pkcs12 = [("ssl.truststore.type", "PKCS12"), ("ssl.truststore.location", trust.as_str()), ("ssl.truststore.password", STORE)];
    let client_pem = [("ssl.keystore.type", "PEM"), ("ssl.keystore.location", both.as_str())];
    let client_pkcs12 = [("ssl.keystore.type", "PKCS12"), ("ssl.keystore.location", client.as_str()), ("ssl.keystore.password", STORE)];
    let ways: [(&str, Vec<(&str, &str)>); 10] = [
        ("PASSWORDS", vec![passwords, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", &plain)]),
        ("PASSWORDS", vec![passwords, ("sasl.mechanism", "SCRAM-SHA-256"), ("sasl.jaas.config", &scram)]),
        ("PASSWORDS", vec![passwords, ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", &scram_512)]),
        ("TOKENS", vec![passwords, ("sasl.mechanism", "OAUTHBEARER"), ("sasl.jaas.config", &bearer)]),
        ("ENCRYPTED", [&[encrypted], &pem[..]].concat()),
        ("ENCRYPTED", [&[encrypted], &pkcs12[..]].concat()),
        ("MUTUAL", [&[encrypted], &pem[..], &client_pem[..]].concat()),
        ("MUTUAL", [&[encrypted], &pem[..], &client_pkcs12[..]].concat()),
        ("MUTUAL", [&[encrypted], &pkcs12[..], &client_pkcs12[..]].concat()),
        ("BOTH", [&[("security.protocol", "SASL_SSL"), ("sasl.jaas.config", &plain)], &pem[..]].concat()),
    ];
    for (number, (listener, settings)) in ways.iter().enumerate() {
        let log = open(&broker, listener, settings).await.unwrap_or_else(|error| panic!("{listener} {settings:?}: {error:?}"));
        let topic = format!("t{number}");
        // Who needs a token makes no topics.
        open(&broker, "CLIENT", &[]).await.unwrap().append(vec![text(&topic, "k", "0")]).await.unwrap();
        // A producer and consumers.
        write(&log, &topic, 1..3).await;
        let mut reader = log.reader(&sink(&topic), topics(&[&topic])).await.unwrap();
        assigned(&mut *reader).await;
        let (values, places) = take(&mut *reader, 3).await;
        assert_eq!(values, numbers(0..3), "{listener} {settings:?}");
        reader.commit(places.clone()).await.unwrap();
        assert_eq!(log.committed(&sink(&topic)).await.unwrap(), places);
    }

    let stranger = format!(r#"{PLAIN} username="alice" password="canary";"#);
    let stranger_scram = format!(r#"{SCRAM} username="bob" password="canary";"#);
    let wrong = [
        ("PASSWORDS", vec![passwords, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", &stranger)], "sasl.jaas.config"),
        ("PASSWORDS", vec![passwords, ("sasl.mechanism", "SCRAM-SHA-512"), ("sasl.jaas.config", &stranger_scram)], "sasl.jaas.config"),
        ("TOKENS", vec![passwords, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", &plain)], "sasl.mechanism"),
        ("ENCRYPTED", vec![encrypted, ("ssl.truststore.type", "PEM"), ("ssl.truststore.location", &another)], "ssl.truststore.location"),
    ];
    for (listener, settings, remedy) in wrong {
        let error = open(&broker, listener, &settings).await.err().unwrap_or_else(|| panic!("{listener} lets {settings:?} in"));
        assert_eq!(error.kind(), ErrorKind::Unauthorised, "{listener} {settings:?}: {error:?}");
        assert!(error.remedy().is_some_and(|mend| mend.contains(remedy)), "{listener}: {error:?}");
        assert!(!format!("{error:?} {error}").contains("canary"), "I14: {error:?}");
    }
    // TLS 1.3 tells a client that it should have shown a certificate only by closing the connection.
    let anonymous =
        open(&broker, "MUTUAL", &[&[encrypted], &pem[..]].concat()).await.err().expect("who shows no certificate is not let in");
    assert!(matches!(anonymous.kind(), ErrorKind::Unauthorised | ErrorKind::Unreachable | ErrorKind::TimedOut), "{anonymous:?}");
}
