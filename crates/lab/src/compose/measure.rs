//! Samples of combinations, what they are, and what real images are.

use super::{Asked, AskedConfig, AskedResult, ComposedResult};
use crate::arm::Arm;
use crate::assemble::{generate, untold};
use crate::evaluate::{FINAL, FLOOR_IMAGES, save_first};
use anyhow::Result;
use heldout_core::{Cond, Denoiser, Estimate, FeatureSets, Preconditioned, stream};
use heldout_data::{AttributeClasses, to_bytes};
use heldout_features::{AttributeDecoder, ClassifierConfig, Labelled};
use heldout_metrics::{Copies, MemorizedFraction};
use heldout_samplers::{And, Weighted};
use std::path::Path;
use tch::{Device, Kind, Tensor};

/// Which classes hold for each of some images.
type Bits = Vec<Vec<bool>>;

/// Samples what the recipe asks for, from the noise of the final samples `[n, C, H, W]`, which were asked for nothing;
/// measures, and writes `composed-NAME.png`. `None` where nothing is asked for.
pub(crate) fn compose(
    arm: &Arm<'_>,
    model: &Preconditioned,
    unconditional: &Tensor,
    folder: &Path,
) -> Result<Option<ComposedResult>> {
    let (Some(config), Some(classes)) = (&arm.recipe.compose, &arm.classes) else { return Ok(None) };
    let decoder = decoder(arm, config.decoder, classes)?;
    let judge = Judge {
        arm,
        classes,
        unconditional: decoded(&decoder, unconditional)?,
        held_out: decoded(&decoder, &arm.held_out)?,
    };
    let one = |(name, config): (&String, &AskedConfig)| {
        let asked = Asked::new(config, classes);
        let images = samples(arm, model, &asked)?;
        save_first(&arm.space, &images, &folder.join(format!("composed-{name}.png")))?;
        let bits = decoded(&decoder, &images)?;
        judge.result(name, config, &asked, (&images, &bits))
    };
    let asked = config.asked.iter().map(one).collect::<Result<_>>()?;
    Ok(Some(ComposedResult { decoder: decoder.classes().to_vec(), asked }))
}

/// Trained on all training images, those included that the model has not seen, in an order that does not depend on which
/// these are.
fn decoder(arm: &Arm<'_>, config: ClassifierConfig, classes: &AttributeClasses) -> Result<AttributeDecoder> {
    let mut seen = [&arm.split.train[..], &arm.excluded].concat();
    seen.sort_unstable();
    let of = |images: &[usize]| -> Result<[Tensor; 2]> {
        let holds = |image: usize| (0..classes.names().len()).map(move |class| classes.holds(class, image));
        let bits: Vec<f32> = images.iter().flat_map(|i| holds(*i)).map(f32::from).collect();
        Ok([arm.set.bytes(images)?, Tensor::from_slice(&bits).view([images.len() as i64, -1])])
    };
    let ([images, labels], [held_out, truth]) = (of(&seen)?, of(&arm.split.held_out)?);
    let train = Labelled { images: &images, labels: &labels };
    let held_out = Labelled { images: &held_out, labels: &truth };
    let trained = AttributeDecoder::train(config, classes.names(), train, held_out, arm.device);
    Ok(trained.map_err(|e| e.within("compose.decoder"))?)
}

/// Of images `[N, C, H, W]` in `[-1, 1]`, as the bytes that they are kept in.
fn decoded(decoder: &AttributeDecoder, images: &Tensor) -> Result<Bits> {
    let bits = decoder.decode(&to_bytes(images))?.to_device(Device::Cpu);
    let width = bits.size()[1] as usize;
    let all = Vec::<bool>::try_from(bits.flatten(0, -1))?;
    Ok(all.chunks(width).map(<[bool]>::to_vec).collect())
}

/// As many samples as the recipe says, images `[n, C, H, W]`: sample `i` from the noise of the final sample `i`.
fn samples(arm: &Arm<'_>, model: &Preconditioned, asked: &Asked) -> Result<Tensor> {
    let (config, seed) = (&arm.recipe.sample, stream(arm.seed, FINAL, 0, 0));
    let alternatives = asked.alternatives();
    let (n, parts) = (config.samples as u64, alternatives.len() as u64);
    let part = |(i, terms): (u64, &Vec<(usize, f64)>)| {
        let denoiser = asked_for(arm, model, terms);
        let range = i * n / parts..(i + 1) * n / parts;
        if range.is_empty() {
            return Ok(None);
        }
        generate(denoiser.as_ref(), config, (&arm.space, &untold), range, seed, arm.device).map(Some)
    };
    let made: Vec<Option<Tensor>> =
        (0..).zip(&alternatives).map(part).collect::<heldout_core::Result<_>>()?;
    let made: Vec<Tensor> = made.into_iter().flatten().collect();
    Ok(arm.space.to_images(&Tensor::cat(&made, 0), config.batch_size))
}

/// The model under all conditions at once; at weight 0 the model itself.
fn asked_for<'a>(arm: &Arm<'_>, model: &'a Preconditioned, terms: &[(usize, f64)]) -> Box<dyn Denoiser + 'a> {
    let weight = arm.recipe.compose.as_ref().map_or(0.0, |config| config.weight);
    if weight == 0.0 {
        return Box::new(model);
    }
    let term = |(class, sign): &(usize, f64)| {
        let label = Tensor::full([1], *class as i64, (Kind::Int64, arm.device));
        Weighted { cond: Cond::of_labels(label), weight: sign * weight }
    };
    Box::new(And { inner: model, terms: terms.iter().map(term).collect() })
}

/// What samples stand beside.
struct Judge<'a> {
    arm: &'a Arm<'a>,
    classes: &'a AttributeClasses,
    /// What is decoded of samples that were asked for nothing.
    unconditional: Bits,
    /// Of all held-out images.
    held_out: Bits,
}

impl Judge<'_> {
    fn result(
        &self,
        name: &str,
        config: &AskedConfig,
        asked: &Asked,
        (images, bits): (&Tensor, &Bits),
    ) -> Result<AskedResult> {
        let Self { arm, classes, .. } = self;
        let share = |rows: &[&Vec<bool>]| {
            let right = rows.iter().filter(|row| asked.holds(|class| row[class])).count();
            Estimate::share(right, rows.len())
        };
        let is_so = |image: &usize| asked.holds(|class| classes.holds(class, *image));
        let real = arm.split.held_out.iter().zip(&self.held_out).filter(|(image, _)| is_so(image));
        let real: Vec<&Vec<bool>> = real.map(|(_, row)| row).collect();
        let by_class = config.names().filter_map(|name| {
            let class = classes.number(name)?;
            Some((name.clone(), bits.iter().filter(|row| row[class]).count() as f64 / bits.len() as f64))
        });
        let held_out = arm.floor_images(FLOOR_IMAGES);
        let sets = FeatureSets { generated: images, train: &arm.train, held_out: &held_out };
        Ok(AskedResult {
            name: name.to_owned(),
            asked: config.title(),
            n_train: arm.split.train.iter().filter(|image| is_so(image)).count(),
            as_asked: share(&bits.iter().collect::<Vec<_>>()),
            unconditional: share(&self.unconditional.iter().collect::<Vec<_>>()),
            held_out: (!real.is_empty()).then(|| share(&real)),
            classes: by_class.collect(),
            f_mem: MemorizedFraction { copies: Copies::Exact, seed: arm.seed }.measure(&sets)?,
        })
    }
}
