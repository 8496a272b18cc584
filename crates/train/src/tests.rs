//! Laws of the parts, optimisers against PyTorch, resume to the last bit, damage found.

mod budgeted;
mod quality;
mod stop_step;
mod stopping;

use crate::{
    Backprop, Checkpoints, Choice, Decay, DenoisingObjective, Ending, Event, LearningRate, Loaded, NonFinite,
    OptimizerConfig, OptimizerStep, Run, Scores, Sink, TrainLogger, Training, ValidationSets, train,
    validation_loss,
};
use heldout_core::{
    Batch, BatchSource, Clock, Cond, Curve, Error, Evaluation, Marginal, NoiseDraw, NoiseSource, Objective,
    Observer, Params, Persist, Preconditioned, Result, State, TimeSampler, Times, Update, Weighting,
};
use heldout_testkit::{
    Blobs, Golden, Mlp, SquaredError, TrigSchedule, VPrediction, check_curve, check_gradient,
    check_objective, check_persist, check_update, close, gaussian_denoiser, same,
};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use tch::{Device, Kind, Tensor, nn};

#[derive(Debug)]
struct UniformTimes;
impl Persist for UniformTimes {}
impl TimeSampler for UniformTimes {
    fn sample(&mut self, n: i64, _: Clock, device: Device) -> Times {
        let t = Tensor::rand([n], (Kind::Double, device)) * 0.98 + 0.01;
        Times { weight: t.ones_like(), t }
    }
}
#[derive(Debug)]
struct Gaussian;
impl NoiseSource for Gaussian {
    fn draw(&mut self, x: &Tensor, _: &Tensor, _: Clock) -> NoiseDraw {
        let applied = x.randn_like();
        NoiseDraw { target: applied.shallow_clone(), applied }
    }
}
#[derive(Debug)]
struct SnrPlusOne;
impl Weighting for SnrPlusOne {
    fn weight(&self, m: &Marginal) -> Tensor {
        (&m.alpha / &m.sigma).square() + 1.0
    }
}

const ADAM_W: OptimizerConfig = OptimizerConfig::AdamW { betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.01 };
const RATE: LearningRate = LearningRate { peak: 1e-2, warmup_steps: 3, decay: Decay::Cosine };

fn parts() -> (OptimizerStep<Backprop, LearningRate>, DenoisingObjective) {
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let model = Preconditioned {
        backbone: Box::new(Mlp::new(&vars.root(), 2)),
        parameterization: Box::new(VPrediction),
        schedule: Box::new(TrigSchedule),
    };
    let params = Params::of(&vars);
    let optimizer = ADAM_W.build(&params).unwrap();
    let objective = DenoisingObjective {
        model: Rc::new(model),
        times: Box::new(UniformTimes),
        noise: Box::new(Gaussian),
        weighting: Box::new(SnrPlusOne),
        penalties: Vec::new(),
    };
    (OptimizerStep::new(params, optimizer, Backprop, RATE, NonFinite::Stop), objective)
}

fn batch() -> Batch {
    Blobs { n: 64, seed: 2 }.batch(Clock { step: 0, total: 1 }).unwrap()
}

#[derive(Debug, Default)]
struct Memory(RefCell<Vec<(u64, Event)>>);
impl Sink for Memory {
    fn write(&self, step: u64, event: Event) -> Result<()> {
        self.0.borrow_mut().push((step, event));
        Ok(())
    }
}

#[test]
fn the_objective_and_the_gradient_keep_their_laws() {
    let (update, mut objective) = parts();
    check_objective(&mut objective, update.params(), &batch());
    check_gradient(&mut Backprop, &mut objective, update.params(), &batch());
}

#[test]
fn the_optimizer_step_keeps_the_laws_of_an_update() {
    check_update(parts, &batch());
}

#[test]
fn learning_rates_keep_their_law_and_their_ends() {
    for decay in [Decay::Constant, Decay::Linear, Decay::Cosine] {
        let rate = LearningRate { peak: 0.5, warmup_steps: 10, decay };
        check_curve(&rate, 100);
        assert!((rate.at(Clock { step: 0, total: 100 }) - 0.05).abs() < 1e-3);
        let end = rate.at(Clock { step: 100, total: 100 });
        assert!((end - if decay == Decay::Constant { 0.5 } else { 0.0 }).abs() < 1e-12);
    }
    assert!(LearningRate { peak: -1.0, ..RATE }.check().is_err());
}

/// Twenty steps on recorded gradients end where PyTorch's optimisers end.
#[test]
fn optimizers_are_those_of_pytorch() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "optimizers");
    let sgd = |momentum, nesterov| OptimizerConfig::Sgd { momentum, nesterov, weight_decay: 0.01 };
    let cases = [
        ("adam", OptimizerConfig::Adam { betas: [0.9, 0.99], eps: 1e-8, weight_decay: 0.01 }),
        ("adamw", ADAM_W),
        ("sgd", sgd(0.0, false)),
        ("sgd_momentum", sgd(0.9, false)),
        ("sgd_nesterov", sgd(0.9, true)),
    ];
    for (name, config) in cases {
        let vars = nn::VarStore::new(Device::Cpu);
        let start = golden.get("start");
        let p = vars.root().var_copy("p", &start);
        let params = Params::of(&vars);
        let mut optimizer = config.build(&params).unwrap();
        let grads = golden.get("grads");
        for step in 0..20 {
            params.zero_grad();
            (&p * grads.get(step)).sum(Kind::Float).backward();
            optimizer.step(&params, 0.05);
        }
        close(&p, &golden.get(name), 2e-6);
        assert!(!p.equal(&start));
    }
}

#[test]
fn optimizer_state_survives_saving() {
    let (mut update, mut objective) = parts();
    update.update(&mut objective, &batch(), Clock { step: 0, total: 5 }).unwrap();
    check_persist(&update, &mut parts().0);
}

fn run(folder: Option<&std::path::Path>, stop_at: Option<u64>) -> (Vec<Tensor>, Vec<(u64, Event)>) {
    let (mut update, mut objective) = parts();
    let memory = Rc::new(Memory::default());
    let mut observers: Vec<Box<dyn Observer>> = vec![Box::new(TrainLogger::new(7, memory.clone()))];
    let mut checkpoints = folder.map(|f| Checkpoints::new(f, "blobs", 4, 2).unwrap());
    let mut from = 0;
    let loaded = checkpoints.as_ref().and_then(|c| c.newest().unwrap());
    let mut data = Blobs { n: 64, seed: 2 };
    let mut training = Training {
        data: &mut data,
        objective: &mut objective,
        update: &mut update,
        observers: &mut observers,
        checkpoints: checkpoints.as_mut(),
        stopped: None,
    };
    if let Some(loaded) = loaded {
        from = loaded.step;
        training.load_state(loaded.state).unwrap();
    }
    tch::manual_seed(999); // Whatever happened in between.
    // A run that is cut has the same total: its curves are those of the whole run.
    #[derive(Debug)]
    struct Cut<'a>(Blobs, Option<u64>, &'a AtomicBool);
    impl BatchSource for Cut<'_> {
        fn batch(&mut self, clock: Clock) -> Result<Batch> {
            if Some(clock.step) == self.1 {
                self.2.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            self.0.batch(clock)
        }
    }
    let flag = AtomicBool::new(false);
    let mut cut = Cut(Blobs { n: 64, seed: 2 }, stop_at, &flag);
    training.data = &mut cut;
    let ending = train(Run { seed: 5, rank: 0, from, until: 20, total: 20 }, training, &flag).unwrap();
    assert_eq!(ending, stop_at.map_or(Ending::Finished, |s| Ending::Interrupted(s + 1)));
    let events = memory.0.borrow().clone();
    (update.params().snapshot(), events)
}

/// Interrupted at any step and resumed, a run ends with the same bytes and has reported the same means.
#[test]
fn a_resumed_run_is_the_same_run() {
    let (whole, events) = run(None, None);
    for cut in [0, 5, 6, 11] {
        let folder = tempfile::tempdir().unwrap();
        let (_, before) = run(Some(folder.path()), Some(cut));
        let (resumed, after) = run(Some(folder.path()), None);
        assert!(same(&whole, &resumed), "cut after step {cut}");
        assert_eq!(events, [before, after].concat(), "cut after step {cut}");
    }
}

#[test]
fn checkpoints_keep_the_last_and_the_best() {
    let folder = tempfile::tempdir().unwrap();
    let mut checkpoints = Checkpoints::new(folder.path(), "x", 1, 2).unwrap();
    let state = || {
        let mut s = State::default();
        s.tensors.insert("weights/w".to_owned(), Tensor::from_slice(&[1.0f32, 2.0]));
        s.set_count("count", u64::MAX - 1);
        s
    };
    for (step, a, b) in [(1, 5.0, 0.0), (2, 1.0, 2.0), (3, 4.0, 1.0), (4, 3.0, 1.0), (5, 2.0, 1.0)] {
        let scores = Scores::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        checkpoints.save(step, &scores, &state()).unwrap();
    }
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["step-00000001", "step-00000002", "step-00000004", "step-00000005"]);
    let mut newest = checkpoints.newest().unwrap().unwrap();
    assert_eq!((newest.step, newest.state.count("count").unwrap()), (5, u64::MAX - 1));
    assert!(newest.state.tensors["weights/w"].equal(&Tensor::from_slice(&[1.0f32, 2.0])));
    let open = |choice| Loaded::open(folder.path(), choice).map(|loaded| loaded.step);
    assert_eq!(open(Choice::Last).unwrap(), 5);
    assert_eq!((open(Choice::Best("a")).unwrap(), open(Choice::Best("b")).unwrap()), (2, 1));
    assert!(open(Choice::Best("c")).unwrap_err().to_string().contains("no checkpoint has the score `c`"));
}

/// One flipped byte anywhere in any file is found; the checkpoint before it is taken, and the damage is named.
#[test]
fn a_flipped_byte_is_found() {
    for file in ["weights.safetensors", "state.json", "manifest.json"] {
        let folder = tempfile::tempdir().unwrap();
        let mut checkpoints = Checkpoints::new(folder.path(), "x", 1, 3).unwrap();
        let mut state = State::default();
        state.tensors.insert("weights/w".to_owned(), Tensor::from_slice(&[1.0f32; 50]));
        checkpoints.save(1, &Scores::new(), &state).unwrap();
        checkpoints.save(2, &Scores::new(), &state).unwrap();
        let path = folder.path().join("step-00000002").join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let loaded = checkpoints.newest().unwrap().unwrap();
        assert_eq!(loaded.step, 1, "{file}");
        assert!(
            loaded.damaged[0].contains("step-00000002") && loaded.damaged[0].contains("damaged"),
            "{:?}",
            loaded.damaged
        );
        std::fs::remove_dir_all(folder.path().join("step-00000001")).unwrap();
        let error = checkpoints.newest().unwrap_err().to_string();
        assert!(error.contains("no whole checkpoint is left"), "{error}");
    }
}

#[test]
fn checkpoints_of_another_run_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    Checkpoints::new(folder.path(), "one", 1, 1).unwrap().save(1, &Scores::new(), &State::default()).unwrap();
    let error = Checkpoints::new(folder.path(), "other", 1, 1).unwrap().newest().unwrap_err();
    assert!(error.to_string().contains("another recipe"), "{error}");
}

/// The toy objective with a loss that stops being a number at step 2.
#[derive(Debug)]
struct Diverging(SquaredError);
impl Persist for Diverging {}
impl Objective for Diverging {
    fn evaluate(&mut self, batch: &Batch, clock: Clock) -> Result<Evaluation> {
        let mut e = self.0.evaluate(batch, clock)?;
        if clock.step == 2 {
            e.loss = &e.loss * f64::NAN;
            e.terms = vec![("squared_error", e.loss.detach())];
        }
        Ok(e)
    }
}

fn diverging(policy: NonFinite) -> (OptimizerStep<Backprop, f64>, Diverging) {
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let objective = Diverging(SquaredError(Mlp::new(&vars.root(), 2)));
    let params = Params::of(&vars);
    let optimizer = ADAM_W.build(&params).unwrap();
    (OptimizerStep::new(params, optimizer, Backprop, 1e-2, policy), objective)
}

fn is_error_of_step_2(result: Result<Evaluation>) -> bool {
    matches!(result, Err(Error::Diverged { term, step: 2 }) if term == "loss term `squared_error`")
}

#[test]
fn a_loss_that_is_no_number_stops_or_is_counted() {
    let (mut stop, mut objective) = diverging(NonFinite::Stop);
    let mut at = |u: &mut OptimizerStep<Backprop, f64>, step| {
        u.update(&mut objective, &batch(), Clock { step, total: 9 })
    };
    (0..2).for_each(|step| drop(at(&mut stop, step).unwrap()));
    assert!(is_error_of_step_2(at(&mut stop, 2)));

    let (mut skip, mut objective) = diverging(NonFinite::Skip);
    let mut snapshots = Vec::new();
    for step in 0..4 {
        let e = skip.update(&mut objective, &batch(), Clock { step, total: 9 }).unwrap();
        let skipped = e.terms.iter().find(|(n, _)| *n == "skipped").unwrap().1.int64_value(&[]);
        assert_eq!(skipped, i64::from(step >= 2));
        snapshots.push(skip.params().snapshot());
    }
    assert!(same(&snapshots[1], &snapshots[2]), "a skipped step moves nothing");
    assert!(!same(&snapshots[2], &snapshots[3]), "the next one goes on");
    assert!(snapshots[3].iter().all(|t| t.isfinite().all().int64_value(&[]) == 1));
}

/// What was skipped is in no mean, so that every record can be read again; a window of nothing else has no record.
#[test]
fn means_are_of_steps_that_counted() {
    let (mut skip, mut objective) = diverging(NonFinite::Skip);
    let memory = Rc::new(Memory::default());
    let mut log = TrainLogger::new(3, memory.clone());
    let mut single = TrainLogger::new(1, memory.clone());
    let mut losses = Vec::new();
    for step in 0..3 {
        let clock = Clock { step, total: 9 };
        let e = skip.update(&mut objective, &batch(), clock).unwrap();
        losses.push(e.loss.double_value(&[]));
        log.after_step(clock, &e, &skip).unwrap();
        if step == 2 {
            check_persist(&log, &mut TrainLogger::new(3, memory.clone()));
            single.after_step(clock, &e, &skip).unwrap();
        }
    }
    let events = memory.0.borrow();
    let train: Vec<f64> = events
        .iter()
        .filter_map(|(_, e)| if let Event::Train { loss, .. } = e { Some(*loss) } else { None })
        .collect();
    assert!(losses[2].is_nan() && train.len() == 1, "{train:?}");
    assert!((train[0] - 0.5 * (losses[0] + losses[1])).abs() < 1e-12);
    let text = serde_json::to_string(&events.iter().map(|(_, e)| e).collect::<Vec<_>>()).unwrap();
    assert_eq!(serde_json::from_str::<Vec<Event>>(&text).unwrap().len(), events.len());
}

#[test]
fn a_parameter_without_a_gradient_is_named() {
    tch::manual_seed(1);
    let vars = nn::VarStore::new(Device::Cpu);
    let mut objective = SquaredError(Mlp::new(&vars.root(), 2));
    let _unused = vars.root().zeros("unused", &[3]);
    let params = Params::of(&vars);
    let optimizer = ADAM_W.build(&params).unwrap();
    let mut update = OptimizerStep::new(params, optimizer, Backprop, 1e-2, NonFinite::Stop);
    let error = update.update(&mut objective, &batch(), Clock { step: 0, total: 1 }).unwrap_err().to_string();
    assert!(error.starts_with("parameter unused: no gradient"), "{error}");
}

#[test]
fn interrupts_leave_a_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    run(Some(folder.path()), Some(6));
    assert_eq!(Loaded::open(folder.path(), Choice::Last).unwrap().step, 7);
}

fn validation_sets(n: i64, batch: i64) -> ValidationSets {
    tch::manual_seed(3);
    let images =
        || Batch::new(Tensor::randn([n, 1, 4, 4], (Kind::Float, Device::Cpu)) * 0.5, Cond::default());
    let log_snr = vec![-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0, 6.0];
    ValidationSets { train: images(), held_out: images(), log_snr, batch, seed: 11 }
}

/// A checkpoint has one validation loss: to the last bit, whatever was drawn before and wherever it is loaded.
#[test]
fn validation_twice_on_one_checkpoint_gives_one_number() {
    let folder = tempfile::tempdir().unwrap();
    run(Some(folder.path()), Some(6));
    let sets = ValidationSets { train: batch(), ..validation_sets(64, 24) };
    let validate = |disturb: i64| {
        let (mut update, mut objective) = parts();
        let state = Loaded::open(folder.path(), Choice::Last).unwrap().state;
        let mut data = Blobs { n: 64, seed: 2 };
        Training {
            data: &mut data,
            objective: &mut objective,
            update: &mut update,
            observers: &mut [Box::new(TrainLogger::new(7, Rc::new(Memory::default())))],
            checkpoints: None,
            stopped: None,
        }
        .load_state(state)
        .unwrap();
        tch::manual_seed(disturb);
        let _ = Tensor::randn([disturb], (Kind::Float, Device::Cpu));
        validation_loss(objective.model.as_ref(), &sets.train, &sets)
    };
    assert_eq!(validate(1), validate(12345));
    assert!(validate(1).iter().all(|l| l.is_finite() && *l > 0.0));
}

/// Of the exact denoiser of `N(0, s^2)` the loss is known: `s^2 sigma^2 / (alpha^2 s^2 + sigma^2)`.
#[test]
fn the_validation_loss_of_an_exact_denoiser_is_its_closed_form() {
    let denoiser = gaussian_denoiser(TrigSchedule, 0.5);
    let (whole, split) = (validation_sets(2000, 2000), validation_sets(2000, 300));
    let losses = validation_loss(&denoiser, &whole.held_out, &whole);
    for (log_snr, loss) in whole.log_snr.iter().zip(&losses) {
        let sigma2 = 1.0 / (1.0 + log_snr.exp());
        let exact = 0.25 * sigma2 / ((1.0 - sigma2) * 0.25 + sigma2);
        // The mean of 32,000 squares of Gaussians: a standard error of 0.8 %.
        assert!((loss / exact - 1.0).abs() < 0.03, "{log_snr}: {loss}, exact {exact}");
    }
    let in_parts = validation_loss(&denoiser, &split.held_out, &split);
    for (a, b) in losses.iter().zip(&in_parts) {
        assert!((a / b - 1.0).abs() < 1e-6, "the batch of a validation changes its number: {a}, {b}");
    }
}
