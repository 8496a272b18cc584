//! What is counted, and networks that are shapes alone.

use super::F32;
use crate::{
    Activation, Attention, AttentionInput, AttentionShape, Conv2d, Cost, Embedded, Linear, MlpOptions,
    QkNorm, ResBlock, ResBlockShape, Resample, Surroundings, TimeAttention, TimeEmbedding,
    TimeEmbeddingConfig, TimeNorm, Transformer2d, Transformer2dShape, attend, count, meta, without_storage,
};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, nn};

#[test]
fn products_are_counted() {
    let vars = nn::VarStore::new(Device::Cpu);
    let conv = Conv2d::new(&(vars.root() / "c"), 3, 5, 3, 2);
    let dense = Linear::new(&(vars.root() / "l"), 7, 11);
    let of = |forward: &dyn Fn() -> Tensor| count(forward).1;
    let out = 2 * 5 * 4 * 3; // [2, 5, 4, 3]
    let cost = of(&|| conv.forward(&Tensor::randn([2, 3, 8, 6], F32)));
    assert_eq!(cost, Cost { multiply_adds: out * 27, activations: out });
    let cost = of(&|| dense.forward(&Tensor::randn([4, 9, 7], F32)));
    assert_eq!(cost, Cost { multiply_adds: 4 * 9 * 7 * 11, activations: 4 * 9 * 11 });
    let [q, k] = [6, 10].map(|length| Tensor::randn([2, 3, length, 8], F32));
    let cost = of(&|| attend(&q, &k, &k, None));
    assert_eq!(cost, Cost { multiply_adds: 2 * (2 * 3 * 6 * 10 * 8), activations: 2 * 3 * 6 * 8 });
    // Nothing outside is counted, and a count inside another is its own.
    let (inner, outer) = count(|| of(&|| dense.forward(&Tensor::randn([1, 7], F32))));
    assert_eq!((inner.multiply_adds, outer), (77, Cost::default()));
}

/// A bit of everything.
#[derive(Debug)]
struct Bits {
    time: TimeEmbedding,
    block: ResBlock,
    transformer: Transformer2d,
    attention: Attention,
}

impl Bits {
    fn new(vs: &nn::Path<'_>) -> Self {
        let config = TimeEmbeddingConfig::Mlp {
            of: Box::new(TimeEmbeddingConfig::Fourier { scale: 1.0, log: false, flip_sin_to_cos: true }),
        };
        let time = (TimeAttention::All, 12);
        let shape = AttentionShape { qk_norm: QkNorm::Rms, time, ..AttentionShape::new(16, 2, 8, true) };
        let block = ResBlockShape { time: TimeNorm::ScaleShift, ..ResBlockShape::new(8, 16, 12, 4, 1e-5) };
        let transformer = Transformer2dShape {
            channels: 16,
            heads: 2,
            context: 6,
            layers: 1,
            norm_groups: 4,
            linear_projection: true,
            only_context: false,
            grounded: false,
            time,
        };
        Self {
            time: TimeEmbedding::new(&(vs / "f"), &(vs / "t"), &config, [8, 12], MlpOptions::default()),
            block: ResBlock::new(&(vs / "b"), block),
            transformer: Transformer2d::new(&(vs / "x"), transformer),
            attention: Attention::new(&(vs / "a"), shape, Linear::xavier),
        }
    }

    fn forward(&self, x: &Tensor, level: &Tensor, context: &Tensor) -> Tensor {
        let embedded = Embedded::new(self.time.forward(level, None), Activation::Silu);
        let around = Surroundings { embedded: &embedded, context: Some(context), bias: None, train: false };
        let h = self.transformer.forward(&self.block.forward(x, &embedded, false), around);
        let input = AttentionInput { time: Some(&embedded.activated), ..AttentionInput::default() };
        self.attention.forward(&crate::to_tokens(&h), input)
    }
}

/// A network without storage has the same names and shapes, makes the same shapes and costs the same.
#[test]
fn without_storage_it_is_the_same_network() {
    let build = || {
        let vars = nn::VarStore::new(Device::Cpu);
        let bits = Bits::new(&vars.root());
        (vars, bits)
    };
    let shapes = |vars: &nn::VarStore| -> BTreeMap<_, _> {
        let described = |t: Tensor| (t.size(), t.kind(), t.requires_grad());
        vars.variables().into_iter().map(|(name, t)| (name, described(t))).collect()
    };
    let (real_vars, real) = build();
    let (vars, empty) = without_storage(build);
    assert_eq!(shapes(&real_vars), shapes(&vars));
    let sizes: [&[i64]; 3] = [&[2, 8, 4, 6], &[2], &[2, 3, 6]];
    let [x, level, context] = sizes.map(|size| Tensor::rand(size, F32));
    let (out, cost) = count(|| real.forward(&x, &level, &context));
    let [x, level, context] = sizes.map(|size| meta(size, Kind::Float));
    let (shape, counted) = count(|| empty.forward(&x, &level, &context));
    assert_eq!((shape.size(), counted), (out.size(), cost));
    use Resample::{FirDown, FirUp, Mean, MirroredDown, MirroredUp, Nearest};
    for way in [Mean, Nearest, FirDown, FirUp, MirroredDown, MirroredUp] {
        for size in [[1, 2, 8, 6], [1, 2, 7, 9]] {
            let shape = way.forward(&meta(&size, Kind::Float)).size();
            assert_eq!(shape, way.forward(&Tensor::zeros(size, F32)).size(), "{way:?}");
        }
    }
    // The wish ends with the call.
    assert!(build().0.variables()["b.conv1.weight"].abs().max().double_value(&[]) > 0.0);
}
