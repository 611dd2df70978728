//! Which call of which process is which operation.

use std::collections::BTreeMap;

use crate::sim::history::{Call, CallId, Event, Life, ProcessId, Record, Returned, WorldTime};
use crate::types::{Descriptor, OperationId, PeerId, Tag};

/// The calls that have not returned.
#[derive(Debug, Default)]
pub(super) struct Calls {
    open: BTreeMap<(ProcessId, CallId), Open>,
    /// A program uses a tag once at a time.
    by_tag: BTreeMap<(ProcessId, Tag), CallId>,
    syncing: BTreeMap<ProcessId, CallId>,
}

/// A call that was made.
#[derive(Clone, Debug)]
pub(super) struct Open {
    pub(super) at: WorldTime,
    pub(super) life: Life,
    pub(super) what: Call,
    /// What it came to: after a change of epoch it may begin again, as another operation.
    pub(super) operation: Option<Operation>,
    /// Of a sync, its last round.
    pub(super) round: Option<u64>,
}

/// An operation as one process began it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Operation {
    pub(super) op: OperationId,
    pub(super) descriptor: Descriptor,
    pub(super) ring: Vec<PeerId>,
}

/// What a record means for a call.
#[derive(Debug)]
pub(super) enum Step<'a> {
    /// A call begins to be an operation, perhaps another one than before.
    Began { call: &'a Open },
    /// A call returned.
    Ended { call: Open, result: &'a Returned },
}

impl Calls {
    /// Keeps it in mind.
    pub(super) fn see<'a>(&'a mut self, record: &'a Record) -> Option<Step<'a>> {
        let process = record.process;
        match &record.event {
            Event::Called { call, life, what } => {
                match what {
                    Call::Reduce { tag, .. } => {
                        self.by_tag.insert((process, *tag), *call);
                    }
                    Call::Sync { .. } => {
                        self.syncing.insert(process, *call);
                    }
                    _ => {}
                }
                let open = Open {
                    at: record.at,
                    life: *life,
                    what: what.clone(),
                    operation: None,
                    round: None,
                };
                self.open.insert((process, *call), open);
                None
            }
            Event::OperationBegan {
                op,
                descriptor,
                ring,
            } => {
                let call = self.by_tag.get(&(process, op.tag))?;
                let call = self.open.get_mut(&(process, *call))?;
                call.operation = Some(Operation {
                    op: *op,
                    descriptor: *descriptor,
                    ring: ring.clone(),
                });
                Some(Step::Began { call })
            }
            Event::SyncBegan { round } => {
                let call = self.syncing.get(&process)?;
                self.open.get_mut(&(process, *call))?.round = Some(*round);
                None
            }
            Event::Returned { call, result } => {
                let call = self.open.remove(&(process, *call))?;
                Some(Step::Ended { call, result })
            }
            Event::Died => {
                self.open.retain(|(of, _), _| *of != process);
                None
            }
            _ => None,
        }
    }

    /// Those that have not returned, of processes that live.
    pub(super) fn open(&self) -> impl Iterator<Item = (ProcessId, CallId, &Open)> {
        self.open
            .iter()
            .map(|((process, call), open)| (*process, *call, open))
    }
}

impl Call {
    /// What is called, in few words.
    pub(super) fn words(&self) -> String {
        match self {
            Call::Connect => "connect".to_owned(),
            Call::UpdateTopology => "update_topology".to_owned(),
            Call::ArePeersPending => "are_peers_pending".to_owned(),
            Call::Sync { revision, .. } => format!("sync_shared_state at revision {revision}"),
            Call::Reduce { tag, .. } => format!("all_reduce with tag {tag}"),
            Call::Leave => "leave".to_owned(),
            Call::Cancel => "cancel".to_owned(),
            Call::Close => "close".to_owned(),
        }
    }
}
