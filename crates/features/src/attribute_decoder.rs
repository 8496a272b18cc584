//! Which attributes an image has, by a classifier that is trained in place.

use crate::classifier::check_of_set;
use crate::small::Small;
use crate::{ClassifierConfig, Labelled};
use heldout_core::{Error, Result};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, Tensor};

/// How well one class is told of held-out images.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DecodedClass {
    /// Its name.
    pub class: String,
    /// Share of the held-out images that have it.
    pub share: f64,
    /// Share that it is told rightly of.
    pub accuracy: f64,
    /// The same of those that have it; absent without any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sensitivity: Option<f64>,
    /// The same of those that do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specificity: Option<f64>,
}

/// Classes of images of which several may hold at once: the network of [`Classifier`](crate::Classifier) with a logistic
/// output for each, which holds from probability 1/2 on. A function of the data and the seed.
///
/// Law: the same data and seed give the same weights.
#[derive(Debug)]
pub struct AttributeDecoder {
    network: Small,
    classes: Vec<DecodedClass>,
}

impl AttributeDecoder {
    /// Trains on `train` and is measured on `held_out`; labels are `[N, K]`, for the `K` classes of `names`.
    ///
    /// # Errors
    /// A field of the configuration, or images and labels that do not go together.
    pub fn train(
        config: ClassifierConfig,
        names: &[String],
        train: Labelled<'_>,
        held_out: Labelled<'_>,
        device: Device,
    ) -> Result<Self> {
        config.check()?;
        check(train, "train", names)?;
        check(held_out, "held-out", names)?;
        let size = train.size_with(held_out)?;
        let loss = |logits: &Tensor, labels: &Tensor| {
            logits.binary_cross_entropy_with_logits::<Tensor>(labels, None, None, Reduction::Mean)
        };
        let shape = (size, names.len() as i64);
        let network = Small::train(config, "the decoder of attributes", shape, train, &loss, device)?;
        let found = network.logits_of(held_out.images).gt(0.0);
        let truth = held_out.labels.to_device(device).gt(0.5);
        let class = |(i, name): (usize, &String)| measured(name, &of(&found, i), &of(&truth, i));
        let classes = names.iter().enumerate().map(class).collect();
        Ok(Self { network, classes })
    }

    /// How well each class is told of the held-out images, in the order of the names.
    pub fn classes(&self) -> &[DecodedClass] {
        &self.classes
    }

    /// Which classes hold for images `[N, 1 or 3, H, W]`, bytes or f32 in `[0, 1]`, of the size that it was trained on:
    /// `[N, K]`, bool.
    ///
    /// # Errors
    /// Images of another shape, size or kind.
    pub fn decode(&self, images: &Tensor) -> Result<Tensor> {
        check_of_set(images, "decoded")?;
        if images.size()[2..] != self.network.size {
            let (found, size) = (&images.size()[2..], self.network.size);
            return Err(Error::config("decoded images", format!("{found:?}: it was trained on {size:?}")));
        }
        Ok(self.network.logits_of(images).gt(0.0))
    }
}

fn of(all: &Tensor, class: usize) -> Tensor {
    all.select(1, class as i64)
}

fn measured(name: &str, found: &Tensor, truth: &Tensor) -> DecodedClass {
    let right = found.eq_tensor(truth).to_kind(Kind::Double);
    let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
    let among = |rows: &Tensor| {
        let chosen = right.masked_select(rows);
        (chosen.numel() > 0).then(|| mean(&chosen))
    };
    DecodedClass {
        class: name.to_owned(),
        share: mean(&truth.to_kind(Kind::Double)),
        accuracy: mean(&right),
        sensitivity: among(truth),
        specificity: among(&truth.logical_not()),
    }
}

/// Whether images and labels go together.
fn check(set: Labelled<'_>, name: &str, classes: &[String]) -> Result<()> {
    check_of_set(set.images, name)?;
    let (found, wanted) = (set.labels.size(), [set.images.size()[0], classes.len() as i64]);
    if classes.is_empty() || found != wanted || set.labels.kind() != Kind::Float {
        let reason = format!("{found:?} of {:?}: {wanted:?} of Float is needed", set.labels.kind());
        return Err(Error::config(format!("{name} labels"), reason));
    }
    if !bool::try_from(set.labels.eq(0.0).logical_or(&set.labels.eq(1.0)).all())? {
        return Err(Error::config(
            format!("{name} labels"),
            "1 where a class holds and 0 elsewhere is needed",
        ));
    }
    Ok(())
}
