//! The loop that makes time pass: packets arrive, faults strike, processes run, in that order.
//!
//! A world has two phases. While faults rain, checkers look at every record. Then it is *calm*:
//! whatever was cut or frozen is mended, and within a bound everything must come right.

mod faults;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::dice::Dice;
use super::disk::Disk;
use super::history::{Event, ProcessId, WorldTime};
use super::network::{Machine, Network, Path};
use super::plan::{Fault, Plan};
use super::process::Process;
use crate::communicator::DEFAULT_MASTER_PORT;
use crate::transport;
use faults::Undo;

/// Processes that no packet wakes run at least this often.
const QUANTUM: Duration = Duration::from_millis(10);

/// A fault that finds nobody to hurt strikes so much later.
const SECOND_TRY: Duration = Duration::from_millis(700);

/// The network forgets closed connections this often.
const SWEEP: Duration = Duration::from_millis(500);

/// How long programs may take to end once they may.
const CURTAIN: Duration = Duration::from_secs(20);

/// The first master's process.
pub(crate) const MASTER: ProcessId = ProcessId::MASTER;

const MASTER_MACHINE: Machine = Machine(1);
const STANDBY_MACHINE: Machine = Machine(2);

/// Where a master is, or the first one.
fn master_address(process: ProcessId) -> SocketAddr {
    let machine = match process {
        ProcessId::STANDBY => STANDBY_MACHINE,
        _ => MASTER_MACHINE,
    };
    SocketAddr::new(machine.ip(), DEFAULT_MASTER_PORT)
}

/// Where the second master is, in worlds that have one.
pub(crate) fn standby_address() -> SocketAddr {
    master_address(ProcessId::STANDBY)
}

/// What a process's program gets of the world.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) process: ProcessId,
    pub(crate) nic: transport::Network,
    pub(crate) network: Network,
    pub(crate) master: SocketAddr,
    pub(crate) signals: Signals,
    /// A master's, where it has a state directory.
    pub(super) disk: Option<Disk>,
    /// For what the program draws itself.
    pub(crate) seed: u64,
}

/// What the world tells its programs.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    living: Arc<AtomicU32>,
    is_over: Arc<AtomicBool>,
}

impl Signals {
    /// Once it is calm: how many peers there are.
    pub(crate) fn calm(&self) -> Option<u32> {
        match self.living.load(Ordering::Relaxed) {
            0 => None,
            living => Some(living),
        }
    }

    /// Programs may end.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }
}

/// What programs there are, and who watches.
pub(crate) trait Script {
    /// A process's program; [`MASTER`]'s is the master.
    fn main(&self, stage: Stage) -> Pin<Box<dyn Future<Output = ()> + Send>>;

    /// The world did something.
    fn note(&self, at: WorldTime, process: ProcessId, event: Event);

    /// Something is wrong already: the world need not go on.
    fn has_failed(&self) -> bool;

    /// All of these have come right since it is calm.
    fn came_right(&self, living: &[ProcessId]) -> bool;

    /// The programs of all of these have ended.
    fn has_ended(&self, living: &[ProcessId]) -> bool;
}

/// How a world ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub(crate) at: WorldTime,
    pub(crate) came_right: bool,
    /// Faults that struck. Where nobody was left to be their victim, a process was started instead.
    pub(crate) faults: u32,
}

pub(crate) struct World<'a, S> {
    plan: &'a Plan,
    script: &'a S,
    dice: Dice,
    now: WorldTime,
    network: Network,
    processes: BTreeMap<ProcessId, Process>,
    signals: Signals,
    next_process: u32,
    next_machine: u16,
    /// Machines of dead processes that another one may take.
    vacant: Vec<Machine>,
    /// Of masters that have state directories.
    disks: BTreeMap<ProcessId, Disk>,
    undo: BTreeMap<(WorldTime, u64), Undo>,
    cuts: BTreeMap<(Machine, Machine), u32>,
    /// How many cuts concern each process.
    cut_off: BTreeMap<ProcessId, u32>,
    struck: u32,
}

impl<'a, S: Script> World<'a, S> {
    pub(crate) fn new(plan: &'a Plan, script: &'a S, user_timeout: Duration) -> Self {
        let network = Network::new(Dice::new(plan.seed, 1), user_timeout);
        Self {
            plan,
            script,
            dice: Dice::new(plan.seed, 2),
            now: WorldTime::default(),
            network,
            processes: BTreeMap::new(),
            signals: Signals::default(),
            next_process: 0,
            next_machine: MASTER_MACHINE.0,
            vacant: Vec::new(),
            disks: BTreeMap::new(),
            undo: BTreeMap::new(),
            cuts: BTreeMap::new(),
            cut_off: BTreeMap::new(),
            struck: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    /// Runs until all has come right and ended, something is wrong, or `bound` after calm is over.
    pub(crate) fn run(mut self, bound: Duration) -> std::io::Result<Ending> {
        self.start(None)?;
        if self.plan.has_standby {
            self.next_machine = STANDBY_MACHINE.0 + 1;
            self.connect(STANDBY_MACHINE);
            self.begin(ProcessId::STANDBY, STANDBY_MACHINE)?;
        }
        for _ in 0..self.plan.processes {
            self.start(None)?;
        }
        let mut faults: BTreeMap<(WorldTime, usize), &Fault> = (0..)
            .zip(&self.plan.faults)
            .map(|(number, fault)| ((fault.at, number), fault))
            .collect();
        let (mut all_ran_at, mut swept_at) = (self.now, self.now);
        let deadline = self.plan.calm_at + bound;
        let mut curtain = None;
        let came_right = loop {
            let due = [
                self.network.next_arrival(),
                faults.keys().next().map(|(at, _)| *at),
                self.undo.keys().next().map(|(at, _)| *at),
                Some(all_ran_at + QUANTUM),
            ];
            self.now = due
                .into_iter()
                .flatten()
                .min()
                .unwrap_or(self.now)
                .max(self.now);
            let touched = self.network.advance(self.now);
            while let Some(entry) = faults.first_entry()
                && entry.key().0 <= self.now
            {
                let ((_, number), fault) = entry.remove_entry();
                if !self.strike(fault)? {
                    // Where there are few, it finds somebody once another process has come.
                    if self.peers().len() < 3 {
                        self.start(None)?;
                    }
                    faults.insert((self.now + SECOND_TRY, number), fault);
                }
            }
            self.undo_what_is_due()?;
            if self.now >= self.plan.calm_at && self.signals.calm().is_none() {
                self.calm()?;
            }
            if self.now >= all_ran_at + QUANTUM {
                all_ran_at = self.now;
                for process in self.processes.values_mut() {
                    process.run_until(self.now);
                }
            } else {
                for process in touched {
                    if let Some(process) = self.processes.get_mut(&process) {
                        process.run_until(self.now);
                    }
                }
            }
            if self.now >= swept_at + SWEEP {
                swept_at = self.now;
                self.network.sweep();
            }
            if self.script.has_failed() {
                break false;
            }
            let living = self.peers();
            match curtain {
                None if self.signals.calm().is_none() => {}
                None if self.script.came_right(&living) => {
                    self.signals.is_over.store(true, Ordering::Relaxed);
                    curtain = Some(self.now + CURTAIN);
                }
                None if self.now >= deadline => break false,
                None => {}
                Some(_) if self.script.has_ended(&living) => break true,
                Some(curtain) if self.now >= curtain => break true,
                Some(_) => {}
            }
        };
        let ending = Ending {
            at: self.now,
            came_right,
            faults: self.struck,
        };
        for process in self.processes.values_mut().filter(|p| p.is_alive()) {
            self.network.process_died(process.id, Duration::ZERO);
            process.kill();
        }
        Ok(ending)
    }

    /// Peers that are alive, frozen ones too.
    fn peers(&self) -> Vec<ProcessId> {
        let living = self.processes.values().filter(|process| process.is_alive());
        living
            .map(|process| process.id)
            .filter(|id| !id.is_master())
            .collect()
    }

    fn start(&mut self, machine: Option<Machine>) -> std::io::Result<()> {
        let id = ProcessId(self.next_process);
        self.next_process += 1;
        let machine = machine.unwrap_or_else(|| {
            let machine = Machine(self.next_machine);
            self.next_machine += 1;
            self.connect(machine);
            machine
        });
        self.begin(id, machine)
    }

    /// A process begins, on its machine.
    fn begin(&mut self, id: ProcessId, machine: Machine) -> std::io::Result<()> {
        let has_disk = id.is_master() && self.plan.has_state_dirs;
        let stage = Stage {
            process: id,
            disk: has_disk.then(|| self.disks.entry(id).or_default().clone()),
            nic: self.network.nic(id, machine),
            network: self.network.clone(),
            master: master_address(id),
            signals: self.signals.clone(),
            seed: self.dice.any(),
        };
        let drift = self.dice.between(0, 2 * self.plan.drift_ppm) as i64;
        let drift_ppm = drift - self.plan.drift_ppm as i64;
        self.script.note(self.now, id, Event::Started);
        let main = self.script.main(stage);
        let process = Process::start(id, machine, self.now, drift_ppm, main)?;
        self.processes.insert(id, process);
        if !id.is_master() {
            self.share_cuts(id);
        }
        Ok(())
    }

    /// Draws the paths between a new machine and all others.
    fn connect(&mut self, machine: Machine) {
        for other in MASTER_MACHINE.0..machine.0 {
            let other = Machine(other);
            for (from, to) in [(machine, other), (other, machine)] {
                let percent = self.dice.between(50, 150) as u32;
                let path = Path {
                    delay: self.plan.path.delay * percent / 100,
                    ..self.plan.path
                };
                self.network.set_path(from, to, path);
            }
        }
    }

    /// Ends the faults.
    fn calm(&mut self) -> std::io::Result<()> {
        while self.peers().len() < 2 {
            self.start(None)?;
        }
        self.note(MASTER, Event::Calm);
        let living = self.peers().len() as u32;
        self.signals.living.store(living, Ordering::Relaxed);
        self.undo_what_is_due()
    }

    fn note(&self, process: ProcessId, event: Event) {
        self.script.note(self.now, process, event);
    }
}
