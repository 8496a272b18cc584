//! Sizes and errors; nothing here is allocated.

use super::{fresh, images, input, levels, tiny};
use crate::{DiTTransformer2DModelConfig, Dit, DitConfig, EmbedderPlace, NormKind, Positions};
use heldout_core::{Backbone, Cond, Params};
use heldout_nn::{FeedForwardKind, TimeEmbeddingConfig, count, meta, without_storage};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, nn};

fn described(config: &DitConfig) -> (nn::VarStore, Dit) {
    let vars = nn::VarStore::new(Device::Cpu);
    let dit = without_storage(|| Dit::new(&vars.root(), config)).unwrap();
    (vars, dit)
}

/// The trained numbers of every published size, 1000 classes, learned variance.
#[test]
fn sizes_are_those_of_the_paper() {
    for (config, parameters) in [
        (DitConfig::small(2), 32_865_056),
        (DitConfig::small(4), 32_920_448),
        (DitConfig::small(8), 33_142_016),
        (DitConfig::base(2), 130_315_808),
        (DitConfig::base(4), 130_426_496),
        (DitConfig::base(8), 130_869_248),
        (DitConfig::large(2), 457_840_672),
        (DitConfig::large(4), 457_988_224),
        (DitConfig::large(8), 458_578_432),
        (DitConfig::extra_large(2), 674_834_720),
        (DitConfig::extra_large(4), 675_000_704),
        (DitConfig::extra_large(8), 675_664_640),
    ] {
        assert_eq!(Params::of(&described(&config).0).count(), parameters, "{config:?}");
        assert_eq!(Params::of(&described(&config.original()).0).count(), parameters);
    }
    // diffusers' class has an embedder in every block.
    let config = DiTTransformer2DModelConfig { out_channels: Some(8), ..Default::default() };
    assert_eq!(Params::of(&described(&config.config().unwrap()).0).count(), 749_826_464);
}

fn multiply_adds(config: &DitConfig, side: i64) -> u64 {
    let (_vars, dit) = described(config);
    let (x, level) = (meta(&[1, 4, side, side], Kind::Float), meta(&[1], Kind::Float));
    let (out, cost) = count(|| dit.forward(input(&x, &level, &Cond::default()), &mut ()));
    assert_eq!(out.size(), [1, 8, side, side]);
    cost.multiply_adds
}

/// "Gflops" of Peebles and Xie 2023, Table 1, are multiply-adds of all layers with weights and of attention.
#[test]
fn costs_are_those_of_the_paper() {
    for (config, side, giga) in [
        (DitConfig::small(2), 32, "6.06"),
        (DitConfig::small(4), 32, "1.41"),
        (DitConfig::small(8), 32, "0.36"),
        (DitConfig::base(2), 32, "23.01"),
        (DitConfig::base(4), 32, "5.57"),
        (DitConfig::base(8), 32, "1.42"),
        (DitConfig::large(2), 32, "80.70"),
        (DitConfig::large(4), 32, "19.70"),
        (DitConfig::large(8), 32, "5.01"),
        (DitConfig::extra_large(2), 32, "118.62"),
        (DitConfig::extra_large(4), 32, "29.04"),
        (DitConfig::extra_large(8), 32, "7.39"),
        (DitConfig::extra_large(2), 64, "524.5"),
    ] {
        let counted = multiply_adds(&config, side) as f64 * 1e-9;
        let digits = giga.split('.').nth(1).map_or(0, str::len);
        assert_eq!(format!("{counted:.digits$}"), giga, "{} at {side}", config.width);
    }
}

#[test]
fn without_storage_it_is_the_same_network() {
    let shapes = |vars: &nn::VarStore| -> BTreeMap<String, Vec<i64>> {
        vars.variables().into_iter().map(|(name, t)| (name, t.size())).collect()
    };
    for config in [tiny(), tiny().modern(), DitConfig { embedders: EmbedderPlace::EachBlock, ..tiny() }] {
        assert_eq!(shapes(&described(&config).0), shapes(&fresh(&config).0));
    }
}

#[test]
fn impossible_sizes_are_named() {
    let error = |change: fn(&mut DitConfig)| {
        let mut config = tiny();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(error(|c| c.depth = 0).starts_with("depth: 0"));
    assert!(error(|c| c.patch_size = 3).starts_with("sample_size: 8"));
    assert!(error(|c| c.heads = 5).starts_with("width: 32"));
    assert!(error(|c| c.width = 30).starts_with("width: 30"));
    assert!(error(|c| (c.heads, c.positions) = (16, Positions::Rotary)).starts_with("positions: rotary"));
    assert!(error(|c| c.label_dropout = 1.0).starts_with("label_dropout: 1"));
    assert!(error(|c| c.dropout = -0.5).starts_with("dropout: -0.5"));
    assert!(error(|c| c.num_classes = -1).starts_with("num_classes: -1"));
    assert!(error(|c| c.mlp_ratio = 0.0).starts_with("mlp_ratio: 0"));
    assert!(error(|c| c.norm_eps = f64::NAN).starts_with("norm_eps: NaN"));
    let table = |c: &mut DitConfig| c.time_embedding = TimeEmbeddingConfig::Table { levels: 0 };
    assert!(error(table).starts_with("time_embedding.levels: 0"));
    // Without an MLP the features have the width of a token.
    let wide = TimeEmbeddingConfig::Sinusoidal { flip_sin_to_cos: true, freq_shift: 16.0 };
    let config = DitConfig { time_embedding: wide, ..tiny() };
    assert!(config.check().unwrap_err().to_string().starts_with("time_embedding.freq_shift: 16"));
    assert!(tiny().check_images(3, 8, 8).unwrap_err().to_string().starts_with("in_channels: 4"));
    assert!(tiny().check_images(4, 7, 8).unwrap_err().to_string().contains("7x8"));
    tiny().check_images(4, 10, 2).unwrap();
}

#[test]
fn impossible_inputs_are_named() {
    let (_vars, dit) = fresh(&tiny());
    let error = |x: &Tensor, level: &Tensor, cond: &Cond| {
        dit.check(input(x, level, cond)).map_err(|e| e.to_string()).unwrap_err()
    };
    let (x, level, none) = (images(2, 8, 8), levels(2), Cond::default());
    dit.check(input(&x, &level, &none)).unwrap();
    assert!(error(&x.select(0, 0), &level, &none).starts_with("sample"));
    assert!(error(&images(2, 7, 8), &level, &none).contains("multiples of 2"));
    assert!(error(&x, &levels(3), &none).starts_with("timestep"));
    let labelled = |ids: &[i64]| Cond::of_labels(Tensor::from_slice(ids));
    assert!(error(&x, &level, &labelled(&[0, 6])).starts_with("class_labels: 6"));
    assert!(error(&x, &level, &labelled(&[-1, 0])).starts_with("class_labels: -1"));
    assert!(error(&x, &level, &labelled(&[1])).starts_with("class_labels"));
    let context = Cond { context: Some(Tensor::zeros([2, 3, 4], super::F32)), ..Cond::default() };
    assert!(error(&x, &level, &context).starts_with("encoder_hidden_states"));
    // Without a null class a class must be given; without classes none may.
    let (_vars, sure) = fresh(&DitConfig { label_dropout: 0.0, ..tiny() });
    assert!(sure.check(input(&x, &level, &none)).unwrap_err().to_string().starts_with("class_labels"));
    assert!(sure.check(input(&x, &level, &labelled(&[0, 5]))).is_err());
    let (_vars, plain) = fresh(&DitConfig { num_classes: 0, ..tiny() });
    plain.check(input(&x, &level, &none)).unwrap();
    assert!(plain.check(input(&x, &level, &labelled(&[0, 1]))).is_err());
}

/// What diffusers' class has comes back as it was; what it has not is named.
#[test]
fn diffusers_configuration_is_honoured() {
    let config = DitConfig { norm_eps: 1e-5, ..DitConfig::base(4) };
    let theirs = DiTTransformer2DModelConfig::of(&config).unwrap();
    assert_eq!(DitConfig { embedders: EmbedderPlace::Shared, ..theirs.config().unwrap() }, config);
    let error = |change: fn(&mut DitConfig)| {
        let mut config = DitConfig::base(4);
        change(&mut config);
        DiTTransformer2DModelConfig::of(&config).unwrap_err().to_string()
    };
    assert!(error(|c| c.norm = NormKind::Rms).starts_with("norm:"));
    assert!(error(|c| c.positions = Positions::Rotary).starts_with("positions:"));
    assert!(error(|c| c.mlp_ratio = 3.0).starts_with("mlp_ratio:"));
    assert!(error(|c| *c = c.clone().original()).starts_with("time_embedding:"));
    let other = DiTTransformer2DModelConfig { norm_type: "layer_norm".to_owned(), ..Default::default() };
    assert!(other.config().unwrap_err().to_string().starts_with("norm_type: layer_norm"));
    let gated = DitConfig { feed_forward: FeedForwardKind::Geglu, ..DitConfig::base(4) };
    assert_eq!(DiTTransformer2DModelConfig::of(&gated).unwrap().activation_fn, FeedForwardKind::Geglu);
}
