//! What non-leaky augmentation promises, on data of which all is known.

use crate::{AugmentTechnique, NonLeaky};
use heldout_core::{
    Augment, Backbone, Batch, Clock, Cond, Denoiser, Input, NoiseSchedule, Parameterization, Preconditioned,
    Probe, like,
};
use heldout_testkit::{TrigSchedule, VPrediction, close};
use serde_json::{Value, from_value, json};
use tch::{Device, Kind, Tensor, nn, nn::OptimizerConfig};

const CLOCK: Clock = Clock { step: 3, total: 10 };
const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn technique(text: Value) -> NonLeaky {
    let AugmentTechnique::NonLeaky(technique) = from_value(text).unwrap() else { panic!("another kind") };
    technique.check().unwrap();
    technique
}

/// Flips of left and right alone, each for half of the images.
fn flips() -> NonLeaky {
    technique(json!({"kind": "non_leaky", "probability": 1.0, "y_flip": 0, "scale": 0, "rotation": 0,
        "anisotropy": 0, "translation": 0}))
}

fn labels(batch: &Batch) -> Tensor {
    batch.cond.timestep_cond.as_ref().unwrap().shallow_clone()
}

#[test]
fn labels_say_what_was_done() {
    let x = Tensor::rand([64, 2, 9, 6], F32);
    let batch = || Batch::new(x.shallow_clone(), Cond::default());
    let told = flips().augment(batch(), CLOCK);
    let flipped = labels(&told).select(1, 0).view([-1, 1, 1, 1]);
    assert!(told.x_start.equal(&x.flip([3]).where_self(&flipped.gt(0.5), &x)), "flips are exact");
    assert!(labels(&told).narrow(1, 1, 8).eq(0.0).all().int64_value(&[]) == 1);

    // Published setting: half are mirrored, few are changed otherwise, and no label means no change.
    let x = x.repeat([100, 1, 1, 1]);
    let told = technique(json!({"kind": "non_leaky"})).augment(Batch::new(x.copy(), Cond::default()), CLOCK);
    let (all, still) = (labels(&told), labels(&told).eq(0.0).all_dim(1, false));
    let share = |t: Tensor| t.to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
    assert!((share(all.select(1, 0)) - 0.5).abs() < 0.03 && (share(all.select(1, 1)) - 0.06).abs() < 0.02);
    for (label, transform) in [(2, "scale"), (4, "rotation"), (5, "anisotropy"), (7, "translation")] {
        let enabled = share(all.select(1, label).ne(0.0));
        assert!((enabled - 0.12).abs() < 0.02, "{transform} is enabled for {enabled} of the images");
    }
    let rows = still.nonzero().squeeze_dim(1);
    assert!(told.x_start.index_select(0, &rows).equal(&x.index_select(0, &rows)));
    assert!((share(still) - 0.5 * 0.94 * 0.88f64.powi(4)).abs() < 0.03);
}

#[test]
fn a_blob_moves_as_the_labels_say() {
    let (n, h, w) = (64, 48, 64);
    let place = |n: i64| Tensor::arange(n, F32) - (n - 1) as f64 * 0.5;
    let (down, right) = (place(h).unsqueeze(1), place(w).unsqueeze(0));
    let blob = (((&right - 9.0).square() + (&down + 6.0).square()) / -12.5).exp();
    let batch = Batch::new(blob.view([1, 1, h, w]).repeat([n, 1, 1, 1]), Cond::default());
    tch::manual_seed(2);
    let told = technique(json!({"kind": "non_leaky", "probability": 1.0, "x_flip": 0, "y_flip": 0}))
        .augment(batch, CLOCK);
    let l = labels(&told);
    let at = |i: i64| l.select(1, i);
    // Scaled, turned, stretched along an axis, moved; angles as on paper, counter-clockwise.
    let turned = |p: (Tensor, Tensor), angle: &Tensor| {
        (&p.0 * angle.cos() + &p.1 * angle.sin(), &p.1 * angle.cos() - &p.0 * angle.sin())
    };
    let scale = (at(2) * 0.2).exp2();
    let turn = at(4).atan2(&(at(3) + 1.0));
    let along = at(6).atan2(&at(5));
    let amount = (at(5).square() + at(6).square()).sqrt();
    let p = turned(turned((&scale * 9.0, &scale * -6.0), &turn), &-&along);
    // The brightness where the blob should be, 1 where that is outside. The labels do not tell a stretch along an axis from
    // a shrink along the other way of it.
    let seen = |sign: f64| {
        let stretch = (&amount * 0.2 * sign).exp2();
        let p = turned((&p.0 * &stretch, &p.1 / &stretch), &along);
        let column = (p.0 + at(7) * (w as f64 / 8.0) + (w - 1) as f64 * 0.5).round();
        let row = (p.1 + at(8) * (h as f64 / 8.0) + (h - 1) as f64 * 0.5).round();
        let outside = (&row - row.clamp(0.0, (h - 1) as f64)).abs()
            + (&column - column.clamp(0.0, (w - 1) as f64)).abs();
        let place = row.clamp(0.0, (h - 1) as f64) * w as f64 + column.clamp(0.0, (w - 1) as f64);
        let value = told.x_start.flatten(1, -1).gather(1, &place.to_kind(Kind::Int64).unsqueeze(1), false);
        (value.squeeze_dim(1), outside.gt(0.0))
    };
    let ((one, out), (other, _)) = (seen(1.0), seen(-1.0));
    assert!(out.sum(Kind::Int64).int64_value(&[]) < n / 4);
    let least = one.maximum(&other).where_self(&out.logical_not(), &one.ones_like()).min().double_value(&[]);
    assert!(least > 0.8, "a blob is not where it should be: {least}");
}

/// Three linear layers on a point, its noise level and the labels, zeros where there are none.
#[derive(Debug)]
struct Told(nn::Linear, nn::Linear, nn::Linear);

impl Told {
    fn new(vs: &nn::Path<'_>) -> Self {
        let layer = |name, a, b| nn::linear(vs / name, a, b, nn::LinearConfig::default());
        Self(layer("first", 15, 64), layer("second", 64, 64), layer("last", 64, 2))
    }
}

impl Backbone for Told {
    fn forward(&self, input: Input<'_>, _: &mut dyn Probe) -> Tensor {
        let x = input.x.flatten(1, -1);
        let t = (input.noise_level * 1e-3).unsqueeze(1);
        let angles = &t * Tensor::from_slice(&[3.0f32, 6.0]);
        let told = match &input.cond.timestep_cond {
            Some(labels) => labels.shallow_clone(),
            None => Tensor::zeros([x.size()[0], 9], F32),
        };
        let h = Tensor::cat(&[x, angles.sin(), angles.cos(), told], 1).apply(&self.0).silu();
        h.apply(&self.1).silu().apply(&self.2).view_as(input.x)
    }
}

/// Two components below the diagonal, three tenths at (1, -1) and the rest at (0.9, 0.1): a mirror puts both above it.
fn mixture(n: i64) -> Tensor {
    let first = Tensor::rand([n, 1], F32).lt(0.3);
    let at = Tensor::from_slice(&[1.0f32, -1.0]).where_self(&first, &Tensor::from_slice(&[0.9f32, 0.1]));
    (at + Tensor::randn([n, 2], F32) * 0.1).view([n, 1, 1, 2])
}

/// Points of a model that was trained on mirrored data, with or without the labels.
fn samples(withheld: bool) -> Tensor {
    tch::set_num_threads(1); // Operations this small wait for each other's threads.
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let backbone = Told::new(&vars.root());
    let mut adam = nn::Adam::default().build(&vars, 3e-3).unwrap();
    let steps = 1500;
    for step in 0..steps {
        adam.set_lr(3e-3 * (1.0 - step as f64 / steps as f64));
        let mut batch = flips().augment(Batch::new(mixture(256), Cond::default()), CLOCK);
        if withheld {
            batch.cond.timestep_cond = None;
        }
        let t = Tensor::rand([256], (Kind::Double, Device::Cpu));
        let m = TrigSchedule.marginal(&t);
        let c = VPrediction.scalings(&m);
        let noise = batch.x_start.randn_like();
        let x_t = like(&m.alpha, &noise) * &batch.x_start + like(&m.sigma, &noise) * &noise;
        let (a, b) = c.target(&m);
        let target = like(&a, &noise) * &batch.x_start + like(&b, &noise) * noise;
        let level = c.c_noise.to_kind(Kind::Float);
        let input = Input { x: &x_t, noise_level: &level, cond: &batch.cond, train: true };
        adam.backward_step(&(backbone.forward(input, &mut ()) - target).square().mean(Kind::Float));
    }
    let model = Preconditioned {
        backbone: Box::new(backbone),
        parameterization: Box::new(VPrediction),
        schedule: Box::new(TrigSchedule),
    };
    tch::no_grad(|| ddim(&model, Tensor::randn([4000, 1, 1, 2], F32)))
}

/// Forty steps of DDIM; Song et al. 2021, Eq. 12 with no noise.
fn ddim(model: &Preconditioned, mut x: Tensor) -> Tensor {
    let at =
        |i: i64| Tensor::full([x.size()[0]], 0.995 - i as f64 / 40.0 * 0.994, (Kind::Double, Device::Cpu));
    let times: Vec<Tensor> = (0..=40).map(at).collect();
    for pair in times.windows(2) {
        let (m, next) = (TrigSchedule.marginal(&pair[0]), TrigSchedule.marginal(&pair[1]));
        let x_start = model.denoise(&x, &pair[0], &Cond::default());
        let noise = (&x - like(&m.alpha, &x) * &x_start) / like(&m.sigma, &x);
        x = like(&next.alpha, &x) * x_start + like(&next.sigma, &x) * noise;
    }
    x.view([-1, 2])
}

#[test]
fn without_labels_samples_are_those_of_the_data_and_with_labels_withheld_they_are_not() {
    let above = |x: &Tensor| {
        (x.select(1, 0) - x.select(1, 1)).lt(0.0).to_kind(Kind::Float).mean(Kind::Float).double_value(&[])
    };
    let told = samples(false);
    let leaked = above(&told);
    assert!(leaked < 0.02, "{leaked} of the samples are mirrored");
    let first = told.select(1, 1).lt(-0.45);
    let share = first.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]);
    assert!((share - 0.3).abs() < 0.06, "{share} of the samples are of the first component");
    for (rows, mean) in [(first.shallow_clone(), [1.0f32, -1.0]), (first.logical_not(), [0.9, 0.1])] {
        let of = told.index_select(0, &rows.nonzero().squeeze_dim(1));
        close(&of.mean_dim([0i64].as_slice(), false, Kind::Float), &Tensor::from_slice(&mean), 0.15);
    }
    let leaked = above(&samples(true));
    assert!((leaked - 0.5).abs() < 0.1, "withheld labels leak: {leaked} are mirrored");
}
