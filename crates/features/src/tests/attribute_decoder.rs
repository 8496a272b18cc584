//! The decoder of attributes on the faces that ship.

use super::{fails, noise};
use crate::{AttributeDecoder, ClassifierConfig, Labelled};
use heldout_data::{AttributeClasses, AttributeTable, ImageSet};
use std::path::Path;
use tch::{Device, Kind, Tensor};

const TRAINED_ON: i64 = 1500;
const TESTED_ON: i64 = 500;

/// Faces and which of three classes hold for each, and the names of these.
fn faces() -> (Tensor, Tensor, Vec<String>) {
    let folder = Path::new(super::MANIFEST).join("../../datasets/pixel-faces");
    let table = AttributeTable::read(&folder, "labels").unwrap();
    let of = |name: &str, attribute: &str, value: &str| {
        (name.to_owned(), [(attribute.to_owned(), value.to_owned())].into_iter().collect())
    };
    let classes = [of("bare", "glasses", ""), of("glasses", "glasses", "any"), of("long", "hair", "long*")];
    let classes = AttributeClasses::new(&table, &classes.into_iter().collect()).unwrap();
    let all = Vec::from_iter(0..(TRAINED_ON + TESTED_ON) as usize);
    let bits: Vec<f32> =
        all.iter().flat_map(|i| [0, 1, 2].map(|c| f32::from(classes.holds(c, *i)))).collect();
    let images = ImageSet::open(&folder).unwrap().bytes(&all).unwrap();
    (images, Tensor::from_slice(&bits).view([-1, 3]), classes.names().to_vec())
}

/// Faces that it has not seen, of every combination, are told rightly, and the same seed makes the same network.
#[test]
fn it_tells_several_attributes_at_once() {
    let (images, labels, names) = faces();
    let of = |x: &Tensor| [x.narrow(0, 0, TRAINED_ON), x.narrow(0, TRAINED_ON, TESTED_ON)];
    let ([seen, unseen], [seen_labels, truth]) = (of(&images), of(&labels));
    let config = ClassifierConfig { steps: 120, batch_size: 32, ..ClassifierConfig::default() };
    let train = |config| {
        let train = Labelled { images: &seen, labels: &seen_labels };
        AttributeDecoder::train(
            config,
            &names,
            train,
            Labelled { images: &unseen, labels: &truth },
            Device::Cpu,
        )
    };
    let decoder = train(config).unwrap();
    for class in decoder.classes() {
        let (with, without) = (class.sensitivity.unwrap(), class.specificity.unwrap());
        assert!(class.accuracy > 0.95 && with > 0.85 && without > 0.85, "{class:?}");
    }
    // What it says of single images is what it is measured by.
    let found = decoder.decode(&unseen).unwrap();
    let right = found.eq_tensor(&truth.gt(0.5)).to_kind(Kind::Double).mean_dim(0i64, false, Kind::Double);
    let claimed: Vec<f64> = decoder.classes().iter().map(|c| c.accuracy).collect();
    assert_eq!(Vec::<f64>::try_from(right).unwrap(), claimed);
    let unit = unseen.to_kind(Kind::Float) / 255.0;
    assert!(decoder.decode(&unit.narrow(0, 0, 50)).unwrap().equal(&found.narrow(0, 0, 50)));
    let short = ClassifierConfig { steps: 3, ..config };
    let [a, b] = [(); 2].map(|()| train(short).unwrap().decode(&unseen).unwrap());
    assert!(a.equal(&b));
    fails(decoder.decode(&noise(2, 3, 20)), "trained on [16, 16]");
}

#[test]
fn images_and_attributes_go_together() {
    let images = noise(8, 3, 8);
    let names = ["a".to_owned(), "b".to_owned()];
    let config = ClassifierConfig { steps: 1, batch_size: 2, ..ClassifierConfig::default() };
    let labels = Tensor::zeros([8, 2], (Kind::Float, Device::Cpu));
    let train = |config, labels: &Tensor| {
        let set = Labelled { images: &images, labels };
        AttributeDecoder::train(config, &names, set, set, Device::Cpu)
    };
    let untaught = train(config, &labels).unwrap();
    assert_eq!((untaught.classes()[0].sensitivity, untaught.classes()[0].share), (None, 0.0));
    fails(train(config, &labels.narrow(0, 0, 7)), "train labels: [7, 2]");
    fails(train(config, &labels.narrow(1, 0, 1)), "[8, 2] of Float");
    fails(train(config, &labels.to_kind(Kind::Int64)), "Float is needed");
    fails(train(config, &(&labels + 0.5)), "1 where a class holds");
    fails(train(ClassifierConfig { steps: 0, ..config }, &labels), "steps: 0");
}
