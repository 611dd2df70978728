//! What must hold in every state, and at every end.

use pccl::{Epoch, OperationId, PeerId};

use super::state::{Decision, Ended, Line, Once, State, Use};

/// I1: who is in an epoch finds the same members in the same ring there; epochs rise.
pub(crate) const LINEAR: &str = "membership is linear";
/// An epoch begins once a majority of the voters agreed, or none can be had.
pub(crate) const MAJORITY: &str = "an epoch begins with a majority";
/// I3: nobody commits what another aborts, and the contributors are the same.
pub(crate) const ONE_OUTCOME: &str = "an operation has one outcome";
/// Nobody commits before all who remain hold the whole result.
pub(crate) const COMPLETE: &str = "a committed operation is complete";
/// I7: memory is given back once, and what is committed is not put back.
pub(crate) const MEMORY: &str = "memory is given back once";
/// Each command has one reply, and an expected one.
pub(crate) const ONE_REPLY: &str = "a command is answered once";
/// Nobody is evicted to whom nothing happened.
pub(crate) const NOT_WRONGLY: &str = "nobody is evicted without cause";
/// Where nothing more can happen, every call that all partners have made has returned.
pub(crate) const NO_HANG: &str = "every call returns";
/// Where nothing more can happen, all members have been told of the same failures.
pub(crate) const IN_STEP: &str = "all are told of the same failures";

impl State {
    pub(crate) fn violate(&mut self, property: &'static str, seen: impl Into<String>) {
        let broken = &mut self.world.change().broken;
        broken.entry(property).or_insert_with(|| seen.into());
    }

    /// A node has entered an epoch.
    pub(crate) fn note_epoch(&mut self, node: usize, epoch: Epoch, ring: &[PeerId]) {
        if self.nodes[node].epoch.is_some_and(|before| before >= epoch) {
            self.violate(LINEAR, format!("node {node} goes back to epoch {epoch}"));
        }
        match self.world.rings.get(&epoch) {
            Some(other) if other != ring => {
                let seen = format!("epoch {epoch} has the rings {other:?} and {ring:?}");
                self.violate(LINEAR, seen);
            }
            Some(_) => {}
            None => {
                self.world.change().rings.insert(epoch, ring.to_vec());
            }
        }
        if !self.nodes[node].id.is_some_and(|id| ring.contains(&id)) {
            self.violate(LINEAR, format!("node {node} is not in its own ring"));
        }
    }

    /// A master rules from now on, in the newest epoch that anybody who is left has entered.
    pub(crate) fn note_reign(&mut self, master: usize) {
        let living = self.nodes.iter().filter(|node| node.lives());
        let active = living.filter_map(|node| node.epoch).max();
        let voters = active.and_then(|epoch| self.world.rings.get(&epoch));
        let voters = voters.into_iter().flatten().copied().collect();
        let ruling = self.rulings[master].change();
        ruling.active = active;
        ruling.voters = voters;
    }

    /// A master has begun an epoch.
    pub(crate) fn note_active(&mut self, master: usize, epoch: Epoch) {
        let ruling = &self.rulings[master];
        if ruling.active >= Some(epoch) {
            return;
        }
        let voters_before = ruling.voters.len();
        let agrees = |voter: &&PeerId| {
            ruling.agreed.contains(voter)
                || (ruling.proposed == Some(epoch) && ruling.acknowledged.contains(voter))
        };
        let agreed = ruling.voters.iter().filter(agrees).count();
        let is_possible = |voter: &&PeerId| {
            let mut peers = self.masters[master].peers();
            ruling.agreed.contains(voter) || peers.any(|name| name.id == **voter)
        };
        let possible = ruling.voters.iter().filter(is_possible).count();
        // Where another master may have the majority, it is not a matter of what can be had.
        let is_possible = possible * 2 > voters_before || self.has_standbys();
        if agreed * 2 <= voters_before && is_possible && voters_before > 0 {
            let seen = format!("{agreed} of {voters_before} for epoch {epoch}");
            self.violate(MAJORITY, seen);
        }
        let voters = self.masters[master].rings().values();
        let voters = voters.flatten().copied().collect();
        let ruling = self.rulings[master].change();
        ruling.active = Some(epoch);
        ruling.proposed = None;
        ruling.acknowledged.clear();
        ruling.voters = voters;
        ruling.agreed.clear();
        ruling.settled.clear();
        for (op, is_committed) in std::mem::take(&mut ruling.to_decide) {
            if !is_possible {
                self.world.change().detached.insert(op);
            }
            self.note_decided(master, op, is_committed);
        }
    }

    /// A master has decided how an operation ends, by itself or with an epoch that has begun.
    pub(crate) fn note_decided(&mut self, by: usize, op: OperationId, is_committed: bool) {
        let decision = Decision { by, is_committed };
        let before = self.world.decided.get(&op).copied();
        // What another one has told to nobody who is left happened to nobody.
        let before = before.filter(|before| before.by == by || self.is_known(&op));
        self.world
            .change()
            .decided
            .insert(op, before.unwrap_or(decision));
        if before.is_some_and(|before| before.is_committed != is_committed) {
            self.violate(ONE_OUTCOME, format!("{op} is committed and aborted"));
        }
    }

    /// Whether anybody who is left has heard how an operation ended.
    pub(crate) fn is_known(&self, op: &OperationId) -> bool {
        let mut living = self.nodes.iter().filter(|node| node.lives());
        living.any(|node| node.heard.contains(op) || node.epoch > Some(op.epoch))
    }

    /// A node that is still in the run gives back the memory of an operation.
    pub(crate) fn note_end(&mut self, node: usize, op: OperationId, rolled_back: bool) {
        let Some(running) = self.nodes[node].running.get(&op).cloned() else {
            self.violate(
                MEMORY,
                format!("node {node} ends {op}, which it does not run"),
            );
            return;
        };
        if self.nodes[node].is_gone() {
            if !rolled_back {
                self.violate(MEMORY, format!("node {node} is gone and keeps {op}"));
            }
            return;
        }
        let master = self.nodes[node].at;
        if !rolled_back {
            let is_missing = |peer: &PeerId| {
                let Some(other) = self.node_of(*peer) else {
                    return false;
                };
                let there = &self.nodes[other];
                let remains = there.lives() && self.is_in_run_of(master, other);
                let has_all = there.running.get(&op).is_some_and(|r| r.finished)
                    || self.world.ends.contains_key(&op) && !there.running.contains_key(&op);
                (other == node || remains) && !has_all
            };
            if let Some(peer) = running.ring.iter().find(|peer| is_missing(peer)) {
                let seen = format!("node {node} keeps {op} while {peer} has not all of it");
                self.violate(COMPLETE, seen);
            }
        }
        // What an epoch leaves without an outcome is put back.
        let is_over = self.rulings[master].active > Some(op.epoch) && rolled_back;
        let decision = self.world.decided.get(&op);
        let is_decided = decision.is_some_and(|d| d.is_committed != rolled_back);
        if !is_over && !is_decided {
            let seen = format!("node {node} ends {op}, which is not decided so");
            self.violate(ONE_OUTCOME, seen);
        }
        match self.world.ends.get(&op) {
            Some(end) if end.rolled_back != rolled_back => {
                self.violate(ONE_OUTCOME, format!("{op} is kept and put back"));
            }
            Some(_) => {}
            None => {
                let end = Ended {
                    rolled_back,
                    contributors: None,
                };
                self.world.change().ends.insert(op, end);
            }
        }
    }

    /// A node learns how an operation ended, whether it ran there or not.
    pub(crate) fn note_heard(&mut self, node: usize, op: OperationId) {
        if self.nodes[node].lives() && !self.nodes[node].change().heard.insert(op) {
            self.violate(
                ONE_OUTCOME,
                format!("node {node} hears twice how {op} ends"),
            );
        }
    }

    /// A caller is told who contributed.
    pub(crate) fn note_contributors(&mut self, op: OperationId, contributors: Vec<PeerId>) {
        let Some(end) = self.world.change().ends.get_mut(&op) else {
            self.violate(ONE_OUTCOME, format!("{op} succeeds without an end"));
            return;
        };
        let is_new = end.contributors.is_none();
        let is_same = *end.contributors.get_or_insert_with(|| contributors.clone()) == contributors;
        if end.rolled_back || !(is_new || is_same) {
            self.violate(ONE_OUTCOME, format!("{op} has other contributors"));
        }
    }

    /// Forgets what nobody can contradict any more: who lives is past it, and epochs rise.
    pub(crate) fn forget_the_past(&mut self) {
        let living = self.nodes.iter().filter(|node| node.lives());
        let Some(oldest) = living.map(|node| node.epoch.unwrap_or_default()).min() else {
            return;
        };
        let is_old = |epoch: Epoch| epoch < oldest;
        let has_old = self.world.rings.keys().any(|epoch| is_old(*epoch))
            || self.world.ends.keys().any(|op| is_old(op.epoch))
            || self.world.decided.keys().any(|op| is_old(op.epoch));
        if has_old {
            let world = self.world.change();
            world.rings.retain(|epoch, _| !is_old(*epoch));
            world.ends.retain(|op, _| !is_old(op.epoch));
            world.decided.retain(|op, _| !is_old(op.epoch));
            world.detached.retain(|op| !is_old(op.epoch));
        }
    }

    /// Whether all who live are at one master, which rules.
    pub(crate) fn are_together(&self) -> bool {
        let living = || self.nodes.iter().filter(|node| node.lives());
        let is_there = |ruler: usize| {
            living().all(|node| node.at == ruler && matches!(node.line, Line::Up(_)))
        };
        self.ruler().is_some_and(is_there)
    }

    /// Nothing more happens here: whether every call has returned that can.
    pub(crate) fn all_have_returned(&self) -> bool {
        let accepted = |node: &super::state::Node| node.epoch.is_some();
        self.nodes.iter().filter(|node| node.lives()).all(|node| {
            let in_line = matches!(node.line, Line::Up(_) | Line::None) && node.down.is_empty();
            let uses = !accepted(node) || node.uses.iter().all(|state| *state == Use::Done);
            let update = matches!(node.update, Once::Never | Once::Done);
            // A newcomer waits for as long as nobody calls `update_topology` again.
            in_line && uses && update && node.waits.len() <= usize::from(!accepted(node))
        })
    }

    /// Nothing more happens here: whether all who were together were told of as many failures.
    pub(crate) fn all_are_in_step(&self) -> bool {
        let told = self.nodes.iter().filter(|node| node.lives());
        let mut told = told.filter(|node| node.connect == Once::Never);
        let first = told.next().map(|node| &node.failures);
        self.world.uneven || self.world.skips || told.all(|node| Some(&node.failures) == first)
    }
}
