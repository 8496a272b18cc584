//! The denoising objective.

use heldout_core::{
    Batch, Clock, Denoising, DenoisingPenalty, Evaluation, NoiseSource, Noised, Objective, Persist,
    Preconditioned, Recorder, Result, Rows, State, TimeSampler, Times, Weighting, like, mean_flat,
};
use std::rc::Rc;
use tch::Kind;

/// Weighted squared error of the network against the target of its parameterisation, plus penalties.
///
/// `weight(x_start space) * c_out^2 * |F - F*|^2`, which is `weight * |x_start_hat - x_start|^2` (Karras et al. 2022,
/// Eq. 8) without the cancellation at low noise.
#[derive(Debug)]
pub struct DenoisingObjective {
    /// The model; observers share it.
    pub model: Rc<Preconditioned>,
    /// Draws noise levels.
    pub times: Box<dyn TimeSampler>,
    /// Draws noise.
    pub noise: Box<dyn NoiseSource>,
    /// Weights noise levels.
    pub weighting: Box<dyn Weighting>,
    /// Further terms.
    pub penalties: Vec<DenoisingPenalty>,
}

impl Persist for DenoisingObjective {
    fn state(&self) -> State {
        let mut state = State::default();
        state.nest("times", self.times.state());
        self.penalties.iter().enumerate().for_each(|(i, p)| state.nest(&format!("penalty {i}"), p.state()));
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        self.times.load_state(state.unnest("times"))?;
        let mut penalties = self.penalties.iter_mut().enumerate();
        penalties.try_for_each(|(i, p)| p.load_state(state.unnest(&format!("penalty {i}"))))
    }
}

impl Objective for DenoisingObjective {
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let Batch { x_start, cond, index: _, known } = batch;
        let Times { t, weight: importance } = self.times.sample(x_start.size()[0], clock, x_start.device());
        let draw = self.noise.draw(x_start, &t, clock);
        let marginal = self.model.schedule.marginal(&t);
        let mut x_t =
            like(&marginal.alpha, x_start) * x_start + like(&marginal.sigma, x_start) * draw.applied;
        if let Some(known) = known {
            x_t *= &known.input;
        }
        if self.penalties.iter().any(|p| p.differentiates_input()) {
            x_t = x_t.set_requires_grad(true);
        }

        let scalings = self.model.parameterization.scalings(&marginal);
        let wanted = self.penalties.iter().flat_map(|p| p.taps()).collect();
        let mut taps = Recorder { wanted, seen: Vec::new() };
        let raw = self.model.raw(&x_t, &scalings, cond, true, &mut taps);
        let (raw, variance) = Preconditioned::parts(raw, x_start);

        let (a, b) = scalings.target(&marginal);
        let target = like(&a, x_start) * x_start + like(&b, x_start) * &draw.target;
        let squared = (&raw - &target).square();
        let error = match known {
            None => mean_flat(&squared), // [B]
            // The mean over what is known.
            Some(known) => mean_flat(&(squared * &known.loss)) / mean_flat(&known.loss).clamp_min(1e-6),
        };
        let weight = (self.weighting.weight(&marginal) * scalings.c_out.square()).to_kind(Kind::Float);
        let mut weighted = error * &weight;
        self.times.observe(&t, &weighted.detach());
        if let Some(price) = self.weighting.regularizer(&marginal) {
            weighted += price.to_kind(Kind::Float);
        }
        let importance = importance.to_kind(Kind::Float);
        let mut rows = weighted * &importance;
        let mut terms = vec![("denoising", rows.detach().mean(Kind::Float))];
        let log_snr = marginal.log_snr().detach();
        if self.penalties.is_empty() {
            let loss = rows.mean(Kind::Float);
            return Ok(Evaluation { loss, rows: Some(Rows { loss: rows, log_snr }), terms });
        }

        let x_start_hat = like(&scalings.c_skip, x_start) * &x_t + like(&scalings.c_out, x_start) * raw;
        let noised = Noised { x_start: x_start.shallow_clone(), noise: draw.target, t, x_t, marginal };
        let view = Denoising {
            denoiser: self.model.as_ref(),
            noised: &noised,
            x_start_hat: &x_start_hat,
            target: &target,
            weight: &(weight * importance),
            loss: &rows.shallow_clone(),
            variance: variance.as_ref(),
            taps: &taps.seen,
            cond,
            clock,
        };
        for penalty in &mut self.penalties {
            let term = penalty.penalty(&view)?;
            terms.push((penalty.name(), term.detach().mean(Kind::Float)));
            terms.extend(penalty.terms());
            rows = &rows + term; // not in place: the view's loss is this tensor
        }
        Ok(Evaluation { loss: rows.mean(Kind::Float), rows: Some(Rows { loss: rows, log_snr }), terms })
    }
}
