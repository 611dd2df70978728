//! A master that does not know this peer's session: it has started anew, or took over. It is told
//! all that this peer holds of the run.

use std::time::Duration;

use tracing::{info, warn};

use super::connection::{Connection, apart};
use super::{Identity, Output, Peer, Phase, RequestId};
use crate::mutation::{Mutation, mutated};
use crate::protocol::session::Session;
use crate::protocol::silence::{Watch, Watcher};
use crate::types::{Epoch, PeerName};
use crate::wire::control::{Reign, Report, Timings, ToMaster};

/// How long a master may ask to be waited for at most: it may be wrong about the others.
const STAY_LONGEST: Duration = Duration::from_secs(300);

impl Peer {
    pub(super) fn on_returned(&mut self, reign: Reign, timings: Timings) {
        let (Phase::Registered { identity, .. } | Phase::Member { identity }) = &mut self.phase
        else {
            return;
        };
        let is_followed = identity.reign == reign
            || reign.term > identity.reign.term
            || mutated(Mutation::FollowLowerTerms);
        if !is_followed {
            let ours = identity.reign.term;
            let reason = format!(
                "it rules in term {}, and term {ours} is known here",
                reign.term
            );
            return self.drop_connection(reason);
        }
        identity.reign = reign;
        let token = identity.token;
        // What was said to the one before, this one has not heard: the session begins anew.
        self.session = Session::new();
        if let Phase::Registered { request, .. } = &self.phase
            && self.proposed.is_none()
        {
            // Nobody counts on this peer yet.
            return self.join_again(*request, "the master has started anew".to_owned());
        }
        info!(master = %self.masters.address(), term = reign.term, "the master does not know this session; reporting");
        let since = match self.connection {
            Connection::Dialling { since, .. } | Connection::Returning { since, .. } => since,
            Connection::None | Connection::Up => self.now,
        };
        // The others may be at another master, which waits for longer than this once they are many.
        let patience = match self.masters.is_first() {
            true => timings.silence_ceiling,
            false => timings.silence_ceiling / 2,
        };
        let patience = apart(patience, token, reign.term);
        let until = self.now + patience;
        self.connection = Connection::Returning { since, until };
        self.watch = Some(Watch::new(Watcher::Peer, timings, self.now, self.now));
        self.last_tick = self.now;
        // What is under way goes first: the report says that all was said.
        let closed: Vec<_> = self.closed_there.iter().copied().collect();
        for peer in closed {
            self.say(ToMaster::LinkState { peer, up: false });
        }
        self.say_call();
        self.say_operations();
        if let Some(report) = self.report(reign.term) {
            self.say(ToMaster::Report(Box::new(report)));
        }
        self.beat();
    }

    /// The master knows nothing of this peer's registration, or has forgotten it.
    pub(super) fn join_again(&mut self, request: RequestId, reason: String) {
        info!(master = %self.masters.address(), %reason, "joining again");
        self.phase = Phase::Joining {
            request,
            deadline: self.now + self.config.connect_timeout,
            last_error: reason.clone(),
        };
        self.session = Session::new();
        self.proposed = None;
        self.links.clear();
        self.links_up.clear();
        self.outputs.push_back(Output::Wire {
            epoch: Epoch::default(),
            links: Vec::new(),
        });
        self.outputs.push_back(Output::LeaveMaster);
        self.connection = Connection::None;
        self.dial(self.join(), 0, reason);
    }

    fn report(&self, term: u32) -> Option<Report> {
        let (Phase::Registered { identity, .. } | Phase::Member { identity }) = &self.phase else {
            return None;
        };
        let active = self.active.as_ref().map(|active| &active.proposal);
        let proposed = self.proposed.as_ref().map(|proposed| &proposed.proposal);
        let mut names = [active, proposed]
            .into_iter()
            .flatten()
            .flat_map(|p| &p.ring);
        let name: &PeerName = names.find(|name| name.id == identity.peer)?;
        Some(Report {
            term,
            group: self.config.join.group,
            name: name.clone(),
            lanes: self.config.join.lanes,
            masters: self.masters.count(),
            active: active.cloned(),
            proposed: proposed.cloned(),
            expected: self.expected,
            settled: self.settled.iter().map(|(tag, n)| (*tag, *n)).collect(),
            outcomes: self.outcomes.iter().cloned().collect(),
            completed: self.completed.clone(),
        })
    }

    /// The master has heard of a higher term than the one it came with.
    pub(super) fn on_term_raised(&mut self, term: u32) {
        let (Phase::Registered { identity, .. } | Phase::Member { identity }) = &mut self.phase
        else {
            return;
        };
        let Identity { reign, .. } = identity;
        if term < reign.term {
            warn!(term, ours = reign.term, "a term cannot fall");
            return;
        }
        reign.term = term;
        self.say(ToMaster::Promised { term });
    }

    /// It knows how many of the run are there.
    pub(super) fn on_stay(&mut self, at_most_ms: u64) {
        let stays = Duration::from_millis(at_most_ms).min(STAY_LONGEST);
        if let Connection::Returning { until, .. } = &mut self.connection {
            *until = self.now + stays;
        }
    }

    pub(super) fn on_run_goes_on(&mut self) {
        if let Connection::Returning { .. } = self.connection {
            info!(master = %self.masters.address(), "the run goes on");
            self.connection = Connection::Up;
            self.masters.follow();
        }
    }
}
