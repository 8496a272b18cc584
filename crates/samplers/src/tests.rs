//! Laws, the identity between DDIM and DDPM, and steps of diffusers.

use crate::{Clamped, Ddim, Ddpm, SeededNoise, Variance, linear_times};
use heldout_core::{Cond, Denoiser, NoiseSchedule, NoiseStream, Sampler, like};
use heldout_schedules::{Discrete, NoiseScheduleConfig};
use heldout_testkit::{Golden, TrigSchedule, check_denoiser, check_sampler, close, gaussian_denoiser};
use tch::{Device, Kind, Tensor};

fn noise(first: u64) -> SeededNoise {
    SeededNoise { seed: 11, first }
}

#[test]
fn samplers_keep_their_laws() {
    let ddpm = NoiseScheduleConfig::DDPM.build().unwrap();
    check_sampler(&Ddim { eta: 0.0 }, TrigSchedule, noise, 500, 2e-2);
    check_sampler(&Ddim { eta: 0.0 }, ddpm, noise, 500, 2e-2);
    check_sampler(&Ddim { eta: 1.0 }, TrigSchedule, noise, 500, 2e-2);
    check_sampler(&Ddpm { variance: Variance::FixedSmall }, TrigSchedule, noise, 500, 2e-2);
    check_sampler(&Ddpm { variance: Variance::FixedLarge }, TrigSchedule, noise, 500, 2e-2);
}

/// Song et al. 2021: eta = 1 is DDPM with the posterior's variance.
#[test]
fn ddim_of_eta_one_is_ddpm() {
    let d = gaussian_denoiser(TrigSchedule, 0.5);
    let x = noise(0).start(8, &[1, 4, 4], Device::Cpu).to_kind(Kind::Double);
    let run = |s: &dyn Sampler| {
        s.sample(&d, x.shallow_clone(), &linear_times(20), &Cond::default(), &mut noise(0), &mut |_| ())
    };
    close(&run(&Ddim { eta: 1.0 }), &run(&Ddpm { variance: Variance::FixedSmall }), 1e-9);
}

/// The network of the golden run: `noise_hat = tanh(x_t) * 0.7`, as a denoiser.
#[derive(Debug)]
struct Tanh(Discrete);

impl Denoiser for Tanh {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let m = self.0.marginal(t);
        (x_t - like(&m.sigma, x_t) * x_t.tanh() * 0.7) / like(&m.alpha, x_t)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &self.0
    }
}

/// Plays back the noise that the peer drew.
#[derive(Debug)]
struct Tape(Tensor);

impl NoiseStream for Tape {
    fn draw(&mut self, _: &Tensor, step: u64) -> Tensor {
        self.0.get(step as i64)
    }
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "trajectories");
    let d = Tanh(NoiseScheduleConfig::DDPM.discrete().unwrap());
    let samplers: [(&str, &dyn Sampler, usize); 4] = [
        ("ddim", &Ddim { eta: 0.0 }, 10),
        ("ddim_eta", &Ddim { eta: 0.5 }, 10),
        ("ddpm_fixed_small", &Ddpm { variance: Variance::FixedSmall }, 50),
        ("ddpm_fixed_large", &Ddpm { variance: Variance::FixedLarge }, 50),
    ];
    for (name, sampler, steps) in samplers {
        let (x, tape) = (golden.get(&format!("{name}.start")), golden.get(&format!("{name}.noise")));
        // The peer's last step with the large variance is not the paper's: see make.py.
        let compared = if name == "ddpm_fixed_large" { steps } else { steps + 1 };
        let times = &linear_times(steps)[..compared];
        let out = sampler.sample(&d, x, times, &Cond::default(), &mut Tape(tape), &mut |_| ());
        let theirs = golden.get(&format!("{name}.end"));
        close(&((&out - &theirs) / (1.0f64 + theirs.abs())), &out.zeros_like(), 2e-4); // theirs: f32 tables
    }
}

#[test]
fn clamping_cuts_and_nothing_else() {
    let d = gaussian_denoiser(TrigSchedule, 2.0);
    let x = noise(3).start(5, &[1, 4, 4], Device::Cpu) * 3.0;
    let t = Tensor::full([5], 0.2, (Kind::Double, Device::Cpu));
    let (free, cut) = (d.denoise(&x, &t, &Cond::default()), Clamped { inner: &d, limit: 1.0 });
    check_denoiser(&cut, &x, &Cond::default());
    assert!(free.abs().max().double_value(&[]) > 1.0);
    assert!(cut.denoise(&x, &t, &Cond::default()).equal(&free.clamp(-1.0, 1.0)));
}

#[test]
fn noise_belongs_to_the_sample() {
    let all = noise(0).start(6, &[1, 2, 2], Device::Cpu);
    assert!(noise(4).start(2, &[1, 2, 2], Device::Cpu).equal(&all.narrow(0, 4, 2)));
    let x = all.zeros_like();
    assert!(!noise(0).draw(&x, 0).equal(&noise(0).draw(&x, 1)), "two steps share their noise");
    assert!(!noise(0).draw(&x, 0).equal(&all), "a step shares the initial noise");
}
