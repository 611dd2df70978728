//! The world itself, with programs that only reduce.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::history::{Event, ProcessId, WorldTime};
use super::plan::{Mode, Plan};
use super::world::{Ending, MASTER, Script, Stage, World};
use crate::communicator::{Communicator, Config, ReduceOptions};
use crate::driver::{Host, Secret, listen, serve};
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
                serve(host, listener, MasterConfig::default(), Secret([7; 40])).await;
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
    let plan = Plan::draw(seed, Mode::Honest);
    let script = Reducers::default();
    let world = World::new(&plan, &script, Duration::from_secs(10));
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
