//! Noise for stochastic rounding: Philox4x32-10 (J. Salmon et al., *Parallel random numbers: as easy as
//! 1, 2, 3*, 2011), which needs no state: the counter is where an element is.

use super::real::Real;
use crate::types::Rounding;

/// Which quantization of an operation: no two elements have the same place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Who quantizes.
    pub rank: u32,
    /// The hop number of the frame that carries it.
    pub step: u32,
    /// The index of the segment.
    pub segment: u32,
}

/// The noise of one segment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Noise {
    key: [u32; 2],
    place: Place,
}

impl Noise {
    /// None where elements go to the nearest.
    pub(super) fn new(rounding: Rounding, place: Place) -> Option<Noise> {
        match rounding {
            Rounding::Nearest => None,
            Rounding::Stochastic { key } => Some(Noise {
                key: [key as u32, (key >> 32) as u32],
                place,
            }),
        }
    }

    /// Fills `out` with noise from -1/2 up to 1/2, for the elements from `first` on, a multiple of 4.
    #[inline(always)]
    pub(super) fn fill<R: Real>(&self, first: usize, out: &mut [R]) {
        let Place {
            rank,
            step,
            segment,
        } = self.place;
        let mut group = (first / 4) as u32;
        for chunk in out.chunks_mut(4 * GROUPS) {
            let counters = [
                std::array::from_fn(|i| group.wrapping_add(i as u32)),
                [segment; GROUPS],
                [step; GROUPS],
                [rank; GROUPS],
            ];
            let words = philox(counters, self.key);
            for (out, word) in chunk.iter_mut().zip(words.as_flattened()) {
                // 24 bits: all that an f32 holds.
                *out = R::of_f32((word >> 8) as i32 as f32 * 2.0f32.powi(-24) - 0.5);
            }
            group = group.wrapping_add(GROUPS as u32);
        }
    }
}

/// Counters that are worked on side by side: one vector.
const GROUPS: usize = 16;

/// Ten rounds over the four words of each counter.
#[inline(always)]
fn philox(mut words: [[u32; GROUPS]; 4], mut key: [u32; 2]) -> [[u32; GROUPS]; 4] {
    const MULTIPLIERS: [u32; 2] = [0xd251_1f53, 0xcd9e_8d57];
    const KEY_STEPS: [u32; 2] = [0x9e37_79b9, 0xbb67_ae85];
    for _ in 0..10 {
        let mut next = words;
        for i in 0..GROUPS {
            let even = u64::from(words[0][i]) * u64::from(MULTIPLIERS[0]);
            let odd = u64::from(words[2][i]) * u64::from(MULTIPLIERS[1]);
            next[0][i] = (odd >> 32) as u32 ^ words[1][i] ^ key[0];
            next[1][i] = odd as u32;
            next[2][i] = (even >> 32) as u32 ^ words[3][i] ^ key[1];
            next[3][i] = even as u32;
        }
        words = next;
        key[0] = key[0].wrapping_add(KEY_STEPS[0]);
        key[1] = key[1].wrapping_add(KEY_STEPS[1]);
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that its authors publish.
    #[test]
    fn philox_gives_the_known_answers() {
        let one = |counter: [u32; 4], key| {
            philox(counter.map(|word| [word; GROUPS]), key).map(|words| words[0])
        };
        assert_eq!(
            one([0; 4], [0; 2]),
            [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]
        );
        assert_eq!(
            one([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]
        );
        let (counter, key) = (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
        );
        assert_eq!(
            one(counter, key),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn noise_is_centred_and_within_half_a_step() {
        let noise = Noise::new(Rounding::Stochastic { key: 7 }, Place::default()).unwrap();
        let mut values = vec![0.0f32; 1 << 16];
        noise.fill(0, &mut values);
        assert!(values.iter().all(|value| (-0.5..0.5).contains(value)));
        let mean = values.iter().map(|value| f64::from(*value)).sum::<f64>() / values.len() as f64;
        // Five standard errors: 1 / sqrt(12 * 65536) each.
        assert!(mean.abs() < 5.0 / (12.0 * 65536.0f64).sqrt(), "{mean}");
        // The same elements have the same noise, in whatever pieces they are asked for.
        let mut later = vec![0.0f32; 32];
        noise.fill(640, &mut later);
        assert_eq!(later, values[640..672]);
    }
}
