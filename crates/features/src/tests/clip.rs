//! CLIP's towers and tokens against transformers.

use super::{MANIFEST, check_rows, configs, fails, folder, golden, noise};
use crate::{ClipText, ClipTokenizer, ClipVision, TextOutput, Tokens, Truncation};
use heldout_core::FeatureExtractor;
use heldout_testkit::{Golden, close};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

fn open_text(golden: &Golden, case: &str) -> ClipText {
    let folder = folder(golden, &format!("{case}."), &configs("clip.json")[case]);
    ClipText::open(folder.path(), Device::Cpu).unwrap()
}

fn tokens(golden: &Golden) -> Tokens {
    Tokens { ids: golden.get("ids"), mask: golden.get("mask") }
}

#[test]
fn images_are_embedded_as_by_transformers() {
    let golden = golden("clip");
    let whole = folder(&golden, "whole.", &configs("clip.json")["whole"]);
    let network = ClipVision::open(whole.path(), Device::Cpu).unwrap();
    let images = golden.get("images");
    close(&network.tokens(&images).unwrap(), &golden.get("out.vision.last"), 2e-5);
    close(&network.extract(&images).unwrap().features, &golden.get("out.vision.embeds"), 2e-5);
    check_rows(&network, &images, 1e-5);
    assert_eq!(network.name(), "CLIP-ViT-8x2/7@28");
    assert_eq!(network.extract(&noise(1, 3, 50)).unwrap().features.size(), [1, 6]);
    // A file of the tower alone has no prefix, and perhaps no projection.
    let alone = whole.path().join("alone.safetensors");
    let tower: Vec<_> = golden.section("whole.vision_model.").into_iter().collect();
    super::write(&tower, &alone);
    let network = ClipVision::open(&alone, Device::Cpu).unwrap();
    assert_eq!(network.extract(&images).unwrap().features.size(), [2, 8]);
    fails(ClipText::open(&alone, Device::Cpu), "embeddings.token_embedding.weight: is not there");
}

fn check_text(golden: &Golden, case: &str, found: &TextOutput) {
    close(&found.last, &golden.get(&format!("{case}.last")), 2e-5);
    close(&found.pooled, &golden.get(&format!("{case}.pooled")), 2e-5);
    for (i, state) in found.hidden_states.iter().enumerate() {
        close(state, &golden.get(&format!("{case}.hidden.{i}")), 2e-5);
    }
}

#[test]
fn texts_are_embedded_as_by_transformers() {
    let golden = golden("clip");
    let network = open_text(&golden, "whole");
    let found = network.encode(&tokens(&golden), false).unwrap();
    check_text(&golden, "out.whole", &found);
    close(found.embedding.as_ref().unwrap(), &golden.get("out.whole.embeds"), 2e-5);
    let masked = network.encode(&tokens(&golden), true).unwrap();
    // Padding is told apart from the text only where it is looked at: its own rows are nobody's.
    close(&masked.pooled, &golden.get("out.masked.pooled"), 2e-5);
    assert_eq!(found.hidden_states.len(), 3);
    assert!(network.skipped(&found, 0).unwrap().equal(&found.last));
    let skipped = network.skipped(&found, 1).unwrap();
    assert_eq!(skipped.size(), found.last.size());
    assert!(!skipped.equal(&found.last) && !skipped.equal(&found.hidden_states[1]));
    fails(network.skipped(&found, 3), "clip_skip: 3: the text encoder has 2 blocks");
}

/// Before transformers had the right id of the end there, the largest id stood for it.
#[test]
fn an_end_of_2_means_the_largest_id() {
    let golden = golden("clip");
    let network = open_text(&golden, "legacy");
    let found = network.encode(&tokens(&golden), false).unwrap();
    check_text(&golden, "out.legacy", &found);
    assert!(found.embedding.is_none());
}

/// No token sees those after it.
#[test]
fn texts_are_causal() {
    let golden = golden("clip");
    let network = open_text(&golden, "legacy");
    let changed = golden.get("ids").copy();
    let _ = changed.narrow(1, 6, 1).fill_(3);
    let [a, b] = [golden.get("ids"), changed]
        .map(|ids| network.encode(&Tokens { mask: ids.ones_like(), ids }, false).unwrap().last);
    assert!(a.narrow(1, 0, 6).equal(&b.narrow(1, 0, 6)));
    assert!(!a.narrow(1, 6, 1).equal(&b.narrow(1, 6, 1)));
}

#[test]
fn ids_that_do_not_fit_are_errors() {
    let golden = golden("clip");
    let network = open_text(&golden, "whole");
    let encode = |ids: Tensor| network.encode(&Tokens { mask: ids.ones_like(), ids }, false);
    let ids = golden.get("ids");
    fails(encode(Tensor::cat(&[&ids, &ids], 1)), "1 to 12 tokens");
    fails(encode(&ids + 1), "to 40: the network has 0 to 39");
    fails(encode(ids.to_kind(Kind::Float)), "Float: ids are whole numbers");
    fails(encode(ids.select(0, 0)), "[12]: ids are [B, L]");
    fails(encode(ids.clamp_max(38)), "a text without its end, token 39");
}

fn token_folder() -> PathBuf {
    Path::new(MANIFEST).join("tests/golden/tokens")
}

/// `vocab.json` and `merges.txt` alone.
fn parts() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in ["vocab.json", "merges.txt"] {
        std::fs::copy(token_folder().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

#[test]
fn tokens_are_those_of_transformers() {
    let texts: Vec<serde_json::Value> = serde_json::from_value(configs("tokens/texts.json")).unwrap();
    let parts = parts();
    for folder in [token_folder().as_path(), parts.path()] {
        let tokenizer = ClipTokenizer::open(folder, 40).unwrap();
        for case in &texts {
            let text = case["text"].as_str().unwrap();
            let wanted: Vec<i64> = serde_json::from_value(case["ids"].clone()).unwrap();
            let found = tokenizer.encode(&[text], Truncation::Refuse).unwrap();
            let used = i64::try_from(found.mask.sum(Kind::Int64)).unwrap();
            let ids = Vec::<i64>::try_from(found.ids.select(0, 0)).unwrap();
            assert_eq!(ids[..used as usize], wanted, "{text} by {}", folder.display());
            assert!(ids[used as usize..].iter().all(|id| *id == 98), "padding is the end of a text");
        }
    }
    assert_eq!(texts.len(), 7);
}

#[test]
fn long_texts_are_errors_unless_they_may_be_cut() {
    let parts = parts();
    let tokenizer = ClipTokenizer::open(parts.path(), 8).unwrap();
    let text = "a photo of the cat, the cat, the cat";
    let message = tokenizer.encode(&[text], Truncation::Refuse).unwrap_err().to_string();
    assert!(message.contains("13 tokens") && message.contains("takes 8"), "{message}");
    let cut = tokenizer.encode(&["cat", text], Truncation::Cut).unwrap();
    let whole = ClipTokenizer::open(parts.path(), 20).unwrap().encode(&[text], Truncation::Refuse).unwrap();
    assert_eq!(cut.ids.size(), [2, 8]);
    assert!(cut.ids.select(0, 1).narrow(0, 0, 7).equal(&whole.ids.select(0, 0).narrow(0, 0, 7)));
    assert_eq!(cut.ids.int64_value(&[1, 7]), 98, "a text that was cut has its end");
    assert_eq!(
        Vec::<f32>::try_from(cut.mask.select(0, 0)).unwrap(),
        [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    );
    fails(tokenizer.encode(&[], Truncation::Cut), "none");
    fails(ClipTokenizer::open(parts.path(), 2), "length: 2");
}

#[test]
fn padding_is_as_the_settings_say_and_other_tokens_are_refused() {
    let parts = parts();
    let settings = parts.path().join("tokenizer_config.json");
    let open = || ClipTokenizer::open(parts.path(), 5);
    std::fs::write(&settings, r#"{"pad_token": "!", "model_max_length": 77}"#).unwrap();
    let found = open().unwrap().encode(&["cat"], Truncation::Refuse).unwrap();
    let pad = configs("tokens/vocab.json")["!"].as_i64().unwrap();
    assert_eq!(found.ids.int64_value(&[0, 4]), pad);
    std::fs::write(&settings, r#"{"pad_token": {"content": "<|endoftext|>", "lstrip": false}}"#).unwrap();
    assert_eq!(open().unwrap().encode(&["cat"], Truncation::Refuse).unwrap().ids.int64_value(&[0, 4]), 98);
    std::fs::write(&settings, r#"{"pad_token": "<pad>"}"#).unwrap();
    fails(open(), "<pad>: no token of this name");
    std::fs::write(parts.path().join("vocab.json"), r#"{"a": 0}"#).unwrap();
    fails(open(), "<|startoftext|>: is not there: not CLIP's vocabulary");
    std::fs::write(parts.path().join("vocab.json"), "{").unwrap();
    fails(open(), "is no vocabulary");
    let empty = tempfile::tempdir().unwrap();
    fails(ClipTokenizer::open(empty.path(), 5), "vocab.json");
}
