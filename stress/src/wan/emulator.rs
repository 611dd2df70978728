//! The one thread that moves packets between devices, as the [`World`] says: read what machines
//! send, wait until it is due, write it to whom it is for.
//!
//! It does what a real network's cables do, so it must not be late: it has a real-time priority
//! where that is allowed, and counts how late it was where it is not.

use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, SyncDevice, VIRTIO_NET_HDR_LEN};

use super::control::Control;
use super::link::Nanos;
use super::os::{self, Poll};
use super::packet::Packet;
use super::world::World;

/// The largest super-packet, with its virtio header.
const LARGEST: usize = VIRTIO_NET_HDR_LEN + (64 << 10);

/// Packets up to this size do not keep a buffer that could hold the largest.
const SMALL: usize = 4 << 10;

/// Buffers that are kept for the next packets.
const SPARE: usize = 1024;

/// Packets that are read from one device before those that are due get their turn.
const BATCH: usize = 32;

/// While there is much to carry, the thread rests for a hundredth of the shortest delay after each
/// turn, at most for so long. Packets are late by up to twice of it, and there are far fewer
/// wakeups: its own, and those of machines for it.
const BREATH: Duration = Duration::from_micros(200);

/// How often the thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// Later than this is too late to be overlooked.
const TOO_LATE_NS: Nanos = 1_000_000;

/// A device that hands over super-packets whole, with partial checksums.
pub(super) fn open_device(name: &str) -> Result<SyncDevice, String> {
    let failed = |error: std::io::Error| format!("cannot make a TUN device: {error}");
    let builder = DeviceBuilder::new().name(name).offload(true).enable(false);
    let device = builder.build_sync().map_err(failed)?;
    device.set_nonblocking(true).map_err(failed)?;
    Ok(device)
}

/// How well the emulator kept up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) wall: Duration,
    pub(super) cpu: Duration,
    pub(super) wakeups: u64,
    pub(super) packets: u64,
    pub(super) late_ns: u64,
    pub(super) latest_ns: u64,
    /// Packets that were more than a millisecond late.
    pub(super) too_late: u64,
    /// Packets that the kernel did not take.
    pub(super) refused: u64,
}

pub(super) struct Emulator {
    devices: Vec<SyncDevice>,
    control: Control,
    world: World,
    buffers: Vec<Vec<u8>>,
    started: Instant,
    pace: Pace,
}

impl Emulator {
    /// One device for each machine of the world.
    pub(super) fn new(devices: Vec<SyncDevice>, control: Control, world: World) -> Self {
        Self {
            devices,
            control,
            world,
            buffers: Vec::new(),
            started: Instant::now(),
            pace: Pace::default(),
        }
    }

    /// Carries packets until it is told to end.
    pub(super) fn run(mut self, is_over: &AtomicBool) -> Result<(World, Pace), String> {
        if let Err(error) = os::hurry() {
            eprintln!("wan: no real-time priority, so packets may be late ({error})");
        }
        let devices = self.devices.iter().map(AsRawFd::as_raw_fd);
        let mut poll = Poll::new(devices.chain([self.control.as_raw_fd()]));
        let mut breath = self.breath();
        let mut was_busy = false;
        while !is_over.load(Ordering::Relaxed) {
            if was_busy {
                // More is likely to come soon, and one wakeup for all of it is cheaper.
                std::thread::sleep(breath);
            }
            let pause = match self.world.next_at() {
                _ if was_busy => Duration::ZERO,
                Some(at) => Duration::from_nanos(at.saturating_sub(self.now())).min(LOOK),
                None => LOOK,
            };
            poll.wait(pause).map_err(|error| format!("poll: {error}"))?;
            self.pace.wakeups += 1;
            let packets = self.pace.packets;
            if poll.is_ready(self.devices.len()) {
                self.obey();
                // Delays may be others now.
                breath = self.breath();
            }
            for machine in 0..self.devices.len() {
                if poll.is_ready(machine) {
                    self.collect(machine)?;
                }
            }
            self.deliver();
            was_busy = self.pace.packets > packets;
        }
        self.pace.wall = self.started.elapsed();
        self.pace.cpu = os::cpu_time();
        Ok((self.world, self.pace))
    }

    /// How long to rest after a turn that was busy.
    fn breath(&self) -> Duration {
        Duration::from_nanos(self.world.shortest_delay_ns() / 100).min(BREATH)
    }

    fn now(&self) -> Nanos {
        self.started.elapsed().as_nanos() as Nanos
    }

    /// Reads what a machine sends.
    fn collect(&mut self, machine: usize) -> Result<(), String> {
        for _ in 0..BATCH {
            let mut buffer = self.buffers.pop().unwrap_or_else(|| vec![0; LARGEST]);
            let len = match self.devices[machine].recv(&mut buffer) {
                Ok(len) => len,
                Err(error) => {
                    self.buffers.push(buffer);
                    return match error.kind() {
                        ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(()),
                        _ => Err(format!("cannot read from the device of {machine}: {error}")),
                    };
                }
            };
            if len <= SMALL {
                let small = buffer[..len].to_vec();
                self.buffers.push(buffer);
                buffer = small;
            }
            match Packet::parse(buffer, len) {
                Ok(packet) => {
                    let now = self.now();
                    self.world.send(now, machine, packet);
                }
                Err(buffer) => self.keep(buffer),
            }
        }
        Ok(())
    }

    /// Writes what is due.
    fn deliver(&mut self) {
        while let Some((machine, packet, at)) = self.world.due(self.now()) {
            let late_ns = self.now() - at;
            self.pace.packets += 1;
            self.pace.late_ns += late_ns;
            self.pace.latest_ns = self.pace.latest_ns.max(late_ns);
            self.pace.too_late += u64::from(late_ns > TOO_LATE_NS);
            if self.devices[machine].send(packet.bytes()).is_err() {
                self.pace.refused += 1;
            }
            self.keep(packet.into_buffer());
        }
    }

    /// For the next packet, where it could be as large as they come.
    fn keep(&mut self, buffer: Vec<u8>) {
        if buffer.len() == LARGEST && self.buffers.len() < SPARE {
            self.buffers.push(buffer);
        }
    }

    /// Reads what the control channel says.
    fn obey(&mut self) {
        for order in self.control.read(self.devices.len()) {
            match order {
                Ok(order) => self.world.obey(order),
                Err(reason) => eprintln!("wan: {reason}"),
            }
        }
    }
}
