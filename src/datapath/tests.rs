//! Several planes joined by in-memory streams.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::{BeginError, DataPlane, Disposition, EAGER_BYTES, OperationSpec, PlaneEvent, Traffic};
use crate::engine::testing::Memory;
use crate::kernels::reduce::{reduce, reduce_finish};
use crate::types::{DataType, Descriptor, Epoch, OperationId, PeerId, Rank, ReduceOp, Tag};
use crate::wire::lane::{FrameHeader, FrameKind, TRAILER_SPOILED, TRAILER_WHOLE};

const EPOCH: Epoch = Epoch { term: 1, count: 1 };
const KEEP_ALIVE: Duration = Duration::from_secs(30);

fn operation(tag: u64, n: u32) -> OperationId {
    OperationId {
        epoch: EPOCH,
        tag: Tag(tag),
        n,
    }
}

fn sum(count: u64, data_type: DataType) -> Descriptor {
    Descriptor {
        count,
        data_type,
        op: ReduceOp::Sum,
    }
}

#[tokio::test]
async fn every_rank_ends_with_the_same_right_bits() {
    for (world_size, lanes) in [(2, 1), (2, 3), (3, 2), (4, 1), (5, 4)] {
        let mut cluster = Cluster::new(world_size, lanes);
        let mut tag = 0;
        for count in [0, 1, world_size as u64 - 1, 257, 100_003, 786_433] {
            for (data_type, op) in [
                (DataType::F32, ReduceOp::Sum),
                (DataType::I8, ReduceOp::Avg),
                (DataType::BF16, ReduceOp::Avg),
                (DataType::U64, ReduceOp::Max),
            ] {
                tag += 1;
                let descriptor = Descriptor {
                    count,
                    data_type,
                    op,
                };
                cluster
                    .reduce(operation(tag, 0), descriptor, tag % 2 == 0)
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn all_types_and_operations_pass() {
    let mut cluster = Cluster::new(3, 2);
    let mut tag = 0;
    for data_type in DataType::ALL {
        for op in ReduceOp::ALL {
            tag += 1;
            let descriptor = Descriptor {
                count: 1001,
                data_type,
                op,
            };
            cluster.reduce(operation(tag, 0), descriptor, false).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_operations_share_the_lanes() {
    let mut cluster = Cluster::new(3, 2);
    let counts = [5u64, 400_000, 17, 90_000, 3, 1_000_000];
    let mut calls = Vec::new();
    for (tag, count) in counts.iter().enumerate() {
        let descriptor = sum(*count, DataType::F32);
        calls.push((
            operation(tag as u64, 0),
            Call::new(3, descriptor, tag % 2 == 0),
        ));
    }
    for rank in 0..3 {
        for (id, call) in &calls {
            cluster.begin(rank, *id, call);
        }
    }
    for _ in 0..calls.len() {
        cluster.finished().await;
    }
    for (id, call) in &calls {
        cluster.end(*id, call).await;
    }
}

#[tokio::test]
async fn traffic_is_the_least_possible() {
    let mut cluster = Cluster::new(4, 2);
    let traffic = cluster
        .reduce(operation(1, 0), sum(1 << 20, DataType::F32), false)
        .await;
    let expected = 2 * 3 * (1 << 20);
    assert!(traffic.iter().all(|t| *t
        == Traffic {
            tx_bytes: expected,
            rx_bytes: expected
        }));
}

#[tokio::test]
async fn in_place_a_roll_back_restores_the_input() {
    let mut cluster = Cluster::new(3, 2);
    let call = Call::new(3, sum(800_000, DataType::F32), true);
    let id = operation(1, 0);
    (0..3).for_each(|rank| cluster.begin(rank, id, &call));
    cluster.finished().await;
    for (rank, plane) in cluster.planes.iter().enumerate() {
        plane.end(id, Disposition::RollBack).await;
        assert_eq!(call.memory[rank].bytes(), call.inputs[rank]);
    }
}

#[tokio::test]
async fn an_abort_midway_gives_the_memory_back_and_spares_the_lanes() {
    let mut cluster = Cluster::new(3, 1);
    // Rank 2 never calls: the others are stuck midway, with frames half sent.
    let call = Call::new(3, sum(1_000_000, DataType::F32), true);
    let id = operation(1, 0);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    for rank in 0..2 {
        cluster.planes[rank].end(id, Disposition::RollBack).await;
        assert_eq!(call.memory[rank].bytes(), call.inputs[rank]);
        assert_eq!(
            Arc::strong_count(&call.witness[rank]),
            1,
            "the owner is dropped"
        );
    }
    cluster.planes[2].note_settled(Tag(1), 0);
    cluster
        .reduce(operation(1, 1), sum(300_000, DataType::I32), true)
        .await;
    cluster.expect_no_lane_closed();
    assert!(cluster.planes.iter().all(|plane| plane.early_bytes() == 0));
}

#[tokio::test]
async fn a_lane_that_breaks_midway_costs_its_unfinished_segments_only() {
    for fuse in [0, 30, 60, 100, 70_000, 300_000, 1_000_001, 1_500_000] {
        let mut cluster = Cluster::unconnected(3);
        for index in 0..3 {
            let fuses = if index == 1 {
                [fuse, usize::MAX]
            } else {
                [usize::MAX; 2]
            };
            cluster.connect_with(index, 0, fuses);
            cluster.connect_with(index, 1, [usize::MAX; 2]);
        }
        let count = 1_500_000;
        cluster
            .reduce(operation(1, 0), sum(count, DataType::F32), fuse % 20 == 0)
            .await;
        let closed = cluster.closed();
        assert!(
            closed
                .iter()
                .all(|(_, lane, left)| (*lane, *left) == (0, 1)),
            "{closed:?}"
        );
        assert_eq!(closed.len(), 2, "both sides tell");
    }
}

#[tokio::test]
async fn the_last_lane_may_break_and_come_back() {
    for fuse in [10, 400_000] {
        let mut cluster = Cluster::unconnected(2);
        cluster.connect_with(0, 0, [fuse, usize::MAX]);
        let call = Call::new(2, sum(1_000_000, DataType::F32), true);
        let id = operation(1, 0);
        (0..2).for_each(|rank| cluster.begin(rank, id, &call));
        cluster.lane_closed(0).await;
        cluster.lane_closed(1).await;
        assert_eq!(cluster.planes[0].lanes(PeerId(1)), 0);
        cluster.connect_with(0, 0, [usize::MAX; 2]);
        cluster.finished().await;
        cluster.end(id, &call).await;
    }
}

#[tokio::test]
async fn a_replaced_lane_ends_quietly() {
    let mut cluster = Cluster::new(2, 1);
    let call = Call::new(2, sum(1_000_000, DataType::F32), false);
    let id = operation(1, 0);
    cluster.begin(0, id, &call);
    cluster.connect_with(0, 0, [usize::MAX; 2]);
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test]
async fn a_peer_that_begins_late_loses_nothing() {
    for (count, expected_early) in [(1_000_000, EAGER_BYTES), (50_000, 100_000)] {
        let mut cluster = Cluster::new(2, 2);
        let call = Call::new(2, sum(count, DataType::F32), false);
        let id = operation(1, 0);
        cluster.begin(0, id, &call);
        while cluster.planes[1].early_bytes() < expected_early * 3 / 4 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(cluster.planes[1].early_bytes() <= EAGER_BYTES);
        assert!(!cluster.planes[0].link_status(PeerId(1)).has_sendable);
        cluster.begin(1, id, &call);
        cluster.finished().await;
        cluster.end(id, &call).await;
    }
}

#[tokio::test]
async fn a_peer_that_learns_of_the_epoch_late_loses_nothing() {
    let mut cluster = Cluster::unconnected_in(2, None);
    cluster.connect_with(0, 0, [usize::MAX; 2]);
    let call = Call::new(2, sum(30_000, DataType::F32), false);
    let id = operation(1, 0);
    cluster.planes[0].open_epoch(EPOCH);
    cluster.begin(0, id, &call);
    while cluster.planes[1].early_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    cluster.planes[1].open_epoch(EPOCH);
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
}

#[tokio::test]
async fn what_comes_too_late_is_dropped_by_number() {
    let mut cluster = Cluster::unconnected(2);
    let (mut stream, plane) = (cluster.raw_lane(0), cluster.planes[0].clone());
    plane.note_settled(Tag(1), 4);
    for id in [
        operation(1, 4),
        operation(1, 0),
        OperationId {
            epoch: Epoch { term: 0, count: 9 },
            tag: Tag(2),
            n: 0,
        },
    ] {
        stream.write_all(&data_frame(id, 1000)).await.unwrap();
    }
    stream
        .write_all(&data_frame(operation(1, 5), 10))
        .await
        .unwrap();
    while plane.early_bytes() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(plane.early_bytes(), 10, "the next use is kept");
    plane.open_epoch(Epoch { term: 1, count: 2 });
    assert_eq!(plane.early_bytes(), 0);
    cluster.expect_no_lane_closed();
}

#[tokio::test]
async fn bytes_that_are_not_frames_close_their_lane_alone() {
    let garbage = vec![7u8; 100];
    let oversized = {
        let frame = data_frame(operation(9, 0), EAGER_BYTES);
        [frame.clone(), data_frame_at(operation(9, 0), 1, 1)].concat()
    };
    let acknowledges_too_much = FrameHeader::bare(FrameKind::Ack, 1).encode().to_vec();
    let mut bad_trailer = data_frame(operation(3, 0), 1);
    *bad_trailer.last_mut().unwrap() = 0;
    for bytes in [garbage, oversized, acknowledges_too_much, bad_trailer] {
        let mut cluster = Cluster::new(2, 1);
        let mut stream = cluster.raw_lane(0);
        // The lane may be closed before all was written.
        stream.write_all(&bytes).await.ok();
        let (lane, lanes_left) = cluster.lane_closed(0).await;
        assert_eq!((lane, lanes_left), (99, 1));
        cluster
            .reduce(operation(1, 0), sum(10, DataType::F32), false)
            .await;
    }
}

#[tokio::test]
async fn a_frame_of_another_rank_or_another_descriptor_is_not_taken() {
    let mut cluster = Cluster::unconnected(3);
    let call = Call::new(3, sum(30, DataType::U8), false);
    let mut stream = cluster.raw_lane(0);
    cluster.begin(0, operation(1, 0), &call);
    // Another digest: dropped, the lane stays.
    stream
        .write_all(&data_frame(operation(1, 0), 10))
        .await
        .unwrap();
    let mut frame = data_frame(operation(1, 0), 10);
    let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
    let header = FrameHeader {
        digest: sum(30, DataType::U8).digest(),
        ..header
    };
    frame[..60].copy_from_slice(&header.encode());
    // Rank 0 takes step 0 from rank 2, and this lane is rank 1's.
    stream.write_all(&frame).await.unwrap();
    let reason = loop {
        if let PlaneEvent::LaneClosed { reason, .. } = cluster.event(0).await {
            break reason;
        }
    };
    assert!(reason.contains("no step 0 comes from rank 1"), "{reason}");
    cluster.planes[0]
        .end(operation(1, 0), Disposition::Keep)
        .await;
    assert_eq!(call.output(0), vec![0; 30], "nothing was written");
}

#[tokio::test]
async fn a_spoiled_frame_is_waited_for_again() {
    let mut cluster = Cluster::unconnected(2);
    let call = Call::new(2, sum(20, DataType::U8), false);
    let id = operation(1, 0);
    let mut stream = cluster.raw_lane(0);
    cluster.begin(0, id, &call);
    let with_digest = |step, byte| {
        let mut frame = data_frame_at(id, 0, 10);
        let header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
        let header = FrameHeader {
            digest: call.descriptor.digest(),
            step,
            ..header
        };
        frame[..60].copy_from_slice(&header.encode());
        frame[60..70].fill(byte);
        frame
    };
    let mut spoiled = with_digest(0, 0);
    spoiled[70..].copy_from_slice(&TRAILER_SPOILED);
    stream.write_all(&spoiled).await.unwrap();
    stream.write_all(&with_digest(0, 1)).await.unwrap();
    stream.write_all(&with_digest(1, 2)).await.unwrap();
    while cluster.event(0).await != (PlaneEvent::Finished { op: id }) {}
    cluster.planes[0].end(id, Disposition::Keep).await;
    let mut expected = call.inputs[0].clone();
    expected[..10].fill(2);
    expected[10..]
        .iter_mut()
        .for_each(|byte| *byte = byte.wrapping_add(1));
    assert_eq!(call.output(0), expected);
}

#[tokio::test(start_paused = true)]
async fn an_idle_lane_carries_a_sign_of_life() {
    let cluster = Cluster::unconnected(2);
    let mut stream = cluster.raw_lane(0);
    for _ in 0..3 {
        let mut bytes = [0; 60];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(
            FrameHeader::decode(&bytes).unwrap().kind,
            FrameKind::KeepAlive
        );
    }
}

#[tokio::test]
async fn nothing_is_left_after_shutdown() {
    let mut cluster = Cluster::new(3, 2);
    cluster
        .reduce(operation(1, 0), sum(100_000, DataType::F64), true)
        .await;
    for plane in &cluster.planes {
        plane.shutdown();
        while Arc::strong_count(plane) > 1 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_not_begun() {
    let cluster = Cluster::unconnected(2);
    let plane = &cluster.planes[0];
    let spec = |count, ring: &[u64]| OperationSpec {
        descriptor: sum(count, DataType::F32),
        rank: Rank(0),
        ring: ring.iter().copied().map(PeerId).collect(),
        buffers: Memory::new(vec![0; 8]).lend_in_place(),
    };
    let id = operation(1, 0);
    let wrong_length = plane.begin(id, spec(3, &[0, 1]));
    assert_eq!(
        wrong_length,
        Err(BeginError::BufferLength {
            found: 8,
            expected: 12
        })
    );
    assert!(matches!(
        plane.begin(id, spec(2, &[0])),
        Err(BeginError::Ring { .. })
    ));
    assert_eq!(plane.begin(id, spec(2, &[0, 1])), Ok(()));
    assert_eq!(
        plane.begin(id, spec(2, &[0, 1])),
        Err(BeginError::AlreadyBegun)
    );
}

/// A frame of zeros without a descriptor's digest.
fn data_frame(operation: OperationId, len: usize) -> Vec<u8> {
    data_frame_at(operation, 0, len)
}

fn data_frame_at(operation: OperationId, segment: u32, len: usize) -> Vec<u8> {
    let bare = FrameHeader::bare(FrameKind::Data, 0);
    let header = FrameHeader {
        operation,
        segment,
        len: len as u32,
        ..bare
    };
    [&header.encode()[..], &vec![0; len], &TRAILER_WHOLE].concat()
}

/// The buffers of all ranks for one operation.
struct Call {
    descriptor: Descriptor,
    inputs: Vec<Vec<u8>>,
    /// In place: input and output. Otherwise the input.
    memory: Vec<Memory>,
    outputs: Option<Vec<Memory>>,
    /// Held by each operation's owner as well.
    witness: Vec<Arc<()>>,
}

impl Call {
    fn new(world_size: usize, descriptor: Descriptor, in_place: bool) -> Call {
        let len = descriptor.len_bytes() as usize;
        let inputs: Vec<Vec<u8>> = (0..world_size)
            .map(|rank| {
                let mut state = rank as u32 * 77 + 1;
                let mut next = || {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                };
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
        }
    }

    fn spec(&self, rank: usize) -> OperationSpec {
        let output = self
            .outputs
            .as_ref()
            .map_or(&self.memory[rank], |outputs| &outputs[rank]);
        OperationSpec {
            descriptor: self.descriptor,
            rank: Rank(rank as u32),
            ring: (0..self.inputs.len() as u64).map(PeerId).collect(),
            buffers: self.memory[rank].lend_to(output, self.witness[rank].clone()),
        }
    }

    fn output(&self, rank: usize) -> Vec<u8> {
        self.outputs.as_ref().unwrap_or(&self.memory)[rank].bytes()
    }

    /// What every rank ends with: chunk `c` combined in the order `c, c+1, ...`.
    fn expected(&self) -> Vec<u8> {
        let (
            world_size,
            Descriptor {
                count,
                data_type,
                op,
            },
        ) = (self.inputs.len(), self.descriptor);
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
struct Cluster {
    planes: Vec<Arc<DataPlane>>,
    events: Vec<UnboundedReceiver<PlaneEvent>>,
    seen_closed: Vec<(PeerId, u16, usize)>,
}

impl Cluster {
    fn new(world_size: usize, lanes: u16) -> Cluster {
        let cluster = Cluster::unconnected(world_size);
        let links = if world_size == 2 { 1 } else { world_size };
        for index in 0..links {
            (0..lanes).for_each(|lane| cluster.connect_with(index, lane, [usize::MAX; 2]));
        }
        cluster
    }

    fn unconnected(world_size: usize) -> Cluster {
        Cluster::unconnected_in(world_size, Some(EPOCH))
    }

    fn unconnected_in(world_size: usize, epoch: Option<Epoch>) -> Cluster {
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
            seen_closed: Vec::new(),
        }
    }

    /// Joins rank `index` to the next one; each direction breaks after so many bytes.
    fn connect_with(&self, index: usize, lane: u16, fuses: [usize; 2]) {
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

    /// Lane 99 from the next rank to `rank`, in the test's hands.
    fn raw_lane(&self, rank: usize) -> DuplexStream {
        let next = (rank + 1) % self.planes.len();
        let (here, there) = duplex(1 << 20);
        let (reader, writer) = split(here);
        self.planes[rank].add_lane(PeerId(next as u64), 99, reader, writer);
        there
    }

    fn begin(&self, rank: usize, id: OperationId, call: &Call) {
        self.planes[rank].begin(id, call.spec(rank)).unwrap();
    }

    /// Runs an operation at all ranks and checks its result.
    async fn reduce(
        &mut self,
        id: OperationId,
        descriptor: Descriptor,
        in_place: bool,
    ) -> Vec<Traffic> {
        let call = Call::new(self.planes.len(), descriptor, in_place);
        (0..self.planes.len()).for_each(|rank| self.begin(rank, id, &call));
        self.finished().await;
        self.end(id, &call).await
    }

    async fn end(&self, id: OperationId, call: &Call) -> Vec<Traffic> {
        let expected = call.expected();
        let mut traffic = Vec::new();
        for (rank, plane) in self.planes.iter().enumerate() {
            traffic.push(plane.end(id, Disposition::Keep).await);
            assert_eq!(Arc::strong_count(&call.witness[rank]), 1);
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
    async fn finished(&mut self) {
        for rank in 0..self.planes.len() {
            loop {
                match self.event(rank).await {
                    PlaneEvent::Finished { .. } => break,
                    PlaneEvent::LinkUp { .. } => {}
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

    async fn lane_closed(&mut self, rank: usize) -> (u16, usize) {
        loop {
            if let PlaneEvent::LaneClosed {
                lane, lanes_left, ..
            } = self.event(rank).await
            {
                return (lane, lanes_left);
            }
        }
    }

    /// A bound for the test alone: what hangs fails.
    async fn event(&mut self, rank: usize) -> PlaneEvent {
        let event = timeout(Duration::from_secs(20), self.events[rank].recv()).await;
        event.expect("an event").expect("a plane")
    }

    fn closed(&mut self) -> Vec<(PeerId, u16, usize)> {
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

    fn expect_no_lane_closed(&mut self) {
        assert_eq!(self.closed(), []);
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.planes.iter().for_each(|plane| plane.shutdown());
    }
}

/// A writer that breaks after so many bytes.
struct Fuse<W> {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn lanes_that_break_all_the_time_change_no_bit() {
    let mut state = 12345u64;
    let mut random = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) as usize % below
    };
    for world_size in [2, 3] {
        let mut cluster = Cluster::unconnected(world_size);
        let links = if world_size == 2 { 1 } else { world_size };
        for index in 0..links {
            (0..2).for_each(|lane| cluster.connect_with(index, lane, [random(2_000_000), 900_000]));
        }
        for n in 0..40 {
            let id = operation(7, n);
            let count = [600_000, 10, 70_000, 1][n as usize % 4];
            let call = Call::new(world_size, sum(count, DataType::F32), n % 8 < 4);
            (0..world_size).for_each(|rank| cluster.begin(rank, id, &call));
            for rank in 0..world_size {
                loop {
                    match cluster.event(rank).await {
                        PlaneEvent::Finished { op } => {
                            assert_eq!(op, id);
                            break;
                        }
                        PlaneEvent::LaneClosed { peer, lane, .. } => {
                            // The link belongs to the rank before the other, around the ring.
                            let next = (rank + 1) % world_size;
                            let index = match peer.0 as usize {
                                _ if world_size == 2 => 0,
                                peer if peer == next => rank,
                                peer => peer,
                            };
                            let fuses = [200 + random(2_000_000), 200 + random(2_000_000)];
                            cluster.connect_with(index, lane, fuses);
                        }
                        PlaneEvent::LinkUp { .. } => {}
                    }
                }
            }
            if n % 5 == 4 {
                for (rank, plane) in cluster.planes.iter().enumerate() {
                    plane.end(id, Disposition::RollBack).await;
                    assert!(call.memory[rank].bytes() == call.inputs[rank]);
                }
            } else {
                cluster.end(id, &call).await;
            }
        }
    }
}
