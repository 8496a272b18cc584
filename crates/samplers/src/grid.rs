//! Time grids, and the loop that every sampler shares.

use heldout_core::{Cond, Denoiser, Marginal, Step};
use tch::{Kind, Tensor};

/// `steps + 1` times in equal steps from 1 (noise) to 0 (data): the "trailing" spacing of discrete schedules.
///
/// Lin et al. 2024, Table 2.
pub fn linear_times(steps: usize) -> Vec<f64> {
    (0..=steps).map(|i| 1.0 - i as f64 / steps as f64).collect()
}

/// What one step of a solver knows: where it is, where it goes, and the denoised estimate.
pub(crate) struct Stage<'a> {
    pub(crate) index: u64,
    pub(crate) x: &'a Tensor,
    pub(crate) x_start_hat: Tensor,
    pub(crate) now: Marginal,
    pub(crate) next: Marginal,
}

/// Runs `advance` over consecutive pairs of `times`, one evaluation of the denoiser each.
pub(crate) fn one_evaluation_a_step(
    denoiser: &dyn Denoiser,
    mut x: Tensor,
    times: &[f64],
    cond: &Cond,
    watch: &mut dyn FnMut(Step<'_>),
    mut advance: impl FnMut(Stage<'_>) -> Tensor,
) -> Tensor {
    let schedule = denoiser.schedule();
    let at = |t: f64| Tensor::full([x.size()[0]], t, (Kind::Double, x.device()));
    let grid: Vec<_> = times.windows(2).map(|w| (w[0], at(w[0]), at(w[1]))).collect();
    for (index, (t, now, next)) in grid.into_iter().enumerate() {
        let x_start_hat = denoiser.denoise(&x, &now, cond);
        watch(Step { x_t: &x, x_start_hat: &x_start_hat, t });
        let (now, next) = (schedule.marginal(&now), schedule.marginal(&next));
        x = advance(Stage { index: index as u64, x: &x, x_start_hat, now, next });
    }
    x
}
