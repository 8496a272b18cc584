//! The memorised fraction, as a metric with its floor.

use crate::{Interval, MEMORIZED_RATIO, NearestPairs, References, bootstrap_mean, transformed_nearest};
use heldout_core::{Error, Estimate, FeatureSets, Measurement, Metric, Result};
use ndarray::{Array2, ArrayView2};
use tch::{Device, Kind, Tensor};

/// What counts as a copy of a training image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copies {
    /// The image as it is.
    Exact,
    /// Flipped horizontally and shifted by a pixel, too.
    Transformed,
}

/// Share of the samples that are copies: nearer to a training image than a third of the distance to the next one.
///
/// Yoon et al. 2023; Gu et al. 2023, Eq. 5. The floor is the same share of held-out real images, and both carry
/// bootstrap intervals. Sets are images `[N, C, H, W]`.
#[derive(Debug, Clone, Copy)]
pub struct MemorizedFraction {
    /// What counts.
    pub copies: Copies,
    /// Seed of the bootstrap.
    pub seed: u64,
}

impl MemorizedFraction {
    /// The two nearest of `train` for each of `queries`, both `[N, C, H, W]`.
    pub fn pairs(&self, queries: &Tensor, train: &Tensor) -> Result<NearestPairs> {
        self.search(queries, rows(train)?.view())
    }

    /// `f_mem`, or `f_mem_transformed`.
    pub fn name(&self) -> &'static str {
        match self.copies {
            Copies::Exact => "f_mem",
            Copies::Transformed => "f_mem_transformed",
        }
    }

    /// The share, beside that of held-out images.
    pub fn measure(&self, sets: &FeatureSets<'_>) -> Result<Measurement> {
        let train = rows(sets.train)?;
        Ok(Measurement {
            model: self.estimate(&self.search(sets.generated, train.view())?),
            against_held_out: None,
            floor: self.estimate(&self.search(sets.held_out, train.view())?),
        })
    }

    fn search(&self, queries: &Tensor, references: ArrayView2<'_, f32>) -> Result<NearestPairs> {
        let size = queries.size();
        let queries = rows(queries)?;
        let found = match self.copies {
            Copies::Exact => References::new(references)?.nearest(queries.view()),
            Copies::Transformed => {
                let &[_, channels, height, width] = size.as_slice() else {
                    return Err(Error::config("queries", format!("shape {size:?} is not [N, C, H, W]")));
                };
                let shape = [channels, height, width].map(|n| n as usize);
                transformed_nearest(queries.view(), references, shape)
            }
        };
        Ok(found?)
    }

    fn estimate(&self, pairs: &NearestPairs) -> Estimate {
        let memorized: Vec<f64> =
            pairs.memorized(MEMORIZED_RATIO).into_iter().map(|copy| f64::from(u8::from(copy))).collect();
        let Interval { value, lower, upper } = bootstrap_mean(&memorized, self.seed);
        Estimate { value, lower, upper }
    }
}

impl Metric for MemorizedFraction {
    fn evaluate(&self, sets: &FeatureSets<'_>) -> Result<Vec<(String, Measurement)>> {
        Ok(vec![(self.name().to_owned(), self.measure(sets)?)])
    }
}

/// A tensor `[N, ..]` as rows `[N, D]` on the host, f32.
pub fn rows(t: &Tensor) -> Result<Array2<f32>> {
    let flat =
        t.detach().to_device(Device::Cpu).to_kind(Kind::Float).f_reshape([t.size()[0], -1])?.contiguous();
    let shape = (flat.size()[0] as usize, flat.size()[1] as usize);
    let values = Vec::<f32>::try_from(flat.flatten(0, -1))?;
    Array2::from_shape_vec(shape, values).map_err(|e| Error::config("features", e.to_string()))
}
