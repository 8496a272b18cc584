//! What a study's page shows before its arms: effects, costs, and what its analysis found.

use super::load::Loaded;
use super::plots::{COLORS, Curve, Dot, curves, forest};
use super::view::{Ink, Shade, over_steps};
use crate::analysis::{
    AgreementAnalysis, AnalysisResult, ExtractionAnalysis, FieldsAnalysis, GridAnalysis, OnsetAnalysis,
    OnsetPoint,
};
use crate::compare::{Comparison, Effect, number, signed};
use crate::result::{ArmResult, StudyResult};
use anyhow::Result;
use heldout_statistics::{Direction, Interval};
use heldout_train::Event;
use plotters::style::RGBColor;
use serde::Serialize;

/// Everything above the results of the arms.
#[derive(Debug, Serialize)]
pub(crate) struct StudyView {
    failures: Vec<String>,
    baseline: Option<String>,
    outcomes: Vec<OutcomeView>,
    costs: Vec<Named>,
    figures: Vec<Figure>,
    tables: Vec<Sheet>,
}

#[derive(Debug, Serialize)]
struct OutcomeView {
    title: &'static str,
    direction: &'static str,
    forest: String,
    bare: bool,
    rows: Vec<Named>,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    cells: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Figure {
    title: String,
    plot: String,
    caption: String,
}

#[derive(Debug, Serialize)]
struct Sheet {
    title: String,
    header: Vec<String>,
    rows: Vec<Named>,
}

impl StudyView {
    /// Names and plots, as pages of results refer to them.
    pub(super) fn plots(&self) -> impl Iterator<Item = (String, &str)> {
        let numbered = |what: &'static str| move |i: usize| format!("{what}-{}", i + 1);
        let (effect, figure) = (numbered("effect"), numbered("figure"));
        let effects = self.outcomes.iter().enumerate().map(move |(i, o)| (effect(i), o.forest.as_str()));
        effects.chain(self.figures.iter().enumerate().map(move |(i, f)| (figure(i), f.plot.as_str())))
    }
}

pub(super) fn study_view(
    run: &Loaded,
    result: &StudyResult,
    names: &[String],
    shade: Shade<'_>,
) -> Result<StudyView> {
    let failures =
        result.failures.iter().map(|f| format!("{} seed {}: {}", f.name, f.seed, f.reason)).collect();
    let mut view = StudyView {
        failures,
        baseline: result.comparison.as_ref().map(|c| c.baseline.clone()),
        outcomes: Vec::new(),
        costs: Vec::new(),
        figures: Vec::new(),
        tables: Vec::new(),
    };
    if let Some(comparison) = &result.comparison {
        view.outcomes = outcomes(comparison, shade)?;
        view.costs = costs(&comparison.baseline, names, &result.arms);
    }
    match &result.analysis {
        Some(AnalysisResult::Onset(onset)) => {
            view.figures = onset_figures(run, onset, names, shade)?;
            view.tables = vec![onset_table(onset)];
        }
        Some(AnalysisResult::Agreement(found)) => view.figures = vec![agreement_figure(found)?],
        Some(AnalysisResult::Extraction(found)) => {
            view.figures = vec![extraction_figure(found, shade)?];
            view.tables = vec![extraction_table(found)];
        }
        Some(AnalysisResult::Grid(found)) => view.tables = vec![grid_table(found)],
        Some(AnalysisResult::ReceptiveField(found)) => view.tables = vec![fields_table(found)],
        None => {}
    }
    Ok(view)
}

fn outcomes(comparison: &Comparison, shade: Shade<'_>) -> Result<Vec<OutcomeView>> {
    let mut views: Vec<OutcomeView> = Vec::new();
    for group in comparison.effects.chunk_by(|a, b| a.outcome == b.outcome) {
        let Effect { outcome, direction, .. } = &group[0];
        let dot = |e: &Effect| {
            let mean = e.difference.mean;
            let interval = e.difference.interval.map_or((mean, mean), |i| (i.lower, i.upper));
            Dot { label: e.arm.clone(), value: mean, interval, color: shade(&e.arm) }
        };
        views.push(OutcomeView {
            title: outcome.title(),
            direction: match direction {
                Direction::LowerIsBetter => "lower is better",
                Direction::HigherIsBetter => "higher is better",
            },
            forest: forest(
                &format!("difference in {}", outcome.title()),
                &group.iter().map(dot).collect::<Vec<_>>(),
            )?,
            bare: group.iter().any(|e| e.difference.interval.is_none()),
            rows: group.iter().map(effect).collect(),
        });
    }
    Ok(views)
}

fn effect(e: &Effect) -> Named {
    let d = &e.difference;
    let within = |i: Option<Interval>| i.map(|i| format!("[{}, {}]", number(i.lower), number(i.upper)));
    let or = |text: Option<String>| text.unwrap_or_else(|| "–".to_owned());
    let cells = vec![
        e.decision.evidence.to_string(),
        number(e.mean),
        number(e.baseline_mean),
        format!("{} {}", signed(d.mean), within(d.interval).unwrap_or_default()),
        or(within(d.bootstrap)),
        or(d.p.map(p_value)),
        or(e.decision.adjusted_p.map(p_value)),
        or(d.d_z_corrected.map(|d| format!("{d:+.2}"))),
        d.n.to_string(),
    ];
    Named { name: e.arm.clone(), cells }
}

fn p_value(p: f64) -> String {
    if p < 1e-3 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

fn costs(baseline: &str, names: &[String], arms: &[ArmResult]) -> Vec<Named> {
    let mean = |name: &str, of: fn(&ArmResult) -> f64| {
        let values: Vec<f64> = arms.iter().filter(|a| a.name == name).map(of).collect();
        values.iter().sum::<f64>() / values.len() as f64
    };
    let seconds = |name: &str| mean(name, |a| a.seconds);
    let row = |name: &String| {
        let cells = vec![
            format!("{:.0} s", seconds(name)),
            format!("{:.2}", seconds(name) / seconds(baseline)),
            format!("{:.0} MB", mean(name, |a| a.peak_rss_bytes as f64) / 1e6),
            format!("{:.0}", mean(name, |a| a.parameters as f64)),
        ];
        Named { name: name.clone(), cells }
    };
    names.iter().filter(|name| arms.iter().any(|a| a.name == **name)).map(row).collect()
}

fn onset_figures(
    run: &Loaded,
    onset: &OnsetAnalysis,
    names: &[String],
    shade: Shade<'_>,
) -> Result<Vec<Figure>> {
    let n_of = |name: &str| onset.points.iter().find(|p| p.arm == name).map(|p| p.n as f64);
    let by_image = names.iter().filter_map(|name| {
        let n = n_of(name)?;
        let ink = Ink { color: shade(name), dashed: false };
        let mut curve = over_steps(run, name, ink, |e| match e {
            Event::Metric { metric, measurement: m, .. } if metric == "f_mem" => Some(m.model.value),
            _ => None,
        });
        curve.points.iter_mut().for_each(|p| p.0 /= n);
        curve.band.iter_mut().for_each(|b| b.0 /= n);
        Some(curve)
    });
    let collapse = Figure {
        title: "Copies over steps by image".to_owned(),
        plot: curves("steps by training image", "f_mem", Some(-0.03..1.03), &by_image.collect::<Vec<_>>())?,
        caption: "The curves of the figure “Copies while training” with each one's steps divided by its number of training images: where the onset grows in proportion to that number, they fall together.".to_owned(),
    };
    let mut seeds: Vec<u64> = onset.points.iter().map(|p| p.seed).collect();
    seeds.sort_unstable();
    seeds.dedup();
    let line = |seed: u64, color, of: fn(&OnsetPoint) -> Option<f64>| {
        let known = onset.points.iter().filter(|p| p.seed == seed);
        let mut points: Vec<(f64, f64)> =
            known.filter_map(|p| Some(((p.n as f64).log10(), of(p)?.log10()))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Curve { points, band: Vec::new(), color, dashed: false }
    };
    let mut all: Vec<Curve> = seeds
        .iter()
        .flat_map(|seed| [line(*seed, ORANGE, |p| p.memorised), line(*seed, BLUE, |p| p.good)])
        .filter(|c| !c.points.is_empty())
        .collect();
    let ends = all.iter().flat_map(|c| c.points.iter().map(|p| p.0));
    let (low, high) = ends.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    if let Some(fit) = onset.memorised.as_ref().map(|law| &law.fit) {
        let at =
            |x: f64| (x, (fit.intercept + fit.slope * x * std::f64::consts::LN_10) / std::f64::consts::LN_10);
        all.push(Curve { points: vec![at(low), at(high)], band: Vec::new(), color: ORANGE, dashed: true });
    }
    if all.is_empty() {
        return Ok(Vec::new());
    }
    let laws = Figure {
        title: "Onset of memorisation and time to quality".to_owned(),
        plot: curves("log10 of the number of training images", "log10 of the step", None, &all)?,
        caption: format!(
            "Orange: the step at which f_mem passes {}; dashed, the line through all seeds. Blue: the step at which the distance to held-out images has fallen to {}, the lowest value that all reach before their onset; the first look, where that found it so. A line for each seed.",
            onset.config.threshold,
            onset.quality.map_or_else(|| "none".to_owned(), number)
        ),
    };
    Ok(vec![laws, collapse])
}

fn onset_table(onset: &OnsetAnalysis) -> Sheet {
    let or = |x: Option<f64>| x.map_or_else(|| "not reached".to_owned(), |x| format!("{x:.0}"));
    let row = |p: &OnsetPoint| {
        let by_image = p.memorised.map(|m| format!("{:.1}", m / p.n as f64));
        let cells = vec![
            p.seed.to_string(),
            p.n.to_string(),
            or(p.memorised),
            by_image.unwrap_or_else(|| "–".to_owned()),
            if p.good_at_first_look { format!("by {}", or(p.good)) } else { or(p.good) },
            p.resolution.to_string(),
            format!("{:.3}", p.floor),
        ];
        Named { name: p.arm.clone(), cells }
    };
    Sheet {
        title: "All points".to_owned(),
        header: header(&[
            "arm",
            "seed",
            "training images",
            "onset, step",
            "steps by image",
            "quality, step",
            "steps between looks",
            "floor of f_mem",
        ]),
        rows: onset.points.iter().map(row).collect(),
    }
}

fn header(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|cell| (*cell).to_owned()).collect()
}

const ORANGE: RGBColor = COLORS[0];
const BLUE: RGBColor = COLORS[1];

fn agreement_figure(found: &AgreementAnalysis) -> Result<Figure> {
    let means = found.means();
    let line = |i: usize, color, dashed| {
        let points = means.iter().map(|(n, values)| ((*n as f64).log10(), values[i])).collect();
        Curve { points, band: Vec::new(), color, dashed }
    };
    let all = [line(0, ORANGE, false), line(1, ORANGE, true), line(2, BLUE, false), line(3, BLUE, true)];
    Ok(Figure {
        title: "Agreement of two models, and nearness to training images".to_owned(),
        plot: curves("log10 of the number of training images of each", "cosine", Some(-0.05..1.05), &all)?,
        caption: "Orange: images of two models that share no training image, from the same noise; dashed, from different noise. Blue: samples and their nearest training images; dashed, the same of held-out images. Means over seeds. Both models of a seed begin with the same weights and draw the same times and noise. Where the curves cross moves with the number of steps.".to_owned(),
    })
}

fn extraction_figure(found: &ExtractionAnalysis, shade: Shade<'_>) -> Result<Figure> {
    let line = |arm: &str| Curve {
        points: found.shares(arm).iter().map(|(times, share, _)| ((*times as f64).log2(), *share)).collect(),
        band: Vec::new(),
        color: shade(arm),
        dashed: false,
    };
    let all: Vec<Curve> = found.arms().into_iter().map(line).collect();
    Ok(Figure {
        title: "What comes out again".to_owned(),
        plot: curves(
            "log2 of how often an image stands in an epoch",
            "share that came out",
            Some(-0.03..1.03),
            &all,
        )?,
        caption: format!(
            "Share of training images of which at least one sample is a copy, over all seeds. {:.3} of held-out images would count as copies of some training image.",
            found.floor
        ),
    })
}

fn extraction_table(found: &ExtractionAnalysis) -> Sheet {
    let rows = found.points.iter().map(|p| Named {
        name: p.arm.clone(),
        cells: [p.seed as usize, p.times, p.images, p.extracted, p.copies, p.samples]
            .map(|n| n.to_string())
            .to_vec(),
    });
    Sheet {
        title: "All groups".to_owned(),
        header: header(&["arm", "seed", "times", "images", "came out", "copies", "samples"]),
        rows: rows.collect(),
    }
}

fn fields_table(found: &FieldsAnalysis) -> Sheet {
    let cell = |arm: &str, log_snr: f64| {
        let radius = found.over_seeds(arm, log_snr, |f| f.radius);
        let side = found.over_seeds(arm, log_snr, |f| f.side as f64);
        radius.zip(side).map_or_else(
            || "–".to_owned(),
            |([mean, low, high], [side, ..])| format!("{mean:.2} ({low:.2} to {high:.2}), {side:.1}"),
        )
    };
    let row = |arm: &&str| Named {
        name: (*arm).to_owned(),
        cells: found.log_snr.iter().map(|log_snr| cell(arm, *log_snr)).collect(),
    };
    Sheet {
        title: "Effective receptive field of the trained networks: root mean square pixels (range over seeds), and the side of the \
                square with 95 %"
            .to_owned(),
        header: std::iter::once("arm".to_owned())
            .chain(found.log_snr.iter().map(|l| format!("log SNR {l}")))
            .collect(),
        rows: found.arms().iter().map(row).collect(),
    }
}

fn grid_table(found: &GridAnalysis) -> Sheet {
    let [rows, columns] = &found.axes;
    let mut top: Vec<&str> = Vec::new();
    for cell in &found.cells {
        if !top.contains(&cell.column.as_str()) {
            top.push(&cell.column);
        }
    }
    let of_row = |group: &[crate::analysis::GridCell]| Named {
        name: group[0].row.clone(),
        cells: group
            .iter()
            .map(|cell| {
                let floor = cell.floor.map_or_else(String::new, |f| format!(", floor {f:.3}"));
                match cell.value {
                    Some([mean, low, high]) => {
                        format!("{} ({} to {}){floor}", number(mean), number(low), number(high))
                    }
                    None => "–".to_owned(),
                }
            })
            .collect(),
    };
    Sheet {
        title: format!(
            "{} over {rows} (rows) and {columns} (columns): mean and range over seeds",
            found.outcome.title()
        ),
        header: std::iter::once(rows.clone()).chain(top.iter().map(|c| format!("{columns} {c}"))).collect(),
        rows: found.cells.chunk_by(|a, b| a.row == b.row).map(of_row).collect(),
    }
}
