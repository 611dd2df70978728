//! Who writes the history: one line of trace for each record, and every checker sees it at once.
//!
//! ```text
//!   programs, world ── Event ──┐
//!                              ├─► trace (a hash, and lines if wanted) ─► checkers ─► violation
//!   state machines ─ Observed ─┘
//! ```
//!
//! All inputs and outputs of the machines are part of the trace, so that two runs whose machines
//! differ anywhere have different hashes.

mod line;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write};
use std::sync::Arc;

use parking_lot::Mutex;

use super::checkers::{Checker, End};
use super::history::{Event, ProcessId, Record, WorldTime};
use crate::driver::{Observed, Observer};
use crate::protocol::master::{self, ConnectionId};
use crate::protocol::peer;
use crate::types::{Epoch, PeerId, RunId};
use crate::wire::control::{Hello, ToPeer, Welcome};

/// Writes the history of one world. Clones write the same one.
#[derive(Clone)]
pub struct Recorder(Arc<Mutex<Inner>>);

/// What must not be, and is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// When it was seen.
    pub at: WorldTime,
    /// Which invariant, as the name of its checker's file.
    pub invariant: &'static str,
    /// Who did what.
    pub words: String,
}

/// Inputs and outputs of machines in one moment of the world, which is some milliseconds of each
/// process: far more than any of them is busy for.
const STEPS_AT_ONCE_MAX: u32 = 200_000;

struct Inner {
    hasher: blake3::Hasher,
    lines: Option<Vec<String>>,
    line: String,
    records: u64,
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
    /// The run that peers were registered in last.
    run: Option<RunId>,
    /// The newest epoch that the master made active: it tells each peer.
    master_epoch: Option<Epoch>,
    /// Whose the connections at each master are.
    callers: BTreeMap<(ProcessId, ConnectionId), PeerId>,
    right: BTreeSet<ProcessId>,
    /// The present moment, and what machines did in it.
    moment: WorldTime,
    steps: u32,
}

impl Recorder {
    /// A recorder that shows each record to these checkers; lines are kept only where wanted, as
    /// they take much memory.
    pub fn new(checkers: Vec<Box<dyn Checker>>, keep_lines: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            hasher: blake3::Hasher::new(),
            lines: keep_lines.then(Vec::new),
            line: String::new(),
            records: 0,
            checkers,
            violation: None,
            run: None,
            master_epoch: None,
            callers: BTreeMap::new(),
            right: BTreeSet::new(),
            moment: WorldTime::default(),
            steps: 0,
        })))
    }

    /// Something happened.
    pub fn record(&self, at: WorldTime, process: ProcessId, event: Event) {
        self.0.lock().record(&Record { at, process, event });
    }

    /// Nothing more will happen: the last word of all checkers.
    pub fn end(&self, end: &End) {
        self.0.lock().end(end);
    }

    /// The first thing that must not be.
    pub fn violation(&self) -> Option<Violation> {
        self.0.lock().violation.clone()
    }

    /// Whether this one has come right since it is calm.
    pub fn has_come_right(&self, process: ProcessId) -> bool {
        self.0.lock().right.contains(&process)
    }

    /// Stands for everything that happened until now.
    pub fn trace_hash(&self) -> [u8; 32] {
        *self.0.lock().hasher.finalize().as_bytes()
    }

    /// How many records there are, inputs and outputs of machines not counted.
    pub fn records(&self) -> u64 {
        self.0.lock().records
    }

    /// The trace; empty where it is not kept.
    pub fn lines(&self) -> Vec<String> {
        self.0.lock().lines.clone().unwrap_or_default()
    }

    /// Who watches the machines of a process. `now` is asked at each input and output.
    pub(crate) fn observer(
        &self,
        process: ProcessId,
        now: impl Fn() -> WorldTime + Send + Sync + 'static,
    ) -> Observer {
        let recorder = self.clone();
        Observer(Arc::new(move |observed| {
            let at = now();
            let mut inner = recorder.0.lock();
            if inner.spins(at, process) {
                drop(inner);
                // Nothing else ends a task that never waits: the clock stands still.
                std::panic::resume_unwind(Box::new("it spins"));
            }
            inner.trace(at, process, &observed);
            if let Some(event) = inner.meaning(process, &observed) {
                inner.record(&Record { at, process, event });
            }
        }))
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}: {}", self.invariant, self.at, self.words)
    }
}

impl Inner {
    fn record(&mut self, record: &Record) {
        let mut line = std::mem::take(&mut self.line);
        line::write(&mut line, record);
        self.line = line;
        self.end_line();
        self.records += 1;
        if matches!(record.event, Event::CameRight) {
            self.right.insert(record.process);
        }
        self.judge(record.at, |checker| checker.see(record));
    }

    fn end(&mut self, end: &End) {
        self.judge(end.at, |checker| checker.end(end));
    }

    /// After the first violation nobody is asked any more: what follows follows from it.
    fn judge(
        &mut self,
        at: WorldTime,
        mut judge: impl FnMut(&mut dyn Checker) -> Result<(), String>,
    ) {
        for checker in &mut self.checkers {
            if self.violation.is_some() {
                return;
            }
            if let Err(words) = judge(checker.as_mut()) {
                self.violation = Some(Violation {
                    at,
                    invariant: checker.invariant(),
                    words,
                });
            }
        }
    }

    /// Whether this one's machines go on for ever while no time passes. Said once, so that what is
    /// recorded while its task is unwound does no harm.
    fn spins(&mut self, at: WorldTime, process: ProcessId) -> bool {
        if at > self.moment {
            (self.moment, self.steps) = (at, 0);
        }
        self.steps = self.steps.saturating_add(1);
        if self.steps != STEPS_AT_ONCE_MAX {
            return false;
        }
        if self.violation.is_none() {
            self.violation = Some(Violation {
                at,
                invariant: "bounded_blocking",
                words: format!("{process} does something for ever, and no time passes"),
            });
        }
        true
    }

    fn trace(&mut self, at: WorldTime, process: ProcessId, observed: &Observed<'_>) {
        let line = &mut self.line;
        let _ = match observed {
            Observed::MasterInput(input) => write!(line, "{at} {process} < {input:?}"),
            Observed::MasterOutput(output) => write!(line, "{at} {process} > {output:?}"),
            Observed::PeerInput(input) => write!(line, "{at} {process} < {input:?}"),
            Observed::PeerOutput(output) => write!(line, "{at} {process} > {output:?}"),
        };
        self.end_line();
    }

    fn end_line(&mut self) {
        self.hasher.update(self.line.as_bytes());
        self.hasher.update(b"\n");
        if let Some(lines) = &mut self.lines {
            lines.push(self.line.clone());
        }
        self.line.clear();
    }

    /// The event that an input or output amounts to, for the checkers.
    fn meaning(&mut self, process: ProcessId, observed: &Observed<'_>) -> Option<Event> {
        match observed {
            Observed::PeerInput(peer::Input::Welcomed(Welcome::Registered { peer, .. })) => {
                Some(Event::Registered(*peer))
            }
            Observed::PeerInput(_) => None,
            Observed::MasterInput(input) => {
                if let master::Input::Greeted {
                    connection,
                    hello: Hello::Resume { peer, .. },
                    ..
                } = input
                {
                    self.callers.insert((process, *connection), *peer);
                }
                None
            }
            Observed::PeerOutput(output) => match output {
                peer::Output::OpenEpoch { epoch, membership } => Some(Event::EpochOpened {
                    epoch: *epoch,
                    membership: membership.clone(),
                }),
                peer::Output::BeginOperation {
                    op,
                    descriptor,
                    ring,
                    ..
                } => Some(Event::OperationBegan {
                    op: *op,
                    descriptor: *descriptor,
                    ring: ring.clone(),
                }),
                peer::Output::EndOperation { op, roll_back } => Some(Event::OperationEnded {
                    op: *op,
                    roll_back: *roll_back,
                }),
                peer::Output::BeginSync { plan, .. } => {
                    // Two masters that do not know of one another may give the same number.
                    let (token, _) = plan.token.split_at(8);
                    let token = token.try_into().map_or(0, u64::from_le_bytes);
                    let round = plan.round ^ token;
                    Some(Event::SyncBegan { round })
                }
                peer::Output::Gone(gone) => Some(Event::MachineGone(gone.clone())),
                _ => None,
            },
            Observed::MasterOutput(output) => self.meaning_at_master(process, output),
        }
    }

    fn meaning_at_master(&mut self, process: ProcessId, output: &master::Output) -> Option<Event> {
        match output {
            master::Output::Solve(request) => {
                let members = request.groups.values().flatten().copied();
                Some(Event::NextMembers(members.collect()))
            }
            master::Output::Welcome {
                connection,
                welcome: Welcome::Registered { run, peer, .. },
                ..
            } => {
                self.callers.insert((process, *connection), *peer);
                let before = self.run.replace(*run);
                if before.is_none_or(|before| before == *run) {
                    return None;
                }
                self.master_epoch = None;
                Some(Event::NewRun)
            }
            master::Output::Send { connection, frame } => match &frame.message {
                ToPeer::EpochActive { epoch } if self.master_epoch < Some(*epoch) => {
                    self.master_epoch = Some(*epoch);
                    Some(Event::MasterEpoch(*epoch))
                }
                ToPeer::RunGoesOn => Some(Event::MasterRules),
                ToPeer::Evicted { reason } => Some(Event::Evicted {
                    peer: *self.callers.get(&(process, *connection))?,
                    reason: reason.clone(),
                }),
                _ => None,
            },
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(recorder: &Recorder, at: u64, event: Event) {
        recorder.record(WorldTime(at), ProcessId(1), event);
    }

    #[test]
    fn runs_that_differ_in_one_record_differ_in_their_hash() {
        let [one, other, same] = [5, 6, 5].map(|peer| {
            let recorder = Recorder::new(Vec::new(), false);
            record(&recorder, 1, Event::Started);
            record(&recorder, 2, Event::Registered(PeerId(peer)));
            recorder.trace_hash()
        });
        assert_ne!(one, other);
        assert_eq!(one, same);
    }

    #[test]
    fn an_input_of_a_machine_is_in_the_hash_and_its_meaning_in_the_history() {
        let recorder = Recorder::new(Vec::new(), true);
        let before = recorder.trace_hash();
        let Observer(observe) = recorder.observer(ProcessId(2), || WorldTime::from_ms(1500));
        observe(Observed::PeerInput(&peer::Input::Tick));
        assert_ne!(recorder.trace_hash(), before);
        assert_eq!(recorder.records(), 0);
        let gone = peer::Output::Gone(crate::error::Gone::Closed);
        observe(Observed::PeerOutput(&gone));
        assert_eq!(recorder.records(), 1);
        assert_eq!(recorder.lines()[2], "1.500 p2 MachineGone(Closed)");
    }

    #[test]
    fn a_machine_that_goes_on_for_ever_is_ended_and_named() {
        let recorder = Recorder::new(Vec::new(), false);
        let Observer(observe) = recorder.observer(ProcessId(2), || WorldTime::from_ms(1500));
        let spin = std::panic::AssertUnwindSafe(|| {
            for _ in 0..=STEPS_AT_ONCE_MAX {
                observe(Observed::PeerInput(&peer::Input::Tick));
            }
        });
        assert!(std::panic::catch_unwind(spin).is_err());
        let violation = recorder.violation().unwrap();
        assert_eq!(violation.invariant, "bounded_blocking");
        observe(Observed::PeerInput(&peer::Input::Tick));
    }

    #[test]
    fn the_first_violation_is_kept() {
        struct Never;
        impl Checker for Never {
            fn invariant(&self) -> &'static str {
                "never"
            }
            fn see(&mut self, record: &Record) -> Result<(), String> {
                Err(format!("{:?}", record.event))
            }
        }
        let recorder = Recorder::new(vec![Box::new(Never)], false);
        record(&recorder, 1, Event::Started);
        record(&recorder, 2, Event::Died);
        let violation = recorder.violation().unwrap();
        assert_eq!(violation.words, "Started");
        assert_eq!(violation.to_string(), "never at 0.000: Started");
    }
}
