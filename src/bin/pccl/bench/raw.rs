//! What the network gives without us: the same processes in the same ring send as many bytes over
//! bare sockets, by turns with the measured operation.
//!
//! Each link has some streams and each stream a thread at both ends, which run before a
//! measurement begins. The bytes come from memory of that size and go to as much, on the same
//! kind of pages as the operation's; nothing is reduced, and nobody waits for anybody.
//!
//! A stream begins with the rank of who dialled it (`u32`, little-endian): whoever else finds the
//! port is refused.
#![allow(
    clippy::disallowed_types,
    reason = "bare sockets are what the library is compared with"
)]

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use pccl::{Communicator, ReduceOptions};
use serde::{Deserialize, Serialize};
use socket2::SockRef;

use super::cpu;
use super::pages::{Buffer, Pages};
use super::peer::EXCHANGE;

/// What is written and read at once.
const PIECE_BYTES: usize = 256 * 1024;

/// Streams of one link. All of them are dialled before any is accepted, so as many as a listener of
/// std lets wait: with more, every peer would wait for its right neighbour to accept.
pub(super) const MOST_STREAMS: i64 = 128;

/// For a dialled connection to stand, and for an accepted one to say whose it is.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// One congestion control's measurements of one size at one peer.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(super) struct RawMeasurement {
    pub(super) congestion: String,
    pub(super) seconds: Vec<f64>,
    pub(super) cpu_seconds: Option<f64>,
}

/// This process's place in a ring of bare sockets.
pub(super) struct RawRing {
    name: String,
    /// One for each thread: how many bytes it has to move next.
    work: Vec<Sender<u64>>,
    done: Receiver<io::Result<()>>,
    streams: u64,
    measured: RawMeasurement,
}

impl RawRing {
    /// Connects the group's peers in its ring order. A joint call.
    pub(super) fn connect(
        communicator: &Communicator,
        streams: u16,
        congestion: Option<&str>,
        pages: Pages,
    ) -> Result<RawRing, String> {
        let name = congestion.unwrap_or("system");
        let failed = |error: io::Error| format!("bare sockets under {name}: {error}");
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(failed)?;
        let addresses = addresses(communicator, &listener)?;
        let own_rank = communicator.rank().ok_or("this peer has no rank")?.0;
        let rank = own_rank as usize;
        let to = addresses[(rank + 1) % addresses.len()];
        let left = (rank + addresses.len() - 1) % addresses.len();

        let (finished, done) = mpsc::channel();
        let mut work = Vec::new();
        for _ in 0..streams {
            let outgoing = dial(&to, own_rank).map_err(failed)?;
            prepare(&outgoing, congestion).map_err(failed)?;
            work.push(start(outgoing, pages, finished.clone(), send));
        }
        for _ in 0..streams {
            let incoming = accept(&listener, left as u32).map_err(failed)?;
            prepare(&incoming, congestion).map_err(failed)?;
            work.push(start(incoming, pages, finished.clone(), receive));
        }
        Ok(RawRing {
            name: name.to_owned(),
            work,
            done,
            streams: u64::from(streams),
            measured: RawMeasurement::none(name),
        })
    }

    /// Sends `bytes` to the right and receives as many from the left, both at once. `counts`: the
    /// time is kept.
    pub(super) fn exchange(&mut self, bytes: u64, counts: bool) -> Result<(), String> {
        let cpu_before = cpu::used();
        let started = Instant::now();
        for (index, work) in (0..).zip(&self.work) {
            // A thread that has ended has said why.
            let _ = work.send(share(bytes, self.streams, index % self.streams));
        }
        for _ in &self.work {
            let outcome = self.done.recv().map_err(|error| error.to_string())?;
            outcome.map_err(|error| format!("bare sockets under {}: {error}", self.name))?;
        }
        let elapsed = started.elapsed();
        if counts {
            self.measured.seconds.push(elapsed.as_secs_f64());
            self.measured.cpu_seconds =
                cpu::sum(self.measured.cpu_seconds, cpu_before, cpu::used());
        }
        Ok(())
    }

    /// What was measured since the last call.
    pub(super) fn take(&mut self) -> RawMeasurement {
        let none = RawMeasurement::none(&self.name);
        std::mem::replace(&mut self.measured, none)
    }
}

impl RawMeasurement {
    fn none(congestion: &str) -> RawMeasurement {
        RawMeasurement {
            congestion: congestion.to_owned(),
            seconds: Vec::new(),
            cpu_seconds: Some(0.0),
        }
    }
}

/// Bytes of the stream `index` of `streams`.
fn share(bytes: u64, streams: u64, index: u64) -> u64 {
    bytes / streams + u64::from(index < bytes % streams)
}

fn host(address: &str) -> Result<IpAddr, String> {
    let parsed: Result<SocketAddr, _> = address.parse();
    parsed
        .map(|address| address.ip())
        .map_err(|error| format!("{address}: {error}"))
}

/// Where the peers listen, in the ring's order. A joint call.
pub(super) fn addresses(
    communicator: &Communicator,
    listener: &TcpListener,
) -> Result<Vec<SocketAddr>, String> {
    let port = listener.local_addr().map_err(|error| error.to_string())?;
    let members = communicator.members();
    let rank = communicator.rank().ok_or("this peer has no rank")?.0;
    let mut ports = vec![0_u64; members.len()];
    ports[rank as usize] = u64::from(port.port());
    communicator
        .all_reduce_in_place(&mut ports, &ReduceOptions::sum().tag(EXCHANGE))
        .map_err(|error| error.to_string())?;
    let mut addresses = Vec::new();
    for (member, port) in members.iter().zip(ports) {
        let port = u16::try_from(port).map_err(|error| error.to_string())?;
        addresses.push(SocketAddr::new(host(&member.address)?, port));
    }
    Ok(addresses)
}

pub(super) fn dial(to: &SocketAddr, own_rank: u32) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(to, DIAL_TIMEOUT)?;
    stream.write_all(&own_rank.to_le_bytes())?;
    Ok(stream)
}

/// The next connection of the peer with this rank.
pub(super) fn accept(listener: &TcpListener, rank: u32) -> io::Result<TcpStream> {
    loop {
        let (mut stream, address) = listener.accept()?;
        stream.set_read_timeout(Some(DIAL_TIMEOUT))?;
        let mut said = [0; 4];
        let outcome = stream.read_exact(&mut said);
        if outcome.is_ok() && u32::from_le_bytes(said) == rank {
            stream.set_read_timeout(None)?;
            return Ok(stream);
        }
        eprintln!("pccl bench: refused a connection from {address}, which is not of rank {rank}");
    }
}

fn prepare(stream: &TcpStream, congestion: Option<&str>) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    #[cfg(target_os = "linux")]
    if let Some(congestion) = congestion {
        socket.set_tcp_congestion(congestion.as_bytes())?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = congestion;
    Ok(())
}

/// A thread that moves bytes over one stream whenever it is told how many.
fn start(
    stream: TcpStream,
    pages: Pages,
    finished: Sender<io::Result<()>>,
    transfer: fn(&TcpStream, &mut [u8]) -> io::Result<()>,
) -> Sender<u64> {
    let (work, todo) = mpsc::channel();
    std::thread::spawn(move || {
        let mut memory = Buffer::<u8>::zeroed(0, pages);
        for bytes in todo {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            if memory.as_ref().is_ok_and(|memory| memory.len() < bytes) {
                memory = Buffer::zeroed(bytes, pages);
                // Touched here, and not in a measured iteration.
                memory.iter_mut().for_each(|memory| memory.fill(1));
            }
            let outcome = match &mut memory {
                Ok(memory) => transfer(&stream, &mut memory[..bytes]),
                Err(error) => Err(error.kind().into()),
            };
            if finished.send(outcome).is_err() {
                return;
            }
        }
    });
    work
}

fn send(mut stream: &TcpStream, memory: &mut [u8]) -> io::Result<()> {
    memory
        .chunks(PIECE_BYTES)
        .try_for_each(|piece| stream.write_all(piece))
}

fn receive(mut stream: &TcpStream, memory: &mut [u8]) -> io::Result<()> {
    memory
        .chunks_mut(PIECE_BYTES)
        .try_for_each(|piece| stream.read_exact(piece))
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn only_the_neighbours_connection_is_taken() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let to = listener.local_addr().expect("an address");
        let silent = TcpStream::connect(to).expect("a connection");
        silent.shutdown(Shutdown::Write).expect("an end");
        let _of_another_ring = dial(&to, 7).expect("a connection");
        let neighbour = dial(&to, 2).expect("a connection");
        let accepted = accept(&listener, 2).expect("the neighbour's");
        assert_eq!(
            accepted.peer_addr().expect("an address"),
            neighbour.local_addr().expect("an address")
        );
        assert_eq!(accepted.read_timeout().expect("a setting"), None);
    }

    #[test]
    fn all_streams_of_a_link_stand_before_one_is_accepted() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let to = listener.local_addr().expect("an address");
        let dialled: Vec<_> = (0..MOST_STREAMS).map(|_| dial(&to, 0)).collect();
        assert!(dialled.iter().all(io::Result::is_ok));
        for _ in &dialled {
            assert!(accept(&listener, 0).is_ok());
        }
    }

    #[test]
    fn the_streams_share_all_bytes() {
        for bytes in [0, 1, 7, 1 << 20] {
            let total: u64 = (0..4).map(|index| share(bytes, 4, index)).sum();
            assert_eq!(total, bytes);
        }
    }
}
