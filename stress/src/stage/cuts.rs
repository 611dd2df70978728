//! Cuts networks for a while; where that cannot be done, stops the processes for as long.

use std::time::{Duration, Instant};

use super::Stage;
use crate::event::Event;
use crate::net::{Cut, Place};

/// How a peer's network is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The link is down.
    Link,
    /// Nothing arrives; what it sends does.
    In,
    /// Nothing that it sends arrives.
    Out,
    /// It and one other peer do not hear each other; all others do.
    Pair,
}

/// One end of a cut that goes on.
pub(super) struct Wound {
    ends: Instant,
    label: String,
    way: String,
    place: Place,
    cut: Cut,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Link => "link",
            Way::In => "in",
            Way::Out => "out",
            Way::Pair => "pair",
        }
    }
}

impl Stage {
    /// Cuts the peer with this index off for so long; `other` is the other end of a pair.
    pub(crate) fn cut(
        &mut self,
        index: usize,
        way: Way,
        other: Option<usize>,
        duration: Duration,
    ) -> Result<(), String> {
        let place = |index: usize| self.peers[index].place().cloned();
        let Some(own) = place(index) else {
            return self.stop(index, duration);
        };
        match (way, other) {
            (Way::Pair, Some(other)) => {
                let Some(others) = place(other) else {
                    return Ok(());
                };
                let (from, to) = (own.address(), others.address());
                self.wound(index, way, Some(other), duration, own, Cut::From(to))?;
                self.wound(other, way, Some(index), duration, others, Cut::From(from))
            }
            (Way::Pair, None) => Ok(()),
            (Way::Link, _) => self.wound(index, way, None, duration, own, Cut::Link),
            (Way::In, _) => self.wound(index, way, None, duration, own, Cut::In),
            (Way::Out, _) => self.wound(index, way, None, duration, own, Cut::Out),
        }
    }

    fn wound(
        &mut self,
        index: usize,
        way: Way,
        other: Option<usize>,
        duration: Duration,
        place: Place,
        cut: Cut,
    ) -> Result<(), String> {
        let label = self.peers[index].label.clone();
        let with = other.map(|other| self.peers[other].label.clone());
        let way = match &with {
            Some(with) => format!("{} {with}", way.name()),
            None => way.name().to_owned(),
        };
        // The same cut twice would be mended by the end of the first.
        let is_cut_so = |wound: &Wound| wound.label == label && wound.way == way;
        if self.wounds.iter().any(is_cut_so) {
            return Ok(());
        }
        let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let event = Event::Cut {
            way: way.clone(),
            with,
            for_ms,
        };
        self.log.note_of(&label, event);
        place.cut(cut)?;
        self.wounds.push(Wound {
            ends: Instant::now() + duration,
            label,
            way,
            place,
            cut,
        });
        Ok(())
    }

    /// Drops what comes to this peer over some connections, for good. It is not held by that: it
    /// may make others.
    pub(crate) fn cut_connections(&mut self, index: usize, cuts: &[Cut]) -> Result<(), String> {
        let actor = &self.peers[index];
        let event = Event::Cut {
            way: format!("{} connections", cuts.len()),
            with: None,
            for_ms: 0,
        };
        self.log.note_of(&actor.label, event);
        match actor.place() {
            Some(place) => cuts.iter().try_for_each(|cut| place.cut(*cut)),
            None => Err(format!("{} has no network of its own", actor.label)),
        }
    }

    /// Whether this peer is stopped or cut off now.
    pub(crate) fn is_held(&self, index: usize) -> bool {
        let actor = &self.peers[index];
        actor.is_stopped() || self.wounds.iter().any(|wound| wound.label == actor.label)
    }

    /// Mends what has been cut for long enough.
    pub(super) fn mend(&mut self) -> Result<(), String> {
        let now = Instant::now();
        let log = &mut self.log;
        let mut failure = None;
        self.wounds.retain(|wound| {
            if now < wound.ends {
                return true;
            }
            if let Err(error) = wound.place.mend(wound.cut) {
                failure = Some(error);
            }
            let way = wound.way.clone();
            log.note_of(&wound.label, Event::Mended { way });
            false
        });
        failure.map_or(Ok(()), Err)
    }
}
