//! Brightness, Gaussians and gradients of images `[B, C, H, W]`.

use tch::Tensor;

/// Brightness, `[B, 1, H, W]`: ITU-R BT.601, section 2.5.1; of one channel itself.
pub(super) fn grey(x: &Tensor) -> Tensor {
    if x.size()[1] == 1 {
        return x.shallow_clone();
    }
    let weights = Tensor::from_slice(&[0.299f32, 0.587, 0.114]).to_device(x.device()).view([1, 3, 1, 1]);
    (x * weights).sum_dim_intlist([1i64].as_slice(), true, None)
}

/// Each channel behind a Gaussian of this deviation, cut at 4 of them; beyond the border is nothing, and the weights of what is
/// there sum to 1.
pub(super) fn gaussian(x: &Tensor, sigma: f64) -> Tensor {
    let radius = (4.0 * sigma + 0.5) as i64;
    let taps: Vec<f32> =
        (-radius..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp() as f32).collect();
    let taps = Tensor::from_slice(&taps).to_device(x.device());
    let size = x.size();
    let along = |x: &Tensor, dim: i64| {
        let shape = if dim == 2 { [1, 1, -1, 1] } else { [1, 1, 1, -1] };
        let padding = if dim == 2 { [radius, 0] } else { [0, radius] };
        x.conv2d(&taps.view(shape), None::<Tensor>, [1, 1], padding, [1, 1], 1)
    };
    let normalised = |x: &Tensor, dim: usize| {
        let mut line = [1, 1, 1, 1];
        line[dim] = size[dim];
        let there = Tensor::ones(line, (x.kind(), x.device()));
        along(x, dim as i64) / along(&there, dim as i64)
    };
    let planes = x.reshape([-1, 1, size[2], size[3]]);
    normalised(&normalised(&planes, 2), 3).view_as(x)
}

/// Sobel's derivatives down and to the right, `[B, 1, H, W]` each: differences of neighbours but one, weighted 1, 2, 1 across;
/// beyond the border are the pixels at it.
pub(super) fn gradients(x: &Tensor) -> [Tensor; 2] {
    let [h, w] = [x.size()[2], x.size()[3]];
    let padded = x.replication_pad2d([1, 1, 1, 1]);
    let across =
        |x: &Tensor, dim: i64, n: i64| x.narrow(dim, 0, n) + x.narrow(dim, 1, n) * 2.0 + x.narrow(dim, 2, n);
    let step = |x: &Tensor, dim: i64, n: i64| x.narrow(dim, 2, n) - x.narrow(dim, 0, n);
    [across(&step(&padded, 2, h), 3, w), across(&step(&padded, 3, w), 2, h)]
}
