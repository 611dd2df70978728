//! A plan, played to its end: the world, its programs, and those who watch.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::time::Duration;

use parking_lot::Mutex;

use super::checkers::{self, End, Tolerance};
use super::dice::Dice;
use super::history::{Event, ProcessId, WorldTime};
use super::plan::{Mode, Plan, Profile};
use super::program::{self, AnyOrder, Ground, Manner, Misbehaving, Recommended, Role};
use super::recorder::{Recorder, Violation};
use super::world::{Script, Stage, World, standby_address};
use crate::communicator::Config;
use crate::driver::{Disk, Host, Secret};
use crate::protocol::master::MasterConfig;

/// How long a sender waits for its bytes to get across.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long peers wait for their master.
const MASTER_GRACE: Duration = Duration::from_secs(8);

/// The longest that a process stands still at a time.
const STANDS_STILL: Duration = Duration::from_secs(14);

/// What came of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What must not be, and was.
    pub violation: Option<Violation>,
    /// Stands for everything that happened.
    pub trace_hash: [u8; 32],
    /// What happened, a line each; empty where it was not to be kept.
    pub trace: Vec<String>,
    /// How much happened, inputs and outputs of machines not counted.
    pub records: u64,
    /// Faults that struck. Where nobody was left to be their victim, a process was started instead.
    pub faults: u32,
    /// How long the world lasted.
    pub lasted: WorldTime,
}

/// Plays a plan. An error is one of the system.
pub fn play(plan: &Plan, keeps_trace: bool) -> std::io::Result<Verdict> {
    let cast = Cast::new(plan, keeps_trace);
    let bound = cast.bound();
    let ending = World::new(plan, &cast, USER_TIMEOUT).run(bound)?;
    let seen = std::mem::take(&mut *cast.seen.lock());
    cast.recorder.end(&End {
        at: ending.at,
        calm: plan.calm_at,
        bound,
        owed: seen.living,
    });
    Ok(Verdict {
        violation: cast.recorder.violation(),
        trace_hash: cast.recorder.trace_hash(),
        trace: cast.recorder.lines(),
        records: cast.recorder.records(),
        faults: ending.faults,
        lasted: ending.at,
    })
}

/// Who plays what.
struct Cast {
    plan: Plan,
    manner: Manner,
    master: MasterConfig,
    config: Config,
    secret: [u8; 40],
    recorder: Recorder,
    seen: Arc<Mutex<Seen>>,
}

/// What the world asks for.
#[derive(Debug, Default)]
struct Seen {
    /// Starts of the master.
    masters: u8,
    living: Vec<ProcessId>,
    ended: BTreeSet<ProcessId>,
}

impl Cast {
    fn new(plan: &Plan, keeps_trace: bool) -> Self {
        let dice = &mut Dice::new(plan.seed, 3);
        let misbehaving = plan.mode == Mode::Misbehaving;
        let strict = !misbehaving && dice.one_in(2);
        let manner = Manner::draw(dice, plan.path.rate_bytes_per_s, strict, plan.mode);
        let mut secret = [0; 40];
        secret.fill_with(|| dice.any() as u8);
        let mut master = match plan.profile {
            Profile::Default => MasterConfig::default(),
            Profile::Fast => MasterConfig::fast(),
        };
        // Longer than anybody of a run waits for its master, and stands still meanwhile: there are
        // never two runs.
        master.recovery_window = MASTER_GRACE + Duration::from_secs(4) + STANDS_STILL;
        let tolerance = Tolerance {
            // Heartbeats under way, and the paths, add to an outage.
            outage: master.resume_grace / 2,
            // What was said of a broken link is said again, counts, and is taken back.
            memory: master.silence_ceiling
                + master.resume_grace
                + 3 * master.link_timeout
                + master.wiring_timeout,
            // What it takes for what was said last to arrive, and for clocks that run slow.
            silence: master.silence_ceiling + Duration::from_millis(1500),
        };
        let config = Config::new("the world says where")
            .lanes_per_link(plan.lanes)
            .connect_timeout(Duration::from_secs(5))
            .master_grace(MASTER_GRACE);
        Self {
            plan: plan.clone(),
            manner,
            master,
            config: match plan.has_standby {
                true => config.standby_master(standby_address().to_string()),
                false => config,
            },
            secret,
            recorder: Recorder::new(checkers::all(tolerance), keeps_trace),
            seen: Arc::default(),
        }
    }

    /// How long everything may take to come right: whoever has lost the master gives it up and
    /// connects again, to a master that waits for it; who was let in meanwhile is found to be unreachable, twice; what was sent
    /// into a cut is given up.
    fn bound(&self) -> Duration {
        self.config.master_grace
            + self.master.recovery_window
            + self.config.connect_timeout
            + 2 * (self.master.wiring_timeout + self.master.silence_ceiling)
            + USER_TIMEOUT
            + Duration::from_secs(10)
    }

    fn ground(&self, stage: &Stage) -> Ground {
        let (process, network) = (stage.process, stage.network.clone());
        let now = {
            let network = network.clone();
            Arc::new(move || network.now())
        };
        let leftovers = Arc::new(move || {
            let tasks = tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks();
            // The program itself is one.
            (network.sockets_of(process), tasks.saturating_sub(1))
        });
        Ground {
            process,
            host: Host {
                network: stage.nic.clone(),
                observer: None,
            },
            recorder: self.recorder.clone(),
            now,
            master: stage.master,
            manner: self.manner.clone(),
            config: self.config.clone().label(process.to_string()),
            signals: stage.signals.clone(),
            leftovers,
            next_call: Arc::new(AtomicU64::new(0)),
            next_life: Arc::new(AtomicU32::new(0)),
        }
    }

    fn role(&self, seed: u64) -> Role {
        let dice = &mut Dice::new(seed, 1);
        if self.plan.mode == Mode::Misbehaving && dice.one_in(3) {
            Role::Misbehaving(Misbehaving::draw(dice))
        } else if self.manner.fixed_shapes && dice.one_in(2) {
            Role::AnyOrder(AnyOrder::draw(dice))
        } else {
            Role::Recommended(Recommended::draw(dice))
        }
    }
}

impl Script for Cast {
    fn main(&self, stage: Stage) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let ground = self.ground(&stage);
        if stage.process.is_master() {
            let seen = &mut *self.seen.lock();
            // The first one begins the run, once.
            let config = match seen.masters {
                0 => self.master.clone().new_run(),
                _ => self.master.clone(),
            };
            // Neither its run nor what is drawn from its seed is known to the next.
            let secret = self.secret.map(|byte| byte.wrapping_add(seen.masters));
            seen.masters = seen.masters.wrapping_add(1);
            let disk = stage.disk.map(|disk| Box::new(disk) as Box<dyn Disk>);
            return Box::pin(program::run_master(ground, config, disk, Secret(secret)));
        }
        let role = self.role(stage.seed);
        let seen = self.seen.clone();
        Box::pin(async move {
            program::run(ground, role).await;
            seen.lock().ended.insert(stage.process);
        })
    }

    fn note(&self, at: WorldTime, process: ProcessId, event: Event) {
        self.recorder.record(at, process, event);
    }

    fn has_failed(&self) -> bool {
        self.recorder.violation().is_some()
    }

    fn came_right(&self, living: &[ProcessId]) -> bool {
        self.seen.lock().living = living.to_vec();
        living
            .iter()
            .all(|process| self.recorder.has_come_right(*process))
    }

    fn has_ended(&self, living: &[ProcessId]) -> bool {
        let seen = self.seen.lock();
        living.iter().all(|process| seen.ended.contains(process))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        Plan::draw(seed, Mode::of(seed))
    }

    #[test]
    fn worlds_of_every_mode_come_right() {
        let mut failed = Vec::new();
        for seed in 0..12 {
            let verdict = play(&plan(seed), false).unwrap();
            let words = |violation| format!("seed {seed}: {violation}");
            failed.extend(verdict.violation.map(words));
        }
        assert!(failed.is_empty(), "{}", failed.join("\n"));
    }

    #[test]
    fn a_seed_is_played_the_same_way_twice() {
        for seed in [0, 3, 4] {
            let [one, other] = [(); 2].map(|()| play(&plan(seed), false).unwrap());
            assert_eq!(one, other);
        }
    }
}
