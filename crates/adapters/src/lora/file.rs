//! LoRAs of others and our own, from safetensors.

use super::LoraConfig;
use super::names::{Name, other_kind, take_apart};
use super::save::{METADATA, WEIGHTS};
use heldout_core::{Error, Result};
use heldout_nn::LowRankSites;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// `A`, `B` and the alpha of one layer.
#[derive(Debug)]
pub(crate) struct LoraLayer {
    /// `[r, from]` or `[r, from, k, k]`.
    pub(crate) a: Tensor,
    /// `[to, r]` or `[to, r, 1, 1]`.
    pub(crate) b: Tensor,
    alpha: Option<f64>,
}

/// A published LoRA, read: for one model or several of a pipeline.
///
/// Names are those of diffusers with and before peft, of peft, or of kohya's scripts, whose layers have diffusers' names.
#[derive(Debug)]
pub struct LoraFile {
    path: PathBuf,
    /// By component, then by the layer's name in the file.
    components: BTreeMap<String, BTreeMap<String, LoraLayer>>,
    /// What peft wrote of its configuration.
    peft: Map<String, Value>,
}

impl LoraFile {
    /// Reads a `.safetensors` file, or `pytorch_lora_weights.safetensors` or `adapter_model.safetensors` of a folder. Alphas are
    /// those of the file's tensors, of its metadata, or of an `adapter_config.json` beside it; otherwise they are the ranks.
    ///
    /// # Errors
    /// A file that is damaged, or has tensors that are no LoRA's, or half of a layer's; the message names it.
    pub fn open(path: &Path) -> Result<Self> {
        let path = find(path)?;
        let bytes = std::fs::read(&path).map_err(Error::io(&path))?;
        let damaged =
            |e| Error::file(&path, format!("{e}: damaged or no safetensors; fetch or save it again"));
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(damaged)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(damaged)?;
        let mut parts: BTreeMap<(String, String), [Option<Tensor>; 3]> = BTreeMap::new();
        for (name, view) in tensors.iter() {
            let Some(Name { component, layer, role }) = take_apart(name) else {
                let what = other_kind(name).map_or(String::new(), |what| format!(" but of {what}"));
                let reason =
                    format!("{name}: is no tensor of a LoRA{what}; use a LoRA, or merge it elsewhere");
                return Err(Error::file(&path, reason));
            };
            let part = &mut parts.entry((component, layer)).or_default()[role as usize];
            if part.replace(read(&path, name, &view)?).is_some() {
                return Err(Error::file(&path, format!("{name}: the layer has two such tensors; keep one")));
            }
        }
        let mut components: BTreeMap<String, BTreeMap<String, LoraLayer>> = BTreeMap::new();
        for ((component, layer), part) in parts {
            let read = LoraLayer::of(&layer, part).map_err(|reason| Error::file(&path, reason))?;
            components.entry(component).or_default().insert(layer, read);
        }
        if components.is_empty() {
            return Err(Error::file(&path, "has no tensor: fetch or save it again"));
        }
        let peft = peft_fields(&path, header.metadata().as_ref().and_then(|m| m.get(METADATA)))?;
        Ok(Self { path, components, peft })
    }

    /// The models of a pipeline that it changes, as `unet`; empty where the file does not say.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.components.keys().map(String::as_str)
    }

    /// The layers for a component by the names that the model gives them, if all are there and fit.
    pub(crate) fn layers_of(
        &self,
        component: &str,
        sites: &LowRankSites,
    ) -> Result<BTreeMap<String, &LoraLayer>> {
        let unnamed = || self.components.get("");
        let Some(layers) = self.components.get(component).or_else(unnamed) else {
            let has = self.components().collect::<Vec<_>>().join(", ");
            return Err(self.fails(format!("has nothing for {component}, only for {has}; use a LoRA for it")));
        };
        let flat: BTreeMap<String, &str> =
            sites.keys().map(|name| (name.replace('.', "_"), name.as_str())).collect();
        let mut found = BTreeMap::new();
        for (layer, tensors) in layers {
            let known = sites.get_key_value(layer).map(|(name, _)| name.as_str());
            let Some(name) = known.or_else(|| flat.get(layer).copied()) else {
                let reason = format!("{layer}: the {component} has no such layer");
                return Err(self.fails(format!("{reason}; {ANOTHER}")));
            };
            let size = sites[name].weight().size();
            if let Some(other) = tensors.misfit(&size) {
                let reason = format!("{layer}: is for a weight of {other:?}, the {component}'s is {size:?}");
                return Err(self.fails(format!("{reason}; {ANOTHER}")));
            }
            found.insert(name.to_owned(), tensors);
        }
        Ok(found)
    }

    /// The configuration that these layers of a component stand for.
    pub(crate) fn config_of(
        &self,
        component: &str,
        layers: &BTreeMap<String, &LoraLayer>,
    ) -> Result<LoraConfig> {
        let prefix = format!("{component}.");
        let named: Map<String, Value> = self
            .peft
            .iter()
            .filter_map(|(field, value)| Some((field.strip_prefix(&prefix)?.to_owned(), value.clone())))
            .collect();
        let fields = if named.is_empty() && self.peft.contains_key("r") { &self.peft } else { &named };
        let told = LoraConfig::from_peft(fields).map_err(|e| self.fails(e.to_string()))?;
        let each = layers.iter().map(|(name, layer)| {
            let rank = layer.rank();
            let alpha = if fields.is_empty() { rank as f64 } else { told.alpha(name) };
            (name.clone(), rank, layer.alpha.unwrap_or(alpha))
        });
        Ok(LoraConfig::of_layers(&each.collect::<Vec<_>>(), told.use_rslora))
    }

    fn fails(&self, reason: String) -> Error {
        Error::file(&self.path, reason)
    }
}

const ANOTHER: &str = "this LoRA is for another base: use it with that one";

impl LoraLayer {
    fn of(layer: &str, [a, b, alpha]: [Option<Tensor>; 3]) -> Result<Self, String> {
        let (Some(a), Some(b)) = (a, b) else {
            return Err(format!("{layer}: lacks one of lora_A and lora_B; fetch or save it again"));
        };
        let [down, up] = [&a, &b].map(|t| t.size());
        if down.len() < 2 || up.len() < 2 || down[0] != up[1] || up[2..].iter().any(|n| *n != 1) {
            return Err(format!("{layer}: lora_A {down:?} and lora_B {up:?} do not fit together"));
        }
        let alpha = alpha.map(|t| match t.numel() {
            1 => Ok(t.double_value(&vec![0; t.dim()])),
            n => Err(format!("{layer}: alpha has {n} numbers, 1 is needed")),
        });
        Ok(Self { a, b, alpha: alpha.transpose()? })
    }

    fn rank(&self) -> i64 {
        self.a.size()[0]
    }

    /// The shape of the weight that it is for, where that is not `size`; 1x1 convolutions may be written as linear layers and
    /// the other way round.
    fn misfit(&self, size: &[i64]) -> Option<Vec<i64>> {
        let shape = [vec![self.b.size()[0]], self.a.size()[1..].to_vec()].concat();
        let without_ones = |s: &[i64]| {
            let end = if s.len() == 4 && s[2..] == [1, 1] { 2 } else { s.len() };
            s[..end].to_vec()
        };
        (without_ones(&shape) != without_ones(size)).then_some(shape)
    }
}

/// The file that is meant.
fn find(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let names = [WEIGHTS, "adapter_model.safetensors"];
    let found = names.iter().map(|name| path.join(name)).find(|file| file.is_file());
    found.ok_or_else(|| {
        Error::file(path, format!("has neither {} nor {}: give the file itself", names[0], names[1]))
    })
}

fn read(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Tensor> {
    let kind = match view.dtype() {
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        // Alphas are whole numbers in some files.
        Dtype::I64 => Kind::Int64,
        Dtype::I32 => Kind::Int,
        other => {
            let reason = format!("{name}: {other:?} is no dtype of weights: F16, BF16, F32 and F64 are read");
            return Err(Error::file(path, reason));
        }
    };
    let shape: Vec<i64> = view.shape().iter().map(|n| *n as i64).collect();
    Ok(Tensor::f_from_data_size(view.data(), &shape, kind)?)
}

/// From the file's metadata, or else from `adapter_config.json` beside it.
fn peft_fields(path: &Path, metadata: Option<&String>) -> Result<Map<String, Value>> {
    let parse = |path: &Path, text: &str| {
        serde_json::from_str(text).map_err(|e| {
            Error::file(path, format!("its configuration is no JSON object: {e}; save it again"))
        })
    };
    if let Some(text) = metadata {
        return parse(path, text);
    }
    let beside = path.with_file_name("adapter_config.json");
    match std::fs::read_to_string(&beside) {
        Ok(text) => parse(&beside, &text),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
        Err(e) => Err(Error::io(&beside)(e)),
    }
}
