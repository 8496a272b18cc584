//! Published networks by name.

use crate::ModelConfig;
use heldout_core::{Error, Result};
use heldout_dit::DitConfig;
use serde_json::Map;

/// The configurations of published UNets as their folders have them.
const UNETS: [(&str, &str); 9] = [
    ("ddpm-cifar10", include_str!("../presets/ddpm-cifar10.json")),
    ("ddpm-celebahq-256", include_str!("../presets/ddpm-celebahq-256.json")),
    ("ldm-celebahq-256-unet", include_str!("../presets/ldm-celebahq-256-unet.json")),
    ("sd-1.5-unet", include_str!("../presets/sd-1.5-unet.json")),
    ("sd-1.5-inpainting-unet", include_str!("../presets/sd-1.5-inpainting-unet.json")),
    ("sd-2.1-unet", include_str!("../presets/sd-2.1-unet.json")),
    ("sd-x4-upscaler-unet", include_str!("../presets/sd-x4-upscaler-unet.json")),
    ("sdxl-unet", include_str!("../presets/sdxl-unet.json")),
    ("if-i-xl-unet", include_str!("../presets/if-i-xl-unet.json")),
];
const PATCHES: [i64; 3] = [2, 4, 8];

type Sized = fn(i64) -> DitConfig;

/// Peebles and Xie 2023, Table 1, as the paper's own code has them.
const DITS: [(&str, Sized); 4] = [
    ("dit-s", DitConfig::small),
    ("dit-b", DitConfig::base),
    ("dit-l", DitConfig::large),
    ("dit-xl", DitConfig::extra_large),
];

/// The names of all presets.
pub fn presets() -> Vec<String> {
    let dits = DITS.iter().flat_map(|(name, _)| PATCHES.map(|patch| format!("{name}-{patch}")));
    dits.chain(UNETS.iter().map(|(name, _)| (*name).to_owned())).collect()
}

/// The network of this name.
///
/// # Errors
/// There is none; the message lists them.
pub fn preset(name: &str) -> Result<ModelConfig> {
    if let Some((_, text)) = UNETS.iter().find(|(known, _)| *known == name) {
        let fields: Map<_, _> = serde_json::from_str(text).map_err(|e| Error::config(name, e.to_string()))?;
        return ModelConfig::from_json(&fields);
    }
    let sized = DITS.iter().find_map(|(known, sized)| {
        let patch = name.strip_prefix(known)?.strip_prefix('-')?.parse().ok()?;
        PATCHES.contains(&patch).then(|| sized(patch).original())
    });
    sized.map(ModelConfig::Dit).ok_or_else(|| {
        Error::config(name, format!("is neither a model here nor a preset: {}", presets().join(", ")))
    })
}
