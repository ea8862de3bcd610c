//! Where a sink writes: `connection.url` with `connection.username` and `connection.password`.
//!
//! Both the URLs of the databases themselves and those of JDBC are read. No I/O happens here (I15).

use std::path::PathBuf;
use std::time::Duration;

use tailwater_api::Secret;
use tailwater_api::config::ConfigReader;

/// A database to write to. It has no `Debug`: it may hold a password (I14).
#[derive(Clone)]
pub(crate) enum Target {
    Postgres(Box<PostgresTarget>),
    Sqlite(PathBuf),
}

#[derive(Clone)]
pub(crate) struct PostgresTarget {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) ssl_mode: Option<String>,
    pub(crate) ssl_root_certificate: Option<String>,
    pub(crate) ssl_certificate: Option<String>,
    pub(crate) ssl_key: Option<String>,
    pub(crate) search_path: Option<String>,
    pub(crate) application_name: Option<String>,
    /// How long connecting may take
    pub(crate) connect_limit: Duration,
    /// How long the server may take to answer one statement
    pub(crate) answer_limit: Duration,
}

impl Default for PostgresTarget {
    fn default() -> Self {
        Self {
            host: "localhost".to_owned(),
            port: 5432,
            database: None,
            user: None,
            password: None,
            ssl_mode: None,
            ssl_root_certificate: None,
            ssl_certificate: None,
            ssl_key: None,
            search_path: None,
            application_name: None,
            connect_limit: Duration::from_secs(30),
            answer_limit: Duration::from_mins(5),
        }
    }
}

const SSL_MODES: [&str; 6] = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];

impl Target {
    /// Reads the three keys; what is wrong becomes a fault of `connection.url`.
    pub(crate) fn read(reader: &mut ConfigReader<'_>) -> Self {
        let nowhere = Self::Sqlite(PathBuf::new());
        let Some(url) = reader.given("connection.url") else { return nowhere };
        let (mut target, ignored) = match parse(url) {
            Ok(parsed) => parsed,
            Err(message) => {
                reader.fault("connection.url", message);
                return nowhere;
            }
        };
        for name in ignored {
            reader.note("connection.url", format!("has the parameter {name}, which has no effect here"));
        }
        if let Self::Postgres(postgres) = &mut target {
            if let Some(user) = reader.given("connection.username") {
                postgres.user = Some(user.to_owned());
            }
            if let Some(password) = reader.secret("connection.password") {
                postgres.password = Some(password);
            }
        }
        target
    }
}

/// The target and the parameters that were not understood. Messages never repeat the URL: it may hold a password (I14).
fn parse(url: &str) -> Result<(Target, Vec<String>), String> {
    let plain = url.strip_prefix("jdbc:").unwrap_or(url);
    let (scheme, rest) = plain.split_once(':').ok_or_else(|| expected("no scheme"))?;
    match scheme {
        "sqlite" => {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            let (path, query) = path.split_once('?').unwrap_or((path, ""));
            if path.is_empty() || path == ":memory:" {
                return Err("names no file: write sqlite:///absolute/path or sqlite:relative/path".to_owned());
            }
            let ignored = query.split('&').filter(|pair| !pair.is_empty()).map(name_of).collect();
            Ok((Target::Sqlite(PathBuf::from(decode(path)?)), ignored))
        }
        "postgres" | "postgresql" => {
            let rest = rest.strip_prefix("//").ok_or_else(|| "has no // after the scheme".to_owned())?;
            parse_postgres(rest)
        }
        other => Err(expected(&format!("the scheme {other}"))),
    }
}

fn expected(found: &str) -> String {
    format!("has {found}; supported are sqlite:, postgres:, postgresql:, jdbc:sqlite: and jdbc:postgresql:")
}

fn parse_postgres(rest: &str) -> Result<(Target, Vec<String>), String> {
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, database) = place.split_once('/').unwrap_or((place, ""));
    let (user, address) = authority.rsplit_once('@').map_or((None, authority), |(user, address)| (Some(user), address));
    let mut target = PostgresTarget::default();
    if let Some(user) = user {
        let (name, password) = user.split_once(':').map_or((user, None), |(name, password)| (name, Some(password)));
        target.user = Some(decode(name)?);
        target.password = password.map(decode).transpose()?.map(Secret::new);
    }
    if address.contains(',') {
        return Err("names several hosts; name the one to write to".to_owned());
    }
    // An IPv6 address stands in brackets, so that its colons are told from the port's.
    let (host, port) = match address.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => address.split_once(':').map_or((address, None), |(host, port)| (host, Some(port))),
    };
    if !host.is_empty() {
        target.host = decode(host)?;
    }
    if let Some(port) = port {
        target.port = port.parse().map_err(|_| "has a port that is no number from 0 to 65535".to_owned())?;
    }
    target.database = (!database.is_empty()).then(|| decode(database)).transpose()?;

    let mut ignored = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let value = decode(value)?;
        match name {
            "user" => target.user = Some(value),
            "password" => target.password = Some(Secret::new(value)),
            "host" => target.host = value,
            "sslmode" | "ssl-mode" => {
                if !SSL_MODES.contains(&value.as_str()) {
                    return Err(format!("has an sslmode that is none of {}", SSL_MODES.join(", ")));
                }
                target.ssl_mode = Some(value);
            }
            "ssl" if value.is_empty() || value == "true" => target.ssl_mode = Some("verify-full".to_owned()),
            "sslrootcert" | "ssl-root-cert" => target.ssl_root_certificate = Some(value),
            "sslcert" | "ssl-cert" => target.ssl_certificate = Some(value),
            "sslkey" | "ssl-key" => target.ssl_key = Some(value),
            "currentSchema" => target.search_path = Some(value),
            "ApplicationName" | "application_name" => target.application_name = Some(value),
            "connectTimeout" | "connect_timeout" => target.connect_limit = limit(name, &value)?,
            "socketTimeout" => target.answer_limit = limit(name, &value)?,
            _ => ignored.push(name_of(pair)),
        }
    }
    Ok((Target::Postgres(Box::new(target)), ignored))
}

/// A limit in seconds. Zero, which means "none" to the drivers whose parameters these are, is refused: a host that vanishes
/// would never be noticed.
fn limit(name: &str, value: &str) -> Result<Duration, String> {
    let seconds =
        value.parse().ok().filter(|seconds| *seconds > 0).ok_or_else(|| format!("has a {name} that is no number of seconds from 1 on"));
    seconds.map(Duration::from_secs)
}

fn name_of(pair: &str) -> String {
    pair.split('=').next().unwrap_or_default().to_owned()
}

/// Percent decoding (RFC 3986, 2.1).
fn decode(text: &str) -> Result<String, String> {
    let mut octets = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        if *first != b'%' {
            octets.push(*first);
            rest = tail;
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| str::from_utf8(digits).ok());
        let octet = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        octets.push(octet.ok_or_else(|| "has a % that is not followed by two hexadecimal digits".to_owned())?);
        rest = &tail[2..];
    }
    String::from_utf8(octets).map_err(|_| "is not UTF-8 after percent decoding".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn postgres(url: &str) -> PostgresTarget {
        match parse(url) {
            Ok((Target::Postgres(target), _)) => *target,
            _ => panic!("{url} is not PostgreSQL"),
        }
    }

    fn path(url: &str) -> String {
        match parse(url) {
            Ok((Target::Sqlite(path), _)) => path.display().to_string(),
            _ => panic!("{url} is not SQLite"),
        }
    }

    #[test]
    fn files_are_absolute_or_relative() {
        assert_eq!(path("sqlite:///var/lib/copy.db"), "/var/lib/copy.db");
        assert_eq!(path("sqlite:copy.db"), "copy.db");
        assert_eq!(path("sqlite://copy.db"), "copy.db");
        assert_eq!(path("jdbc:sqlite:/tmp/a%20b.db"), "/tmp/a b.db");
    }

    #[test]
    fn jdbc_and_native_urls_say_the_same() {
        let jdbc = postgres("jdbc:postgresql://db:6543/shop?user=me&password=a%26b&currentSchema=copy");
        let native = postgres("postgres://me:a%26b@db:6543/shop");
        for target in [&jdbc, &native] {
            assert_eq!((target.host.as_str(), target.port, target.database.as_deref()), ("db", 6543, Some("shop")));
            assert_eq!(target.user.as_deref(), Some("me"));
            assert_eq!(target.password.as_ref().map(Secret::expose), Some("a&b"));
        }
        assert_eq!(jdbc.search_path.as_deref(), Some("copy"));
        assert_eq!(postgres("postgres://[::1]:5433/x").host, "::1");
    }

    #[test]
    fn limits_are_those_of_the_url_and_never_none() {
        let limits = |url| {
            let target = postgres(url);
            (target.connect_limit.as_secs(), target.answer_limit.as_secs())
        };
        assert_eq!(limits("jdbc:postgresql://h/d?connectTimeout=10&socketTimeout=60"), (10, 60));
        assert_eq!(limits("postgres://h/d?connect_timeout=5"), (5, 300));
        for wrong in ["socketTimeout=0", "socketTimeout=", "connectTimeout=1.5", "connectTimeout=-1"] {
            assert!(parse(&format!("postgres://h/d?{wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_not_supported_is_named_and_the_url_is_not_repeated() {
        for url in ["jdbc:mysql://h/d?password=hunter2", "oracle:thin:hunter2", "hunter2", "postgres://u:hunter2@h:port/d"] {
            let message = parse(url).err().expect("refused");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(parse("jdbc:mysql://h/d").err().expect("refused").contains("the scheme mysql"));
    }
}
