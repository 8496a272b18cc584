//! The nodes of the grid and what they hand on.

use crate::config::GridPlan;
use heldout_core::{Probe, Site};
use heldout_nn::{Activation, Conv2d, GroupNorm, Surroundings};
use heldout_unet::UpLevel;
use tch::{Tensor, nn};

/// The nodes of a grid, by row (resolution) and column. Row `i` has the columns `0..=depth - i`.
#[derive(Debug)]
pub(crate) struct Grid {
    nodes: Vec<Vec<UpLevel>>,
    /// Whether the last row has blocks: the coarsest level of the plain UNet's way up.
    has_bottom: bool,
}

impl Grid {
    /// Under `vs`: `I.J.resnets`, `I.J.attentions`, `I.J.upsamplers` for the node `X[I][J]`.
    pub(crate) fn new(vs: &nn::Path<'_>, plan: &GridPlan) -> Self {
        let node = |i: usize, j: usize| UpLevel::new(&(vs / i / j), &plan.node(i, j));
        let row = |i: usize| (0..=plan.depth - i).map(|j| node(i, j)).collect();
        Self { nodes: (0..=plan.depth).map(row).collect(), has_bottom: plan.depth == plan.whole }
    }

    /// `X[0][1]` to `X[0][depth]`, from the skip connections of each resolution, finest first, as the encoder makes them, and
    /// the output of the middle.
    ///
    /// The probe sees what the nodes on the way to the deepest head hand up: with the middle, the path of the plain UNet.
    pub(crate) fn forward(
        &self,
        skips: Vec<Vec<Tensor>>,
        mid: Tensor,
        around: Surroundings<'_>,
        probe: &mut dyn Probe,
    ) -> Vec<Tensor> {
        let (deepest, depth) = (self.nodes.len() - 1, skips.len() - 1);
        // What each node of a row has made so far, block by block; the encoder's last block comes first.
        let mut rows: Vec<Vec<Vec<Tensor>>> =
            skips.into_iter().map(|skips| vec![skips.into_iter().rev().collect()]).collect();
        let mut handed: Vec<Tensor> = rows.iter().map(|row| row[0][0].shallow_clone()).collect();
        if depth == deepest && self.has_bottom {
            let made =
                self.nodes[depth][0].each(mid, around, |h, k| Tensor::cat(&[h, &rows[depth][0][k]], 1));
            handed[depth] = last(&made);
        }
        let mut tops = Vec::with_capacity(depth);
        for column in 1..=depth {
            for row in 0..=depth - column {
                // From the row below, of the column before: brought to the size of this one.
                let node = &self.nodes[row + 1][column - 1];
                let size = rows[row][0][0].size();
                let mut h = node.resample(handed[row + 1].shallow_clone(), around, Some([size[2], size[3]]));
                if row + column == deepest {
                    h = probe.at(Site::Up(column - 1), h);
                }
                let made = self.nodes[row][column].each(h, around, |h, k| {
                    let of_row = rows[row].iter().map(|made| &made[k]);
                    Tensor::cat(&std::iter::once(h).chain(of_row).collect::<Vec<_>>(), 1)
                });
                handed[row] = last(&made);
                rows[row].push(made);
            }
            if column == deepest {
                handed[0] = probe.at(Site::Up(column), handed[0].shallow_clone());
            }
            tops.push(handed[0].shallow_clone());
        }
        tops
    }
}

fn last(made: &[Tensor]) -> Tensor {
    made.last().expect("a node has at least one block").shallow_clone()
}

/// Norm, activation, convolution: a prediction from a node of the finest resolution.
#[derive(Debug)]
pub(crate) struct Head {
    norm: Option<(GroupNorm, Activation)>,
    conv: Conv2d,
}

impl Head {
    /// Under `vs`: `conv_norm_out`, `conv_out`.
    pub(crate) fn new(vs: &nn::Path<'_>, plan: &GridPlan) -> Self {
        let (width, kernel) = (plan.unet.width, plan.unet.conv_out_kernel);
        let norm = plan.unet.norm_out.map(|(groups, eps, activation)| {
            (GroupNorm::new(&(vs / "conv_norm_out"), groups, width, eps), activation)
        });
        let conv = vs / "conv_out";
        Self { norm, conv: Conv2d::padded(&conv, width, plan.unet.out_channels, kernel, 1, (kernel - 1) / 2) }
    }

    /// `[B, width, H, W] -> [B, out_channels, H, W]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match &self.norm {
            Some((norm, activation)) => self.conv.forward(&norm.activated(x, None, *activation)),
            None => self.conv.forward(x),
        }
    }
}
