//! From nothing to a session: the socket, encryption, and who we are.
//!
//! Encryption is asked for in clear and answered with one octet, which is read alone: whatever came with it would be
//! somebody else's. `allow` and `prefer` have a second try, the other way round, where the rules for hosts
//! (`pg_hba.conf`) refuse the first, as libpq has it.
//!
//! The server chooses how it wants to know who we are: not at all, a password in clear, hashed by MD5, or SCRAM-SHA-256,
//! in which it must also prove that it knows the password. Over TLS, SCRAM is bound to the server's certificate where the
//! server can do that.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::frontend;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tailwater_api::{Error, ErrorKind, Result, Secret};
use tailwater_kit::tls::{TlsMode, TlsOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::channel_binding::tls_server_end_point;
use super::paced::PacedSocket;
use super::refusal::{Refusal, tls_refusal};
use super::wire::{AnySocket, Wire, broken};
use crate::data_types::SESSION_SETTINGS;
use crate::octets::Octets;

/// How long a peer may be silent on the wire before it counts as gone: the first probe, the time between probes.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
/// How long sent octets may stay without an answer of the peer's machine.
const SILENCE: Duration = Duration::from_secs(60);

/// What roles and databases may set for ordinary sessions and ours go on without: they wait for slots, keep snapshots, create
/// publications and read expressions of the catalog. Rows that a policy would hide are in the log all the same, so a read that
/// misses them is refused (I11).
pub(crate) const SESSION_RIGHTS: [(&str, &str); 7] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("default_transaction_isolation", "read committed"),
    ("row_security", "off"),
    ("quote_all_identifiers", "off"),
    // Warnings say what the stream leaves out (`stream`).
    ("client_min_messages", "warning"),
];
/// Limits that came with later versions: a server that does not know them refuses a session that names them.
pub(crate) const LIFT_LATER_LIMITS: &str =
    "SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN ('idle_session_timeout', 'transaction_timeout')";

/// What to do where nobody answers.
pub(crate) const UNREACHABLE_REMEDY: &str = "check database.hostname and database.port, and that the server runs and listens there";
/// What to do where the server does not encrypt.
pub(crate) const TLS_REMEDY: &str =
    "as superuser, with a certificate in place: ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf(); or set database.sslmode to prefer";
/// What to do where the server wants a password.
pub(crate) const PASSWORD_REMEDY: &str = "set database.password";
/// What to do where the server wants to know who we are in a way that we do not know.
pub(crate) const METHOD_REMEDY: &str = "use scram-sha-256 in the role's line of the server's pg_hba.conf";

/// Where and as whom to connect.
#[derive(Clone)]
pub struct ConnectOptions {
    /// Name or address of the server, or the folder of its Unix socket where it begins with `/`
    pub host: String,
    /// Port of the server; part of the socket's name in a folder
    pub port: u16,
    /// Role to log in with
    pub user: String,
    /// Its password, if it has one
    pub password: Option<Secret>,
    /// Database whose changes are read
    pub database: String,
    /// What the server's views call the session
    pub application_name: String,
    /// Longest time until the session has begun; zero for no limit
    pub connect_timeout: Duration,
    /// Encryption
    pub tls: TlsOptions,
    /// Further settings of the session
    pub settings: Vec<(String, String)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encryption {
    Never,
    IfOffered,
    Always,
}

/// Why a session did not begin.
enum Failure {
    /// The server's rules for hosts refuse a connection of this kind; another kind may do.
    HostRules(Error),
    Other(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// A session, and what the server said about itself.
pub(super) struct Session {
    pub(super) wire: Wire,
    /// `server_version`: `15.14 (Debian 15.14-0+deb12u1)`
    pub(super) server_version: String,
}

/// Connects and authenticates.
pub(super) async fn begin(options: &ConnectOptions) -> Result<Session> {
    let attempts = attempts(options);
    if options.connect_timeout.is_zero() {
        return attempts.await;
    }
    tokio::time::timeout(options.connect_timeout, attempts).await.unwrap_or_else(|_| {
        let error = Error::new(ErrorKind::TimedOut, doing(options));
        Err(error.because(format!("there was no session after {} ms", options.connect_timeout.as_millis())))
    })
}

fn doing(options: &ConnectOptions) -> String {
    format!("connect to {}:{} as {} for replication", options.host, options.port, options.user)
}

async fn attempts(options: &ConnectOptions) -> Result<Session> {
    let tls = options.tls.client_config()?.map(Arc::new);
    let encryption: &[Encryption] = match options.tls.mode {
        // A Unix socket does not leave the machine; like libpq, nothing is encrypted there.
        _ if options.host.starts_with('/') => &[Encryption::Never],
        TlsMode::Disable => &[Encryption::Never],
        TlsMode::Allow => &[Encryption::Never, Encryption::Always],
        TlsMode::Prefer => &[Encryption::IfOffered, Encryption::Never],
        TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => &[Encryption::Always],
    };
    let mut refused = None;
    for encryption in encryption {
        match attempt(options, tls.as_ref(), *encryption).await {
            Ok(session) => return Ok(session),
            // What the first try says is about what was wanted most.
            Err(Failure::HostRules(error)) => refused = refused.or(Some(error)),
            Err(Failure::Other(error)) => return Err(refused.unwrap_or(error)),
        }
    }
    Err(refused.unwrap_or_else(|| Error::new(ErrorKind::Bug, doing(options)).because("no way of connecting was tried")))
}

async fn attempt(options: &ConnectOptions, tls: Option<&Arc<ClientConfig>>, encryption: Encryption) -> Result<Session, Failure> {
    let doing = doing(options);
    let unreachable = |error| broken(&doing, error).mend(UNREACHABLE_REMEDY);
    let (socket, binding): (AnySocket, _) = if options.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", options.host.trim_end_matches('/'), options.port);
        (Box::new(PacedSocket::new(UnixStream::connect(path).await.map_err(unreachable)?)), Binding::NotEncrypted)
    } else {
        let stream = TcpStream::connect((options.host.as_str(), options.port)).await.map_err(unreachable)?;
        keep_alive(&stream).map_err(|error| broken(&doing, error))?;
        let stream = PacedSocket::new(stream);
        match tls {
            Some(tls) if encryption != Encryption::Never => encrypt(stream, tls, options, encryption).await?,
            Some(_) | None => (Box::new(stream), Binding::NotEncrypted),
        }
    };
    let mut wire = Wire::new(socket, &options.user, &options.database);
    let mut message = BytesMut::new();
    let settings = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let parameters = [
        ("user", options.user.as_str()),
        ("database", &options.database),
        ("replication", "database"),
        ("application_name", &options.application_name),
    ];
    let parameters = parameters.into_iter().chain(SESSION_SETTINGS).chain(SESSION_RIGHTS).chain(settings);
    frontend::startup_message(parameters, &mut message).map_err(|error| unusable(&doing, error))?;
    wire.send(&message, &doing).await?;
    authenticate(&mut wire, options, binding, &doing).await?;
    let server_version = await_readiness(&mut wire, &doing).await?;
    Ok(Session { wire, server_version })
}

fn keep_alive(stream: &TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.set_tcp_user_timeout(Some(SILENCE))
}

/// How SCRAM can be bound to the connection.
enum Binding {
    NotEncrypted,
    /// Encrypted, but the certificate's signature has no hash that would bind
    Undefined,
    EndPoint(Vec<u8>),
}

async fn encrypt(
    mut stream: PacedSocket<TcpStream>,
    tls: &Arc<ClientConfig>,
    options: &ConnectOptions,
    encryption: Encryption,
) -> Result<(AnySocket, Binding)> {
    let doing = doing(options);
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await.map_err(|error| broken(&doing, error))?;
    match stream.read_u8().await.map_err(|error| broken(&doing, error))? {
        b'S' => {}
        b'N' if encryption == Encryption::IfOffered => return Ok((Box::new(stream), Binding::NotEncrypted)),
        b'N' => {
            return Err(Error::new(ErrorKind::Misconfigured, doing).because("the server does not offer TLS").mend(TLS_REMEDY));
        }
        other => return Err(unreadable(&doing, format!("the request for TLS was answered with '{}'", other.escape_ascii()))),
    }
    let name = ServerName::try_from(options.host.clone()).map_err(|error| unusable(&doing, error))?;
    let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|error| {
        // rustls hands its own errors on inside of those of the socket.
        match error.get_ref().and_then(|inner| inner.downcast_ref()).map(tls_refusal) {
            Some((kind, mend)) => Error::new(kind, &*doing).because(error).mend(mend),
            None => broken(&doing, error),
        }
    })?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let binding = certificate.and_then(|certificate| tls_server_end_point(certificate)).map_or(Binding::Undefined, Binding::EndPoint);
    Ok((Box::new(stream), binding))
}

fn unusable(doing: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Misconfigured, doing).because(cause)
}

fn unreadable(doing: &str, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Unreadable, doing).because(cause)
}

/// The next message about authentication.
async fn receive(wire: &mut Wire, doing: &str) -> Result<Bytes, Failure> {
    loop {
        match wire.receive_any(doing).await? {
            (b'R', body) => return Ok(body),
            // A notice, or that the server knows a lower minor version of the protocol, which is all that is used here.
            (b'N' | b'v', _) => {}
            (b'E', body) => {
                let is_host_rule = Refusal::parse(&body).code == "28000";
                let error = wire.refused(&body, doing);
                return Err(if is_host_rule { Failure::HostRules(error) } else { Failure::Other(error) });
            }
            (letter, _) => return Err(unexpected(doing, letter).into()),
        }
    }
}

fn unexpected(doing: &str, letter: u8) -> Error {
    unreadable(doing, format!("a message of kind '{}' came out of turn", letter.escape_ascii()))
}

async fn authenticate(wire: &mut Wire, options: &ConnectOptions, binding: Binding, doing: &str) -> Result<(), Failure> {
    let body = receive(wire, doing).await?;
    let mut octets = Octets::new(&body);
    let method = octets.u32().map_err(|error| unreadable(doing, error))?;
    let mut answer = BytesMut::new();
    match method {
        0 => return Ok(()),
        3 => {
            frontend::password_message(password(options, doing)?, &mut answer).map_err(|error| unusable(doing, error))?;
        }
        5 => {
            let salt = octets.take(4).ok().and_then(|salt| salt.try_into().ok());
            let salt = salt.ok_or_else(|| unreadable(doing, "the request for a hash by MD5 has no salt"))?;
            let hash = md5_hash(options.user.as_bytes(), password(options, doing)?, salt);
            frontend::password_message(hash.as_bytes(), &mut answer).map_err(|error| unusable(doing, error))?;
        }
        10 => return scram(wire, options, binding, octets, doing).await,
        other => {
            let method = match other {
                2 => "Kerberos V5".to_owned(),
                7 | 8 => "GSSAPI".to_owned(),
                9 => "SSPI".to_owned(),
                number => format!("method {number}"),
            };
            return Err(Error::new(ErrorKind::Unsupported, doing)
                .because(format!("the server wants to authenticate the role by {method}"))
                .mend(METHOD_REMEDY)
                .into());
        }
    }
    wire.send(&answer, doing).await?;
    expect_success(wire, doing).await
}

fn password<'a>(options: &'a ConnectOptions, doing: &str) -> Result<&'a [u8]> {
    options.password.as_ref().map(|password| password.expose().as_bytes()).ok_or_else(|| {
        Error::new(ErrorKind::Unauthorised, doing).because("the server asks for a password and none is given").mend(PASSWORD_REMEDY)
    })
}

async fn scram(wire: &mut Wire, options: &ConnectOptions, binding: Binding, mut offered: Octets<'_>, doing: &str) -> Result<(), Failure> {
    let mut mechanisms = Vec::new();
    loop {
        match offered.text().map_err(|error| unreadable(doing, error))? {
            "" => break,
            name => mechanisms.push(name),
        }
    }
    let offers = |name: &str| mechanisms.contains(&name);
    let (mechanism, binding) = match binding {
        Binding::EndPoint(hash) if offers(SCRAM_SHA_256_PLUS) => (SCRAM_SHA_256_PLUS, ChannelBinding::tls_server_end_point(hash)),
        // Says that we could: a server that could, too, knows then that somebody removed its offer.
        Binding::EndPoint(_) if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unrequested()),
        Binding::NotEncrypted | Binding::Undefined if offers(SCRAM_SHA_256) => (SCRAM_SHA_256, ChannelBinding::unsupported()),
        Binding::EndPoint(_) | Binding::NotEncrypted | Binding::Undefined => {
            let cause = format!("the server offers {} and nothing else", mechanisms.join(", "));
            return Err(Error::new(ErrorKind::Unsupported, doing).because(cause).into());
        }
    };
    let mut scram = ScramSha256::new(password(options, doing)?, binding);
    let mut message = BytesMut::new();
    frontend::sasl_initial_response(mechanism, scram.message(), &mut message).map_err(|error| unusable(doing, error))?;
    wire.send(&message, doing).await?;

    let challenge = expect_step(wire, 11, doing).await?;
    scram.update(&challenge).map_err(|error| unreadable(doing, error))?;
    message.clear();
    frontend::sasl_response(scram.message(), &mut message).map_err(|error| unusable(doing, error))?;
    wire.send(&message, doing).await?;

    // The server proves that it knows the password, too; without that it is not the one we look for.
    let proof = expect_step(wire, 12, doing).await?;
    scram.finish(&proof).map_err(|error| Error::new(ErrorKind::Unauthorised, doing).because(error))?;
    expect_success(wire, doing).await
}

async fn expect_step(wire: &mut Wire, step: u32, doing: &str) -> Result<Bytes, Failure> {
    let body = receive(wire, doing).await?;
    if Octets::new(&body).u32() == Ok(step) {
        Ok(body.slice(4..))
    } else {
        Err(unreadable(doing, "the server left the order of a SCRAM authentication").into())
    }
}

async fn expect_success(wire: &mut Wire, doing: &str) -> Result<(), Failure> {
    let body = receive(wire, doing).await?;
    if Octets::new(&body).u32() == Ok(0) { Ok(()) } else { Err(unreadable(doing, "the server asks for a second authentication").into()) }
}

/// Reads what the server says of itself until it takes commands; returns its version.
async fn await_readiness(wire: &mut Wire, doing: &str) -> Result<String> {
    let mut version = String::new();
    loop {
        match wire.receive(doing).await? {
            (b'S', body) => {
                let mut octets = Octets::new(&body);
                if let (Ok("server_version"), Ok(value)) = (octets.text(), octets.text()) {
                    value.clone_into(&mut version);
                }
            }
            // The key for cancelling, which is not used, and notices.
            (b'K' | b'N' | b'v', _) => {}
            (b'Z', _) => return Ok(version),
            (letter, _) => return Err(unexpected(doing, letter)),
        }
    }
}
