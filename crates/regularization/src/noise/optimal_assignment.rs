//! Noise that goes to the example that it is nearest to.

use super::assignment::cheapest;
use heldout_core::{Clock, NoiseDraw, NoiseSource};
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Settings of [`OptimalAssignment`]: none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct OptimalAssignmentConfig {}

/// Noise reordered within the batch so that the sum of `|x_start - target|^2` is minimal; `[B, C, H, W]`. Li et al. 2024
/// (Immiscible Diffusion); Pooladian et al. 2023 and Tong et al. 2023 (minibatch optimal transport).
///
/// Straighter paths, and fewer images that one noise must become. The distances leave the device, `B^2` numbers, and the
/// assignment is exact; it takes `O(B^3)`. In expectation over batches the noise stays unit Gaussian; within a batch it
/// depends on the data, which is the point.
///
/// Law: the rows of noise are those of the source inside, in another order; it draws nothing itself.
#[derive(Debug)]
pub struct OptimalAssignment<N> {
    inner: N,
}

impl<N: NoiseSource> OptimalAssignment<N> {
    /// Around `inner`.
    pub fn new(inner: N, _: OptimalAssignmentConfig) -> Self {
        Self { inner }
    }
}

impl<N: NoiseSource> NoiseSource for OptimalAssignment<N> {
    fn draw(&mut self, x_start: &Tensor, t: &Tensor, clock: Clock) -> NoiseDraw {
        let draw = self.inner.draw(x_start, t, clock);
        let rows = x_start.size()[0];
        if rows < 2 {
            return draw;
        }
        // The squared norms sum up to the same for every order.
        let cost = x_start.flatten(1, -1).matmul(&draw.target.flatten(1, -1).transpose(0, 1)) * -1.0;
        let mut host = vec![0.0; (rows * rows) as usize];
        cost.to_kind(Kind::Double).contiguous().copy_data(&mut host, (rows * rows) as usize);
        let order: Vec<i64> = cheapest(&host, rows as usize).into_iter().map(|i| i as i64).collect();
        let order = Tensor::from_slice(&order).to_device(x_start.device());
        NoiseDraw {
            applied: draw.applied.index_select(0, &order),
            target: draw.target.index_select(0, &order),
        }
    }
}
