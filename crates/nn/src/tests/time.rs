//! The noise level as a vector.

use super::{F32, linear, made, weights};
use crate::{MlpOptions, TimeEmbedding, TimeEmbeddingConfig, sinusoidal};
use heldout_testkit::close;
use tch::{Kind, Tensor};

fn kinds() -> Vec<TimeEmbeddingConfig> {
    use TimeEmbeddingConfig::{Fourier, Linear, Mlp, Sinusoidal, Table};
    let plain = vec![
        Linear { scale: 0.001 },
        Sinusoidal { flip_sin_to_cos: true, freq_shift: 0.0 },
        Sinusoidal { flip_sin_to_cos: false, freq_shift: 1.0 },
        Fourier { scale: 1.0, log: false, flip_sin_to_cos: false },
        Fourier { scale: 1.0, log: true, flip_sin_to_cos: true },
        Table { levels: 1000 },
    ];
    let learned = plain.iter().map(|of| Mlp { of: Box::new(of.clone()) }).collect();
    [plain, learned].concat()
}

#[test]
fn every_kind_tells_levels_apart() {
    for config in kinds() {
        config.check(16).unwrap();
        let (_vars, embedding) =
            made(|vs| TimeEmbedding::new(&(vs / "f"), &(vs / "m"), &config, [16, 24], MlpOptions::default()));
        let levels = Tensor::from_slice(&[1.0f32, 2.0, 500.0, 999.0]);
        let out = embedding.forward(&levels, None);
        assert_eq!((out.size(), out.kind()), (vec![4, 24], Kind::Float), "{config:?}");
        for i in 0..3 {
            let apart = (out.get(i) - out.get(i + 1)).abs().max().double_value(&[]);
            assert!(apart > 1e-4, "{config:?} does not tell rows {i} and {} apart", i + 1);
        }
        // No row sees another.
        close(&embedding.forward(&levels.narrow(0, 2, 1), None), &out.narrow(0, 2, 1), 1e-6);
    }
}

#[test]
fn impossible_embeddings_are_named() {
    use TimeEmbeddingConfig::{Fourier, Linear, Mlp, Sinusoidal, Table};
    let error = |config: TimeEmbeddingConfig, width| config.check(width).unwrap_err().to_string();
    assert!(error(Linear { scale: 0.0 }, 16).starts_with("scale: 0"));
    let fourier = |scale| Fourier { scale, log: false, flip_sin_to_cos: false };
    assert!(error(fourier(f64::NAN), 16).starts_with("scale: NaN"));
    assert!(error(fourier(1.0), 15).contains("15"));
    assert!(error(Sinusoidal { flip_sin_to_cos: true, freq_shift: 8.0 }, 16).starts_with("freq_shift: 8"));
    assert!(error(Table { levels: 0 }, 16).starts_with("levels: 0"));
    let mlp = |of| Mlp { of: Box::new(of) };
    assert!(error(mlp(mlp(Table { levels: 5 })), 16).starts_with("of.kind: mlp of mlp"));
    assert!(error(mlp(Linear { scale: 0.0 }), 16).starts_with("of.scale: 0"));
}

#[test]
fn sinusoids_follow_the_formula() {
    let level = Tensor::from_slice(&[0.0f32, 500.0]);
    let at = |shift: f64| {
        let slow = 500.0 * 10_000f64.powf(-1.0 / (2.0 - shift));
        ([1.0, 1.0, 500f64.cos(), slow.cos()], [0.0, 0.0, 500f64.sin(), slow.sin()])
    };
    for (shift, flip) in [(0.0, true), (0.0, false), (1.0, true)] {
        let (cos, sin) = at(shift);
        let [cos, sin] = [cos, sin].map(|half| Tensor::from_slice(&half).view([2, 2]));
        let wanted = if flip { [&cos, &sin] } else { [&sin, &cos] };
        close(&sinusoidal(&level, 4, flip, shift), &Tensor::cat(&wanted, 1), 1e-4);
    }
    // An odd width ends in a 0.
    let odd = sinusoidal(&level, 5, true, 0.0);
    assert_eq!(odd.size(), [2, 5]);
    close(&odd.narrow(1, 4, 1), &Tensor::zeros([2, 1], F32), 0.0);
}

/// Tancik et al. 2020 with frequencies that the network keeps, and does not train.
#[test]
fn fourier_features_follow_the_formula() {
    let config = TimeEmbeddingConfig::Fourier { scale: 2.0, log: true, flip_sin_to_cos: false };
    let (vars, embedding) =
        made(|vs| TimeEmbedding::new(&(vs / "f"), vs, &config, [0, 8], MlpOptions::default()));
    assert!(vars.trainable_variables().is_empty());
    let level = Tensor::from_slice(&[0.5f32, 3.0]);
    let angle =
        level.to_kind(Kind::Double).log().outer(&weights(&vars)["f.weight"]) * (2.0 * std::f64::consts::PI);
    close(&embedding.forward(&level, None), &Tensor::cat(&[angle.sin(), angle.cos()], 1), 1e-4);
}

/// Two layers with SiLU between, and a condition that is added to the features.
#[test]
fn the_mlp_is_the_formula() {
    let options = MlpOptions { cond: Some(3), ..MlpOptions::default() };
    let config = TimeEmbeddingConfig::default();
    let (vars, embedding) = made(|vs| TimeEmbedding::new(&(vs / "f"), vs, &config, [16, 24], options));
    let (level, cond) = (Tensor::from_slice(&[0.5f32, 300.0]), Tensor::randn([2, 3], F32));
    let w = weights(&vars);
    let [x, added] = [embedding.features(&level), cond.shallow_clone()].map(|t| t.to_kind(Kind::Double));
    let wanted = |x: &Tensor| linear(&linear(x, &w, "linear_1").silu(), &w, "linear_2");
    close(&embedding.forward(&level, None), &wanted(&x), 1e-5);
    close(&embedding.forward(&level, Some(&cond)), &wanted(&(&x + linear(&added, &w, "cond_proj"))), 1e-5);
}
