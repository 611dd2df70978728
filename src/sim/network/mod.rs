//! A network in memory: machines, paths between them that can be slow, cut or one-way, and
//! connections that behave as TCP's do to those who use them.
//!
//! ```text
//!   process ── Nic (InMemory) ── Switch ── packets, by time of arrival ── Switch ── Nic ── process
//! ```
//!
//! * Bytes of a connection keep their order, arrive in pieces of any size, and are lost only with
//!   the connection: what meets a cut waits for its end.
//! * A sender that gets nothing across for the user timeout loses the connection; the other end is
//!   not told, and finds out when it sends.
//! * A process that dies closes its connections, perhaps a little later; a machine that loses its
//!   power closes nothing and answers nothing.
//! * A frozen process's kernel goes on: connections to it are made, and bytes for it wait.

mod connection;
mod path;
mod port;
mod socket;
mod switch;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

pub use path::Path;

use super::dice::Dice;
use super::history::{ProcessId, WorldTime};
use crate::transport;
use port::Nic;
use switch::Switch;

/// A machine, by number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine(pub u16);

impl Machine {
    /// Its address.
    pub fn ip(self) -> IpAddr {
        let [high, low] = self.0.to_be_bytes();
        IpAddr::V4(Ipv4Addr::new(10, 0, high, low))
    }

    /// The machine of an address.
    pub fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => Self(u16::from_be_bytes([ip.octets()[2], ip.octets()[3]])),
            IpAddr::V6(_) => Self::default(),
        }
    }
}

/// What befalls a connection that a fault strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strike {
    /// Both ends are told, as of a reset in the middle; some of what was under way is lost.
    Reset,
    /// One end is told, the other finds out when it sends.
    HalfOpen,
    /// Nobody is told and nothing arrives any more, as with a NAT that has forgotten.
    Swallow,
}

/// The network, as the world holds it.
#[derive(Clone)]
pub struct Network {
    switch: Arc<Mutex<Switch>>,
}

impl Network {
    /// A network without machines. `user_timeout` is how long a sender waits for its bytes to get
    /// across.
    pub fn new(dice: Dice, user_timeout: Duration) -> Self {
        let switch = Switch::new(dice, user_timeout);
        Self {
            switch: Arc::new(Mutex::new(switch)),
        }
    }

    /// What a process of that machine makes its connections with.
    pub(crate) fn nic(&self, process: ProcessId, machine: Machine) -> transport::Network {
        transport::Network::InMemory(Arc::new(Nic {
            switch: self.switch.clone(),
            process,
            machine,
        }))
    }

    /// When the next packet arrives.
    pub fn next_arrival(&self) -> Option<WorldTime> {
        self.switch.lock().next_arrival()
    }

    /// Lets everything arrive that is due at `now`. Gives the processes it matters to, in order.
    pub fn advance(&self, now: WorldTime) -> Vec<ProcessId> {
        self.switch.lock().advance(now)
    }

    /// The time of the last [`advance`](Self::advance).
    pub fn now(&self) -> WorldTime {
        self.switch.lock().now
    }

    /// Sets the path of one direction.
    pub fn set_path(&self, from: Machine, to: Machine, path: Path) {
        self.switch.lock().set_path(from, to, path);
    }

    /// The path of one direction as it is now.
    pub fn path(&self, from: Machine, to: Machine) -> Path {
        self.switch.lock().path(from, to)
    }

    /// Cuts one direction, or mends it.
    pub fn cut(&self, from: Machine, to: Machine, is_cut: bool) {
        let mut switch = self.switch.lock();
        let path = switch.path(from, to);
        switch.set_path(from, to, Path { is_cut, ..path });
    }

    /// Strikes connections between two machines: all, or about half of them.
    /// Gives how many.
    pub fn strike(&self, a: Machine, b: Machine, strike: Strike, all: bool) -> usize {
        self.switch.lock().strike(a, b, strike, all)
    }

    /// The process is no more. Its kernel closes what it had `after` so long.
    pub fn process_died(&self, process: ProcessId, after: Duration) {
        self.switch.lock().process_died(process, after);
    }

    /// The machine has no power any more.
    pub fn power_off(&self, machine: Machine) {
        self.switch.lock().power_off(machine);
    }

    /// Forgets connections that nobody holds.
    pub fn sweep(&self) {
        self.switch.lock().sweep();
    }

    /// Connections and ports that a process has open.
    pub fn sockets_of(&self, process: ProcessId) -> usize {
        self.switch.lock().sockets_of(process)
    }
}

/// Wakes whoever waits.
fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn machine_of(address: SocketAddr) -> Machine {
    Machine::of(address.ip())
}
