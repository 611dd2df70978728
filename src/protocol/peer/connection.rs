//! The control connection: joining, staying, coming back, and giving up.

use std::time::Duration;

use tracing::{debug, info, warn};

use super::{Identity, Output, Peer, Phase, Reply, RequestId};
use crate::error::{ConnectError, Gone, MembershipError};
use crate::protocol::session::Session;
use crate::protocol::silence::{Watch, Watcher, away};
use crate::types::{PeerId, Timestamp};
use crate::wire::control::{Heartbeat, Hello, Join, ToMaster, Welcome};

/// How long a goodbye may go unanswered.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Pauses between attempts to reach the master: the first and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LONGEST: Duration = Duration::from_secs(1);
/// The longest of a member: all others wait for the last one that comes back.
const RETURN_LONGEST: Duration = Duration::from_millis(250);

/// Of a newcomer, where all masters have been asked and wait: a pause of 200 ms.
const ATTEMPTS_AFTER_ALL: u32 = 3;

/// How long an attempt to come back may take: the first and the longest.
const ATTEMPT_FIRST: Duration = Duration::from_millis(250);
const ATTEMPT_LONGEST: Duration = Duration::from_secs(3);

/// The control connection as this peer sees it.
#[derive(Clone, Debug, Hash)]
pub(super) enum Connection {
    /// None is wanted.
    None,
    /// Being made; `since` the last one broke.
    Dialling {
        since: Timestamp,
        attempts: u32,
        /// What the last attempt, or the connection before it, ended with.
        last_error: String,
    },
    /// Up.
    Up,
    /// Open to a master that has just come and does not rule yet; `since` the last one broke.
    Returning {
        since: Timestamp,
        /// Another one is asked then, where there are several.
        until: Timestamp,
    },
}

impl Peer {
    pub(super) fn connect(&mut self, request: RequestId) {
        match &self.phase {
            Phase::Idle => {}
            Phase::Gone(gone) => {
                let gone = gone.clone();
                return self.reply(request, Reply::Connect(Err(gone.into())));
            }
            _ => return self.reply(request, Reply::Connect(Err(ConnectError::AlreadyConnected))),
        }
        self.session = Session::new();
        self.phase = Phase::Joining {
            request,
            deadline: self.now + self.config.connect_timeout,
            last_error: "no answer".to_owned(),
        };
        self.dial(self.join(), 0, "no answer".to_owned());
    }

    /// What a newcomer says.
    pub(super) fn join(&self) -> Hello {
        Hello::Join(Join {
            masters: self.masters.count(),
            nobody_came: self.masters.nobody_came_elsewhere(),
            ..self.config.join.clone()
        })
    }

    pub(super) fn dial(&mut self, hello: Hello, attempts: u32, last_error: String) {
        let since = match self.connection {
            Connection::Dialling { since, .. } | Connection::Returning { since, .. } => since,
            Connection::None | Connection::Up => self.now,
        };
        self.connection = Connection::Dialling {
            since,
            attempts,
            last_error,
        };
        let longest = match hello {
            Hello::Join(_) => RETRY_LONGEST,
            Hello::Resume { token, .. } => apart(RETURN_LONGEST, token, attempts),
        };
        let after = match attempts {
            0 => Duration::ZERO,
            n => RETRY_FIRST.saturating_mul(1 << (n - 1).min(8)).min(longest),
        };
        let within = match (&hello, &self.watch) {
            // A first packet that is lost is sent again by the system after a second only; on a
            // path whose round trip is known a new attempt is sooner.
            (Hello::Resume { .. }, Some(watch)) => watch
                .redial_time()
                .max(ATTEMPT_FIRST.min(watch.floor() / 4))
                // Twice each: one lost packet must not cost all the time that is left.
                .saturating_mul(1 << (attempts / 2).min(8))
                .min(ATTEMPT_LONGEST),
            _ => ATTEMPT_LONGEST,
        };
        self.outputs.push_back(Output::ReachMaster {
            master: self.masters.address(),
            hello,
            after,
            within,
        });
    }

    pub(super) fn on_welcome(&mut self, welcome: Welcome) {
        if !matches!(self.connection, Connection::Dialling { .. }) {
            return;
        }
        match (welcome, &self.phase) {
            (
                Welcome::Registered {
                    run,
                    peer,
                    token,
                    timings,
                    reign,
                },
                Phase::Joining { request, .. },
            ) => {
                info!(%run, %peer, master = %self.masters.address(), "registered");
                let request = *request;
                self.connection = Connection::Up;
                self.masters.follow();
                let watch = Watch::new(Watcher::Peer, timings, self.now, self.now);
                self.watch = Some(watch);
                self.last_tick = self.now;
                let identity = Identity {
                    run,
                    peer,
                    token,
                    reign,
                };
                self.phase = Phase::Registered { identity, request };
                self.beat();
            }
            (Welcome::Resumed { last_seen }, Phase::Registered { .. } | Phase::Member { .. }) => {
                info!(master = %self.masters.address(), "resumed");
                self.connection = Connection::Up;
                self.masters.follow();
                if let Some(watch) = &mut self.watch {
                    watch.reconnected(self.now, self.now);
                }
                for frame in self.session.resume(last_seen) {
                    self.outputs.push_back(Output::Send(frame));
                }
                self.beat();
            }
            (
                Welcome::Returned { reign, timings },
                Phase::Registered { .. } | Phase::Member { .. },
            ) => self.on_returned(reign, timings),
            (Welcome::Waiting { nobody_came }, _) => self.on_waiting(nobody_came),
            (welcome, _) => {
                warn!(?welcome, "an answer that fits no question");
                self.drop_connection("the master's answer fits no question".to_owned());
            }
        }
    }

    /// This master decides nothing yet. A newcomer is known where there is one that does; a member
    /// is expected where most of its run come.
    fn on_waiting(&mut self, nobody_came: bool) {
        self.outputs.push_back(Output::LeaveMaster);
        let reason = format!("{} waits for peers of a run", self.masters.address());
        match &mut self.phase {
            Phase::Joining {
                deadline,
                last_error,
                ..
            } => {
                self.masters.ask_another(nobody_came);
                let is_first = self.masters.is_first();
                // It is reached, and what it waits for is not this peer's to end; where another one
                // must be heard first, and is not, it is.
                if !nobody_came {
                    *deadline = self.now + self.config.connect_timeout;
                }
                last_error.clone_from(&reason);
                // All have been asked: a pause.
                let attempts = if is_first { ATTEMPTS_AFTER_ALL } else { 0 };
                self.dial(self.join(), attempts, reason);
            }
            Phase::Registered { request, .. } => {
                let request = *request;
                self.join_again(request, reason);
            }
            Phase::Member { .. } => {
                self.masters.wait();
                self.resume(1, reason);
            }
            Phase::Leaving { .. } | Phase::Idle | Phase::Gone(_) => self.go(Gone::Closed),
        }
    }

    /// The master ends on purpose.
    pub(super) fn on_hand_over(&mut self) {
        if matches!(self.phase, Phase::Registered { .. } | Phase::Member { .. }) {
            info!(master = %self.masters.address(), "the master hands over");
            self.outputs.push_back(Output::LeaveMaster);
            self.masters.leave();
            self.resume(1, "it has handed over".to_owned());
        }
    }

    pub(super) fn on_refused(&mut self, reason: String) {
        match &self.phase {
            Phase::Joining { request, .. } => {
                let request = *request;
                self.phase = Phase::Idle;
                self.connection = Connection::None;
                let master = self.masters.address();
                let error = ConnectError::Refused { master, reason };
                self.reply(request, Reply::Connect(Err(error)));
            }
            Phase::Registered { request, .. } => self.join_again(*request, reason),
            Phase::Member { .. } => self.on_evicted(reason),
            Phase::Leaving { .. } => self.go(Gone::Closed),
            Phase::Idle | Phase::Gone(_) => {}
        }
    }

    pub(super) fn on_evicted(&mut self, reason: String) {
        if let Phase::Registered { request, .. } = &self.phase {
            // Never accepted: the caller may try again on the same communicator.
            let (request, master) = (*request, self.masters.address());
            self.stop_joining();
            let error = ConnectError::Refused { master, reason };
            return self.reply(request, Reply::Connect(Err(error)));
        }
        self.go(Gone::Evicted { reason });
    }

    pub(super) fn on_disconnected(&mut self, reason: String) {
        let attempts = match self.connection {
            Connection::None => return,
            Connection::Dialling { attempts, .. } => attempts + 1,
            Connection::Up => 0,
            // It was here a moment ago: no hurry, and no long pause.
            Connection::Returning { .. } => 1,
        };
        match attempts {
            0 => {}
            1 if !matches!(self.phase, Phase::Joining { .. }) => self.masters.leave(),
            _ => self.masters.go_on(),
        }
        debug!(%reason, attempts, "no connection to the master");
        match &mut self.phase {
            Phase::Joining { last_error, .. } => {
                last_error.clone_from(&reason);
                // A port that refuses now may listen in a moment: a run is often started at once.
                self.dial(self.join(), attempts.max(1), reason);
            }
            Phase::Registered { .. } | Phase::Member { .. } => self.resume(attempts, reason),
            Phase::Leaving { .. } => self.go(Gone::Closed),
            Phase::Idle | Phase::Gone(_) => {}
        }
    }

    fn resume(&mut self, attempts: u32, reason: String) {
        if let Connection::Dialling { since, .. } | Connection::Returning { since, .. } =
            self.connection
            && self.now.since(since) >= self.config.master_grace
        {
            return self.lose_master(reason);
        }
        if self.config.master_grace.is_zero() {
            return self.lose_master(reason);
        }
        let (Phase::Registered { identity, .. } | Phase::Member { identity }) = &self.phase else {
            return;
        };
        if attempts == 0 {
            warn!(master = %self.masters.address(), %reason, "lost the master; dialling it again");
        }
        let hello = Hello::Resume {
            run: identity.run,
            peer: identity.peer,
            token: identity.token,
            last_seen: self.session.last_seen(),
            reign: identity.reign,
            accepted: matches!(self.phase, Phase::Member { .. }),
            masters: self.masters.count(),
            one_of_voters: self.one_of_voters(identity.peer),
        };
        self.dial(hello, attempts, reason);
    }

    /// How many voters of the active epoch are alive as far as this one of them has seen.
    fn one_of_voters(&self, own: PeerId) -> u32 {
        let voters = self.active.iter().flat_map(|a| &a.proposal.voters);
        let voters: Vec<&PeerId> = voters
            .filter(|voter| !self.closed_there.contains(voter))
            .collect();
        match voters.contains(&&own) {
            true => u32::try_from(voters.len()).unwrap_or(u32::MAX),
            false => 0,
        }
    }

    fn lose_master(&mut self, cause: String) {
        if self.masters.are_waiting() && matches!(self.phase, Phase::Member { .. }) {
            return self.lose_majority();
        }
        if let Phase::Registered { request, .. } = &self.phase {
            let request = *request;
            return self.cannot_join(request, cause);
        }
        let master = self.masters.names();
        let grace_ms = u64::try_from(self.config.master_grace.as_millis()).unwrap_or(u64::MAX);
        self.go(Gone::MasterLost {
            master,
            grace_ms,
            cause,
        });
    }

    fn cannot_join(&mut self, request: RequestId, mut reason: String) {
        self.stop_joining();
        if self.masters.count() > 1 {
            reason.push_str("; a run begins only while all masters of the list can be reached");
        }
        let master = self.masters.names();
        let error = ConnectError::MasterUnreachable { master, reason };
        self.reply(request, Reply::Connect(Err(error)));
    }

    /// A master has come back, and not enough of the run with it.
    fn lose_majority(&mut self) {
        if matches!(self.phase, Phase::Registered { .. }) {
            return self.lose_master("it waits for more of the run to come back".to_owned());
        }
        let grace_ms = u64::try_from(self.config.master_grace.as_millis()).unwrap_or(u64::MAX);
        let master = self.masters.address();
        self.go(Gone::NoMajority { master, grace_ms });
    }

    /// Back to the beginning: connect may be called again.
    pub(super) fn stop_joining(&mut self) {
        self.phase = Phase::Idle;
        self.connection = Connection::None;
        self.proposed = None;
        self.links.clear();
        self.links_up.clear();
        let epoch = crate::types::Epoch::default();
        self.outputs.push_back(Output::Wire {
            epoch,
            links: Vec::new(),
        });
        self.outputs.push_back(Output::LeaveMaster);
    }

    /// Gives up a connection that is open but of no use, and makes another.
    pub(super) fn drop_connection(&mut self, reason: String) {
        self.give_up_connection();
        self.on_disconnected(reason);
    }

    /// As `drop_connection`, with a pause.
    pub(super) fn come_back_later(&mut self, reason: String) {
        match &self.phase {
            Phase::Registered { .. } | Phase::Member { .. } => {
                self.give_up_connection();
                self.resume(1, reason);
            }
            _ => self.drop_connection(reason),
        }
    }

    /// Closes it, and says before that this is no sign of death.
    fn give_up_connection(&mut self) {
        if self.is_connected() {
            let frame = self.session.whisper(ToMaster::Redialling);
            self.outputs.push_back(Output::Send(frame));
        }
        self.outputs.push_back(Output::LeaveMaster);
    }

    pub(super) fn leave(&mut self, request: RequestId) {
        let error = match &self.phase {
            Phase::Member { .. } if self.operations.is_empty() && self.call.is_none() => None,
            Phase::Member { .. } => Some(match &self.call {
                Some(call) => MembershipError::CallInProgress {
                    running: call.name(),
                },
                None => MembershipError::OperationsInFlight {
                    count: self.operations.len(),
                },
            }),
            Phase::Gone(Gone::Closed) => return self.reply(request, Reply::Membership(Ok(()))),
            Phase::Gone(gone) => Some(gone.clone().into()),
            _ => Some(MembershipError::NotConnected),
        };
        if let Some(error) = error {
            return self.reply(request, Reply::Membership(Err(error)));
        }
        self.say(ToMaster::Leave);
        self.phase = Phase::Leaving {
            request,
            deadline: self.now + LEAVE_TIMEOUT,
        };
        if !self.is_connected() {
            self.go(Gone::Closed);
        }
    }

    pub(super) fn on_leave_acknowledged(&mut self) {
        if matches!(self.phase, Phase::Leaving { .. }) {
            self.go(Gone::Closed);
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(
            self.connection,
            Connection::Up | Connection::Returning { .. }
        )
    }

    pub(super) fn heard(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.hear(self.now);
        }
    }

    pub(super) fn on_heartbeat(&mut self, beat: &Heartbeat) {
        if let Some(watch) = &mut self.watch {
            watch.hear_beat(self.now, beat);
        }
        if beat.answer {
            self.beat();
        }
    }

    /// Says the heartbeat that is due, if one is.
    pub(super) fn beat(&mut self) {
        if self.is_connected()
            && let Some(watch) = &mut self.watch
            && let Some(beat) = watch.beat(self.now)
        {
            let frame = self.session.whisper(ToMaster::Heartbeat(beat));
            self.outputs.push_back(Output::Send(frame));
        }
    }

    /// Where this process itself was away, stopped or without a core, that time does not count
    /// against the master.
    pub(super) fn excuse_absence(&mut self) {
        let (now, Some(watch)) = (self.now, &mut self.watch) else {
            return;
        };
        let Some(away) = away(self.last_tick, now, watch.interval()) else {
            return;
        };
        self.last_tick = now;
        watch.excuse(away, now);
        if let Connection::Dialling { since, .. } | Connection::Returning { since, .. } =
            &mut self.connection
        {
            *since = (*since + away).min(now);
        }
        if let Connection::Returning { until, .. } = &mut self.connection {
            *until = *until + away;
        }
    }

    /// When the connection needs a look.
    pub(super) fn connection_deadline(&self) -> Option<Timestamp> {
        let watch = match &self.phase {
            Phase::Registered { .. } | Phase::Member { .. } => self.watch.as_ref()?,
            _ => return None,
        };
        match &self.connection {
            Connection::Up => Some(watch.next_timeout()),
            Connection::Returning { since, until } => {
                let patience = *since + self.config.master_grace;
                let until = (self.masters.count() > 1).then_some(*until);
                let patience = until.map_or(patience, |until| until.min(patience));
                Some(watch.next_timeout().min(patience))
            }
            // The clock is looked at as often as with a connection, to know of absences.
            Connection::Dialling { since, .. } => {
                let look = self.last_tick + watch.interval();
                Some(look.min(*since + self.config.master_grace))
            }
            Connection::None => None,
        }
    }

    pub(super) fn on_tick(&mut self) {
        self.last_tick = self.now;
        match &self.phase {
            Phase::Joining {
                request,
                deadline,
                last_error,
            } if *deadline <= self.now => {
                let (request, reason) = (*request, last_error.clone());
                return self.cannot_join(request, reason);
            }
            Phase::Leaving { deadline, .. } if *deadline <= self.now => {
                return self.go(Gone::Closed);
            }
            Phase::Registered { .. } | Phase::Member { .. } => self.watch_connection(),
            _ => {}
        }
        self.watch_deadlines();
    }

    fn watch_connection(&mut self) {
        let grace = self.config.master_grace;
        match &self.connection {
            Connection::Returning { since, .. } if self.now.since(*since) >= grace => {
                self.lose_majority();
            }
            Connection::Returning { until, .. }
                if *until <= self.now && self.masters.count() > 1 =>
            {
                self.masters.wait_in_vain();
                self.drop_connection("too few of the run have come to it".to_owned());
            }
            Connection::Up | Connection::Returning { .. } => {
                let verdict = self.watch.as_ref().and_then(|w| w.verdict(self.now));
                match verdict {
                    Some(silence) => self.drop_connection(silence.to_string()),
                    None => self.beat(),
                }
            }
            Connection::Dialling {
                since, last_error, ..
            } => {
                if self.now.since(*since) >= grace {
                    let cause = last_error.clone();
                    self.lose_master(cause);
                }
            }
            Connection::None => {}
        }
    }
}

/// A pause of three quarters to five quarters of this one: peers that lost the same master do not
/// come all at once.
pub(super) fn apart(pause: Duration, token: u64, attempts: u32) -> Duration {
    let mixed = (token ^ u64::from(attempts)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    // The nine highest bits are mixed best.
    let parts = 768 + u32::try_from(mixed >> 55).unwrap_or(0);
    pause * parts / 1024
}
