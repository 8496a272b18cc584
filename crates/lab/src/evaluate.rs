//! The final evaluation of an arm: samples, copies, floor, copier.

use crate::adapter::{Adaptation, AdapterResult, Samples, measure};
use crate::arm::Arm;
use crate::assemble::{Told, generate, guided, rows_from, untold};
use crate::compose::{ComposedResult, compose};
use crate::conditions::SampleConditions;
use crate::monitor::Looks;
use crate::recipe::SampleConfig;
use crate::result::{FinalSamples, LatentCopies};
use crate::space::Space;
use anyhow::{Result, bail};
use heldout_core::{Denoiser, Error, FeatureSets, Measurement, NoiseSchedule, Preconditioned, stream};
use heldout_data::to_bytes;
use heldout_metrics::{Copies, EmpiricalDenoiser, MemorizedFraction, NearestPairs};
use heldout_samplers::{SamplerConfig, Variance};
use heldout_train::{Event, write_atomically, write_tensors_atomically};
use image::{ColorType, ImageEncoder, codecs::png::PngEncoder};
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;
use tch::{Kind, Tensor};

/// Held-out images that give the floor of the final figures, at most.
pub(crate) const FLOOR_IMAGES: i64 = 1000;
/// Samples of the copier: it scores 1 by construction, so that few show it.
const COPIER_SAMPLES: u64 = 64;
/// Hints that are followed a second time, with other noise, to see how much they leave open.
const AGAIN: u64 = 64;
/// The purpose of the draws of final samples.
pub(crate) const FINAL: &str = "final samples";
/// Images of the grid that is kept as a picture.
const GRID: i64 = 64;

/// What the final samples say.
#[derive(Debug)]
pub(crate) struct Evaluated {
    pub(crate) exact: Measurement,
    pub(crate) transformed: Measurement,
    pub(crate) copier: f64,
    /// The distance to held-out images.
    pub(crate) quality: Event,
    /// The same of the motion of clips.
    pub(crate) motion: Option<Event>,
    /// Those of the recipe, by their names.
    pub(crate) metrics: BTreeMap<String, Measurement>,
    /// Which of them could not be measured, and why.
    pub(crate) notes: Vec<String>,
    /// Of a model of latents.
    pub(crate) latent: Option<LatentCopies>,
    /// Of an adapter that looks at hints.
    pub(crate) adapter: Option<AdapterResult>,
    /// Of samples that were asked for combinations.
    pub(crate) composed: Option<ComposedResult>,
}

/// Samples with the weights as they are, measures, and writes `samples.png`, `final.safetensors` and `final.json`.
pub(crate) fn evaluate(
    arm: &Arm<'_>,
    (model, adaptation): (&Preconditioned, Option<&Adaptation>),
    schedule: Rc<dyn NoiseSchedule>,
    looks: &Looks,
    folder: &Path,
) -> Result<Evaluated> {
    let (recipe, seed) = (arm.recipe, arm.seed);
    let (space, rows) = (&arm.space, recipe.sample.batch_size);
    let sample = |denoiser: &dyn Denoiser, config: &SampleConfig, n: u64, told: &Told<'_>| {
        let seed = stream(seed, FINAL, 0, 0);
        generate(denoiser, config, (space, told), 0..n, seed, arm.device)
    };
    let told = arm.sample_conditions(recipe.sample.samples)?;
    let denoiser = guided(model, &told, None)?;
    let in_space =
        sample(denoiser.as_ref(), &recipe.sample, recipe.sample.samples as u64, &|range| told.of(range))?;
    let generated = space.to_images(&in_space, rows);
    let held_out = arm.floor_images(FLOOR_IMAGES);
    let sets = FeatureSets { generated: &generated, train: &arm.train, held_out: &held_out };
    let metric = |copies| MemorizedFraction { copies, seed };
    let exact = metric(Copies::Exact).measure(&sets)?;
    let transformed = metric(Copies::Transformed).measure(&sets)?;

    let quality = looks.quality().measure(&generated, &held_out)?;
    let motion = space.examples.motion(&generated, &held_out)?;
    let (metrics, notes) = on_features(looks, &sets)?;

    let copier = EmpiricalDenoiser::new(&arm.in_space.train, schedule);
    let copies = sample(
        &copier,
        &for_copier(&recipe.sample),
        COPIER_SAMPLES.min(recipe.sample.samples as u64),
        &untold,
    )?;
    // The autoencoder's images of the latents that it is a copy of: what it loses is no sign of novelty.
    let copies = space.to_images(&copies, rows);
    let copier_sets = FeatureSets { generated: &copies, ..sets };
    let copier = metric(Copies::Exact).measure(&copier_sets)?.model.value;

    let shown = held_out.narrow(0, 0, held_out.size()[0].min(generated.size()[0]));
    let ours = metric(Copies::Exact).pairs(&generated, &arm.train)?;
    let theirs = metric(Copies::Exact).pairs(&shown, &arm.train)?;
    write_neighbours(arm, folder, (&generated, &ours), (&shown, &theirs))?;
    save_first(space, &generated, &folder.join("samples.png"))?;
    let latent =
        recipe.latent.is_some().then(|| latent_copies(arm, &in_space, &held_out, seed)).transpose()?;
    let adapter = match adaptation.filter(|_| told.hints.is_some()) {
        None => None,
        Some(adaptation) => {
            let n = recipe.sample.samples as u64;
            let seed = stream(seed, "samples again", 0, 0);
            let again = 0..n.min(AGAIN);
            let again = generate(
                denoiser.as_ref(),
                &recipe.sample,
                (space, &|range| told.of(range)),
                again,
                seed,
                arm.device,
            )?;
            let again = space.to_images(&again, rows);
            let told = SampleConditions { hints: None, ..told.clone() };
            let plain = sample(denoiser.as_ref(), &recipe.sample, n, &|range| told.of(range))?;
            let plain = space.to_images(&plain, rows);
            let samples = Samples { hinted: &generated, unconditional: &plain, again: &again };
            measure(arm, (model, adaptation), samples, &rows_from(&arm.held_out, 0, n as i64))?
        }
    };
    let composed = compose(arm, model, &generated, folder)?;
    Ok(Evaluated { exact, transformed, copier, quality, motion, metrics, notes, latent, adapter, composed })
}

/// Metrics by name, and notes.
type Noted = (BTreeMap<String, Measurement>, Vec<String>);

/// The metrics of the recipe as far as these samples have them, and why not the others.
fn on_features(looks: &Looks, sets: &FeatureSets<'_>) -> heldout_core::Result<Noted> {
    let all = looks.metrics().map_or_else(|| Ok(Vec::new()), |m| m.evaluate(sets));
    let all = all.unwrap_or_else(|e| vec![("metrics on features".to_owned(), Err(e))]);
    let (mut metrics, mut notes) = (BTreeMap::new(), Vec::new());
    for (name, found) in all {
        match found {
            Ok(measurement) => drop(metrics.insert(name, measurement)),
            Err(e @ Error::Config { .. }) => {
                notes.push(format!("{name} could not be measured of the final samples: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    Ok((metrics, notes))
}

/// Copies among latents, and among the autoencoder's own images of held-out ones.
fn latent_copies(arm: &Arm<'_>, generated: &Tensor, held_out: &Tensor, seed: u64) -> Result<LatentCopies> {
    let metric = MemorizedFraction { copies: Copies::Exact, seed };
    let encoded = arm.in_space.held_out.narrow(0, 0, held_out.size()[0]);
    let f_mem = metric.measure(&FeatureSets { generated, train: &arm.in_space.train, held_out: &encoded })?;
    let seen = arm.space.to_images(&encoded, arm.recipe.sample.batch_size);
    let autoencoder = metric.measure(&FeatureSets { generated: &seen, train: &arm.train, held_out })?;
    let error = (&seen - held_out).square().mean(Kind::Double).double_value(&[]);
    // Images span 2 from black to white.
    Ok(LatentCopies { f_mem, autoencoder, psnr: 10.0 * (4.0 / error).log10() })
}

/// The copier has learned no variance: it takes that of a single training point, which is what it draws.
fn for_copier(config: &SampleConfig) -> SampleConfig {
    let mut config = config.clone();
    if let SamplerConfig::Ddpm { variance } = &mut config.sampler
        && *variance == Variance::Learned
    {
        *variance = Variance::FixedSmall;
    }
    config
}

fn write_neighbours(
    arm: &Arm<'_>,
    folder: &Path,
    (generated, ours): (&Tensor, &NearestPairs),
    (held_out, theirs): (&Tensor, &NearestPairs),
) -> Result<()> {
    let pick = |places: &[usize]| {
        let rows: Vec<i64> = places.iter().map(|p| *p as i64).collect();
        to_bytes(&arm.train.index_select(0, &Tensor::from_slice(&rows).to_device(arm.device)))
    };
    let tensors = [
        ("samples", to_bytes(generated)),
        ("nearest", pick(&ours.nearest)),
        ("second_nearest", pick(&ours.second)),
        ("held_out", to_bytes(held_out)),
        ("held_out_nearest", pick(&theirs.nearest)),
        ("held_out_second_nearest", pick(&theirs.second)),
    ];
    let tensors = tensors.map(|(name, t)| (name, t.to_device(tch::Device::Cpu).contiguous()));
    let path = folder.join("final.safetensors");
    write_tensors_atomically(&tensors, &path)?;
    let samples = FinalSamples {
        nearest: ours.nearest_distance.clone(),
        nearest_place: ours.nearest.clone(),
        second_nearest: ours.second_distance.clone(),
        held_out_nearest: theirs.nearest_distance.clone(),
        held_out_second_nearest: theirs.second_distance.clone(),
    };
    write_atomically(&folder.join("final.json"), serde_json::to_string_pretty(&samples)?.as_bytes())?;
    Ok(())
}

/// The first of some samples `[n, C, H, W]` in `[-1, 1]` as one PNG.
pub(crate) fn save_first(space: &Space, samples: &Tensor, path: &Path) -> Result<()> {
    save_grid(&space.examples.pictures(&samples.narrow(0, 0, samples.size()[0].min(GRID))), path)
}

/// Images `[n, C, H, W]` in `[-1, 1]` as one PNG, about as wide as high, with a pixel between.
pub(crate) fn save_grid(images: &Tensor, path: &Path) -> Result<()> {
    save_png(&grid(&to_bytes(images).to_device(tch::Device::Cpu)), path)
}

/// Images `[n, C, H, W]`, u8, as one image `[C, H', W']`.
pub(crate) fn grid(images: &Tensor) -> Tensor {
    let size = images.size();
    let (n, channels, height, width) = (size[0], size[1], size[2], size[3]);
    let columns = ((n * height) as f64 / width as f64).sqrt().ceil() as i64;
    let rows = (n + columns - 1) / columns;
    let sides = [channels, rows * (height + 1) - 1, columns * (width + 1) - 1];
    let grid = Tensor::full(sides, 255, (Kind::Uint8, tch::Device::Cpu));
    for i in 0..n {
        let (y, x) = (i / columns * (height + 1), i % columns * (width + 1));
        grid.narrow(1, y, height).narrow(2, x, width).copy_(&images.get(i));
    }
    grid
}

/// One image `[C, H, W]`, u8, grey or RGB, as PNG bytes.
pub(crate) fn png(image: &Tensor) -> Result<Vec<u8>> {
    let size = image.size();
    let pixels = Vec::<u8>::try_from(image.permute([1, 2, 0]).contiguous().flatten(0, -1))?;
    let color = match size[0] {
        1 => ColorType::L8,
        3 => ColorType::Rgb8,
        channels => bail!("an image of {channels} channels: pictures are grey or RGB"),
    };
    let mut png = Vec::new();
    PngEncoder::new(&mut png).write_image(&pixels, size[2] as u32, size[1] as u32, color.into())?;
    Ok(png)
}

/// One image `[C, H, W]`, u8, as a PNG file that is whole or not there.
pub(crate) fn save_png(image: &Tensor, path: &Path) -> Result<()> {
    Ok(write_atomically(path, &png(image)?)?)
}
