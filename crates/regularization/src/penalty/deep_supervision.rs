//! A loss at every depth of a nested UNet.

use heldout_core::{Denoising, Error, Penalty, Persist, Preconditioned, Result, Site, mean_flat};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The weighted loss of the shallower depths: the mean over heads of `weight * mean((head - target)^2)`, `[B]`; heads
/// `[B, C, H, W]`, or with the channels of a learned variance behind them, which are not looked at.
///
/// Zhou et al. 2018, section 3.2. A nested UNet shows the prediction of depth `j` at `Site::Head(j)` in training.
///
/// Law: with one head that predicts what the model predicts it is the loss itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DeepSupervisionConfig {
    /// How many heads, from depth 1 on. The deepest is the model's output and has its loss already: give the depth
    /// less 1.
    pub heads: usize,
}

impl DeepSupervisionConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        if self.heads > 0 {
            return Ok(());
        }
        Err(Error::config("heads", "0: at least 1 is needed, the grid's depth less 1"))
    }
}

impl Persist for DeepSupervisionConfig {}

impl Penalty<Denoising<'_>> for DeepSupervisionConfig {
    fn name(&self) -> &'static str {
        "deep_supervision"
    }

    fn penalty(&mut self, view: &Denoising<'_>) -> Result<Tensor> {
        let mut sum = view.weight.zeros_like();
        for site in self.taps() {
            let head = super::tapped(view, site)?;
            let (head, _) = Preconditioned::parts(head.shallow_clone(), view.target);
            sum += mean_flat(&(head - view.target).square());
        }
        Ok(sum * view.weight / self.heads as f64)
    }

    fn taps(&self) -> Vec<Site> {
        (1..=self.heads).map(Site::Head).collect()
    }
}
