//! Scale, statistics, tiles and latents in the place of images.

use super::{randn, small};
use crate::{
    AutoencoderKLConfig, AutoencoderTiny, AutoencoderTinyConfig, DecoderNormType, Encoded, LastLayers,
    LatentModel, LatentScale, LatentStatistics, LatentSums, TileSize, Tiled, VQModelConfig, VqModel,
};
use heldout_core::{
    Autoencoder, Batch, BatchSource, Clock, Cond, Evaluation, Known, Objective, Persist, Result,
};
use heldout_testkit::{check_autoencoder, close};
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

#[test]
fn autoencoders_keep_their_laws() {
    let x = randn(&[3, 3, 16, 8]);
    let (_vars, kl) = small();
    let vars = nn::VarStore::new(Device::Cpu);
    let root = vars.root();
    let vq = VQModelConfig { norm_num_groups: 2, ..VQModelConfig::new(2, &[4, 8], 1) };
    let vq = VqModel::new(&(&root / "vq"), &vq).unwrap();
    let tiny = AutoencoderTiny::new(&(&root / "tiny"), &AutoencoderTinyConfig::default()).unwrap();
    for autoencoder in [&kl as &dyn LatentModel, &vq, &tiny] {
        check_autoencoder(autoencoder, &x);
        let latents = autoencoder.encode(&x);
        assert_eq!(latents.size()[1..], autoencoder.latent_shape([3, 16, 8]).unwrap());
        close(&autoencoder.encode(&x.narrow(0, 1, 1)), &latents.narrow(0, 1, 1), 1e-5); // no row sees another
        assert_eq!(autoencoder.reconstruct(&x).x_hat.size(), x.size());
        let LastLayers { encoder, decoder } = autoencoder.last_layers();
        assert!(encoder.requires_grad() && decoder.requires_grad());
    }
}

/// A new scale changes the latents as it says, and no reconstruction.
#[test]
fn a_scale_is_owned_and_written_down() {
    let (_vars, mut kl) = small();
    let x = randn(&[2, 3, 16, 16]);
    let (latents, images) = (kl.encode(&x), kl.decode(&kl.encode(&x)));
    for scale in [
        LatentScale::uniform(0.0, 0.25),
        LatentScale::uniform(0.5, 3.0),
        LatentScale { shift: vec![0.5, -1.0], scale: vec![2.0, 0.1] },
    ] {
        kl.set_latent_scale(scale.clone()).unwrap();
        close(&kl.encode(&x), &scale.apply(&latents), 1e-5);
        close(&kl.decode(&kl.encode(&x)), &images, 1e-4);
        let read = serde_json::from_value(serde_json::to_value(kl.config()).unwrap());
        let read: AutoencoderKLConfig = read.unwrap();
        let again = read.latent_scale().unwrap();
        close(&again.apply(&latents), &scale.apply(&latents), 1e-5);
    }
    let wrong = LatentScale { shift: vec![0.0], scale: vec![1.0; 3] };
    assert!(kl.set_latent_scale(wrong).unwrap_err().to_string().starts_with("scale: 3 values for 2"));
    let vars = nn::VarStore::new(Device::Cpu);
    let mut tiny = AutoencoderTiny::new(&vars.root(), &AutoencoderTinyConfig::default()).unwrap();
    let by_channel = LatentScale { shift: vec![0.0], scale: vec![1.0, 2.0, 3.0, 4.0] };
    assert!(tiny.set_latent_scale(by_channel).unwrap_err().to_string().contains("uniform_scale"));
    tiny.set_latent_scale(LatentScale::uniform(0.0, 0.5)).unwrap();
    assert_eq!(tiny.config().scaling_factor, 0.5);
}

#[test]
fn scales_one_after_another_are_one() {
    let z = randn(&[2, 3, 4, 4]);
    let first = LatentScale { shift: vec![0.5, 1.0, -2.0], scale: vec![2.0, 3.0, 0.5] };
    let second = LatentScale::uniform(-0.25, 4.0);
    for (a, b) in [(&first, &second), (&second, &first), (&second, &second)] {
        close(&a.then(b).apply(&z), &b.apply(&a.apply(&z)), 1e-5);
        close(&a.then(b).invert(&a.then(b).apply(&z)), &z, 1e-5);
    }
}

/// Known Gaussians, a uniform and a channel made of another, far from 0: in batches, the same as at once.
#[test]
fn statistics_are_those_of_the_latents() {
    tch::manual_seed(3);
    let gaussian = randn(&[64, 1, 16, 16]).to_kind(Kind::Double);
    let uniform = gaussian.rand_like();
    let mixed = &gaussian * -3.0 + gaussian.randn_like() * 4.0 + 1e4;
    let z = Tensor::cat(&[&gaussian * 2.0 + 5.0, uniform, mixed], 1);
    let mut sums = LatentSums::default();
    for i in 0..4 {
        sums.add(&z.narrow(0, 16 * i, 16)).unwrap();
    }
    let measured = sums.statistics().unwrap();
    let within = |a: f64, b: f64, tolerance: f64| assert!((a - b).abs() <= tolerance, "{a} beside {b}");
    assert_eq!((measured.images, measured.places), (64, 64 * 256));
    for c in 0..3 {
        let channel = z.select(1, c as i64);
        within(measured.mean[c], channel.mean(Kind::Double).double_value(&[]), 1e-8);
        within(measured.std[c], channel.std(false).double_value(&[]), 1e-8);
    }
    within(measured.kurtosis[0], 3.0, 0.15);
    within(measured.kurtosis[1], 1.8, 0.03); // of a uniform distribution: 9/5
    within(measured.correlation[0][2], -0.6, 0.02);
    within(measured.correlation[0][0], 1.0, 1e-9);
    let drift = measured.drift.as_ref().unwrap();
    let half = |start: i64| z.narrow(0, start, 32).select(1, 1);
    let moved = half(32).mean(Kind::Double) - half(0).mean(Kind::Double);
    within(drift.mean[1], moved.double_value(&[]) / half(0).std(false).double_value(&[]), 1e-8);
    within(drift.std[1], (half(32).std(false) / half(0).std(false)).double_value(&[]), 1e-8);

    let scaled = measured.scale().apply(&z);
    close(
        &scaled.mean_dim([0i64, 2, 3].as_slice(), false, Kind::Double),
        &Tensor::zeros([3], (Kind::Double, Device::Cpu)),
        1e-9,
    );
    within(measured.uniform_scale().apply(&z).std(false).double_value(&[]), 1.0, 1e-9);
    let read: LatentStatistics = serde_json::from_str(&serde_json::to_string(&measured).unwrap()).unwrap();
    assert_eq!(read, measured);
    let moved = measured.drift_since(&read).unwrap();
    assert_eq!((moved.mean, moved.std), (vec![0.0; 3], vec![1.0; 3]));
    assert_eq!(measured.to_string().lines().count(), 5);
    assert!(measured.to_string().contains("(2)"), "{measured}");
}

#[test]
fn latents_that_hold_nothing_are_named() {
    assert!(
        LatentSums::default().statistics().unwrap_err().to_string().starts_with("latents: there are none")
    );
    let mut sums = LatentSums::default();
    sums.add(&(randn(&[2, 2, 2, 2]) * Tensor::from_slice(&[1.0f32, 0.0]).view([1, 2, 1, 1]))).unwrap();
    assert!(sums.statistics().unwrap_err().to_string().contains("channel 1 has variance 0"));
    assert!(
        sums.add(&randn(&[2, 3, 2, 2])).unwrap_err().to_string().contains("3 channels after batches of 2")
    );
    assert!(sums.add(&randn(&[0, 2, 2, 2])).is_err());
}

/// A measured autoencoder encodes to unit variance, and says so when it is measured again.
#[test]
fn a_measured_scale_brings_latents_to_unit_variance() {
    let (_vars, mut kl) = small();
    tch::manual_seed(4);
    let images: Vec<Tensor> = (0..3).map(|_| randn(&[4, 3, 16, 16])).collect();
    let measure = |kl: &dyn Autoencoder| {
        LatentStatistics::measure(kl, images.iter().map(|x| Ok(x.shallow_clone()))).unwrap()
    };
    let first = measure(&kl);
    let scale = kl.latent_scale().then(&first.scale());
    kl.set_latent_scale(scale).unwrap();
    let second = measure(&kl);
    for c in 0..2 {
        assert!(second.mean[c].abs() < 1e-4 && (second.std[c] - 1.0).abs() < 1e-4, "{second}");
    }
}

/// Keeps what it was given.
#[derive(Debug, Default)]
struct Witness(Vec<Vec<i64>>);

impl Persist for Witness {}

impl Objective for Witness {
    fn evaluate(&mut self, batch: &Batch, _: Clock) -> Result<Evaluation> {
        self.0.push(batch.x_start.size());
        Ok(Evaluation { loss: batch.x_start.mean(Kind::Float), rows: None, terms: Vec::new() })
    }
}

/// The same images every step.
#[derive(Debug)]
struct Images(Tensor);

impl BatchSource for Images {
    fn batch(&mut self, _: Clock) -> Result<Batch> {
        Ok(Batch::new(self.0.shallow_clone(), Cond::of_labels(Tensor::from_slice(&[1i64, 0]))))
    }
}

#[test]
fn latents_take_the_place_of_images() {
    let (_vars, kl) = small();
    let kl: Rc<dyn Autoencoder> = Rc::new(kl);
    let (x, clock) = (randn(&[2, 3, 16, 8]), Clock { step: 0, total: 1 });
    let (images, latents) = ([3, 16, 8], [2, 4, 2]);
    let mut source = Encoded::new(Images(x.shallow_clone()), Rc::clone(&kl), images, latents).unwrap();
    let cached = source.batch(clock).unwrap();
    assert!(cached.x_start.equal(&kl.encode(&x)) && !cached.x_start.requires_grad());
    assert!(cached.cond.label.is_some());
    let mut objective = Encoded::new(Witness::default(), Rc::clone(&kl), images, latents).unwrap();
    let fresh = objective.evaluate(&Batch::new(x.shallow_clone(), Cond::default()), clock).unwrap();
    // Latents that are cached pass by, and give the same loss to the last bit.
    let passed = objective.evaluate(&cached, clock).unwrap();
    assert!(fresh.loss.equal(&passed.loss));
    assert_eq!(objective.inner.0, vec![vec![2, 2, 4, 2]; 2]);

    let other = Batch::new(randn(&[2, 3, 8, 8]), Cond::default());
    let error = objective.evaluate(&other, clock).unwrap_err().to_string();
    assert!(error.starts_with("x_start: [3, 8, 8]: images [3, 16, 8] or latents [2, 4, 2]"), "{error}");
    let ones = || Tensor::ones([2, 1, 16, 8], (Kind::Float, Device::Cpu));
    let known = Some(Known { loss: ones(), input: ones() });
    let corrupted = Batch { known, ..Batch::new(x, Cond::default()) };
    assert!(objective.evaluate(&corrupted, clock).unwrap_err().to_string().starts_with("mask"));
    assert!(Encoded::new(Witness::default(), kl, latents, latents).is_err());
}

#[test]
fn impossible_settings_are_named() {
    let error = |change: fn(&mut AutoencoderKLConfig)| {
        let mut config = AutoencoderKLConfig::tiny();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(error(|c| c.block_out_channels[1] = 12).starts_with("block_out_channels: 12"));
    assert!(error(|c| c.up_block_types.truncate(1)).starts_with("up_block_types: 1"));
    assert!(error(|c| c.layers_per_block = 0).starts_with("layers_per_block: 0"));
    assert!(error(|c| c.latent_channels = 0).starts_with("latent_channels: 0"));
    assert!(error(|c| c.latents_mean = Some(vec![0.0; 4])).starts_with("latents_std: is missing"));
    assert!(error(|c| c.scaling_factor = 0.0).contains("scaling_factor"));
    let config = AutoencoderKLConfig::tiny();
    assert!(config.latent_shape([3, 16, 18]).unwrap_err().to_string().starts_with("images: 16x18"));
    assert!(config.latent_shape([1, 16, 16]).unwrap_err().to_string().starts_with("in_channels: 3"));
    let unknown = serde_json::json!({"down_block_types": ["DownBlock2D"]});
    let unknown = serde_json::from_value::<AutoencoderKLConfig>(unknown).unwrap_err().to_string();
    assert!(unknown.contains("DownBlock2D"), "{unknown}");
    let spatial = VQModelConfig { norm_type: DecoderNormType::Spatial, ..VQModelConfig::vq_f4() };
    assert!(spatial.check().unwrap_err().to_string().starts_with("norm_type: spatial"));
    let uneven = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![64, 64, 64, 32],
        ..AutoencoderTinyConfig::default()
    };
    assert!(uneven.check().unwrap_err().to_string().starts_with("encoder_block_out_channels"));
    let tiles = |pixels, latents, overlap| TileSize { pixels, latents, overlap };
    for bad in [tiles(30, 4, 0.25), tiles(32, 4, 1.0), tiles(32, 4, 0.1), tiles(8, 1, 0.5)] {
        assert!(Tiled::new(small().1, bad).is_err(), "{bad:?}");
    }
}

#[test]
fn codes_that_are_not_there_are_named() {
    let vars = nn::VarStore::new(Device::Cpu);
    let config =
        VQModelConfig { norm_num_groups: 2, num_vq_embeddings: 8, ..VQModelConfig::new(2, &[4, 8], 1) };
    let vq = VqModel::new(&vars.root(), &config).unwrap();
    let codes = Tensor::from_slice(&[0i64, 7, 3, 8]).view([1, 2, 2]);
    let error = vq.decode_codes(&codes).unwrap_err().to_string();
    assert!(error.starts_with("codes: 0 to 8: the codebook has 0 to 7"), "{error}");
    assert_eq!(vq.decode_codes(&codes.clamp(0, 7)).unwrap().size(), [1, 3, 4, 4]);
    assert!(vq.decode_codes(&codes.to_kind(Kind::Float)).is_err());
}

/// A scale for each channel goes into the weights, where pipelines that know one factor cannot miss it.
#[test]
fn a_folded_scale_changes_nothing_but_its_place() {
    let (_vars, mut model) = small();
    let channels = model.config().latent_channels as usize;
    let shift = (0..channels).map(|i| 0.3 - 0.2 * i as f64).collect();
    let scale = (0..channels).map(|i| 0.5 + 0.7 * i as f64).collect();
    model.set_latent_scale(LatentScale { shift, scale }).unwrap();
    let x = randn(&[2, 3, 16, 16]);
    let (z, log_variance) = (model.encode(&x), model.posterior(&x).logvar);
    let image = model.decode(&z);
    let by_channel = Tensor::from_slice(&model.latent_scale().scale).to_kind(Kind::Float).view([1, -1, 1, 1]);
    model.fold_latent_scale().unwrap();
    assert_eq!(model.latent_scale(), &LatentScale::identity());
    let near = |a: &Tensor, b: &Tensor| assert!((a - b).abs().max().double_value(&[]) < 1e-5);
    near(&model.encode(&x), &z);
    near(&model.decode(&z), &image);
    near(&model.posterior(&x).logvar, &(log_variance + by_channel.log() * 2.0));
}
