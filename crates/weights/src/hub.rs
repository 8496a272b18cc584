//! Models by name: fetched from the Hugging Face hub, or an instance of it, into its cache.

mod parts;

pub use parts::Parts;

use crate::choose::{CONFIG, Chosen, Listing, PIPELINE};
use crate::files::read_index;
use crate::{WeightFiles, is_pipeline, pickle};
use heldout_core::{Error, Result};
use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Component, Path, PathBuf};

const ENDPOINT: &str = "https://huggingface.co";
/// Read by samplers and schedules where it lies beside the weights.
const SCHEDULER: &str = "scheduler_config.json";

/// The name of a model on the hub: `owner/name`, `owner/name/unet`, `owner/name@revision`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repo: String,
    /// The folder in it, empty for its top.
    pub subfolder: String,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl HubName {
    /// Reads a name; `None` if it is not of this form.
    pub fn parse(text: &str) -> Option<Self> {
        let (path, revision) = text.split_once('@').unwrap_or((text, "main"));
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let is_part = |p: &&str| !p.is_empty() && p.chars().all(plain) && !p.starts_with(['.', '-']);
        let whole = |path: &str| path.split('/').all(|p| is_part(&p));
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 || !whole(path) || !whole(revision) {
            return None;
        }
        let (repo, subfolder) = (parts[..2].join("/"), parts[2..].join("/"));
        Some(Self { repo, subfolder, revision: revision.to_owned() })
    }

    fn at(&self, revision: &str) -> Repo {
        Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned())
    }

    /// What messages call it.
    fn path(&self) -> PathBuf {
        self.inside(Path::new(&self.repo))
    }

    /// The subfolder of a folder; `join` would end the path with a slash for none.
    fn inside(&self, folder: &Path) -> PathBuf {
        if self.subfolder.is_empty() { folder.to_owned() } else { folder.join(&self.subfolder) }
    }

    /// A part of the pipeline that this is the name of.
    fn part(&self, part: &str) -> Self {
        let subfolder =
            if self.subfolder.is_empty() { part.to_owned() } else { format!("{}/{part}", self.subfolder) };
        Self { subfolder, ..self.clone() }
    }

    /// A file's path in the repository.
    fn file(&self, name: &str) -> String {
        if self.subfolder.is_empty() { name.to_owned() } else { format!("{}/{name}", self.subfolder) }
    }
}

/// Where models are fetched from, and kept.
#[derive(Debug, Clone)]
pub struct Hub {
    /// The address, without a slash at the end.
    pub endpoint: String,
    /// The folder of the cache, in the layout that Python's `huggingface_hub` shares.
    pub cache: PathBuf,
    /// Whether only the cache is asked.
    pub offline: bool,
    /// Whether a bar shows the progress of downloads.
    pub progress: bool,
}

impl Hub {
    /// As the environment says: `HF_ENDPOINT`, `HF_HOME` (otherwise `~/.cache/huggingface`), `HF_HUB_OFFLINE`.
    /// A token is taken from `HF_TOKEN` or the cache's own file when a request is made, and never kept here.
    ///
    /// # Errors
    /// Neither `HF_HOME` nor a home folder is known.
    pub fn from_env() -> Result<Self> {
        let set = |name| env::var(name).ok().filter(|v| !v.is_empty());
        let home = set("HF_HOME").map(PathBuf::from);
        let home = home.or_else(|| env::home_dir().map(|h| h.join(".cache/huggingface")));
        let home =
            home.ok_or_else(|| Error::config("HF_HOME", "no home folder is known: set this variable"))?;
        let yes = |v: String| ["1", "on", "true", "yes"].contains(&v.to_lowercase().as_str());
        Ok(Self {
            endpoint: set("HF_ENDPOINT")
                .unwrap_or_else(|| ENDPOINT.to_owned())
                .trim_end_matches('/')
                .to_owned(),
            cache: home.join("hub"),
            offline: set("HF_HUB_OFFLINE").is_some_and(yes),
            progress: false,
        })
    }

    /// The local folder of a model, with `config.json` and the safetensors of `variant`; never pickles.
    ///
    /// A revision is resolved to a commit first and all files are of that commit, which names the folder. A commit
    /// that is in the cache needs no network; nor does a branch that is there while the hub does not answer.
    ///
    /// # Errors
    /// The hub does not answer or does not know the model, or the model has no safetensors: the message names both.
    pub fn fetch(&self, name: &HubName, variant: Option<&str>) -> Result<PathBuf> {
        self.fetch_any(name, variant, None)
    }

    /// The same, and of a pipeline its `model_index.json` with the folders of `parts`: their configurations, tokens and
    /// safetensors of `variant`.
    ///
    /// # Errors
    /// As [`Hub::fetch`]; a part without safetensors is named.
    pub fn fetch_whole(&self, name: &HubName, variant: Option<&str>, parts: Parts<'_>) -> Result<PathBuf> {
        self.fetch_any(name, variant, Some(parts))
    }

    fn fetch_any(&self, name: &HubName, variant: Option<&str>, parts: Option<Parts<'_>>) -> Result<PathBuf> {
        let cached = self.cached(name, variant, parts);
        let is_commit = name.revision.len() == 40 && name.revision.chars().all(|c| c.is_ascii_hexdigit());
        match &cached {
            Some(folder) if self.offline || is_commit => return Ok(folder.clone()),
            None if self.offline => {
                let reason = format!(
                    "is not in {} and HF_HUB_OFFLINE forbids to ask {}: unset it, or give a local folder",
                    self.cache.display(),
                    self.endpoint
                );
                return Err(Error::file(name.path(), reason));
            }
            _ => {}
        }
        let fail = |e: ApiError| self.refused(name, &e);
        let api = self.api().map_err(fail)?;
        let info = match (api.repo(name.at(&name.revision)).info(), &cached) {
            (Ok(info), _) => info,
            (Err(_), Some(folder)) => return Ok(folder.clone()),
            (Err(e), None) => return Err(fail(e)),
        };
        // What has been fetched of a pipeline before may have been less than is wanted now.
        let is_it = |f: &PathBuf| f.ends_with(name.inside(Path::new(&info.sha))) && !is_pipeline(f);
        if let Some(folder) = cached.filter(is_it) {
            return Ok(folder);
        }
        if info.sha.is_empty() || !info.sha.chars().all(|c| c.is_ascii_alphanumeric()) {
            let reason = format!("{} gives it the commit `{}`: check the address", self.endpoint, info.sha);
            return Err(Error::file(name.path(), reason));
        }
        let files: Vec<String> = info.siblings.into_iter().map(|s| s.rfilename).collect();
        let (repo, listing) = (api.repo(name.at(&info.sha)), list(&files, &name.subfolder));
        match parts.filter(|_| listing.is_pipeline()) {
            None => self.download(&repo, name, variant, &listing)?,
            Some(parts) => self.download_parts(&repo, name, variant, &files, parts)?,
        }
        let cache = Cache::new(self.cache.clone()).repo(name.at(&name.revision));
        cache.create_ref(&info.sha).map_err(Error::io(&self.cache))?; // so that the branch is found without a network
        Ok(name.inside(&cache.pointer_path(&info.sha)))
    }

    /// One file, from the cache if it is there.
    fn get(&self, repo: &ApiRepo, name: &HubName, file: &str) -> Result<PathBuf> {
        repo.get(&name.file(file)).map_err(|e| self.refused(name, &e))
    }

    fn download(
        &self,
        repo: &ApiRepo,
        name: &HubName,
        variant: Option<&str>,
        listing: &Listing,
    ) -> Result<()> {
        let chosen = listing
            .choose(Path::new(""), variant)
            .map_err(|reason| Error::file(name.path(), format!("{reason} (at {})", self.endpoint)))?;
        for file in [CONFIG, SCHEDULER].into_iter().filter(|f| listing.files.iter().any(|l| l == f)) {
            self.get(repo, name, file)?;
        }
        match chosen {
            Chosen::Single(file) => drop(self.get(repo, name, &file)?),
            Chosen::Index(index) => {
                let index = read_index(&self.get(repo, name, &index)?)?;
                let shards: BTreeSet<String> = index.weight_map.into_values().collect();
                shards.iter().try_for_each(|shard| self.get(repo, name, shard).map(drop))?;
            }
        }
        Ok(())
    }

    /// The index comes last: where it is, its parts are.
    fn download_parts(
        &self,
        repo: &ApiRepo,
        name: &HubName,
        variant: Option<&str>,
        files: &[String],
        parts: Parts<'_>,
    ) -> Result<()> {
        for part in parts.names {
            let part = name.part(part);
            let listing = list(files, &part.subfolder);
            for file in parts::texts(&listing) {
                self.get(repo, &part, &file)?;
            }
            if parts.weights && listing.files.iter().any(|file| file == CONFIG) {
                self.download(repo, &part, variant, &listing)?;
            }
        }
        self.get(repo, name, PIPELINE).map(drop)
    }

    /// The folder in the cache, if all that is needed is there.
    fn cached(&self, name: &HubName, variant: Option<&str>, parts: Option<Parts<'_>>) -> Option<PathBuf> {
        let cache = Cache::new(self.cache.clone()).repo(name.at(&name.revision));
        let repo = self.cache.join(name.at(&name.revision).folder_name());
        let commit = fs::read_to_string(repo.join("refs").join(&name.revision));
        let commit = commit.map_or_else(|_| name.revision.clone(), |c| c.trim().to_owned());
        let folder = name.inside(&cache.pointer_path(&commit));
        let inside = Path::new(&commit).components().all(|c| matches!(c, Component::Normal(_)));
        let is_whole = |folder: &Path| match parts.filter(|_| is_pipeline(folder)) {
            Some(parts) => parts.are_in(folder, variant),
            None => WeightFiles::open(folder, variant).is_ok_and(|f| f.config().is_ok()),
        };
        (inside && folder.is_dir() && is_whole(&folder)).then_some(folder)
    }

    fn api(&self) -> Result<Api, ApiError> {
        let builder = ApiBuilder::from_cache(Cache::new(self.cache.clone()))
            .with_endpoint(self.endpoint.clone())
            .with_progress(self.progress);
        match env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()) {
            Some(token) => builder.with_token(Some(token)).build(),
            None => builder.build(),
        }
    }

    fn refused(&self, name: &HubName, e: &ApiError) -> Error {
        let reason = format!(
            "revision {} cannot be had from {}: {e}; check the name and the network, or give a local folder",
            name.revision, self.endpoint
        );
        Error::file(name.path(), reason)
    }
}

/// The files of one folder of a repository, and its subfolders that hold models.
fn list(files: &[String], subfolder: &str) -> Listing {
    let mut listing = Listing::default();
    for file in files {
        let inside = if subfolder.is_empty() { Some(file.as_str()) } else { strip(file, subfolder) };
        let Some(inside) = inside else { continue };
        match inside.split_once('/') {
            None => listing.files.push(inside.to_owned()),
            Some((folder, CONFIG)) => listing.models.push(folder.to_owned()),
            Some(_) => {}
        }
    }
    listing.models.sort();
    listing
}

fn strip<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    file.strip_prefix(folder)?.strip_prefix('/')
}

/// The local path of a model: an existing path as it is, otherwise a name on the hub, fetched if need be.
///
/// # Errors
/// There is no such path and it is no name, or the hub does not give it.
pub fn resolve(source: &str, variant: Option<&str>) -> Result<PathBuf> {
    resolve_with(source, Hub::from_env, |hub, name| hub.fetch(name, variant))
}

/// The local path of a model or of a pipeline with these parts.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_whole(source: &str, variant: Option<&str>, parts: Parts<'_>) -> Result<PathBuf> {
    resolve_with(source, Hub::from_env, |hub, name| hub.fetch_whole(name, variant, parts))
}

/// As [`resolve`], from a hub of one's own and by `fetch`.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_with(
    source: &str,
    hub: impl FnOnce() -> Result<Hub>,
    fetch: impl FnOnce(&Hub, &HubName) -> Result<PathBuf>,
) -> Result<PathBuf> {
    let path = Path::new(source);
    if path.exists() {
        return Ok(path.to_owned());
    }
    let is_file = source.ends_with(".safetensors") || pickle::is_pickle(path);
    match HubName::parse(source).filter(|_| !is_file) {
        Some(name) => fetch(&hub()?, &name),
        None => Err(Error::file(
            path,
            "no such path, and no name on the hub: give a folder, a .safetensors file or `owner/name`",
        )),
    }
}
