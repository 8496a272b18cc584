//! Any network that PyTorch has exported.

use crate::images::ImageInput;
use heldout_core::{Error, FeatureExtractor, FeatureOutput, Result};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::path::{Path, PathBuf};
use tch::{CModule, Device, IValue, Kind, Tensor};

/// The name of the network behind FID, and of no other: a metric that has it may call itself `FID`.
pub const INCEPTION: &str = "Inception";

/// SHA-256 of `inception-2015-12-05.pt`, the TorchScript of TensorFlow's network of that date that StyleGAN2-ADA, StyleGAN3
/// and clean-fid use, as k-diffusion (`evaluation.py`) pins it.
pub(crate) const INCEPTION_SHA256: &str = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4";
/// Width of its features.
const INCEPTION_WIDTH: i64 = 2048;

/// A TorchScript file and what it is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TorchScriptConfig {
    /// The file. It is a program, and runs: open files that you trust.
    pub path: PathBuf,
    /// As it stands in the names of metrics; `torchscript(FILE)` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Size, range and normalisation of the images.
    #[serde(default)]
    pub input: ImageInput,
    /// Arguments behind the images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<bool>,
    /// Which of several outputs are the features, `[B, D]`.
    #[serde(default)]
    pub features: usize,
    /// Which are class logits, `[B, K]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<usize>,
    /// Which are features with their place, `[B, ..]`, which are made `[B, S]`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spatial: Option<usize>,
}

impl TorchScriptConfig {
    /// A file that takes `[B, 3, H, W]` in `[0, 1]` of any size and answers with features alone.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            name: None,
            input: ImageInput::default(),
            arguments: Vec::new(),
            features: 0,
            logits: None,
            spatial: None,
        }
    }

    /// `inception-2015-12-05.pt`: takes `[0, 255]`, resizes to 299 itself as TensorFlow 1 did, and answers with features where
    /// its first argument is true. Any other file is an error, so that FID is nothing else.
    pub fn inception(path: impl Into<PathBuf>) -> Self {
        let input = ImageInput { range: [0.0, 255.0], ..ImageInput::default() };
        Self { name: Some(INCEPTION.to_owned()), input, arguments: vec![true], ..Self::new(path) }
    }

    /// Loads it on `device`.
    ///
    /// # Errors
    /// The file is missing or no TorchScript, or a field of the input cannot be honoured.
    pub fn build(&self, device: Device) -> Result<TorchScript> {
        self.input.check().map_err(|e| e.within("input"))?;
        if !self.path.is_file() {
            return Err(Error::file(&self.path, "is not there: give the path of a TorchScript file"));
        }
        let name = self.title(&sha256(&self.path)?)?;
        let mut module = CModule::load_on_device(&self.path, device).map_err(|e| {
            let text = e.to_string();
            let first = text.lines().next().unwrap_or_default();
            let remedy = "save it by torch.jit.save; a state dict of torch.save is no program";
            Error::file(&self.path, format!("is no TorchScript ({first}): {remedy}"))
        })?;
        module.f_set_eval()?;
        for (_, parameter) in module.named_parameters()? {
            let _ = parameter.set_requires_grad(false);
        }
        let width = (name == INCEPTION).then_some(INCEPTION_WIDTH);
        Ok(TorchScript { name, config: self.clone(), module, device, width })
    }
}

impl TorchScriptConfig {
    /// What metrics call it, by its checksum: [`INCEPTION`] where it is that file, and it is given what FID gives it.
    pub(crate) fn title(&self, sha256: &str) -> Result<String> {
        let fid = Self::inception(&self.path);
        let is_file = sha256 == INCEPTION_SHA256;
        let is_used =
            (self.input, &self.arguments, self.features) == (fid.input, &fid.arguments, fid.features);
        let stem = || self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        match &self.name {
            _ if is_file && is_used => Ok(INCEPTION.to_owned()),
            Some(name) if name == INCEPTION => Err(Error::file(&self.path, match is_file {
                true => "is the network of FID, but FID gives it images in [0, 255] of their own size and the argument \
                         true, and takes its first output: leave input, arguments and features to the network `inception`, \
                         or give this use another name"
                    .to_owned(),
                false => format!(
                    "is not the network of FID, whose SHA-256 is {INCEPTION_SHA256}: give that file, or another name to \
                     this one"
                ),
            })),
            Some(name) => Ok(name.clone()),
            None => Ok(format!("torchscript({})", stem())),
        }
    }
}

fn sha256(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).map_err(Error::io(path))?;
    std::io::copy(&mut file, &mut hash).map_err(Error::io(path))?;
    Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect())
}

/// A network in TorchScript; [`INCEPTION`] by its checksum.
#[derive(Debug)]
pub struct TorchScript {
    name: String,
    config: TorchScriptConfig,
    module: CModule,
    device: Device,
    /// Width of the features, where it is known.
    width: Option<i64>,
}

impl TorchScript {
    fn fail(&self, reason: impl Into<String>) -> Error {
        Error::file(&self.config.path, reason)
    }

    /// The outputs in order.
    fn outputs(&self, images: &Tensor) -> Result<Vec<Tensor>> {
        let input = self.config.input.prepare(images)?.to_kind(Kind::Float).to_device(self.device);
        let mut arguments = vec![IValue::Tensor(input)];
        arguments.extend(self.config.arguments.iter().map(|b| IValue::Bool(*b)));
        let found = self.module.forward_is(&arguments).map_err(|e| {
            let text = e.to_string();
            let last = text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or_default();
            self.fail(format!("does not run on {:?}: {last}; check its size and arguments", images.size()))
        })?;
        let values = match found {
            IValue::Tensor(t) => return Ok(vec![t]),
            IValue::TensorList(all) => return Ok(all),
            IValue::Tuple(values) | IValue::GenericList(values) => values,
            _ => return Err(self.fail("answers with neither a tensor nor several")),
        };
        let tensor = |value| match value {
            IValue::Tensor(t) => Ok(t),
            _ => Err(self.fail("answers with something that is no tensor among its tensors")),
        };
        values.into_iter().map(tensor).collect()
    }
}

impl FeatureExtractor for TorchScript {
    fn name(&self) -> &str {
        &self.name
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        let (outputs, rows) = (self.outputs(images)?, images.size()[0]);
        let pick = |what: &str, i: usize| {
            let found = outputs.get(i);
            let found = found.ok_or_else(|| {
                self.fail(format!("{what}: output {i} is asked for, and there are {}", outputs.len()))
            })?;
            let size = found.size();
            if size.first() != Some(&rows) || size.len() < 2 || found.numel() == 0 {
                let reason =
                    format!("{what}: output {i} is {size:?}, and a row for each of {rows} images is needed");
                return Err(self.fail(reason));
            }
            Ok(found.to_kind(Kind::Float))
        };
        // Maps of one pixel are vectors.
        let vector = |what: &str, i: usize| {
            let found = pick(what, i)?;
            let size = found.size();
            match size[2..].iter().all(|n| *n == 1) {
                true => Ok(found.view([rows, -1])),
                false => Err(self.fail(format!("{what}: output {i} is {size:?}, and [B, D] is needed"))),
            }
        };
        let features = vector("features", self.config.features)?;
        if let Some(width) = self.width.filter(|width| features.size()[1] != *width) {
            let reason = format!(
                "features: {} numbers, and FID is of {width}: arguments = [true] makes it answer with them",
                features.size()[1]
            );
            return Err(self.fail(reason));
        }
        let logits = self.config.logits.map(|i| vector("logits", i)).transpose()?;
        let spatial = self.config.spatial.map(|i| Ok::<_, Error>(pick("spatial", i)?.flatten(1, -1)));
        Ok(FeatureOutput { features, logits, spatial: spatial.transpose()? })
    }
}
