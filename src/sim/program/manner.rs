//! What programs are told to do: plain numbers, drawn once for a world or for a process.

use std::time::Duration;

use crate::sim::{Dice, Mode};

/// What all programs of a world agree on; without it their calls would not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manner {
    /// Stands for the shapes of operations.
    pub(crate) seed: u64,
    /// Operations that run at once in each step.
    pub(crate) tags: u64,
    /// An update in every so many steps, also where nobody waits.
    pub(crate) update_every: u64,
    /// A sync in every so many steps, also where nobody is new.
    pub(crate) sync_every: u64,
    /// Bytes of the largest tensor of the shared state.
    pub(crate) state_bytes: usize,
    /// Elements that operations have at most, but for the large ones.
    pub(crate) elements_max: u64,
    /// One in so many operations is larger than what is sent without a grant; 0: none.
    pub(crate) large_one_in: u64,
    /// One in so many attempts of the recommended loop has a deadline, until it is calm; 0: none.
    pub(crate) deadline_one_in: u64,
    /// Each attempt of the recommended loop gives other input, so that what an earlier one has left
    /// under way shows.
    pub(crate) new_inputs: bool,
    /// Each process also trains on its own, so that every sync has something to move.
    pub(crate) diverges: bool,
    /// A tag means the same in every step. Needed where somebody does not know the step.
    pub(crate) fixed_shapes: bool,
    /// Somebody breaks rules: errors that are a program's own fault are to be expected.
    pub(crate) misbehaving: bool,
}

impl Manner {
    /// For a world whose paths carry so many bytes in a second; `strict` if all programs follow the
    /// recommended loop.
    pub(crate) fn draw(dice: &mut Dice, rate_bytes_per_s: u64, strict: bool, mode: Mode) -> Self {
        // A step is to take a second at most, or nothing happens in a world.
        let budget_bytes = rate_bytes_per_s / 4;
        let is_lossy = mode == Mode::Lossy;
        let tags = dice.between(1, 4);
        let fast = budget_bytes >= 2 << 20;
        Self {
            seed: dice.any(),
            tags,
            update_every: dice.between(1, 6),
            sync_every: dice.between(1, 5),
            state_bytes: match dice.below(8) {
                // Long enough for something to happen to it on its way.
                0..=5 if is_lossy => (budget_bytes as usize / 8 * 8).min(300_000),
                0 if fast => 600_000,
                1 => 0,
                _ => 8 * dice.between(1, 500) as usize,
            },
            elements_max: match is_lossy {
                true => (budget_bytes / tags / 8).clamp(16, 20_000),
                false => (budget_bytes / tags / 16).clamp(16, 3000),
            },
            deadline_one_in: if is_lossy { dice.below(8) } else { 0 },
            new_inputs: is_lossy,
            diverges: is_lossy && dice.one_in(2),
            large_one_in: if fast { 40 } else { 0 },
            fixed_shapes: !strict,
            misbehaving: mode == Mode::Misbehaving,
        }
    }
}

/// What one process does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The recommended loop.
    Recommended(Recommended),
    /// Any legal calls.
    AnyOrder(AnyOrder),
    /// Calls that are not legal, and lies.
    Misbehaving(Misbehaving),
}

/// See [`Role::Recommended`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recommended {
    /// How long it computes in each step.
    pub(crate) think: Duration,
    /// How long it waits before it connects again.
    pub(crate) pause: Duration,
    /// Leaves, and comes back, after so many steps; 0: never.
    pub(crate) leave_after: u64,
    /// One in so many buffers is combined in place; 0: none.
    pub(crate) in_place_one_in: u64,
}

impl Recommended {
    /// Somebody's.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            think: dice.ms(0, 60),
            pause: dice.ms(10, 500),
            leave_after: match dice.below(4) {
                0 => dice.between(3, 30),
                _ => 0,
            },
            in_place_one_in: dice.between(0, 3),
        }
    }

    /// What everybody does in the end.
    pub(crate) const fn calm() -> Self {
        Self {
            think: Duration::from_millis(10),
            pause: Duration::from_millis(100),
            leave_after: 0,
            in_place_one_in: 2,
        }
    }
}

/// See [`Role::AnyOrder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AnyOrder {
    /// What it draws its calls from.
    pub(crate) seed: u64,
    /// How long it waits for a call before it cancels.
    pub(crate) patience: Duration,
    /// The longest that it does nothing.
    pub(crate) idle: Duration,
}

impl AnyOrder {
    /// Somebody's.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            seed: dice.any(),
            patience: dice.ms(20, 1500),
            idle: dice.ms(1, 300),
        }
    }
}

/// See [`Role::Misbehaving`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misbehaving {
    /// What it draws its calls and lies from.
    pub(crate) seed: u64,
    /// How long it waits for a call before it cancels.
    pub(crate) patience: Duration,
    /// Whether it also speaks to ports as a stranger.
    pub(crate) stranger: bool,
}

impl Misbehaving {
    /// Somebody's.
    pub(crate) fn draw(dice: &mut Dice) -> Self {
        Self {
            seed: dice.any(),
            patience: dice.ms(20, 1500),
            stranger: dice.one_in(2),
        }
    }
}
