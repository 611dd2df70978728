//! The inner half of DiLoCo: AdamW steps on one worker's own shard.

use super::dataset::Dataset;
use super::model::{Model, PARAMETERS};
use super::random::Random;

/// Images of a mini-batch.
const BATCH: usize = 32;
const LEARNING_RATE: f32 = 5e-4;
const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.99;
const EPSILON: f32 = 1e-8;
const WEIGHT_DECAY: f32 = 0.01;

/// One worker's optimiser and its data.
///
/// Its moments stay with the worker, as in DiLoCo; only parameters are ever shared.
pub(super) struct Trainer {
    model: Model,
    shard: Dataset,
    seed: u64,
    shard_number: u64,
    gradient: Vec<f32>,
    mean: Vec<f32>,
    variance: Vec<f32>,
    steps: i32,
}

impl Trainer {
    /// A worker that sees `shard` of `shards` of the data.
    pub(super) fn new(data: &Dataset, shard: usize, shards: usize, seed: u64) -> Self {
        Self {
            model: Model::default(),
            shard: data.shard(shard, shards),
            seed,
            shard_number: shard as u64,
            gradient: vec![0.0; PARAMETERS],
            mean: vec![0.0; PARAMETERS],
            variance: vec![0.0; PARAMETERS],
            steps: 0,
        }
    }

    /// Moves `params` by `count` mini-batches; gives the mean loss over them.
    ///
    /// `first` is the number of the first step since the start of the run: a step's images depend
    /// on (seed, shard, number) alone, so a newcomer can start anywhere.
    pub(super) fn train(&mut self, params: &mut [f32], first: u64, count: u32) -> f32 {
        let mut loss = 0.0;
        for step in first..first + u64::from(count) {
            let mut random = Random::new(&[self.seed, 0xba7c, self.shard_number, step]);
            let batch: [usize; BATCH] = std::array::from_fn(|_| random.below(self.shard.len()));
            self.gradient.fill(0.0);
            loss += self
                .model
                .accumulate_gradient(params, &self.shard, &batch, &mut self.gradient);
            self.adam_w(params);
        }
        loss / count.max(1) as f32
    }

    /// The share of `data` that `params` tell right, 0 to 1.
    pub(super) fn accuracy(&mut self, params: &[f32], data: &Dataset) -> f64 {
        self.model.accuracy(params, data)
    }

    /// Loshchilov and Hutter, *Decoupled weight decay regularization*, 2019, algorithm 2.
    fn adam_w(&mut self, params: &mut [f32]) {
        self.steps += 1;
        let unbias_mean = 1.0 / (1.0 - BETA_1.powi(self.steps));
        let unbias_variance = 1.0 / (1.0 - BETA_2.powi(self.steps));
        let moments = self.mean.iter_mut().zip(&mut self.variance);
        for ((param, g), (mean, variance)) in params.iter_mut().zip(&self.gradient).zip(moments) {
            *mean = BETA_1 * *mean + (1.0 - BETA_1) * g;
            *variance = BETA_2 * *variance + (1.0 - BETA_2) * g * g;
            let step = *mean * unbias_mean / ((*variance * unbias_variance).sqrt() + EPSILON);
            *param -= LEARNING_RATE * (step + WEIGHT_DECAY * *param);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::dataset;
    use crate::demo::model::initial_parameters;
    use pccl::diloco::{OuterNesterov, pseudo_gradient};

    const SHARDS: usize = 4;
    const OUTER_STEPS: u64 = 12;
    const INNER_STEPS: u32 = 10;

    /// DiLoCo without a network: worker 1 is missing for a while and starts anew, as in the demo.
    fn diloco(seed: u64) -> f64 {
        let (train, test) = dataset::load().unwrap();
        let worker = |shard| Trainer::new(&train, shard, SHARDS, seed);
        let mut workers: Vec<Trainer> = (0..SHARDS).map(worker).collect();
        let mut params = initial_parameters(seed);
        let mut outer = OuterNesterov::new(
            PARAMETERS,
            OuterNesterov::LEARNING_RATE,
            OuterNesterov::MOMENTUM,
        );
        for step in 0..OUTER_STEPS {
            let mut mean = vec![0.0f32; PARAMETERS];
            let missing = (OUTER_STEPS / 3..OUTER_STEPS / 2).contains(&step);
            let world = if missing { SHARDS - 1 } else { SHARDS } as f32;
            if missing {
                workers[1] = worker(1);
            }
            for (shard, worker) in workers.iter_mut().enumerate() {
                if missing && shard == 1 {
                    continue;
                }
                let mut gradient = params.clone();
                worker.train(&mut gradient, step * u64::from(INNER_STEPS), INNER_STEPS);
                pseudo_gradient(&params, &mut gradient);
                mean.iter_mut()
                    .zip(&gradient)
                    .for_each(|(mean, g)| *mean += g / world);
            }
            outer.step(&mut params, &mean);
        }
        workers[0].accuracy(&params, &test)
    }

    #[test]
    fn four_shards_together_beat_one_of_them_alone() {
        let (train, test) = dataset::load().unwrap();
        let mut lone = Trainer::new(&train, 0, SHARDS, 1);
        let mut params = initial_parameters(1);
        let loss = lone.train(&mut params, 0, INNER_STEPS);
        let rest = (OUTER_STEPS as u32 - 1) * INNER_STEPS;
        assert!(lone.train(&mut params, u64::from(INNER_STEPS), rest) < loss);
        let (alone, together) = (lone.accuracy(&params, &test), diloco(1));
        assert!(
            together > 0.95 && together > alone,
            "{together} together, {alone} alone"
        );
    }

    #[test]
    fn a_step_depends_on_seed_shard_and_number_alone() {
        let (train, _) = dataset::load().unwrap();
        let run = |shard, first| {
            let mut params = initial_parameters(3);
            Trainer::new(&train, shard, SHARDS, 3).train(&mut params, first, 2);
            params
        };
        assert_eq!(run(2, 40), run(2, 40));
        assert_ne!(run(2, 40), run(2, 41));
        assert_ne!(run(2, 40), run(3, 40));
    }
}
