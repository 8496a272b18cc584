//! Techniques on the weights, against closed forms and peers.

use super::{Descent, Plain, Scripted, batch, model};
use crate::{
    AverageConfig, Averaged, BatchStatistics, EmaDecay, Lookahead, LookaheadConfig, PcGrad, PcGradConfig,
    PowerDecay, PowerEmaConfig, Profile, Reptile, ReptileConfig, SwaConfig, SwaDecay, SwaRate, TaskKind,
    TasksConfig, WeightNormalization, WeightNormalizationConfig, WeightsTechnique, build_update, reconstruct,
};
use heldout_core::{
    Batch, Clock, Cond, Curve, Evaluation, Gradient, Objective, Params, Persist, Result, Update,
};
use heldout_testkit::{Golden, SquaredError, check_absent_update, check_curve, check_update, close, same};
use tch::{Device, Kind, Tensor, nn, nn::ModuleT};

const WARM_UP: EmaDecay = EmaDecay::WarmUp { decay: 0.99 };

fn descent() -> (Descent, SquaredError) {
    let (params, objective) = model();
    (Descent(params, Plain), objective)
}

/// Goes along a given path of the weights.
#[derive(Debug)]
struct Along {
    params: Params,
    path: Vec<Vec<Tensor>>,
}

impl Along {
    /// A random walk of one parameter that is twice differentiable, as trained weights are.
    fn new(steps: usize) -> Self {
        let vars = nn::VarStore::new(Device::Cpu);
        let _ = vars.root().zeros("w", &[50]);
        tch::manual_seed(5);
        let phase = Tensor::rand([50], (Kind::Float, Device::Cpu)) * 6.0;
        let at = |s: usize| {
            vec![((s as f64 / steps as f64) * 3.0 + &phase).sin() + (s as f64 / 40.0).exp() * 1e-3]
        };
        Self { params: Params::of(&vars), path: (1..=steps).map(at).collect() }
    }

    fn given(mut path: Vec<Vec<Tensor>>, names: &[&str]) -> Self {
        let vars = nn::VarStore::new(Device::Cpu);
        names.iter().zip(&path[0]).for_each(|(name, t)| drop(vars.root().var_copy(name, t)));
        Self { params: Params::of(&vars), path: path.split_off(1) }
    }
}

impl Persist for Along {}

impl Update for Along {
    fn update(&mut self, _: &mut dyn Objective, _: &Batch, clock: Clock) -> Result<Evaluation> {
        self.params.restore(&self.path[clock.step as usize]);
        let loss = Tensor::from(0.0);
        Ok(Evaluation { loss, rows: None, terms: Vec::new() })
    }
    fn params(&self) -> &Params {
        &self.params
    }
}

fn run(update: &mut dyn Update, objective: &mut dyn Objective, steps: u64) {
    for step in 0..steps {
        tch::manual_seed(step as i64);
        update.update(objective, &batch(), Clock { step, total: steps }).unwrap();
    }
}

fn evaluated(update: &dyn Update) -> Vec<Tensor> {
    let _guard = update.eval_weights();
    update.params().snapshot()
}

#[test]
fn averages_keep_the_laws_of_an_update() {
    let make = || {
        let (update, objective) = descent();
        (Averaged::new("ema", update, WARM_UP), objective)
    };
    check_update(make, &batch());
    let at_zero = || {
        let (update, objective) = descent();
        (Averaged::new("ema", update, EmaDecay::Constant { decay: 0.0 }), objective)
    };
    check_absent_update(at_zero, descent, &batch());
}

/// The average is the textbook recursion, and the live weights come back after a look at it.
#[test]
fn the_average_is_the_recursion() {
    let (update, mut objective) = descent();
    let mut expected = update.params().snapshot();
    let mut averaged = Averaged::new("ema", update, WARM_UP);
    for step in 0..6 {
        let clock = Clock { step, total: 6 };
        averaged.update(&mut objective, &batch(), clock).unwrap();
        let d = (1.0 + step as f64) / (10.0 + step as f64);
        let live = averaged.params().snapshot();
        expected = expected.iter().zip(&live).map(|(e, w)| e * d + w * (1.0 - d)).collect();
    }
    let live = averaged.params().snapshot();
    {
        let _guard = averaged.eval_weights();
        expected.iter().zip(averaged.params().tensors()).for_each(|(e, w)| close(e, w, 1e-6));
        assert!(!same(&live, &averaged.params().snapshot()));
    }
    assert!(same(&live, &averaged.params().snapshot()), "the live weights come back");
}

#[test]
fn decays_are_those_of_their_papers() {
    check_curve(&EmaDecay::WarmUp { decay: 0.95 }, 500);
    let at = |decay: EmaDecay, step| decay.at(Clock { step, total: 500 });
    assert_eq!(at(EmaDecay::WarmUp { decay: 0.95 }, 400), 0.95);
    let half = EmaDecay::HalfLife { steps: 20.0, ramp_up: Some(0.05) };
    assert!((at(half, 499).powi(20) - 0.5).abs() < 1e-9, "twenty steps halve what is remembered");
    assert!((at(half, 100).powi(5) - 0.5).abs() < 1e-9, "five of the first hundred do");
    assert_eq!(at(half, 0), 0.0);
    let says = |decay: EmaDecay, words: &str| {
        let error = AverageConfig { decay, name: None }.check().unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    };
    says(EmaDecay::Constant { decay: 1.0 }, "decay.decay: 1 is not in [0, 1)");
    says(EmaDecay::HalfLife { steps: 0.0, ramp_up: None }, "decay.steps: 0 is not");
    says(EmaDecay::HalfLife { steps: 1.0, ramp_up: Some(-1.0) }, "decay.ramp_up: -1 is not");
    // EDM2 gives these powers for the widths that it tracks.
    for (width, gamma) in [(0.05, 16.97), (0.10, 6.94)] {
        assert!((PowerDecay::of_width(width).unwrap().gamma - gamma).abs() < 5e-3);
        assert!((PowerDecay { gamma }.width() - width).abs() < 1e-4);
    }
    assert!(PowerDecay::of_width(0.3).unwrap_err().to_string().contains("the width of the plain mean"));
}

/// The same weights through torch's `swa_utils` and torch-ema.
#[test]
fn averages_are_those_of_the_peers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "averages");
    let (a, b) = (golden.get("path.0"), golden.get("path.1"));
    let path = || (0..a.size()[0]).map(|i| vec![a.get(i), b.get(i)]).collect::<Vec<_>>();
    let steps = path().len() as u64 - 1;
    let check = |name: &str, decay: &dyn Fn(u64) -> f64| {
        #[derive(Debug)]
        struct By(Vec<f64>);
        impl Curve for By {
            fn at(&self, clock: Clock) -> f64 {
                self.0[clock.step as usize]
            }
        }
        let along = Along::given(path(), &["a", "b"]);
        let mut averaged = Averaged::new("x", along, By((0..steps).map(decay).collect()));
        run(&mut averaged, &mut descent().1, steps);
        for (i, w) in evaluated(&averaged).iter().enumerate() {
            close(w, &golden.get(&format!("{name}.{i}")), 1e-6);
        }
    };
    let at = |step| Clock { step, total: steps };
    check("mean", &|s| SwaDecay { start: 0.0, every: 1 }.at(at(s)));
    check("ema", &|s| EmaDecay::Constant { decay: 0.9 }.at(at(s)));
    check("warm", &|s| EmaDecay::WarmUp { decay: 0.9 }.at(at(s + 1))); // torch-ema counts the step first
}

#[test]
fn several_averages_at_once_and_the_outermost_counts() {
    let ema = |decay, name: Option<&str>| {
        let (decay, name) = (EmaDecay::Constant { decay }, name.map(str::to_owned));
        WeightsTechnique::Ema(AverageConfig { decay, name })
    };
    let build = |list: &[WeightsTechnique]| build_update(list, Box::new(descent().0), 16);
    let list = [ema(0.5, Some("short")), ema(0.9, None)];
    let trained = |list| {
        let (update, mut objective) = descent();
        let mut update = build_update(list, Box::new(update), 16).unwrap();
        run(&mut update, &mut objective, 5);
        update
    };
    let (both, long) = (trained(&list), trained(&list[1..]));
    assert_eq!(both.averages().iter().map(|a| a.name).collect::<Vec<_>>(), ["short", "ema"]);
    assert!(same(&evaluated(&both), &evaluated(&long)), "the outermost is evaluated");
    let make = || {
        let (update, objective) = descent();
        (build_update(&list, Box::new(update), 16).unwrap(), objective)
    };
    check_update(make, &batch());
    let error = build(&[list[1].clone(), list[1].clone()]).unwrap_err().to_string();
    assert!(error.starts_with("weights[1].name: "), "{error}");
    assert!(build(&[ema(0.5, Some("a/b"))]).unwrap_err().to_string().starts_with("weights[0].name: "));
}

/// Any width from two tracked ones and their snapshots, as near as 1e-3 to the one that was tracked.
#[test]
fn averages_are_reconstructed_after_the_fact() {
    let steps = 400;
    let track = |gamma: f64| {
        let mut averaged = Averaged::new("x", Along::new(steps), PowerDecay { gamma });
        let (_, mut objective) = descent();
        let mut stored = Vec::new();
        for step in 0..steps as u64 {
            let clock = Clock { step, total: steps as u64 };
            averaged.update(&mut objective, &batch(), clock).unwrap();
            if (step + 1) % 25 == 0 {
                let profile = Profile { steps: (step + 1) as f64, gamma };
                stored.push((profile, evaluated(&averaged).swap_remove(0)));
            }
        }
        stored
    };
    let gamma = |width| PowerDecay::of_width(width).unwrap().gamma;
    let stored = [track(gamma(0.05)), track(gamma(0.1))].into_iter().flatten().collect::<Vec<_>>();
    let profiles: Vec<Profile> = stored.iter().map(|(p, _)| *p).collect();
    for width in [0.04, 0.07, 0.1, 0.15] {
        let wanted = Profile { steps: steps as f64, gamma: gamma(width) };
        let weights = reconstruct(&profiles, wanted).unwrap();
        assert!((weights.iter().sum::<f64>() - 1.0).abs() < 2e-3, "{width}: weights sum to one");
        let made = weights.iter().zip(&stored).map(|(c, (_, w))| w * *c).reduce(|a, b| a + b).unwrap();
        let direct = &track(gamma(width)).pop().unwrap().1;
        let error = ((made - direct).norm() / direct.norm()).double_value(&[]);
        assert!(error < 1e-3, "{width}: {error}");
    }
    let early = Profile { steps: 10.0, gamma: 5.0 };
    assert!(reconstruct(&[early], Profile { steps: 400.0, gamma: 5.0 }).is_err());
    assert!(reconstruct(&[], early).unwrap_err().to_string().starts_with("width: no averages"));
}

#[test]
fn swa_is_the_plain_mean_of_the_weights_it_visits() {
    let config = SwaConfig { start: 0.5, every: 3, rate: Some(0.01), name: None };
    let mut swa =
        build_update(&[WeightsTechnique::Swa(config.clone())], Box::new(Along::new(20)), 16).unwrap();
    let path = Along::new(20).path;
    run(&mut swa, &mut descent().1, 20);
    let visited = [10, 13, 16, 19].map(|step| path[step][0].shallow_clone());
    close(&evaluated(&swa)[0], &Tensor::stack(&visited, 0).mean_dim(0i64, false, Kind::Float), 1e-6);
    check_update(
        || {
            let (update, objective) = descent();
            (Averaged::new("swa", update, SwaDecay { start: 0.25, every: 2 }), objective)
        },
        &batch(),
    );
    let plan = SwaRate { inner: 0.1, start: 0.5, rate: 0.01 };
    let rates = [0, 25, 35, 45, 60, 99].map(|step| plan.at(Clock { step, total: 100 }));
    let wanted = [0.1, 0.1, 0.055, 0.01, 0.01, 0.01];
    assert!(rates.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-12), "{rates:?}");
    assert!(
        SwaConfig { start: 1.0, ..config.clone() }.check().unwrap_err().to_string().starts_with("start: ")
    );
    assert!(SwaConfig { every: 0, ..config }.check().unwrap_err().to_string().starts_with("every: "));
}

/// Batch norms that see a network's averaged weights: as torch's `update_bn`.
#[test]
fn batch_statistics_are_measured_anew() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "averages");
    let vars = nn::VarStore::new(Device::Cpu);
    let conv = nn::conv2d(vars.root() / "conv", 2, 3, 1, nn::ConvConfig::default());
    let norms = [0, 1].map(|i| {
        nn::batch_norm2d(
            vars.root() / format!("bn{i}"),
            3,
            nn::BatchNormConfig { ws_init: nn::Init::Const(1.0), ..nn::BatchNormConfig::default() },
        )
    });
    tch::no_grad(|| {
        conv.ws.shallow_clone().copy_(&golden.get("conv.weight"));
        conv.bs.as_ref().unwrap().shallow_clone().copy_(&golden.get("conv.bias"));
    });
    let statistics = BatchStatistics::of(&vars);
    assert!(!statistics.is_empty());
    let batches = golden.get("batches");
    let pass = |i: usize| {
        let h = batches.get(i as i64).apply(&conv);
        let _ = norms[1].forward_t(&norms[0].forward_t(&h, true).relu(), true);
        Ok(())
    };
    statistics.refresh(0.1, 4, pass).unwrap();
    for (i, norm) in norms.iter().enumerate() {
        close(&norm.running_mean, &golden.get(&format!("bn{i}.running_mean")), 1e-5);
        close(&norm.running_var, &golden.get(&format!("bn{i}.running_var")), 1e-5);
    }
    assert!(statistics.refresh(0.1, 0, |_| Ok(())).is_err());
}

#[test]
fn lookahead_is_the_recursion_of_the_paper() {
    let config = LookaheadConfig { every: 3, share: 0.5 };
    let make = |config| {
        move || {
            let (update, objective) = descent();
            (Lookahead::new(update, config), objective)
        }
    };
    check_update(make(config), &batch());
    check_absent_update(make(LookaheadConfig { share: 1.0, ..config }), descent, &batch());
    let mut update = Lookahead::new(Along::new(6), config);
    let path = Along::new(6).path;
    run(&mut update, &mut descent().1, 6);
    let slow = &path[2][0] * 0.5; // the first weights are 0
    close(&update.params().snapshot()[0], &(&slow + (&path[5][0] - &slow) * 0.5), 1e-6);
    assert!(LookaheadConfig { share: 0.0, ..config }.check().unwrap_err().to_string().starts_with("share: "));
}

/// On `1/2 (w - c)^2` for the class `c` every step goes a share of 0.1 of the way to `c`.
#[test]
fn reptile_goes_to_the_mean_of_where_tasks_lead() {
    let make = |share: f64, inner_steps| {
        let mut vars = nn::VarStore::new(Device::Cpu);
        vars.set_kind(Kind::Double);
        let w = vars.root().var_copy("w", &Tensor::from_slice(&[1.0f64]));
        let params = Params::of(&vars);
        let rows = move |b: &Batch| {
            let c = b.cond.label.as_ref().unwrap().to_kind(Kind::Double);
            ((&w - c).square() * 0.5, Tensor::zeros([b.len()], (Kind::Double, Device::Cpu)))
        };
        let of = TasksConfig { of: TaskKind::Class, per_step: 2, support: 2, query: 0 };
        let config = ReptileConfig { tasks: of, inner_steps, share: share.into() };
        (Reptile { inner: Descent(params, Plain), config }, Scripted(Box::new(rows)))
    };
    let labels = Tensor::from_slice(&[0i64, 5, 0, 5]);
    let x = Tensor::zeros([4, 1, 1, 1], (Kind::Double, Device::Cpu));
    let b = Batch::new(x, Cond::of_labels(labels));
    check_update(|| make(0.5, 3), &b);
    let (mut reptile, mut objective) = make(0.5, 2);
    reptile.update(&mut objective, &b, Clock { step: 0, total: 1 }).unwrap();
    let end = |c: f64| c + (1.0 - c) * 0.9f64.powi(2);
    let wanted = 1.0 + 0.5 * ((end(0.0) + end(5.0)) / 2.0 - 1.0);
    close(&reptile.params().snapshot()[0], &Tensor::from_slice(&[wanted]), 1e-12);
    let (mut still, mut objective) = make(0.0, 2);
    still.update(&mut objective, &b, Clock { step: 0, total: 1 }).unwrap();
    assert!(still.params().snapshot()[0].equal(&Tensor::from_slice(&[1.0])));
    let tasks = TasksConfig { of: TaskKind::Class, per_step: 1, support: 99, query: 0 };
    let error = ReptileConfig { tasks, inner_steps: 1, share: 1.0.into() }.check(16).unwrap_err().to_string();
    assert!(error.starts_with("tasks.support: 99"), "{error}");
}

/// What looks at rows within a task learns its band too: with one band of its own PCGrad is the plain gradient.
#[test]
fn reptiles_bands_reach_what_looks_at_rows() {
    fn end<G: Gradient>(gradient: G) -> Tensor {
        let mut vars = nn::VarStore::new(Device::Cpu);
        vars.set_kind(Kind::Double);
        let w = vars.root().var_copy("w", &Tensor::from_slice(&[1.0f64]));
        let params = Params::of(&vars);
        let (c, levels) =
            (Tensor::from_slice(&[0.0f64, 5.0, 0.0, 9.0]), Tensor::from_slice(&[-1.0, 1.0, -2.0, 2.0]));
        let rows = move |_: &Batch| ((&w - &c).square() * 0.5, levels.shallow_clone());
        let of =
            TasksConfig { of: TaskKind::NoiseBand { edges: vec![0.0] }, per_step: 1, support: 4, query: 0 };
        let config = ReptileConfig { tasks: of, inner_steps: 2, share: 1.0.into() };
        let b = Batch::new(Tensor::zeros([4, 1, 1, 1], (Kind::Double, Device::Cpu)), Cond::default());
        let mut reptile = Reptile { inner: Descent(params, gradient), config };
        tch::manual_seed(0);
        reptile.update(&mut Scripted(Box::new(rows)), &b, Clock { step: 0, total: 1 }).unwrap();
        reptile.params().snapshot().swap_remove(0)
    }
    close(&end(PcGrad { config: PcGradConfig { edges: Vec::new() } }), &end(Plain), 1e-12);
}

#[test]
fn rows_keep_their_first_length() {
    let make = |strength: f64| {
        let (update, objective) = descent();
        (WeightNormalization::new(update, WeightNormalizationConfig { strength: strength.into() }), objective)
    };
    check_update(|| make(1.0), &batch());
    check_absent_update(|| make(0.0), descent, &batch());
    let lengths = |u: &dyn Update| {
        u.params()
            .tensors()
            .filter(|p| p.dim() == 2)
            .map(|p| p.detach().norm_scalaropt_dim(2, 1i64, false))
            .collect::<Vec<_>>()
    };
    let ((mut held, mut objective), (mut free, mut other)) = (make(1.0), descent());
    let first = lengths(&held);
    run(&mut held, &mut objective, 30);
    run(&mut free, &mut other, 30);
    first.iter().zip(lengths(&held)).for_each(|(a, b)| close(a, &b, 1e-6));
    let moved = first.iter().zip(lengths(&free)).map(|(a, b)| (a - b).abs().max().double_value(&[]));
    assert!(moved.fold(0.0, f64::max) > 1e-3, "lengths would have stayed anyway");
    let error = WeightNormalizationConfig { strength: 1.5.into() }.check().unwrap_err().to_string();
    assert!(error.starts_with("strength: 1.5"), "{error}");
    assert_eq!(PowerEmaConfig { width: 0.1, name: None }.name(), "power_ema 0.1");
}
