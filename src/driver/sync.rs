//! One sync at one peer: serves its tensors, receives what it lacks, verifies.
//!
//! All work on the caller's tensors happens in tasks that this room owns; [`Session::end`] ends
//! them and takes the memory back before the call returns.

use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::{debug, info};

use super::links::{Caller, dial_peer};
use crate::engine::{UserBuffers, UserMemory};
use crate::mutation::{Mutation, mutated};
use crate::shared_state::transfer::{Holder, HolderStep, Offer, Receiver, ReceiverStep};
use crate::shared_state::{Digest, DigestHasher};
use crate::transport::{Stream, greet, refuse, welcome};
use crate::types::PeerId;
use crate::wire::control::SyncPlan;
use crate::wire::greeting::Kind;
use crate::wire::hello::TransferHello;

/// Most receivers that may be ahead of the plan. Anybody can claim to be one, so where there are
/// more, the oldest has waited in vain: the plan reaches all members at nearly the same time.
const AHEAD_MAX: usize = 64;

/// How long a transfer may stand still, not a byte moving, before another holder is asked: so many
/// times as long as a lane. A lane that is given up is only made anew; a transfer starts again.
const STALLS_OF_A_LANE: u32 = 2;

/// Bytes moved between two looks at the memory's gate.
const PIECE_BYTES: u64 = 256 << 10;

/// The caller's tensors, in the order they were presented.
pub(crate) type Tensors = Vec<Arc<UserMemory>>;

/// How a share of a sync came in.
#[derive(Debug)]
pub(super) enum SyncEvent {
    Received {
        round: u64,
    },
    Failed {
        round: u64,
        holder: PeerId,
        reason: String,
    },
}

/// One call of `sync_shared_state`.
pub(super) struct Session {
    shared: Arc<Shared>,
    plan: watch::Sender<Option<SyncPlan>>,
    /// Receivers that have come before the plan.
    ahead: VecDeque<(TransferHello, Stream)>,
    tasks: JoinSet<()>,
    is_receiving: bool,
    events: mpsc::UnboundedSender<SyncEvent>,
}

struct Shared {
    tensors: Vec<UserBuffers>,
    tx_bytes: AtomicU64,
    rx_bytes: AtomicU64,
    /// Entries that bytes were written to.
    begun: Mutex<BTreeSet<usize>>,
    /// How long a transfer may stand still.
    patience: Duration,
}

/// What a session has done when it ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct SyncTraffic {
    pub(crate) tx_bytes: u64,
    pub(crate) rx_bytes: u64,
    /// Entries that were written to.
    pub(crate) begun: BTreeSet<usize>,
}

impl Session {
    /// `lane_stall_timeout`: a transfer may stand still for twice as long.
    pub(super) fn new(
        tensors: &Tensors,
        lane_stall_timeout: Duration,
        events: mpsc::UnboundedSender<SyncEvent>,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                tensors: tensors.iter().map(UserMemory::open).collect(),
                tx_bytes: AtomicU64::new(0),
                rx_bytes: AtomicU64::new(0),
                begun: Mutex::default(),
                patience: lane_stall_timeout.saturating_mul(STALLS_OF_A_LANE),
            }),
            plan: watch::Sender::new(None),
            ahead: VecDeque::new(),
            tasks: JoinSet::new(),
            is_receiving: false,
            events,
        }
    }

    /// The master's plan, or a new one after a holder was lost.
    pub(super) fn follow(&mut self, caller: &Caller, plan: SyncPlan) {
        self.plan.send_replace(Some(plan));
        for (hello, stream) in std::mem::take(&mut self.ahead) {
            self.serve(hello, stream);
        }
        if !self.is_receiving {
            self.is_receiving = true;
            let (caller, events) = (caller.clone(), self.events.clone());
            let (plan, shared) = (self.plan.subscribe(), self.shared.clone());
            self.tasks
                .spawn(receive_share(caller, plan, shared, events));
        }
    }

    /// A receiver has come; it may have heard of the plan before this peer.
    pub(super) fn serve(&mut self, hello: TransferHello, stream: Stream) {
        let fits = self.plan.borrow().as_ref().map(|plan| {
            // Who receives itself has nothing to serve yet.
            plan.round == hello.round && plan.token == hello.token && plan.holder.is_none()
        });
        let Some(fits) = fits else {
            if self.ahead.len() >= AHEAD_MAX {
                self.ahead.pop_front();
            }
            return self.ahead.push_back((hello, stream));
        };
        if !fits {
            debug!(from = %hello.from, round = hello.round, "asked for another sync");
            return turn_away(stream, "no such sync here");
        }
        let shared = self.shared.clone();
        self.tasks.spawn(async move {
            if let Err(reason) = serve(hello, stream, &shared).await {
                info!(%reason, "serving a transfer ended early");
            }
        });
    }

    /// Ends all work; the tensors are the caller's again.
    pub(super) async fn end(mut self) -> SyncTraffic {
        for tensor in &self.shared.tensors {
            tensor.revoke();
        }
        self.tasks.shutdown().await;
        for tensor in &self.shared.tensors {
            poll_fn(|context| tensor.poll_idle(context)).await;
        }
        SyncTraffic {
            tx_bytes: self.shared.tx_bytes.load(Ordering::Relaxed),
            rx_bytes: self.shared.rx_bytes.load(Ordering::Relaxed),
            begun: match mutated(Mutation::ForgetTaint) {
                true => BTreeSet::new(),
                false => std::mem::take(&mut self.shared.begun.lock()),
            },
        }
    }
}

/// Turns away a receiver that comes when no sync is running here.
pub(super) fn turn_away(stream: Stream, reason: &'static str) {
    tokio::spawn(async move { refuse(stream, reason).await });
}

/// Follows the plans of a round until this peer has its share. One task does all of it, so that
/// two holders never write to the same tensor, and what is complete is not begun anew.
async fn receive_share(
    caller: Caller,
    mut plans: watch::Receiver<Option<SyncPlan>>,
    shared: Arc<Shared>,
    events: mpsc::UnboundedSender<SyncEvent>,
) {
    let mut complete = None;
    loop {
        let plan = plans.borrow_and_update().clone();
        if let Some(plan) = plan
            && let Some(holder) = &plan.holder
            && complete != Some(plan.round)
        {
            let round = plan.round;
            if mutated(Mutation::SayReceivedTooEarly) {
                let _ = events.send(SyncEvent::Received { round });
            }
            let result = tokio::select! {
                biased;
                changed = plans.changed() => match changed {
                    // The holder was lost; another one serves.
                    Ok(()) => continue,
                    Err(_) => return,
                },
                result = receive(&caller, &plan, &shared) => result,
            };
            let event = match result {
                Ok(()) => SyncEvent::Received { round },
                Err(reason) => {
                    info!(round, %holder, %reason, "transfer failed");
                    SyncEvent::Failed {
                        round,
                        holder: holder.id,
                        reason,
                    }
                }
            };
            if let SyncEvent::Received { round } = event {
                // Another round may follow, if the master is lost before it can commit this one.
                complete = Some(round);
            }
            let _ = events.send(event);
        }
        if plans.changed().await.is_err() {
            return;
        }
    }
}

async fn receive(caller: &Caller, plan: &SyncPlan, shared: &Shared) -> Result<(), String> {
    let holder = plan.holder.as_ref().ok_or("no holder was named")?;
    let tensors = &shared.tensors;
    let mut wanted = Vec::with_capacity(plan.receive.len());
    for index in &plan.receive {
        let index = *index as usize;
        let tensor = tensors
            .get(index)
            .ok_or_else(|| format!("there is no tensor {index}"))?;
        wanted.push((index, tensor.len_bytes() as u64));
    }
    let mut receiver = Receiver::new(plan.round, wanted).map_err(|error| error.to_string())?;
    let mut stream = dial_peer(caller, &holder.address).await?;
    let hello = TransferHello {
        run: caller.run,
        from: caller.peer,
        to: holder.id,
        round: plan.round,
        token: plan.token,
    };
    greet(
        &mut stream,
        Kind::StateTransfer,
        &hello.encode(),
        shared.patience,
    )
    .await
    .map_err(|error| error.to_string())?;
    let (mut reader, mut writer) = stream.into_split();
    let mut header = [0; 256];
    loop {
        let n = match receiver.step() {
            ReceiverStep::WriteRequest(bytes) => {
                let n = unstalled(shared.patience, writer.write(bytes)).await?;
                receiver.wrote(n).map_err(|error| error.to_string())?;
                n
            }
            ReceiverStep::ReadHeader { len } => {
                let len = len.min(header.len());
                let n = unstalled(shared.patience, reader.read(&mut header[..len])).await?;
                receiver
                    .feed_header(&header[..n])
                    .map_err(|error| error.to_string())?;
                n
            }
            ReceiverStep::ReadTensor { index, offset, len } => {
                shared.begun.lock().insert(index);
                let (start, len) = (offset as usize, len.min(PIECE_BYTES) as usize);
                let read = poll_fn(|context| {
                    let Some(mut access) = tensors[index].access() else {
                        return std::task::Poll::Ready(Err(revoked()));
                    };
                    let mut buffer = ReadBuf::new(access.output_mut(start..start + len));
                    Pin::new(&mut reader)
                        .poll_read(context, &mut buffer)
                        .map_ok(|()| buffer.filled().len())
                });
                let n = unstalled(shared.patience, read).await?;
                shared.rx_bytes.fetch_add(n as u64, Ordering::Relaxed);
                receiver
                    .received(n as u64)
                    .map_err(|error| error.to_string())?;
                n
            }
            ReceiverStep::Done => break,
            ReceiverStep::Failed => return Err("the transfer failed".to_owned()),
        };
        if n == 0 {
            return Err("the connection closed before all had come".to_owned());
        }
    }
    for index in &plan.receive {
        let wanted = plan.digests.get(*index as usize).copied().flatten();
        if let Some(wanted) = wanted {
            verify(&tensors[*index as usize], *index as usize, wanted).await?;
        }
    }
    Ok(())
}

/// Hashes in pieces, so that heartbeats and lanes are served in between.
async fn verify(tensor: &UserBuffers, index: usize, wanted: Digest) -> Result<(), String> {
    let mut hasher = DigestHasher::default();
    let len_bytes = tensor.len_bytes();
    let mut start = 0;
    while start < len_bytes {
        let end = len_bytes.min(start + PIECE_BYTES as usize);
        {
            let access = tensor.access().ok_or_else(|| revoked().to_string())?;
            hasher.update(access.output(start..end));
        }
        start = end;
        tokio::task::yield_now().await;
    }
    let actual = hasher.finish();
    if actual == wanted {
        Ok(())
    } else {
        Err(format!(
            "tensor {index} came with digest {actual}, not {wanted}"
        ))
    }
}

async fn serve(hello: TransferHello, mut stream: Stream, shared: &Shared) -> Result<(), String> {
    welcome(&mut stream, &[])
        .await
        .map_err(|error| error.to_string())?;
    let tensors = &shared.tensors;
    let offer = Offer {
        round: hello.round,
        lens: tensors
            .iter()
            .map(|tensor| tensor.len_bytes() as u64)
            .collect(),
    };
    let (mut reader, mut writer) = stream.into_split();
    let mut holder = Holder::new();
    let mut request = [0; 4096];
    loop {
        let n = match holder.step() {
            HolderStep::Read { len } => {
                let len = len.min(request.len());
                let n = unstalled(shared.patience, reader.read(&mut request[..len])).await?;
                holder
                    .feed(&request[..n])
                    .map_err(|error| error.to_string())?;
                n
            }
            HolderStep::Request { .. } => {
                holder
                    .answer(Some(&offer))
                    .map_err(|error| error.to_string())?;
                continue;
            }
            HolderStep::WriteHeader(bytes) => {
                let n = unstalled(shared.patience, writer.write(bytes)).await?;
                holder.wrote(n as u64).map_err(|error| error.to_string())?;
                n
            }
            HolderStep::WriteTensor { index, offset, len } => {
                let (start, len) = (offset as usize, len.min(PIECE_BYTES) as usize);
                let write = poll_fn(|context| {
                    let Some(access) = tensors[index].access() else {
                        return std::task::Poll::Ready(Err(revoked()));
                    };
                    Pin::new(&mut writer).poll_write(context, access.output(start..start + len))
                });
                let n = unstalled(shared.patience, write).await?;
                shared.tx_bytes.fetch_add(n as u64, Ordering::Relaxed);
                holder.wrote(n as u64).map_err(|error| error.to_string())?;
                n
            }
            HolderStep::Done => break,
            HolderStep::Failed => return Err("the transfer failed".to_owned()),
        };
        if n == 0 {
            return Err("the receiver closed the connection".to_owned());
        }
    }
    writer.flush().await.map_err(|error| error.to_string())?;
    // The receiver closes when it has all; closing first could cut off its last bytes.
    let _ = unstalled(shared.patience, reader.read(&mut request)).await;
    Ok(())
}

/// Each step of a transfer moves a byte at least, so this bounds a standstill, not a slow network.
async fn unstalled<T>(
    patience: Duration,
    io: impl Future<Output = std::io::Result<T>>,
) -> Result<T, String> {
    match tokio::time::timeout(patience, io).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("nothing moved for {} ms", patience.as_millis())),
    }
}

fn revoked() -> std::io::Error {
    std::io::Error::other("the sync has ended here")
}

#[cfg(test)]
mod standstill;
#[cfg(test)]
mod tests;
