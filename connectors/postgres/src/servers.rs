//! Which of several servers is followed, as libpq chooses (PostgreSQL 18, "Connection Strings", `target_session_attrs`).
//!
//! `database.hostname` may name several, separated by commas, each with a port of its own behind a colon. They are tried
//! in this order, and the first that is as `database.target_session_attrs` asks is taken for the whole run: its slot, its
//! catalog and its log belong together. When it fails, the run ends, and the next one chooses anew; whether the server
//! then found has all that was published is decided by the restart table (`restart`).

use tailwater_api::{Error, ErrorKind, Result};
use tracing::info;

use crate::config::PostgresConfig;
use crate::connect::{SqlConnection, sql_error};

/// One server: a name or an address, or the folder of a Unix socket, and its port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// What a server has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum SessionAttributes {
    #[default]
    Any,
    ReadWrite,
    ReadOnly,
    Primary,
    Standby,
    /// A standby, or any server where there is none
    PreferStandby,
}

/// The servers of `database.hostname`; `port` is that of servers without one of their own.
///
/// # Errors
/// A sentence that names the entry.
pub(crate) fn parse_servers(text: &str, port: u16) -> Result<Vec<Server>, String> {
    let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
    entries.map(|entry| parse_server(entry, port)).collect()
}

fn parse_server(entry: &str, port: u16) -> Result<Server, String> {
    let wrong = || format!("holds {entry:?}; write HOST or HOST:PORT, with [brackets] around an IPv6 address that a port follows");
    let with_port = |host: &str, port: &str| match port.parse() {
        Ok(port) if !host.is_empty() && port > 0 => Ok(Server { host: host.to_owned(), port }),
        Ok(_) | Err(_) => Err(wrong()),
    };
    if let Some(rest) = entry.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
        return match rest.strip_prefix(':') {
            Some(port) => with_port(host, port),
            None if rest.is_empty() && !host.is_empty() => Ok(Server { host: host.to_owned(), port }),
            None => Err(wrong()),
        };
    }
    match entry.split_once(':') {
        // Two colons and more: an IPv6 address.
        Some((_, rest)) if rest.contains(':') || entry.starts_with('/') => Ok(Server { host: entry.to_owned(), port }),
        Some((host, port)) => with_port(host, port),
        None => Ok(Server { host: entry.to_owned(), port }),
    }
}

/// The configuration with the one server that this run follows.
///
/// # Errors
/// No server can be reached that is as the configuration asks; the error says of each why not.
pub(crate) async fn choose(config: PostgresConfig) -> Result<PostgresConfig> {
    if config.servers.len() < 2 && config.session_attributes == SessionAttributes::Any {
        return Ok(config);
    }
    let passes: &[SessionAttributes] = match config.session_attributes {
        SessionAttributes::PreferStandby => &[SessionAttributes::Standby, SessionAttributes::Any],
        SessionAttributes::Any => &[SessionAttributes::Any],
        SessionAttributes::ReadWrite => &[SessionAttributes::ReadWrite],
        SessionAttributes::ReadOnly => &[SessionAttributes::ReadOnly],
        SessionAttributes::Primary => &[SessionAttributes::Primary],
        SessionAttributes::Standby => &[SessionAttributes::Standby],
    };
    let mut refusals = Vec::new();
    let mut errors = Vec::new();
    for &wanted in passes {
        for server in &config.servers {
            let candidate = PostgresConfig { hostname: server.host.clone(), port: server.port, ..config.clone() };
            match refusal(&candidate, wanted).await {
                Ok(None) => {
                    info!(host = %candidate.hostname, port = candidate.port, "follows this server");
                    return Ok(candidate);
                }
                Ok(Some(refusal)) => refusals.push(format!("{}:{} {refusal}", server.host, server.port)),
                Err(error) => {
                    refusals.push(format!("{}:{}: {error}", server.host, server.port));
                    errors.push(error.kind());
                }
            }
        }
    }
    // A server that is only away may come back as what is wanted, whatever is wrong with the others.
    let kind = errors.iter().find(|kind| kind.is_transient()).or(errors.first());
    Err(Error::new(kind.copied().unwrap_or(ErrorKind::Unreachable), "find a server to follow")
        .because(refusals.join("; "))
        .mend("check database.hostname and database.target_session_attrs"))
}

/// Why a server is not as wanted; `None` where it is.
async fn refusal(config: &PostgresConfig, wanted: SessionAttributes) -> Result<Option<&'static str>> {
    let sql = SqlConnection::connect_plainly(config).await?;
    let query = "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::bool";
    let row = sql.query_one(query, &[]).await.map_err(|error| sql_error("ask a server what it is", error))?;
    let (in_recovery, read_only) = (row.get(0), row.get(1));
    Ok(match wanted {
        SessionAttributes::Any | SessionAttributes::PreferStandby => None,
        SessionAttributes::ReadWrite if read_only => Some("is read-only"),
        SessionAttributes::ReadOnly if !read_only => Some("is not read-only"),
        SessionAttributes::Primary if in_recovery => Some("is a standby"),
        SessionAttributes::Standby if !in_recovery => Some("is a primary"),
        SessionAttributes::ReadWrite | SessionAttributes::ReadOnly | SessionAttributes::Primary | SessionAttributes::Standby => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_hosts_with_or_without_ports() {
        let server = |host: &str, port| Server { host: host.into(), port };
        let servers = parse_servers("db1, db2:5433,::1,[fe80::1]:5434,[::1],/run/postgresql,10.0.0.1", 5432).unwrap();
        let expected = [
            server("db1", 5432),
            server("db2", 5433),
            server("::1", 5432),
            server("fe80::1", 5434),
            server("::1", 5432),
            server("/run/postgresql", 5432),
            server("10.0.0.1", 5432),
        ];
        assert_eq!(servers, expected);
    }

    #[test]
    fn what_is_no_server_is_named() {
        for text in ["db:", ":5432", "db:port", "db:0", "[::1", "[]:5432", "[::1]5432"] {
            assert!(parse_servers(text, 5432).is_err(), "{text}");
        }
    }
}
