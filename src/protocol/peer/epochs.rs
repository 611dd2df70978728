//! Epochs as a peer lives through them: proposed, acknowledged, wired, active.

use tracing::{debug, info, warn};

use super::{ActiveEpoch, LinkLoss, Membership, Output, Peer, Phase, Proposed, Reply};
use crate::mutation::{Mutation, mutated};
use crate::types::{Epoch, PeerId, PeerName, Rank};
use crate::wire::control::{LinkFault, LinkSpec, Proposal, ToMaster};

impl Peer {
    pub(super) fn on_proposed(&mut self, proposal: Proposal) {
        let newest = self.proposed.as_ref().map(|p| p.proposal.epoch);
        let newest = newest.max(self.active.as_ref().map(|active| active.epoch));
        if newest.is_some_and(|newest| proposal.epoch <= newest) {
            warn!(epoch = %proposal.epoch, "a proposal older than what is known is ignored");
            return;
        }
        debug!(epoch = %proposal.epoch, world = proposal.sizes.global, "epoch proposed");
        let epoch = proposal.epoch;
        if mutated(Mutation::OutcomesAtProposal) {
            for settlement in proposal.outcomes.clone() {
                self.on_settlement(settlement);
            }
        }
        self.proposed = Some(Proposed {
            proposal,
            wired: false,
        });
        self.wire(epoch);
        self.say(ToMaster::EpochAcknowledged { epoch });
        self.report_wired();
        if mutated(Mutation::OpenAtProposal) {
            self.on_active(epoch);
        }
    }

    /// Asks for the links of the active epoch and of the one to come.
    fn wire(&mut self, epoch: Epoch) {
        let proposed = self
            .proposed
            .iter()
            .flat_map(|proposed| &proposed.proposal.links);
        let active = self.active.iter().flat_map(|active| &active.proposal.links);
        let links = active
            .chain(proposed)
            .map(|link| (link.peer.id, link.clone()))
            .collect();
        self.links = links;
        self.links_up.retain(|peer| self.links.contains_key(peer));
        self.closed_there
            .retain(|peer| self.links.contains_key(peer));
        let links: Vec<LinkSpec> = self.links.values().cloned().collect();
        self.outputs.push_back(Output::Wire { epoch, links });
    }

    pub(super) fn on_link_up(&mut self, peer: PeerId) {
        if !self.links.contains_key(&peer) || !self.links_up.insert(peer) {
            return;
        }
        self.closed_there.remove(&peer);
        self.say(ToMaster::LinkState { peer, up: true });
        self.report_wired();
    }

    /// Only what the other end did is told: the master takes it for a witness of its death.
    pub(super) fn on_link_down(&mut self, peer: PeerId, loss: LinkLoss) {
        if self.links_up.remove(&peer) && loss == LinkLoss::ClosedThere {
            self.closed_there.insert(peer);
            self.say(ToMaster::LinkState { peer, up: false });
        }
    }

    /// Said again and again for as long as it is true. Who does not hear the master cannot say which
    /// end of a link it is.
    pub(super) fn on_link_failed(&mut self, peer: PeerId, fault: LinkFault, reason: String) {
        let is_deaf = self
            .watch
            .as_ref()
            .is_some_and(|w| w.is_suspicious(self.now));
        if is_deaf || !self.is_connected() {
            return;
        }
        let needs = |links: &[LinkSpec]| links.iter().any(|link| link.peer.id == peer);
        let proposed = self.proposed.as_ref().map(|p| &p.proposal);
        let epoch = match (proposed, &self.active) {
            (Some(proposal), _) if needs(&proposal.links) => proposal.epoch,
            (None, Some(active)) if needs(&active.proposal.links) => active.epoch,
            _ => return,
        };
        self.say(ToMaster::LinkFailed {
            epoch,
            peer,
            fault,
            reason,
        });
    }

    fn report_wired(&mut self) {
        let Some(proposed) = &mut self.proposed else {
            return;
        };
        let links = &proposed.proposal.links;
        if proposed.wired
            || !links
                .iter()
                .all(|link| self.links_up.contains(&link.peer.id))
        {
            return;
        }
        proposed.wired = true;
        let epoch = proposed.proposal.epoch;
        self.say(ToMaster::Wired { epoch });
    }

    pub(super) fn on_active(&mut self, epoch: Epoch) {
        let Some(Proposed { mut proposal, .. }) = self
            .proposed
            .take_if(|proposed| proposed.proposal.epoch == epoch)
        else {
            warn!(%epoch, "an epoch that was not proposed cannot be active");
            return;
        };
        let (Phase::Registered { identity, .. } | Phase::Member { identity }) = &self.phase else {
            return;
        };
        let identity = identity.clone();
        let place = |ring: &[PeerName]| ring.iter().position(|name| name.id == identity.peer);
        if mutated(Mutation::RingOfItsOwn) {
            let rank = place(&proposal.ring).unwrap_or(0);
            proposal.ring.rotate_left(rank);
        }
        let Some(rank) = place(&proposal.ring) else {
            warn!(%epoch, "an epoch without this peer cannot be active for it");
            return;
        };
        let rank = Rank(u32::try_from(rank).unwrap_or(u32::MAX));
        info!(%epoch, %rank, world = proposal.sizes.global, group = proposal.sizes.group, "epoch active");

        for settlement in proposal.outcomes.clone() {
            self.on_settlement(settlement);
        }
        if !mutated(Mutation::KeepUnlisted) {
            self.put_back_unlisted();
        }
        self.settled.clear();
        if self.active.is_none() {
            self.completed.counts = proposal.calls;
        }
        let membership = Membership {
            peer: identity.peer,
            rank,
            sizes: proposal.sizes,
            ring: proposal.ring.clone(),
        };
        self.active = Some(ActiveEpoch {
            epoch,
            rank,
            ring: proposal.ring.iter().map(|name| name.id).collect(),
            proposal,
        });
        self.outputs
            .push_back(Output::OpenEpoch { epoch, membership });
        self.wire(epoch);
        if let Phase::Registered { identity, request } = &self.phase {
            let (identity, request) = (identity.clone(), *request);
            self.phase = Phase::Member { identity };
            self.reply(request, Reply::Connect(Ok(())));
        }
        self.begin_waiting();
    }
}
