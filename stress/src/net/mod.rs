//! Networks that may be cut: a namespace for each process, joined by a bridge in one that the run
//! has for itself.
//!
//! ```text
//!   host: untouched
//!   the run's own namespace:   orchestrator      bridge "hub"
//!                                                 |      |
//!                                                h1     h2 ...      hub's ends of the cables
//!                                                 |      |
//!   pccl-PID-1: master     pccl-PID-2: p1       eth0   eth0
//! ```
//!
//! The orchestrator moves itself into namespaces of its own before it does anything else, with a
//! `/run` of its own. So there is nothing to tear down: the kernel takes all of it back when the
//! last process of the run ends, however that comes about.

mod place;

pub(crate) use place::{Cut, Place};

use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;

/// Set to the process's own id once it has moved: an `exec` does not change the id, and a value
/// that somebody else left behind does not match it.
const MOVED: &str = "PCCL_STRESS_MOVED";

/// Everything that a run needs, tried out in namespaces that are gone at once.
const REHEARSAL: &str = "mount -t tmpfs none /run && mkdir -p /run/netns && ip netns add a \
    && ip link add hub type bridge && ip link add h1 type veth peer name eth0 netns a \
    && ip -n a rule add pref 10 iif lo ipproto tcp sport 1 dport 2 blackhole";

/// A process may be gone for so long before its network is taken away: what the kernel still has
/// to say for it, it says by then.
const RETIRE_AFTER: Duration = Duration::from_secs(30);

/// Whether networks are to be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Cuts {
    /// Where this process may; elsewhere processes are stopped instead.
    Auto,
    Never,
    /// Or not run at all.
    Always,
}

/// Moves this process where it may cut networks, by running it anew. Returns whether it is there.
pub(crate) fn enter(cuts: Cuts) -> Result<bool, String> {
    if cuts == Cuts::Never {
        return Ok(false);
    }
    if std::env::var(MOVED).is_ok_and(|id| id == std::process::id().to_string())
        && namespace("self") != namespace(&parent_id().to_string())
    {
        return Ok(true);
    }
    let rehearsal = unshare().arg(REHEARSAL).stderr(Stdio::null()).status();
    if rehearsal.is_ok_and(|status| status.success()) {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut moved = unshare();
        moved
            .arg("mount -t tmpfs none /run && mkdir -p /run/netns && exec \"$0\" \"$@\"")
            .arg(program)
            .args(std::env::args_os().skip(1))
            .env(MOVED, std::process::id().to_string());
        return Err(format!("cannot run unshare: {}", moved.exec()));
    }
    match cuts {
        Cuts::Always => Err("cannot cut networks: needs root and ip".to_owned()),
        _ => {
            eprintln!("cuts: stopping processes instead (needs root and ip)");
            Ok(false)
        }
    }
}

fn unshare() -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "sh", "-c"]);
    command
}

fn namespace(process: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(Path::new("/proc").join(process).join("ns/net")).ok()
}

/// Places that were made in this process; each number names one namespace and one address.
static MADE: AtomicU32 = AtomicU32::new(0);

/// The bridge, and the places of processes that are gone.
pub(crate) struct Network {
    retired: Vec<(Instant, Place)>,
}

impl Network {
    /// Only where [`enter`] said that it may be.
    pub(crate) fn open() -> Result<Self, String> {
        if MADE.load(Ordering::Relaxed) == 0 {
            ip(
                None,
                "link set lo up\nlink add hub type bridge\nlink set hub up\n",
            )?;
        }
        Ok(Self {
            retired: Vec::new(),
        })
    }

    /// A network for one more process.
    pub(crate) fn place(&mut self) -> Result<Place, String> {
        self.retired
            .retain(|(since, _)| since.elapsed() < RETIRE_AFTER);
        let number = 1 + MADE.fetch_add(1, Ordering::Relaxed);
        let [high, low] = [number / 250, number % 250].map(|part| part as u8);
        Place::make(number, Ipv4Addr::new(10, 77, high, low + 1))
    }

    /// The process is gone.
    pub(crate) fn retire(&mut self, place: Place) {
        self.retired.push((Instant::now(), place));
    }
}

/// Gives `ip` some commands, a line each.
fn ip(namespace: Option<&str>, lines: &str) -> Result<(), String> {
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
