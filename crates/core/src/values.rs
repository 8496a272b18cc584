//! The values that flow between the parts. `B` batch, `C` channels, `H`, `W` space.

use crate::Cond;
use tch::{Kind, Tensor};

/// Training examples.
#[derive(Debug)]
pub struct Batch {
    /// Clean data `[B, C, H, W]`, images in `[-1, 1]`.
    pub x_start: Tensor,
    /// What goes with it.
    pub cond: Cond,
    /// Place of each example in the training set, `[B]`, `Int64`, for what is fixed for an example over the whole run.
    pub index: Option<Tensor>,
    /// Which parts of `x_start` are known, where not all of it is.
    pub known: Option<Known>,
}

/// The known part of corrupted examples; both of 0 and 1, `[B, 1, H, W]`. Daras et al. 2023, section 3.
#[derive(Debug)]
pub struct Known {
    /// What the loss may look at.
    pub loss: Tensor,
    /// What the network may look at: a part of that.
    pub input: Tensor,
}

impl Known {
    /// Both, changed.
    #[must_use]
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { loss: change(&self.loss), input: change(&self.input) }
    }
}

impl Batch {
    /// Examples of which all is known.
    pub fn new(x_start: Tensor, cond: Cond) -> Self {
        Self { x_start, cond, index: None, known: None }
    }

    /// Every tensor, changed; all start with the batch.
    #[must_use]
    pub fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self {
            x_start: change(&self.x_start),
            cond: self.cond.map(&change),
            index: self.index.as_ref().map(&change),
            known: self.known.as_ref().map(|known| known.map(&change)),
        }
    }

    /// The same tensors under new handles.
    #[must_use]
    pub fn shallow_clone(&self) -> Self {
        self.map(Tensor::shallow_clone)
    }

    /// Rows `start..start + len`.
    #[must_use]
    pub fn narrow(&self, start: i64, len: i64) -> Self {
        self.map(|t| t.narrow(0, start, len))
    }

    /// The rows that `rows` `[K]`, `Int64`, names.
    #[must_use]
    pub fn select(&self, rows: &Tensor) -> Self {
        self.map(|t| t.index_select(0, rows))
    }

    /// How many examples.
    pub fn len(&self) -> i64 {
        self.x_start.size()[0]
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The forward process at given times, `x_t = alpha * x_start + sigma * noise`; each `[B]`, f64.
#[derive(Debug)]
pub struct Marginal {
    /// Multiplier of the data.
    pub alpha: Tensor,
    /// Multiplier of the unit Gaussian.
    pub sigma: Tensor,
    /// `d alpha / d t`.
    pub d_alpha: Tensor,
    /// `d sigma / d t`.
    pub d_sigma: Tensor,
    /// What a network trained on this schedule is told about `t`, unless its parameterisation says otherwise: the
    /// integer step of a discrete schedule, the same scale on a continuous one.
    pub noise_label: Tensor,
}

impl Marginal {
    /// `ln(alpha^2 / sigma^2)`, `[B]`.
    pub fn log_snr(&self) -> Tensor {
        2.0 * (self.alpha.log() - self.sigma.log())
    }

    /// Rows `start..start + len`.
    #[must_use]
    pub fn narrow(&self, start: i64, len: i64) -> Self {
        let rows = |t: &Tensor| t.narrow(0, start, len);
        Self {
            alpha: rows(&self.alpha),
            sigma: rows(&self.sigma),
            d_alpha: rows(&self.d_alpha),
            d_sigma: rows(&self.d_sigma),
            noise_label: rows(&self.noise_label),
        }
    }

    /// One row as `rows` rows.
    #[must_use]
    pub fn expand(&self, rows: i64) -> Self {
        let wide = |t: &Tensor| t.expand([rows], false);
        Self {
            alpha: wide(&self.alpha),
            sigma: wide(&self.sigma),
            d_alpha: wide(&self.d_alpha),
            d_sigma: wide(&self.d_sigma),
            noise_label: wide(&self.noise_label),
        }
    }

    /// Its derivative by time, `[B]`: negative.
    pub fn d_log_snr(&self) -> Tensor {
        2.0 * (&self.d_alpha / &self.alpha - &self.d_sigma / &self.sigma)
    }
}

/// `x_start_hat = c_skip * x_t + c_out * F(c_in * x_t, c_noise)`; each `[B]`, f64. Karras et al. 2022, Eq. 7.
#[derive(Debug)]
pub struct Scalings {
    /// Multiplier of `x_t` around the network.
    pub c_skip: Tensor,
    /// Multiplier of the network's output.
    pub c_out: Tensor,
    /// Multiplier of the network's input.
    pub c_in: Tensor,
    /// What the network is told about the noise level.
    pub c_noise: Tensor,
}

impl Scalings {
    /// Rows `start..start + len`.
    #[must_use]
    pub fn narrow(&self, start: i64, len: i64) -> Self {
        let rows = |t: &Tensor| t.narrow(0, start, len);
        Self {
            c_skip: rows(&self.c_skip),
            c_out: rows(&self.c_out),
            c_in: rows(&self.c_in),
            c_noise: rows(&self.c_noise),
        }
    }

    /// `(a, b)` of the target `F* = a * x_start + b * noise`: what makes `x_start_hat` equal `x_start`.
    pub fn target(&self, m: &Marginal) -> (Tensor, Tensor) {
        ((1.0f64 - &self.c_skip * &m.alpha) / &self.c_out, -(&self.c_skip * &m.sigma) / &self.c_out)
    }
}

/// `q(x_s | x_t, x_start)` for a time `s` before `t`: Gaussian; each field `[B]`, f64. Ho et al. 2020, Eq. 6 and 7, for any
/// pair of times by Kingma et al. 2021, Eq. 25 to 27.
#[derive(Debug)]
pub struct Posterior {
    /// Multiplier of `x_t` in its mean.
    pub of_x_t: Tensor,
    /// Multiplier of `x_start` in its mean.
    pub of_x_start: Tensor,
    /// Its log variance, "fixed small"; onto clean data, where there is none, that of the forward step.
    pub log_small: Tensor,
    /// Log variance of the forward step `q(x_t | x_s)`, "fixed large".
    pub log_large: Tensor,
}

impl Posterior {
    /// From the schedule at `t` and at `s`.
    pub fn of(t: &Marginal, s: &Marginal) -> Self {
        let ratio = &t.alpha / &s.alpha;
        let forward = t.sigma.square() - ratio.square() * s.sigma.square();
        let kept = (&s.sigma / &t.sigma).square();
        let log_large = forward.log();
        let log_small = (&log_large + kept.log()).where_self(&kept.gt(0.0), &log_large);
        Self {
            of_x_start: &s.alpha * &forward / t.sigma.square(),
            of_x_t: ratio * kept,
            log_small,
            log_large,
        }
    }

    /// That of one row, for states of any batch size.
    #[must_use]
    pub fn row(&self, i: i64) -> Self {
        let row = |t: &Tensor| t.narrow(0, i, 1);
        Self {
            of_x_t: row(&self.of_x_t),
            of_x_start: row(&self.of_x_start),
            log_small: row(&self.log_small),
            log_large: row(&self.log_large),
        }
    }

    /// Its mean, `[B, ..]`.
    pub fn mean(&self, x_t: &Tensor, x_start: &Tensor) -> Tensor {
        like(&self.of_x_t, x_t) * x_t + like(&self.of_x_start, x_t) * x_start
    }

    /// Log variance of a reverse step: the small one, or `variance` `[B, ..]` of the way from it (-1) to the large one
    /// (1); Nichol and Dhariwal 2021, Eq. 15.
    pub fn log_variance(&self, variance: Option<&Tensor>, x_t: &Tensor) -> Tensor {
        let small = like(&self.log_small, x_t);
        match variance {
            None => small.expand_as(x_t),
            Some(v) => (v + 1.0) * 0.5 * (like(&self.log_large, x_t) - &small) + small,
        }
    }
}

/// Training points on the forward process.
#[derive(Debug)]
pub struct Noised {
    /// Clean data `[B, C, H, W]`.
    pub x_start: Tensor,
    /// The noise that the target is made of, `[B, C, H, W]`.
    pub noise: Tensor,
    /// Times `[B]`, f64.
    pub t: Tensor,
    /// `[B, C, H, W]`.
    pub x_t: Tensor,
    /// The schedule at `t`.
    pub marginal: Marginal,
}

/// `c` `[B]` as `[B, 1, 1, ..]` in the kind of `x` `[B, ..]`.
pub fn like(c: &Tensor, x: &Tensor) -> Tensor {
    let mut shape = vec![1; x.dim()];
    shape[0] = -1;
    c.view(shape.as_slice()).to_kind(x.kind())
}

/// `sum_i c_i x_i`, `[B, ..]`; terms of weight 0 are not computed.
///
/// One kernel for each term: a scaled mean grows by linear interpolation, as long as no sum of weights comes near 0, where
/// that would lose digits.
///
/// # Panics
/// Without a term.
pub fn combine<'a>(terms: impl IntoIterator<Item = (f64, &'a Tensor)>) -> Tensor {
    let mut terms = terms.into_iter();
    let (mut weight, first) = terms.next().expect("at least one term");
    let (mut mean, mut owned) = (first.shallow_clone(), false);
    for (c, x) in terms.filter(|(c, _)| *c != 0.0) {
        let sum = weight + c;
        if sum.abs() < 0.5 * weight.abs().max(c.abs()) {
            mean = mean * weight + x * c;
            weight = 1.0;
        } else if owned {
            let _ = mean.lerp_(x, c / sum);
            weight = sum;
        } else {
            mean = mean.lerp(x, c / sum);
            weight = sum;
        }
        owned = true;
    }
    match (weight == 1.0, owned) {
        (true, _) => mean,
        (false, true) => mean.g_mul_scalar_(weight),
        (false, false) => mean * weight,
    }
}

/// Mean over everything but the batch: `[B, ..] -> [B]`, f32.
pub fn mean_flat(x: &Tensor) -> Tensor {
    x.reshape([x.size()[0], -1]).mean_dim(1i64, false, Kind::Float)
}
