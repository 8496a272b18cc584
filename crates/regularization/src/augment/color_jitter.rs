//! Other light and other colours.

use super::color::{adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation};
use super::pick::{always, check_probability, check_range, only, picked, uniform};
use heldout_core::{Augment, Batch, Clock, Curve, CurveConfig, Error, Result};
use serde::{Deserialize, Serialize};

/// Changes brightness, contrast, saturation and hue, in this order, by uniform factors; images `[B, C, H, W]` in
/// `[-1, 1]`. The ranges are torchvision's `ColorJitter`, which draws the order as well.
///
/// Law: rows that are not picked stay, to the last bit; the others stay in `[-1, 1]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct ColorJitter {
    /// How many images are changed.
    #[serde(default = "always")]
    pub probability: CurveConfig,
    /// Factor within `1 - brightness..1 + brightness`, from 0 on.
    #[serde(default)]
    pub brightness: f64,
    /// Factor within `1 - contrast..1 + contrast`, from 0 on; 1 or 3 channels.
    #[serde(default)]
    pub contrast: f64,
    /// Factor within `1 - saturation..1 + saturation`, from 0 on; 3 channels.
    #[serde(default)]
    pub saturation: f64,
    /// Share of the colour circle within `-hue..hue`, at most a half; 3 channels.
    #[serde(default)]
    pub hue: f64,
}

impl ColorJitter {
    /// Whether the settings can be honoured for images of `[C, H, W]`.
    pub fn check(&self, [channels, _, _]: [i64; 3]) -> Result<()> {
        check_probability(&self.probability)?;
        check_range("brightness", self.brightness, 0.0, f64::MAX)?;
        check_range("contrast", self.contrast, 0.0, f64::MAX)?;
        check_range("saturation", self.saturation, 0.0, f64::MAX)?;
        check_range("hue", self.hue, 0.0, 0.5)?;
        let wrong = |field: &str, value: f64, needed: &str| {
            let reason = format!("{value} needs images of {needed} channels, not {channels}: set it to 0");
            Err(Error::config(field, reason))
        };
        match channels {
            3 => Ok(()),
            _ if self.saturation > 0.0 => wrong("saturation", self.saturation, "3"),
            _ if self.hue > 0.0 => wrong("hue", self.hue, "3"),
            1 => Ok(()),
            _ if self.contrast > 0.0 => wrong("contrast", self.contrast, "1 or 3"),
            _ => Ok(()),
        }
    }
}

impl Augment for ColorJitter {
    fn augment(&mut self, mut batch: Batch, clock: Clock) -> Batch {
        let probability = self.probability.at(clock);
        let still = [self.brightness, self.contrast, self.saturation, self.hue] == [0.0; 4];
        if probability == 0.0 || still {
            return batch;
        }
        let old = &batch.x_start;
        let rows = picked(old, probability);
        let factor = |range: f64| uniform(old, (1.0 - range).max(0.0), 1.0 + range);
        let mut x = old * 0.5 + 0.5;
        if self.brightness > 0.0 {
            x = adjust_brightness(&x, &factor(self.brightness));
        }
        if self.contrast > 0.0 {
            x = adjust_contrast(&x, &factor(self.contrast));
        }
        if self.saturation > 0.0 {
            x = adjust_saturation(&x, &factor(self.saturation));
        }
        if self.hue > 0.0 {
            x = adjust_hue(&x, &uniform(old, -self.hue, self.hue));
        }
        batch.x_start = only(&rows, &(x * 2.0 - 1.0), old);
        batch
    }
}
