//! How far the middle of a network's output sees.

use heldout_core::{Backbone, Input};
use tch::{Device, Kind, Tensor};

/// Below this share of the largest square a gradient is rounding: kernels that work in transformed tiles leave some.
const ROUNDING: f64 = 1e-10;

/// Where the middle of the output looks: the effective receptive field; Luo et al. 2016, section 2.
#[derive(Debug)]
pub struct ReceptiveField {
    /// Squared gradient of the output at the centre by the input, over channels of both and the mean over images; of sum 1;
    /// `[H, W]`, f64, on the host.
    pub energy: Tensor,
}

impl ReceptiveField {
    /// Row and column of the centre, `[H / 2, W / 2]`.
    pub fn centre(&self) -> [i64; 2] {
        let size = self.energy.size();
        [size[0] / 2, size[1] / 2]
    }

    /// Side of the smallest square around the centre with at least `share` of the energy; odd, as long as it is no larger than
    /// the image.
    pub fn side(&self, share: f64) -> i64 {
        let whole = self.energy.sum(Kind::Double).double_value(&[]);
        self.grow(&self.energy, share * whole)
    }

    /// Side of the smallest square around the centre that holds every gradient above rounding.
    pub fn support(&self) -> i64 {
        let seen = self.energy.gt(self.energy.max().double_value(&[]) * ROUNDING).to_kind(Kind::Double);
        let whole = seen.sum(Kind::Double).double_value(&[]);
        self.grow(&seen, whole)
    }

    /// Root mean square distance from the centre, weighted by `energy^power`, in pixels: power 1 for the energy, 1/2 for the
    /// gradient's size.
    pub fn radius(&self, power: f64) -> f64 {
        let [y, x] = self.centre();
        let size = self.energy.size();
        let line =
            |n: i64, middle: i64| (Tensor::arange(n, (Kind::Double, Device::Cpu)) - middle as f64).square();
        let distance = line(size[0], y).unsqueeze(1) + line(size[1], x).unsqueeze(0);
        let weight = self.energy.pow_tensor_scalar(power);
        let mean = (&weight * distance).sum(Kind::Double) / weight.sum(Kind::Double);
        mean.double_value(&[]).sqrt()
    }

    /// Side of the smallest centred square that has `wanted` of the sum of `map`.
    fn grow(&self, map: &Tensor, wanted: f64) -> i64 {
        let ([y, x], size) = (self.centre(), map.size());
        let longest = size[0].max(size[1]);
        let inside = |reach: &i64| {
            let rows = |middle: i64, n: i64| {
                let first = (middle - reach).max(0);
                (first, (middle + reach + 1).min(n) - first)
            };
            let ((top, high), (left, wide)) = (rows(y, size[0]), rows(x, size[1]));
            map.narrow(0, top, high).narrow(1, left, wide).sum(Kind::Double).double_value(&[])
        };
        let enough = |reach: &i64| inside(reach) >= wanted * (1.0 - 1e-12); // sums in another order
        let reach = (0..longest).find(enough).unwrap_or(longest);
        (2 * reach + 1).min(longest)
    }
}

/// The effective receptive field of `backbone` at the noise level of `input`, over its `B` images `[B, C, H, W]`, one at a time.
///
/// The gradient is taken for each channel of the output that belongs to a channel of the image, so that none cancels another.
/// `None` where the output at the centre does not depend on the input, as at initialisation of some networks.
pub fn receptive_field(backbone: &dyn Backbone, input: Input<'_>) -> Option<ReceptiveField> {
    let of_row = |row: i64| {
        let cond = input.cond.narrow(row, 1);
        let (x, noise_level) = (input.x.narrow(0, row, 1), input.noise_level.narrow(0, row, 1));
        squared_gradient(
            backbone,
            Input { x: &x, noise_level: &noise_level, cond: &cond, train: input.train },
        )
    };
    let energy = (0..input.x.size()[0]).filter_map(of_row).reduce(|a, b| a + b)?;
    let whole = energy.sum(Kind::Double).double_value(&[]);
    (whole > 0.0 && whole.is_finite()).then(|| ReceptiveField { energy: energy / whole })
}

/// Of one image, `[H, W]`, on the host.
fn squared_gradient(backbone: &dyn Backbone, input: Input<'_>) -> Option<Tensor> {
    let x = input.x.detach().copy().set_requires_grad(true);
    let out = backbone.forward(Input { x: &x, ..input }, &mut ());
    if !out.requires_grad() {
        return None;
    }
    let size = out.size();
    let channels = size[1].min(x.size()[1]);
    let centre = out.select(3, size[3] / 2).select(2, size[2] / 2).select(0, 0); // [C']
    let squared = |channel: i64| {
        let found = Tensor::run_backward(&[centre.get(channel)], &[&x], channel + 1 < channels, false);
        let gradient = found.into_iter().next().filter(Tensor::defined)?;
        Some(gradient.to_kind(Kind::Double).square().sum_dim_intlist(
            [0i64, 1].as_slice(),
            false,
            Kind::Double,
        ))
    };
    Some((0..channels).filter_map(squared).reduce(|a, b| a + b)?.to_device(Device::Cpu))
}
