//! A base with its adapter.

use super::base::{self, Bases, check_base};
use super::config::{AdapterConfig, Base, ControlConfig, DecoupledConfig, PartConfig, T2iConfig, part_key};
use crate::recipe::Recipe;
use crate::sample::{arm_folder, recipe_of};
use crate::space::Space;
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_adapters::hints::HintTechnique;
use heldout_adapters::{
    CONTROL_NET_OWN, ControlNet, DIT_CONTROL_OWN, Decoupled, DitControl, DitControlConfig, HintConfig,
    LoraSet, Split, T2iAdapter, T2iAdapterConfig, T2iAdapterType, Weight, copy_weights,
};
use heldout_core::{Adapted, Adapter, Backbone, Error, stream};
use heldout_dit::DitConfig;
use heldout_nn::{LowRankSites, adaptable};
use heldout_unet::plan::{AttentionPlan, LevelPlan, Plan, ResamplePlan};
use heldout_weights::{Model, ModelConfig};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tch::{Device, nn};

/// The name of a recipe's own LoRA.
pub(super) const LORA: &str = "adapter";
/// Widths of the network that embeds a hint, as ControlNet has them: as many as halvings need.
const EMBEDDING: [i64; 4] = [16, 32, 96, 256];

/// A base and what is added to it, apart.
#[derive(Debug)]
pub(crate) struct Adaptation {
    /// The base alone; its layers hold the LoRA, if there is one.
    pub(crate) base: Rc<dyn Backbone>,
    /// Those that look at hints, in the order of the hints.
    pub(crate) nets: Vec<(String, Rc<dyn Adapter>)>,
    pub(crate) lora: Option<LoraSet>,
}

/// What an adapter is built for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site<'a> {
    pub(crate) recipe: &'a Recipe,
    pub(crate) space: &'a Space,
    pub(crate) seed: u64,
    pub(crate) device: Device,
    /// Where the bases are; those that come from arms have fresh weights if absent, to be checked before there are any.
    pub(crate) bases: Option<&'a Bases>,
}

/// The adapted network. What it trains is put into `vars`: an adapter's tensors under diffusers' names, below the names of
/// the parts where there are several, and those of an unlocked base below `base`.
pub(crate) fn build(
    config: &AdapterConfig,
    site: Site<'_>,
    vars: &nn::VarStore,
) -> Result<(Box<dyn Backbone>, Adaptation)> {
    let mut base_vars = nn::VarStore::new(site.device);
    let network = || site.recipe.model.build(&base_vars.root()).map_err(|e| e.within("model"));
    let (network, sites) = match config {
        AdapterConfig::Lora(_) => adaptable(network),
        _ => (network(), LowRankSites::new()),
    };
    let base: Rc<dyn Backbone> = Rc::from(network?);
    if let Some((path, model)) = site.opened("base", config.base())? {
        if model.config != site.recipe.model {
            let reason = format!("is not that of the base, {}: leave it out", path.display());
            return Err(anyhow!(Error::config("model", reason)));
        }
        copy_weights(&model.vars, &base_vars, &[])?;
    }
    // The same adapter whatever the base has drawn.
    tch::manual_seed(stream(site.seed, "initial adapter", 0, 0) as i64);
    let mut made = Adaptation { base: base.clone(), nets: Vec::new(), lora: None };
    let backbone: Box<dyn Backbone> = match config {
        AdapterConfig::ControlNet(config) => {
            let (net_vars, net) = site.net(config, &base_vars)?;
            if config.locked {
                base_vars.freeze();
            } else {
                adopt(vars, "base.", &base_vars);
            }
            adopt(vars, "", &net_vars);
            made.nets.push(("control_net".to_owned(), net.clone()));
            Box::new(Adapted { backbone: base, adapter: net })
        }
        AdapterConfig::T2i(config) => {
            base_vars.freeze();
            let net: Rc<dyn Adapter> = Rc::new(T2iAdapter::new(&vars.root(), &site.t2i(config)?)?);
            made.nets.push(("t2i".to_owned(), net.clone()));
            Box::new(Adapted { backbone: base, adapter: net })
        }
        AdapterConfig::Lora(config) => {
            base_vars.freeze();
            let mut set = LoraSet::new(sites);
            set.add(LORA, &vars.root(), config.lora.clone()).map_err(|e| e.within("adapter.lora"))?;
            made.lora = Some(set);
            Box::new(base)
        }
        AdapterConfig::Decoupled(config) => {
            base_vars.freeze();
            let parts = site.parts(config, &base_vars, vars, &mut made.nets)?;
            Box::new(Decoupled::new(base, Split::colour_structure_texture(), parts)?)
        }
    };
    Ok((backbone, made))
}

/// Puts the variables of `from` into `into` as well, with `prefix` before their names.
fn adopt(into: &nn::VarStore, prefix: &str, from: &nn::VarStore) {
    let shared = from.variables().into_iter().map(|(name, t)| (format!("{prefix}{name}"), t));
    if let Ok(mut variables) = into.variables_.lock() {
        variables.named_variables.extend(shared);
    }
}

impl Site<'_> {
    /// A model that is needed, if it is there.
    pub(crate) fn opened(&self, key: &str, base: &Base) -> Result<Option<(PathBuf, Model)>> {
        let Some(path) = self.path(key, base) else { return Ok(None) };
        if let Ok(arm) = arm_folder(&path) {
            check_base(&recipe_of(&arm, &[])?, self.recipe, (&path.display().to_string(), key))?;
        }
        let model = base::open(&path, self.device)?;
        if let Some(bases) = self.bases {
            bases.recognize(key, &model.tensors())?;
        }
        Ok(Some((path, model)))
    }

    fn path(&self, key: &str, base: &Base) -> Option<PathBuf> {
        match (self.bases, base) {
            (Some(bases), _) => Some(bases.path(key)),
            (None, Base::Path(path)) => Some(PathBuf::from(path)),
            (None, Base::Arm { .. }) => None,
        }
    }

    /// A net that starts as a copy of the base.
    fn net(&self, config: &ControlConfig, base: &nn::VarStore) -> Result<(nn::VarStore, Rc<dyn Adapter>)> {
        let vars = nn::VarStore::new(self.device);
        let within = |e: Error| e.within("adapter");
        let (net, own): (Rc<dyn Adapter>, &[&str]) =
            match (unet_plan(&self.recipe.model)?, dit(&self.recipe.model)?) {
                (Some(plan), _) => {
                    let net =
                        ControlNet::planned(&vars.root(), &plan, &self.hint(config)?).map_err(within)?;
                    (Rc::new(net), &CONTROL_NET_OWN)
                }
                (None, Some(dit)) => {
                    let of_dit = DitControlConfig {
                        blocks: config.blocks.unwrap_or(dit.depth.div_ceil(2)),
                        conditioning_channels: config.hint.channels(self.space.images[0]),
                        hint_factor: self.factor(),
                    };
                    (Rc::new(DitControl::new(&vars.root(), &dit, of_dit).map_err(within)?), &DIT_CONTROL_OWN)
                }
                (None, None) => {
                    return Err(anyhow!(Error::config("adapter.kind", "has no counterpart for this model")));
                }
            };
        copy_weights(base, &vars, own).map_err(within)?;
        Ok((vars, net))
    }

    /// How a ControlNet takes the recipe's hint.
    pub(super) fn hint(&self, config: &ControlConfig) -> Result<HintConfig> {
        let factor = self.factor();
        let halvings = factor.ilog2() as usize;
        let widths = match &config.embedding_channels {
            Some(widths) => widths.clone(),
            None => EMBEDDING.into_iter().cycle().take(halvings + 1).collect(),
        };
        if widths.len() != halvings + 1 || factor != 1 << halvings {
            let reason = format!(
                "{widths:?}: {} widths are needed, since a hint has {factor} times the sides of what the model sees",
                halvings + 1
            );
            return Err(anyhow!(Error::config("adapter.embedding_channels", reason)));
        }
        Ok(HintConfig {
            conditioning_channels: config.hint.channels(self.space.images[0]),
            conditioning_embedding_out_channels: widths,
            ..HintConfig::default()
        })
    }

    /// A T2I-Adapter with the widths of the UNet's levels, of the kind whose features have their sizes.
    fn t2i(&self, config: &T2iConfig) -> Result<T2iAdapterConfig> {
        let plan = unet_plan(&self.recipe.model)?
            .ok_or_else(|| Error::config("adapter.kind", "t2i needs a UNet as its base"))?;
        let widths = plan.down.iter().filter_map(|level| level.resnets.last().map(|block| block.to));
        let sizes = level_sizes(&plan);
        let full = (0..sizes.len()).all(|i| sizes[i] == 1 << i);
        let xl = (0..sizes.len()).all(|i| sizes[i] == if i < 2 { 2 } else { 4 });
        let (adapter_type, times) = match (full, xl) {
            (true, _) => (T2iAdapterType::FullAdapter, 1),
            (false, true) => (T2iAdapterType::FullAdapterXl, 2),
            (false, false) => {
                let reason = format!(
                    "t2i: the levels of this UNet are seen at 1/{} of its sides, where those of a T2I-Adapter are at 1, 1/2, \
                     1/4, .. or 1/2, 1/2, 1/4: take two levels, or a control_net",
                    sizes.iter().map(i64::to_string).collect::<Vec<_>>().join(", 1/")
                );
                return Err(anyhow!(Error::config("adapter.kind", reason)));
            }
        };
        Ok(T2iAdapterConfig {
            in_channels: config.hint.channels(self.space.images[0]),
            channels: widths.collect(),
            num_res_blocks: config.num_res_blocks,
            downscale_factor: times * self.factor(),
            adapter_type,
        })
    }

    /// The nets of all parts with their weights; put into `nets` as well.
    fn parts(
        &self,
        config: &DecoupledConfig,
        base: &nn::VarStore,
        vars: &nn::VarStore,
        nets: &mut Vec<(String, Rc<dyn Adapter>)>,
    ) -> Result<Vec<NamedPart>> {
        let split = Split::colour_structure_texture();
        let named = split.names().filter_map(|name| Some((name, config.parts.get(name)?)));
        let make = |(name, part): (&str, &PartConfig)| {
            let net = self.part(config, (name, part), base, vars)?;
            nets.push((name.to_owned(), net.clone()));
            let weight = match config.learn_weights {
                true => Weight::learned(&(vars.root() / "weights"), name, part.weight),
                false => Weight::Fixed(part.weight),
            };
            Ok((name.to_owned(), Box::new(net) as Box<dyn Adapter>, weight))
        };
        named.map(make).collect()
    }

    /// The net of one part: of another arm, as it is, or one to be trained.
    fn part(
        &self,
        config: &DecoupledConfig,
        (name, part): (&str, &PartConfig),
        base: &nn::VarStore,
        vars: &nn::VarStore,
    ) -> Result<Rc<dyn Adapter>> {
        let control = ControlConfig {
            base: config.base.clone(),
            hint: part.hint.into(),
            locked: true,
            embedding_channels: None,
            blocks: None,
        };
        let (mut own, net) = self.net(&control, base)?;
        let prefix = format!("{name}.");
        if let Some(from) = &part.from {
            if let Some(path) = self.path(&part_key(name), from) {
                let named = nn::VarStore::new(self.device);
                adopt(&named, &prefix, &own);
                restore_part(&path, (name, part.hint), &named).map_err(|e| within(e, name))?;
                if let Some(bases) = self.bases {
                    let mut tensors = Vec::from_iter(named.variables());
                    tensors.sort_by(|(a, _), (b, _)| a.cmp(b));
                    bases.recognize(&part_key(name), &tensors)?;
                }
            }
            own.freeze();
        }
        adopt(vars, &prefix, &own);
        Ok(net)
    }

    /// Times larger than what the model sees the images are.
    fn factor(&self) -> i64 {
        (self.space.images[1] / self.space.shape[1]).max(1)
    }
}

/// A part of a decoupled prediction: its name, its net and how much of it is added.
type NamedPart = (String, Box<dyn Adapter>, Weight);

/// The blocks of a UNet.
fn unet_plan(model: &ModelConfig) -> heldout_core::Result<Option<Plan>> {
    Ok(match model {
        ModelConfig::Unet(config) => Some(config.plan()?),
        ModelConfig::UNet2DModel(config) => Some(config.plan()?),
        ModelConfig::UNet2DConditionModel(config) => Some(config.plan()?),
        _ => None,
    })
}

/// How many times smaller than the images the state of each level is where an adapter of levels adds to it: see
/// [`heldout_core::Site::Level`].
fn level_sizes(plan: &Plan) -> Vec<i64> {
    let mut size = 1;
    let of = |level: &LevelPlan| {
        let own = |(_, attention): &(usize, AttentionPlan)| matches!(attention, AttentionPlan::Own { .. });
        let before = !level.attentions.iter().all(own) || matches!(level.resample, ResamplePlan::Filter(_));
        let seen = size;
        if !matches!(level.resample, ResamplePlan::Keep) {
            size *= 2;
        }
        if before { seen } else { size }
    };
    plan.down.iter().map(of).collect()
}

/// The settings of a transformer of images.
fn dit(model: &ModelConfig) -> heldout_core::Result<Option<DitConfig>> {
    Ok(match model {
        ModelConfig::Dit(config) => Some(config.clone()),
        ModelConfig::DiTTransformer2DModel(config) => Some(config.config()?),
        _ => None,
    })
}

fn within(e: anyhow::Error, part: &str) -> anyhow::Error {
    match e.downcast::<Error>() {
        Ok(e) => anyhow!(e.within(&format!("adapter.parts.{part}.from"))),
        Err(e) => e,
    }
}

/// The evaluated weights of a part that another arm has trained.
fn restore_part(path: &Path, (name, hint): (&str, HintTechnique), vars: &nn::VarStore) -> Result<()> {
    let arm = arm_folder(path)?;
    let recipe = recipe_of(&arm, &[])?;
    let theirs = match &recipe.adapter {
        Some(AdapterConfig::Decoupled(config)) => config.parts.get(name).filter(|part| part.from.is_none()),
        _ => None,
    };
    if theirs.is_none_or(|part| part.hint != hint) {
        let reason = format!("has trained no part {name} with this hint: name an arm that has");
        return Err(anyhow!(Error::file(path, reason)));
    }
    WeightsChoice::default().restore(&arm, path, &recipe, vars)?;
    Ok(())
}
