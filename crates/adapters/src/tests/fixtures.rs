//! Small networks and inputs that several tests share.

use crate::{ControlNetModelConfig, HintConfig};
use heldout_core::{Cond, Params};
use heldout_unet::UNet;
use heldout_unet::diffusers::{DownBlockType, PerLevel, UNet2DConditionModelConfig, UpBlockType};
use tch::{Device, Kind, Tensor, nn};

pub(super) const F32: (Kind, Device) = (Kind::Float, Device::Cpu);

/// Every parameter of `make` made, given values that are no start of a layer.
pub(super) fn made<T>(make: impl FnOnce(&nn::Path<'_>) -> heldout_core::Result<T>) -> (nn::VarStore, T) {
    tch::manual_seed(0);
    let vars = nn::VarStore::new(Device::Cpu);
    let made = make(&vars.root()).unwrap();
    (vars, made)
}

/// Moves every parameter, as training would.
pub(super) fn moved(vars: &nn::VarStore, by: f64) {
    tch::no_grad(|| {
        for p in Params::of(vars).tensors() {
            let _ = p.shallow_clone().g_add_(&(p.randn_like() * by));
        }
    });
}

/// Sizes of the golden UNets: `true` stands for a level with a context.
pub(super) fn unet_config(crosses: &[bool]) -> UNet2DConditionModelConfig {
    let down = |c: &bool| if *c { DownBlockType::CrossAttnDownBlock2D } else { DownBlockType::DownBlock2D };
    let up = |c: &bool| if *c { UpBlockType::CrossAttnUpBlock2D } else { UpBlockType::UpBlock2D };
    UNet2DConditionModelConfig {
        in_channels: 2,
        out_channels: 2,
        down_block_types: crosses.iter().map(down).collect(),
        up_block_types: crosses.iter().rev().map(up).collect(),
        block_out_channels: if crosses.len() == 2 { vec![4, 4] } else { vec![2, 4, 4] },
        layers_per_block: PerLevel::One(1),
        cross_attention_dim: Some(PerLevel::One(6)),
        attention_head_dim: PerLevel::One(Some(2)),
        norm_num_groups: Some(2),
        ..UNet2DConditionModelConfig::default()
    }
}

pub(super) fn base() -> (nn::VarStore, UNet) {
    made(|vs| UNet::planned(vs, unet_config(&[true, false]).plan()?))
}

/// A ControlNet for the golden base.
pub(super) fn net_config() -> ControlNetModelConfig {
    let hint = HintConfig { conditioning_embedding_out_channels: vec![4, 6], ..HintConfig::default() };
    ControlNetModelConfig::from_unet(&unet_config(&[true, false]), hint).unwrap()
}

/// Images, levels and conditions with a hint of so many channels.
pub(super) fn input(hint_channels: i64) -> (Tensor, Tensor, Cond) {
    tch::manual_seed(1);
    let (x, level) = (Tensor::randn([2, 2, 8, 8], F32), Tensor::from_slice(&[7f32, 900.0]));
    let context = Some(Tensor::randn([2, 3, 6], F32));
    let hint = Some(Tensor::rand([2, hint_channels, 16, 16], F32));
    (x, level, Cond { context, hint, ..Cond::default() })
}
