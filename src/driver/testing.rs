//! A network in memory for the tests of this room: ports that listen, connections that can be cut
//! without anybody noticing, ports that let nobody in for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex, split};
use tokio::sync::mpsc;

use crate::transport::{Connecting, Ends, InMemory, InMemoryListener, Network, Stream};

#[derive(Clone, Debug, Default)]
pub(super) struct Net(Arc<State>);

#[derive(Debug, Default)]
struct State {
    ports: Mutex<BTreeMap<u16, mpsc::UnboundedSender<Stream>>>,
    /// Whether each connection is cut.
    wires: Mutex<Vec<Arc<AtomicBool>>>,
    /// Who dials these waits.
    shut: Mutex<BTreeSet<u16>>,
}

impl Net {
    pub(super) fn network(&self) -> Network {
        Network::InMemory(Arc::new(self.clone()))
    }

    pub(super) fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    /// All connections that there are carry nothing any more.
    pub(super) fn cut_all(&self) {
        for wire in &*self.0.wires.lock() {
            wire.store(true, Ordering::Relaxed);
        }
    }

    /// As `cut_all`, for the connection made as the so-maniest.
    pub(super) fn cut(&self, index: usize) {
        self.0.wires.lock()[index].store(true, Ordering::Relaxed);
    }

    /// Connections that were ever made.
    pub(super) fn made(&self) -> usize {
        self.0.wires.lock().len()
    }

    /// From now on who dials this port waits until it is opened.
    pub(super) fn shut(&self, port: u16) {
        self.0.shut.lock().insert(port);
    }

    pub(super) fn open(&self, port: u16) {
        self.0.shut.lock().remove(&port);
    }

    fn is_shut(&self, port: u16) -> bool {
        self.0.shut.lock().contains(&port)
    }

    fn joined(&self, to: SocketAddr) -> (Stream, Stream) {
        let is_cut = Arc::new(AtomicBool::new(false));
        self.0.wires.lock().push(is_cut.clone());
        let (near, far) = duplex(64 * 1024);
        let from = Net::address(1);
        let end = |stream, local, peer| {
            let is_cut = is_cut.clone();
            let (read, write) = split(Wire { stream, is_cut });
            Stream::in_memory(read, write, Ends { local, peer })
        };
        (end(near, from, to), end(far, to, from))
    }
}

impl InMemory for Net {
    fn connect(&self, address: SocketAddr, _: Option<IpAddr>) -> Connecting {
        let net = self.clone();
        Box::pin(async move {
            while net.is_shut(address.port()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let ports = net.0.ports.lock();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let port = ports.get(&address.port()).ok_or_else(refused)?;
            let (near, far) = net.joined(address);
            port.send(far).map_err(|_| refused())?;
            Ok(near)
        })
    }

    fn listen(&self, _: Option<IpAddr>, port: u16) -> io::Result<Box<dyn InMemoryListener>> {
        let (sender, incoming) = mpsc::unbounded_channel();
        self.0.ports.lock().insert(port, sender);
        Ok(Box::new(Port { port, incoming }))
    }
}

struct Port {
    port: u16,
    incoming: mpsc::UnboundedReceiver<Stream>,
}

impl InMemoryListener for Port {
    fn local_addr(&self) -> SocketAddr {
        Net::address(self.port)
    }

    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>> {
        self.incoming
            .poll_recv(context)
            .map(|stream| stream.ok_or_else(|| io::Error::other("the network is gone")))
    }
}

/// One end of a connection. Cut, it takes everything and gives nothing.
struct Wire {
    stream: DuplexStream,
    is_cut: Arc<AtomicBool>,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
