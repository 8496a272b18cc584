//! Clips among images: an image of a run is a clip where its data set says so, with its frames as channels.

use crate::recipe::Recipe;
use anyhow::{Result, anyhow};
use heldout_core::Error;
use heldout_data::ImageSet;
use heldout_metrics::motion_distance;
use heldout_regularization::AugmentTechnique;
use heldout_train::{Event, Quality};
use heldout_weights::ModelConfig;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// Pixels between the frames of a clip in a picture.
const BETWEEN: i64 = 1;

/// `shape.json`: what a run is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum ExampleShape {
    /// `[C, H, W]`.
    Image([i64; 3]),
    /// `[C, T, H, W]`.
    Clip([i64; 4]),
}

impl ExampleShape {
    /// Of one of a set.
    pub(crate) fn of(set: &ImageSet) -> Self {
        let ([channels, height, width], frames) = (set.shape.map(|n| n as i64), set.frames as i64);
        match frames {
            1 => Self::Image([channels, height, width]),
            _ => Self::Clip([channels / frames, frames, height, width]),
        }
    }

    /// `[C, H, W]`, frames as channels.
    pub(crate) fn stacked(self) -> [i64; 3] {
        match self {
            Self::Image(shape) => shape,
            Self::Clip([channels, frames, height, width]) => [channels * frames, height, width],
        }
    }

    /// 1 for images.
    pub(crate) fn frames(self) -> i64 {
        match self {
            Self::Image(_) => 1,
            Self::Clip([_, frames, ..]) => frames,
        }
    }

    /// Examples `[n, C T, H, W]`, u8 or in `[-1, 1]`, as images `[n, C, H, W']`: the frames of a clip side by side.
    pub(crate) fn pictures(self, examples: &Tensor) -> Tensor {
        let Self::Clip([channels, frames, ..]) = self else { return examples.shallow_clone() };
        let grey = if examples.kind() == Kind::Uint8 { 128.0 } else { 0.0 };
        let apart =
            examples.unflatten(1, [channels, frames]).constant_pad_nd([0, BETWEEN]).permute([0, 1, 3, 2, 4]);
        let columns = Tensor::arange(BETWEEN, (Kind::Int64, examples.device()));
        let places = columns + examples.size()[3];
        let row = apart.index_fill(4, &places, grey).flatten(3, 4);
        row.narrow(3, 0, row.size()[3] - BETWEEN)
    }

    /// Whether a recipe fits clips, or images: what is of images alone is refused where examples are clips.
    pub(crate) fn check(self, recipe: &Recipe) -> Result<()> {
        let refuse = |field: &str, reason: String| Err(anyhow!(Error::config(field, reason)));
        let frames = self.frames();
        if let ModelConfig::SpaceTimeDit(config) = &recipe.model
            && config.frames != frames
        {
            let found = if frames == 1 { "images".to_owned() } else { format!("clips of {frames} frames") };
            let reason = format!("{}, where {} holds {found}", config.frames, recipe.data.name);
            return refuse("model.frames", reason);
        }
        if frames == 1 {
            return Ok(());
        }
        let clips =
            |takes: &str| format!("takes {takes}, where {} holds clips: leave it out", recipe.data.name);
        let colours = |a: &AugmentTechnique| matches!(a, AugmentTechnique::ColorJitter(_));
        if recipe.monitor.features.is_some() {
            return refuse("monitor.features", clips("images"));
        }
        if recipe.latent.is_some() {
            return refuse("latent", clips("images"));
        }
        if recipe.adapter.as_ref().is_some_and(|adapter| !adapter.hints().is_empty()) {
            return refuse("adapter.hint", clips("images"));
        }
        match recipe.regularization.augment.iter().position(colours) {
            Some(i) => refuse(&format!("regularization.augment[{i}]"), clips("colours of images")),
            None => Ok(()),
        }
    }

    /// How far the motion of generated clips is from that of held-out ones, beside two halves of these; `None` of images.
    pub(crate) fn motion(self, generated: &Tensor, held_out: &Tensor) -> heldout_core::Result<Option<Event>> {
        let frames = self.frames();
        if frames == 1 {
            return Ok(None);
        }
        let distance = move |x: &Tensor, y: &Tensor| motion_distance(x, y, frames);
        Quality::new("motion", Box::new(distance)).measure(generated, held_out).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use tch::Device;

    fn digits() -> ImageSet {
        ImageSet::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../datasets/moving-digits")).unwrap()
    }

    #[test]
    fn frames_stand_side_by_side_in_pictures() {
        let shape = ExampleShape::Clip([3, 2, 4, 5]);
        let clips =
            Tensor::arange(2 * 6 * 4 * 5, (Kind::Int64, Device::Cpu)).to_kind(Kind::Uint8).view([2, 6, 4, 5]);
        let pictures = shape.pictures(&clips);
        assert_eq!(pictures.size(), [2, 3, 4, 11]);
        for channel in 0..3 {
            let of = |first: i64| pictures.select(1, channel).narrow(2, first, 5);
            assert!(of(0).equal(&clips.select(1, 2 * channel)));
            assert!(of(6).equal(&clips.select(1, 2 * channel + 1)));
        }
        assert_eq!(pictures.narrow(3, 5, 1).unique_dim(3, true, false, false).0.max().int64_value(&[]), 128);
        assert_eq!(pictures.narrow(3, 5, 1).min().int64_value(&[]), 128);
        assert!(ExampleShape::Image([6, 4, 5]).pictures(&clips).equal(&clips));
    }

    #[test]
    fn a_shape_is_read_back() {
        for shape in [ExampleShape::Image([3, 4, 5]), ExampleShape::Clip([1, 8, 16, 16])] {
            let text = serde_json::to_string(&shape).unwrap();
            assert_eq!(serde_json::from_str::<ExampleShape>(&text).unwrap(), shape);
        }
        let of_digits = ExampleShape::of(&digits());
        assert_eq!((of_digits, of_digits.stacked()), (ExampleShape::Clip([1, 8, 16, 16]), [8, 16, 16]));
    }

    /// Real frames in another order are far by their motion, and all but real by their pixels.
    #[test]
    fn motion_sees_the_order_of_frames() {
        let set = digits();
        let clips = |range: std::ops::Range<usize>| set.tensor(&Vec::from_iter(range), Device::Cpu).unwrap();
        let (held_out, real) = (clips(0..400), clips(400..656));
        let score = |clips: &Tensor| match ExampleShape::of(&set).motion(clips, &held_out).unwrap() {
            Some(Event::Quality { value, floor, .. }) => [value, floor],
            other => panic!("{other:?}"),
        };
        let [of_real, floor] = score(&real);
        let order = Tensor::from_slice(&[3i64, 0, 6, 1, 7, 4, 2, 5]);
        let [shuffled, _] = score(&real.index_select(1, &order));
        let [still, _] = score(&real.narrow(1, 0, 1).repeat([1, 8, 1, 1]));
        assert!(of_real.abs() < 0.02 && floor.abs() < 0.02, "{of_real} {floor}");
        assert!(shuffled > 0.5 && still > 1.0, "{shuffled} {still}");
        assert!(ExampleShape::Image([8, 16, 16]).motion(&real, &held_out).unwrap().is_none());
    }
}
