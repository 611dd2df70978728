//! The world itself, with programs that only reduce.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::history::{Event, ProcessId, WorldTime};
use super::network::{Machine, Network};
use super::plan::{Fault, FaultKind, Mode, Plan};
use super::world::{Ending, MASTER, Script, Stage, World};
use crate::communicator::{Communicator, Config, ReduceOptions};
use crate::driver::{Host, Secret, listen, serve_for_ever};
use crate::protocol::master::MasterConfig;

#[derive(Clone, Default)]
struct Reducers {
    log: Arc<Mutex<Log>>,
}

#[derive(Default)]
struct Log {
    lines: Vec<String>,
    right: BTreeSet<ProcessId>,
    ended: BTreeSet<ProcessId>,
}

impl Reducers {
    fn line(&self, stage: &Stage, what: &str) {
        let line = format!("{} {} {what}", stage.network.now(), stage.process);
        self.log.lock().lines.push(line);
    }

    async fn reduce_for_ever(self, stage: Stage) {
        let host = Host {
            network: stage.nic.clone(),
            observer: None,
        };
        while !stage.signals.is_over() {
            let config = Config::new(stage.master.to_string()).lanes_per_link(2);
            let communicator = Communicator::on(host.clone(), config).unwrap();
            self.line(&stage, "connects");
            if let Err(error) = communicator.connect_async().await {
                self.line(&stage, &format!("did not connect: {error}"));
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
            self.stay(&stage, &communicator).await;
        }
        self.log.lock().ended.insert(stage.process);
    }

    async fn stay(&self, stage: &Stage, communicator: &Communicator) {
        // Who is let in is expected in the same operation as who let it in.
        let mut is_new = true;
        while !stage.signals.is_over() {
            let pending = match std::mem::take(&mut is_new) {
                true => Ok(false),
                false => communicator.are_peers_pending_async().await,
            };
            match pending {
                Ok(true) => {
                    let _ = communicator.update_topology_async().await;
                }
                Ok(false) => {}
                Err(error) => {
                    self.line(stage, &format!("pending: {error}"));
                    if matches!(error, crate::MembershipError::Gone(_)) {
                        return;
                    }
                }
            }
            let work = communicator.start_all_reduce(vec![1u64; 5000], &ReduceOptions::sum());
            let (sums, result) = work.await;
            self.line(stage, &format!("{} {:?}", sums[0], result.is_ok()));
            let living = u64::from(stage.signals.calm().unwrap_or(u32::MAX));
            if result.is_ok() && sums[4999] == living {
                self.log.lock().right.insert(stage.process);
            }
            tokio::time::sleep(Duration::from_millis(30)).await;
        }
    }
}

impl Script for Reducers {
    fn main(&self, stage: Stage) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        if stage.process == MASTER {
            let host = Host {
                network: stage.nic.clone(),
                observer: None,
            };
            return Box::pin(async move {
                let listener = listen(&host, stage.master).unwrap();
                let config = MasterConfig::default().new_run();
                serve_for_ever(host, listener, config, None, Secret([7; 40]))
                    .await
                    .unwrap();
            });
        }
        Box::pin(self.clone().reduce_for_ever(stage))
    }

    fn note(&self, at: WorldTime, process: ProcessId, event: Event) {
        let line = format!("{at} {process} {event:?}");
        self.log.lock().lines.push(line);
    }

    fn has_failed(&self) -> bool {
        false
    }

    fn came_right(&self, living: &[ProcessId]) -> bool {
        living.iter().all(|p| self.log.lock().right.contains(p))
    }

    fn has_ended(&self, living: &[ProcessId]) -> bool {
        living.iter().all(|p| self.log.lock().ended.contains(p))
    }
}

fn play(seed: u64) -> (Ending, Vec<String>) {
    play_plan(&Plan::draw(seed, Mode::Honest))
}

fn play_plan(plan: &Plan) -> (Ending, Vec<String>) {
    let script = Reducers::default();
    let world = World::new(plan, &script, Duration::from_secs(10));
    let ending = world.run(Duration::from_secs(60)).unwrap();
    let lines = std::mem::take(&mut script.log.lock().lines);
    (ending, lines)
}

#[test]
fn a_world_comes_right_after_its_faults() {
    for seed in 0..20 {
        let (ending, lines) = play(seed);
        assert!(ending.came_right, "seed {seed}:\n{}", lines.join("\n"));
    }
}

#[test]
fn a_world_goes_the_same_way_twice() {
    for seed in [3, 4] {
        assert_eq!(play(seed), play(seed));
    }
}

#[test]
fn who_is_cut_off_twice_is_healed_once_with_the_end_of_both() {
    let at = WorldTime::from_ms(1000);
    let isolated = |ms| FaultKind::Isolate {
        victim: 0,
        length: Duration::from_millis(ms),
    };
    let plan = Plan {
        faults: [isolated(900), isolated(50)]
            .map(|kind| Fault { at, kind })
            .to_vec(),
        calm_at: WorldTime::from_ms(3000),
        ..Plan::draw(0, Mode::Honest)
    };
    let (_, lines) = play_plan(&plan);
    let healed: Vec<_> = lines
        .iter()
        .filter(|line| line.ends_with("Healed"))
        .collect();
    let [line] = healed[..] else {
        panic!("{healed:?}")
    };
    let healed_ms: u64 = line[..5].replace('.', "").parse().unwrap();
    assert!(healed_ms >= 1900, "{line}");
}

#[test]
fn a_path_that_was_slowed_twice_is_as_fast_as_before() {
    let slow = |at, ms| Fault {
        at: WorldTime::from_ms(at),
        kind: FaultKind::Slow {
            a: 0,
            b: 1,
            rate_bytes_per_s: 20_000,
            length: Duration::from_millis(ms),
        },
    };
    let plan = Plan {
        faults: vec![slow(500, 200), slow(600, 200)],
        calm_at: WorldTime::from_ms(1000),
        ..Plan::draw(0, Mode::Honest)
    };
    let script = Reducers::default();
    let rates = |network: &Network| {
        let machines = (1..=3).map(Machine);
        let pairs = machines
            .clone()
            .flat_map(|from| machines.clone().map(move |to| (from, to)));
        let apart = pairs.filter(|(from, to)| from != to);
        apart
            .map(|(from, to)| network.path(from, to).rate_bytes_per_s)
            .collect::<BTreeSet<_>>()
    };
    let world = World::new(&plan, &script, Duration::from_secs(10));
    let network = world.network().clone();
    world.run(Duration::from_secs(60)).unwrap();
    assert_eq!(
        rates(&network),
        BTreeSet::from([plan.path.rate_bytes_per_s])
    );
}
