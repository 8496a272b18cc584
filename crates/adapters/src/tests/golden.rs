//! Outputs and gradients beside diffusers.

use super::fixtures::{base, made, net_config, unet_config};
use crate::{
    ChannelOrder, ControlNet, ControlNetModelConfig, ScaledSites, Several, T2iAdapter, T2iAdapterConfig,
    T2iAdapterType, Weight,
};
use heldout_core::{Adapted, Adapter, Backbone, Cond, Input, Params, Residuals};
use heldout_testkit::{Golden, close};
use heldout_unet::UNet;
use heldout_unet::diffusers::{DownBlockType, MidBlockType, PerLevel};
use tch::{Kind, Tensor, nn};

const TOLERANCE: f64 = 2e-5;

/// Takes the golden weights, which have the same names.
#[track_caller]
fn load(vars: &nn::VarStore, golden: &Golden, name: &str) {
    let weights = golden.section(&format!("{name}.weights."));
    let params = Params::of(vars);
    let names: Vec<&str> = params.named().map(|(n, _)| n).collect();
    assert_eq!(names, weights.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>());
    params.restore(&weights.into_iter().map(|(_, t)| t).collect::<Vec<_>>());
}

/// The gradients that the peer has; at least one.
#[track_caller]
fn same_gradients(vars: &nn::VarStore, golden: &Golden, name: &str) {
    let theirs = golden.section(&format!("{name}.grad."));
    assert!(!theirs.is_empty());
    let ours = vars.variables();
    for (n, theirs) in theirs {
        let error = (ours[&n].grad() - &theirs) / (1.0f64 + theirs.abs().max());
        close(&error, &theirs.zeros_like(), TOLERANCE);
    }
}

#[track_caller]
fn same_residuals(residuals: &Residuals, golden: &Golden, name: &str) {
    assert_eq!(residuals.0.len(), golden.section(&format!("{name}.residual.")).len());
    for (i, (_, residual)) in residuals.0.iter().enumerate() {
        close(residual, &golden.get(&format!("{name}.residual.{i}")), TOLERANCE);
    }
}

/// What is told to the nets of these hint channels.
fn told(golden: &Golden, first: i64, channels: i64) -> (Tensor, Tensor, Cond) {
    let cond = Cond {
        context: Some(golden.get("context")),
        hint: Some(golden.get("hint").narrow(1, first, channels)),
        ..Cond::default()
    };
    (golden.get("x"), golden.get("step").to_kind(Kind::Float), cond)
}

fn net(golden: &Golden, name: &str, config: &ControlNetModelConfig) -> (nn::VarStore, ControlNet) {
    let (vars, net) = made(|vs| ControlNet::new(vs, config));
    load(&vars, golden, name);
    (vars, net)
}

fn several(nets: Vec<(Box<dyn Adapter>, f64)>) -> Several {
    Several(nets.into_iter().map(|(net, weight)| (net, Weight::Fixed(weight))).collect())
}

/// Residuals, output and gradients of a net and of the UNet beside it.
#[test]
fn a_control_net_is_that_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "control_net");
    let (base_vars, backbone) = base();
    load(&base_vars, &golden, "base");
    let (vars, net) = net(&golden, "one", &net_config());
    let adapted = Adapted { backbone, adapter: several(vec![(Box::new(net), 0.7)]) };
    let (x, level, cond) = told(&golden, 0, 3);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    adapted.check(input).unwrap();
    same_residuals(&adapted.adapter.residuals(input), &golden, "one");
    let out = adapted.forward(input, &mut ());
    close(&out, &golden.get("one.out"), TOLERANCE);
    out.square().sum(Kind::Float).backward();
    same_gradients(&vars, &golden, "one");
    same_gradients(&base_vars, &golden, "base");
}

#[test]
fn guess_mode_is_that_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "control_net");
    let (base_vars, backbone) = base();
    load(&base_vars, &golden, "base");
    let (_vars, net) = net(&golden, "one", &net_config());
    let adapted = Adapted { backbone, adapter: ScaledSites::guess(net) };
    let (x, level, cond) = told(&golden, 0, 3);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: false };
    same_residuals(&adapted.adapter.residuals(input), &golden, "guess");
    close(&adapted.forward(input, &mut ()), &golden.get("guess.out"), TOLERANCE);
}

/// Two nets in guess mode with weights, the second of which pools, sees blue first and gives its heads apart.
#[test]
fn several_control_nets_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "control_net");
    let (base_vars, backbone) = base();
    load(&base_vars, &golden, "base");
    let (_vars, one) = net(&golden, "one", &net_config());
    let config = ControlNetModelConfig {
        num_attention_heads: Some(PerLevel::One(4)),
        global_pool_conditions: true,
        controlnet_conditioning_channel_order: ChannelOrder::Bgr,
        ..net_config()
    };
    let (vars, two) = net(&golden, "two", &config);
    let adapter =
        several(vec![(Box::new(ScaledSites::guess(one)), 0.7), (Box::new(ScaledSites::guess(two)), 1.3)]);
    let (x, level, cond) = told(&golden, 0, 6);
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    let adapted = Adapted { backbone, adapter };
    adapted.check(input).unwrap();
    same_residuals(&adapted.adapter.residuals(input), &golden, "several");
    let out = adapted.forward(input, &mut ());
    close(&out, &golden.get("several.out"), TOLERANCE);
    out.square().sum(Kind::Float).backward();
    same_gradients(&vars, &golden, "two");
}

/// Sizes, a vector of the text, a class, linear projections of several layers, a middle without attention.
#[test]
fn a_control_net_for_sdxl_is_that_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "control_net");
    let config = ControlNetModelConfig {
        down_block_types: vec![DownBlockType::DownBlock2D, DownBlockType::CrossAttnDownBlock2D],
        block_out_channels: vec![2, 4],
        conditioning_embedding_out_channels: vec![4],
        addition_embed_type: Some("text_time".to_owned()),
        addition_time_embed_dim: Some(4),
        projection_class_embeddings_input_dim: Some(29),
        use_linear_projection: true,
        transformer_layers_per_block: PerLevel::Each(vec![1, 2]),
        num_class_embeds: Some(3),
        mid_block_type: MidBlockType::UNetMidBlock2D,
        ..net_config()
    };
    let (vars, net) = net(&golden, "xl", &config);
    let (x, level, cond) = told(&golden, 0, 3);
    let cond = Cond {
        hint: Some(golden.get("xl.hint")),
        label: Some(Tensor::from_slice(&[2i64, 0])),
        text_embeds: Some(golden.get("xl.text_embeds")),
        time_ids: Some(golden.get("xl.time_ids")),
        ..cond
    };
    let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
    net.check(input).unwrap();
    let residuals = net.residuals(input);
    same_residuals(&residuals, &golden, "xl");
    let loss: Tensor = residuals.0.iter().map(|(_, r)| r.square().sum(Kind::Float)).sum();
    loss.backward();
    same_gradients(&vars, &golden, "xl");
}

/// Features, output and gradients, of the adapter and of the images, for each kind.
#[test]
fn t2i_adapters_are_those_of_diffusers() {
    let golden = Golden::open(env!("CARGO_MANIFEST_DIR"), "t2i_adapter");
    let inputs = Golden::open(env!("CARGO_MANIFEST_DIR"), "control_net");
    for (name, adapter_type, channels) in [
        ("full_adapter", T2iAdapterType::FullAdapter, vec![4, 4]),
        ("light_adapter", T2iAdapterType::LightAdapter, vec![4]),
        ("full_adapter_xl", T2iAdapterType::FullAdapterXl, vec![2, 4, 4, 4]),
    ] {
        let is_xl = adapter_type == T2iAdapterType::FullAdapterXl;
        let crosses: &[bool] = if is_xl { &[false, true, true] } else { &[true, false] };
        let (base_vars, backbone) = made(|vs| UNet::planned(vs, unet_config(crosses).plan()?));
        let (file, of) = if is_xl { (&golden, "other") } else { (&inputs, "base") };
        load(&base_vars, file, of);
        let config = T2iAdapterConfig {
            channels,
            num_res_blocks: 1,
            downscale_factor: 2,
            adapter_type,
            ..T2iAdapterConfig::default()
        };
        let (vars, adapter) = made(|vs| T2iAdapter::new(vs, &config));
        load(&vars, &golden, name);
        let (x, level, cond) = told(&inputs, 0, 3);
        let hint = if is_xl { inputs.get("xl.hint") } else { inputs.get("hint").narrow(1, 0, 3) };
        let features = adapter.features(&hint);
        assert_eq!(features.len(), golden.section(&format!("{name}.feature.")).len());
        for (i, feature) in features.iter().enumerate() {
            close(feature, &golden.get(&format!("{name}.feature.{i}")), TOLERANCE);
        }
        let x = x.copy().set_requires_grad(true); // The file hands out one tensor to all.
        let cond = Cond { hint: Some(hint), ..cond };
        let input = Input { x: &x, noise_level: &level, cond: &cond, train: true };
        let adapted = Adapted { backbone, adapter };
        adapted.check(input).unwrap();
        let out = adapted.forward(input, &mut ());
        close(&out, &golden.get(&format!("{name}.out")), TOLERANCE);
        out.square().sum(Kind::Float).backward();
        same_gradients(&vars, &golden, name);
        let theirs = golden.get(&format!("{name}.grad_x"));
        close(&((x.grad() - &theirs) / (1.0f64 + theirs.abs().max())), &theirs.zeros_like(), TOLERANCE);
    }
}
