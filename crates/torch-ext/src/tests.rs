//! Kernels against the composition of libtorch's own operations.

use crate::*;
use tch::{Device, Kind, Tensor};

fn gap(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size());
    let scale = b.abs().max().double_value(&[]).max(1e-30);
    (a - b).abs().max().double_value(&[]) / scale
}

#[test]
fn attention_time() {
    let f = |d: i64, l: i64, b: i64, h: i64| {
        let x = Tensor::randn([b, l, h * d * 3], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let parts = || -> Vec<Tensor> {
            (0..3).map(|i| x.narrow(2, i * h * d, h * d).reshape([b, l, h, d]).transpose(1, 2)).collect()
        };
        let run = |ours: bool| {
            let t = std::time::Instant::now();
            let p = parts();
            let y = if ours {
                attend(&p[0], &p[1], &p[2])
            } else {
                Tensor::scaled_dot_product_attention(
                    &p[0],
                    &p[1],
                    &p[2],
                    None::<Tensor>,
                    0.0,
                    false,
                    None,
                    false,
                )
            };
            let t1 = t.elapsed().as_secs_f64() * 1e3;
            let g = Tensor::run_backward(&[y.square().sum(Kind::Float)], &[&x], false, false).remove(0);
            (y, g, t1, t.elapsed().as_secs_f64() * 1e3)
        };
        for _ in 0..2 {
            run(true);
            run(false);
        }
        let mut best = [f64::MAX; 4];
        for _ in 0..5 {
            let (a, b) = (run(true), run(false));
            assert!(gap(&a.0, &b.0) < 1e-5);
            assert!(gap(&a.1, &b.1) < 1e-5);
            best = [best[0].min(a.2), best[1].min(b.2), best[2].min(a.3), best[3].min(b.3)];
        }
        println!(
            "D {d} L {l} B {b} H {h}: fwd {:.2} {:.2}  both {:.2} {:.2}",
            best[0], best[1], best[2], best[3]
        );
    };
    f(8, 256, 16, 16);
    f(8, 64, 16, 8);
    f(8, 64, 1, 8);
    f(32, 256, 8, 8);
    f(64, 256, 8, 6);
}

#[test]
fn conv_time() {
    let f = |c: i64, o: i64, s: i64, b: i64| {
        let opt = (Kind::Float, Device::Cpu);
        let x = Tensor::randn([b, c, s, s], opt).set_requires_grad(true);
        let w = (Tensor::randn([o, c, 3, 3], opt) * (9.0 * c as f64).powf(-0.5)).set_requires_grad(true);
        let bias = Tensor::randn([o], opt).set_requires_grad(true);
        let dy = Tensor::randn([b, o, s, s], opt);
        let run = |ours: bool| {
            let t = std::time::Instant::now();
            let y = if ours {
                conv3x3(&x, &w, Some(&bias))
            } else {
                x.conv2d(&w, Some(&bias), [1, 1], [1, 1], [1, 1], 1)
            };
            let t1 = t.elapsed().as_secs_f64() * 1e3;
            let g = Tensor::run_backward(&[(&y * &dy).sum(Kind::Float)], &[&x, &w, &bias], false, false);
            (y, g, t1, t.elapsed().as_secs_f64() * 1e3)
        };
        for _ in 0..2 {
            run(true);
            run(false);
        }
        let mut best = [f64::MAX; 4];
        for _ in 0..5 {
            let (a, b) = (run(true), run(false));
            let gaps: Vec<f64> = std::iter::once(gap(&a.0, &b.0))
                .chain(a.1.iter().zip(&b.1).map(|(a, b)| gap(a, b)))
                .collect();
            assert!(gaps.iter().all(|&g| g < 1e-4), "{gaps:?}");
            best = [best[0].min(a.2), best[1].min(b.2), best[2].min(a.3), best[3].min(b.3)];
        }
        println!(
            "{c}->{o} {s}x{s} B {b}: fwd {:.2} {:.2}  both {:.2} {:.2}",
            best[0], best[1], best[2], best[3]
        );
    };
    f(64, 64, 32, 16);
    f(128, 128, 16, 16);
    f(256, 128, 16, 16);
    f(128, 128, 8, 16);
    f(32, 32, 16, 16);
    f(64, 64, 8, 16);
    f(64, 64, 8, 1);
    f(32, 32, 16, 1);
    f(64, 96, 7, 3);
}
