//! Early stopping.

use super::{Memory, batch, parts, validation_sets};
use crate::{EarlyStopping, EarlyStoppingConfig, Losses, Validator, validation_loss};
use heldout_core::{
    Clock, Cond, Denoiser, Error, Evaluation, Flow, NoiseSchedule, Observer, Persist, Update, like,
};
use heldout_testkit::{TrigSchedule, check_persist};
use serde_json::{from_value, json};
use std::cell::Cell;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Is off by `train` on images near 1, the training set, and by `held_out` on those near -1, at log SNR above 0.5 and by 1 at
/// others.
#[derive(Debug, Default)]
struct Scripted {
    train: Cell<f64>,
    held_out: Cell<f64>,
}

impl Denoiser for Scripted {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, _: &Cond) -> Tensor {
        let m = TrigSchedule.marginal(t);
        let is_train =
            (x_t / like(&m.alpha, x_t)).mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float).gt(0.0);
        let clean = is_train.to_kind(Kind::Float) * 2.0 - 1.0;
        let off = Tensor::from(self.train.get()).where_self(&is_train, &Tensor::from(self.held_out.get()));
        let off = off.where_self(&like(&m.log_snr(), x_t).gt(0.5), &Tensor::from(1.0));
        (clean + off).to_kind(Kind::Float).expand_as(x_t)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        &TrigSchedule
    }
}

fn validator(model: &Rc<Scripted>, log_snr: Vec<f64>) -> Validator {
    let mut sets = validation_sets(6, 4);
    let ones = sets.train.x_start.ones_like();
    (sets.train.x_start, sets.held_out.x_start) = (ones.shallow_clone(), -ones);
    sets.log_snr = log_snr;
    Validator { model: model.clone(), sets, every: 10, sink: Rc::new(Memory::default()), latest: None }
}

fn stopping(model: &Rc<Scripted>, config: EarlyStoppingConfig) -> EarlyStopping {
    // Noise of 16 pixels must not hide which set an image is of.
    EarlyStopping::new(validator(model, vec![0.0, 1.0, 2.0, 6.0]), config).unwrap()
}

/// What it says when the losses (squares of `off`) of training and held-out images go this way, from validation `from` on.
fn run(stopping: &mut EarlyStopping, model: &Scripted, from: u64, off: &[(f64, f64)]) -> Vec<Option<String>> {
    let (update, _) = parts();
    let loss = Tensor::from(0.0);
    let one = |(i, (train, held_out)): (usize, &(f64, f64))| {
        model.train.set(*train);
        model.held_out.set(*held_out);
        let clock = Clock { step: 10 * (from + i as u64 + 1) - 1, total: 1000 };
        let evaluation = Evaluation { loss: loss.shallow_clone(), rows: None, terms: Vec::new() };
        match stopping.after_step(clock, &evaluation, &update).unwrap() {
            Flow::Continue => None,
            Flow::Stop(why) => Some(why),
        }
    };
    off.iter().enumerate().map(one).collect()
}

fn gap(levels: usize, patience: u64) -> EarlyStoppingConfig {
    EarlyStoppingConfig::Gap { limit: 0.19, levels, patience }
}

/// A model whose answers are no numbers has diverged, whatever its last training loss was.
#[test]
fn a_validation_without_a_number_is_a_divergence() {
    let model = Rc::new(Scripted::default());
    model.held_out.set(f64::NAN);
    let (update, _) = parts();
    let evaluation = Evaluation { loss: Tensor::from(0.0), rows: None, terms: Vec::new() };
    let found = validator(&model, vec![1.0]).after_step(Clock { step: 9, total: 100 }, &evaluation, &update);
    assert!(matches!(found, Err(Error::Diverged { step: 10, .. })), "{found:?}");
}

/// The second validation that is beyond the limit at two levels in a row stops the run, and says where and by how much.
#[test]
fn a_gap_stops_the_run() {
    let model = Rc::new(Scripted::default());
    let mut two = stopping(&model, gap(3, 2));
    // Losses 0.81 against 1 are a gap of 19 %: not beyond. 0.64 against 1 is.
    let flow = run(&mut two, &model, 0, &[(1.0, 1.0), (0.8, 1.0), (0.91, 1.0), (0.8, 1.0), (0.8, 1.0)]);
    assert!(flow[..4].iter().all(Option::is_none), "{flow:?}");
    let why = flow[4].as_deref().unwrap();
    for words in [
        "1.00000 against 0.64000 at log SNR",
        "gap of 36.0 %",
        "limit of 19.0 %",
        "3 noise levels",
        "2 validations",
    ] {
        assert!(why.contains(words), "{why}");
    }
    assert!(!why.contains("log SNR 0,"), "the level named is one with a gap: {why}");
    // Only three of four levels have a gap at all.
    let mut all = stopping(&model, gap(4, 1));
    assert!(run(&mut all, &model, 0, &[(0.5, 1.0); 5]).iter().all(Option::is_none));
    // A model that is worse on training images does not memorise.
    assert!(run(&mut two, &model, 5, &[(1.0, 0.5)])[0].is_none());
}

#[test]
fn the_held_out_loss_stops_the_run() {
    let model = Rc::new(Scripted::default());
    let mut stop = stopping(&model, EarlyStoppingConfig::HeldOutLoss { patience: 2 });
    let off = [0.9, 0.8, 0.85, 0.7, 0.75, 0.7].map(|held_out| (0.5, held_out));
    let flow = run(&mut stop, &model, 0, &off);
    assert!(flow[..5].iter().all(Option::is_none));
    assert!(flow[5].as_deref().unwrap().ends_with("since step 40"), "{:?}", flow[5]);
    assert_eq!(stop.score().unwrap().0, "generalization");
}

/// Its count of validations survives saving: a run that is cut between two of them stops where the whole one does.
#[test]
fn patience_survives_saving() {
    for config in [gap(3, 3), EarlyStoppingConfig::HeldOutLoss { patience: 3 }] {
        let model = Rc::new(Scripted::default());
        let off = [(0.5, 1.0); 6];
        let mut whole = stopping(&model, config);
        let straight = run(&mut whole, &model, 0, &off);
        let (mut first, mut second) = (stopping(&model, config), stopping(&model, config));
        run(&mut first, &model, 0, &off[..2]);
        check_persist(&first, &mut second);
        second.load_state(first.state()).unwrap();
        assert_eq!(run(&mut second, &model, 2, &off[2..]), straight[2..]);
        assert!(straight.iter().any(Option::is_some));
    }
}

#[test]
fn criteria_are_read_and_checked() {
    let config: EarlyStoppingConfig =
        from_value(json!({"kind": "gap", "limit": 0.1, "levels": 2, "patience": 3})).unwrap();
    assert_eq!(config, EarlyStoppingConfig::Gap { limit: 0.1, levels: 2, patience: 3 });
    assert!(
        from_value::<EarlyStoppingConfig>(json!({"kind": "held_out_loss", "patience": 3, "limit": 1}))
            .is_err()
    );
    let fails = |config: EarlyStoppingConfig, words: &str| {
        let model = Rc::new(Scripted::default());
        let error = EarlyStopping::new(validator(&model, vec![0.0, 1.0]), config).unwrap_err().to_string();
        assert!(error.starts_with(words), "{error}");
    };
    fails(EarlyStoppingConfig::HeldOutLoss { patience: 0 }, "patience: 0");
    fails(gap(0, 1), "levels: 0");
    fails(gap(3, 1), "levels: 3, of 2");
    fails(EarlyStoppingConfig::Gap { limit: 1.0, levels: 1, patience: 1 }, "limit: 1");
    let losses = Losses { train: vec![0.5, 2.0], held_out: vec![1.0, 1.0] };
    assert_eq!(losses.gaps(), [0.5, -1.0]);
}

/// The script itself: losses are the squares asked for.
#[test]
fn the_scripted_denoiser_has_the_scripted_losses() {
    let model = Rc::new(Scripted { train: Cell::new(0.5), held_out: Cell::new(0.8) });
    let v = validator(&model, vec![0.0, 1.0, 6.0]);
    let near = |found: Vec<f64>, wanted: [f64; 3]| {
        assert!(found.iter().zip(wanted).all(|(f, w)| (f - w).abs() < 1e-6), "{found:?}");
    };
    near(validation_loss(&*model, &v.sets.train, &v.sets), [1.0, 0.25, 0.25]);
    near(validation_loss(&*model, &v.sets.held_out, &v.sets), [1.0, 0.64, 0.64]);
    assert!(parts().0.params().count() > 0 && batch().len() == 64);
}
