//! A socket that is read at a pace under backlog.
//!
//! A server that sends as fast as it can puts a few rows in a packet. A reader that the kernel wakes for each of them spends
//! more on being woken than in all other work on a row, and it is woken for as long as its socket is watched, whether it
//! wants to read or not. So a socket that is busy is not watched: once a window of a millisecond has brought [`BACKLOG`]
//! octets and the socket is drained, it leaves the reactor and is read when the window ends. As soon as a window brings less it is watched
//! again, and every octet is read at once.
//!
//! Writing is not held up: while the socket is not watched it is written to directly, and watched again where it does
//! not take what is written. A writer that waits for room keeps it watched.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::coop::poll_proceed;
use tokio::time::{Instant, Sleep, sleep_until};

/// As much in one window is a backlog.
const BACKLOG: usize = 16 << 10;
const WINDOW: Duration = Duration::from_millis(1);
/// As much is read at once while the socket is not watched; the room for it has to be filled with zeros first.
const READ: usize = 64 << 10;

/// A socket that the reactor can watch and can leave alone.
pub(super) trait Watch: AsyncRead + AsyncWrite + Send + Sync + Unpin + Sized {
    /// The same socket, not watched; it never blocks either.
    type Unwatched: Read + Write + Send + Sync + Unpin;
    fn unwatch(self) -> io::Result<Self::Unwatched>;
    fn watch(socket: Self::Unwatched) -> io::Result<Self>;
}

impl Watch for TcpStream {
    type Unwatched = std::net::TcpStream;

    fn unwatch(self) -> io::Result<Self::Unwatched> {
        self.into_std()
    }

    fn watch(socket: Self::Unwatched) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

impl Watch for UnixStream {
    type Unwatched = std::os::unix::net::UnixStream;

    fn unwatch(self) -> io::Result<Self::Unwatched> {
        self.into_std()
    }

    fn watch(socket: Self::Unwatched) -> io::Result<Self> {
        Self::from_std(socket)
    }
}

/// See the module.
pub(super) struct PacedSocket<S: Watch> {
    state: State<S>,
    pace: Pace,
    /// The last read left nothing behind
    drained: bool,
    /// A writer waits for the reactor
    writer_waits: bool,
    timer: Pin<Box<Sleep>>,
}

enum State<S: Watch> {
    Watched(S),
    Unwatched(S::Unwatched),
    /// A change from one to the other failed, which ended the connection
    Lost,
}

impl<S: Watch> PacedSocket<S> {
    pub(super) fn new(socket: S) -> Self {
        Self {
            state: State::Watched(socket),
            pace: Pace { began: Instant::now(), octets: 0 },
            drained: false,
            writer_waits: false,
            timer: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// The socket, watched.
    fn watched(&mut self) -> io::Result<&mut S> {
        if let State::Unwatched(_) = self.state {
            let State::Unwatched(socket) = std::mem::replace(&mut self.state, State::Lost) else { return Err(lost()) };
            self.state = State::Watched(S::watch(socket)?);
        }
        match &mut self.state {
            State::Watched(socket) => Ok(socket),
            State::Unwatched(_) | State::Lost => Err(lost()),
        }
    }

    fn unwatch(&mut self) -> io::Result<()> {
        if let State::Watched(_) = self.state {
            let State::Watched(socket) = std::mem::replace(&mut self.state, State::Lost) else { return Err(lost()) };
            self.state = State::Unwatched(socket.unwatch()?);
        }
        Ok(())
    }

    /// Takes account of a read that had `room`.
    fn count(&mut self, read: usize, room: usize) {
        self.drained = read < room;
        self.pace.count(read);
    }
}

fn lost() -> io::Error {
    io::Error::from(io::ErrorKind::NotConnected)
}

impl<S: Watch> AsyncRead for PacedSocket<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let room = buffer.remaining();
        loop {
            match &mut this.state {
                State::Watched(socket) => {
                    let before = buffer.filled().len();
                    let polled = Pin::new(socket).poll_read(context, buffer);
                    if polled.is_ready() {
                        this.count(buffer.filled().len() - before, room);
                        return polled;
                    }
                    if this.writer_waits || this.pace.pause().is_none() {
                        return Poll::Pending;
                    }
                    this.drained = true;
                    this.unwatch()?;
                }
                State::Unwatched(socket) => {
                    if this.drained
                        && let Some(end) = this.pace.pause()
                    {
                        if this.timer.deadline() != end {
                            this.timer.as_mut().reset(end);
                        }
                        ready!(this.timer.as_mut().poll(context));
                    }
                    // Without the reactor nothing else makes a reader that always finds something give way (I4).
                    let turn = ready!(poll_proceed(context));
                    let room = room.min(READ);
                    match socket.read(buffer.initialize_unfilled_to(room)) {
                        Ok(read) => {
                            buffer.advance(read);
                            turn.made_progress();
                            this.count(read, room);
                            return Poll::Ready(Ok(()));
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            this.drained = true;
                            if this.pace.pause().is_none() {
                                this.watched()?;
                            }
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                }
                State::Lost => return Poll::Ready(Err(lost())),
            }
        }
    }
}

impl<S: Watch> AsyncWrite for PacedSocket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if let State::Unwatched(socket) = &mut this.state {
            match socket.write(octets) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                written => return Poll::Ready(written),
            }
        }
        let polled = Pin::new(this.watched()?).poll_write(context, octets);
        this.writer_waits = polled.is_pending();
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.state {
            State::Watched(socket) => Pin::new(socket).poll_flush(context),
            // Nothing is kept back.
            State::Unwatched(_) => Poll::Ready(Ok(())),
            State::Lost => Poll::Ready(Err(lost())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(self.watched()?).poll_shutdown(context);
        self.writer_waits = polled.is_pending();
        polled
    }
}

/// How much came within the present window.
struct Pace {
    began: Instant,
    octets: usize,
}

impl Pace {
    /// Until when to leave a drained socket alone; `None` where to read at once.
    fn pause(&self) -> Option<Instant> {
        let end = self.began + WINDOW;
        (self.octets >= BACKLOG && Instant::now() < end).then_some(end)
    }

    fn count(&mut self, octets: usize) {
        let now = Instant::now();
        if now >= self.began + WINDOW {
            *self = Self { began: now, octets: 0 };
        }
        self.octets += octets;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (PacedSocket<TcpStream>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        (PacedSocket::new(client), server)
    }

    #[test]
    fn only_a_backlog_is_waited_for() {
        let mut pace = Pace { began: Instant::now() + Duration::from_secs(1), octets: BACKLOG - 1 };
        assert_eq!(pace.pause(), None);
        pace.count(1);
        assert_eq!(pace.pause(), Some(pace.began + WINDOW));
    }

    #[tokio::test]
    async fn a_backlog_is_read_whole_and_what_follows_it_at_once() {
        let (mut socket, mut server) = pair().await;
        let sent: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let copy = sent.clone();
        let writing = tokio::spawn(async move {
            server.write_all(&copy).await.unwrap();
            server
        });
        let mut received = vec![0; sent.len()];
        socket.read_exact(&mut received).await.unwrap();
        assert!(received == sent);
        let mut server = writing.await.unwrap();
        for octet in 0..=255 {
            let write = async {
                tokio::time::sleep(Duration::from_millis(3)).await;
                server.write_u8(octet).await.unwrap();
            };
            assert_eq!(tokio::join!(socket.read_u8(), write).0.unwrap(), octet);
            // A machine that is late may find the octet at the end of a window's pause.
            if matches!(socket.state, State::Watched(_)) {
                break;
            }
        }
        assert!(matches!(socket.state, State::Watched(_)), "a quiet socket is watched");
        drop(server);
        assert_eq!(socket.read(&mut received).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_busy_socket_is_written_to_all_the_same() {
        let (socket, mut server) = pair().await;
        let (mut reading, mut writing) = tokio::io::split(socket);
        let sent = 40 * BACKLOG;
        let server = tokio::spawn(async move {
            for _ in 0..40 {
                server.write_all(&[7; BACKLOG]).await.unwrap();
                tokio::time::sleep(Duration::from_micros(300)).await;
            }
            // More than fits into the buffers of both ends, so that the writer waits in between.
            let mut answer = Vec::new();
            server.read_to_end(&mut answer).await.unwrap();
            answer.len()
        });
        let reader = tokio::spawn(async move {
            let mut left = sent;
            let mut buffer = vec![0; 8 * BACKLOG];
            while left > 0 {
                left -= reading.read(&mut buffer).await.unwrap();
            }
            reading
        });
        let answer = vec![1; 40_000_000];
        writing.write_all(&answer).await.unwrap();
        let socket = reader.await.unwrap().unsplit(writing);
        drop(socket);
        assert_eq!(server.await.unwrap(), answer.len());
    }
}
