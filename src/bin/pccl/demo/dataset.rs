//! The handwritten digits of `data/`, inside the program, split for training and testing.

use super::random::Random;

/// Pixels of an image.
pub(super) const PIXELS: usize = 64;
/// Digits to tell apart.
pub(super) const CLASSES: usize = 10;

/// Images held back for testing.
const TEST_COUNT: usize = 360;
/// Layout, source and licence: `data/README.md`.
const TEXT: &str = include_str!("../../../../data/digits.txt");

/// Images and the digits that they show.
#[derive(Clone, Default)]
pub(super) struct Dataset {
    pixels: Vec<f32>,
    digits: Vec<u8>,
}

impl Dataset {
    /// Number of images.
    pub(super) fn len(&self) -> usize {
        self.digits.len()
    }

    /// The pixels of an image, 0 (paper) to 1 (ink).
    pub(super) fn image(&self, index: usize) -> &[f32] {
        &self.pixels[index * PIXELS..(index + 1) * PIXELS]
    }

    /// The digit that an image shows.
    pub(super) fn digit(&self, index: usize) -> usize {
        usize::from(self.digits[index])
    }

    /// Every `shards`-th image from number `shard` on: what one worker sees.
    pub(super) fn shard(&self, shard: usize, shards: usize) -> Dataset {
        let mut part = Dataset::default();
        for index in (shard..self.len()).step_by(shards.max(1)) {
            part.push(self.image(index), self.digits[index]);
        }
        part
    }

    fn push(&mut self, pixels: &[f32], digit: u8) {
        self.pixels.extend_from_slice(pixels);
        self.digits.push(digit);
    }
}

/// The training and the test images, in an order that is shuffled but always the same.
///
/// # Errors
/// Says which line of the file does not follow its layout.
pub(super) fn load() -> Result<(Dataset, Dataset), String> {
    let all = parse(TEXT)?;
    let (mut train, mut test) = (Dataset::default(), Dataset::default());
    for (place, &index) in Random::new(&[]).permutation(all.len()).iter().enumerate() {
        let part = if place < TEST_COUNT {
            &mut test
        } else {
            &mut train
        };
        part.push(all.image(index), all.digits[index]);
    }
    Ok((train, test))
}

fn parse(text: &str) -> Result<Dataset, String> {
    let mut data = Dataset::default();
    for (number, line) in text.lines().enumerate() {
        let image = line
            .split_once(' ')
            .and_then(|(pixels, digit)| Some((parse_pixels(pixels)?, parse_digit(digit)?)));
        let Some((pixels, digit)) = image else {
            return Err(format!(
                "digits.txt, line {}: not 64 pixels and a digit",
                number + 1
            ));
        };
        data.push(&pixels, digit);
    }
    Ok(data)
}

fn parse_pixels(text: &str) -> Option<Vec<f32>> {
    let pixels: Vec<f32> = text
        .chars()
        .map(|c| c.to_digit(17).map(|ink| ink as f32 / 16.0))
        .collect::<Option<_>>()?;
    (pixels.len() == PIXELS).then_some(pixels)
}

fn parse_digit(text: &str) -> Option<u8> {
    text.parse()
        .ok()
        .filter(|&digit| usize::from(digit) < CLASSES)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_holds_1797_images_of_all_digits() {
        let (train, test) = load().unwrap();
        assert_eq!((train.len(), test.len()), (1437, 360));
        for data in [&train, &test] {
            for digit in 0..CLASSES {
                let count = (0..data.len()).filter(|&i| data.digit(i) == digit).count();
                let share = count as f32 / data.len() as f32;
                assert!((0.06..0.14).contains(&share), "digit {digit}: {share}");
            }
        }
    }

    #[test]
    fn shards_are_disjoint_and_together_everything() {
        let (train, _) = load().unwrap();
        let shards: Vec<Dataset> = (0..4).map(|shard| train.shard(shard, 4)).collect();
        assert_eq!(shards.iter().map(Dataset::len).sum::<usize>(), train.len());
        for index in 0..train.len() {
            let (shard, place) = (&shards[index % 4], index / 4);
            assert_eq!(shard.image(place), train.image(index));
            assert_eq!(shard.digit(place), train.digit(index));
        }
    }

    #[test]
    fn a_damaged_line_is_named() {
        let good = "0".repeat(64) + " 3";
        for bad in [
            "",
            "0 3",
            &("0".repeat(64) + " 10"),
            &("h".repeat(64) + " 1"),
        ] {
            let error = parse(&format!("{good}\n{bad}\n")).err().unwrap();
            assert!(error.contains("line 2"), "{error}");
        }
    }
}
