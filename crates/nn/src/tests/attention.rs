//! Attention by both kernels, with time, with normed queries and keys, with places.

use super::{F32, direct_attention, heads, linear, made, randomise, weights};
use crate::{
    Activation, Attention, AttentionInput, AttentionShape, Embedded, Linear, QkNorm, Rotary, SelfAttention,
    Surroundings, TimeAttention, attend, mask_bias,
};
use heldout_testkit::close;
use tch::{Device, Kind, Tensor, nn};

/// Narrow heads and wide ones, as many keys as queries and others, with a mask and without.
#[test]
fn every_kernel_is_the_formula() {
    tch::manual_seed(0);
    for width in [4, 8, 16, 64] {
        for keys in [12, 7] {
            let [q, k, v] = [12, keys, keys].map(|length| Tensor::randn([2, 3, length, width], F32));
            close(&attend(&q, &k, &v, None), &direct_attention(&q, &k, &v, None), 1e-5);
            let mask = Tensor::arange(keys, F32).lt(4.0).expand([2, keys], false);
            let bias = mask_bias(&mask, &q);
            close(&attend(&q, &k, &v, Some(&bias)), &direct_attention(&q, &k, &v, Some(&bias)), 1e-5);
            // What is masked is not seen.
            let seen = attend(&q, &k.narrow(2, 0, 4), &v.narrow(2, 0, 4), None);
            close(&attend(&q, &k, &v, Some(&bias)), &seen, 1e-5);
        }
    }
}

/// The largest problem that the rule gives to the two products, and the first that it does not, give one function.
#[test]
fn the_switch_of_kernels_is_not_seen() {
    tch::manual_seed(0);
    let [q, k, v] = [0; 3].map(|_| Tensor::randn([5, 4, 1024, 8], F32)); // 5 * 4 * 2^20 > 2^24
    let one = |t: &Tensor| t.narrow(0, 0, 1);
    close(&one(&attend(&q, &k, &v, None)), &attend(&one(&q), &one(&k), &one(&v), None), 1e-5);
}

fn around(embedded: &Embedded) -> Surroundings<'_> {
    Surroundings { embedded, context: None, bias: None, train: false }
}

#[test]
fn attention_is_blind_to_the_order_of_places() {
    let shape = AttentionShape::new(16, 2, 8, true);
    let (_vars, attention) = made(|vs| SelfAttention::new(vs, shape, Some((4, 1e-5)), 1.0));
    let x = Tensor::randn([2, 16, 4, 4], F32);
    let embedded = Embedded::new(Tensor::zeros([2, 8], F32), Activation::Silu);
    let of = |x: &Tensor| attention.forward(x, around(&embedded));
    close(&of(&x.flip([3])), &of(&x).flip([3]), 1e-5);
}

/// `x + attention(x)`, divided by the scale.
#[test]
fn self_attention_adds_its_input() {
    let shape = AttentionShape::new(8, 2, 4, true);
    let (vars, attention) = made(|vs| SelfAttention::new(vs, shape, None, 2.0));
    let _ = tch::no_grad(|| vars.variables()["to_out.0.weight"].shallow_clone().zero_());
    let bias = &vars.variables()["to_out.0.bias"];
    let x = Tensor::randn([2, 8, 3, 5], F32);
    let embedded = Embedded::new(Tensor::zeros([2, 8], F32), Activation::Silu);
    close(&attention.forward(&x, around(&embedded)), &((&x + bias.view([1, 8, 1, 1])) / 2.0), 1e-6);
}

fn timed(time: TimeAttention, context: Option<i64>) -> (nn::VarStore, Attention) {
    let shape = AttentionShape { time: (time, 6), context, ..AttentionShape::new(8, 2, 4, true) };
    let (vars, attention) = made(|vs| Attention::new(vs, shape, Linear::with_bias));
    randomise(&vars);
    (vars, attention)
}

/// The time-dependent self-attention of DiffiT, Hatamizadeh et al. 2024, Eq. 3 to 5, and the same with time in the query
/// alone, and over a context.
#[test]
fn time_in_attention_is_the_formula() {
    for time in [TimeAttention::None, TimeAttention::Query, TimeAttention::All] {
        for context in [None, Some(5)] {
            let (vars, attention) = timed(time, context);
            let x = Tensor::randn([2, 9, 8], F32);
            let asked = context.map(|width| Tensor::randn([2, 4, width], F32));
            let t = Tensor::randn([2, 6], F32);
            let input =
                AttentionInput { context: asked.as_ref(), time: Some(&t), ..AttentionInput::default() };
            let out = attention.forward(&x, input);

            let w = weights(&vars);
            let [x, t] = [&x, &t].map(|t| t.to_kind(Kind::Double));
            let asked = asked.map_or_else(|| x.shallow_clone(), |asked| asked.to_kind(Kind::Double));
            let project = |from: &Tensor, name: &str| {
                let h = linear(from, &w, &format!("to_{name}"));
                let enters = match time {
                    TimeAttention::None => false,
                    TimeAttention::Query => name == "q",
                    TimeAttention::All => true,
                };
                let h = if enters { h + linear(&t, &w, &format!("time_{name}")).unsqueeze(1) } else { h };
                heads(&h, 2)
            };
            let h = direct_attention(&project(&x, "q"), &project(&asked, "k"), &project(&asked, "v"), None);
            close(&out, &linear(&h.transpose(1, 2).flatten(2, 3), &w, "to_out.0"), 1e-4);
            assert_eq!(
                w.keys().filter(|name| name.starts_with("time_")).count(),
                match time {
                    TimeAttention::None => 0,
                    TimeAttention::Query => 1,
                    TimeAttention::All => 3,
                }
            );
        }
    }
}

#[test]
fn time_matters_where_its_weights_are_not_zero() {
    let (plain_vars, plain) = timed(TimeAttention::None, None);
    let (x, t) = (Tensor::randn([2, 9, 8], F32), Tensor::randn([2, 6], F32));
    let input = AttentionInput { time: Some(&t), ..AttentionInput::default() };
    let wanted = plain.forward(&x, input);
    for time in [TimeAttention::Query, TimeAttention::All] {
        let (vars, attention) = timed(time, None);
        tch::no_grad(|| {
            for (name, t) in plain_vars.variables() {
                vars.variables()[&name].shallow_clone().copy_(&t);
            }
        });
        assert!(!attention.forward(&x, input).equal(&wanted), "{time:?} does not see time");
        assert!(!attention.forward(&x, input).equal(&attention.forward(&x, AttentionInput::default())));
        tch::no_grad(|| {
            for (name, t) in vars.variables() {
                if name.starts_with("time_") {
                    let _ = t.shallow_clone().zero_();
                }
            }
        });
        assert!(attention.forward(&x, input).equal(&wanted), "{time:?} changes what it should not");
    }
}

/// With normed queries and keys the lengths of both do not matter: scores are bounded.
#[test]
fn norms_of_queries_and_keys_take_their_lengths_away() {
    for (norm, blind) in [(QkNorm::None, false), (QkNorm::Rms, true), (QkNorm::Layer, true)] {
        let shape = AttentionShape { qk_norm: norm, ..AttentionShape::new(8, 2, 4, true) };
        let (vars, attention) = made(|vs| Attention::new(vs, shape, Linear::with_bias));
        let x = Tensor::randn([2, 9, 8], F32);
        let of = || attention.forward(&x, AttentionInput::default());
        let before = of();
        tch::no_grad(|| {
            for name in ["to_q.weight", "to_q.bias", "to_k.weight", "to_k.bias"] {
                let _ = vars.variables()[name].shallow_clone().g_mul_scalar_(7.0);
            }
        });
        let change = (of() - before).abs().max().double_value(&[]);
        assert_eq!(change < 1e-3, blind, "{norm:?}: {change}");
    }
}

/// Root mean square, then learned scales, per head: the formula.
#[test]
fn normed_attention_is_the_formula() {
    let shape = AttentionShape { qk_norm: QkNorm::Rms, ..AttentionShape::new(8, 2, 4, true) };
    let (vars, attention) = made(|vs| Attention::new(vs, shape, Linear::with_bias));
    randomise(&vars);
    let x = Tensor::randn([2, 9, 8], F32);
    let w = weights(&vars);
    let d = x.to_kind(Kind::Double);
    let normed = |name: &str| {
        let h = heads(&linear(&d, &w, &format!("to_{name}")), 2);
        let rms = (h.square().mean_dim(-1i64, true, Kind::Double) + 1e-6).sqrt();
        &h / rms * &w[&format!("norm_{name}.weight")]
    };
    let h = direct_attention(&normed("q"), &normed("k"), &heads(&linear(&d, &w, "to_v"), 2), None);
    let wanted = linear(&h.transpose(1, 2).flatten(2, 3), &w, "to_out.0");
    close(&attention.forward(&x, AttentionInput::default()), &wanted, 1e-4);
}

/// The law of rotary positions: a product of a turned query and a turned key depends on the difference of their places.
#[test]
fn rotary_products_depend_on_differences_alone() {
    tch::manual_seed(0);
    let f64s = (Kind::Double, Device::Cpu);
    let (height, width, dim) = (5i64, 7, 16);
    let [q, k] =
        [0; 2].map(|_| Tensor::randn([1, 1, 1, dim], f64s).expand([1, 1, height * width, dim], false));
    let rotary = Rotary::grid(height, width, dim, &q);
    let products = rotary.turn(&q).matmul(&rotary.turn(&k).transpose(-2, -1));
    let at = |y: i64, x: i64, v: i64, u: i64| products.double_value(&[0, 0, y * width + x, v * width + u]);
    for (dy, dx) in [(0, 0), (1, 0), (0, 1), (2, 3)] {
        let wanted = at(0, 0, dy, dx);
        for (y, x) in [(1, 2), (2, 0), (2, 3)] {
            assert!((at(y, x, y + dy, x + dx) - wanted).abs() < 1e-10, "{y} {x} {dy} {dx}");
        }
    }
    // Rows and columns are told apart, and lengths stay.
    assert!((at(0, 0, 1, 0) - at(0, 0, 0, 1)).abs() > 1e-3);
    close(&rotary.turn(&q).square().sum(Kind::Double), &q.square().sum(Kind::Double), 1e-9);
    // The first place is not turned.
    close(&rotary.turn(&q).narrow(2, 0, 1), &q.narrow(2, 0, 1), 0.0);
}
