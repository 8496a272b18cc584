//! A LoRA as diffusers writes it.

use super::LoraConfig;
use heldout_core::{Error, Result};
use safetensors::{Dtype, tensor::TensorView};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// The file of a LoRA in diffusers' folders.
pub(crate) const WEIGHTS: &str = "pytorch_lora_weights.safetensors";
/// Where diffusers puts peft's configuration in the file's metadata.
pub(crate) const METADATA: &str = "lora_adapter_metadata";

/// Writes [`WEIGHTS`] in `folder`: whole or not there.
pub(crate) fn save(
    folder: &Path,
    component: &str,
    config: &LoraConfig,
    layers: &BTreeMap<String, [Tensor; 2]>,
) -> Result<()> {
    let mut bytes: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for (layer, tensors) in layers {
        for (name, tensor) in ["lora_A", "lora_B"].into_iter().zip(tensors) {
            let (dtype, tensor) = match tensor.kind() {
                Kind::Half => (Dtype::F16, tensor.shallow_clone()),
                Kind::BFloat16 => (Dtype::BF16, tensor.shallow_clone()),
                Kind::Double => (Dtype::F64, tensor.shallow_clone()),
                _ => (Dtype::F32, tensor.to_kind(Kind::Float)),
            };
            let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
            let mut data = vec![0; tensor.numel() * dtype.bitsize() / 8];
            tensor.f_copy_data_u8(&mut data, tensor.numel())?;
            let shape = tensor.size().iter().map(|n| *n as usize).collect();
            bytes.push((format!("{component}.{layer}.{name}.weight"), dtype, shape, data));
        }
    }
    let path = folder.join(WEIGHTS);
    let fails = |e: safetensors::SafeTensorError| Error::file(&path, e.to_string());
    let views = bytes
        .iter()
        .map(|(name, dtype, shape, data)| Ok((name, TensorView::new(*dtype, shape.clone(), data)?)))
        .collect::<Result<Vec<_>, _>>()
        .map_err(fails)?;
    let written = safetensors::serialize(views, Some(metadata(component, config))).map_err(fails)?;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let aside = folder.join(format!(".writing-{WEIGHTS}"));
    fs::write(&aside, written).map_err(Error::io(&aside))?;
    fs::rename(&aside, &path).map_err(Error::io(&path))
}

fn metadata(component: &str, config: &LoraConfig) -> HashMap<String, String> {
    let fields: Map<String, Value> =
        config.to_peft().into_iter().map(|(name, value)| (format!("{component}.{name}"), value)).collect();
    let text = Value::Object(fields).to_string();
    HashMap::from([("format".to_owned(), "pt".to_owned()), (METADATA.to_owned(), text)])
}
