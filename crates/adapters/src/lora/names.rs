//! The names of published LoRA files.
//!
//! | file | name of a tensor |
//! |---|---|
//! | diffusers with peft | `unet.down_blocks.0.attentions.0.proj_in.lora_A.weight` |
//! | peft | `base_model.model.down_blocks.0.attentions.0.proj_in.lora_A.weight` |
//! | diffusers before peft | `unet.down_blocks.0.attentions.0.proj_in.lora.down.weight`, `unet.mid_block.attn1.processor.to_q_lora.down.weight` |
//! | kohya | `lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight`, `..alpha` |

/// Whether a layer's name is `name` or ends in it; behind `^`, whether it is.
pub(crate) fn is_below(layer: &str, name: &str) -> bool {
    match name.strip_prefix('^') {
        Some(whole) => layer == whole,
        None => layer.strip_suffix(name).is_some_and(|lead| lead.is_empty() || lead.ends_with('.')),
    }
}

/// What a tensor of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// `A`.
    Down,
    /// `B`.
    Up,
    /// The numerator of the scale.
    Alpha,
}

/// A tensor's name, taken apart.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Name {
    /// The model of a pipeline; empty where the file does not say.
    pub(crate) component: String,
    /// The layer; with `_` in the place of points in kohya's files.
    pub(crate) layer: String,
    pub(crate) role: Role,
}

const ENDS: [(&str, Role); 7] = [
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".alpha", Role::Alpha),
];

const PROCESSOR_ENDS: [(&str, Role); 2] = [("_lora.down.weight", Role::Down), ("_lora.up.weight", Role::Up)];

/// How a name starts, and the component that it then is of.
const STARTS: [(&str, &str); 9] = [
    ("base_model.model.", ""),
    ("unet.", "unet"),
    ("transformer.", "transformer"),
    ("text_encoder.", "text_encoder"),
    ("text_encoder_2.", "text_encoder_2"),
    ("lora_unet_", "unet"),
    ("lora_te_", "text_encoder"),
    ("lora_te1_", "text_encoder"),
    ("lora_te2_", "text_encoder_2"),
];

/// Takes a name apart; `None` if it is of no LoRA.
pub(crate) fn take_apart(name: &str) -> Option<Name> {
    let (component, rest) = STARTS
        .iter()
        .find_map(|(start, component)| Some((*component, name.strip_prefix(start)?)))
        .unwrap_or(("", name));
    let component = component.to_owned();
    // Attention's layers were called after its processor once.
    for (end, role) in PROCESSOR_ENDS {
        let Some((attention, layer)) = rest.strip_suffix(end).and_then(|r| r.split_once(".processor."))
        else {
            continue;
        };
        let layer = if layer == "to_out" { "to_out.0" } else { layer };
        return Some(Name { component, layer: format!("{attention}.{layer}"), role });
    }
    let (layer, role) = ENDS.iter().find_map(|(end, role)| Some((rest.strip_suffix(end)?, *role)))?;
    Some(Name { component, layer: layer.to_owned(), role })
}

/// What is known of tensors that other kinds of adapters have: the words of their names, and what they are.
const OTHERS: [(&str, &str); 7] = [
    ("lora_magnitude_vector", "DoRA"),
    ("dora_scale", "DoRA"),
    ("hada_", "LoHa"),
    ("lokr_", "LoKr"),
    ("lora_mid", "LoRA of convolutions by Tucker's decomposition"),
    ("lora_B.bias", "a LoRA with biases"),
    ("diff", "a difference of whole weights"),
];

/// What a tensor that is of no LoRA may be.
pub(crate) fn other_kind(name: &str) -> Option<&'static str> {
    OTHERS.iter().find(|(word, _)| name.contains(word)).map(|(_, what)| *what)
}
