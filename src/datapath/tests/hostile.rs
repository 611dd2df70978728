//! Frames that are late, wrong or hostile, beside an honest lane to the same peer: dropped by number
//! or answered with a closed lane, and the operation comes to its exact end.

use super::*;

/// What becomes of a lane that brings a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stays,
    /// With a reason that has these words.
    Closes(&'static str),
}
use Fate::{Closes, Stays};

/// How far the operation is at the rank that the frame comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Begun,
    Applied,
    Ended,
}

const LEN: usize = 10;

/// A whole frame that rank 0 awaits from rank 1, with bytes that nobody sent.
fn awaited(call: &Call, id: OperationId) -> Vec<u8> {
    segment_frame(call, id, 0, LEN, 0xBA)
}

/// The awaited frame with another header.
fn altered(call: &Call, id: OperationId, alter: impl FnOnce(&mut FrameHeader)) -> Vec<u8> {
    let frame = awaited(call, id);
    let mut header = FrameHeader::decode(frame.first_chunk().unwrap()).unwrap();
    alter(&mut header);
    let payload = vec![0xBA; header.len as usize];
    [&header.encode()[..], &payload, &TRAILER_WHOLE].concat()
}

/// The awaited frame with other bytes in its header; the checksum fits if it is to.
fn garbled(call: &Call, id: OperationId, at: usize, byte: u8, is_mended: bool) -> Vec<u8> {
    let mut frame = awaited(call, id);
    frame[at] = byte;
    if is_mended {
        let checksum = crc32fast::hash(&frame[..56]);
        frame[56..60].copy_from_slice(&checksum.to_le_bytes());
    }
    frame
}

fn with_trailer(mut frame: Vec<u8>, trailer: [u8; 4]) -> Vec<u8> {
    let len = frame.len();
    frame[len - 4..].copy_from_slice(&trailer);
    frame
}

/// Brings a frame to rank 0, at some time of an operation, and sees that all ends well.
async fn bring(frame: impl Fn(&Call, OperationId) -> Vec<u8>, when: When, fate: Fate, goes: bool) {
    let mut cluster = Cluster::unconnected(2);
    cluster.join(0, 0, [SOUND; 2]);
    let mut stream = cluster.raw_lane(0, 99);
    let call = Call::new(2, sum(2 * LEN as u64, DataType::U8), when == When::Applied);
    let id = operation(1, 1);
    cluster.planes[0].note_settled(Tag(1), 0);
    cluster.begin(0, id, &call);
    if when != When::Begun {
        cluster.begin(1, id, &call);
        cluster.finished().await;
    }
    if when == When::Ended {
        cluster.end(id, &call).await;
        (0..2).for_each(|rank| call.scribble(rank));
    }
    let bytes = frame(&call, id);
    // The lane may be closed before all was written.
    stream.write_all(&bytes).await.ok();
    sleep(Duration::from_millis(100)).await;
    let has_lane = cluster.planes[0].has_lane(PeerId(1), 99);
    assert_eq!(has_lane, fate == Stays, "{when:?}: {fate:?}");
    if let Closes(words) = fate {
        let (lane, reason) = cluster.told_closed(0).unwrap();
        assert!(lane == 99 && reason.contains(words), "{reason}");
    }
    if goes {
        drop(stream);
        sleep(Duration::from_millis(100)).await;
    }
    if when == When::Begun {
        cluster.begin(1, id, &call);
        cluster.all_finished(id).await;
    }
    if when == When::Ended {
        assert!((0..2).all(|rank| call.is_scribble(rank)));
    } else {
        let traffic = cluster.end(id, &call).await;
        // Two frames, each with a header and a trailer.
        assert_eq!(traffic[0].rx_bytes, 2 * (LEN as u64 + 64), "nothing twice");
    }
    cluster
        .reduce(operation(1, 2), sum(9, DataType::F32), true)
        .await;
}

#[tokio::test(start_paused = true)]
async fn frames_of_old_numbers_are_dropped_whatever_else_they_say() {
    for when in [When::Begun, When::Applied, When::Ended] {
        for (step, segment, len) in [(0, 0, 10), (0, 0, 70_000), (9, 0, 10), (0, 9, 1)] {
            let old = |header: &mut FrameHeader| {
                (header.step, header.segment, header.len) = (step, segment, len);
            };
            let old_epoch = |call: &Call, id| {
                altered(call, id, |header| {
                    old(header);
                    header.operation.epoch.count -= 1;
                })
            };
            let settled = |call: &Call, id| {
                altered(call, id, |header| {
                    old(header);
                    header.operation.n -= 1;
                })
            };
            bring(old_epoch, when, Stays, false).await;
            bring(settled, when, Stays, false).await;
        }
    }
    let ended = |call: &Call, id| altered(call, id, |header| header.step = 9);
    bring(ended, When::Ended, Stays, false).await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_are_no_part_of_their_operation_close_their_lane() {
    for when in [When::Begun, When::Applied] {
        let step = |call: &Call, id| altered(call, id, |header| header.step = 2);
        bring(step, when, Closes("no step 2 comes from"), false).await;
        let segment = |call: &Call, id| altered(call, id, |header| header.segment = 1);
        bring(segment, when, Closes("has no segment 1"), false).await;
        for len in [1, 9, 11, 1 << 20] {
            let len = |call: &Call, id| altered(call, id, |header| header.len = len);
            bring(len, when, Closes("has 10 bytes, not"), false).await;
        }
        let digest = |call: &Call, id| altered(call, id, |header| header.digest ^= 1);
        bring(digest, when, Stays, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_applied_is_not_applied_again() {
    let both = |call: &Call, id| {
        let frame = |step| segment_frame(call, id, step, LEN, 0xBA);
        [frame(0), frame(1), frame(0)].concat()
    };
    for when in [When::Applied, When::Ended] {
        bring(both, when, Stays, false).await;
        bring(awaited, when, Stays, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_is_not_whole_is_waited_for_again() {
    let spoiled = |call: &Call, id| with_trailer(awaited(call, id), TRAILER_SPOILED);
    bring(spoiled, When::Begun, Stays, false).await;
    let twice = |call: &Call, id| [spoiled(call, id), spoiled(call, id)].concat();
    bring(twice, When::Begun, Stays, true).await;
    let bad = |call: &Call, id| with_trailer(awaited(call, id), *b"whom");
    for when in [When::Begun, When::Applied, When::Ended] {
        bring(bad, when, Closes("trailer"), false).await;
    }
    for len in 0..64 + LEN {
        let part = |call: &Call, id| awaited(call, id)[..len].to_vec();
        bring(part, When::Begun, Stays, true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_not_a_header_close_their_lane() {
    for when in [When::Begun, When::Applied, When::Ended] {
        for (at, byte, is_mended, words) in [
            (0, 0, true, "not a lane frame"),
            (4, 9, true, "lane version 9"),
            (5, 0, true, "frame kind 0"),
            (5, 5, true, "frame kind 5"),
            (5, 2, true, "payload of"),
            (5, 4, true, "payload of"),
            (32, 0, true, "payload of 0"),
            (35, 1, true, "payload of"),
            (36, 1, true, "frame flags"),
            (48, 1, true, "acknowledges 1 frames of 0"),
            (55, 255, true, "acknowledges"),
            (56, 0, false, "checksum"),
            (8, 0, false, "checksum"),
        ] {
            let frame = |call: &Call, id| garbled(call, id, at, byte, is_mended);
            bring(frame, when, Closes(words), false).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn grants_that_nobody_owes_do_no_harm() {
    for when in [When::Begun, When::Applied, When::Ended] {
        let grants = |_: &Call, id: OperationId| {
            let mut bytes = Vec::new();
            for n in [0, 1, 1, 7] {
                let header = FrameHeader {
                    operation: OperationId { n, ..id },
                    ..FrameHeader::bare(FrameKind::Grant, 0)
                };
                bytes.extend(header.encode());
            }
            bytes
        };
        bring(grants, when, Stays, false).await;
    }
}

#[tokio::test(start_paused = true)]
async fn early_frames_that_turn_out_wrong_are_dropped_when_their_operation_begins() {
    let mut cluster = Cluster::unconnected(2);
    cluster.join(0, 0, [SOUND; 2]);
    let mut stream = cluster.raw_lane(0, 99);
    let call = Call::new(2, sum(2 * LEN as u64, DataType::U8), true);
    let id = operation(1, 0);
    let mut wrong = Vec::new();
    wrong.extend(altered(&call, id, |header| header.step = 2));
    wrong.extend(altered(&call, id, |header| header.segment = 1));
    wrong.extend(altered(&call, id, |header| {
        (header.segment, header.digest) = (2, 0);
    }));
    wrong.extend(altered(&call, id, |header| {
        (header.segment, header.len) = (3, 70_000);
    }));
    stream.write_all(&wrong).await.unwrap();
    sleep(Duration::from_millis(100)).await;
    assert_eq!(cluster.planes[0].early_bytes(), 3 * LEN + 70_000);
    (0..2).for_each(|rank| cluster.begin(rank, id, &call));
    cluster.finished().await;
    cluster.end(id, &call).await;
    assert_eq!(cluster.planes[0].early_bytes(), 0);
    cluster.expect_no_lane_closed();
}
