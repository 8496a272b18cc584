//! Denoising loss at fixed noise, on training and held-out images.

use crate::record::{Event, LIVE, Sink};
use heldout_core::{
    Batch, Clock, Denoiser, Error, EvalWeights, Evaluation, Flow, Observer, Persist, Result, State, Update,
    like, mean_flat, stream,
};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// The images, noise levels and seed of a validation: all that its numbers depend on besides the weights.
#[derive(Debug)]
pub struct ValidationSets {
    /// Training images `[N, C, H, W]`, with what the model is told of them.
    pub train: Batch,
    /// Held-out images `[N, C, H, W]`, as many.
    pub held_out: Batch,
    /// Noise levels, `ln(alpha^2 / sigma^2)`.
    pub log_snr: Vec<f64>,
    /// Rows of one forward pass.
    pub batch: i64,
    /// Seed of the noise, which is the same for both sets, for all weights and at all times.
    pub seed: u64,
}

/// Mean of `(x_start_hat - x_start)^2` per noise level, over the images of `batch`.
pub fn validation_loss(denoiser: &dyn Denoiser, batch: &Batch, sets: &ValidationSets) -> Vec<f64> {
    let (n, images) = (batch.len(), &batch.x_start);
    let time_of = |log_snr: f64| denoiser.schedule().time_of(&Tensor::from_slice(&[log_snr]));
    let level = |(index, log_snr): (usize, &f64)| {
        tch::manual_seed(stream(sets.seed, "validation noise", index as u64, 0) as i64);
        let noise = images.randn_like();
        let t = time_of(*log_snr).to_device(images.device()).expand([n], false);
        let m = denoiser.schedule().marginal(&t);
        let x_t = like(&m.alpha, images) * images + like(&m.sigma, images) * noise;
        let parts = (0..n).step_by(sets.batch as usize).map(|start| {
            let len = sets.batch.min(n - start);
            let rows = |x: &Tensor| x.narrow(0, start, len);
            let x_start_hat = denoiser.denoise(&rows(&x_t), &rows(&t), &batch.cond.narrow(start, len));
            mean_flat(&(x_start_hat - rows(images)).square())
        });
        Tensor::cat(&parts.collect::<Vec<_>>(), 0).mean(Kind::Double).double_value(&[])
    };
    tch::no_grad(|| sets.log_snr.iter().enumerate().map(level).collect())
}

/// Validates every `every` steps, with the live weights and with every average of them.
#[derive(Debug)]
pub struct Validator {
    /// The model, which shares its weights with the update.
    pub model: Rc<dyn Denoiser>,
    /// On what.
    pub sets: ValidationSets,
    /// How often, in steps; the last step is always validated.
    pub every: u64,
    /// Where the losses go.
    pub sink: Rc<dyn Sink>,
    /// The latest losses of the weights that count.
    pub latest: Option<Losses>,
}

/// Losses per noise level, in the order of [`ValidationSets::log_snr`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// On training images.
    pub train: Vec<f64>,
    /// On held-out images.
    pub held_out: Vec<f64>,
}

impl Losses {
    /// Mean over levels of the held-out loss.
    pub fn mean_held_out(&self) -> f64 {
        self.held_out.iter().sum::<f64>() / self.held_out.len() as f64
    }

    /// `(held_out - train) / held_out` per level: the share of the held-out loss that is missing on training images.
    pub fn gaps(&self) -> Vec<f64> {
        self.held_out.iter().zip(&self.train).map(|(held_out, train)| (held_out - train) / held_out).collect()
    }
}

impl Validator {
    fn validate(&mut self, step: u64, weights: &str) -> Result<()> {
        let train = validation_loss(self.model.as_ref(), &self.sets.train, &self.sets);
        let held_out = validation_loss(self.model.as_ref(), &self.sets.held_out, &self.sets);
        if train.iter().chain(&held_out).any(|loss| !loss.is_finite()) {
            let term = format!("validation loss of the {weights} weights");
            return Err(Error::Diverged { term, step });
        }
        self.latest = Some(Losses { train: train.clone(), held_out: held_out.clone() });
        let (weights, log_snr) = (weights.to_owned(), self.sets.log_snr.clone());
        self.sink.write(step, Event::Validation { weights, log_snr, train, held_out })
    }
}

impl Persist for Validator {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.insert("latest".to_owned(), serde_json::json!(self.latest));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let latest = state.values.remove("latest").unwrap_or_default();
        self.latest = serde_json::from_value(latest).map_err(|e| Error::config("latest", e.to_string()))?;
        Ok(())
    }
}

impl Observer for Validator {
    fn name(&self) -> &'static str {
        "validation"
    }

    fn score(&self) -> Option<(&'static str, f64)> {
        self.latest.as_ref().map(|losses| ("generalization", losses.mean_held_out()))
    }

    fn after_step(&mut self, clock: Clock, _: &Evaluation, update: &dyn Update) -> Result<Flow> {
        let done = clock.step + 1;
        if done.is_multiple_of(self.every) || done == clock.total {
            self.validate(done, LIVE)?;
            for average in update.averages() {
                let _guard = EvalWeights::swap_in(update.params(), average.weights);
                self.validate(done, average.name)?; // the outermost comes last: `latest` is of the weights that count
            }
        }
        Ok(Flow::Continue)
    }
}
