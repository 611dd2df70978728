//! DiLoCo with fewer bits: four workers learn the digits of `data/digits.txt`, and what quantized outer
//! gradients cost is seen in the loss.
//!
//! `cargo test --test it diloco -- --nocapture` prints the table.

use std::sync::Arc;

use pccl::diloco::{OuterNesterov, pseudo_gradient};
use pccl::{Communicator, ErrorFeedback, Quantization, Reduce, ReduceOptions};

use crate::common::{Run, Task};

const WORKERS: usize = 4;
const SEEDS: u64 = 5;
const ROUNDS: usize = 60;
const INNER_STEPS: usize = 10;
const BATCH: usize = 16;
const INNER_RATE: f32 = 0.05;

const PIXELS: usize = 64;
const HIDDEN: usize = 48;
const CLASSES: usize = 10;
const PARAMETERS: usize = PIXELS * HIDDEN + HIDDEN + HIDDEN * CLASSES + CLASSES;

/// How outer gradients travel.
#[derive(Clone, Copy)]
struct Way {
    name: &'static str,
    quantization: Option<Quantization>,
    has_feedback: bool,
}

/// Pixels from 0 to 1, and the digit.
type Image = ([f32; PIXELS], usize);

fn images() -> Vec<Image> {
    let text = include_str!("../../data/digits.txt");
    let image = |line: &str| {
        let (pixels, digit) = line.split_once(' ')?;
        let values: Vec<f32> = pixels
            .chars()
            .map(|c| c.to_digit(36).unwrap_or(0) as f32 / 16.0)
            .collect();
        Some((values.try_into().ok()?, digit.trim().parse().ok()?))
    };
    text.lines().filter_map(image).collect()
}

/// A generator of small numbers, the same everywhere.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % bound
    }

    fn within(&mut self, limit: f32) -> f32 {
        (self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * limit
    }
}

fn initial(seed: u64) -> Vec<f32> {
    let mut chance = Chance(seed);
    let mut parameters = vec![0.0; PARAMETERS];
    let (first, second) = parameters.split_at_mut(PIXELS * HIDDEN + HIDDEN);
    first[..PIXELS * HIDDEN].fill_with(|| chance.within(0.3));
    second[..HIDDEN * CLASSES].fill_with(|| chance.within(0.35));
    parameters
}

/// The loss of one image; adds its gradient, times `scale`, to `gradient`.
fn learn(parameters: &[f32], (pixels, digit): &Image, scale: f32, gradient: &mut [f32]) -> f64 {
    let (w1, rest) = parameters.split_at(PIXELS * HIDDEN);
    let (b1, rest) = rest.split_at(HIDDEN);
    let (w2, b2) = rest.split_at(HIDDEN * CLASSES);
    let mut hidden = b1.to_vec();
    for (pixel, weights) in pixels.iter().zip(w1.chunks_exact(HIDDEN)) {
        hidden
            .iter_mut()
            .zip(weights)
            .for_each(|(h, w)| *h += pixel * w);
    }
    hidden.iter_mut().for_each(|h| *h = h.max(0.0));
    let mut scores = b2.to_vec();
    for (h, weights) in hidden.iter().zip(w2.chunks_exact(CLASSES)) {
        scores
            .iter_mut()
            .zip(weights)
            .for_each(|(s, w)| *s += h * w);
    }
    let highest = scores.iter().copied().fold(f32::MIN, f32::max);
    scores.iter_mut().for_each(|s| *s = (*s - highest).exp());
    let sum: f32 = scores.iter().sum();
    scores.iter_mut().for_each(|s| *s /= sum);
    let loss = -f64::from(scores[*digit].max(f32::MIN_POSITIVE)).ln();
    scores[*digit] -= 1.0;

    let (g1, rest) = gradient.split_at_mut(PIXELS * HIDDEN);
    let (gb1, rest) = rest.split_at_mut(HIDDEN);
    let (g2, gb2) = rest.split_at_mut(HIDDEN * CLASSES);
    gb2.iter_mut()
        .zip(&scores)
        .for_each(|(g, s)| *g += scale * s);
    for (index, h) in hidden.iter().enumerate().filter(|(_, h)| **h > 0.0) {
        let weights = &w2[index * CLASSES..(index + 1) * CLASSES];
        let slope: f32 = weights.iter().zip(&scores).map(|(w, s)| w * s).sum();
        let row = &mut g2[index * CLASSES..(index + 1) * CLASSES];
        row.iter_mut()
            .zip(&scores)
            .for_each(|(g, s)| *g += scale * h * s);
        gb1[index] += scale * slope;
        for (pixel, row) in pixels.iter().zip(g1.chunks_exact_mut(HIDDEN)) {
            row[index] += scale * slope * pixel;
        }
    }
    loss
}

fn mean_loss(parameters: &[f32], images: &[Image]) -> f64 {
    let mut unused = vec![0.0; PARAMETERS];
    let losses = images
        .iter()
        .map(|image| learn(parameters, image, 0.0, &mut unused));
    losses.sum::<f64>() / images.len() as f64
}

/// One worker's run; gives the loss over all images, and the bits of its parameters.
fn train(communicator: &Communicator, worker: usize, seed: u64, way: Way) -> (f64, Vec<f32>) {
    let images = images();
    // Each worker knows digits that no other has seen: what they tell each other counts.
    let own: Vec<&Image> = images
        .iter()
        .filter(|(_, digit)| digit % WORKERS == worker)
        .collect();
    let mut chance = Chance(seed * 1000 + worker as u64);
    let mut outer = initial(seed);
    let mut optimizer = OuterNesterov::new(
        PARAMETERS,
        OuterNesterov::LEARNING_RATE,
        OuterNesterov::MOMENTUM,
    );
    let mut feedback = ErrorFeedback::new(PARAMETERS);
    let mut options = ReduceOptions::avg();
    options.quantization = way.quantization;
    for _ in 0..ROUNDS {
        let mut inner = outer.clone();
        for _ in 0..INNER_STEPS {
            let mut gradient = vec![0.0; PARAMETERS];
            for _ in 0..BATCH {
                let image = own[chance.below(own.len())];
                learn(&inner, image, 1.0 / BATCH as f32, &mut gradient);
            }
            inner
                .iter_mut()
                .zip(&gradient)
                .for_each(|(p, g)| *p -= INNER_RATE * g);
        }
        pseudo_gradient(&outer, &mut inner);
        let mut reduce = Reduce::in_place(&mut inner, options);
        if way.has_feedback {
            reduce = reduce.feedback(&mut feedback);
        }
        communicator.all_reduce_many(&mut [reduce], 1).unwrap();
        optimizer.step(&mut outer, &inner);
    }
    (mean_loss(&outer, &images), outer)
}

/// The loss of each seed.
fn losses(peers: &[Arc<Communicator>], way: Way) -> Vec<f64> {
    let of_seed = |seed| {
        let workers: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(worker, peer)| {
                let peer = peer.clone();
                Task::start(way.name, move || train(&peer, worker, seed, way))
            })
            .collect();
        let ends: Vec<_> = workers.into_iter().map(Task::end).collect();
        assert!(
            ends.iter().all(|(_, parameters)| *parameters == ends[0].1),
            "the same bits"
        );
        ends[0].0
    };
    (0..SEEDS).map(of_seed).collect()
}

#[test]
fn quantized_outer_gradients_train_as_well_and_four_bits_do_with_error_feedback() {
    let (_run, peers) = Run::with(&["a", "b", "c", "d"]);
    let int4 = Quantization::int4().block_elements(4096);
    let way = |name, quantization, has_feedback| Way {
        name,
        quantization,
        has_feedback,
    };
    let ways = [
        way("f32", None, false),
        way("int8", Some(Quantization::int8()), false),
        way("int4", Some(int4), false),
        way("int4, feedback", Some(int4), true),
    ];
    let all = ways.map(|way| losses(&peers, way));
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;
    for (way, losses) in ways.iter().zip(&all) {
        let each: Vec<String> = losses.iter().map(|loss| format!("{loss:.4}")).collect();
        println!("{:15} {:.4}   {}", way.name, mean(losses), each.join(" "));
    }
    let [f32, int8, int4, with_feedback] = all.each_ref().map(|losses| mean(losses));
    let variance = all[0].iter().map(|loss| (loss - f32).powi(2)).sum::<f64>() / (SEEDS - 1) as f64;
    assert!(
        (int8 - f32).abs() < variance.sqrt(),
        "int8 {int8}, f32 {f32}"
    );
    assert!(
        (with_feedback / f32 - 1.0).abs() < 0.02,
        "int4 with feedback {with_feedback}, f32 {f32}"
    );
    assert!(int4 > 1.02 * f32, "int4 {int4}, f32 {f32}");
}
