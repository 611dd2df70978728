//! What a message costs on this machine: a round trip of 64 bytes between two of the processes that
//! are measured, by turns with the measured operation.
//!
//! It is what a small operation is compared with: a ring of N peers sends 2(N-1) messages one after
//! the other, and the master's word is a round trip more.
#![allow(
    clippy::disallowed_types,
    reason = "bare sockets are what the library is compared with"
)]

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Instant;

use pccl::Communicator;

use super::raw::{accept, addresses, dial};

/// Of one message, each way.
const MESSAGE_BYTES: usize = 64;

/// Round trips that are measured at once, after one that is not: the processes may not have begun
/// at the same time.
const ROUND_TRIPS: usize = 4;

/// The peers of rank 0 and 1 send messages to and fro, all others have nothing to do.
pub(super) struct Ping {
    role: Role,
    seconds: Vec<f64>,
}

enum Role {
    Asks(TcpStream),
    Answers(TcpStream),
    Rests,
}

impl Ping {
    /// Connects the first two peers in the group's ring order. A joint call.
    pub(super) fn connect(communicator: &Communicator) -> Result<Ping, String> {
        let failed = |error: io::Error| format!("ping: {error}");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        let addresses = addresses(communicator, &listener)?;
        let rank = communicator.rank().ok_or("this peer has no rank")?.0;
        let role = match rank {
            0 => Role::Asks(dial(&addresses[1], rank).map_err(failed)?),
            1 => Role::Answers(accept(&listener, 0).map_err(failed)?),
            _ => Role::Rests,
        };
        if let Role::Asks(stream) | Role::Answers(stream) = &role {
            stream.set_nodelay(true).map_err(failed)?;
        }
        Ok(Ping {
            role,
            seconds: Vec::new(),
        })
    }

    /// Sends some messages to and fro. `counts`: their times are kept.
    pub(super) fn exchange(&mut self, counts: bool) -> Result<(), String> {
        for number in 0..=ROUND_TRIPS {
            let started = Instant::now();
            let done = match &mut self.role {
                Role::Asks(stream) => say(stream).and_then(|()| hear(stream)),
                Role::Answers(stream) => hear(stream).and_then(|()| say(stream)),
                Role::Rests => return Ok(()),
            };
            done.map_err(|error| format!("ping: {error}"))?;
            if counts && number > 0 && matches!(self.role, Role::Asks(_)) {
                self.seconds.push(started.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }

    /// The round trips that this peer measured since the last call; none at all but one peer.
    pub(super) fn take(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.seconds)
    }
}

fn say(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(&[0; MESSAGE_BYTES])
}

fn hear(stream: &mut TcpStream) -> io::Result<()> {
    stream.read_exact(&mut [0; MESSAGE_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_asks_measures() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let to = listener.local_addr().expect("an address");
        let asks = dial(&to, 0).expect("a connection");
        let answers = accept(&listener, 0).expect("its other end");
        let [mut asking, mut answering, mut resting] =
            [Role::Asks(asks), Role::Answers(answers), Role::Rests].map(|role| Ping {
                role,
                seconds: Vec::new(),
            });
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for counts in [false, true, true] {
                    answering.exchange(counts).expect("answers");
                }
            });
            for counts in [false, true, true] {
                asking.exchange(counts).expect("is answered");
                resting.exchange(counts).expect("nothing to do");
            }
        });
        assert_eq!(asking.take().len(), 2 * ROUND_TRIPS);
        assert!(asking.take().is_empty());
        assert!(answering.take().is_empty() && resting.take().is_empty());
    }
}
