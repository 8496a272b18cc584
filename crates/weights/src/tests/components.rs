//! Autoencoders, ControlNets and whole pipelines as folders.

use super::{list, says};
use crate::{
    AutoencoderConfig, AutoencoderModel, Component, ComponentConfig, ControlNetModel, MAX_SHARD_BYTES, Model,
    OpenOptions, Part, PipelineIndex, is_pipeline, preset, presets, save_folder,
};
use heldout_adapters::{ControlNetModelConfig, HintConfig};
use heldout_core::Error;
use heldout_vae::{AutoencoderKLConfig, AutoencoderTinyConfig, VQModelConfig};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tch::{Device, Tensor};

const DEFAULT: OpenOptions<'static> = OpenOptions { variant: None, kind: None, head_channels: None };

fn open(folder: &Path) -> heldout_core::Result<Component> {
    Component::open(folder.to_str().unwrap(), Device::Cpu, DEFAULT)
}

fn kl() -> AutoencoderKLConfig {
    AutoencoderKLConfig { norm_num_groups: 2, ..AutoencoderKLConfig::new(2, &[4, 6], 1) }
}

fn autoencoders() -> [AutoencoderConfig; 3] {
    let tiny = AutoencoderTinyConfig {
        encoder_block_out_channels: vec![4; 2],
        decoder_block_out_channels: vec![4; 2],
        num_encoder_blocks: vec![1, 1],
        num_decoder_blocks: vec![1, 1],
        ..AutoencoderTinyConfig::default()
    };
    let vq = VQModelConfig { norm_num_groups: 2, num_vq_embeddings: 7, ..VQModelConfig::new(2, &[4, 6], 1) };
    [
        AutoencoderConfig::AutoencoderKL(kl()),
        AutoencoderConfig::VQModel(vq),
        AutoencoderConfig::AutoencoderTiny(tiny),
    ]
}

fn control_net() -> ControlNetModelConfig {
    let config = json!({
        "block_out_channels": [4, 8],
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "norm_num_groups": 2,
        "attention_head_dim": 2,
        "cross_attention_dim": 6,
        "conditioning_embedding_out_channels": [2, 4],
    });
    serde_json::from_value(config).unwrap()
}

fn same(a: &[(String, Tensor)], b: &[(String, Tensor)]) {
    assert_eq!(a.len(), b.len());
    for ((name, a), (other, b)) in a.iter().zip(b) {
        assert!(name == other && a.equal(b), "{name} beside {other}");
    }
}

#[test]
fn what_is_saved_is_opened_to_the_last_bit() {
    let root = tempfile::tempdir().unwrap();
    for (i, config) in autoencoders().into_iter().enumerate() {
        tch::manual_seed(i as i64);
        let folder = root.path().join(format!("autoencoder-{i}"));
        let made = AutoencoderModel::fresh(config.clone(), Device::Cpu).unwrap();
        made.save(&folder).unwrap();
        let Component::Autoencoder(opened) = open(&folder).unwrap() else { panic!("{config:?}") };
        assert_eq!(opened.config, config);
        same(&made.tensors(), &opened.tensors());
        assert!(opened.tensors().iter().all(|(_, t)| !t.requires_grad()));
    }
    let folder = root.path().join("net");
    let made = ControlNetModel::fresh(control_net(), Device::Cpu).unwrap();
    made.save(&folder).unwrap();
    let Component::ControlNet(opened) = open(&folder).unwrap() else { panic!("no ControlNet") };
    assert_eq!(opened.config, control_net());
    same(&made.tensors(), &opened.tensors());
    // What was opened is saved as it was.
    let again = root.path().join("again");
    open(&folder).unwrap().save(&again).unwrap();
    for file in list(&folder) {
        assert_eq!(fs::read(folder.join(&file)).unwrap(), fs::read(again.join(&file)).unwrap(), "{file}");
    }
    let config = ComponentConfig::of(folder.to_str().unwrap(), DEFAULT).unwrap();
    assert_eq!(ComponentConfig::from_json(&config.to_json().unwrap()).unwrap(), config);
    says(config.into_network(), &["ControlNetModel", "a network is needed"]);
}

#[test]
fn classes_that_are_not_covered_and_files_that_are_missing_are_named() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("vae");
    let model = AutoencoderModel::fresh(AutoencoderConfig::AutoencoderKL(kl()), Device::Cpu).unwrap();
    let config = model.config.to_json().unwrap();
    let change = |field: &str, value: Value| {
        let mut config = config.clone();
        config.insert(field.to_owned(), value);
        save_folder(&folder, &config, &model.tensors(), MAX_SHARD_BYTES).unwrap();
    };
    change("_class_name", json!("AutoencoderKLTemporalDecoder"));
    let covered =
        ["AutoencoderKLTemporalDecoder", "UNet2DModel", "AutoencoderKL, VQModel", "ControlNetModel"];
    says(open(&folder), &covered);
    let source = folder.to_str().unwrap();
    says(AutoencoderModel::open(source, Device::Cpu, DEFAULT), &["vae", "AutoencoderKLTemporalDecoder"]);
    says(ControlNetModel::open(source, Device::Cpu, DEFAULT), &["AutoencoderKLTemporalDecoder", "is needed"]);
    says(Model::open(source, Device::Cpu, DEFAULT), &["AutoencoderKLTemporalDecoder", "UNet2DModel"]);
    change("block_out_channels", json!([4]));
    says(open(&folder), &["vae", "down_block_types"]);
    change("unheard_of", json!(1));
    says(open(&folder), &["vae", "unheard_of"]);
    change("latent_channels", json!(3));
    says(open(&folder), &["vae", "quant_conv", "of another shape"]);

    save_folder(&folder, &config, &model.tensors(), 2000).unwrap();
    let shard = list(&folder).into_iter().find(|name| name.contains("-00002-of-")).unwrap();
    fs::remove_file(folder.join(&shard)).unwrap();
    says(open(&folder), &["index.json", &shard, "not there"]);
}

/// As diffusers wrote them before its version 0.18, and as the files of Stable Diffusion 1 still are.
#[test]
fn old_names_of_attention_are_opened() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("vae");
    let made = AutoencoderModel::fresh(AutoencoderConfig::AutoencoderKL(kl()), Device::Cpu).unwrap();
    let old = |name: &str| {
        let (with, without) = (".attentions.0.to_", ".attentions.0.");
        let names = [("out.0.", "proj_attn."), ("q.", "query."), ("k.", "key."), ("v.", "value.")];
        names.iter().fold(name.to_owned(), |name, (new, old)| {
            name.replace(&format!("{with}{new}"), &format!("{without}{old}"))
        })
    };
    let renamed: Vec<_> = made.tensors().into_iter().map(|(name, t)| (old(&name), t)).collect();
    assert_eq!(renamed.iter().filter(|(name, _)| name.contains("proj_attn")).count(), 4);
    save_folder(&folder, &made.config.to_json().unwrap(), &renamed, MAX_SHARD_BYTES).unwrap();
    let Component::Autoencoder(opened) = open(&folder).unwrap() else { panic!("no autoencoder") };
    same(&made.tensors(), &opened.tensors());
}

fn index(class: &str) -> PipelineIndex {
    let part = |library: &str, class: &str| Part::new(library, class);
    let parts =
        [("unet", part("diffusers", "UNet2DModel")), ("scheduler", part("diffusers", "DDPMScheduler"))];
    PipelineIndex {
        class: class.to_owned(),
        parts: parts.map(|(name, part)| (name.to_owned(), part)).into(),
        fields: Map::from_iter([("id2label".to_owned(), json!({ "0": "tench" }))]),
    }
}

fn fill(folder: &Path) -> heldout_core::Result<()> {
    save_folder(&folder.join("unet"), &super::config(), &super::model(), MAX_SHARD_BYTES)
}

#[test]
fn an_index_is_read_as_it_was_saved() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("pipeline");
    assert!(!is_pipeline(&folder));
    index("DDPMPipeline").save(&folder, fill).unwrap();
    assert!(is_pipeline(&folder));
    assert_eq!(list(&folder), ["model_index.json", "unet"]);
    let read = PipelineIndex::read(&folder).unwrap();
    assert_eq!(read, index("DDPMPipeline"));
    assert_eq!(read.part(&folder, "unet", &["UNet2DModel"]).unwrap(), folder.join("unet"));
    says(read.part(&folder, "unet", &["A", "B"]), &["model_index.json", "unet", "UNet2DModel", "A, B"]);
    says(read.part(&folder, "vae", &["A"]), &["model_index.json", "vae", "DDPMPipeline needs"]);
    says(read.part(&folder, "scheduler", &["DDPMScheduler"]), &["pipeline/scheduler", "is missing"]);

    let path = folder.join("model_index.json");
    let text = r#"{"_class_name": "P", "_diffusers_version": "0.1", "vae": [null, null],
        "unet": ["diffusers", "U"], "flag": [true, 1]}"#;
    fs::write(&path, text).unwrap();
    let read = PipelineIndex::read(&folder).unwrap();
    assert_eq!(
        read.parts.into_iter().collect::<Vec<_>>(),
        [("unet".to_owned(), Part::new("diffusers", "U"))]
    );
    assert_eq!(Value::Object(read.fields), json!({ "flag": [true, 1] }));
    fs::write(&path, "{}").unwrap();
    says(PipelineIndex::read(&folder), &["model_index.json", "_class_name"]);
    fs::write(&path, "{").unwrap();
    says(PipelineIndex::read(&folder), &["model_index.json"]);
}

#[test]
fn an_earlier_pipeline_is_replaced_and_nothing_else_is() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("pipeline");
    index("First").save(&folder, fill).unwrap();
    // One that fails leaves the first and nothing beside it.
    let failing = index("Second").save(&folder, |aside| {
        fill(aside)?;
        Err(Error::config("part", "cannot be written"))
    });
    says(failing, &["cannot be written"]);
    assert_eq!(PipelineIndex::read(&folder).unwrap().class, "First");
    assert_eq!((list(root.path()), list(&folder).len()), (vec!["pipeline".to_owned()], 2));
    index("Second").save(&folder, |_| Ok(())).unwrap();
    assert_eq!(PipelineIndex::read(&folder).unwrap().class, "Second");
    assert_eq!((list(root.path()), list(&folder).len()), (vec!["pipeline".to_owned()], 1));

    // A file of this name is no part, and neither is another folder.
    fs::write(folder.join("unet"), "mine").unwrap();
    says(index("Third").save(&folder, fill), &["unet", "choose another folder"]);
    fs::remove_file(folder.join("unet")).unwrap();
    fs::create_dir(folder.join("notes")).unwrap();
    says(index("Third").save(&folder, fill), &["notes", "choose another folder"]);
    assert_eq!(PipelineIndex::read(&folder).unwrap().class, "Second");
    assert_eq!(list(root.path()), ["pipeline"]);
}

#[test]
fn every_preset_has_a_configuration_that_says_its_shapes() {
    for name in presets() {
        let config = preset(&name).unwrap();
        assert_eq!(ComponentConfig::from_json(&config.to_json().unwrap()).unwrap(), config, "{name}");
        let example = config.example(2, None, 77).unwrap();
        let [_, channels, height, width] = example.sample[..] else { panic!("{name}: {example:?}") };
        config.check_images(channels, height, width).unwrap();
        assert!(config.check_images(channels + 1, height, width).is_err(), "{name}");
    }
    let net = ComponentConfig::ControlNet(Box::new(control_net()));
    let hint = HintConfig { conditioning_embedding_out_channels: vec![2, 4], ..HintConfig::default() };
    assert_eq!(control_net().hint(), hint);
    let wanted = [("encoder_hidden_states", vec![2, 5, 6]), ("hint", vec![2, 3, 16, 16])];
    assert_eq!(net.example(2, Some(8), 5).unwrap().conditions, wanted);
}
