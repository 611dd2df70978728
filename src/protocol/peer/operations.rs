//! Operations of this peer's caller: begun without asking, ended only by the master.

use std::time::Duration;

use tracing::debug;

use super::calls::RunningCall;
use super::{OPERATIONS_MAX, Output, Peer, Phase, Reply, RequestId};
use crate::error::{CollectiveError, Gone, LostPeer};
use crate::mutation::{Mutation, mutated};
use crate::types::{Descriptor, OperationId, PeerId, Tag, Timestamp};
use crate::wire::control::{AbortCause, Outcome, Settlement, ToMaster};

/// An operation that the caller waits for.
#[derive(Clone, Debug, Hash)]
pub(super) struct Operation {
    request: RequestId,
    descriptor: Descriptor,
    /// When the caller wants it aborted.
    deadline: Option<Timestamp>,
    /// Whether the master was told of the deadline in this epoch. What it hears while the epoch
    /// changes it may ignore: the operation then starts again, and it is told again.
    deadline_told: bool,
    cancelled: bool,
    state: State,
}

#[derive(Clone, Debug, Hash)]
enum State {
    /// For the proposed epoch to be active.
    Waiting,
    Running {
        op: OperationId,
        progress: Progress,
    },
    /// For the buffers to be free.
    Ending {
        op: OperationId,
        then: Then,
    },
}

/// What the master was told of a running operation.
#[derive(Clone, Debug, Hash)]
enum Progress {
    Begun,
    Done,
    Failed { reason: String },
}

#[derive(Clone, Debug, Hash)]
enum Then {
    Reply(Result<Vec<PeerId>, CollectiveError>),
    Restart,
}

impl Operation {
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        match self.state {
            State::Running { .. } => self.deadline.filter(|_| !self.deadline_told),
            State::Waiting | State::Ending { .. } => None,
        }
    }
}

impl Peer {
    pub(super) fn all_reduce(
        &mut self,
        request: RequestId,
        tag: Tag,
        descriptor: Descriptor,
        deadline: Option<Duration>,
    ) {
        if let Some(error) = self.refuse_operation(tag) {
            return self.reply(request, Reply::AllReduce(Err(error)));
        }
        let deadline = deadline.map(|deadline| self.now + deadline);
        let operation = Operation {
            request,
            descriptor,
            deadline,
            deadline_told: false,
            cancelled: false,
            state: State::Waiting,
        };
        self.operations.insert(tag, operation);
        self.begin_waiting();
    }

    fn refuse_operation(&mut self, tag: Tag) -> Option<CollectiveError> {
        match &self.phase {
            Phase::Member { .. } => {}
            Phase::Gone(gone) => return Some(gone.clone().into()),
            _ => return Some(CollectiveError::NotConnected),
        }
        let excludes = |call: &&RunningCall| call.excludes_operations();
        if let Some(call) = self.call.as_ref().filter(excludes) {
            let running = call.name();
            return Some(CollectiveError::CallInProgress { running });
        }
        if self.operations.contains_key(&tag) {
            return Some(CollectiveError::TagInUse { tag });
        }
        if self.operations.len() >= OPERATIONS_MAX {
            return Some(CollectiveError::TooManyOperations {
                limit: OPERATIONS_MAX,
            });
        }
        self.pay_debt(tag)
    }

    /// The oldest failure of this tag that the caller has not been told.
    fn pay_debt(&mut self, tag: Tag) -> Option<CollectiveError> {
        let debts = self.debts.get_mut(&tag)?;
        let cause = debts.pop_front();
        if debts.is_empty() {
            self.debts.remove(&tag);
        }
        cause.map(|cause| abort_error(tag, cause, false))
    }

    /// Begins what waits, unless an epoch is on its way.
    pub(super) fn begin_waiting(&mut self) {
        if self.proposed.is_some() {
            return;
        }
        let Some(active) = &self.active else { return };
        let (epoch, rank, ring) = (active.epoch, active.rank, active.ring.clone());
        let world_size = u32::try_from(ring.len()).unwrap_or(u32::MAX);
        let is_waiting = |operation: &Operation| matches!(operation.state, State::Waiting);
        let waiting: Vec<Tag> = self
            .operations
            .iter()
            .filter(|(_, o)| is_waiting(o))
            .map(|(tag, _)| *tag)
            .collect();
        for tag in waiting {
            let error = match self.pay_debt(tag) {
                Some(error) => Some(error),
                None if world_size < 2 => Some(CollectiveError::TooFewPeers { world_size }),
                None => None,
            };
            if let Some(error) = error
                && let Some(operation) = self.operations.remove(&tag)
            {
                self.reply(operation.request, Reply::AllReduce(Err(error)));
            }
        }
        let mut begun = Vec::new();
        for (tag, operation) in &mut self.operations {
            if !is_waiting(operation) {
                continue;
            }
            let n = self.settled.get(tag).copied().unwrap_or(0);
            let op = OperationId {
                epoch,
                tag: *tag,
                n,
            };
            operation.state = State::Running {
                op,
                progress: Progress::Begun,
            };
            operation.deadline_told = false;
            self.outputs.push_back(Output::BeginOperation {
                request: operation.request,
                op,
                descriptor: operation.descriptor,
                rank,
                ring: ring.clone(),
            });
            begun.push((op, operation.descriptor));
        }
        for (op, descriptor) in begun {
            self.say(ToMaster::OperationBegun { op, descriptor });
        }
    }

    pub(super) fn on_operation_finished(&mut self, op: OperationId) {
        if let Some(progress) = self.progress(op) {
            *progress = Progress::Done;
            self.say(ToMaster::OperationDone { op });
        }
    }

    pub(super) fn on_operation_failed(&mut self, op: OperationId, reason: String) {
        if let Some(progress) = self.progress(op) {
            let failed = reason.clone();
            *progress = Progress::Failed { reason: failed };
        }
        self.say(ToMaster::OperationFailed { op, reason });
    }

    fn progress(&mut self, op: OperationId) -> Option<&mut Progress> {
        match &mut self.operations.get_mut(&op.tag)?.state {
            State::Running {
                op: running,
                progress,
            } if *running == op => Some(progress),
            _ => None,
        }
    }

    /// Says again what is running, to a master that has just come.
    pub(super) fn say_operations(&mut self) {
        let mut messages = Vec::new();
        for operation in self.operations.values_mut() {
            let State::Running { op, progress } = &operation.state else {
                continue;
            };
            let op = *op;
            operation.deadline_told = false;
            let descriptor = operation.descriptor;
            messages.push(ToMaster::OperationBegun { op, descriptor });
            match progress {
                Progress::Begun => {}
                Progress::Done => messages.push(ToMaster::OperationDone { op }),
                Progress::Failed { reason } => {
                    let reason = reason.clone();
                    messages.push(ToMaster::OperationFailed { op, reason });
                }
            }
        }
        for message in messages {
            self.say(message);
        }
    }

    /// An outcome that the master tells, and keeps until all have it.
    pub(super) fn on_settlement(&mut self, settlement: Settlement) {
        let everybody_has = settlement.everybody_has;
        self.outcomes
            .retain(|outcome| outcome.number > everybody_has);
        self.on_settled(settlement.op, settlement.outcome.clone());
        self.outcomes.push_back(settlement);
    }

    /// An operation of the active epoch has its outcome, for everybody.
    pub(super) fn on_settled(&mut self, op: OperationId, outcome: Outcome) {
        // A newcomer owes nothing of an epoch it was not in.
        let Some(active) = self.active.as_ref().map(|active| active.epoch) else {
            return;
        };
        if op.epoch > active {
            // This peer is in the epoch as well, and learns of it only now that it is over.
            if let Outcome::Aborted(cause) = outcome {
                self.debts.entry(op.tag).or_default().push_back(cause);
            }
            return;
        }
        let settled = self.settled.entry(op.tag).or_insert(0);
        if op.epoch < active || op.n < *settled {
            return;
        }
        *settled = op.n.saturating_add(1);
        let running = self
            .operations
            .get_mut(&op.tag)
            .filter(|o| matches!(o.state, State::Running { op: running, .. } if running == op));
        match (running, outcome) {
            (Some(operation), Outcome::Committed { contributors }) => {
                operation.state = State::Ending {
                    op,
                    then: Then::Reply(Ok(contributors)),
                };
                self.outputs.push_back(Output::EndOperation {
                    op,
                    roll_back: false,
                });
            }
            (Some(operation), Outcome::Aborted(cause)) => {
                debug!(%op, ?cause, "aborted");
                let error = abort_error(op.tag, cause, operation.cancelled);
                if mutated(Mutation::ReplyBeforeRollBack) {
                    let request = operation.request;
                    self.operations.remove(&op.tag);
                    self.reply(request, Reply::AllReduce(Err(error)));
                    self.outputs.push_back(Output::EndOperation {
                        op,
                        roll_back: true,
                    });
                    return;
                }
                operation.state = State::Ending {
                    op,
                    then: Then::Reply(Err(error)),
                };
                self.outputs.push_back(Output::EndOperation {
                    op,
                    roll_back: true,
                });
            }
            (None, Outcome::Aborted(_)) if mutated(Mutation::ForgetDebt) => {
                self.outputs.push_back(Output::NoteSettled { op });
            }
            (None, Outcome::Aborted(cause)) => {
                debug!(%op, ?cause, "aborted before it was called here; its next use will say so");
                self.debts.entry(op.tag).or_default().push_back(cause);
                self.outputs.push_back(Output::NoteSettled { op });
            }
            (None, Outcome::Committed { .. }) => {
                self.outputs.push_back(Output::NoteSettled { op });
            }
        }
    }

    /// What was begun in the epoch that ends and has no outcome is put back, to start again.
    pub(super) fn put_back_unlisted(&mut self) {
        for operation in self.operations.values_mut() {
            if let State::Running { op, .. } = operation.state {
                debug!(%op, "starts again in the next epoch");
                operation.state = State::Ending {
                    op,
                    then: Then::Restart,
                };
                self.outputs.push_back(Output::EndOperation {
                    op,
                    roll_back: !mutated(Mutation::RestartWithoutRollBack),
                });
            }
        }
    }

    pub(super) fn on_operation_ended(&mut self, op: OperationId) {
        let ended = |o: &&mut Operation| matches!(o.state, State::Ending { op: ending, .. } if ending == op);
        let Some(operation) = self.operations.get_mut(&op.tag).filter(ended) else {
            return;
        };
        match std::mem::replace(&mut operation.state, State::Waiting) {
            State::Ending {
                then: Then::Reply(result),
                ..
            } => {
                let request = operation.request;
                self.operations.remove(&op.tag);
                self.reply(request, Reply::AllReduce(result));
            }
            State::Ending {
                then: Then::Restart,
                ..
            } if operation.cancelled => {
                let request = operation.request;
                self.operations.remove(&op.tag);
                self.reply(request, Reply::AllReduce(Err(CollectiveError::Cancelled)));
            }
            _ => self.begin_waiting(),
        }
    }

    pub(super) fn cancel_operations(&mut self) {
        let mut reports = Vec::new();
        let mut waiting = Vec::new();
        for (tag, operation) in &mut self.operations {
            operation.cancelled = true;
            match operation.state {
                State::Waiting => waiting.push(*tag),
                State::Running { op, .. } => reports.push(op),
                State::Ending { .. } => {}
            }
        }
        for tag in waiting {
            if let Some(operation) = self.operations.remove(&tag) {
                let error = CollectiveError::Cancelled;
                self.reply(operation.request, Reply::AllReduce(Err(error)));
            }
        }
        for op in reports {
            self.on_operation_failed(op, "its caller cancelled it".to_owned());
        }
    }

    pub(super) fn watch_deadlines(&mut self) {
        let now = self.now;
        let mut passed = Vec::new();
        for operation in self.operations.values_mut() {
            if let State::Running { op, .. } = operation.state
                && operation.deadline().is_some_and(|deadline| deadline <= now)
            {
                operation.deadline_told = true;
                passed.push(op);
            }
        }
        for op in passed {
            self.say(ToMaster::DeadlinePassed { op });
            if mutated(Mutation::EndAtDeadline) {
                let reason = "this peer does not wait for the master".to_owned();
                self.on_settled(op, Outcome::Aborted(AbortCause::DeadlinePassed { reason }));
            }
        }
    }

    /// Puts everything back for a peer that is gone.
    pub(super) fn end_operations(&mut self, gone: &Gone) {
        let mut waiting = Vec::new();
        for (tag, operation) in &mut self.operations {
            let error = || Err(CollectiveError::Gone(gone.clone()));
            match &mut operation.state {
                State::Waiting => waiting.push(*tag),
                State::Running { op, .. } => {
                    let op = *op;
                    operation.state = State::Ending {
                        op,
                        then: Then::Reply(error()),
                    };
                    self.outputs.push_back(Output::EndOperation {
                        op,
                        roll_back: true,
                    });
                }
                State::Ending {
                    then: then @ Then::Restart,
                    ..
                } => *then = Then::Reply(error()),
                State::Ending {
                    then: Then::Reply(_),
                    ..
                } => {}
            }
        }
        for tag in waiting {
            if let Some(operation) = self.operations.remove(&tag) {
                let error = CollectiveError::Gone(gone.clone());
                self.reply(operation.request, Reply::AllReduce(Err(error)));
            }
        }
    }
}

fn abort_error(tag: Tag, cause: AbortCause, cancelled: bool) -> CollectiveError {
    match cause {
        AbortCause::PeersLost(lost) => CollectiveError::PeersLost {
            lost: lost
                .into_iter()
                .map(|(peer, reason)| LostPeer { peer, reason })
                .collect(),
        },
        AbortCause::Reported { .. } if cancelled => CollectiveError::Cancelled,
        AbortCause::Reported { reason } => CollectiveError::Aborted { reason },
        AbortCause::DeadlinePassed { reason } => CollectiveError::DeadlinePassed { reason },
        AbortCause::Mismatch { field, detail } => CollectiveError::Mismatch { tag, field, detail },
        AbortCause::CannotMeet { detail } => CollectiveError::CannotMeet { detail },
    }
}
