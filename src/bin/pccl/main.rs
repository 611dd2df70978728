//! The `pccl` program: a thin face over the library. Each subcommand is a module of its own.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "a program speaks to its user, and may start threads, read clocks and open sockets"
)]

mod bench;
mod demo;
mod logging;
mod master;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(
    name = "pccl",
    version,
    about = "Fault-tolerant collective communication"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Order the membership of a run, until the process is ended.
    Master(master::MasterArguments),
    /// Measure a collective between processes here, or between machines.
    Bench(bench::BenchArguments),
    /// Train a small model while peers are killed and join, and say what happened.
    Demo(demo::DemoArguments),
    /// One peer of `bench`, started by it.
    #[command(hide = true)]
    BenchPeer(bench::PeerArguments),
    /// The master of `demo --kill-master`, started by it.
    #[command(hide = true)]
    DemoMaster(demo::master::DemoMasterArguments),
    /// One peer of `demo`, started by it.
    #[command(hide = true)]
    DemoWorker(demo::worker::WorkerArguments),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    logging::start(match command {
        // Who runs a master wants to see who comes and goes.
        Command::Master(_) => "info",
        Command::Bench(_) | Command::BenchPeer(_) => "warn",
        _ => "error",
    });
    match command {
        Command::Master(arguments) => master::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::BenchPeer(arguments) => bench::run_peer(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::DemoMaster(arguments) => demo::master::run(&arguments),
        Command::DemoWorker(arguments) => demo::worker::run(&arguments),
    }
}
