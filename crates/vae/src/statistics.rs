//! What latents look like, measured from data.

use crate::LatentScale;
use heldout_core::{Autoencoder, Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use tch::{Kind, Tensor};

/// Sums over batches of latents, kept where the latents are; each `[c]` or `[c, c]`, f64.
///
/// All powers are taken about the first batch's means, so that latents far from 0 lose no digits.
#[derive(Debug, Default)]
pub struct LatentSums {
    /// Of every batch: images, places, sums and sums of squares.
    batches: Vec<(u64, u64, Tensor, Tensor)>,
    /// The first batch's means, sums of third and fourth powers, and sums of products of channels.
    whole: Option<[Tensor; 4]>,
}

impl LatentSums {
    /// Adds latents `[B, c, h, w]`.
    ///
    /// # Errors
    /// A number of channels that differs from the one before, or no numbers.
    pub fn add(&mut self, latents: &Tensor) -> Result<()> {
        let size = latents.size();
        if size.len() != 4 || latents.numel() == 0 {
            return Err(Error::config("latents", format!("{size:?}: [B, c, h, w] with numbers is needed")));
        }
        let x = latents.detach().to_kind(Kind::Double).transpose(0, 1).flatten(1, -1); // [c, B h w]
        let sum = |t: &Tensor| t.sum_dim_intlist(1i64, false, Kind::Double);
        let mean = || x.mean_dim(1i64, false, Kind::Double);
        let [about, third, fourth, products] = match self.whole.take() {
            Some(whole) if whole[0].size()[0] == size[1] => whole,
            Some(whole) => {
                let reason = format!("{} channels after batches of {}", size[1], whole[0].size()[0]);
                self.whole = Some(whole);
                return Err(Error::config("latents", reason));
            }
            None => {
                let zeros = Tensor::zeros([size[1]], (Kind::Double, x.device()));
                let square = Tensor::zeros([size[1], size[1]], (Kind::Double, x.device()));
                [mean(), zeros.copy(), zeros, square]
            }
        };
        let x = x - about.unsqueeze(1);
        let squares = x.square();
        self.whole = Some([
            about,
            third + sum(&(&squares * &x)),
            fourth + sum(&squares.square()),
            products + x.matmul(&x.transpose(0, 1)),
        ]);
        self.batches.push((size[0] as u64, (size[0] * size[2] * size[3]) as u64, sum(&x), sum(&squares)));
        Ok(())
    }

    /// What was measured.
    ///
    /// # Errors
    /// Nothing was added; a channel is the same everywhere or not finite.
    pub fn statistics(&self) -> Result<LatentStatistics> {
        let Some([about, third, fourth, products]) = &self.whole else {
            return Err(Error::config("latents", "there are none: at least one batch is needed"));
        };
        let host = |t: &Tensor| Ok::<_, Error>(Vec::<f64>::try_from(t.to_device(tch::Device::Cpu))?);
        let whole = Part::of(&self.batches)?;
        let n = whole.places as f64;
        let (about, third, fourth) = (host(about)?, host(third)?, host(fourth)?);
        let products = host(&products.flatten(0, -1))?;
        let c = about.len();
        let variance: Vec<f64> = whole.std.iter().map(|std| std * std).collect();
        if let Some(i) = variance.iter().position(|v| !(v.is_finite() && *v > 0.0)) {
            let reason =
                format!("channel {i} has variance {}: it holds nothing that can be scaled", variance[i]);
            return Err(Error::config("latents", reason));
        }
        let kurtosis = (0..c).map(|i| {
            let (m, second) = (whole.mean[i], variance[i] + whole.mean[i].powi(2));
            let central = fourth[i] / n - 4.0 * m * third[i] / n + 6.0 * m * m * second - 3.0 * m.powi(4);
            central / variance[i].powi(2)
        });
        let correlation = |i: usize, j: usize| {
            (products[i * c + j] / n - whole.mean[i] * whole.mean[j]) / (whole.std[i] * whole.std[j])
        };
        Ok(LatentStatistics {
            images: whole.images,
            places: whole.places,
            kurtosis: kurtosis.collect(),
            correlation: (0..c).map(|i| (0..c).map(|j| correlation(i, j)).collect()).collect(),
            drift: self.halves()?.map(|[first, second]| second.since(&first)),
            mean: whole.mean.iter().zip(&about).map(|(mean, about)| mean + about).collect(),
            std: whole.std,
        })
    }

    /// The first and the second half of the batches, where there are two.
    fn halves(&self) -> Result<Option<[Part; 2]>> {
        let n = self.batches.len() / 2;
        if n == 0 {
            return Ok(None);
        }
        Ok(Some([Part::of(&self.batches[..n])?, Part::of(&self.batches[n..])?]))
    }
}

/// Means (about those of the first batch) and deviations of some batches.
struct Part {
    images: u64,
    places: u64,
    mean: Vec<f64>,
    std: Vec<f64>,
}

impl Part {
    fn of(batches: &[(u64, u64, Tensor, Tensor)]) -> Result<Self> {
        let places: u64 = batches.iter().map(|b| b.1).sum();
        let total = |each: Vec<&Tensor>| {
            let sum = Tensor::stack(&each, 0).sum_dim_intlist(0i64, false, Kind::Double) / places as f64;
            Ok::<_, Error>(Vec::<f64>::try_from(sum.to_device(tch::Device::Cpu))?)
        };
        let mean = total(batches.iter().map(|b| &b.2).collect())?;
        let second = total(batches.iter().map(|b| &b.3).collect())?;
        let std = second.iter().zip(&mean).map(|(s, m)| (s - m * m).max(0.0).sqrt()).collect();
        Ok(Self { images: batches.iter().map(|b| b.0).sum(), places, mean, std })
    }

    fn since(&self, before: &Self) -> LatentDrift {
        drift([&before.mean, &before.std], [&self.mean, &self.std])
    }
}

fn drift([mean, std]: [&[f64]; 2], [mean_after, std_after]: [&[f64]; 2]) -> LatentDrift {
    let each = |f: &dyn Fn(usize) -> f64| (0..mean.len()).map(f).collect();
    LatentDrift { mean: each(&|i| (mean_after[i] - mean[i]) / std[i]), std: each(&|i| std_after[i] / std[i]) }
}

/// How latents moved from one measurement to a later one, by channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentDrift {
    /// The difference of the means, in deviations of the earlier one.
    pub mean: Vec<f64>,
    /// The later deviation as a multiple of the earlier one.
    pub std: Vec<f64>,
}

/// Latents in numbers, by channel; as a table by `Display`, as JSON by serde.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentStatistics {
    /// How many images.
    pub images: u64,
    /// How many places of all their latents.
    pub places: u64,
    /// Means.
    pub mean: Vec<f64>,
    /// Standard deviations.
    pub std: Vec<f64>,
    /// Fourth central moment over the squared variance: 3 of a Gaussian.
    pub kurtosis: Vec<f64>,
    /// Correlation of channels at the same place, `[c][c]`.
    pub correlation: Vec<Vec<f64>>,
    /// From the first half of the batches to the second, where there were two.
    pub drift: Option<LatentDrift>,
}

impl LatentStatistics {
    /// Of what `autoencoder` encodes these images `[B, C, H, W]` to, without gradients.
    ///
    /// # Errors
    /// No images; a channel that is the same everywhere or not finite.
    pub fn measure(
        autoencoder: &dyn Autoencoder,
        images: impl IntoIterator<Item = Result<Tensor>>,
    ) -> Result<Self> {
        let mut sums = LatentSums::default();
        for batch in images {
            let batch = batch?;
            sums.add(&tch::no_grad(|| autoencoder.encode(&batch)))?;
        }
        sums.statistics()
    }

    /// What brings every channel of latents like these to mean 0 and variance 1.
    pub fn scale(&self) -> LatentScale {
        LatentScale { shift: self.mean.clone(), scale: self.std.iter().map(|std| 1.0 / std).collect() }
    }

    /// One factor for all channels, and no shift, after which all numbers together have variance 1: the `scaling_factor` of
    /// Rombach et al. 2022, appendix G.
    pub fn uniform_scale(&self) -> LatentScale {
        let n = self.mean.len() as f64;
        let mean = self.mean.iter().sum::<f64>() / n;
        let second = self.std.iter().zip(&self.mean).map(|(s, m)| s * s + m * m).sum::<f64>() / n;
        LatentScale::uniform(0.0, 1.0 / (second - mean * mean).sqrt())
    }

    /// How latents moved since `earlier`.
    ///
    /// # Errors
    /// Latents of another number of channels.
    pub fn drift_since(&self, earlier: &Self) -> Result<LatentDrift> {
        if earlier.mean.len() != self.mean.len() {
            let reason = format!("{} channels before, {} now", earlier.mean.len(), self.mean.len());
            return Err(Error::config("latents", reason));
        }
        Ok(drift([&earlier.mean, &earlier.std], [&self.mean, &self.std]))
    }

    /// The channel that `channel` is most correlated with, either way, and how much.
    fn nearest_channel(&self, channel: usize) -> Option<(usize, f64)> {
        let others = self.correlation[channel].iter().copied().enumerate().filter(|(j, _)| *j != channel);
        others.max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
    }
}

impl fmt::Display for LatentStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} images, {} places of a latent", self.images, self.places)?;
        writeln!(f, "channel      mean       std  kurtosis  correlation  drift of mean  of std")?;
        for i in 0..self.mean.len() {
            let (mean, std, kurtosis) = (self.mean[i], self.std[i], self.kurtosis[i]);
            write!(f, "{i:>7}  {mean:>8.4}  {std:>8.4}  {kurtosis:>8.3}")?;
            match self.nearest_channel(i) {
                Some((j, r)) => write!(f, "  {:>11}", format!("{r:+.2} ({j})"))?,
                None => write!(f, "  {:>11}", "-")?,
            }
            match &self.drift {
                Some(drift) => writeln!(f, "  {:>13.3}  {:>6.3}", drift.mean[i], drift.std[i])?,
                None => writeln!(f, "  {:>13}  {:>6}", "-", "-")?,
            }
        }
        Ok(())
    }
}
