//! What the page shows, as values for its template.

use super::load::{Loaded, LoadedArm};
use super::pictures::{Choice, Triple, bytes, sheet, triples};
use super::plots::{Curve, Dot, color, curves, shares};
use super::study::{StudyView, study_view};
use crate::adapter::lines;
use crate::compare::number;
use crate::compose;
use crate::record::Record;
use crate::result::{ArmResult, LevelGap, MadeOn, QualityResult};
use anyhow::Result;
use heldout_core::Estimate;
use heldout_train::Event;
use plotters::style::RGBColor;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// Everything on the page.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    question: String,
    verdict: Option<String>,
    study: Option<StudyView>,
    recipe_name: String,
    legend: Vec<Key>,
    rows: Vec<Row>,
    means: Vec<Mean>,
    calibration: Option<String>,
    one_seed: bool,
    f_mem: Option<String>,
    quality: Option<String>,
    critic: Option<String>,
    validation: Option<String>,
    gap: Option<String>,
    levels: Option<String>,
    train_loss: Option<String>,
    grad_norm: Option<String>,
    galleries: Vec<Gallery>,
    command: String,
    recipe: String,
    seeds: String,
    data: Vec<String>,
    facts: BTreeMap<String, String>,
    notes: Vec<String>,
    shape: Option<String>,
    clips: bool,
}

/// What is measured of some arms alone, in lines.
fn measured(r: &ArmResult) -> impl Iterator<Item = String> {
    lines(r).into_iter().chain(compose::lines(r))
}

#[derive(Debug, Serialize)]
struct Key {
    name: String,
    color: String,
    n_train: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    seed: u64,
    done: bool,
    cells: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Mean {
    name: String,
    seeds: usize,
    cells: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Gallery {
    name: String,
    seed: u64,
    open: bool,
    n_train: usize,
    samples: String,
    lowest: Vec<Triple>,
    first: Vec<Triple>,
    reals: Vec<Triple>,
}

/// The colour of an arm.
pub(super) type Shade<'a> = &'a dyn Fn(&str) -> RGBColor;

/// Images of a sheet, and rows of neighbours.
const SHEET: i64 = 64;
const NEIGHBOURS: usize = 12;
/// Arms and seeds that are all shown in pictures.
const FEW: usize = 8;

/// Turns a run into the values of its page.
pub(crate) fn page(run: &Loaded) -> Result<Page> {
    let names = run.names();
    let shade = |name: &str| color(names.iter().position(|n| n == name).unwrap_or(0));
    let done: Vec<&ArmResult> = run.arms.iter().filter_map(|a| a.result.as_ref()).collect();
    // Of many arms and seeds the first seed stands for the others where pictures would fill the page.
    let (first_seed, few) = (run.info.seeds.first(), done.len() <= FEW);
    let shown: Vec<&ArmResult> =
        done.iter().copied().filter(|r| few || Some(&r.seed) == first_seed).collect();
    let facts =
        run.info.versions.iter().chain(&run.info.machine).map(|(k, v)| (k.clone(), v.clone())).collect();
    let examples = run.arms.iter().find_map(|a| a.pictures.as_ref()).map(|p| p.shape);
    let pixels = |[_, height, width]: [i64; 3]| format!("{width}x{height}");
    let notes = run.records.iter().filter_map(|r| match &r.event {
        Event::Note { message } => Some(format!("{} seed {}, step {}: {message}", r.arm, r.seed, r.step)),
        _ => None,
    });
    let stopped = done.iter().filter_map(|r| {
        r.stopped
            .as_ref()
            .map(|why| format!("{} seed {}: stopped after step {}: {why}", r.name, r.seed, r.steps))
    });
    let motion = done.iter().filter_map(|r| motion_line(r));
    let latents = done.iter().filter_map(|r| latent_line(r));
    Ok(Page {
        question: run.info.question.clone(),
        verdict: run.result.as_ref().map(|r| r.verdict.clone()),
        study: run.result.as_ref().map(|r| study_view(run, r, &names, &shade)).transpose()?,
        recipe_name: run.info.recipe.clone(),
        legend: names.iter().map(|n| key(run, n, shade(n))).collect(),
        rows: run.arms.iter().map(row).collect(),
        means: names.iter().filter_map(|n| mean(n, &done)).collect(),
        calibration: (!shown.is_empty()).then(|| calibration(&shown, &shade)).transpose()?,
        one_seed: shown.len() < done.len(),
        f_mem: f_mem(run, &names, &shade)?,
        quality: quality(run, &names, &shade)?,
        critic: critic(run, &names, &shade)?,
        validation: validation(run, &names, &shade)?,
        gap: gap(&names, &done, &shade)?,
        levels: losses(&names, &done, &shade)?,
        train_loss: training(run, &names, &shade, "training loss", |loss, _| Some(loss))?,
        grad_norm: training(run, &names, &shade, "gradient norm", |_, terms| {
            terms.get("grad_norm").copied()
        })?,
        galleries: run
            .arms
            .iter()
            .filter(|a| few || Some(&a.seed) == first_seed)
            .filter_map(|a| gallery(a, first_seed).transpose())
            .collect::<Result<_>>()?,
        command: run.info.command.clone(),
        recipe: run.recipe.clone(),
        seeds: run.info.seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", "),
        data: run.info.data.clone(),
        facts,
        notes: notes
            .chain(stopped)
            .chain(motion)
            .chain(latents)
            .chain(mixed(run, &done))
            .chain(done.iter().flat_map(|r| measured(r)))
            .collect(),
        shape: examples.map(|e| pixels(e.stacked())),
        clips: examples.is_some_and(|e| e.frames() > 1),
    })
}

impl Page {
    /// Every figure of a page of results, by the name of its file.
    pub(super) fn figures(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let mut all = Vec::new();
        let own = [("f_mem", &self.f_mem), ("quality", &self.quality), ("gap", &self.gap)];
        for (name, svg) in own {
            all.extend(svg.iter().map(|svg| (format!("{name}.svg"), on_white(svg))));
        }
        if let Some(study) = &self.study {
            all.extend(study.plots().map(|(name, svg)| (format!("{name}.svg"), on_white(svg))));
        }
        for g in self.galleries.iter().filter(|g| g.open) {
            all.push((format!("samples-{}.png", g.name), bytes(&g.samples)?));
        }
        Ok(all)
    }
}

/// A plot that stands alone, with the ink that a page would give it.
fn on_white(svg: &str) -> Vec<u8> {
    svg.replacen("<svg ", "<svg style=\"background:#fff;color:#000\" ", 1).into_bytes()
}

fn hex(c: RGBColor) -> String {
    format!("#{:02x}{:02x}{:02x}", c.0, c.1, c.2)
}

fn key(run: &Loaded, name: &str, color: RGBColor) -> Key {
    let result = run.arms.iter().filter(|a| a.name == name).find_map(|a| a.result.as_ref());
    Key { name: name.to_owned(), color: hex(color), n_train: result.map(|r| r.n_train) }
}

fn share(value: f64, [lower, upper]: [f64; 2]) -> String {
    format!("{value:.3} [{lower:.3}, {upper:.3}]")
}

/// That arms were not all made by one program, or not in one way.
fn mixed(run: &Loaded, done: &[&ArmResult]) -> Vec<String> {
    let mut told = Vec::new();
    let builds: BTreeSet<&String> = run.arms.iter().flat_map(|a| &a.code).collect();
    if builds.len() > 1 {
        told.push(format!(
            "The arms are the work of {} builds of this program, which may differ in more than speed",
            builds.len()
        ));
    }
    let mut ways: BTreeMap<&MadeOn, Vec<String>> = BTreeMap::new();
    for r in done {
        let Some(way) = &r.made_on else { continue };
        ways.entry(way).or_default().push(format!("{} seed {}", r.name, r.seed));
    }
    if ways.len() > 1 {
        let all = ways.iter().map(|(MadeOn { device, threads, libtorch }, arms)| {
            format!("{} on {device}, {threads} threads, libtorch {libtorch}", arms.join(", "))
        });
        let all: Vec<String> = all.collect();
        told.push(format!(
            "The arms were not made in one way, which changes last digits: {}",
            all.join("; ")
        ));
    }
    told
}

/// How clips move.
fn motion_line(r: &ArmResult) -> Option<String> {
    let QualityResult { value, floor, .. } = r.motion.as_ref()?;
    Some(format!(
        "{} seed {}: the motion of its clips is {} from that of held-out ones, whose halves are {} apart (energy distance of \
         the changes from frame to frame)",
        r.name,
        r.seed,
        number(*value),
        number(*floor)
    ))
}

/// Which of autoencoder and diffusion copies.
fn latent_line(r: &ArmResult) -> Option<String> {
    let latent = r.latent.as_ref()?;
    let told = |e: &Estimate| share(e.value, [e.lower, e.upper]);
    Some(format!(
        "{} seed {}: among latents f_mem is {} (floor {}); of the autoencoder's own images of held-out ones it is {} (floor {}), \
         which it gives with {:.1} dB",
        r.name,
        r.seed,
        told(&latent.f_mem.model),
        told(&latent.f_mem.floor),
        told(&latent.autoencoder.model),
        told(&latent.autoencoder.floor),
        latent.psnr
    ))
}

fn row(arm: &LoadedArm) -> Row {
    let cells = arm.result.as_ref().map_or_else(Vec::new, |r| {
        let t = &r.f_mem_transformed;
        vec![
            r.n_train.to_string(),
            r.steps.to_string(),
            share(r.f_mem, r.f_mem_ci),
            share(r.f_mem_floor, r.f_mem_floor_ci),
            format!("{:.3}", r.f_mem_copier),
            share(t.model.value, [t.model.lower, t.model.upper]),
            share(t.floor.value, [t.floor.lower, t.floor.upper]),
            format!("{:.4}", r.loss_train),
            format!("{:.4}", r.loss_held_out),
            format!("{:+.4}", r.loss_held_out - r.loss_train),
            format!("{:.0} s", r.seconds),
            format!("{:.0} MB", r.peak_rss_bytes as f64 / 1e6),
            r.parameters.to_string(),
        ]
    });
    Row { name: arm.name.clone(), seed: arm.seed, done: arm.result.is_some(), cells }
}

/// Mean and range over the seeds of an arm, where there are several.
fn mean(name: &str, done: &[&ArmResult]) -> Option<Mean> {
    let of: Vec<&&ArmResult> = done.iter().filter(|r| r.name == name).collect();
    let cell = |digits: usize, f: &dyn Fn(&ArmResult) -> f64| {
        let values: Vec<f64> = of.iter().map(|r| f(r)).collect();
        let (low, high) =
            values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(*v), h.max(*v)));
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        format!("{mean:.digits$} ({low:.digits$} to {high:.digits$})")
    };
    (of.len() > 1).then(|| Mean {
        name: name.to_owned(),
        seeds: of.len(),
        cells: vec![
            cell(3, &|r| r.f_mem),
            cell(3, &|r| r.f_mem_floor),
            cell(4, &|r| r.loss_train),
            cell(4, &|r| r.loss_held_out),
            cell(4, &|r| r.loss_held_out - r.loss_train),
        ],
    })
}

fn calibration(done: &[&ArmResult], shade: Shade<'_>) -> Result<String> {
    let grey = RGBColor(128, 128, 128);
    let of = |r: &&ArmResult| {
        let label = |what: &str| format!("{} seed {}: {what}", r.name, r.seed);
        let at = |value| (value, value);
        [
            Dot { label: label("copier"), value: r.f_mem_copier, interval: at(r.f_mem_copier), color: grey },
            Dot {
                label: label("model"),
                value: r.f_mem,
                interval: (r.f_mem_ci[0], r.f_mem_ci[1]),
                color: shade(&r.name),
            },
            Dot {
                label: label("held-out reals"),
                value: r.f_mem_floor,
                interval: (r.f_mem_floor_ci[0], r.f_mem_floor_ci[1]),
                color: grey,
            },
        ]
    };
    shares("memorised fraction f_mem", &done.iter().flat_map(of).collect::<Vec<_>>())
}

/// How a curve is drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ink {
    pub(super) color: RGBColor,
    pub(super) dashed: bool,
}

/// Mean and range of the values at each place.
pub(super) fn summary(columns: impl Iterator<Item = (f64, Vec<f64>)>, Ink { color, dashed }: Ink) -> Curve {
    let mut curve = Curve { points: Vec::new(), band: Vec::new(), color, dashed };
    for (x, values) in columns {
        curve.points.push((x, values.iter().sum::<f64>() / values.len() as f64));
        if values.len() > 1 {
            let low = values.iter().copied().fold(f64::INFINITY, f64::min);
            curve.band.push((x, low, values.iter().copied().fold(f64::NEG_INFINITY, f64::max)));
        }
    }
    curve
}

/// Mean and range over seeds of the values that `pick` finds in an arm's records, by step.
pub(super) fn over_steps(run: &Loaded, name: &str, ink: Ink, pick: impl Fn(&Event) -> Option<f64>) -> Curve {
    let mut by_step: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for Record { arm, step, event, .. } in &run.records {
        if let Some(value) = pick(event).filter(|_| arm == name) {
            by_step.entry(*step).or_default().push(value);
        }
    }
    summary(by_step.into_iter().map(|(step, values)| (step as f64, values)), ink)
}

/// Mean and range over seeds of a value of each noise level, at the end.
fn over_levels(name: &str, done: &[&ArmResult], ink: Ink, value: impl Fn(&LevelGap) -> f64) -> Curve {
    let of: Vec<&Vec<LevelGap>> = done.iter().filter(|r| r.name == name).map(|r| &r.gap_by_level).collect();
    let levels = of.first().map_or(0, |l| l.len());
    let column = |i: usize| (of[0][i].log_snr, of.iter().filter_map(|l| l.get(i)).map(&value).collect());
    summary((0..levels).map(column), ink)
}

/// For every arm a solid curve and, where `two` says so, a dashed one.
fn per_arm(names: &[String], shade: Shade<'_>, two: bool, curve: impl Fn(&str, Ink) -> Curve) -> Vec<Curve> {
    let inks = |name: &String| {
        let solid = Ink { color: shade(name), dashed: false };
        let dashed = two.then_some(Ink { dashed: true, ..solid });
        std::iter::once(solid).chain(dashed).map(|ink| curve(name, ink)).collect::<Vec<_>>()
    };
    names.iter().flat_map(inks).collect()
}

pub(super) fn draw(
    x: &str,
    y: &str,
    range: Option<std::ops::Range<f64>>,
    all: &[Curve],
) -> Result<Option<String>> {
    all.iter().any(|c| c.points.len() > 1).then(|| curves(x, y, range, all)).transpose()
}

fn f_mem(run: &Loaded, names: &[String], shade: Shade<'_>) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_steps(run, name, ink, |e| match e {
            Event::Metric { metric, measurement: m, .. } if metric == "f_mem" => {
                Some(if ink.dashed { m.floor.value } else { m.model.value })
            }
            _ => None,
        })
    };
    draw("steps", "f_mem", Some(-0.03..1.03), &per_arm(names, shade, true, curve))
}

/// The monitor's energy distance of samples to held-out images.
fn quality(run: &Loaded, names: &[String], shade: Shade<'_>) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_steps(run, name, ink, |e| match e {
            Event::Quality { value, floor, .. } => Some(if ink.dashed { *floor } else { *value }),
            _ => None,
        })
    };
    draw("steps", "energy distance to held-out images", None, &per_arm(names, shade, true, curve))
}

/// Scores that a critic gives training and held-out images: their gap is its overfitting.
fn critic(run: &Loaded, names: &[String], shade: Shade<'_>) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_steps(run, name, ink, |e| match e {
            Event::Train { terms, .. } => {
                terms.get(if ink.dashed { "critic_train" } else { "critic_held_out" }).copied()
            }
            _ => None,
        })
    };
    draw("steps", "score of the critic", None, &per_arm(names, shade, true, curve))
}

fn validation(run: &Loaded, names: &[String], shade: Shade<'_>) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_steps(run, name, ink, |e| match e {
            Event::Validation { train, held_out, .. } => {
                let losses = if ink.dashed { train } else { held_out };
                Some(losses.iter().sum::<f64>() / losses.len() as f64)
            }
            _ => None,
        })
    };
    draw("steps", "denoising loss", None, &per_arm(names, shade, true, curve))
}

const LEVELS: &str = "log SNR (left: much noise, right: little)";

fn gap(names: &[String], done: &[&ArmResult], shade: Shade<'_>) -> Result<Option<String>> {
    let all = per_arm(names, shade, false, |name, ink| over_levels(name, done, ink, |l| l.gap));
    draw(LEVELS, "held-out minus training loss", None, &all)
}

fn losses(names: &[String], done: &[&ArmResult], shade: Shade<'_>) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_levels(name, done, ink, |l| if ink.dashed { l.train } else { l.held_out })
    };
    draw(LEVELS, "denoising loss", None, &per_arm(names, shade, true, curve))
}

fn training(
    run: &Loaded,
    names: &[String],
    shade: Shade<'_>,
    label: &str,
    pick: impl Fn(f64, &BTreeMap<String, f64>) -> Option<f64>,
) -> Result<Option<String>> {
    let curve = |name: &str, ink: Ink| {
        over_steps(run, name, ink, |e| match e {
            Event::Train { loss, terms, .. } => pick(*loss, terms),
            _ => None,
        })
    };
    draw("steps", label, None, &per_arm(names, shade, false, curve))
}

fn gallery(arm: &LoadedArm, first_seed: Option<&u64>) -> Result<Option<Gallery>> {
    let (Some(pictures), Some(result)) = (&arm.pictures, &arm.result) else { return Ok(None) };
    Ok(Some(Gallery {
        name: arm.name.clone(),
        seed: arm.seed,
        open: Some(&arm.seed) == first_seed,
        n_train: result.n_train,
        samples: sheet(&pictures.tensors["samples"], SHEET)?,
        lowest: triples(pictures, false, Choice::Lowest(NEIGHBOURS))?,
        first: triples(pictures, false, Choice::First(NEIGHBOURS))?,
        reals: triples(pictures, true, Choice::Lowest(NEIGHBOURS))?,
    }))
}
