//! DiLoCo: workers train alone for many inner steps and talk only once in a while.
//!
//! ```text
//! every worker                                       all workers
//! inner = outer; H steps of its own optimiser  --->  g = average of (outer - inner)
//!         on its own data                            outer = OuterNesterov::step(outer, g)
//! ```
//!
//! A. Douillard et al., *DiLoCo: Distributed Low-Communication Training of Language Models*,
//! arXiv 2311.08105. The average is an all-reduce; everything else is here and needs no network.
//! What peers must share is the outer parameters and the momentum of the outer optimiser: a
//! newcomer that receives both goes on exactly as the others do.
//!
//! The gradients may be quantized on their way: with 8 bits as they are, with 4 by means of what is
//! dropped and added the next time (`ErrorFeedback`).

mod outer;

pub use outer::{OuterNesterov, pseudo_gradient};
