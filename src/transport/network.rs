//! Where connections are made: among the system's sockets, or in memory.
//!
//! Everything above asks a [`Network`] for its connections, so that a simulation can put one of
//! its own under the whole library.

#[cfg(any(test, feature = "sim"))]
use std::{
    fmt::Debug,
    future::Future,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

#[cfg(any(test, feature = "sim"))]
use super::stream::Stream;

/// The network that a master or a peer lives in.
#[derive(Clone, Debug, Default)]
pub enum Network {
    /// The system's sockets.
    #[default]
    System,
    /// One that somebody made up.
    #[cfg(any(test, feature = "sim"))]
    InMemory(Arc<dyn InMemory>),
}

/// A network without sockets, as one process sees it.
#[cfg(any(test, feature = "sim"))]
pub trait InMemory: Debug + Send + Sync {
    /// One attempt to connect; the caller gives up waiting where it takes too long. `bind` is the
    /// local address to dial from.
    fn connect(&self, address: SocketAddr, bind: Option<IpAddr>) -> Connecting;

    /// Listens on one port; 0 takes any free one.
    fn listen(&self, bind: Option<IpAddr>, port: u16) -> io::Result<Box<dyn InMemoryListener>>;
}

/// What [`InMemory::connect`] comes to.
#[cfg(any(test, feature = "sim"))]
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

/// A port of a network in memory. Dropping it gives the port back.
#[cfg(any(test, feature = "sim"))]
pub trait InMemoryListener: Send + Sync {
    /// The address and port that were taken.
    fn local_addr(&self) -> SocketAddr;

    /// The next connection.
    fn poll_accept(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Stream>>;
}
