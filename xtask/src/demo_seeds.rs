//! `cargo xtask demo-seeds`: the demo under several seeds, each of which kills other peers at
//! other moments.

use clap::Args;

use crate::part::{self, Failure, cargo, succeeds};

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 5)]
    count: u64,
    /// The first one.
    #[arg(long, default_value_t = 1)]
    first: u64,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    for seed in (arguments.first..).take(usize::try_from(arguments.count).unwrap_or(usize::MAX)) {
        part::run(&format!("demo, seed {seed}"), || {
            succeeds(&mut cargo(&format!(
                "run --locked --quiet --release -- demo --seed {seed}"
            )))
        })?;
    }
    Ok(())
}
