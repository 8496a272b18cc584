//! Kernels against each other, layers against their formulas, and what is counted against what is known.

mod attention;
mod cost;
mod layers;
mod low_rank;
mod time;

use std::collections::HashMap;
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// A layer under the root of a fresh store, from seed 0.
fn made<T>(make: impl FnOnce(&nn::Path<'_>) -> T) -> (nn::VarStore, T) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let layer = make(&vars.root());
    (vars, layer)
}

/// Its weights, in f64.
fn weights(vars: &nn::VarStore) -> HashMap<String, Tensor> {
    vars.variables().into_iter().map(|(name, t)| (name, t.detach().to_kind(Kind::Double))).collect()
}

/// Other numbers for all weights, so that nothing is at the 0 or 1 where it starts.
fn randomise(vars: &nn::VarStore) {
    tch::no_grad(|| {
        let mut named: Vec<_> = vars.variables().into_iter().collect();
        named.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (_, t) in named {
            let noise = t.randn_like() * 0.3;
            t.shallow_clone().copy_(&noise);
        }
    });
}

/// `x W^T + b` in f64.
fn linear(x: &Tensor, weights: &HashMap<String, Tensor>, name: &str) -> Tensor {
    let out = x.matmul(&weights[&format!("{name}.weight")].transpose(0, 1));
    weights.get(&format!("{name}.bias")).map_or_else(|| out.shallow_clone(), |bias| &out + bias)
}

/// `softmax(q k^T / sqrt(D) + bias) v` by its definition, in f64.
fn direct_attention(q: &Tensor, k: &Tensor, v: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [q, k, v] = [q, k, v].map(|t| t.to_kind(Kind::Double));
    let mut scores = q.matmul(&k.transpose(-2, -1)) / (q.size()[3] as f64).sqrt();
    if let Some(bias) = bias {
        scores += bias.to_kind(Kind::Double);
    }
    let exp = (&scores - scores.amax([-1i64], true)).exp();
    (&exp / exp.sum_dim_intlist(-1i64, true, Kind::Double)).matmul(&v)
}

/// `[B, L, heads D] -> [B, heads, L, D]`.
fn heads(x: &Tensor, heads: i64) -> Tensor {
    x.unflatten(-1, [heads, -1]).transpose(1, 2)
}
