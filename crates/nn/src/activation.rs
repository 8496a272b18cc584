//! Pointwise functions.

use crate::tally;
use serde::{Deserialize, Serialize};
use tch::Tensor;

/// A pointwise function, by diffusers' names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = with_swish))]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(x)`; Elfwing et al. 2018.
    #[default]
    #[serde(alias = "swish")]
    Silu,
    /// `x Phi(x)`; Hendrycks and Gimpel 2016.
    Gelu,
    /// `x tanh(softplus(x))`; Misra 2019.
    Mish,
    /// `max(x, 0)`.
    Relu,
}

/// A schema that admits the other name of `silu`, too.
#[cfg(feature = "schema")]
fn with_swish(schema: &mut schemars::Schema) {
    let swish = schemars::json_schema!({
        "type": "string", "const": "swish", "description": "The same as `silu`."
    });
    schema.get_mut("oneOf").and_then(|names| names.as_array_mut()).into_iter().for_each(|names| {
        names.push(swish.clone().to_value());
    });
}

impl Activation {
    /// Of every number.
    pub fn apply(self, x: &Tensor) -> Tensor {
        let out = match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::Mish => x.mish(),
            Self::Relu => tally::shaped(x, &x.size()).unwrap_or_else(|| x.relu()),
        };
        tally::kept(&out);
        out
    }
}
