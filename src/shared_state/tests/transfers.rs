//! Both transfer machines against each other in memory, cut anywhere; refusals; garbage.

use proptest::prelude::*;

use crate::shared_state::transfer::{
    Holder, HolderStep, Offer, Receiver, ReceiverStep, TransferError,
};
use crate::wire::state::{AnswerHeader, DecodeError, RequestHeader, Status, encode_request};

const ROUND: u64 = 42;

#[test]
fn tensors_arrive_byte_by_byte() {
    let tensors = tensors(&[3, 0, 70, 1]);
    let (receiver, holder, got) = transfer(&tensors, &[0, 1, 3], || 1).unwrap();
    assert_eq!(got[0], tensors[0]);
    assert_eq!(got[3], tensors[3]);
    assert!(got[2].iter().all(|&byte| byte == 0), "was not asked for");
    assert_eq!((receiver.received_bytes(), holder.sent_bytes()), (4, 4));
    assert_eq!(receiver.begun().collect::<Vec<_>>(), [0, 1, 3]);
    assert_eq!(receiver.complete().collect::<Vec<_>>(), [0, 1, 3]);
}

#[test]
fn a_receiver_of_nothing_is_done_at_once() {
    let receiver = Receiver::new(ROUND, Vec::new()).unwrap();
    assert_eq!(receiver.step(), ReceiverStep::Done);
}

#[test]
fn wanted_tensors_must_be_ascending_and_small_in_number() {
    let order = Receiver::new(ROUND, vec![(2, 1), (1, 1)]).unwrap_err();
    assert_eq!(order, DecodeError::Order { index: 1 }.into());
    let many = (0..70_000).map(|index| (index, 1)).collect();
    let count = Receiver::new(ROUND, many).unwrap_err();
    assert_eq!(count, DecodeError::Count { count: 70_000 }.into());
}

#[test]
fn a_holder_says_why_it_does_not_serve() {
    let offer = |round, tensors| Offer {
        round,
        lens: vec![8; tensors],
    };
    let cases = [
        (None, Status::NotDistributing, 0, 0),
        (Some(offer(ROUND + 1, 9)), Status::OtherRound, 0, ROUND + 1),
        (Some(offer(ROUND, 2)), Status::UnknownIndex, 2, ROUND),
    ];
    for (offer, status, index, round) in cases {
        let mut receiver = Receiver::new(ROUND, vec![(0, 8), (2, 8)]).unwrap();
        let mut holder = requested_by(&mut receiver);
        assert_eq!(holder.step(), HolderStep::Request { round: ROUND });
        holder.answer(offer.as_ref()).unwrap();
        let error = loop {
            match holder.step() {
                HolderStep::WriteHeader(bytes) => {
                    let (bytes, n) = (bytes.to_vec(), bytes.len() as u64);
                    holder.wrote(n).unwrap();
                    if let Err(error) = receiver.feed_header(&bytes) {
                        break error;
                    }
                }
                HolderStep::WriteTensor { len, .. } => {
                    holder.wrote(len).unwrap();
                    receiver.received(len).unwrap();
                }
                step => panic!("{step:?}"),
            }
        };
        assert_eq!(
            error,
            TransferError::Refused {
                status,
                index,
                round
            }
        );
        assert_eq!(receiver.step(), ReceiverStep::Failed);
        assert_eq!(
            holder.step(),
            HolderStep::Done,
            "a refusal is the last it sends"
        );
    }
}

#[test]
fn an_answer_that_is_not_the_elected_tensor_fails_before_its_bytes_are_read() {
    let right = AnswerHeader {
        status: Status::Data,
        round: ROUND,
        index: 0,
        len: 8,
    };
    let out_of_turn = |found, found_round| TransferError::OutOfTurn {
        wanted: 0,
        round: ROUND,
        found,
        found_round,
    };
    let cases = [
        (AnswerHeader { index: 1, ..right }, out_of_turn(1, ROUND)),
        (AnswerHeader { round: 7, ..right }, out_of_turn(0, 7)),
        (
            AnswerHeader {
                len: u64::MAX,
                ..right
            },
            TransferError::Length {
                index: 0,
                wanted: 8,
                found: u64::MAX,
            },
        ),
    ];
    for (header, wanted) in cases {
        let mut receiver = Receiver::new(ROUND, vec![(0, 8)]).unwrap();
        requested_by(&mut receiver);
        assert_eq!(receiver.feed_header(&header.encode()), Err(wanted));
        assert_eq!(receiver.step(), ReceiverStep::Failed);
        assert_eq!(receiver.begun().count(), 0, "nothing is tainted");
    }
}

#[test]
fn a_transfer_that_breaks_says_what_is_tainted_and_what_is_whole() {
    let mut receiver = Receiver::new(ROUND, vec![(1, 8), (4, 8), (5, 8)]).unwrap();
    requested_by(&mut receiver);
    for (index, n) in [(1, 8), (4, 3)] {
        let header = AnswerHeader {
            status: Status::Data,
            round: ROUND,
            index,
            len: 8,
        };
        receiver.feed_header(&header.encode()).unwrap();
        receiver.received(n).unwrap();
    }
    assert_eq!(receiver.complete().collect::<Vec<_>>(), [1]);
    assert_eq!(receiver.begun().collect::<Vec<_>>(), [1, 4]);
    assert_eq!(receiver.remaining(), [(4, 8), (5, 8)]);
    let rest = ReceiverStep::ReadTensor {
        index: 4,
        offset: 3,
        len: 5,
    };
    assert_eq!(receiver.step(), rest);
}

#[test]
fn a_huge_count_takes_no_memory_and_ends_the_connection() {
    let mut holder = Holder::new();
    let count = u32::MAX;
    let error = holder
        .feed(&RequestHeader { round: 1, count }.encode())
        .unwrap_err();
    assert_eq!(error, DecodeError::Count { count }.into());
    assert_eq!(holder.step(), HolderStep::Failed);
}

#[test]
fn more_than_a_step_asks_for_is_an_error() {
    let mut receiver = Receiver::new(ROUND, vec![(0, 8)]).unwrap();
    assert!(receiver.clone().wrote(1000).is_err());
    assert!(receiver.clone().received(0).is_err());
    assert!(receiver.feed_header(&[0]).is_err());

    let mut holder = Holder::new();
    assert!(holder.clone().feed(&[0; 25]).is_err());
    assert!(holder.clone().answer(None).is_err());
    assert!(holder.wrote(0).is_err());
    assert_eq!(holder.step(), HolderStep::Failed);
}

proptest! {
    #[test]
    fn tensors_arrive_however_the_stream_is_cut(
        lens in proptest::collection::vec(0usize..100, 1..6),
        mask: u8,
        cuts in proptest::collection::vec(1usize..60, 1..20),
    ) {
        let tensors = tensors(&lens);
        let wanted: Vec<usize> = (0..lens.len()).filter(|i| mask & (1 << i) != 0).collect();
        let mut cuts = cuts.into_iter().cycle();
        let (receiver, holder, got) = transfer(&tensors, &wanted, || cuts.next().unwrap()).unwrap();
        for &index in &wanted {
            prop_assert_eq!(&got[index], &tensors[index]);
        }
        let bytes: usize = wanted.iter().map(|&index| lens[index]).sum();
        prop_assert_eq!(receiver.received_bytes(), bytes as u64);
        prop_assert_eq!(holder.sent_bytes(), bytes as u64);
    }

    #[test]
    fn garbage_fails_both_machines_and_never_panics(
        garbage: Vec<u8>,
        keep in 0usize..60,
        cut in 1usize..20,
    ) {
        // A prefix of the truth leads deeper into the machine.
        let mut request = encode_request(ROUND, &[0, 1, 5]).unwrap();
        request.truncate(keep);
        request.extend_from_slice(&garbage);
        let mut holder = Holder::new();
        for piece in request.chunks(cut) {
            let HolderStep::Read { len } = holder.step() else { break };
            if holder.feed(&piece[..len.min(piece.len())]).is_err() {
                prop_assert_eq!(holder.step(), HolderStep::Failed);
            }
        }

        let header = AnswerHeader { status: Status::Data, round: ROUND, index: 0, len: 4 };
        let mut answer = header.encode().to_vec();
        answer.extend_from_slice(b"four");
        answer.truncate(keep);
        answer.extend_from_slice(&garbage);
        let mut receiver = Receiver::new(ROUND, vec![(0, 4), (1, 4)]).unwrap();
        requested_by(&mut receiver);
        for piece in answer.chunks(cut) {
            match receiver.step() {
                ReceiverStep::ReadHeader { len } => {
                    let _ = receiver.feed_header(&piece[..len.min(piece.len())]);
                }
                ReceiverStep::ReadTensor { len, .. } => {
                    receiver.received(len.min(piece.len() as u64)).unwrap();
                }
                _ => break,
            }
        }
        prop_assert_ne!(receiver.step(), ReceiverStep::Done);
    }
}

/// Runs a whole transfer over two queues; each step moves at most `cut()` bytes. `Err` carries the
/// receiver's error.
fn transfer(
    tensors: &[Vec<u8>],
    wanted: &[usize],
    mut cut: impl FnMut() -> usize,
) -> Result<(Receiver, Holder, Vec<Vec<u8>>), TransferError> {
    let lens: Vec<u64> = tensors.iter().map(|t| t.len() as u64).collect();
    let wanted = wanted.iter().map(|&index| (index, lens[index])).collect();
    let mut receiver = Receiver::new(ROUND, wanted)?;
    let mut holder = Holder::new();
    let offer = Offer { round: ROUND, lens };
    let mut got: Vec<Vec<u8>> = tensors.iter().map(|t| vec![0; t.len()]).collect();
    let (mut up, mut down) = (Vec::new(), Vec::new());
    loop {
        match receiver.step() {
            ReceiverStep::WriteRequest(bytes) => {
                let n = cut().min(bytes.len());
                up.extend_from_slice(&bytes[..n]);
                receiver.wrote(n)?;
            }
            ReceiverStep::ReadHeader { len } => {
                let n = cut().min(len).min(down.len());
                receiver.feed_header(&take(&mut down, n))?;
            }
            ReceiverStep::ReadTensor { index, offset, len } => {
                let n = cut().min(len as usize).min(down.len());
                let at = offset as usize;
                got[index][at..at + n].copy_from_slice(&take(&mut down, n));
                receiver.received(n as u64)?;
            }
            ReceiverStep::Done => break,
            ReceiverStep::Failed => unreachable!("the error was returned before"),
        }
        match holder.step() {
            HolderStep::Read { len } => {
                let n = cut().min(len).min(up.len());
                holder.feed(&take(&mut up, n))?;
            }
            HolderStep::Request { round } => {
                assert_eq!(round, ROUND);
                holder.answer(Some(&offer))?;
            }
            HolderStep::WriteHeader(bytes) => {
                let n = cut().min(bytes.len());
                down.extend_from_slice(&bytes[..n]);
                holder.wrote(n as u64)?;
            }
            HolderStep::WriteTensor { index, offset, len } => {
                let n = cut().min(len as usize);
                let at = offset as usize;
                down.extend_from_slice(&tensors[index][at..at + n]);
                holder.wrote(n as u64)?;
            }
            HolderStep::Done => {}
            HolderStep::Failed => unreachable!("the error was returned before"),
        }
    }
    assert!(up.is_empty() && down.is_empty(), "nothing is left over");
    Ok((receiver, holder, got))
}

fn take(queue: &mut Vec<u8>, n: usize) -> Vec<u8> {
    queue.drain(..n).collect()
}

/// A holder that has read the whole request of this receiver.
fn requested_by(receiver: &mut Receiver) -> Holder {
    let mut holder = Holder::new();
    while let ReceiverStep::WriteRequest(bytes) = receiver.step() {
        let HolderStep::Read { len } = holder.step() else {
            panic!("the holder wants less than the receiver sends");
        };
        let piece = bytes[..len.min(bytes.len())].to_vec();
        holder.feed(&piece).unwrap();
        receiver.wrote(piece.len()).unwrap();
    }
    holder
}

fn tensors(lens: &[usize]) -> Vec<Vec<u8>> {
    lens.iter()
        .zip(1u8..)
        .map(|(&len, seed)| {
            (0..len)
                .map(|i| (i as u8).wrapping_mul(seed).wrapping_add(seed))
                .collect()
        })
        .collect()
}
