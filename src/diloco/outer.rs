//! The outer optimiser: stochastic gradient descent with Nesterov momentum on pseudo-gradients.

/// Writes `outer - inner` into `inner`: what the inner steps moved, with the sign of a gradient.
///
/// In place, so that a worker needs one copy of its parameters beside the outer ones. Elements
/// beyond the shorter slice are left alone.
pub fn pseudo_gradient(outer: &[f32], inner: &mut [f32]) {
    for (inner, outer) in inner.iter_mut().zip(outer) {
        *inner = outer - *inner;
    }
}

/// The outer optimiser of DiLoCo (arXiv 2311.08105, algorithm 1, line 14).
///
/// With `g` the averaged pseudo-gradient, `v` the momentum, `mu` its decay and `lr` the rate:
///
/// ```text
/// v      <- mu * v + g
/// params <- params - lr * (g + mu * v)
/// ```
///
/// the form of Nesterov momentum of Sutskever et al. (2013) as common frameworks implement it.
/// The paper finds `lr` 0.7 and `mu` 0.9 good. Each element takes six `f32` operations
/// in one fixed order without fused multiply-add, so that peers which start from the
/// same bits and are given the same bits end with the same bits, whatever their processor.
#[derive(Clone, Debug, PartialEq)]
pub struct OuterNesterov {
    learning_rate: f32,
    momentum: f32,
    velocity: Vec<f32>,
}

impl OuterNesterov {
    /// The learning rate that the paper recommends.
    pub const LEARNING_RATE: f32 = 0.7;
    /// The momentum that the paper recommends.
    pub const MOMENTUM: f32 = 0.9;

    /// An optimiser of `parameters` parameters that stands still. Takes 4 bytes for each.
    pub fn new(parameters: usize, learning_rate: f32, momentum: f32) -> Self {
        Self {
            learning_rate,
            momentum,
            velocity: vec![0.0; parameters],
        }
    }

    /// Moves `params` by one outer step along the averaged pseudo-gradient.
    ///
    /// Elements beyond the shortest of the two slices and the number given at the start are left
    /// alone.
    pub fn step(&mut self, params: &mut [f32], mean_pseudo_gradient: &[f32]) {
        let (lr, mu) = (self.learning_rate, self.momentum);
        for ((param, gradient), velocity) in params
            .iter_mut()
            .zip(mean_pseudo_gradient)
            .zip(&mut self.velocity)
        {
            *velocity = mu * *velocity + gradient;
            *param -= lr * (gradient + mu * *velocity);
        }
    }

    /// The momentum buffer, to hash or to save.
    pub fn velocity(&self) -> &[f32] {
        &self.velocity
    }

    /// The momentum buffer, to offer as a tensor of the shared state beside the parameters.
    pub fn velocity_mut(&mut self) -> &mut [f32] {
        &mut self.velocity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_step_is_one_plus_mu_times_the_rate() {
        let mut outer = OuterNesterov::new(2, 0.5, 0.5);
        let mut params = [1.0, -1.0];
        outer.step(&mut params, &[1.0, 2.0]);
        assert_eq!(params, [1.0 - 0.75, -1.0 - 1.5]);
        assert_eq!(outer.velocity(), [1.0, 2.0]);
    }

    #[test]
    fn momentum_goes_on_without_a_gradient_and_fades() {
        let mut outer = OuterNesterov::new(1, 1.0, 0.5);
        let mut params = [0.0];
        outer.step(&mut params, &[1.0]);
        outer.step(&mut params, &[0.0]);
        // v = 1, then 0.5; steps of 1.5 and 0.25.
        assert_eq!(params, [-1.75]);
        assert_eq!(outer.velocity(), [0.5]);
    }

    #[test]
    fn without_momentum_and_at_rate_one_it_is_the_average_of_the_workers() {
        let outer_params = [4.0f32, 8.0];
        let mut a = [2.0, 8.0];
        let mut b = [4.0, 0.0];
        pseudo_gradient(&outer_params, &mut a);
        pseudo_gradient(&outer_params, &mut b);
        let mean = [(a[0] + b[0]) / 2.0, (a[1] + b[1]) / 2.0];
        let mut params = outer_params;
        OuterNesterov::new(2, 1.0, 0.0).step(&mut params, &mean);
        assert_eq!(params, [3.0, 4.0]);
    }

    #[test]
    fn a_newcomer_with_the_same_parameters_and_momentum_goes_on_with_the_same_bits() {
        let gradient = |step: u32| -> Vec<f32> {
            (0..100)
                .map(|i| ((i * 31 + step * 17) % 97) as f32 / 97.0 - 0.4)
                .collect()
        };
        let mut veteran = OuterNesterov::new(100, 0.7, 0.9);
        let mut params = vec![0.1f32; 100];
        for step in 0..5 {
            veteran.step(&mut params, &gradient(step));
        }
        let mut newcomer = OuterNesterov::new(100, 0.7, 0.9);
        newcomer.velocity_mut().copy_from_slice(veteran.velocity());
        let mut received = params.clone();
        for step in 5..9 {
            veteran.step(&mut params, &gradient(step));
            newcomer.step(&mut received, &gradient(step));
        }
        let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&params), bits(&received));
        assert_eq!(bits(veteran.velocity()), bits(newcomer.velocity()));
    }

    #[test]
    fn a_bowl_is_descended() {
        let mut outer = OuterNesterov::new(1, 0.1, 0.9);
        let mut params = [5.0f32];
        for _ in 0..200 {
            let gradient = [params[0]];
            outer.step(&mut params, &gradient);
        }
        assert!(params[0].abs() < 1e-3, "{}", params[0]);
    }
}
