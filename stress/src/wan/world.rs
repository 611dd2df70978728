//! All links between all peers, and what is under way on them. Pure: packets and time go in, and
//! packets come out when they are due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::net::Ipv4Addr;
use std::ops::Range;

use super::link::{Fate, Line, Link, Nanos, Shape};
use super::order::{self, Order};
use super::packet::Packet;

/// What became of the segments that one peer sent to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) arrived: u64,
    /// Of IP packets.
    pub(super) arrived_bytes: u64,
    pub(super) lost: u64,
    /// Dropped, as the queue was full.
    pub(super) overflowed: u64,
    /// Dropped, as the link was cut.
    pub(super) cut: u64,
}

pub(super) struct World {
    addresses: Vec<Ipv4Addr>,
    /// By sender and receiver.
    links: Vec<Vec<Link>>,
    counts: Vec<Vec<Count>>,
    /// What each machine may send altogether, where that is limited.
    egress: Vec<(u64, Line)>,
    under_way: BinaryHeap<Arrival>,
    next_number: u64,
}

struct Arrival {
    at: Nanos,
    /// What was sent first arrives first where both are due at once.
    number: u64,
    from: usize,
    to: usize,
    packet: Packet,
}

impl World {
    /// Links of one shape between machines at these addresses.
    pub(super) fn new(addresses: Vec<Ipv4Addr>, shape: Shape, seed: u64) -> Self {
        let peers = addresses.len();
        // Each way draws numbers of its own.
        let seed_of = |from: usize, to: usize| seed ^ (((from as u64) << 32 | to as u64) << 8);
        let links_of = |from| {
            (0..peers)
                .map(|to| Link::new(shape, seed_of(from, to)))
                .collect()
        };
        Self {
            addresses,
            links: (0..peers).map(links_of).collect(),
            counts: vec![vec![Count::default(); peers]; peers],
            egress: (0..peers).map(|_| (0, Line::default())).collect(),
            under_way: BinaryHeap::new(),
            next_number: 0,
        }
    }

    pub(super) fn obey(&mut self, order: Order) {
        let (ways, is_cut) = match order {
            Order::Egress { peer, rate_bit } => {
                self.egress[peer].0 = rate_bit;
                return;
            }
            Order::Change(ways, change) => {
                for link in ways_of(&mut self.links, |from, to| ways.contains(from, to)) {
                    link.reshape(change.apply(link.shape));
                }
                return;
            }
            Order::Cut(ways) => (ways, true),
            Order::Heal(ways) => (ways, false),
        };
        for link in ways_of(&mut self.links, |from, to| ways.contains(from, to)) {
            link.is_cut = is_cut;
        }
    }

    /// A machine sends a packet. What is for nobody here is forgotten.
    pub(super) fn send(&mut self, now: Nanos, from: usize, packet: Packet) {
        let is_receiver = |address: &Ipv4Addr| *address == packet.destination();
        let Some(to) = self.addresses.iter().position(is_receiver) else {
            return;
        };
        let segments = packet.segments();
        let count = &mut self.counts[from][to];
        let link = &mut self.links[from][to];
        if link.is_cut {
            count.cut += segments as u64;
            return;
        }
        let (egress_bit, egress) = &mut self.egress[from];
        let mut ready_at = now;
        let mut passed = segments;
        if *egress_bit > 0 {
            // All queues of a machine are as large as that of the link that is sent over.
            let queue_bytes = match link.shape.queue_bytes {
                0 => order::usual_queue(2 * link.shape.delay_ns, *egress_bit),
                bytes => bytes,
            };
            let bytes_of = |segments| packet.wire_bytes(segments);
            passed = egress.fitting(now, *egress_bit, queue_bytes, segments, bytes_of);
            if passed > 0 {
                ready_at = egress.send(now, packet.wire_bytes(passed), *egress_bit);
            }
        }
        let fate = link.offer(ready_at, passed, |segments| packet.wire_bytes(segments));
        count.overflowed += (segments - fate.fitted) as u64;
        count.lost += fate.lost.len() as u64;
        let mut whole = Some(packet);
        for run in survivors(&fate) {
            let part = if run.len() == segments {
                whole.take()
            } else {
                whole.as_ref().map(|packet| packet.part(run))
            };
            let Some(packet) = part else { continue };
            let number = self.next_number;
            self.next_number += 1;
            self.under_way.push(Arrival {
                at: fate.arrives_at,
                number,
                from,
                to,
                packet,
            });
        }
    }

    /// When the next packet is due.
    pub(super) fn next_at(&self) -> Option<Nanos> {
        self.under_way.peek().map(|arrival| arrival.at)
    }

    /// The next packet that is due, for whom, and since when.
    pub(super) fn due(&mut self, now: Nanos) -> Option<(usize, Packet, Nanos)> {
        while self.next_at().is_some_and(|at| at <= now) {
            let Arrival {
                at,
                from,
                to,
                packet,
                ..
            } = self.under_way.pop()?;
            let segments = packet.segments();
            let count = &mut self.counts[from][to];
            // A cut takes what is under way with it.
            if self.links[from][to].is_cut {
                count.cut += segments as u64;
                continue;
            }
            count.arrived += segments as u64;
            count.arrived_bytes += packet.wire_bytes(segments);
            return Some((to, packet, at));
        }
        None
    }

    /// The shortest way of any link.
    pub(super) fn shortest_delay_ns(&self) -> Nanos {
        let ways = self.links.iter().enumerate().flat_map(|(from, row)| {
            let others = row.iter().enumerate().filter(move |(to, _)| *to != from);
            others.map(|(_, link)| link.shape.delay_ns)
        });
        ways.min().unwrap_or(0)
    }

    /// By sender and receiver.
    pub(super) fn counts(&self) -> &[Vec<Count>] {
        &self.counts
    }
}

/// Segments that follow each other with none lost between them.
fn survivors(fate: &Fate) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    let ends = fate.lost.iter().copied().chain([fate.fitted]);
    let runs = ends.map(move |end| {
        let run = start..end;
        start = end + 1;
        run
    });
    runs.filter(|run| !run.is_empty())
}

/// The links whose ends are wanted.
fn ways_of(
    links: &mut [Vec<Link>],
    is_wanted: impl Fn(usize, usize) -> bool,
) -> impl Iterator<Item = &mut Link> {
    let all = links.iter_mut().enumerate();
    all.flat_map(|(from, row)| {
        row.iter_mut()
            .enumerate()
            .map(move |(to, link)| (from, to, link))
    })
    .filter(move |(from, to, _)| is_wanted(*from, *to))
    .map(|(_, _, link)| link)
}

impl Ord for Arrival {
    /// The heap gives back the greatest first: that is the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

impl PartialOrd for Arrival {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Arrival {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Arrival {}

#[cfg(test)]
mod tests {
    use super::super::order::parse;
    use super::super::packet::tests::tcp;
    use super::*;

    const MILLISECOND: Nanos = 1_000_000;

    fn world(loss_ppm: u32) -> World {
        let addresses = (1..=3).map(|n| Ipv4Addr::new(10, 77, 0, n)).collect();
        let shape = Shape {
            delay_ns: 5 * MILLISECOND,
            jitter_ns: 0,
            rate_bit: 0,
            loss_ppm,
            queue_bytes: 100_000,
        };
        World::new(addresses, shape, 1)
    }

    fn obey(world: &mut World, line: &str) {
        world.obey(parse(line, 3).unwrap());
    }

    fn to(peer: u8) -> Packet {
        tcp([10, 77, 0, peer + 1], 500, 100)
    }

    /// Who got what, until this time.
    fn arrivals(world: &mut World, now: Nanos) -> Vec<(usize, usize)> {
        std::iter::from_fn(|| world.due(now))
            .map(|(to, packet, _)| (to, packet.segments()))
            .collect()
    }

    #[test]
    fn packets_arrive_when_they_are_due_and_in_the_order_of_time() {
        let mut world = world(0);
        obey(&mut world, "0 2 2");
        world.send(0, 0, to(1));
        world.send(0, 0, to(2));
        assert_eq!(world.next_at(), Some(MILLISECOND));
        assert_eq!(arrivals(&mut world, 0), []);
        assert_eq!(arrivals(&mut world, MILLISECOND), [(2, 5)]);
        assert_eq!(arrivals(&mut world, 5 * MILLISECOND), [(1, 5)]);
        assert_eq!(world.next_at(), None);
        assert_eq!(world.counts()[0][2].arrived_bytes, 700);
    }

    #[test]
    fn a_cut_drops_what_is_sent_and_what_is_under_way() {
        let mut world = world(0);
        world.send(0, 0, to(1));
        world.send(0, 1, to(0));
        world.send(0, 0, to(2));
        obey(&mut world, "cut 0>1");
        world.send(1, 0, to(1));
        assert_eq!(arrivals(&mut world, 9 * MILLISECOND), [(0, 5), (2, 5)]);
        assert_eq!(world.counts()[0][1].cut, 10);
        obey(&mut world, "heal 0 1");
        world.send(9 * MILLISECOND, 0, to(1));
        assert_eq!(arrivals(&mut world, 14 * MILLISECOND), [(1, 5)]);
    }

    #[test]
    fn a_lost_segment_is_missing_from_its_super_packet() {
        let mut world = world(100_000);
        let mut whole = 0;
        for _ in 0..1000 {
            world.send(0, 0, to(1));
        }
        let arrived = arrivals(&mut world, 5 * MILLISECOND);
        whole += arrived
            .iter()
            .filter(|(_, segments)| *segments == 5)
            .count();
        let segments: usize = arrived.iter().map(|(_, segments)| segments).sum();
        let count = world.counts()[0][1];
        assert_eq!(count.arrived + count.lost, 5000);
        assert_eq!(segments as u64, count.arrived);
        assert!((400..600).contains(&count.lost), "{count:?}");
        // 0.9 to the power of 5 of them.
        assert!((500..700).contains(&whole), "{whole}");
    }

    #[test]
    fn a_machine_shares_its_egress_among_all_links() {
        let mut world = world(0);
        // 700 bytes take 5.6 ms.
        obey(&mut world, "egress 0 1");
        world.send(0, 0, to(1));
        world.send(0, 0, to(2));
        world.send(0, 1, to(2));
        assert_eq!(arrivals(&mut world, 5 * MILLISECOND), [(2, 5)]);
        assert_eq!(world.next_at(), Some(10_600_000));
        assert_eq!(arrivals(&mut world, 11 * MILLISECOND), [(1, 5)]);
        assert_eq!(world.next_at(), Some(16_200_000));
    }

    #[test]
    fn a_full_egress_queue_drops_segments_from_the_tail() {
        // 140 bytes each; a queue of 0 is the usual one, of 256 KiB.
        for (queue_kib, fitting) in [("1", 7), ("0", 1872)] {
            let mut world = world(0);
            obey(&mut world, "egress 0 1");
            obey(&mut world, &format!("0>1 - - - - {queue_kib}"));
            for _ in 0..1000 {
                world.send(0, 0, to(1));
            }
            let arrived = arrivals(&mut world, 10_000 * MILLISECOND);
            let segments: usize = arrived.iter().map(|(_, segments)| segments).sum();
            assert_eq!(segments, fitting);
            assert_eq!(world.counts()[0][1].overflowed, 5000 - fitting as u64);
        }
    }

    #[test]
    fn the_shortest_way_is_found() {
        let mut world = world(0);
        obey(&mut world, "0>2 2");
        obey(&mut world, "1>2 1000");
        assert_eq!(world.shortest_delay_ns(), MILLISECOND);
    }

    #[test]
    fn what_is_for_nobody_is_forgotten() {
        let mut world = world(0);
        world.send(0, 0, to(9));
        assert_eq!(world.next_at(), None);
    }
}
