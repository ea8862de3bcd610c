//! Connections to the API, in clear or encrypted.
//!
//! At most [`MOST_CONNECTIONS`] are open; further callers wait in the queue of the system (I6). A connection is given a limit in time
//! for its handshake and for the head of each request, so that callers who say nothing, or a byte now and then, do not keep the others
//! out. The certificate is read again when its files change; what cannot be used then leaves the one before it in place, and the log
//! says so.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tailwater_api::{Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::Service;

use crate::config::rest_options::TlsFiles;

/// Connections that are open at the same time, those that still agree on TLS among them.
const MOST_CONNECTIONS: usize = 512;
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take, and how long a connection may rest between two requests: as long as in Connect's Jetty.
pub(super) const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the files of the certificate are looked at.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// Who has connected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) SocketAddr);

/// Answers requests that come by `tcp`, encrypted where there is a certificate, until `stop` turns true and those under way are answered.
pub(super) async fn serve<S>(tcp: TcpListener, tls: Option<Certificate>, app: S, head_timeout: Duration, mut stop: watch::Receiver<bool>)
where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    // Ends with this call.
    let mut following = JoinSet::new();
    if let Some(certificate) = &tls {
        following.spawn(certificate.clone().follow());
    }
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            // Nobody closes the semaphore.
            let permit = Arc::clone(&permits).acquire_owned().await;
            (permit, accept(&tcp).await)
        };
        let (permit, (stream, peer)) = tokio::select! {
            next = next => next,
            Some(_) = connections.join_next() => continue,
            () = stopped(&mut stop) => break,
        };
        let (acceptor, app, stop) = (tls.as_ref().map(Certificate::acceptor), app.clone(), stop.clone());
        connections.spawn(async move {
            let _permit = permit;
            match acceptor {
                None => answer(stream, peer, app, head_timeout, stop).await,
                Some(acceptor) => match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => answer(stream, peer, app, head_timeout, stop).await,
                    Ok(Err(error)) => tracing::debug!("{} cannot agree on TLS: {error}", peer.0),
                    Err(_) => tracing::debug!("{} does not end its TLS handshake", peer.0),
                },
            }
        });
    }
    drop(tcp);
    while connections.join_next().await.is_some() {}
}

/// Completes when the server should end.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Who drops the sender cannot say it any more.
    drop(stop.wait_for(|stop| *stop).await);
}

async fn accept(tcp: &TcpListener) -> (TcpStream, Peer) {
    loop {
        match tcp.accept().await {
            Ok((stream, address)) => {
                // A line of an answer that goes on does not wait until the one before is acknowledged. Where that cannot be set, it does.
                let _ = stream.set_nodelay(true);
                return (stream, Peer(address));
            }
            Err(error) => {
                // Too many open files, and the like: others may close some.
                tracing::debug!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers the requests of one connection.
async fn answer<S>(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    app: S,
    head_timeout: Duration,
    mut stop: watch::Receiver<bool>,
) where
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        // A router is always ready.
        app.clone().call(request)
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(head_timeout);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stopped(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!("the connection of {} has ended: {error}", peer.0);
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
    use axum::Router;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

    /// A server that ends with the returned sender.
    async fn started(head_timeout: Duration) -> (SocketAddr, watch::Sender<bool>) {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = tcp.local_addr().unwrap();
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(serve(tcp, None, Router::new(), head_timeout, stopped));
        (address, stop)
    }

    async fn answered(mut caller: TcpStream) -> String {
        let mut answer = String::new();
        caller.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn i6_further_callers_wait_until_a_connection_is_closed() {
        let (address, _stop) = started(Duration::from_secs(600)).await;
        let mut open = Vec::new();
        for _ in 0..MOST_CONNECTIONS {
            open.push(TcpStream::connect(address).await.unwrap());
        }
        let mut one_more = TcpStream::connect(address).await.unwrap();
        one_more.write_all(REQUEST).await.unwrap();
        let mut waits = tokio::spawn(answered(one_more));
        assert!(tokio::time::timeout(Duration::from_millis(200), &mut waits).await.is_err());
        open.pop();
        assert!(waits.await.unwrap().starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_caller_who_does_not_end_the_head_of_a_request_is_let_go() {
        let (address, _stop) = started(Duration::from_millis(300)).await;
        let mut slow = TcpStream::connect(address).await.unwrap();
        slow.write_all(&REQUEST[..20]).await.unwrap();
        assert_eq!(answered(slow).await, "");
        let mut quick = TcpStream::connect(address).await.unwrap();
        quick.write_all(REQUEST).await.unwrap();
        assert!(answered(quick).await.starts_with("HTTP/1.1 404"));
    }

    #[tokio::test]
    async fn a_stop_ends_connections_that_rest() {
        let (address, stop) = started(Duration::from_secs(600)).await;
        let mut caller = TcpStream::connect(address).await.unwrap();
        caller.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        let mut some = [0; 12];
        caller.read_exact(&mut some).await.unwrap();
        stop.send(true).unwrap();
        answered(caller).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
