//! Random walks where there are too many states to see them all: every order in which messages can
//! be heard, without any reduction, from seeds.

use stateright::{Expectation, Model};

use super::instance::Instance;
use super::moves::Action;

/// A small generator (splitmix64).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % limit.max(1) as u64) as usize
    }
}

/// Walks once for each seed, each to an end. Gives the number of steps taken.
pub(crate) fn walk(instance: &Instance, seeds: std::ops::Range<u64>) -> usize {
    let properties = instance.properties();
    let start = instance.init_states().remove(0);
    let mut steps = 0;
    for seed in seeds {
        let mut dice = Dice(seed);
        let mut state = start.clone();
        let mut path: Vec<Action> = Vec::new();
        loop {
            for property in &properties {
                let holds = (property.condition)(instance, &state);
                assert!(
                    matches!(property.expectation, Expectation::Always) && holds,
                    "seed {seed}: not so: {}\n{:?}\n{path:#?}",
                    property.name,
                    state.world.broken
                );
            }
            let mut actions = Vec::new();
            instance.actions(&state, &mut actions);
            // Faults are many, and would come all at once.
            let is_fault = |action: &Action| matches!(action, Action::Fault(_));
            let (faults, others): (Vec<Action>, Vec<Action>) =
                actions.into_iter().partition(is_fault);
            let wants_fault = others.is_empty() || dice.below(15) == 0;
            let choices = if wants_fault && !faults.is_empty() {
                faults
            } else {
                others
            };
            if choices.is_empty() {
                break;
            }
            let next = choices[dice.below(choices.len())].clone();
            path.push(next.clone());
            state = instance.next_state(&state, next).expect("it was enabled");
        }
        steps += path.len();
    }
    steps
}
