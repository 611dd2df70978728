//! Random numbers from a seed: SplitMix64 (Steele, Lea and Flood, 2014).

/// A sequence of random numbers, the same for the same seed.
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `from..to`, which is not empty.
    pub(crate) fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.bits() % (to - from)
    }

    /// One of them, if there is any.
    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        match from.len() as u64 {
            0 => None,
            len => from.get(self.within(0, len) as usize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_numbers_within_their_range() {
        let draw = |seed| -> Vec<u64> {
            let mut random = Random::new(seed);
            (0..50).map(|_| random.within(3, 9)).collect()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|n| (3..9).contains(n)));
    }
}
