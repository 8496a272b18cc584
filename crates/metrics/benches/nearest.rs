//! Nearest pairs of 256 samples among 8,192 training images of 256 pixels. `cargo bench -p heldout-metrics`;
//! `benches/peer.py` times numpy and scikit-learn on the same problem.

use criterion::{Criterion, criterion_group, criterion_main};
use heldout_metrics::{References, transformed_nearest};
use ndarray::Array2;
use std::hint::black_box;

/// Any numbers will do, as long as they differ.
fn numbers(rows: usize, seed: u64) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn((rows, 256), || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 24) as f32
    })
}

fn nearest(c: &mut Criterion) {
    let (train, samples) = (numbers(8192, 1), numbers(256, 2));
    let references = References::new(train.view()).expect("distinct rows");
    let mut group = c.benchmark_group("256 samples, 8192 images, 256 pixels");
    group.sample_size(10);
    group.bench_function("prepare", |b| b.iter(|| black_box(References::new(train.view()))));
    group.bench_function("nearest", |b| b.iter(|| black_box(references.nearest(samples.view()))));
    group.bench_function("nearest of 18 versions", |b| {
        b.iter(|| black_box(transformed_nearest(samples.view(), train.view(), [1, 16, 16])));
    });
}

criterion_group!(benches, nearest);
criterion_main!(benches);
