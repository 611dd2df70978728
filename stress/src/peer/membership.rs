//! One membership: connect, then sync, all-reduces by tag, look for newcomers, and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pccl::{
    CollectiveError, Communicator, Config, Gone, GroupId, Revision, SharedState, SyncStrategy,
};

use super::Arguments;
use super::classes::{Classed, class, lost};
use super::fork;
use super::model::{Model, compute_for};
use super::numbers::{Slot, id};
use super::watch::Watch;
use crate::event::{Event, Work};
use crate::log::Log;

/// How long a peer that is alone waits before it looks for others.
const ALONE_PAUSE: Duration = Duration::from_millis(20);

/// Why a membership is over.
pub(super) enum End {
    /// Asked to.
    Left,
    /// Something else; another one may work.
    Again,
}

pub(super) struct Membership<'a> {
    arguments: &'a Arguments,
    communicator: Communicator,
    log: &'a mut Log,
    model: &'a mut Model,
    leave: &'a AtomicBool,
    watch: &'a Arc<Watch>,
    slots: Vec<Slot>,
    /// The revision of the last sync, if it committed in this membership.
    synced: Option<u64>,
    /// Whether everybody is there, and nobody else is let in.
    is_settled: bool,
}

impl<'a> Membership<'a> {
    pub(super) fn join(
        arguments: &'a Arguments,
        log: &'a mut Log,
        model: &'a mut Model,
        leave: &'a AtomicBool,
        watch: &'a Arc<Watch>,
    ) -> Result<Self, End> {
        let mut config = Config::new(&arguments.master)
            .label(&arguments.label)
            .group(GroupId(arguments.group))
            .master_grace(Duration::from_millis(arguments.master_grace_ms));
        if let Some(standby) = &arguments.standby {
            config = config.standby_master(standby);
        }
        log.note(Event::Connecting);
        let start = Instant::now();
        let watched = watch.enter("connect");
        let connected = Communicator::new(config).and_then(|communicator| {
            communicator.connect()?;
            Ok(communicator)
        });
        drop(watched);
        let communicator = match connected {
            Ok(communicator) => communicator,
            Err(error) => {
                let error = error.to_string();
                log.note(Event::NotConnected { error });
                return Err(End::Again);
            }
        };
        let id = id(&communicator);
        log.note(Event::Connected {
            id,
            epoch: epoch(&communicator),
            world: communicator.world_sizes().group,
            took_us: us(start),
        });
        let work = |tag| Work {
            lineage: 0,
            step: 0,
            tag,
        };
        Ok(Self {
            slots: (0..arguments.tags)
                .map(|tag| Slot::new(work(tag), id, arguments))
                .collect(),
            arguments,
            communicator,
            log,
            model,
            leave,
            watch,
            synced: None,
            is_settled: false,
        })
    }

    pub(super) fn run(&mut self) -> End {
        loop {
            if let Err(end) = self.turn() {
                return end;
            }
        }
    }

    /// Everything between two looks at whether to leave.
    fn turn(&mut self) -> Result<(), End> {
        if self.leave.load(Ordering::Relaxed) {
            let outcome = format!("{:?}", self.communicator.leave());
            self.log.note(Event::Left { outcome });
            return Err(End::Left);
        }
        self.settle();
        if self.synced.is_some() && !self.is_settled {
            let start = Instant::now();
            let watched = self.watch.enter("are_peers_pending");
            let pending = self.communicator.are_peers_pending();
            drop(watched);
            if self.joint("are_peers_pending", start, pending)? == Some(true) {
                let start = Instant::now();
                let watched = self.watch.enter("update_topology");
                let updated = self.communicator.update_topology();
                drop(watched);
                self.joint("update_topology", start, updated)?;
            }
        }
        if self.synced.is_none() || !self.is_settled {
            self.share()?;
        }
        if self.communicator.world_sizes().group < 2 {
            std::thread::sleep(ALONE_PAUSE);
            return Ok(());
        }
        if self.is_settled {
            compute_for(Duration::from_millis(self.arguments.compute_ms));
            std::thread::sleep(Duration::from_millis(self.arguments.pause_ms));
        }
        self.reduce()
    }

    /// Looks whether everybody is there. All see it in the same turn, as a joint call changed it;
    /// and it stays so, as they would not see in the same turn who is lost later.
    fn settle(&mut self) {
        let wanted = self.arguments.settle_at;
        let is_complete = wanted.is_some_and(|all| self.communicator.world_sizes().global >= all);
        if self.is_settled || !is_complete {
            return;
        }
        self.is_settled = true;
        if self.arguments.fork {
            match fork::fork() {
                Ok(pid) => self.log.note(Event::Forked { pid }),
                Err(error) => eprintln!("stress: cannot fork: {error}"),
            }
        }
    }

    /// None where the call failed, and may be made again.
    fn joint<T, E: Classed + std::fmt::Display>(
        &mut self,
        call: &str,
        start: Instant,
        outcome: Result<T, E>,
    ) -> Result<Option<T>, End> {
        let error = match outcome {
            Ok(answer) => return Ok(Some(answer)),
            Err(error) => error,
        };
        self.log.note(Event::CallFailed {
            call: call.to_owned(),
            class: class(&error),
            error: error.to_string(),
            took_us: us(start),
        });
        self.end_if(error.gone())?;
        Ok(None)
    }

    fn end_if(&mut self, gone: Option<&Gone>) -> Result<(), End> {
        let Some(gone) = gone else { return Ok(()) };
        self.log.note(Event::Gone {
            id: id(&self.communicator),
            class: class(gone),
            error: gone.to_string(),
        });
        Err(End::Again)
    }

    fn share(&mut self) -> Result<(), End> {
        loop {
            let start = Instant::now();
            let mut state = SharedState::new();
            state.revision = Revision(self.model.revision);
            state.tensor("weights", &mut self.model.weights[..]);
            state.tensor("place", &mut self.model.place[..]);
            let watched = self.watch.enter("sync_shared_state");
            let outcome = self
                .communicator
                .sync_shared_state(&mut state, SyncStrategy::EnforcePopular);
            drop(watched);
            drop(state);
            let error = match outcome {
                Ok(report) => {
                    let revision = report.revision.0;
                    self.log.note(Event::Synced {
                        lineage: self.model.place[0],
                        revision,
                        step: self.model.place[1],
                        digest: self.model.digest(),
                        rx_bytes: report.rx_bytes,
                        is_veteran: self.synced.is_some_and(|last| last + 1 == revision),
                        world: self.communicator.world_sizes().group,
                    });
                    self.synced = Some(revision);
                    self.model.revision = revision + 1;
                    return Ok(());
                }
                Err(error) => error,
            };
            self.log.note(Event::SyncFailed {
                class: class(&error),
                error: error.to_string(),
                took_us: us(start),
            });
            self.end_if(error.gone())?;
            match error {
                // What was received in part says nothing about the sync to come.
                pccl::SyncError::Aborted { .. } => self.synced = None,
                pccl::SyncError::StaleRevision { expected, .. } => {
                    self.model.revision = expected.0;
                }
                // As a real program does when it has loaded its checkpoint.
                _ => return Err(End::Again),
            }
        }
    }

    /// All tags at once, those that fail again, until all have committed.
    fn reduce(&mut self) -> Result<(), End> {
        let [lineage, step] = self.model.place;
        for (tag, slot) in (0..).zip(&mut self.slots) {
            slot.refill(Work { lineage, step, tag });
        }
        let mut open: Vec<usize> = (0..self.slots.len()).collect();
        let mut committed = Vec::new();
        let mut attempt = 0;
        while !open.is_empty() {
            attempt += 1;
            if self.arguments.sparse {
                self.log.note(Event::Reducing { step, attempt });
            }
            let start = Instant::now();
            let watched = self.watch.enter("all_reduce");
            let communicator = &self.communicator;
            let slots = self.slots.iter_mut().enumerate();
            let started = slots.filter(|(index, _)| open.contains(index));
            let outcomes = communicator.scope(|scope| {
                let running: Vec<_> = started
                    .map(|(index, slot)| (index, slot.start(scope)))
                    .collect();
                running
                    .into_iter()
                    .map(|(index, reduction)| (index, reduction.wait(), us(start)))
                    .collect::<Vec<_>>()
            });
            drop(watched);
            open.clear();
            for (index, outcome, took_us) in outcomes {
                let retry = self.note(index, attempt, outcome, took_us)?;
                match retry {
                    Some(true) => open.push(index),
                    Some(false) => {}
                    None => committed.push(index),
                }
            }
        }
        committed.sort_unstable();
        for index in committed {
            self.model.learn(self.slots[index].result_digest());
        }
        self.model.place[1] += 1;
        Ok(())
    }

    /// None where it committed, else whether it is worth another attempt.
    fn note(
        &mut self,
        index: usize,
        attempt: u32,
        outcome: Result<pccl::ReduceReport, CollectiveError>,
        took_us: u64,
    ) -> Result<Option<bool>, End> {
        let slot = &self.slots[index];
        let id = id(&self.communicator);
        let error = match outcome {
            Ok(report) => {
                self.log.note(Event::Committed {
                    work: slot.work,
                    id,
                    attempt,
                    epoch: epoch(&self.communicator),
                    contributors: report.contributors.iter().map(|peer| peer.0).collect(),
                    world: report.world_size,
                    digest: slot.result_digest(),
                    wrong: slot.result_damage(&report),
                    took_us,
                });
                return Ok(None);
            }
            Err(error) => error,
        };
        self.log.note(Event::Failed {
            work: slot.work,
            id,
            attempt,
            class: class(&error),
            error: error.to_string(),
            lost: lost(&error),
            input_damage: slot.input_damage(),
            took_us,
        });
        self.end_if(error.gone())?;
        Ok(Some(!matches!(error, CollectiveError::TooFewPeers { .. })))
    }
}

fn epoch(communicator: &Communicator) -> String {
    communicator
        .epoch()
        .map_or_else(String::new, |epoch| epoch.to_string())
}

fn us(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX)
}
