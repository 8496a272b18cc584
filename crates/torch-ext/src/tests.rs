//! Kernels against the composition of libtorch's own operations: values, gradients, and gradients of gradients.

use crate::*;
use tch::{Device, Kind, Tensor};

const KINDS: [(Kind, f64); 2] = [(Kind::Float, 2e-5), (Kind::Double, 1e-12)];

fn randn(size: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(size, (kind, Device::Cpu))
}

fn leaf(size: &[i64], kind: Kind) -> Tensor {
    randn(size, kind).set_requires_grad(true)
}

/// Largest difference, as a share of the largest number expected.
fn gap(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.size(), expected.size());
    assert_eq!(found.kind(), expected.kind());
    let scale = expected.abs().max().double_value(&[]).max(1e-3);
    (found - expected).abs().max().double_value(&[]) / scale
}

/// Value, gradients without and with a graph, and gradients of a function of the gradients.
fn results(inputs: &[&Tensor], dy: &Tensor, f: &dyn Fn() -> Tensor) -> Vec<Tensor> {
    let mut all = vec![tch::no_grad(f)];
    let y = f();
    all.push(y.detach());
    all.extend(Tensor::run_backward(&[(&y * dy).sum(y.kind())], inputs, false, false));
    let again = Tensor::run_backward(&[(f() * dy).sum(y.kind())], inputs, true, true);
    let penalty = again.iter().map(|g| g.square().sum(g.kind())).reduce(|a, b| a + b).expect("an input");
    all.extend(again.iter().map(Tensor::detach));
    all.extend(Tensor::run_backward(&[penalty], inputs, false, false));
    all
}

#[track_caller]
fn same(inputs: &[&Tensor], tolerance: f64, ours: &dyn Fn() -> Tensor, composed: &dyn Fn() -> Tensor) {
    let y = composed();
    let dy = y.detach().randn_like().set_requires_grad(true);
    let mut with_dy = inputs.to_vec();
    with_dy.push(&dy); // the gradient's own gradient takes part in the second derivative
    let inputs = &with_dy;
    let (found, expected) = (results(inputs, &dy, ours), results(inputs, &dy, composed));
    for (i, (f, e)) in found.iter().zip(&expected).enumerate() {
        assert!(gap(f, e) < tolerance, "result {i}: {}", gap(f, e));
    }
    for (a, b) in results(inputs, &dy, ours).iter().zip(&found) {
        assert_eq!(a, b, "another run gives other bytes");
    }
}

fn attention(q: &Tensor, k: &Tensor, v: &Tensor) -> Tensor {
    let scale = (*q.size().last().expect("4 dimensions") as f64).powf(-0.5);
    (q * scale).matmul(&k.transpose(-2, -1)).softmax(-1, q.kind()).matmul(v)
}

#[test]
fn attention_equals_its_composition() {
    for (kind, tolerance) in KINDS {
        for [b, heads, l, m, d] in
            [[2, 3, 16, 16, 8], [1, 2, 37, 300, 8], [3, 1, 5, 7, 3], [2, 2, 70, 33, 16], [1, 2, 20, 9, 32]]
        {
            let [q, k, v] = [l, m, m].map(|n| leaf(&[b, n, heads * d], kind));
            let heads = |t: &Tensor| t.view([b, -1, heads, d]).transpose(1, 2);
            let run = |f: &dyn Fn(&Tensor, &Tensor, &Tensor) -> Tensor| f(&heads(&q), &heads(&k), &heads(&v));
            same(&[&q, &k, &v], tolerance, &|| run(&attend), &|| run(&attention));
        }
    }
}

#[test]
fn attention_takes_any_layout_and_lets_not_a_number_through() {
    let [q, k, v] = [0, 1, 2].map(|_| randn(&[2, 3, 8, 40], Kind::Float).transpose(2, 3));
    assert!(gap(&attend(&q, &k, &v), &attention(&q, &k, &v)) < 1e-5);
    let _ = k.get(0).get(1).get(5).fill_(f64::NAN);
    let y = attend(&q, &k, &v);
    assert_eq!(y.get(0).get(1).isnan().all().int64_value(&[]), 1);
    assert_eq!(y.get(1).isnan().any().int64_value(&[]), 0);
    let large = attend(&(&q * 1e4), &q, &v); // one probability is 1: nothing overflows
    assert_eq!(large.isfinite().all().int64_value(&[]), 1);
}

#[test]
#[should_panic(expected = "are not [B, heads, L, D]")]
fn misfits_panic_with_the_shapes() {
    let _ = attend(
        &randn(&[1, 2, 3, 4], Kind::Float),
        &randn(&[1, 2, 3, 5], Kind::Float),
        &randn(&[1, 2, 3, 5], Kind::Float),
    );
}

#[test]
fn group_norm_equals_its_composition() {
    for (kind, tolerance) in KINDS {
        for (size, groups) in
            [(vec![2, 32, 8, 8], 8), (vec![3, 6, 5, 7], 3), (vec![2, 4, 3], 1), (vec![5, 8], 2)]
        {
            let [x, shift] = [&size[..], &size[..2]].map(|s| leaf(s, kind));
            let [weight, bias] = [0, 1].map(|_| leaf(&size[1..2], kind));
            let norm = GroupNorm { groups, weight: &weight, bias: &bias, eps: 1e-5 };
            let row: Vec<i64> = (0..size.len()).map(|i| if i < 2 { size[i] } else { 1 }).collect();
            let plain = |x: &Tensor| x.group_norm(groups, Some(&weight), Some(&bias), 1e-5, false);
            let shifted = || &x + shift.view(&row[..]);
            same(&[&x, &weight, &bias], tolerance, &|| group_norm(&x, None, &norm), &|| plain(&x));
            same(&[&x, &weight, &bias], tolerance, &|| group_norm_silu(&x, None, &norm), &|| {
                plain(&x).silu()
            });
            let all = [&x, &shift, &weight, &bias];
            same(&all, tolerance, &|| group_norm_silu(&x, Some(&shift), &norm), &|| plain(&shifted()).silu());
        }
    }
}

#[test]
fn convolution_equals_libtorchs() {
    for (kind, tolerance) in KINDS {
        for [b, from, to, h, w] in [
            [2, 32, 32, 8, 8],
            [1, 32, 64, 7, 13],
            [3, 64, 32, 16, 16],
            [1, 16, 48, 5, 3],
            [2, 3, 8, 6, 6],
            [1, 32, 32, 2, 2],
        ] {
            let (x, bias) = (leaf(&[b, from, h, w], kind), leaf(&[to], kind));
            let weight =
                (randn(&[to, from, 3, 3], kind) / (9.0 * from as f64).sqrt()).set_requires_grad(true);
            let plain = |bias: Option<&Tensor>| x.conv2d(&weight, bias, [1, 1], [1, 1], [1, 1], 1);
            same(&[&x, &weight, &bias], tolerance, &|| conv3x3(&x, &weight, Some(&bias)), &|| {
                plain(Some(&bias))
            });
            same(&[&x, &weight], tolerance, &|| conv3x3(&x, &weight, None), &|| plain(None));
            let last = x.detach().permute([0, 2, 3, 1]).contiguous().permute([0, 3, 1, 2]);
            assert!(gap(&conv3x3(&last, &weight, None), &plain(None)) < tolerance);
        }
    }
}

#[test]
fn transformer_parts_equal_their_compositions() {
    for (kind, tolerance) in KINDS {
        for [b, l, d] in [[2, 16, 32], [3, 70, 13], [1, 1, 384]] {
            let [x, h] = [0, 1].map(|_| leaf(&[b, l, d], kind));
            let [shift, scale] = [0, 1].map(|_| leaf(&[b, d], kind));
            let norm = || x.layer_norm([d], None::<Tensor>, None::<Tensor>, 1e-6, false);
            let modulated = || norm() * (scale.unsqueeze(1) + 1.0) + shift.unsqueeze(1);
            same(
                &[&x, &shift, &scale],
                tolerance,
                &|| layer_norm_modulate(&x, &shift, &scale, 1e-6),
                &modulated,
            );
            let gated = || &x + scale.unsqueeze(1) * &h;
            same(&[&x, &scale, &h], tolerance, &|| gated_residual(&x, &scale, &h), &gated);
            let wide = (&x * 5.0).detach().set_requires_grad(true);
            same(&[&wide], tolerance, &|| gelu_tanh(&wide), &|| wide.gelu("tanh"));
        }
    }
}

#[test]
fn exponentials_keep_their_precision_over_the_whole_range() {
    for (kind, tolerance) in [(Kind::Float, 3e-7), (Kind::Double, 1e-14)] {
        let x = Tensor::linspace(-80.0, 80.0, 4001, (kind, Device::Cpu));
        let y = gelu_tanh(&x);
        let expected = x.to_kind(Kind::Double).gelu("tanh");
        let found = gap(&y.to_kind(Kind::Double), &expected);
        assert!(found < tolerance, "{found}");
    }
}

#[test]
fn optimizers_follow_their_papers() {
    for (kind, decoupled) in [(Kind::Float, true), (Kind::Double, false)] {
        let sizes: [&[i64]; 3] = [&[3, 5], &[17], &[2, 2, 3, 3]];
        let params: Vec<Tensor> = sizes.iter().map(|s| randn(s, kind)).collect();
        let [first, second] = [0, 1].map(|_| params.iter().map(Tensor::zeros_like).collect::<Vec<_>>());
        let config = Adam { rate: 1e-2, betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.1, decoupled };
        let mut expected: Vec<[Tensor; 3]> =
            params.iter().map(|p| [p.copy(), p.zeros_like(), p.zeros_like()]).collect();
        for step in 1..=20_u64 {
            let grads: Vec<Tensor> = params.iter().map(Tensor::randn_like).collect();
            let kept: Vec<Tensor> = grads.iter().map(Tensor::copy).collect();
            adam_(&params, &grads, &first, &second, step, &config);
            for ([p, m, v], g) in expected.iter_mut().zip(&kept) {
                let decayed = if decoupled { g.copy() } else { g + &*p * 0.1 };
                *m = &*m * 0.9 + &decayed * 0.1;
                *v = &*v * 0.99 + decayed.square() * 0.01;
                let corrected = |moment: &Tensor, beta: f64| moment / (1.0 - beta.powf(step as f64));
                let change = corrected(m, 0.9) / (corrected(v, 0.99).sqrt() + 1e-8);
                *p = &*p * (if decoupled { 1.0 - 1e-3 } else { 1.0 }) - change * 1e-2;
            }
            assert!(grads.iter().zip(&kept).all(|(a, b)| a == b), "gradients change");
        }
        for (p, [e, ..]) in params.iter().zip(&expected) {
            assert!(gap(p, e) < 1e-6, "{}", gap(p, e));
        }
    }
}

#[test]
fn lists_are_measured_scaled_and_moved() {
    let list = [randn(&[3, 4], Kind::Float), randn(&[5], Kind::Float)];
    let joined = || Tensor::cat(&[list[0].flatten(0, -1), list[1].shallow_clone()], 0);
    let (norm, before) = (grad_norm(&list), joined());
    assert!(gap(&norm, &before.norm()) < 1e-6);
    scale_(&list, &Tensor::from(0.5_f32));
    assert!(gap(&joined(), &(&before * 0.5)) < 1e-6);
    let ends = [list[0].zeros_like(), list[1].zeros_like()];
    lerp_(&list, &ends, 0.25);
    assert!(gap(&joined(), &(&before * 0.375)) < 1e-6);
    add_(&list, &[list[0].ones_like(), list[1].ones_like()], -2.0);
    assert!(gap(&joined(), &(&before * 0.375 - 2.0)) < 1e-6);
    let leaves = list.map(|t| t.set_requires_grad(true));
    set_grads(&leaves, &ends);
    assert!(leaves.iter().zip(&ends).all(|(t, g)| t.grad().data_ptr() == g.data_ptr()), "copied");
}

#[test]
fn meta_tensors_compute_shapes_alone() {
    let x = meta(&[2, 32, 1 << 20, 1 << 20], Kind::Double);
    assert!(is_meta(&x) && !is_meta(&randn(&[1], Kind::Float)));
    assert_eq!(x.kind(), Kind::Double);
    let y = x.permute([0, 2, 3, 1]) * 2.0;
    assert!(is_meta(&y));
    assert_eq!(y.size(), [2, 1 << 20, 1 << 20, 32]);
    let (q, w) = (meta(&[2, 3, 64, 8], Kind::Float), meta(&[64], Kind::Float));
    assert_eq!(attend(&q, &q, &q).size(), [2, 3, 64, 8]);
    let h = meta(&[2, 64, 8, 8], Kind::Float);
    let norm = GroupNorm { groups: 8, weight: &w, bias: &w, eps: 1e-5 };
    assert!(is_meta(&group_norm_silu(&h, None, &norm)));
    assert!(is_meta(&conv3x3(&h, &meta(&[32, 64, 3, 3], Kind::Float), None)));
}

/// Other kinds and devices take libtorch's kernels, whose backward passes have no derivative of their own.
#[test]
fn attention_by_libtorchs_kernels_can_be_differentiated_twice() {
    tch::manual_seed(0);
    let given = [0, 1, 2].map(|_| Tensor::randn([2, 2, 6, 8], (Kind::Float, Device::Cpu)));
    let gradients = |kind| {
        let x = given.each_ref().map(|t| t.to_kind(kind).set_requires_grad(true));
        let loss = attend(&x[0], &x[1], &x[2]).to_kind(Kind::Float).square().sum(Kind::Float);
        let first = Tensor::run_backward(&[loss], &[&x[0], &x[1], &x[2]], true, true);
        let norm = first[0].to_kind(Kind::Float).square().sum(Kind::Float);
        let second = Tensor::run_backward(&[norm], &[&x[0], &x[1], &x[2]], true, false);
        let plain = attend(&x[0], &x[1], &x[2]).to_kind(Kind::Float).square().sum(Kind::Float);
        let without_graph = Tensor::run_backward(&[plain], &[&x[0], &x[1], &x[2]], false, false);
        first.into_iter().chain(second).chain(without_graph).collect::<Vec<_>>()
    };
    // A bfloat16 holds 8 bits.
    for (i, (half, full)) in gradients(Kind::BFloat16).iter().zip(gradients(Kind::Float)).enumerate() {
        let off =
            (half.to_kind(Kind::Float) - &full).norm().double_value(&[]) / full.norm().double_value(&[]);
        assert!(off < 0.03, "gradient {i}: {off}");
    }
}

#[test]
fn settings_for_a_gpu_leave_the_cpu_as_it_is() {
    let run = || {
        tch::manual_seed(0);
        let x = Tensor::randn([4, 16, 8, 8], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let w = Tensor::randn([16, 16, 3, 3], (Kind::Float, Device::Cpu));
        let y = conv3x3(&x, &w, None).flatten(2, 3).softmax(-1, Kind::Float);
        Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x], false, false).remove(0)
    };
    let before = run();
    reproducible();
    assert!(run().equal(&before));
    assert_eq!(libtorch_version().split('.').count(), 3, "{}", libtorch_version());
}
