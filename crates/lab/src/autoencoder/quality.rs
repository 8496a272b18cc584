//! How well an autoencoder gives back images that it has and has not seen.

use anyhow::{Result, anyhow};
use heldout_core::{
    Autoencoder, Clock, Error, EvalWeights, Evaluation, FeatureExtractor, Flow, Observer, Persist, State,
    Update,
};
use heldout_features::{Lpips, in_batches, rgb};
use heldout_metrics::{Interval, bootstrap_mean, frechet_distance, psnr, rows, ssim};
use heldout_train::{Event, Sink};
use heldout_vae::LatentModel;
use ndarray::{Array4, ArrayView4};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Images in `[-1, 1]` span this.
const RANGE: f64 = 2.0;

/// How well an autoencoder gives images back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconstructionQuality {
    /// Peak signal-to-noise ratio of all images together, in dB.
    pub psnr: f64,
    /// Its bootstrap 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub psnr_ci: Option<[f64; 2]>,
    /// Mean structural similarity; absent for images of fewer than 11 pixels a side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssim: Option<f64>,
    /// Its bootstrap 95 % interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssim_ci: Option<[f64; 2]>,
    /// Mean LPIPS (Zhang et al. 2018) under its name, where the recipe names its weights.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lpips: BTreeMap<String, f64>,
    /// Its bootstrap 95 % interval.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub lpips_ci: BTreeMap<String, [f64; 2]>,
    /// Mean absolute difference, of a span of 2.
    pub l1: f64,
    /// Fréchet distance to the originals, under its name, where a feature network is named.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub frechet: BTreeMap<String, f64>,
}

impl ReconstructionQuality {
    /// Its numbers by name.
    pub fn named(&self) -> Vec<(String, f64)> {
        let mut all = vec![("PSNR".to_owned(), self.psnr), ("L1".to_owned(), self.l1)];
        all.extend(self.ssim.map(|ssim| ("SSIM".to_owned(), ssim)));
        all.extend(self.lpips.clone());
        all.extend(self.frechet.clone());
        all
    }
}

/// What an autoencoder makes of images `[N, C, H, W]` in `[-1, 1]`, `batch` at a time.
pub(crate) fn reconstructions(model: &dyn Autoencoder, images: &Tensor, batch: i64) -> Tensor {
    let n = images.size()[0];
    let rows = |first: i64| model.decode(&model.encode(&images.narrow(0, first, batch.min(n - first))));
    let all: Vec<Tensor> = tch::no_grad(|| (0..n).step_by(batch as usize).map(rows).collect());
    Tensor::cat(&all, 0).clamp(-1.0, 1.0)
}

/// Networks that look at reconstructions.
#[derive(Debug, Default)]
pub(crate) struct Judges {
    /// Of the Fréchet distance.
    pub(crate) features: Option<Box<dyn FeatureExtractor>>,
    pub(crate) lpips: Option<Lpips>,
}

/// Of reconstructions beside their images, both `[N, C, H, W]` in `[-1, 1]`.
pub(crate) fn quality(
    seen: &Tensor,
    images: &Tensor,
    judges: &Judges,
    batch: i64,
) -> Result<ReconstructionQuality> {
    let (a, b) = (array(seen)?, array(images)?);
    let mean = |each: Vec<f64>| bootstrap_mean(&each, 0);
    let similarity = match images.size()[2..].iter().all(|side| *side >= 11) {
        true => Some(mean(ssim(a.view(), b.view(), RANGE).map_err(|e| anyhow!(Error::from(e)))?)),
        false => None,
    };
    let lpips = match &judges.lpips {
        None => BTreeMap::new(),
        Some(lpips) => {
            BTreeMap::from([(lpips.name().to_owned(), mean(distances(lpips, seen, images, batch)?))])
        }
    };
    let mut frechet = BTreeMap::new();
    if let Some(network) = judges.features.as_deref() {
        let features = |x: &Tensor| -> heldout_core::Result<Tensor> {
            let n = x.size()[0];
            let part = |first: i64| Ok((x.narrow(0, first, batch.min(n - first)) + 1.0) / 2.0);
            let parts = in_batches(network, (0..n).step_by(batch as usize).map(part));
            let all = parts.map(|out| Ok(out?.features)).collect::<heldout_core::Result<Vec<_>>>()?;
            Ok(Tensor::cat(&all, 0))
        };
        let (ours, theirs) = (rows(&features(seen)?)?, rows(&features(images)?)?);
        let found = frechet_distance(theirs.view(), ours.view()).map_err(|e| anyhow!(Error::from(e)))?;
        frechet
            .insert(heldout_metrics::title(heldout_metrics::FeatureMetric::Fd, network.name()), found.value);
    }
    let psnr = psnr(a.view(), b.view(), RANGE).map_err(|e| anyhow!(Error::from(e)))?.interval(0);
    let ci = |i: Interval| i.ends().filter(|ends| ends.iter().all(|x| x.is_finite()));
    Ok(ReconstructionQuality {
        psnr: psnr.value,
        psnr_ci: ci(psnr),
        ssim: similarity.map(|i| i.value),
        ssim_ci: similarity.and_then(ci),
        lpips: lpips.iter().map(|(name, i)| (name.clone(), i.value)).collect(),
        lpips_ci: lpips.iter().filter_map(|(name, i)| Some((name.clone(), ci(*i)?))).collect(),
        l1: (seen - images).abs().mean(Kind::Double).double_value(&[]),
        frechet,
    })
}

/// LPIPS of every image and what became of it.
fn distances(lpips: &Lpips, seen: &Tensor, images: &Tensor, batch: i64) -> Result<Vec<f64>> {
    let n = images.size()[0];
    let part = |first: i64| -> Result<Vec<f64>> {
        let unit = |x: &Tensor| rgb(&((x.narrow(0, first, batch.min(n - first)) + 1.0) / 2.0));
        let found = tch::no_grad(|| lpips.distance(&unit(seen)?, &unit(images)?))?;
        Ok(Vec::try_from(found.to_device(Device::Cpu).to_kind(Kind::Double).flatten(0, -1))?)
    };
    Ok((0..n).step_by(batch as usize).map(part).collect::<Result<Vec<_>>>()?.concat())
}

fn array(x: &Tensor) -> Result<Array4<f32>> {
    let size: Vec<usize> = x.size().iter().map(|n| *n as usize).collect();
    let numbers =
        Vec::<f32>::try_from(x.to_device(Device::Cpu).to_kind(Kind::Float).contiguous().flatten(0, -1))?;
    let shape = [size[0], size[1], size[2], size[3]];
    Ok(ArrayView4::from_shape(shape, &numbers)?.to_owned())
}

/// Measures reconstructions of training and held-out images, as many of both, while an autoencoder trains.
#[derive(Debug)]
pub(crate) struct Reconstructions {
    pub(crate) model: Rc<dyn LatentModel>,
    pub(crate) train: Tensor,
    pub(crate) held_out: Tensor,
    pub(crate) every: u64,
    pub(crate) batch: i64,
    pub(crate) sink: Rc<dyn Sink>,
    /// Held-out L1 of the last look, by which the best checkpoint is kept.
    pub(crate) latest: Option<f64>,
}

impl Persist for Reconstructions {
    fn state(&self) -> State {
        let mut state = State::default();
        state.values.extend(self.latest.map(|l1| ("latest".to_owned(), l1.into())));
        state
    }

    fn load_state(&mut self, mut state: State) -> heldout_core::Result<()> {
        self.latest = state.values.remove("latest").and_then(|v| v.as_f64());
        Ok(())
    }
}

impl Observer for Reconstructions {
    fn name(&self) -> &'static str {
        "reconstructions"
    }

    fn score(&self) -> Option<(&'static str, f64)> {
        self.latest.map(|l1| ("reconstruction", l1))
    }

    fn after_step(
        &mut self,
        clock: Clock,
        _: &Evaluation,
        update: &dyn Update,
    ) -> heldout_core::Result<Flow> {
        let done = clock.step + 1;
        if !done.is_multiple_of(self.every) && done != clock.total {
            return Ok(Flow::Continue);
        }
        let _guard: Option<EvalWeights<'_>> = update.eval_weights();
        let of = |images: &Tensor| {
            let seen = reconstructions(self.model.as_ref(), images, self.batch);
            quality(&seen, images, &Judges::default(), self.batch).map_err(|e| {
                e.downcast().unwrap_or_else(|e| Error::config("reconstructions", format!("{e:#}")))
            })
        };
        let (train, held_out) = (of(&self.train)?, of(&self.held_out)?);
        self.latest = Some(held_out.l1);
        for ((metric, train), (_, held_out)) in train.named().into_iter().zip(held_out.named()) {
            self.sink.write(done, Event::Reconstruction { metric, train, held_out })?;
        }
        Ok(Flow::Continue)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// LPIPS is the mean over images of what the network says, however they are batched, within its interval and under its name.
    #[test]
    fn lpips_is_measured_where_its_weights_are() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../features/tests/golden");
        let file = |part: &str| golden.join(format!("lpips_alex_{part}.safetensors"));
        let lpips = Lpips::open(&file("trunk"), &file("heads"), Device::Cpu).unwrap();
        tch::manual_seed(0);
        let images = Tensor::rand([5, 3, 48, 48], (Kind::Float, Device::Cpu)) * 2.0 - 1.0;
        let seen = (&images + images.randn_like() * 0.2).clamp(-1.0, 1.0);
        let unit = |x: &Tensor| (x + 1.0) / 2.0;
        let wanted =
            lpips.distance(&unit(&seen), &unit(&images)).unwrap().mean(Kind::Double).double_value(&[]);
        let judges = Judges { features: None, lpips: Some(lpips) };
        let found = quality(&seen, &images, &judges, 2).unwrap();
        let (value, ci) = (found.lpips["LPIPS(AlexNet)"], found.lpips_ci["LPIPS(AlexNet)"]);
        assert!(wanted > 0.0 && (value / wanted - 1.0).abs() < 1e-5, "{value}, {wanted}");
        assert!(ci[0] <= value && value <= ci[1] && found.psnr_ci.is_some() && found.ssim_ci.is_some());
        // What nothing was done to differs in nothing, and has no interval in decibels.
        let same = quality(&images, &images, &judges, 2).unwrap();
        assert!(same.lpips["LPIPS(AlexNet)"] == 0.0 && same.psnr_ci.is_none(), "{same:?}");
        assert!(quality(&images, &images, &Judges::default(), 2).unwrap().lpips.is_empty());
    }
}
