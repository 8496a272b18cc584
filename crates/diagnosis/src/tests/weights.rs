//! Barrier, curvature and noise scale.

use super::{CLOCK, F64, batch, refused};
use crate::{CurvatureConfig, Hessian, NoiseScaleConfig, PairedSets, barrier, curvature, noise_scale};
use heldout_core::Mean;
use heldout_core::{
    Batch, Clock, Cond, Denoiser, Evaluation, NoiseSchedule, Objective, Params, Persist, Result, like,
};
use heldout_testkit::{Mlp, SquaredError, TrigSchedule, close, same};
use tch::{Kind, Tensor, nn};

/// `w A w / 2`.
#[derive(Debug)]
struct Quadratic(Tensor, Tensor);

impl Persist for Quadratic {}

impl Objective for Quadratic {
    fn evaluate(&mut self, _: &Batch, _: Clock) -> Result<Evaluation> {
        let loss = 0.5 * self.0.dot(&self.1.mv(&self.0));
        Ok(Evaluation { loss, rows: None, terms: Vec::new() })
    }
}

/// A store of f64 with one variable of `start`.
fn variable(start: &Tensor) -> (nn::VarStore, Tensor) {
    let mut vars = nn::VarStore::new(tch::Device::Cpu);
    let _ = vars.root().zeros("w", &start.size());
    vars.double();
    let w = vars.variables().remove("w").unwrap();
    tch::no_grad(|| w.shallow_clone().copy_(start));
    (vars, w)
}

fn nothing() -> Batch {
    batch(Tensor::zeros([1, 1, 1, 1], F64))
}

#[test]
fn a_quadratic_has_its_spectrum() {
    tch::manual_seed(0);
    let (rotation, _) = Tensor::linalg_qr(&Tensor::randn([40, 40], F64), "reduced");
    let spectrum = Tensor::arange(40, F64) * 0.5 - 3.0; // -3 to 16.5
    let matrix = rotation.matmul(&spectrum.diag(0)).matmul(&rotation.tr());
    let start = Tensor::randn([40], F64);
    let (vars, w) = variable(&start);
    let params = Params::of(&vars);
    let config = CurvatureConfig { iterations: 40, tolerance: 0.0, probes: 300, seed: 1 };
    let mut objective = Quadratic(w, matrix.shallow_clone());
    let found = curvature(&params, &mut objective, &nothing(), CLOCK, config).unwrap();
    assert!((found.largest.value - 16.5).abs() < 1e-9, "{found:?}");
    assert!((found.smallest.value + 3.0).abs() < 1e-9, "{found:?}");
    assert!(found.largest.residual < 1e-9 && found.smallest.residual < 1e-9, "{found:?}");
    let trace = 0.5 * (39.0 * 40.0 / 2.0) - 3.0 * 40.0;
    assert!((found.trace.value - trace).abs() < 4.0 * found.trace.standard_error, "{found:?}");
    // Hutchinson's variance with signs: 2 sum of the squares beside the diagonal; Avron and Toledo 2011, Lemma 3.
    let beside = matrix.square().sum(Kind::Double) - matrix.diag(0).square().sum(Kind::Double);
    let error = f64::sqrt(2.0 * beside.double_value(&[]) / 300.0);
    assert!((found.trace.standard_error / error - 1.0).abs() < 0.2, "{found:?} {error}");
    let gradient = matrix.mv(&start).norm().double_value(&[]);
    assert!((found.gradient_norm - gradient).abs() < 1e-9);
    assert!(same(&params.snapshot(), &[start]));

    // Few steps say how far off they may be.
    let few = CurvatureConfig { iterations: 6, ..config };
    let found = curvature(&params, &mut objective, &nothing(), CLOCK, few).unwrap();
    assert_eq!(found.iterations, 6);
    assert!(found.largest.residual > 1e-3 && found.largest.value < 16.5, "{found:?}");
    let nearest = (spectrum - found.largest.value).abs().min().double_value(&[]);
    assert!(nearest <= found.largest.residual, "{found:?}");
    // A tolerance ends it early, and is kept.
    let found =
        curvature(&params, &mut objective, &nothing(), CLOCK, CurvatureConfig { tolerance: 1e-2, ..config })
            .unwrap();
    assert!(found.iterations < 40 && found.largest.residual <= 1e-2 * 16.5 * 1.01, "{found:?}");
}

/// Weights that the loss does not depend on, or only linearly, are directions of no curvature.
#[test]
fn a_plane_has_none() {
    let (vars, w) = variable(&Tensor::ones([3], F64));
    let mut linear = Linear(w);
    let config = CurvatureConfig::default();
    let images = batch(Tensor::ones([2, 3, 1, 1], F64));
    let found = curvature(&Params::of(&vars), &mut linear, &images, CLOCK, config).unwrap();
    assert_eq!((found.largest.value, found.smallest.value, found.trace.value), (0.0, 0.0, 0.0));
    assert!((found.gradient_norm - 3f64.sqrt()).abs() < 1e-12);
    let bad = CurvatureConfig { probes: 1, ..config };
    refused(curvature(&Params::of(&vars), &mut linear, &images, CLOCK, bad), "probes", "1: at least 2");
    let empty = Params::of(&nn::VarStore::new(tch::Device::Cpu));
    refused(curvature(&empty, &mut linear, &images, CLOCK, config), "params", "no weight");
    let infinite = batch(Tensor::ones([2, 3, 1, 1], F64) / 0.0);
    refused(curvature(&Params::of(&vars), &mut linear, &infinite, CLOCK, config), "weights", "inf");
}

/// A network's Hessian beside that of finite differences of its gradient, in f64.
#[test]
fn a_network_has_the_hessian_of_finite_differences() {
    tch::set_num_threads(1); // thousands of tiny products
    tch::manual_seed(3);
    let mut vars = nn::VarStore::new(tch::Device::Cpu);
    let mut objective = SquaredError(Mlp::new(&vars.root(), 2));
    vars.double();
    let params = Params::of(&vars);
    let images = batch(Tensor::randn([16, 2, 1, 1], F64));
    let seed = heldout_core::stream(5, "curvature", 0, 0);
    let gradient = |objective: &mut SquaredError| {
        Hessian::new(&params, objective, &images, CLOCK, seed).unwrap().gradient()
    };
    let hessian = Hessian::new(&params, &mut objective, &images, CLOCK, seed).unwrap();
    let size = hessian.size();
    assert_eq!(size as usize, params.count());
    let (eye, step) = (Tensor::eye(size, F64), 1e-5);
    let before = params.snapshot();
    let exact: Vec<Tensor> = (0..size).map(|i| hessian.times(&eye.get(i)).unwrap()).collect();
    let mut differences = Vec::new();
    for i in 0..size {
        let direction = eye.get(i);
        let mut moved = |by: f64| {
            let mut start = 0;
            for (p, b) in params.tensors().zip(&before) {
                let part = direction.narrow(0, start, p.numel() as i64).view_as(b);
                tch::no_grad(|| p.shallow_clone().copy_(&(b + part * by)));
                start += p.numel() as i64;
            }
            let found = gradient(&mut objective);
            params.restore(&before);
            found
        };
        differences.push((moved(step) - moved(-step)) / (2.0 * step));
    }
    let [exact, differences] = [exact, differences].map(|rows| Tensor::stack(&rows, 0));
    close(&exact, &differences, 1e-6 * differences.abs().max().double_value(&[]).max(1.0));
    let values = differences.linalg_eigvalsh("L");
    let config = CurvatureConfig { iterations: 60, tolerance: 1e-9, probes: 50, seed: 5 };
    let found = curvature(&params, &mut objective, &images, CLOCK, config).unwrap();
    let largest = values.double_value(&[size - 1]);
    assert!((found.largest.value / largest - 1.0).abs() < 1e-5, "{found:?} {largest}");
    let trace = values.sum(Kind::Double).double_value(&[]);
    assert!((found.trace.value - trace).abs() < 4.0 * found.trace.standard_error, "{found:?} {trace}");
}

/// `mean_i <w, x_i>`: its gradient is the mean of the images.
#[derive(Debug)]
struct Linear(Tensor);

impl Persist for Linear {}

impl Objective for Linear {
    fn evaluate(&mut self, batch: &Batch, _: Clock) -> Result<Evaluation> {
        let loss = batch.x_start.flatten(1, -1).matmul(&self.0).mean(Kind::Double);
        Ok(Evaluation { loss, rows: None, terms: Vec::new() })
    }
}

#[test]
fn known_noise_has_its_scale() {
    tch::manual_seed(6);
    let x = Tensor::randn([64, 5, 1, 1], F64) + 0.5;
    let (vars, w) = variable(&Tensor::zeros([5], F64));
    let params = Params::of(&vars);
    let config = NoiseScaleConfig { small: 4, parts: 4, rounds: 500, seed: 0 };
    let measure = |x: &Tensor, config| {
        noise_scale(&params, &mut Linear(w.shallow_clone()), &batch(x.shallow_clone()), CLOCK, config)
            .unwrap()
    };
    let found = measure(&x, config);
    let rows = x.flatten(1, -1);
    let variance = rows.var_dim(0, false, false).sum(Kind::Double).double_value(&[]);
    let square = rows.mean_dim(0i64, false, Kind::Double).square().sum(Kind::Double).double_value(&[]);
    let near = |mean: Mean, expected: f64| {
        assert!(mean.standard_error < 0.1 * expected, "{mean:?}");
        assert!((mean.value - expected).abs() < 4.0 * mean.standard_error, "{mean:?} is not {expected}");
    };
    near(found.variance, variance);
    near(found.gradient_squared, square);
    near(found.noise_scale.unwrap(), variance / square);
    assert!(found.at_least > 0.8 * variance / square && found.at_least < variance / square, "{found:?}");
    assert_eq!(found.batches, [4, 16]);
    assert_eq!(found, measure(&x, config));

    let still = measure(&Tensor::ones([8, 5, 1, 1], F64), config);
    assert!(
        still.noise_scale.unwrap().value.abs() < 1e-12 && (still.gradient_squared.value - 5.0).abs() < 1e-9
    );
    // Images that cancel have no gradient: what is left is noise, and two rounds cannot tell.
    let cancel = measure(&Tensor::cat(&[&x, &(-&x)], 0), config);
    assert!(cancel.gradient_squared.value.abs() < 4.0 * cancel.gradient_squared.standard_error);
    let few = NoiseScaleConfig { rounds: 2, ..config };
    let unsure = (0..20).filter(|seed| {
        measure(&Tensor::cat(&[&x, &(-&x)], 0), NoiseScaleConfig { seed: *seed, ..few }).noise_scale.is_none()
    });
    assert!(unsure.count() > 5);

    for (field, config) in [
        ("small", NoiseScaleConfig { small: 0, ..config }),
        ("parts", NoiseScaleConfig { parts: 1, ..config }),
        ("rounds", NoiseScaleConfig { rounds: 1, ..config }),
    ] {
        refused(config.check(), field, "at least");
    }
}

/// Answers `f(w)` everywhere.
#[derive(Debug)]
struct Constant(Tensor, fn(&Tensor) -> Tensor);

impl Denoiser for Constant {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        (like(&t.ones_like(), x_t) * (self.1)(&self.0)).expand_as(x_t)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &TrigSchedule
    }
}

#[test]
fn two_wells_have_a_barrier_and_one_has_none() {
    let (vars, w) = variable(&Tensor::full([1], 0.3, F64));
    let params = Params::of(&vars);
    let before = params.snapshot();
    let ones = batch(Tensor::ones([4, 1, 2, 2], F64));
    let sets = PairedSets::new(&ones, &ones, vec![0.0, 2.0], 3, 0).unwrap();
    let end = |w: f64| vec![Tensor::full([1], w, F64)];
    let along = |f, from: f64, to: f64| {
        barrier(&Constant(w.shallow_clone(), f), &params, [&end(from), &end(to)], &sets, 5).unwrap()
    };
    // (w^2 - 1)^2 between its minima: 1 in the middle.
    let found = along(|w| w.square(), -1.0, 1.0);
    assert_eq!(found.positions, [0.0, 0.25, 0.5, 0.75, 1.0]);
    for of in [&found.train, &found.held_out] {
        assert_eq!((of.position, of.barrier.value), (0.5, 1.0));
        assert_eq!(of.losses, [0.0, 0.5625, 1.0, 0.5625, 0.0]);
    }
    // (w - 1)^2 is convex, and a line of one point is flat.
    assert_eq!(along(Tensor::shallow_clone, -1.0, 3.0).held_out.barrier.value, 0.0);
    assert_eq!(along(|w| w.square(), 0.5, 0.5).train.barrier.value, 0.0);
    assert!(same(&params.snapshot(), &before));

    let model = Constant(w.shallow_clone(), Tensor::shallow_clone);
    let refuse = |ends: [&[Tensor]; 2], positions, field: &str, words: &str| {
        refused(barrier(&model, &params, ends, &sets, positions), field, words);
        assert!(same(&params.snapshot(), &before));
    };
    refuse([&end(0.0), &end(1.0)], 2, "positions", "2: ");
    refuse([&end(0.0), &[]], 5, "ends[1]", "0 tensors for a model of 1");
    refuse([&[Tensor::zeros([2], F64)], &end(1.0)], 5, "ends[0]", "w is [2] where the model has [1]");
    refuse([&end(f64::NAN), &end(1.0)], 5, "ends", "not finite");
}
