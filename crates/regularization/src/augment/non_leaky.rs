//! Geometric changes that the network is told, so that samples do not show them.

use super::affine::{Interpolation, Padding, affine};
use super::flip::flip;
use super::pick::{check_probability, check_range, geometric, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};
use std::f64::consts::{LN_2, PI};
use tch::{Kind, Tensor};

/// Numbers that the network is told about a transform.
const LABELS: i64 = 9;

/// The geometric set of Karras et al. 2022 (EDM), appendix F.2, Table 6, with its labels; `[B, C, H, W]`.
///
/// Each transform is enabled for each image with probability `min(1, multiplier * probability)`. In this order, `n` and
/// `n'` unit Gaussians of the image and angles uniform in `(-pi, pi)`:
///
/// | transform | | labels |
/// |---|---|---|
/// | `x_flip` | left to right for half of the enabled | 0 or 1 |
/// | `y_flip` | top to bottom for half of the enabled | 0 or 1 |
/// | `scale` | by `2^(0.2 n)` | `n` |
/// | `rotation` | by `angle` | `cos angle - 1`, `sin angle` |
/// | `anisotropy` | by `2^(0.2 n)` along `angle`, by its inverse across | `n cos angle`, `n sin angle` |
/// | `translation` | by `n / 8` of the width, `n' / 8` of the height | `n`, `n'` |
///
/// The labels, zeros for what is not enabled, go into `cond.timestep_cond` `[B, 9]` (behind what is there already), which
/// a network adds, without bias, to the features of the noise level (`time_cond_proj_dim = 9`). No label is therefore a
/// label of zeros: sampling, which tells nothing, asks for images as they were. A network that is not told shows the
/// changes in its samples. The labels are the paper's, and those of `anisotropy` do not tell a stretch along an axis from
/// a shrink along it the other way round.
///
/// Flips are exact. All else is one affine map and one interpolation, reflected beyond the edges; the paper's own code
/// up-samples by a wavelet filter first, which this does not, so that turned images are somewhat softer, which the label
/// tells as well. Masks and hints go along; images with masks are looked up at the nearest pixel.
///
/// Law: with labels of zeros a model that has learned gives the distribution of the data, not of the changed data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct NonLeaky {
    /// 0.12 for CIFAR-10 and 0.15 for FFHQ and AFHQ in the paper.
    #[serde(default = "probability")]
    pub probability: CurveConfig,
    /// Multiplier of the probability. 1e8, always, in the published setting; 0 for data that have a left and a right.
    #[serde(default = "surely")]
    pub x_flip: f64,
    /// Multiplier of the probability.
    #[serde(default = "one")]
    pub y_flip: f64,
    /// Multiplier of the probability.
    #[serde(default = "one")]
    pub scale: f64,
    /// Multiplier of the probability.
    #[serde(default = "one")]
    pub rotation: f64,
    /// Multiplier of the probability.
    #[serde(default = "one")]
    pub anisotropy: f64,
    /// Multiplier of the probability.
    #[serde(default = "one")]
    pub translation: f64,
    /// How values between pixels are found.
    #[serde(default = "bicubic")]
    pub interpolation: Interpolation,
}

fn probability() -> CurveConfig {
    0.12.into()
}

fn surely() -> f64 {
    1e8
}

fn one() -> f64 {
    1.0
}

fn bicubic() -> Interpolation {
    Interpolation::Bicubic
}

impl NonLeaky {
    /// Whether the settings can be honoured.
    pub fn check(&self) -> Result<()> {
        check_probability(&self.probability)?;
        for (field, value) in [
            ("x_flip", self.x_flip),
            ("y_flip", self.y_flip),
            ("scale", self.scale),
            ("rotation", self.rotation),
            ("anisotropy", self.anisotropy),
            ("translation", self.translation),
        ] {
            check_range(field, value, 0.0, f64::MAX)?;
        }
        if self.x_flip + self.y_flip + self.smooth().iter().sum::<f64>() > 0.0 {
            return Ok(());
        }
        Err(Error::config("x_flip", "0, and so are all other multipliers: nothing would be changed"))
    }

    /// Multipliers of what needs interpolation.
    fn smooth(&self) -> [f64; 4] {
        [self.scale, self.rotation, self.anisotropy, self.translation]
    }
}

/// What is drawn for a batch, `[B]` each, zeros where a transform is not enabled.
struct Draws<'a> {
    x: &'a Tensor,
    probability: f64,
}

impl Draws<'_> {
    /// Rows for which a transform with this multiplier is enabled, as numbers.
    fn enabled(&self, multiplier: f64) -> Tensor {
        picked(self.x, multiplier * self.probability).to_kind(Kind::Float)
    }

    fn normal(&self) -> Tensor {
        Tensor::randn([self.x.size()[0]], (Kind::Float, self.x.device()))
    }

    fn angle(&self) -> Tensor {
        uniform(self.x, -PI, PI)
    }
}

impl Augment for NonLeaky {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        if probability == 0.0 {
            return batch;
        }
        let none = Tensor::zeros([batch.len()], (Kind::Float, batch.x_start.device()));
        let mut labels = Vec::new();
        for (multiplier, axis) in [(self.x_flip, 3), (self.y_flip, 2)] {
            if multiplier == 0.0 {
                labels.push(none.shallow_clone());
                continue;
            }
            let rows = picked(&batch.x_start, 0.5 * (multiplier * probability).min(1.0));
            labels.push(rows.to_kind(Kind::Float));
            batch = geometric(batch, |x| flip(x, &rows, axis));
        }
        if self.smooth() == [0.0; 4] {
            labels.extend((2..LABELS).map(|_| none.shallow_clone()));
        } else {
            let changes = self.changes(&Draws { x: &batch.x_start, probability }, &none);
            let interpolation =
                if batch.known.is_some() { Interpolation::Nearest } else { self.interpolation };
            batch = geometric(batch, |x| {
                let moved = affine(x, &changes.matrices, interpolation, Padding::Reflect);
                only(&changes.rows, &moved, x)
            });
            labels.extend(changes.labels);
        }
        let labels = Tensor::stack(&labels, 1).to_kind(batch.x_start.kind());
        batch.cond.timestep_cond = Some(match batch.cond.timestep_cond {
            None => labels,
            Some(before) => Tensor::cat(&[before, labels], 1),
        });
        batch
    }
}

/// What needs interpolation.
struct Changes {
    /// `[B, 2, 3]`, as [`affine`] takes them.
    matrices: Tensor,
    /// Rows that are changed at all.
    rows: Tensor,
    /// The last seven.
    labels: Vec<Tensor>,
}

impl NonLeaky {
    /// Draws everything but the flips.
    fn changes(&self, draws: &Draws<'_>, none: &Tensor) -> Changes {
        let drawn = |multiplier: f64, value: &dyn Fn() -> Tensor| {
            if multiplier == 0.0 { none.shallow_clone() } else { value() }
        };
        let scale = drawn(self.scale, &|| draws.normal() * draws.enabled(self.scale));
        let angle = drawn(self.rotation, &|| draws.angle() * draws.enabled(self.rotation));
        let amount = drawn(self.anisotropy, &|| draws.normal() * draws.enabled(self.anisotropy));
        let along = drawn(self.anisotropy, &|| draws.angle());
        let moves = drawn(self.translation, &|| draws.enabled(self.translation));
        let shift = || drawn(self.translation, &|| draws.normal() * &moves);
        let (right, down) = (shift(), shift());
        let labels = vec![
            scale.shallow_clone(),
            angle.cos() - 1.0,
            angle.sin(),
            &amount * along.cos(),
            &amount * along.sin(),
            right.shallow_clone(),
            down.shallow_clone(),
        ];
        let rows = Tensor::stack(&labels, 1).ne(0.0).any_dim(1, false);
        let size = draws.x.size();
        let inverse = Inverse { scale, angle, amount, along, right, down };
        Changes { matrices: inverse.matrices(size[2] as f64 / size[3] as f64), rows, labels }
    }
}

/// What was scaled, turned, stretched and moved, to be undone from the last to the first; `[B]` each.
struct Inverse {
    scale: Tensor,
    angle: Tensor,
    amount: Tensor,
    along: Tensor,
    right: Tensor,
    down: Tensor,
}

impl Inverse {
    /// `[B, 2, 3]`, as [`affine`] takes them, for images of this height over width.
    ///
    /// A stretch by `e^r` along a unit vector is `cosh r + sinh r (2 P - 1)`, `P` the projection on it.
    fn matrices(self, ratio: f64) -> Tensor {
        let r = &self.amount * (0.2 * LN_2);
        let (even, odd, twice) = (r.cosh(), r.sinh(), &self.along * 2.0);
        let (a, b, d) = (&even - &odd * twice.cos(), &odd * twice.sin(), &even + &odd * twice.cos());
        let shrink = (self.scale * -0.2).exp2();
        let (cos, sin) = (self.angle.cos() * &shrink, self.angle.sin() * shrink);
        let (xx, xy) = (&cos * &a - &sin * &b, &cos * &b - &sin * &d);
        let (yx, yy) = (&sin * a + &cos * &b, sin * b + cos * d);
        let (right, down) = (self.right * -0.125, self.down * (-0.125 * ratio)); // In widths.
        let x = &xx * &right + &xy * &down;
        let y = (&yx * right + &yy * down) / ratio;
        Tensor::stack(&[xx, xy, x, yx, yy, y], 1).view([-1, 2, 3])
    }
}
