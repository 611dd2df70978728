//! The links of a peer: dials their lanes, takes those that others dial, mends what breaks.
//!
//! ```text
//!   wanted ──dial each lane──► greeted ──► the data plane
//!     │  ▲                                     │
//!     │  '────────── lane closed ──────────────'
//!     '── no lane for link_timeout ──► failed: the master is told
//! ```
//!
//! What is decided for each of them is in `link`.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, info};

use super::link::{Change, Link};
use crate::datapath::LaneEnd;
use crate::transport::{
    Network, SocketOptions, Stream, dial, greet, reachable_from, refuse, resolve, welcome,
};
use crate::types::{Epoch, PeerId, RunId};
use crate::wire::control::LinkSpec;
use crate::wire::greeting::Kind;
use crate::wire::hello::LaneHello;

/// How long a lane that was offered for an unknown link is kept: its wiring may be on the way.
const HELD_FOR: Duration = Duration::from_secs(5);

/// Most lanes that are kept so.
const HELD_MAX: usize = 256;

/// What the tasks of links tell.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A lane is open; the other end knows.
    Open {
        peer: PeerId,
        lane: u16,
        dialled_here: bool,
        stream: Stream,
    },
    /// A lane that the other end dialled broke as it was welcomed.
    NotArrived { peer: PeerId, lane: u16 },
    /// An attempt to dial a lane failed.
    NotDialled {
        peer: PeerId,
        lane: u16,
        reason: String,
    },
}

/// Who this peer is to those it dials.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    pub(super) network: Network,
    pub(super) run: RunId,
    pub(super) peer: PeerId,
    /// The master's address as this peer reaches it.
    pub(super) master: SocketAddr,
    pub(super) bind: Option<IpAddr>,
    pub(super) socket: SocketOptions,
    pub(super) link_timeout: Duration,
    pub(super) lane_stall_timeout: Duration,
}

#[derive(Debug)]
pub(super) struct Links {
    caller: Option<Caller>,
    epoch: Epoch,
    links: BTreeMap<PeerId, Link>,
    held: Vec<Held>,
    /// This peer was away before the last tick.
    was_away: bool,
    events: mpsc::UnboundedSender<LinkEvent>,
}

#[derive(Debug)]
struct Held {
    hello: LaneHello,
    stream: Stream,
    until: Instant,
}

impl Links {
    pub(super) fn new(events: mpsc::UnboundedSender<LinkEvent>) -> Self {
        Self {
            caller: None,
            epoch: Epoch::default(),
            links: BTreeMap::new(),
            held: Vec::new(),
            was_away: false,
            events,
        }
    }

    /// Who this peer is, from its registration on.
    pub(super) fn introduce(&mut self, caller: Caller) {
        self.caller = Some(caller);
        // Of this run nothing is known yet.
        self.epoch = Epoch::default();
    }

    /// Has exactly these links. Returns the peers whose links are no longer wanted.
    pub(super) fn set(&mut self, epoch: Epoch, wanted: Vec<LinkSpec>) -> Vec<PeerId> {
        self.epoch = self.epoch.max(epoch);
        let ids: BTreeSet<PeerId> = wanted.iter().map(|spec| spec.peer.id).collect();
        let removed: Vec<PeerId> = self
            .links
            .keys()
            .filter(|peer| !ids.contains(peer))
            .copied()
            .collect();
        for peer in &removed {
            self.links.remove(peer);
        }
        let timeout = self.caller.as_ref().map(|caller| caller.link_timeout);
        for spec in wanted {
            let peer = spec.peer.id;
            if let Some(link) = self.links.get_mut(&peer) {
                link.respecify(spec);
            } else if let Some(timeout) = timeout {
                self.links.insert(peer, Link::new(spec, timeout));
            }
            self.dial_due(peer);
        }
        for held in std::mem::take(&mut self.held) {
            self.offer(held.hello, held.stream, held.until);
        }
        removed
    }

    /// What links may take from now on.
    pub(super) fn allow(&mut self, timeout: Duration) {
        if let Some(caller) = &mut self.caller {
            caller.link_timeout = timeout;
        }
        for link in self.links.values_mut() {
            link.allow(timeout);
        }
    }

    /// A lane was dialled from the other side.
    pub(super) fn on_incoming(&mut self, hello: LaneHello, stream: Stream) {
        self.offer(hello, stream, Instant::now() + HELD_FOR);
    }

    fn offer(&mut self, hello: LaneHello, stream: Stream, until: Instant) {
        let Some(caller) = &self.caller else {
            return turn_away(stream, "not registered yet".to_owned());
        };
        if hello.run != caller.run || hello.to != caller.peer {
            let reason = format!("peer {} of run {} was meant", hello.to, hello.run);
            return turn_away(stream, reason);
        }
        match self.links.get_mut(&hello.from) {
            Some(link) if link.spec.secret != hello.secret => {
                turn_away(stream, format!("peer {} has another secret", hello.from));
            }
            Some(link) => match link.welcomes(hello.lane) {
                Ok(()) => {
                    let (peer, lane) = (hello.from, hello.lane);
                    let events = self.events.clone();
                    tokio::spawn(async move {
                        let mut stream = stream;
                        let event = match welcome(&mut stream, &[]).await {
                            Ok(()) => LinkEvent::Open {
                                peer,
                                lane,
                                dialled_here: false,
                                stream,
                            },
                            Err(_) => LinkEvent::NotArrived { peer, lane },
                        };
                        let _ = events.send(event);
                    });
                }
                Err(reason) => turn_away(stream, reason),
            },
            // An older epoch than ours, and no link in ours: it will learn.
            None if hello.epoch <= self.epoch => {
                turn_away(
                    stream,
                    format!("no link with peer {} in {}", hello.from, self.epoch),
                );
            }
            None if self.held.len() >= HELD_MAX || until <= Instant::now() => {
                turn_away(stream, format!("epoch {} is not known here", hello.epoch));
            }
            None => self.held.push(Held {
                hello,
                stream,
                until,
            }),
        }
    }

    /// A lane is open: says whether it is still wanted, and what follows.
    pub(super) fn on_open(
        &mut self,
        peer: PeerId,
        lane: u16,
        dialled_here: bool,
    ) -> (bool, Option<Change>) {
        let Some(link) = self.links.get_mut(&peer) else {
            return (false, None);
        };
        let (is_wanted, change) = link.on_open(lane, dialled_here);
        if change.is_some() {
            debug!(peer = %link.spec.peer, "link up");
        }
        (is_wanted, change)
    }

    /// The handshake of a lane took so long: a far path gets more lanes.
    pub(super) fn on_round_trip(&mut self, peer: PeerId, round_trip: Duration) {
        let link = self.links.get_mut(&peer);
        if link.is_some_and(|link| link.on_round_trip(round_trip)) {
            self.dial_due(peer);
        }
    }

    pub(super) fn on_not_arrived(&mut self, peer: PeerId, lane: u16) {
        if let Some(link) = self.links.get_mut(&peer) {
            link.on_not_arrived(lane);
        }
    }

    pub(super) fn on_not_dialled(&mut self, peer: PeerId, lane: u16, reason: String) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        debug!(peer = %link.spec.peer, lane, %reason, "lane not dialled");
        link.on_not_dialled(lane, reason);
        self.dial_due(peer);
    }

    /// The data plane lost a lane.
    pub(super) fn on_lane_closed(
        &mut self,
        peer: PeerId,
        lane: u16,
        end: &LaneEnd,
    ) -> Vec<(PeerId, Change)> {
        let Some(link) = self.links.get_mut(&peer) else {
            return Vec::new();
        };
        info!(peer = %link.spec.peer, lane, reason = %end, "lane closed");
        let changes = link.on_closed(lane, end);
        self.dial_due(peer);
        changes.into_iter().map(|change| (peer, change)).collect()
    }

    /// Dials the lanes of a link that are due.
    fn dial_due(&mut self, peer: PeerId) {
        let (Some(caller), Some(link)) = (&self.caller, self.links.get_mut(&peer)) else {
            return;
        };
        for (lane, pause) in link.due() {
            let hello = LaneHello {
                run: caller.run,
                from: caller.peer,
                to: peer,
                secret: link.spec.secret,
                lane,
                epoch: self.epoch,
            };
            let (caller, address) = (caller.clone(), link.spec.peer.address.clone());
            let events = self.events.clone();
            let task = tokio::spawn(async move {
                tokio::time::sleep(pause).await;
                let event = match dial_lane(&caller, &address, &hello).await {
                    Ok(stream) => LinkEvent::Open {
                        peer,
                        lane,
                        dialled_here: true,
                        stream,
                    },
                    Err(reason) => LinkEvent::NotDialled { peer, lane, reason },
                };
                let _ = events.send(event);
            });
            link.dialling(lane, task.abort_handle());
        }
    }

    /// When [`tick`](Self::tick) is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let links = self.links.values().filter_map(Link::next_timeout);
        links.chain(self.held.iter().map(|held| held.until)).min()
    }

    /// Dials where the other end does not, reports links that have no lane for too long, and turns
    /// away lanes that were held for too long. The tick was `due`; where it is much later, this peer
    /// was away, and nobody else is blamed for it.
    pub(super) fn tick(&mut self, due: Instant) -> Vec<(PeerId, Change)> {
        let timeout = self.caller.as_ref().map(|caller| caller.link_timeout);
        let is_away = timeout.is_some_and(|timeout| due.elapsed() > timeout / 4);
        // A machine that is always busy judges slowly, and still judges.
        let reads = is_away && !self.was_away;
        self.was_away = is_away;
        if is_away {
            for link in self.links.values_mut() {
                link.excuse(due.elapsed(), reads);
            }
        }
        let failed = self
            .links
            .iter_mut()
            .filter_map(|(peer, link)| Some((*peer, link.tick()?)))
            .collect();
        let peers: Vec<PeerId> = self.links.keys().copied().collect();
        for peer in peers {
            self.dial_due(peer);
        }
        for held in std::mem::take(&mut self.held) {
            self.offer(held.hello, held.stream, held.until);
        }
        failed
    }
}

fn turn_away(stream: Stream, reason: String) {
    info!(from = ?stream.peer_addr().ok(), %reason, "refused a lane");
    tokio::spawn(async move { refuse(stream, &reason).await });
}

async fn dial_lane(caller: &Caller, address: &str, hello: &LaneHello) -> Result<Stream, String> {
    let mut stream = dial_peer(caller, address).await?;
    greet(
        &mut stream,
        Kind::Lane,
        &hello.encode(),
        caller.link_timeout,
    )
    .await
    .map_err(|error| format!("{address}: {error}"))?;
    Ok(stream)
}

/// Opens a connection to another peer's port.
pub(super) async fn dial_peer(caller: &Caller, address: &str) -> Result<Stream, String> {
    let addresses = tokio::time::timeout(caller.link_timeout, resolve(address))
        .await
        .map_err(|_| format!("{address} was not resolved in time"))?
        .map_err(|error| format!("{address}: {error}"))?;
    let addresses: Vec<SocketAddr> = addresses
        .into_iter()
        .map(|address| reachable_from(address, caller.master))
        .collect();
    dial(
        &caller.network,
        &addresses,
        caller.bind,
        &caller.socket,
        caller.link_timeout,
    )
    .await
    .map_err(|error| format!("{address}: {error}"))
}

#[cfg(test)]
mod tests;
