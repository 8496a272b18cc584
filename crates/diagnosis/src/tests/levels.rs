//! Loss gap and distance from the copier.

use super::{CLOCK, batch, refused};
use crate::{PairedSets, denoiser_distance, loss_gap};
use heldout_core::Mean;
use heldout_core::{Batch, BatchSource, Cond, Denoiser, NoiseSchedule};
use heldout_metrics::EmpiricalDenoiser;
use heldout_testkit::{Blobs, TrigSchedule, gaussian_denoiser};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

const LEVELS: [f64; 4] = [-2.0, 0.0, 2.0, 4.0];

/// Unit Gaussian images of 8 numbers.
fn gaussian(n: i64, seed: i64) -> Batch {
    tch::manual_seed(seed);
    batch(Tensor::randn([n, 2, 2, 2], (Kind::Float, Device::Cpu)))
}

fn copier(train: &Batch) -> EmpiricalDenoiser {
    EmpiricalDenoiser::new(&train.x_start, Rc::new(TrigSchedule))
}

#[track_caller]
fn near(mean: Mean, expected: f64, errors: f64) {
    let off = (mean.value - expected).abs();
    assert!(off <= errors * mean.standard_error + 1e-9, "{mean:?} is not {expected}");
}

/// A copier is distance 0 from itself, is right on what it saw, and errs on what it did not.
#[test]
fn the_copier_is_found() {
    let (train, held_out) = (gaussian(16, 0), gaussian(300, 1));
    let sets = PairedSets::new(&train, &held_out, LEVELS.to_vec(), 64, 0).unwrap();
    let model = copier(&train);
    for level in denoiser_distance(&model, &model, None, &sets).unwrap() {
        for found in [level.train, level.held_out] {
            assert_eq!(found.to_copier, Mean { value: 0.0, standard_error: 0.0 });
            assert_eq!(found.share, Some(Mean { value: 0.0, standard_error: 0.0 }));
            assert_eq!(found.model_error, found.copier_error);
        }
    }
    let gaps = loss_gap(&model, &sets).unwrap();
    assert!(gaps[1..].iter().all(|g| g.gap.value > 8.0 * g.gap.standard_error), "{gaps:?}");
    assert!(gaps[3].train.value < 1e-3 && gaps[3].share() > 0.99, "{gaps:?}");
    for g in gaps {
        assert!((g.held_out.value - g.train.value - g.gap.value).abs() < 1e-12);
    }
}

/// The exact denoiser of the data has no gap, the error of its formula, and stands at 1 between copier and truth.
#[test]
fn the_truth_is_found() {
    let (train, held_out) = (gaussian(400, 2), gaussian(400, 3));
    let sets = PairedSets::new(&train, &held_out, LEVELS.to_vec(), 128, 0).unwrap();
    let truth = gaussian_denoiser(TrigSchedule, 1.0);
    for g in loss_gap(&truth, &sets).unwrap() {
        near(g.gap, 0.0, 4.0);
        // Posterior variance of a unit Gaussian on a variance-preserving schedule: sigma^2.
        let sigma_squared = 1.0 / (1.0 + g.log_snr.exp());
        near(g.held_out, sigma_squared, 4.0);
    }
    let copier = copier(&train);
    for level in denoiser_distance(&truth, &copier, Some(&truth), &sets).unwrap() {
        let of = level.held_out;
        let beside = of.truth.unwrap();
        assert_eq!(beside.to_truth.value, 0.0);
        assert!((beside.position.unwrap().value - 1.0).abs() < 1e-6);
        assert_eq!(beside.copier_to_truth, of.to_copier);
        // Pythagoras: the truth is the nearest to x_start of all functions of x_t.
        // In expectation: the mean of finitely many products of the two errors is not 0.
        let (share, expected) = (of.share.unwrap(), 1.0 - of.model_error.value / of.copier_error.value);
        assert!((share.value - expected).abs() < 0.01 + 4.0 * share.standard_error, "{share:?} {expected}");
    }
}

/// Between two denoisers, or past one of them.
#[derive(Debug)]
struct Between<'a>(&'a dyn Denoiser, &'a dyn Denoiser, f64);

impl Denoiser for Between<'_> {
    fn denoise(&self, x_t: &Tensor, t: &Tensor, cond: &Cond) -> Tensor {
        self.0.denoise(x_t, t, cond).lerp(&self.1.denoise(x_t, t, cond), self.2)
    }

    fn schedule(&self) -> &dyn NoiseSchedule {
        self.0.schedule()
    }
}

#[test]
fn a_model_between_copier_and_truth_stands_between_them() {
    let (train, held_out) = (gaussian(32, 4), gaussian(64, 5));
    let sets = PairedSets::new(&train, &held_out, LEVELS.to_vec(), 64, 0).unwrap();
    let (copier, truth) = (copier(&train), gaussian_denoiser(TrigSchedule, 1.0));
    for place in [0.25, 0.5, 1.5] {
        let model = Between(&copier, &truth, place);
        for level in denoiser_distance(&model, &copier, Some(&truth), &sets).unwrap() {
            for of in [level.train, level.held_out] {
                let beside = of.truth.unwrap();
                assert!((beside.position.unwrap().value - place).abs() < 1e-4, "{beside:?}");
                let share = of.to_copier.value / beside.copier_to_truth.value;
                assert!((share - place * place).abs() < 1e-4, "{share}");
            }
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_numbers_however_they_are_batched() {
    let (train, held_out) =
        (Blobs { n: 40, seed: 0 }.batch(CLOCK).unwrap(), Blobs { n: 30, seed: 1 }.batch(CLOCK).unwrap());
    let model = copier(&train);
    let gaps = |batch, seed| {
        let sets = PairedSets::new(&train, &held_out, LEVELS.to_vec(), batch, seed).unwrap();
        assert_eq!((sets.train.len(), sets.log_snr()), (30, &LEVELS[..]));
        loss_gap(&model, &sets).unwrap()
    };
    assert_eq!(gaps(7, 0), gaps(7, 0));
    for (a, b) in gaps(7, 0).iter().zip(gaps(30, 0)) {
        assert!((a.gap.value - b.gap.value).abs() < 1e-6);
    }
    assert_ne!(gaps(7, 0), gaps(7, 1));
}

#[test]
fn sets_that_do_not_fit_are_refused() {
    let (train, held_out) = (gaussian(4, 0), gaussian(4, 1));
    let sets = |train: &Batch, held_out: &Batch, levels: &[f64], batch| {
        PairedSets::new(train, held_out, levels.to_vec(), batch, 0)
    };
    refused(sets(&train, &held_out.narrow(0, 1), &LEVELS, 4), "held_out", "1 images");
    refused(sets(&train.narrow(0, 0), &held_out, &LEVELS, 4), "train", "no images");
    let wide = batch(Tensor::zeros([4, 3, 2, 2], (Kind::Float, Device::Cpu)));
    refused(sets(&wide, &held_out, &LEVELS, 4), "train", "[3, 2, 2]");
    refused(sets(&train, &held_out, &[], 4), "log_snr", "no noise level");
    refused(sets(&train, &held_out, &LEVELS, 0), "batch", "0 rows");
    let no_level = sets(&train, &held_out, &[f64::NAN], 4).unwrap();
    refused(loss_gap(&copier(&train), &no_level), "log_snr", "NaN");
}
