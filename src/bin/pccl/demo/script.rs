//! The plot of the demo: who is killed when, and when a newcomer arrives. Pure: it hears what
//! the workers say and answers what is to be done.
//!
//! The kill must land *inside* an all-reduce, and on loopback one takes milliseconds. So at that
//! outer step one worker, the holder, is late: it has not called yet when all others, the victim
//! among them, have started theirs. Their operation cannot end without the holder; the victim is
//! killed; only then the holder is let go.

use std::collections::BTreeSet;

use super::event::Event;

/// What the program has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cue {
    /// SIGKILL for this worker, then word to the holder to go on.
    KillThenRelease { victim: usize, holder: usize },
    /// SIGKILL for the master, then word to the holder to go on; the master comes back later.
    KillMasterThenRelease { holder: usize },
    /// Start this worker.
    Start { newcomer: usize },
}

/// Who does what; workers are numbered from 0, the newcomer comes after the founders.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) founders: usize,
    pub(super) victim: usize,
    pub(super) holder: usize,
    pub(super) newcomer: usize,
    /// Outer step in whose all-reduce the victim dies.
    pub(super) kill_step: u64,
    /// Outer step after which the newcomer is started.
    pub(super) join_step: u64,
    /// Outer step in whose all-reduce the master dies, if it does.
    pub(super) master_step: Option<u64>,
    inside: BTreeSet<usize>,
    holding: bool,
    killed: bool,
    joined: bool,
    master_killed: bool,
}

impl Script {
    /// A plot for `founders` workers, three or more, and `steps` outer steps, six or more.
    pub(super) fn new(founders: usize, steps: u64) -> Self {
        let kill_step = steps / 3;
        let join_step = (steps / 2).max(kill_step + 1);
        Self {
            founders,
            victim: 1,
            holder: founders - 1,
            newcomer: founders,
            kill_step,
            join_step,
            master_step: None,
            inside: BTreeSet::new(),
            holding: false,
            killed: false,
            joined: false,
            master_killed: false,
        }
    }

    /// The same, and the master dies in an all-reduce of the last part.
    pub(super) fn kill_master(self, steps: u64) -> Self {
        Self {
            master_step: Some((steps * 5 / 6).max(self.join_step + 1)),
            ..self
        }
    }

    /// The shard of a worker: its number, and the victim's for the newcomer.
    pub(super) fn shard(&self, worker: usize) -> usize {
        if worker == self.newcomer {
            self.victim
        } else {
            worker
        }
    }

    /// The outer steps at which a worker has to be late.
    pub(super) fn hold_at(&self, worker: usize) -> Vec<u64> {
        match worker == self.holder {
            true => self
                .master_step
                .into_iter()
                .chain([self.kill_step])
                .collect(),
            false => Vec::new(),
        }
    }

    /// Workers that were inside the all-reduce when the victim died, the victim left out.
    pub(super) fn witnesses(&self) -> Vec<usize> {
        (0..self.founders)
            .filter(|&w| w != self.victim && w != self.holder)
            .collect()
    }

    /// Takes note of what a worker said; tells what is to be done now.
    pub(super) fn hear(&mut self, worker: usize, event: &Event) -> Option<Cue> {
        if let Some(holder) = self.hear_of_master_step(worker, event) {
            return Some(Cue::KillMasterThenRelease { holder });
        }
        match *event {
            Event::Reducing { step } if step == self.kill_step && !self.killed => {
                self.inside.insert(worker);
            }
            Event::Holding { step } if step == self.kill_step && worker == self.holder => {
                self.holding = true;
            }
            Event::Step { step, .. } if step >= self.join_step && self.killed && !self.joined => {
                self.joined = true;
                return Some(Cue::Start {
                    newcomer: self.newcomer,
                });
            }
            _ => return None,
        }
        // The holder itself never is inside before the kill.
        if self.holding && !self.killed && self.inside.len() == self.founders - 1 {
            self.killed = true;
            self.inside.clear();
            self.holding = false;
            return Some(Cue::KillThenRelease {
                victim: self.victim,
                holder: self.holder,
            });
        }
        None
    }

    /// The holder, once the all-reduce in which the master is to die is under way.
    fn hear_of_master_step(&mut self, worker: usize, event: &Event) -> Option<usize> {
        let master_step = self.master_step.filter(|_| !self.master_killed)?;
        match *event {
            Event::Reducing { step } if step == master_step => {
                self.inside.insert(worker);
            }
            Event::Holding { step } if step == master_step => self.holding = true,
            _ => return None,
        }
        let all_are_inside = self.witnesses().iter().all(|w| self.inside.contains(w));
        self.master_killed = self.holding && all_are_inside;
        self.master_killed.then_some(self.holder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Event {
        Event::Step {
            step,
            world: 4,
            loss: 0.0,
            communication_seconds: 0.0,
            seconds: 1.0,
            digest: String::new(),
        }
    }

    #[test]
    fn the_victim_dies_only_when_all_but_the_holder_are_inside() {
        let mut script = Script::new(4, 12);
        assert_eq!((script.kill_step, script.join_step), (4, 6));
        for worker in 0..4 {
            assert_eq!(script.hear(worker, &Event::Reducing { step: 3 }), None);
        }
        assert_eq!(script.hear(0, &Event::Reducing { step: 4 }), None);
        assert_eq!(script.hear(1, &Event::Reducing { step: 4 }), None);
        assert_eq!(script.hear(3, &Event::Holding { step: 4 }), None);
        let cue = script.hear(2, &Event::Reducing { step: 4 });
        assert_eq!(
            cue,
            Some(Cue::KillThenRelease {
                victim: 1,
                holder: 3
            })
        );
        // Retries say it again; nobody else dies.
        assert_eq!(script.hear(0, &Event::Reducing { step: 4 }), None);
        assert_eq!(script.hear(3, &Event::Reducing { step: 4 }), None);
    }

    #[test]
    fn the_holder_may_be_the_last_to_arrive() {
        let mut script = Script::new(3, 6);
        assert_eq!(script.hear(0, &Event::Reducing { step: 2 }), None);
        assert_eq!(script.hear(1, &Event::Reducing { step: 2 }), None);
        let cue = script.hear(2, &Event::Holding { step: 2 });
        assert_eq!(
            cue,
            Some(Cue::KillThenRelease {
                victim: 1,
                holder: 2
            })
        );
    }

    #[test]
    fn one_newcomer_is_started_with_the_victims_shard_after_the_kill() {
        let mut script = Script::new(3, 9);
        assert_eq!(
            script.hear(0, &step(script.join_step)),
            None,
            "nobody was killed yet"
        );
        script.hear(0, &Event::Reducing { step: 3 });
        script.hear(1, &Event::Reducing { step: 3 });
        assert!(script.hear(2, &Event::Holding { step: 3 }).is_some());
        assert_eq!(script.hear(0, &step(3)), None);
        assert_eq!(script.hear(0, &step(4)), Some(Cue::Start { newcomer: 3 }));
        assert_eq!(script.hear(2, &step(4)), None);
        assert_eq!(script.shard(3), script.victim);
    }
}
