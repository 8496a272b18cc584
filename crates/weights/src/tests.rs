//! Files in and out, and what their errors say.

mod components;
mod hub;
mod layouts;
mod open;
mod peer;

use crate::{MAX_SHARD_BYTES, Piece, Rows, WeightFiles, as_named, load_into, renamed, save_folder};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tempfile::TempDir;

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);
const SINGLE: &str = "diffusion_pytorch_model.safetensors";
const INDEX: &str = "diffusion_pytorch_model.safetensors.index.json";

type Named = Vec<(String, Tensor)>;

fn named(tensors: &[(&str, Tensor)]) -> Named {
    tensors.iter().map(|(n, t)| ((*n).to_owned(), t.shallow_clone())).collect()
}

/// Tensors of every kind, a transposed one and one without dimensions.
fn model() -> Named {
    tch::manual_seed(0);
    named(&[
        ("a.weight", Tensor::randn([3, 2], F32)),
        ("b.weight", Tensor::randn([2, 5], F32).tr()),
        ("c.half", Tensor::randn([3], F32).to_kind(Kind::Half)),
        ("d.bfloat", Tensor::randn([7], F32).to_kind(Kind::BFloat16)),
        ("e.double", Tensor::randn([2, 2], (Kind::Double, Device::Cpu))),
        ("f.scale", Tensor::from(0.5f32)),
    ])
}

fn config() -> Map<String, Value> {
    json!({"_class_name": "UNet2DModel", "in_channels": 3}).as_object().unwrap().clone()
}

/// A folder with a saved model.
fn saved(tensors: &Named, max_shard_bytes: u64) -> (TempDir, PathBuf) {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    save_folder(&folder, &config(), tensors, max_shard_bytes).unwrap();
    (root, folder)
}

fn zeros_like(tensors: &Named, kind: Kind) -> Named {
    tensors.iter().map(|(n, t)| (n.clone(), t.zeros_like().to_kind(kind))).collect()
}

fn load(destinations: &Named, files: &WeightFiles) -> heldout_core::Result<()> {
    load_into(destinations, files, &as_named(&files.shapes()))
}

fn list(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = entries.collect();
    names.sort();
    names
}

/// The message of an error, in one line, with all of the parts.
#[track_caller]
fn says<T: std::fmt::Debug>(result: heldout_core::Result<T>, parts: &[&str]) -> String {
    let message = result.unwrap_err().to_string();
    assert!(parts.iter().all(|p| message.contains(p)), "{message}\nlacks one of {parts:?}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn what_is_saved_is_read_back_to_the_last_bit() {
    let tensors = model();
    for max in [MAX_SHARD_BYTES, 60, 1] {
        let (_root, folder) = saved(&tensors, max);
        let files = WeightFiles::open(&folder, None).unwrap();
        assert_eq!(files.config().unwrap(), &config());
        assert_eq!(files.shapes().len(), tensors.len());
        for (name, tensor) in &tensors {
            let read = files.read(name).unwrap();
            assert_eq!((read.kind(), read.size()), (tensor.kind(), tensor.size()));
            assert!(read.equal(tensor), "{name} of shards of {max} bytes");
        }
    }
}

#[test]
fn every_kind_is_converted_into_every_other() {
    let tensors = model();
    let (_root, folder) = saved(&tensors, MAX_SHARD_BYTES);
    let files = WeightFiles::open(&folder, None).unwrap();
    for kind in [Kind::Half, Kind::BFloat16, Kind::Float, Kind::Double] {
        let destinations = zeros_like(&tensors, kind);
        load(&destinations, &files).unwrap();
        for ((name, to), (_, from)) in destinations.iter().zip(&tensors) {
            assert!(to.kind() == kind && to.equal(&from.to_kind(kind)), "{name} as {kind:?}");
        }
    }
}

#[test]
fn trainable_tensors_are_loaded_in_place() {
    let (_root, folder) = saved(&named(&[("w", Tensor::ones([2], F32))]), MAX_SHARD_BYTES);
    let w = Tensor::zeros([2], F32).set_requires_grad(true);
    let alias = w.shallow_clone();
    load(&named(&[("w", w)]), &WeightFiles::open(&folder, None).unwrap()).unwrap();
    assert!(alias.requires_grad() && alias.equal(&Tensor::ones([2], F32)));
}

#[test]
fn files_are_named_as_diffusers_names_them() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    assert_eq!(list(&folder), ["config.json", SINGLE]);
    assert!(fs::read_to_string(folder.join("config.json")).unwrap().ends_with("3\n}\n"));
    let bytes = fs::read(folder.join(SINGLE)).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let text = std::str::from_utf8(&bytes[8..8 + header]).unwrap();
    assert!(header.is_multiple_of(8) && text.contains(r#""__metadata__":{"format":"pt"}"#), "{text}");

    let (_root, folder) = saved(&model(), 60); // 24, 40, 6, 14, 32 and 4 bytes
    let shard = |i| format!("diffusion_pytorch_model-{i:05}-of-00003.safetensors");
    assert_eq!(list(&folder), ["config.json".to_owned(), shard(1), shard(2), shard(3), INDEX.to_owned()]);
    let index: Value = serde_json::from_slice(&fs::read(folder.join(INDEX)).unwrap()).unwrap();
    assert_eq!(index["metadata"], json!({"total_size": 120}));
    let of = |name: &str| index["weight_map"][name].as_str().unwrap().to_owned();
    assert_eq!(["a.weight", "d.bfloat", "f.scale"].map(of), [shard(1), shard(2), shard(3)]);
}

#[test]
fn an_earlier_model_is_replaced_and_nothing_else_is() {
    let (root, folder) = saved(&model(), 1);
    save_folder(&folder, &config(), &model(), MAX_SHARD_BYTES).unwrap();
    assert_eq!(list(&folder), ["config.json", SINGLE]);
    assert_eq!(list(root.path()), ["model"]);

    fs::write(folder.join("notes.txt"), "mine").unwrap();
    says(save_folder(&folder, &config(), &model(), 1), &["notes.txt", "choose another folder"]);
    assert_eq!(fs::read_to_string(folder.join("notes.txt")).unwrap(), "mine");
    let file = root.path().join("file");
    fs::write(&file, "mine").unwrap();
    says(save_folder(&file, &config(), &model(), 1), &["is a file"]);
    assert_eq!(list(root.path()), ["file", "model"]);
}

#[test]
fn a_save_that_was_killed_or_fails_leaves_the_earlier_model() {
    let (root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let aside = root.path().join(".writing-model");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("half"), "written").unwrap();
    fs::rename(&folder, root.path().join(".replaced-model")).unwrap(); // killed between two renames
    let integers = named(&[("n", Tensor::from_slice(&[1i64]))]);
    says(save_folder(&folder, &config(), &integers, 1), &["n: Int64 is no kind of weights"]);
    save_folder(&folder, &config(), &model(), 1).unwrap();
    assert_eq!(list(root.path()), ["model"]);

    let twice = named(&[("w", Tensor::ones([1], F32)), ("w", Tensor::ones([1], F32))]);
    says(save_folder(&folder, &config(), &twice, 1), &["w: two tensors"]);
    says(save_folder(&folder, &config(), &model(), 0), &["max_shard_bytes"]);
    fs::write(&aside, "in the way").unwrap();
    says(save_folder(&folder, &config(), &model(), 1), &[".writing-model"]);
    assert!(WeightFiles::open(&folder, None).is_ok());
}

#[test]
fn a_link_to_a_model_is_followed_and_parents_are_made() {
    let (root, folder) = saved(&model(), 1);
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&folder, &link).unwrap();
    save_folder(&link, &config(), &model(), MAX_SHARD_BYTES).unwrap();
    assert!(link.is_symlink());
    assert_eq!(list(&folder), ["config.json", SINGLE]);
    let deep = root.path().join("a/b/c");
    save_folder(&deep, &config(), &model(), 1).unwrap();
    assert!(WeightFiles::open(&deep, None).is_ok());
}

#[test]
fn all_that_does_not_fit_is_said_at_once_and_nothing_changes() {
    let (_root, folder) = saved(&model(), MAX_SHARD_BYTES);
    let files = WeightFiles::open(&folder, None).unwrap();
    let mut destinations = zeros_like(&model(), Kind::Float);
    destinations[0].1 = Tensor::zeros([2, 3], F32);
    destinations[1].0 = "renamed".to_owned();
    destinations.extend((0..7).map(|i| (format!("z.{i}"), Tensor::zeros([1], F32))));
    let message = says(
        load(&destinations, &files),
        &[
            "8 missing (renamed, z.0, z.1, z.2, z.3 and 3 more)",
            "1 unexpected (b.weight)",
            "1 of another shape (a.weight: [3, 2] in the file, [2, 3] in the model)",
        ],
    );
    assert!(message.starts_with(&folder.display().to_string()));
    assert!(destinations.iter().all(|(_, t)| t.count_nonzero(None).int64_value(&[]) == 0));
    let model = zeros_like(&model(), Kind::Float);
    let mut pieces = as_named(&files.shapes());
    pieces[0].from = "none".to_owned();
    pieces[1].rows = Some(Rows { groups: 1, of: 3, index: 0 });
    says(
        load_into(&model, &files, &pieces),
        &["missing (none in the file)", "b.weight: [5, 2] in the file, to be"],
    );
    assert!(model.iter().all(|(_, t)| t.count_nonzero(None).int64_value(&[]) == 0));
    let twice = named(&[("w", Tensor::ones([1], F32)), ("w", Tensor::ones([1], F32))]);
    says(load(&twice, &files), &["names must be unique"]);
}

#[test]
fn odd_dtypes_are_named() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("model.safetensors");
    Tensor::write_safetensors(&[("ids", Tensor::from_slice(&[1i64])), ("w", Tensor::ones([1], F32))], &path)
        .unwrap();
    let files = WeightFiles::open(&path, None).unwrap();
    let model = named(&[("ids", Tensor::zeros([1], F32)), ("w", Tensor::zeros([1], F32))]);
    says(load(&model, &files), &["1 of a dtype that weights do not have (ids: I64)"]);
    assert_eq!(model[1].1.double_value(&[0]), 0.0);
    says(files.read("ids"), &["ids: I64 is no dtype of weights"]);
    says(files.read("x"), &["x: no tensor of this name"]);
    let model = named(&[("w", Tensor::from_slice(&[1i64]))]);
    let pieces = renamed(as_named(&files.shapes()), |n| (n != "ids").then(|| n.to_owned()));
    says(load_into(&model, &files, &pieces), &["w: Int64 in the model"]);
}

#[test]
fn pieces_take_rows_of_groups() {
    let whole = Tensor::arange(12, F32).reshape([12, 1]);
    let take = |groups, index| {
        let rows = Some(Rows { groups, of: 3, index });
        let piece = Piece { rows, ..Piece::whole("to", "from", vec![4]) };
        Vec::<f64>::try_from(piece.take(&whole).unwrap().to_kind(Kind::Double)).unwrap()
    };
    assert_eq!(take(1, 1), [4.0, 5.0, 6.0, 7.0]);
    assert_eq!(take(2, 1), [2.0, 3.0, 8.0, 9.0]);
    assert!(Piece::whole("to", "from", vec![5]).take(&whole).is_err());
}
