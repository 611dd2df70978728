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
//! Nothing of it is left behind, however a run ends: see `namespace.rs`, which the emulated WAN
//! (`wan/`) uses, too.

mod namespace;
mod place;

pub(crate) use namespace::{Namespace, enter_own, ip};
pub(crate) use place::{Cut, Place};

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use clap::ValueEnum;

/// Everything that a run needs.
const REHEARSAL: &str = "ip netns add a \
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

/// Moves this process where it may cut networks. Returns whether it is there.
pub(crate) fn enter(cuts: Cuts) -> Result<bool, String> {
    if cuts == Cuts::Never {
        return Ok(false);
    }
    let has_moved = enter_own(REHEARSAL)?;
    if !has_moved && cuts == Cuts::Always {
        return Err("cannot cut networks: needs root and ip".to_owned());
    }
    if !has_moved {
        eprintln!("cuts: stopping processes instead (needs root and ip)");
    }
    Ok(has_moved)
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
