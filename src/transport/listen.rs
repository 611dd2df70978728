//! The one listening port of a communicator, or of the master.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::ops::RangeInclusive;

use socket2::{Domain, SockRef, Socket, Type};
use thiserror::Error;

use super::congestion;
#[cfg(any(test, feature = "sim"))]
use super::network::InMemoryListener;
use super::network::Network;
use super::os::fork::{self, Registration};

/// A port that is listened on. Connections wait in the kernel until an
/// [`Acceptor`](super::Acceptor) takes them; dropping it gives the port back.
pub struct Listener {
    pub(super) port: Port,
    local_addr: SocketAddr,
}

pub(super) enum Port {
    Tcp {
        // Before the socket: fields are dropped in this order, and a socket leaves the registry
        // before it is closed.
        registration: Registration,
        socket: TcpListener,
    },
    #[cfg(any(test, feature = "sim"))]
    InMemory(Box<dyn InMemoryListener>),
}

impl Listener {
    /// The address and port that were taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

/// Listens on the first free port of `ports`, counted upwards; `0..=0` takes any free port.
///
/// `bind` is the address of one network interface; `None` listens on all of them, for IPv6 and
/// IPv4 at once, or for IPv4 alone where the system has no IPv6. No I/O beyond that, no runtime
/// needed.
pub fn listen_in_range(
    network: &Network,
    bind: Option<IpAddr>,
    ports: RangeInclusive<u16>,
) -> Result<Listener, ListenError> {
    let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no port in this range");
    for port in ports.clone() {
        match listen(network, bind, port) {
            Ok(listener) => return Ok(listener),
            Err(error) => {
                let next_may_be_free = matches!(
                    error.kind(),
                    io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
                );
                last = error;
                if !next_may_be_free {
                    break;
                }
            }
        }
    }
    Err(ListenError {
        range: describe(bind, &ports),
        source: last,
    })
}

/// Why no port could be listened on.
#[derive(Debug, Error)]
#[error("cannot listen on {range}: {source}")]
pub struct ListenError {
    /// The address and ports that were tried.
    pub range: String,
    /// What the system said of the last one.
    pub source: io::Error,
}

/// Connections that the kernel holds while the acceptor is busy.
const BACKLOG: i32 = 1024;

fn listen(network: &Network, bind: Option<IpAddr>, port: u16) -> io::Result<Listener> {
    match network {
        Network::System => listen_on_tcp(bind, port),
        #[cfg(any(test, feature = "sim"))]
        Network::InMemory(network) => network.listen(bind, port).map(|port| Listener {
            local_addr: port.local_addr(),
            port: Port::InMemory(port),
        }),
    }
}

fn listen_on_tcp(bind: Option<IpAddr>, port: u16) -> io::Result<Listener> {
    match bind {
        Some(ip) => listen_at((ip, port).into(), false),
        None => match listen_at((Ipv6Addr::UNSPECIFIED, port).into(), true) {
            Err(error) if lacks_ipv6(&error) => {
                listen_at((Ipv4Addr::UNSPECIFIED, port).into(), false)
            }
            outcome => outcome,
        },
    }
}

fn listen_at(address: SocketAddr, dual_stack: bool) -> io::Result<Listener> {
    // Made close-on-exec by socket2.
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    if dual_stack {
        socket.set_only_v6(false)?;
    }
    // Lets a restarted process take its port back from connections that are still fading away. On
    // Unix this never lets two listeners share a port; elsewhere it would.
    #[cfg(unix)]
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    // For the connections that it accepts.
    congestion::begin(&SockRef::from(&socket));
    // Two processes can bind one port; the second to listen is told so here.
    socket.listen(BACKLOG)?;
    let socket = TcpListener::from(socket);
    Ok(Listener {
        local_addr: socket.local_addr()?,
        port: Port::Tcp {
            registration: fork::register(&socket),
            socket,
        },
    })
}

/// Whether the failure is one that an IPv4 socket may not meet.
fn lacks_ipv6(error: &io::Error) -> bool {
    !matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    )
}

fn describe(bind: Option<IpAddr>, ports: &RangeInclusive<u16>) -> String {
    let ports = match (ports.start(), ports.end()) {
        (first, last) if first == last => format!("port {first}"),
        (first, last) => format!("ports {first}-{last}"),
    };
    match bind {
        Some(ip) => format!("{ip}, {ports}"),
        None => ports,
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listener").field(&self.local_addr).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    const LOOPBACK: Option<IpAddr> = Some(IpAddr::V4(Ipv4Addr::LOCALHOST));

    #[test]
    fn a_taken_port_moves_on_to_the_next() {
        // The neighbour's port may be in use by others: then the one after it is found.
        let first = listen_in_range(&Network::System, LOOPBACK, 0..=0).unwrap();
        let port = first.local_addr().port();
        let second =
            listen_in_range(&Network::System, LOOPBACK, port..=port.saturating_add(50)).unwrap();
        assert!(second.local_addr().port() > port);
    }

    #[test]
    fn a_range_without_a_free_port_is_named_in_the_error() {
        let first = listen_in_range(&Network::System, None, 0..=0).unwrap();
        let port = first.local_addr().port();
        let error = listen_in_range(&Network::System, None, port..=port).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(
            error
                .to_string()
                .starts_with(&format!("cannot listen on port {port}: "))
        );
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges)]
    fn an_empty_range_is_an_error() {
        let error = listen_in_range(&Network::System, LOOPBACK, 9..=8).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn an_address_of_another_machine_is_not_tried_on_every_port() {
        // From the block that is reserved for documentation.
        let elsewhere = Some(IpAddr::from([198, 51, 100, 1]));
        let error = listen_in_range(&Network::System, elsewhere, 1024..=65535).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn the_default_is_reached_over_ipv4_and_where_available_over_ipv6() {
        let listener = listen_in_range(&Network::System, None, 0..=0).unwrap();
        let port = listener.local_addr().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_dropped_listener_gives_its_port_back_at_once() {
        let listener = listen_in_range(&Network::System, LOOPBACK, 0..=0).unwrap();
        let address = listener.local_addr();
        let client = TcpStream::connect(address).unwrap();
        drop(listener);
        drop(client);
        let again =
            listen_in_range(&Network::System, LOOPBACK, address.port()..=address.port()).unwrap();
        assert_eq!(again.local_addr(), address);
    }
}
