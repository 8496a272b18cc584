//! Names that diffusers itself has changed: attention layers of models saved before its version 0.18.
//!
//! | in old files | since then |
//! |---|---|
//! | `attentions.N.query`, `key`, `value` | `attentions.N.to_q`, `to_k`, `to_v` |
//! | `attentions.N.proj_attn` | `attentions.N.to_out.0` |

use crate::Piece;
use crate::piece::{Shapes, as_named, renamed};

const OLD: [(&str, &str); 4] =
    [("query", "to_q"), ("key", "to_k"), ("value", "to_v"), ("proj_attn", "to_out.0")];

/// Every tensor of a folder of diffusers under its present name.
pub fn current_names(shapes: &Shapes) -> Vec<Piece> {
    renamed(as_named(shapes), |name| Some(current_name(name)))
}

fn current_name(name: &str) -> String {
    let mut parts: Vec<&str> = name.split('.').collect();
    if let [.., attentions, _, layer, _] = parts.as_mut_slice()
        && *attentions == "attentions"
        && let Some((_, new)) = OLD.iter().find(|(old, _)| old == layer)
    {
        *layer = new;
    }
    parts.join(".")
}
