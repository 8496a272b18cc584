//! What can go wrong that the caller can act on.

use std::path::PathBuf;

/// The error of every Heldout library. Shape bugs are not here: libtorch panics on them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting that cannot be honoured: which field, and why, with the offending value.
    #[error("{field}: {reason}")]
    Config {
        /// The path of the field, as in `model.head_dim`.
        field: String,
        /// The value, what is wrong with it and the remedy.
        reason: String,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Its answer.
        source: std::io::Error,
    },
    /// A file that is there but does not hold what it should.
    #[error("{}: {reason}", path.display())]
    File {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong and the remedy.
        reason: String,
    },
    /// A loss or gradient stopped being finite, and the policy was to stop.
    #[error(
        "{term} is not finite at step {step}: lower the learning rate, or set `train.non_finite = \"skip\"`"
    )]
    Diverged {
        /// The term of the loss, or `gradient of NAME`.
        term: String,
        /// The step, counted from 0.
        step: u64,
    },
    /// libtorch's own answer.
    #[error(transparent)]
    Tch(#[from] tch::TchError),
}

/// `Result` with Heldout's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A setting that cannot be honoured.
    pub fn config(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Config { field: field.into(), reason: reason.into() }
    }

    /// A file that does not hold what it should.
    pub fn file(path: impl Into<PathBuf>, reason: impl Into<String>) -> Self {
        Self::File { path: path.into(), reason: reason.into() }
    }

    /// For `map_err`: the operating system's refusal with the path that it concerns.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        |source| Self::Io { path, source }
    }

    /// Puts a section in front of the field of a [`Error::Config`], so that nested configs name the whole path.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        match self {
            Self::Config { field, reason } => Self::Config { field: format!("{section}.{field}"), reason },
            other => other,
        }
    }
}
