//! What the inputs can be wrong in.

/// An input that cannot be measured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A number that is no number.
    #[error("{set}: row {row} has a value that is not finite")]
    NotFinite {
        /// Which set.
        set: &'static str,
        /// Which row.
        row: usize,
    },
    /// Two sets that do not go together.
    #[error("{set}: rows of {found} numbers where {expected} are needed")]
    Width {
        /// Which set.
        set: &'static str,
        /// What it has.
        found: usize,
        /// What it needs.
        expected: usize,
    },
    /// Too few rows.
    #[error("{set}: {found} distinct rows where at least {needed} are needed")]
    TooFew {
        /// Which set.
        set: &'static str,
        /// What it has.
        found: usize,
        /// What it needs.
        needed: usize,
    },
    /// A row that has no direction.
    #[error("{set}: row {row} is all zeros, which has no cosine with anything")]
    ZeroRow {
        /// Which set.
        set: &'static str,
        /// Which row.
        row: usize,
    },
    /// Probabilities that are none.
    #[error(
        "{set}: row {row} is not a distribution (numbers from 0 on that sum to 1); logits have an entry of their own"
    )]
    NoDistribution {
        /// Which set.
        set: &'static str,
        /// Which row.
        row: usize,
    },
    /// A matrix that is no covariance.
    #[error("covariance: row {row} is not symmetric, or its variance is negative")]
    NoCovariance {
        /// Which row.
        row: usize,
    },
    /// A cell of the data-copying test that it cannot be made in.
    #[error("{set}: no row in cell {cell}; use fewer cells or more rows")]
    EmptyCell {
        /// Which set.
        set: &'static str,
        /// Which cell.
        cell: usize,
    },
    /// A setting that cannot be.
    #[error("{setting}: {reason}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What it is, and what it can be.
        reason: String,
    },
    /// A sum that left the numbers there are.
    #[error(
        "{what}: is not finite, since the features are too large for it: divide all sets by one number, or give f32 as f64"
    )]
    Overflow {
        /// Of what.
        what: &'static str,
    },
    /// A decomposition that did not come to an end.
    #[error("{what}: do not converge for these features; look for values of very different size in them")]
    NoConvergence {
        /// Of what.
        what: &'static str,
    },
}

impl Error {
    /// With the set by another name, which `name` gives for the one it has.
    pub(crate) fn renamed(mut self, name: impl Fn(&'static str) -> &'static str) -> Self {
        match &mut self {
            Self::NotFinite { set, .. }
            | Self::Width { set, .. }
            | Self::TooFew { set, .. }
            | Self::ZeroRow { set, .. }
            | Self::NoDistribution { set, .. }
            | Self::EmptyCell { set, .. } => *set = name(set),
            Self::NoCovariance { .. }
            | Self::Setting { .. }
            | Self::Overflow { .. }
            | Self::NoConvergence { .. } => {}
        }
        self
    }

    /// The set, setting or matrix that is wrong.
    #[cfg(feature = "torch")]
    fn field(&self) -> &'static str {
        match self {
            Self::NotFinite { set, .. }
            | Self::Width { set, .. }
            | Self::TooFew { set, .. }
            | Self::ZeroRow { set, .. }
            | Self::NoDistribution { set, .. }
            | Self::EmptyCell { set, .. } => set,
            Self::NoCovariance { .. } => "covariance",
            Self::Setting { setting, .. } => setting,
            Self::NoConvergence { what } | Self::Overflow { what } => what,
        }
    }
}

#[cfg(feature = "torch")]
impl From<Error> for heldout_core::Error {
    fn from(e: Error) -> Self {
        let text = e.to_string();
        let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
        Self::config(e.field(), reason)
    }
}
