//! The developer's one interface: `cargo xtask test` runs everything that a change must pass,
//! `cargo xtask compare` measures ours beside others.
//!
//! Nothing has to be installed beside the toolchain; CI runs the same command by the same name.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program speaks to its user"
)]

mod compare;
mod demo_seeds;
mod licences;
mod part;
mod spdx;
mod test;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Checks and runs for developers of pccl")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every check and every test; stops at the first part that fails.
    Test(test::Arguments),
    /// Measure an all-reduce beside bare sockets, Open MPI and PCCL, by turns; prints a table.
    Compare(compare::Arguments),
    /// Run the demo once per seed; stops at the first one that fails.
    DemoSeeds(demo_seeds::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Test(arguments) => test::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::DemoSeeds(arguments) => demo_seeds::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the workspace, which every part runs in, wherever the user stands.
fn workspace_root() -> PathBuf {
    let xtask = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().map_or(xtask.clone(), PathBuf::from)
}
