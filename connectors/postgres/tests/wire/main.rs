//! The wire and the codecs against real servers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod authentication;
mod streaming;
mod values;

use std::time::Duration;

use tailwater_kit::tls::{TlsMode, TlsOptions};
use tailwater_postgres::replication::ConnectOptions;
use tailwater_testkit::{PostgresServer, Version, required_or_skip};

/// A server, or `None` where there is none on this machine.
async fn server(settings: &[(&str, &str)]) -> Option<PostgresServer> {
    required_or_skip(PostgresServer::start(Version::V15, settings).await)
}

fn options(server: &PostgresServer) -> ConnectOptions {
    ConnectOptions {
        host: "127.0.0.1".into(),
        port: server.port(),
        user: "postgres".into(),
        password: None,
        database: "postgres".into(),
        application_name: "tailwater-test".into(),
        connect_timeout: Duration::from_secs(20),
        tls: TlsOptions { mode: TlsMode::Disable, ..TlsOptions::default() },
        settings: Vec::new(),
    }
}
