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
}

#[cfg(feature = "torch")]
impl From<Error> for heldout_core::Error {
    fn from(e: Error) -> Self {
        let (Error::NotFinite { set, .. } | Error::Width { set, .. } | Error::TooFew { set, .. }) = e;
        let text = e.to_string();
        let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
        Self::config(set, reason)
    }
}
