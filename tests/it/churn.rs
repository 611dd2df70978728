//! Peers vanish and join at random while the others go on: nothing is lost, doubled or told twice
//! differently.
//!
//! Every membership contributes a power of two of its own, so a sum says who is in it. All peers
//! walk through the same steps: in each they ask for newcomers together and reduce under several
//! tags at once. Newcomers learn the number of the step by a maximum. Each writes down what every
//! step gave it; the logs are compared at the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use pccl::{CollectiveError, Communicator, PeerId, ReduceOptions, ReduceReport, Tag};

use crate::common::{Random, Run, Task, communicator, end_all};

/// Operations under tags 0 to 3, and the one that tells newcomers the step.
const TAGS: u64 = 4;
const TAG_OF_STEPS: Tag = Tag(100);
/// Powers of two that fit a sum: memberships that one scenario can have.
const MEMBERSHIPS_MAX: u64 = 63;

/// What a step gave under one tag: who is in the sum, or who was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Entry {
    Summed(Vec<PeerId>),
    Lost(Vec<PeerId>),
}

type Log = BTreeMap<(u64, u64), Entry>;

#[derive(Clone, Copy, Debug)]
enum End {
    Leave,
    /// Between two steps.
    Drop,
    /// With its operations begun.
    DropInside,
    /// From another thread, wherever this one then is.
    CloseAnywhere,
}

struct Scenario {
    places: u64,
    steps: u64,
    count: usize,
    next_power: AtomicU64,
    over: AtomicBool,
    logs: Mutex<Vec<(String, Log)>>,
}

/// One membership, from `connect` to its end after `life` steps, if it has one.
struct Member<'a> {
    scenario: &'a Scenario,
    peer: Arc<Communicator>,
    power: u64,
    powers: BTreeMap<PeerId, u64>,
    step: u64,
    log: Log,
}

impl Member<'_> {
    /// Whether the scenario is over for it.
    fn live(&mut self, life: Option<(u64, End)>, random: &mut Random) -> bool {
        if self.peer.connect().is_err() || self.scenario.over.load(Ordering::SeqCst) {
            return true;
        }
        self.agree_on_step();
        let last = life.map_or(u64::MAX, |(steps, _)| self.step + steps);
        loop {
            // Everybody sees this at the same step.
            if self.step >= self.scenario.steps {
                self.scenario.over.store(true, Ordering::SeqCst);
                self.peer.leave().unwrap();
                return true;
            }
            if self.peer.world_sizes().global == 1 && self.scenario.over.load(Ordering::SeqCst) {
                return true;
            }
            if self.peer.are_peers_pending().unwrap() {
                self.peer.update_topology().unwrap();
                self.agree_on_step();
                // Where the newcomers are by now.
                continue;
            }
            if self.peer.world_sizes().group == 1 {
                thread::yield_now();
                continue;
            }
            match life {
                Some((_, end)) if self.step >= last => {
                    self.end(end, random);
                    return false;
                }
                _ => self.reduce(),
            }
        }
    }

    fn agree_on_step(&mut self) {
        loop {
            self.note_powers();
            let mut step = [self.step];
            let options = ReduceOptions::max().tag(TAG_OF_STEPS);
            match self.peer.all_reduce_in_place(&mut step, &options) {
                Ok(_) => {
                    self.step = step[0];
                    return;
                }
                Err(CollectiveError::PeersLost { .. }) => assert_eq!(step, [self.step]),
                Err(CollectiveError::TooFewPeers { .. }) => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Labels say which power is whose.
    fn note_powers(&mut self) {
        for name in self.peer.members() {
            let power = name.label.parse().unwrap();
            self.powers.insert(name.id, power);
        }
    }

    fn reduce(&mut self) {
        self.note_powers();
        let input = vec![1u64 << self.power; self.scenario.count];
        let mut buffers: Vec<Vec<u64>> = vec![input.clone(); TAGS as usize];
        let outcomes: Vec<Result<ReduceReport, CollectiveError>> = self.peer.scope(|scope| {
            let begun: Vec<_> = buffers
                .iter_mut()
                .zip(0..)
                .map(|(buffer, tag)| {
                    let options = ReduceOptions::sum().tag(Tag(tag));
                    if tag % 2 == 0 {
                        scope.all_reduce_in_place(buffer, &options)
                    } else {
                        scope.all_reduce(&input, buffer, &options)
                    }
                })
                .collect();
            begun
                .into_iter()
                .map(|reduction| reduction.wait())
                .collect()
        });
        assert!(
            input.iter().all(|value| *value == 1 << self.power),
            "send was written"
        );
        for ((outcome, buffer), tag) in outcomes.into_iter().zip(&buffers).zip(0..) {
            let entry = match outcome {
                Ok(report) => {
                    let sum: u64 = report
                        .contributors
                        .iter()
                        .map(|id| 1 << self.powers[id])
                        .sum();
                    assert!(
                        buffer.iter().all(|value| *value == sum),
                        "step {} tag {tag}: {:#x} was summed, {sum:#x} was reported",
                        self.step,
                        buffer[0]
                    );
                    assert_eq!(report.world_size as usize, report.contributors.len());
                    assert!(report.contributors.contains(&self.peer.peer_id().unwrap()));
                    Entry::Summed(report.contributors)
                }
                Err(CollectiveError::PeersLost { lost }) => {
                    if tag % 2 == 0 {
                        assert_eq!(*buffer, input, "the input is not as it was");
                    }
                    Entry::Lost(lost.into_iter().map(|lost| lost.peer.id).collect())
                }
                // Alone since the step began: nothing that others could have seen.
                Err(CollectiveError::TooFewPeers { .. }) => {
                    assert!(tag % 2 == 1 || *buffer == input);
                    continue;
                }
                Err(error) => panic!("step {} tag {tag}: {error}", self.step),
            };
            self.log.insert((self.step, tag), entry);
        }
        self.step += 1;
    }

    fn end(&mut self, end: End, random: &mut Random) {
        let start = |tag| {
            let options = ReduceOptions::sum().tag(Tag(tag));
            self.peer
                .start_all_reduce(vec![1u64 << self.power; self.scenario.count], &options)
        };
        match end {
            End::Leave => self.peer.leave().unwrap(),
            End::Drop => {}
            End::DropInside => {
                // Some of the tags, so that others are missing one or all.
                let begun: Vec<_> = (0..1 + random.below(TAGS)).map(start).collect();
                if random.below(2) == 0 {
                    self.peer.close();
                }
                drop(begun);
            }
            End::CloseAnywhere => {
                let begun: Vec<_> = (0..TAGS).map(start).collect();
                let (peer, yields) = (self.peer.clone(), random.below(400));
                let closing = Task::start("closing", move || {
                    for _ in 0..yields {
                        thread::yield_now();
                    }
                    peer.close();
                });
                for reduction in begun {
                    let (buffer, outcome) = reduction.wait();
                    if outcome.is_err() {
                        let restored = buffer.iter().all(|value| *value == 1 << self.power);
                        assert!(restored, "{outcome:?}");
                    }
                }
                closing.end();
            }
        }
    }
}

/// One after the other, the memberships of one place among the peers.
fn occupy(scenario: &Scenario, config: pccl::Config, place: u64, seed: u64) {
    let mut random = Random::new(seed.wrapping_mul(1000) + place);
    loop {
        let power = scenario.next_power.fetch_add(1, Ordering::SeqCst);
        let peer = communicator(config.clone().label(power.to_string()));
        let mut member = Member {
            scenario,
            peer,
            power,
            powers: BTreeMap::new(),
            step: 0,
            log: Log::new(),
        };
        // The first stays, so that steps are counted on, and so do the last ones of which the sum
        // has room.
        let is_mortal = place != 0 && power < MEMBERSHIPS_MAX - scenario.places;
        let life = is_mortal.then(|| {
            let ends = [End::Leave, End::Drop, End::DropInside, End::CloseAnywhere];
            (random.below(16), ends[random.below(4) as usize])
        });
        let is_over = member.live(life, &mut random);
        let log = std::mem::take(&mut member.log);
        let name = format!("place {place}, power {power}");
        scenario.logs.lock().unwrap().push((name, log));
        drop(member);
        if is_over {
            return;
        }
    }
}

fn churn(places: u64, steps: u64, count: usize, seed: u64) {
    // Added to the fixed seeds, to look further than every run does.
    let shift = std::env::var("PCCL_IT_SEED").map_or(0, |seed| seed.parse().unwrap());
    let seed = seed + shift;
    println!("seed {seed}");
    let run = Run::new();
    let scenario = Arc::new(Scenario {
        places,
        steps,
        count,
        next_power: AtomicU64::new(0),
        over: AtomicBool::new(false),
        logs: Mutex::default(),
    });
    let tasks = (0..places).map(|place| {
        let (scenario, config) = (scenario.clone(), run.config(""));
        Task::start(&format!("place {place}"), move || {
            occupy(&scenario, config, place, seed);
        })
    });
    end_all(tasks.collect());

    let logs = scenario.logs.lock().unwrap();
    let mut truth: BTreeMap<(u64, u64), (&str, &Entry)> = BTreeMap::new();
    for (name, log) in logs.iter() {
        for (step, entry) in log {
            let (first, known) = truth.entry(*step).or_insert((name, entry));
            assert_eq!(
                *known, entry,
                "step and tag {step:?}: {first} and {name} differ"
            );
        }
    }
    let lost = truth
        .values()
        .filter(|(_, entry)| matches!(entry, Entry::Lost(_)))
        .count();
    println!(
        "{} operations, {lost} aborted, {} memberships",
        truth.len(),
        logs.len()
    );
    assert!(
        truth.len() as u64 >= steps * TAGS / 2,
        "too few operations had partners"
    );
    assert!(logs.len() as u64 > places, "nobody joined");
}

#[test]
fn sums_hold_exactly_whom_they_report_while_peers_vanish_and_join() {
    churn(5, 100, 1000, 1);
}

#[test]
fn sums_of_large_buffers_hold_exactly_whom_they_report_while_peers_vanish_and_join() {
    churn(4, 80, 60_001, 2);
}

#[test]
fn sums_of_fewer_elements_than_peers_hold_exactly_whom_they_report() {
    churn(6, 100, 2, 3);
}
