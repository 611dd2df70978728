//! Worlds of the simulator that are kept: each shows one thing, and shows it every time.
//!
//! ```text
//!   cargo test --release --no-default-features --features sim --test sim
//! ```
//!
//! `caught` breaks each rule of `pccl::mutation` and expects the checker that must notice,
//! `regressions` plays the worlds that once found a fault, `same_way` plays a seed twice.
//!
//! Fresh seeds for `caught` come from
//!
//! ```text
//!   cargo run --release -p stress -- sim --mutation all --seeds 2000 --enough 6
//! ```
//!
//! An unoptimised build plays fewer of the worlds that are to be clean.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking, its helpers included"
)]

mod caught;
mod regressions;
mod same_way;

use pccl::mutation::{self, Mutation};
use pccl::sim::{Mode, Plan, Verdict, play};

/// Plays a seed, with a rule broken where one is named.
fn verdict(seed: u64, broken: Option<Mutation>) -> Verdict {
    let plan = Plan::draw(seed, Mode::of(seed));
    mutation::with(broken, || play(&plan, false)).unwrap()
}

/// Plays these seeds with all rules kept: nothing is wrong in any of them.
fn assert_clean(seeds: impl IntoIterator<Item = u64>) {
    let wrong: Vec<String> = seeds
        .into_iter()
        .filter_map(|seed| {
            let violation = verdict(seed, None).violation?;
            Some(format!("seed {seed}: {violation}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
