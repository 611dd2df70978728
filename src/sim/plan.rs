//! What happens in a world, all of it drawn from one seed before it begins.
//!
//! Faults name their victims by number; whoever has that place among the living when the fault
//! strikes is meant. So a plan stays a plan when faults are taken out of it, which is how a failing
//! one is made smaller.

use std::fmt;
use std::time::Duration;

use super::dice::Dice;
use super::disk::DiskFate;
use super::history::WorldTime;
use super::network::{Path, Strike};

/// What programs do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The loop that the documentation recommends, and calls in any legal order.
    Honest,
    /// The same on a network that loses connections between peers in the middle of everything, with
    /// buffers that are under way for long.
    Lossy,
    /// Some processes break rules, and strangers speak to the ports.
    Misbehaving,
}

impl Mode {
    /// What a seed plays where nobody says: two of four are honest.
    pub fn of(seed: u64) -> Self {
        match seed % 4 {
            0 => Self::Lossy,
            3 => Self::Misbehaving,
            _ => Self::Honest,
        }
    }
}

/// How failures are detected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The defaults.
    Default,
    /// `MasterConfig::fast()`
    Fast,
}

/// A world to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Where all of it comes from.
    pub seed: u64,
    /// What programs do.
    pub mode: Mode,
    /// How failures are detected.
    pub profile: Profile,
    /// Connections in a link.
    pub lanes: u16,
    /// Every direction between two machines is drawn around this one.
    pub path: Path,
    /// Clocks run up to so much slower or faster.
    pub drift_ppm: u64,
    /// Processes at the beginning, masters not counted.
    pub processes: u32,
    /// Whether there is a second master.
    pub has_standby: bool,
    /// Whether masters have state directories.
    pub has_state_dirs: bool,
    /// What befalls them.
    pub faults: Vec<Fault>,
    /// When faults end.
    pub calm_at: WorldTime,
}

/// One thing that goes wrong, or begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// When.
    pub at: WorldTime,
    /// What.
    pub kind: FaultKind,
}

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// SIGKILL; the kernel closes the sockets after a while.
    Kill {
        /// Who.
        victim: u64,
        /// After how long.
        lag: Duration,
    },
    /// Its machine loses its power: nothing is closed.
    PowerOff {
        /// Who.
        victim: u64,
    },
    /// SIGSTOP, and SIGCONT later.
    Freeze {
        /// Who.
        victim: u64,
        /// For so long.
        length: Duration,
    },
    /// Nothing gets through between two processes' machines; 0 is the master.
    Cut {
        /// One.
        a: u64,
        /// The other.
        b: u64,
        /// Only from `a` to `b`.
        one_way: bool,
        /// For so long.
        length: Duration,
    },
    /// Nothing gets to or from a machine.
    Isolate {
        /// Whose.
        victim: u64,
        /// For so long.
        length: Duration,
    },
    /// Connections between two machines; 0 is the master.
    Strike {
        /// One.
        a: u64,
        /// The other.
        b: u64,
        /// What happens to them.
        strike: Strike,
        /// To all of them, or to some.
        all: bool,
    },
    /// A path becomes slow.
    Slow {
        /// From.
        a: u64,
        /// To.
        b: u64,
        /// So many bytes in a second.
        rate_bytes_per_s: u64,
        /// For so long.
        length: Duration,
    },
    /// SIGKILL for a master; it is started again later, in memory of nothing but what its disk says.
    KillMaster {
        /// Not the first one, but its standby.
        standby: bool,
        /// Its kernel closes the sockets after so long.
        lag: Duration,
        /// It is there again after so long.
        away: Duration,
        /// What it finds then, where it has a state directory.
        disk: DiskFate,
    },
    /// The network falls apart in two: masters and peers on both sides.
    Split {
        /// A bit for each process, as they were started.
        sides: u64,
        /// For so long.
        length: Duration,
    },
    /// Another process begins.
    Start {
        /// On the machine, and with the port, of one that has died, if there is one.
        in_its_place: bool,
    },
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64, mode: Mode) -> Self {
        let dice = &mut Dice::new(seed, 0);
        let profile = if dice.one_in(3) {
            Profile::Fast
        } else {
            Profile::Default
        };
        let slowest_ms = *dice.pick(&[1, 5, 20, 60]);
        let is_lossy = mode == Mode::Lossy;
        let rates: &[u64] = match is_lossy {
            true => &[200_000, 500_000, 2_000_000, 5_000_000],
            false => &[200_000, 2_000_000, 50_000_000, 1_000_000_000],
        };
        let path = Path {
            delay: dice.ms(1, slowest_ms),
            jitter: dice.ms(0, slowest_ms / 2),
            rate_bytes_per_s: *dice.pick(rates),
            is_cut: false,
        };
        // A ring of four goes on without one of its links.
        let processes = dice.between(if is_lossy { 3 } else { 2 }, 5) as u32;
        let lanes = *dice.pick(&[1, 2, 3]);
        let first_ms = 1000;
        let last_ms = first_ms + dice.between(4000, 12_000);
        let mut faults = Vec::new();
        for _ in 0..dice.between(8, 14) {
            let at = WorldTime::from_ms(dice.between(first_ms, last_ms));
            let kind = FaultKind::draw(dice);
            if matches!(kind, FaultKind::Kill { .. } | FaultKind::PowerOff { .. })
                && !dice.one_in(4)
            {
                let kind = FaultKind::Start {
                    in_its_place: dice.one_in(2),
                };
                faults.push(Fault {
                    at: at + dice.ms(5, 3000),
                    kind,
                });
            }
            faults.push(Fault { at, kind });
            if dice.one_in(8) {
                let at = WorldTime::from_ms(dice.between(first_ms, last_ms));
                let kind = FaultKind::Start {
                    in_its_place: dice.one_in(2),
                };
                faults.push(Fault { at, kind });
            }
            if dice.one_in(5) {
                // Several at once.
                let kind = FaultKind::draw(dice);
                faults.push(Fault { at, kind });
            }
        }
        if is_lossy {
            for _ in 0..dice.between(3, 6) {
                let at = WorldTime::from_ms(dice.between(first_ms, last_ms));
                Fault::draw_on_link(dice, at, path.delay, &mut faults);
            }
        }
        Fault::draw_on_master(seed, (first_ms, last_ms), &mut faults);
        let has_standby = Fault::draw_on_masters(seed, (first_ms, last_ms), &mut faults);
        let has_state_dirs = Fault::draw_on_disks(seed, &mut faults);
        faults.sort_by_key(|fault| fault.at);
        Self {
            seed,
            mode,
            profile,
            lanes,
            path,
            drift_ppm: *dice.pick(&[0, 200, 10_000]),
            processes,
            has_standby,
            has_state_dirs,
            faults,
            calm_at: WorldTime::from_ms(last_ms + 3500),
        }
    }
}

impl Fault {
    /// In one world of two the master is killed. It has dice of its own: what else happens is the
    /// same with it and without.
    fn draw_on_master(seed: u64, (first_ms, last_ms): (u64, u64), faults: &mut Vec<Self>) {
        let dice = &mut Dice::new(seed, 4);
        if dice.one_in(2) {
            return;
        }
        for _ in 0..dice.between(1, 4) {
            let at = WorldTime::from_ms(dice.between(first_ms, last_ms));
            let away = match dice.one_in(2) {
                true => dice.ms(100, 600),
                false => dice.ms(100, 5000),
            };
            let lag = dice.ms(0, 80);
            let kind = FaultKind::KillMaster {
                standby: false,
                lag,
                away,
                disk: DiskFate::Lost,
            };
            faults.push(Self { at, kind });
        }
    }

    /// In one world of three there are two masters, which die, and are on different sides of the
    /// network. It has dice of its own as well.
    fn draw_on_masters(seed: u64, (first_ms, last_ms): (u64, u64), faults: &mut Vec<Self>) -> bool {
        let dice = &mut Dice::new(seed, 5);
        if !dice.one_in(3) {
            return false;
        }
        for _ in 0..dice.between(1, 4) {
            let at = WorldTime::from_ms(dice.between(first_ms, last_ms));
            let kind = match dice.one_in(2) {
                true => FaultKind::KillMaster {
                    standby: dice.one_in(2),
                    lag: dice.ms(0, 80),
                    away: dice.ms(100, 9000),
                    disk: DiskFate::Lost,
                },
                false => FaultKind::Split {
                    sides: dice.any(),
                    length: dice.ms(300, 9000),
                },
            };
            faults.push(Self { at, kind });
        }
        true
    }

    /// In one world of two, masters have state directories: what they find there. Dice of its own too.
    fn draw_on_disks(seed: u64, faults: &mut [Self]) -> bool {
        let dice = &mut Dice::new(seed, 6);
        if !dice.one_in(2) {
            return false;
        }
        for fault in faults {
            if let FaultKind::KillMaster { disk, .. } = &mut fault.kind {
                *disk = match dice.below(5) {
                    0 => DiskFate::Lost,
                    1 | 2 => DiskFate::Copied { copy: dice.any() },
                    _ => DiskFate::Kept {
                        unsynced_percent: dice.between(0, 100) as u8,
                    },
                };
            }
        }
        true
    }

    /// A link between two peers that breaks again and again, or for long enough to be given up.
    fn draw_on_link(dice: &mut Dice, mut at: WorldTime, delay: Duration, faults: &mut Vec<Self>) {
        let a = 1 + dice.below(1000);
        let b = a + dice.between(1, 3);
        if dice.one_in(3) {
            let kind = FaultKind::Cut {
                a,
                b,
                one_way: dice.one_in(3),
                length: dice.ms(1000, 5000),
            };
            faults.push(Self { at, kind });
            return;
        }
        // Its lanes are made anew in between.
        let pause = 8 * delay;
        for _ in 0..dice.between(2, 7) {
            let kind = FaultKind::Strike {
                a,
                b,
                strike: Strike::Reset,
                all: dice.one_in(3),
            };
            faults.push(Self { at, kind });
            at = at + pause + dice.ms(30, 300);
        }
    }
}

impl FaultKind {
    fn draw(dice: &mut Dice) -> Self {
        let victim = dice.any();
        // The master is one end of every third path.
        let a = match dice.below(3) {
            0 => 0,
            _ => 1 + dice.below(1000),
        };
        let b = 1 + dice.below(1000);
        let (a, b) = if dice.one_in(2) { (a, b) } else { (b, a) };
        let long = dice.one_in(4);
        let length = if long {
            dice.ms(3000, 14_000)
        } else {
            dice.ms(20, 2500)
        };
        match dice.below(11) {
            0..=2 => Self::Kill {
                victim,
                lag: dice.ms(0, 80),
            },
            3 => Self::PowerOff { victim },
            4 | 5 => Self::Freeze { victim, length },
            6 => Self::Cut {
                a,
                b,
                one_way: dice.one_in(2),
                length,
            },
            7 => Self::Isolate { victim, length },
            8 | 9 => Self::Strike {
                a,
                b,
                strike: *dice.pick(&[
                    Strike::Reset,
                    Strike::Reset,
                    Strike::HalfOpen,
                    Strike::Swallow,
                ]),
                all: dice.one_in(2),
            },
            _ => Self::Slow {
                a,
                b,
                rate_bytes_per_s: dice.between(20_000, 400_000),
                length,
            },
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.at, self.kind)
    }
}
