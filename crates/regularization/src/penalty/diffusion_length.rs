//! How far images are diffused before a critic sees them: adaptive.

use heldout_core::{Error, Persist, Result, State, like};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Tensor};

/// Forward diffusion in front of a critic, longer where the critic overfits.
///
/// Wang et al. 2023 (Diffusion-GAN), section 3: images are seen as `sqrt(alpha_bar_t) x + sqrt(1 - alpha_bar_t)
/// noise_std noise`, with `t` from a table of 64 slots: 32 of clean images (`t = 0`) and 32 of `1..=T`. Every
/// `interval` critic steps `p` moves towards the sign of `mean(sign(score of real)) - target` and `T = t_min + round(p
/// (t_max - t_min))`.
///
/// Law: `t_min <= T <= t_max`; half the table is 0.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DiffusionConfig {
    /// The shortest diffusion, in steps.
    pub t_min: i64,
    /// The longest, and the steps of the linear schedule of beta, from 1e-4 to 2e-2.
    pub t_max: i64,
    /// The share of real images that should be told as such, less that of the others.
    pub target: f64,
    /// Critic steps between two adjustments.
    pub interval: u64,
    /// Thousands of images over which `p` goes from 0 to 1, if it always rises.
    pub ada_kimg: f64,
    /// Deviation of the noise.
    pub noise_std: f64,
    /// How `t` is drawn from `1..=T`.
    pub draw: LengthDraw,
}

/// How `t` is drawn from `1..=T`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum LengthDraw {
    /// In proportion to `t`: new, long diffusions first.
    #[default]
    Priority,
    /// All alike.
    Uniform,
}

impl Default for DiffusionConfig {
    fn default() -> Self {
        Self {
            t_min: 10,
            t_max: 1000,
            target: 0.6,
            interval: 4,
            ada_kimg: 100.0,
            noise_std: 0.05,
            draw: LengthDraw::default(),
        }
    }
}

impl DiffusionConfig {
    /// Which field cannot be honoured.
    pub fn check(&self) -> Result<()> {
        let fail = |field: &str, reason: String| Err(Error::config(field, reason));
        let Self { t_min, t_max, target, interval, ada_kimg, noise_std, draw: _ } = *self;
        if t_min < 1 || t_max < t_min {
            return fail("t_min", format!("{t_min} and t_max {t_max}: 1 <= t_min <= t_max is needed"));
        }
        if !(-1.0..=1.0).contains(&target) {
            return fail("target", format!("{target} is not a mean of signs, -1 to 1"));
        }
        if interval == 0 {
            return fail("interval", "0: at least 1 critic step is needed".to_owned());
        }
        for (field, value) in [("ada_kimg", ada_kimg), ("noise_std", noise_std)] {
            if !(value > 0.0 && value.is_finite()) {
                return fail(field, format!("{value} is not a positive number"));
            }
        }
        Ok(())
    }
}

const SLOTS: i64 = 32;

/// The state of [`DiffusionConfig`].
#[derive(Debug)]
pub(crate) struct DiffusionLength {
    config: DiffusionConfig,
    /// In `[0, 1]`.
    p: f64,
    /// Signs of scores since the last adjustment, summed, on the device.
    signs: Tensor,
    /// How many scores these are.
    seen: u64,
    /// How many batches these are.
    batches: u64,
    /// `[64]`, `Int64`.
    table: Tensor,
    /// `[t_max + 1]`, from 1 at `t = 0`, f32.
    alpha_bar: Tensor,
}

impl DiffusionLength {
    /// Of length `t_min`; draws the table.
    pub(crate) fn new(config: DiffusionConfig, device: Device) -> Self {
        let beta = Tensor::linspace(1e-4, 2e-2, config.t_max, (Kind::Double, Device::Cpu));
        let clean = Tensor::ones([1], (Kind::Double, Device::Cpu));
        let alpha_bar = Tensor::cat(&[clean, (1.0f64 - beta).cumprod(0, Kind::Double)], 0);
        let mut new = Self {
            config,
            p: 0.0,
            signs: Tensor::zeros([1], (Kind::Float, device)),
            seen: 0,
            batches: 0,
            table: Tensor::zeros([2 * SLOTS], (Kind::Int64, device)),
            alpha_bar: alpha_bar.to_kind(Kind::Float).to_device(device),
        };
        new.draw_table();
        new
    }

    /// `T`.
    pub(crate) fn length(&self) -> i64 {
        let DiffusionConfig { t_min, t_max, .. } = self.config;
        t_min + (self.p * (t_max - t_min) as f64).round() as i64
    }

    fn draw_table(&mut self) {
        let place = (Kind::Int64, self.table.device());
        let drawn = match self.config.draw {
            LengthDraw::Priority => {
                let odds = Tensor::arange_start(1, self.length() + 1, (Kind::Float, place.1));
                odds.multinomial(SLOTS, true) + 1
            }
            LengthDraw::Uniform => Tensor::randint_low(1, self.length() + 1, [SLOTS], place),
        };
        self.table.narrow(0, SLOTS, SLOTS).copy_(&drawn);
    }

    /// Levels of `rows` images, `[rows]`, `Int64`.
    pub(crate) fn draw(&self, rows: i64) -> Tensor {
        let slots = Tensor::randint(2 * SLOTS, [rows], (Kind::Int64, self.table.device()));
        self.table.index_select(0, &slots)
    }

    /// The forward process, `[B, C, H, W]`, `[B]` and unit Gaussian noise to `[B, C, H, W]`.
    pub(crate) fn diffuse(&self, x: &Tensor, t: &Tensor, noise: &Tensor) -> Tensor {
        let alpha_bar = self.alpha_bar.index_select(0, t);
        let sigma = (1.0f64 - &alpha_bar).sqrt() * self.config.noise_std;
        like(&alpha_bar.sqrt(), x) * x + like(&sigma, x) * noise
    }

    /// Takes in the scores of a batch of real images, `[B]`; adjusts the length when it is time.
    pub(crate) fn observe(&mut self, scores: &Tensor) {
        self.signs += scores.detach().sign().sum(Kind::Float);
        self.seen += scores.size()[0] as u64;
        self.batches += 1;
        if self.batches < self.config.interval {
            return;
        }
        let excess = self.signs.double_value(&[0]) / self.seen as f64 - self.config.target;
        let direction = if excess == 0.0 { 0.0 } else { excess.signum() };
        let step = self.seen as f64 / (self.config.ada_kimg * 1000.0);
        self.p = (self.p + direction * step).clamp(0.0, 1.0);
        let _ = self.signs.zero_();
        (self.seen, self.batches) = (0, 0);
        self.draw_table();
    }

    /// The table, `[64]`.
    #[cfg(test)]
    pub(crate) fn table(&self) -> &Tensor {
        &self.table
    }
}

impl Persist for DiffusionLength {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.insert("p".to_owned(), self.p.into());
        state.set_count("seen", self.seen);
        state.set_count("batches", self.batches);
        state.tensors.insert("signs".to_owned(), self.signs.copy());
        state.tensors.insert("table".to_owned(), self.table.copy());
        state
    }

    fn load_state(&mut self, mut state: State) -> Result<()> {
        let p = state.values.remove("p").and_then(|v| v.as_f64());
        self.p = p.ok_or_else(|| Error::config("p", "missing or not a number in the saved state"))?;
        self.seen = state.count("seen")?;
        self.batches = state.count("batches")?;
        state.restore("signs", &mut self.signs)?;
        state.restore("table", &mut self.table)
    }
}
