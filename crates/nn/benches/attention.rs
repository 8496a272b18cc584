//! Which attention kernel is faster on the CPU, by shape: the two batched products, or libtorch's blockwise kernel.
//!
//! `cargo bench -p heldout-nn`. The rule in `attend` rests on these figures; see docs/log.md.

#![allow(
    unsafe_code,
    missing_docs,
    reason = "jemalloc reads its settings from a symbol; a bench has no readers"
)]

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tch::{Device, Kind, Tensor};

/// The allocator of the binary `heldout`: with glibc's, which returns large blocks to the system at once, the score matrix
/// costs page faults and the blockwise kernel wins at every shape.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Those of the binary.
#[unsafe(export_name = "malloc_conf")]
pub static MALLOC_CONF: &[u8; 65] = b"dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always,metadata_thp:auto\0";

fn products(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    (q * (q.size()[3] as f64).powf(-0.5)).matmul(&k.transpose(-2, -1)).softmax(-1, Kind::Float).matmul(v)
}

fn blockwise(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    Tensor::scaled_dot_product_attention(q, k, v, None::<Tensor>, 0.0, false, None, false)
}

/// Forward and backward, as in training.
fn both_ways(kernel: fn(&Tensor, &Tensor, &Tensor) -> Tensor, qkv: &[Tensor; 3]) {
    let qkv = qkv.each_ref().map(|t| t.detach().set_requires_grad(true));
    kernel(&qkv[0], &qkv[1], &qkv[2]).sum(Kind::Float).backward();
    let _ = black_box(qkv[0].grad());
}

fn attention(c: &mut Criterion) {
    let mut group = c.benchmark_group("attention forward and backward");
    group.sample_size(20);
    // batch, heads, places, width: quickstart's and other small heads; DDPM's at 16x16; a DiT-S/2 at 32x32 latents; larger.
    for shape in [
        [16, 8, 64, 8],
        [16, 16, 256, 8],
        [16, 8, 1024, 8],
        [16, 8, 256, 16],
        [16, 8, 256, 32],
        [8, 6, 256, 64],
        [4, 4, 1024, 32],
        [2, 4, 4096, 32],
    ] {
        let qkv = [0; 3].map(|_| Tensor::randn(shape, (Kind::Float, Device::Cpu)));
        let name = format!("{shape:?}");
        group.bench_function(BenchmarkId::new("products", &name), |b| b.iter(|| both_ways(products, &qkv)));
        group.bench_function(BenchmarkId::new("blockwise", &name), |b| b.iter(|| both_ways(blockwise, &qkv)));
    }
}

criterion_group!(benches, attention);
criterion_main!(benches);
