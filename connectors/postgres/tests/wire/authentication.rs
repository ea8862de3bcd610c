//! Who we are, who the server is, and what is said where one of both does not fit.

use std::path::PathBuf;

use tailwater_api::{ErrorKind, Secret};
use tailwater_kit::tls::{TlsMode, TlsOptions};
use tailwater_postgres::replication::{ConnectOptions, ReplicationConnection};
use tailwater_testkit::PostgresServer;

use crate::{options, server};

async fn with_roles() -> Option<PostgresServer> {
    let server = server(&[]).await?;
    let client = server.connect("postgres").await.unwrap();
    client
        .batch_execute(
            "CREATE ROLE clear LOGIN REPLICATION PASSWORD 'p w''d';
             CREATE ROLE scram LOGIN REPLICATION PASSWORD 'pässword';
             CREATE ROLE plain LOGIN PASSWORD 'plain';
             SET password_encryption = 'md5';
             CREATE ROLE hashed LOGIN REPLICATION PASSWORD 'hashed';",
        )
        .await
        .unwrap();
    let rules = "local all all trust
                 hostnossl all clear 127.0.0.1/32 password
                 host all hashed 127.0.0.1/32 md5
                 hostssl all tls_only 127.0.0.1/32 scram-sha-256
                 host all scram,plain 127.0.0.1/32 scram-sha-256
                 host all postgres 127.0.0.1/32 trust\n";
    server.set_access_rules(rules).await.unwrap();
    // The rules are in force when a new connection obeys them.
    for _ in 0..100 {
        if server.connect_as("scram", "wrong", "postgres").await.is_err() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Some(server)
}

fn as_role(server: &PostgresServer, user: &str, password: &str) -> ConnectOptions {
    ConnectOptions { user: user.into(), password: Some(Secret::new(password)), ..options(server) }
}

async fn connects(options: &ConnectOptions) {
    let mut connection = ReplicationConnection::connect(options).await.unwrap_or_else(|error| panic!("{}: {error}", options.user));
    assert_eq!(connection.identify_system().await.unwrap().database, options.database);
}

async fn refusal(options: &ConnectOptions) -> tailwater_api::Error {
    match ReplicationConnection::connect(options).await {
        Ok(_) => panic!("{} is let in", options.user),
        Err(error) => error,
    }
}

/// Makes a certificate as the server's own user, and switches TLS on.
async fn switch_tls_on(server: &PostgresServer, key: &str) -> PathBuf {
    let client = server.connect("postgres").await.unwrap();
    let data = server.directory().join("data");
    let command = format!(
        "openssl req -new -x509 -days 2 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost {key} -keyout {0}/server.key -out {0}/server.crt",
        data.display()
    );
    client.batch_execute(&format!("COPY (SELECT 1) TO PROGRAM '{command} 2>/dev/null'")).await.unwrap();
    client.batch_execute("ALTER SYSTEM SET ssl = on").await.unwrap();
    client.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let required = ConnectOptions { tls: TlsOptions { mode: TlsMode::Require, ..TlsOptions::default() }, ..options(server) };
    for _ in 0..100 {
        if ReplicationConnection::connect(&required).await.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Readable for this test, whoever runs it.
    let copy = tempfile::NamedTempFile::new().unwrap().into_temp_path().keep().unwrap();
    std::fs::copy(data.join("server.crt"), &copy).unwrap();
    copy
}

#[tokio::test]
async fn every_method_of_authentication_is_spoken() {
    let Some(server) = with_roles().await else { return };
    connects(&options(&server)).await;
    connects(&ConnectOptions { host: server.directory().display().to_string(), ..options(&server) }).await;
    connects(&as_role(&server, "clear", "p w'd")).await;
    connects(&as_role(&server, "hashed", "hashed")).await;
    connects(&as_role(&server, "scram", "pässword")).await;
}

#[tokio::test]
async fn a_refusal_says_what_kind_it_is_and_how_to_mend_it() {
    let Some(server) = with_roles().await else { return };
    let kind_and_remedy = |error: &tailwater_api::Error| (error.kind(), error.remedy().unwrap_or_default().to_owned());
    for (user, password) in [("clear", "wrong"), ("hashed", "wrong"), ("scram", "wrong")] {
        let (kind, remedy) = kind_and_remedy(&refusal(&as_role(&server, user, password)).await);
        assert_eq!(kind, ErrorKind::Unauthorised);
        assert!(remedy.contains("database.password"), "{remedy}");
    }
    let error = refusal(&ConnectOptions { password: None, ..as_role(&server, "scram", "") }).await;
    assert_eq!(kind_and_remedy(&error), (ErrorKind::Unauthorised, "set database.password".into()));
    let error = refusal(&as_role(&server, "nobody", "x")).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorised);
    assert!(error.remedy().unwrap().contains("pg_hba.conf"), "{error}");
    let error = refusal(&as_role(&server, "plain", "plain")).await;
    assert_eq!(kind_and_remedy(&error), (ErrorKind::Unauthorised, "as superuser: ALTER ROLE \"plain\" REPLICATION;".into()));
    let error = refusal(&ConnectOptions { database: "nowhere".into(), ..options(&server) }).await;
    assert_eq!(kind_and_remedy(&error), (ErrorKind::Missing, "check database.dbname, or: CREATE DATABASE \"nowhere\";".into()));
    let error = refusal(&ConnectOptions { port: 1, ..options(&server) }).await;
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    let error = refusal(&ConnectOptions { tls: TlsOptions { mode: TlsMode::Require, ..TlsOptions::default() }, ..options(&server) }).await;
    assert_eq!(error.kind(), ErrorKind::Misconfigured);
    assert!(error.remedy().unwrap().contains("ssl = on"), "{error}");
    // I14
    for password in ["p w'd", "pässword", "wrong"] {
        let error = refusal(&as_role(&server, "nobody", password)).await;
        assert!(!format!("{error} {error:?}").contains(password));
    }
}

#[tokio::test]
async fn scram_is_bound_to_the_servers_certificate() {
    let Some(server) = with_roles().await else { return };
    // With a hash of its own, and with one that is not SHA-256. A wrong binding would be refused by the server.
    for key in ["-newkey rsa:2048 -sha256", "-newkey ec -pkeyopt ec_paramgen_curve:P-384 -sha384", "-newkey rsa:2048 -sha512"] {
        let root = switch_tls_on(&server, key).await;
        let tls = |mode, root: Option<&PathBuf>| TlsOptions { mode, root_certificates: root.cloned(), ..TlsOptions::default() };
        let scram = |host: &str, tls| ConnectOptions { host: host.into(), tls, ..as_role(&server, "scram", "pässword") };
        connects(&scram("127.0.0.1", tls(TlsMode::Prefer, None))).await;
        connects(&scram("127.0.0.1", tls(TlsMode::Require, None))).await;
        // The server's certificate is its own root.
        connects(&scram("127.0.0.1", tls(TlsMode::VerifyCa, Some(&root)))).await;
        connects(&scram("localhost", tls(TlsMode::VerifyFull, Some(&root)))).await;
        let error = refusal(&scram("127.0.0.1", tls(TlsMode::VerifyFull, Some(&root)))).await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        let error = refusal(&scram("localhost", tls(TlsMode::VerifyCa, None))).await;
        assert_eq!(error.kind(), ErrorKind::Misconfigured, "{error}");
        std::fs::remove_file(root).unwrap();
    }
}

#[tokio::test]
async fn prefer_and_allow_try_the_other_way_where_the_rules_refuse_one() {
    let Some(server) = with_roles().await else { return };
    let client = server.connect("postgres").await.unwrap();
    client.batch_execute("CREATE ROLE tls_only LOGIN REPLICATION PASSWORD 'x'").await.unwrap();
    let root = switch_tls_on(&server, "-newkey rsa:2048").await;
    std::fs::remove_file(root).unwrap();
    for mode in [TlsMode::Allow, TlsMode::Prefer] {
        let tls = TlsOptions { mode, ..TlsOptions::default() };
        connects(&ConnectOptions { tls: tls.clone(), ..as_role(&server, "tls_only", "x") }).await;
        connects(&ConnectOptions { tls, ..as_role(&server, "clear", "p w'd") }).await;
    }
    let error = refusal(&as_role(&server, "tls_only", "x")).await;
    assert_eq!(error.kind(), ErrorKind::Unauthorised);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_given_up_in_time() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = ConnectOptions {
        host: "127.0.0.1".into(),
        port: silent.local_addr().unwrap().port(),
        user: "postgres".into(),
        password: None,
        database: "postgres".into(),
        application_name: "tailwater-test".into(),
        connect_timeout: std::time::Duration::from_millis(300),
        tls: TlsOptions::default(),
        settings: Vec::new(),
    };
    assert_eq!(refusal(&options).await.kind(), ErrorKind::TimedOut);
}
