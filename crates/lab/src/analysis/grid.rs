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
        let mut text =
            format!("The {} is least, {}, and largest, {}.", self.outcome.title(), at(least), at(most));
        for (axis, name) in self.axes.iter().enumerate() {
            let steps = self.steps(axis);
            let count = |sign: f64| steps.iter().filter(|step| *step * sign > 0.0).count();
            text += &format!(
                " From one {name} to the next it rises in {} of {} places and falls in {}.",
                count(1.0),
                steps.len(),
                count(-1.0)
            );
        }
        text
    }

    /// What the mean changes by from one value of an axis to the next, in the order of the recipe, the other axis unchanged.
    fn steps(&self, axis: usize) -> Vec<f64> {
        let mut lines: Vec<(&str, Vec<Option<f64>>)> = Vec::new();
        for cell in &self.cells {
            let line = if axis == 0 { cell.column.as_str() } else { cell.row.as_str() };
            let value = cell.value.map(|[mean, ..]| mean);
            match lines.iter_mut().find(|(known, _)| *known == line) {
                Some((_, values)) => values.push(value),
                None => lines.push((line, vec![value])),
            }
        }
        let step = |pair: &[Option<f64>]| Some(pair[1]? - pair[0]?);
        lines.iter().flat_map(|(_, values)| values.windows(2).filter_map(step)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_says_which_way_it_goes() {
        let cell = |row: &str, column: &str, value: Option<f64>| GridCell {
            row: row.to_owned(),
            column: column.to_owned(),
            value: value.map(|v| [v; 3]),
            floor: None,
            parameters: None,
        };
        let cells = vec![
            cell("16", "8", Some(0.2)),
            cell("16", "32", Some(0.9)),
            cell("64", "8", Some(0.1)),
            cell("64", "32", None),
        ];
        let axes = ["n".to_owned(), "width".to_owned()];
        let found = GridAnalysis { outcome: Outcome::FMem, axes, cells };
        let answer = found.answer();
        assert!(
            answer.contains("From one n to the next it rises in 0 of 1 places and falls in 1."),
            "{answer}"
        );
        assert!(
            answer.contains("one width to the next it rises in 1 of 1 places and falls in 0."),
            "{answer}"
        );
    }
}
