//! Unsecured tokens of OAUTHBEARER: what Java's client and broker use where nobody configured a server of tokens (Kafka 4.3,
//! `OAuthBearerUnsecuredLoginCallbackHandler`). A token is a JSON Web Signature whose algorithm is `none` (RFC 7515, RFC 7519).
//! They prove nothing, and are for trying out.

use std::error::Error;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::OAuthToken;
use serde_json::json;

/// How the settings of a client say whose token is made, and how long it is valid: as librdkafka writes it (2.12, CONFIGURATION.md).
pub(super) fn setting(principal: &str, seconds: u32) -> String {
    format!("principal={principal} lifeSeconds={seconds}")
}

/// Makes the token that the setting `sasl.oauthbearer.config` describes.
///
/// # Errors
/// It describes none.
pub(in crate::topics::kafka) fn unsecured(config: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
    let value = |name: &str| config?.split(' ').find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='));
    let principal = value("principal").ok_or("sasl.oauthbearer.config has no principal=NAME")?;
    let seconds: u32 = value("lifeSeconds").unwrap_or("3600").parse()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let end = now + u64::from(seconds);
    let part = |text: serde_json::Value| URL_SAFE_NO_PAD.encode(text.to_string());
    let token = format!("{}.{}.", part(json!({"alg": "none"})), part(json!({"sub": principal, "iat": now, "exp": end})));
    let lifetime_ms = i64::try_from(end)?.saturating_mul(1000);
    Ok(OAuthToken { token, principal_name: principal.to_owned(), lifetime_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_names_its_principal_and_its_end() {
        let token = unsecured(Some(&setting("alice", 60))).unwrap();
        let parts: Vec<_> = token.token.split('.').collect();
        let claims: serde_json::Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(parts[1]).unwrap()).unwrap();
        assert_eq!((claims["sub"].as_str(), parts[2]), (Some("alice"), ""));
        assert_eq!(claims["exp"].as_i64().unwrap() * 1000, token.lifetime_ms);
        assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 60);
    }

    #[test]
    fn without_a_principal_there_is_none() {
        for config in [None, Some(""), Some("lifeSeconds=1"), Some("principal=a lifeSeconds=soon")] {
            assert!(unsecured(config).is_err(), "{config:?}");
        }
    }
}
