//! Brings faults about, and takes them back when their time is over.

use std::time::Duration;

use super::{MASTER, MASTER_MACHINE, Script, World};
use crate::sim::disk::{Disk, DiskFate};
use crate::sim::history::{Event, ProcessId};
use crate::sim::network::{Machine, Path};
use crate::sim::plan::{Fault, FaultKind};
use crate::sim::process::{Process, State};

/// What a kernel needs at most to close the sockets of the dead, once it begins.
const CLOSING: Duration = Duration::from_millis(20);

/// What ends a fault that does not last.
pub(super) enum Undo {
    Thaw(ProcessId),
    Mend(Vec<(Machine, Machine)>, Vec<ProcessId>),
    Quicken(Machine, Machine),
    ReturnMaster(ProcessId, DiskFate),
}

impl<S: Script> World<'_, S> {
    /// Brings a fault about. False: nobody is there to be hurt so.
    pub(super) fn strike(&mut self, fault: &Fault) -> std::io::Result<bool> {
        if self.signals.calm().is_some() {
            return Ok(true);
        }
        // Copies of disks are as old as whoever makes them likes.
        self.disks.values().for_each(Disk::copy);
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
            FaultKind::KillMaster {
                standby,
                lag,
                away,
                disk,
            } => {
                let master = match standby {
                    true => ProcessId::STANDBY,
                    false => MASTER,
                };
                // Its address must be free by the time that it is to be there again.
                let has_time = self.now + lag + CLOSING < self.plan.calm_at;
                if !self.lives(master) || !has_time {
                    return Ok(true);
                }
                self.say(master, fault);
                self.note(master, Event::Died);
                self.network.process_died(master, lag);
                if let Some(process) = self.processes.get_mut(&master) {
                    process.kill();
                }
                self.later(away.max(lag + CLOSING), Undo::ReturnMaster(master, disk));
                Some(())
            }
            FaultKind::Split { sides, length } => {
                let living = self.processes.values().filter(|process| process.is_alive());
                let places = living.zip(0u32..);
                let (here, there): (Vec<_>, Vec<_>) = places
                    .map(|(process, place)| (process.id, process.machine, place))
                    .partition(|(.., place)| sides >> (place % 64) & 1 == 0);
                let pairs = here.iter().flat_map(|(_, from, _)| {
                    let others = there.iter().map(|(_, to, _)| *to);
                    others.flat_map(|to| [(*from, to), (to, *from)])
                });
                let cuts: Vec<_> = pairs.filter(|(from, to)| from != to).collect();
                let who: Vec<_> = here.iter().chain(&there).map(|(id, ..)| *id).collect();
                let is_split = !cuts.is_empty();
                is_split.then(|| self.cut(cuts, who, length, fault))
            }
            FaultKind::Start { in_its_place } => {
                let machine = in_its_place.then(|| self.vacant.pop()).flatten();
                self.start(machine)?;
                return Ok(true);
            }
        };
        self.struck += u32::from(struck.is_some());
        Ok(struck.is_some())
    }

    fn lives(&self, process: ProcessId) -> bool {
        self.processes.get(&process).is_some_and(Process::is_alive)
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

    /// Who starts on a machine that is cut off is cut off from the start.
    pub(super) fn share_cuts(&mut self, process: ProcessId) {
        let machine = self.machine(process);
        let processes = &self.processes;
        let is_there = |who: &ProcessId| processes.get(who).is_some_and(|p| p.machine == machine);
        let mut shared = 0;
        for undo in self.undo.values_mut() {
            if let Undo::Mend(_, who) = undo
                && who.iter().any(is_there)
            {
                who.push(process);
                shared += 1;
            }
        }
        if shared > 0 {
            self.cut_off.insert(process, shared);
            self.note(process, Event::CutOff);
        }
    }

    fn later(&mut self, length: Duration, undo: Undo) {
        let number = self.undo.len() as u64 + u64::from(self.struck) * 1000;
        self.undo.insert((self.now + length, number), undo);
    }

    pub(super) fn undo_what_is_due(&mut self) -> std::io::Result<()> {
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
                Undo::ReturnMaster(master, fate) => {
                    if let Some(disk) = self.disks.get(&master) {
                        disk.suffer(fate);
                    }
                    self.begin(master, self.machine(master))?;
                }
            }
        }
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
}
