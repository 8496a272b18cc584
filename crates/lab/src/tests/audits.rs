//! What an audit says of sets whose story is known.

use crate::{Audit, AuditRequest, Finding, audit, project_root};
use heldout_core::{FeatureExtractor, FeatureOutput, Result};
use heldout_data::ImageSet;
use heldout_metrics::{Options, Subsets};
use std::path::PathBuf;
use tch::{Device, Kind, Tensor};

/// Images of each set.
const N: usize = 400;
/// Trousers, which look like nothing else.
const TROUSERS: i64 = 1;

/// Means of 2 x 2 pixels of the first channel; ten of them are its logits, and those of 4 x 4 have their place.
#[derive(Debug)]
struct Toy;

impl FeatureExtractor for Toy {
    fn name(&self) -> &str {
        "toy"
    }

    fn extract(&self, images: &Tensor) -> Result<FeatureOutput> {
        let means = |side: i64| {
            let first = images.narrow(1, 0, 1);
            first.avg_pool2d([side, side], [side, side], [0, 0], false, true, None).flatten(1, -1)
        };
        let features = means(2);
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
    fn new() -> Self {
        let set = ImageSet::open(&project_root().join("datasets/fashion-mnist-16")).unwrap();
        let labels = set.labels.clone().unwrap();
        Self { folder: tempfile::tempdir().unwrap(), set, labels }
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

/// Train, held-out and fresh images are of their own.
fn place() -> Place {
    let place = Place::new();
    place.save_labelled("train", &range(0));
    place.save("held out", &place.images(&range(N)));
    place.save("fresh", &place.images(&range(2 * N)));
    place
}

#[test]
fn verdicts_are_those_of_the_stories() {
    let place = place();
    let fresh = place.images(&range(2 * N));
    let half = (N / 2) as i64;
    let copies = place.images(&range(0)).narrow(0, 0, half);
    place.save("half copier", &Tensor::cat(&[copies, fresh.narrow(0, half, half)], 0));
    let soft = fresh.to_kind(Kind::Float).reflection_pad2d([1, 1, 1, 1]);
    let soft = soft.avg_pool2d([3, 3], [1, 1], [0, 0], false, true, None);
    place.save("blurred", &soft.round().to_kind(Kind::Uint8));
    let others = (2 * N..place.set.len()).filter(|i| place.labels[*i] != TROUSERS).take(N);
    place.save("no trousers", &place.images(&others.collect::<Vec<_>>()));
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
    says("no trousers", &["Missing or rare: 1."]);
    says("noise", &[far, "They cover 0 %"]);
}

/// A model that has learned the held-out images by heart is no model that copies as little as real data do.
#[test]
fn held_out_images_that_were_trained_on_hide_no_copies() {
    let place = place();
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
    assert_eq!(place.audit("fresh", "half leaked").copying, Finding::NoCopies);
    // Not equal, but near: nothing can be left out, and nothing be told.
    let near = (place.images(&half).to_kind(Kind::Float) * 0.98).round().to_kind(Kind::Uint8);
    place.save("near", &near);
    assert_eq!(place.audit("fresh", "near").copying, Finding::HeldOutOverlaps);
}

/// One image again and again, and a class that no held-out image has.
#[test]
fn what_cannot_be_measured_is_noted() {
    let place = place();
    place.save("collapsed", &place.images(&[2 * N]).repeat([100, 1, 1, 1]));
    let others = (N..place.set.len()).filter(|i| place.labels[*i] != TROUSERS).take(N);
    place.save("without trousers", &place.images(&others.collect::<Vec<_>>()));
    let found = place.audit("collapsed", "without trousers");
    let noted = |words: &[&str]| {
        let has = |note: &String| words.iter().all(|word| note.contains(word));
        assert!(found.notes.iter().any(has), "{words:?}: {:?}", found.notes);
    };
    noted(&["inception score(toy) of the samples is left out", "1 distinct rows"]);
    noted(&["FD(toy) of the samples is left out"]);
    noted(&["No held-out image is of 1:"]);
    assert!(found.verdict.contains("They cover"), "{}", found.verdict);
}
