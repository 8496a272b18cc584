//! Seeded draws of indices.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The generator of one purpose: `stream` tells subsets, restarts or epochs of one seed apart.
pub(crate) fn generator(seed: u64, stream: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// One of `0..n`: multiply-shift of 32 random bits, whose bias is below `n / 2^32`.
pub(crate) fn below(rng: &mut ChaCha8Rng, n: usize) -> usize {
    ((u64::from(rng.next_u32()) * n as u64) >> 32) as usize
}

/// Uniform in `[0, 1)`.
pub(crate) fn uniform(rng: &mut ChaCha8Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

/// `size` different indices of `0..n` in random order; all of them where `size` is `n`.
pub(crate) fn without_replacement(rng: &mut ChaCha8Rng, n: usize, size: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..n).collect();
    for i in 0..size {
        let j = i + below(rng, n - i);
        all.swap(i, j);
    }
    all.truncate(size);
    all
}

/// `size` different indices of `0..n`, ascending: a part of a set, drawn by `seed`.
///
/// All of them where `size` is not below `n`.
pub fn subset(n: usize, size: usize, seed: u64) -> Vec<usize> {
    let mut drawn = without_replacement(&mut generator(seed, 0), n, size.min(n));
    drawn.sort_unstable();
    drawn
}
