//! What the literature leads one to expect of a set of this size, and of a model of that size on it.

use super::labels::{LabelKind, Labels};
use crate::advise::{COPIES_ALL, capacity};
use crate::describe::{DescribeRequest, describe};
use anyhow::Result;
use serde::Serialize;

/// A model beside the data set.
#[derive(Debug, Clone, Serialize)]
pub struct ModelSize {
    /// As it was named.
    pub name: String,
    /// Trained numbers.
    pub parameters: u64,
    /// For every distinct image.
    pub parameters_per_image: f64,
    /// For every number of the distinct images, at the size of the set.
    pub parameters_per_number: f64,
    /// Whether they are enough to copy all of the set, given the steps.
    pub can_copy_all: bool,
}

/// What to expect, and who found it.
#[derive(Debug, Clone, Serialize)]
pub struct Expectation {
    /// In a sentence or two.
    pub text: String,
    /// Authors and year.
    pub source: &'static str,
}

/// Measures a preset, a model folder or file, or a trained arm, against `images` distinct images of `pixels` numbers.
pub(crate) fn model_size(name: &str, images: usize, pixels: usize) -> Result<ModelSize> {
    let described = describe(&DescribeRequest {
        model: name,
        side: None,
        tokens: 77,
        batch_size: 1,
        receptive_field: Some(false),
        head_channels: None,
    })?;
    let parameters = described.trainable_parameters;
    let per_number = capacity(parameters, images, pixels);
    Ok(ModelSize {
        name: name.to_owned(),
        parameters,
        parameters_per_image: parameters as f64 / images as f64,
        parameters_per_number: per_number,
        can_copy_all: per_number > COPIES_ALL,
    })
}

/// Below this, networks of the size that is published copied almost all of their training set when trained to the end.
const FEW: usize = 1_000;
/// From about this many on, two networks that saw different images were found to agree.
const MANY: usize = 100_000;

/// What is known of sets and models like these. Figures come from other images and networks than yours: they say what to look
/// for, not what will be.
pub(crate) fn expectations(
    images: usize,
    repeated: bool,
    labels: Option<&Labels>,
    model: Option<&ModelSize>,
) -> Vec<Expectation> {
    let mut all = Vec::new();
    let mut say = |text: String, source| all.push(Expectation { text, source });
    say(
        if images < FEW {
            format!(
                "{images} images are few: convolutional networks that trained to the end on up to about {FEW} copied them."
            )
        } else if images < MANY {
            format!(
                "{images} images lie between the few hundred that networks copied and the about {MANY} from which two networks \
                 that saw different faces drew the same ones: whether yours generalises is open until it is measured."
            )
        } else {
            format!(
                "{images} images: from about {MANY} on, two networks that saw different faces drew the same ones, a sign that \
                 they generalise. Larger images and networks may need more."
            )
        },
        "Kadkhodaie et al. 2024",
    );
    if let Some(m) = model {
        let what = format!(
            "{} has {} parameters, {:.3} for every number of the data and {:.0} for every image",
            m.name, m.parameters, m.parameters_per_number, m.parameters_per_image
        );
        say(
            if m.can_copy_all {
                format!(
                    "{what}: enough to copy all of it, if it trains for long. A model generalises where it cannot."
                )
            } else {
                format!(
                    "{what}: it is not expected to copy the whole of it, which does not keep single images from being copied."
                )
            },
            "Yoon et al. 2023",
        );
    }
    say(
        "The step at which copying sets in grows in proportion to the number of images, and the step at which samples become \
         good does not: stop in between. `heldout stop-step` predicts the first from short runs."
            .to_owned(),
        "Bonnaire et al. 2025",
    );
    if repeated {
        say(
            "Images that are there several times are copied first: leave the repetitions out.".to_owned(),
            "Carlini et al. 2023",
        );
    }
    match labels.map(|l| l.kind) {
        Some(LabelKind::Unique | LabelKind::Random) => say(
            "Labels that are unique or random made a model copy far more of the same images than no labels did: do not give \
             these to it."
                .to_owned(),
            "Gu et al. 2023",
        ),
        Some(LabelKind::Thin | LabelKind::Plain) => {
            say("Labels add to copying even where they are true; measure with and without.".to_owned(), "Gu et al. 2023");
        }
        Some(LabelKind::Single) | None => {}
    }
    all
}
