//! One outcome over the places of a grid.

use super::{Evidence, summary};
use crate::compare::Outcome;
use crate::recipe::Study;
use heldout_core::{Error, Result};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Over the two axes of the recipe's grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {
    /// Which number.
    pub outcome: Outcome,
}

/// One place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GridCell {
    /// Value on the first axis, as the recipe has it.
    pub row: String,
    /// On the second.
    pub column: String,
    /// Mean over the seeds, the least and the largest; none where no seed has it.
    pub value: Option<[f64; 3]>,
    /// The floor of the same, where it has one.
    pub floor: Option<f64>,
    /// Numbers that are trained there.
    pub parameters: Option<usize>,
}

/// All places, row after row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GridAnalysis {
    /// Which number.
    pub outcome: Outcome,
    /// Names of the axes.
    pub axes: [String; 2],
    /// One for every place.
    pub cells: Vec<GridCell>,
}

impl GridConfig {
    pub(super) fn check(&self, study: &Study) -> Result<()> {
        let axes = study.places.first().map_or(0, |p| p.values.len());
        if axes == 2 {
            return Ok(());
        }
        Err(Error::config("kind", format!("grid, where the recipe's grid has {axes} axes: two are needed")))
    }

    pub(super) fn run(&self, evidence: &Evidence<'_>) -> GridAnalysis {
        let study = evidence.study;
        let mut axes = study.places[0].values.keys().cloned();
        let axes = [axes.next().unwrap_or_default(), axes.next().unwrap_or_default()];
        let cells = study.arms.iter().zip(&study.places).map(|((name, _), place)| {
            let of: Vec<_> = evidence.arms.iter().filter(|a| a.name == *name).collect();
            let values: Vec<f64> = of.iter().filter_map(|a| self.outcome.of(a)).collect();
            let floors: Vec<f64> = of.iter().map(|a| a.f_mem_floor).collect();
            let axis = |i: usize| place.values.get(&axes[i]).map_or_else(String::new, ToString::to_string);
            GridCell {
                row: axis(0),
                column: axis(1),
                value: (!values.is_empty()).then(|| summary(&values)),
                floor: (self.outcome == Outcome::FMem && !floors.is_empty()).then(|| summary(&floors)[0]),
                parameters: of.first().map(|a| a.parameters),
            }
        });
        GridAnalysis { outcome: self.outcome, cells: cells.collect(), axes: axes.clone() }
    }
}

impl GridAnalysis {
    pub(super) fn answer(&self) -> String {
        let known = || self.cells.iter().filter_map(|c| Some((c, c.value?[0])));
        let (least, most) =
            (known().min_by(|a, b| a.1.total_cmp(&b.1)), known().max_by(|a, b| a.1.total_cmp(&b.1)));
        let (Some(least), Some(most)) = (least, most) else {
            return "No place of the grid has a result.".to_owned();
        };
        let [rows, columns] = &self.axes;
        let at = |(cell, value): (&GridCell, f64)| {
            format!("{value:.3} with {rows} {} and {columns} {}", cell.row, cell.column)
        };
        format!("The {} is least, {}, and largest, {}.", self.outcome.title(), at(least), at(most))
    }
}
