//! The loop that makes time pass: packets arrive, faults strike, processes run, in that order.
//!
//! A world has two phases. While faults rain, checkers look at every record. Then it is *calm*:
//! whatever was cut or frozen is mended, and within a bound everything must come right.

use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use super::dice::Dice;
use super::history::{Event, ProcessId, WorldTime};
use super::network::{Machine, Network, Path};
use super::plan::{Fault, FaultKind, Plan};
use super::process::{Process, State};
use crate::communicator::DEFAULT_MASTER_PORT;
use crate::transport;

/// Processes that no packet wakes run at least this often.
const QUANTUM: Duration = Duration::from_millis(10);

/// The network forgets closed connections this often.
const SWEEP: Duration = Duration::from_millis(500);

/// How long programs may take to end once they may.
const CURTAIN: Duration = Duration::from_secs(20);

/// The master's process.
pub(crate) const MASTER: ProcessId = ProcessId(0);

const MASTER_MACHINE: Machine = Machine(1);

/// What a process's program gets of the world.
#[derive(Clone)]
pub(crate) struct Stage {
    pub(crate) process: ProcessId,
    pub(crate) nic: transport::Network,
    pub(crate) network: Network,
    pub(crate) master: SocketAddr,
    pub(crate) signals: Signals,
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
    undo: BTreeMap<(WorldTime, u64), Undo>,
    cuts: BTreeMap<(Machine, Machine), u32>,
    /// How many cuts concern each process.
    cut_off: BTreeMap<ProcessId, u32>,
    struck: u32,
}

enum Undo {
    Thaw(ProcessId),
    Mend(Vec<(Machine, Machine)>, Vec<ProcessId>),
    Quicken(Machine, Machine),
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
        for _ in 0..=self.plan.processes {
            self.start(None)?;
        }
        let mut faults: VecDeque<&Fault> = self.plan.faults.iter().collect();
        let (mut all_ran_at, mut swept_at) = (self.now, self.now);
        let deadline = self.plan.calm_at + bound;
        let mut curtain = None;
        let came_right = loop {
            let due = [
                self.network.next_arrival(),
                faults.front().map(|fault| fault.at),
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
            while let Some(fault) = faults.front()
                && fault.at <= self.now
            {
                self.strike(fault)?;
                faults.pop_front();
            }
            self.undo_what_is_due();
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
            .filter(|id| *id != MASTER)
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
        let stage = Stage {
            process: id,
            nic: self.network.nic(id, machine),
            network: self.network.clone(),
            master: SocketAddr::new(MASTER_MACHINE.ip(), DEFAULT_MASTER_PORT),
            signals: self.signals.clone(),
            seed: self.dice.any(),
        };
        let drift = self.dice.between(0, 2 * self.plan.drift_ppm) as i64;
        let drift_ppm = drift - self.plan.drift_ppm as i64;
        self.script.note(self.now, id, Event::Started);
        let main = self.script.main(stage);
        let process = Process::start(id, machine, self.now, drift_ppm, main)?;
        self.processes.insert(id, process);
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

    fn strike(&mut self, fault: &Fault) -> std::io::Result<()> {
        if self.signals.calm().is_some() {
            return Ok(());
        }
        let peers = self.peers();
        let peer = |n: u64| {
            let place = n.checked_rem(peers.len() as u64)?;
            peers.get(place as usize).copied()
        };
        // 0 is the master, in what befalls paths.
        let end = |n: u64| match n {
            0 => Some(MASTER),
            n => peer(n),
        };
        let struck = match fault.kind {
            FaultKind::Kill { victim, lag } => peer(victim).map(|victim| {
                self.kill(victim, lag, fault);
            }),
            FaultKind::PowerOff { victim } => peer(victim).map(|victim| {
                let machine = self.machine(victim);
                self.network.power_off(machine);
                self.kill(victim, Duration::ZERO, fault);
                self.vacant.retain(|vacant| *vacant != machine);
            }),
            FaultKind::Freeze { victim, length } => peer(victim).map(|victim| {
                self.say(victim, fault);
                self.note(victim, Event::Frozen);
                if let Some(process) = self.processes.get_mut(&victim) {
                    process.freeze();
                }
                self.later(length, Undo::Thaw(victim));
            }),
            FaultKind::Cut {
                a,
                b,
                one_way,
                length,
            } => self.pair(end(a), end(b)).map(|(a, b)| {
                let (from, to) = (self.machine(a), self.machine(b));
                let mut cuts = vec![(from, to)];
                if !one_way {
                    cuts.push((to, from));
                }
                self.cut(cuts, vec![a, b], length, fault);
            }),
            FaultKind::Isolate { victim, length } => peer(victim).map(|victim| {
                let machine = self.machine(victim);
                let others = self.processes.values().filter(|p| p.machine != machine);
                let cuts = others
                    .flat_map(|other| [(machine, other.machine), (other.machine, machine)])
                    .collect();
                self.cut(cuts, vec![victim], length, fault);
            }),
            FaultKind::Strike { a, b, strike, all } => {
                self.pair(end(a), end(b)).and_then(|(a, b)| {
                    let (from, to) = (self.machine(a), self.machine(b));
                    let count = self.network.strike(from, to, strike, all);
                    (count > 0).then(|| {
                        self.say(a, fault);
                        self.note(a, Event::Struck { with: b, strike });
                    })
                })
            }
            FaultKind::Slow {
                a,
                b,
                rate_bytes_per_s,
                length,
            } => self.pair(end(a), end(b)).map(|(a, b)| {
                self.say(a, fault);
                let (from, to) = (self.machine(a), self.machine(b));
                let path = self.network.path(from, to);
                let slow = Path {
                    rate_bytes_per_s: rate_bytes_per_s.min(path.rate_bytes_per_s),
                    ..path
                };
                self.network.set_path(from, to, slow);
                self.later(length, Undo::Quicken(from, to));
            }),
            FaultKind::Start { in_its_place } => {
                let machine = self.vacant.pop().filter(|_| in_its_place);
                self.start(machine)?;
                Some(())
            }
        };
        if struck.is_none() {
            // Nobody is left to be hurt so: that alone is worth a look.
            self.start(None)?;
        }
        self.struck += 1;
        Ok(())
    }

    fn kill(&mut self, victim: ProcessId, lag: Duration, fault: &Fault) {
        self.say(victim, fault);
        self.note(victim, Event::Died);
        self.network.process_died(victim, lag);
        if let Some(process) = self.processes.get_mut(&victim) {
            process.kill();
            self.vacant.push(process.machine);
        }
    }

    fn cut(
        &mut self,
        cuts: Vec<(Machine, Machine)>,
        who: Vec<ProcessId>,
        length: Duration,
        fault: &Fault,
    ) {
        self.say(who[0], fault);
        for (from, to) in &cuts {
            *self.cuts.entry((*from, *to)).or_insert(0) += 1;
            self.network.cut(*from, *to, true);
        }
        for process in &who {
            *self.cut_off.entry(*process).or_insert(0) += 1;
            self.note(*process, Event::CutOff);
        }
        self.later(length, Undo::Mend(cuts, who));
    }

    fn later(&mut self, length: Duration, undo: Undo) {
        let number = self.undo.len() as u64 + u64::from(self.struck) * 1000;
        self.undo.insert((self.now + length, number), undo);
    }

    fn undo_what_is_due(&mut self) {
        while let Some(entry) = self.undo.first_entry() {
            if entry.key().0 > self.now && self.signals.calm().is_none() {
                break;
            }
            match entry.remove() {
                Undo::Thaw(process) => {
                    if let Some(frozen) = self.processes.get_mut(&process)
                        && frozen.state == State::Frozen
                    {
                        self.script.note(self.now, process, Event::Thawed);
                        frozen.thaw(self.now);
                    }
                }
                Undo::Mend(cuts, who) => {
                    for cut in cuts {
                        let count = self.cuts.entry(cut).or_insert(1);
                        *count -= 1;
                        if *count == 0 {
                            self.network.cut(cut.0, cut.1, false);
                        }
                    }
                    for process in who {
                        let count = self.cut_off.entry(process).or_insert(1);
                        *count -= 1;
                        if *count == 0 {
                            self.note(process, Event::Healed);
                        }
                    }
                }
                Undo::Quicken(from, to) => {
                    // All paths are as fast as the plan says: what this one had before may have
                    // been another fault's.
                    let path = self.network.path(from, to);
                    let path = Path {
                        rate_bytes_per_s: self.plan.path.rate_bytes_per_s,
                        ..path
                    };
                    self.network.set_path(from, to, path);
                }
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
        self.undo_what_is_due();
        Ok(())
    }

    fn pair(&self, a: Option<ProcessId>, b: Option<ProcessId>) -> Option<(ProcessId, ProcessId)> {
        a.zip(b)
            .filter(|(a, b)| self.machine(*a) != self.machine(*b))
    }

    fn machine(&self, process: ProcessId) -> Machine {
        let process = self.processes.get(&process);
        process.map_or(MASTER_MACHINE, |process| process.machine)
    }

    fn say(&self, process: ProcessId, fault: &Fault) {
        self.note(process, Event::Fault(format!("{:?}", fault.kind)));
    }

    fn note(&self, process: ProcessId, event: Event) {
        self.script.note(self.now, process, event);
    }
}
