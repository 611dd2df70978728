//! Network namespaces: one that a run has for itself, and one for each of its processes.
//!
//! The orchestrator moves itself into namespaces of its own before it does anything else, with a
//! `/run` of its own. So there is nothing to tear down: the kernel takes all of it back when the
//! last process of the run ends, however that comes about.

use std::io::Write;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Set to the process's own id once it has moved: an `exec` does not change the id, and a value
/// that somebody else left behind does not match it.
const MOVED: &str = "PCCL_STRESS_MOVED";

/// What comes before everything else in the namespaces of a run.
const READY: &str = "mount -t tmpfs none /run && mkdir -p /run/netns";

/// Moves this process into namespaces of its own by running it anew, where it may. Returns whether
/// it is there. `rehearsal` is a shell's list of everything that the run needs, tried out in
/// namespaces that are gone at once.
pub(crate) fn enter_own(rehearsal: &str) -> Result<bool, String> {
    if std::env::var(MOVED).is_ok_and(|id| id == std::process::id().to_string())
        && namespace_of("self") != namespace_of(&parent_id().to_string())
    {
        return Ok(true);
    }
    let rehearsed = unshare()
        .arg(format!("{READY} && {rehearsal}"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if !rehearsed.is_ok_and(|status| status.success()) {
        return Ok(false);
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut moved = unshare();
    moved
        .arg(format!("{READY} && exec \"$0\" \"$@\""))
        .arg(program)
        .args(std::env::args_os().skip(1))
        .env(MOVED, std::process::id().to_string());
    Err(format!("cannot run unshare: {}", moved.exec()))
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c"]);
    command
}

fn namespace_of(process: &str) -> Option<PathBuf> {
    std::fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok()
}

/// A network namespace of this run. Deleted when dropped.
pub(crate) struct Namespace {
    name: String,
}

impl Namespace {
    /// Only where [`enter_own`] said that it may be; each number names one.
    pub(crate) fn make(number: u32) -> Result<Self, String> {
        let name = format!("pccl-{}-{number}", std::process::id());
        ip(None, &format!("netns add {name}\n"))?;
        Ok(Self { name })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives `ip` some commands to do in here, a line each.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), String> {
        ip(Some(&self.name), lines)
    }

    /// Runs `program` in here. `ip` becomes it, so signals for the one reach the other.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(None, &format!("netns del {}\n", self.name)) {
            eprintln!("stress: {error}");
        }
    }
}

/// Gives `ip` some commands, a line each; without a namespace in the run's own.
pub(crate) fn ip(namespace: Option<&str>, lines: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot run ip: {error}");
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-n", namespace]);
    }
    let mut child = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(lines.as_bytes()).map_err(failed)?;
    }
    match child.wait().map_err(failed)?.success() {
        true => Ok(()),
        false => Err(format!("ip failed in {namespace:?} at:\n{lines}")),
    }
}
