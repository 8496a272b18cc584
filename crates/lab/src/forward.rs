//! One pass of a model on given tensors, for anyone who wants to check it.

use anyhow::{Result, anyhow};
use heldout_core::{Cond, Error, Input, Params};
use heldout_weights::{Model, OpenOptions};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// What to run.
#[derive(Debug)]
pub struct ForwardRequest<'a> {
    /// A model folder or file, or a name on the hub.
    pub model: &'a str,
    /// A safetensors file with `sample`, `timestep` and the conditions that the model takes.
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

    fn need(&self, name: &str) -> Result<&Tensor> {
        let reason = || format!("{name}: is missing");
        self.tensors.get(name).ok_or_else(|| anyhow!(Error::file(&self.path, reason())))
    }
}

/// Runs the model in the precision of `sample` and writes `sample` and, if wanted, `grad.sample` and `grad.PARAMETER`.
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
    let model = Model::open(model, device, options)?;
    let x = sample.to_device(device).set_requires_grad(gradients);
    let rows = x.size().first().copied().unwrap_or(0);
    let level = timestep(given.need("timestep")?, rows).to_device(device);
    let cond = Cond::from_fields(|name| {
        let t = given.tensors.get(name)?;
        let is_float = matches!(t.kind(), Kind::Float | Kind::Double | Kind::Half | Kind::BFloat16);
        Some(t.to_kind(if is_float { kind } else { Kind::Int64 }).to_device(device))
    });
    let batch = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    model.backbone.check(batch).map_err(|e| match e {
        Error::Config { field, reason } => Error::file(input, format!("{field}: {reason}")),
        other => other,
    })?;
    let mut made = Vec::new();
    if gradients {
        let out = model.backbone.forward(batch, &mut ());
        out.square().mean(kind).backward();
        made.push(("sample".to_owned(), out.detach()));
        let of = |t: &Tensor| Some(t.grad()).filter(Tensor::defined);
        made.extend(of(&x).map(|g| ("grad.sample".to_owned(), g)));
        let params = Params::of(&model.vars);
        made.extend(params.named().filter_map(|(name, t)| Some((format!("grad.{name}"), of(t)?))));
    } else {
        made.push(("sample".to_owned(), tch::no_grad(|| model.backbone.forward(batch, &mut ()))));
    }
    let made: Vec<_> =
        made.into_iter().map(|(name, t)| (name, t.contiguous().to_device(Device::Cpu))).collect();
    // Whole or not there.
    let aside = output.with_extension("writing");
    Tensor::write_safetensors(&made, &aside).map_err(|e| {
        let reason = e.to_string().lines().next().unwrap_or_default().to_owned();
        anyhow!(Error::file(output, format!("cannot be written: {reason}")))
    })?;
    fs::rename(&aside, output).map_err(Error::io(output))?;
    Ok(())
}

/// One for each row; whole numbers become f32, as the peers take them.
fn timestep(t: &Tensor, rows: i64) -> Tensor {
    let is_float = matches!(t.kind(), Kind::Float | Kind::Double);
    let t = if is_float { t.shallow_clone() } else { t.to_kind(Kind::Float) };
    if t.numel() == 1 { t.reshape([1]).expand([rows], false) } else { t }
}
