//! Laws, and the same numbers as diffusers for the same weights.

use crate::diffusers::{ResampleType, TimeScaleShift};
use crate::{Encoder, UNet, UNetConfig};
use heldout_core::{Backbone, Cond, Input, Params, Recorder, Site};
use heldout_nn::{TimeAttention, TimeEmbeddingConfig};
use heldout_testkit::{Golden, check_backbone, close};
use tch::{Device, Kind, Tensor, nn};

fn config() -> UNetConfig {
    UNetConfig {
        attention: vec![false, true, false],
        attention_head_dim: 4,
        norm_num_groups: 2,
        ..UNetConfig::new(3, &[4, 8, 12])
    }
}

fn unet(config: &UNetConfig) -> (nn::VarStore, UNet) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let unet = UNet::new(&vars.root(), config).unwrap();
    (vars, unet)
}

#[test]
fn the_unet_keeps_the_laws_of_a_backbone() {
    let (_vars, unet) = unet(&config());
    check_backbone(&unet, &Tensor::randn([4, 3, 16, 8], (Kind::Float, Device::Cpu)), &Cond::default());
}

/// Same parameter names, same weights, same output and same gradients as diffusers' `UNet2DModel`.
#[test]
fn the_unet_is_that_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "unet2d");
    for (name, config) in [
        ("attention", config()),
        (
            "plain",
            UNetConfig { attention: vec![false; 3], mid_attention: false, layers_per_block: 1, ..config() },
        ),
    ] {
        let (vars, unet) = unet(&config);
        let weights = golden.section(&format!("{name}.weights."));
        let params = Params::of(&vars);
        let names: Vec<&str> = params.named().map(|(n, _)| n).collect();
        assert_eq!(names, weights.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>());
        params.restore(&weights.into_iter().map(|(_, t)| t).collect::<Vec<_>>());
        let get = |what: &str| golden.get(&format!("{name}.{what}"));
        let (x, level) = (get("x"), get("step").to_kind(Kind::Float));
        let input = Input { x: &x, noise_level: &level, cond: &Cond::default(), train: true };
        let out = unet.forward(input, &mut ());
        close(&out, &get("out"), 2e-5);
        out.square().sum(Kind::Float).backward();
        for (n, t) in params.named() {
            let theirs = get(&format!("grad.{n}"));
            close(&((t.grad() - &theirs) / (1.0f64 + theirs.abs().max())), &theirs.zeros_like(), 1e-4);
        }
    }
}

/// The stem, 3 resolutions on the way down and the middle as one more, 9 skips, the middle as the decoder takes it, and 3
/// resolutions on the way up can be watched.
#[test]
fn every_site_is_seen() {
    let (_vars, unet) = unet(&config());
    let x = Tensor::randn([1, 3, 8, 8], (Kind::Float, Device::Cpu));
    let level = Tensor::from_slice(&[3.0f32]);
    let sites = [Site::Stem]
        .into_iter()
        .chain((0..4).map(Site::Level))
        .chain((0..9).map(Site::Down))
        .chain([Site::Mid]);
    let sites = sites.chain((0..3).map(Site::Up));
    let mut recorder = Recorder { wanted: sites.collect(), seen: Vec::new() };
    let _ = unet
        .forward(Input { x: &x, noise_level: &level, cond: &Cond::default(), train: false }, &mut recorder);
    assert_eq!(recorder.seen.len(), recorder.wanted.len());
}

#[test]
fn impossible_sizes_are_named() {
    let error = |change: fn(&mut UNetConfig)| {
        let mut c = config();
        change(&mut c);
        c.check().unwrap_err().to_string()
    };
    assert!(error(|c| c.block_out_channels[1] = 7).starts_with("block_out_channels: 7"));
    assert!(error(|c| c.norm_num_groups = 3).starts_with("block_out_channels: 4"));
    assert!(error(|c| c.norm_num_groups = 4).starts_with("norm_num_groups: 4 groups for 4 channels"));
    assert!(error(|c| c.attention.truncate(1)).starts_with("attention: 1"));
    assert!(error(|c| c.attention_head_dim = 5).starts_with("attention_head_dim: 5"));
    assert!(error(|c| c.dropout = 1.0).starts_with("dropout: 1"));
    assert!(config().check_images(3, 10, 16).unwrap_err().to_string().contains("10x16"));
    assert!(config().check_images(1, 16, 16).unwrap_err().to_string().starts_with("in_channels: 3"));
}

/// The options that diffusers' class has, and time in attention, which it has not.
#[test]
fn every_option_keeps_the_laws() {
    let of = Box::new(TimeEmbeddingConfig::Fourier { scale: 1.0, log: true, flip_sin_to_cos: false });
    for options in [
        UNetConfig { resnet_time_scale_shift: TimeScaleShift::ScaleShift, ..config() },
        UNetConfig { resample_type: ResampleType::Resnet, ..config() },
        UNetConfig { time_attention: TimeAttention::All, ..config() },
        UNetConfig { time_embedding: TimeEmbeddingConfig::Mlp { of }, ..config() },
        UNetConfig { num_class_embeds: Some(4), ..config() },
    ] {
        let (_vars, unet) = unet(&options);
        let label = options.num_class_embeds.map(|_| Tensor::from_slice(&[0i64, 3, 1, 1]));
        let x = Tensor::randn([4, 3, 16, 8], (Kind::Float, Device::Cpu));
        check_backbone(&unet, &x, &Cond { label, ..Cond::default() });
    }
}

/// An encoder that stops early makes the first skip connections, and no others.
#[test]
fn an_encoder_that_stops_makes_the_first_skips() {
    for resample_type in [ResampleType::Conv, ResampleType::Resnet] {
        tch::manual_seed(0);
        let vars = nn::VarStore::new(Device::Cpu);
        let plan = UNetConfig { resample_type, ..config() }.plan().unwrap();
        let encoder = Encoder::new(&vars.root(), &plan);
        let (x, level) =
            (Tensor::randn([1, 3, 8, 8], (Kind::Float, Device::Cpu)), Tensor::from_slice(&[3.0f32]));
        let input = Input { x: &x, noise_level: &level, cond: &Cond::default(), train: false };
        let whole = encoder.forward(input, &mut ());
        assert_eq!(whole.skips.len(), 9);
        for levels in 1..=3 {
            let part = encoder.descend(input, levels, &mut ());
            assert_eq!(part.skips.len(), 3 * levels);
            assert!(part.skips.iter().zip(&whole.skips).all(|(a, b)| a.equal(b)));
            assert!(part.mid.equal(&part.skips[3 * levels - 1]));
        }
    }
}

#[test]
fn impossible_inputs_are_named() {
    let (_vars, unet) = unet(&config());
    let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    let level = Tensor::from_slice(&[3.0f32, 4.0]);
    let error = |x: &Tensor, level: &Tensor, cond: &Cond| {
        let input = Input { x, noise_level: level, cond, train: false };
        unet.check(input).map_err(|e| e.to_string()).unwrap_err()
    };
    let none = Cond::default();
    assert!(error(&x.narrow(1, 0, 2), &level, &none).starts_with("sample: is of shape [2, 2, 8, 8]"));
    assert!(error(&x.narrow(2, 0, 3), &level, &none).starts_with("sample: 3x8"));
    assert!(error(&x, &level.narrow(0, 0, 1), &none).starts_with("timestep"));
    assert!(error(&x, &level, &Cond::of_labels(Tensor::from_slice(&[0i64, 1]))).starts_with("class_labels"));
}

/// A network that looks levels up refuses those that it has no row for, before the table does.
#[test]
fn levels_without_a_row_are_named() {
    let time_embedding = TimeEmbeddingConfig::Mlp { of: Box::new(TimeEmbeddingConfig::Table { levels: 10 }) };
    let (_vars, unet) = unet(&UNetConfig { time_embedding, ..config() });
    let x = Tensor::randn([2, 3, 8, 8], (Kind::Float, Device::Cpu));
    let check = |level: [f32; 2]| {
        let level = Tensor::from_slice(&level);
        unet.check(Input { x: &x, noise_level: &level, cond: &Cond::default(), train: false })
    };
    check([0.0, 9.0]).unwrap();
    for bad in [10.0, -1.0] {
        let error = check([3.0, bad]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("timestep: {bad}")), "{error}");
    }
}
