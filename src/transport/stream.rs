//! A connection: a stream of bytes in both directions, and its two halves.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::os::{
    self,
    fork::{self, Registration},
};

/// A connection. Dropping it, or both of its halves, closes it.
pub struct Stream {
    read: ReadHalf,
    write: WriteHalf,
}

/// The addresses of a connection in memory.
#[cfg(any(test, feature = "sim"))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// This side's.
    pub local: SocketAddr,
    /// The other side's.
    pub peer: SocketAddr,
}

impl Stream {
    /// Takes over an open connection.
    pub fn new(tcp: TcpStream) -> Self {
        let registration = Arc::new(fork::register(&tcp));
        let (read, write) = tcp.into_split();
        Self {
            read: ReadHalf(Reader::Tcp {
                _registration: registration.clone(),
                io: read,
            }),
            write: WriteHalf(Writer::Tcp {
                _registration: registration,
                io: write,
            }),
        }
    }

    /// A connection without a socket. Dropping `write` is to tell the other side that no more
    /// comes.
    #[cfg(any(test, feature = "sim"))]
    pub fn in_memory(
        read: impl AsyncRead + Send + Sync + Unpin + 'static,
        write: impl AsyncWrite + Send + Sync + Unpin + 'static,
        ends: Ends,
    ) -> Self {
        Self {
            read: ReadHalf(Reader::InMemory(Box::new(read), ends)),
            write: WriteHalf(Writer::InMemory(Box::new(write), ends)),
        }
    }

    /// The round trip that TCP has measured; that of the handshake on a new connection. `None` where
    /// the system does not tell, and in memory.
    pub fn round_trip(&self) -> Option<Duration> {
        match &self.read.0 {
            Reader::Tcp { io, .. } => os::round_trip(&SockRef::from(io.as_ref())),
            #[cfg(any(test, feature = "sim"))]
            Reader::InMemory(..) => None,
        }
    }

    /// Two halves for two tasks. Dropping the write half tells the other side that no more comes.
    pub fn into_split(self) -> (ReadHalf, WriteHalf) {
        (self.read, self.write)
    }

    /// The other side's address; an IPv4 address is one also where it came in over IPv6.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.read.peer_addr()
    }

    /// This side's address; an IPv4 address is one also where it came in over IPv6.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.read.local_addr()
    }
}

/// The half of a [`Stream`] that is read.
pub struct ReadHalf(Reader);

enum Reader {
    Tcp {
        // Before the socket: fields are dropped in this order, and a socket leaves the registry
        // before it is closed. Both halves do so, hence the last one to close has none behind it.
        _registration: Arc<Registration>,
        io: OwnedReadHalf,
    },
    #[cfg(any(test, feature = "sim"))]
    InMemory(Box<dyn AsyncRead + Send + Sync + Unpin>, Ends),
}

impl ReadHalf {
    /// As [`Stream::peer_addr`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Reader::Tcp { io, .. } => io.peer_addr().map(canonical),
            #[cfg(any(test, feature = "sim"))]
            Reader::InMemory(_, ends) => Ok(ends.peer),
        }
    }

    /// As [`Stream::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Reader::Tcp { io, .. } => io.local_addr().map(canonical),
            #[cfg(any(test, feature = "sim"))]
            Reader::InMemory(_, ends) => Ok(ends.local),
        }
    }
}

/// The half of a [`Stream`] that is written. Dropping it shuts the connection down in this
/// direction, which the other side sees also where a forked child still holds a copy.
///
/// Never calls `writev`, which has no flag against SIGPIPE: a process that was not started by Rust
/// would die of a peer's closed socket. All writes go out with MSG_NOSIGNAL.
pub struct WriteHalf(Writer);

enum Writer {
    Tcp {
        // Before the socket, as in `Reader`.
        _registration: Arc<Registration>,
        io: OwnedWriteHalf,
    },
    #[cfg(any(test, feature = "sim"))]
    InMemory(Box<dyn AsyncWrite + Send + Sync + Unpin>, Ends),
}

impl WriteHalf {
    /// As [`Stream::peer_addr`].
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Writer::Tcp { io, .. } => io.peer_addr().map(canonical),
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(_, ends) => Ok(ends.peer),
        }
    }

    /// As [`Stream::local_addr`].
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match &self.0 {
            Writer::Tcp { io, .. } => io.local_addr().map(canonical),
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(_, ends) => Ok(ends.local),
        }
    }
}

/// Undoes the disguise of IPv4 addresses on a dual-stack socket.
pub(super) fn canonical(mut address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    if ip != address.ip() {
        address.set_ip(ip);
    }
    address
}

impl AsyncRead for ReadHalf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Reader::Tcp { io, .. } => Pin::new(io).poll_read(cx, buf),
            #[cfg(any(test, feature = "sim"))]
            Reader::InMemory(io, _) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Writer::Tcp { io, .. } => Pin::new(io).poll_write(cx, buf),
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(io, _) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Writer::Tcp { io, .. } => {
                let tcp: &TcpStream = io.as_ref();
                loop {
                    ready!(tcp.poll_write_ready(cx))?;
                    let send = || os::send_vectored(&SockRef::from(tcp), bufs);
                    match tcp.try_io(Interest::WRITABLE, send) {
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        outcome => return Poll::Ready(outcome),
                    }
                }
            }
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(io, _) => Pin::new(io).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Writer::Tcp { .. } => true,
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(io, _) => io.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Writer::Tcp { io, .. } => Pin::new(io).poll_flush(cx),
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(io, _) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Writer::Tcp { io, .. } => Pin::new(io).poll_shutdown(cx),
            #[cfg(any(test, feature = "sim"))]
            Writer::InMemory(io, _) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.write).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.write).poll_shutdown(cx)
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("local", &self.local_addr().ok())
            .field("peer", &self.peer_addr().ok())
            .finish()
    }
}

impl fmt::Debug for ReadHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadHalf")
            .field("peer", &self.peer_addr().ok())
            .finish()
    }
}

impl fmt::Debug for WriteHalf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteHalf")
            .field("peer", &self.peer_addr().ok())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (Stream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let (far, _) = listener.accept().await.unwrap();
        (Stream::new(near), Stream::new(far))
    }

    #[tokio::test]
    async fn bytes_go_both_ways_whole_and_split() {
        let (mut near, mut far) = pair().await;
        assert_eq!(near.peer_addr().unwrap(), far.local_addr().unwrap());
        near.write_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        far.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"ping");

        let (mut read, write) = near.into_split();
        far.write_all(b"pong").await.unwrap();
        read.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"pong");
        drop(write);
        assert_eq!(far.read(&mut buf).await.unwrap(), 0);
        far.write_all(b"more").await.unwrap();
        read.read_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"more");
    }

    #[tokio::test]
    async fn what_is_written_vectored_comes_in_order_however_much_it_is() {
        let (near, mut far) = pair().await;
        let (_read, mut write) = near.into_split();
        assert!(write.is_write_vectored());
        let large = vec![7; 8 << 20];
        let reading = async {
            let mut all = Vec::new();
            far.read_to_end(&mut all).await.unwrap();
            all
        };
        let writing = async {
            let bufs = [IoSlice::new(b"head"), IoSlice::new(&large)];
            let mut written = write.write_vectored(&bufs).await.unwrap();
            assert!(written > 4);
            while written < 4 + large.len() {
                let rest = [IoSlice::new(&[]), IoSlice::new(&large[written - 4..])];
                written += write.write_vectored(&rest).await.unwrap();
            }
            drop(write);
        };
        let (all, ()) = tokio::join!(reading, writing);
        assert!(all == [b"head", &large[..]].concat());
    }

    #[tokio::test]
    async fn writing_to_a_closed_connection_is_an_error_that_returns() {
        let (mut near, far) = pair().await;
        drop(far);
        // The first write draws the reset, a later one meets it.
        let error = loop {
            if let Err(error) = near.write_all(b"x").await {
                break error;
            }
            tokio::task::yield_now().await;
        };
        assert!(matches!(
            error.kind(),
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
        ));
    }

    #[test]
    fn disguised_ipv4_is_shown_as_what_it_is() {
        let disguised = SocketAddr::from((Ipv6Addr::from([0, 0, 0, 0, 0, 0xffff, 0x7f00, 1]), 9));
        assert_eq!(canonical(disguised), "127.0.0.1:9".parse().unwrap());
        let real: SocketAddr = "[::1]:9".parse().unwrap();
        assert_eq!(canonical(real), real);
    }
}
