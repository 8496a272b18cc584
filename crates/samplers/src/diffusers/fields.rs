//! The fields of one configuration, taken out one by one, so that none is overlooked.

use heldout_core::{Error, Result};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Fields that diffusers' schedulers share without all of them reading them. A file may carry another scheduler's, which
/// diffusers passes over; so do we.
const OF_OTHERS: &[&str] = &[
    "algorithm_type",
    "base_image_seq_len",
    "base_shift",
    "beta_end",
    "beta_schedule",
    "beta_start",
    "clip_sample",
    "clip_sample_range",
    "disable_corrector",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "flow_shift",
    "interpolation_type",
    "invert_sigmas",
    "lambda_min_clipped",
    "lower_order_final",
    "max_image_seq_len",
    "max_shift",
    "predict_x0",
    "prediction_type",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "shift",
    "shift_terminal",
    "sigma_max",
    "sigma_min",
    "skip_prk_steps",
    "solver_order",
    "solver_p",
    "solver_type",
    "steps_offset",
    "stochastic_sampling",
    "thresholding",
    "time_shift_type",
    "timestep_spacing",
    "timestep_type",
    "trained_betas",
    "use_beta_sigmas",
    "use_dynamic_shifting",
    "use_exponential_sigmas",
    "use_flow_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

/// What has not been read yet.
pub(super) struct Fields(Map<String, Value>);

impl Fields {
    /// The object, and the name of its class.
    pub(super) fn parse(text: &str) -> Result<(Self, String)> {
        // Python writes `-Infinity`, which JSON has not and JSON5 has.
        let value: Value = json5::from_str(text)
            .map_err(|e| Error::config("scheduler_config", format!("is not JSON: {e}")))?;
        let Value::Object(mut map) = value else {
            return Err(Error::config("scheduler_config", "is not an object of fields"));
        };
        let class = match map.remove("_class_name") {
            Some(Value::String(class)) => class,
            _ => return Err(Error::config("_class_name", "is missing: it says which scheduler this is")),
        };
        map.retain(|name, _| !name.starts_with('_')); // notes of diffusers to itself
        Ok((Self(map), class))
    }

    /// The field, or what diffusers takes for it where it is absent.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str, absent: T) -> Result<T> {
        match self.0.remove(name) {
            None => Ok(absent),
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| Error::config(name, format!("{value} is not of the type that it should be"))),
        }
    }

    /// A field that changes nothing here, whatever it says.
    pub(super) fn ignore(&mut self, names: &[&str]) {
        names.iter().for_each(|name| drop(self.0.remove(*name)));
    }

    /// A field that is honoured with one of these values alone; `absent` is what diffusers takes where it is absent.
    pub(super) fn only(&mut self, name: &str, absent: Value, honoured: &[Value]) -> Result<()> {
        let value = self.0.remove(name).unwrap_or(absent);
        let same = |v: &Value| *v == value || v.as_f64().is_some_and(|v| value.as_f64() == Some(v));
        if honoured.iter().any(same) {
            return Ok(());
        }
        let known: Vec<String> = honoured.iter().map(Value::to_string).collect();
        Err(Error::config(name, format!("{value} cannot be honoured: only {} can", known.join(" or "))))
    }

    /// The text of a field, which stays.
    pub(super) fn text<'a>(&'a self, name: &str, absent: &'a str) -> &'a str {
        self.0.get(name).and_then(Value::as_str).unwrap_or(absent)
    }

    /// A field that must be false or absent.
    pub(super) fn off(&mut self, name: &str) -> Result<()> {
        self.only(name, Value::Bool(false), &[Value::Bool(false), Value::Null])
    }

    /// A field that must be null or absent.
    pub(super) fn null(&mut self, name: &str) -> Result<()> {
        self.only(name, Value::Null, &[Value::Null])
    }

    /// Everything has been read.
    pub(super) fn done(self, class: &str) -> Result<()> {
        match self.0.iter().find(|(name, _)| !OF_OTHERS.contains(&name.as_str())) {
            None => Ok(()),
            Some((name, value)) => {
                let reason = format!("{value} cannot be honoured: no field of {class} that is known here");
                Err(Error::config(name, reason))
            }
        }
    }
}
