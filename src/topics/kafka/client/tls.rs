//! Stores of certificates and keys: Java's `ssl.truststore.*` and `ssl.keystore.*` as librdkafka's settings.
//!
//! | Java's type | trust store | key store |
//! |---|---|---|
//! | PEM, a file | `ssl.ca.location` | `ssl.certificate.location` and `ssl.key.location`: one file holds both |
//! | PEM, in the setting | `ssl.ca.pem` | `ssl.certificate.pem`, `ssl.key.pem` |
//! | PKCS12 | its certificates are read here and given as `ssl.ca.pem`: librdkafka takes such a file for a key store only | `ssl.keystore.location` |
//! | JKS | refused with the command that converts it | refused likewise |
//!
//! Java takes a store without a type for JKS (and opens PKCS#12 under that name as well); here the ending of the file's name
//! decides then.

use std::collections::BTreeMap;

use openssl::pkcs12::Pkcs12;
use tailwater_api::config::ConfigReport;
use tailwater_api::{Error, ErrorKind, Result};

use super::Settings;
use crate::config::document::fault;

/// A trust store that librdkafka cannot read itself.
pub(super) struct Pkcs12TrustStore {
    location: String,
    password: String,
}

impl Pkcs12TrustStore {
    /// Its certificates in PEM.
    pub(super) fn load(&self) -> Result<String> {
        let misconfigured =
            |why: String| Error::new(ErrorKind::Misconfigured, format!("read the trust store {}", self.location)).because(why);
        let octets = std::fs::read(&self.location).map_err(|error| misconfigured(error.to_string()))?;
        let opened = Pkcs12::from_der(&octets).and_then(|store| store.parse2(&self.password));
        let opened = opened.map_err(|error| misconfigured(error.to_string()).mend("see that ssl.truststore.password is the store's"))?;
        let mut text = String::new();
        for certificate in opened.ca.iter().flatten().chain(opened.cert.as_deref()) {
            let pem = certificate.to_pem().map_err(|error| misconfigured(error.to_string()))?;
            text.push_str(&String::from_utf8_lossy(&pem));
        }
        if text.is_empty() {
            return Err(misconfigured("it holds no certificate".to_owned()));
        }
        Ok(text)
    }
}

#[derive(Clone, Copy)]
enum StoreType {
    Pem,
    Pkcs12,
}

/// Replaces Java's settings of stores by librdkafka's.
pub(super) fn translate(
    settings: &mut Settings,
    properties: &mut BTreeMap<String, String>,
    report: &mut ConfigReport,
) -> Option<Pkcs12TrustStore> {
    let mut set = |name: &str, value: &str| {
        properties.insert(name.to_owned(), value.to_owned());
    };
    let mut trust_store = None;

    let store_type = store_type("ssl.truststore", settings, report);
    let password = settings.remove("ssl.truststore.password");
    if let Some(location) = settings.remove("ssl.truststore.location") {
        match store_type {
            Some(StoreType::Pem) => set("ssl.ca.location", &location.value),
            Some(StoreType::Pkcs12) => {
                trust_store =
                    Some(Pkcs12TrustStore { location: location.value, password: password.map(|given| given.value).unwrap_or_default() });
            }
            None => {}
        }
    }
    if let Some(certificates) = settings.remove("ssl.truststore.certificates") {
        set("ssl.ca.pem", &certificates.value);
    }

    let store_type = self::store_type("ssl.keystore", settings, report);
    if let Some(location) = settings.remove("ssl.keystore.location") {
        match store_type {
            Some(StoreType::Pem) => {
                set("ssl.certificate.location", &location.value);
                set("ssl.key.location", &location.value);
                settings.remove("ssl.keystore.password");
            }
            Some(StoreType::Pkcs12) => set("ssl.keystore.location", &location.value),
            None => {}
        }
    }
    if let Some(chain) = settings.remove("ssl.keystore.certificate.chain") {
        set("ssl.certificate.pem", &chain.value);
    }
    if let Some(key) = settings.remove("ssl.keystore.key") {
        set("ssl.key.pem", &key.value);
    }
    trust_store
}

/// Type of the store whose settings begin with `store`, if it has a location and can be read.
fn store_type(store: &str, settings: &mut Settings, report: &mut ConfigReport) -> Option<StoreType> {
    let given = settings.remove(&format!("{store}.type"));
    let location = settings.get(&format!("{store}.location"))?;
    let ending = location.value.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let named = given.map(|given| given.value.to_ascii_uppercase());
    match (named.as_deref(), ending.as_str()) {
        (Some("PEM"), _) | (None, "pem" | "crt" | "cer") => return Some(StoreType::Pem),
        (Some("PKCS12"), _) | (None, "p12" | "pfx" | "pkcs12") => return Some(StoreType::Pkcs12),
        (Some("JKS"), _) | (None, "jks") => {
            let path = &location.value;
            report.faults.push(fault(
                &location.key,
                format!(
                    "is a JKS store, which only Java reads; convert it: keytool -importkeystore -srckeystore {path} \
                     -destkeystore {path}.p12 -deststoretype PKCS12, and set {store}.location={path}.p12 and {store}.type=PKCS12"
                ),
            ));
        }
        (Some(other), _) => {
            report.faults.push(fault(&location.key, format!("has the unknown {store}.type {other:?}; PEM and PKCS12 are known")));
        }
        (None, _) => report.faults.push(fault(&location.key, format!("needs {store}.type: PEM or PKCS12"))),
    }
    None
}

#[cfg(test)]
mod tests {
    use openssl::asn1::Asn1Time;
    use openssl::hash::MessageDigest;
    use openssl::pkey::PKey;
    use openssl::rsa::Rsa;
    use openssl::stack::Stack;
    use openssl::x509::{X509, X509NameBuilder};

    use super::*;

    fn certificate(name: &str) -> X509 {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let mut names = X509NameBuilder::new().unwrap();
        names.append_entry_by_text("CN", name).unwrap();
        let names = names.build();
        let mut builder = X509::builder().unwrap();
        builder.set_subject_name(&names).unwrap();
        builder.set_issuer_name(&names).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
        builder.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
        builder.sign(&key, MessageDigest::sha256()).unwrap();
        builder.build()
    }

    #[test]
    fn the_certificates_of_a_pkcs12_trust_store_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("trust.p12");
        let mut authorities = Stack::new().unwrap();
        authorities.push(certificate("one")).unwrap();
        authorities.push(certificate("two")).unwrap();
        let store = Pkcs12::builder().ca(authorities).build2("canary").unwrap();
        std::fs::write(&location, store.to_der().unwrap()).unwrap();
        let open = |password: &str| Pkcs12TrustStore { location: location.display().to_string(), password: password.to_owned() }.load();
        assert_eq!(open("canary").unwrap().matches("BEGIN CERTIFICATE").count(), 2);
        let error = open("another canary").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Misconfigured);
        assert!(!error.to_string().contains("canary"), "{error}");
    }

    #[test]
    fn a_trust_store_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let location = folder.path().join("trust.p12");
        let open = || Pkcs12TrustStore { location: location.display().to_string(), password: String::new() }.load();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Misconfigured);
        std::fs::write(&location, "no store").unwrap();
        assert_eq!(open().unwrap_err().kind(), ErrorKind::Misconfigured);
    }
}
