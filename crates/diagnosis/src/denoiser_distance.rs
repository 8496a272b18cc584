//! Where a model stands between the memorising denoiser and the true one, per noise level.

use crate::PairedSets;
use crate::paired_sets::Level;
use heldout_core::Mean;
use heldout_core::{Batch, Denoiser, Result, mean_flat};
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// Both sets at one noise level.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct LevelDistance {
    /// `ln(alpha^2 / sigma^2)`.
    pub log_snr: f64,
    /// On noised training images, where a copier is right.
    pub train: Distances,
    /// On noised held-out images, where it is not.
    pub held_out: Distances,
}

/// Mean squared distances between images, over pixels and rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Distances {
    /// `|model - copier|^2`.
    pub to_copier: Mean,
    /// `|copier - x_start|^2`.
    pub copier_error: Mean,
    /// `|model - x_start|^2`.
    pub model_error: Mean,
    /// `to_copier` over the copier's error on held-out images at this level: 0 is the copier. On held-out images the exact
    /// denoiser of the data has `1 - (its error / the copier's)`, since it is the nearest to `x_start` of all functions of
    /// `x_t`; 1 is `x_start` itself. `None` where the copier makes no error on held-out images.
    pub share: Option<Mean>,
    /// Where the true denoiser is known.
    pub truth: Option<TruthDistance>,
}

/// The model beside the true denoiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct TruthDistance {
    /// `|model - truth|^2`.
    pub to_truth: Mean,
    /// `|copier - truth|^2`.
    pub copier_to_truth: Mean,
    /// `<model - copier, truth - copier> / |truth - copier|^2`: 0 is the copier, 1 the truth. `None` where they are equal.
    pub position: Option<Mean>,
}

/// `model` beside the closed-form denoiser of its training set, `copier`, and the denoiser of the distribution that the images
/// come from, `truth`, where that is known.
///
/// A copier: Gu et al. 2023, Eq. 2. All three are asked about the same `x_t`, which are made by the model's schedule. Where
/// noise is weak all denoisers agree on training images, and where it hides the image they agree on both sets: held-out
/// images at the levels between say most.
pub fn denoiser_distance(
    model: &dyn Denoiser,
    copier: &dyn Denoiser,
    truth: Option<&dyn Denoiser>,
    sets: &PairedSets,
) -> Result<Vec<LevelDistance>> {
    let rows = |set, level| Rows::of(model, copier, truth, sets, set, level);
    let at = |level: Level| {
        let (train, held_out) = (rows(&sets.train, level), rows(&sets.held_out, level));
        let unit = &held_out.copier_error;
        LevelDistance {
            log_snr: level.log_snr,
            train: train.distances(unit),
            held_out: held_out.distances(unit),
        }
    };
    Ok(sets.levels(model.schedule())?.into_iter().map(at).collect())
}

/// Per row, `[N]`.
struct Rows {
    to_copier: Tensor,
    copier_error: Tensor,
    model_error: Tensor,
    /// `|model - truth|^2`, `|copier - truth|^2` and `<model - copier, truth - copier>`.
    truth: Option<[Tensor; 3]>,
}

impl Rows {
    fn of(
        model: &dyn Denoiser,
        copier: &dyn Denoiser,
        truth: Option<&dyn Denoiser>,
        sets: &PairedSets,
        set: &Batch,
        level: Level,
    ) -> Self {
        let measured = sets.rows(set, level, model.schedule(), |noised, cond| {
            let ask = |denoiser: &dyn Denoiser| denoiser.denoise(&noised.x_t, &noised.t, cond);
            let (ours, copied) = (ask(model), ask(copier));
            let away = &ours - &copied;
            let squared = |x: Tensor| mean_flat(&x.square());
            let [to_truth, copier_to_truth, along] = match truth.map(ask) {
                Some(true_one) => {
                    let whole = &true_one - &copied;
                    [squared(&ours - &true_one), mean_flat(&whole.square()), mean_flat(&(&away * &whole))]
                }
                None => std::array::from_fn(|_| noised.t.zeros_like()),
            };
            [
                mean_flat(&away.square()),
                squared(copied - &noised.x_start),
                squared(ours - &noised.x_start),
                to_truth,
                copier_to_truth,
                along,
            ]
        });
        let [to_copier, copier_error, model_error, to_truth, copier_to_truth, along] = measured;
        let truth = truth.map(|_| [to_truth, copier_to_truth, along]);
        Self { to_copier, copier_error, model_error, truth }
    }

    /// `unit` `[N]`: the copier's error on held-out images.
    fn distances(&self, unit: &Tensor) -> Distances {
        Distances {
            to_copier: Mean::of(&self.to_copier),
            copier_error: Mean::of(&self.copier_error),
            model_error: Mean::of(&self.model_error),
            share: Mean::ratio(&self.to_copier, unit),
            truth: self.truth.as_ref().map(|[to_truth, copier_to_truth, along]| TruthDistance {
                to_truth: Mean::of(to_truth),
                copier_to_truth: Mean::of(copier_to_truth),
                position: Mean::ratio(along, copier_to_truth),
            }),
        }
    }
}
