//! Published networks, autoencoders and ControlNets by name.

use crate::{AutoencoderConfig, ComponentConfig, ModelConfig};
use heldout_adapters::ControlNetModelConfig;
use heldout_core::{Error, Result};
use heldout_dit::DitConfig;
use heldout_vae::{AutoencoderKLConfig, AutoencoderTinyConfig, VQModelConfig};
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

type Made = fn() -> ComponentConfig;

fn kl(config: AutoencoderKLConfig) -> ComponentConfig {
    ComponentConfig::Autoencoder(AutoencoderConfig::AutoencoderKL(config))
}

/// Of Rombach et al. 2022, Table 8, of the published TAESD, and of Zhang et al. 2023.
const OTHERS: [(&str, Made); 6] = [
    ("vae-kl-f4", || kl(AutoencoderKLConfig::kl_f4())),
    ("vae-kl-f8", || kl(AutoencoderKLConfig::kl_f8())),
    ("vae-kl-f16", || kl(AutoencoderKLConfig::kl_f16())),
    ("vq-f4", || ComponentConfig::Autoencoder(AutoencoderConfig::VQModel(VQModelConfig::vq_f4()))),
    ("taesd", || {
        ComponentConfig::Autoencoder(AutoencoderConfig::AutoencoderTiny(AutoencoderTinyConfig::default()))
    }),
    ("sd-1.5-controlnet", || ComponentConfig::ControlNet(Box::new(ControlNetModelConfig::sd_1_5()))),
];

/// The names of all presets.
pub fn presets() -> Vec<String> {
    let dits = DITS.iter().flat_map(|(name, _)| PATCHES.map(|patch| format!("{name}-{patch}")));
    let others = OTHERS.iter().map(|(name, _)| *name);
    dits.chain(UNETS.iter().map(|(name, _)| *name).chain(others).map(str::to_owned)).collect()
}

/// What has this name: [`ComponentConfig::into_network`] where a network is wanted.
///
/// # Errors
/// There is none; the message lists them.
pub fn preset(name: &str) -> Result<ComponentConfig> {
    if let Some((_, text)) = UNETS.iter().find(|(known, _)| *known == name) {
        let fields: Map<_, _> = serde_json::from_str(text).map_err(|e| Error::config(name, e.to_string()))?;
        return ComponentConfig::from_json(&fields);
    }
    if let Some((_, made)) = OTHERS.iter().find(|(known, _)| *known == name) {
        return Ok(made());
    }
    let sized = DITS.iter().find_map(|(known, sized)| {
        let patch = name.strip_prefix(known)?.strip_prefix('-')?.parse().ok()?;
        PATCHES.contains(&patch).then(|| sized(patch).original())
    });
    sized.map(|config| ComponentConfig::Network(ModelConfig::Dit(config))).ok_or_else(|| {
        Error::config(name, format!("is neither a model here nor a preset: {}", presets().join(", ")))
    })
}
