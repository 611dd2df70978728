//! Names to addresses, addresses to connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::network::Network;
use super::options::SocketOptions;
use super::stream::Stream;

/// The addresses of `host:port`, in the system's order of preference. The host is a name, an IPv4
/// address or an IPv6 address in brackets. Asking for a name can take many seconds where name
/// servers do not answer.
pub async fn resolve(host_port: &str) -> io::Result<Vec<SocketAddr>> {
    if let Ok(address) = host_port.parse() {
        return Ok(vec![address]);
    }
    let (host, port) = split(host_port)?;
    let found = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<_> = found
        .map_err(|error| io::Error::new(error.kind(), format!("`{host}`: {error}")))?
        .collect();
    if addresses.is_empty() {
        let reason = format!("`{host}` has no address");
        return Err(io::Error::new(io::ErrorKind::NotFound, reason));
    }
    Ok(addresses)
}

/// Connects to the first of `addresses` that answers, trying them in turn, `timeout` in all. The
/// error tells what each of them met.
///
/// `bind` is the local address to dial from; addresses of the other family are left out. Each
/// address gets an equal share of the time that is left, so that a silent one does not use up
/// the others'.
pub async fn dial(
    network: &Network,
    addresses: &[SocketAddr],
    bind: Option<IpAddr>,
    options: &SocketOptions,
    timeout: Duration,
) -> io::Result<Stream> {
    let deadline = Instant::now() + timeout;
    let mut kind = io::ErrorKind::NotFound;
    let mut met = Vec::new();
    for (tried, &address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / (addresses.len() - tried) as u32;
        match connect(network, address, bind, options, Instant::now() + share).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                kind = error.kind();
                met.push(format!("{address}: {error}"));
            }
        }
    }
    if met.is_empty() {
        met.push("no address to connect to".into());
    }
    Err(io::Error::new(kind, met.join("; ")))
}

/// One attempt at one address.
pub(super) async fn connect(
    network: &Network,
    address: SocketAddr,
    bind: Option<IpAddr>,
    options: &SocketOptions,
    deadline: Instant,
) -> io::Result<Stream> {
    let connecting = async {
        match network {
            Network::System => connect_tcp(address, bind, options).await.map(Stream::new),
            #[cfg(any(test, feature = "sim"))]
            Network::InMemory(network) => network.connect(address, bind).await,
        }
    };
    match timeout_at(deadline, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")),
    }
}

async fn connect_tcp(
    address: SocketAddr,
    bind: Option<IpAddr>,
    options: &SocketOptions,
) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    options.apply(&SockRef::from(&socket));
    if let Some(ip) = bind.filter(|ip| !ip.is_unspecified()) {
        if ip.is_ipv4() != address.is_ipv4() {
            let reason = format!("cannot be dialled from {ip}, which is of another family");
            return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, reason));
        }
        socket.bind(&SocketAddr::new(ip, 0).into())?;
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    let tcp = socket.connect(address).await?;
    options.settle(&SockRef::from(&tcp));
    // Dialling a free port of one's own machine can be given that very port to dial from: TCP then
    // connects the socket to itself.
    if tcp.local_addr()? == tcp.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(tcp)
}

fn split(host_port: &str) -> io::Result<(&str, u16)> {
    let malformed = |what: &str| {
        let reason = format!("`{host_port}` {what}; write `host:port`");
        io::Error::new(io::ErrorKind::InvalidInput, reason)
    };
    let (host, port) = host_port
        .rsplit_once(':')
        .ok_or_else(|| malformed("names no port"))?;
    if host.is_empty() {
        return Err(malformed("names no host"));
    }
    if host.contains(':') {
        return Err(malformed("is no address: an IPv6 address goes in brackets"));
    }
    let port = port
        .parse()
        .map_err(|_| malformed("has no port of 0 to 65535"))?;
    Ok((host, port))
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    async fn dial_simply(addresses: &[SocketAddr], bind: Option<IpAddr>) -> io::Result<Stream> {
        dial(
            &Network::System,
            addresses,
            bind,
            &SocketOptions::default(),
            PATIENCE,
        )
        .await
    }

    /// An address that nobody listens on.
    async fn vacant() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    }

    #[tokio::test]
    async fn addresses_and_names_are_resolved() {
        let v4 = resolve("127.0.0.1:48148").await.unwrap();
        assert_eq!(v4, ["127.0.0.1:48148".parse().unwrap()]);
        let v6 = resolve("[::1]:48148").await.unwrap();
        assert_eq!(v6, ["[::1]:48148".parse().unwrap()]);
        let name = resolve("localhost:48148").await.unwrap();
        assert!(
            name.iter()
                .all(|a| a.ip().is_loopback() && a.port() == 48148)
        );
    }

    #[tokio::test]
    async fn what_is_no_address_is_said() {
        for (text, what) in [
            ("localhost", "names no port"),
            (":48148", "names no host"),
            ("::1:48148", "in brackets"),
            ("localhost:99999", "no port of 0 to 65535"),
        ] {
            let error = resolve(text).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{text}");
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[tokio::test]
    async fn the_next_address_is_tried_where_one_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let addresses = [vacant().await, address];
        let (near, far) = tokio::join!(dial_simply(&addresses, None), listener.accept());
        let (mut near, (far, _)) = (near.unwrap(), far.unwrap());
        assert_eq!(near.peer_addr().unwrap(), address);
        let mut far = Stream::new(far);
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
    }

    #[tokio::test]
    async fn every_address_that_refused_is_named() {
        let addresses = [vacant().await, vacant().await];
        let error = dial_simply(&addresses, None).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        for address in addresses {
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
        assert!(dial_simply(&[], None).await.is_err());
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn the_local_address_is_the_one_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [listener.local_addr().unwrap()];
        // All of 127.0.0.0/8 is this machine on Linux.
        let bind = IpAddr::from([127, 0, 0, 2]);
        let stream = dial_simply(&addresses, Some(bind)).await.unwrap();
        assert_eq!(stream.local_addr().unwrap().ip(), bind);
        let other_family = Some("::1".parse().unwrap());
        assert!(dial_simply(&addresses, other_family).await.is_err());
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn a_silent_address_is_given_up() {
        let (address, _socket, _crowd) = crowded().await;
        let soon = Duration::from_millis(20);
        let outcome = dial(
            &Network::System,
            &[address],
            None,
            &SocketOptions::default(),
            soon,
        )
        .await;
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    /// A listener whose backlog is full: Linux then leaves further connections unanswered.
    #[cfg(target_os = "linux")]
    pub(in crate::transport) async fn crowded() -> (SocketAddr, Socket, Vec<TcpStream>) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        socket.bind(&any.into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut crowd = Vec::new();
        let patience = Duration::from_millis(200);
        while let Ok(Ok(tcp)) = tokio::time::timeout(patience, TcpStream::connect(address)).await {
            crowd.push(tcp);
        }
        (address, socket, crowd)
    }
}
