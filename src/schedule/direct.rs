//! All-reduce in which every contribution travels unchanged to the owner of its chunk, and every result
//! from there: whatever a hop does to a value on its way happens twice, not once for each rank.
//!
//! ```text
//! rank       c-2       c-1        c        c+1       c+2       owner of chunk c: rank c
//! collect     o---------o-------> O <-------o---------o        each contribution by itself
//! store       o <-------o---------O---------o-------> o        the result
//! ```
//!
//! Both go the shorter way round the ring, so for three ranks there is nobody in between, and a link
//! carries what it would for a ring all-reduce. Beyond, contributions are relayed: a rank sends about
//! `(W - 1) / W + W / 4` of the buffer.

use super::{Apply, Move, Schedule, Send, Trigger, chunks};
use crate::types::Rank;

/// The largest world whose hop numbers fit into a frame.
pub const DIRECT_WORLD_SIZE_MAX: u32 = 128;

/// The direct all-reduce of `count` elements, as rank `rank` of `world_size` sees it.
///
/// The sizes of chunks differ by at most one element. With fewer than three ranks, or a rank or a
/// world size ([`DIRECT_WORLD_SIZE_MAX`]) out of range, there are no moves. Costs
/// O(`world_size`^2).
pub fn direct_all_reduce(rank: Rank, world_size: u32, count: u64) -> Schedule {
    let chunks = chunks(world_size, count);
    let mut moves = Vec::new();
    if (3..=DIRECT_WORLD_SIZE_MAX).contains(&world_size) && rank.0 < world_size {
        let way = |forward| Way {
            rank: rank.0,
            world_size,
            forward,
        };
        for owner in (0..world_size).filter(|owner| !chunks[*owner as usize].is_empty()) {
            moves.extend(way(true).contributions(owner));
            moves.extend(way(false).contributions(owner));
            if owner == rank.0 {
                moves.push(Move {
                    chunk: owner as usize,
                    trigger: Trigger::Collected,
                    apply: Apply::Finish,
                    sends: [way(true), way(false)]
                        .iter()
                        .filter(|way| way.reach(owner) > 0)
                        .map(|way| way.send(Half::Result, 0, owner))
                        .collect(),
                });
            }
            moves.extend(way(true).result(owner));
            moves.extend(way(false).result(owner));
        }
    }
    Schedule {
        world_size,
        chunks,
        moves,
    }
}

/// One of the two directions round the ring, seen from a rank.
struct Way {
    rank: u32,
    world_size: u32,
    forward: bool,
}

/// What of an all-reduce is under way.
#[derive(Clone, Copy)]
enum Half {
    Contribution = 0,
    Result = 1,
}

impl Way {
    /// How many ranks send to, and hear from, an owner this way. Where one is as far either way, the
    /// even owners have it ahead.
    fn reach(&self, owner: u32) -> u32 {
        let ahead = if owner.is_multiple_of(2) {
            self.world_size / 2
        } else {
            (self.world_size - 1) / 2
        };
        match self.forward {
            true => ahead,
            false => self.world_size - 1 - ahead,
        }
    }

    /// Hops from one rank to another.
    fn distance(&self, from: u32, to: u32) -> u32 {
        let (from, to) = match self.forward {
            true => (from, to),
            false => (to, from),
        };
        (to + self.world_size - from) % self.world_size
    }

    fn neighbour(&self, ahead: bool) -> Rank {
        let step = if ahead == self.forward {
            1
        } else {
            self.world_size - 1
        };
        Rank((self.rank + step) % self.world_size)
    }

    /// Names what has travelled so many hops: with the neighbour it comes from, nothing else.
    fn step(&self, half: Half, hops: u32, owner: u32) -> u16 {
        let rounds = half as u32 * (self.world_size / 2 + 1) + hops;
        (rounds * self.world_size + owner) as u16
    }

    /// To the next rank, of what has travelled `hops` so far.
    fn send(&self, half: Half, hops: u32, owner: u32) -> Send {
        Send {
            to: self.neighbour(true),
            step: self.step(half, hops + 1, owner),
        }
    }

    fn receive(&self, half: Half, hops: u32, owner: u32) -> Trigger {
        Trigger::Receive {
            from: self.neighbour(false),
            step: self.step(half, hops, owner),
        }
    }

    /// Moves of contributions to the chunk of `owner`: this rank's own, others' for it, others' for others.
    fn contributions(&self, owner: u32) -> Vec<Move> {
        let chunk = owner as usize;
        let left = self.distance(self.rank, owner);
        if left > self.reach(owner) {
            return Vec::new();
        }
        let own = (left > 0).then(|| Move {
            chunk,
            trigger: Trigger::Start,
            apply: Apply::Input,
            sends: vec![self.send(Half::Contribution, 0, owner)],
        });
        let others = (1..=self.reach(owner) - left).map(|hops| Move {
            chunk,
            trigger: self.receive(Half::Contribution, hops, owner),
            apply: if left > 0 {
                Apply::Relay
            } else {
                Apply::Collect
            },
            sends: Vec::from_iter((left > 0).then(|| self.send(Half::Contribution, hops, owner))),
        });
        own.into_iter().chain(others).collect()
    }

    /// The move of the result of the chunk of `owner`, if it comes this way.
    fn result(&self, owner: u32) -> Option<Move> {
        let (hops, reach) = (self.distance(owner, self.rank), self.reach(owner));
        (1..=reach).contains(&hops).then(|| Move {
            chunk: owner as usize,
            trigger: self.receive(Half::Result, hops, owner),
            apply: Apply::Store,
            sends: Vec::from_iter((hops < reach).then(|| self.send(Half::Result, hops, owner))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::checker::check_all_reduce;

    fn all_ranks(world_size: u32, count: u64) -> Vec<Schedule> {
        (0..world_size)
            .map(|rank| direct_all_reduce(Rank(rank), world_size, count))
            .collect()
    }

    #[test]
    fn every_contribution_is_reduced_once_and_alike() {
        for world_size in (3..=17).chain([64, 127, 128]) {
            for count in [0, 1, 2, 3, 5, 17, 1000] {
                let checked = check_all_reduce(&all_ranks(world_size, count));
                assert_eq!(checked, Ok(()), "W {world_size}, count {count}");
            }
        }
    }

    #[test]
    fn three_ranks_have_nobody_in_between_and_send_what_a_ring_would() {
        for schedule in all_ranks(3, 30) {
            let is_relayed = |m: &Move| {
                m.apply == Apply::Relay || m.apply == Apply::Store && !m.sends.is_empty()
            };
            assert!(!schedule.moves.iter().any(is_relayed));
            let sends: usize = schedule.moves.iter().map(|m| m.sends.len()).sum();
            assert_eq!(sends, 4);
        }
    }

    #[test]
    fn a_rank_sends_what_the_drawing_says() {
        for world_size in [4u32, 5, 8, 16, 31] {
            let sent: usize = all_ranks(world_size, u64::from(world_size))
                .iter()
                .flat_map(|schedule| &schedule.moves)
                .map(|m| m.sends.len())
                .sum();
            let w = world_size as usize;
            // All ranks: results to W - 1 others for each of W chunks, contributions by the shorter way.
            let ways: usize = (1..w).map(|d| d.min(w - d)).sum();
            assert_eq!(sent, w * (w - 1) + w * ways);
        }
    }

    #[test]
    fn nonsense_has_no_moves() {
        assert!(direct_all_reduce(Rank(0), 2, 9).moves.is_empty());
        assert!(direct_all_reduce(Rank(7), 3, 9).moves.is_empty());
        let too_many = direct_all_reduce(Rank(0), DIRECT_WORLD_SIZE_MAX + 1, 9);
        assert!(too_many.moves.is_empty());
    }
}
