//! How recipes are read and merged.

mod audits;
mod calibration;
mod compositional;
mod training_sets;

use crate::recipe::Study;
use crate::{find_fragment, find_recipe, project_root};

fn study(sets: &[&str]) -> anyhow::Result<Study> {
    with(&[], sets)
}

fn with(fragments: &[&str], sets: &[&str]) -> anyhow::Result<Study> {
    let paths = fragments.iter().map(|f| find_fragment(f)).collect::<anyhow::Result<Vec<_>>>()?;
    let sets: Vec<String> = sets.iter().map(|s| (*s).to_owned()).collect();
    Study::read_with(&find_recipe("quickstart")?, &paths, &sets)
}

#[test]
fn arms_are_changes_to_a_base() {
    let s = study(&[]).unwrap();
    let sizes: Vec<(&str, usize)> = s.arms.iter().map(|(n, r)| (n.as_str(), r.data.split.n_train)).collect();
    assert_eq!(sizes, [("small", 16), ("large", 8192)]);
    let [(_, mut small), (_, large)]: [_; 2] = s.arms.try_into().unwrap();
    small.data.split.n_train = 8192;
    assert_eq!(small, large, "the arms differ in one number");
}

#[test]
fn what_is_set_wins() {
    let s = study(&["train.steps=7", "data.split.n_train=99", "train.non_finite=skip"]).unwrap();
    assert!(s.arms.iter().all(|(_, r)| r.train.steps == 7 && r.data.split.n_train == 99));
    let s = study(&["arms.small.data.split.n_train=32"]).unwrap();
    assert_eq!((s.arms[0].1.data.split.n_train, s.arms[1].1.data.split.n_train), (32, 8192));
    let s =
        study(&["train.optimizer={ kind = \"sgd\", momentum = 0.9, nesterov = false, weight_decay = 0.0 }"])
            .unwrap();
    assert!(format!("{:?}", s.arms[0].1.train.optimizer).starts_with("Sgd"));
}

/// What is evaluated is the outermost average: one that a fragment adds is meant to be it, other techniques are within.
#[test]
fn averages_of_fragments_are_outermost() {
    let kinds = |fragments: &[&str]| {
        let weights = with(fragments, &[]).unwrap().arms.swap_remove(0).1.regularization.weights;
        let table = serde_json::to_value(weights).unwrap();
        table.as_array().unwrap().iter().map(|w| w["kind"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&[]), ["ema"]);
    assert_eq!(kinds(&["swa", "lookahead"]), ["lookahead", "ema", "swa"]);
    assert_eq!(kinds(&["power_ema", "swa"]), ["ema", "power_ema", "power_ema", "swa"]);
}

#[test]
fn fragments_that_contradict_each_other_or_do_nothing_are_told() {
    let says = |fragments: &[&str], sets: &[&str], words: &[&str]| {
        let error = format!("{:#}", with(fragments, sets).unwrap_err());
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let both = ["validation.early_stopping.kind", "early_stopping.toml", "early_stopping_gap.toml"];
    says(&["early_stopping", "early_stopping_gap"], &[], &both);
    says(&["label_dropout"], &[], &["augment[0]", "num_class_embeds"]);
    says(&["swa"], &["train.learning_rate.peak=1e-4"], &["weights[1].rate", "peak = 0.0001"]);
    with(&["early_stopping", "swa", "flip"], &[]).unwrap();
}

/// The resolved recipe that a run folder keeps reads back as the same study.
#[test]
fn a_resolved_recipe_is_a_recipe() {
    let s = study(&["train.steps=7"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("recipe.toml");
    std::fs::write(&path, &s.resolved).unwrap();
    assert_eq!(Study::read(&path, &[]).unwrap(), s);
    assert_eq!(s.without_arms().unwrap().arms.len(), 1);
    assert!(project_root().join("datasets").is_dir());
}

#[test]
fn fingerprints_tell_recipes_and_seeds_apart() {
    let (a, b) = (study(&[]).unwrap(), study(&["model.dropout=0.1"]).unwrap());
    let of = |s: &Study, seed| s.arms[0].1.fingerprint(seed);
    assert_eq!(of(&a, 0), of(&a, 0));
    assert_ne!(of(&a, 0), of(&a, 1));
    assert_ne!(of(&a, 0), of(&b, 0));
}

/// What an outcome needs is asked of the arms that take part, before anything runs.
#[test]
fn an_outcome_that_an_arm_does_not_measure_is_told() {
    let says = |compare: &str, words: [&str; 2]| {
        let error = study(&[&format!("compare={compare}")]).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    };
    let of = |arms: &str, outcome: &str| format!("{{baseline=\"small\",{arms}outcomes=[\"{outcome}\"]}}");
    says(&of("", "edge_f1"), ["compare.outcomes: edge_f1 is not measured in small", "compare.arms"]);
    says(&of("", "composed"), ["composed is not measured in small", "table compose"]);
    says(&of("", "vendi"), ["vendi is not measured in small", "monitor.metrics"]);
    says(&of("arms=[\"none\"],", "gap"), ["compare.arms: `none` is no arm", "small, large"]);

    // An arm that takes no part need not have it.
    let features = "arms.small.monitor.features={network=\"pixels\"}";
    let metrics = "arms.small.monitor.metrics=[\"vendi\"]";
    let alone = format!("compare={}", of("arms=[\"small\"],", "vendi"));
    assert!(study(&[features, metrics, &alone]).unwrap().compare.is_some());
    let all = format!("compare={}", of("", "vendi"));
    assert!(study(&[features, metrics, &all]).unwrap_err().to_string().contains("not measured in large"));
}
