//! Encoder, grid and heads together.

use crate::UNetPlusPlusConfig;
use crate::config::{GridPlan, depth_exists};
use crate::grid::{Grid, Head};
use heldout_core::{Backbone, Error, Input, Probe, Result, Site};
use heldout_unet::{Encoded, Encoder};
use tch::{Tensor, nn};

/// The nested UNet of Zhou et al. 2020 (UNet++), Eq. 1, as a denoiser: every block of every node is told the noise level.
///
/// Node `X[i][j]` is at resolution `i`. `X[i][0]` is the encoder's; block `k` of `X[i][j]` takes the block before it, at first
/// `X[i + 1][j - 1]` at twice its size, beside what blocks `k` of `X[i][0]` to `X[i][j - 1]` gave: one tensor for each
/// block, as the plain UNet's skip connections. The middle and the coarsest level of the plain UNet's way up belong to
/// the bottom, `X[L][0]`. The prediction of depth `j` comes from `X[0][j]`, which needs the `j + 1` finest resolutions alone.
///
/// Law: with two resolutions, and so one depth, it is the plain UNet of the same blocks, bit for bit.
/// Law: the prediction of depth `j` does not depend on nodes beyond it.
#[derive(Debug)]
pub struct UNetPlusPlus {
    encoder: Encoder,
    grid: Grid,
    /// That of depth `j` at `j - 1`.
    heads: Vec<Option<Head>>,
    plan: GridPlan,
}

impl UNetPlusPlus {
    /// Under `vs`: the encoder under diffusers' names, `nodes.I.J` for `X[I][J]` and `heads.J` for depth `J`.
    pub fn new(vs: &nn::Path<'_>, config: &UNetPlusPlusConfig) -> Result<Self> {
        let plan = config.plan()?;
        let head = |j: usize| plan.heads.contains(&j).then(|| Head::new(&(vs / "heads" / j), &plan));
        Ok(Self {
            encoder: Encoder::new(vs, &plan.unet),
            grid: Grid::new(&(vs / "nodes"), &plan),
            heads: (1..=plan.depth).map(head).collect(),
            plan,
        })
    }

    /// How deep the grid is.
    pub fn depth(&self) -> usize {
        self.plan.depth
    }

    /// The prediction of every depth that has a head, shallowest first, each `[B, out_channels, H, W]`; the probe sees that
    /// of depth `j` at [`Site::Head`] `j`.
    pub fn heads(&self, input: Input<'_>, probe: &mut dyn Probe) -> Vec<Tensor> {
        self.predict(input, self.depth(), true, probe)
    }

    /// The network that stops at a depth: nothing that is needed beyond it is computed.
    pub fn at_depth(&self, depth: usize) -> Result<AtDepth<'_>> {
        depth_exists(depth, self.depth())?;
        if self.heads[depth - 1].is_none() {
            let reason =
                format!("{depth} has no head: only a grid with deep_supervision = true has one there");
            return Err(Error::config("depth", reason));
        }
        Ok(AtDepth { network: self, depth })
    }

    /// The predictions of one pass down to `depth`: all, or the last.
    fn predict(&self, input: Input<'_>, depth: usize, all: bool, probe: &mut dyn Probe) -> Vec<Tensor> {
        let is_whole = depth == self.depth();
        let Encoded { skips, mut mid, told } = match is_whole {
            true => self.encoder.forward(input, probe),
            false => self.encoder.descend(input, depth + 1, probe),
        };
        if is_whole && self.plan.unet.mid.is_some() {
            mid = probe.at(Site::Mid, mid);
        }
        let mut skips = skips.into_iter().enumerate();
        let mut of_level =
            |n| skips.by_ref().take(n).map(|(i, skip)| probe.at(Site::Down(i), skip)).collect();
        let levels = self.plan.unet.down.iter().take(depth + 1);
        let by_level = levels.map(|level| of_level(level.resnets.len() + 1)).collect(); // The first of each enters it.
        let tops = self.grid.forward(by_level, mid, told.around(input.train), probe);
        let wanted = self.heads.iter().zip(&tops).enumerate().filter(|(i, _)| all || i + 1 == depth);
        let heads = wanted.filter_map(|(i, (head, top))| Some((i + 1, head.as_ref()?.forward(top))));
        heads.map(|(j, out)| probe.at(Site::Head(j), out)).collect()
    }

    fn last(mut predictions: Vec<Tensor>) -> Tensor {
        predictions.pop().expect("the deepest depth has a head, and `at_depth` asks for one")
    }
}

impl Backbone for UNetPlusPlus {
    /// `[B, in_channels, H, W] -> [B, out_channels, H, W]`, the prediction of the whole depth. In training the probe sees those
    /// of the other depths as well, where they have heads.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        Self::last(self.predict(input, self.depth(), input.train, probe))
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        self.plan.unet.check_input(input)?;
        self.encoder.check(input)
    }
}

/// A nested UNet that stops at a depth: the prediction from `X[0][depth]`.
#[derive(Debug, Clone, Copy)]
pub struct AtDepth<'a> {
    network: &'a UNetPlusPlus,
    depth: usize,
}

impl Backbone for AtDepth<'_> {
    /// `[B, in_channels, H, W] -> [B, out_channels, H, W]`.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        UNetPlusPlus::last(self.network.predict(input, self.depth, false, probe))
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        self.network.check(input)
    }
}
