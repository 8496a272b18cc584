//! Folders and files that are damaged, incomplete or of another kind.

use super::{F32, INDEX, SINGLE, list, model, named, saved, says};
use crate::{MAX_SHARD_BYTES, WeightFiles, pickle};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tch::Tensor;

const SHARD: &str = "diffusion_pytorch_model-00001-of-00003.safetensors";

fn open(path: &Path) -> heldout_core::Result<WeightFiles> {
    WeightFiles::open(path, None)
}

fn edit_index(folder: &Path, edit: impl FnOnce(&mut Value)) {
    let path = folder.join(INDEX);
    let mut index: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    edit(&mut index["weight_map"]);
    fs::write(path, index.to_string()).unwrap();
}

/// A file of this header, with this many bytes of weights.
fn raw(path: &Path, header: &str, bytes: usize) {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + bytes, 0);
    fs::write(path, file).unwrap();
}

#[test]
fn a_file_an_index_and_model_safetensors_are_opened_too() {
    let (root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let files = open(&folder.join(SINGLE)).unwrap();
    assert_eq!((files.shapes().len(), files.config().unwrap().len()), (6, 2));
    let alone = root.path().join("x.safetensors");
    fs::copy(folder.join(SINGLE), &alone).unwrap();
    says(open(&alone).unwrap().config(), &["x.safetensors", "config.json"]);
    fs::rename(folder.join(SINGLE), folder.join("model.safetensors")).unwrap();
    assert_eq!(open(&folder).unwrap().shapes().len(), 6);
    let (_root, folder) = saved(&model(), 60);
    assert_eq!(open(&folder.join(INDEX)).unwrap().shapes().len(), 6);
}

#[test]
fn variants_are_asked_for() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    fs::rename(folder.join(SINGLE), folder.join("diffusion_pytorch_model.fp16.safetensors")).unwrap();
    assert_eq!(WeightFiles::open(&folder, Some("fp16")).unwrap().shapes().len(), 6);
    says(open(&folder), &["diffusion_pytorch_model.fp16.safetensors", "set the variant"]);
    says(WeightFiles::open(&folder, Some("ema")), &["of variant `ema`"]);
    let (_root, folder) = saved(&model(), 60);
    fs::rename(folder.join(INDEX), folder.join("diffusion_pytorch_model.safetensors.index.fp16.json"))
        .unwrap();
    assert_eq!(WeightFiles::open(&folder, Some("fp16")).unwrap().shapes().len(), 6);
}

#[test]
fn an_index_at_odds_with_its_shards_is_an_error() {
    let (_root, folder) = saved(&model(), 60);
    assert_eq!(list(&folder)[1], SHARD);
    edit_index(&folder, |map| map["b.weight"] = json!(SHARD));
    says(open(&folder), &["index.json", "b.weight: listed in", SHARD, "which lacks it"]);
    edit_index(&folder, |map| map["b.weight"] = json!("../other.safetensors"));
    says(open(&folder), &["index.json", "`../other.safetensors`"]);
    edit_index(&folder, |map| *map = json!({}));
    says(open(&folder), &["index.json", "lists no tensor"]);
    fs::write(folder.join(INDEX), "{\"weight_map\": [").unwrap();
    says(open(&folder), &["index.json", "is no index of shards"]);

    let (_root, folder) = saved(&model(), 60);
    fs::remove_file(folder.join(SHARD)).unwrap();
    says(open(&folder), &["index.json", SHARD, "not there"]);

    let (_root, folder) = saved(&model(), 60);
    let second = folder.join("diffusion_pytorch_model-00002-of-00003.safetensors");
    let both = [
        ("a.weight", Tensor::ones([1], F32)),
        ("b.weight", Tensor::ones([1], F32)),
        ("c.half", Tensor::ones([1], F32)),
        ("d.bfloat", Tensor::ones([1], F32)),
    ];
    Tensor::write_safetensors(&both, &second).unwrap();
    says(open(&folder), &["00002-of-00003", "a.weight: is in", SHARD, "too"]);
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let path = folder.join(SINGLE);
    let whole = fs::read(&path).unwrap();
    for (length, what) in [
        (whole.len() - 1, "do not end where the file ends"),
        (40, "ends within its header"),
        (3, "ends within its header"),
        (0, "at 0 bytes"),
    ] {
        fs::write(&path, &whole[..length]).unwrap();
        says(open(&folder), &[SINGLE, what, "fetch or save it again"]);
    }
    fs::write(&path, b"PK\x03\x04 a zip file that torch.save wrote").unwrap();
    says(open(&folder), &[SINGLE, "no header of safetensors"]);
    fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap();
    says(open(&folder), &[SINGLE, "git lfs pull"]);
    raw(&path, r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#, 4);
    says(open(&folder), &[SINGLE, "do not end where the file ends"]);
    raw(&path, r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[8,16]}}"#, 16);
    says(open(&folder), &[SINGLE, "offset"]);
    raw(&path, r#"{"w":{"dtype":"F32","shape":[9223372036854775807,9],"data_offsets":[0,8]}}"#, 8);
    says(open(&folder), &[SINGLE, "verflow"]);
    raw(&path, r#"{"w":{"dtype":"F32""#, 8);
    says(open(&folder), &[SINGLE, "header"]);
    fs::write(&path, &whole).unwrap();
    fs::write(folder.join("config.json"), "[1]").unwrap();
    says(open(&folder), &["config.json", "is no JSON object"]);
}

#[test]
fn a_pipeline_names_its_models_and_an_empty_folder_what_it_lacks() {
    let root = tempfile::tempdir().unwrap();
    says(open(root.path()), &["holds no diffusion_pytorch_model.safetensors"]);
    fs::write(root.path().join("model_index.json"), "{}").unwrap();
    for sub in ["vae", "unet", "scheduler"] {
        fs::create_dir(root.path().join(sub)).unwrap();
    }
    fs::write(root.path().join("unet/config.json"), "{}").unwrap();
    fs::write(root.path().join("vae/config.json"), "{}").unwrap();
    fs::write(root.path().join("scheduler/scheduler_config.json"), "{}").unwrap();
    says(open(root.path()), &["is a pipeline", "hold models: unet, vae"]);
    says(open(&root.path().join("nowhere")), &["nowhere"]);
    let text = root.path().join("a.txt");
    fs::write(&text, "text").unwrap();
    says(open(&text), &["a.txt", "is not a .safetensors file"]);
}

#[test]
fn pickles_are_refused_with_the_command_that_converts_them() {
    let root = tempfile::tempdir().unwrap();
    for name in ["diffusion_pytorch_model.bin", "model.pt", "model.ckpt", "model.PTH"] {
        let path = root.path().join(name);
        fs::write(&path, "pickle").unwrap();
        let says_how = ["is a pickle", "weights_only=True", "safetensors.torch.save_file", name];
        says(open(&path), &says_how);
        says(open(root.path()), &says_how);
        fs::remove_file(&path).unwrap();
    }
    let command = pickle::command(Path::new("it's.pt"), Path::new("-a b"));
    assert!(command.ends_with(r"'it'\''s.pt' '-a b'"), "{command}");
}

#[test]
fn other_weights_beside_a_pickle_are_read() {
    let (_root, folder) = saved(&named(&[("w", Tensor::ones([1], F32))]), 1);
    fs::write(folder.join("diffusion_pytorch_model.bin"), "pickle").unwrap();
    assert_eq!(open(&folder).unwrap().shapes().len(), 1);
}
