//! The same numbers as diffusers 0.42.1 for the same weights.

use crate::{
    AutoencoderKLConfig, AutoencoderKl, AutoencoderTiny, AutoencoderTinyConfig, DecoderBlockType,
    DiagonalGaussian, EncoderBlockType, LatentModel, LatentScale, Tiled, VQModelConfig, VqModel,
};
use heldout_core::{Autoencoder, Params};
use heldout_nn::Activation;
use heldout_testkit::{Golden, close};
use tch::{Device, Kind, Tensor, nn};

/// Outputs within this, gradients within this of the largest of their tensor.
const TOLERANCE: f64 = 2e-5;

fn open(name: &str) -> Golden {
    Golden::open(env!("CARGO_MANIFEST_DIR"), name)
}

/// The parameters, by diffusers' names and with the peer's values.
fn load(golden: &Golden, name: &str, vars: &nn::VarStore) -> Params {
    let peer = golden.section(&format!("{name}.parameters."));
    let params = Params::of(vars);
    let names: Vec<&str> = params.named().map(|(n, _)| n).collect();
    assert_eq!(names, peer.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>());
    params.restore(&peer.into_iter().map(|(_, both)| both.get(0)).collect::<Vec<_>>());
    params
}

fn same_gradients(golden: &Golden, name: &str, params: &Params) {
    for (n, t) in params.named() {
        let theirs = golden.get(&format!("{name}.parameters.{n}")).get(1);
        let scaled = (t.grad() - &theirs) / (1.0f64 + theirs.abs().max());
        close(&scaled, &theirs.zeros_like(), TOLERANCE);
    }
}

fn f4() -> AutoencoderKLConfig {
    AutoencoderKLConfig { norm_num_groups: 2, sample_size: 16, ..AutoencoderKLConfig::new(3, &[4, 4, 8], 1) }
}

fn attends_last(config: AutoencoderKLConfig) -> AutoencoderKLConfig {
    let mut config = config;
    let last = config.down_block_types.len() - 1;
    config.down_block_types[last] = EncoderBlockType::AttnDownEncoderBlock2D;
    config.up_block_types[0] = DecoderBlockType::AttnUpDecoderBlock2D;
    config
}

#[test]
fn the_kl_autoencoder_is_that_of_diffusers() {
    let golden = open("kl");
    let f8 = AutoencoderKLConfig {
        norm_num_groups: 1,
        mid_block_add_attention: false,
        use_quant_conv: false,
        act_fn: Activation::Gelu,
        ..AutoencoderKLConfig::new(2, &[4, 4, 4, 4], 1)
    };
    let f16 = attends_last(AutoencoderKLConfig {
        norm_num_groups: 1,
        use_post_quant_conv: false,
        in_channels: 1,
        out_channels: 1,
        ..AutoencoderKLConfig::new(4, &[2, 2, 2, 2, 4], 1)
    });
    for (name, config) in [("f4", f4()), ("f8", f8), ("f16", f16)] {
        let vars = nn::VarStore::new(Device::Cpu);
        let autoencoder = AutoencoderKl::new(&vars.root(), &config).unwrap();
        let params = load(&golden, name, &vars);
        let get = |what: &str| golden.get(&format!("{name}.{what}"));
        let moments = autoencoder.moments(&get("x"));
        close(&moments, &get("moments"), TOLERANCE);
        let posterior = DiagonalGaussian::of_moments(&moments);
        close(&(posterior.kl() / get("kl")), &get("kl").ones_like(), TOLERANCE);
        let out = autoencoder.decode_unscaled(&posterior.sample_with(&get("noise")));
        close(&out, &get("out"), TOLERANCE);
        (out.square().sum(Kind::Float) + posterior.kl().sum(Kind::Float)).backward();
        same_gradients(&golden, name, &params);
    }
}

#[test]
fn tiles_are_those_of_diffusers() {
    let golden = open("kl");
    let vars = nn::VarStore::new(Device::Cpu);
    let config = f4();
    let mut autoencoder = AutoencoderKl::new(&vars.root(), &config).unwrap();
    load(&golden, "f4", &vars);
    let scale = LatentScale { shift: vec![0.3, -0.2, 0.0], scale: vec![2.0, 0.5, 3.0] };
    autoencoder.set_latent_scale(scale.clone()).unwrap();
    let tiled = Tiled::new(autoencoder, config.tile_size()).unwrap();
    let _guard = tch::no_grad_guard();
    let mean = golden.get("tiled.moments").narrow(1, 0, 3);
    close(&tiled.encode(&golden.get("tiled.x")), &scale.apply(&mean), TOLERANCE);
    close(&tiled.decode(&scale.apply(&golden.get("tiled.z"))), &golden.get("tiled.out"), TOLERANCE);
    // What one tile holds is not cut.
    let small = golden.get("tiled.x").narrow(2, 0, 16).narrow(3, 0, 16);
    assert!(tiled.encode(&small).equal(&tiled.inner().encode(&small)));
}

#[test]
fn the_quantised_autoencoder_is_that_of_diffusers() {
    let golden = open("vq");
    let f2 = VQModelConfig { norm_num_groups: 2, num_vq_embeddings: 16, ..VQModelConfig::new(3, &[2, 4], 2) };
    let mut f4 = VQModelConfig {
        norm_num_groups: 1,
        num_vq_embeddings: 32,
        vq_embed_dim: Some(2),
        mid_block_add_attention: false,
        ..VQModelConfig::new(4, &[2, 2, 4], 1)
    };
    f4.down_block_types[2] = EncoderBlockType::AttnDownEncoderBlock2D;
    f4.up_block_types[0] = DecoderBlockType::AttnUpDecoderBlock2D;
    for (name, config) in [("f2", f2), ("f4", f4)] {
        let vars = nn::VarStore::new(Device::Cpu);
        let autoencoder = VqModel::new(&vars.root(), &config).unwrap();
        let params = load(&golden, name, &vars);
        let get = |what: &str| golden.get(&format!("{name}.{what}"));
        let z = autoencoder.encode_unscaled(&get("x"));
        close(&z, &get("z"), TOLERANCE);
        let quantized = autoencoder.quantize(&z);
        assert!(quantized.codes.equal(&get("codes")));
        close(&quantized.commitment.mean(Kind::Float), &get("commitment"), TOLERANCE);
        close(&autoencoder.decode_codes(&quantized.codes).unwrap(), &get("out"), TOLERANCE);
        let out = autoencoder.reconstruct(&get("x")).x_hat;
        close(&out, &get("out"), TOLERANCE);
        (out.square().sum(Kind::Float) + quantized.commitment.mean(Kind::Float)).backward();
        same_gradients(&golden, name, &params);
    }
}

#[test]
fn the_tiny_autoencoder_is_that_of_diffusers() {
    let golden = open("tiny");
    let relu = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![4; 3],
        decoder_block_out_channels: vec![4; 3],
        num_encoder_blocks: vec![1, 1, 2],
        num_decoder_blocks: vec![2, 1, 1],
        ..AutoencoderTinyConfig::default()
    };
    let silu = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![4; 2],
        decoder_block_out_channels: vec![2; 2],
        num_encoder_blocks: vec![1, 1],
        num_decoder_blocks: vec![1, 1],
        act_fn: Activation::Silu,
        latent_channels: 2,
        ..AutoencoderTinyConfig::default()
    };
    for (name, config) in [("relu", relu), ("silu", silu)] {
        let vars = nn::VarStore::new(Device::Cpu);
        let autoencoder = AutoencoderTiny::new(&vars.root(), &config).unwrap();
        let params = load(&golden, name, &vars);
        let get = |what: &str| golden.get(&format!("{name}.{what}"));
        let z = autoencoder.encode(&get("x"));
        close(&z, &get("z"), TOLERANCE);
        close(&config.to_unit(&z), &get("unit"), TOLERANCE);
        let out = autoencoder.decode(&z);
        close(&out, &get("out"), TOLERANCE);
        out.square().sum(Kind::Float).backward();
        same_gradients(&golden, name, &params);
    }
}

/// The published sizes, from shapes alone.
#[test]
fn presets_have_the_published_sizes() {
    let count = |build: &dyn Fn(&nn::Path<'_>)| {
        let vars = nn::VarStore::new(Device::Cpu);
        heldout_nn::without_storage(|| build(&vars.root()));
        Params::of(&vars).count()
    };
    let kl = |config: AutoencoderKLConfig| count(&|vs| drop(AutoencoderKl::new(vs, &config).unwrap()));
    assert_eq!(kl(AutoencoderKLConfig::kl_f8()), 83_653_863);
    let vq = count(&|vs| drop(VqModel::new(vs, &VQModelConfig::vq_f4()).unwrap()));
    assert_eq!(vq, 55_322_782);
    let tiny = count(&|vs| drop(AutoencoderTiny::new(vs, &AutoencoderTinyConfig::default()).unwrap()));
    assert_eq!(tiny, 2_445_063);
    // The factor of each is in its name, and images of that many tiles fit.
    for (config, factor) in [
        (AutoencoderKLConfig::kl_f4(), 4),
        (AutoencoderKLConfig::kl_f8(), 8),
        (AutoencoderKLConfig::kl_f16(), 16),
        (AutoencoderKLConfig::tiny(), 4),
    ] {
        config.check().unwrap();
        let c = config.latent_channels;
        assert_eq!(config.latent_shape([3, 64, 32]).unwrap(), [c, 64 / factor, 32 / factor]);
    }
    let whole = heldout_nn::without_storage(|| {
        let vars = nn::VarStore::new(Device::Cpu);
        let autoencoder = AutoencoderKl::new(&vars.root(), &AutoencoderKLConfig::kl_f16()).unwrap();
        let x = heldout_nn::meta(&[1, 3, 256, 256], Kind::Float);
        (autoencoder.encode(&x).size(), Tensor::size(&x))
    });
    assert_eq!(whole.0, [1, 16, 16, 16]);
}
