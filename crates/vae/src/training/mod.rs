//! How autoencoders are trained.

mod adversary;
mod alignment;
mod networks;
mod objective;
mod patch_critic;

pub use adversary::{PatchAdversary, PatchAdversaryConfig};
pub use alignment::{LatentAlignment, LatentAlignmentConfig};
pub use networks::{FrozenMaps, Perceptual};
pub use objective::{AutoencoderObjective, AutoencoderObjectiveConfig, ObjectiveParts, PixelLoss};
pub use patch_critic::PatchCritic;

use heldout_core::Result;
use tch::{Kind, Tensor};

/// How strongly `loss` pulls at `weight` for every unit that `term` does: Esser et al. 2021, Eq. 7, with the bounds of their
/// code. One number without a graph, where the tensors are.
fn balance(loss: &Tensor, term: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let pull = |of: &Tensor| {
        let grads = Tensor::f_run_backward(&[of], &[weight], true, false)?;
        Ok::<_, heldout_core::Error>(grads[0].detach().to_kind(Kind::Float).norm())
    };
    Ok((pull(loss)? / (pull(term)? + 1e-4)).clamp(0.0, 1e4))
}
