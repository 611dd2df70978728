//! `cargo xtask test`: the list of parts that a change must pass, cheapest first.

use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::part::{self, Failure, cargo, succeeds};
use crate::{licences, workspace_root};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Run only the parts whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Name the parts and run none.
    #[arg(long)]
    list: bool,
}

type Work = fn() -> Result<(), String>;

/// Comes last: its closing lines are what people and CI look for at the end.
const TESTS: &str = "tests";

const PARTS: &[(&str, Work)] = &[
    ("format", || succeeds(&mut cargo("fmt --all -- --check"))),
    ("licences", licences::check),
    ("pure rooms alone", || {
        succeeds(&mut cargo("check --locked --lib --no-default-features"))
    }),
    ("clippy", || {
        succeeds(&mut cargo(
            "clippy --locked --workspace --all-targets -- -D warnings",
        ))
    }),
    ("docs", || {
        succeeds(cargo("doc --locked --workspace --no-deps").env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("examples", || {
        // As the tests build them: the library is compiled once for both.
        succeeds(&mut cargo("build --locked --workspace --examples"))?;
        let examples = target_directory().join("debug/examples");
        succeeds(&mut Command::new(examples.join("hello_ring")))?;
        succeeds(Command::new(examples.join("train_loop_with_churn")).arg("--short"))
    }),
    ("model", || {
        // Each check has two threads of its own.
        succeeds(simulated("test --test model").args(["--", "--test-threads=1", "--nocapture"]))
    }),
    ("simulation, stored seeds", || {
        succeeds(&mut simulated("test --test sim"))
    }),
    ("simulation", || {
        succeeds(&mut simulated("build --bin stress"))?;
        let stress = target_directory().join("release/stress");
        succeeds(Command::new(stress).args(["sim", "--seeds", "1000"]))
    }),
    ("PCCL's Python package on our library", pypccl),
    (TESTS, || succeeds(&mut cargo("test --locked --workspace"))),
];

/// Cargo with the library as the simulator needs it; all that is built so shares one compilation.
fn simulated(arguments: &str) -> Command {
    let mut command = cargo(arguments);
    command.args(
        "--locked --release -p pccl -p stress --no-default-features --features pccl/sim"
            .split_whitespace(),
    );
    command
}

fn target_directory() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => workspace_root().join(directory),
        None => workspace_root().join("target"),
    }
}

fn pypccl() -> Result<(), String> {
    if Command::new("python3").arg("--version").output().is_err() {
        println!("skipped: needs python3");
        return match std::env::var_os("PCCL_TEST_REQUIRE_ALL") {
            Some(_) => Err("python3 is not installed".to_owned()),
            None => Ok(()),
        };
    }
    succeeds(&mut cargo("build --locked --release --package pccl-capi"))?;
    succeeds(
        Command::new("python3")
            .arg("capi/pypccl/run.py")
            .current_dir(workspace_root()),
    )
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let wanted = |name: &str| {
        arguments
            .only
            .as_ref()
            .is_none_or(|part| name.contains(part.as_str()))
    };
    let mut ran_any = false;
    for (name, work) in PARTS.iter().filter(|(name, _)| wanted(name)) {
        ran_any = true;
        if arguments.list {
            println!("{name}");
        } else if *name == TESTS {
            part::run_last(name, work)?;
        } else {
            part::run(name, work)?;
        }
    }
    if ran_any {
        Ok(())
    } else {
        Err(Failure {
            part: "test".to_owned(),
            reason: "no part has such a name; --list names them".to_owned(),
        })
    }
}
