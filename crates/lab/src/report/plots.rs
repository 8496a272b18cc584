//! Plots as SVG that takes its ink from the page.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::ops::Range;

/// Okabe and Ito's colours, which the colour-blind tell apart; arms take them in order.
pub(crate) const COLORS: [RGBColor; 6] = [
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// The colour of the `i`th arm.
pub(crate) fn color(i: usize) -> RGBColor {
    COLORS[i % COLORS.len()]
}

/// One curve.
#[derive(Debug, Clone)]
pub(crate) struct Curve {
    pub(crate) points: Vec<(f64, f64)>,
    /// Lowest and highest at each point, where there are several seeds or an interval.
    pub(crate) band: Vec<(f64, f64, f64)>,
    pub(crate) color: RGBColor,
    pub(crate) dashed: bool,
}

/// One value with its interval, in a row of its own.
#[derive(Debug, Clone)]
pub(crate) struct Dot {
    pub(crate) label: String,
    pub(crate) value: f64,
    pub(crate) interval: (f64, f64),
    pub(crate) color: RGBColor,
}

const SIZE: (u32, u32) = (680, 340);
const GREY: RGBColor = RGBColor(128, 128, 128);

fn range(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    let pad = ((high - low) * 0.05).max(high.abs().max(1e-9) * 0.01);
    low - pad..high + pad
}

/// As short as can be: 200, 0.05.
fn tick(value: &f64) -> String {
    let rounded = (value * 1e6).round() / 1e6;
    if rounded == 0.0 { "0".to_owned() } else { rounded.to_string() }
}

fn failed(e: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot could not be drawn: {e}")
}

/// Curves over a common axis. `y` fixes the vertical range; otherwise it is that of the curves.
pub(crate) fn curves(x_label: &str, y_label: &str, y: Option<Range<f64>>, all: &[Curve]) -> Result<String> {
    let points = || all.iter().flat_map(|c| c.points.iter().copied());
    let bands = || all.iter().flat_map(|c| c.band.iter().flat_map(|b| [b.1, b.2]));
    let x = range(points().map(|p| p.0));
    let y = y.unwrap_or_else(|| range(points().map(|p| p.1).chain(bands()).collect::<Vec<_>>().into_iter()));
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        let mut builder = ChartBuilder::on(&area);
        builder.margin(8).x_label_area_size(46).y_label_area_size(70);
        let mut chart = builder.build_cartesian_2d(x, y).map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x_label).y_desc(y_label).x_labels(8).y_labels(6);
        mesh.x_label_formatter(&tick).y_label_formatter(&tick);
        mesh.label_style(("sans-serif", 16)).axis_desc_style(("sans-serif", 17));
        mesh.bold_line_style(GREY.mix(0.25)).light_line_style(TRANSPARENT).axis_style(GREY);
        mesh.draw().map_err(failed)?;
        for curve in all {
            if curve.band.len() > 1 {
                let up = curve.band.iter().map(|b| (b.0, b.2));
                let down = curve.band.iter().rev().map(|b| (b.0, b.1));
                let outline: Vec<(f64, f64)> = up.chain(down).collect();
                chart.draw_series([Polygon::new(outline, curve.color.mix(0.18).filled())]).map_err(failed)?;
            }
            let style = curve.color.stroke_width(2);
            let points = curve.points.iter().copied();
            if curve.dashed {
                chart.draw_series(DashedLineSeries::new(points, 6, 5, style)).map_err(failed)?;
            } else {
                chart.draw_series(LineSeries::new(points, style)).map_err(failed)?;
            }
            if curve.points.len() <= 16 && !curve.dashed {
                let dots = curve.points.iter().map(|p| Circle::new(*p, 3, curve.color.filled()));
                chart.draw_series(dots).map_err(failed)?;
            }
        }
        area.present().map_err(failed)?;
    }
    Ok(take_ink_from_page(&svg))
}

/// Shares between 0 and 1 with their intervals, a row each.
pub(crate) fn shares(x_label: &str, all: &[Dot]) -> Result<String> {
    dots(x_label, -0.02..1.02, all)
}

/// Differences with their intervals, a row each, around a line at 0.
pub(crate) fn forest(x_label: &str, all: &[Dot]) -> Result<String> {
    let ends = all.iter().flat_map(|d| [d.interval.0, d.interval.1, d.value]).chain([0.0]);
    let x = range(ends.collect::<Vec<_>>().into_iter());
    let flat = x.end - x.start < 1e-9; // no difference anywhere
    dots(x_label, if flat { -1.0..1.0 } else { x }, all)
}

fn dots(x_label: &str, x: Range<f64>, all: &[Dot]) -> Result<String> {
    let mut svg = String::new();
    let n = all.len();
    {
        let height = 60 + 30 * n as u32;
        let area = SVGBackend::with_string(&mut svg, (SIZE.0, height)).into_drawing_area();
        let mut builder = ChartBuilder::on(&area);
        builder.margin(8).x_label_area_size(42).y_label_area_size(210);
        let rows = -0.5..n as f64 - 0.5;
        let left = x.start;
        let crosses = left < 0.0;
        let mut chart = builder.build_cartesian_2d(x, rows.clone()).map_err(failed)?;
        let mut mesh = chart.configure_mesh();
        mesh.x_desc(x_label).x_labels(6).x_label_formatter(&tick).disable_y_mesh().y_labels(0);
        mesh.label_style(("sans-serif", 14)).axis_desc_style(("sans-serif", 15));
        mesh.bold_line_style(GREY.mix(0.25)).light_line_style(TRANSPARENT).axis_style(GREY);
        mesh.draw().map_err(failed)?;
        if crosses {
            let zero = [(0.0, rows.start), (0.0, rows.end)];
            chart.draw_series([PathElement::new(zero, GREY.stroke_width(1))]).map_err(failed)?;
        }
        for (i, dot) in all.iter().enumerate() {
            let y = (n - 1 - i) as f64;
            let line = [(dot.interval.0, y), (dot.interval.1, y)];
            chart.draw_series([PathElement::new(line, dot.color.stroke_width(3))]).map_err(failed)?;
            chart.draw_series([Circle::new((dot.value, y), 6, dot.color.filled())]).map_err(failed)?;
            let (_, place) = chart.backend_coord(&(left, y));
            let style = ("sans-serif", 14).into_font().color(&BLACK);
            let style = style.pos(plotters::style::text_anchor::Pos::new(
                plotters::style::text_anchor::HPos::Right,
                plotters::style::text_anchor::VPos::Center,
            ));
            area.draw_text(&dot.label, &style, (208, place)).map_err(failed)?;
        }
        area.present().map_err(failed)?;
    }
    Ok(take_ink_from_page(&svg))
}

/// Black becomes the colour of the page's text, so that plots can be read on a dark page.
fn take_ink_from_page(svg: &str) -> String {
    let inked = svg
        .replace("fill=\"#000000\"", "fill=\"currentColor\"")
        .replace("stroke=\"#000000\"", "stroke=\"currentColor\"");
    inked.replacen("<svg ", "<svg role=\"img\" ", 1)
}
