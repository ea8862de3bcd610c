//! Configurations as they are shown: secrets that were written down as they are stand as `[hidden]` (I14).
//!
//! A secret is the value of a key that some table declares as a password, of a key that is called like one though no table
//! knows it, or the password of a URL. A placeholder such as `${env:PASSWORD}` is no secret and is shown.
//!
//! Tools read a configuration, change one key and send all of it back. So a value that comes back exactly as it was shown
//! stands for the one that is stored, and `[hidden]` that stands for nothing is a fault.

use serde_json::Value;
use tailwater_api::config::{ConfigField, ConfigReport, FieldType};
use tailwater_api::state::JsonMap;

use super::check::common_fields;
use super::document::fault;
use super::providers::has_placeholder;
use crate::connectors;

/// What stands for a secret; Kafka's `Password` prints the same.
pub(crate) const HIDDEN: &str = "[hidden]";

/// Ends of the names of keys that hold secrets.
const SECRET_NAMES: [&str; 9] =
    ["password", "passphrase", "secret", "token", "credentials", "apikey", "jaas.config", "private.key", "access.key"];

/// The configuration without its secrets.
pub(crate) fn mask(config: &JsonMap) -> JsonMap {
    let tables = tables(config);
    config
        .iter()
        .map(|(key, value)| (key.clone(), value.as_str().map_or_else(|| value.clone(), |text| shown(key, text, &tables).into())))
        .collect()
}

/// The configuration with what was stored in place of what was shown of it.
///
/// # Errors
/// `[hidden]` where nothing is stored that it could stand for.
pub(crate) fn restore(mut given: JsonMap, stored: &JsonMap) -> Result<JsonMap, ConfigReport> {
    let mut report = ConfigReport::default();
    let tables = tables(stored);
    for (key, value) in &mut given {
        let Some(text) = value.as_str().filter(|text| text.contains(HIDDEN)) else { continue };
        match stored.get(key).and_then(Value::as_str) {
            Some(secret) if shown(key, secret, &tables) == text => *value = secret.into(),
            Some(_) | None => {
                let message = format!(
                    "holds {HIDDEN}, which stands for a secret that is not stored; write the secret itself, or better ${{file:…}} or ${{env:…}}"
                );
                report.faults.push(fault(key, message));
            }
        }
    }
    if report.faults.is_empty() { Ok(given) } else { Err(report) }
}

type Tables = Vec<&'static [ConfigField]>;

fn tables(config: &JsonMap) -> Tables {
    let plugin = config.get("connector.class").and_then(Value::as_str).and_then(connectors::find);
    plugin.map(|plugin| [plugin.fields(), common_fields(plugin.kind())].concat()).unwrap_or_default()
}

fn shown(key: &str, text: &str, tables: &[&[ConfigField]]) -> String {
    let is_declared = tables.iter().copied().flatten().any(|field| field.kind == FieldType::Password && field.covers(key));
    if is_declared || is_called_secret(key) {
        return if has_placeholder(text) || text.is_empty() { text.to_owned() } else { HIDDEN.to_owned() };
    }
    without_password(text)
}

/// Whether a key is called like a secret's.
pub(crate) fn is_called_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase().replace(['_', '-'], ".");
    SECRET_NAMES.iter().any(|name| key.ends_with(name))
}

/// A text in which a URL's password, if there is one, is hidden: `scheme://user:password@host`, and `password=…` in its query.
fn without_password(text: &str) -> String {
    let mut shown = text.to_owned();
    if let Some(authority) = shown.find("://").map(|at| at + 3) {
        let end = shown[authority..].find(['/', '?', '#']).map_or(shown.len(), |length| authority + length);
        // A password may itself hold an @, written wrongly; the host follows the last one.
        if let Some(at) = shown[authority..end].rfind('@').map(|at| authority + at)
            && let Some(colon) = shown[authority..at].find(':').map(|colon| authority + colon)
        {
            hide(&mut shown, colon + 1, at);
        }
        for name in ["password=", "sslpassword="] {
            let Some(query) = shown.find('?') else { break };
            let found = [format!("?{name}"), format!("&{name}")]
                .iter()
                .find_map(|part| Some(query + shown[query..].find(part.as_str())? + part.len()));
            if let Some(begin) = found {
                let end = shown[begin..].find(['&', '#']).map_or(shown.len(), |length| begin + length);
                hide(&mut shown, begin, end);
            }
        }
    }
    shown
}

fn hide(text: &mut String, begin: usize, end: usize) {
    if begin < end && !has_placeholder(&text[begin..end]) {
        text.replace_range(begin..end, HIDDEN);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(text: &str) -> JsonMap {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn secrets_are_hidden_and_placeholders_shown() {
        let cases = [
            ("database.password", "hunter2", HIDDEN),
            ("database.password", "${env:PASSWORD}", "${env:PASSWORD}"),
            ("no.such.Api_Token", "hunter2", HIDDEN),
            ("consumer.override.sasl.jaas.config", "… password=\"hunter2\";", HIDDEN),
            ("database.hostname", "db:5432", "db:5432"),
            ("connection.url", "postgres://cdc:hunter2@db:5432/shop?a=b", "postgres://cdc:[hidden]@db:5432/shop?a=b"),
            ("connection.url", "postgres://cdc:hun@ter2@db/shop", "postgres://cdc:[hidden]@db/shop"),
            ("connection.url", "postgres://cdc:${env:P}@db/shop", "postgres://cdc:${env:P}@db/shop"),
            (
                "connection.url",
                "jdbc:postgresql://db/shop?user=cdc&password=hunter2&b=c",
                "jdbc:postgresql://db/shop?user=cdc&password=[hidden]&b=c",
            ),
            ("connection.url", "sqlite:///var/lib/copy.db", "sqlite:///var/lib/copy.db"),
        ];
        for (key, value, expected) in cases {
            let mut config = map(r#"{"connector.class":"postgres"}"#);
            config.insert(key.into(), value.into());
            assert_eq!(mask(&config)[key], expected, "{key}={value}");
        }
    }

    #[test]
    fn hidden_text_that_stands_for_nothing_is_a_fault() {
        let stored = map(r#"{"connector.class":"sql","connection.url":"postgres://a:b@c/d"}"#);
        let refused = restore(map(r#"{"connection.url":"postgres://a:[hidden]@other/d","x.password":"[hidden]"}"#), &stored).unwrap_err();
        let keys: Vec<&str> = refused.faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, ["connection.url", "x.password"]);
    }

    proptest! {
        #[test]
        fn what_is_shown_comes_back_as_what_is_stored(password in "[^\\[\\]$]{1,20}", url in "[a-z]{1,5}://[a-z]{0,3}:?[a-z@]{0,5}@?[a-z]{1,5}(/[a-z]{0,3})?(\\?password=[a-z]{0,4})?") {
            let mut stored = map(r#"{"connector.class":"postgres","x":"y"}"#);
            stored.insert("database.password".into(), password.clone().into());
            stored.insert("connection.url".into(), url.into());
            let shown = mask(&stored);
            prop_assert_eq!(&shown["database.password"], HIDDEN);
            prop_assert_eq!(restore(shown, &stored).unwrap(), stored);
        }
    }
}
