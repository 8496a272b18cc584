//! One function per trait.

use crate::{close, denoising_step, gaussian_denoiser, same};
use heldout_core::{
    Adapter, Augment, Autoencoder, Backbone, Batch, BatchSource, Clock, Cond, Curve, Denoiser, Denoising,
    FeatureSets, Gradient, Input, Measurement, Metric, NoiseSchedule, NoiseSource, NoiseStream, Objective,
    Parameterization, Params, Penalty, Persist, Preconditioned, Sampler, State, TimeSampler, Update,
    Weighting, like,
};
use tch::{Device, Kind, Tensor};

const F64: (Kind, Device) = (Kind::Double, Device::Cpu);
const CLOCK: Clock = Clock { step: 3, total: 10 };

/// Times that avoid the ends and the knots of discrete schedules.
fn times() -> Tensor {
    Tensor::linspace(0.02, 0.98, 49, F64) + 3.7e-5
}

fn largest(x: &Tensor) -> f64 {
    x.max().double_value(&[])
}

/// [`NoiseSchedule`]: inverse, monotone log SNR, derivatives.
#[track_caller]
pub fn check_schedule(s: &dyn NoiseSchedule) {
    let (t, h) = (times(), 1e-6);
    let (m, log_snr) = (s.marginal(&t), s.log_snr(&t));
    close(&s.time_of(&log_snr), &t, 1e-9);
    assert!(largest(&(log_snr.narrow(0, 1, 48) - log_snr.narrow(0, 0, 48))) < 0.0, "log_snr must fall");
    let (up, down) = (s.marginal(&(&t + h)), s.marginal(&(&t - h)));
    for (up, down, slope) in [(up.alpha, down.alpha, m.d_alpha), (up.sigma, down.sigma, m.d_sigma)] {
        close(&(((up - down) / (2.0 * h) - &slope) / (1.0f64 + slope.abs())), &t.zeros_like(), 1e-6);
    }
}

/// [`Parameterization`] on a schedule: the target gives `x_start` back; nothing non-finite away from the ends.
#[track_caller]
pub fn check_parameterization(p: &dyn Parameterization, s: &dyn NoiseSchedule) {
    let t = times();
    let m = s.marginal(&t);
    let (x, noise) = (t.randn_like(), t.randn_like());
    let c = p.scalings(&m);
    let (a, b) = c.target(&m);
    let x_t = &m.alpha * &x + &m.sigma * &noise;
    close(&(&c.c_skip * x_t + &c.c_out * (a * &x + b * noise)), &x, 1e-9);
    assert!(
        c.c_in.isfinite().all().int64_value(&[]) == 1 && c.c_noise.isfinite().all().int64_value(&[]) == 1
    );
}

/// [`Weighting`]: finite and not negative away from the ends.
#[track_caller]
pub fn check_weighting(w: &dyn Weighting, s: &dyn NoiseSchedule) {
    let weight = w.weight(&s.marginal(&times()));
    assert_eq!(weight.size(), [49]);
    assert!(weight.isfinite().all().int64_value(&[]) == 1, "a weight is not finite");
    assert!(weight.min().double_value(&[]) >= 0.0, "a weight is negative");
}

/// [`Curve`]: the same twice, finite over the run.
#[track_caller]
pub fn check_curve(c: &dyn Curve, total: u64) {
    for step in 0..=total {
        let clock = Clock { step, total };
        assert!(c.at(clock).is_finite(), "not finite at step {step}");
        assert_eq!(c.at(clock), c.at(clock));
    }
}

/// [`TimeSampler`]: in `[0, 1]`, the same after the same seed, weights of mean about 1 or finite.
#[track_caller]
pub fn check_time_sampler(s: &mut dyn TimeSampler) {
    tch::manual_seed(1);
    let first = s.sample(4096, CLOCK, Device::Cpu);
    tch::manual_seed(1);
    let second = s.sample(4096, CLOCK, Device::Cpu);
    assert!(first.t.equal(&second.t) && first.weight.equal(&second.weight), "not a function of the seed");
    assert!(first.t.min().double_value(&[]) >= 0.0 && largest(&first.t) <= 1.0, "a time is outside [0, 1]");
    assert_eq!((first.t.kind(), first.t.size()), (Kind::Double, vec![4096]));
    assert!(first.weight.isfinite().all().int64_value(&[]) == 1);
}

/// [`NoiseSource`]: the target is unit Gaussian in mean and variance; the same after the same seed.
#[track_caller]
pub fn check_noise_source(s: &mut dyn NoiseSource) {
    let x = Tensor::zeros([512, 3, 8, 8], (Kind::Float, Device::Cpu));
    let t = Tensor::full([512], 0.5, F64);
    tch::manual_seed(1);
    let first = s.draw(&x, &t, CLOCK);
    tch::manual_seed(1);
    assert!(first.applied.equal(&s.draw(&x, &t, CLOCK).applied), "not a function of the seed");
    close(&first.target.mean(Kind::Double), &Tensor::from(0.0), 0.02);
    close(&first.target.var(true), &Tensor::from(1.0), 0.02);
}

/// [`Augment`]: keeps the shape; the same after the same seed.
#[track_caller]
pub fn check_augment(a: &mut dyn Augment, batch: &Batch) {
    tch::manual_seed(1);
    let first = a.augment(batch.shallow_clone(), CLOCK);
    tch::manual_seed(1);
    let second = a.augment(batch.shallow_clone(), CLOCK);
    assert_eq!(first.x_start.size(), batch.x_start.size());
    assert!(first.x_start.equal(&second.x_start), "not a function of the seed");
}

/// [`BatchSource`]: a function of the clock; different steps differ.
#[track_caller]
pub fn check_batch_source(mut make: impl FnMut() -> Box<dyn BatchSource>) {
    let at = |source: &mut dyn BatchSource, step| source.batch(Clock { step, total: 10 }).unwrap().x_start;
    let mut straight = make();
    let batches: Vec<Tensor> = (0..4).map(|step| at(straight.as_mut(), step)).collect();
    tch::manual_seed(999); // Whatever happened in between.
    assert!(at(make().as_mut(), 3).equal(&batches[3]), "a fresh source gives another batch at step 3");
    assert!(!batches[0].equal(&batches[1]), "two steps give one batch");
}

/// [`Backbone`]: output like the input, and no row sees another.
#[track_caller]
pub fn check_backbone(b: &dyn Backbone, x: &Tensor, cond: &Cond) {
    let level = Tensor::linspace(10.0, 900.0, x.size()[0], (x.kind(), x.device()));
    let input = Input { x, noise_level: &level, cond, train: false };
    tch::no_grad(|| {
        let all = b.forward(input, &mut ());
        assert_eq!(all.size(), x.size());
        let (row, level, cond) = (x.narrow(0, 1, 1), level.narrow(0, 1, 1), cond.narrow(1, 1));
        let one = b.forward(Input { x: &row, noise_level: &level, cond: &cond, train: false }, &mut ());
        close(&one, &all.narrow(0, 1, 1), 1e-4);
        let other =
            b.forward(Input { noise_level: &(&level + 50.0), x: &row, cond: &cond, train: false }, &mut ());
        assert!(!one.equal(&other), "the noise level changes nothing");
    });
}

/// [`Denoiser`]: output like the input, no row sees another, and made ready for a time it says the same.
#[track_caller]
pub fn check_denoiser(d: &dyn Denoiser, x: &Tensor, cond: &Cond) {
    let t = Tensor::linspace(0.1, 0.9, x.size()[0], F64);
    tch::no_grad(|| {
        let all = d.denoise(x, &t, cond);
        assert_eq!(all.size(), x.size());
        let one = d.denoise(&x.narrow(0, 1, 1), &t.narrow(0, 1, 1), &cond.narrow(1, 1));
        close(&one, &all.narrow(0, 1, 1), 1e-4);
        if let Some(prepared) = d.prepare(&t, x.kind()) {
            for i in 0..t.size()[0] {
                let wanted = d.denoise(x, &t.narrow(0, i, 1).expand([x.size()[0]], false), cond);
                close(&prepared.denoise_with_variance(i as usize, x, cond).0, &wanted, 1e-4);
            }
        }
    });
}

/// [`Adapter`]: nothing at initialisation.
#[track_caller]
pub fn check_adapter(a: &dyn Adapter, input: Input<'_>) {
    let residuals = a.residuals(input).0;
    assert!(!residuals.is_empty());
    for (site, r) in residuals {
        assert!(r.abs().max().double_value(&[]) == 0.0, "{site:?} is not zero at initialisation");
    }
}

/// [`Autoencoder`]: back to the same shape.
#[track_caller]
pub fn check_autoencoder(a: &dyn Autoencoder, x: &Tensor) {
    assert_eq!(a.decode(&a.encode(x)).size(), x.size());
}

/// [`Sampler`] with an exact Gaussian denoiser: turns unit noise into that Gaussian, whatever the batch split.
///
/// `noise(first)` makes the stream of the samples from number `first` on; `tolerance` is on the standard deviation.
#[track_caller]
pub fn check_sampler<N: NoiseStream>(
    sampler: &dyn Sampler,
    schedule: impl NoiseSchedule,
    noise: impl Fn(u64) -> N,
    steps: usize,
    tolerance: f64,
) {
    let times: Vec<f64> = (0..=steps).map(|i| 0.999 - 0.998 * i as f64 / steps as f64).collect();
    let (n, d) = (64, 256);
    let denoiser = gaussian_denoiser(schedule, 0.5);
    let at = |t: f64| {
        let m = denoiser.schedule().marginal(&Tensor::full([1], t, F64));
        (m.alpha.square() * 0.25 + m.sigma.square()).sqrt()
    };
    tch::manual_seed(5);
    let start = Tensor::randn([n, 1, 1, d], F64);
    let start = like(&at(times[0]), &start) * start;
    let run = |first: i64, len: i64| {
        let x = start.narrow(0, first, len);
        let mut seen = 0;
        let mut stream = noise(first as u64);
        let cond = Cond::default();
        let out = sampler.sample(&denoiser, x, &times, &cond, &mut stream, &mut |_| seen += 1).unwrap();
        assert!(seen > 0, "nobody was shown a step");
        out
    };
    let whole = run(0, n);
    close(&whole.std(true), &at(times[steps]).squeeze(), tolerance);
    let parts = Tensor::cat(&[run(0, 20), run(20, n - 20)], 0);
    close(&parts, &whole, 1e-10);
}

/// [`Persist`]: what is saved and loaded into a fresh one is what the fresh one saves.
#[track_caller]
pub fn check_persist(old: &dyn Persist, fresh: &mut dyn Persist) {
    let before = old.state();
    fresh.load_state(old.state()).unwrap();
    let after = fresh.state();
    assert!(before.tensors.keys().eq(after.tensors.keys()), "names differ");
    let values = |s: &State| s.tensors.values().map(Tensor::shallow_clone).collect::<Vec<_>>();
    assert!(same(&values(&before), &values(&after)), "a tensor came back different");
    assert_eq!(before.values, after.values);
}

/// [`Objective`]: moves no weight, leaves no gradient, the same after the same seed.
#[track_caller]
pub fn check_objective(o: &mut dyn Objective, params: &Params, batch: &Batch) {
    let before = params.snapshot();
    params.zero_grad();
    tch::manual_seed(7);
    let first = o.evaluate(batch, CLOCK).unwrap();
    tch::manual_seed(7);
    let second = o.evaluate(batch, CLOCK).unwrap();
    assert!(first.loss.equal(&second.loss), "not a function of the seed");
    assert!(first.loss.requires_grad(), "the loss has no graph");
    assert!(same(&before, &params.snapshot()), "an Objective moved the weights");
    assert!(params.grads().all(|g| g.abs().max().double_value(&[]) == 0.0), "an Objective left a gradient");
}

/// [`Penalty`] on a step of `model`: one finite number for each example, or one for all; the same after the same seed from
/// the same state; touches neither the weights nor the gradients of the model.
#[track_caller]
pub fn check_penalty<P: for<'a> Penalty<Denoising<'a>>>(
    mut make: impl FnMut() -> P,
    model: &Preconditioned,
    params: &Params,
    batch: &Batch,
) {
    let before = params.snapshot();
    params.zero_grad();
    let mut run = || {
        let (mut penalty, needs) = (make(), make());
        tch::manual_seed(7);
        denoising_step(model, batch, CLOCK, &needs, |view| penalty.penalty(view).unwrap())
    };
    let (first, second) = (run(), run());
    assert!(first.size() == [batch.len()] || first.numel() == 1, "a penalty of shape {:?}", first.size());
    assert!(first.isfinite().all().int64_value(&[]) == 1, "a penalty is not finite");
    assert!(first.equal(&second), "not a function of the seed and the state");
    assert!(same(&before, &params.snapshot()), "a Penalty moved the weights");
    assert!(params.grads().all(|g| g.abs().max().double_value(&[]) == 0.0), "a Penalty left a gradient");
}

/// [`Gradient`]: leaves a gradient and the weights as they were. Gives the gradient back.
#[track_caller]
pub fn check_gradient(
    g: &mut dyn Gradient,
    o: &mut dyn Objective,
    params: &Params,
    batch: &Batch,
) -> Vec<Tensor> {
    let before = params.snapshot();
    tch::manual_seed(7);
    g.gradient(params, o, batch, CLOCK).unwrap();
    assert!(same(&before, &params.snapshot()), "a Gradient moved the weights");
    assert_eq!(params.grads().count(), params.tensors().count(), "a parameter has no gradient");
    params.grads().map(|g| g.copy()).collect()
}

/// [`Update`]: moves the weights, and continues bit for bit when saved and loaded into a fresh one.
///
/// `make` builds the update and its objective with freshly initialised weights.
#[track_caller]
pub fn check_update<U: Update, O: Objective>(mut make: impl FnMut() -> (U, O), batch: &Batch) {
    let run = |u: &mut U, o: &mut O, steps: std::ops::Range<u64>| {
        for step in steps {
            tch::manual_seed(step as i64);
            u.update(o, batch, Clock { step, total: 8 }).unwrap();
        }
    };
    let (mut straight, mut objective) = make();
    let start = straight.params().snapshot();
    run(&mut straight, &mut objective, 0..8);
    let whole = straight.params().snapshot();
    assert!(!same(&start, &whole), "an Update moved nothing");

    let (mut first, mut objective) = make();
    run(&mut first, &mut objective, 0..5);
    let (mut second, mut other) = make();
    tch::no_grad(|| second.params().restore(&first.params().snapshot()));
    second.load_state(first.state()).unwrap();
    run(&mut second, &mut other, 5..8);
    assert!(same(&whole, &second.params().snapshot()), "a resumed Update goes another way");
    let evaluated = |u: &U| {
        let _guard = u.eval_weights();
        u.params().snapshot()
    };
    assert!(same(&evaluated(&straight), &evaluated(&second)), "its evaluation weights go another way");
    assert!(same(&whole, &straight.params().snapshot()), "the live weights did not come back");
}

/// [`Metric`]: the same twice, and under permutations of each set.
#[track_caller]
pub fn check_metric(m: &dyn Metric, sets: &FeatureSets<'_>) {
    let measured = |sets: &FeatureSets<'_>| -> Vec<(String, Measurement)> {
        m.evaluate(sets).unwrap().into_iter().map(|(name, found)| (name, found.unwrap())).collect()
    };
    let values = measured(sets);
    assert!(!values.is_empty());
    assert_eq!(values, measured(sets), "not the same twice");
    tch::manual_seed(3);
    let shuffled = |x: &Tensor| x.index_select(0, &Tensor::randperm(x.size()[0], (Kind::Int64, Device::Cpu)));
    let (generated, train, held_out) =
        (shuffled(sets.generated), shuffled(sets.train), shuffled(sets.held_out));
    let others = measured(&FeatureSets { generated: &generated, train: &train, held_out: &held_out });
    for ((name, value), (other_name, other)) in values.iter().zip(&others) {
        assert_eq!(name, other_name);
        let close = |a: f64, b: f64| (a - b).abs() < 1e-12 * a.abs().max(1.0);
        assert!(close(other.model.value, value.model.value), "{name}: depends on the order");
        assert!(close(other.floor.value, value.floor.value), "{name}: its floor depends on the order");
    }
}
