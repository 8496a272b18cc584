//! Layers against their formulas and their starts.

use super::{F32, linear, made, randomise, weights};
use crate::{
    Activation, Conv2d, Downsample, Embedded, FeedForward, FeedForwardKind, LayerNorm, Linear, ModulatedNorm,
    ResBlock, ResBlockShape, Resample, RmsNorm, TimeNorm, Upsample, gated, sin_cos_2d,
};
use heldout_testkit::close;
use tch::{Kind, Tensor};

#[test]
fn initial_weights_lie_where_pytorch_puts_them() {
    let (vars, _) = made(|vs| (Conv2d::new(&(vs / "c"), 16, 64, 3, 1), Linear::new(&(vs / "l"), 64, 256)));
    let start = |name: &str, bound: f64| {
        let t = &vars.variables()[name];
        let largest = t.abs().max().double_value(&[]);
        assert!(largest <= bound && largest > 0.9 * bound, "{name}: {largest} against {bound}");
        assert!((t.std(true).double_value(&[]) - bound / 3f64.sqrt()).abs() < 0.1 * bound);
    };
    start("c.weight", 144f64.powf(-0.5));
    start("c.bias", 144f64.powf(-0.5));
    start("l.weight", 64f64.powf(-0.5));
}

#[test]
fn other_starts_are_what_they_say() {
    let (vars, _) = made(|vs| {
        let _ = Linear::xavier(&(vs / "x"), 64, 128, true);
        let _ = Conv2d::patches(&(vs / "p"), 4, 64, 4);
        let _ = Linear::zero(&(vs / "z"), 8, 8);
        Conv2d::zero(&(vs / "zc"), 8, 8, 1)
    });
    let largest = |name: &str| vars.variables()[name].abs().max().double_value(&[]);
    for (name, fans) in [("x.weight", 64 + 128), ("p.weight", 4 * 16 + 64)] {
        let bound = (6.0 / f64::from(fans)).sqrt();
        assert!(largest(name) <= bound && largest(name) > 0.95 * bound, "{name}");
    }
    for name in ["x.bias", "p.bias", "z.weight", "z.bias", "zc.weight", "zc.bias"] {
        assert_eq!(largest(name), 0.0, "{name}");
    }
}

/// Zhang and Sennrich 2019, Eq. 4.
#[test]
fn the_root_mean_square_norm_is_the_formula() {
    let (vars, norm) = made(|vs| RmsNorm::new(vs, 12, 1e-6));
    randomise(&vars);
    let x = Tensor::randn([3, 5, 12], F32);
    let d = x.to_kind(Kind::Double);
    let normed = &d / (d.square().mean_dim(-1i64, true, Kind::Double) + 1e-6).sqrt();
    close(&norm.forward(&x), &(&normed * &weights(&vars)["weight"]), 1e-5);
    close(&RmsNorm::plain(1e-6).forward(&x), &normed, 1e-5);
}

#[test]
fn modulation_scales_and_shifts_after_the_norm() {
    tch::manual_seed(0);
    let x = Tensor::randn([2, 5, 8], F32);
    let [shift, scale] = [0; 2].map(|_| Tensor::randn([2, 8], F32));
    for norm in [ModulatedNorm::Layer(LayerNorm::plain(8, 1e-6)), ModulatedNorm::Rms(RmsNorm::plain(1e-6))] {
        let zero = shift.zeros_like();
        let normed = norm.forward(&x, &zero, &zero);
        let wanted = &normed * (scale.unsqueeze(1) + 1.0) + shift.unsqueeze(1);
        close(&norm.forward(&x, &shift, &scale), &wanted, 1e-5);
    }
    assert!(gated(&x, &shift.zeros_like(), &x.exp()).equal(&x), "a gate of 0 lets something through");
    close(&gated(&x, &shift, &x.sin()), &(&x + shift.unsqueeze(1) * x.sin()), 1e-6);
}

#[test]
fn every_feed_forward_is_its_formula() {
    use FeedForwardKind::{Geglu, GegluApproximate, Gelu, GeluApproximate, LinearSilu, Swiglu};
    let gelu = |x: &Tensor| x * 0.5 * ((x / 2f64.sqrt()).erf() + 1.0);
    let tanh_gelu = |x: &Tensor| {
        let inner = (x + x.pow_tensor_scalar(3) * 0.044_715) * (2.0 / std::f64::consts::PI).sqrt();
        x * 0.5 * (inner.tanh() + 1.0)
    };
    let halves = |x: &Tensor| (x.narrow(-1, 0, 10), x.narrow(-1, 10, 10));
    for kind in [Gelu, GeluApproximate, Geglu, GegluApproximate, Swiglu, LinearSilu] {
        let (vars, layer) = made(|vs| FeedForward::new(vs, kind, 6, 10, 0.0, Linear::with_bias));
        let x = Tensor::randn([2, 5, 6], F32);
        let w = weights(&vars);
        let h = linear(&x.to_kind(Kind::Double), &w, "net.0.proj");
        let h = match kind {
            Gelu => gelu(&h),
            GeluApproximate => tanh_gelu(&h),
            Geglu => halves(&h).0 * gelu(&halves(&h).1),
            GegluApproximate => &h * (&h * 1.702).sigmoid(),
            Swiglu => halves(&h).0 * halves(&h).1 * halves(&h).1.sigmoid(),
            LinearSilu => &h * h.sigmoid(),
        };
        close(&layer.forward(&x, false), &linear(&h, &w, "net.2"), 1e-5);
    }
}

#[test]
fn dropout_is_for_training_alone() {
    let (_vars, layer) =
        made(|vs| FeedForward::new(vs, FeedForwardKind::Gelu, 6, 10, 0.5, Linear::with_bias));
    let x = Tensor::randn([2, 5, 6], F32);
    assert!(layer.forward(&x, false).equal(&layer.forward(&x, false)));
    assert!(!layer.forward(&x, true).equal(&layer.forward(&x, false)));
}

/// One number of a plane, 0 outside.
fn pixel(plane: &Tensor, y: i64, x: i64) -> f64 {
    let size = plane.size();
    let inside = (0..size[0]).contains(&y) && (0..size[1]).contains(&x);
    if inside { plane.double_value(&[y, x]) } else { 0.0 }
}

/// The filter 1, 3, 3, 1 by the sum that defines it: every second place of the filtered image, and the filtered image with
/// zeros between its places.
#[test]
fn the_low_pass_filter_is_the_formula() {
    tch::manual_seed(0);
    let taps = [1.0, 3.0, 3.0, 1.0].map(|t: f64| t / 8.0);
    let x = Tensor::randn([2, 3, 6, 4], F32);
    let [down, up] = [Resample::FirDown, Resample::FirUp].map(|way| way.forward(&x));
    assert_eq!((down.size(), up.size()), (vec![2, 3, 3, 2], vec![2, 3, 12, 8]));
    let filtered = |at: &dyn Fn(i64, i64) -> f64| {
        let pairs = (0..4).flat_map(|a| (0..4).map(move |b| (a, b)));
        pairs.map(|(a, b)| taps[a as usize] * taps[b as usize] * at(a, b)).sum::<f64>()
    };
    let plane = x.select(0, 1).select(0, 2);
    for y in 0..3 {
        for z in 0..2 {
            let wanted = filtered(&|a, b| pixel(&plane, 2 * y + a - 1, 2 * z + b - 1));
            assert!((down.double_value(&[1, 2, y, z]) - wanted).abs() < 1e-5, "down {y} {z}");
        }
    }
    let spread = |y: i64, z: i64| if y % 2 == 0 && z % 2 == 0 { pixel(&plane, y / 2, z / 2) } else { 0.0 };
    for y in 0..12 {
        for z in 0..8 {
            // Four times, since three of four places are 0.
            let wanted = 4.0 * filtered(&|a, b| spread(y + a - 2, z + b - 2));
            assert!((up.double_value(&[1, 2, y, z]) - wanted).abs() < 1e-5, "up {y} {z}");
        }
    }
}

/// Mirrored borders keep a constant image constant; all resampling has the size that it says.
#[test]
fn filters_keep_constants() {
    let ones = Tensor::ones([1, 2, 8, 6], F32);
    for (way, size) in [
        (Resample::Mean, [4, 3]),
        (Resample::Nearest, [16, 12]),
        (Resample::MirroredDown, [4, 3]),
        (Resample::MirroredUp, [16, 12]),
    ] {
        close(&way.forward(&ones), &Tensor::ones([1, 2, size[0], size[1]], F32), 1e-6);
    }
    // Without mirrors, what does not touch a border.
    let inner = |t: Tensor| t.narrow(2, 1, 2).narrow(3, 1, 1);
    close(&inner(Resample::FirDown.forward(&ones)), &Tensor::ones([1, 2, 2, 1], F32), 1e-6);
}

#[test]
fn up_and_down_have_the_sizes_of_their_peers() {
    let (_vars, (same, far, up)) = made(|vs| {
        (
            Downsample::new(&(vs / "a"), 4, 1),
            Downsample::new(&(vs / "b"), 4, 0),
            Upsample::new(&(vs / "c"), 4),
        )
    });
    let x = Tensor::randn([1, 4, 8, 6], F32);
    assert_eq!(same.forward(&x).size(), [1, 4, 4, 3]);
    assert_eq!(far.forward(&x).size(), [1, 4, 4, 3]);
    assert_eq!(up.forward(&x, None).size(), [1, 4, 16, 12]);
    assert_eq!(up.forward(&x, Some([15, 11])).size(), [1, 4, 15, 11]);
}

/// Every way in which time enters changes the output; the block is a sum with its input, divided by the scale.
#[test]
fn time_enters_every_residual_block() {
    for time in [TimeNorm::Shift, TimeNorm::ScaleShift, TimeNorm::AdaGroup] {
        for resample in [Resample::Keep, Resample::Mean, Resample::Nearest] {
            let shape = ResBlockShape { time, resample, scale: 2.0, ..ResBlockShape::new(8, 8, 6, 2, 1e-5) };
            let (vars, block) = made(|vs| ResBlock::new(vs, shape));
            let x = Tensor::randn([2, 8, 4, 4], F32);
            let at = |e: f64| {
                let ramp = Tensor::linspace(-1.0, e, 12, F32).view([2, 6]);
                block.forward(&x, &Embedded::new(ramp, Activation::Silu), false)
            };
            assert!(!at(1.0).equal(&at(2.0)), "{time:?} does not enter");
            tch::no_grad(|| {
                for name in ["conv2.weight", "conv2.bias"] {
                    let _ = vars.variables()[name].shallow_clone().zero_();
                }
            });
            close(&at(1.0), &(resample.forward(&x) / 2.0), 1e-6);
        }
    }
}

/// The first half of the channels tells the column, the second the row, sines before cosines; another grid is stretched to
/// the base.
#[test]
fn places_on_a_grid_are_the_formula() {
    let (height, width, base, channels) = (3i64, 6, 4, 8);
    let table = sin_cos_2d(height, width, base, channels);
    assert_eq!(table.size(), [height * width, channels]);
    for y in 0..height {
        for x in 0..width {
            let places = [x as f64 * base as f64 / width as f64, y as f64 * base as f64 / height as f64];
            for c in 0..channels {
                let (place, c_in) = (places[(c / 4) as usize], c % 4);
                let angle = place * 10_000f64.powf(-((c_in % 2) as f64) / 2.0);
                let wanted = if c_in < 2 { angle.sin() } else { angle.cos() };
                let got = table.double_value(&[y * width + x, c]);
                assert!((got - wanted).abs() < 1e-6, "({y}, {x}) channel {c}: {got} against {wanted}");
            }
        }
    }
}
