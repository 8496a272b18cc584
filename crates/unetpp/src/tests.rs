//! The grid against the plain UNet, every depth against the whole, and the table of costs.

use crate::{UNetPlusPlus, UNetPlusPlusConfig};
use heldout_core::{Backbone, Cond, Input, Params, Probe, Recorder, Site};
use heldout_nn::{count, without_storage};
use heldout_testkit::{check_backbone, close};
use heldout_unet::diffusers::{ResampleType, TimeScaleShift};
use heldout_unet::{UNet, UNetConfig};
use std::collections::BTreeMap;
use tch::{Device, Kind, Tensor, nn};

const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

fn unet(widths: &[i64]) -> UNetConfig {
    let attention = (0..widths.len()).map(|i| i == 1).collect();
    UNetConfig { attention, attention_head_dim: 4, norm_num_groups: 2, ..UNetConfig::new(3, widths) }
}

/// Three depths, every one with a head.
fn deep() -> UNetPlusPlusConfig {
    UNetPlusPlusConfig { deep_supervision: true, ..UNetPlusPlusConfig::new(unet(&[4, 8, 12, 16])) }
}

fn grid(config: &UNetPlusPlusConfig) -> (nn::VarStore, UNetPlusPlus) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let network = UNetPlusPlus::new(&vars.root(), config).unwrap();
    (vars, network)
}

fn image(rows: i64, height: i64, width: i64) -> Tensor {
    tch::manual_seed(1);
    Tensor::randn([rows, 3, height, width], F32)
}

fn input<'a>(x: &'a Tensor, level: &'a Tensor, cond: &'a Cond, train: bool) -> Input<'a> {
    Input { x, noise_level: level, cond, train }
}

fn shapes(vars: &nn::VarStore) -> BTreeMap<String, Vec<i64>> {
    vars.variables().into_iter().map(|(name, t)| (name, t.size())).collect()
}

#[test]
fn the_grid_keeps_the_laws_of_a_backbone() {
    let (_vars, network) = grid(&deep());
    let x = image(4, 16, 24);
    check_backbone(&network, &x, &Cond::default());
    for depth in 1..=3 {
        check_backbone(&network.at_depth(depth).unwrap(), &x, &Cond::default());
    }
}

/// Where a parameter of the grid of one depth is in the plain UNet.
fn plain_name(name: &str) -> String {
    let moved = [("nodes.1.0.", "up_blocks.0."), ("nodes.0.1.", "up_blocks.1."), ("heads.1.", "")];
    let from = moved.iter().find_map(|(ours, plain)| Some(format!("{plain}{}", name.strip_prefix(ours)?)));
    from.unwrap_or_else(|| name.to_owned())
}

#[test]
fn of_two_resolutions_it_is_the_plain_unet() {
    let options = UNetConfig {
        resnet_time_scale_shift: TimeScaleShift::ScaleShift,
        resample_type: ResampleType::Resnet,
        num_class_embeds: Some(4),
        ..unet(&[8, 12])
    };
    for config in [unet(&[8, 12]), options] {
        tch::manual_seed(3);
        let plain_vars = nn::VarStore::new(Device::Cpu);
        let plain = UNet::new(&plain_vars.root(), &config).unwrap();
        let classes = config.num_class_embeds.map(|_| Tensor::from_slice(&[0i64, 3]));
        let (vars, network) = grid(&UNetPlusPlusConfig::new(config));
        let (theirs, ours) = (plain_vars.variables(), vars.variables());
        assert_eq!(ours.len(), theirs.len());
        for (name, t) in &ours {
            tch::no_grad(|| t.shallow_clone().copy_(&theirs[&plain_name(name)]));
        }
        let (x, level) = (image(2, 8, 12), Tensor::from_slice(&[3f32, 700.0]));
        let cond = Cond { label: classes, ..Cond::default() };
        let sites = (0..6).map(Site::Down).chain([Site::Mid, Site::Up(0), Site::Up(1)]);
        let seen = |network: &dyn Backbone| {
            let mut recorder = Recorder { wanted: sites.clone().collect(), seen: Vec::new() };
            let out = network.forward(input(&x, &level, &cond, true), &mut recorder);
            recorder.seen.sort_by_key(|(site, _)| format!("{site:?}"));
            (out, recorder.seen)
        };
        let ((a, at), (b, bt)) = (seen(&network), seen(&plain));
        assert!(a.equal(&b), "another output");
        assert_eq!(at.len(), 9);
        for ((site, h), (other, g)) in at.iter().zip(&bt) {
            assert!(site == other && h.equal(g), "{site:?} differs from {other:?}");
        }
        // As do the gradients.
        a.square().sum(Kind::Float).backward();
        b.square().sum(Kind::Float).backward();
        for (name, t) in ours.iter().filter(|(_, t)| t.requires_grad()) {
            close(&t.grad(), &theirs[&plain_name(name)].grad(), 0.0);
        }
    }
}

#[test]
fn a_depth_is_the_head_of_the_whole() {
    let (vars, network) = grid(&deep());
    let (x, level, cond) = (image(2, 16, 8), Tensor::from_slice(&[3f32, 700.0]), Cond::default());
    let all = network.heads(input(&x, &level, &cond, false), &mut ());
    assert_eq!(all.len(), 3);
    assert!(network.forward(input(&x, &level, &cond, false), &mut ()).equal(&all[2]));
    assert!(!all[0].equal(&all[1]) && !all[1].equal(&all[2]));
    let weights = vars.variables();
    for depth in 1..=3 {
        let stopped = network.at_depth(depth).unwrap();
        assert!(stopped.forward(input(&x, &level, &cond, false), &mut ()).equal(&all[depth - 1]));
        // And so is a network that was never built deeper, with the weights that it has of the whole.
        let (small, cut) =
            grid(&UNetPlusPlusConfig { depth: Some(depth), deep_supervision: false, ..deep() });
        for (name, t) in small.variables() {
            tch::no_grad(|| t.shallow_clone().copy_(&weights[&name]));
        }
        assert!(cut.forward(input(&x, &level, &cond, false), &mut ()).equal(&all[depth - 1]));
        assert_eq!(cut.depth(), depth);
    }
}

#[test]
fn no_gradient_goes_beyond_a_depth() {
    let (x, level, cond) = (image(2, 8, 8), Tensor::from_slice(&[3f32, 700.0]), Cond::default());
    for depth in 1..=3usize {
        let (vars, network) = grid(&deep());
        let all = network.heads(input(&x, &level, &cond, true), &mut ());
        all[depth - 1].square().sum(Kind::Float).backward();
        let small = UNetPlusPlusConfig { depth: Some(depth), deep_supervision: false, ..deep() };
        let within = shapes(&grid(&small).0);
        for (name, t) in Params::of(&vars).named() {
            assert_eq!(t.grad().defined(), within.contains_key(name), "{name} at depth {depth}");
        }
    }
}

#[test]
fn training_shows_every_head_to_the_probe_and_reaches_every_parameter() {
    let (vars, network) = grid(&deep());
    let (x, level, cond) = (image(2, 8, 8), Tensor::from_slice(&[3f32, 700.0]), Cond::default());
    let wanted: Vec<Site> = (1..=3).map(Site::Head).collect();
    let seen = |train| {
        let mut recorder = Recorder { wanted: wanted.clone(), seen: Vec::new() };
        let out = network.forward(input(&x, &level, &cond, train), &mut recorder);
        (out, recorder.seen)
    };
    let (out, heads) = seen(true);
    assert_eq!(heads.iter().map(|(site, _)| *site).collect::<Vec<_>>(), wanted);
    assert!(heads[2].1.equal(&out));
    assert_eq!(seen(false).1.len(), 1, "only training needs the others");
    let sum = heads.iter().map(|(_, h)| h.square().sum(Kind::Float)).reduce(|a, b| a + b).unwrap();
    sum.backward();
    assert_eq!(Params::of(&vars).grads().count(), Params::of(&vars).tensors().count());
    // Without deep supervision the objective's own loss does.
    let (vars, network) = grid(&UNetPlusPlusConfig { deep_supervision: false, ..deep() });
    network.forward(input(&x, &level, &cond, true), &mut ()).square().sum(Kind::Float).backward();
    assert_eq!(Params::of(&vars).grads().count(), Params::of(&vars).tensors().count());
}

/// What a probe puts in the place of a head is the answer.
#[test]
fn a_probe_may_replace_a_head() {
    #[derive(Debug)]
    struct Zero;
    impl Probe for Zero {
        fn at(&mut self, site: Site, h: Tensor) -> Tensor {
            if site == Site::Head(3) { h.zeros_like() } else { h }
        }
    }
    let (_vars, network) = grid(&deep());
    let (x, level, cond) = (image(1, 8, 8), Tensor::from_slice(&[3f32]), Cond::default());
    let out = network.forward(input(&x, &level, &cond, false), &mut Zero);
    close(&out, &out.zeros_like(), 0.0);
}

#[test]
fn the_table_of_costs_is_that_of_the_networks() {
    let config = UNetPlusPlusConfig { deep_supervision: false, ..deep() };
    let costs = config.costs(16, 24).unwrap();
    assert_eq!(costs.rows.len(), 3);
    for pair in costs.rows.windows(2) {
        assert!(pair[0].parameters < pair[1].parameters && pair[0].multiply_adds < pair[1].multiply_adds);
    }
    assert_eq!(costs, deep().costs(16, 24).unwrap(), "what only training needs is not counted");
    let (x, level, cond) = (image(1, 16, 24), Tensor::from_slice(&[3f32]), Cond::default());
    let (vars, network) = grid(&config);
    let (_, cost) = count(|| network.forward(input(&x, &level, &cond, false), &mut ()));
    let last = costs.rows[2];
    assert_eq!((last.parameters, last.multiply_adds), (Params::of(&vars).count(), cost.multiply_adds));
    // A depth of a network with all heads computes what the table says, and no more.
    let (_vars, network) = grid(&deep());
    for row in &costs.rows {
        let stopped = network.at_depth(row.depth).unwrap();
        let (_, cost) = count(|| stopped.forward(input(&x, &level, &cond, false), &mut ()));
        assert_eq!(cost.multiply_adds, row.multiply_adds, "depth {}", row.depth);
    }
    assert_eq!(costs.to_string().lines().count(), 5);
}

#[test]
fn without_storage_it_is_the_same_network() {
    for config in [deep(), UNetPlusPlusConfig { depth: Some(2), ..deep() }] {
        let vars = nn::VarStore::new(Device::Cpu);
        without_storage(|| UNetPlusPlus::new(&vars.root(), &config)).unwrap();
        assert_eq!(shapes(&vars), shapes(&grid(&config).0));
    }
}

/// Sizes that do not halve evenly go through where they can be doubled to the size of what comes beside them.
#[test]
fn odd_sizes_go_through() {
    let (_vars, network) = grid(&deep());
    let (x, level, cond) = (image(1, 9, 15), Tensor::from_slice(&[3f32]), Cond::default());
    network.check(input(&x, &level, &cond, false)).unwrap();
    assert!(network.heads(input(&x, &level, &cond, false), &mut ()).iter().all(|h| h.size() == x.size()));
}

#[test]
fn impossible_settings_are_named() {
    let error = |change: fn(&mut UNetPlusPlusConfig)| {
        let mut config = deep();
        change(&mut config);
        config.check().unwrap_err().to_string()
    };
    assert!(error(|c| c.depth = Some(0)).starts_with("depth: 0"));
    assert!(
        error(|c| c.depth = Some(4)).starts_with("depth: 4 is not a depth of this grid: they are 1 to 3")
    );
    assert!(error(|c| c.unet.dropout = 1.0).starts_with("unet.dropout: 1"));
    assert!(error(|c| c.unet = unet(&[8])).starts_with("unet.block_out_channels: 1 resolution"));
    assert!(deep().check_images(3, 12, 16).unwrap_err().to_string().contains("12x16"));
    UNetPlusPlusConfig { depth: Some(2), ..deep() }.check_images(3, 12, 16).unwrap();
    assert!(deep().costs(12, 16).unwrap_err().to_string().contains("12x16"));

    let (_vars, network) = grid(&UNetPlusPlusConfig { deep_supervision: false, ..deep() });
    let error = |depth| network.at_depth(depth).unwrap_err().to_string();
    assert!(error(2).contains("deep_supervision"), "{}", error(2));
    assert!(error(4).starts_with("depth: 4"));
    network.at_depth(3).unwrap();
    let (x, level) = (image(2, 8, 8), Tensor::from_slice(&[3f32, 4.0]));
    let labelled = Cond::of_labels(Tensor::from_slice(&[0i64, 1]));
    assert!(
        network
            .check(input(&x, &level, &labelled, false))
            .unwrap_err()
            .to_string()
            .starts_with("class_labels")
    );
    let one = level.narrow(0, 0, 1);
    let error = network.check(input(&x, &one, &Cond::default(), false)).unwrap_err().to_string();
    assert!(error.starts_with("timestep"));
}

#[test]
fn a_recipe_that_is_misspelt_is_refused() {
    let written = serde_json::to_value(deep()).unwrap();
    assert_eq!(serde_json::from_value::<UNetPlusPlusConfig>(written.clone()).unwrap(), deep());
    let mut other = written;
    other["supervision"] = true.into();
    assert!(serde_json::from_value::<UNetPlusPlusConfig>(other).is_err());
}

/// The table of the README is what the code gives.
#[test]
fn the_readme_tells_the_costs() {
    let unet =
        UNetConfig { attention: vec![false, true, false, false], ..UNetConfig::new(3, &[64, 128, 256, 256]) };
    let costs = UNetPlusPlusConfig::new(unet).costs(32, 32).unwrap().to_string();
    assert!(include_str!("../README.md").contains(&costs), "{costs}");
}
