//! The bookkeeping of one operation at one rank: what is due to be sent, what has arrived.
//!
//! ```text
//! received segment:   awaited --claim--> claimed --arrived--> applied
//!                        ^                  |
//!                        +---- unclaim -----+   its lane broke midway
//! ```
//!
//! A segment is taken whole and once. Until it is applied, nothing changes that a second delivery
//! would read: a claim gives one lane the right to write the segment's place in the output, which
//! is read by nobody before the segment has arrived.
//!
//! Chunks are cut into segments the same way at every rank, from the schedule and the descriptor
//! alone: a segment moves on around the ring while the next is still on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use super::segments::Segment;
use crate::mutation::{Mutation, mutated};
use crate::schedule::{Apply, Schedule, Send, Trigger};
use crate::types::{DataType, Descriptor, Quantization, Rank};

/// The largest segment: large enough to make a frame's cost vanish, small enough to stay in the
/// second-level cache between its reception and its way on.
pub const SEGMENT_BYTES_MAX: usize = 512 * 1024;

/// The largest segment of chunks below [`LARGE_CHUNK_BYTES`]. Over a slow link the last segments of a
/// step are under way alone, one on each lane: they must not be a large part of the whole.
const SEGMENT_BYTES: u64 = 256 * 1024;

/// What frames cost shows from here on: twice the segment takes a twentieth off such an operation on
/// loopback.
const LARGE_CHUNK_BYTES: u64 = 4 << 20;

/// Chunks from this size on are cut into [`SEGMENTS_MIN`] or more.
const CUT_BYTES_MIN: u64 = 64 * 1024;

/// Enough for a ring step to overlap with the next one.
const SEGMENTS_MIN: u64 = 4;

/// A segment that can be sent now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The receiver.
    pub to: Rank,
    /// The hop number of the frame.
    pub step: u16,
    /// Its index in the chunk.
    pub segment: u32,
    /// The bytes of the buffer that it covers.
    pub range: Range<usize>,
    /// How many bytes are sent.
    pub len_bytes: usize,
    /// Where they are.
    pub source: Source,
}

/// Where the bytes of a segment are that is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rank's own contribution.
    Input,
    /// What was received and applied.
    Output,
    /// Encoded, in memory of their own. Whoever sends the rank's own contribution first encodes it.
    Encoded(Encoded),
}

/// The bytes of an encoded segment, once they are there.
pub type Encoded = Arc<OnceLock<Segment>>;

/// The right to receive one segment, held by one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What to do with the bytes.
    pub apply: Apply,
    /// The sender, and the hop number of the frame. Those of what it leads to, where it is the right to
    /// finish what was collected.
    pub frame: (Rank, u16),
    /// Its index in the chunk.
    pub segment: u32,
    /// The bytes of the output that it covers.
    pub range: Range<usize>,
    /// The hop number under which it is sent on, if it is.
    pub next_step: Option<u16>,
    receive: usize,
}

impl Taken {
    /// Where its move stands among those of this rank.
    pub fn position(&self) -> usize {
        self.receive
    }
}

/// What the arrival of a segment brings about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Can be sent now.
    pub due: Vec<Due>,
    /// All that this segment collects is here: the right to finish it, whose arrival is noted next.
    pub collected: Option<Taken>,
}

/// The answer to a frame that arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Receive it.
    Take(Taken),
    /// Another lane is receiving the same segment; it may still break.
    Busy,
    /// It has been applied already.
    Duplicate,
    /// It is not part of this operation; the reason says why.
    Reject(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Progress {
    Awaited,
    Claimed,
    Applied,
}

/// A chunk that is awaited.
#[derive(Debug)]
struct Receive {
    chunk: usize,
    apply: Apply,
    frame: (Rank, u16),
    sends: Vec<Send>,
    segments: Vec<Progress>,
}

/// One operation at one rank.
#[derive(Debug)]
pub struct Run {
    /// In bytes.
    chunks: Vec<Range<u64>>,
    elements: Elements,
    starts: Vec<(usize, Send)>,
    receives: Vec<Receive>,
    by_frame: BTreeMap<(Rank, u16), usize>,
    /// The chunk of each frame whose value is not final, and so is overwritten.
    passing: BTreeMap<(Rank, u16), usize>,
    /// The receive of each chunk's final value.
    stored_by: BTreeMap<usize, usize>,
    /// Of each chunk that this rank collects: the receives, and what finishes it.
    collects: BTreeMap<usize, (Vec<usize>, usize)>,
    segments_left: u64,
}

/// What elements take, in memory and on the wire.
#[derive(Clone, Copy, Debug)]
struct Elements {
    data_type: DataType,
    quantization: Option<Quantization>,
}

impl Elements {
    fn size_bytes(self) -> u64 {
        self.data_type.size_bytes() as u64
    }

    /// What so many bytes of them are on the wire.
    fn wire_bytes(self, len_bytes: u64) -> u64 {
        let Some(quantization) = self.quantization else {
            return len_bytes;
        };
        quantization.encoded_len_bytes(self.data_type, len_bytes / self.size_bytes())
    }

    /// What the segments of a chunk, given in bytes, are on the wire together.
    fn chunk_wire_bytes(self, chunk: &Range<u64>) -> u64 {
        let (elements, count) = (
            len(chunk) / self.size_bytes(),
            self.segment_count(chunk).max(1),
        );
        let (base, longer) = (elements / count, elements % count);
        let segment = |elements: u64| self.wire_bytes(elements * self.size_bytes());
        longer * segment(base + 1) + (count - longer) * segment(base)
    }

    /// Segments of a chunk given in bytes: a function of its size alone.
    fn segment_count(self, chunk: &Range<u64>) -> u64 {
        match len(chunk).max(self.wire_bytes(len(chunk))) {
            0 => 0,
            bytes if bytes < CUT_BYTES_MIN => 1,
            bytes if bytes < LARGE_CHUNK_BYTES => bytes.div_ceil(SEGMENT_BYTES).max(SEGMENTS_MIN),
            bytes => bytes.div_ceil(SEGMENT_BYTES_MAX as u64),
        }
    }
}

impl Run {
    /// The run of `schedule` over the buffer that `descriptor` names.
    ///
    /// Memory: a byte for each segment received, and a little for each move.
    pub fn new(schedule: &Schedule, descriptor: &Descriptor) -> Run {
        let elements = Elements {
            data_type: descriptor.data_type,
            quantization: descriptor.quantization,
        };
        let bytes = |count: u64| count.saturating_mul(elements.size_bytes());
        let chunks: Vec<Range<u64>> = schedule
            .chunks
            .iter()
            .map(|c| bytes(c.start)..bytes(c.end))
            .collect();
        let mut run = Run {
            chunks,
            elements,
            starts: Vec::new(),
            receives: Vec::new(),
            by_frame: BTreeMap::new(),
            passing: BTreeMap::new(),
            stored_by: BTreeMap::new(),
            collects: BTreeMap::new(),
            segments_left: 0,
        };
        for m in &schedule.moves {
            let is_final = matches!(m.apply, Apply::Finish | Apply::Store);
            for send in m.sends.iter().filter(|_| !is_final) {
                run.passing.insert((send.to, send.step), m.chunk);
            }
            let index = run.receives.len();
            let frame = match m.trigger {
                Trigger::Start => {
                    let sends = m.sends.iter().map(|send| (m.chunk, *send));
                    run.starts.extend(sends);
                    continue;
                }
                Trigger::Receive { from, step } => {
                    run.by_frame.insert((from, step), index);
                    (from, step)
                }
                Trigger::Collected => {
                    run.collects.entry(m.chunk).or_default().1 = index;
                    m.sends
                        .first()
                        .map_or((Rank(0), 0), |send| (send.to, send.step))
                }
            };
            match m.apply {
                Apply::Store => {
                    run.stored_by.insert(m.chunk, index);
                }
                Apply::Collect => run.collects.entry(m.chunk).or_default().0.push(index),
                _ => {}
            }
            let segments = elements.segment_count(&run.chunks[m.chunk]);
            run.segments_left += segments;
            run.receives.push(Receive {
                chunk: m.chunk,
                apply: m.apply,
                frame,
                sends: m.sends.clone(),
                segments: vec![Progress::Awaited; segments as usize],
            });
        }
        run
    }

    /// The segments of a chunk, in bytes of the buffer.
    pub fn segments(&self, chunk: usize) -> impl Iterator<Item = Range<usize>> {
        let count = self.elements.segment_count(&self.chunks[chunk]) as u32;
        (0..count).filter_map(move |segment| self.range(chunk, segment))
    }

    /// What is due before anything arrives.
    pub fn start(&self) -> Vec<Due> {
        let mut due = Vec::new();
        for (chunk, send) in &self.starts {
            for (segment, _) in (0..).zip(self.segments(*chunk)) {
                due.extend(self.due(*chunk, *send, segment, Source::Input));
            }
        }
        due
    }

    /// Asks for the right to receive a segment.
    pub fn claim(&mut self, from: Rank, step: u16, segment: u32, len_bytes: usize) -> Claim {
        let Some(&index) = self.by_frame.get(&(from, step)) else {
            return Claim::Reject(format!("no step {step} comes from rank {from}"));
        };
        let receive = &self.receives[index];
        let Some(range) = self.range(receive.chunk, segment) else {
            return Claim::Reject(format!("step {step} has no segment {segment}"));
        };
        let wire_bytes = self.elements.wire_bytes(range.len() as u64);
        if wire_bytes != len_bytes as u64 {
            return Claim::Reject(format!(
                "segment {segment} of step {step} has {wire_bytes} bytes, not {len_bytes}"
            ));
        }
        let taken = self.taken(index, segment, range);
        let progress = &mut self.receives[index].segments[segment as usize];
        match progress {
            Progress::Applied if !mutated(Mutation::TakeRepeats) => Claim::Duplicate,
            Progress::Claimed => Claim::Busy,
            Progress::Applied | Progress::Awaited => {
                *progress = (*progress).max(Progress::Claimed);
                Claim::Take(taken)
            }
        }
    }

    /// Gives a claim back: the segment did not arrive whole.
    pub fn unclaim(&mut self, taken: &Taken) {
        let progress = self.progress(taken);
        if *progress == Progress::Claimed {
            *progress = Progress::Awaited;
        }
    }

    /// Whether a segment was applied before: never, of one that may be taken.
    pub fn was_applied(&self, taken: &Taken) -> bool {
        let segments = self.receives.get(taken.receive).map(|r| &r.segments);
        let progress = segments.and_then(|segments| segments.get(taken.segment as usize));
        progress == Some(&Progress::Applied)
    }

    /// Notes a claimed segment as received and applied, and says what comes of it.
    pub fn arrived(&mut self, taken: &Taken) -> Arrived {
        let progress = self.progress(taken);
        if *progress == Progress::Applied {
            return Arrived::default();
        }
        *progress = Progress::Applied;
        self.segments_left -= 1;
        let receive = &self.receives[taken.receive];
        let due = receive
            .sends
            .iter()
            .filter_map(|send| self.due(receive.chunk, *send, taken.segment, Source::Output));
        let due = due.collect();
        let collected = match receive.apply {
            Apply::Collect => self.collected(receive.chunk, taken),
            _ => None,
        };
        Arrived { due, collected }
    }

    /// The right to finish a segment of which this was the last to be collected.
    fn collected(&mut self, chunk: usize, last: &Taken) -> Option<Taken> {
        let (collects, finish) = self.collects.get(&chunk)?;
        let (finish, segment) = (*finish, last.segment as usize);
        let is_applied =
            |index: &usize| self.receives[*index].segments[segment] == Progress::Applied;
        if !collects.iter().all(is_applied) {
            return None;
        }
        self.receives[finish].segments[segment] = Progress::Claimed;
        Some(self.taken(finish, last.segment, last.range.clone()))
    }

    /// Whether everything that this rank receives was applied. It may still have to send.
    pub fn is_complete(&self) -> bool {
        self.segments_left == 0
    }

    /// Whether the receiver is known to have a segment that was due: the final value is on its way into
    /// the same place. Sending it again would be in vain.
    pub fn is_superseded(&self, due: &Due) -> bool {
        let chunk = self.passing.get(&(due.to, due.step));
        let overwriting = chunk.and_then(|chunk| self.stored_by.get(chunk));
        overwriting
            .and_then(|index| self.receives[*index].segments.get(due.segment as usize))
            .is_some_and(|progress| *progress != Progress::Awaited)
    }

    /// The ranks that this rank receives from, and how many bytes from each in all.
    pub fn sources(&self) -> BTreeMap<Rank, u64> {
        let mut sources = BTreeMap::new();
        for ((from, _), index) in &self.by_frame {
            let chunk = &self.chunks[self.receives[*index].chunk];
            *sources.entry(*from).or_insert(0) += self.elements.chunk_wire_bytes(chunk);
        }
        sources
    }

    /// The ranks that this rank sends to.
    pub fn destinations(&self) -> BTreeSet<Rank> {
        let started = self.starts.iter().map(|(_, send)| send.to);
        let passed_on = self.receives.iter().flat_map(|receive| &receive.sends);
        started.chain(passed_on.map(|send| send.to)).collect()
    }

    fn taken(&self, receive: usize, segment: u32, range: Range<usize>) -> Taken {
        let Receive {
            apply,
            frame,
            ref sends,
            ..
        } = self.receives[receive];
        Taken {
            apply,
            frame,
            segment,
            range,
            next_step: sends.first().map(|send| send.step),
            receive,
        }
    }

    fn progress(&mut self, taken: &Taken) -> &mut Progress {
        &mut self.receives[taken.receive].segments[taken.segment as usize]
    }

    fn due(&self, chunk: usize, send: Send, segment: u32, source: Source) -> Option<Due> {
        let range = self.range(chunk, segment)?;
        Some(Due {
            to: send.to,
            step: send.step,
            segment,
            len_bytes: self.elements.wire_bytes(range.len() as u64) as usize,
            range,
            source,
        })
    }

    /// The bytes of a segment. Segments of a chunk differ by at most one element.
    fn range(&self, chunk: usize, segment: u32) -> Option<Range<usize>> {
        let chunk = &self.chunks[chunk];
        let (count, index) = (self.elements.segment_count(chunk), u64::from(segment));
        if index >= count {
            return None;
        }
        let element_bytes = self.elements.size_bytes();
        let elements = len(chunk) / element_bytes;
        let (base, longer) = (elements / count, elements % count);
        let start = chunk.start + (index * base + index.min(longer)) * element_bytes;
        let bytes = (base + u64::from(index < longer)) * element_bytes;
        Some(start as usize..(start + bytes) as usize)
    }
}

fn len(chunk: &Range<u64>) -> u64 {
    chunk.end - chunk.start
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ring_all_reduce;
    use crate::types::ReduceOp;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn run(rank: u32, world_size: u32, count: u64, data_type: DataType) -> Run {
        let descriptor = Descriptor {
            count,
            data_type,
            op: ReduceOp::Sum,
            quantization: None,
        };
        Run::new(&ring_all_reduce(Rank(rank), world_size, count), &descriptor)
    }

    fn take(run: &mut Run, from: u32, step: u16, segment: u32) -> Taken {
        let range = run.range(
            run.receives[run.by_frame[&(Rank(from), step)]].chunk,
            segment,
        );
        match run.claim(Rank(from), step, segment, range.unwrap().len()) {
            Claim::Take(taken) => taken,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn segments_cover_their_chunk_in_whole_elements() {
        for count in [1u64, 9, 16_383, 16_385, 70_001, 1_000_003, 200_000_005] {
            for data_type in [DataType::U8, DataType::F16, DataType::F64] {
                let run = run(0, 3, count, data_type);
                for (index, chunk) in run.chunks.iter().enumerate() {
                    let mut end = chunk.start as usize;
                    for segment in 0..run.elements.segment_count(chunk) as u32 {
                        let range = run.range(index, segment).unwrap();
                        assert_eq!(range.start, end);
                        assert_eq!(range.len() % data_type.size_bytes(), 0);
                        assert!(range.len() <= SEGMENT_BYTES_MAX && !range.is_empty());
                        end = range.end;
                    }
                    assert_eq!(end as u64, chunk.end);
                }
            }
        }
    }

    #[test]
    fn only_large_chunks_have_the_largest_segments() {
        let longest = |count| {
            let starts = run(0, 2, count, DataType::U8).start();
            starts.iter().map(|due| due.range.len()).max()
        };
        assert_eq!(
            longest(2 * LARGE_CHUNK_BYTES - 2),
            Some(SEGMENT_BYTES as usize)
        );
        assert_eq!(longest(2 * LARGE_CHUNK_BYTES), Some(SEGMENT_BYTES_MAX));
    }

    #[test]
    fn a_chunk_worth_cutting_has_four_segments() {
        let run = run(0, 2, 2 * 64 * 1024, DataType::U8);
        assert_eq!(run.start().len(), 4);
    }

    #[test]
    fn a_segment_is_taken_whole_and_once() {
        let mut run = run(1, 3, 30, DataType::U8);
        assert!(matches!(run.claim(Rank(0), 0, 0, 9), Claim::Reject(_)));
        assert!(matches!(run.claim(Rank(0), 0, 1, 10), Claim::Reject(_)));
        assert!(matches!(run.claim(Rank(0), 4, 0, 10), Claim::Reject(_)));
        assert!(matches!(run.claim(Rank(2), 0, 0, 10), Claim::Reject(_)));
        let taken = take(&mut run, 0, 0, 0);
        assert_eq!((taken.apply, taken.range.clone()), (Apply::Combine, 0..10));
        assert_eq!(run.claim(Rank(0), 0, 0, 10), Claim::Busy);
        run.unclaim(&taken);
        let taken = take(&mut run, 0, 0, 0);
        let due = run.arrived(&taken).due.remove(0);
        assert_eq!((due.to, due.step, due.source), (Rank(2), 1, Source::Output));
        assert_eq!(run.claim(Rank(0), 0, 0, 10), Claim::Duplicate);
        run.unclaim(&taken);
        assert_eq!(run.arrived(&taken), Arrived::default());
        assert_eq!(run.claim(Rank(0), 0, 0, 10), Claim::Duplicate);
    }

    #[test]
    fn what_the_successor_must_have_is_superseded() {
        let mut run = run(0, 3, 30, DataType::U8);
        let own = run.start().remove(0);
        assert_eq!((own.step, &own.source), (0, &Source::Input));
        assert!(!run.is_superseded(&own));
        let first = take(&mut run, 2, 0, 0);
        let forwarded = run.arrived(&first).due.remove(0);
        assert!(!run.is_superseded(&forwarded));
        take(&mut run, 2, 2, 0);
        assert!(run.is_superseded(&own));
        assert!(!run.is_superseded(&forwarded));
        take(&mut run, 2, 3, 0);
        assert!(run.is_superseded(&forwarded));
    }

    proptest! {
        /// A segment that has come needs no room but its place in the output, so nothing ever waits
        /// for a send: whoever is slow, in whatever order, the ring goes on.
        #[test]
        fn a_ring_whose_links_hold_one_segment_comes_to_its_end(
            world_size in 2u32..7,
            count in 1u64..40_000,
            // Which of the possible things happens next.
            choices in prop::collection::vec(any::<prop::sample::Index>(), 1..64),
        ) {
            let mut runs: Vec<Run> = (0..world_size)
                .map(|rank| run(rank, world_size, count, DataType::F64))
                .collect();
            let mut due: Vec<VecDeque<Due>> = runs.iter().map(|run| run.start().into()).collect();
            let mut links: Vec<Option<Due>> = vec![None; runs.len()];
            for choice in choices.iter().cycle() {
                let can_send = |rank: &usize| links[*rank].is_none() && !due[*rank].is_empty();
                let sends: Vec<usize> = (0..runs.len()).filter(can_send).collect();
                let takes: Vec<usize> = (0..runs.len()).filter(|from| links[*from].is_some()).collect();
                if sends.is_empty() && takes.is_empty() {
                    break;
                }
                match choice.index(sends.len() + takes.len()) {
                    index if index < sends.len() => {
                        links[sends[index]] = due[sends[index]].pop_front();
                    }
                    index => {
                        let from = takes[index - sends.len()];
                        let came = links[from].take().unwrap();
                        let to = came.to.0 as usize;
                        let claim =
                            runs[to].claim(Rank(from as u32), came.step, came.segment, came.range.len());
                        let Claim::Take(taken) = claim else {
                            panic!("{claim:?}")
                        };
                        due[to].extend(runs[to].arrived(&taken).due);
                    }
                }
            }
            prop_assert!(runs.iter().all(Run::is_complete));
        }
    }

    #[test]
    fn a_ring_of_runs_comes_to_its_end() {
        for (world_size, count) in [(2, 1u64), (2, 300_001), (3, 2), (5, 1_000_000), (4, 0)] {
            let mut runs: Vec<Run> = (0..world_size)
                .map(|rank| run(rank, world_size, count, DataType::I16))
                .collect();
            let mut in_flight = VecDeque::new();
            for (rank, run) in runs.iter().enumerate() {
                in_flight.extend(run.start().into_iter().map(|due| (rank, due)));
            }
            let mut received = vec![0u64; runs.len()];
            while let Some((from, due)) = in_flight.pop_back() {
                let to = due.to.0 as usize;
                let claim =
                    runs[to].claim(Rank(from as u32), due.step, due.segment, due.range.len());
                let Claim::Take(taken) = claim else {
                    panic!("{claim:?}")
                };
                assert_eq!(taken.range, due.range);
                received[to] += due.range.len() as u64;
                in_flight.extend(
                    runs[to]
                        .arrived(&taken)
                        .due
                        .into_iter()
                        .map(|due| (to, due)),
                );
            }
            for (run, received) in runs.iter().zip(received) {
                assert!(run.is_complete());
                assert_eq!(run.sources().values().sum::<u64>(), received);
            }
        }
    }
}
