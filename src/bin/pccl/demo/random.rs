//! Random numbers as a function of (keys, counter): nothing to carry over, so a newcomer draws
//! what its predecessor would have drawn.
//!
//! The counter is scrambled by the finaliser of SplitMix64 (Steele, Lea and Flood, *Fast
//! splittable pseudorandom number generators*, 2014). Good for training, not for secrets.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A sequence of random numbers, the same for the same keys.
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The sequence named by `keys`; sequences of different keys are unrelated.
    pub(super) fn new(keys: &[u64]) -> Self {
        let state = keys.iter().fold(GOLDEN, |state, &key| {
            scramble(state ^ scramble(key.wrapping_add(GOLDEN)))
        });
        Self { state }
    }

    /// 64 random bits.
    pub(super) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        scramble(self.state)
    }

    /// An index below `bound`, which is not zero. Biased by less than `bound` / 2^64.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.bits()) * bound as u128) >> 64) as usize
    }

    /// A number in `-limit..limit`, from 24 bits, so that it is exact in `f32`.
    pub(super) fn within(&mut self, limit: f32) -> f32 {
        let unit = (self.bits() >> 40) as f32 / (1u32 << 24) as f32;
        limit * (2.0 * unit - 1.0)
    }

    /// `0..count` in random order.
    pub(super) fn permutation(&mut self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            order.swap(last, self.below(last + 1));
        }
        order
    }
}

fn scramble(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_keys_same_numbers_and_other_keys_other_numbers() {
        let draw = |keys: &[u64]| {
            let mut random = Random::new(keys);
            [random.bits(), random.bits(), random.bits()]
        };
        assert_eq!(draw(&[1, 2]), draw(&[1, 2]));
        assert_ne!(draw(&[1, 2]), draw(&[2, 1]));
        assert_ne!(draw(&[1]), draw(&[1, 0]));
    }

    #[test]
    fn numbers_stay_in_their_range_and_fill_it() {
        let mut random = Random::new(&[7]);
        let mut seen = [0u32; 10];
        let mut sum = 0.0;
        for _ in 0..10_000 {
            seen[random.below(10)] += 1;
            let x = random.within(2.0);
            assert!((-2.0..2.0).contains(&x));
            sum += x;
        }
        assert!(seen.iter().all(|&n| (800..1200).contains(&n)), "{seen:?}");
        assert!(sum.abs() / 10_000.0 < 0.1, "{sum}");
    }

    #[test]
    fn a_permutation_holds_every_index_once() {
        let mut order = Random::new(&[3]).permutation(100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
