//! Draws of times: densities, and means that importance weights must not move.

use super::{COSINE, configs};
use crate::{GridTimes, LossSecondMoment, NoiseScheduleConfig, TimesConfig};
use heldout_core::{Clock, NoiseSchedule, TimeSampler};
use heldout_testkit::{check_persist, check_time_sampler};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const CLOCK: Clock = Clock { step: 0, total: 1 };

fn samplers() -> Vec<TimesConfig> {
    use TimesConfig as T;
    vec![
        T::Uniform,
        T::Stratified,
        T::LogNormalSigma { mean: -1.2, std: 1.2 },
        T::LogitNormal { mean: 0.0, std: 1.0 },
        T::Mode { scale: 1.29 },
        T::AdaptiveDensity { bins: 20, decay: 0.99, uniform: 0.05 },
    ]
}

#[test]
fn time_samplers_keep_their_laws() {
    for c in configs() {
        let schedule: Rc<dyn NoiseSchedule> = Rc::from(c.build().unwrap());
        for t in samplers() {
            check_time_sampler(t.build(&schedule, c.steps()).unwrap().as_mut());
        }
    }
    check_time_sampler(&mut LossSecondMoment::new(50, 10, 1e-3).unwrap());
}

#[test]
fn grid_times_cover_the_grid() {
    let mut s = GridTimes { steps: 4 };
    check_time_sampler(&mut s);
    tch::manual_seed(0);
    let t = s.sample(4000, CLOCK, Device::Cpu).t;
    for value in [0.25, 0.5, 0.75, 1.0] {
        let share = t.eq(value).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]);
        assert!((share - 0.25).abs() < 0.03, "{value}: {share}");
    }
}

/// A loss that lies in few noise levels, as real ones do.
fn loss(t: &Tensor) -> Tensor {
    (t * -8.0).exp() * 3.0 + 0.1
}

/// Mean and standard error of the corrected loss under a sampler that has learned it.
fn estimate(s: &mut dyn TimeSampler) -> (f64, f64) {
    tch::manual_seed(4);
    for _ in 0..200 {
        let drawn = s.sample(256, CLOCK, Device::Cpu);
        s.observe(&drawn.t, &loss(&drawn.t));
    }
    let drawn = s.sample(200_000, CLOCK, Device::Cpu);
    let values = drawn.weight * loss(&drawn.t);
    let std = values.std(true).double_value(&[]);
    (values.mean(Kind::Double).double_value(&[]), std / 200_000f64.sqrt())
}

#[test]
fn importance_weights_leave_the_mean_and_lower_the_variance() {
    let schedule: Rc<dyn NoiseSchedule> = Rc::from(COSINE.build().unwrap());
    let adaptive = TimesConfig::AdaptiveDensity { bins: 30, decay: 0.99, uniform: 0.05 };
    let mut adaptive = adaptive.build(&schedule, None).unwrap();
    let mut uniform = TimesConfig::Uniform.build(&schedule, None).unwrap();
    let ((plain, spread), (weighted, less)) = (estimate(uniform.as_mut()), estimate(adaptive.as_mut()));
    let exact = 3.0 / 8.0 * (1.0 - (-8.0f64).exp()) + 0.1;
    assert!((plain - exact).abs() < 4.0 * spread, "{plain} for {exact}");
    assert!((weighted - exact).abs() < 4.0 * less + 1e-4, "{weighted} for {exact}");
    assert!(less < 0.35 * spread, "{less} against {spread}");

    let mut steps = LossSecondMoment::new(50, 10, 1e-3).unwrap();
    let grid = Tensor::arange(50, (Kind::Double, Device::Cpu)) / 50.0 + 0.02;
    let exact = loss(&grid).mean(Kind::Double).double_value(&[]);
    let (weighted, less) = estimate(&mut steps);
    assert!((weighted - exact).abs() < 4.0 * less + 1e-9, "{weighted} for {exact}");
    let (_, spread) = estimate(&mut GridTimes { steps: 50 });
    assert!(less < 0.2 * spread, "{less} against {spread}");
}

#[test]
fn learned_densities_are_saved() {
    let schedule: Rc<dyn NoiseSchedule> = Rc::from(COSINE.build().unwrap());
    for c in [
        TimesConfig::AdaptiveDensity { bins: 10, decay: 0.9, uniform: 0.05 },
        TimesConfig::LossSecondMoment { history: 3, uniform: 0.001 },
    ] {
        let make = || c.build(&schedule, Some(20)).unwrap();
        let (mut old, mut fresh) = (make(), make());
        estimate(old.as_mut());
        let draw = |s: &mut dyn TimeSampler| {
            tch::manual_seed(8);
            s.sample(100, CLOCK, Device::Cpu).t
        };
        assert!(!draw(old.as_mut()).equal(&draw(fresh.as_mut())), "nothing was learned");
        check_persist(old.as_ref(), fresh.as_mut());
        assert!(draw(old.as_mut()).equal(&draw(fresh.as_mut())), "the fresh one draws other times");
    }
}

/// Quantiles against the closed forms.
#[test]
fn densities_are_the_papers() {
    let flow: Rc<dyn NoiseSchedule> = Rc::from(NoiseScheduleConfig::Flow.build().unwrap());
    let edm: Rc<dyn NoiseSchedule> = Rc::from(NoiseScheduleConfig::Edm { sigma_max: 80.0 }.build().unwrap());
    let draw = |c: &TimesConfig, s: &Rc<dyn NoiseSchedule>| {
        tch::manual_seed(2);
        c.build(s, None).unwrap().sample(200_000, CLOCK, Device::Cpu).t
    };
    let moments = |x: &Tensor| (x.mean(Kind::Double).double_value(&[]), x.std(true).double_value(&[]));
    let t = draw(&TimesConfig::LogNormalSigma { mean: -1.2, std: 1.2 }, &edm);
    let (mean, std) = moments(&(t * 80.0).log());
    assert!((mean + 1.2).abs() < 0.01 && (std - 1.2).abs() < 0.01, "{mean} {std}");
    let (mean, std) =
        moments(&draw(&TimesConfig::LogitNormal { mean: 0.5, std: 0.8 }, &flow).logit(None::<f64>));
    assert!((mean - 0.5).abs() < 0.01 && (std - 0.8).abs() < 0.01, "{mean} {std}");
    // Esser et al. 2024: the density at the mode, t = 1/2, is 1 / |f'(1/2)|.
    let t = draw(&TimesConfig::Mode { scale: 1.29 }, &flow);
    let near = (&t - 0.5).abs().lt(0.005).to_kind(Kind::Double).mean(Kind::Double).double_value(&[]) / 0.01;
    let slope = 1.0 + 1.29 * (1.0 - std::f64::consts::FRAC_PI_2);
    assert!((near * slope - 1.0).abs() < 0.05, "{near} for {}", 1.0 / slope);
    let strata = draw(&TimesConfig::Stratified, &flow).sort(0, false).0;
    let even = Tensor::linspace(0.0, 1.0, 200_000, (Kind::Double, Device::Cpu));
    assert!((strata - even).abs().max().double_value(&[]) < 3e-5);
}

#[test]
fn bad_settings_are_named() {
    let schedule: Rc<dyn NoiseSchedule> = Rc::from(COSINE.build().unwrap());
    let field = |c: TimesConfig| c.build(&schedule, None).unwrap_err().to_string();
    assert!(field(TimesConfig::LogNormalSigma { mean: 0.0, std: 0.0 }).starts_with("std: 0"));
    assert!(field(TimesConfig::Mode { scale: 2.0 }).starts_with("scale: 2"));
    assert!(field(TimesConfig::LossSecondMoment { history: 10, uniform: 0.1 }).starts_with("kind: "));
    assert!(field(TimesConfig::AdaptiveDensity { bins: 1, decay: 0.9, uniform: 0.1 }).starts_with("bins: 1"));
    assert!(
        field(TimesConfig::AdaptiveDensity { bins: 9, decay: 0.9, uniform: 0.0 }).starts_with("uniform: 0")
    );
}
