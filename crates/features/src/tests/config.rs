//! Names and tables.

use super::fails;
use crate::{ClassifierConfig, FeaturesConfig, Resources};
use serde_json::{from_value, json, to_value};
use std::path::PathBuf;

#[test]
fn names_and_tables_say_the_same() {
    let path = PathBuf::from("a:b"); // a colon in a path is the path's
    let pairs = [
        ("pixels", json!({"network": "pixels"})),
        ("efficientnet-lite0", json!({"network": "efficientnet-lite0"})),
        ("classifier", json!({"network": "classifier"})),
        ("dinov2:a:b", json!({"network": "dinov2", "path": path})),
        ("clip:a:b", json!({"network": "clip", "path": path})),
        ("inception:a:b", json!({"network": "inception", "path": path})),
        ("torchscript:a:b", json!({"network": "torchscript", "path": path})),
    ];
    for (text, table) in pairs {
        let found: FeaturesConfig = text.parse().unwrap();
        assert_eq!(found, from_value(table).unwrap(), "{text}");
        assert_eq!(from_value::<FeaturesConfig>(to_value(&found).unwrap()).unwrap(), found, "{text}");
    }
}

#[test]
fn what_is_unknown_is_an_error() {
    fails("vgg".parse::<FeaturesConfig>(), "no network `vgg`; known are pixels, efficientnet-lite0");
    fails("dinov2".parse::<FeaturesConfig>(), "write dinov2:PATH");
    fails("clip:".parse::<FeaturesConfig>(), "write clip:PATH");
    fails("pixels:a".parse::<FeaturesConfig>(), "no network `pixels:a`");
    for table in [
        json!({"network": "pixels", "size": 3}),
        json!({"network": "classifier", "epochs": 3}),
        json!({"network": "torchscript", "path": "a", "output": 3}),
        json!({"network": "torchscript", "path": "a", "input": {"sides": 3}}),
        json!({"network": "clip"}),
    ] {
        assert!(from_value::<FeaturesConfig>(table.clone()).is_err(), "{table}");
    }
    let classifier = FeaturesConfig::Classifier(ClassifierConfig::default());
    fails(classifier.build(Resources::default()), "no labels");
}
