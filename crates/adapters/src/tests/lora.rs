//! LoRA against peft, and its files against those of diffusers and kohya.

use crate::{LoraConfig, LoraFile, LoraSet};
use heldout_core::{Backbone, Cond, Input, Params, Result};
use heldout_nn::{Linear, adaptable};
use heldout_testkit::{Golden, close};
use heldout_unet::UNet;
use heldout_unet::diffusers::UNet2DConditionModelConfig;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor, nn};

/// A base of `make_lora.py` that is frozen, with its golden numbers.
struct Base {
    golden: Golden,
    vars: nn::VarStore,
    unet: UNet,
    set: LoraSet,
}

impl Base {
    fn new() -> Self {
        Self::of(json!({
            "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 8], "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": 6, "attention_head_dim": 2, "norm_num_groups": 2,
        }))
    }

    fn of(config: Value) -> Self {
        tch::manual_seed(0);
        let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "lora");
        let config: UNet2DConditionModelConfig = serde_json::from_value(config).unwrap();
        let mut vars = nn::VarStore::new(Device::Cpu);
        let (unet, sites) = adaptable(|| UNet::planned(&vars.root(), config.plan().unwrap()).unwrap());
        for (name, theirs) in golden.section("weights.") {
            let ours = &vars.variables()[&name];
            if ours.size() == theirs.size() {
                tch::no_grad(|| ours.shallow_clone().copy_(&theirs));
            }
        }
        vars.freeze();
        Self { golden, vars, unet, set: LoraSet::new(sites) }
    }

    fn forward(&self) -> Tensor {
        let get = |name: &str| self.golden.get(name);
        let cond = Cond { context: Some(get("context")), ..Cond::default() };
        let (x, level) = (get("x"), get("step").to_kind(Kind::Float));
        self.unet.forward(Input { x: &x, noise_level: &level, cond: &cond, train: true }, &mut ())
    }

    /// One of the files.
    fn load(&mut self, name: &str, file: &str) -> Result<nn::VarStore> {
        let low = nn::VarStore::new(Device::Cpu);
        self.set.load(name, &low.root(), &LoraFile::open(&path(file))?, "unet")?;
        Ok(low)
    }
}

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{file}.safetensors"))
}

/// Outputs and gradients, ranks and alphas of single layers, and rank-stabilised scales.
#[test]
fn loras_are_those_of_peft() {
    for (name, file) in [("one", "one_diffusers"), ("two", "two_diffusers")] {
        let mut base = Base::new();
        close(&base.forward(), &base.golden.get("base"), 2e-5);
        let low = base.load(name, file).unwrap();
        let out = base.forward();
        close(&out, &base.golden.get(&format!("{name}.out")), 2e-5);
        out.square().sum(Kind::Float).backward();
        let params = Params::of(&low);
        let theirs = base.golden.section(&format!("{name}.grad."));
        assert_eq!(
            params.named().map(|(n, _)| n).collect::<Vec<_>>(),
            theirs.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>()
        );
        for ((_, ours), (_, theirs)) in params.named().zip(&theirs) {
            let gap = (ours.grad() - theirs) / theirs.abs().max().clamp_min(1.0);
            close(&gap, &theirs.zeros_like(), 2e-5);
        }
        assert!(base.vars.variables().values().all(|t| !t.grad().defined()), "the base has gradients");
    }
}

#[test]
fn merged_loras_are_those_of_diffusers() {
    let mut base = Base::new();
    let before: HashMap<_, _> = base.vars.variables().into_iter().map(|(n, t)| (n, t.copy())).collect();
    let _one = base.load("one", "one_diffusers").unwrap();
    let unmerged = base.forward();
    base.set.merge();
    close(&base.forward(), &base.golden.get("one.fused"), 1e-5);
    close(&base.forward(), &unmerged, 1e-5);
    assert!(base.set.set_strength("one", 0.5).unwrap_err().to_string().contains("unmerge"));
    base.set.unmerge();
    assert!(base.forward().equal(&unmerged));
    assert!(base.vars.variables().iter().all(|(name, now)| now.equal(&before[name])));
    base.set.remove("one").unwrap();
    close(&base.forward(), &base.golden.get("base"), 2e-5);
}

#[test]
fn several_act_at_once_with_their_strengths() {
    let mut base = Base::new();
    let _low = [("one", "one_diffusers"), ("two", "two_diffusers")].map(|(n, f)| base.load(n, f).unwrap());
    base.set.set_strength("one", 0.6).unwrap();
    base.set.set_strength("two", -0.8).unwrap();
    close(&base.forward(), &base.golden.get("both.out"), 2e-5);
    base.set.merge();
    close(&base.forward(), &base.golden.get("both.out"), 2e-5);
    base.set.unmerge();
    assert!(base.set.set_strength("three", 1.0).unwrap_err().to_string().contains("[one, two]"));
}

/// A file without alphas has those of its ranks; kohya's file has one for each layer.
#[test]
fn other_files_give_the_same_layers() {
    let ratio = |file: &str, layer: &str| {
        let mut base = Base::new();
        let _low = base.load("two", file).unwrap();
        let (_, config, _) = base.set.loras().next().unwrap();
        let layers = base.set.layers("two").unwrap();
        let theirs = &layers[layer];
        (config.scale(layer), theirs.each_ref().map(Tensor::copy), layers.len())
    };
    let [q, v] = ["to_q", "to_v"].map(|n| format!("mid_block.attentions.0.transformer_blocks.0.attn2.{n}"));
    let (peft, wanted, count) = ratio("two_diffusers", &q);
    assert!((peft - 2.0 / 3f64.sqrt()).abs() < 1e-12);
    for (file, layer, scale) in
        [("two_bare", &q, 1.0), ("two_kohya", &q, 2.0), ("two_bare", &v, 1.0), ("two_kohya", &v, 0.5)]
    {
        let (found, tensors, layers) = ratio(file, layer);
        assert_eq!((found, layers), (scale, count), "{file} {layer}");
        if *layer == q {
            assert!(tensors.iter().zip(&wanted).all(|(a, b)| a.equal(b)), "{file}");
        }
    }
}

/// A LoRA that was made here changes nothing at first, is trained, and comes back from its file.
#[test]
fn a_new_lora_is_silent_and_survives_its_file() {
    let mut base = Base::new();
    let before = base.forward();
    let config = LoraConfig {
        r: 2,
        lora_alpha: 3.5,
        target_modules: ["to_q", "conv1", "downsamplers.0.conv"].map(str::to_owned).to_vec(),
        exclude_modules: vec!["mid_block.resnets.0.conv1".to_owned()],
        rank_pattern: [("conv1".to_owned(), 3)].into(),
        alpha_pattern: [("attn1.to_q".to_owned(), 1.0)].into(),
        use_rslora: true,
    };
    let low = nn::VarStore::new(Device::Cpu);
    base.set.add("new", &low.root(), config).unwrap();
    assert!(base.forward().equal(&before));
    assert!(!base.set.layers("new").unwrap().contains_key("mid_block.resnets.0.conv1"));
    base.forward().square().sum(Kind::Float).backward();
    let grads: Vec<_> = Params::of(&low).named().map(|(n, t)| (n.to_owned(), t.grad())).collect();
    for (name, grad) in &grads {
        let largest = grad.abs().max().double_value(&[]);
        assert_eq!(largest > 0.0, name.contains("lora_B"), "{name}: {largest}"); // B is 0, so that A waits
    }
    tch::no_grad(|| Params::of(&low).tensors().for_each(|t| drop(t.shallow_clone().normal_(0.0, 0.2))));
    let trained = base.forward();
    let folder = tempfile::tempdir().unwrap();
    base.set.save("new", folder.path(), "unet").unwrap();
    let mut other = Base::new();
    let again = nn::VarStore::new(Device::Cpu);
    let file = LoraFile::open(folder.path()).unwrap();
    assert_eq!(file.components().collect::<Vec<_>>(), ["unet"]);
    other.set.load("again", &again.root(), &file, "unet").unwrap();
    assert!(other.forward().equal(&trained));
    let entries: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(entries, ["pytorch_lora_weights.safetensors"]);
}

/// Writes tensors of zeros under these names.
fn write(file: &Path, tensors: &[(&str, &[usize])], metadata: Option<(&str, &str)>) {
    let zeros = vec![0u8; 1 << 16];
    let views = tensors.iter().map(|(name, shape)| {
        let bytes = &zeros[..4 * shape.iter().product::<usize>()];
        (name.to_string(), TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    let metadata = metadata.map(|(k, v)| HashMap::from([(k.to_owned(), v.to_owned())]));
    std::fs::write(file, safetensors::serialize(views, metadata).unwrap()).unwrap();
}

/// A network of one layer, `attn.to_q`, from 4 to 6.
fn small() -> (nn::VarStore, LoraSet) {
    let vars = nn::VarStore::new(Device::Cpu);
    let (_linear, sites) = adaptable(|| Linear::new(&(vars.root() / "attn" / "to_q"), 4, 6));
    (vars, LoraSet::new(sites))
}

const A: [usize; 2] = [2, 4];
const B: [usize; 2] = [6, 2];

/// Names of every published kind reach the layer.
#[test]
fn every_layout_is_understood() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    for (down, up) in [
        ("unet.attn.to_q.lora_A.weight", "unet.attn.to_q.lora_B.weight"),
        ("attn.to_q.lora_A.weight", "attn.to_q.lora_B.weight"),
        ("base_model.model.attn.to_q.lora_A.weight", "base_model.model.attn.to_q.lora_B.weight"),
        ("unet.attn.to_q.lora.down.weight", "unet.attn.to_q.lora.up.weight"),
        ("unet.attn.processor.to_q_lora.down.weight", "unet.attn.processor.to_q_lora.up.weight"),
        ("lora_unet_attn_to_q.lora_down.weight", "lora_unet_attn_to_q.lora_up.weight"),
    ] {
        let (_vars, mut set) = small();
        write(&file, &[(down, &A), (up, &B)], None);
        let low = nn::VarStore::new(Device::Cpu);
        set.load("x", &low.root(), &LoraFile::open(&file).unwrap(), "unet").unwrap();
        assert_eq!(set.layers("x").unwrap().keys().collect::<Vec<_>>(), ["attn.to_q"], "{down}");
    }
    // peft's own folder: the configuration lies beside.
    let (_vars, mut set) = small();
    let names = ["base_model.model.attn.to_q.lora_A.weight", "base_model.model.attn.to_q.lora_B.weight"];
    write(&folder.path().join("adapter_model.safetensors"), &[(names[0], &A), (names[1], &B)], None);
    let config =
        r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 16, "init_lora_weights": true, "bias": "none"}"#;
    std::fs::write(folder.path().join("adapter_config.json"), config).unwrap();
    let low = nn::VarStore::new(Device::Cpu);
    set.load("x", &low.root(), &LoraFile::open(folder.path()).unwrap(), "unet").unwrap();
    assert_eq!(set.loras().next().unwrap().1.scale("attn.to_q"), 8.0);
}

#[test]
fn files_for_other_bases_and_of_other_kinds_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.safetensors");
    let fails = |tensors: &[(&str, &[usize])], metadata: Option<&str>, words: &[&str]| {
        write(&file, tensors, metadata.map(|text| ("lora_adapter_metadata", text)));
        let (_vars, mut set) = small();
        let low = nn::VarStore::new(Device::Cpu);
        let loaded = LoraFile::open(&file).and_then(|f| set.load("x", &low.root(), &f, "unet"));
        let message = loaded.unwrap_err().to_string();
        assert!(message.starts_with(file.to_str().unwrap()), "{message}");
        words.iter().for_each(|word| assert!(message.contains(word), "{message}: {word}"));
        assert!(low.is_empty() && set.loras().next().is_none(), "a part of it is there");
    };
    let (a, b) = ("unet.attn.to_q.lora_A.weight", "unet.attn.to_q.lora_B.weight");
    let (other_a, other_b) = ("unet.attn.to_k.lora_A.weight", "unet.attn.to_k.lora_B.weight");
    fails(
        &[(a, &A), (b, &B), (other_a, &A), (other_b, &B)],
        None,
        &["attn.to_k", "no such layer", "another base"],
    );
    fails(&[(a, &[2, 5]), (b, &B)], None, &["attn.to_q", "[6, 5]", "[6, 4]", "another base"]);
    fails(&[(a, &[2, 4, 3, 3]), (b, &[6, 2, 1, 1])], None, &["[6, 4, 3, 3]"]);
    fails(&[(a, &A)], None, &["attn.to_q", "lacks one of"]);
    fails(&[(a, &A), (b, &[6, 3])], None, &["do not fit together"]);
    fails(&[(a, &A), ("unet.attn.to_q.lora.down.weight", &A)], None, &["two such tensors"]);
    fails(&[("unet.attn.to_q.lora_magnitude_vector", &[6])], None, &["DoRA"]);
    fails(&[("lora_unet_attn_to_q.hada_w1_a", &[6, 2])], None, &["LoHa"]);
    fails(&[("attn.to_q.weight", &[6, 4])], None, &["is no tensor of a LoRA"]);
    fails(&[], None, &["has no tensor"]);
    fails(&[(a, &A), (b, &B), ("unet.attn.to_q.alpha", &[2])], None, &["alpha has 2 numbers"]);
    let text = [("text_encoder.attn.to_q.lora_A.weight", A), ("text_encoder.attn.to_q.lora_B.weight", B)];
    let text = text.each_ref().map(|(n, s)| (*n, s.as_slice()));
    fails(&text, None, &["nothing for unet", "text_encoder"]);
    for (metadata, word) in [
        (r#"{"unet.r": 2, "unet.use_dora": true}"#, "use_dora: true"),
        (r#"{"unet.r": 2, "unet.init_lora_weights": "pissa"}"#, "init_lora_weights"),
        (r#"{"unet.r": 2, "unet.alpha_pattern": {".*q": 3}}"#, "expressions are not covered"),
        ("{", "no JSON object"),
    ] {
        fails(&[(a, &A), (b, &B)], Some(metadata), &[word]);
    }
    std::fs::write(&file, b"no tensors").unwrap();
    assert!(LoraFile::open(&file).unwrap_err().to_string().contains("damaged"));
    assert!(LoraFile::open(&folder.path().join("y")).unwrap_err().to_string().contains("y"));
    assert!(LoraFile::open(folder.path()).unwrap_err().to_string().contains("give the file itself"));
}

/// A LoRA for wider cross-attention than the base has, as of Stable Diffusion 2 for 1.5.
#[test]
fn a_lora_for_another_context_is_named() {
    let mut base = Base::of(json!({
        "sample_size": 8, "in_channels": 3, "out_channels": 3, "block_out_channels": [4, 8], "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "cross_attention_dim": 10, "attention_head_dim": 2, "norm_num_groups": 2,
    }));
    let message = base.load("one", "one_diffusers").unwrap_err().to_string();
    let words = ["one_diffusers.safetensors", "attn2.to_k", "[4, 6]", "[4, 10]", "another base"];
    words.iter().for_each(|word| assert!(message.contains(word), "{message}: {word}"));
}

#[test]
fn impossible_settings_are_named() {
    let fails = |change: fn(&mut LoraConfig), word: &str| {
        let mut config = LoraConfig { target_modules: vec!["to_q".to_owned()], ..LoraConfig::default() };
        change(&mut config);
        let low = nn::VarStore::new(Device::Cpu);
        let message = small().1.add("x", &low.root(), config).unwrap_err().to_string();
        assert!(message.starts_with(word), "{message}");
        assert!(low.is_empty());
    };
    fails(|c| c.r = 0, "r: 0");
    fails(|c| c.lora_alpha = f64::NAN, "lora_alpha: NaN");
    fails(|c| c.rank_pattern = [("to_q".to_owned(), -1)].into(), "rank_pattern.to_q: -1");
    fails(|c| c.target_modules.clear(), "target_modules: is empty");
    fails(|c| c.target_modules[0] = "to_x".to_owned(), "target_modules: to_x: no layer");
    fails(|c| c.target_modules[0] = "o_q".to_owned(), "target_modules: o_q: no layer");
    fails(|c| c.target_modules[0] = "to_(q|k)".to_owned(), "target_modules: to_(q|k): expressions");
    fails(|c| c.exclude_modules.push("to_q".to_owned()), "exclude_modules: leaves no layer");
    let (_vars, mut set) = small();
    let low = nn::VarStore::new(Device::Cpu);
    let config = LoraConfig { target_modules: vec!["to_q".to_owned()], ..LoraConfig::default() };
    set.add("x", &low.root(), config.clone()).unwrap();
    assert!(set.add("x", &low.root(), config).unwrap_err().to_string().contains("x: is there already"));
    assert!(set.set_strength("x", f64::INFINITY).unwrap_err().to_string().starts_with("lora.x: inf"));
}
