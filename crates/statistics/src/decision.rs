//! What may be said of a study, in words.

use crate::{Degenerate, Error, PairedDifference, holm};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Adjusted p values up to this are evidence.
pub const LEVEL: f64 = 0.05;

/// Which values of a metric are good ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// As of a loss.
    LowerIsBetter,
    /// As of an accuracy.
    HigherIsBetter,
}

/// What a comparison shows of the arm; `Display` says it in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The adjusted p value is at most [`LEVEL`], and the mean difference is in the metric's good direction.
    Better,
    /// The same, in the other direction.
    Worse,
    /// The adjusted p value is above [`LEVEL`]. That is no evidence that there is no difference: the interval
    /// says how large it can be.
    NoEvidence,
    /// There was one pair.
    OneSeed,
    /// The same difference in every pair, which no test over seeds can judge.
    EqualDifferences,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Better => f.write_str("better"),
            Self::Worse => f.write_str("worse"),
            Self::NoEvidence => f.write_str("no evidence of a difference"),
            Self::OneSeed => Degenerate::OnePair.fmt(f),
            Self::EqualDifferences => Degenerate::EqualDifferences.fmt(f),
        }
    }
}

/// What one comparison of a family shows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Decision {
    /// What it shows.
    pub evidence: Evidence,
    /// Its p value, adjusted for the family by [`holm`]; `None` where there was no test.
    pub adjusted_p: Option<f64>,
}

/// Decides on all comparisons that one question asks at once (every arm of a study, on every metric that it
/// is judged by).
///
/// Comparisons without a test (one seed, equal differences) make no claim and do not count in the family.
/// A p value outside `[0, 1]` is an error; [`crate::paired`] gives none.
pub fn decide(family: &[(PairedDifference, Direction)]) -> Result<Vec<Decision>, Error> {
    let p: Vec<f64> = family.iter().filter_map(|(difference, _)| difference.p).collect();
    let mut adjusted = holm(&p)?.into_iter();
    let decision = |(difference, direction): &(PairedDifference, Direction)| {
        let adjusted_p = difference.p.and_then(|_| adjusted.next());
        let lower_is_better = *direction == Direction::LowerIsBetter;
        let evidence = match (adjusted_p, difference.degenerate) {
            (Some(p), _) if p > LEVEL => Evidence::NoEvidence,
            (Some(_), _) if (difference.mean < 0.0) == lower_is_better => Evidence::Better,
            (Some(_), _) => Evidence::Worse,
            (None, Some(Degenerate::EqualDifferences)) => Evidence::EqualDifferences,
            (None, _) => Evidence::OneSeed,
        };
        Decision { evidence, adjusted_p }
    };
    Ok(family.iter().map(decision).collect())
}
