//! A multilayer perceptron: ReLU between layers, softmax cross-entropy at the end, all of its
//! parameters in one flat slice as an all-reduce wants them.

use super::dataset::{CLASSES, Dataset, PIXELS};
use super::random::Random;

/// Neurons of each layer, from the pixels to the digits.
const WIDTHS: [usize; 4] = [PIXELS, 1024, 512, CLASSES];
const LAYERS: usize = WIDTHS.len() - 1;

/// Number of parameters.
pub(super) const PARAMETERS: usize = layer_start(LAYERS);

/// Parameters at the start of a run: uniform after He et al. (2015), biases zero.
pub(super) fn initial_parameters(seed: u64) -> Vec<f32> {
    let mut random = Random::new(&[seed, 0x1417]);
    let mut params = vec![0.0; PARAMETERS];
    for (layer, &inputs) in WIDTHS[..LAYERS].iter().enumerate() {
        let limit = (6.0 / inputs as f32).sqrt();
        let (weights, _) = split_layer_mut(&mut params, layer);
        weights.fill_with(|| random.within(limit));
    }
    params
}

/// Memory for one pass; kept between passes so that none allocates.
#[derive(Default)]
pub(super) struct Model {
    /// Output of each layer, `[image][neuron]`; the first are the images themselves.
    activations: [Vec<f32>; LAYERS + 1],
    /// Derivative of the loss by the outputs of a layer, and by those of the layer before.
    slope: Vec<f32>,
    slope_before: Vec<f32>,
}

impl Model {
    /// Adds the gradient of the mean loss over these images to `gradient`; gives that loss.
    pub(super) fn accumulate_gradient(
        &mut self,
        params: &[f32],
        data: &Dataset,
        batch: &[usize],
        gradient: &mut [f32],
    ) -> f32 {
        self.forward(params, data, batch);
        let loss = self.softmax_slope(data, batch);
        for layer in (0..LAYERS).rev() {
            let (n_in, n_out) = (WIDTHS[layer], WIDTHS[layer + 1]);
            let (weights, _) = split_layer(params, layer);
            let (weights_gradient, bias_gradient) = split_layer_mut(gradient, layer);
            let input = &self.activations[layer];
            for slope in self.slope.chunks_exact(n_out) {
                add_scaled(bias_gradient, 1.0, slope);
            }
            self.slope_before.clear();
            self.slope_before.resize(batch.len() * n_in, 0.0);
            // Neuron by neuron, so that a row of weights is fetched once for the whole batch. A
            // neuron that is off passes nothing on, in either direction: half of the work.
            for neuron in 0..n_in {
                let row = &weights[neuron * n_out..(neuron + 1) * n_out];
                let row_gradient = &mut weights_gradient[neuron * n_out..(neuron + 1) * n_out];
                for (image, slope) in self.slope.chunks_exact(n_out).enumerate() {
                    let at = image * n_in + neuron;
                    if input[at] > 0.0 {
                        add_scaled(row_gradient, input[at], slope);
                        if layer > 0 {
                            self.slope_before[at] = dot(row, slope);
                        }
                    }
                }
            }
            std::mem::swap(&mut self.slope, &mut self.slope_before);
        }
        loss
    }

    /// The share of the images whose digit is told, 0 to 1.
    pub(super) fn accuracy(&mut self, params: &[f32], data: &Dataset) -> f64 {
        let all: Vec<usize> = (0..data.len()).collect();
        self.forward(params, data, &all);
        let right = self.activations[LAYERS]
            .chunks_exact(CLASSES)
            .enumerate()
            .filter(|&(image, scores)| {
                let best = (0..CLASSES).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
                best == Some(data.digit(image))
            })
            .count();
        right as f64 / data.len().max(1) as f64
    }

    fn forward(&mut self, params: &[f32], data: &Dataset, batch: &[usize]) {
        self.activations[0].clear();
        for &index in batch {
            self.activations[0].extend_from_slice(data.image(index));
        }
        for layer in 0..LAYERS {
            let (n_in, n_out) = (WIDTHS[layer], WIDTHS[layer + 1]);
            let (weights, bias) = split_layer(params, layer);
            let (before, after) = self.activations.split_at_mut(layer + 1);
            let (input, output) = (&before[layer], &mut after[0]);
            output.clear();
            for _ in batch {
                output.extend_from_slice(bias);
            }
            for neuron in 0..n_in {
                let row = &weights[neuron * n_out..(neuron + 1) * n_out];
                for (image, scores) in output.chunks_exact_mut(n_out).enumerate() {
                    let x = input[image * n_in + neuron];
                    if x > 0.0 {
                        add_scaled(scores, x, row);
                    }
                }
            }
            if layer + 1 < LAYERS {
                output.iter_mut().for_each(|x| *x = x.max(0.0));
            }
        }
    }

    /// Turns the scores into the derivative of the mean loss by them; gives that loss.
    fn softmax_slope(&mut self, data: &Dataset, batch: &[usize]) -> f32 {
        self.slope.clear();
        self.slope.extend_from_slice(&self.activations[LAYERS]);
        let mut loss = 0.0;
        for (scores, &index) in self.slope.chunks_exact_mut(CLASSES).zip(batch) {
            let highest = scores.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            scores.iter_mut().for_each(|x| *x = (*x - highest).exp());
            let sum: f32 = scores.iter().sum();
            scores.iter_mut().for_each(|x| *x /= sum);
            let right = &mut scores[data.digit(index)];
            loss -= right.max(f32::MIN_POSITIVE).ln();
            *right -= 1.0;
        }
        let scale = 1.0 / batch.len().max(1) as f32;
        self.slope.iter_mut().for_each(|x| *x *= scale);
        loss * scale
    }
}

/// Where the parameters of a layer start: `[input][output]` weights, then biases.
const fn layer_start(layer: usize) -> usize {
    let (mut start, mut i) = (0, 0);
    while i < layer {
        start += (WIDTHS[i] + 1) * WIDTHS[i + 1];
        i += 1;
    }
    start
}

fn split_layer(params: &[f32], layer: usize) -> (&[f32], &[f32]) {
    params[layer_start(layer)..layer_start(layer + 1)].split_at(WIDTHS[layer] * WIDTHS[layer + 1])
}

fn split_layer_mut(params: &mut [f32], layer: usize) -> (&mut [f32], &mut [f32]) {
    params[layer_start(layer)..layer_start(layer + 1)]
        .split_at_mut(WIDTHS[layer] * WIDTHS[layer + 1])
}

fn add_scaled(sum: &mut [f32], scale: f32, values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += scale * value;
    }
}

/// Sums in 16 lanes, which the compiler may keep in registers: it may not reorder a plain sum.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_blocks, b_blocks) = (a.chunks_exact(16), b.chunks_exact(16));
    let rest = a_blocks.remainder().iter().zip(b_blocks.remainder());
    let tail: f32 = rest.map(|(a, b)| a * b).sum();
    for (a, b) in a_blocks.zip(b_blocks) {
        for lane in 0..16 {
            lanes[lane] += a[lane] * b[lane];
        }
    }
    lanes.iter().sum::<f32>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::dataset;

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let (train, _) = dataset::load().unwrap();
        let mut model = Model::default();
        let params = initial_parameters(1);
        let batch = [3, 14, 159, 265];
        let mut gradient = vec![0.0; PARAMETERS];
        model.accumulate_gradient(&params, &train, &batch, &mut gradient);

        let mut loss_at = |shift: f32| {
            let moved: Vec<f32> = params
                .iter()
                .zip(&gradient)
                .map(|(p, g)| p + shift * g)
                .collect();
            f64::from(model.accumulate_gradient(&moved, &train, &batch, &mut vec![0.0; PARAMETERS]))
        };
        let h = 1e-3;
        let measured = (loss_at(h) - loss_at(-h)) / (2.0 * f64::from(h));
        let squared: f64 = gradient.iter().map(|&g| f64::from(g).powi(2)).sum();
        assert!(
            (measured / squared - 1.0).abs() < 0.02,
            "{measured} {squared}"
        );
    }

    #[test]
    fn each_layer_has_the_right_slope_by_itself() {
        let (train, _) = dataset::load().unwrap();
        let mut model = Model::default();
        let params = initial_parameters(2);
        let batch: Vec<usize> = (0..8).collect();
        let mut gradient = vec![0.0; PARAMETERS];
        model.accumulate_gradient(&params, &train, &batch, &mut gradient);
        for layer in 0..LAYERS {
            let range = layer_start(layer)..layer_start(layer + 1);
            let mut loss_at = |shift: f32| {
                let mut moved = params.clone();
                for i in range.clone() {
                    moved[i] += shift * gradient[i];
                }
                let mut unused = vec![0.0; PARAMETERS];
                f64::from(model.accumulate_gradient(&moved, &train, &batch, &mut unused))
            };
            let h = 2e-3;
            let measured = (loss_at(h) - loss_at(-h)) / (2.0 * f64::from(h));
            let squared: f64 = gradient[range.clone()]
                .iter()
                .map(|&g| f64::from(g).powi(2))
                .sum();
            assert!(
                (measured / squared - 1.0).abs() < 0.05,
                "{layer}: {measured} {squared}"
            );
        }
    }

    #[test]
    fn same_seed_same_bits() {
        assert_eq!(initial_parameters(5), initial_parameters(5));
        assert_ne!(initial_parameters(5), initial_parameters(6));
        assert_eq!(initial_parameters(5).len(), PARAMETERS);
    }
}
