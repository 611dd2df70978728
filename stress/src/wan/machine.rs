//! One machine of the WAN: a namespace with a device whose other end is the emulator, and the
//! command that runs in it.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use tun_rs::SyncDevice;

use super::emulator::open_device;
use crate::net::{Namespace, ip};

/// Runs the command as the first process of a process namespace: with that ends everything that it
/// has started. It ends itself when the orchestrator does, however that comes about.
const GUARD: [&str; 8] = [
    "--pdeathsig",
    "KILL",
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount-proc",
    "--",
];

/// The program that [`GUARD`] is for.
const GUARDIAN: &str = "setpriv";

/// Everything that this needs, as a shell's list.
pub(super) const REHEARSAL: &str = "ip netns add a && ip tuntap add dev t mode tun \
    && ip link set dev t netns a name eth0 \
    && ip netns exec a setpriv --pdeathsig KILL unshare --pid --fork --kill-child --mount-proc true";

/// Super-packets that wait for the emulator to read them. The device drops what is more, which is
/// no part of any model.
const DEVICE_QUEUE: u32 = 8_000;

pub(super) struct Machine {
    number: usize,
    namespace: Namespace,
    command: Option<Child>,
}

/// Where the machine with this number is reached.
pub(super) fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, number as u8 + 1)
}

impl Machine {
    /// A machine with its cable, and the emulator's end of it.
    pub(super) fn make(number: usize) -> Result<(Self, SyncDevice), String> {
        let namespace = Namespace::make(number as u32)?;
        let device_name = format!("wan{number}");
        let device = open_device(&device_name)?;
        let move_it = format!(
            "link set dev {device_name} netns {} name eth0\n",
            namespace.name()
        );
        ip(None, &move_it)?;
        let address = address(number);
        // Without an address of its own IPv6 asks nobody for routers.
        namespace.ip(&format!(
            "link set lo up\n\
             link set eth0 addrgenmode none\n\
             link set eth0 txqueuelen {DEVICE_QUEUE}\n\
             addr add {address}/16 dev eth0\n\
             link set eth0 up\n"
        ))?;
        let machine = Self {
            number,
            namespace,
            command: None,
        };
        Ok((machine, device))
    }

    /// Starts the command, which learns from its environment where it is.
    pub(super) fn start(
        &mut self,
        words: &[OsString],
        peers: usize,
        control: &Path,
    ) -> Result<(), String> {
        let addresses: Vec<String> = (0..peers).map(|peer| address(peer).to_string()).collect();
        let mut command: Command = self.namespace.command(Path::new(GUARDIAN));
        command
            .args(GUARD)
            .args(words)
            .env("PCCL_WAN_PEER", self.number.to_string())
            .env("PCCL_WAN_PEERS", peers.to_string())
            .env("PCCL_WAN_ADDRESS", &addresses[self.number])
            .env("PCCL_WAN_ADDRESSES", addresses.join(" "))
            .env("PCCL_WAN_CONTROL", control)
            .stdin(Stdio::null());
        let child = command
            .spawn()
            .map_err(|error| format!("cannot start the command of {}: {error}", self.number))?;
        self.command = Some(child);
        Ok(())
    }

    /// How the command ended, if it did.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        self.command.as_mut()?.try_wait().ok().flatten()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(command) = &mut self.command {
            // Fails for one that has ended already.
            let _ = command.kill();
            let _ = command.wait();
        }
    }
}
