//! What an audit says of sets whose story is known.

use crate::{Audit, AuditRequest, Finding, audit, project_root};
use heldout_core::{FeatureExtractor, FeatureOutput, Result};
use heldout_data::ImageSet;
use heldout_metrics::{Options, Subsets};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// Images of each set.
const N: usize = 400;

/// The first channel at 8 x 8 pixels; ten of them are its logits, and those at 4 x 4 have their place.
#[derive(Debug)]
struct Toy;

impl FeatureExtractor for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        let means = |to: i64| {
            let (first, side) = (images.narrow(1, 0, 1), images.size()[3] / to);
            first.avg_pool2d([side, side], [side, side], [0, 0], false, true, None).flatten(1, -1)
        };
        let features = means(8);
        let logits = Some(features.narrow(1, 20, 10) * 8.0);
        Ok(FeatureOutput { features, logits, spatial: Some(means(4)) })
    }
}

/// A folder with sets of images in it, and the data that they are drawn from.
struct Place {
    folder: tempfile::TempDir,
    set: ImageSet,
    labels: Vec<i64>,
}

impl Place {
    /// Train, held-out and fresh images are of their own.
    fn new(data: &str) -> Self {
        let set = ImageSet::open(&project_root().join("datasets").join(data)).unwrap();
        let labels = set.labels.clone().unwrap();
        let place = Self { folder: tempfile::tempdir().unwrap(), set, labels };
        place.save_labelled("train", &range(0));
        place.save("held out", &place.images(&range(N)));
        place.save("fresh", &place.images(&range(2 * N)));
        place
    }

    /// Images from `first` on of all classes but one.
    fn without(&self, class: i64, first: usize) -> Vec<usize> {
        (first..self.set.len()).filter(|i| self.labels[*i] != class).take(N).collect()
    }

    fn images(&self, index: &[usize]) -> Tensor {
        self.set.bytes(index).unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.safetensors"))
    }

    fn save(&self, name: &str, images: &Tensor) {
        Tensor::write_safetensors(&[("images", &images.contiguous())], self.path(name)).unwrap();
    }

    /// With their classes.
    fn save_labelled(&self, name: &str, index: &[usize]) {
        let labels: Vec<i64> = index.iter().map(|i| self.labels[*i]).collect();
        let tensors = [("images", self.images(index)), ("labels", Tensor::from_slice(&labels))];
        Tensor::write_safetensors(&tensors, self.path(name)).unwrap();
    }

    fn audit(&self, generated: &str, held_out: &str) -> Audit {
        let [generated, train, held_out] = [generated, "train", held_out].map(|name| self.path(name));
        let request = AuditRequest {
            generated: &generated,
            train: &train,
            held_out: Some(&held_out),
            range: None,
            compared_side: 32,
            batch_size: 64,
            options: Options { kid: Subsets::All, ..Options::default() },
            device: Device::Cpu,
        };
        audit(&request, &Toy, &self.folder.path().join("out")).unwrap()
    }
}

fn range(first: usize) -> Vec<usize> {
    (first..first + N).collect()
}

#[test]
fn verdicts_are_those_of_the_stories() {
    let place = Place::new("fashion-mnist-16");
    let fresh = place.images(&range(2 * N));
    let half = (N / 2) as i64;
    let copies = place.images(&range(0)).narrow(0, 0, half);
    place.save("half copier", &Tensor::cat(&[copies, fresh.narrow(0, half, half)], 0));
    let soft = fresh.to_kind(Kind::Float).reflection_pad2d([1, 1, 1, 1]);
    let soft = soft.avg_pool2d([3, 3], [1, 1], [0, 0], false, true, None);
    place.save("blurred", &soft.round().to_kind(Kind::Uint8));
    tch::manual_seed(0);
    place.save("noise", &Tensor::randint(256, [N as i64, 1, 16, 16], (Kind::Uint8, Device::Cpu)));

    let half = place.audit("half copier", "held out");
    assert_eq!((half.copying, half.copies.count), (Finding::Copies, N / 2), "{}", half.verdict);
    let far = "not of the data's distribution";
    let says = |generated: &str, words: &[&str]| {
        let found = place.audit(generated, "held out");
        assert_eq!(found.copying, Finding::NoCopies, "{generated}: {}", found.verdict);
        for word in words {
            assert!(found.verdict.contains(word), "{generated}: {}", found.verdict);
        }
        found
    };
    let real = says("fresh", &["as near as real data"]);
    assert!(!real.verdict.contains("Missing") && !real.verdict.contains("cover"), "{}", real.verdict);
    assert!(real.metrics.contains_key("sFD(toy)") && real.metrics.contains_key("inception score(toy)"));
    let blurred = says("blurred", &[far]);
    let spatial = |found: &Audit| found.metrics["sFD(toy)"].against_held_out.unwrap();
    assert!(spatial(&blurred) > spatial(&real), "{} {}", spatial(&blurred), spatial(&real));
    says("noise", &[far, "They cover 0 %"]);

    let digits = Place::new("digits");
    digits.save("no zeros", &digits.images(&digits.without(0, 2 * N)));
    let found = digits.audit("no zeros", "held out");
    assert_eq!(found.copying, Finding::NoCopies, "{}", found.verdict);
    assert!(found.verdict.contains("Missing or rare: 0."), "{}", found.verdict);
}

/// A copier must not pass for a model that copies no more than real data do.
#[test]
fn held_out_images_that_were_trained_on_hide_no_copies() {
    let place = Place::new("fashion-mnist-16");
    place.save("copier", &place.images(&range(0)));
    for generated in ["copier", "fresh"] {
        let all = place.audit(generated, "train");
        assert_eq!(all.copying, Finding::HeldOutOverlaps, "{}", all.verdict);
        assert!(
            all.verdict.contains("400 of 400 held-out images") && all.verdict.contains("400 of them equal")
        );
    }
    let half = [&range(0)[..N / 2], &range(N)[N / 2..]].concat();
    place.save("half leaked", &place.images(&half));
    let copier = place.audit("copier", "half leaked");
    assert_eq!((copier.copying, copier.false_positives.of), (Finding::Copies, N / 2), "{}", copier.verdict);
    assert!(
        copier.notes.iter().any(|note| note.starts_with("200 of 400 held-out images")),
        "{:?}",
        copier.notes
    );
    // Not equal, but near: nothing can be left out, and nothing be told.
    let near = (place.images(&half).to_kind(Kind::Float) * 0.98).round().to_kind(Kind::Uint8);
    place.save("near", &near);
    assert_eq!(place.audit("fresh", "near").copying, Finding::HeldOutOverlaps);
}

/// One image again and again, and a class that no held-out image has.
#[test]
fn what_cannot_be_measured_is_noted() {
    let place = Place::new("fashion-mnist-16");
    place.save("collapsed", &place.images(&[2 * N]).repeat([100, 1, 1, 1]));
    place.save_labelled("without a class", &place.without(1, N));
    let found = place.audit("collapsed", "without a class");
    let noted = |words: &[&str]| {
        let has = |note: &String| words.iter().all(|word| note.contains(word));
        assert!(found.notes.iter().any(has), "{words:?}: {:?}", found.notes);
    };
    noted(&["inception score(toy) of the samples is left out", "1 distinct rows"]);
    noted(&["FD(toy) of the samples is left out"]);
    noted(&["No held-out image is of 1:"]);
    assert!(found.verdict.contains("They cover"), "{}", found.verdict);
}
