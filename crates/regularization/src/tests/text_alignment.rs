//! Contrastive alignment with texts, by hand.

use super::images;
use super::parts::two_heads;
use super::penalty::{CLOCK, look};
use crate::{FrozenFeatures, TextAlignmentConfig};
use heldout_core::Penalty;
use heldout_testkit::{close, denoising_step};
use serde_json::{from_value, json};
use tch::{Device, Kind, Tensor};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// The value by hand, for three texts of six images; rows at more noise do not count, and the gradient goes to the estimate
/// alone.
#[test]
fn estimates_are_told_from_each_others_texts() {
    let (_, model) = two_heads();
    let mut batch = images(1);
    let texts =
        Tensor::from_slice(&[1.0f32, 0.0, 0.0, 2.0, 1.0, 0.0, 3.0, 4.0, 0.0, 1.0, 1.0, 0.0]).view([6, 2]);
    let texts = texts.set_requires_grad(true);
    batch.cond.text_embeds = Some(texts.shallow_clone());
    let at = |min_log_snr: f64| {
        let config: TextAlignmentConfig =
            from_value(json!({"clip": "a", "temperature": 0.5, "min_log_snr": min_log_snr})).unwrap();
        config.build(FrozenFeatures::new(2, |x| x.flatten(1, -1).narrow(1, 0, 2))).unwrap()
    };
    let needs = at(0.0);
    look(&model, &batch, &mut at(-100.0), &needs, |view, value| {
        let rows = |x: &Tensor| Vec::<f32>::try_from(x.detach().flatten(0, -1).contiguous()).unwrap();
        let (seen, told) = (rows(&view.x_start_hat.flatten(1, -1).narrow(1, 0, 2)), rows(&texts));
        let cosine = |i: usize, j: usize| {
            let [a, b, c, d] = [seen[2 * i], seen[2 * i + 1], told[2 * j], told[2 * j + 1]].map(f64::from);
            (a * c + b * d) / (a.hypot(b) * c.hypot(d))
        };
        // Which rows are told the same, but for the length.
        let twin = |i: usize, j: usize| i != j && [0, 1, 0, 2, 1, 0][i] == [0, 1, 0, 2, 1, 0][j];
        let wanted: Vec<f32> = (0..6)
            .map(|i| {
                let sum: f64 = (0..6).filter(|j| !twin(i, *j)).map(|j| (cosine(i, j) / 0.5).exp()).sum();
                (sum.ln() - cosine(i, i) / 0.5) as f32
            })
            .collect();
        close(&value, &Tensor::from_slice(&wanted), 1e-5);

        let log_snr = view.noised.marginal.log_snr();
        let level = log_snr.median().double_value(&[]);
        let counts = log_snr.ge(level);
        let few = at(level).penalty(view).unwrap();
        close(&few, &(&value * counts.to_kind(Kind::Float)), 1e-6);
        let grad = Tensor::run_backward(&[few.sum(Kind::Float)], &[view.x_start_hat], true, false).remove(0);
        let moved = grad.flatten(1, -1).abs().amax([1i64].as_slice(), false).gt(0.0);
        assert!(moved.equal(&counts) && bool::try_from(counts.any()).unwrap(), "{moved:?} {counts:?}");
    });
    assert!(!texts.grad().defined());
    // One text for all: there is nothing to tell apart.
    batch.cond.text_embeds = Some(Tensor::ones([6, 2], F32));
    look(&model, &batch, &mut at(-100.0), &needs, |_, value| close(&value, &Tensor::zeros([6], F32), 0.0));
    batch.cond.text_embeds = None;
    let missing =
        denoising_step(&model, &batch, CLOCK, &needs, |view| at(0.0).penalty(view).unwrap_err().to_string());
    assert!(missing.contains("no texts"), "{missing}");
}
