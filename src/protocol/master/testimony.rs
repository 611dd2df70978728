//! What peers say of the links between them, and what follows: a ring without the link, or a
//! newcomer that is not let in. Never an eviction of an accepted peer by itself.
//!
//! Where no ring is left somebody has to go, and a stopped process must not cost its neighbour the
//! place: what is said of a peer that the master does not hear either counts for nothing, nobody
//! accepted goes before both ends of every such link have been heard of since, and who was away has
//! its time to make the link. Silence has a rule of its own.
//!
//! ```text
//!   sound ──complaint──► broken ──a minute without another──► sound
//!     ▲                    │
//!     │                    ├─ had no lane, and either end says that one is up
//!     '────────────────────┴─ no ring without it, and nobody tries it    (thrice in a minute)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tracing::{debug, warn};

use super::epochs::{Rings, neighbours};
use super::{Master, MasterConfig};
use crate::mutation::{Mutation, mutated};
use crate::types::{Epoch, PeerId, Timestamp};
use crate::wire::control::LinkFault;

/// How long a link that could not be made is kept out of rings: outages heal.
const BROKEN_FOR: Duration = Duration::from_secs(60);

/// How often a link is taken for sound again within that time.
const GIVEN_BACK_MAX: u32 = 3;

type Pair = (PeerId, PeerId);

/// Links that cannot be made, as (lower, higher) id.
#[derive(Clone, Debug, Hash)]
pub(super) struct Testimony {
    /// How long a complaint between two newcomers, or one that costs an accepted peer its place,
    /// waits for a second one that says whose fault it is.
    second_within: Duration,
    broken: BTreeMap<Pair, Broken>,
    /// Taken for sound again before their minute was over: since when, and how often. No more than
    /// [`GIVEN_BACK_MAX`] times in a minute, or one end that says "up" again and again would keep
    /// everybody from a ring.
    given_back: BTreeMap<Pair, (Timestamp, u32)>,
    /// Between two newcomers: it may be the fault of either.
    suspected: BTreeMap<Pair, Timestamp>,
    /// With whom each peer has a link that failed, whichever of the two said so.
    complaints: BTreeMap<PeerId, BTreeSet<PeerId>>,
}

/// When it was said first and last; it is repeated as long as it is true.
#[derive(Clone, Copy, Debug, Hash)]
struct Broken {
    first: Timestamp,
    last: Timestamp,
    /// Lanes opened all the while: that one opens does not end it.
    opens: bool,
}

impl Testimony {
    pub(super) fn new(config: &MasterConfig) -> Self {
        // The two ends of a link look at different moments.
        let second_within = config
            .heartbeat_interval
            .clamp(Duration::from_millis(200), Duration::from_millis(500));
        Self {
            second_within,
            broken: BTreeMap::new(),
            given_back: BTreeMap::new(),
            suspected: BTreeMap::new(),
            complaints: BTreeMap::new(),
        }
    }

    pub(super) fn broken(&self) -> BTreeSet<Pair> {
        self.broken.keys().copied().collect()
    }

    pub(super) fn is_broken(&self, pair: &Pair) -> bool {
        self.broken.contains_key(pair)
    }

    pub(super) fn complaints(&self) -> &BTreeMap<PeerId, BTreeSet<PeerId>> {
        &self.complaints
    }

    /// With whom this peer has a link that failed.
    pub(super) fn partners(&self, peer: PeerId) -> impl Iterator<Item = PeerId> + '_ {
        self.complaints.get(&peer).into_iter().flatten().copied()
    }

    /// Whatever was said of or by a peer that is gone.
    pub(super) fn forget_peer(&mut self, peer: PeerId) {
        let is_other = |pair: &Pair| pair.0 != peer && pair.1 != peer;
        self.broken.retain(|pair, _| is_other(pair));
        self.given_back.retain(|pair, _| is_other(pair));
        self.suspected.retain(|pair, _| is_other(pair));
        self.complaints.remove(&peer);
        for partners in self.complaints.values_mut() {
            partners.remove(&peer);
        }
    }

    pub(super) fn deadline(&self) -> Option<Timestamp> {
        let suspected = self
            .suspected
            .values()
            .map(|since| *since + self.second_within);
        let broken = self.broken.values().map(|said| said.last + BROKEN_FOR);
        suspected.chain(broken).min()
    }

    fn complain(&mut self, pair: Pair) {
        self.complaints.entry(pair.0).or_default().insert(pair.1);
        self.complaints.entry(pair.1).or_default().insert(pair.0);
    }

    fn believe(&mut self, pair: Pair, fault: LinkFault, now: Timestamp) {
        let said = self.broken.entry(pair).or_insert(Broken {
            first: now,
            last: now,
            opens: false,
        });
        said.last = said.last.max(now);
        said.opens |= fault == LinkFault::NothingDelivered;
    }

    /// A lane of this link is open.
    fn withdraw(&mut self, pair: Pair, now: Timestamp) {
        let may_be = self.broken.get(&pair).is_some_and(|said| !said.opens);
        if may_be && self.may_give_back(&pair) {
            self.give_back(pair, now);
            self.forget_complaints();
        }
    }

    fn may_give_back(&self, pair: &Pair) -> bool {
        let given_back = self.given_back.get(pair);
        let may_be = given_back.is_none_or(|(_, times)| *times < GIVEN_BACK_MAX);
        may_be && !mutated(Mutation::KeepComplaints)
    }

    fn give_back(&mut self, pair: Pair, now: Timestamp) {
        self.broken.remove(&pair);
        self.given_back.entry(pair).or_insert((now, 0)).1 += 1;
    }

    /// Both ends of each link of these rings say that it is there.
    pub(super) fn rings_are_wired(&mut self, rings: &Rings) {
        for pair in rings.values().flat_map(|ring| neighbours(ring)) {
            self.suspected.remove(&pair);
            if self.broken.get(&pair).is_some_and(|said| !said.opens) {
                self.broken.remove(&pair);
            }
        }
        self.forget_complaints();
    }

    fn forget_complaints(&mut self) {
        let (broken, suspected) = (&self.broken, &self.suspected);
        for (peer, partners) in &mut self.complaints {
            partners.retain(|other| {
                let pair = (*peer.min(other), *peer.max(other));
                broken.contains_key(&pair) || suspected.contains_key(&pair)
            });
        }
    }

    /// Believes suspicions that nothing has cleared up, and forgets what is old.
    fn age(&mut self, now: Timestamp) {
        let second_within = self.second_within;
        let is_due = |since: &Timestamp| *since + second_within <= now;
        let due = self.suspected.iter().filter(|(_, since)| is_due(since));
        let due: Vec<(Pair, Timestamp)> = due.map(|(pair, since)| (*pair, *since)).collect();
        for (pair, since) in due {
            self.believe(pair, LinkFault::NoLane, since);
        }
        self.suspected.retain(|_, since| !is_due(since));
        let known = self.broken.len();
        self.broken.retain(|_, said| now < said.last + BROKEN_FOR);
        if self.broken.len() < known {
            self.forget_complaints();
        }
        self.given_back
            .retain(|_, (since, _)| now < *since + BROKEN_FOR);
    }
}

impl Master {
    pub(super) fn on_link_failed(
        &mut self,
        reporter: PeerId,
        epoch: Epoch,
        other: PeerId,
        fault: LinkFault,
        reason: String,
    ) {
        // A report from a proposal that was replaced meanwhile is as true as before. Of a proposal of
        // another master the other end may never have heard, nor of the link; the same goes for an epoch
        // that not all of it know.
        let is_of_all = epoch <= self.active.epoch && !self.active.must_end;
        let is_foreign = !is_of_all && epoch.term != self.reign.term;
        if epoch < self.active.epoch || is_foreign || reporter == other {
            return;
        }
        let Some(member) = self.members.get(&other) else {
            return;
        };
        if member.closed.is_some() || member.is_absent(&self.config, self.now) {
            debug!(from = %self.name(reporter), to = %self.name(other), %reason, "link failed, to a peer that is silent here too");
            return;
        }
        warn!(from = %self.name(reporter), to = %self.name(other), %reason, "link failed");
        let pair = (reporter.min(other), reporter.max(other));
        self.testimony.complain(pair);
        let newcomers: Vec<PeerId> = [pair.0, pair.1]
            .into_iter()
            .filter(|peer| {
                self.members
                    .get(peer)
                    .is_some_and(|member| !member.accepted)
            })
            .collect();
        for newcomer in &newcomers {
            let partners: Vec<String> = self
                .testimony
                .partners(*newcomer)
                .map(|peer| self.name(peer))
                .collect();
            if partners.len() >= 2 {
                let reason = format!("no link can be made with {}", partners.join(", "));
                return self.evict(*newcomer, reason);
            }
        }
        if newcomers.len() == 2 {
            self.testimony.suspected.entry(pair).or_insert(self.now);
        } else {
            self.testimony.believe(pair, fault, self.now);
        }
    }

    /// A lane between two is open, as one of them says. What is said of newcomers stays: one that
    /// takes back what it has said would hold everybody up for ever.
    pub(super) fn on_link_up(&mut self, pair: Pair) {
        let is_accepted = |peer: &PeerId| self.members.get(peer).is_some_and(|m| m.accepted);
        if is_accepted(&pair.0) && is_accepted(&pair.1) {
            self.testimony.withdraw(pair, self.now);
        }
    }

    /// Whether it cannot be told yet that this peer has to go because of `broken` links. Of an accepted
    /// peer: until both ends of each have been heard of since it broke, and have had their time to make
    /// it if they were away, and until a second complaint has had its time. Of a newcomer: until the
    /// other ends of its own have been heard of.
    pub(super) fn is_undecided(&self, peer: PeerId, broken: &BTreeSet<Pair>) -> bool {
        let is_heard_since = |peer: PeerId, since: Timestamp| {
            self.members
                .get(&peer)
                .is_none_or(|member| member.closed.is_none() && member.last_word >= since)
        };
        let is_accepted = self
            .members
            .get(&peer)
            .is_some_and(|member| member.accepted);
        let group_of = |peer: PeerId| self.members.get(&peer).map(|member| member.group);
        let of_its_group = |pair: &&Pair| group_of(pair.0) == group_of(peer);
        broken.iter().filter(of_its_group).any(|pair| {
            let Some(Broken { first, .. }) = self.testimony.broken.get(pair).copied() else {
                return false;
            };
            if is_accepted {
                self.now < first + self.testimony.second_within
                    || !is_heard_since(pair.0, first)
                    || !is_heard_since(pair.1, first)
                    || self.now < self.to_be_made_by(*pair, first)
            } else {
                (pair.0 == peer && !is_heard_since(pair.1, first))
                    || (pair.1 == peer && !is_heard_since(pair.0, first))
            }
        })
    }

    /// When a link that broke then would be there, if it could be made, although one of its ends
    /// was away. An end that is still away after the limit of silence is away for another reason.
    fn to_be_made_by(&self, pair: Pair, first: Timestamp) -> Timestamp {
        let latest = first + self.config.silence_ceiling + self.config.resume_grace;
        let ends = [pair.0, pair.1].into_iter();
        let members = ends.filter_map(|end| self.members.get(&end));
        match members.filter_map(|member| member.back_since).max() {
            // What was dialled before it was back may have to be given up first.
            Some(back) => back.min(latest) + 2 * self.link_timeout(pair),
            None => first,
        }
    }

    /// After how long the ends of a link report, again and again, that it has no lane.
    fn link_timeout(&self, pair: Pair) -> Duration {
        match (self.members.get(&pair.0), self.members.get(&pair.1)) {
            (Some(one), Some(other)) => {
                let across = self.round_trip(one, other) * 7 / 2;
                self.config.link_timeout.max(across)
            }
            _ => self.config.link_timeout,
        }
    }

    /// Before an accepted peer goes because there is no ring without these links: takes those for
    /// sound that nobody tries, as they are in no ring, or of which nothing is said any more. Whether
    /// there are such. They are in the next ring, where a complaint counts for its minute.
    pub(super) fn try_links_again(&mut self, broken: &BTreeSet<Pair>) -> bool {
        let rings = self.active.rings.values();
        let in_ring: BTreeSet<Pair> = rings.flat_map(|ring| neighbours(ring)).collect();
        let is_untried = |pair: &Pair| {
            let said = self.testimony.broken.get(pair);
            let again = 2 * self.link_timeout(*pair) + self.config.heartbeat_interval;
            let is_tried = |last: Timestamp| in_ring.contains(pair) && self.now <= last + again;
            said.is_some_and(|said| !is_tried(said.last)) && self.testimony.may_give_back(pair)
        };
        let untried: Vec<Pair> = broken.iter().filter(|p| is_untried(p)).copied().collect();
        for pair in &untried {
            debug!(one = %self.name(pair.0), other = %self.name(pair.1), "tried again: there is no ring without this link");
            self.testimony.give_back(*pair, self.now);
        }
        self.testimony.forget_complaints();
        !untried.is_empty()
    }

    /// Ends the wait for newcomers' links: a newcomer that has not reported is refused; if all
    /// have, a link that neither end reports is taken for broken, and who alone does not report
    /// goes.
    pub(super) fn give_up_on_wiring(&mut self) {
        self.testimony.age(self.now);
        let Some((newcomers, rings, late)) = self.overdue_wiring() else {
            return;
        };
        let limit_ms = self.config.wiring_timeout.as_millis();
        let reason = format!("its links did not come up within {limit_ms} ms");
        let late_newcomers: Vec<PeerId> = late
            .iter()
            .filter(|peer| newcomers.contains(peer))
            .copied()
            .collect();
        if !late_newcomers.is_empty() {
            for peer in late_newcomers {
                self.evict(peer, reason.clone());
            }
            return;
        }
        let dark: Vec<Pair> = rings
            .values()
            .flat_map(|ring| neighbours(ring))
            .filter(|pair| late.contains(&pair.0) && late.contains(&pair.1))
            .collect();
        if dark.is_empty() {
            for peer in late {
                self.evict(peer, reason.clone());
            }
        }
        for pair in dark {
            self.testimony.believe(pair, LinkFault::NoLane, self.now);
        }
    }
}
