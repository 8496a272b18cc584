//! Images by their attributes, where a data set has a table of them.

use crate::Manifest;
use flate2::read::GzDecoder;
use heldout_core::{Error, Result};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What each of some attributes must be: a value of the table, the beginning of one with `*` behind it, or `any` for every
/// value but none.
pub type AttributeFilter = BTreeMap<String, String>;

/// Stands for every value that is not empty.
const ANY: &str = "any";

/// The attributes of the images of a data set: a column each, an image a row.
#[derive(Debug, Clone)]
pub struct AttributeTable {
    /// Short name of the data set.
    set: String,
    header: Vec<String>,
    /// Value of attribute `i` of each image.
    columns: Vec<Vec<String>>,
    count: usize,
}

impl AttributeTable {
    /// The table of the data set in `folder`; `field` is the setting that asks for it.
    ///
    /// # Errors
    /// A set without a table, or a damaged one.
    pub fn read(folder: &Path, field: &str) -> Result<Self> {
        if !folder.join("dataset.toml").is_file() {
            let reason = format!("{} has no dataset.toml that names a table of attributes", folder.display());
            return Err(Error::config(field, reason));
        }
        let manifest = Manifest::read(folder)?;
        let file = manifest.attributes.ok_or_else(|| {
            Error::config(field, format!("{} has no table of attributes: leave it out", manifest.name))
        })?;
        let path = folder.join(file);
        let text = text(&path)?;
        let mut rows = text.lines().map(|line| line.split(',').map(str::to_owned).collect::<Vec<_>>());
        let header =
            rows.next().ok_or_else(|| Error::file(&path, "is empty: a header and a row an image"))?;
        let mut columns = vec![Vec::new(); header.len()];
        let mut count = 0;
        for row in rows {
            if row.len() != header.len() {
                let reason = format!(
                    "line {}: {} fields, where the header has {}",
                    count + 2,
                    row.len(),
                    header.len()
                );
                return Err(Error::file(&path, reason));
            }
            columns.iter_mut().zip(row).for_each(|(column, value)| column.push(value));
            count += 1;
        }
        if count != manifest.count {
            return Err(Error::file(&path, format!("{count} rows for {} images", manifest.count)));
        }
        Ok(Self { set: manifest.name, header, columns, count })
    }

    /// For every image, in order, whether its attributes are as `filter` wants them.
    ///
    /// # Errors
    /// An attribute that the table has not, or a value that no image has.
    pub fn matching(&self, filter: &AttributeFilter) -> Result<Vec<bool>> {
        let mut kept = vec![true; self.count];
        for (attribute, wanted) in filter {
            let place = self.header.iter().position(|name| name == attribute).ok_or_else(|| {
                let all = self.header.join(", ");
                Error::config(attribute, format!("is none of the attributes of {}: {all}", self.set))
            })?;
            let column = &self.columns[place];
            let beginning = wanted.strip_suffix('*');
            let fits = |value: &String| {
                value == wanted
                    || (wanted == ANY && !value.is_empty())
                    || beginning.is_some_and(|b| value.starts_with(b))
            };
            if !column.iter().any(fits) {
                let reason =
                    format!("`{wanted}`: no image has this value; `{ANY}` is every value, `a*` all in a");
                return Err(Error::config(attribute, reason));
            }
            kept.iter_mut().zip(column).for_each(|(kept, value)| *kept &= fits(value));
        }
        Ok(kept)
    }
}

/// Named classes of images by their attributes, of which several may hold for an image. Their numbers are in the order of
/// their names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AttributeClasses {
    names: Vec<String>,
    /// Whether class `i` holds for each image of the set.
    holds: Vec<Vec<bool>>,
}

impl AttributeClasses {
    /// Those of `classes`, for the images of `table`.
    ///
    /// # Errors
    /// Those of [`AttributeTable::matching`], within the name of the class.
    pub fn new(table: &AttributeTable, classes: &BTreeMap<String, AttributeFilter>) -> Result<Self> {
        let of = |(name, filter): (&String, _)| table.matching(filter).map_err(|e| e.within(name));
        let holds = classes.iter().map(of).collect::<Result<_>>()?;
        Ok(Self { names: classes.keys().cloned().collect(), holds })
    }

    /// Their names, by number.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// The number of the class of this name.
    pub fn number(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Whether a class holds for an image of the set.
    pub fn holds(&self, class: usize, image: usize) -> bool {
        self.holds[class][image]
    }

    /// The classes that hold for each of `images`, in order.
    ///
    /// # Errors
    /// An image of no class.
    pub fn of(&self, images: &[usize]) -> Result<Vec<Vec<i64>>> {
        let classes = 0..self.names.len();
        let of = |image: &usize| -> Vec<i64> {
            classes.clone().filter(|class| self.holds(*class, *image)).map(|class| class as i64).collect()
        };
        let all: Vec<Vec<i64>> = images.iter().map(of).collect();
        match all.iter().filter(|classes| classes.is_empty()).count() {
            0 => Ok(all),
            n => {
                let reason = format!(
                    "{n} of {} images are of none of {}: name a class for them, as of an attribute's other values",
                    all.len(),
                    self.names.join(", ")
                );
                Err(Error::config("classes", reason))
            }
        }
    }
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
