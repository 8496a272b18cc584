//! Layouts against diffusers' own models, and against the published sizes.

use super::{F32, MAX_SHARD_BYTES, Named, named, saved, says};
use crate::adm::{self, HeadOrder, Heads};
use crate::dit::{self, Embedders};
use crate::{Layout, Piece, Shapes, WeightFiles, as_named, diffusers, load_into};
use heldout_testkit::{Golden, close};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use tch::{Kind, Tensor};

fn golden() -> Golden {
    Golden::open(env!("CARGO_MANIFEST_DIR"), "layouts")
}

fn json() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/layouts.json")).unwrap()
}

fn shapes_of(tensors: &Named) -> Shapes {
    tensors.iter().map(|(n, t)| (n.clone(), t.size())).collect()
}

/// Loads the original's tensors of a case into zeros of diffusers' shapes; then they are diffusers' values.
#[track_caller]
fn check_values(case: &str, pieces: impl FnOnce(&Shapes) -> Vec<Piece>) {
    let golden = golden();
    let (_root, folder) = saved(&golden.section(&format!("{case}.original.")), MAX_SHARD_BYTES);
    let files = WeightFiles::open(&folder, None).unwrap();
    let theirs = golden.section(&format!("{case}.diffusers."));
    let loaded = super::zeros_like(&theirs, Kind::Float);
    load_into(&loaded, &files, &pieces(&files.shapes())).unwrap();
    for ((name, ours), (_, theirs)) in loaded.iter().zip(&theirs) {
        assert!(ours.equal(&theirs.to_kind(Kind::Float)), "{name}");
    }
}

/// Every field that we give is diffusers', but for those of tiny models that no shape tells.
#[track_caller]
fn check_config(case: &str, ours: &Map<String, Value>) {
    let theirs = &json()["configs"][case];
    for (field, value) in ours.iter().filter(|(field, _)| !field.starts_with('_')) {
        let tiny = case != "adm64" && field.ends_with("norm_num_groups");
        let same =
            theirs[field] == *value || theirs[field].as_f64().is_some_and(|f| Some(f) == value.as_f64());
        assert!(tiny || same, "{case} {field}: {value}, theirs {}", theirs[field]);
    }
}

#[test]
fn the_original_dit_becomes_that_of_diffusers() {
    check_values("dit", |shapes| dit::from_original(shapes, Embedders::PerBlock).unwrap());
    let shapes = shapes_of(&golden().section("dit.original."));
    assert_eq!(Layout::of(&shapes), Layout::OriginalDit);
    check_config("dit", &dit::config(&shapes, Some(2)).unwrap());
    says(dit::config(&shapes, None), &["heads", "width 12"]);
    says(dit::config(&shapes, Some(5)), &["heads: 5"]);
}

#[test]
fn only_the_fixed_table_of_positions_passes() {
    let mut tensors = golden().section("dit.original.");
    let open = |tensors: &Named| {
        let (root, folder) = saved(tensors, MAX_SHARD_BYTES);
        (root, WeightFiles::open(&folder, None).unwrap())
    };
    let (_root, files) = open(&tensors);
    dit::check_positions(&files).unwrap();
    let table = tensors.iter_mut().find(|(n, _)| n == "pos_embed").unwrap();
    let fixed = table.1.shallow_clone();
    table.1 = fixed.flip([1]); // rows and columns from the other end
    let (_root, files) = open(&tensors);
    says(dit::check_positions(&files), &["pos_embed: differs from the fixed table by"]);
    tensors.iter_mut().find(|(n, _)| n == "pos_embed").unwrap().1 = fixed.narrow(1, 0, 15);
    let (_root, files) = open(&tensors);
    says(dit::check_positions(&files), &["15 tokens of width 12"]);
}

#[test]
fn embedders_are_shared_and_repeated() {
    let theirs = golden().section("dit.diffusers.");
    let (_root, folder) = saved(&theirs, MAX_SHARD_BYTES);
    let files = WeightFiles::open(&folder, None).unwrap();
    let shared = dit::share_embedders(&files).unwrap();
    let original = shapes_of(&golden().section("dit.original."));
    let names =
        |pieces: &[Piece]| pieces.iter().map(|p| (p.to.clone(), p.shape.clone())).collect::<BTreeMap<_, _>>();
    let direct = dit::from_original(&original, Embedders::Shared).unwrap();
    assert_eq!(names(&shared), names(&direct));
    assert!(names(&shared).contains_key("time_embedder.linear_2.bias"));

    let ours: Named = shared.iter().map(|p| (p.to.clone(), Tensor::zeros(&p.shape, F32))).collect();
    load_into(&ours, &files, &shared).unwrap();
    let repeated: BTreeMap<String, Tensor> = dit::repeat_embedders(&ours).into_iter().collect();
    assert_eq!(repeated.len(), theirs.len());
    assert!(theirs.iter().all(|(name, t)| repeated[name].equal(&t.to_kind(Kind::Float))));

    let mut differ = theirs;
    let one = differ.iter_mut().find(|(n, _)| n.ends_with("1.norm1.emb.timestep_embedder.linear_1.bias"));
    one.unwrap().1 += 1.0;
    let (_root, folder) = saved(&differ, MAX_SHARD_BYTES);
    let reason = dit::share_embedders(&WeightFiles::open(&folder, None).unwrap());
    says(reason, &["transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.bias differs"]);
}

/// Names and shapes of the original DiT of a published size, at 256 pixels.
fn published_dit(width: i64, depth: usize, patch: i64) -> Shapes {
    let mut shapes = Shapes::new();
    let mut layer = |name: &str, weight: &[i64]| {
        shapes.insert(format!("{name}.weight"), weight.to_vec());
        shapes.insert(format!("{name}.bias"), vec![weight[0]]);
    };
    layer("x_embedder.proj", &[width, 4, patch, patch]);
    layer("t_embedder.mlp.0", &[width, 256]);
    layer("t_embedder.mlp.2", &[width, width]);
    for n in 0..depth {
        layer(&format!("blocks.{n}.attn.qkv"), &[3 * width, width]);
        layer(&format!("blocks.{n}.attn.proj"), &[width, width]);
        layer(&format!("blocks.{n}.mlp.fc1"), &[4 * width, width]);
        layer(&format!("blocks.{n}.mlp.fc2"), &[width, 4 * width]);
        layer(&format!("blocks.{n}.adaLN_modulation.1"), &[6 * width, width]);
    }
    layer("final_layer.linear", &[8 * patch * patch, width]);
    layer("final_layer.adaLN_modulation.1", &[2 * width, width]);
    shapes.insert("y_embedder.embedding_table.weight".to_owned(), vec![1001, width]);
    shapes.insert("pos_embed".to_owned(), vec![1, (32 / patch) * (32 / patch), width]);
    shapes
}

/// Table 1 of Peebles & Xie 2023: depth, width, heads; parameters of the patch size 2 from Table 4.
#[test]
fn published_dits_are_known_by_their_shapes() {
    for (width, depth, heads, millions) in
        [(384, 12, 6, 33), (768, 12, 12, 130), (1024, 24, 16, 458), (1152, 28, 16, 675)]
    {
        let shapes = published_dit(width, depth, 2);
        let config = dit::config(&shapes, None).unwrap();
        let get = |field: &str| config[field].as_i64().unwrap();
        assert_eq!(
            (get("num_attention_heads"), get("num_attention_heads") * get("attention_head_dim")),
            (heads, width)
        );
        assert_eq!((get("num_layers"), get("patch_size"), get("sample_size")), (depth as i64, 2, 32));
        assert_eq!((get("num_embeds_ada_norm"), get("in_channels"), get("out_channels")), (1000, 4, 8));
        let pieces = dit::from_original(&shapes, Embedders::Shared).unwrap();
        assert!((parameters(&pieces) as f64 / 1e6 - f64::from(millions)).abs() < 0.6, "{width}");
    }
    assert_eq!(dit::config(&published_dit(1152, 28, 8), None).unwrap()["patch_size"], 8);
}

fn parameters(pieces: &[Piece]) -> i64 {
    pieces.iter().map(|p| p.shape.iter().product::<i64>()).sum()
}

#[test]
fn what_is_not_the_layout_is_said() {
    let mut shapes = published_dit(384, 2, 2);
    shapes.remove("blocks.1.attn.proj.bias");
    shapes.insert("lora.up".to_owned(), vec![1]);
    let wrong = dit::from_original(&shapes, Embedders::PerBlock);
    says(wrong, &["1 missing (blocks.1.attn.proj.bias)", "1 unexpected (lora.up)", "another layout"]);
    shapes.remove("pos_embed");
    says(dit::config(&shapes, None), &["pos_embed: missing"]);
    says(adm::from_original(&shapes, HEADS), &["input_blocks: 0", "not the original ADM"]);
    let mut shapes = published_adm();
    shapes.remove("middle_block.1.qkv.bias");
    says(adm::from_original(&shapes, HEADS), &["1 missing (middle_block.1.qkv.bias)"]);
    says(adm::from_original(&shapes, Heads { channels: 7, ..HEADS }), &["heads.channels: 7"]);
    shapes.insert("time_embed.0.weight".to_owned(), vec![768, 384]);
    says(adm::config(&shapes, 64, None), &["block_out_channels", "384 frequencies"]);
}

const HEADS: Heads = Heads { channels: 64, order: HeadOrder::Interleaved };

#[test]
fn the_original_adm_becomes_the_unet_of_diffusers() {
    let pieces = |channels, order| {
        move |shapes: &Shapes| adm::from_original(shapes, Heads { channels, order }).unwrap()
    };
    check_values("adm_resnet", pieces(4, HeadOrder::Interleaved));
    check_values("adm_conv", pieces(2, HeadOrder::Stacked));
    for (case, head, side) in [("adm_resnet", 4, Some(16)), ("adm_conv", 2, None)] {
        let shapes = shapes_of(&golden().section(&format!("{case}.original.")));
        assert_eq!(Layout::of(&shapes), Layout::OriginalAdm);
        check_config(case, &adm::config(&shapes, head, side).unwrap());
    }
}

/// Names and shapes of the class-conditional ADM of 64 pixels, from the paper's Table 4 and Section 3: 192 channels
/// times 1, 2, 3, 4; three blocks a resolution; attention at 32, 16 and 8 pixels; learned variance.
fn published_adm() -> Shapes {
    let mut shapes = Shapes::new();
    let mut layer = |name: &str, weight: &[i64]| {
        shapes.insert(format!("{name}.weight"), weight.to_vec());
        shapes.insert(format!("{name}.bias"), vec![weight[0]]);
    };
    let resnet = |layer: &mut dyn FnMut(&str, &[i64]), at: &str, from: i64, to: i64| {
        layer(&format!("{at}.in_layers.0"), &[from]);
        layer(&format!("{at}.in_layers.2"), &[to, from, 3, 3]);
        layer(&format!("{at}.emb_layers.1"), &[2 * to, 768]);
        layer(&format!("{at}.out_layers.0"), &[to]);
        layer(&format!("{at}.out_layers.3"), &[to, to, 3, 3]);
        if from != to {
            layer(&format!("{at}.skip_connection"), &[to, from, 1, 1]);
        }
    };
    let attention = |layer: &mut dyn FnMut(&str, &[i64]), at: &str, width: i64| {
        layer(&format!("{at}.norm"), &[width]);
        layer(&format!("{at}.qkv"), &[3 * width, width, 1]);
        layer(&format!("{at}.proj_out"), &[width, width, 1]);
    };
    layer("time_embed.0", &[768, 192]);
    layer("time_embed.2", &[768, 768]);
    layer("input_blocks.0.0", &[192, 3, 3, 3]);
    let (mut width, mut skips, mut n) = (192, vec![192], 0);
    for level in 0..4 {
        for _ in 0..3 {
            n += 1;
            let to = 192 * (level + 1);
            resnet(&mut layer, &format!("input_blocks.{n}.0"), width, to);
            if level > 0 {
                attention(&mut layer, &format!("input_blocks.{n}.1"), to);
            }
            width = to;
            skips.push(width);
        }
        if level < 3 {
            n += 1;
            resnet(&mut layer, &format!("input_blocks.{n}.0"), width, width);
            skips.push(width);
        }
    }
    resnet(&mut layer, "middle_block.0", width, width);
    attention(&mut layer, "middle_block.1", width);
    resnet(&mut layer, "middle_block.2", width, width);
    for n in 0..16 {
        let level = 3 - n / 4;
        let to = 192 * (level + 1);
        resnet(&mut layer, &format!("output_blocks.{n}.0"), width + skips.pop().unwrap(), to);
        width = to;
        if level > 0 {
            attention(&mut layer, &format!("output_blocks.{n}.1"), to);
        }
        if level > 0 && n % 4 == 3 {
            resnet(&mut layer, &format!("output_blocks.{n}.2"), to, to);
        }
    }
    layer("out.0", &[192]);
    layer("out.2", &[6, 192, 3, 3]);
    shapes.insert("label_emb.weight".to_owned(), vec![1000, 768]);
    shapes
}

/// The published size has 296 million parameters, and under diffusers' names it is the `UNet2DModel` of its config.
#[test]
fn the_published_adm_is_a_unet2dmodel() {
    let shapes = published_adm();
    let pieces = adm::from_original(&shapes, HEADS).unwrap();
    assert_eq!((parameters(&pieces) + 500_000) / 1_000_000, 296);
    let ours: BTreeMap<String, Vec<i64>> = pieces.into_iter().map(|p| (p.to, p.shape)).collect();
    assert_eq!(ours, serde_json::from_value::<BTreeMap<String, Vec<i64>>>(json()["adm64"].clone()).unwrap());
    check_config("adm64", &adm::config(&shapes, 64, Some(64)).unwrap());
}

/// One attention computed from `qkv` as the paper's code orders it, and from the three pieces as diffusers does.
#[test]
fn both_orders_of_heads_compute_the_same_attention() {
    tch::manual_seed(0);
    let (heads, dim, positions) = (3, 4, 5);
    let channels = heads * dim;
    let (x, weight) =
        (Tensor::randn([channels, positions], F32), Tensor::randn([3 * channels, channels, 1], F32));
    let softmax = |q: Tensor, k: Tensor, v: Tensor| {
        // [heads, dim, positions]
        let a = (q.transpose(1, 2).matmul(&k) / (dim as f64).sqrt()).softmax(-1, Kind::Float);
        v.matmul(&a.transpose(1, 2)).reshape([channels, positions])
    };
    let rows = weight.squeeze_dim(2).matmul(&x);
    for order in [HeadOrder::Interleaved, HeadOrder::Stacked] {
        let [q, k, v] = [0, 1, 2].map(|i| match order {
            HeadOrder::Interleaved => rows.reshape([heads, 3 * dim, positions]).narrow(1, i * dim, dim),
            HeadOrder::Stacked => rows.narrow(0, i * channels, channels).reshape([heads, dim, positions]),
        });
        let groups = if order == HeadOrder::Interleaved { heads } else { 1 };
        let part = |index| {
            let rows = Some(crate::Rows { groups, of: 3, index });
            let piece = Piece { rows, ..Piece::whole("", "", vec![channels, channels]) };
            piece.take(&weight).unwrap().matmul(&x).reshape([heads, dim, positions])
        };
        close(&softmax(part(0), part(1), part(2)), &softmax(q, k, v), 1e-5);
    }
}

#[test]
fn old_names_of_diffusers_are_renewed() {
    let tensors = named(&[
        ("mid_block.attentions.0.query.weight", Tensor::ones([1], F32)),
        ("mid_block.attentions.0.proj_attn.bias", Tensor::ones([1], F32)),
        ("mid_block.attentions.0.group_norm.bias", Tensor::ones([1], F32)),
        ("key.query.value", Tensor::ones([1], F32)),
    ]);
    let shapes = shapes_of(&tensors);
    let names: Vec<String> = diffusers::current_names(&shapes).into_iter().map(|p| p.to).collect();
    let attention = "mid_block.attentions.0";
    let expected = ["group_norm.bias", "to_out.0.bias", "to_q.weight"].map(|n| format!("{attention}.{n}"));
    assert_eq!(names, [vec!["key.query.value".to_owned()], expected.to_vec()].concat());
    assert_eq!(Layout::of(&shapes), Layout::Diffusers);
    assert_eq!(as_named(&shapes).len(), 4);
}
