//! Canny's edges.

use super::filters::{gaussian, gradients};
use tch::{Kind, Tensor};

/// How far edges grow between two looks at whether they still do: a look waits for the device.
const STEPS: usize = 16;

/// Edges of brightness `[B, 1, H, W]` in `[0, 1]`, as 0 and 1; Canny 1986, in the definition of scikit-image.
///
/// A Gaussian of `sigma`; Sobel's gradient; a pixel stays if its magnitude is at least `low` and no smaller than both of its
/// neighbours along the gradient, between pixels by linear interpolation; then what is linked to a pixel of at least `high`, over
/// sides and corners. Pixels at the border are no edges.
pub fn canny(grey: &Tensor, sigma: f64, low: f64, high: f64) -> Tensor {
    let [dy, dx] = gradients(&gaussian(grey, sigma));
    let magnitude = (dy.square() + dx.square()).sqrt();
    let candidate = ridge(&magnitude, &dy, &dx).logical_and(&magnitude.ge(low)).logical_and(&inside(grey));
    let strong = candidate.logical_and(&magnitude.ge(high));
    linked(&strong.to_kind(Kind::Float), &candidate.to_kind(Kind::Float))
}

/// Where the magnitude is no smaller than on either side along the gradient.
fn ridge(magnitude: &Tensor, dy: &Tensor, dx: &Tensor) -> Tensor {
    let [h, w] = [magnitude.size()[2], magnitude.size()[3]];
    let padded = magnitude.constant_pad_nd([1, 1, 1, 1]);
    let at = |down: i64, right: i64| padded.narrow(2, 1 + down, h).narrow(3, 1 + right, w);
    let (vertical, horizontal) = (dy.abs(), dx.abs());
    let steep = vertical.gt_tensor(&horizontal);
    let falls = (dy * dx).ge(0.0); // down and to the right, or up and to the left
    let share = vertical.minimum(&horizontal) / vertical.maximum(&horizontal).clamp_min(1e-12);
    let beside = |sign: i64| {
        let sideways = at(0, sign).where_self(&falls, &at(0, -sign));
        let straight = at(sign, 0).where_self(&steep, &sideways);
        let corner = at(sign, sign).where_self(&falls, &at(sign, -sign));
        corner * &share + straight * (1.0 - &share)
    };
    magnitude.ge_tensor(&beside(1)).logical_and(&magnitude.ge_tensor(&beside(-1)))
}

/// All but the pixels at the border, `[1, 1, H, W]`.
fn inside(x: &Tensor) -> Tensor {
    let [h, w] = [x.size()[2], x.size()[3]];
    let inner = Tensor::ones([1, 1, (h - 2).max(0), (w - 2).max(0)], (Kind::Bool, x.device()));
    inner.constant_pad_nd([1, w - 1 - (w - 2).max(0), 1, h - 1 - (h - 2).max(0)])
}

/// The candidates that are linked to a strong one, by growing until nothing is added.
fn linked(strong: &Tensor, candidate: &Tensor) -> Tensor {
    let mut edges = strong.shallow_clone();
    loop {
        let before = edges.shallow_clone();
        for _ in 0..STEPS {
            edges = edges.max_pool2d([3, 3], [1, 1], [1, 1], [1, 1], false) * candidate;
        }
        if edges.equal(&before) {
            return edges;
        }
    }
}
