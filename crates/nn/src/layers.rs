//! Linear layers, convolutions, norms and tables, with PyTorch's initialisation.
//!
//! Every number that a network learns is made by [`variable`], and every matrix product is counted, so that a network can
//! be described without being held in memory ([`crate::without_storage`], [`crate::count`]).

use crate::low_rank::{LowRankSite, site};
use crate::{Activation, tally};
use heldout_core::stream;
use heldout_torch_ext::{conv3x3, group_norm, group_norm_silu, layer_norm_modulate};
use std::rc::Rc;
use tch::nn::Init;
use tch::{Kind, Tensor, nn};

/// Starts at 0.
pub const ZERO: Init = Init::Const(0.0);

/// Uniform in `±1/sqrt(fan_in)`: what PyTorch gives the weights and biases of linear and convolution layers.
fn uniform(fan_in: i64) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// A trainable tensor called `name` under `vs`; without storage inside [`crate::without_storage`].
pub fn variable(vs: &nn::Path<'_>, name: &str, dims: &[i64], init: Init) -> Tensor {
    match tally::shape_only(dims, vs.kind()) {
        Some(empty) => vs.add(name, empty, true),
        None => vs.var(name, dims, init),
    }
}

/// `n` Gaussian numbers that are stored and not trained; the same for every seed, since checkpoints hold what is trained.
pub(crate) fn fixed_gaussian(vs: &nn::Path<'_>, name: &str, n: i64, std: f64) -> Tensor {
    let uniform =
        |i: i64, rank| (stream(0, "fourier frequencies", i as u64, rank) >> 11) as f64 / (1u64 << 53) as f64;
    // Box and Muller 1958.
    let gaussian =
        |i| (-2.0 * (1.0 - uniform(i, 0)).ln()).sqrt() * (std::f64::consts::TAU * uniform(i, 1)).cos();
    let value = tally::shape_only(&[n], vs.kind()).unwrap_or_else(|| {
        let numbers: Vec<f64> = (0..n).map(|i| gaussian(i) * std).collect();
        Tensor::from_slice(&numbers).to_kind(vs.kind()).to_device(vs.device())
    });
    vs.add(name, value, false)
}

/// `x W^T + b` on the last dimension.
#[derive(Debug)]
pub struct Linear {
    /// `[to, from]`.
    pub weight: Tensor,
    /// `[to]`.
    pub bias: Option<Tensor>,
    low_rank: Option<Rc<LowRankSite>>,
}

impl Linear {
    /// `weight` and `bias` under `vs`, as PyTorch starts them.
    pub fn new(vs: &nn::Path<'_>, from: i64, to: i64) -> Self {
        Self::start(vs, from, to, uniform(from), Some(uniform(from)))
    }

    /// `weight` alone, as PyTorch starts it, or with a bias.
    pub fn with_bias(vs: &nn::Path<'_>, from: i64, to: i64, bias: bool) -> Self {
        Self::start(vs, from, to, uniform(from), bias.then(|| uniform(from)))
    }

    /// With weights of Glorot and Bengio 2010, Eq. 16, and a bias of 0.
    pub fn xavier(vs: &nn::Path<'_>, from: i64, to: i64, bias: bool) -> Self {
        let bound = (6.0 / (from + to) as f64).sqrt();
        Self::start(vs, from, to, Init::Uniform { lo: -bound, up: bound }, bias.then_some(ZERO))
    }

    /// All 0: whatever it is added to stays what it is until it learns.
    pub fn zero(vs: &nn::Path<'_>, from: i64, to: i64) -> Self {
        Self::start(vs, from, to, ZERO, Some(ZERO))
    }

    /// With this start.
    pub fn start(vs: &nn::Path<'_>, from: i64, to: i64, weight: Init, bias: Option<Init>) -> Self {
        let weight = variable(vs, "weight", &[to, from], weight);
        let low_rank = site(vs, &weight, None);
        Self { weight, bias: bias.map(|init| variable(vs, "bias", &[to], init)), low_rank }
    }

    /// Several layers of one width on one input, by one product.
    pub fn side_by_side<const N: usize>(layers: [&Self; N], x: &Tensor) -> [Tensor; N] {
        let weight = Tensor::cat(&layers.map(|l| &l.weight), 0);
        let biases: Vec<&Tensor> = layers.iter().filter_map(|l| l.bias.as_ref()).collect();
        let bias = (biases.len() == N).then(|| Tensor::cat(&biases, 0));
        let out = Self { weight, bias, low_rank: None }.forward(x);
        let width = layers[0].weight.size()[0];
        std::array::from_fn(|i| layers[i].adapted(out.narrow(-1, i as i64 * width, width), x))
    }

    /// `[.., from] -> [.., to]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let out = x.linear(&self.weight, self.bias.as_ref());
        tally::product(&out, self.weight.size()[1]);
        self.adapted(out, x)
    }

    fn adapted(&self, out: Tensor, x: &Tensor) -> Tensor {
        match &self.low_rank {
            Some(parts) => parts.add_to(out, x),
            None => out,
        }
    }
}

/// Square convolution: `[B, from, H, W] -> [B, to, ..]`.
#[derive(Debug)]
pub struct Conv2d {
    /// `[to, from, kernel, kernel]`.
    pub weight: Tensor,
    /// `[to]`.
    pub bias: Option<Tensor>,
    stride: i64,
    padding: i64,
    low_rank: Option<Rc<LowRankSite>>,
}

impl Conv2d {
    /// `weight` and `bias` under `vs`, as PyTorch starts them; keeps the size at stride 1 (for odd kernels).
    pub fn new(vs: &nn::Path<'_>, from: i64, to: i64, kernel: i64, stride: i64) -> Self {
        let init = uniform(from * kernel * kernel);
        Self::start(vs, [from, to, kernel, stride], kernel / 2, init, Some(init))
    }

    /// The same without a bias.
    pub fn without_bias(vs: &nn::Path<'_>, from: i64, to: i64, kernel: i64) -> Self {
        Self::start(vs, [from, to, kernel, 1], kernel / 2, uniform(from * kernel * kernel), None)
    }

    /// The same with this padding on every side.
    pub fn padded(vs: &nn::Path<'_>, from: i64, to: i64, kernel: i64, stride: i64, padding: i64) -> Self {
        let init = uniform(from * kernel * kernel);
        Self::start(vs, [from, to, kernel, stride], padding, init, Some(init))
    }

    /// All 0.
    pub fn zero(vs: &nn::Path<'_>, from: i64, to: i64, kernel: i64) -> Self {
        Self::start(vs, [from, to, kernel, 1], kernel / 2, ZERO, Some(ZERO))
    }

    /// Cuts images into squares of `patch` and projects each, as a linear layer of Glorot and Bengio's start.
    pub fn patches(vs: &nn::Path<'_>, from: i64, to: i64, patch: i64) -> Self {
        let bound = (6.0 / (from * patch * patch + to) as f64).sqrt();
        let init = Init::Uniform { lo: -bound, up: bound };
        Self::start(vs, [from, to, patch, patch], 0, init, Some(ZERO))
    }

    /// As PyTorch starts it, of `[from, to, kernel, stride]`, with a bias or without.
    pub fn with_bias(vs: &nn::Path<'_>, sizes: [i64; 4], padding: i64, bias: bool) -> Self {
        let init = uniform(sizes[0] * sizes[2] * sizes[2]);
        Self::start(vs, sizes, padding, init, bias.then_some(init))
    }

    /// With this start, of `[from, to, kernel, stride]`.
    pub fn start(vs: &nn::Path<'_>, sizes: [i64; 4], padding: i64, weight: Init, bias: Option<Init>) -> Self {
        let [from, to, kernel, stride] = sizes;
        let weight = variable(vs, "weight", &[to, from, kernel, kernel], weight);
        let low_rank = site(vs, &weight, Some([stride, padding]));
        let bias = bias.map(|init| variable(vs, "bias", &[to], init));
        Self { weight, bias, stride, padding, low_rank }
    }

    /// `[B, from, H, W] -> [B, to, H / stride, W / stride]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let size = self.weight.size();
        let side = |n: i64| (n + 2 * self.padding - size[2]) / self.stride + 1;
        let image = x.size();
        let out = tally::shaped(x, &[image[0], size[0], side(image[2]), side(image[3])])
            .unwrap_or_else(|| self.convolve(x));
        tally::product(&out, size[1] * size[2] * size[3]);
        match &self.low_rank {
            Some(parts) => parts.add_to(out, x),
            None => out,
        }
    }

    fn convolve(&self, x: &Tensor) -> Tensor {
        if self.weight.size()[2] == 3 && self.stride == 1 && self.padding == 1 {
            return conv3x3(x, &self.weight, self.bias.as_ref());
        }
        let (stride, padding) = ([self.stride; 2], [self.padding; 2]);
        x.conv2d(&self.weight, self.bias.as_ref(), stride, padding, [1, 1], 1)
    }
}

/// Group norm over `[B, channels, ..]`; Wu and He 2018.
#[derive(Debug)]
pub struct GroupNorm {
    groups: i64,
    weight: Tensor,
    bias: Tensor,
    eps: f64,
}

impl GroupNorm {
    /// `weight` of 1 and `bias` of 0 under `vs`; `groups` divides `channels`.
    pub fn new(vs: &nn::Path<'_>, groups: i64, channels: i64, eps: f64) -> Self {
        Self {
            groups,
            weight: variable(vs, "weight", &[channels], Init::Const(1.0)),
            bias: variable(vs, "bias", &[channels], ZERO),
            eps,
        }
    }

    /// `[B, channels, ..]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let out = tally::shaped(x, &x.size()).unwrap_or_else(|| group_norm(x, None, &self.constants()));
        tally::kept(&out);
        out
    }

    /// The norm of `x + shift` and the activation after it; `shift` `[B, channels]`.
    pub fn activated(&self, x: &Tensor, shift: Option<&Tensor>, activation: Activation) -> Tensor {
        if activation == Activation::Silu {
            let out =
                tally::shaped(x, &x.size()).unwrap_or_else(|| group_norm_silu(x, shift, &self.constants()));
            tally::kept(&out);
            return out;
        }
        match shift {
            Some(shift) => activation.apply(&self.forward(&(x + shift.unsqueeze(-1).unsqueeze(-1)))),
            None => activation.apply(&self.forward(x)),
        }
    }

    fn constants(&self) -> heldout_torch_ext::GroupNorm<'_> {
        let Self { groups, weight, bias, eps } = self;
        heldout_torch_ext::GroupNorm { groups: *groups, weight, bias, eps: *eps }
    }
}

/// Layer norm over the last dimension; Ba et al. 2016.
#[derive(Debug)]
pub struct LayerNorm {
    channels: i64,
    affine: Option<(Tensor, Tensor)>,
    eps: f64,
}

impl LayerNorm {
    /// `weight` of 1 and `bias` of 0 under `vs`.
    pub fn new(vs: &nn::Path<'_>, channels: i64, eps: f64) -> Self {
        let weight = variable(vs, "weight", &[channels], Init::Const(1.0));
        Self { channels, affine: Some((weight, variable(vs, "bias", &[channels], ZERO))), eps }
    }

    /// Without weights.
    pub fn plain(channels: i64, eps: f64) -> Self {
        Self { channels, affine: None, eps }
    }

    /// `norm(x) (1 + scale) + shift`, of `x` `[B, L, C]`, `shift` and `scale` `[B, C]`.
    pub fn modulated(&self, x: &Tensor, shift: &Tensor, scale: &Tensor) -> Tensor {
        if self.affine.is_some() {
            return self.forward(x) * (scale.unsqueeze(1) + 1.0) + shift.unsqueeze(1);
        }
        let out =
            tally::shaped(x, &x.size()).unwrap_or_else(|| layer_norm_modulate(x, shift, scale, self.eps));
        tally::kept(&out);
        out
    }

    /// `[.., channels]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let (weight, bias) = self.affine.as_ref().map_or((None, None), |(w, b)| (Some(w), Some(b)));
        let out = tally::shaped(x, &x.size())
            .unwrap_or_else(|| x.layer_norm([self.channels], weight, bias, self.eps, false));
        tally::kept(&out);
        out
    }
}

/// Division by the root mean square over the last dimension; Zhang and Sennrich 2019, Eq. 4.
#[derive(Debug)]
pub struct RmsNorm {
    weight: Option<Tensor>,
    eps: f64,
}

impl RmsNorm {
    /// `weight` of 1 under `vs`.
    pub fn new(vs: &nn::Path<'_>, channels: i64, eps: f64) -> Self {
        Self { weight: Some(variable(vs, "weight", &[channels], Init::Const(1.0))), eps }
    }

    /// Without weights.
    pub fn plain(eps: f64) -> Self {
        Self { weight: None, eps }
    }

    /// `[.., channels]`.
    pub fn forward(&self, x: &Tensor) -> Tensor {
        let out = x * (x.square().mean_dim(-1i64, true, x.kind()) + self.eps).rsqrt();
        tally::kept(&out);
        match &self.weight {
            Some(weight) => out * weight,
            None => out,
        }
    }
}

/// A vector for each of `rows` ids.
#[derive(Debug)]
pub struct Embedding(Tensor);

impl Embedding {
    /// `weight` `[rows, width]` under `vs`, Gaussian of deviation `std`.
    pub fn new(vs: &nn::Path<'_>, rows: i64, width: i64, std: f64) -> Self {
        Self(variable(vs, "weight", &[rows, width], Init::Randn { mean: 0.0, stdev: std }))
    }

    /// One id for `rows` rows, `[rows]`, where the table is.
    pub fn ids(&self, id: i64, rows: i64) -> Tensor {
        tally::beside(Tensor::full([rows], id, (Kind::Int64, tally::device(&self.0))), &self.0)
    }

    /// How many ids there are.
    pub fn rows(&self) -> i64 {
        self.0.size()[0]
    }

    /// `[..]`, `Int64`, to `[.., width]`.
    pub fn forward(&self, ids: &Tensor) -> Tensor {
        let dims = [ids.size(), vec![self.0.size()[1]]].concat();
        tally::shaped(&self.0, &dims)
            .unwrap_or_else(|| Tensor::embedding(&self.0, &ids.to_kind(Kind::Int64), -1, false, false))
    }
}
