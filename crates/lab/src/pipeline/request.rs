//! Sampling from a pipeline.

use super::Pipeline;
use super::noise::Noise;
use crate::clip::{Clip, ClipRequest};
use crate::evaluate::{save_grid, save_png};
use anyhow::{Result, anyhow};
use heldout_core::{Cond, Denoiser, Error};
use heldout_data::to_bytes;
use heldout_samplers::{Clamped, ClassifierFree, GuidedChannels};
use heldout_train::write_tensors_atomically;
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Tensor};

/// Images of the grid that is kept as a picture.
const GRID: usize = 64;

/// What to sample from a pipeline.
#[derive(Debug)]
pub struct PipelineRequest<'a> {
    /// The folder with `model_index.json`.
    pub folder: &'a Path,
    /// Texts, for a pipeline that takes them; guidance by a CLIP draws the images of any pipeline to them.
    pub prompts: &'a [String],
    /// Classes by number or name, for a pipeline that takes them.
    pub classes: &'a [String],
    /// What the images should not show.
    pub negative: &'a str,
    /// Images of each prompt.
    pub n: usize,
    /// Images of one forward pass.
    pub batch_size: usize,
    /// Height and width; those that the network was made for if absent.
    pub size: Option<[i64; 2]>,
    /// Image `i` is a function of this and of `i`.
    pub seed: u64,
    /// A safetensors file of noise instead.
    pub noise: Option<&'a Path>,
    /// Sampling steps.
    pub steps: usize,
    /// Strength of classifier-free guidance, 1 for none; the pipeline's usual one if absent.
    pub guidance: Option<f64>,
    /// A CLIP that draws images to the prompts.
    pub clip: Option<ClipRequest<'a>>,
    /// Images to follow.
    pub control: &'a [ControlRequest],
    /// Whether the images are followed where there is no text to guide.
    pub guess: bool,
    /// A LoRA with its weight, to be merged.
    pub lora: Option<(&'a Path, f64)>,
    /// Which of several precisions of a folder.
    pub variant: Option<&'a str>,
    /// Whether images are decoded in tiles, so that large ones take no more memory than a tile.
    pub tiled: bool,
    /// Whether the images are written as floats too, `images.safetensors`.
    pub tensors: bool,
    /// Where they go.
    pub out: &'a Path,
    /// Where tensors live.
    pub device: Device,
}

/// Every condition with the vector `[D]` that a CLIP draws its images to; one condition is for all of them.
fn drawn(conditions: Vec<Cond>, targets: &Tensor) -> Vec<Cond> {
    let (n, texts) = (conditions.len(), targets.size()[0] as usize);
    let with = |i: usize| Cond {
        text_embeds: Some(targets.narrow(0, (i % texts) as i64, 1)),
        ..conditions[i % n].shallow_clone()
    };
    (0..n.max(texts)).map(with).collect()
}

/// An image that samples follow.
#[derive(Debug, Clone)]
pub struct ControlRequest {
    /// The image.
    pub image: PathBuf,
    /// The ControlNet's folder; the pipeline's own if absent.
    pub net: Option<PathBuf>,
    /// How strongly.
    pub scale: f64,
}

/// Writes `00000.png`, .. and `grid.png`; image `i` is of prompt or class `i / n`.
pub fn sample_pipeline(request: &PipelineRequest<'_>) -> Result<()> {
    let PipelineRequest { n, batch_size, size, steps, guidance, out, .. } = *request;
    if n == 0 || steps == 0 || batch_size == 0 {
        return Err(anyhow!(Error::config("--n, --steps, --batch-size", "0: at least 1 is needed")));
    }
    request.clip.map_or(Ok(()), |clip| clip.check())?;
    let pipeline = Pipeline::open(request)?;
    pipeline.check_prompts(request)?;
    let clip = request.clip.map(|clip| Clip::open(clip.folder, pipeline.device)).transpose()?;
    let shape = pipeline.sampled(size)?;
    let (conditions, null) = pipeline.conditions(request)?;
    let hint = pipeline.hint(request, shape)?;
    let hinted = |cond: Cond, hint: Option<&Tensor>| Cond { hint: hint.map(Tensor::shallow_clone), ..cond };
    let mut conditions: Vec<Cond> = conditions.into_iter().map(|c| hinted(c, hint.as_ref())).collect();
    if let Some(clip) = &clip {
        conditions = drawn(conditions, &clip.embeddings("--prompt", request.prompts)?);
    }
    // In guess mode the half that is not told the text has no image to follow either.
    let null = hinted(null, hint.as_ref().filter(|_| !request.guess));
    let noise = match request.noise {
        None => Noise::Seeded(request.seed),
        Some(path) => Noise::read(path, &pipeline.scheduler.sampler, steps)?,
    };
    let guided = ClassifierFree {
        inner: &pipeline.model,
        null,
        scale: guidance.unwrap_or(pipeline.guidance),
        rescale: None,
        channels: GuidedChannels::All,
    };
    let by_clip = clip.as_ref().zip(request.clip.as_ref()).map(|(clip, asked)| {
        let autoencoder = pipeline.autoencoder.as_ref().map(|model| model.network.clone());
        clip.guided(asked, &guided as &dyn Denoiser, autoencoder, request.seed)
    });
    let guided = by_clip.as_ref().map_or(&guided as &dyn Denoiser, |by_clip| by_clip as _);
    let limit = pipeline.scheduler.clip;
    let clamped = Clamped { inner: guided, limit: limit.unwrap_or(f64::INFINITY) };
    let denoiser: &dyn Denoiser = if limit.is_some() { &clamped } else { guided };

    let times = pipeline.scheduler.grid.times(denoiser.schedule(), steps)?;
    let sampler = pipeline.scheduler.sampler.build()?;
    let std = pipeline.scheduler.starting_std(denoiser.schedule(), times[0], pipeline.device);
    let batch = |cond: &Cond, first: usize, rows: usize| -> Result<Tensor> {
        let cond = cond.expand(rows as i64);
        let (x, mut draws) = noise.of(first, rows, std, &shape, pipeline.device)?;
        let sampled =
            tch::no_grad(|| sampler.sample(denoiser, x, &times, &cond, draws.as_mut(), &mut |_| ()))?;
        Ok(pipeline.decoded(sampled)?.to_device(Device::Cpu))
    };
    let existed = out.exists();
    fs::create_dir_all(out).map_err(Error::io(out))?;
    let write = || -> Result<()> {
        let mut shown: Vec<Tensor> = Vec::new();
        let mut floats: Vec<Tensor> = Vec::new();
        for (p, cond) in conditions.iter().enumerate() {
            for start in (0..n).step_by(batch_size) {
                let (first, rows) = (p * n + start, batch_size.min(n - start));
                let images = batch(cond, first, rows)?;
                let bytes = to_bytes(&images);
                for i in 0..rows {
                    save_png(&bytes.get(i as i64), &out.join(format!("{:05}.png", first + i)))?;
                }
                if first < GRID {
                    shown.push(images.shallow_clone());
                }
                if request.tensors {
                    floats.push(images);
                }
            }
        }
        let grid = Tensor::cat(&shown, 0);
        save_grid(&grid.narrow(0, 0, grid.size()[0].min(GRID as i64)), &out.join("grid.png"))?;
        if request.tensors {
            let all = Tensor::cat(&floats, 0);
            write_tensors_atomically(&[("images", all)], &out.join("images.safetensors"))?;
        }
        Ok(())
    };
    write().inspect_err(|_| {
        if !existed {
            let _ = fs::remove_dir_all(out); // the error that is reported is the first one
        }
    })
}
