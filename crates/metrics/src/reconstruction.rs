//! How well an autoencoder gives images back: PSNR and SSIM.

use crate::{Error, Interval, bootstrap_mean};
use ndarray::{Array2, ArrayView2, ArrayView4, Axis, Zip};

/// Peak signal-to-noise ratios in decibels; infinite where nothing differs.
#[derive(Debug, Clone, PartialEq)]
pub struct Psnr {
    /// Of the squared error of all images together.
    pub pooled: f64,
    /// Of each image.
    pub images: Vec<f64>,
}

impl Psnr {
    /// The pooled ratio with the percentile bootstrap of images: 1000 resamples of their squared errors; Efron 1979.
    pub fn interval(&self, seed: u64) -> Interval {
        // Squared errors beside the squared range.
        let errors: Vec<f64> = self.images.iter().map(|decibels| 10f64.powf(-decibels / 10.0)).collect();
        let Interval { lower, upper, .. } = bootstrap_mean(&errors, seed);
        let decibels = |error: f64| -10.0 * error.log10();
        Interval { value: self.pooled, lower: decibels(upper), upper: decibels(lower) }
    }
}

/// `10 log10(range^2 / MSE)` of images `[N, C, H, W]` whose values span `range` (1 or 2 or 255).
///
/// Errors: other shapes, values that are not finite, a range that is not positive.
pub fn psnr(images: ArrayView4<'_, f32>, originals: ArrayView4<'_, f32>, range: f64) -> Result<Psnr, Error> {
    check(images, originals, range)?;
    let error = |(x, y): (ndarray::ArrayView3<'_, f32>, ndarray::ArrayView3<'_, f32>)| {
        let square = |(x, y): (&f32, &f32)| (f64::from(*x) - f64::from(*y)).powi(2);
        x.iter().zip(y.iter()).map(square).sum::<f64>() / x.len() as f64
    };
    let errors: Vec<f64> = images.outer_iter().zip(originals.outer_iter()).map(error).collect();
    let decibels = |mse: f64| 10.0 * (range * range / mse).log10();
    let pooled = decibels(errors.iter().sum::<f64>() / errors.len() as f64);
    Ok(Psnr { pooled, images: errors.into_iter().map(decibels).collect() })
}

/// Standard deviation of the window.
const SIGMA: f64 = 1.5;
/// Pixels on each side of the window's middle: 3.5 standard deviations. As many are cut off the border of the map.
const RADIUS: usize = 5;

/// Structural similarity of each image and its original, `[N, C, H, W]` whose values span `range`; Wang et al. 2004, Eq. 13.
///
/// Gaussian window of 11 x 11 and sigma 1.5, constants 0.01 and 0.03, variances divided by the number of pixels, each channel
/// for itself, the mean over channels and all places whose window is inside the image. [`bootstrap_mean`] gives their mean with
/// its interval.
///
/// Errors: as [`psnr`], and images of fewer than 11 pixels a side.
pub fn ssim(
    images: ArrayView4<'_, f32>,
    originals: ArrayView4<'_, f32>,
    range: f64,
) -> Result<Vec<f64>, Error> {
    check(images, originals, range)?;
    let side = images.len_of(Axis(2)).min(images.len_of(Axis(3)));
    if side < 2 * RADIUS + 1 {
        return Err(Error::Width { set: "images", found: side, expected: 2 * RADIUS + 1 });
    }
    let channels = images.len_of(Axis(1)) as f64;
    let one = |(x, y): (ndarray::ArrayView3<'_, f32>, ndarray::ArrayView3<'_, f32>)| {
        x.outer_iter().zip(y.outer_iter()).map(|(x, y)| of_channel(x, y, range)).sum::<f64>() / channels
    };
    Ok(images.outer_iter().zip(originals.outer_iter()).map(one).collect())
}

fn of_channel(x: ArrayView2<'_, f32>, y: ArrayView2<'_, f32>, range: f64) -> f64 {
    let (x, y) = (x.mapv(f64::from), y.mapv(f64::from));
    let [mx, my, xx, yy, xy] = [&x, &y, &(&x * &x), &(&y * &y), &(&x * &y)].map(blurred);
    let (c1, c2) = ((0.01 * range).powi(2), (0.03 * range).powi(2));
    let mut sum = 0.0;
    Zip::from(&mx).and(&my).and(&xx).and(&yy).and(&xy).for_each(|mx, my, xx, yy, xy| {
        let (vx, vy, cov) = (xx - mx * mx, yy - my * my, xy - mx * my);
        let over = (mx * mx + my * my + c1) * (vx + vy + c2);
        sum += (2.0 * mx * my + c1) * (2.0 * cov + c2) / over;
    });
    sum / mx.len() as f64
}

/// Gaussian means around every place whose window is inside: `[H, W]` to `[H - 10, W - 10]`.
fn blurred(image: &Array2<f64>) -> Array2<f64> {
    let place = |i: usize| i as f64 - RADIUS as f64;
    let weights: Vec<f64> =
        (0..=2 * RADIUS).map(|i| (-place(i).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let total: f64 = weights.iter().sum();
    let along = |m: &Array2<f64>| {
        let (height, width) = m.dim();
        Array2::from_shape_fn((width - 2 * RADIUS, height), |(j, i)| {
            weights.iter().enumerate().map(|(k, w)| w / total * m[(i, j + k)]).sum()
        })
    };
    // Each pass turns the image over, so that two blur both sides.
    along(&along(image))
}

fn check(images: ArrayView4<'_, f32>, originals: ArrayView4<'_, f32>, range: f64) -> Result<(), Error> {
    if images.dim() != originals.dim() || images.is_empty() {
        let reason = format!("{:?}, where the originals' are {:?}", images.shape(), originals.shape());
        return Err(Error::Setting { setting: "shape of the images", reason });
    }
    if !(range.is_finite() && range > 0.0) {
        let reason = format!("{range}, where a positive number is needed");
        return Err(Error::Setting { setting: "range", reason });
    }
    for (set, images) in [("images", images), ("originals", originals)] {
        if let Some(row) = images.outer_iter().position(|i| i.iter().any(|x| !x.is_finite())) {
            return Err(Error::NotFinite { set, row });
        }
    }
    Ok(())
}
