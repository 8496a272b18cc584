//! How far samples follow their hints, how far the model uses them, and how far two nets are in each other's way.

use super::build::Adaptation;
use super::hints::Hints;
use crate::arm::Arm;
use crate::conditions::Side;
use crate::result::ArmResult;
use anyhow::Result;
use heldout_adapters::hints::{Hint, HintTechnique, edge_f1};
use heldout_adapters::{Change, Condition, condition_sensitivity, interference};
use heldout_core::{Cond, Input, NoiseSchedule, Preconditioned, like, stream};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

/// How far an edge may lie from where it was asked for, in pixels.
const TOLERANCE: i64 = 0;
/// Held-out images that sensitivity and interference are taken on, at most, and no more than those of a validation.
const IMAGES: i64 = 32;

/// What an adapter does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AdapterResult {
    /// Mean F1 of the samples' edges against those of the held-out images whose hints they follow, pixel by pixel.
    pub edge_f1: f64,
    /// The same of samples of the same noise without a hint, against the same edges: what an unconditional model scores.
    /// Of a locked base these are its own samples.
    pub edge_f1_unconditional: f64,
    /// Standard error of the mean difference of the two.
    pub edge_f1_gain_error: f64,
    /// Mean distance of two samples that follow the same hint, of other noise each, over that of two samples without one: 0
    /// where the hint decides all, 1 where it decides nothing. None in files of before it was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diversity: Option<f64>,
    /// One for each hint.
    pub hints: Vec<HintMeasure>,
    /// Of every two nets.
    pub interference: Vec<Interference>,
}

/// How one hint is followed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HintMeasure {
    /// The net that looks at it.
    pub net: String,
    /// What it is.
    pub hint: String,
    /// Root mean square difference of the samples' own hint from the one that they follow, in the hint's units.
    pub distance: f64,
    /// The same of the samples without a hint.
    pub distance_unconditional: f64,
    /// At each noise level of the validation.
    pub sensitivity: Vec<SensitivityAt>,
}

/// Relative change of the estimate of clean held-out images when their hint changes; see
/// [`heldout_adapters::condition_sensitivity`].
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SensitivityAt {
    /// `ln(alpha^2 / sigma^2)`.
    pub log_snr: f64,
    /// When the hint is left out.
    pub dropped: f64,
    /// When it becomes that of another image.
    pub swapped: f64,
}

/// How far two nets are in each other's way where what they add is summed; see [`heldout_adapters::interference`]. Where
/// each moves a part of its own there is none by construction, and this is what that has taken away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Interference {
    /// The nets.
    pub nets: [String; 2],
    /// At each noise level of the validation, with the standard error.
    pub by_level: Vec<[f64; 3]>,
}

/// Samples in pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Samples<'a> {
    /// Those that followed hints, `[n, C, H, W]`.
    pub(crate) hinted: &'a Tensor,
    /// Those of the same noise that did not.
    pub(crate) unconditional: &'a Tensor,
    /// The first `m` again, of other noise, `[m, C, H, W]`.
    pub(crate) again: &'a Tensor,
}

impl AdapterResult {
    /// Mean over hints of the distance to them, relative to that without; none where images have nothing that could differ.
    pub(crate) fn hint_distance(&self) -> Option<f64> {
        let relative = self.hints.iter().map(|h| h.distance / h.distance_unconditional);
        let mean = relative.sum::<f64>() / self.hints.len() as f64;
        mean.is_finite().then_some(mean)
    }
}

/// See [`AdapterResult::diversity`].
fn diversity(samples: Samples<'_>) -> Option<f64> {
    let m = samples.again.size()[0];
    let apart = |a: &Tensor, b: &Tensor| {
        let per_pair = (a - b).flatten(1, -1).square().sum_dim_intlist(-1, false, Kind::Double).sqrt();
        per_pair.mean(Kind::Double).double_value(&[])
    };
    let free = samples.unconditional.narrow(0, 0, m);
    let ratio = apart(&samples.hinted.narrow(0, 0, m), samples.again) / apart(&free, &free.roll(1, 0));
    ratio.is_finite().then_some(ratio)
}

/// `None` for an adapter without hints. `wanted` are the held-out images that the samples follow, row by row.
pub(crate) fn measure(
    arm: &Arm<'_>,
    (model, adaptation): (&Preconditioned, &Adaptation),
    samples: Samples<'_>,
    wanted: &Tensor,
) -> Result<Option<AdapterResult>> {
    let Some(hints) = arm.hints() else { return Ok(None) };
    let edges =
        hints.all.iter().map(|(_, hint)| *hint).find(|hint| matches!(hint, HintTechnique::Canny { .. }));
    let edges = edges.unwrap_or(HintTechnique::Canny { sigma: 1.0, low: 0.1, high: 0.2 });
    let asked = edges.compute(wanted)?;
    let f1 = |images: &Tensor| -> Result<Tensor> { Ok(edge_f1(&edges.compute(images)?, &asked, TOLERANCE)?) };
    let (ours, theirs) = (f1(samples.hinted)?, f1(samples.unconditional)?);
    let mean = |x: &Tensor| x.mean(Kind::Double).double_value(&[]);
    let gain = &ours - &theirs;
    let probe = Probe::new(arm, &hints)?;
    let measured = hints.all.iter().enumerate().map(|(i, (net, hint))| {
        let asked = hint.compute(wanted)?;
        let distance = |images: &Tensor| -> Result<f64> {
            Ok((hint.compute(images)? - &asked).square().mean(Kind::Double).double_value(&[]).sqrt())
        };
        Ok(HintMeasure {
            net: net.clone(),
            hint: hint.name().to_owned(),
            distance: distance(samples.hinted)?,
            distance_unconditional: distance(samples.unconditional)?,
            sensitivity: probe.sensitivity(model, i)?,
        })
    });
    Ok(Some(AdapterResult {
        edge_f1: mean(&ours),
        edge_f1_unconditional: mean(&theirs),
        diversity: diversity(samples),
        edge_f1_gain_error: gain.std(true).double_value(&[]) / (gain.numel() as f64).sqrt(),
        hints: measured.collect::<Result<_>>()?,
        interference: probe.interference(model, adaptation)?,
    }))
}

/// Held-out images with their hints.
struct Probe<'a> {
    x_start: Tensor,
    hint: Tensor,
    channels: Vec<std::ops::Range<i64>>,
    levels: &'a [f64],
    label: Option<Tensor>,
    /// What the model is told of the images' texts.
    context: Option<Tensor>,
    seed: u64,
}

impl<'a> Probe<'a> {
    fn new(arm: &'a Arm<'_>, hints: &Hints) -> Result<Self> {
        let rows = IMAGES.min(arm.recipe.validation.images as i64).min(arm.held_out.size()[0]);
        let null = arm.recipe.regularization.null_class().filter(|_| arm.recipe.model.classes() > 0);
        Ok(Self {
            x_start: arm.in_space.held_out.narrow(0, 0, rows),
            hint: hints.compute(&arm.held_out.narrow(0, 0, rows))?,
            channels: hints.channels(arm.space.images[0]),
            levels: &arm.recipe.validation.log_snr,
            label: null.map(|class| Tensor::full([rows], class, (Kind::Int64, arm.device))),
            context: arm.told(Side::HeldOut, rows)?.cond.context,
            seed: stream(arm.seed, "adapter", 0, 0),
        })
    }

    /// What the model is told besides hints.
    fn told(&self) -> Cond {
        Cond { context: self.context.as_ref().map(Tensor::shallow_clone), ..Cond::default() }
    }

    fn times(&self, schedule: &dyn NoiseSchedule) -> Tensor {
        schedule.time_of(&Tensor::from_slice(self.levels))
    }

    /// One image alone has none to swap with: there are no figures then.
    fn sensitivity(&self, model: &Preconditioned, net: usize) -> Result<Vec<SensitivityAt>> {
        if self.x_start.size()[0] < 2 {
            return Ok(Vec::new());
        }
        let times = Vec::<f64>::try_from(self.times(model.schedule.as_ref()))?;
        let alone = self.channels.len() == 1;
        let channels = (!alone).then(|| self.channels[net].clone());
        let condition = Condition { field: "hint".to_owned(), channels };
        let cond = Cond { hint: Some(self.hint.shallow_clone()), ..self.told() };
        let by = |change| {
            condition_sensitivity(model, &self.x_start, &cond, (&condition, change), &times, self.seed)
        };
        let (dropped, swapped) = (by(Change::Dropped)?, by(Change::Swapped)?);
        let rows = self.levels.iter().zip(dropped.iter().zip(&swapped));
        let row =
            |(log_snr, (d, s)): (&f64, (&heldout_adapters::Sensitivity, &heldout_adapters::Sensitivity))| {
                SensitivityAt { log_snr: *log_snr, dropped: d.relative.value, swapped: s.relative.value }
            };
        Ok(rows.map(row).collect())
    }

    fn interference(&self, model: &Preconditioned, adaptation: &Adaptation) -> Result<Vec<Interference>> {
        let n = adaptation.nets.len();
        let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| [i, j]));
        let pair = |[i, j]: [usize; 2]| {
            let part = |k: usize| {
                let range = &self.channels[k];
                self.hint.narrow(1, range.start, range.end - range.start)
            };
            let hint = Tensor::cat(&[part(i), part(j)], 1);
            let label = self.label.as_ref().map(Tensor::shallow_clone);
            let cond = Cond { hint: Some(hint), label, ..self.told() };
            let ((a, first), (b, second)) = (&adaptation.nets[i], &adaptation.nets[j]);
            let level = |(k, log_snr): (usize, &f64)| {
                let rows = self.x_start.size()[0];
                let t =
                    model.schedule.time_of(&Tensor::from_slice(&[*log_snr])).to_device(self.x_start.device());
                let m = model.schedule.marginal(&t.expand([rows], false));
                tch::manual_seed(stream(self.seed, "interference noise", k as u64, 0) as i64);
                let noise = self.x_start.randn_like();
                let x_t = like(&m.alpha, &noise) * &self.x_start + like(&m.sigma, &noise) * &noise;
                let s = model.parameterization.scalings(&m);
                let x = like(&s.c_in, &x_t) * &x_t;
                let noise_level = s.c_noise.to_kind(x.kind());
                let input = Input { x: &x, noise_level: &noise_level, cond: &cond, train: false };
                let found = interference(adaptation.base.as_ref(), [first.as_ref(), second.as_ref()], input)?;
                Ok([*log_snr, found.value, found.standard_error])
            };
            let by_level = self.levels.iter().enumerate().map(level).collect::<Result<_>>()?;
            Ok(Interference { nets: [a.clone(), b.clone()], by_level })
        };
        pairs.map(pair).collect()
    }
}

/// What an adapter does, in lines for the report.
pub(crate) fn lines(r: &ArmResult) -> Vec<String> {
    let Some(adapter) = &r.adapter else { return Vec::new() };
    let arm = format!("{} seed {}", r.name, r.seed);
    let (ours, theirs) = (adapter.edge_f1, adapter.edge_f1_unconditional);
    let mut all = vec![format!(
        "{arm}: edges of samples against those asked for: F1 {ours:.3}; without a hint, with the same noise, {theirs:.3}; \
         gain {:+.3} (standard error {:.3})",
        ours - theirs,
        adapter.edge_f1_gain_error
    )];
    for HintMeasure { net, hint, distance, distance_unconditional, sensitivity } in &adapter.hints {
        let levels = |f: fn(&SensitivityAt) -> f64| {
            let told = sensitivity.iter().map(|s| format!("{}: {:.3}", s.log_snr, f(s)));
            told.collect::<Vec<_>>().join(", ")
        };
        all.push(format!(
            "{arm}, {net} ({hint}): samples are {distance:.3} from their hint, without it {distance_unconditional:.3}; \
             sensitivity by log SNR, hint left out: {}; of another image: {}",
            levels(|s| s.dropped),
            levels(|s| s.swapped)
        ));
    }
    for Interference { nets: [a, b], by_level } in &adapter.interference {
        let told: Vec<String> =
            by_level.iter().map(|[l, mean, error]| format!("{l}: {mean:.3} +- {error:.3}")).collect();
        all.push(format!(
            "{arm}: interference that {a} and {b} would have if what they add were summed, by log SNR: {}",
            told.join(", ")
        ));
    }
    all
}
