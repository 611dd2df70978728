//! Control connections over wires of any pace, cut and garbled at every byte. Time is virtual.

use std::time::Duration;

use tokio::time::sleep;

use super::*;
use crate::datapath::tests::pipe::*;
use crate::types::PeerId;
use crate::wire::control::ToMaster;

type Came = mpsc::UnboundedReceiver<FromControl<ToMaster>>;

/// The end that listens; nothing is said from there.
fn listener(stream: Stream) -> (ControlWriter, Came) {
    let (sender, came) = mpsc::unbounded_channel();
    let writer = ControlWriter::spawn(stream, move |event| {
        let is_wanted = sender.send(event).is_ok();
        async move { is_wanted }
    });
    (writer, came)
}

fn speaker(stream: Stream) -> ControlWriter {
    ControlWriter::spawn(stream, |_: FromControl<ToMaster>| async { true })
}

/// A message that is as long as it is told to be.
fn frame(sequence: u64, len: usize) -> Frame<ToMaster> {
    Frame {
        sequence,
        acknowledged: 3,
        message: ToMaster::SyncFailed {
            round: sequence,
            holder: PeerId(7),
            reason: "x".repeat(len),
        },
    }
}

/// All messages that came, and how often the end was told.
async fn all(came: &mut Came) -> (Vec<Frame<ToMaster>>, Vec<String>) {
    sleep(Duration::from_secs(1_000)).await;
    let (mut frames, mut ends) = (Vec::new(), Vec::new());
    while let Ok(event) = came.try_recv() {
        match event {
            FromControl::Frame(frame) => {
                assert!(ends.is_empty(), "nothing comes after the end");
                frames.push(frame);
            }
            FromControl::Closed(reason) => ends.push(reason),
        }
    }
    (frames, ends)
}

#[tokio::test(start_paused = true)]
async fn messages_come_whole_and_in_order_however_the_bytes_are_cut() {
    for seed in 0..50 {
        let random = &mut Random::new(seed);
        let way = Way::random(seed + 100, 1 + random.below(400), random.below(5));
        let (_wire, [here, there]) = streams([way, SOUND]);
        let (speaker, (_listener, mut came)) = (speaker(here), listener(there));
        let sent: Vec<_> = (0..30)
            .map(|sequence| frame(sequence, random.below(2_000)))
            .collect();
        for frame in &sent {
            speaker.send(frame);
            sleep(Duration::from_millis(random.below(3) as u64)).await;
        }
        // What is queued goes out before the connection closes.
        speaker.close();
        let (frames, ends) = all(&mut came).await;
        assert!(frames == sent, "seed {seed}");
        assert_eq!(ends, ["closed by the other side"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_cut_at_any_byte_brings_whole_messages_and_one_end() {
    let sent = [frame(1, 9), frame(2, 30)];
    let lens = sent.each_ref().map(|frame| frame.encode().len() + 8);
    for after in 0..=lens[0] + lens[1] {
        for how in [How::Reset, How::Eof] {
            let cut = Some(Cut {
                after,
                how,
                loses: false,
            });
            let (_wire, [here, there]) = streams([Way { cut, ..SOUND }, SOUND]);
            let (speaker, (_listener, mut came)) = (speaker(here), listener(there));
            sent.iter().for_each(|frame| speaker.send(frame));
            let (frames, ends) = all(&mut came).await;
            let whole = usize::from(after >= lens[0]) + usize::from(after >= lens[0] + lens[1]);
            assert_eq!(frames, sent[..whole], "{how:?} after {after}");
            assert_eq!(ends.len(), 1, "{how:?} after {after}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_comes_altered_whatever_bit_is_flipped() {
    let bytes = FrameHeader::frame(&frame(1, 20).encode());
    for bit in 0..bytes.len() * 8 {
        let (_wire, [here, there]) = streams([SOUND; 2]);
        let (_listener, mut came) = listener(there);
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let (_reader, mut writer) = here.into_split();
        writer.write_all(&flipped).await.unwrap();
        drop(writer);
        let (frames, ends) = all(&mut came).await;
        assert_eq!((frames.len(), ends.len()), (0, 1), "bit {bit}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_says_nothing_long_until_it_is_trusted() {
    let long = frame(1, STRANGER_FRAME_BYTES_MAX + 1);
    for is_trusted in [false, true] {
        let (_wire, [here, there]) = streams([SOUND; 2]);
        let (speaker, (listener, mut came)) = (speaker(here), listener(there));
        if is_trusted {
            listener.trust();
        }
        speaker.send(&long);
        let (frames, ends) = all(&mut came).await;
        assert_eq!(frames.len(), usize::from(is_trusted));
        let is_refused = ends
            .iter()
            .any(|end| end.contains("before it was accepted"));
        assert_eq!(is_refused, !is_trusted);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_read_before_a_message_is_dealt_with() {
    let (wire, [here, there]) = streams([
        Way {
            room: 4_000,
            ..SOUND
        },
        SOUND,
    ]);
    let speaker = speaker(here);
    let (sender, mut came) = mpsc::unbounded_channel();
    let _listener = ControlWriter::spawn(there, move |event| {
        let is_frame = matches!(event, FromControl::Frame::<ToMaster>(_));
        sender.send(event).ok();
        async move {
            sleep(Duration::from_secs(60)).await;
            is_frame
        }
    });
    (0..20).for_each(|sequence| speaker.send(&frame(sequence, 3_000)));
    sleep(Duration::from_secs(30)).await;
    assert!(came.try_recv().is_ok() && came.try_recv().is_err());
    let written = wire.written(0);
    assert!(written <= 4_000 + 3_100, "{written}");
    let (frames, _) = all(&mut came).await;
    assert_eq!(frames.len(), 17, "one a minute");
}
