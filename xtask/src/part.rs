//! One part of a run: a command with a name, announced before and timed after.

use std::fmt;
use std::process::Command;
use std::time::Instant;

use crate::workspace_root;

/// A part that did not pass, named as the user saw it announced.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) part: String,
    pub(crate) reason: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed: {}", self.part, self.reason)
    }
}

/// Announces `name` and runs `work`; says how long it took.
pub(crate) fn run(name: &str, work: impl FnOnce() -> Result<(), String>) -> Result<(), Failure> {
    #[allow(clippy::disallowed_methods, reason = "xtask is no pure room")]
    let started = Instant::now();
    run_last(name, work)?;
    eprintln!("== {name}: ok in {:.1} s", started.elapsed().as_secs_f64());
    Ok(())
}

/// As `run`, but says nothing afterwards: the last lines are those of the part itself.
pub(crate) fn run_last(
    name: &str,
    work: impl FnOnce() -> Result<(), String>,
) -> Result<(), Failure> {
    eprintln!("== {name}");
    work().map_err(|reason| Failure {
        part: name.to_owned(),
        reason,
    })
}

/// A call of the cargo that runs this program, in the root of the workspace.
pub(crate) fn cargo(arguments: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(arguments.split_whitespace())
        .current_dir(workspace_root());
    command
}

/// Runs `command` to its end, with its output going where ours goes.
pub(crate) fn succeeds(command: &mut Command) -> Result<(), String> {
    let status = command
        .status()
        .map_err(|error| format!("cannot start {:?}: {error}", command.get_program()))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("{status}"))
    }
}
