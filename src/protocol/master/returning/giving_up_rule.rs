//! A master that rules, and is to no longer: another one has ruled after it, may have a majority by now,
//! or is to have it.

use tracing::{info, warn};

use crate::mutation::{Mutation, mutated};
use crate::protocol::master::{ConnectionId, Master, Output, number};
use crate::types::{PeerId, RunId};
use crate::wire::control::ToPeer;

impl Master {
    /// Another master has ruled after this one: what is known here may be out of date. All peers are
    /// asked anew, in a term above.
    pub(in crate::protocol::master) fn step_down(&mut self, connection: ConnectionId, above: u32) {
        warn!(
            ours = self.reign.term,
            theirs = above,
            "another master has ruled after this one; asking all peers anew"
        );
        self.listen_again(above);
        self.outputs.push_back(Output::Close { connection });
    }

    /// Whether peers that could follow another master might do so by now, as too few voters are left
    /// here. `leaving` is about to be given up as well.
    pub(in crate::protocol::master) fn has_lost_majority(&self, leaving: Option<PeerId>) -> bool {
        let voters = &self.active.voters;
        let is_counted_on = |voter: &&PeerId| {
            let is_here = self.members.contains_key(voter) && leaving != Some(**voter);
            is_here || self.active.agreed.contains(voter)
        };
        let left = voters.iter().filter(is_counted_on).count();
        self.active.has_standbys
            && left * 2 <= voters.len()
            && !voters.is_empty()
            && !mutated(Mutation::RuleBesideStandbys)
    }

    /// Nothing may be decided without a majority where another master may have it.
    pub(in crate::protocol::master) fn lose_majority(&mut self) {
        warn!(
            term = self.reign.term,
            "half of the voters or more are silent or gone, and may follow another master; asking all peers anew"
        );
        self.listen_again(self.reign.term);
    }

    /// Forgets all, and begins as one that has just come.
    fn listen_again(&mut self, above: u32) {
        let mut config = self.config.clone();
        config.begins_new_run = false;
        if config.recovery_window.is_zero() {
            config.recovery_window = config.silence_ceiling;
        }
        let seed = blake3::derive_key("pccl 2026 a start of a master", &self.seed);
        // If nobody comes, what begins is not the run of before.
        let run = RunId(number(&seed, "run", &[]));
        let mut anew = Master::new(config, run, above.saturating_add(1), seed, self.now);
        let open = self.connections.keys().copied();
        let closed = open.map(|connection| Output::Close { connection });
        anew.memory.clone_from(&self.memory);
        anew.recalled = self.memory.take();
        anew.outputs = std::mem::take(&mut self.outputs);
        anew.outputs.extend(closed);
        *self = anew;
    }

    /// Ends on purpose: all are told to look for another master.
    pub(in crate::protocol::master) fn hand_over(&mut self) {
        info!(
            peers = self.members.len(),
            "handing over: peers go on with another master of theirs, or wait for the next one at this address, \
             until their master_grace ends"
        );
        let everybody: Vec<PeerId> = self.members.keys().copied().collect();
        for peer in everybody {
            self.say(peer, ToPeer::HandOver);
        }
        self.listen_again(self.reign.term);
    }
}
