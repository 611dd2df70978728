//! What faults do to connections, processes and machines.

use std::io;
use std::time::Duration;

use super::{Arrival, Switch, What};
use crate::sim::history::ProcessId;
use crate::sim::network::connection::{Dial, Side};
use crate::sim::network::{Machine, Strike, machine_of, wake};

impl Switch {
    pub(in crate::sim::network) fn strike(
        &mut self,
        a: Machine,
        b: Machine,
        strike: Strike,
        all: bool,
    ) -> usize {
        let numbers: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| {
                let [one, other] = [0, 1].map(|side| machine_of(connection.ends[side].address));
                (one, other) == (a, b) || (other, one) == (a, b)
            })
            .map(|(number, _)| *number)
            .collect();
        let mut struck = 0;
        for number in numbers {
            if !all && self.dice.one_in(2) {
                continue;
            }
            struck += 1;
            let keep = self.dice.any();
            match strike {
                Strike::Reset => {
                    self.lose_in_flight(number, keep);
                    for side in [0, 1] {
                        self.tell_reset(number, side);
                    }
                }
                Strike::HalfOpen => self.tell_reset(number, (keep % 2) as Side),
                Strike::Swallow => {
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.is_swallowed = true;
                    }
                }
            }
        }
        struck
    }

    /// Of what is under way, a part arrives at once and the rest never.
    fn lose_in_flight(&mut self, number: u64, keep: u64) {
        let of_this = |arrival: &Arrival| match arrival {
            Arrival::Packet(packet) => packet.connection == number,
            _ => false,
        };
        let under_way: Vec<_> = self
            .arrivals
            .iter()
            .filter(|(_, arrival)| of_this(arrival))
            .map(|(key, _)| *key)
            .collect();
        let mut left = keep % (under_way.len() as u64 * 2 + 1);
        for key in under_way {
            let Some(Arrival::Packet(mut packet)) = self.arrivals.remove(&key) else {
                continue;
            };
            match left {
                0 => continue,
                1 => {
                    // The last piece that comes is cut anywhere.
                    if let What::Bytes(bytes) = &mut packet.what {
                        bytes.truncate((keep >> 20) as usize % (bytes.len() + 1));
                    } else {
                        continue;
                    }
                }
                _ => {}
            }
            left -= 1;
            self.take(packet);
        }
    }

    fn tell_reset(&mut self, number: u64, side: Side) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.ends[side].fail(io::ErrorKind::ConnectionReset);
            self.touched.insert(connection.ends[side].process);
            if side == 0
                && let Dial::Waiting(waker) = &mut connection.dial
            {
                wake(waker);
                connection.dial = Dial::Failed(io::ErrorKind::ConnectionReset);
            }
        }
    }

    pub(in crate::sim::network) fn process_died(&mut self, process: ProcessId, after: Duration) {
        self.dead.insert(process);
        let at = self.now + after;
        self.schedule(at, Arrival::Buried(process));
    }

    pub(super) fn bury(&mut self, process: ProcessId) {
        self.ports.retain(|_, port| port.process != process);
        let ends: Vec<(u64, Side)> = self
            .connections
            .iter()
            .flat_map(|(number, connection)| {
                [0, 1]
                    .into_iter()
                    .filter(|side| connection.ends[*side].process == process)
                    .map(|side| (*number, side))
            })
            .collect();
        for (number, side) in ends {
            self.close(number, side);
        }
    }

    pub(in crate::sim::network) fn power_off(&mut self, machine: Machine) {
        self.off.insert(machine);
    }
}
