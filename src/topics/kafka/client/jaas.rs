//! `sasl.jaas.config`: the login of Kafka's Java clients as librdkafka's settings.
//!
//! The text has the grammar of a JAAS login configuration (Java 17, `javax.security.auth.login.Configuration`), reduced to
//! one entry as Kafka does: `MODULE FLAG name=value … ;`, values bare or in quotes with Java's escapes. It holds a password, so no fault
//! repeats any of it (I14).

use std::collections::BTreeMap;
use std::iter::Peekable;
use std::str::Chars;

use tailwater_api::config::ConfigReport;

use super::{Settings, short_class, token};
use crate::config::document::fault;

const KEY: &str = "sasl.jaas.config";

/// Replaces the text by what it says.
pub(super) fn translate(settings: &mut Settings, properties: &mut BTreeMap<String, String>, report: &mut ConfigReport) {
    let Some(given) = settings.remove(KEY) else { return };
    let mechanism = settings.get("sasl.mechanism").map(|given| given.value.to_ascii_uppercase());
    match parse(&given.value).and_then(|login| login.properties(mechanism.as_deref())) {
        Ok(found) => properties.extend(found.into_iter().map(|(name, value)| (name.to_owned(), value))),
        Err(why) => report.faults.push(fault(&given.key, why)),
    }
}

struct Login {
    module: String,
    options: BTreeMap<String, String>,
}

impl Login {
    fn properties(mut self, mechanism: Option<&str>) -> Result<Vec<(&'static str, String)>, String> {
        let user = |this: &mut Self| -> Result<Vec<(&'static str, String)>, String> {
            let mut option = |name: &str| this.options.remove(name).ok_or_else(|| format!("has no {name}"));
            Ok(vec![("sasl.username", option("username")?), ("sasl.password", option("password")?)])
        };
        match (short_class(&self.module), mechanism) {
            ("PlainLoginModule", None | Some("PLAIN")) => {
                let mut found = user(&mut self)?;
                found.push(("sasl.mechanism", "PLAIN".to_owned()));
                Ok(found)
            }
            ("ScramLoginModule", Some("SCRAM-SHA-256" | "SCRAM-SHA-512")) => {
                if self.options.get("tokenauth").is_some_and(|value| value == "true") {
                    return Err("asks for a delegation token (tokenauth), which is not supported".to_owned());
                }
                user(&mut self)
            }
            ("ScramLoginModule", None) => Err("needs sasl.mechanism: SCRAM-SHA-256 or SCRAM-SHA-512".to_owned()),
            ("OAuthBearerLoginModule", None | Some("OAUTHBEARER")) => self.unsecured_token(),
            ("PlainLoginModule" | "ScramLoginModule" | "OAuthBearerLoginModule", Some(_)) => {
                Err("names a login module of another mechanism than sasl.mechanism".to_owned())
            }
            _ => Err("names a login module other than PlainLoginModule, ScramLoginModule and OAuthBearerLoginModule".to_owned()),
        }
    }

    /// Kafka's unsecured tokens, made by the client itself; Java's options `unsecuredLogin…`.
    fn unsecured_token(self) -> Result<Vec<(&'static str, String)>, String> {
        let principal = self.options.get("unsecuredLoginStringClaim_sub");
        let Some(principal) = principal.filter(|principal| !principal.is_empty() && !principal.contains([' ', ',', '='])) else {
            return Err("asks for tokens of an OAuth server, which is not supported; \
                        an unsecured token has unsecuredLoginStringClaim_sub=\"NAME\""
                .to_owned());
        };
        let life = self.options.get("unsecuredLoginLifetimeSeconds").map_or("3600", String::as_str);
        let Ok(seconds) = life.parse::<u32>() else {
            return Err("has an unsecuredLoginLifetimeSeconds that is no number".to_owned());
        };
        Ok(vec![("sasl.mechanism", "OAUTHBEARER".to_owned()), ("sasl.oauthbearer.config", token::setting(principal, seconds))])
    }
}

/// # Errors
/// The end of the sentence "sasl.jaas.config …", without any of the text.
fn parse(text: &str) -> Result<Login, String> {
    const SHAPE: &str = "must have the form MODULE required NAME=\"VALUE\" … ;";
    let mut characters = text.trim().chars().peekable();
    let module = word(&mut characters, "")?;
    let flag = word(&mut characters, "")?;
    if module.is_empty() || !["required", "requisite", "sufficient", "optional"].contains(&flag.to_ascii_lowercase().as_str()) {
        return Err(SHAPE.to_owned());
    }
    let mut options = BTreeMap::new();
    loop {
        skip_space(&mut characters);
        match characters.peek() {
            Some(';') => break,
            None => return Err("must end with a semicolon".to_owned()),
            Some(_) => {}
        }
        let name = word(&mut characters, "=")?;
        skip_space(&mut characters);
        if name.is_empty() || characters.next() != Some('=') {
            return Err(SHAPE.to_owned());
        }
        let value = word(&mut characters, "=")?;
        options.insert(name, value);
    }
    characters.next();
    skip_space(&mut characters);
    if characters.peek().is_some() {
        return Err("must hold one login module only".to_owned());
    }
    Ok(Login { module, options })
}

fn skip_space(characters: &mut Peekable<Chars<'_>>) {
    while characters.next_if(|character| character.is_whitespace()).is_some() {}
}

/// A bare word up to space, a semicolon or one of `ends`, or what stands in quotes.
fn word(characters: &mut Peekable<Chars<'_>>, ends: &str) -> Result<String, String> {
    skip_space(characters);
    let mut found = String::new();
    let Some(quote) = characters.next_if(|character| matches!(character, '"' | '\'')) else {
        while let Some(character) =
            characters.next_if(|character| !character.is_whitespace() && *character != ';' && !ends.contains(*character))
        {
            found.push(character);
        }
        return Ok(found);
    };
    loop {
        match characters.next() {
            None => return Err("has a quote that is not closed".to_owned()),
            Some(end) if end == quote => return Ok(found),
            Some('\\') => found.push(match characters.next() {
                Some('n') => '\n',
                Some('r') => '\r',
                Some('t') => '\t',
                Some(other) => other,
                None => return Err("has a quote that is not closed".to_owned()),
            }),
            Some(character) => found.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn login(text: &str, mechanism: Option<&str>) -> Result<BTreeMap<&'static str, String>, String> {
        Ok(parse(text)?.properties(mechanism)?.into_iter().collect())
    }

    #[test]
    fn a_password_login_becomes_name_and_password() {
        let text = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"alice\" password='a\"b;c';";
        let found = login(text, None).unwrap();
        assert_eq!((found["sasl.username"].as_str(), found["sasl.password"].as_str()), ("alice", "a\"b;c"));
        assert_eq!(found["sasl.mechanism"], "PLAIN");
        let text = "org.apache.kafka.common.security.scram.ScramLoginModule required\n  username=alice\n  password=secret ;";
        assert_eq!(login(text, Some("SCRAM-SHA-512")).unwrap()["sasl.password"], "secret");
        assert!(login(text, None).unwrap_err().contains("SCRAM-SHA-256"));
        assert!(login(text, Some("PLAIN")).unwrap_err().contains("another mechanism"));
    }

    #[test]
    fn an_unsecured_token_is_described() {
        let text = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub=\"alice\";";
        assert_eq!(login(text, Some("OAUTHBEARER")).unwrap()["sasl.oauthbearer.config"], "principal=alice lifeSeconds=3600");
        let text = "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required clientId=\"a\" clientSecret=\"canary\";";
        assert!(login(text, None).unwrap_err().contains("not supported"));
    }

    #[test]
    fn what_is_no_login_is_refused_without_showing_it() {
        for text in [
            "",
            "canary",
            "Canary required",
            "PlainLoginModule required username=canary;",
            "PlainLoginModule required password=\"canary",
            "A required; canary required;",
            "PlainLoginModule canary username=a password=b;",
            "PlainLoginModule required canary;",
        ] {
            let why = login(text, None).unwrap_err();
            assert!(!why.contains("canary") && !why.is_empty(), "{text}: {why}");
        }
    }

    proptest! {
        #[test]
        fn every_quoted_password_comes_through(password in "[^\\n\\r\\t\\x00]{0,30}") {
            let quoted = password.replace('\\', "\\\\").replace('"', "\\\"");
            let text = format!("PlainLoginModule required username=\"u\" password=\"{quoted}\";");
            prop_assert_eq!(&login(&text, None).unwrap()["sasl.password"], &password);
        }

        #[test]
        fn no_text_panics(text in ".{0,60}") {
            drop(login(&text, None));
        }
    }
}
