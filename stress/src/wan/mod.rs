//! `stress wan`: a WAN on one machine, for kernels that cannot delay packets themselves.
//!
//! ```text
//!   namespace 0: COMMAND     namespace 1: COMMAND     ...        machine.rs
//!                eth0                     eth0
//!                  |  TUN, super-packets     |
//!   emulator.rs:  read -> World -> write, when it is due         one thread
//!                          |
//!                          '-- world.rs: links of all pairs, what is under way      [pure]
//!                              link.rs: queue, rate, loss, delay, jitter            [pure]
//!                              packet.rs: super-packets and their segments          [pure]
//!                              order.rs: matrix file, cuts while it runs            [pure]
//!                 control.rs: the FIFO that brings those
//! ```
//!
//! `docs/TESTING.md` says what it can be used for, and what one connection can reach.

mod control;
mod emulator;
mod link;
mod machine;
mod order;
mod os;
mod packet;
mod world;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::net;
use control::Control;
use emulator::{Emulator, Pace};
use link::{Nanos, Shape};
use machine::Machine;
use order::Change;
use world::World;

/// Lies in the `/run` that the run has for itself, so it goes with it.
const CONTROL: &str = "/run/pccl-wan";

/// How often commands are looked at.
const LOOK: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Machines, each with a link to every other.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=64))]
    peers: u8,
    /// Round trip; each way takes half of it.
    #[arg(long, value_name = "MS", default_value = "50", value_parser = order::milliseconds)]
    rtt_ms: Nanos,
    /// Of each way of each link, IP headers included; 0 is no limit.
    #[arg(long, value_name = "MBIT", default_value = "1000", value_parser = order::megabits)]
    rate_mbit: u64,
    /// Segments that are lost, of a million.
    #[arg(long, value_name = "PPM", default_value = "0", value_parser = order::parts_per_million)]
    loss_ppm: u32,
    /// The most by which each way takes longer; the order is kept.
    #[arg(long, value_name = "MS", default_value = "0", value_parser = order::milliseconds)]
    jitter_ms: Nanos,
    /// What may wait in front of each way of a link [default: what is under way in one round
    /// trip, and at least 256].
    #[arg(long, value_name = "KIB", value_parser = order::kibibytes)]
    queue_kib: Option<u64>,
    /// Links that are unlike the others, a line each: `0 1 RTT_MS RATE_MBIT LOSS_PPM JITTER_MS`.
    #[arg(long, value_name = "FILE")]
    matrix: Option<PathBuf>,
    /// Draws the same losses and delays again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs on each machine; PCCL_WAN_PEER says on which.
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl Arguments {
    fn shape(&self) -> Shape {
        const NOTHING: Shape = Shape {
            delay_ns: 0,
            jitter_ns: 0,
            rate_bit: 0,
            loss_ppm: 0,
            queue_bytes: 0,
        };
        let flags = Change {
            delay_ns: Some(self.rtt_ms / 2),
            rate_bit: Some(self.rate_mbit),
            loss_ppm: Some(self.loss_ppm),
            jitter_ns: Some(self.jitter_ms),
            queue_bytes: self.queue_kib,
        };
        flags.apply(NOTHING)
    }

    fn world(&self) -> Result<World, String> {
        let peers = usize::from(self.peers);
        let addresses = (0..peers).map(machine::address).collect();
        let mut world = World::new(addresses, self.shape(), self.seed);
        if let Some(path) = &self.matrix {
            let failed = |reason| format!("{}: {reason}", path.display());
            let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
            let orders = order::parse_all(&text, peers).map_err(failed)?;
            orders.into_iter().for_each(|order| world.obey(order));
        }
        Ok(world)
    }
}

/// Returns whether every command succeeded. The first that does not ends all others.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, String> {
    let world = arguments.world()?;
    if !net::enter_own(machine::REHEARSAL)? {
        return Err("wan needs root, /dev/net/tun, ip, unshare and setpriv".to_owned());
    }
    let control_path = Path::new(CONTROL);
    let control = Control::open(control_path)?;
    let peers = usize::from(arguments.peers);
    let mut machines = Vec::new();
    let mut devices = Vec::new();
    for number in 0..peers {
        let (machine, device) = Machine::make(number)?;
        machines.push(machine);
        devices.push(device);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let emulator = Emulator::new(devices, control, world);
    let emulator = std::thread::spawn({
        let is_over = is_over.clone();
        move || emulator.run(&is_over)
    });
    eprintln!(
        "wan: peers 0 to {} at {} to {}; control: /proc/{}/root{CONTROL}",
        peers - 1,
        machine::address(0),
        machine::address(peers - 1),
        std::process::id()
    );
    for machine in &mut machines {
        machine.start(&arguments.command, peers, control_path)?;
    }
    let mut running: Vec<usize> = (0..peers).collect();
    let mut all_succeeded = true;
    while all_succeeded && !running.is_empty() && !emulator.is_finished() {
        std::thread::sleep(LOOK);
        running.retain(|&number| match machines[number].ended() {
            Some(status) if !status.success() => {
                eprintln!("wan: the command of {number} failed: {status}");
                all_succeeded = false;
                false
            }
            ended => ended.is_none(),
        });
    }
    // Nothing is sent any more by then, and the devices still have their other ends.
    is_over.store(true, Ordering::Relaxed);
    let ended = emulator.join();
    let (world, pace) = ended.map_err(|_| "the emulator panicked".to_owned())??;
    drop(machines);
    report(&world, pace);
    Ok(all_succeeded && running.is_empty())
}

fn report(world: &World, pace: Pace) {
    let percent = 100.0 * pace.cpu.as_secs_f64() / pace.wall.as_secs_f64();
    eprintln!(
        "wan: {:.1} s, emulator {percent:.1} % of a core, {} packets, {} wakeups; \
         late by {:.3} ms on average, {:.1} ms at most, {} by more than 1 ms",
        pace.wall.as_secs_f64(),
        pace.packets,
        pace.wakeups,
        pace.late_ns as f64 / 1e6 / pace.packets.max(1) as f64,
        pace.latest_ns as f64 / 1e6,
        pace.too_late
    );
    if pace.refused > 0 {
        eprintln!("wan: the kernel did not take {} packets", pace.refused);
    }
    for (from, row) in world.counts().iter().enumerate() {
        for (to, count) in row.iter().enumerate() {
            if *count != world::Count::default() {
                eprintln!(
                    "wan: {from}>{to} {:.1} MB in {} segments arrived; {} lost, {} did not fit \
                     the queue, {} cut",
                    count.arrived_bytes as f64 / 1e6,
                    count.arrived,
                    count.lost,
                    count.overflowed,
                    count.cut
                );
            }
        }
    }
}
