//! What became of the files of a stream.

use heldout_core::Error;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Files and sizes that are named; of the others only the number is said.
const NAMED: usize = 3;

/// A file that should be an image and is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// The file.
    pub path: PathBuf,
    /// Why it cannot be read.
    pub reason: String,
}

impl Unreadable {
    pub(crate) fn of(path: &Path, error: Error) -> Self {
        let reason = match error {
            Error::File { reason, .. } | Error::Config { reason, .. } => reason,
            Error::Io { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        Self { path: path.to_owned(), reason }
    }
}

/// Counts of what was read and left out. Sizes are `[height, width]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Files that should be images, or images of a set.
    pub found: usize,
    /// Images read so far.
    pub read: usize,
    /// What could not be read so far.
    pub unreadable: Vec<Unreadable>,
    /// Files that are no images, hidden ones, and links to folders that are gone through already.
    pub ignored: usize,
    /// Images of each size, by their headers.
    pub sizes: BTreeMap<[usize; 2], usize>,
    /// Images that were resized so far.
    pub resized: usize,
    /// Images with transparent pixels so far, which were laid over white.
    pub blended: usize,
    /// Images of 16 bits, by their headers, which were rounded to 8.
    pub deep: usize,
    /// Images of one channel, by their headers.
    pub grey: usize,
    /// What was taken for granted, where the files do not say it.
    pub assumed: Vec<String>,
    /// Of `unreadable`, those that were found by their names and headers.
    pub(crate) before: usize,
}

impl Reading {
    /// The size of most images; of several the smallest.
    pub(crate) fn most_common_size(&self) -> [usize; 2] {
        let most = self.sizes.iter().max_by(|a, b| a.1.cmp(b.1).then(b.0.cmp(a.0)));
        most.map_or([1, 1], |(size, _)| *size)
    }

    /// Back to what is known from headers.
    pub(crate) fn forget(&mut self) {
        self.unreadable.truncate(self.before);
        (self.read, self.resized, self.blended) = (0, 0, 0);
    }
}

/// One sentence for everything that is worth saying; nothing where all went as it should.
impl fmt::Display for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut notes = Vec::new();
        if !self.unreadable.is_empty() {
            let named = self.unreadable.iter().take(NAMED);
            let named: Vec<String> = named.map(|u| format!("{}: {}", u.path.display(), u.reason)).collect();
            notes.push(format!(
                "{} of {} files cannot be read and are left out ({}{})",
                self.unreadable.len(),
                self.found,
                named.join("; "),
                if self.unreadable.len() > NAMED { "; .." } else { "" }
            ));
        }
        if self.ignored > 0 {
            notes.push(format!("{} other files are passed over", self.ignored));
        }
        if self.resized > 0 {
            let mut sizes: Vec<(&[usize; 2], &usize)> = self.sizes.iter().collect();
            sizes.sort_by(|a, b| b.1.cmp(a.1).then(a.0.cmp(b.0)));
            let named = sizes.iter().take(NAMED).map(|([h, w], n)| format!("{n} of {w} x {h}"));
            let named = named.collect::<Vec<_>>().join(", ");
            let more = if sizes.len() > NAMED { ", .." } else { "" };
            notes.push(format!(
                "{} images are resized; there are {} sizes ({named}{more})",
                self.resized,
                sizes.len()
            ));
        }
        if self.blended > 0 {
            notes.push(format!("{} images are partly transparent and lie over white", self.blended));
        }
        if self.deep > 0 {
            notes.push(format!("{} images of 16 bits are rounded to 8", self.deep));
        }
        notes.extend(self.assumed.iter().cloned());
        write!(f, "{}", notes.join(". "))
    }
}
