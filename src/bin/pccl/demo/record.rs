//! All that was heard in a run, in order, and what it proves. Times are seconds since the start.

use std::collections::{BTreeMap, BTreeSet};

use super::event::Event;
use super::script::Script;

/// One outer step as one worker saw it.
#[derive(Clone, Debug)]
pub(super) struct StepSeen {
    pub(super) time: f64,
    pub(super) worker: usize,
    pub(super) step: u64,
    pub(super) world: u32,
    pub(super) loss: f32,
    /// Part of the time spent in calls of the library, 0 to 1.
    pub(super) communication: f64,
    pub(super) digest: String,
}

/// How an all-reduce failed at one worker.
#[derive(Clone, Debug)]
pub(super) struct Abort {
    pub(super) worker: usize,
    pub(super) step: u64,
    pub(super) lost: Vec<String>,
    pub(super) error: String,
    pub(super) input_restored: bool,
}

/// What a worker ended with.
#[derive(Clone, Debug)]
pub(super) struct Ending {
    pub(super) steps: u64,
    pub(super) digest: String,
    pub(super) accuracy: f64,
}

/// An outer step that every worker in it has finished.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    pub(super) step: u64,
    pub(super) world: u32,
    /// Means over the workers.
    pub(super) loss: f32,
    pub(super) communication: f64,
    /// The digest, where all have the same.
    pub(super) digest: Option<String>,
}

/// The record of a run.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) steps: Vec<StepSeen>,
    pub(super) aborts: Vec<Abort>,
    pub(super) endings: BTreeMap<usize, Ending>,
    /// When the victim was killed, and by which signal the system says it died.
    pub(super) killed: Option<(f64, Option<i32>)>,
    /// When the master was killed, and when another was there.
    pub(super) master_killed: Option<f64>,
    pub(super) master_returned: Option<f64>,
    /// When the newcomer was started, and when it was a member.
    pub(super) started: Option<f64>,
    pub(super) joined: Option<f64>,
    /// Bytes of shared state that the newcomer received.
    pub(super) received_bytes: u64,
}

impl Record {
    /// Takes note of an event; gives the outer step that it completes, if it does.
    pub(super) fn note(
        &mut self,
        script: &Script,
        time: f64,
        worker: usize,
        event: &Event,
    ) -> Option<Row> {
        match event.clone() {
            Event::Accepted { .. } if worker == script.newcomer => self.joined = Some(time),
            Event::Received { bytes, .. } if worker == script.newcomer => {
                self.received_bytes += bytes;
            }
            Event::Aborted {
                step,
                lost,
                error,
                input_restored,
                ..
            } => self.aborts.push(Abort {
                worker,
                step,
                lost,
                error,
                input_restored,
            }),
            Event::Final {
                steps,
                digest,
                accuracy,
                ..
            } => {
                let ending = Ending {
                    steps,
                    digest,
                    accuracy,
                };
                self.endings.insert(worker, ending);
            }
            Event::Step {
                step,
                world,
                loss,
                communication_seconds,
                seconds,
                digest,
            } => {
                self.steps.push(StepSeen {
                    time,
                    worker,
                    step,
                    world,
                    loss,
                    communication: communication_seconds / seconds.max(f64::MIN_POSITIVE),
                    digest,
                });
                return self.row(step);
            }
            _ => {}
        }
        None
    }

    /// From the kill to the moment when every survivor had the result of the step it fell into.
    pub(super) fn recovery_seconds(&self, script: &Script) -> Option<f64> {
        let (killed, _) = self.killed?;
        let done = self
            .steps
            .iter()
            .filter(|seen| seen.step == script.kill_step);
        done.map(|seen| seen.time - killed).reduce(f64::max)
    }

    /// From the death of the master to the moment when everybody had the result of the step it fell
    /// into.
    pub(super) fn stall_seconds(&self, script: &Script) -> Option<f64> {
        let (killed, step) = (self.master_killed?, script.master_step?);
        let done = self.steps.iter().filter(|seen| seen.step == step);
        done.map(|seen| seen.time - killed).reduce(f64::max)
    }

    /// Mean loss over the workers at each outer step, with the time of the last.
    pub(super) fn mean_loss(&self) -> Vec<(f64, f32)> {
        let mut by_step: BTreeMap<u64, Vec<&StepSeen>> = BTreeMap::new();
        for seen in &self.steps {
            by_step.entry(seen.step).or_default().push(seen);
        }
        by_step
            .values()
            .map(|seen| {
                let loss: f32 = seen.iter().map(|seen| seen.loss).sum();
                let last = seen.iter().map(|seen| seen.time).fold(0.0, f64::max);
                (last, loss / seen.len() as f32)
            })
            .collect()
    }

    /// What the record proves.
    pub(super) fn findings(&self, script: &Script, labels: &dyn Fn(usize) -> String) -> Findings {
        let cast: BTreeSet<usize> = (0..=script.newcomer)
            .filter(|&worker| worker != script.victim)
            .collect();
        let digests: BTreeSet<_> = self.endings.values().map(|ending| &ending.digest).collect();
        let mut by_step: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
        for seen in &self.steps {
            by_step.entry(seen.step).or_default().insert(&seen.digest);
        }
        let names_victim = |abort: &Abort| {
            abort.step == script.kill_step && abort.lost.contains(&labels(script.victim))
        };
        let told: BTreeSet<usize> = self
            .aborts
            .iter()
            .filter(|abort| names_victim(abort))
            .map(|abort| abort.worker)
            .collect();
        Findings {
            identical: digests.len() == 1 && self.endings.keys().eq(cast.iter()),
            diverged_at: by_step
                .iter()
                .find(|(_, d)| d.len() > 1)
                .map(|(&step, _)| step),
            steps_compared: by_step.len() as u64,
            killed_inside: script
                .witnesses()
                .iter()
                .all(|witness| told.contains(witness))
                && self
                    .killed
                    .is_some_and(|(_, signal)| signal == Some(SIGKILL)),
            inputs_restored: self.aborts.iter().all(|abort| abort.input_restored),
            master_unnoticed: script.master_step.is_none_or(|step| {
                let failed = self.aborts.iter().any(|abort| abort.step >= step);
                self.master_returned.is_some() && !failed
            }),
            newcomer_finished: self.joined.is_some() && self.endings.contains_key(&script.newcomer),
        }
    }

    fn row(&self, step: u64) -> Option<Row> {
        let seen: Vec<&StepSeen> = self.steps.iter().filter(|seen| seen.step == step).collect();
        let world = seen.first()?.world;
        if seen.len() != world as usize {
            return None;
        }
        let first = &seen.first()?.digest;
        Some(Row {
            step,
            world,
            loss: seen.iter().map(|seen| seen.loss).sum::<f32>() / seen.len() as f32,
            communication: seen.iter().map(|seen| seen.communication).sum::<f64>()
                / seen.len() as f64,
            digest: seen
                .iter()
                .all(|seen| seen.digest == *first)
                .then(|| first.clone()),
        })
    }
}

const SIGKILL: i32 = 9;

/// The proof, point by point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Findings {
    /// All workers but the victim ended, with one digest.
    pub(super) identical: bool,
    /// The first outer step after which two workers differed.
    pub(super) diverged_at: Option<u64>,
    pub(super) steps_compared: u64,
    /// SIGKILL ended the victim, and every worker that was inside the all-reduce at that moment
    /// got an error that names it.
    pub(super) killed_inside: bool,
    /// Each failed all-reduce left its input as it was.
    pub(super) inputs_restored: bool,
    pub(super) newcomer_finished: bool,
    /// Where the master was killed, another came, and no call failed.
    pub(super) master_unnoticed: bool,
}

impl Findings {
    /// Whether the demo has shown what it is there to show.
    pub(super) fn hold(&self) -> bool {
        self.identical
            && self.diverged_at.is_none()
            && self.killed_inside
            && self.inputs_restored
            && self.newcomer_finished
            && self.master_unnoticed
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn label(worker: usize) -> String {
        format!("worker-{worker}")
    }

    /// Three founders, nine steps: worker 1 dies in step 3, worker 3 is there from step 6 on.
    pub(in crate::demo) fn played() -> (Script, Record) {
        let script = Script::new(3, 9);
        let mut record = Record::default();
        for step in 0..9u64 {
            let cast: &[usize] = match step {
                0..3 => &[0, 1, 2],
                3..6 => &[0, 2],
                _ => &[0, 2, 3],
            };
            if step == 3 {
                record.killed = Some((3.1, Some(9)));
                for worker in [0, 2] {
                    let event = Event::Aborted {
                        step,
                        lost: vec![label(1)],
                        error: "aborted: lost worker-1".into(),
                        world: 2,
                        seconds: 0.2,
                        input_restored: true,
                    };
                    record.note(&script, 3.3, worker, &event);
                }
            }
            if step == 6 {
                record.started = Some(5.5);
                record.note(&script, 5.9, 3, &Event::Accepted { world: 3 });
            }
            for &worker in cast {
                let event = Event::Step {
                    step,
                    world: cast.len() as u32,
                    loss: 2.0 / (step + 1) as f32,
                    communication_seconds: 0.25,
                    seconds: 1.0,
                    digest: format!("{step:x}"),
                };
                let row = record.note(&script, step as f64 + 0.9, worker, &event);
                assert_eq!(row.is_some(), worker == cast[cast.len() - 1]);
            }
        }
        for worker in [0, 2, 3] {
            let event = Event::Final {
                steps: 9,
                world: 3,
                digest: "8".into(),
                accuracy: 0.97,
            };
            record.note(&script, 9.5, worker, &event);
        }
        (script, record)
    }

    #[test]
    fn a_run_as_planned_proves_its_point() {
        let (script, record) = played();
        let findings = record.findings(&script, &label);
        assert!(findings.hold(), "{findings:?}");
        assert_eq!(findings.steps_compared, 9);
        let recovery = record.recovery_seconds(&script).unwrap();
        assert!((recovery - 0.8).abs() < 1e-9);
        assert_eq!(record.mean_loss().len(), 9);
    }

    #[test]
    fn one_different_bit_anywhere_is_found() {
        let (script, mut record) = played();
        record.steps[4].digest = "other".into();
        let findings = record.findings(&script, &label);
        assert_eq!((findings.diverged_at, findings.hold()), (Some(1), false));

        let (script, mut record) = played();
        record.endings.get_mut(&3).unwrap().digest = "other".into();
        assert!(!record.findings(&script, &label).identical);

        let (script, mut record) = played();
        record.aborts[0].input_restored = false;
        assert!(!record.findings(&script, &label).hold());
    }

    #[test]
    fn a_missing_worker_or_a_kill_outside_an_all_reduce_is_found() {
        let (script, mut record) = played();
        record.endings.remove(&2);
        assert!(!record.findings(&script, &label).identical);

        let (script, mut record) = played();
        record.aborts.retain(|abort| abort.worker != 0);
        assert!(!record.findings(&script, &label).killed_inside);

        let (script, mut record) = played();
        record.killed = Some((3.1, None));
        assert!(!record.findings(&script, &label).killed_inside);
    }
}
