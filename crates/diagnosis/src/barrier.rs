//! The loss along the line between two sets of weights.

use crate::PairedSets;
use heldout_core::Mean;
use heldout_core::{Batch, Denoiser, Error, EvalWeights, Params, Result};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// The loss along the line on one set of images, and how far it rises above the straight line between its ends.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LossBarrier {
    /// The loss at each of [`Barrier::positions`]: mean over pixels, images and noise levels.
    pub losses: Vec<f64>,
    /// Largest excess of the loss over the linear interpolation of its ends, at least 0, and its error over images.
    pub barrier: Mean,
    /// Where that is.
    pub position: f64,
}

/// Both sets.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Barrier {
    /// Shares of the second end's weights, from 0 to 1.
    pub positions: Vec<f64>,
    /// On training images.
    pub train: LossBarrier,
    /// On held-out images.
    pub held_out: LossBarrier,
}

/// The denoising loss of `denoiser`, whose weights are `params`, at `positions` places on the line from `ends[0]` to `ends[1]`
/// (each in the order of `params`), at the same draws of noise everywhere.
///
/// Barrier: Entezari et al. 2022, section 2; Frankle et al. 2020, section 2, with the linear interpolation in the place of
/// the mean of the ends. Two optima of one basin have none. The weights come back bit for bit.
///
/// Errors: fewer than 3 positions, ends that are not of the model's shapes, a loss that is no number.
pub fn barrier(
    denoiser: &dyn Denoiser,
    params: &Params,
    ends: [&[Tensor]; 2],
    sets: &PairedSets,
    positions: usize,
) -> Result<Barrier> {
    if positions < 3 {
        let reason = format!("{positions}: the ends and at least one place between them are needed");
        return Err(Error::config("positions", reason));
    }
    for (field, end) in ["ends[0]", "ends[1]"].into_iter().zip(ends) {
        check(field, params, end)?;
    }
    let positions: Vec<f64> = (0..positions).map(|i| i as f64 / (positions - 1) as f64).collect();
    let _live = EvalWeights::swap_in(params, ends[0]); // brings the weights back, whatever happens
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for position in &positions {
        let between: Vec<Tensor> =
            ends[0].iter().zip(ends[1]).map(|(a, b)| on_line(a, b, *position)).collect();
        params.restore(&between);
        train.push(losses(denoiser, sets, &sets.train)?);
        held_out.push(losses(denoiser, sets, &sets.held_out)?);
    }
    let [train, held_out] = [train, held_out].map(|rows| loss_barrier(&positions, &rows));
    Ok(Barrier { positions, train, held_out })
}

fn check(field: &str, params: &Params, end: &[Tensor]) -> Result<()> {
    let (found, needed) = (end.len(), params.tensors().count());
    if found != needed {
        let reason =
            format!("{found} tensors for a model of {needed}: both ends must be of one architecture");
        return Err(Error::config(field, reason));
    }
    match params.named().zip(end).find(|((_, p), t)| p.size() != t.size()) {
        None => Ok(()),
        Some(((name, p), t)) => {
            let reason = format!("{name} is {:?} where the model has {:?}", t.size(), p.size());
            Err(Error::config(field, reason))
        }
    }
}

/// The ends themselves are exact.
fn on_line(a: &Tensor, b: &Tensor, position: f64) -> Tensor {
    match position {
        0.0 => a.shallow_clone(),
        1.0 => b.shallow_clone(),
        _ => a.lerp(b, position),
    }
}

/// Loss of each row, mean over levels, `[N]`.
fn losses(denoiser: &dyn Denoiser, sets: &PairedSets, set: &Batch) -> Result<Tensor> {
    let levels = sets.levels(denoiser.schedule())?;
    let rows: Vec<Tensor> = levels.into_iter().map(|level| sets.losses(denoiser, set, level)).collect();
    let rows = Tensor::stack(&rows, 1).mean_dim(1i64, false, tch::Kind::Double);
    if rows.isfinite().all().int64_value(&[]) == 0 {
        return Err(Error::config("ends", "the loss on the line between them is not finite"));
    }
    Ok(rows)
}

/// `rows[i]` `[N]` belongs to `positions[i]`.
fn loss_barrier(positions: &[f64], rows: &[Tensor]) -> LossBarrier {
    let (first, last) = (&rows[0], &rows[rows.len() - 1]);
    let excess =
        positions.iter().zip(rows).map(|(p, rows)| Mean::of(&(rows - first * (1.0 - p) - last * *p)));
    // At the ends it is 0 by definition, so that a valley between them is no barrier.
    let start = (Mean { value: 0.0, standard_error: 0.0 }, 0.0);
    let inner = excess.zip(positions).skip(1).take(positions.len() - 2);
    let (barrier, position) =
        inner.fold(start, |best, (mean, p)| if mean.value > best.0.value { (mean, *p) } else { best });
    LossBarrier { losses: rows.iter().map(|rows| Mean::of(rows).value).collect(), barrier, position }
}
