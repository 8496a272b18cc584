//! Metrics of features 2048 wide: KID of 100 subsets of 1000, and the Fréchet distance of 4000 rows from features.
//! `cargo bench -p heldout-metrics --bench features`; `benches/peers/metrics.py` in the root times the peers on the same problem.

use criterion::{Criterion, criterion_group, criterion_main};
use heldout_metrics::{Subsets, frechet_distance, kernel_distance};
use ndarray::Array2;
use std::hint::black_box;

/// Any numbers will do, as long as they differ.
fn numbers(seed: u64) -> Array2<f32> {
    let mut state = seed;
    Array2::from_shape_simple_fn((4000, 2048), || {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        (state >> 40) as f32 / (1u64 << 24) as f32
    })
}

fn features(c: &mut Criterion) {
    let (generated, reference) = (numbers(1), numbers(2));
    let mut group = c.benchmark_group("4000 rows of 2048 features");
    group.sample_size(10);
    let subsets = Subsets::Random { count: 100, size: 1000, seed: 0 };
    group.bench_function("KID 100 x 1000", |b| {
        b.iter(|| black_box(kernel_distance(generated.view(), reference.view(), subsets)));
    });
    group.bench_function("Fréchet distance", |b| {
        b.iter(|| black_box(frechet_distance(generated.view(), reference.view())));
    });
}

criterion_group!(benches, features);
criterion_main!(benches);
