//! What is summed: powers of two, one per peer, times a factor per element. A sum shows exactly
//! whose input is in it, and an element that belongs to another place, step or tag is wrong.

use pccl::{Communicator, ReduceOptions, ReduceReport, Scope, ScopedReduction};

use crate::event::Work;

/// Elements of one of the two types that are summed exactly.
pub(super) enum Numbers {
    U64(Vec<u64>),
    F32(Vec<f32>),
}

/// One all-reduce of a step: its input, and where the result goes if not in place.
pub(super) struct Slot {
    pub(super) work: Work,
    id: u64,
    input: Numbers,
    /// None in place.
    output: Option<Numbers>,
}

/// The largest factor of each type, plus one: with it, sums of 8 and more peers are exact.
const FACTORS_U64: u64 = 997;
const FACTORS_F32: u64 = 31;

impl Slot {
    /// Odd tags are apart, the others in place; every second pair is of `f32`.
    pub(super) fn new(work: Work, id: u64, bytes: u64) -> Self {
        let is_float = work.tag % 4 >= 2;
        let count = bytes / if is_float { 4 } else { 8 };
        let blank = || match is_float {
            true => Numbers::F32(vec![0.0; count as usize]),
            false => Numbers::U64(vec![0; count as usize]),
        };
        let mut slot = Self {
            work,
            id,
            input: blank(),
            output: (work.tag % 2 == 1).then(blank),
        };
        slot.refill(work);
        slot
    }

    /// Sets the input for another step.
    pub(super) fn refill(&mut self, work: Work) {
        self.work = work;
        match &mut self.input {
            Numbers::U64(elements) => {
                let power = power_u64(self.id);
                for (index, element) in (0..).zip(elements) {
                    *element = power * factor(index, work, FACTORS_U64);
                }
            }
            Numbers::F32(elements) => {
                let power = power_f32(self.id);
                for (index, element) in (0..).zip(elements) {
                    *element = (power * factor(index, work, FACTORS_F32)) as f32;
                }
            }
        }
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

    pub(super) fn result(&self) -> &Numbers {
        self.output.as_ref().unwrap_or(&self.input)
    }

    fn compare(&self, numbers: &Numbers, contributors: &[u64]) -> Option<String> {
        let sum = |power: fn(u64) -> u64| contributors.iter().map(|id| power(*id)).sum::<u64>();
        match numbers {
            Numbers::U64(elements) => {
                let sum = sum(power_u64);
                differences((0..).zip(elements).map(|(index, element)| {
                    let wanted = sum * factor(index, self.work, FACTORS_U64);
                    (*element != wanted).then(|| (format!("{element:#x}"), format!("{wanted:#x}")))
                }))
            }
            Numbers::F32(elements) => {
                let sum = sum(power_f32);
                differences((0..).zip(elements).map(|(index, element)| {
                    let wanted = (sum * factor(index, self.work, FACTORS_F32)) as f32;
                    (element.to_bits() != wanted.to_bits())
                        .then(|| (element.to_string(), wanted.to_string()))
                }))
            }
        }
    }
}

impl Numbers {
    pub(super) fn digest(&self) -> u64 {
        match self {
            Numbers::U64(elements) => digest(elements.iter().copied()),
            Numbers::F32(elements) => digest(elements.iter().map(|e| u64::from(e.to_bits()))),
        }
    }
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

fn factor(index: u64, work: Work, factors: u64) -> u64 {
    1 + (index + 7 * work.step + 31 * work.tag) % (factors - 1)
}

fn differences(elements: impl Iterator<Item = Option<(String, String)>>) -> Option<String> {
    let (mut count, mut first) = (0, None);
    for (index, difference) in elements.enumerate() {
        if let Some((is, wanted)) = difference {
            count += 1;
            first.get_or_insert(format!("element {index} is {is}, not {wanted}"));
        }
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

    #[test]
    fn a_missing_and_a_doubled_contribution_are_seen() {
        for tag in [0, 2] {
            let slot = Slot::new(work(tag), 3, 4000);
            assert_eq!(slot.input_damage(), None);
            assert!(slot.compare(&slot.input, &[3, 4]).is_some());
            assert!(slot.compare(&slot.input, &[3, 3]).is_some());
        }
    }

    #[test]
    fn an_element_of_another_step_is_seen() {
        let mut slot = Slot::new(work(0), 3, 4000);
        slot.work.step += 1;
        assert!(slot.input_damage().is_some());
    }
}
