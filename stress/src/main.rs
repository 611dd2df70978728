//! Churn with real processes: `stress churn` starts a master and peers, kills, stops, cuts off
//! and starts them as a seed says, and lets checkers read what everybody wrote down.
//!
//! ```text
//!   orchestrator --starts, kills, cuts---> master, peers      cast.rs, net/, churn/, scene/
//!        |                                   |
//!        | what it did                       | what they were told      event.rs, log.rs
//!        '--------------> history <----------'                         history.rs
//!                            |
//!                            '--> checkers/ and report.rs
//! ```
//!
//! `stress sim` plays worlds of the library's simulator instead (`pccl::sim`).
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a program speaks to its user, reads clocks and starts threads"
)]

mod cast;
mod checkers;
mod churn;
mod clock;
mod event;
mod history;
mod log;
mod master;
mod net;
// Of `pccl bench`, whose buffers and sizes these programs share.
#[path = "../../src/bin/pccl/bench/pages.rs"]
mod pages;
mod peer;
mod profile;
mod random;
mod report;
mod scene;
mod sim;
#[path = "../../src/bin/pccl/bench/size.rs"]
mod size;
mod stage;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Hurts a run of pccl peers, and checks that it kept its promises")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Kill, stop, cut off, dismiss and start peers at random times for some minutes.
    Churn(churn::Arguments),
    /// Play one fault again and again, and measure how long everybody takes to notice and go on.
    Scene(scene::Arguments),
    /// Play worlds of the simulator from seeds.
    Sim(sim::Arguments),
    #[command(hide = true)]
    Master(master::Arguments),
    #[command(hide = true)]
    Peer(peer::Arguments),
    #[command(hide = true)]
    Mapped(scene::MappedArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Churn(arguments) => churn::run(&arguments),
        Command::Scene(arguments) => scene::run(&arguments),
        Command::Sim(arguments) => sim::run(&arguments),
        Command::Master(arguments) => master::run(&arguments).map(|()| true),
        Command::Peer(arguments) => peer::run(&arguments).map(|()| true),
        Command::Mapped(arguments) => scene::run_mapped(&arguments).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("stress: {failure}");
            ExitCode::from(2)
        }
    }
}

/// Lets the library log to stderr, as `PCCL_LOG_LEVEL` says.
fn log_library() {
    let wanted = std::env::var("PCCL_LOG_LEVEL").unwrap_or_else(|_| "pccl=info".to_owned());
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(wanted))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
}
