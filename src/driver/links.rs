//! The links of a peer: dials their lanes, takes those that others dial, mends what breaks.
//!
//! ```text
//!   wanted ──dial each lane──► greeted ──► the data plane
//!     │  ▲                                     │
//!     │  '────────── lane closed ──────────────'
//!     '── no lane for link_timeout ──► failed: the master is told
//! ```
//!
//! One end is told to dial. The other waits, and dials as well when nothing has come for a third
//! of the timeout, so that a firewall that lets only one direction through is no obstacle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tracing::{debug, info};

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

/// Pauses between attempts to dial a lane: the first and the longest.
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_LONGEST: Duration = Duration::from_secs(1);

/// What the tasks of links tell.
#[derive(Debug)]
pub(super) enum LinkEvent {
    /// A lane is open; the other end knows.
    Open {
        peer: PeerId,
        lane: u16,
        stream: Stream,
    },
    /// An attempt to dial a lane failed.
    NotDialled {
        peer: PeerId,
        lane: u16,
        reason: String,
    },
}

/// What the state machine is told.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum LinkChange {
    Up(PeerId),
    Down(PeerId),
    Failed(PeerId, String),
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
}

#[derive(Debug)]
pub(super) struct Links {
    caller: Option<Caller>,
    epoch: Epoch,
    links: BTreeMap<PeerId, Link>,
    held: Vec<Held>,
    events: mpsc::UnboundedSender<LinkEvent>,
}

#[derive(Debug)]
struct Link {
    spec: LinkSpec,
    open: BTreeSet<u16>,
    dialling: BTreeMap<u16, AbortHandle>,
    attempts: BTreeMap<u16, u32>,
    /// Without a lane since then.
    down_since: Option<Instant>,
    last_error: String,
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
        for spec in wanted {
            let peer = spec.peer.id;
            if let Some(link) = self.links.get_mut(&peer) {
                link.spec = spec;
                continue;
            }
            let dials = spec.dials;
            self.links.insert(
                peer,
                Link {
                    spec,
                    open: BTreeSet::new(),
                    dialling: BTreeMap::new(),
                    attempts: BTreeMap::new(),
                    down_since: Some(Instant::now()),
                    last_error: "the other end did not dial".to_owned(),
                },
            );
            if dials {
                self.dial_missing(peer);
            }
        }
        for held in std::mem::take(&mut self.held) {
            self.offer(held.hello, held.stream, held.until);
        }
        removed
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
        match self.links.get(&hello.from) {
            Some(link) if link.spec.secret != hello.secret => {
                turn_away(stream, format!("peer {} has another secret", hello.from));
            }
            Some(link) if hello.lane >= link.spec.lanes => {
                turn_away(
                    stream,
                    format!("lane {} of {}", hello.lane, link.spec.lanes),
                );
            }
            // Also in place of a lane that is open here: the other end has lost it.
            Some(_) => {
                let (peer, lane) = (hello.from, hello.lane);
                let events = self.events.clone();
                tokio::spawn(async move {
                    let mut stream = stream;
                    if welcome(&mut stream, &[]).await.is_ok() {
                        let _ = events.send(LinkEvent::Open { peer, lane, stream });
                    }
                });
            }
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

    /// A lane is open: hands it over if it is still wanted.
    pub(super) fn on_open(&mut self, peer: PeerId, lane: u16) -> (bool, Option<LinkChange>) {
        let Some(link) = self.links.get_mut(&peer) else {
            return (false, None);
        };
        if let Some(dialling) = link.dialling.remove(&lane) {
            // Another one would only take the place of this.
            dialling.abort();
        }
        link.attempts.remove(&lane);
        link.open.insert(lane);
        let change = link.down_since.take().map(|_| {
            debug!(peer = %link.spec.peer, "link up");
            LinkChange::Up(peer)
        });
        (true, change)
    }

    pub(super) fn on_not_dialled(&mut self, peer: PeerId, lane: u16, reason: String) {
        let Some(link) = self.links.get_mut(&peer) else {
            return;
        };
        link.dialling.remove(&lane);
        *link.attempts.entry(lane).or_insert(0) += 1;
        debug!(peer = %link.spec.peer, lane, %reason, "lane not dialled");
        link.last_error = reason;
        if !link.open.contains(&lane) {
            self.dial_missing(peer);
        }
    }

    /// The data plane lost a lane.
    pub(super) fn on_lane_closed(
        &mut self,
        peer: PeerId,
        lane: u16,
        reason: &str,
    ) -> Option<LinkChange> {
        let link = self.links.get_mut(&peer)?;
        if !link.open.remove(&lane) {
            return None;
        }
        info!(peer = %link.spec.peer, lane, %reason, "lane closed");
        *link.attempts.entry(lane).or_insert(0) += 1;
        let is_down = link.open.is_empty() && link.down_since.is_none();
        if is_down {
            link.down_since = Some(Instant::now());
            link.last_error = reason.to_owned();
        }
        if link.spec.dials {
            self.dial_missing(peer);
        }
        is_down.then_some(LinkChange::Down(peer))
    }

    fn dial_missing(&mut self, peer: PeerId) {
        let (Some(caller), Some(link)) = (&self.caller, self.links.get_mut(&peer)) else {
            return;
        };
        for lane in 0..link.spec.lanes {
            if link.open.contains(&lane) || link.dialling.contains_key(&lane) {
                continue;
            }
            let after = match link.attempts.get(&lane).copied().unwrap_or(0) {
                0 => Duration::ZERO,
                n => RETRY_FIRST
                    .saturating_mul(1 << (n - 1).min(8))
                    .min(RETRY_LONGEST),
            };
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
                tokio::time::sleep(after).await;
                let event = match dial_lane(&caller, &address, &hello).await {
                    Ok(stream) => LinkEvent::Open { peer, lane, stream },
                    Err(reason) => LinkEvent::NotDialled { peer, lane, reason },
                };
                let _ = events.send(event);
            });
            link.dialling.insert(lane, task.abort_handle());
        }
    }

    /// When [`tick`](Self::tick) is due.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        let timeout = self.caller.as_ref()?.link_timeout;
        let links = self.links.values().filter_map(|link| {
            let since = link.down_since?;
            let waits = !link.spec.dials && link.dialling.is_empty();
            Some(since + if waits { timeout / 3 } else { timeout })
        });
        links.chain(self.held.iter().map(|held| held.until)).min()
    }

    /// Dials where the other end does not, reports links that have no lane for too long, and turns
    /// away lanes that were held for too long.
    pub(super) fn tick(&mut self) -> Vec<LinkChange> {
        let now = Instant::now();
        let Some(timeout) = self.caller.as_ref().map(|caller| caller.link_timeout) else {
            return Vec::new();
        };
        let mut failed = Vec::new();
        let mut passive = Vec::new();
        for (peer, link) in &mut self.links {
            let Some(since) = &mut link.down_since else {
                continue;
            };
            if now >= *since + timeout {
                // Still wanted, so still tried; and reported again if that does not help.
                *since = now;
                let reason = format!(
                    "no lane within {} ms: {}",
                    timeout.as_millis(),
                    link.last_error
                );
                failed.push(LinkChange::Failed(*peer, reason));
            } else if now >= *since + timeout / 3 && link.dialling.is_empty() {
                passive.push(*peer);
            }
        }
        for peer in passive {
            self.dial_missing(peer);
        }
        for held in std::mem::take(&mut self.held) {
            self.offer(held.hello, held.stream, held.until);
        }
        failed
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in self.dialling.values() {
            task.abort();
        }
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
