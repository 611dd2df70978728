//! Runs all ranks of a schedule in memory, with contributions for values, and says what is wrong.
//!
//! Proved for an all-reduce: nothing that is sent goes unreceived, nothing is awaited that nobody
//! sends, no move runs twice, and each rank ends with the contribution of every rank exactly once
//! in every chunk, combined in the same order as everywhere else.

use std::collections::{BTreeMap, VecDeque};

use super::{Apply, Move, Schedule, Trigger};
use crate::types::Rank;

/// What a chunk holds: who contributed, in the order of combination, and whether it is final.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Value {
    contributions: Vec<u32>,
    is_final: bool,
}

struct Message {
    to: u32,
    from: u32,
    step: u16,
    chunk: usize,
    value: Value,
}

/// Proves that `schedules` (one for each rank, in order) are an all-reduce, or says why not.
pub fn check_all_reduce(schedules: &[Schedule]) -> Result<(), String> {
    let world_size = schedules.len() as u32;
    let Some(first) = schedules.first() else {
        return Ok(());
    };
    let mut receives = Vec::new();
    for (rank, schedule) in schedules.iter().enumerate() {
        if schedule.world_size != world_size || schedule.chunks != first.chunks {
            return Err(format!("rank {rank} sees another world or other chunks"));
        }
        receives.push(index_receives(rank, schedule)?);
    }

    let mut outputs: Vec<Vec<Option<Value>>> =
        vec![vec![None; first.chunks.len()]; schedules.len()];
    let mut in_flight = VecDeque::new();
    // By rank and chunk: which moves have collected what.
    let mut collected = BTreeMap::new();
    for (rank, schedule) in schedules.iter().enumerate() {
        for m in schedule
            .moves
            .iter()
            .filter(|m| m.trigger == Trigger::Start)
        {
            if m.apply != Apply::Input {
                return Err(format!("rank {rank} applies {:?} to nothing", m.apply));
            }
            let value = Value {
                contributions: vec![rank as u32],
                is_final: false,
            };
            in_flight.extend(messages(rank as u32, m, &value));
        }
    }
    while let Some(message) = in_flight.pop_front() {
        let Message {
            to,
            from,
            step,
            chunk,
            mut value,
        } = message;
        let name = format!("step {step} from rank {from} to rank {to}");
        let awaited = receives
            .get_mut(to as usize)
            .and_then(|r| r.remove(&(Rank(from), step)));
        let Some(index) = awaited else {
            return Err(format!("{name}: nobody awaits it, or it came twice"));
        };
        let mut m = &schedules[to as usize].moves[index];
        if m.chunk != chunk {
            return Err(format!(
                "{name}: chunk {chunk} is sent, chunk {} awaited",
                m.chunk
            ));
        }
        match (m.apply, value.is_final) {
            (Apply::Combine, false) => value.contributions.push(to),
            (Apply::Finish, false) => {
                value.contributions.push(to);
                value.is_final = true;
            }
            (Apply::Store, true) => {}
            (Apply::Relay, false) => {
                in_flight.extend(messages(to, m, &value));
                continue;
            }
            (Apply::Collect, false) => {
                let pending: &mut Vec<(usize, Vec<u32>)> =
                    collected.entry((to, chunk)).or_default();
                pending.push((index, value.contributions));
                let collects = |m: &&Move| m.chunk == chunk && m.apply == Apply::Collect;
                let moves = &schedules[to as usize].moves;
                if pending.len() < moves.iter().filter(collects).count() {
                    continue;
                }
                pending.sort();
                let all = pending
                    .drain(..)
                    .flat_map(|(_, contributions)| contributions);
                value.contributions = all.chain([to]).collect();
                value.is_final = true;
                let finish = |m: &&Move| m.chunk == chunk && m.trigger == Trigger::Collected;
                let Some(finish) = moves.iter().find(finish) else {
                    return Err(format!("rank {to} collects chunk {chunk} for nothing"));
                };
                m = finish;
            }
            (apply, is_final) => {
                return Err(format!(
                    "{name}: {apply:?} of a value whose final is {is_final}"
                ));
            }
        }
        in_flight.extend(messages(to, m, &value));
        outputs[to as usize][chunk] = Some(value);
    }
    if let Some(rank) = receives.iter().position(|r| !r.is_empty()) {
        return Err(format!(
            "rank {rank} waits for {:?} for ever",
            receives[rank]
        ));
    }
    if world_size > 1 {
        check_outputs(schedules, &outputs)
    } else {
        Ok(())
    }
}

/// What a move sends.
fn messages(from: u32, m: &Move, value: &Value) -> Vec<Message> {
    let message = |send: &super::Send| Message {
        to: send.to.0,
        from,
        step: send.step,
        chunk: m.chunk,
        value: value.clone(),
    };
    m.sends.iter().map(message).collect()
}

/// The moves of a rank by what sets them off.
fn index_receives(
    rank: usize,
    schedule: &Schedule,
) -> Result<BTreeMap<(Rank, u16), usize>, String> {
    let mut receives = BTreeMap::new();
    for (index, m) in schedule.moves.iter().enumerate() {
        if schedule.chunks.get(m.chunk).is_none_or(|c| c.is_empty()) {
            return Err(format!(
                "rank {rank} moves chunk {}, which is empty",
                m.chunk
            ));
        }
        if let Trigger::Receive { from, step } = m.trigger
            && receives.insert((from, step), index).is_some()
        {
            return Err(format!(
                "rank {rank} awaits step {step} from rank {from} twice"
            ));
        }
    }
    Ok(receives)
}

fn check_outputs(schedules: &[Schedule], outputs: &[Vec<Option<Value>>]) -> Result<(), String> {
    for (chunk, range) in schedules[0].chunks.iter().enumerate() {
        if range.is_empty() {
            continue;
        }
        for (rank, output) in outputs.iter().enumerate() {
            let Some(value) = output[chunk].as_ref().filter(|v| v.is_final) else {
                return Err(format!("rank {rank} ends without chunk {chunk}"));
            };
            let mut sorted = value.contributions.clone();
            sorted.sort_unstable();
            if !sorted.iter().copied().eq(0..schedules.len() as u32) {
                return Err(format!("chunk {chunk} at rank {rank} holds {sorted:?}"));
            }
            if outputs[0][chunk].as_ref() != Some(value) {
                return Err(format!(
                    "chunk {chunk}: ranks 0 and {rank} combined differently"
                ));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ring_all_reduce;

    fn ring() -> Vec<Schedule> {
        (0..4)
            .map(|rank| ring_all_reduce(Rank(rank), 4, 100))
            .collect()
    }

    #[test]
    fn a_lost_send_is_found() {
        let mut schedules = ring();
        schedules[1].moves[2].sends.clear();
        assert!(
            check_all_reduce(&schedules)
                .unwrap_err()
                .contains("for ever")
        );
    }

    #[test]
    fn a_doubled_receive_is_found() {
        let mut schedules = ring();
        let doubled = schedules[1].moves[2].clone();
        schedules[1].moves.push(doubled);
        assert!(check_all_reduce(&schedules).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_contribution_left_out_is_found() {
        let mut schedules = ring();
        schedules[2].moves[1].apply = Apply::Store;
        assert!(check_all_reduce(&schedules).is_err());
    }

    #[test]
    fn a_chunk_out_of_place_is_found() {
        let mut schedules = ring();
        schedules[3].moves[1].chunk = 0;
        assert!(
            check_all_reduce(&schedules)
                .unwrap_err()
                .contains("awaited")
        );
    }
}
