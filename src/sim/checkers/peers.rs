//! Which process is which peer, and who is still in the run.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Gone;
use crate::sim::history::{Event, Life, ProcessId, Record};
use crate::types::PeerId;

/// Processes as peers of the run.
#[derive(Debug, Default)]
pub(super) struct Peers {
    of: BTreeMap<PeerId, (ProcessId, Life)>,
    lives: BTreeMap<ProcessId, Life>,
    ids: BTreeMap<ProcessId, PeerId>,
    died: BTreeSet<ProcessId>,
    gone: BTreeMap<(ProcessId, Life), Gone>,
}

impl Peers {
    /// Keeps it in mind.
    pub(super) fn see(&mut self, record: &Record) {
        let process = record.process;
        match &record.event {
            Event::LifeBegan(life) => {
                self.lives.insert(process, *life);
                self.ids.remove(&process);
            }
            Event::Registered(peer) => {
                self.of.insert(*peer, (process, self.life(process)));
                self.ids.insert(process, *peer);
            }
            Event::MachineGone(gone) => {
                self.gone
                    .insert((process, self.life(process)), gone.clone());
            }
            Event::Died => {
                self.died.insert(process);
            }
            _ => {}
        }
    }

    pub(super) fn life(&self, process: ProcessId) -> Life {
        self.lives.get(&process).copied().unwrap_or_default()
    }

    /// The id that a process has, or had last, in this life.
    pub(super) fn id(&self, process: ProcessId) -> Option<PeerId> {
        self.ids.get(&process).copied()
    }

    pub(super) fn process(&self, peer: PeerId) -> Option<(ProcessId, Life)> {
        self.of.get(&peer).copied()
    }

    pub(super) fn is_dead(&self, process: ProcessId) -> bool {
        self.died.contains(&process)
    }

    /// Whether what this life of a process knows is lost to every master that comes: it is dead, or has
    /// given up waiting for one.
    pub(super) fn is_lost(&self, who: (ProcessId, Life)) -> bool {
        let gave_up =
            |gone: &Gone| matches!(gone, Gone::NoMajority { .. } | Gone::MasterLost { .. });
        self.is_dead(who.0) || self.gone.get(&who).is_some_and(gave_up)
    }

    /// Whether this life of a process is, as far as it knows, still in the run.
    pub(super) fn is_in_run(&self, (process, life): (ProcessId, Life)) -> bool {
        !self.is_dead(process) && !self.gone.contains_key(&(process, life))
    }

    /// The peer as people can find it in the trace.
    pub(super) fn name(&self, peer: PeerId) -> String {
        match self.of.get(&peer) {
            Some((process, _)) => format!("{process} (peer {peer})"),
            None => format!("peer {peer}"),
        }
    }
}
