//! Lanes that carry nothing any more without being closed, and lanes that are merely slow.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex, split};
use tokio::time::{Instant, Sleep, sleep};

use super::*;
use crate::datapath::STALL_TIMEOUT;

/// What a middlebox does to the lanes that pass it.
#[derive(Clone, Default)]
struct Wire {
    is_cut: Arc<AtomicBool>,
    /// Between two pieces of `PIECE_BYTES`.
    pause: Duration,
}

const PIECE_BYTES: usize = 1000;

impl Wire {
    fn slow(pause: Duration) -> Wire {
        Wire {
            pause,
            ..Wire::default()
        }
    }

    /// From now on it swallows everything.
    fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    fn join(&self, cluster: &Cluster, index: usize, lane: u16) {
        let next = (index + 1) % cluster.planes.len();
        let (here, there) = duplex(64 * 1024);
        for (from, to, stream) in [(index, next, here), (next, index, there)] {
            let wired = Wired {
                stream,
                wire: self.clone(),
                pause: Box::pin(sleep(Duration::ZERO)),
            };
            let (reader, writer) = split(wired);
            cluster.planes[from].add_lane(PeerId(to as u64), lane, reader, writer);
        }
    }
}

/// One end of a stream through a wire: what it reads is late, or never comes.
struct Wired {
    stream: DuplexStream,
    wire: Wire,
    pause: Pin<Box<Sleep>>,
}

impl AsyncRead for Wired {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.wire.is_cut.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        ready!(self.pause.as_mut().poll(context));
        let mut piece = vec![0; buffer.remaining().min(PIECE_BYTES)];
        let mut piece = ReadBuf::new(&mut piece);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut piece))?;
        buffer.put_slice(piece.filled());
        if !self.wire.pause.is_zero() {
            let until = Instant::now() + self.wire.pause;
            self.pause.as_mut().reset(until);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wired {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.wire.is_cut.load(Ordering::Relaxed) {
            // As a kernel does for a while.
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Joins both ends of every lane that one of them gives up, until both have finished.
async fn finish_with_mended_lanes(cluster: &mut Cluster, wire: &Wire) -> Vec<LaneEnd> {
    let (mut finished, mut ends) = (0, Vec::new());
    while finished < cluster.planes.len() {
        match cluster.any_event().await {
            (_, PlaneEvent::Finished { .. }) => finished += 1,
            (
                rank,
                PlaneEvent::LaneClosed {
                    peer, lane, end, ..
                },
            ) => {
                ends.push(end);
                if !cluster.planes[rank].has_lane(peer, lane) {
                    wire.join(cluster, 0, lane);
                }
            }
        }
    }
    ends
}

#[tokio::test(start_paused = true)]
async fn an_operation_whose_lanes_are_cut_silently_goes_on_over_new_ones() {
    let mut cluster = Cluster::unconnected(2);
    let (broken, sound) = (Wire::slow(Duration::from_millis(1)), Wire::default());
    (0..3).for_each(|lane| broken.join(&cluster, 0, lane));
    let call = Call::new(2, sum(500_000, DataType::F32), true);
    let id = operation(1, 0);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    sleep(Duration::from_millis(300)).await;
    broken.cut();
    let ends = finish_with_mended_lanes(&mut cluster, &sound).await;
    assert!(
        ends.iter().all(|end| matches!(
            end,
            LaneEnd::Stalled {
                unfinished: 1..,
                ..
            }
        )),
        "{ends:?}"
    );
    cluster.end(id, &call).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_stalled_lane_had_goes_to_the_others() {
    let mut cluster = Cluster::unconnected(2);
    let (broken, sound) = (Wire::default(), Wire::default());
    broken.join(&cluster, 0, 0);
    sound.join(&cluster, 0, 1);
    broken.cut();
    cluster
        .reduce(operation(1, 0), sum(500_000, DataType::F32), false)
        .await;
    let closed = cluster.closed();
    assert_eq!(closed.len(), 2, "{closed:?}");
    assert!(
        closed
            .iter()
            .all(|(_, lane, left)| (*lane, *left) == (0, 1))
    );
}

#[tokio::test(start_paused = true)]
async fn an_operation_that_begins_on_lanes_that_died_while_idle_is_rescued() {
    let mut cluster = Cluster::unconnected(2);
    let (broken, sound) = (Wire::default(), Wire::default());
    (0..4).for_each(|lane| broken.join(&cluster, 0, lane));
    cluster
        .reduce(operation(1, 0), sum(1000, DataType::F32), false)
        .await;
    broken.cut();
    for count in [10, 500_000] {
        let call = Call::new(2, sum(count, DataType::F32), false);
        let id = operation(2, u32::from(count == 10));
        (0..2).for_each(|rank| cluster.begin(rank, id, &call));
        finish_with_mended_lanes(&mut cluster, &sound).await;
        cluster.end(id, &call).await;
    }
}

#[tokio::test(start_paused = true)]
async fn idle_lanes_that_were_forgotten_are_noticed_before_they_are_needed() {
    let mut cluster = Cluster::unconnected(2);
    let wire = Wire::default();
    (0..4).for_each(|lane| wire.join(&cluster, 0, lane));
    sleep(10 * KEEP_ALIVE).await;
    cluster.expect_no_lane_closed();
    wire.cut();
    sleep(KEEP_ALIVE + 2 * STALL_TIMEOUT).await;
    assert_eq!(cluster.planes[0].lanes(PeerId(1)), 0);
    assert_eq!(cluster.planes[1].lanes(PeerId(0)), 0);
    let (_, event) = cluster.any_event().await;
    let PlaneEvent::LaneClosed { end, .. } = event else {
        panic!("{event:?}")
    };
    assert!(
        matches!(end, LaneEnd::Stalled { unfinished: 0, .. }),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_lane_is_not_a_stalled_one() {
    let mut cluster = Cluster::unconnected(2);
    // 10 kB/s: a segment takes 25 s, what lies in a buffer 6 s.
    let wire = Wire::slow(Duration::from_millis(100));
    (0..2).for_each(|lane| wire.join(&cluster, 0, lane));
    let call = Call::new(2, sum(500_000, DataType::F32), false);
    let id = operation(1, 0);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    cluster.patience = Duration::from_secs(600);
    cluster.all_finished(id).await;
    cluster.end(id, &call).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test(start_paused = true)]
async fn a_receiver_whose_caller_computes_does_not_stall_its_lanes() {
    let mut cluster = Cluster::new(2, 2);
    let call = Call::new(2, sum(1_000_000, DataType::F32), false);
    let id = operation(1, 0);
    cluster.begin(0, id, &call);
    sleep(Duration::from_secs(600)).await;
    cluster.expect_no_lane_closed();
    cluster.begin(1, id, &call);
    cluster.finished().await;
    cluster.end(id, &call).await;
}

#[tokio::test(start_paused = true)]
async fn a_plane_that_was_away_itself_closes_nothing() {
    let mut cluster = Cluster::new(2, 1);
    let call = Call::new(2, sum(100, DataType::F32), false);
    let id = operation(1, 0);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    // The frames are out, nobody has had a turn to read them, and the clock leaps.
    for _ in 0..3 {
        tokio::time::advance(3 * STALL_TIMEOUT).await;
    }
    cluster.finished().await;
    cluster.end(id, &call).await;
    cluster.expect_no_lane_closed();
}

#[tokio::test(start_paused = true)]
async fn a_silent_lane_is_asked_and_an_ask_is_answered() {
    let cluster = Cluster::unconnected(2);
    let mut stream = cluster.raw_lane(0, 5);
    let mut bytes = [0; 60];
    for _ in 0..3 {
        let asked_after = Instant::now();
        stream.read_exact(&mut bytes).await.unwrap();
        let kind = FrameHeader::decode(&bytes).unwrap().kind;
        assert_eq!(kind, FrameKind::KeepAlive);
        assert!(asked_after.elapsed() >= KEEP_ALIVE - STALL_TIMEOUT);
        let answer = FrameHeader::bare(FrameKind::Ack, 0).encode();
        stream.write_all(&answer).await.unwrap();
    }
    let ask = FrameHeader::bare(FrameKind::KeepAlive, 0).encode();
    stream.write_all(&ask).await.unwrap();
    let asked = Instant::now();
    stream.read_exact(&mut bytes).await.unwrap();
    let kind = FrameHeader::decode(&bytes).unwrap().kind;
    assert_eq!((kind, asked.elapsed()), (FrameKind::Ack, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn silence_is_broken_by_nothing_but_answers() {
    // Answers are not answered, and what the other side acknowledged is owed no more.
    let mut cluster = Cluster::new(2, 2);
    for n in 0..3 {
        cluster
            .reduce(operation(1, n), sum(1000, DataType::F32), false)
            .await;
        sleep(STALL_TIMEOUT).await;
    }
    let before: Vec<u64> = rx_bytes(&cluster);
    sleep(KEEP_ALIVE / 2).await;
    assert_eq!(rx_bytes(&cluster), before);
    cluster.expect_no_lane_closed();
}

fn rx_bytes(cluster: &Cluster) -> Vec<u64> {
    let planes = cluster.planes.iter();
    planes.map(|plane| plane.rx_bytes()).collect()
}

#[tokio::test]
async fn what_ended_a_lane_is_told_by_its_kind() {
    use io::ErrorKind;
    for (kind, is_closed_there) in [
        (ErrorKind::ConnectionReset, true),
        (ErrorKind::BrokenPipe, true),
        (ErrorKind::UnexpectedEof, true),
        (ErrorKind::TimedOut, false),
        (ErrorKind::HostUnreachable, false),
        (ErrorKind::NetworkUnreachable, false),
    ] {
        let mut cluster = Cluster::unconnected(2);
        let (reader, writer) = (Failing(kind), tokio::io::sink());
        cluster.planes[0].add_lane(PeerId(1), 0, reader, writer);
        let PlaneEvent::LaneClosed { end, .. } = cluster.event(0).await else {
            panic!("the lane goes on")
        };
        assert_eq!(
            end == LaneEnd::ClosedThere,
            is_closed_there,
            "{kind}: {end}"
        );
    }
}

/// A stream that the system gives up.
struct Failing(io::ErrorKind);

impl AsyncRead for Failing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(io::Error::from(self.0)))
    }
}
