//! DINOv2 against transformers, in both layouts.

use super::{check_rows, configs, fails, folder, golden, noise};
use crate::DinoV2;
use heldout_core::FeatureExtractor;
use heldout_testkit::close;
use tch::Device;

#[test]
fn features_are_those_of_transformers() {
    let (golden, configs) = (golden("dinov2"), configs("dinov2.json"));
    for case in ["plain", "gated", "registers"] {
        for layout in ["transformers", "original"] {
            let folder = folder(&golden, &format!("{case}.{layout}."), &configs[case]);
            for side in [28, 35] {
                let network = DinoV2::open(folder.path(), Device::Cpu).unwrap().with_size(side).unwrap();
                let images = golden.get(&format!("images.{side}"));
                let found = network.extract(&images).unwrap().features;
                close(&found, &golden.get(&format!("{case}.features.{layout}.{side}")), 2e-5);
                let tokens = network.tokens(&images).unwrap();
                assert_eq!(tokens.size(), [2, 1 + (side / 7) * (side / 7), 8]);
                check_rows(&network, &images, 1e-5);
            }
        }
    }
}

/// At another size the two layouts place their patches differently, as their projects do.
#[test]
fn each_layout_has_its_positions() {
    let golden = golden("dinov2");
    let [a, b] = ["transformers", "original"].map(|l| golden.get(&format!("plain.features.{l}.35")));
    assert!((a - b).abs().max().double_value(&[]) > 1e-3, "the two rules cannot be told apart");
}

#[test]
fn names_say_the_size() {
    let (golden, configs) = (golden("dinov2"), configs("dinov2.json"));
    let open = |case: &str| {
        let folder = folder(&golden, &format!("{case}.transformers."), &configs[case]);
        DinoV2::open(folder.path(), Device::Cpu).unwrap()
    };
    assert_eq!(open("plain").name(), "DINOv2-ViT-8x2/7");
    assert_eq!(open("registers").name(), "DINOv2-ViT-8x2/7-reg2");
    assert_eq!(open("plain").input().size, Some(224));
    fails(open("plain").with_size(30), "30: a multiple of the patch of 7");
    fails(open("plain").extract(&noise(1, 1, 28)), "[1, 1, 28, 28]");
}

#[test]
fn other_weights_are_refused() {
    let (golden, configs) = (golden("dinov2"), configs("dinov2.json"));
    let config = &configs["plain"];
    let open = |folder: &tempfile::TempDir| DinoV2::open(folder.path(), Device::Cpu);
    fails(open(&folder(&golden, "images.", config)), "not a DINOv2");
    let mut tensors = golden.section("plain.original.");
    tensors.retain(|(name, _)| name != "blocks.1.attn.qkv.bias" && name != "norm.weight");
    let partial = folder(&golden, "images.", config);
    super::write(&tensors, &partial.path().join("model.safetensors"));
    let message = open(&partial).unwrap_err().to_string();
    assert!(message.contains("blocks.1.attn.qkv.bias") && message.contains("norm.weight"), "{message}");
    let mut heads = config.clone();
    heads["num_attention_heads"] = 3.into();
    fails(open(&folder(&golden, "plain.transformers.", &heads)), "3 heads of a width of 8");
}
