//! Connections to the API, in clear or encrypted.
//!
//! At most [`MOST_CONNECTIONS`] are open; further callers wait in the queue of the system (I6). Handshakes run beside each other,
//! each with a limit in time, so that a caller who says nothing keeps no other waiting. The certificate is read again when its files change; what cannot be used then
//! leaves the one before it in place, and the log says so.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::config::rest_options::TlsFiles;

/// Connections that are open at the same time, those that still agree on TLS among them.
const MOST_CONNECTIONS: usize = 512;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the files of the certificate are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// What carries a connection.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// An open connection, one of [`MOST_CONNECTIONS`] until it is dropped.
pub(super) struct Connection {
    stream: Box<dyn Duplex>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        *stream.remote_addr()
    }
}

/// Gives out connections that are ready for requests.
pub(super) struct Listener {
    ready: mpsc::Receiver<(Connection, Peer)>,
    address: SocketAddr,
    accepting: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Takes connections of `tcp`, encrypted where there is a certificate.
    pub(super) fn new(tcp: TcpListener, tls: Option<Certificate>) -> io::Result<Self> {
        let address = tcp.local_addr()?;
        let (sender, ready) = mpsc::channel(1);
        let mut accepting = Vec::new();
        if let Some(certificate) = &tls {
            accepting.push(tokio::spawn(certificate.clone().follow()));
        }
        accepting.push(tokio::spawn(accept(tcp, tls, sender)));
        Ok(Self { ready, address, accepting })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.iter().for_each(JoinHandle::abort);
    }
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Self::Io, Peer) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task runs as long as this listener.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer(self.address))
    }
}

async fn accept(tcp: TcpListener, tls: Option<Certificate>, ready: mpsc::Sender<(Connection, Peer)>) {
    let connections = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        // Nobody closes the semaphore.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let (stream, peer) = match tcp.accept().await {
            Ok((stream, address)) => (stream, Peer(address)),
            Err(error) => {
                // Too many open files, and the like: others may close some.
                tracing::debug!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(certificate) = &tls else {
            if ready.send((Connection { stream: Box::new(stream), _permit: permit }, peer)).await.is_err() {
                return;
            }
            continue;
        };
        let (acceptor, ready) = (certificate.acceptor(), ready.clone());
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                // The listener may be gone by now, and the connection with it.
                Ok(Ok(stream)) => drop(ready.send((Connection { stream: Box::new(stream), _permit: permit }, peer)).await),
                Ok(Err(error)) => tracing::debug!("{} cannot agree on TLS: {error}", peer.0),
                Err(_) => tracing::debug!("{} does not end its TLS handshake", peer.0),
            }
        });
    }
}

/// The certificate of the API, as its files hold it now. Cloning shares it.
#[derive(Clone)]
pub(super) struct Certificate {
    files: TlsFiles,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Certificate {
    /// Reads the files.
    ///
    /// # Errors
    /// `misconfigured`: a file cannot be read, or the key is not that of the certificate.
    pub(super) fn read(files: TlsFiles) -> Result<Self> {
        let config = Arc::new(RwLock::new(Arc::new(server_config(&files)?)));
        Ok(Self { files, config })
    }

    fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)).into()
    }

    /// Reads the files again whenever they change.
    async fn follow(self) {
        let mut known = self.version();
        loop {
            tokio::time::sleep(RELOAD_INTERVAL).await;
            let version = self.version();
            if version == known {
                continue;
            }
            match server_config(&self.files) {
                Ok(config) => {
                    *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                    tracing::info!("the certificate of the REST API was read again");
                }
                Err(error) => tracing::error!(
                    error.kind = error.kind().code(),
                    error.mend = error.remedy(),
                    "{error}; the REST API keeps the certificate that it had"
                ),
            }
            known = version;
        }
    }

    /// What changes whenever a file is written or replaced.
    fn version(&self) -> [Option<(SystemTime, u64)>; 2] {
        let version = |path: &Path| std::fs::metadata(path).ok().and_then(|file| Some((file.modified().ok()?, file.len())));
        [version(&self.files.certificate), version(&self.files.key)]
    }
}

fn server_config(files: &TlsFiles) -> Result<ServerConfig> {
    fn unusable(path: &Path, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        Error::new(ErrorKind::Misconfigured, format!("use {} for the REST API", path.display())).because(cause)
    }
    let TlsFiles { certificate, key } = files;
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|error| unusable(certificate, error))?;
    if chain.is_empty() {
        return Err(unusable(certificate, "it holds no certificate (PEM)"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, error))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider())).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::new(ErrorKind::Bug, "set up TLS").because(error))?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, private).map_err(|error| unusable(key, error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn i6_further_callers_wait_until_a_connection_is_closed() {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let mut listener = Listener::new(tcp, None).unwrap();
        let mut open = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            let caller = TcpStream::connect(address).await.unwrap();
            open.push((caller, axum::serve::Listener::accept(&mut listener).await));
        }
        let _one_more = TcpStream::connect(address).await.unwrap();
        let accept =
            async |listener: &mut Listener| tokio::time::timeout(Duration::from_millis(100), axum::serve::Listener::accept(listener)).await;
        assert!(accept(&mut listener).await.is_err());
        open.pop();
        assert!(accept(&mut listener).await.is_ok());
    }
}
