//! A description as tables.

use super::Description;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use heldout_vae::LatentScale;

/// With thousands separated.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

/// What is subtracted from latents, and what they are then multiplied by.
fn scale_in_words(scale: &LatentScale) -> String {
    match scale.as_uniform() {
        Some((0.0, factor)) => format!("{factor}"),
        Some((shift, factor)) => format!("{factor}, after {shift} is subtracted"),
        None => {
            let list =
                |values: &[f64]| values.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(", ");
            format!("{} after {} is subtracted, by channel", list(&scale.scale), list(&scale.shift))
        }
    }
}

impl std::fmt::Display for Description {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let class = self.architecture.get("_class_name").and_then(|c| c.as_str()).unwrap_or_default();
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED);
        table.add_row(["architecture".to_owned(), class.to_owned()]);
        table.add_row(["parameters".to_owned(), grouped(self.parameters)]);
        table.add_row(["trainable".to_owned(), grouped(self.trainable_parameters)]);
        table.add_row(["one sample".to_owned(), format!("{:?}", self.sample_shape)]);
        if let Some(latent) = &self.latent {
            table.add_row(["its latents".to_owned(), format!("{:?}", latent.shape)]);
            table.add_row(["latent scale".to_owned(), scale_in_words(&latent.scale)]);
        }
        let billions = |n: u64| format!("{:.4} G", n as f64 / 1e9);
        let each = self.latent.as_ref().map_or_else(String::new, |latent| {
            let [encode, decode] = [latent.encode_multiply_adds, latent.decode_multiply_adds].map(billions);
            format!(": encode {encode}, decode {decode}")
        });
        table.add_row(["multiply-adds".to_owned(), billions(self.multiply_adds) + &each]);
        let memory = &self.training_memory;
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let text = format!(
            "about {:.3} GiB at {}: weights and Adam {:.3}, activations {:.3}",
            gib(memory.total),
            memory.batch_size,
            gib(memory.weights),
            gib(memory.activations)
        );
        table.add_row(["training memory".to_owned(), text]);
        let field = match &self.effective_receptive_field {
            Some(field) => format!(
                "radius {:.1} of {} pixels; {:.1} x {:.1} above 4.55 % of the largest gradient",
                field.radius, field.image_side, field.side, field.side
            ),
            None => self.receptive_field_absent.clone().unwrap_or_default(),
        };
        table.add_row(["receptive field".to_owned(), field]);
        let mut blocks = Table::new();
        blocks.load_preset(UTF8_FULL_CONDENSED).set_header(["block", "parameters"]);
        for block in &self.blocks {
            blocks.add_row([block.name.clone(), grouped(block.parameters)]);
        }
        write!(f, "{table}\n{blocks}")
    }
}
