//! One attempt to reach the master.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::transport::{GreetError, Network, SocketOptions, Stream, dial, greet, resolve};
use crate::wire::control::{Hello, Message, Welcome};
use crate::wire::greeting::Kind;

/// Why there is no connection.
pub(super) enum Unreached {
    /// The master does not want it.
    Refused(String),
    /// It may go better another time.
    Failed(String),
}

/// Dials and greets the master; gives the connection, the answer, and the address that worked.
/// Each step may take `within`: the name, the connection, the answer.
pub(super) async fn reach(
    network: &Network,
    master: &str,
    bind: Option<IpAddr>,
    hello: &Hello,
    within: Duration,
) -> Result<(Stream, Welcome, SocketAddr), Unreached> {
    let failed = |error: std::io::Error| Unreached::Failed(error.to_string());
    let resolved = tokio::time::timeout(within, resolve(master)).await;
    let addresses = resolved
        .map_err(|_| Unreached::Failed(format!("{master} was not resolved in time")))?
        .map_err(failed)?;
    let socket = SocketOptions::control();
    let mut stream = dial(network, &addresses, bind, &socket, within)
        .await
        .map_err(failed)?;
    let address = stream.peer_addr().map_err(failed)?;
    match greet(&mut stream, Kind::Control, &hello.encode(), within).await {
        Ok(greeting) => {
            let welcome = Welcome::decode(&greeting.body)
                .map_err(|error| Unreached::Failed(error.to_string()))?;
            Ok((stream, welcome, address))
        }
        Err(GreetError::Refused(reason)) => Err(Unreached::Refused(reason)),
        // Whether a member is out is not for a master to say that does not speak its language.
        Err(error @ GreetError::Version { .. }) if matches!(hello, Hello::Join(_)) => {
            Err(Unreached::Refused(error.to_string()))
        }
        Err(error) => Err(Unreached::Failed(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::types::{PeerId, RunId};
    use crate::wire::control::{Join, Reign};
    use crate::wire::greeting;

    /// Whether a master of another wire version refuses this hello for good.
    async fn is_refused_by_another_version(hello: Hello) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let master = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut answer = greeting::encode(Kind::Refused, b"I speak version 7").unwrap();
            answer[4] = 7;
            let _ = stream.read(&mut [0; 64]).await.unwrap();
            stream.write_all(&answer).await.unwrap();
            // Until the other end closes.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        let within = Duration::from_secs(20);
        let reached = async {
            match reach(&Network::System, &address, None, &hello, within).await {
                Err(Unreached::Refused(_)) => true,
                Err(Unreached::Failed(_)) => false,
                Ok(_) => panic!("it is no master of this version"),
            }
        };
        tokio::join!(master, reached).1
    }

    #[tokio::test]
    async fn a_master_of_another_version_refuses_newcomers_and_costs_no_member_its_place() {
        assert!(is_refused_by_another_version(Hello::Join(Join::default())).await);
        let resume = Hello::Resume {
            run: RunId(1),
            peer: PeerId(2),
            token: 3,
            last_seen: 4,
            reign: Reign::default(),
            accepted: true,
            masters: 2,
            one_of_voters: 2,
        };
        assert!(!is_refused_by_another_version(resume).await);
    }
}
