//! The diffusion transformer.

use crate::block::Block;
use crate::config::{DitConfig, EmbedderPlace};
use crate::embedding::{Embedder, FinalLayer, PatchEmbedding};
use heldout_core::{Backbone, Cond, Error, Input, Probe, Result, Site};
use heldout_nn::Activation;
use tch::{Tensor, nn};

/// The diffusion transformer of Peebles and Xie 2023 with the parameter names of diffusers' `DiTTransformer2DModel`.
///
/// Law: the output is exactly 0 at initialisation, and every block the identity.
#[derive(Debug)]
pub struct Dit {
    pub(crate) trunk: Trunk,
    pub(crate) last: FinalLayer,
}

/// A [`Dit`] without its last layer: a value of its own, since adapters copy it.
#[derive(Debug)]
pub struct Trunk {
    pub(crate) pos_embed: PatchEmbedding,
    embedders: Vec<Embedder>,
    pub(crate) blocks: Vec<Block>,
    config: DitConfig,
}

/// The conditions of every block, before and after SiLU.
pub(crate) struct Conditions(Vec<(Tensor, Tensor)>);

impl Conditions {
    /// Of block `i`, after SiLU.
    pub(crate) fn activated(&self, i: usize) -> &Tensor {
        &self.0[i.min(self.0.len() - 1)].1
    }

    /// Of the last layer.
    pub(crate) fn last(&self) -> &Tensor {
        &self.0[0].0
    }
}

impl Dit {
    /// Under `vs`: what [`Trunk::new`] makes, `proj_out_1`, `proj_out_2`.
    pub fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Result<Self> {
        Ok(Self { trunk: Trunk::new(vs, config)?, last: FinalLayer::new(vs, config) })
    }

    /// Its sizes.
    pub fn config(&self) -> &DitConfig {
        &self.trunk.config
    }
}

impl Trunk {
    /// Under `vs`: `pos_embed.proj`, `transformer_blocks`, and the embedders: `time_embedder` and `class_embedder`, or one in the
    /// `norm1.emb` of each block.
    pub fn new(vs: &nn::Path<'_>, config: &DitConfig) -> Result<Self> {
        config.check()?;
        let block = |i: usize| vs / "transformer_blocks" / i;
        let embedders = match config.embedders {
            EmbedderPlace::Shared => {
                vec![Embedder::new(&(vs / "time_embedder"), &(vs / "class_embedder"), config)]
            }
            EmbedderPlace::EachBlock => (0..config.depth)
                .map(|i| {
                    let emb = block(i) / "norm1" / "emb";
                    Embedder::new(&(&emb / "timestep_embedder"), &(&emb / "class_embedder"), config)
                })
                .collect(),
        };
        Ok(Self {
            pos_embed: PatchEmbedding::new(&(vs / "pos_embed"), config),
            embedders,
            blocks: (0..config.depth).map(|i| Block::new(&block(i), config)).collect(),
            config: config.clone(),
        })
    }

    /// The tokens after the last block, `[B, L, width]`, of `x` `[B, C, H, W]`; no class is dropped, in training neither. The
    /// probe sees the stem and every block.
    pub fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let labels = self.labels(input.cond, input.x.size()[0], false);
        self.tokens(input, labels.as_ref(), probe).0
    }

    /// The same of `labels` `[B]` of [`Trunk::labels`], with the conditions that its blocks were told.
    fn tokens(
        &self,
        input: Input<'_>,
        labels: Option<&Tensor>,
        probe: &mut dyn Probe,
    ) -> (Tensor, Conditions) {
        let (tokens, place) = self.pos_embed.forward(input.x);
        let mut tokens = probe.at(Site::Stem, tokens);
        let conditions = self.conditions(input.noise_level, labels);
        for (i, block) in self.blocks.iter().enumerate() {
            let out = block.forward(&tokens, conditions.activated(i), &place, input.train);
            tokens = probe.at(Site::Block(i), out);
        }
        (tokens, conditions)
    }

    /// The labels `[rows]` that all embedders see, some of them dropped in training: a class is dropped for the whole
    /// network.
    pub(crate) fn labels(&self, cond: &Cond, rows: i64, train: bool) -> Option<Tensor> {
        self.embedders[0].labels(cond, rows, train)
    }

    /// `level` `[B]` and `labels` `[B]` of [`Trunk::labels`].
    pub(crate) fn conditions(&self, level: &Tensor, labels: Option<&Tensor>) -> Conditions {
        let of = |embedder: &Embedder| {
            let condition = embedder.forward(level, labels);
            let activated = Activation::Silu.apply(&condition);
            (condition, activated)
        };
        Conditions(self.embedders.iter().map(of).collect())
    }

    /// Which part of an input it cannot take, and why.
    pub fn check(&self, input: Input<'_>) -> Result<()> {
        let size = input.x.size();
        if size.len() != 4 {
            return Err(Error::config("sample", format!("is of shape {size:?}: [B, C, H, W] is needed")));
        }
        self.check_sizes(&size, "[B, C, H, W]")?;
        self.check_rows(size[0], input)
    }

    pub(crate) fn check_rows(&self, rows: i64, input: Input<'_>) -> Result<()> {
        if input.noise_level.size() != [rows] {
            let reason = format!("is of shape {:?}: one for each of {rows} rows", input.noise_level.size());
            return Err(Error::config("timestep", reason));
        }
        self.embedders[0].check(input.noise_level, input.cond)
    }

    pub(crate) fn check_sizes(&self, size: &[i64], wanted: &str) -> Result<()> {
        let [.., height, width] = *size else { unreachable!("the caller counted the dimensions") };
        let (channels, patch) = (self.config.in_channels, self.config.patch_size);
        let cut = |n: i64| n >= patch && n % patch == 0;
        if size.contains(&0) || size[1] != channels || !cut(height) || !cut(width) {
            let reason = format!(
                "is of shape {size:?}: the network needs {wanted} of {channels} channels, sides multiples of {patch}"
            );
            return Err(Error::config("sample", reason));
        }
        Ok(())
    }
}

impl Backbone for Dit {
    /// `[B, in_channels, H, W] -> [B, out_channels, H, W]`; `H` and `W` are multiples of the patch, not the base size alone.
    fn forward(&self, input: Input<'_>, probe: &mut dyn Probe) -> Tensor {
        let size = input.x.size();
        let labels = self.trunk.labels(input.cond, size[0], input.train);
        let (tokens, conditions) = self.trunk.tokens(input, labels.as_ref(), probe);
        self.last.forward(&tokens, conditions.last(), size[2], size[3])
    }

    fn check(&self, input: Input<'_>) -> Result<()> {
        self.trunk.check(input)
    }
}
