//! A TCP proxy on the loopback interface that misbehaves when told to.
//!
//! Each connection has two pumps, one per direction, and each direction has a fault of its own that holds for all
//! connections, those that are open and those to come. A pump that fails ends its connection on both sides.

use std::io::{Error as IoError, ErrorKind, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What is wrong with one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    /// Nothing
    #[default]
    None,
    /// Each piece comes this much later
    Delay(Duration),
    /// Both sides lose the connection after so many more bytes of this direction, also in the middle of a message
    CutAfter(u64),
    /// The receiver sees the end of the stream while the other direction goes on
    HalfClose,
    /// Bytes are taken from the sender and never arrive
    Blackhole,
    /// Nothing is taken from the sender, until its buffers are full
    StopReading,
}

/// Towards the server or towards the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends
    ToServer,
    /// What the server sends
    ToClient,
}

/// A running proxy; its connections end when it is dropped.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    to_server: watch::Sender<Fault>,
    to_client: watch::Sender<Fault>,
    accepting: JoinHandle<()>,
}

impl FaultProxy {
    /// Listens on a free port and connects each client to `server`.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (to_server, server_fault) = watch::channel(Fault::None);
        let (to_client, client_fault) = watch::channel(Fault::None);
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(connection(client, server, server_fault.clone(), client_fault.clone()));
                // Ended ones are let go of.
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, to_server, to_client, accepting })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the fault of one direction, now and for connections to come. Bytes for [`Fault::CutAfter`] count from here.
    pub fn set(&self, direction: Direction, fault: Fault) {
        match direction {
            Direction::ToServer => self.to_server.send_replace(fault),
            Direction::ToClient => self.to_client.send_replace(fault),
        };
    }

    /// Ends the faults of both directions. What a blackhole took is lost.
    pub fn heal(&self) {
        self.set(Direction::ToServer, Fault::None);
        self.set(Direction::ToClient, Fault::None);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        // The connections are owned by this task and end with it.
        self.accepting.abort();
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    to_server: watch::Receiver<Fault>,
    to_client: watch::Receiver<Fault>,
) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = server.into_split();
    // The first that fails drops both.
    tokio::try_join!(pump(client_reads, server_writes, to_server), pump(server_reads, client_writes, to_client))?;
    Ok(())
}

async fn pump(mut from: OwnedReadHalf, to: OwnedWriteHalf, mut faults: watch::Receiver<Fault>) -> Result<()> {
    let mut buffer = vec![0; 16 << 10];
    let mut to = Some(to);
    let mut fault = *faults.borrow_and_update();
    loop {
        if fault == Fault::HalfClose {
            // Dropping the writing half sends the end of the stream.
            to = None;
        }
        let length = tokio::select! {
            changed = faults.changed() => {
                changed.map_err(|_| cut())?;
                fault = *faults.borrow_and_update();
                continue;
            }
            length = from.read(&mut buffer), if fault != Fault::StopReading => length?,
        };
        if length == 0 {
            return Ok(());
        }
        match &mut fault {
            Fault::None | Fault::StopReading => {}
            Fault::Delay(delay) => tokio::time::sleep(*delay).await,
            Fault::Blackhole | Fault::HalfClose => continue,
            Fault::CutAfter(left) => {
                let passing = usize::try_from(*left).unwrap_or(usize::MAX).min(length);
                if passing < length {
                    if let Some(to) = &mut to {
                        to.write_all(&buffer[..passing]).await?;
                    }
                    return Err(cut());
                }
                *left -= passing as u64;
            }
        }
        if let Some(to) = &mut to {
            to.write_all(&buffer[..length]).await?;
        }
    }
}

fn cut() -> IoError {
    IoError::new(ErrorKind::ConnectionAborted, "cut by the proxy")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{Instant, timeout};

    const SHORT: Duration = Duration::from_millis(200);

    /// A server that sends back what it gets.
    async fn echo() -> (FaultProxy, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reads, mut writes) = stream.split();
                    drop(tokio::io::copy(&mut reads, &mut writes).await);
                });
            }
        });
        let proxy = FaultProxy::start(address).await.unwrap();
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert_eq!(exchange(&mut client, b"hello").await.unwrap(), b"hello");
        (proxy, client)
    }

    async fn exchange(client: &mut TcpStream, bytes: &[u8]) -> Result<Vec<u8>> {
        client.write_all(bytes).await?;
        let mut answer = vec![0; bytes.len()];
        client.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_delay_makes_bytes_late() {
        let (proxy, mut client) = echo().await;
        proxy.set(Direction::ToClient, Fault::Delay(SHORT));
        let start = Instant::now();
        exchange(&mut client, b"late").await.unwrap();
        assert!(start.elapsed() >= SHORT);
    }

    #[tokio::test]
    async fn a_cut_lets_exactly_so_many_bytes_pass() {
        let (proxy, mut client) = echo().await;
        proxy.set(Direction::ToClient, Fault::CutAfter(3));
        client.write_all(b"abcdef").await.unwrap();
        let mut got = Vec::new();
        drop(client.read_to_end(&mut got).await);
        assert_eq!(got, b"abc");
        // A new connection is cut in the same way.
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        assert!(exchange(&mut client, b"abcdef").await.is_err());
    }

    #[tokio::test]
    async fn a_half_closed_connection_still_carries_the_other_direction() {
        let (proxy, mut client) = echo().await;
        proxy.set(Direction::ToClient, Fault::HalfClose);
        assert_eq!(client.read(&mut [0; 8]).await.unwrap(), 0);
        client.write_all(b"still taken").await.unwrap();
    }

    #[tokio::test]
    async fn a_blackhole_takes_and_delivers_nothing_until_healed() {
        let (proxy, mut client) = echo().await;
        proxy.set(Direction::ToServer, Fault::Blackhole);
        assert!(timeout(SHORT, exchange(&mut client, b"lost")).await.is_err());
        proxy.heal();
        tokio::time::sleep(SHORT).await;
        assert_eq!(exchange(&mut client, b"back").await.unwrap(), b"back");
    }

    #[tokio::test]
    async fn what_is_not_read_arrives_when_reading_goes_on() {
        let (proxy, mut client) = echo().await;
        proxy.set(Direction::ToServer, Fault::StopReading);
        tokio::time::sleep(SHORT).await;
        client.write_all(b"wait").await.unwrap();
        let mut answer = [0; 4];
        assert!(timeout(SHORT, client.read_exact(&mut answer)).await.is_err());
        proxy.heal();
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"wait");
    }
}
