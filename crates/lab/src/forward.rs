//! One pass of a model on given tensors, for anyone who wants to check it.

use anyhow::{Result, anyhow};
use heldout_core::{Adapter, Cond, Error, Input, Params, Site};
use heldout_vae::{AutoencoderKl, DiagonalGaussian, LatentScale};
use heldout_weights::{AutoencoderConfig, AutoencoderModel, Component, Model, OpenOptions};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use tch::{Device, Kind, Tensor, nn};

/// What to run.
#[derive(Debug)]
pub struct ForwardRequest<'a> {
    /// A model folder or file, or a name on the hub.
    pub model: &'a str,
    /// A safetensors file with `sample`, and for all but autoencoders `timestep` and the conditions that the model takes.
    pub input: &'a Path,
    /// Where the output goes.
    pub output: &'a Path,
    /// Whether gradients of its mean square are wanted too.
    pub gradients: bool,
    /// As in `fp16`: which of several precisions of a folder.
    pub variant: Option<&'a str>,
    /// Channels of an attention head, for layouts whose shapes do not tell.
    pub head_channels: Option<i64>,
    /// Where tensors live.
    pub device: Device,
}

/// Tensors of a batch by their names in the file.
struct Given {
    path: std::path::PathBuf,
    tensors: BTreeMap<String, Tensor>,
}

impl Given {
    fn read(path: &Path) -> Result<Self> {
        if !path.is_file() {
            return Err(anyhow!(Error::file(
                path,
                "is not there: a safetensors file with sample and timestep"
            )));
        }
        let tensors = Tensor::read_safetensors(path).map_err(|e| {
            let reason = e.to_string().lines().next().unwrap_or_default().to_owned();
            anyhow!(Error::file(path, format!("is no safetensors file: {reason}")))
        })?;
        let known: Vec<&str> = Cond::default().fields().map(|(name, _)| name).to_vec();
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let is_known = |name: &str| name == "sample" || name == "timestep" || known.contains(&name);
        if let Some(name) = tensors.keys().find(|name| !is_known(name)) {
            let reason = format!("{name}: is no input; they are sample, timestep, {}", known.join(", "));
            return Err(anyhow!(Error::file(path, reason)));
        }
        Ok(Self { path: path.to_owned(), tensors })
    }

    /// What a network or an adapter gives of `x` and of the conditions.
    fn denoise(&self, x: &Tensor, run: impl FnOnce(Input<'_>) -> heldout_core::Result<Made>) -> Result<Made> {
        let rows = x.size().first().copied().unwrap_or(0);
        let level = timestep(self.need("timestep")?, rows).to_device(x.device());
        let cond = Cond::from_fields(|name| {
            let t = self.tensors.get(name)?;
            let is_float = matches!(t.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
            Some(t.to_kind(if is_float { x.kind() } else { Kind::Int64 }).to_device(x.device()))
        });
        let input = Input { x, noise_level: &level, cond: &cond, train: false };
        Ok(run(input).map_err(|e| self.about(e))?)
    }

    /// What an autoencoder gives of images `x`, and its variables.
    fn autoencode(&self, model: AutoencoderModel, x: &Tensor) -> Result<(Made, nn::VarStore)> {
        if let Some(name) = self.tensors.keys().find(|name| *name != "sample") {
            let reason = format!("{name}: is no input of an autoencoder, which takes sample");
            return Err(anyhow!(Error::file(&self.path, reason)));
        }
        let &[_, channels, height, width] = x.size().as_slice() else {
            let reason = format!("sample: is of shape {:?}: [B, C, H, W] is needed", x.size());
            return Err(anyhow!(Error::file(&self.path, reason)));
        };
        let shape = model.config.latent_shape([channels, height, width]);
        shape.map_err(|e| match e {
            Error::Config { reason, .. } => Error::file(&self.path, format!("sample: {reason}")),
            other => other,
        })?;
        let AutoencoderModel { config, mut vars, mut network } = model;
        vars.unfreeze();
        if let AutoencoderConfig::AutoencoderKL(config) = &config {
            // Its moments are asked of the class itself.
            let mut own = nn::VarStore::new(x.device());
            let kl = AutoencoderKl::new(&own.root(), config)?;
            own.set_kind(x.kind());
            own.copy(&vars)?;
            let moments = kl.moments(x);
            let mode = DiagonalGaussian::of_moments(&moments).mode().shallow_clone();
            let made = [("reconstruction", kl.decode_unscaled(&mode)), ("moments", moments)];
            return Ok((made.map(|(name, t)| (name.to_owned(), t)).into(), own));
        }
        if let Some(network) = Rc::get_mut(&mut network) {
            network.set_latent_scale(LatentScale::identity())?;
        }
        let latents = network.encode(x);
        let made = [("reconstruction", network.decode(&latents)), ("latents", latents)];
        Ok((made.map(|(name, t)| (name.to_owned(), t)).into(), vars))
    }

    /// The error of a field, as one of the file.
    fn about(&self, e: Error) -> Error {
        match e {
            Error::Config { field, reason } => Error::file(&self.path, format!("{field}: {reason}")),
            other => other,
        }
    }

    fn need(&self, name: &str) -> Result<&Tensor> {
        let reason = || format!("{name}: is missing");
        self.tensors.get(name).ok_or_else(|| anyhow!(Error::file(&self.path, reason())))
    }
}

/// What a model gives, by name; the first of them, or all of a ControlNet, are what gradients are of.
type Made = Vec<(String, Tensor)>;

/// Runs the model in the precision of `sample` and writes what it gives and, if wanted, `grad.sample` and
/// `grad.PARAMETER` of its mean square.
///
/// A network gives `sample`. An autoencoder takes images in `sample` and gives `reconstruction`, of which the gradients are,
/// and `moments`, mean and log variance, or `latents` where there is no distribution: of the mode, and without the scale of
/// latents, as in diffusers. A ControlNet gives `down_block_res_samples.I` and `mid_block_res_sample`, whose mean squares are
/// added up for the gradients.
pub fn forward(request: &ForwardRequest<'_>) -> Result<()> {
    let ForwardRequest { model, input, output, gradients, variant, head_channels, device } = *request;
    let given = Given::read(input)?;
    let sample = given.need("sample")?;
    let kind = sample.kind();
    if !matches!(kind, Kind::Float | Kind::Double) {
        let reason = format!("sample: is {kind:?}; Float or Double, which is the precision of the run");
        return Err(anyhow!(Error::file(input, reason)));
    }
    let options = OpenOptions { variant, kind: Some(kind), head_channels };
    let x = sample.to_device(device).set_requires_grad(gradients);
    let run = || match Component::open(model, device, options)? {
        Component::Network(Model { vars, backbone, .. }) => {
            let made = given.denoise(&x, |batch| {
                backbone.check(batch)?;
                Ok(vec![("sample".to_owned(), backbone.forward(batch, &mut ()))])
            })?;
            Ok((made, vars))
        }
        Component::ControlNet(model) => {
            given.need("hint")?;
            let made = given.denoise(&x, |batch| {
                model.network.check(batch)?;
                let all = model.network.residuals(batch).0.into_iter();
                Ok(all.map(|(site, t)| (residual_name(site), t)).collect())
            })?;
            Ok((made, model.vars))
        }
        Component::Autoencoder(model) => given.autoencode(model, &x),
    };
    let (mut made, vars): (Made, nn::VarStore) = if gradients { run()? } else { tch::no_grad(run)? };
    if gradients {
        let is_looked_at = |name: &str| !matches!(name, "moments" | "latents");
        let looked_at = made.iter().filter(|(name, _)| is_looked_at(name));
        let squares: Vec<Tensor> = looked_at.map(|(_, out)| out.square().mean(kind)).collect();
        Tensor::stack(&squares, 0).sum(kind).backward();
        let of = |t: &Tensor| Some(t.grad()).filter(Tensor::defined);
        made.extend(of(&x).map(|g| ("grad.sample".to_owned(), g)));
        let params = Params::of(&vars);
        made.extend(params.named().filter_map(|(name, t)| Some((format!("grad.{name}"), of(t)?))));
    }
    let on_host = |(name, t): (String, Tensor)| (name, t.detach().contiguous().to_device(Device::Cpu));
    let made: Vec<_> = made.into_iter().map(on_host).collect();
    // Whole or not there.
    let aside = output.with_extension("writing");
    Tensor::write_safetensors(&made, &aside).map_err(|e| {
        let reason = e.to_string().lines().next().unwrap_or_default().to_owned();
        anyhow!(Error::file(output, format!("cannot be written: {reason}")))
    })?;
    fs::rename(&aside, output).map_err(Error::io(output))?;
    Ok(())
}

/// As diffusers' output has it.
fn residual_name(site: Site) -> String {
    match site {
        Site::Down(i) => format!("down_block_res_samples.{i}"),
        _ => "mid_block_res_sample".to_owned(),
    }
}

/// One for each row; whole numbers become f32, as the peers take them.
fn timestep(t: &Tensor, rows: i64) -> Tensor {
    let is_float = matches!(t.kind(), Kind::Float | Kind::Double);
    let t = if is_float { t.shallow_clone() } else { t.to_kind(Kind::Float) };
    if t.numel() == 1 { t.reshape([1]).expand([rows], false) } else { t }
}
