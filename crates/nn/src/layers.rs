//! Convolution, linear layer and group norm with PyTorch's initialisation.

use tch::nn;

/// Uniform in `±1/sqrt(fan_in)`: what PyTorch gives the weights and biases of linear and convolution layers.
fn init(fan_in: i64) -> nn::Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    nn::Init::Uniform { lo: -bound, up: bound }
}

/// Square convolution with bias that keeps the size at stride 1: `[B, from, H, W] -> [B, to, H/stride, W/stride]`.
pub fn conv2d(vs: &nn::Path<'_>, from: i64, to: i64, kernel: i64, stride: i64) -> nn::Conv2D {
    let init = init(from * kernel * kernel);
    let config = nn::ConvConfig {
        padding: kernel / 2,
        stride,
        ws_init: init,
        bs_init: init,
        ..nn::ConvConfig::default()
    };
    nn::conv2d(vs, from, to, kernel, config)
}

/// Linear layer with bias on the last dimension: `[.., from] -> [.., to]`.
pub fn linear(vs: &nn::Path<'_>, from: i64, to: i64) -> nn::Linear {
    let init = init(from);
    nn::linear(vs, from, to, nn::LinearConfig { ws_init: init, bs_init: Some(init), bias: true })
}

/// Group norm over `[B, channels, ..]`; Wu and He 2018.
pub fn group_norm(vs: &nn::Path<'_>, groups: i64, channels: i64, eps: f64) -> nn::GroupNorm {
    nn::group_norm(vs, groups, channels, nn::GroupNormConfig { eps, ..nn::GroupNormConfig::default() })
}
