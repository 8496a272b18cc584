//! Every metric on features by its name.

use crate::{Error, MifidOrder, NeighborOptions, Subsets};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A metric on features `[N, D]` of generated, training and held-out images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum FeatureMetric {
    /// [`crate::frechet_distance`].
    Fd,
    /// [`crate::FrechetReference::infinity_of`].
    FdInfinity,
    /// [`crate::kernel_distance`].
    Kid,
    /// [`crate::cmmd`].
    Cmmd,
    /// [`crate::Pair::precision`].
    Precision,
    /// [`crate::Pair::recall`].
    Recall,
    /// [`crate::Pair::density`].
    Density,
    /// [`crate::Pair::coverage`].
    Coverage,
    /// [`crate::Pair::realism`].
    Realism,
    /// [`crate::Pair::f_mem`].
    FMem,
    /// [`crate::Pair::carlini`].
    Carlini,
    /// [`crate::Pair::auth_pct`].
    AuthPct,
    /// [`crate::data_copying`].
    CT,
    /// [`crate::feature_likelihood`].
    Fld,
    /// Its train-test gap.
    FldGap,
    /// [`crate::mifid`].
    Mifid,
    /// [`crate::vendi_score`].
    Vendi,
}

use FeatureMetric::{
    AuthPct, CT, Carlini, Cmmd, Coverage, Density, FMem, Fd, FdInfinity, Fld, FldGap, Kid, Mifid, Precision,
    Realism, Recall, Vendi,
};

/// Name in files and on the command line, and in tables.
const NAMES: [(FeatureMetric, &str, &str); 17] = [
    (Fd, "fd", "FD"),
    (FdInfinity, "fd_infinity", "FD-infinity"),
    (Kid, "kid", "KID"),
    (Cmmd, "cmmd", "CMMD"),
    (Precision, "precision", "precision"),
    (Recall, "recall", "recall"),
    (Density, "density", "density"),
    (Coverage, "coverage", "coverage"),
    (Realism, "realism", "realism"),
    (FMem, "f_mem", "f_mem"),
    (Carlini, "carlini", "Carlini"),
    (AuthPct, "auth_pct", "AuthPct"),
    (CT, "c_t", "C_T"),
    (Fld, "fld", "FLD"),
    (FldGap, "fld_gap", "FLD gap"),
    (Mifid, "mifid", "MiFID"),
    (Vendi, "vendi", "Vendi"),
];

impl FeatureMetric {
    /// All of them.
    pub const ALL: [Self; 17] = {
        let mut all = [Fd; 17];
        let mut i = 0;
        while i < 17 {
            all[i] = NAMES[i].0;
            i += 1;
        }
        all
    };

    /// Those that answer the usual questions in the time of a few products: how far, how varied, how many copies.
    pub const USUAL: [Self; 10] = [Fd, Kid, Precision, Recall, Density, Coverage, AuthPct, CT, FMem, Vendi];

    /// As in files: `fd`.
    pub fn name(self) -> &'static str {
        NAMES[self as usize].1
    }

    /// As in tables: `FD`. The name of the network belongs behind it, `FD(EfficientNet-Lite0)`.
    pub fn title(self) -> &'static str {
        NAMES[self as usize].2
    }

    /// Whether its value is nothing without held-out data.
    pub fn needs_held_out(self) -> bool {
        matches!(self, CT | Fld | FldGap)
    }
}

impl fmt::Display for FeatureMetric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for FeatureMetric {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let found = NAMES.iter().find(|(_, known, _)| *known == name);
        found.map(|(metric, ..)| *metric).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(_, name, _)| *name).collect();
            let reason = format!("{name:?} is none of {}", known.join(", "));
            Error::Setting { setting: "metric", reason }
        })
    }
}

/// What is free in the definitions.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Options {
    /// Of the metrics on neighbours.
    pub neighbors: NeighborOptions,
    /// Of KID. Sets that are not larger than a subset are compared whole.
    pub kid: Subsets,
    /// Cells of C_T.
    pub cells: usize,
    /// Of MiFID.
    pub mifid: MifidOrder,
    /// Whether to take the intervals that cost more than the value: of Fréchet distances. Without them theirs are not known.
    pub frechet_intervals: bool,
    /// Of every other draw.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            neighbors: NeighborOptions::default(),
            kid: Subsets::Random { count: 100, size: 1000, seed: 0 },
            cells: 3,
            mifid: MifidOrder::Generated,
            frechet_intervals: true,
            seed: 0,
        }
    }
}
