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

use crate::mutation::{Mutation, mutated};
use crate::schedule::{Apply, Schedule, Send, Trigger};
use crate::types::{Descriptor, Rank};

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
    /// Which buffer they are sent from.
    pub source: Source,
}

/// Which buffer a segment is sent from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rank's own contribution.
    Input,
    /// What was received and applied.
    Output,
}

/// The right to receive one segment, held by one lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What to do with the bytes.
    pub apply: Apply,
    /// The hop number of the frame.
    pub step: u16,
    /// Its index in the chunk.
    pub segment: u32,
    /// The bytes of the output that it covers.
    pub range: Range<usize>,
    receive: usize,
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
    send: Option<Send>,
    segments: Vec<Progress>,
    /// The receive that overwrites this chunk next, if any.
    overwritten_by: Option<usize>,
}

/// One operation at one rank.
#[derive(Debug)]
pub struct Run {
    /// In bytes.
    chunks: Vec<Range<u64>>,
    element_bytes: u64,
    starts: Vec<(usize, Send)>,
    receives: Vec<Receive>,
    by_frame: BTreeMap<(Rank, u16), usize>,
    /// The first receive into a chunk that this rank's own input is sent from.
    start_overwritten_by: BTreeMap<usize, usize>,
    segments_left: u64,
}

impl Run {
    /// The run of `schedule` over the buffer that `descriptor` names.
    ///
    /// Memory: a byte for each segment received, and a little for each move.
    pub fn new(schedule: &Schedule, descriptor: &Descriptor) -> Run {
        let element_bytes = descriptor.data_type.size_bytes() as u64;
        let chunks: Vec<Range<u64>> = schedule
            .chunks
            .iter()
            .map(|c| c.start.saturating_mul(element_bytes)..c.end.saturating_mul(element_bytes))
            .collect();
        let mut run = Run {
            chunks,
            element_bytes,
            starts: Vec::new(),
            receives: Vec::new(),
            by_frame: BTreeMap::new(),
            start_overwritten_by: BTreeMap::new(),
            segments_left: 0,
        };
        let mut last_receive = BTreeMap::new();
        for m in &schedule.moves {
            let Trigger::Receive { from, step } = m.trigger else {
                run.starts.extend(m.send.map(|send| (m.chunk, send)));
                continue;
            };
            let index = run.receives.len();
            match last_receive.insert(m.chunk, index) {
                Some(earlier) => run.receives[earlier].overwritten_by = Some(index),
                None => {
                    run.start_overwritten_by.insert(m.chunk, index);
                }
            }
            let segments = segment_count(&run.chunks[m.chunk]);
            run.segments_left += segments;
            run.by_frame.insert((from, step), index);
            run.receives.push(Receive {
                chunk: m.chunk,
                apply: m.apply,
                send: m.send,
                segments: vec![Progress::Awaited; segments as usize],
                overwritten_by: None,
            });
        }
        run
    }

    /// What is due before anything arrives.
    pub fn start(&self) -> Vec<Due> {
        let mut due = Vec::new();
        for (chunk, send) in &self.starts {
            for segment in 0..segment_count(&self.chunks[*chunk]) as u32 {
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
        if range.len() != len_bytes {
            return Claim::Reject(format!(
                "segment {segment} of step {step} has {} bytes, not {len_bytes}",
                range.len()
            ));
        }
        let apply = receive.apply;
        let progress = &mut self.receives[index].segments[segment as usize];
        match progress {
            Progress::Applied if !mutated(Mutation::TakeRepeats) => Claim::Duplicate,
            Progress::Claimed => Claim::Busy,
            Progress::Applied | Progress::Awaited => {
                *progress = (*progress).max(Progress::Claimed);
                Claim::Take(Taken {
                    apply,
                    step,
                    segment,
                    range,
                    receive: index,
                })
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

    /// Notes a claimed segment as received and applied, and says what is due because of it.
    pub fn arrived(&mut self, taken: &Taken) -> Option<Due> {
        let progress = self.progress(taken);
        if *progress == Progress::Applied {
            return None;
        }
        *progress = Progress::Applied;
        self.segments_left -= 1;
        let receive = &self.receives[taken.receive];
        self.due(receive.chunk, receive.send?, taken.segment, Source::Output)
    }

    /// Whether everything that this rank receives was applied. It may still have to send.
    pub fn is_complete(&self) -> bool {
        self.segments_left == 0
    }

    /// Whether the receiver is known to have a segment that was due: its successor value is on
    /// its way into the same place. Sending it again would be in vain.
    pub fn is_superseded(&self, due: &Due) -> bool {
        let overwriting = match due.source {
            Source::Input => self
                .starts
                .iter()
                .find(|(_, send)| (send.to, send.step) == (due.to, due.step))
                .and_then(|(chunk, _)| self.start_overwritten_by.get(chunk).copied()),
            Source::Output => self
                .receives
                .iter()
                .find(|r| {
                    r.send
                        .is_some_and(|send| (send.to, send.step) == (due.to, due.step))
                })
                .and_then(|receive| receive.overwritten_by),
        };
        overwriting
            .and_then(|index| self.receives[index].segments.get(due.segment as usize))
            .is_some_and(|progress| *progress != Progress::Awaited)
    }

    /// The ranks that this rank receives from, and how many bytes from each in all.
    pub fn sources(&self) -> BTreeMap<Rank, u64> {
        let mut sources = BTreeMap::new();
        for ((from, _), index) in &self.by_frame {
            *sources.entry(*from).or_insert(0) += len(&self.chunks[self.receives[*index].chunk]);
        }
        sources
    }

    /// The ranks that this rank sends to.
    pub fn destinations(&self) -> BTreeSet<Rank> {
        let started = self.starts.iter().map(|(_, send)| send.to);
        let passed_on = self.receives.iter().filter_map(|receive| receive.send);
        started.chain(passed_on.map(|send| send.to)).collect()
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
            range,
            source,
        })
    }

    /// The bytes of a segment. Segments of a chunk differ by at most one element.
    fn range(&self, chunk: usize, segment: u32) -> Option<Range<usize>> {
        let chunk = &self.chunks[chunk];
        let (count, index) = (segment_count(chunk), u64::from(segment));
        if index >= count {
            return None;
        }
        let elements = len(chunk) / self.element_bytes;
        let (base, longer) = (elements / count, elements % count);
        let start = chunk.start + (index * base + index.min(longer)) * self.element_bytes;
        let bytes = (base + u64::from(index < longer)) * self.element_bytes;
        Some(start as usize..(start + bytes) as usize)
    }
}

fn len(chunk: &Range<u64>) -> u64 {
    chunk.end - chunk.start
}

/// Segments of a chunk given in bytes: a function of its size alone.
fn segment_count(chunk: &Range<u64>) -> u64 {
    match len(chunk) {
        0 => 0,
        bytes if bytes < CUT_BYTES_MIN => 1,
        bytes if bytes < LARGE_CHUNK_BYTES => bytes.div_ceil(SEGMENT_BYTES).max(SEGMENTS_MIN),
        bytes => bytes.div_ceil(SEGMENT_BYTES_MAX as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::ring_all_reduce;
    use crate::types::{DataType, ReduceOp};
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn run(rank: u32, world_size: u32, count: u64, data_type: DataType) -> Run {
        let descriptor = Descriptor {
            count,
            data_type,
            op: ReduceOp::Sum,
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
                    for segment in 0..segment_count(chunk) as u32 {
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
        let due = run.arrived(&taken).unwrap();
        assert_eq!((due.to, due.step, due.source), (Rank(2), 1, Source::Output));
        assert_eq!(run.claim(Rank(0), 0, 0, 10), Claim::Duplicate);
        run.unclaim(&taken);
        assert_eq!(run.arrived(&taken), None);
        assert_eq!(run.claim(Rank(0), 0, 0, 10), Claim::Duplicate);
    }

    #[test]
    fn what_the_successor_must_have_is_superseded() {
        let mut run = run(0, 3, 30, DataType::U8);
        let own = run.start().remove(0);
        assert_eq!((own.step, own.source), (0, Source::Input));
        assert!(!run.is_superseded(&own));
        let first = take(&mut run, 2, 0, 0);
        let forwarded = run.arrived(&first).unwrap();
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
                        due[to].extend(runs[to].arrived(&taken));
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
                in_flight.extend(runs[to].arrived(&taken).map(|due| (to, due)));
            }
            for (run, received) in runs.iter().zip(received) {
                assert!(run.is_complete());
                assert_eq!(run.sources().values().sum::<u64>(), received);
            }
        }
    }
}
