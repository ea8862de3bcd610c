//! Encryption of connections, with the modes of libpq (PostgreSQL 18, "SSL Support", table "SSL Mode Descriptions").
//!
//! The modes say two things: whether a connection may be in clear, and what of the server's certificate is checked.
//! Only `verify-full` protects against somebody in the middle. As in libpq, `require` with a root certificate checks
//! like `verify-ca`, and the modes below `require` check nothing.
//!
//! A server's own certificate may itself be named as the root, as OpenSSL allows and as self-signed servers need it:
//! it is then trusted by equality, its dates and, in `verify-full`, its names are checked all the same.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tailwater_api::{Error, ErrorKind, Result};

/// Whether a connection is encrypted and what of the certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Always in clear
    Disable,
    /// In clear, and encrypted where the server refuses that
    Allow,
    /// Encrypted where the server offers it
    #[default]
    Prefer,
    /// Always encrypted; the certificate is checked only where a root certificate is given
    Require,
    /// Always encrypted; somebody trusted has signed the certificate
    VerifyCa,
    /// Always encrypted; somebody trusted has signed the certificate, for the name of the host
    VerifyFull,
}

/// How connections are encrypted.
#[derive(Clone, Debug, Default)]
pub struct TlsOptions {
    /// What is demanded
    pub mode: TlsMode,
    /// Certificates to trust, PEM; the system's where absent
    pub root_certificates: Option<PathBuf>,
    /// The client's certificate and those between it and its root, PEM
    pub client_certificate: Option<PathBuf>,
    /// The key of the client's certificate, PEM, without a password
    pub client_key: Option<PathBuf>,
}

impl TlsOptions {
    /// What rustls needs to encrypt a connection in this way; `None` where it is never encrypted. Reads the named
    /// files.
    ///
    /// # Errors
    /// `misconfigured`: a file cannot be read, or what it holds does not fit.
    pub fn client_config(&self) -> Result<Option<ClientConfig>> {
        let checks_certificate = match self.mode {
            TlsMode::Disable => return Ok(None),
            TlsMode::Allow | TlsMode::Prefer => false,
            TlsMode::Require => self.root_certificates.is_some(),
            TlsMode::VerifyCa | TlsMode::VerifyFull => true,
        };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let chain = if checks_certificate { Some(self.chain_verifier(&provider)?) } else { None };
        let verifier = Arc::new(Verifier { chain, checks_name: self.mode == TlsMode::VerifyFull, provider: provider.clone() });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::new(ErrorKind::Bug, "set up TLS").because(error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let config = match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => {
                let certificates = read_certificates(certificate)?;
                let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
                builder.with_client_auth_cert(certificates, private).map_err(|error| unusable(key, error))?
            }
            (None, None) => builder.with_no_client_auth(),
            (Some(one), None) | (None, Some(one)) => return Err(unusable(one, "a client's certificate and its key belong together")),
        };
        Ok(Some(config))
    }

    fn chain_verifier(&self, provider: &Arc<CryptoProvider>) -> Result<Chain> {
        let mut roots = RootCertStore::empty();
        let mut named = Vec::new();
        if let Some(path) = &self.root_certificates {
            named = read_certificates(path)?;
            for certificate in &named {
                roots.add(certificate.clone()).map_err(|error| unusable(path, error))?;
            }
        } else {
            // Certificates of the system that cannot be used are none that this connection could need.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().map_err(|error| {
            Error::new(ErrorKind::Misconfigured, "check the server's certificate")
                .because(error)
                .mend("install the system's certificates (apt-get install ca-certificates), or name a file with root certificates")
        })?;
        Ok(Chain { verifier, named })
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unusable(path, error))?;
    if certificates.is_empty() { Err(unusable(path, "it holds no certificate")) } else { Ok(certificates) }
}

fn unusable(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::new(ErrorKind::Misconfigured, format!("use {} for TLS", path.display())).because(cause)
}

#[derive(Debug)]
struct Chain {
    verifier: Arc<WebPkiServerVerifier>,
    /// The roots that the user named
    named: Vec<CertificateDer<'static>>,
}

#[derive(Debug)]
struct Verifier {
    /// `None` where nothing is checked but that the server has the key of its certificate
    chain: Option<Chain>,
    checks_name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verifier.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is checked before the name.
            Err(rustls::Error::InvalidCertificate(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }))
                if !self.checks_name =>
            {
                Ok(ServerCertVerified::assertion())
            }
            // A root as the server's own certificate; its dates are checked before its use.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(other)))
                if other.0.to_string().contains("CaUsedAsEndEntity") && chain.named.iter().any(|root| root == end_entity) =>
            {
                if self.checks_name {
                    verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                }
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
