//! Frozen networks whose features a model follows.

use crate::assemble::{Assembled, model};
use crate::sample::{arm_folder, bases_of, recipe_of};
use crate::space::Space;
use crate::weights_choice::WeightsChoice;
use anyhow::{Result, anyhow};
use heldout_core::{Cond, Error, Preconditioned, Recorder, Site, like};
use heldout_regularization::{FeatureAlignmentConfig, FrozenFeatures};
use std::path::Path;
use std::rc::Rc;
use tch::{CModule, Device, Kind, Tensor};

/// How much noise a denoiser is told of clean images: it has seen none with less.
const TIME: f64 = 0.05;

type Features = Box<dyn Fn(&Tensor) -> Tensor>;

/// A TorchScript file, which answers images `[B, C, H, W]` in `[-1, 1]` with features; or an arm that was trained here, its
/// evaluated weights and the activation at `network_site`.
pub(crate) fn frozen(
    config: &FeatureAlignmentConfig,
    space: &Space,
    device: Device,
) -> Result<FrozenFeatures> {
    let path = Path::new(&config.network);
    let function: Features = if path.is_file() {
        script(path, device)?
    } else {
        let (network, site) = (teacher(path, space, device)?, config.network_site);
        Box::new(move |x| activation(&network, x, site))
    };
    let shape = space.shape;
    let example = Tensor::zeros([1, shape[0], shape[1], shape[2]], (Kind::Float, device));
    let features = tch::no_grad(|| function(&example));
    let size = features.size();
    let width = match size[..] {
        [_, width] | [_, _, width] | [_, width, _, _] => width,
        _ => {
            let reason = format!(
                "{}: features {size:?} are neither [B, D], [B, N, D] nor [B, D, h, w]",
                path.display()
            );
            return Err(anyhow!(Error::config("network", reason)));
        }
    };
    Ok(FrozenFeatures::new(width, function))
}

fn script(path: &Path, device: Device) -> Result<Features> {
    let module = CModule::load_on_device(path, device).map_err(|_| {
        Error::file(path, "is no TorchScript file: make one with torch.jit.trace(model, images).save(..)")
    })?;
    Ok(Box::new(move |x| x.apply(&module)))
}

/// The evaluated weights of an arm, frozen.
fn teacher(path: &Path, space: &Space, device: Device) -> Result<Rc<Preconditioned>> {
    let arm = arm_folder(path).map_err(|e| anyhow!(Error::config("network", format!("{e:#}"))))?;
    let recipe = recipe_of(&arm, &[])?;
    let shape = space.shape;
    if recipe.text.is_some() {
        let reason = format!("{}: is told of texts, without which it has no features", path.display());
        return Err(anyhow!(Error::config("network", reason)));
    }
    recipe.model.check_images(shape[0], shape[1], shape[2]).map_err(|e| e.within("network"))?;
    let bases = bases_of(&arm, &recipe)?;
    let Assembled { mut vars, model, .. } = model(&recipe, space, (0, bases.as_ref()), device)?;
    WeightsChoice::default().restore(&arm, path, &recipe, &vars)?;
    vars.freeze();
    Ok(model)
}

/// The activation at `site`, or the output, for clean images.
fn activation(model: &Preconditioned, x: &Tensor, site: Option<Site>) -> Tensor {
    let t = Tensor::full([x.size()[0]], TIME, (Kind::Double, x.device()));
    let marginal = model.schedule.marginal(&t);
    let scalings = model.parameterization.scalings(&marginal);
    let x_t = like(&marginal.alpha, x) * x;
    let mut seen = Recorder { wanted: site.into_iter().collect(), seen: Vec::new() };
    let raw = model.raw(&x_t, &scalings, &Cond::default(), false, &mut seen);
    seen.seen.pop().map_or(raw, |(_, h)| h)
}
