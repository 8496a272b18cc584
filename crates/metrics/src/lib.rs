#![doc = include_str!("../README.md")]

mod agreement;
mod bootstrap;
mod clusters;
mod data_copying;
mod draws;
mod error;
mod estimate;
mod evaluate;
mod feature_likelihood;
mod feature_metric;
mod feature_mixture;
mod frechet;
mod frechet_interval;
mod inception_score;
mod kernel;
mod kernel_sums;
mod linear;
mod mifid;
mod moments;
mod nearest;
mod neighbors;
mod pair;
mod points;
mod products;
mod real;
mod reconstruction;
mod sets;
mod transformed;
mod vendi;

#[cfg(feature = "torch")]
mod energy;
#[cfg(feature = "torch")]
mod memorized;
#[cfg(feature = "torch")]
mod motion;
#[cfg(feature = "torch")]
mod on_features;
#[cfg(feature = "torch")]
mod oracle;

pub use agreement::{Agreement, Half, agreement};
pub use bootstrap::{Interval, bootstrap_mean, median};
pub use clusters::Cells;
pub use data_copying::{CellLabels, DataCopying, ThreeSets, data_copying, data_copying_in};
pub use draws::subset;
pub use error::Error;
pub use evaluate::{Evaluation, Measured, Outcome};
pub use feature_likelihood::{FeatureLikelihood, feature_likelihood};
pub use feature_metric::{FeatureMetric, Options};
pub use frechet::{FrechetDistance, FrechetReference, frechet_distance};
pub use frechet_interval::FrechetInterval;
pub use inception_score::InceptionScore;
pub use kernel::{Subsets, cmmd, kernel_distance};
pub use mifid::{Mifid, MifidOrder, mifid};
pub use moments::Moments;
pub use nearest::{MEMORIZED_RATIO, NearestPairs, References};
pub use neighbors::{Balls, Cross, Inside, Neighbors, Wanted, cross, neighbors_within};
pub use pair::{Compared, NeighborOptions, Pair};
pub use points::{Points, center};
pub use real::Real;
pub use reconstruction::{Psnr, psnr, ssim};
pub use sets::Set;
pub use transformed::{TransformedSearch, transformed_nearest, versions};
pub use vendi::vendi_score;

#[cfg(feature = "torch")]
pub use energy::energy_distance;
#[cfg(feature = "torch")]
pub use memorized::{Copies, CopyWatch, MemorizedFraction, rows};
#[cfg(feature = "torch")]
pub use motion::{frame_changes, motion_distance};
#[cfg(feature = "torch")]
pub use on_features::{OnFeatures, title};
#[cfg(feature = "torch")]
pub use oracle::{EmpiricalDenoiser, MixtureDenoiser};

#[cfg(test)]
mod tests;
