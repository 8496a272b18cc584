//! Likelihoods against closed forms.

use super::{Tape, noise, start};
use crate::{Likelihood, VariationalBound};
use heldout_core::{Cond, Denoiser, NoiseSchedule, like};
use heldout_metrics::MixtureDenoiser;
use heldout_schedules::{Discrete, Edm, Flow, Trigonometric, VpLinear};
use heldout_testkit::{Golden, close, gaussian_denoiser};
use std::f64::consts::{LN_2, PI};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);
const EXACT: Likelihood = Likelihood { rtol: 1e-6, atol: 1e-6, probes: 1, sigma_min: 2e-4 };

#[test]
fn a_gaussians_likelihood_is_its_closed_form() {
    let x = start(4) * 0.5;
    let nats = (x.to_kind(Kind::Double) / 0.5).square() * 0.5 + 0.5 * (2.0 * PI * 0.25).ln();
    let wanted = nats.flatten(1, -1).mean_dim(1i64, false, Kind::Double) / LN_2;
    let check = |d: &dyn Denoiser, x: &Tensor| {
        let found = EXACT.bits_per_dim(d, x, &Cond::default(), &mut noise(0)).unwrap();
        close(&found, &wanted, 1e-3);
    };
    for x in [&x, &x.to_kind(Kind::Double)] {
        check(&gaussian_denoiser(VpLinear { beta_min: 0.1, beta_max: 20.0 }, 0.5), x);
        check(&gaussian_denoiser(Flow, 0.5), x);
        check(&gaussian_denoiser(Trigonometric, 0.5), x);
        check(&gaussian_denoiser(Edm { sigma_max: 80.0 }, 0.5), x);
    }
}

/// Two probes whose off-diagonal terms cancel make the trace of a plane exact.
#[test]
fn a_mixtures_likelihood_is_its_closed_form() {
    let means = Tensor::from_slice(&[-0.7, 0.3, 0.8, -0.5]).view([2, 2]);
    let (weights, stds) = (Tensor::from_slice(&[0.6, 0.4]), Tensor::from_slice(&[0.3, 0.2]));
    // To pure noise: where a schedule keeps a little of the data, the prior is a little wrong.
    let schedule: Rc<dyn NoiseSchedule> = Rc::new(Trigonometric);
    let d = MixtureDenoiser::new(&weights, &means, &stds, schedule);
    tch::manual_seed(1);
    let x = Tensor::randn([16, 2], F64) * 0.6;
    let away = (x.unsqueeze(1) - &means).square().sum_dim_intlist(2i64, false, Kind::Double);
    let logs = weights.log() - away / (2.0f64 * stds.square()) - (2.0 * PI * stds.square()).log();
    let wanted = logs.logsumexp(1i64, false) / (-2.0 * LN_2);
    let signs =
        Tensor::from_slice(&[1.0, 1.0, 1.0, -1.0]).view([2, 1, 2, 1, 1]).expand([2, 16, 2, 1, 1], false);
    let likelihood = Likelihood { probes: 2, ..EXACT };
    let x = x.view([16, 2, 1, 1]);
    let found = likelihood.bits_per_dim(&d, &x, &Cond::default(), &mut Tape(signs)).unwrap();
    close(&found, &wanted, 1e-3);
    // Random probes: unbiased, and the same however the set is split.
    let random = Likelihood { probes: 64, rtol: 1e-4, atol: 1e-4, ..EXACT };
    let whole = random.bits_per_dim(&d, &x, &Cond::default(), &mut noise(0)).unwrap();
    let part = random.bits_per_dim(&d, &x.narrow(0, 4, 5), &Cond::default(), &mut noise(4)).unwrap();
    close(&part, &whole.narrow(0, 4, 5), 1e-9);
    let error = whole - wanted;
    let (bias, spread) = (error.mean(Kind::Double).double_value(&[]), error.std(true).double_value(&[]));
    assert!(bias.abs() < 4.0 * spread / 4.0 && spread < 0.3, "{bias}, standard deviation {spread}");
}

/// The network of the golden run.
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

#[test]
fn the_bound_is_that_of_the_equations() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "guidance");
    let betas = Vec::<f64>::try_from(golden.get("bound.betas")).unwrap();
    let d = Tanh(Discrete::from_betas(betas).unwrap());
    let (x, noise) = (golden.get("bound.x"), golden.get("bound.noise"));
    let found = VariationalBound::of(&d, &x, &Cond::default(), 20, &mut Tape(noise)).unwrap();
    close(&found.terms, &golden.get("bound.terms"), 1e-9);
    close(&found.prior, &golden.get("bound.prior"), 1e-9);
    let total =
        golden.get("bound.terms").sum_dim_intlist(0i64, false, Kind::Double) + golden.get("bound.prior");
    close(&found.total(), &total, 1e-9);
}

#[test]
fn bad_data_are_named() {
    let d = gaussian_denoiser(Flow, 0.5);
    let says = |result: heldout_core::Result<Tensor>, word: &str| {
        let text = result.unwrap_err().to_string();
        assert!(text.contains(word), "{text}");
    };
    let bits = |l: Likelihood, x: Tensor| l.bits_per_dim(&d, &x, &Cond::default(), &mut noise(0));
    says(bits(EXACT, start(2) * f64::NAN), "x_start");
    says(bits(Likelihood { probes: 0, ..EXACT }, start(2)), "probes");
    says(bits(Likelihood { atol: -1.0, ..EXACT }, start(2)), "atol");
    says(bits(Likelihood { sigma_min: 0.0, ..EXACT }, start(2)), "sigma_min");
    let bound = VariationalBound::of(&d, &start(2), &Cond::default(), 0, &mut noise(0));
    says(bound.map(|b| b.prior), "steps");
}
