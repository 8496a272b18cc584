//! Laws, and identities between samplers.

mod errors;
mod guidance;
mod likelihood;
mod order;
mod trajectories;

use crate::{
    Churn, Clamped, Ddim, Ddpm, DormandPrince, DpmSolver2m, DpmSolver2mSde, DpmSolver2s, Euler, Heun, Lms,
    SeededNoise, TimeGrid, UniPc, Variance,
};
use heldout_core::{Cond, Denoiser, NoiseStream, Sampler};
use heldout_schedules::{Flow, NoiseScheduleConfig, Trigonometric};
use heldout_testkit::{TrigSchedule, check_denoiser, check_sampler, close, gaussian_denoiser};
use tch::{Device, Kind, Tensor};

/// What the paper uses for ImageNet-64, weaker.
const CHURN: Churn = Churn { amount: 10.0, sigma_min: 0.05, sigma_max: 50.0, noise: 1.0 };

fn noise(first: u64) -> SeededNoise {
    SeededNoise { seed: 11, first }
}

#[test]
fn samplers_keep_their_laws() {
    tch::set_num_threads(1); // tests run side by side
    let all: [(&dyn Sampler, usize); 13] = [
        (&Ddim { eta: 0.0 }, 500),
        (&Ddim { eta: 1.0 }, 500),
        (&Ddpm { variance: Variance::FixedSmall }, 500),
        (&Ddpm { variance: Variance::FixedLarge }, 500),
        (&Euler { churn: Churn::NONE }, 500),
        (&Euler { churn: CHURN }, 500),
        (&Heun { churn: Churn::NONE }, 200),
        (&Heun { churn: CHURN }, 200),
        (&DpmSolver2m, 200),
        (&DpmSolver2mSde, 200),
        (&DpmSolver2s, 200),
        (&UniPc { order: 2 }, 200),
        (&DormandPrince { rtol: 1e-6, atol: 1e-6 }, 2),
    ];
    for (sampler, steps) in all {
        check_sampler(sampler, TrigSchedule, noise, steps, 2e-2);
        check_sampler(sampler, NoiseScheduleConfig::DDPM.build().unwrap(), noise, steps, 2e-2);
        check_sampler(sampler, Flow, noise, steps, 2e-2);
    }
    check_sampler(&Lms { order: 4 }, TrigSchedule, noise, 200, 2e-2);
}

fn run(sampler: &dyn Sampler, d: &dyn Denoiser, x: &Tensor, times: &[f64]) -> Tensor {
    sampler.sample(d, x.shallow_clone(), times, &Cond::default(), &mut noise(0), &mut |_| ()).unwrap()
}

fn start(n: usize) -> Tensor {
    noise(0).start(&Trigonometric, 1.0, n, &[1, 4, 4], Device::Cpu)
}

/// Song et al. 2021: eta = 1 is DDPM with the posterior's variance, and eta = 0 is Euler's method in sigma / alpha.
#[test]
fn ddim_is_ddpm_at_one_and_euler_at_zero() {
    let d = gaussian_denoiser(TrigSchedule, 0.5);
    let (x, times) = (start(8).to_kind(Kind::Double), TimeGrid::default().times(&TrigSchedule, 20).unwrap());
    let ours = run(&Ddim { eta: 1.0 }, &d, &x, &times);
    close(&ours, &run(&Ddpm { variance: Variance::FixedSmall }, &d, &x, &times), 1e-9);
    let ours = run(&Ddim { eta: 0.0 }, &d, &x, &times);
    assert!(ours.equal(&run(&Euler { churn: Churn::NONE }, &d, &x, &times)));
}

/// From pure noise, where `sigma / alpha` has no bound, to clean data, where log SNR has none.
#[test]
fn every_sampler_goes_from_pure_noise_to_clean_data() {
    let d = gaussian_denoiser(Flow, 0.5);
    let x = start(64).to_kind(Kind::Double);
    let times = TimeGrid::default().times(&Flow, 100).unwrap();
    let all: [&dyn Sampler; 11] = [
        &Ddim { eta: 0.0 },
        &Ddim { eta: 1.0 },
        &Ddpm { variance: Variance::FixedLarge },
        &Euler { churn: CHURN },
        &Heun { churn: CHURN },
        &DpmSolver2m,
        &DpmSolver2mSde,
        &DpmSolver2s,
        &UniPc { order: 3 },
        &Lms { order: 4 },
        &DormandPrince { rtol: 1e-4, atol: 1e-4 },
    ];
    for sampler in all {
        let end = run(sampler, &d, &x, &times);
        let (found, wanted) = (end.std(true).double_value(&[]), 0.5 * x.std(true).double_value(&[]));
        assert!((found - wanted).abs() < 0.03, "{sampler:?}: {found} for {wanted}");
    }
}

#[test]
fn clamping_cuts_and_nothing_else() {
    let d = gaussian_denoiser(TrigSchedule, 2.0);
    let x = noise(3).start(&Trigonometric, 1.0, 5, &[1, 4, 4], Device::Cpu) * 3.0;
    let t = Tensor::full([5], 0.2, (Kind::Double, Device::Cpu));
    let (free, cut) = (d.denoise(&x, &t, &Cond::default()), Clamped { inner: &d, limit: 1.0 });
    check_denoiser(&cut, &x, &Cond::default());
    assert!(free.abs().max().double_value(&[]) > 1.0);
    assert!(cut.denoise(&x, &t, &Cond::default()).equal(&free.clamp(-1.0, 1.0)));
}

#[test]
fn noise_belongs_to_the_sample() {
    let start = |first, n| noise(first).start(&Trigonometric, 1.0, n, &[1, 2, 2], Device::Cpu);
    let all = start(0, 6);
    assert!(start(4, 2).equal(&all.narrow(0, 4, 2)));
    let x = all.zeros_like();
    assert!(!noise(0).draw(&x, 0).equal(&noise(0).draw(&x, 1)), "two steps share their noise");
    assert!(!noise(0).draw(&x, 0).equal(&all), "a step shares the initial noise");
    let edm = noise(0).start(&heldout_schedules::Edm { sigma_max: 80.0 }, 1.0, 6, &[1, 2, 2], Device::Cpu);
    close(&(edm / 6401.0f64.sqrt()), &all, 1e-6);
}

/// Plays back the noise that the peer drew.
#[derive(Debug)]
struct Tape(Tensor);

impl NoiseStream for Tape {
    fn draw(&mut self, _: &Tensor, step: u64) -> Tensor {
        self.0.get(step as i64)
    }
}
