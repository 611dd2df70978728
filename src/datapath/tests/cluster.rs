//! Several planes joined by in-memory streams, and the buffers of all ranks.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncWrite, DuplexStream, duplex, split};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::pipe::{Way, Wire, wire};
use super::quantized;
use crate::datapath::{DataPlane, Disposition, OperationSpec, PlaneEvent, Traffic};
use crate::engine::UserBuffers;
use crate::engine::testing::Memory;
use crate::kernels::reduce::{reduce, reduce_finish};
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, Rank, ReduceOp, Tag};
use crate::wire::lane::{FrameHeader, FrameKind, TRAILER_WHOLE};

pub(super) const EPOCH: Epoch = Epoch { term: 1, count: 1 };
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// What tests write over memory that has come back.
const SCRIBBLE: u8 = 0xEE;

pub(super) fn operation(tag: u64, n: u32) -> OperationId {
    OperationId {
        epoch: EPOCH,
        tag: Tag(tag),
        n,
    }
}

pub(super) fn sum(count: u64, data_type: DataType) -> Descriptor {
    Descriptor::plain(count, data_type, ReduceOp::Sum)
}

/// A frame of zeros without a descriptor's digest.
pub(super) fn data_frame(operation: OperationId, len: usize) -> Vec<u8> {
    data_frame_at(operation, 0, len)
}

pub(super) fn data_frame_at(operation: OperationId, segment: u32, len: usize) -> Vec<u8> {
    let bare = FrameHeader::bare(FrameKind::Data, 0);
    let header = FrameHeader {
        operation,
        segment,
        len: len as u32,
        ..bare
    };
    [&header.encode()[..], &vec![0; len], &TRAILER_WHOLE].concat()
}

/// The first segment of a step, as the previous rank sends it: `len` times `byte`.
pub(super) fn segment_frame(
    call: &Call,
    id: OperationId,
    step: u16,
    len: usize,
    byte: u8,
) -> Vec<u8> {
    let header = FrameHeader {
        operation: id,
        step,
        len: len as u32,
        digest: call.descriptor.digest(),
        ..FrameHeader::bare(FrameKind::Data, 0)
    };
    [&header.encode()[..], &vec![byte; len], &TRAILER_WHOLE].concat()
}

/// Lets the tasks run until `condition` holds. The bound is for the test alone: what hangs fails.
pub(super) async fn until(condition: impl Fn() -> bool) {
    let reached = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), reached)
        .await
        .expect("the condition in time");
}

/// Lets the tasks run until they have nothing more to do, as far as a test can tell.
pub(super) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The buffers of all ranks for one operation.
pub(super) struct Call {
    pub(super) descriptor: Descriptor,
    pub(super) inputs: Vec<Vec<u8>>,
    /// In place: input and output. Otherwise the input.
    pub(super) memory: Vec<Memory>,
    pub(super) outputs: Option<Vec<Memory>>,
    /// Held by each operation's owner as well.
    pub(super) witness: Vec<Arc<()>>,
    lent: Mutex<BTreeMap<usize, UserBuffers>>,
}

impl Call {
    pub(super) fn new(world_size: usize, descriptor: Descriptor, in_place: bool) -> Call {
        let len = descriptor.len_bytes() as usize;
        let inputs: Vec<Vec<u8>> = (0..world_size)
            .map(|rank| {
                let mut state = rank as u32 * 77 + 1;
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                };
                if descriptor.quantization.is_some() {
                    return quantized::elements(descriptor.data_type, len, next);
                }
                (0..len).map(|_| next()).collect()
            })
            .collect();
        let memory = inputs.iter().cloned().map(Memory::new).collect();
        let blank = || (0..world_size).map(|_| Memory::new(vec![0; len])).collect();
        let outputs = (!in_place).then(blank);
        let witness = (0..world_size).map(|_| Arc::new(())).collect();
        Call {
            descriptor,
            inputs,
            memory,
            outputs,
            witness,
            lent: Mutex::default(),
        }
    }

    /// What a caller does before it looks at its memory again: nothing keeps it after that.
    pub(super) fn take_back(&self, rank: usize) {
        self.lent.lock()[&rank].take_back();
        assert_eq!(
            Arc::strong_count(&self.witness[rank]),
            1,
            "the owner is dropped"
        );
    }

    /// A rank's part. The same memory is lent whenever the rank starts again.
    pub(super) fn spec(&self, rank: usize) -> OperationSpec {
        let output = self
            .outputs
            .as_ref()
            .map_or(&self.memory[rank], |outputs| &outputs[rank]);
        let lent = &mut *self.lent.lock();
        let buffers = match lent.get(&rank) {
            Some(buffers) => buffers.open_again(),
            None => self.memory[rank].lend_to(output, self.witness[rank].clone()),
        };
        lent.insert(rank, buffers.clone());
        OperationSpec {
            descriptor: self.descriptor,
            rank: Rank(rank as u32),
            ring: (0..self.inputs.len() as u64).map(PeerId).collect(),
            buffers,
            residual: None,
        }
    }

    /// What the caller may do with its memory once an operation has ended.
    pub(super) fn scribble(&self, rank: usize) {
        self.memory[rank].fill(SCRIBBLE);
        self.outputs
            .iter()
            .for_each(|outputs| outputs[rank].fill(SCRIBBLE));
    }

    /// Whether nobody has touched the memory since.
    pub(super) fn is_scribble(&self, rank: usize) -> bool {
        let is_intact = |memory: &Memory| memory.bytes().iter().all(|byte| *byte == SCRIBBLE);
        is_intact(&self.memory[rank])
            && self.outputs.iter().all(|outputs| is_intact(&outputs[rank]))
    }

    pub(super) fn output(&self, rank: usize) -> Vec<u8> {
        self.outputs.as_ref().unwrap_or(&self.memory)[rank].bytes()
    }

    /// What every rank ends with: chunk `c` combined in the order `c, c+1, ...`.
    pub(super) fn expected(&self) -> Vec<u8> {
        let world_size = self.inputs.len();
        let Descriptor {
            count,
            data_type,
            op,
            quantization,
        } = self.descriptor;
        if quantization.is_some() {
            return quantized::expected(&self.descriptor, &self.inputs);
        }
        let size = data_type.size_bytes();
        let mut result = Vec::new();
        for chunk in 0..world_size {
            let part =
                count as usize / world_size + usize::from(chunk < count as usize % world_size);
            let range = result.len()..result.len() + part * size;
            let mut value = self.inputs[chunk][range.clone()].to_vec();
            for hop in 1..world_size {
                let input = &self.inputs[(chunk + hop) % world_size][range.clone()];
                if hop + 1 < world_size {
                    reduce(op, data_type, &mut value, input);
                } else {
                    reduce_finish(op, data_type, world_size as u32, &mut value, input);
                }
            }
            result.extend(value);
        }
        result
    }
}

/// A ring of planes; the peer ids are the ranks.
pub(super) struct Cluster {
    pub(super) planes: Vec<Arc<DataPlane>>,
    pub(super) events: Vec<UnboundedReceiver<PlaneEvent>>,
    /// How long a test waits for an event.
    pub(super) patience: Duration,
    seen_closed: Vec<(PeerId, u16, usize)>,
}

impl Cluster {
    pub(super) fn new(world_size: usize, lanes: u16) -> Cluster {
        let cluster = Cluster::unconnected(world_size);
        let links = if world_size == 2 { 1 } else { world_size };
        for index in 0..links {
            (0..lanes).for_each(|lane| cluster.connect_with(index, lane, [usize::MAX; 2]));
        }
        cluster
    }

    pub(super) fn unconnected(world_size: usize) -> Cluster {
        Cluster::unconnected_in(world_size, Some(EPOCH))
    }

    pub(super) fn unconnected_in(world_size: usize, epoch: Option<Epoch>) -> Cluster {
        let (mut planes, mut events) = (Vec::new(), Vec::new());
        for _ in 0..world_size {
            let (sender, receiver) = unbounded_channel();
            let plane = DataPlane::new(Handle::current(), sender, KEEP_ALIVE);
            epoch.into_iter().for_each(|epoch| plane.open_epoch(epoch));
            planes.push(plane);
            events.push(receiver);
        }
        Cluster {
            planes,
            events,
            patience: Duration::from_secs(20),
            seen_closed: Vec::new(),
        }
    }

    /// Joins rank `index` to the next one; each direction breaks after so many bytes.
    pub(super) fn connect_with(&self, index: usize, lane: u16, fuses: [usize; 2]) {
        let next = (index + 1) % self.planes.len();
        let (here, there) = duplex(64 * 1024);
        for (from, to, stream, left) in [
            (index, next, here, fuses[0]),
            (next, index, there, fuses[1]),
        ] {
            let (reader, writer) = split(stream);
            let writer = Fuse { writer, left };
            self.planes[from].add_lane(PeerId(to as u64), lane, reader, writer);
        }
    }

    /// Joins rank `index` to the next one by a wire.
    pub(super) fn join(&self, index: usize, lane: u16, ways: [Way; 2]) -> Wire {
        let next = (index + 1) % self.planes.len();
        let (wire, [here, there]) = wire(ways);
        for (from, to, (reader, writer)) in [(index, next, here), (next, index, there)] {
            self.planes[from].add_lane(PeerId(to as u64), lane, reader, writer);
        }
        wire
    }

    /// How many links join the ranks in a ring.
    pub(super) fn links(&self) -> usize {
        match self.planes.len() {
            2 => 1,
            world_size => world_size,
        }
    }

    /// Which link a rank has with a peer: each belongs to the rank before the other.
    pub(super) fn link_of(&self, rank: usize, peer: PeerId) -> usize {
        match (self.planes.len(), peer.0 as usize) {
            (2, _) => 0,
            (world_size, peer) if peer == (rank + 1) % world_size => rank,
            (_, peer) => peer,
        }
    }

    /// A lane from the next rank to `rank`, in the test's hands.
    pub(super) fn raw_lane(&self, rank: usize, lane: u16) -> DuplexStream {
        let next = (rank + 1) % self.planes.len();
        let (here, there) = duplex(1 << 20);
        let (reader, writer) = split(here);
        self.planes[rank].add_lane(PeerId(next as u64), lane, reader, writer);
        there
    }

    pub(super) fn begin(&self, rank: usize, id: OperationId, call: &Call) {
        self.planes[rank].begin(id, call.spec(rank)).unwrap();
    }

    /// Runs an operation at all ranks and checks its result.
    pub(super) async fn reduce(
        &mut self,
        id: OperationId,
        descriptor: Descriptor,
        in_place: bool,
    ) -> Vec<Traffic> {
        let call = Call::new(self.planes.len(), descriptor, in_place);
        (0..self.planes.len()).for_each(|rank| self.begin(rank, id, &call));
        self.all_finished(id).await;
        self.end(id, &call).await
    }

    pub(super) async fn end(&self, id: OperationId, call: &Call) -> Vec<Traffic> {
        let expected = call.expected();
        let mut traffic = Vec::new();
        for (rank, plane) in self.planes.iter().enumerate() {
            traffic.push(plane.end(id, Disposition::Keep).await);
            call.take_back(rank);
            assert!(
                call.output(rank) == expected,
                "rank {rank} of {:?}",
                call.descriptor
            );
            if call.outputs.is_some() {
                assert!(call.memory[rank].bytes() == call.inputs[rank]);
            }
        }
        traffic
    }

    /// Waits until one operation has finished at every rank.
    pub(super) async fn finished(&mut self) {
        self.finished_where(|_| true).await;
    }

    /// Waits until this operation has finished at every rank.
    pub(super) async fn all_finished(&mut self, id: OperationId) {
        self.finished_where(|op| op == id).await;
    }

    async fn finished_where(&mut self, is_meant: impl Fn(OperationId) -> bool) {
        for rank in 0..self.planes.len() {
            loop {
                match self.event(rank).await {
                    PlaneEvent::Finished { op } if is_meant(op) => break,
                    PlaneEvent::Finished { .. } => {}
                    PlaneEvent::LaneClosed {
                        peer,
                        lane,
                        lanes_left,
                        ..
                    } => {
                        self.seen_closed.push((peer, lane, lanes_left));
                    }
                }
            }
        }
    }

    /// Whether `rank` has told by now that it has finished this operation.
    pub(super) fn has_finished(&mut self, rank: usize, id: OperationId) -> bool {
        let finished = PlaneEvent::Finished { op: id };
        std::iter::from_fn(|| self.events[rank].try_recv().ok()).any(|event| event == finished)
    }

    pub(super) async fn lane_closed(&mut self, rank: usize) -> (u16, usize) {
        loop {
            if let PlaneEvent::LaneClosed {
                lane, lanes_left, ..
            } = self.event(rank).await
            {
                return (lane, lanes_left);
            }
        }
    }

    /// The lane whose end `rank` has told of by now, and why it ended.
    pub(super) fn told_closed(&mut self, rank: usize) -> Option<(u16, String)> {
        let told = std::iter::from_fn(|| self.events[rank].try_recv().ok());
        let mut closed = told.filter_map(|event| match event {
            PlaneEvent::LaneClosed { lane, end, .. } => Some((lane, end.to_string())),
            _ => None,
        });
        closed.next()
    }

    /// A bound for the test alone: what hangs fails.
    pub(super) async fn event(&mut self, rank: usize) -> PlaneEvent {
        let event = timeout(self.patience, self.events[rank].recv()).await;
        event.expect("an event").expect("a plane")
    }

    pub(super) async fn any_event(&mut self) -> (usize, PlaneEvent) {
        let any = poll_fn(|context| {
            for (rank, events) in self.events.iter_mut().enumerate() {
                if let Poll::Ready(Some(event)) = events.poll_recv(context) {
                    return Poll::Ready((rank, event));
                }
            }
            Poll::Pending
        });
        timeout(self.patience, any).await.expect("an event")
    }

    pub(super) fn closed(&mut self) -> Vec<(PeerId, u16, usize)> {
        let mut closed = std::mem::take(&mut self.seen_closed);
        for events in &mut self.events {
            while let Ok(event) = events.try_recv() {
                if let PlaneEvent::LaneClosed {
                    peer,
                    lane,
                    lanes_left,
                    ..
                } = event
                {
                    closed.push((peer, lane, lanes_left));
                }
            }
        }
        closed
    }

    pub(super) fn expect_no_lane_closed(&mut self) {
        assert_eq!(self.closed(), []);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.planes.iter().for_each(|plane| plane.shutdown());
    }
}

/// A writer that breaks after so many bytes.
pub(super) struct Fuse<W> {
    writer: W,
    left: usize,
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Fuse<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::Error::from(io::ErrorKind::BrokenPipe)));
        }
        let bytes = &bytes[..bytes.len().min(self.left)];
        let written = std::task::ready!(Pin::new(&mut self.writer).poll_write(context, bytes))?;
        self.left -= written;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_shutdown(context)
    }
}
