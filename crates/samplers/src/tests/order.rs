//! Orders of convergence, and moments of stochastic samplers, on exact denoisers in f64.

use super::{CHURN, noise, run};
use crate::{
    Churn, Ddim, Ddpm, DormandPrince, DpmSolver2m, DpmSolver2mSde, DpmSolver2s, Euler, GridEnds, Heun, Lms,
    TimeGrid, UniPc, Variance,
};
use heldout_core::{Denoiser, NoiseSchedule, Sampler, like};
use heldout_metrics::MixtureDenoiser;
use heldout_schedules::{Flow, Trigonometric, VpLinear};
use heldout_testkit::{close, gaussian_denoiser};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);

/// Three Gaussians in the plane.
fn mixture(schedule: Rc<dyn NoiseSchedule>) -> MixtureDenoiser {
    let means = Tensor::from_slice(&[-1.0, 0.3, 0.8, -0.5, 0.2, 1.0]).view([3, 2]);
    MixtureDenoiser::new(
        &Tensor::from_slice(&[0.5, 0.3, 0.2]),
        &means,
        &Tensor::from_slice(&[0.3, 0.2, 0.4]),
        schedule,
    )
}

/// Even in log SNR, where neither end is clean data or pure noise.
fn times(schedule: &dyn NoiseSchedule, steps: usize) -> Vec<f64> {
    let grid = TimeGrid::UniformLogSnr { ends: GridEnds::Sigma { min: 0.05, max: 20.0 } };
    let mut times = grid.times(schedule, steps + 1).unwrap();
    times.pop();
    times
}

/// Slope of log error over log steps, by least squares.
fn slope(sampler: &dyn Sampler, d: &dyn Denoiser, exact: &Tensor, x: &Tensor) -> f64 {
    let points: Vec<(f64, f64)> = [40usize, 80, 160, 320]
        .iter()
        .map(|n| {
            let end = run(sampler, d, x, &times(d.schedule(), *n));
            let error = (end - exact).square().mean(Kind::Double).sqrt().double_value(&[]);
            ((*n as f64).ln(), error.ln())
        })
        .collect();
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / points.len() as f64;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let (mut xy, mut xx) = (0.0, 0.0);
    for (x, y) in &points {
        xy += (x - mx) * (y - my);
        xx += (x - mx).powi(2);
    }
    -xy / xx
}

#[test]
fn errors_fall_with_the_order_of_the_solver() {
    tch::set_num_threads(1); // tests run side by side
    let solvers: [(&dyn Sampler, f64, f64); 9] = [
        (&Ddim { eta: 0.0 }, 0.9, 1.15),
        (&Euler { churn: Churn::NONE }, 0.9, 1.15),
        (&Heun { churn: Churn::NONE }, 1.85, 2.3),
        (&DpmSolver2m, 1.8, 2.4),
        (&DpmSolver2s, 1.8, 2.4),
        (&UniPc { order: 1 }, 1.8, 2.6),
        (&UniPc { order: 2 }, 2.0, 3.6),
        (&UniPc { order: 3 }, 2.0, 4.5),
        (&Lms { order: 4 }, 2.0, 5.0),
    ];
    let x = noise(0).start(&Trigonometric, 1.0, 64, &[2, 1, 1], Device::Cpu).to_kind(Kind::Double);
    let gaussian_at = |schedule: &dyn NoiseSchedule, t: f64| {
        let m = schedule.marginal(&Tensor::from_slice(&[t]));
        (m.alpha.square() * 0.25 + m.sigma.square()).sqrt().double_value(&[0])
    };
    let vp = VpLinear { beta_min: 0.1, beta_max: 20.0 };
    for (sampler, least, most) in solvers {
        let gaussian = gaussian_denoiser(vp, 0.5);
        let ends = times(&vp, 1);
        // The flow of a Gaussian scales every point by the ratio of the standard deviations.
        let exact = &x * (gaussian_at(&vp, ends[1]) / gaussian_at(&vp, ends[0]));
        let found = slope(sampler, &gaussian, &exact, &x);
        println!("{sampler:?} on a Gaussian: {found:.2}");
        assert!((least..most).contains(&found), "{sampler:?} on a Gaussian: {found}");
        for schedule in [Rc::new(vp) as Rc<dyn NoiseSchedule>, Rc::new(Flow)] {
            let mixture = mixture(schedule.clone());
            let precise = DormandPrince { rtol: 1e-12, atol: 1e-12 };
            let exact = run(&precise, &mixture, &x, &times(&schedule, 1));
            let found = slope(sampler, &mixture, &exact, &x);
            println!("{sampler:?} on a mixture, {schedule:?}: {found:.2}");
            assert!((least..most).contains(&found), "{sampler:?} on a mixture: {found}");
        }
    }
}

/// The adaptive solver keeps the error that it is allowed, with any split of the batch.
#[test]
fn the_adaptive_solver_keeps_its_tolerance() {
    let vp: Rc<dyn NoiseSchedule> = Rc::new(Trigonometric);
    let mixture = mixture(vp.clone());
    let x = noise(0).start(&Trigonometric, 1.0, 32, &[2, 1, 1], Device::Cpu).to_kind(Kind::Double);
    let at = |tolerance: f64| {
        run(&DormandPrince { rtol: tolerance, atol: tolerance }, &mixture, &x, &times(&vp, 1))
    };
    let exact = at(1e-13);
    for tolerance in [1e-4, 1e-6, 1e-8] {
        let error = (at(tolerance) - &exact).abs().max().double_value(&[]);
        assert!(error < 100.0 * tolerance, "{error} where {tolerance} was allowed in a step");
    }
    let sampler = DormandPrince { rtol: 1e-5, atol: 1e-5 };
    let whole = run(&sampler, &mixture, &x, &times(&vp, 3));
    let part = run(&sampler, &mixture, &x.narrow(0, 7, 5), &times(&vp, 3));
    close(&part, &whole.narrow(0, 7, 5), 1e-12);
}

/// Mean and covariance of what stochastic samplers draw from a mixture, within Monte Carlo error.
#[test]
fn stochastic_samplers_reach_mean_and_covariance() {
    tch::set_num_threads(1); // tests run side by side
    let n = 20_000;
    let schedule: Rc<dyn NoiseSchedule> = Rc::new(VpLinear { beta_min: 0.1, beta_max: 20.0 });
    let d = mixture(schedule.clone());
    let weights = Tensor::from_slice(&[0.5, 0.3, 0.2]);
    let means = Tensor::from_slice(&[-1.0, 0.3, 0.8, -0.5, 0.2, 1.0]).view([3, 2]);
    let variances = Tensor::from_slice(&[0.09, 0.04, 0.16]);
    let mean = (&means * weights.unsqueeze(1)).sum_dim_intlist(0i64, false, Kind::Double);
    let away = &means - &mean;
    let between = (away.unsqueeze(2) * away.unsqueeze(1) * weights.view([3, 1, 1])).sum_dim_intlist(
        0i64,
        false,
        Kind::Double,
    );
    let covariance = between + Tensor::eye(2, F64) * (&weights * variances).sum(Kind::Double);

    let all: [(&dyn Sampler, usize); 6] = [
        (&Ddim { eta: 1.0 }, 400),
        (&Ddpm { variance: Variance::FixedSmall }, 400),
        (&Ddpm { variance: Variance::FixedLarge }, 400),
        (&Euler { churn: CHURN }, 400),
        (&Heun { churn: CHURN }, 100),
        (&DpmSolver2mSde, 100),
    ];
    for (sampler, steps) in all {
        let grid = TimeGrid::UniformLogSnr { ends: GridEnds::Sigma { min: 0.002, max: 100.0 } };
        let times = grid.times(&schedule, steps).unwrap();
        tch::manual_seed(3);
        let m = schedule.marginal(&Tensor::from_slice(&[times[0]]));
        let x = Tensor::randn([n, 2, 1, 1], F64);
        let x = like(&m.sigma, &x) * x;
        let end =
            sampler.sample(&d, x, &times, &Default::default(), &mut Fresh, &mut |_| ()).unwrap().view([n, 2]);
        let found = end.mean_dim(0i64, false, Kind::Double);
        let centred = &end - &found;
        let spread = centred.tr().matmul(&centred) / n as f64;
        // Four standard errors, and a tenth of that for the bias of the steps.
        let allowed = 4.4 / (n as f64).sqrt();
        close(&(found - &mean), &Tensor::zeros([2], F64), allowed);
        close(&(spread - &covariance), &Tensor::zeros([2, 2], F64), 1.5 * allowed);
    }
}

/// Noise of libtorch's generator, for large batches.
#[derive(Debug)]
struct Fresh;

impl heldout_core::NoiseStream for Fresh {
    fn draw(&mut self, x: &Tensor, _: u64) -> Tensor {
        x.randn_like()
    }
}
