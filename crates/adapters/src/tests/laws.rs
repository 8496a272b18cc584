//! An adapter starts as nothing, and leaves its base alone.

use super::fixtures::{base, input, made, moved, net_config, unet_config};
use crate::{
    CONTROL_NET_OWN, ControlNet, ControlNetModelConfig, DIT_CONTROL_OWN, DitControl, DitControlConfig,
    HintConfig, ScaledSites, Several, T2iAdapter, T2iAdapterConfig, T2iAdapterType, Weight, copy_weights,
};
use heldout_core::{Adapted, Adapter, Backbone, Cond, Input, Params, Probe, Site};
use heldout_dit::{Dit, DitConfig};
use heldout_nn::without_storage;
use heldout_testkit::{check_adapter, close};
use heldout_unet::diffusers::PerLevel;
use tch::{Device, Kind, Tensor, nn};

fn bits(x: &Tensor) -> Vec<i32> {
    Vec::try_from(x.contiguous().view_dtype(Kind::Int).flatten(0, -1)).unwrap()
}

/// Nothing at the start, to the last bit; something once it has moved; nothing again without a hint; and gradients for the
/// adapter's parameters alone while the base is locked.
#[track_caller]
fn keeps_the_laws(
    (base_vars, backbone): (&mut nn::VarStore, impl Backbone),
    (vars, adapter): (&nn::VarStore, impl Adapter + 'static),
    input: Input<'_>,
) {
    base_vars.freeze();
    check_adapter(&adapter, input);
    assert_eq!(adapter.residuals(input).0.iter().map(|(site, _)| *site).collect::<Vec<_>>(), adapter.sites());
    let alone = backbone.forward(input, &mut ());
    let adapted = Adapted { backbone, adapter };
    adapted.check(input).unwrap();
    let out = adapted.forward(input, &mut ());
    assert_eq!(bits(&out), bits(&alone));
    out.square().sum(Kind::Float).backward();
    assert!(
        Params::of(vars).grads().any(|g| g.abs().max().double_value(&[]) > 0.0),
        "nothing can be learned"
    );
    moved(vars, 0.1);
    let out = adapted.forward(input, &mut ());
    assert_ne!(bits(&out), bits(&alone));
    Params::of(vars).zero_grad();
    out.square().sum(Kind::Float).backward();
    for (name, p) in Params::of(vars).named() {
        assert!(p.grad().defined(), "{name} has no gradient");
    }
    assert!(base_vars.variables().values().all(|p| !p.grad().defined()), "the base has a gradient");
    let cond = Cond { hint: None, ..input.cond.shallow_clone() };
    let out = adapted.forward(Input { cond: &cond, ..input }, &mut ());
    assert_eq!(bits(&out), bits(&alone));
}

#[test]
fn a_control_net_starts_as_nothing() {
    let (mut base_vars, backbone) = base();
    let (vars, net) = made(|vs| ControlNet::new(vs, &net_config()));
    copy_weights(&base_vars, &vars, &CONTROL_NET_OWN).unwrap();
    let (x, level, cond) = input(3);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    keeps_the_laws((&mut base_vars, backbone), (&vars, net), input);
}

#[test]
fn t2i_adapters_start_as_nothing() {
    for (adapter_type, channels) in
        [(T2iAdapterType::FullAdapter, vec![4, 4]), (T2iAdapterType::LightAdapter, vec![4])]
    {
        let (mut base_vars, backbone) = base();

        let config =
            T2iAdapterConfig { channels, downscale_factor: 2, adapter_type, ..T2iAdapterConfig::default() };
        let (vars, adapter) = made(|vs| T2iAdapter::new(vs, &config));
        let (x, level, cond) = input(3);
        let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
        keeps_the_laws((&mut base_vars, backbone), (&vars, adapter), input);
    }
}

#[test]
fn several_start_as_nothing() {
    let (mut base_vars, backbone) = base();
    let (vars, several) = made(|vs| {
        let net: Box<dyn Adapter> = Box::new(ControlNet::new(&(vs / "net"), &net_config())?);
        let config = T2iAdapterConfig { channels: vec![4, 4], downscale_factor: 2, ..Default::default() };
        let t2i: Box<dyn Adapter> = Box::new(T2iAdapter::new(&(vs / "t2i"), &config)?);
        let weights = vs / "weights";
        Ok(Several(vec![
            (net, Weight::learned(&weights, "net", 1.0)),
            (t2i, Weight::learned(&weights, "t2i", 0.5)),
        ]))
    });
    let (x, level, cond) = input(6);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    keeps_the_laws((&mut base_vars, backbone), (&vars, several), input);
}

fn dit_config() -> DitConfig {
    DitConfig {
        in_channels: 2,
        out_channels: 2,
        sample_size: 8,
        depth: 3,
        width: 8,
        heads: 2,
        num_classes: 3,
        ..DitConfig::small(2)
    }
}

#[test]
fn a_controlled_transformer_starts_as_it_was() {
    let (mut base_vars, backbone) = made(|vs| Dit::new(vs, &dit_config()));
    moved(&base_vars, 0.1); // Its output is 0 at the start.
    let config = DitControlConfig { blocks: 2, hint_factor: 2, ..DitControlConfig::default() };
    let (vars, adapter) = made(|vs| DitControl::new(vs, &dit_config(), config));
    copy_weights(&base_vars, &vars, &DIT_CONTROL_OWN).unwrap();
    let (x, level, Cond { hint, .. }) = input(3);
    let cond = Cond { hint, label: Some(Tensor::from_slice(&[2i64, 0])), ..Cond::default() };
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    keeps_the_laws((&mut base_vars, backbone), (&vars, adapter), input);
}

/// A hint of one patch moves the tokens of that patch in the first block's residual, once it can.
#[test]
fn a_transformers_hint_is_where_it_is() {
    let (vars, adapter) =
        made(|vs| DitControl::new(vs, &dit_config(), DitControlConfig { blocks: 1, ..Default::default() }));
    for (name, p) in Params::of(&vars).named() {
        if DIT_CONTROL_OWN.iter().any(|own| name.starts_with(own)) {
            tch::no_grad(|| p.shallow_clone().copy_(&p.randn_like()));
        }
    }
    let (x, level, _) = input(3);
    let residual = |hint: &Tensor| {
        let cond = Cond { hint: Some(hint.shallow_clone()), ..Cond::default() };
        let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
        adapter.residuals(input).0.remove(0).1
    };
    let hint = Tensor::zeros([2, 3, 8, 8], super::fixtures::F32);
    let before = residual(&hint);
    let _ = hint.narrow(2, 2, 2).narrow(3, 4, 2).fill_(1.0);
    let moved = (residual(&hint) - before).abs().amax([-1i64].as_slice(), false).gt(1e-4);
    let expected = Tensor::zeros([2, 16], (Kind::Bool, Device::Cpu));
    let _ = expected.narrow(1, 6, 1).fill_(1.0); // Second row, third column of 4x4 patches; blocks start as the identity.
    assert!(moved.equal(&expected));
}

/// Sees whether there is a graph.
struct Graphs(Vec<(Site, bool)>);

impl Probe for Graphs {
    fn at(&mut self, site: Site, h: Tensor) -> Tensor {
        self.0.push((site, h.requires_grad()));
        h
    }
}

/// A locked base's encoder is no part of the graph: it begins where the first residual comes in.
#[test]
fn a_locked_base_has_no_graph_before_the_first_residual() {
    let (mut base_vars, backbone) = base();
    let (_vars, adapter) = made(|vs| ControlNet::new(vs, &net_config()));
    base_vars.freeze();
    let (x, level, cond) = input(3);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    let mut graphs = Graphs(Vec::new());
    let _ = Adapted { backbone, adapter }.forward(input, &mut graphs);
    let before = |site: &Site| matches!(site, Site::Stem | Site::Level(_));
    assert!(graphs.0.iter().all(|(site, graph)| before(site) != *graph), "{:?}", graphs.0);
}

/// The published size, and the same by way of the UNet's configuration.
#[test]
fn the_control_net_of_sd_1_5_has_361_279_120_parameters() {
    let config = ControlNetModelConfig::sd_1_5();
    let vars = nn::VarStore::new(Device::Cpu);
    let _net = without_storage(|| ControlNet::new(&vars.root(), &config)).unwrap();
    assert_eq!(Params::of(&vars).count(), 361_279_120);
    let unet = heldout_unet::diffusers::UNet2DConditionModelConfig {
        cross_attention_dim: Some(PerLevel::One(768)),
        ..Default::default()
    };
    assert_eq!(ControlNetModelConfig::from_unet(&unet, HintConfig::default()).unwrap(), config);
}

/// A weight of 0 is as if the adapter were not there, and weights are linear.
#[test]
fn weights_scale_residuals() {
    let (vars, net) = made(|vs| ControlNet::new(vs, &net_config()));
    moved(&vars, 0.1);
    let (x, level, cond) = input(3);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let plain = net.residuals(input);
    let sites = plain.0.len();
    let scales: Vec<f64> = (0..sites).map(|i| i as f64).collect();
    let scaled = ScaledSites::new(net, scales.clone()).unwrap();
    let several = Several(vec![(Box::new(scaled), Weight::Fixed(0.5))]);
    for (((site, a), (there, b)), scale) in plain.0.iter().zip(several.residuals(input).0).zip(scales) {
        assert_eq!(*site, there);
        close(&(a * (0.5 * scale)), &b, 1e-6);
    }
    let Several(mut parts) = several;
    parts[0].1 = Weight::Fixed(0.0);
    let off = Several(parts);
    assert!(off.residuals(input).0.is_empty() && off.sites().is_empty());
}

#[test]
fn what_does_not_fit_is_named() {
    let (_vars, net) = made(|vs| ControlNet::new(vs, &net_config()));
    let (x, level, cond) = input(4);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    let error = net.check(input).unwrap_err().to_string();
    assert!(
        error.starts_with("hint: is of shape [2, 4, 16, 16]") && error.contains("[2, 3, 16, 16]"),
        "{error}"
    );
    let none = Cond { hint: cond.hint.as_ref().map(|h| h.narrow(1, 0, 3)), ..Cond::default() };
    let error = net.check(Input { cond: &none, ..input }).unwrap_err().to_string();
    assert!(error.starts_with("encoder_hidden_states: is missing"), "{error}");
    let several = Several(vec![(Box::new(net), Weight::Fixed(1.0))]);
    assert!(several.check(input).unwrap_err().to_string().contains("[B, 3, H, W]"));
    let (_vars, net) = made(|vs| ControlNet::new(vs, &net_config()));
    assert!(ScaledSites::new(net, vec![1.0]).unwrap_err().to_string().starts_with("scales: 1 scales"));
    let error = DitControl::new(
        &nn::VarStore::new(Device::Cpu).root(),
        &dit_config(),
        DitControlConfig { blocks: 4, ..Default::default() },
    );
    assert!(error.unwrap_err().to_string().starts_with("blocks: 4: 1 to 3"));
}

#[test]
fn a_base_that_does_not_fit_is_named_and_nothing_is_copied() {
    let (base_vars, _backbone) = base();
    let config = ControlNetModelConfig { cross_attention_dim: 5, ..net_config() };
    let (vars, _net) = made(|vs| ControlNet::new(vs, &config));
    let before = Params::of(&vars).snapshot();
    let error = copy_weights(&base_vars, &vars, &CONTROL_NET_OWN).unwrap_err().to_string();
    assert!(error.contains("attn2") && error.contains("another network"), "{error}");
    assert!(heldout_testkit::same(&before, &Params::of(&vars).snapshot()));
    assert!(copy_weights(&base_vars, &vars, &[]).unwrap_err().to_string().contains("is not in the base"));
}

#[test]
fn what_the_class_does_not_have_is_named() {
    let hint = HintConfig::default;
    let unet = unet_config(&[true, false]);
    let of = |change: fn(&mut heldout_unet::diffusers::UNet2DConditionModelConfig)| {
        let mut unet = unet.clone();
        change(&mut unet);
        ControlNetModelConfig::from_unet(&unet, hint()).unwrap_err().to_string()
    };
    assert!(of(|u| u.conv_in_kernel = 5).starts_with("conv_in_kernel: 5"));
    assert!(of(|u| u.resnet_skip_time_act = true).starts_with("resnet_skip_time_act: true"));
    assert!(of(|u| u.encoder_hid_dim = Some(8)).starts_with("encoder_hid_dim: 8"));
    let error = |change: fn(&mut ControlNetModelConfig)| {
        let mut config = net_config();
        change(&mut config);
        let vars = nn::VarStore::new(Device::Cpu);
        ControlNet::new(&vars.root(), &config).unwrap_err().to_string()
    };
    assert!(
        error(|c| c.addition_embed_type = Some("image".into())).starts_with("addition_embed_type: image")
    );
    assert!(
        error(|c| c.conditioning_embedding_out_channels.clear()).starts_with("conditioning_embedding_out")
    );
    assert!(error(|c| c.conditioning_channels = 0).starts_with("conditioning_channels: 0"));
    let xl = T2iAdapterConfig {
        channels: vec![4, 4, 8, 12],
        adapter_type: T2iAdapterType::FullAdapterXl,
        ..Default::default()
    };
    assert!(xl.check().unwrap_err().to_string().starts_with("channels: [4, 4, 8, 12]"));
}

/// The fields of a published `config.json`, which has no others, come back as they were.
#[test]
fn configurations_go_through_json() {
    let config = ControlNetModelConfig::sd_1_5();
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<ControlNetModelConfig>(&text).unwrap(), config);
    let wrong = serde_json::from_str::<ControlNetModelConfig>(r#"{"out_channels": 4}"#).unwrap_err();
    assert!(wrong.to_string().contains("out_channels"));
}
