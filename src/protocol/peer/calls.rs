//! Joint calls of this peer's caller: one at a time, ended only by the master.

use super::{Command, Output, Peer, Phase, Reply, RequestId};
use crate::error::{ConnectError, Gone, MembershipError, SyncError};
use crate::shared_state::Presentation;
use crate::types::Revision;
use crate::wire::control::{CallResult, JointCall, SyncPlan, ToMaster};

/// The joint call the caller is in.
#[derive(Clone, Debug, Hash)]
pub(super) struct RunningCall {
    request: RequestId,
    kind: Kind,
    /// What the master was told: what is received since is marked in it.
    call: JointCall,
    /// Its own caller no longer wants it.
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, Hash)]
enum Kind {
    UpdateTopology,
    ArePeersPending,
    SyncSharedState,
}

impl RunningCall {
    pub(super) fn excludes_operations(&self) -> bool {
        !matches!(self.kind, Kind::ArePeersPending)
    }

    pub(super) fn name(&self) -> &'static str {
        match self.kind {
            Kind::UpdateTopology => "update_topology",
            Kind::ArePeersPending => "are_peers_pending",
            Kind::SyncSharedState => "sync_shared_state",
        }
    }
}

impl Kind {
    /// The error of this kind of call, from what any joint call can meet.
    fn failed(self, error: MembershipError) -> Reply {
        match self {
            Kind::UpdateTopology => Reply::Membership(Err(error)),
            Kind::ArePeersPending => Reply::Pending(Err(error)),
            Kind::SyncSharedState => Reply::Sync(Err(match error {
                MembershipError::NotConnected => SyncError::NotConnected,
                MembershipError::OperationsInFlight { count } => {
                    SyncError::OperationsInFlight { count }
                }
                MembershipError::CallInProgress { running } => {
                    SyncError::CallInProgress { running }
                }
                MembershipError::CannotMeet { detail } => SyncError::CannotMeet { detail },
                MembershipError::Cancelled => SyncError::Cancelled,
                MembershipError::Gone(gone) => SyncError::Gone(gone),
            })),
        }
    }
}

impl Peer {
    pub(super) fn update_topology(&mut self, request: RequestId) {
        self.start_call(request, Kind::UpdateTopology, JointCall::UpdateTopology);
    }

    pub(super) fn are_peers_pending(&mut self, request: RequestId) {
        self.start_call(request, Kind::ArePeersPending, JointCall::ArePeersPending);
    }

    pub(super) fn sync(&mut self, request: RequestId, presentation: Presentation) {
        if let Err(reason) = presentation.check() {
            return self.reply(
                request,
                Reply::Sync(Err(SyncError::InvalidState { reason })),
            );
        }
        let call = JointCall::SyncSharedState(presentation);
        self.start_call(request, Kind::SyncSharedState, call);
    }

    fn start_call(&mut self, request: RequestId, kind: Kind, call: JointCall) {
        let excludes_operations = !matches!(kind, Kind::ArePeersPending);
        let error = match &self.phase {
            Phase::Gone(gone) => Some(gone.clone().into()),
            Phase::Member { .. } => match &self.call {
                Some(call) => Some(MembershipError::CallInProgress {
                    running: call.name(),
                }),
                None if excludes_operations && !self.operations.is_empty() => {
                    Some(MembershipError::OperationsInFlight {
                        count: self.operations.len(),
                    })
                }
                None => None,
            },
            _ => Some(MembershipError::NotConnected),
        };
        if let Some(error) = error {
            return self.reply(request, kind.failed(error));
        }
        self.call = Some(RunningCall {
            request,
            kind,
            call: call.clone(),
            cancelled: false,
        });
        self.say(ToMaster::Call(call));
    }

    /// Says again what call is running, to a master that has just come.
    pub(super) fn say_call(&mut self) {
        let Some(RunningCall {
            call, cancelled, ..
        }) = &self.call
        else {
            return;
        };
        let (call, cancelled) = (call.clone(), *cancelled);
        self.say(ToMaster::Call(call));
        if cancelled {
            self.say(ToMaster::CancelCall);
        }
    }

    /// Takes note of a call that ended for all.
    fn complete(&mut self, number: u64, kind: Kind, result: &CallResult) {
        if let CallResult::Synced { revision } = result {
            self.expected = Some(Revision(revision.0.saturating_add(1)));
        }
        if number == 0 {
            return;
        }
        let completed = &mut self.completed;
        match kind {
            Kind::UpdateTopology => completed.counts.updates = number,
            Kind::ArePeersPending => {
                completed.counts.pendings = number;
                completed.pending = Some(result.clone());
            }
            Kind::SyncSharedState => {
                completed.counts.syncs = number;
                completed.sync = Some(result.clone());
            }
        }
    }

    pub(super) fn on_call_done(&mut self, number: u64, result: CallResult) {
        let Some(call) = self.call.take() else {
            return;
        };
        let (request, kind) = (call.request, call.kind);
        self.complete(number, kind, &result);
        let reply = match (result, kind) {
            (CallResult::Updated, Kind::UpdateTopology) => {
                self.debts.clear();
                Reply::Membership(Ok(()))
            }
            (CallResult::Pending(answer), Kind::ArePeersPending) => Reply::Pending(Ok(answer)),
            (CallResult::Synced { revision }, Kind::SyncSharedState) => {
                self.debts.clear();
                Reply::Sync(Ok(revision))
            }
            (CallResult::SyncAborted { .. }, Kind::SyncSharedState) if call.cancelled => {
                Reply::Sync(Err(SyncError::Cancelled))
            }
            (CallResult::SyncAborted { reason }, Kind::SyncSharedState) => {
                Reply::Sync(Err(SyncError::Aborted { reason }))
            }
            (CallResult::NoCleanState { reason }, Kind::SyncSharedState) => {
                Reply::Sync(Err(SyncError::NoCleanState { reason }))
            }
            (
                CallResult::StaleRevision {
                    presented,
                    expected,
                },
                Kind::SyncSharedState,
            ) => Reply::Sync(Err(SyncError::StaleRevision {
                presented,
                expected,
            })),
            (CallResult::InvalidState { reason }, Kind::SyncSharedState) => {
                Reply::Sync(Err(SyncError::InvalidState { reason }))
            }
            (CallResult::CannotMeet { detail }, kind) => {
                kind.failed(MembershipError::CannotMeet { detail })
            }
            (CallResult::Cancelled, kind) => kind.failed(MembershipError::Cancelled),
            (result, kind) => {
                tracing::warn!(?result, ?kind, "an answer to another call");
                self.call = Some(call);
                return;
            }
        };
        self.reply(request, reply);
    }

    pub(super) fn on_sync_plan(&mut self, plan: SyncPlan) {
        if let Some(RunningCall {
            request,
            call: JointCall::SyncSharedState(presentation),
            ..
        }) = &mut self.call
        {
            // A master that comes back elects anew: what is written to from now on is not what it
            // was presented as.
            for index in &plan.receive {
                if let Some(entry) = presentation.entries.get_mut(*index as usize) {
                    entry.tainted = true;
                }
            }
            let request = *request;
            self.outputs.push_back(Output::BeginSync { request, plan });
        }
    }

    /// Ends the running call for a peer that is gone.
    pub(super) fn end_call(&mut self, gone: Result<(), Gone>) {
        if let (Some(RunningCall { request, kind, .. }), Err(gone)) = (self.call.take(), gone) {
            self.reply(request, kind.failed(gone.into()));
        }
    }

    /// Asks the master to end what is running. What is settled by then keeps its outcome.
    pub(super) fn cancel(&mut self, request: RequestId) {
        match &self.phase {
            Phase::Joining {
                request: joining, ..
            }
            | Phase::Registered {
                request: joining, ..
            } => {
                let joining = *joining;
                if matches!(self.phase, Phase::Registered { .. }) {
                    self.say(ToMaster::Leave);
                }
                self.stop_joining();
                self.reply(joining, Reply::Connect(Err(ConnectError::Cancelled)));
            }
            Phase::Member { .. } => {
                if let Some(call) = &mut self.call {
                    call.cancelled = true;
                    self.say(ToMaster::CancelCall);
                }
                self.cancel_operations();
            }
            Phase::Idle | Phase::Leaving { .. } | Phase::Gone(_) => {}
        }
        self.reply(request, Reply::Membership(Ok(())));
    }
}

impl Command {
    /// The answer to this command where nobody is left to give one.
    pub fn closed(&self) -> Reply {
        let gone = Gone::Closed;
        match self {
            Command::Connect => Reply::Connect(Err(gone.into())),
            Command::UpdateTopology => Reply::Membership(Err(gone.into())),
            Command::Leave | Command::Cancel | Command::Close => Reply::Membership(Ok(())),
            Command::ArePeersPending => Reply::Pending(Err(gone.into())),
            Command::SyncSharedState(_) => Reply::Sync(Err(gone.into())),
            Command::AllReduce { .. } => Reply::AllReduce(Err(gone.into())),
        }
    }
}
