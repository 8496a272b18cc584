//! `report.html`: one file that needs nothing else, made from the files of a run and from them alone.

mod load;
mod pictures;
mod plots;
mod view;

use anyhow::{Context, Result};
use heldout_train::write_atomically;
pub(crate) use load::counted_records;
pub(crate) use pictures::data_uri;
use serde::Serialize;
use minijinja::{Environment, value::Serde};
use std::path::{Path, PathBuf};

/// Makes `report.html` in the run folder anew; a run that is not finished is shown as far as it got.
pub fn write(run: &Path) -> Result<PathBuf> {
    let loaded = load::load(run)?;
    let page = render_page("report.html", include_str!("report/report.html"), &view::page(&loaded)?)?;
    let path = run.join("report.html");
    write_atomically(&path, page.as_bytes())?;
    Ok(path)
}

/// A page of ours, which needs nothing else.
pub(crate) fn render_page(name: &str, template: &str, values: &impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_template("style.css", include_str!("report/style.css"))?;
    environment.add_template(name, template)?;
    environment.get_template(name)?.render(Serde(values)).with_context(|| format!("the template {name}"))
}
