//! What is summed: powers of two, one per peer, times a factor per element. A sum shows exactly
//! whose input is in it, and an element that belongs to another place, step or tag is wrong.

use pccl::{Communicator, ReduceOptions, ReduceReport, Scope, ScopedReduction};

use super::Arguments;
use crate::event::Work;
use crate::pages::{Buffer, Pages};

/// Elements of one of the two types that are summed exactly.
pub(super) enum Numbers {
    U64(Buffer<u64>),
    F32(Buffer<f32>),
}

/// One all-reduce of a step: its input, and where the result goes if not in place.
pub(super) struct Slot {
    pub(super) work: Work,
    id: u64,
    input: Numbers,
    /// None in place.
    output: Option<Numbers>,
    /// Every which element is looked at.
    stride: usize,
}

/// Of a sparse slot. Prime, so that a chunk that lands at the wrong place meets other values.
const SPARSE: usize = 4099;

/// The largest factor of each type, plus one: with it, sums of 8 and more peers are exact.
const FACTORS_U64: u64 = 997;
const FACTORS_F32: u64 = 31;

impl Slot {
    /// Odd tags are apart, the others in place; every second pair is of `f32`. Sparse ones are all
    /// apart: their input is written once, is the same in all steps, and only a sample of their
    /// elements is looked at, so that next to all their time is spent in all-reduces.
    pub(super) fn new(work: Work, id: u64, arguments: &Arguments) -> Self {
        let is_float = work.tag % 4 >= 2;
        let is_sparse = arguments.sparse;
        let blank = || Numbers::blank(is_float, arguments.bytes, arguments.pages);
        let mut slot = Self {
            work,
            id,
            input: blank(),
            output: (is_sparse || work.tag % 2 == 1).then(blank),
            stride: if is_sparse { SPARSE } else { 1 },
        };
        if is_sparse && let Some(output) = &mut slot.output {
            output.fill(0);
        }
        slot.fill();
        slot
    }

    /// Sets the input for another step.
    pub(super) fn refill(&mut self, work: Work) {
        self.work = work;
        match &mut self.output {
            // What is left of the step before must not pass for a result.
            Some(output) if self.stride > 1 => output.spoil(self.stride),
            _ => self.fill(),
        }
    }

    fn fill(&mut self) {
        let (id, factors) = (self.id, self.factors());
        match &mut self.input {
            Numbers::U64(elements) => {
                let power = power_u64(id);
                for (index, element) in (0..).zip(&mut elements[..]) {
                    *element = power * factors.of(index, FACTORS_U64);
                }
            }
            Numbers::F32(elements) => {
                let power = power_f32(id);
                for (index, element) in (0..).zip(&mut elements[..]) {
                    *element = (power * factors.of(index, FACTORS_F32)) as f32;
                }
            }
        }
    }

    fn factors(&self) -> Factors {
        let step = if self.stride > 1 { 0 } else { self.work.step };
        Factors(7 * step + 31 * self.work.tag)
    }

    pub(super) fn start<'scope>(
        &'scope mut self,
        scope: &'scope Scope<'scope, '_>,
    ) -> ScopedReduction<'scope> {
        let options = ReduceOptions::sum().tag(pccl::Tag(self.work.tag));
        match (&mut self.input, &mut self.output) {
            (Numbers::U64(input), Some(Numbers::U64(output))) => {
                scope.all_reduce(input, output, &options)
            }
            (Numbers::F32(input), Some(Numbers::F32(output))) => {
                scope.all_reduce(input, output, &options)
            }
            (Numbers::U64(buffer), _) => scope.all_reduce_in_place(buffer, &options),
            (Numbers::F32(buffer), _) => scope.all_reduce_in_place(buffer, &options),
        }
    }

    /// What is wrong with the input after a failure.
    pub(super) fn input_damage(&self) -> Option<String> {
        self.compare(&self.input, &[self.id])
    }

    /// What is wrong with the result.
    pub(super) fn result_damage(&self, report: &ReduceReport) -> Option<String> {
        let contributors: Vec<u64> = report.contributors.iter().map(|peer| peer.0).collect();
        self.compare(self.result(), &contributors)
    }

    fn result(&self) -> &Numbers {
        self.output.as_ref().unwrap_or(&self.input)
    }

    pub(super) fn result_digest(&self) -> u64 {
        self.result().digest(self.stride)
    }

    fn compare(&self, numbers: &Numbers, contributors: &[u64]) -> Option<String> {
        let sum = |power: fn(u64) -> u64| contributors.iter().map(|id| power(*id)).sum::<u64>();
        let factors = self.factors();
        match numbers {
            Numbers::U64(elements) => {
                let sum = sum(power_u64);
                differences(sample(elements, self.stride).map(|(index, element)| {
                    let wanted = sum * factors.of(index, FACTORS_U64);
                    let texts = || (index, format!("{element:#x}"), format!("{wanted:#x}"));
                    (*element != wanted).then(texts)
                }))
            }
            Numbers::F32(elements) => {
                let sum = sum(power_f32);
                differences(sample(elements, self.stride).map(|(index, element)| {
                    let wanted = (sum * factors.of(index, FACTORS_F32)) as f32;
                    let texts = || (index, element.to_string(), wanted.to_string());
                    (element.to_bits() != wanted.to_bits()).then(texts)
                }))
            }
        }
    }
}

impl Numbers {
    /// Buffers are of a size that was asked for: where there is no memory for them, this process
    /// is of no use.
    fn blank(is_float: bool, bytes: u64, pages: Pages) -> Self {
        let count = |size: u64| usize::try_from(bytes / size).unwrap_or(usize::MAX);
        match is_float {
            true => Numbers::F32(Buffer::zeroed(count(4), pages).expect("memory for a buffer")),
            false => Numbers::U64(Buffer::zeroed(count(8), pages).expect("memory for a buffer")),
        }
    }

    fn fill(&mut self, byte: u8) {
        match self {
            Numbers::U64(elements) => elements.fill(u64::from(byte)),
            Numbers::F32(elements) => elements.fill(f32::from(byte)),
        }
    }

    fn spoil(&mut self, stride: usize) {
        match self {
            Numbers::U64(elements) => {
                elements
                    .iter_mut()
                    .step_by(stride)
                    .for_each(|e| *e = u64::MAX);
            }
            Numbers::F32(elements) => {
                elements
                    .iter_mut()
                    .step_by(stride)
                    .for_each(|e| *e = f32::NAN);
            }
        }
    }

    fn digest(&self, stride: usize) -> u64 {
        match self {
            Numbers::U64(elements) => digest(sample(elements, stride).map(|(_, e)| *e)),
            Numbers::F32(elements) => {
                digest(sample(elements, stride).map(|(_, e)| u64::from(e.to_bits())))
            }
        }
    }
}

/// Every so many-th element, with its index.
fn sample<T>(elements: &[T], stride: usize) -> impl Iterator<Item = (u64, &T)> {
    (0..).step_by(stride).zip(elements.iter().step_by(stride))
}

/// FNV-1a, by words.
pub(super) fn digest(words: impl Iterator<Item = u64>) -> u64 {
    words.fold(0xcbf2_9ce4_8422_2325, |hash, word| {
        (hash ^ word).wrapping_mul(0x0100_0000_01b3).rotate_left(23)
    })
}

/// The id that the master knows this peer by; 0 before it is accepted.
pub(super) fn id(communicator: &Communicator) -> u64 {
    communicator.peer_id().map_or(0, |peer| peer.0)
}

fn power_u64(id: u64) -> u64 {
    1 << (id % 48)
}

fn power_f32(id: u64) -> u64 {
    1 << (id % 15)
}

/// What each element is multiplied by, from one step and tag to the next.
#[derive(Clone, Copy)]
struct Factors(u64);

impl Factors {
    fn of(self, index: u64, factors: u64) -> u64 {
        1 + (index + self.0) % (factors - 1)
    }
}

fn differences(elements: impl Iterator<Item = Option<(u64, String, String)>>) -> Option<String> {
    let (mut count, mut first) = (0, None);
    for (index, is, wanted) in elements.flatten() {
        count += 1;
        first.get_or_insert(format!("element {index} is {is}, not {wanted}"));
    }
    first.map(|first| format!("{first}; {count} elements differ"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(tag: u64) -> Work {
        Work {
            lineage: 1,
            step: 5,
            tag,
        }
    }

    fn slot(tag: u64, more: &[&str]) -> Slot {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            arguments: Arguments,
        }
        let line = "peer --master m --label p --log l --bytes 40000 --tags 4 --state-bytes 8 \
                    --master-grace-ms 1";
        let line = line.split_whitespace().chain(more.iter().copied());
        let line = <Line as clap::Parser>::try_parse_from(line).expect("valid flags");
        Slot::new(work(tag), 3, &line.arguments)
    }

    #[test]
    fn a_missing_and_a_doubled_contribution_are_seen() {
        for (tag, more) in [
            (0, &[][..]),
            (2, &[]),
            (0, &["--sparse"]),
            (2, &["--sparse"]),
        ] {
            let slot = slot(tag, more);
            assert_eq!(slot.input_damage(), None);
            assert!(slot.compare(&slot.input, &[3, 4]).is_some());
            assert!(slot.compare(&slot.input, &[3, 3]).is_some());
        }
    }

    #[test]
    fn an_element_of_another_step_is_seen() {
        let mut slot = slot(0, &[]);
        slot.work.step += 1;
        assert!(slot.input_damage().is_some());
    }

    #[test]
    fn a_result_of_the_step_before_is_seen_in_a_sparse_slot() {
        let mut slot = slot(0, &["--sparse"]);
        let (Numbers::U64(input), Some(Numbers::U64(output))) = (&slot.input, &mut slot.output)
        else {
            return;
        };
        output.copy_from_slice(input);
        assert_eq!(slot.compare(slot.result(), &[3]), None);
        slot.refill(work(0));
        assert!(slot.compare(slot.result(), &[3]).is_some());
        assert_eq!(slot.input_damage(), None);
    }
}
