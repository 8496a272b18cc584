//! Each kernel beside the composition of libtorch's own operations, forward and backward, on the shapes of a UNet at 32x32
//! and of DiT-S/2. With the allocator of the binary `heldout`, whose settings count for much here.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "jemalloc reads its settings from a symbol; a bench has no readers"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use heldout_torch_ext::{
    Adam, GroupNorm, adam_, attend, conv3x3, gated_residual, gelu_tanh, group_norm_silu, layer_norm_modulate,
};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Those of the binary `heldout`.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 65] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";

fn leaf(size: &[i64]) -> Tensor {
    Tensor::randn(size, (Kind::Float, Device::Cpu)).set_requires_grad(true)
}

fn libtorchs(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, false, None, false)
}

/// Value and gradients, by ours and by libtorch's.
fn pair(
    c: &mut Criterion,
    name: &str,
    inputs: &[&Tensor],
    ours: &dyn Fn() -> Tensor,
    theirs: &dyn Fn() -> Tensor,
) {
    let dy = theirs().detach().randn_like();
    for (label, f) in [("ours", ours), ("libtorch", theirs)] {
        c.bench_function(&format!("{name}/forward/{label}"), |b| b.iter(|| tch::no_grad(f)));
        c.bench_function(&format!("{name}/both/{label}"), |b| {
            b.iter(|| Tensor::run_backward(&[(f() * &dy).sum(Kind::Float)], inputs, false, false));
        });
    }
}

fn attention(c: &mut Criterion) {
    for [b, heads, l, d] in
        [[16, 16, 256, 8], [16, 8, 64, 8], [8, 16, 256, 16], [8, 8, 256, 32], [8, 6, 256, 64]]
    {
        let [q, k, v] = [0, 1, 2].map(|_| leaf(&[b, l, heads * d]));
        let split = |t: &Tensor| t.view([b, l, heads, d]).transpose(1, 2);
        let run = |f: fn(&Tensor, &Tensor, &Tensor) -> Tensor| f(&split(&q), &split(&k), &split(&v));
        let name = format!("attention {b}x{heads}x{l}x{d}");
        pair(c, &name, &[&q, &k, &v], &|| run(attend), &|| run(libtorchs));
    }
}

fn convolution(c: &mut Criterion) {
    for [b, from, to, side] in [
        [16, 64, 64, 32],
        [16, 128, 128, 16],
        [16, 256, 128, 16],
        [16, 128, 128, 8],
        [1, 64, 64, 8],
        [1, 32, 32, 16],
    ] {
        let (x, weight, bias) = (leaf(&[b, from, side, side]), leaf(&[to, from, 3, 3]), leaf(&[to]));
        let theirs = || x.conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1);
        let name = format!("convolution {b}x{from}x{side}x{side} to {to}");
        pair(c, &name, &[&x, &weight, &bias], &|| conv3x3(&x, &weight, Some(&bias)), &theirs);
    }
}

fn norms(c: &mut Criterion) {
    let (x, shift, weight, bias) = (leaf(&[16, 128, 16, 16]), leaf(&[16, 128]), leaf(&[128]), leaf(&[128]));
    let norm = GroupNorm { groups: 8, weight: &weight, bias: &bias, eps: 1e-5 };
    let theirs = || {
        let shifted = &x + shift.unsqueeze(-1).unsqueeze(-1);
        shifted.group_norm(8, Some(&weight), Some(&bias), 1e-5, true).silu()
    };
    let inputs = [&x, &shift, &weight, &bias];
    pair(c, "group norm 16x128x16x16", &inputs, &|| group_norm_silu(&x, Some(&shift), &norm), &theirs);

    let (x, h, shift, scale) = (leaf(&[8, 256, 384]), leaf(&[8, 256, 384]), leaf(&[8, 384]), leaf(&[8, 384]));
    let theirs = || {
        let normed = x.layer_norm([384], None::<Tensor>, None::<Tensor>, 1e-6, true);
        normed * (scale.unsqueeze(1) + 1.0) + shift.unsqueeze(1)
    };
    let ours = || layer_norm_modulate(&x, &shift, &scale, 1e-6);
    pair(c, "modulated norm 8x256x384", &[&x, &shift, &scale], &ours, &theirs);
    let (ours, theirs) = (|| gated_residual(&x, &scale, &h), || &x + scale.unsqueeze(1) * &h);
    pair(c, "gated residual 8x256x384", &[&x, &scale, &h], &ours, &theirs);
    let x = leaf(&[8, 256, 1536]);
    pair(c, "gelu 8x256x1536", &[&x], &|| gelu_tanh(&x), &|| x.gelu("tanh"));
}

fn optimizer(c: &mut Criterion) {
    let lists: Vec<Vec<Tensor>> =
        (0..4).map(|_| (0..40).map(|_| leaf(&[128, 128, 3, 3]).detach().abs()).collect()).collect();
    let config = Adam { rate: 1e-4, betas: [0.9, 0.999], eps: 1e-8, weight_decay: 0.01, decoupled: true };
    c.bench_function("AdamW 5.9 M numbers in 40 tensors", |b| {
        b.iter(|| adam_(&lists[0], &lists[1], &lists[2], &lists[3], 10, &config));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1))
        .without_plots();
    targets = attention, convolution, norms, optimizer
}
criterion_main!(benches);
