//! What the sockets of living processes ask of the network.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Arrival, NOBODY, Overdue, Port, Switch, What};
use crate::sim::history::ProcessId;
use crate::sim::network::Machine;
use crate::sim::network::connection::{Connection, Dial, End, Side};

impl Switch {
    /// Opens a connection from `local`; the port of the dialling side is chosen here.
    pub(in crate::sim::network) fn dial(
        &mut self,
        process: ProcessId,
        machine: Machine,
        to: SocketAddr,
    ) -> u64 {
        self.next_port = self.next_port.checked_add(1).unwrap_or(32768);
        let local = SocketAddr::new(machine.ip(), self.next_port);
        let number = self.next_number;
        self.next_number += 1;
        let ends = [End::new(process, local), End::new(NOBODY, to)];
        self.connections.insert(
            number,
            Connection {
                ends,
                dial: Dial::Waiting(None),
                is_swallowed: false,
            },
        );
        self.send(number, 0, What::Open(to));
        number
    }

    pub(in crate::sim::network) fn send_bytes(&mut self, number: u64, from: Side, bytes: Vec<u8>) {
        self.send(number, from, What::Bytes(bytes));
    }

    pub(in crate::sim::network) fn send_credit(&mut self, number: u64, from: Side, bytes: usize) {
        self.send(number, from, What::Credit(bytes));
    }

    /// Notes that a sender has no room, and looks again after the user timeout.
    pub(in crate::sim::network) fn blocked(&mut self, number: u64, from: Side) {
        let (now, user_timeout) = (self.now, self.user_timeout);
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let end = &mut connection.ends[from];
        if end.blocked_since.is_none() {
            end.blocked_since = Some(now);
            let arrival = Arrival::Overdue {
                connection: number,
                from,
                sent_at: now,
                why: Overdue::Blocked,
            };
            self.schedule(now + user_timeout, arrival);
        }
    }

    /// No more bytes come from this end.
    pub(in crate::sim::network) fn finish(&mut self, number: u64, from: Side) {
        if let Some(connection) = self.connections.get_mut(&number) {
            let end = &mut connection.ends[from];
            if !end.sent_fin {
                end.sent_fin = true;
                self.send(number, from, What::Fin);
            }
        }
    }

    /// A half of an end was dropped. The connection is closed with the second.
    pub(in crate::sim::network) fn drop_half(&mut self, number: u64, side: Side, writes: bool) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let end = &mut connection.ends[side];
        if self.dead.contains(&end.process) {
            // What a dead process had is its kernel's to close.
            return;
        }
        end.halves = end.halves.saturating_sub(1);
        if end.halves == 0 {
            self.close(number, side);
        } else if writes {
            self.finish(number, side);
        }
    }

    /// Nobody listens on a port any more; who waits in its backlog is closed.
    pub(in crate::sim::network) fn close_port(&mut self, address: SocketAddr) {
        let is_dead = |port: &Port| self.dead.contains(&port.process);
        if self.ports.get(&address).is_none_or(is_dead) {
            return;
        }
        if let Some(port) = self.ports.remove(&address) {
            for number in port.backlog {
                self.close(number, 1);
            }
        }
    }

    pub(super) fn close(&mut self, number: u64, side: Side) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let end = &mut connection.ends[side];
        if end.is_closed {
            return;
        }
        end.is_closed = true;
        (end.reader, end.writer) = (None, None);
        let was_unread = !end.unread.is_empty();
        if was_unread && end.error.is_none() {
            self.send(number, side, What::Reset);
        } else {
            self.finish(number, side);
        }
    }

    /// A connection that its dialler has given up.
    pub(in crate::sim::network) fn give_up(&mut self, number: u64) {
        if let Some(connection) = self.connections.get_mut(&number)
            && !self.dead.contains(&connection.ends[0].process)
        {
            self.close(number, 0);
        }
    }

    pub(in crate::sim::network) fn sockets_of(&self, process: ProcessId) -> usize {
        let ports = self.ports.values().filter(|port| port.process == process);
        let ends = self.connections.values().flat_map(|c| &c.ends);
        ports.count()
            + ends
                .filter(|end| end.process == process && !end.is_closed)
                .count()
    }

    /// Forgets connections that nobody holds an end of.
    pub(in crate::sim::network) fn sweep(&mut self) {
        let in_flight: BTreeSet<u64> = self
            .arrivals
            .values()
            .filter_map(|arrival| match arrival {
                Arrival::Packet(packet) => Some(packet.connection),
                _ => None,
            })
            .collect();
        self.connections.retain(|number, connection| {
            in_flight.contains(number)
                || connection
                    .ends
                    .iter()
                    .any(|end| !end.is_closed && end.error.is_none())
        });
    }
}
