//! Networks of others that training looks through, as values: siblings meet through functions.

use heldout_core::{Error, FeatureExtractor, Result, mean_flat};
use std::{fmt, rc::Rc};
use tch::Tensor;

/// `[B, C, H, W]` in `[-1, 1]` as the images in `[0, 1]` of three channels that feature networks take.
fn as_rgb(x: &Tensor) -> Result<Tensor> {
    let unit = (x + 1.0) / 2.0;
    match x.size()[..] {
        [_, 3, _, _] => Ok(unit),
        [b, 1, h, w] => Ok(unit.expand([b, 3, h, w], false)),
        _ => {
            let reason = format!("{:?}: a feature network takes images of 1 or 3 channels", x.size());
            Err(Error::config("images", reason))
        }
    }
}

type Distance = dyn Fn(&Tensor, &Tensor) -> Result<Tensor>;
type Maps = dyn Fn(&Tensor) -> Result<Tensor>;

/// A distance of images that a network sees, as LPIPS.
#[derive(Clone)]
pub struct Perceptual(Rc<Distance>);

impl Perceptual {
    /// `distance` of images `[B, 3, H, W]` in `[0, 1]`, `[B]`, differentiable in both.
    pub fn new(distance: impl Fn(&Tensor, &Tensor) -> Result<Tensor> + 'static) -> Self {
        Self(Rc::new(distance))
    }

    /// Mean squared difference of a network's features; Dosovitskiy and Brox 2016, Eq. 4.
    pub fn of_features(network: Rc<dyn FeatureExtractor>) -> Self {
        Self::new(move |a, b| {
            let seen = network.extract(&Tensor::cat(&[a, b], 0))?;
            let halves = seen.spatial.unwrap_or(seen.features).chunk(2, 0);
            Ok(mean_flat(&(&halves[0] - &halves[1]).square()))
        })
    }

    /// Of images `[B, C, H, W]` in `[-1, 1]`, `[B]`; grey ones are seen as colour ones.
    ///
    /// # Errors
    /// Images that the network cannot take.
    pub fn distance(&self, x: &Tensor, x_hat: &Tensor) -> Result<Tensor> {
        (self.0)(&as_rgb(x)?, &as_rgb(x_hat)?)
    }
}

impl fmt::Debug for Perceptual {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Perceptual").finish_non_exhaustive()
    }
}

/// A network that is not trained, whose features have places.
#[derive(Clone)]
pub struct FrozenMaps {
    width: i64,
    function: Rc<Maps>,
}

impl FrozenMaps {
    /// `function` of images `[B, 3, H, W]` in `[0, 1]` to `[B, width, h, w]`.
    pub fn new(width: i64, function: impl Fn(&Tensor) -> Result<Tensor> + 'static) -> Self {
        Self { width, function: Rc::new(function) }
    }

    /// Channels of the features.
    pub fn width(&self) -> i64 {
        self.width
    }

    /// Of images `[B, C, H, W]` in `[-1, 1]`, without a graph: `[B, width, h, w]`.
    ///
    /// # Errors
    /// Images that the network cannot take, or features of another shape.
    pub fn maps(&self, x: &Tensor) -> Result<Tensor> {
        let maps = tch::no_grad(|| (self.function)(&as_rgb(x)?))?.detach();
        if maps.dim() != 4 || maps.size()[1] != self.width {
            let reason = format!("{:?}: features [B, {}, h, w] are needed", maps.size(), self.width);
            return Err(Error::config("features", reason));
        }
        Ok(maps)
    }
}

impl fmt::Debug for FrozenMaps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenMaps").field("width", &self.width).finish_non_exhaustive()
    }
}
