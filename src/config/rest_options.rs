//! The keys `rest.*` of the worker file: encryption, who may do what, limits.
//!
//! ```yaml
//! rest:
//!   listen: 0.0.0.0:8083
//!   tls: {certificate: /etc/tailwater/rest.crt, key: /etc/tailwater/rest.key}
//!   users:
//!     alice: {password: "${env:ALICE_PASSWORD}", role: administer}
//!     prometheus: {token: "${file:/etc/tailwater/tokens.properties:prometheus}", role: read}
//! ```
//!
//! Where nobody is named, everybody may do everything: then the API should listen on this machine alone.

use std::path::PathBuf;

use tailwater_api::config::{ConfigField, ConfigReader, FieldType, Importance};
use tailwater_api::secret::Secret;

use super::worker_file::parse_size;

/// What a user may do. Each role includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Look at everything; secrets are never shown
    Read,
    /// Pause, resume, stop and restart, and set levels of the log
    Operate,
    /// Change configurations and offsets, and validate: that resolves placeholders and connects to where the caller says
    Administer,
}

/// The roles by their names.
pub(crate) const ROLES: [(&str, Role); 3] = [("read", Role::Read), ("operate", Role::Operate), ("administer", Role::Administer)];

/// Somebody who may use the API.
#[derive(Clone)]
pub struct User {
    /// Name for basic authentication and in the log of changes
    pub name: String,
    /// For basic authentication (RFC 7617)
    pub password: Option<Secret>,
    /// For bearer authentication (RFC 6750)
    pub token: Option<Secret>,
    /// What they may do
    pub role: Role,
}

/// The certificate of the API and its key, PEM files that are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate, then those between it and its root
    pub certificate: PathBuf,
    /// Its key, without a password
    pub key: PathBuf,
}

/// What the keys say.
#[derive(Clone)]
pub struct RestOptions {
    /// `rest.listen`: host and port
    pub listen: String,
    /// `rest.tls.*`; in clear without them
    pub tls: Option<TlsFiles>,
    /// `rest.users.*`; where there are none, everybody may do everything
    pub users: Vec<User>,
    /// `rest.max.body.bytes`
    pub max_body: usize,
    /// `rest.requests.per.second`, of one address
    pub requests_per_second: u32,
}

impl Default for RestOptions {
    fn default() -> Self {
        Self { listen: "127.0.0.1:8083".to_owned(), tls: None, users: Vec::new(), max_body: 1 << 20, requests_per_second: 500 }
    }
}

pub(super) const FIELDS: &[ConfigField] = &[
    ConfigField::new("rest.listen", FieldType::Text, "Host and port of the REST API; port 0 takes a free one.")
        .default("127.0.0.1:8083")
        .importance(Importance::High)
        .validator(address),
    ConfigField::new(
        "rest.tls.certificate",
        FieldType::Text,
        "PEM file of the API's certificate and those between it and its root; read again when it changes.",
    ),
    ConfigField::new("rest.tls.key", FieldType::Text, "PEM file of the certificate's key, without a password; read again when it changes."),
    ConfigField::new("rest.users.*", FieldType::Password, "NAME.password or NAME.token, and NAME.role: read, operate or administer."),
    ConfigField::new("rest.max.body.bytes", FieldType::Text, "Bytes that the body of a request may have.").default("1MiB").validator(size),
    ConfigField::new("rest.requests.per.second", FieldType::Int, "Requests of one address that are answered each second; more get 429.")
        .default("500")
        .validator(positive),
];

impl RestOptions {
    pub(super) fn read(reader: &mut ConfigReader<'_>) -> Self {
        let path = |text: Option<String>| text.map(PathBuf::from);
        let (certificate, key) = (path(reader.optional_text("rest.tls.certificate")), path(reader.optional_text("rest.tls.key")));
        let tls = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key }),
            (None, None) => None,
            (Some(_), None) => {
                reader.fault("rest.tls.key", "is missing: the key of rest.tls.certificate");
                None
            }
            (None, Some(_)) => {
                reader.fault("rest.tls.certificate", "is missing: the certificate of rest.tls.key");
                None
            }
        };
        let max_body = parse_size(&reader.text("rest.max.body.bytes")).unwrap_or_default();
        Self {
            listen: reader.text("rest.listen"),
            tls,
            users: users(reader),
            max_body: usize::try_from(max_body).unwrap_or(usize::MAX),
            requests_per_second: reader.number("rest.requests.per.second"),
        }
    }
}

fn users(reader: &mut ConfigReader<'_>) -> Vec<User> {
    struct Given<'a> {
        name: &'a str,
        password: Option<Secret>,
        token: Option<Secret>,
        role: Option<Role>,
    }
    let mut users: Vec<Given<'_>> = Vec::new();
    let mut faults = Vec::new();
    for (rest, value) in reader.family("rest.users.") {
        // A name may hold dots, what is said of it does not.
        let Some((name, what)) = rest.rsplit_once('.').filter(|(name, _)| !name.is_empty() && !name.contains(':')) else {
            faults.push((
                rest.to_owned(),
                "names no user: it must be NAME.password, NAME.token or NAME.role, and a name has no colon".to_owned(),
            ));
            continue;
        };
        let place = users.iter().position(|user| user.name == name).unwrap_or_else(|| {
            users.push(Given { name, password: None, token: None, role: None });
            users.len() - 1
        });
        let user = &mut users[place];
        let value = value.trim();
        match what {
            "password" | "token" if value.is_empty() => faults.push((rest.to_owned(), "must not be empty".to_owned())),
            "password" => user.password = Some(Secret::new(value)),
            "token" => user.token = Some(Secret::new(value)),
            "role" => match ROLES.iter().find(|(word, _)| word.eq_ignore_ascii_case(value)) {
                Some((_, role)) => user.role = Some(*role),
                None => faults.push((rest.to_owned(), "must be read, operate or administer".to_owned())),
            },
            _ => faults.push((rest.to_owned(), "is none of NAME.password, NAME.token and NAME.role".to_owned())),
        }
    }
    let mut complete: Vec<User> = Vec::new();
    for Given { name, password, token, role } in users {
        if password.is_none() && token.is_none() {
            faults.push((format!("{name}.password"), "is missing, or a token".to_owned()));
        }
        if token.is_some() && complete.iter().any(|user| user.token == token) {
            faults.push((format!("{name}.token"), "is the token of another user too".to_owned()));
        }
        match role {
            Some(role) => complete.push(User { name: name.to_owned(), password, token, role }),
            None => faults.push((format!("{name}.role"), "is missing: read, operate or administer".to_owned())),
        }
    }
    for (key, message) in faults {
        reader.fault(&format!("rest.users.{key}"), message);
    }
    complete
}

fn address(text: &str) -> Result<(), String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok();
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && is_port(port) => Ok(()),
        Some(_) | None => Err(format!("must be a host and a port such as 127.0.0.1:8083, not {text:?}")),
    }
}

fn size(text: &str) -> Result<(), String> {
    match parse_size(text)? {
        0 => Err("must be at least 1".to_owned()),
        _ => Ok(()),
    }
}

fn positive(text: &str) -> Result<(), String> {
    match text.parse::<i64>() {
        Ok(number) if number < 1 => Err(format!("must be at least 1, not {number}")),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tailwater_api::config::{ConfigReport, ConfigValues};

    use super::*;

    fn read(entries: &[(&str, &str)]) -> (RestOptions, ConfigReport) {
        let values: ConfigValues = entries.iter().copied().collect();
        let mut reader = ConfigReader::new(&[FIELDS], &values);
        let options = RestOptions::read(&mut reader);
        (options, reader.into_report())
    }

    #[test]
    fn users_have_a_role_and_a_password_or_a_token() {
        let (options, report) = read(&[
            ("rest.users.alice.password", "a:b"),
            ("rest.users.alice.role", "Administer"),
            ("rest.users.node.exporter.token", "t"),
            ("rest.users.node.exporter.role", "read"),
        ]);
        assert!(report.faults.is_empty(), "{report:?}");
        let found: Vec<_> = options.users.iter().map(|user| (user.name.as_str(), user.role, user.token.is_some())).collect();
        assert_eq!(found, [("alice", Role::Administer, false), ("node.exporter", Role::Read, true)]);
    }

    #[test]
    fn every_fault_is_named_and_no_secret_is_shown() {
        let (_, report) = read(&[
            ("rest.users.a.password", "hunter2"),
            ("rest.users.b.role", "king-hunter2"),
            ("rest.users.c.token", "hunter2"),
            ("rest.users.c.role", "read"),
            ("rest.users.d.token", "hunter2"),
            ("rest.users.d.role", "read"),
            ("rest.users.e", "hunter2"),
            ("rest.tls.key", "/k"),
            ("rest.max.body.bytes", "0"),
            ("rest.requests.per.second", "0"),
        ]);
        let mut keys: Vec<_> = report.faults.iter().map(|fault| fault.key.as_str()).collect();
        keys.sort_unstable();
        let expected = [
            "rest.max.body.bytes",
            "rest.requests.per.second",
            "rest.tls.certificate",
            "rest.users.a.role",
            "rest.users.b.password",
            "rest.users.b.role",
            "rest.users.b.role",
            "rest.users.d.token",
            "rest.users.e",
        ];
        assert_eq!(keys, expected);
        assert!(!format!("{report:?}").contains("hunter2"), "{report:?}");
    }
}
