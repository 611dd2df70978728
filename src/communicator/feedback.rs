//! What quantization dropped, kept for the next time.

use zerocopy::IntoBytes;

use crate::engine::Lendable;

/// Error feedback: what a peer's quantizations drop from a buffer is kept and added the next time the
/// buffer is reduced, so that nothing is lost for good, only late.
///
/// In an all-reduce each peer quantizes each element once: its own contribution, or a sum on its way,
/// or the result. All that the result lacks is therefore in the residuals of the peers, to the last
/// rounding of `f32`; a sum over many operations is off by what one operation drops, however many there
/// were. See S. Karimireddy et al., *Error Feedback Fixes SignSGD and other Gradient Compression
/// Schemes*, arXiv 1901.09847.
///
/// For sums and averages of `f16`, `bf16` and `f32`. Given to an operation by [`Reduce::feedback`],
/// which takes the residual into account only where the operation is quantized. It changes when the
/// operation commits; after an error it is as before. A block that held a NaN or an infinity leaves no
/// residual.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let communicator = pccl::Communicator::new(pccl::Config::new("127.0.0.1:48148"))?;
/// use pccl::{ErrorFeedback, Quantization, Reduce, ReduceOptions};
///
/// let mut gradient = vec![0.0_f32; 1000];
/// let mut feedback = ErrorFeedback::new(gradient.len());
/// let options = ReduceOptions::avg().quantize(Quantization::int4());
/// for _ in 0..10 {
///     // ... the gradient is computed ...
///     let reduce = Reduce::in_place(&mut gradient, options).feedback(&mut feedback);
///     communicator.all_reduce_many(&mut [reduce], 1)?;
/// }
/// # Ok(()) }
/// ```
///
/// Each peer's residual is its own. As part of the shared state it is a tensor that
/// [need not be equal](crate::SharedState::tensor_unequal): a peer keeps what it has. A newcomer starts
/// with zeros, and what a lost peer had dropped last is lost with it.
///
/// [`Reduce::feedback`]: crate::Reduce::feedback
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorFeedback {
    residual: Vec<f32>,
    /// Written while an operation runs, so that one that fails leaves the other as it was.
    next: Vec<f32>,
}

impl ErrorFeedback {
    /// Nothing was dropped so far from a buffer of so many elements. Takes 8 bytes for each.
    pub fn new(elements: usize) -> Self {
        Self {
            residual: vec![0.0; elements],
            next: vec![0.0; elements],
        }
    }

    /// What was dropped and is still to be added, in units of a contribution.
    pub fn residual(&self) -> &[f32] {
        &self.residual
    }

    /// The same, to restore it, or to offer it as a tensor of the shared state.
    pub fn residual_mut(&mut self) -> &mut [f32] {
        &mut self.residual
    }

    pub(super) fn lend(&mut self) -> Lendable<'_> {
        Lendable::Apart {
            send: self.residual.as_bytes(),
            recv: self.next.as_mut_bytes(),
        }
    }

    /// The operation has committed, and every element was quantized.
    pub(super) fn commit(&mut self) {
        std::mem::swap(&mut self.residual, &mut self.next);
    }
}
