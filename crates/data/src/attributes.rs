//! Images by their attributes, where a data set has a table of them.

use crate::Manifest;
use flate2::read::GzDecoder;
use heldout_core::{Error, Result};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What each of some attributes must be: a value of the table, or `any` for every value but none.
pub type AttributeFilter = BTreeMap<String, String>;

/// Stands for every value that is not empty.
const ANY: &str = "any";

/// For every image of the data set in `folder`, in order, whether its attributes are as `filter` wants them.
///
/// # Errors
/// A set without a table; an attribute that the table has not, or a value that no image has; a damaged table.
pub fn matching(folder: &Path, filter: &AttributeFilter) -> Result<Vec<bool>> {
    if !folder.join("dataset.toml").is_file() {
        let reason = format!("{} has no dataset.toml that names a table of attributes", folder.display());
        return Err(Error::config("filter", reason));
    }
    let manifest = Manifest::read(folder)?;
    let file = manifest.attributes.ok_or_else(|| {
        Error::config("filter", format!("{} has no table of attributes: leave it out", manifest.name))
    })?;
    let path = folder.join(file);
    let text = text(&path)?;
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split(',').collect()).collect();
    let (header, rows) =
        rows.split_first().ok_or_else(|| Error::file(&path, "is empty: a header and a row an image"))?;
    if let Some(i) = rows.iter().position(|row| row.len() != header.len()) {
        let reason =
            format!("line {}: {} fields, where the header has {}", i + 2, rows[i].len(), header.len());
        return Err(Error::file(&path, reason));
    }
    if rows.len() != manifest.count {
        let reason = format!("{} rows for {} images", rows.len(), manifest.count);
        return Err(Error::file(&path, reason));
    }
    let mut kept = vec![true; rows.len()];
    for (attribute, wanted) in filter {
        let column = header.iter().position(|name| name == attribute).ok_or_else(|| {
            let reason = format!("is none of the attributes of {}: {}", manifest.name, header.join(", "));
            Error::config(format!("filter.{attribute}"), reason)
        })?;
        let fits = |value: &str| value == wanted || (wanted == ANY && !value.is_empty());
        if !rows.iter().any(|row| fits(row[column])) {
            let reason = format!("`{wanted}`: no image has this value; `{ANY}` is every value");
            return Err(Error::config(format!("filter.{attribute}"), reason));
        }
        kept.iter_mut().zip(rows).for_each(|(kept, row)| *kept &= fits(row[column]));
    }
    Ok(kept)
}

/// A plain or gzipped table without quotes.
fn text(path: &PathBuf) -> Result<String> {
    let bytes = fs::read(path).map_err(Error::io(path))?;
    let damaged = |e: String| Error::file(path, format!("damaged: {e}"));
    let mut text = String::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        GzDecoder::new(&bytes[..]).read_to_string(&mut text).map_err(|e| damaged(e.to_string()))?;
    } else {
        text = String::from_utf8(bytes).map_err(|e| damaged(e.to_string()))?;
    }
    if text.contains('"') {
        return Err(Error::file(path, "has quotes: fields without quotes and commas are read"));
    }
    Ok(text)
}
