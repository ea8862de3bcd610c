//! Ways to a server: sockets, IPv6, TLS with certificates of both sides, several servers, and what is no server.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::ErrorKind;
use tailwater_api::source::SourceConnector;
use tailwater_postgres::PostgresConnector;
use tailwater_testkit::PostgresServer;

use crate::harness::{Log, config, eventually, server, start};

/// Captures the only row of `t`, streamed and read.
async fn captures(server: &PostgresServer, entries: &[(&str, &str)]) {
    let mut running = start(&config(server, entries), Log::default());
    running.records(1).await;
    assert_eq!(running.stop().await.lines(), ["r public.t {1} null->{1}"]);
}

async fn with_table(settings: &[(&str, &str)]) -> Option<PostgresServer> {
    let server = server(settings).await?;
    let client = server.connect("postgres").await.expect("the server answers");
    client.batch_execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)").await.expect("the table is new");
    Some(server)
}

#[tokio::test]
async fn a_unix_socket_is_named_by_its_folder() {
    let Some(server) = with_table(&[]).await else { return };
    let folder = server.directory().display().to_string();
    // Like libpq, nothing is encrypted there.
    captures(&server, &[("database.hostname", &folder), ("database.sslmode", "require")]).await;
}

#[tokio::test]
async fn an_address_may_be_of_ipv6() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        eprintln!("skipped: this machine has no IPv6");
        return;
    }
    let Some(server) = with_table(&[("listen_addresses", "127.0.0.1,::1")]).await else { return };
    captures(&server, &[("database.hostname", "::1")]).await;
}

/// Makes a file in the server's folder and returns a copy of it that this test can read.
fn copy_of(server: &PostgresServer, folder: &tempfile::TempDir, name: &str) -> PathBuf {
    let copy = folder.path().join(name);
    std::fs::copy(server.directory().join("data").join(name), &copy).expect("the server made the file");
    copy
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let Some(server) = with_table(&[]).await else { return };
    let client = server.connect("postgres").await.unwrap();
    let data = server.directory().join("data").display().to_string();
    let certificate = |name: &str, subject: &str| {
        format!(
            "openssl req -new -x509 -days 2 -nodes -newkey ec -pkeyopt ec_paramgen_curve:P-256 -subj /CN={subject} \
             -addext subjectAltName=DNS:{subject} -keyout {data}/{name}.key -out {data}/{name}.crt 2>/dev/null"
        )
    };
    for (name, subject) in [("server", "localhost"), ("client", "certified"), ("stranger", "certified")] {
        client.batch_execute(&format!("COPY (SELECT 1) TO PROGRAM '{}'", certificate(name, subject))).await.unwrap();
    }
    client.batch_execute("CREATE ROLE certified LOGIN SUPERUSER").await.unwrap();
    server
        .set_access_rules(
            "local all all trust\nhostssl all certified 127.0.0.1/32 cert\nhostssl replication certified 127.0.0.1/32 cert\nhost all postgres 127.0.0.1/32 trust\n",
        )
        .await
        .unwrap();
    for setting in ["ssl_ca_file = 'client.crt'", "ssl = on"] {
        client.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    eventually(&client, "SELECT setting = 'on' FROM pg_settings WHERE name = 'ssl'").await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| copy_of(&server, &folder, name).display().to_string();
    let (root, own, key) = (file("server.crt"), file("client.crt"), file("client.key"));
    let (other, other_key) = (file("stranger.crt"), file("stranger.key"));
    let encrypted = |mode| [("database.hostname", "localhost"), ("database.user", "certified"), ("database.sslmode", mode)];
    for mode in ["require", "verify-ca", "verify-full"] {
        let files = [("database.sslrootcert", root.as_str()), ("database.sslcert", &own), ("database.sslkey", &key)];
        let slot = mode.replace('-', "_");
        captures(&server, &[&encrypted(mode)[..], &files, &[("slot.name", slot.as_str())]].concat()).await;
    }
    // Without a certificate, and with one that nobody has signed.
    let without = [&encrypted("verify-full")[..], &[("database.sslrootcert", root.as_str())]].concat();
    let error = start(&config(&server, &without), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Unauthorised, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("database.sslcert")), "{error}");
    // For another name than the one that is asked for.
    let named = [&without[..], &[("database.hostname", "127.0.0.1")]].concat();
    let error = start(&config(&server, &named), Log::default()).failed().await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("database.sslrootcert")), "{error}");
    let strange = [&without[..], &[("database.sslcert", other.as_str()), ("database.sslkey", &other_key)]].concat();
    let error = start(&config(&server, &strange), Log::default()).failed().await;
    // The server says why and closes; where what we send meets the closed connection first, its word is lost.
    assert!(matches!(error.kind(), ErrorKind::Unauthorised | ErrorKind::Unreachable), "{error}");
    assert!(error.remedy().is_some_and(|mend| mend.contains("database.sslcert")), "{error}");
    assert!(!error.to_string().contains("PRIVATE"), "{error}");
    // A root that has not signed the server's certificate.
    for mode in ["verify-ca", "verify-full"] {
        let files = [("database.sslrootcert", other.as_str()), ("database.sslcert", &own), ("database.sslkey", &key)];
        let error = start(&config(&server, &[&encrypted(mode)[..], &files].concat()), Log::default()).failed().await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{mode}: {error}");
        assert!(error.remedy().is_some_and(|mend| mend.contains("database.sslrootcert")), "{mode}: {error}");
    }
}

#[tokio::test]
async fn of_several_servers_the_first_is_followed_that_is_as_asked() {
    let Some(mut one) = with_table(&[]).await else { return };
    let Some(two) = with_table(&[]).await else { return };
    let client = two.connect("postgres").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
    // Read-only, but no standby.
    let first = one.connect("postgres").await.unwrap();
    first.batch_execute("ALTER SYSTEM SET default_transaction_read_only = on").await.unwrap();
    first.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let both = format!("127.0.0.1:1,127.0.0.1:{},[127.0.0.1]:{}", one.port(), two.port());
    let entries = [("database.hostname", both.as_str()), ("database.target_session_attrs", "read-write")];
    let mut running = start(&config(&one, &entries), Log::default());
    running.records(2).await;
    let lines = running.stop().await.lines();
    assert_eq!(lines, ["r public.t {1} null->{1}", "r public.t {2} null->{2}"], "only the second server has two rows");

    let entries = [("database.hostname", both.as_str()), ("database.target_session_attrs", "standby")];
    let error = start(&config(&one, &entries), Log::default()).failed().await;
    assert!(error.kind().is_transient(), "a standby may come: {error}");
    assert!(error.to_string().contains("is a primary"), "{error}");
    one.stop().unwrap();
    let entries = [("database.hostname", both.as_str()), ("database.target_session_attrs", "prefer-standby"), ("slot.name", "preferred")];
    let mut running = start(&config(&one, &entries), Log::default());
    running.records(2).await;
    running.stop().await;
}

/// A running PgBouncer in front of a server, which ends when this is dropped.
struct Pooler {
    _process: tokio::process::Child,
    _folder: tempfile::TempDir,
    port: String,
}

impl Pooler {
    /// `settings` stand in its file behind those that it needs.
    async fn start(server: &PostgresServer, settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (file, behind) = (folder.path().join("pgbouncer.ini"), server.port());
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={behind} user=postgres\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n{settings}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = tokio::process::Command::new("/usr/sbin/pgbouncer");
        if folder.path().metadata().unwrap().uid() == 0 {
            // It refuses to run as root.
            command.args(["-u", "postgres"]);
        }
        let process = command.arg("-q").arg(file).stderr(std::process::Stdio::null()).kill_on_drop(true).spawn();
        let process = process.expect("scripts/install-test-servers installs pgbouncer");
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(tokio::time::Instant::now() < deadline, "PgBouncer does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Self { _process: process, _folder: folder, port: port.to_string() }
    }
}

#[tokio::test]
async fn a_connection_pooler_is_refused_with_a_clear_word() {
    let Some(server) = server(&[]).await else { return };
    // The former refuses the settings of a session, the latter replication.
    for settings in ["", "ignore_startup_parameters = options, application_name, extra_float_digits"] {
        let pooler = Pooler::start(&server, settings).await;
        let config = config(&server, &[("database.port", &pooler.port), ("database.sslmode", "disable")]);
        let error = start(&config, Log::default()).failed().await;
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.remedy().is_some_and(|mend| mend.contains("the server itself")), "{error}");
        let report = PostgresConnector::probe(&config).await;
        assert!(report.findings.iter().any(|finding| finding.mend.as_deref().is_some_and(|mend| mend.contains("the server itself"))));
    }
}
