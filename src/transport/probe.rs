//! Looking at an address without talking to it, and choosing the address that reaches a peer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::dial::connect;
use super::network::Network;
use super::options::SocketOptions;
use super::stream::canonical;

/// What became of an attempt to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Somebody listens there.
    Answered,
    /// The machine is there and says that nobody listens: the process that did is gone.
    Refused,
    /// No answer, or none that says anything about the process: it may be alive behind a broken
    /// path.
    Silent,
}

/// Finds out, within `timeout`, whether anybody listens at `address`. Says nothing to them; they
/// see a connection that is closed at once.
pub async fn probe(network: &Network, address: SocketAddr, timeout: Duration) -> Probe {
    let deadline = Instant::now() + timeout;
    match connect(network, address, None, &SocketOptions::default(), deadline).await {
        Ok(_) => Probe::Answered,
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Probe::Refused,
        Err(error) => {
            tracing::debug!(%address, %error, "probe without an answer");
            Probe::Silent
        }
    }
}

/// The address under which a peer that is known as `advertised` is reached from here.
///
/// The master knows a peer on its own machine by a loopback address, which means something else to
/// everybody elsewhere. So where the master as dialled from here is not on loopback, that peer is
/// reached by the master's address.
pub fn reachable_from(advertised: SocketAddr, master: SocketAddr) -> SocketAddr {
    let (advertised, master) = (canonical(advertised), canonical(master));
    if !advertised.ip().is_loopback() || master.ip().is_loopback() {
        return advertised;
    }
    // Keeps the scope that a link-local IPv6 address needs.
    let mut reachable = master;
    reachable.set_port(advertised.port());
    reachable
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    #[cfg(target_os = "linux")]
    use crate::transport::dial::tests::crowded;

    const PATIENCE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_listener_answers_and_a_vacant_port_refuses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(
            probe(&Network::System, address, PATIENCE).await,
            Probe::Answered
        );
        drop(listener);
        assert_eq!(
            probe(&Network::System, address, PATIENCE).await,
            Probe::Refused
        );
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn no_answer_is_not_taken_for_a_refusal() {
        let (address, _socket, _crowd) = crowded().await;
        let soon = Duration::from_millis(20);
        assert_eq!(probe(&Network::System, address, soon).await, Probe::Silent);
    }

    #[test]
    fn a_loopback_peer_of_a_remote_master_is_reached_by_the_masters_address() {
        let reached = |advertised: &str, master: &str| {
            reachable_from(advertised.parse().unwrap(), master.parse().unwrap()).to_string()
        };
        assert_eq!(
            reached("127.0.0.1:48149", "192.0.2.1:48148"),
            "192.0.2.1:48149"
        );
        assert_eq!(reached("[::1]:48149", "192.0.2.1:48148"), "192.0.2.1:48149");
        assert_eq!(
            reached("[::1]:48149", "[fe80::1%3]:48148"),
            "[fe80::1%3]:48149"
        );
        assert_eq!(
            reached("[::ffff:127.0.0.1]:48149", "192.0.2.1:48148"),
            "192.0.2.1:48149"
        );
    }

    #[test]
    fn other_addresses_are_left_as_they_are() {
        let reached = |advertised: &str, master: &str| {
            reachable_from(advertised.parse().unwrap(), master.parse().unwrap()).to_string()
        };
        assert_eq!(
            reached("192.0.2.7:48149", "192.0.2.1:48148"),
            "192.0.2.7:48149"
        );
        assert_eq!(
            reached("127.0.0.1:48149", "127.0.0.1:48148"),
            "127.0.0.1:48149"
        );
        assert_eq!(reached("127.0.0.1:48149", "[::1]:48148"), "127.0.0.1:48149");
    }
}
