//! What every depth costs.

use crate::{UNetPlusPlus, UNetPlusPlusConfig};
use heldout_core::{Backbone, Cond, Input, Params, Result};
use heldout_nn::{count, meta, without_storage};
use std::fmt;
use tch::{Device, Kind, nn};

/// What one depth costs for one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DepthCost {
    /// The depth.
    pub depth: usize,
    /// Trained numbers of the network of this depth, with its own head alone.
    pub parameters: usize,
    /// Multiply-adds of a forward pass.
    pub multiply_adds: u64,
}

/// What every depth of a nested UNet costs for one image, shallowest first. Shown as a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Costs {
    /// Of the images.
    pub height: i64,
    /// Of the images.
    pub width: i64,
    /// One row for each depth.
    pub rows: Vec<DepthCost>,
}

impl Costs {
    /// Builds each depth without storage and counts a pass.
    pub(crate) fn of(config: &UNetPlusPlusConfig, height: i64, width: i64) -> Result<Self> {
        config.check()?;
        config.check_images(config.unet.in_channels, height, width)?;
        let row = |depth| {
            let config = UNetPlusPlusConfig { deep_supervision: false, depth: Some(depth), ..config.clone() };
            let vars = nn::VarStore::new(Device::Cpu);
            let network = without_storage(|| UNetPlusPlus::new(&vars.root(), &config))?;
            let x = meta(&[1, config.unet.in_channels, height, width], Kind::Float);
            let label = config.unet.num_class_embeds.map(|_| meta(&[1], Kind::Int64));
            let (noise_level, cond) = (meta(&[1], Kind::Float), Cond { label, ..Cond::default() });
            let input = Input { x: &x, noise_level: &noise_level, cond: &cond, train: false };
            let (_, cost) = count(|| tch::no_grad(|| network.forward(input, &mut ())));
            let parameters = Params::of(&vars).count();
            Ok(DepthCost { depth, parameters, multiply_adds: cost.multiply_adds })
        };
        Ok(Self { height, width, rows: (1..=config.depth()).map(row).collect::<Result<_>>()? })
    }
}

impl fmt::Display for Costs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| depth | parameters | multiply-adds at {}x{} |\n|---|---|---|",
            self.height, self.width
        )?;
        self.rows.iter().try_for_each(|row| {
            let DepthCost { depth, parameters, multiply_adds } = row;
            let (millions, giga) = (*parameters as f64 * 1e-6, *multiply_adds as f64 * 1e-9);
            writeln!(f, "| {depth} | {millions:.3} M | {giga:.3} G |")
        })
    }
}
