//! The binding of SCRAM to the TLS connection under it: `tls-server-end-point` (RFC 5929, section 4), the hash of the
//! server's certificate. Somebody in the middle has another certificate and cannot pass the authentication on.

use aws_lc_rs::digest::{Algorithm, SHA256, SHA384, SHA512, digest};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// The hash of the certificate by the hash function of its signature, SHA-256 in place of MD5 and SHA-1; `None` where the
/// signature has no single hash function or one that is not known here, and the binding is not defined.
pub(super) fn tls_server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let parsed = Certificate::from_der(certificate).ok()?;
    let algorithm = hash_of_signature(&parsed.signature_algorithm.oid.to_string())?;
    Some(digest(algorithm, certificate).as_ref().to_vec())
}

fn hash_of_signature(oid: &str) -> Option<&'static Algorithm> {
    match oid {
        // RSA with MD5, SHA-1 and SHA-256 (RFC 8017); ECDSA with SHA-1 and SHA-256 (RFC 5758)
        "1.2.840.113549.1.1.4" | "1.2.840.113549.1.1.5" | "1.2.840.113549.1.1.11" | "1.2.840.10045.4.1" | "1.2.840.10045.4.3.2" => {
            Some(&SHA256)
        }
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(&SHA384),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(&SHA512),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_has_no_binding() {
        assert_eq!(tls_server_end_point(b"no certificate"), None);
    }

    #[test]
    fn weak_hashes_are_replaced_and_unknown_ones_bind_nothing() {
        assert_eq!(hash_of_signature("1.2.840.113549.1.1.5"), Some(&SHA256));
        assert_eq!(hash_of_signature("1.2.840.10045.4.3.3"), Some(&SHA384));
        // Ed25519
        assert_eq!(hash_of_signature("1.3.101.112"), None);
    }
}
