//! Every block of the backbones, forward and backward, at sizes of the networks of docs/log.md.
//!
//! `cargo bench --profile dev -p heldout-benches`.
#![allow(
    unsafe_code,
    missing_docs,
    reason = "jemalloc reads its settings from a symbol; a bench has no readers"
)]

use criterion::{Criterion, criterion_group, criterion_main};
use heldout_benches::F32;
use heldout_nn::{
    Activation, Attention, AttentionInput, AttentionShape, Conv2d, Embedded, FeedForward, FeedForwardKind,
    LayerNorm, Linear, ModulatedNorm, ResBlock, ResBlockShape, SelfAttention, Surroundings, Transformer2d,
    Transformer2dShape,
};
use tch::{Device, Kind, Tensor, nn};

heldout_benches::allocator!();

fn both_ways(c: &mut Criterion, name: &str, x: &[i64], block: impl Fn(&Tensor) -> Tensor) {
    let x = Tensor::randn(x, F32).set_requires_grad(true);
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.bench_function("forward", |b| b.iter(|| tch::no_grad(|| block(&x))));
    group.bench_function("forward and backward", |b| b.iter(|| block(&x).sum(Kind::Float).backward()));
}

fn blocks(c: &mut Criterion) {
    let vars = nn::VarStore::new(Device::Cpu);
    let vs = vars.root();
    let embedded = Embedded::new(Tensor::randn([16, 256], F32), Activation::Silu);
    let around = Surroundings { embedded: &embedded, context: None, bias: None, train: true };

    let conv = Conv2d::new(&(&vs / "conv"), 128, 128, 3, 1);
    both_ways(c, "convolution 3x3, 16x128x16x16", &[16, 128, 16, 16], |x| conv.forward(x));

    let block = ResBlock::new(&(&vs / "block"), ResBlockShape::new(128, 128, 256, 8, 1e-5));
    both_ways(c, "residual block, 16x128x16x16", &[16, 128, 16, 16], |x| block.forward(x, &embedded, true));

    let shape = AttentionShape::new(128, 16, 8, true);
    let own = SelfAttention::new(&(&vs / "own"), shape, Some((8, 1e-5)), 1.0);
    both_ways(c, "self-attention, heads of 8, 16x128x16x16", &[16, 128, 16, 16], |x| own.forward(x, around));

    let text = Tensor::randn([16, 77, 768], F32);
    let looking = Surroundings { context: Some(&text), ..around };
    let shape = Transformer2dShape {
        channels: 320,
        heads: 8,
        context: 768,
        layers: 1,
        norm_groups: 32,
        linear_projection: false,
        only_context: false,
        grounded: false,
        time: Default::default(),
    };
    let cross = Transformer2d::new(&(&vs / "cross"), shape);
    both_ways(c, "transformer with context, 16x320x16x16", &[16, 320, 16, 16], |x| cross.forward(x, looking));

    let attention =
        Attention::new(&(&vs / "attention"), AttentionShape::new(384, 6, 64, true), Linear::xavier);
    both_ways(c, "attention, heads of 64, 8x256x384", &[8, 256, 384], |x| {
        attention.forward(x, AttentionInput::default())
    });

    for kind in [FeedForwardKind::GeluApproximate, FeedForwardKind::Geglu, FeedForwardKind::Swiglu] {
        let ff = FeedForward::new(&(&vs / format!("{kind:?}")), kind, 384, 1536, 0.0, Linear::xavier);
        both_ways(c, &format!("feed-forward {kind:?}, 8x256x384"), &[8, 256, 384], |x| ff.forward(x, true));
    }

    let norm = ModulatedNorm::Layer(LayerNorm::plain(384, 1e-6));
    let (shift, scale) = (Tensor::randn([8, 384], F32), Tensor::randn([8, 384], F32));
    both_ways(c, "modulated norm, 8x256x384", &[8, 256, 384], |x| norm.forward(x, &shift, &scale));
}

criterion_group!(benches, blocks);
criterion_main!(benches);
