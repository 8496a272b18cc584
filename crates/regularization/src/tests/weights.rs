use super::{Descent, Plain, batch, model};
use crate::{Averaged, EmaDecay};
use heldout_core::{Clock, Curve, Update};
use heldout_testkit::{check_curve, check_update, close, same};

#[test]
fn averages_keep_the_laws_of_an_update() {
    let make = || {
        let (params, objective) = model();
        (Averaged::new("ema", Descent(params, Plain), EmaDecay::new(0.9).unwrap()), objective)
    };
    check_update(make, &batch());
}

/// The average is the textbook recursion, and the live weights come back after a look at it.
#[test]
fn the_average_is_the_recursion() {
    let (params, mut objective) = model();
    let decay = EmaDecay::new(0.99).unwrap();
    let mut expected = params.snapshot();
    let mut averaged = Averaged::new("ema", Descent(params, Plain), decay);
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
fn the_decay_warms_up() {
    let decay = EmaDecay::new(0.95).unwrap();
    check_curve(&decay, 500);
    assert_eq!(decay.at(Clock { step: 400, total: 500 }), 0.95);
    assert!(EmaDecay::new(1.0).is_err());
}
