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
