//! `report.html`: one file that needs nothing else, made from the files of a run and from them alone; and what other pages
//! share with it.

mod load;
mod pictures;
mod plots;
mod study;
mod view;

use anyhow::{Context, Result, anyhow};
use heldout_core::Error;
use heldout_train::write_atomically;
pub(crate) use load::counted_records;
use minijinja::{Environment, value::Serde};
pub(crate) use pictures::data_uri;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// The page in a run folder.
pub(crate) const PAGE: &str = "report.html";

/// Makes `report.html` in the run folder anew; a run that is not finished is shown as far as it got.
pub fn write(run: &Path) -> Result<PathBuf> {
    let loaded = load::load(run)?;
    let page = render(PAGE, include_str!("report/report.html"), &view::page(&loaded)?)?;
    let path = run.join(PAGE);
    write_atomically(&path, page.as_bytes())?;
    Ok(path)
}

/// Writes the study of a run as `STUDY.md` into a folder, with its figures in the folder `STUDY` beside it, for a repository.
pub fn write_results(run: &Path, folder: &Path) -> Result<PathBuf> {
    let loaded = load::load(run)?;
    if loaded.result.is_none() {
        return Err(anyhow!(Error::file(run, "holds no study.json: its study is not finished")));
    }
    let name = &loaded.info.recipe;
    let page = view::page(&loaded)?;
    let figures = folder.join(name);
    std::fs::create_dir_all(&figures).map_err(Error::io(&figures))?;
    for (file, bytes) in page.figures()? {
        write_atomically(&figures.join(file), &bytes)?;
    }
    let text =
        render("results.md", include_str!("report/results.md"), &Results { page: &page, folder: name })?;
    let path = folder.join(format!("{name}.md"));
    write_atomically(&path, text.as_bytes())?;
    Ok(path)
}

#[derive(Serialize)]
struct Results<'a> {
    page: &'a view::Page,
    folder: &'a str,
}

/// A page of this template in the style of all pages.
pub(crate) fn render(name: &str, template: &str, page: &impl Serialize) -> Result<String> {
    let mut environment = Environment::new();
    environment.add_global("style", include_str!("report/style.css"));
    environment.add_template(name, template)?;
    let page = environment.get_template(name)?.render(Serde(page));
    page.with_context(|| format!("the template {name}"))
}
