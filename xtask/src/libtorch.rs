//! Which libtorch is in use.

use crate::root::root;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// The version that tch was made for.
pub(crate) const VERSION: &str = "2.13.0";

/// Where libtorch comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The user's `LIBTORCH_USE_PYTORCH`.
    Python,
    /// The user's `LIBTORCH`.
    Own(PathBuf),
    /// The link that setup made.
    Linked(PathBuf),
    /// None yet.
    Missing,
}

/// The user's own settings win over the link. Cargo sets `LIBTORCH` to the link for all that it runs, so that value is
/// not the user's.
pub(crate) fn source() -> Source {
    let link = root().join("libtorch");
    source_of(
        env::var_os("LIBTORCH_USE_PYTORCH").is_some(),
        env::var_os("LIBTORCH").map(PathBuf::from),
        &link,
    )
}

fn source_of(python: bool, own: Option<PathBuf>, link: &Path) -> Source {
    let same = |p: &PathBuf| p == link || fs::canonicalize(p).ok() == fs::canonicalize(link).ok();
    match own {
        _ if python => Source::Python,
        Some(own) if own != link && (!own.exists() || !same(&own)) => Source::Own(own),
        _ if link.join("lib").is_dir() => Source::Linked(link.to_owned()),
        _ => Source::Missing,
    }
}

/// The folder of the shared libraries, for programs that carry no rpath.
pub(crate) fn lib_folder() -> Option<PathBuf> {
    match source() {
        Source::Own(p) | Source::Linked(p) => Some(p.join("lib")),
        Source::Python => {
            let script = "import torch, os; print(os.path.join(os.path.dirname(torch.__file__), 'lib'))";
            crate::process::output("python3", &["-c", script]).map(PathBuf::from)
        }
        Source::Missing => None,
    }
}

/// What `build-version` in a libtorch folder says.
pub(crate) fn version_of(folder: &Path) -> Option<String> {
    fs::read_to_string(folder.join("build-version")).ok().map(|v| v.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_own_libtorch_wins_and_the_configured_one_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (link, own) = (folder.path().join("libtorch"), folder.path().join("own"));
        fs::create_dir_all(own.join("lib")).unwrap();
        assert_eq!(source_of(false, None, &link), Source::Missing);
        assert_eq!(
            source_of(false, Some(link.clone()), &link),
            Source::Missing,
            "set by cargo, not by the user"
        );
        assert_eq!(source_of(false, Some(own.clone()), &link), Source::Own(own.clone()));
        fs::create_dir_all(link.join("lib")).unwrap();
        assert_eq!(source_of(false, Some(link.clone()), &link), Source::Linked(link.clone()));
        assert_eq!(source_of(false, None, &link), Source::Linked(link.clone()));
        assert_eq!(source_of(true, Some(own), &link), Source::Python);
    }
}
