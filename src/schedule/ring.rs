//! All-reduce around a ring: every link carries `2 (W - 1) / W` of the buffer, the least possible.
//!
//! ```text
//! step        0 .. W-3      W-2         W-1 .. 2W-3
//! received    combine       finish      store
//! sent on as  step + 1      step + 1    step + 1, but for the last
//! ```
//!
//! Chunk `c` starts at rank `c`, collects contributions in the order `c, c+1, ..., c-1` and is
//! final at rank `c-1`, from where it goes round once more. Each chunk is combined by one chain of
//! ranks only, so all ranks hold the same bits.

use super::{Apply, Move, Schedule, Send, Trigger, chunks};
use crate::types::Rank;

/// The largest ring whose hop numbers fit into a frame.
pub const RING_WORLD_SIZE_MAX: u32 = 1 << 15;

/// The ring all-reduce of `count` elements, as rank `rank` of `world_size` sees it.
///
/// The sizes of chunks differ by at most one element. With fewer than two ranks, or a rank or a
/// world size ([`RING_WORLD_SIZE_MAX`]) out of range, there are no moves. Costs O(`world_size`).
pub fn ring_all_reduce(rank: Rank, world_size: u32, count: u64) -> Schedule {
    let chunks = chunks(world_size, count);
    let mut moves = Vec::new();
    if (2..=RING_WORLD_SIZE_MAX).contains(&world_size) && rank.0 < world_size {
        let next = Rank((rank.0 + 1) % world_size);
        let previous = Rank((rank.0 + world_size - 1) % world_size);
        let last_step = 2 * world_size - 3;
        let own = Move {
            chunk: rank.0 as usize,
            trigger: Trigger::Start,
            apply: Apply::Input,
            sends: vec![Send { to: next, step: 0 }],
        };
        let received = (0..=last_step).map(|step| Move {
            chunk: ((rank.0 + 2 * world_size - step - 1) % world_size) as usize,
            trigger: Trigger::Receive {
                from: previous,
                step: step as u16,
            },
            apply: match step {
                _ if step + 2 < world_size => Apply::Combine,
                _ if step + 2 == world_size => Apply::Finish,
                _ => Apply::Store,
            },
            sends: Vec::from_iter((step < last_step).then_some(Send {
                to: next,
                step: step as u16 + 1,
            })),
        });
        moves.extend(
            std::iter::once(own)
                .chain(received)
                .filter(|m| !chunks[m.chunk].is_empty()),
        );
    }
    Schedule {
        world_size,
        chunks,
        moves,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::checker::check_all_reduce;

    fn all_ranks(world_size: u32, count: u64) -> Vec<Schedule> {
        (0..world_size)
            .map(|rank| ring_all_reduce(Rank(rank), world_size, count))
            .collect()
    }

    #[test]
    fn every_ring_reduces_every_contribution_once_and_alike() {
        for world_size in 1..=17 {
            for count in [0, 1, 2, 3, 5, 7, 16, 17, 18, 33, 1000, 1 << 33] {
                let schedules = all_ranks(world_size, count);
                assert_eq!(
                    check_all_reduce(&schedules),
                    Ok(()),
                    "W {world_size}, count {count}"
                );
                let covered: u64 = schedules[0].chunks.iter().map(|c| c.end - c.start).sum();
                assert_eq!(covered, count);
            }
        }
    }

    #[test]
    fn two_ranks_exchange_halves() {
        let schedule = ring_all_reduce(Rank(0), 2, 10);
        let receive = |step| Trigger::Receive {
            from: Rank(1),
            step,
        };
        let sends = |step| vec![Send { to: Rank(1), step }];
        let expected = [
            Move {
                chunk: 0,
                trigger: Trigger::Start,
                apply: Apply::Input,
                sends: sends(0),
            },
            Move {
                chunk: 1,
                trigger: receive(0),
                apply: Apply::Finish,
                sends: sends(1),
            },
            Move {
                chunk: 0,
                trigger: receive(1),
                apply: Apply::Store,
                sends: Vec::new(),
            },
        ];
        assert_eq!(schedule.moves, expected);
    }

    #[test]
    fn an_empty_chunk_has_no_moves() {
        assert!(ring_all_reduce(Rank(1), 5, 0).moves.is_empty());
        let schedule = ring_all_reduce(Rank(1), 5, 2);
        assert!(schedule.moves.iter().all(|m| m.chunk < 2));
    }

    #[test]
    fn nonsense_has_no_moves() {
        assert!(ring_all_reduce(Rank(0), 0, 9).moves.is_empty());
        assert!(ring_all_reduce(Rank(7), 3, 9).moves.is_empty());
        assert!(
            ring_all_reduce(Rank(0), RING_WORLD_SIZE_MAX + 1, 9)
                .moves
                .is_empty()
        );
        assert!(
            !ring_all_reduce(Rank(0), RING_WORLD_SIZE_MAX, u64::MAX)
                .moves
                .is_empty()
        );
    }
}
