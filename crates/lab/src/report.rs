//! `report.html`: one file that needs nothing else, made from the files of a run and from them alone.

mod load;
mod pictures;
mod plots;
mod view;

use anyhow::{Context, Result};
use heldout_train::write_atomically;
pub(crate) use load::counted_records;
use minijinja::{Environment, value::Serde};
use std::path::{Path, PathBuf};

/// Makes `report.html` in the run folder anew; a run that is not finished is shown as far as it got.
pub fn write(run: &Path) -> Result<PathBuf> {
    let loaded = load::load(run)?;
    let mut environment = Environment::new();
    environment.add_template("report.html", include_str!("report/report.html"))?;
    let page = environment.get_template("report.html")?.render(Serde(view::page(&loaded)?));
    let path = run.join("report.html");
    write_atomically(&path, page.context("the report's template")?.as_bytes())?;
    Ok(path)
}
