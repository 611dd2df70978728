//! The middle of the network: packets on their way, and what they do when they arrive.

mod faults;
mod sockets;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Duration;

use super::connection::{Connection, Dial, Side};
use super::{Machine, Path, machine_of, wake};
use crate::sim::dice::Dice;
use crate::sim::history::{ProcessId, WorldTime};

/// Whose end it is until it is accepted.
const NOBODY: ProcessId = ProcessId(u32::MAX);

/// The world's clocks count in steps of this: whatever arrives does so on one.
const STEP_NS: u64 = 1_000_000;

pub(super) struct Switch {
    pub(super) now: WorldTime,
    pub(super) dice: Dice,
    user_timeout: Duration,
    paths: BTreeMap<(Machine, Machine), Line>,
    off: BTreeSet<Machine>,
    dead: BTreeSet<ProcessId>,
    pub(super) ports: BTreeMap<SocketAddr, Port>,
    pub(super) connections: BTreeMap<u64, Connection>,
    arrivals: BTreeMap<(WorldTime, u64), Arrival>,
    next_number: u64,
    next_port: u16,
    touched: BTreeSet<ProcessId>,
}

struct Line {
    path: Path,
    free_at: WorldTime,
    cut_since: WorldTime,
    /// What met the cut, in order.
    held: VecDeque<Packet>,
}

/// A port that is listened on.
pub(super) struct Port {
    pub(super) process: ProcessId,
    pub(super) backlog: VecDeque<u64>,
    pub(super) waker: Option<Waker>,
}

enum Arrival {
    Packet(Packet),
    /// Looks whether an end has waited too long for its bytes to get across.
    Overdue {
        connection: u64,
        from: Side,
        sent_at: WorldTime,
        why: Overdue,
    },
    /// The kernel closes what a dead process had.
    Buried(ProcessId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Overdue {
    /// Never arrived.
    Lost,
    /// Arrived, but nothing comes back.
    Unanswered,
    /// The other side takes nothing.
    Blocked,
}

struct Packet {
    /// In the order in which they were sent.
    number: u64,
    connection: u64,
    from: Side,
    sent_at: WorldTime,
    what: What,
}

enum What {
    Open(SocketAddr),
    Answer,
    Refuse,
    Bytes(Vec<u8>),
    Fin,
    Reset,
    Credit(usize),
}

impl Switch {
    pub(super) fn new(dice: Dice, user_timeout: Duration) -> Self {
        Self {
            now: WorldTime::default(),
            dice,
            user_timeout,
            paths: BTreeMap::new(),
            off: BTreeSet::new(),
            dead: BTreeSet::new(),
            ports: BTreeMap::new(),
            connections: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            next_number: 1,
            next_port: 32768,
            touched: BTreeSet::new(),
        }
    }

    pub(super) fn next_arrival(&self) -> Option<WorldTime> {
        self.arrivals.keys().next().map(|(at, _)| *at)
    }

    pub(super) fn advance(&mut self, now: WorldTime) -> Vec<ProcessId> {
        self.now = self.now.max(now);
        while let Some(entry) = self.arrivals.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            match entry.remove() {
                Arrival::Packet(packet) => self.arrive(packet),
                Arrival::Overdue {
                    connection,
                    from,
                    sent_at,
                    why,
                } => self.look_overdue(connection, from, sent_at, why),
                Arrival::Buried(process) => self.bury(process),
            }
        }
        std::mem::take(&mut self.touched).into_iter().collect()
    }

    fn line(&mut self, from: Machine, to: Machine) -> &mut Line {
        self.paths.entry((from, to)).or_insert_with(|| Line {
            path: Path::LOOPBACK,
            free_at: WorldTime::default(),
            cut_since: WorldTime::default(),
            held: VecDeque::new(),
        })
    }

    pub(super) fn path(&mut self, from: Machine, to: Machine) -> Path {
        self.line(from, to).path
    }

    pub(super) fn set_path(&mut self, from: Machine, to: Machine, path: Path) {
        let now = self.now;
        let line = self.line(from, to);
        if path.is_cut && !line.path.is_cut {
            line.cut_since = now;
        }
        line.path = path;
        if !path.is_cut {
            let held = std::mem::take(&mut line.held);
            self.go_on(held.into());
        }
    }

    /// What met a cut goes on, and before anything of its connection that was sent later.
    fn go_on(&mut self, mut packets: Vec<Packet>) {
        let way = |packet: &Packet| (packet.connection, packet.from);
        let ways: BTreeSet<(u64, Side)> = packets.iter().map(way).collect();
        let is_behind = |arrival: &Arrival| match arrival {
            Arrival::Packet(packet) => ways.contains(&way(packet)),
            _ => false,
        };
        let behind: Vec<_> = self
            .arrivals
            .iter()
            .filter(|(_, arrival)| is_behind(arrival))
            .map(|(key, _)| *key)
            .collect();
        for key in behind {
            if let Some(Arrival::Packet(packet)) = self.arrivals.remove(&key) {
                packets.push(packet);
            }
        }
        packets.sort_by_key(|packet| packet.number);
        for packet in packets {
            self.post(packet);
        }
    }

    fn schedule(&mut self, at: WorldTime, arrival: Arrival) {
        // Never now: what a process does in this step is seen in the next.
        let at = at.0.max(self.now.0 + 1).div_ceil(STEP_NS) * STEP_NS;
        let number = self.next_number;
        self.next_number += 1;
        self.arrivals.insert((WorldTime(at), number), arrival);
    }

    fn send(&mut self, connection: u64, from: Side, what: What) {
        let (sent_at, number) = (self.now, self.next_number);
        self.next_number += 1;
        self.post(Packet {
            number,
            connection,
            from,
            sent_at,
            what,
        });
    }

    /// Puts a packet on its way; it was sent before if it met a cut.
    fn post(&mut self, packet: Packet) {
        let Some(connection) = self.connections.get(&packet.connection) else {
            return;
        };
        let [from, to] = [packet.from, 1 - packet.from].map(|side| connection.ends[side].address);
        let (from, to) = (machine_of(from), machine_of(to));
        let now = self.now;
        let line = self.line(from, to);
        let path = line.path;
        let len_bytes = match &packet.what {
            What::Bytes(bytes) => bytes.len() + 60,
            _ => 60,
        };
        line.free_at = line.free_at.max(now) + path.busy(len_bytes);
        let free_at = line.free_at;
        let jitter_ns = u64::try_from(path.jitter.as_nanos()).unwrap_or(u64::MAX);
        let jitter = match jitter_ns {
            0 => Duration::ZERO,
            ns => Duration::from_nanos(self.dice.below(ns)),
        };
        let arrives = free_at + path.delay + jitter;
        let Some(connection) = self.connections.get_mut(&packet.connection) else {
            return;
        };
        let end = &mut connection.ends[packet.from];
        end.last_arrival = end.last_arrival.max(arrives);
        let at = end.last_arrival;
        self.schedule(at, Arrival::Packet(packet));
    }

    fn arrive(&mut self, packet: Packet) {
        let Some(connection) = self.connections.get(&packet.connection) else {
            return;
        };
        let [from, to] = [packet.from, 1 - packet.from].map(|side| connection.ends[side].address);
        let (from, to) = (machine_of(from), machine_of(to));
        let (is_data, overdue) = match &packet.what {
            What::Bytes(_) | What::Fin => (true, packet.sent_at + self.user_timeout),
            _ => (false, packet.sent_at),
        };
        let late = |why| Arrival::Overdue {
            connection: packet.connection,
            from: packet.from,
            sent_at: packet.sent_at,
            why,
        };
        if connection.is_swallowed || self.off.contains(&from) || self.off.contains(&to) {
            if is_data {
                self.schedule(overdue, late(Overdue::Lost));
            }
            return;
        }
        if self.line(from, to).path.is_cut {
            if is_data {
                self.schedule(overdue, late(Overdue::Lost));
            }
            self.line(from, to).held.push_back(packet);
            return;
        }
        if is_data && self.line(to, from).path.is_cut {
            self.schedule(overdue, late(Overdue::Unanswered));
        }
        self.take(packet);
    }

    /// A packet has reached the other machine's kernel.
    fn take(&mut self, packet: Packet) {
        let (number, to) = (packet.connection, 1 - packet.from);
        if let What::Open(address) = packet.what {
            return self.opened(number, address);
        }
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        self.touched.insert(connection.ends[to].process);
        let end = &mut connection.ends[to];
        match packet.what {
            What::Open(_) => {}
            What::Answer => {
                if let Dial::Waiting(waker) = &mut connection.dial {
                    wake(waker);
                    connection.dial = Dial::Answered;
                }
            }
            What::Refuse => {
                if let Dial::Waiting(waker) = &mut connection.dial {
                    wake(waker);
                    connection.dial = Dial::Failed(io::ErrorKind::ConnectionRefused);
                }
            }
            What::Bytes(_) | What::Fin if end.is_closed || end.error.is_some() => {
                self.send(number, to, What::Reset);
            }
            What::Bytes(bytes) => {
                end.unread.extend(bytes);
                wake(&mut end.reader);
            }
            What::Fin => {
                end.saw_fin = true;
                wake(&mut end.reader);
            }
            What::Reset => {
                end.fail(io::ErrorKind::ConnectionReset);
                if let Dial::Waiting(waker) = &mut connection.dial {
                    wake(waker);
                    connection.dial = Dial::Failed(io::ErrorKind::ConnectionReset);
                }
            }
            What::Credit(bytes) => {
                end.credit += bytes;
                end.blocked_since = None;
                wake(&mut end.writer);
            }
        }
    }

    fn opened(&mut self, number: u64, address: SocketAddr) {
        let Some(port) = self.ports.get_mut(&address) else {
            return self.send(number, 1, What::Refuse);
        };
        port.backlog.push_back(number);
        wake(&mut port.waker);
        let process = port.process;
        self.touched.insert(process);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.ends[1].process = process;
        }
        self.send(number, 1, What::Answer);
    }

    fn look_overdue(&mut self, number: u64, from: Side, sent_at: WorldTime, why: Overdue) {
        let Some(connection) = self.connections.get(&number) else {
            return;
        };
        let [a, b] = [from, 1 - from].map(|side| machine_of(connection.ends[side].address));
        let is_lost = connection.is_swallowed || self.off.contains(&a) || self.off.contains(&b);
        let blocked_since = connection.ends[from].blocked_since;
        // What was sent just before a cut may have met it.
        let limit = self.now + Duration::from_secs(1);
        let user_timeout = self.user_timeout;
        let stayed_cut = |line: &Line| line.path.is_cut && line.cut_since + user_timeout <= limit;
        let is_overdue = match why {
            Overdue::Lost => is_lost || stayed_cut(self.line(a, b)),
            Overdue::Unanswered => stayed_cut(self.line(b, a)),
            Overdue::Blocked => blocked_since == Some(sent_at),
        };
        if is_overdue && let Some(connection) = self.connections.get_mut(&number) {
            let end = &mut connection.ends[from];
            end.fail(io::ErrorKind::TimedOut);
            let process = end.process;
            self.touched.insert(process);
        }
    }
}
